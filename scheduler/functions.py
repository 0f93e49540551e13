"""What the jobs call: specs seen, code held, run times observed. Rules of this file: a pure book.

Specs are interned, so that a million jobs of one function share one record. Code of functions by value is held
while jobs need it and a little longer. Run times are kept by name, since code by value changes with every edit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster.jobs import AS_USUAL, BadSpec, Spec
from scheduler.queues import Queue, Queues
from scheduler.resources import Amounts, Claims, claims_of

MAX_RECORDS = 20_000
MAX_SPARE_CODE_BYTES = 64 * 1024 * 1024
MAX_NAMES = 10_000
MAX_RETIRED = 100_000
"""Specs that are kept for the sake of jobs that have ended."""


class Demand(NamedTuple):
    """What a node must have to run a job."""

    labels: tuple[tuple[str, str], ...]
    python: str
    """Minor version; empty for any."""
    queue: str
    """Which it must serve."""
    amounts: Amounts = ()
    """Of resources, that it must have when it is empty."""


class Line(NamedTuple):
    """What jobs that wait in one line have in common."""

    demand: Demand
    priority: int
    apart: tuple[str, str] | None = None
    """Namespace and anti-affinity key: what one of them has to wait for does not hold up another."""


MOST_WARM = 256
"""Nodes that are known to be warm for a function; then they are noted anew."""


@dataclass(slots=True)
class RunTime:
    """Moving average of a function's service time in its worker, in seconds; 0 while unknown."""

    mean_s: float = 0.0
    ran_on: set[bytes] = field(default_factory=set)
    """Sessions of nodes that have run it lately."""

    def ran(self, session: bytes) -> None:
        if len(self.ran_on) >= MOST_WARM:
            self.ran_on.clear()
        self.ran_on.add(session)

    def observe(self, total_us: int, count: int) -> None:
        mean = total_us / count / 1e6
        if not self.mean_s:
            self.mean_s = max(mean, 1e-6)
            return
        weight = min(0.5, 0.05 * count)
        # A longer time is believed at once: prefill by a rosy figure would queue jobs behind slow ones.
        self.mean_s = mean if mean > 4 * self.mean_s else (1 - weight) * self.mean_s + weight * mean


@dataclass(slots=True, eq=False)
class Record:
    spec: Spec
    raw: bytes
    """The spec as it goes to nodes, with its owner."""
    time: RunTime
    line: Line
    queue: Queue
    claims: Claims | None = None
    """What its jobs ask of a node beyond a slot; None for most."""
    code: bytes = b""
    """The pickled function, where by value and small."""
    holds_blob: bool = False
    """Whether the code is a blob, too large to be kept here."""
    live: int = 0
    """Unfinished jobs."""
    number: int = 0
    """Of its row in the store; 0 while there is none."""
    fair_key: str = ""
    """The tenant whose turn it is when one of its jobs goes."""
    timed: bool = False
    """Whether the clock has to do with its jobs before they begin."""
    hooks: bool = False
    """Whether something is run when one of its jobs has ended."""
    once: bool = False
    """Whether its jobs must not start twice."""
    told: dict[str, Any] = field(default_factory=dict)
    """What its jobs may know of themselves, where that is not the usual."""
    sent: bytes = b""
    """The spec as its clients send it: what the row keeps, so that they find this record after a restart too."""


