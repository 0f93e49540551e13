"""What of a turn must outlive us. Rules of this file: a pure book of what happened, as rows; no decision.

Jobs whose spec says ``durable`` are rows from their acceptance on, and their outcomes after them. The others leave no
trace, and a restart loses them. Without a store nothing is written, and this book is empty for ever.

What a restart needs of a session is the highest counter accepted, written with the very jobs it counts. A session
that is not in memory any more is looked up here, so that a resend never makes a job.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from cluster.jobs import NOTHING_SPECIAL, Failure, Outcome
from scheduler import retries
from scheduler.clients import Client, Owed
from scheduler.functions import Functions, Record
from scheduler.lifecycle import Job
from scheduler.roster import Node
from scheduler.schedules import Rows
from scheduler.store import (
    AliasRow,
    Arguments,
    Changes,
    JobRow,
    KeyRow,
    NodeRow,
    OutcomeRow,
    Recovered,
    Search,
    SessionRow,
    SpecRow,
    Standing,
    Store,
)

ERROR_CHARS = 300
"""Of a failure's first line that the history keeps to be looked for."""

# ------------------------------------------------------------------------------------ asking the store


class Wanted(NamedTuple):
    """One outcome, and who waits for it under which of its own counters."""

    job: bytes
    session: bytes
    counter: int
    cancel: bool = False
    """It wishes it cancelled, and waits for the word that it cannot be, if so it is."""
    child: bytes = b""
    """No session: the job of this id waits for that one."""


@dataclass(slots=True)
class ReadOutcomes:
    """Effect: look these up. Answered by ``OutcomesRead``. ``wall``: what is to be kept until then or less is not."""

    wanted: list[Wanted]
    wall: float


@dataclass(slots=True)
class OutcomesRead:
    """Event: what became of each; None where there is no such row (any more). Then the job it is an alias of, if so."""

    found: list[tuple[Wanted, Owed | None, bytes]]


@dataclass(slots=True)
class ReadPayloads:
    """Effect: read the payloads of the unfinished jobs of these ranks. Answered by ``PayloadsRead``."""

    ranks: list[int]


@dataclass(slots=True)
class PayloadsRead:
    """Event: by rank. What is missing is of jobs that have ended meanwhile."""

    found: dict[int, bytes]


@dataclass(slots=True)
class PruneOutcomes:
    """Effect: forget outcomes older than ``before`` (wall clock), and the oldest above ``keep``; ``most`` of them now.
    Done at once, in a transaction of its own. Answered by ``OutcomesPruned``."""

    before: float
    keep: int
    most: int
    wall: float


@dataclass(slots=True)
class ReadArguments:
    """Effect: look up the outcomes of these jobs and what is kept to run them again. Answered by ``ArgumentsRead``."""

    ask: Any
    jobs: list[bytes]


@dataclass(slots=True)
class ArgumentsRead:
    """Event: by job; None where there is no outcome. ``aliases``: of these, those that are another job's."""

    ask: Any
    found: dict[bytes, tuple[OutcomeRow, Arguments | None] | None]
    aliases: dict[bytes, bytes]


@dataclass(slots=True)
class DropArguments:
    """Effect: these are set aside no more, and will not be run again. Done at once, in a transaction of its own, so
    that each blob is given up once. Answered by ``ArgumentsDropped``."""

    ask: Any
    jobs: list[bytes]


@dataclass(slots=True)
class ArgumentsDropped:
    """Event: so many were set aside, or had arguments; ``blobs`` has one entry for each that named one."""

    ask: Any
    jobs: int
    blobs: list[bytes]


@dataclass(slots=True)
class ReadHistory:
    """Effect: one slice of what has ended. Answered by ``HistoryRead``."""

    ask: Any
    search: Search
    before: int
    most: int
    look_at: int


@dataclass(slots=True)
class HistoryRead:
    ask: Any
    rows: list[OutcomeRow]
    before: int


@dataclass(slots=True)
class OutcomesPruned:
    """Event: so many are gone; ``blobs`` has one entry for each row that named one."""

    outcomes: int
    blobs: list[bytes]


@dataclass(slots=True)
class SpaceMeasured:
    """Event: bytes that are free on the store's disk."""

    free: int


def prune(store: Store, effect: PruneOutcomes) -> OutcomesPruned:
    """What a host does about ``PruneOutcomes``."""
    pruned = store.prune(effect.before, effect.keep, effect.most, effect.wall)
    store.commit()
    return OutcomesPruned(pruned.outcomes, pruned.blobs)


