"""Where a schedule stands. Rules of this file: what the book knows of one schedule; the book changes it.

Times of the trigger are decided in order. ``seen_us`` is where the search for the next one begins: all up to it are
decided, or lie before the schedule was made. When the clock is set back it goes back too, and times that had been
skipped come again; what had fired is in ``fired`` and does not.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from cluster.triggers import Trigger
from scheduler.schedules.fired import Fired
from scheduler.schedules.past import Run
from scheduler.schedules.schedule import Schedule
from scheduler.schedules.values import Key
from scheduler.store import FiringRow, StandingRow

VERSION = 1

MAX_NOTE = 500


@dataclass(slots=True, eq=False)
class Running:
    line: Run
    stopping: int = 0
    """1: asked to end; 2: killed."""


class Waiting(NamedTuple):
    """A firing that waits for others to end."""

    nominal_us: int
    run: bytes
    kind: int
    due_us: int


@dataclass(slots=True, eq=False)
class Backfill:
    seen_us: int
    last_us: int
    concurrency: int
    running: int = 0


@dataclass(slots=True, eq=False)
class Standing:
    namespace: str
    name: str
    schedule: Schedule | None = None
    """None of one that was removed."""
    trigger: Trigger | None = None
    """Anchored."""
    anchor_us: int = 0
    """When it was made."""
    seen_us: int = 0
    next_us: int | None = None
    """The first time that is undecided; None while it has not been searched, or if there is none."""
    due_us: int = 0
    """Of ``next_us``, with its jitter."""
    entry: int = 0
    """Number of its entry in the heap that counts; 0 for none."""
    fired: Fired = field(default_factory=Fired)
    past: bytes = b""
    taken: int = 0
    """Times of the trigger that have fired or wait to, of ``count``."""
    failures: int = 0
    """In a row."""
    paused: str | None = None
    """The note."""
    gave_up: bool = False
    """It was paused for its failures, not by a user."""
    succeeded_us: int = 0
    until_us: int = 0
    """When what was removed is forgotten."""
    running: dict[tuple[int, bytes], Running] | None = None
    """By nominal time and run."""
    busy: int = 0
    """Of these, those that are no backfill."""
    waiting: list[Waiting] | None = None
    backfills: dict[bytes, Backfill] | None = None
    reboot: tuple[int, bytes] | None = None
    """A start of the coordinator for which it has yet to fire."""

    @property
    def over(self) -> bool:
        """Whether its count is used up."""
        return self.trigger is not None and self.trigger.count is not None and self.taken >= self.trigger.count

    def key(self, nominal_us: int, run: bytes) -> Key:
        return Key(self.namespace, self.name, nominal_us, run)

    def row(self, line: Run) -> FiringRow:
        return FiringRow(self.namespace, self.name, *line)

    def pack(self) -> StandingRow:
        backfills = [[run, b.seen_us, b.last_us, b.concurrency] for run, b in (self.backfills or {}).items()]
        packed = msgpack.packb(
            [
                VERSION,
                self.anchor_us,
                self.seen_us,
                self.taken,
                self.failures,
                self.paused,
                self.gave_up,
                self.succeeded_us,
                self.until_us,
                self.fired.flat(),
                self.waiting or [],
                backfills,
            ]
        )
        return StandingRow(self.namespace, self.name, bytes(packed))

    @staticmethod
    def unpack(row: StandingRow) -> Standing:
        version, anchor, seen, taken, failures, paused, gave_up, succeeded, until, fired, waiting, backfills = (
            msgpack.unpackb(row.standing)
        )
        assert version == VERSION, f"a standing of version {version}; this is {VERSION}"
        return Standing(
            sys.intern(row.namespace),
            row.name,
            anchor_us=anchor,
            seen_us=seen,
            taken=taken,
            failures=failures,
            paused=paused,
            gave_up=gave_up,
            succeeded_us=succeeded,
            until_us=until,
            fired=Fired(fired),
            waiting=[Waiting(*one) for one in waiting] or None,
            backfills={run: Backfill(*rest) for run, *rest in backfills} or None,
        )