class Functions:
    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._records: dict[tuple[str, bytes], Record] = {}
        self._times: dict[tuple[str, str], RunTime] = {}
        self._spare_bytes = 0
        self.dropped: list[bytes] = []
        """Blobs of forgotten records, for the coordinator to release."""
        self.retired_numbers: list[int] = []
        """...whose rows lose their code, and stay for what has ended;"""
        self.dropped_numbers: list[int] = []
        """...and rows that go."""
        self._by_number: dict[int, Record] = {}
        self._retired: dict[int, Spec] = {}
        """Specs without a record, by the number of their row; the oldest first."""

    def intern(self, raw: bytes, owner: str) -> Record:
        """The record of a client's spec. Raises ``BadSpec``."""
        record = self._records.get((owner, raw))
        queue = (Spec.decode(raw) if record is None else record.spec).rules.queue
        if self._queues.full and self._queues.get(queue) is None:
            raise BadSpec(f"{len(self._queues)} queues are the limit, and {queue!r} is another")
        return self._interned(raw, owner)

    def _interned(self, raw: bytes, owner: str) -> Record:
        key = (owner, raw)
        record = self._records.get(key)
        if record is None:
            if len(self._records) >= MAX_RECORDS:
                self._prune()
            spec = Spec.decode(raw).owned_by(owner)
            rules = spec.rules
            claims = claims_of(rules, spec.namespace)
            demand = Demand(spec.labels, spec.python, rules.queue, claims.amounts if claims else ())
            line = Line(demand, rules.priority, claims.apart if claims else None)
            queue = self._queues.named(rules.queue)
            record = Record(spec, spec.encode(), self._time(spec), line, queue, claims, sent=raw)
            record.timed = rules.expires_s > 0
            record.hooks = bool(rules.on_success or rules.on_failure or rules.on_dead)
            record.once, record.fair_key = rules.at_most_once, rules.fair_key
            if rules.tags:
                record.told["tags"] = rules.tags
            if rules.queue != AS_USUAL.queue:
                record.told["queue"] = rules.queue
            self._records[key] = record
        return self.linked(record)

    def linked(self, record: Record) -> Record:
        """With the queue of today: its own may have been forgotten while it was idle."""
        if self._queues.get(record.queue.name) is not record.queue:
            record.queue = self._queues.named(record.queue.name)
        return record

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def restore(self, number: int, raw: bytes, owner: str, code: bytes, holds_blob: bool) -> Record:
        """The record of a row that outlived us."""
        record = self._interned(raw, owner)
        record.code, record.holds_blob = code, holds_blob
        self.number(record, number)
        self._spare_bytes += len(code)
        return record

    def known(self) -> Iterator[tuple[int, Spec]]:
        """Specs that have a row, by its number, those of forgotten records with them."""
        yield from self._retired.items()
        yield from ((record.number, record.spec) for record in self._records.values() if record.number)

    def spec(self, number: int) -> Spec | None:
        """That of a row, as far as it is known."""
        spec = self._retired.get(number)
        if spec is None:
            record = self._by_number.get(number)
            return None if record is None else record.spec
        return spec

    def numbered(self, number: int) -> Record | None:
        record = self._by_number.get(number)
        return None if record is None else self.linked(record)

    def number(self, record: Record, number: int) -> None:
        """It has a row from now on."""
        record.number = number
        self._by_number[number] = record

    def learn(self, record: Record, code: bytes) -> None:
        """Keep the code of a function by value, if it is what its hash says. Raises ``BadSpec``."""
        if record.code:
            return
        if hashlib.sha256(code).digest() != record.spec.code:
            raise BadSpec("the function's code does not match its hash")
        record.code = code
        self._spare_bytes += len(code)
        if self._spare_bytes > MAX_SPARE_CODE_BYTES:
            self._prune()

    def code(self, sha: bytes) -> bytes | None:
        """Code by its hash, for a node that has lost it."""
        for record in self._records.values():
            if record.spec.code == sha and record.code:
                return record.code
        return None

    @staticmethod
    def code_of(raw: bytes) -> bytes:
        """Hash of the function of a spec by value; nothing of one by reference, or of no spec."""
        try:
            spec = Spec.decode(raw)
        except BadSpec:
            return b""
        return spec.code if spec.by_value else b""

    def _time(self, spec: Spec) -> RunTime:
        key = (spec.namespace, spec.name)
        time = self._times.get(key)
        if time is None:
            if len(self._times) >= MAX_NAMES:
                del self._times[next(iter(self._times))]
            time = self._times[key] = RunTime()
        return time

    def _prune(self) -> None:
        """Forget records without jobs: the older half of them."""
        idle = [k for k, r in self._records.items() if not r.live]
        for key in idle[: len(idle) // 2 + 1]:
            record = self._records.pop(key)
            self._spare_bytes -= len(record.code)
            if record.holds_blob:
                self.dropped.append(record.spec.code)
            if record.number:
                del self._by_number[record.number]
                self._retired[record.number] = record.spec
                self.retired_numbers.append(record.number)
        while len(self._retired) > MAX_RETIRED:
            number = next(iter(self._retired))
            del self._retired[number]
            self.dropped_numbers.append(number)