def read_arguments(store: Store, effect: ReadArguments) -> ArgumentsRead:
    """What a host does about ``ReadArguments``."""
    found: dict[bytes, tuple[OutcomeRow, Arguments | None] | None] = {}
    aliases: dict[bytes, bytes] = {}
    for job in effect.jobs:
        row = store.outcome(job)
        found[job] = None if row is None else (row, store.arguments(row.id))
        alias = store.alias(job) if row is None else None
        if alias is not None:
            aliases[job] = alias
    return ArgumentsRead(effect.ask, found, aliases)


def drop_arguments(store: Store, effect: DropArguments) -> ArgumentsDropped:
    """What a host does about ``DropArguments``."""
    jobs: list[bytes] = []
    blobs: list[bytes] = []
    for job in effect.jobs:
        row, kept = store.outcome(job), store.arguments(job)
        if row is not None and (row.dead or kept is not None):
            jobs.append(job)
        if kept is not None and kept.sha is not None:
            blobs.append(kept.sha)
    if jobs:
        store.write([Changes(dropped=jobs)])
        store.commit()
    return ArgumentsDropped(effect.ask, len(jobs), blobs)


def read_history(store: Store, effect: ReadHistory) -> HistoryRead:
    """What a host does about ``ReadHistory``."""
    found = store.history(effect.search, effect.before, effect.most, effect.look_at)
    return HistoryRead(effect.ask, found.rows, found.before)


def read_payloads(store: Store, effect: ReadPayloads) -> PayloadsRead:
    """What a host does about ``ReadPayloads``."""
    return PayloadsRead(store.payloads(effect.ranks))


def look_up(store: Store, effect: ReadOutcomes) -> OutcomesRead:
    """What a host does about ``ReadOutcomes``."""
    found: list[tuple[Wanted, Owed | None, bytes]] = []
    for wanted in effect.wanted:
        row = store.outcome(wanted.job)
        if row is None or 0 < row.until <= effect.wall:
            found.append((wanted, None, store.alias(wanted.job) or b""))
        else:
            large = None if row.sha is None else (row.sha, row.size)
            found.append((wanted, Owed(wanted.counter, row.outcome, row.payload, large), b""))
    return OutcomesRead(found)


READERS: dict[type, Callable[[Store, Any], Any]] = {
    DropArguments: drop_arguments,
    PruneOutcomes: prune,
    ReadArguments: read_arguments,
    ReadHistory: read_history,
    ReadOutcomes: look_up,
    ReadPayloads: read_payloads,
}
"""What a host does about each effect that asks the store; the answer is the event."""


# ------------------------------------------------------------------------------------ the book

CLOCK_SETTING = "clock"
_CLOCK = struct.Struct("<d")


