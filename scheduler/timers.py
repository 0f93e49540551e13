"""What becomes due, and when. Rules of this file: a pure book of moments of the wall clock; it reads no clock.

Moments are kept by the wall clock, so that they mean something after a restart. Where that clock is set, a moment that
somebody named stays, and one that is the end of a duration moves with it. An entry is not taken back: whoever gets it
looks whether it still means something.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from enum import Enum
from typing import Any

from scheduler.lifecycle import Job


class Kind(Enum):
    __hash__ = object.__hash__

    DUE = "may run"
    EXPIRES = "must have begun"
    KEY = "the key is free again"


class Timers:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Kind, Any]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, moment: float, kind: Kind, what: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (moment, self._number, kind, what))

    def begin(self, job: Job, wall: float) -> None:
        """Of a new job, or one of an earlier life: by when it must have begun, and when it may."""
        expires_s = job.record.spec.rules.expires_s
        if expires_s:
            job.expires = job.at + expires_s
        self.again(job, wall)

    def again(self, job: Job, wall: float) -> None:
        """Its moments may have come when nothing could be done about them, by a clock that has gone back since."""
        if job.expires > wall:
            self.at(job.expires, Kind.EXPIRES, job)
        if job.due > wall:
            self.at(job.due, Kind.DUE, job)

    @property
    def next(self) -> float:
        """The next moment; infinity where there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def move(self, moved: Callable[[float, Kind, Any], float]) -> None:
        """The clock was set: ``moved`` gives each its moment by the new one."""
        self._heap = [(moved(moment, kind, what), number, kind, what) for moment, number, kind, what in self._heap]
        heapq.heapify(self._heap)

    def sweep(self, keep: Callable[[Kind, Any], bool]) -> None:
        """Forget what means nothing any more."""
        self._heap = [entry for entry in self._heap if keep(entry[2], entry[3])]
        heapq.heapify(self._heap)

    def take(self, wall: float, most: int) -> list[tuple[Kind, Any]]:
        """What is due by now, in order; no more than ``most`` at once."""
        out: list[tuple[Kind, Any]] = []
        while self._heap and self._heap[0][0] <= wall and len(out) < most:
            _, _, kind, what = heapq.heappop(self._heap)
            out.append((kind, what))
        return out
