"""Jobs that wait for a node. Rules of this file: a pure book; order only, no node and no clock.

Jobs are grouped by what they demand of a node, so that one which no node can take holds up nobody else. Inside
a group the order is that of acceptance, also for jobs that were queued again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from scheduler.lifecycle import Job, State

Demand = Any

SWEEP = 1_000
"""So many entries of ended jobs, and more than of waiting ones, are swept out together."""


class ReadyQueue:
    def __init__(self) -> None:
        self._groups: dict[Demand, deque[Job]] = {}
        self._count = 0
        self._dropped = 0
        """Entries that are only waiting to be skipped, at most."""

    def __len__(self) -> int:
        return self._count

    def push(self, job: Job) -> None:
        """A new job, which is the youngest."""
        group = self._groups.get(job.record.demand)
        if group is None:
            group = self._groups[job.record.demand] = deque()
        group.append(job)
        self._count += 1

    def push_back(self, jobs: Iterable[Job]) -> None:
        """Jobs queued again: each at the place its rank gives it among the first."""
        for job in sorted(jobs, key=lambda j: -j.rank):
            group = self._groups.setdefault(job.record.demand, deque())
            later: list[Job] = []
            while group and group[0].rank < job.rank:
                later.append(group.popleft())
            group.appendleft(job)
            group.extendleft(reversed(later))
            self._count += 1

    def dropped(self, job: Job) -> None:
        """A ready job has ended; its entry is skipped when its turn comes."""
        self._count -= 1
        self._dropped += 1
        if self._dropped > SWEEP + self._count:
            for group in self._groups.values():
                alive = [j for j in group if j.state is State.READY]
                group.clear()
                group.extend(alive)
            self._dropped = 0

    def demands(self) -> list[Demand]:
        """Demands with waiting jobs, the one with the oldest job first."""
        out = []
        for demand, group in list(self._groups.items()):
            head = self._head(group)
            if head is None:
                del self._groups[demand]
            else:
                out.append((head.rank, demand))
        out.sort(key=lambda pair: pair[0])
        return [demand for _, demand in out]

    def head(self, demand: Demand) -> Job | None:
        group = self._groups.get(demand)
        return None if group is None else self._head(group)

    def next(self, demand: Demand, count: int) -> Iterator[Job]:
        """The first entries, of which some may be of jobs that have ended."""
        return islice(self._groups.get(demand, ()), count)

    def at(self, demand: Demand, place: int) -> Job | None:
        """The entry at a place not far from the head."""
        group = self._groups.get(demand)
        return group[place] if group is not None and place < len(group) else None

    def youngest_rank(self, demand: Demand) -> int:
        """Rank of the job accepted last, which may have ended; 0 if there is none."""
        group = self._groups.get(demand)
        return group[-1].rank if group else 0

    def younger_than(self, demand: Demand, rank: int) -> Iterator[Job]:
        """Waiting jobs of higher rank, the youngest first."""
        for job in reversed(self._groups.get(demand, ())):
            if job.rank <= rank:
                return
            if job.state is State.READY:
                yield job

    def pop(self, demand: Demand) -> Job:
        """The job ``head`` has just shown."""
        self._count -= 1
        return self._groups[demand].popleft()

    def _head(self, group: deque[Job]) -> Job | None:
        while group:
            if group[0].state is State.READY:
                return group[0]
            group.popleft()
        return None
