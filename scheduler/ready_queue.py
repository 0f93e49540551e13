"""Jobs that wait for a node. Rules of this file: a pure book; order only, no node and no clock.

Three shares decide whose turn it is, each by *strides*: whoever has had the least for its weight is next, and who comes
after a pause begins where the others are, so that nobody saves up turns.

- Between queues, by their weights.
- Inside a queue between tenants (``fair_key``), evenly.
- Of one tenant the job that came first, where each step of priority counts as so many seconds of waiting
  (``PRIORITY_S``): so an urgent job overtakes, and nothing starves.

Jobs that demand the same of a node stand in one line, so that one which no node can take holds up nobody else.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any

from scheduler.functions import Demand, Line
from scheduler.lifecycle import Job, State
from scheduler.queues import Queue

SWEEP = 1_000
"""So many entries of ended jobs, and more than of waiting ones, are swept out together."""

PRIORITY_S = 30.0
"""Seconds of waiting that a step of priority is worth."""


SORTED_IN = 200
"""So many jobs that come back together are sorted in at once; fewer, one by one: what either takes is alike then."""


class Waiters:
    """The jobs of one line, by rank: those that came in their order, and those that came back, anywhere among them."""

    __slots__ = ("_back", "_new")

    def __init__(self) -> None:
        self._new: deque[Job] = deque()
        self._back: list[Job] = []
        """The last one is the first of them, so that it goes in no time."""

    def __len__(self) -> int:
        """Entries, of which some may be of jobs that have ended; so it is with all that follows but ``head``."""
        return len(self._new) + len(self._back)

    def push(self, job: Job) -> None:
        self._new.append(job)

    def push_back(self, jobs: list[Job]) -> None:
        if len(jobs) > SORTED_IN:
            self._back += jobs
            self._back.sort(key=_backwards)
        else:
            for job in jobs:
                insort(self._back, job, key=_backwards)

    def head(self) -> Job | None:
        """The first one that is ready; those before it are forgotten."""
        new, back = self._new, self._back
        while new and new[0].state is not State.READY:
            new.popleft()
        while back and back[-1].state is not State.READY:
            back.pop()
        if back and (not new or back[-1].rank < new[0].rank):
            return back[-1]
        return new[0] if new else None

    def pop(self) -> None:
        """The head goes."""
        new, back = self._new, self._back
        if back and (not new or back[-1].rank < new[0].rank):
            back.pop()
        else:
            new.popleft()

    def __iter__(self) -> Iterator[Job]:
        return merge(self._new, reversed(self._back), key=_rank) if self._back else iter(self._new)

    def __reversed__(self) -> Iterator[Job]:
        return merge(reversed(self._new), self._back, key=_backwards) if self._back else reversed(self._new)

    def sweep(self) -> None:
        """Forget those that have ended."""
        self._new = deque(job for job in self._new if job.state is State.READY)
        self._back = [job for job in self._back if job.state is State.READY]


def _rank(job: Job) -> int:
    return job.rank


def _backwards(job: Job) -> int:
    return -job.rank


class _Tenant:
    __slots__ = ("lines", "passed")

    def __init__(self, passed: float) -> None:
        self.lines: dict[Line, Waiters] = {}
        self.passed = passed
        """Turns it has had, as far as that matters."""


class _Shelf:
    """The waiting jobs of one queue."""

    __slots__ = ("floor", "passed", "queue", "ready", "tenants")

    def __init__(self, queue: Queue, passed: float) -> None:
        self.queue = queue
        self.passed = passed
        self.tenants: dict[str, _Tenant] = {}
        self.floor = 0.0
        """Where a tenant begins who comes after a pause."""
        self.ready = 0
        """Jobs."""


class Turn:
    """Whose turn it is: the head of a line."""

    __slots__ = ("job", "line", "shelf", "tenant")

    def __init__(self, job: Job, shelf: _Shelf, tenant: _Tenant, line: Waiters) -> None:
        self.job = job
        self.shelf = shelf
        self.tenant = tenant
        self.line = line


class ReadyQueue:
    def __init__(self) -> None:
        self._shelves: dict[str, _Shelf] = {}
        self._floor = 0.0
        self._count = 0
        self._dropped = 0
        """Entries that are only waiting to be skipped, at most."""

    def __len__(self) -> int:
        return self._count

    # -- coming in ----------------------------------------------------------------------------------

    def push(self, jobs: list[Job]) -> None:
        """New jobs, which are the youngest, in their order."""
        record: Any = None
        shelf: _Shelf | None = None
        counted = 0
        for n, job in enumerate(jobs):
            if job.record is not record:
                record = job.record
                if shelf is not None:
                    shelf.ready += n - counted
                shelf, line = self._line(job)
                counted, push = n, line.push
            push(job)
        if shelf is not None:
            shelf.ready += len(jobs) - counted
        self._count += len(jobs)

    def push_back(self, jobs: Iterable[Job]) -> None:
        """Jobs queued again: each at the place its rank gives it."""
        lines: dict[int, tuple[Waiters, list[Job]]] = {}
        for job in jobs:
            shelf, line = self._line(job)
            shelf.ready += 1
            lines.setdefault(id(line), (line, []))[1].append(job)
            self._count += 1
        for line, some in lines.values():
            line.push_back(some)

    def _line(self, job: Job) -> tuple[_Shelf, Waiters]:
        record = job.record
        shelf = self._shelves.get(record.queue.name)
        if shelf is None:
            shelf = self._shelves[record.queue.name] = _Shelf(record.queue, self._floor)
        elif shelf.queue is not record.queue:
            shelf.queue = record.queue  # forgotten while it was idle, and back before its shelf was tidied away
        tenant = shelf.tenants.get(record.fair_key)
        if tenant is None:
            tenant = shelf.tenants[record.fair_key] = _Tenant(shelf.floor)
        line = tenant.lines.get(record.line)
        if line is None:
            line = tenant.lines[record.line] = Waiters()
        return shelf, line

    def dropped(self, job: Job) -> None:
        """A ready job has ended; its entry is skipped when its turn comes."""
        self._count -= 1
        self._shelves[job.record.queue.name].ready -= 1
        self._dropped += 1
        if self._dropped > SWEEP + self._count:
            for _, _, _, line in self._lines():
                line.sweep()
            self._dropped = 0

    # -- whose turn it is ---------------------------------------------------------------------------

    def turn(self, open_: Callable[[Queue, Line], bool]) -> Turn | None:
        """The next job that may go: of a queue and a line that are ``open_``."""
        for shelf in self._by_turn(list(self._shelves.values())):
            for tenant in sorted(shelf.tenants.values(), key=_passed) if len(shelf.tenants) > 1 else _only(shelf):
                best: Turn | None = None
                for line, jobs in tenant.lines.items():
                    if not open_(shelf.queue, line):
                        continue
                    job = jobs.head()
                    if job is not None and (best is None or _due(job) < _due(best.job)):
                        best = Turn(job, shelf, tenant, jobs)
                if best is not None:
                    return best
        return None

    def _by_turn(self, shelves: list[_Shelf]) -> list[_Shelf]:
        return sorted(shelves, key=_passed) if len(shelves) > 1 else shelves

    def pop(self, turn: Turn) -> None:
        """It goes, and those whose turn it was have had it."""
        self._count -= 1
        turn.shelf.ready -= 1
        turn.line.pop()
        shelf, tenant = turn.shelf, turn.tenant
        if shelf.passed > self._floor:
            self._floor = shelf.passed
        shelf.passed = self._floor + 1 / shelf.queue.settings.weight  # whoever could not go has saved up nothing
        if tenant.passed > shelf.floor:
            shelf.floor = tenant.passed
        tenant.passed = shelf.floor + 1.0

    def same_line(self, turn: Turn) -> Turn | None:
        """The next of the same line, where nobody else can have a turn: the quick way through one long line."""
        if len(self._shelves) > 1 or len(turn.shelf.tenants) > 1 or len(turn.tenant.lines) > 1:
            return None
        job = turn.line.head()
        if job is None:
            return None
        turn.job = job
        return turn

    def tidy(self) -> None:
        """Forget lines, tenants and queues without jobs."""
        for shelf in list(self._shelves.values()):
            for name, tenant in list(shelf.tenants.items()):
                for line, jobs in list(tenant.lines.items()):
                    if jobs.head() is None:
                        del tenant.lines[line]
                if not tenant.lines:
                    del shelf.tenants[name]
            if not shelf.tenants:
                del self._shelves[shelf.queue.name]

    # -- looking ------------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[Queue, str, Line, Waiters]]:
        for shelf in self._shelves.values():
            for name, tenant in shelf.tenants.items():
                for line, jobs in tenant.lines.items():
                    yield shelf.queue, name, line, jobs

    def __iter__(self) -> Iterator[Job]:
        """All waiting jobs, line by line."""
        for _, _, _, jobs in self._lines():
            yield from (job for job in jobs if job.state is State.READY)

    def count(self, queue: str) -> int:
        """Waiting jobs of one queue."""
        shelf = self._shelves.get(queue)
        return 0 if shelf is None else shelf.ready

    def oldest(self, queue: str) -> float | None:
        """Since when its oldest job waits, as far as the heads of its lines tell."""
        shelf = self._shelves.get(queue)
        lines = [] if shelf is None else [line for t in shelf.tenants.values() for line in t.lines.values()]
        return min((job.since for line in lines if (job := line.head()) is not None), default=None)

    def demands(self) -> list[Demand]:
        """What waiting jobs demand of a node, that of the oldest job first."""
        oldest: dict[Demand, int] = {}
        for _, _, line, jobs in self._lines():
            job = jobs.head()
            if job is not None:
                oldest[line.demand] = min(job.rank, oldest.get(line.demand, job.rank))
        return sorted(oldest, key=lambda demand: oldest[demand])

    def youngest_rank(self, demand: Demand) -> int:
        """Rank of the job accepted last, which may have ended; 0 if there is none."""
        return max(
            (next(reversed(jobs)).rank for _, _, line, jobs in self._lines() if line.demand == demand and jobs),
            default=0,
        )

    def younger_than(self, demand: Demand, rank: int) -> Iterator[Job]:
        """Waiting jobs of higher rank, the youngest first in each line."""
        for _, _, line, jobs in self._lines():
            if line.demand == demand:
                for job in reversed(jobs):
                    if job.rank <= rank:
                        break
                    if job.state is State.READY:
                        yield job

    @staticmethod
    def next(line: Waiters, count: int) -> list[Job]:
        """The first entries of a line, of which some may be of jobs that have ended."""
        return list(islice(line, count))


def _passed(entry: _Shelf | _Tenant) -> float:
    return entry.passed


def _only(shelf: _Shelf) -> Iterable[_Tenant]:
    return shelf.tenants.values()


def _due(job: Job) -> tuple[float, int]:
    """What comes first: waiting since, less what its priority is worth."""
    return job.since - PRIORITY_S * job.record.line.priority, job.rank
