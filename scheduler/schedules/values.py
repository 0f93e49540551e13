"""What the book says. Rules of this file: values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.triggers import Trigger
from scheduler.schedules.past import Kind, Reason
from scheduler.schedules.schedule import Schedule
from scheduler.store import FiringRow, ScheduleRow, StandingRow


class Key(NamedTuple):
    """What tells a firing from all others, for ever."""

    namespace: str
    name: str
    nominal_us: int
    run: bytes
    """8 bytes of a manual or backfill run, or a start of the coordinator; empty for what the trigger fires."""


class Fire(NamedTuple):
    """A job shall be made, and committed with the rows of this turn."""

    key: Key
    kind: Kind
    due_us: int
    call: Any


class Skip(NamedTuple):
    """No job is made for the times of the trigger from ``key.nominal_us`` to before ``until_us``."""

    key: Key
    kind: Kind
    until_us: int
    reason: Reason


class Stop(NamedTuple):
    """That firing's job shall end, as a later one waits for it."""

    key: Key
    kill: bool


Decision = Fire | Skip | Stop


class Upserted(NamedTuple):
    made: bool
    changed: tuple[str, ...]
    """Names of fields; empty if it was made, or if all is as it was."""


class Rows(NamedTuple):
    """What the store shall have; ``forgotten`` first. Else no key is in two of these."""

    schedules: list[ScheduleRow]
    standings: list[StandingRow]
    firings: list[FiringRow]
    removed: list[tuple[str, str]]
    """Schedules whose own row goes; standing and firings stay."""
    forgotten: list[tuple[str, str]]
    """Of these all goes: standing and firings."""
    unsaid: list[Key]
    """Firings whose row goes."""


@dataclass(frozen=True, slots=True)
class View:
    """A schedule, for people."""

    schedule: Schedule
    trigger: Trigger
    """Anchored."""
    made_us: int
    next_us: int | None
    """Nominal; None of one that is paused or has no times any more."""
    paused: str | None
    gave_up: bool
    left: int | None
    """Of its count."""
    running: int
    waiting: int
    backfills: int
    failures: int
    succeeded_us: int