class Journal:
    """``recovered`` is what the store holds at the start; None where there is no store."""

    def __init__(self, recovered: Recovered | None, functions: Functions) -> None:
        self._functions = functions
        self.open = recovered is not None
        self._changes = Changes()
        self._sessions = {row.session: row for row in recovered.sessions} if recovered else {}
        self._last_spec = recovered.last_spec if recovered else 0
        clock = recovered.settings.get(CLOCK_SETTING) if recovered else None
        self.last_at: float = _CLOCK.unpack(clock)[0] if clock else 0.0
        """Where the wall clock stood when the last life wrote its last."""

    def session(self, session: bytes) -> SessionRow | None:
        """What is kept of a session, whether or not it is in memory."""
        return self._sessions.get(session)

    def accepted(self, client: Client, jobs: list[Job]) -> None:
        """These are new; ``client.accepted`` counts them already."""
        if not self.open:
            return
        rows = self._changes.jobs
        for job in jobs:
            record: Record = job.record
            if not record.spec.durable:
                continue
            if not record.number:
                self._spec(record)
            sha, size = job.large or (None, 0)
            about = job.about.encode() if job.about is not NOTHING_SPECIAL else b""
            rows.append(JobRow(job.id, job.rank, record.number, job.payload, sha, size, job.at, job.summary, about))
        if rows:
            self._counter(client)

    def refused(self, client: Client, rows: list[tuple[bytes, bytes]], at: float) -> None:
        """Jobs that were not taken have an outcome all the same: (id, failure)."""
        if self.open and rows:
            self._changes.outcomes += [
                OutcomeRow(job, 0, Outcome.FAILED, text, None, 0, at, 0, 0, 0.0, 0, at, "", b"", "", _error(text), b"")
                for job, text in rows
            ]
            self._counter(client)

    def ended(
        self,
        job: Job,
        outcome: int,
        payload: bytes,
        large: tuple[bytes, int] | None,
        at: float,
        dead: bool,
        node: str,
        ran: tuple[int, ...] | None,
    ) -> bool:
        """The job has its outcome. Whether a row keeps it, and with it the blob it names."""
        if not self.keeps(job):
            return False
        sha, size = large or (None, 0)
        record: Record = job.record
        ttl_s = record.spec.rules.result_ttl_s
        self._changes.outcomes.append(
            OutcomeRow(
                job.id,
                job.rank,
                outcome,
                payload,
                sha,
                size,
                at,
                job.attempt,
                int(dead),
                at + ttl_s if ttl_s else 0.0,
                record.number,
                job.at,
                job.summary,
                job.about.encode() if job.about is not NOTHING_SPECIAL else b"",
                node,
                "" if outcome == Outcome.SUCCEEDED else _error(payload),
                retries.pack(job) if ran is None or job.story else retries.pack_only(*ran),
            )
        )
        self._changes.standings.pop(job.rank, None)
        return True

    def standing(self, job: Job) -> None:
        """What happened to an unfinished job shall be remembered; and who has it, if it must not start twice."""
        if self.keeps(job):
            token, node = (job.token, job.node.session) if job.once and job.node is not None else (0, b"")
            self._changes.standings[job.rank] = Standing(
                job.rank, job.attempt, token, node, job.due, retries.pack(job), job.saved
            )

    def key(self, row: KeyRow, job: Job) -> None:
        if self.keeps(job):
            self._changes.keys[row.namespace, row.key] = row

    def key_free(self, namespace: str, key: str) -> None:
        if self.open:
            self._changes.keys[namespace, key] = None

    def alias(self, client: Client, id: bytes, job: bytes, at: float) -> None:
        """A submission was attached to a job that is there; ``client.accepted`` counts it already."""
        if self.open:
            self._changes.aliases.append(AliasRow(id, job, at))
            self._counter(client)

    def repeated(self, jobs: Iterable[bytes]) -> None:
        """These run again, as new jobs: nobody needs to look after them any more."""
        if self.open:
            self._changes.repeated += jobs

    def orders(self, rows: Rows | None) -> None:
        """What the turn has changed of schedules."""
        if rows is None or not self.open:
            return
        changes = self._changes
        changes.forgotten_schedules += rows.forgotten
        changes.schedules |= {row[:2]: row for row in rows.schedules}
        changes.schedules |= dict.fromkeys(rows.removed)
        changes.schedule_standings |= {row[:2]: row for row in rows.standings}
        changes.firings |= {row[:4]: row for row in rows.firings}
        changes.firings |= dict.fromkeys(rows.unsaid)

    def setting(self, name: str, value: bytes | None) -> None:
        if self.open:
            self._changes.settings[name] = value

    def node(self, node: Node) -> None:
        """From now on it may hold attempts."""
        if self.open:
            about: bytes = msgpack.packb(
                [node.lock, node.pid, node.python, node.slots, node.labels, node.queues, node.resources]
            )
            self._changes.nodes[node.name] = NodeRow(
                node.name, node.session, node.incarnation, node.identity.key, node.host, about
            )

    def node_gone(self, node: Node) -> None:
        """Nothing is to be expected of it any more."""
        if self.open:
            self._changes.nodes[node.name] = None

    def forget(self, functions: Functions) -> None:
        """Specs that no job needs, and that were dropped from memory."""
        if functions.retired_numbers or functions.dropped_numbers:
            self._changes.retired_specs += functions.retired_numbers
            self._changes.forgotten_specs += functions.dropped_numbers
            functions.retired_numbers, functions.dropped_numbers = [], []

    def take(self, wall: float) -> list[Changes]:
        """The rows of this turn, and when it was by the clock that their moments mean."""
        if not self._changes:
            return []
        self._changes.settings[CLOCK_SETTING] = _CLOCK.pack(wall)
        taken, self._changes = self._changes, Changes()
        return [taken]

    def keeps(self, job: Job) -> bool:
        return self.open and bool(job.record.number)

    def _spec(self, record: Record) -> None:
        self._last_spec += 1
        self._functions.number(record, self._last_spec)
        self._changes.specs.append(
            SpecRow(record.number, record.spec.owner, record.sent, record.code, record.holds_blob)
        )

    def _counter(self, client: Client) -> None:
        row = SessionRow(client.session, client.identity.key, client.identity.owner, client.namespace, client.accepted)
        self._changes.sessions[client.session] = self._sessions[client.session] = row


def node_about(row: NodeRow) -> tuple[str, int, str, int, dict[str, str], tuple[str, ...], dict[str, float]]:
    """Lock, process, Python, slots, labels, queues and resources of a node as it was written; of the last, nothing if
    an earlier release wrote it."""
    lock, pid, python, slots, labels, queues, *rest = msgpack.unpackb(row.about)
    return lock, pid, python, slots, labels, tuple(queues), rest[0] if rest else {}


def _error(payload: bytes) -> str:
    """Kind and first line of a failure, for those who look for it."""
    failure = Failure.decode(payload)
    return f"{failure.kind}: {failure.text.partition(chr(10))[0]}"[:ERROR_CHARS]
