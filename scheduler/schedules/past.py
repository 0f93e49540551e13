"""What became of the last times of a schedule. Rules of this file: a bounded list in few bytes; plain values.

A line is a firing, or a stretch of times that were skipped for one reason. There are 100,000 schedules, so lines are
kept packed: 67 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

MOST = 10
"""Lines of one schedule."""

_LINE = Struct("<q8sBqqqqBB16s")
"""What was skipped has no job, and in its place when the stretch ends."""
_END = Struct("<q8x")
_KEY = Struct("<q8s")
_NO_RUN, _NO_JOB = bytes(8), bytes(16)


class Kind(IntEnum):
    SCHEDULED = 0
    MANUAL = 1
    BACKFILL = 2
    REBOOT = 3
    """For this start of the coordinator."""


class Reason(IntEnum):
    """Why a time did not fire."""

    NONE = 0
    OUTSIDE_WINDOW = 1
    MISSED = 2
    SUPERSEDED = 3
    OVERLAP = 4
    GAVE_WAY = 5
    TOO_MANY = 6
    PAUSED = 7
    CHANGED = 8
    REMOVED = 9

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Reason.NONE: "",
    Reason.OUTSIDE_WINDOW: "missed, and noticed when the catch-up window was over",
    Reason.MISSED: "missed, and missed times are not made good",
    Reason.SUPERSEDED: "missed, and a later one stands for it",
    Reason.OVERLAP: "an earlier one had not ended",
    Reason.GAVE_WAY: "it waited for an earlier one to end, and a later one took its place",
    Reason.TOO_MANY: "as many run or wait as may",
    Reason.PAUSED: "the schedule was paused",
    Reason.CHANGED: "the schedule got another trigger before it was taken up",
    Reason.REMOVED: "the schedule was removed before it was taken up",
}


class Run(NamedTuple):
    """One line."""

    nominal_us: int
    """Of the first one, where several were skipped."""
    run: bytes
    """8 bytes that tell this from other runs with the same nominal time; empty for what the trigger has fired."""
    kind: int
    until_us: int
    """Skipped were all times before this; 0 of a firing."""
    at_us: int
    """When it fired, or was skipped."""
    late_us: int
    """After it was due, its jitter and its wait for others included."""
    ended_us: int
    """0 while it is unfinished."""
    run_us: int
    """How long its last attempt ran."""
    outcome: int
    """``Outcome``, once it has ended."""
    reason: int
    job: bytes
    """16 bytes; empty before it is known, or where there is none."""


def pack(line: Run) -> bytes:
    nominal, run, kind, until, at, late, ended, ran, outcome, reason, job = line
    last = _END.pack(until) if reason else job or _NO_JOB
    return _LINE.pack(nominal, run or _NO_RUN, kind, at, late, ended, ran, outcome, reason, last)


def lines(packed: bytes) -> Iterator[Run]:
    """The oldest first."""
    for nominal, run, kind, at, late, ended, ran, outcome, reason, last in _LINE.iter_unpack(packed):
        yield Run(
            nominal,
            b"" if run == _NO_RUN else run,
            kind,
            _END.unpack(last)[0] if reason else 0,
            at,
            late,
            ended,
            ran,
            outcome,
            reason,
            b"" if reason or last == _NO_JOB else last,
        )


def added(packed: bytes, line: Run) -> tuple[bytes, Run | None]:
    """With that line, and the one that had to go."""
    packed += pack(line)
    if len(packed) <= MOST * _LINE.size:
        return packed, None
    return packed[_LINE.size :], next(lines(packed[: _LINE.size]))


def _find(packed: bytes, line: Run) -> int:
    """Where the last line with its key begins; -1 if there is none."""
    key = _KEY.pack(line.nominal_us, line.run or _NO_RUN)
    found = packed.rfind(key)
    while found > 0 and found % _LINE.size:
        found = packed.rfind(key, 0, found + len(key) - 1)
    return found


def without(packed: bytes, line: Run) -> bytes:
    """Without a line that has its key."""
    found = _find(packed, line)
    return packed if found < 0 else packed[:found] + packed[found + _LINE.size :]


def changed(packed: bytes, line: Run) -> bytes | None:
    """With that line instead of the one that has its key; None if there is none."""
    found = _find(packed, line)
    return None if found < 0 else packed[:found] + pack(line) + packed[found + _LINE.size :]
