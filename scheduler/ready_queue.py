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

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from scheduler.functions import Demand, Line
from scheduler.lifecycle import Job, State
from scheduler.queues import Queue

SWEEP = 1_000
"""So many entries of ended jobs, and more than of waiting ones, are swept out together."""

PRIORITY_S = 30.0
"""Seconds of waiting that a step of priority is worth."""


class _Tenant:
    __slots__ = ("lines", "passed")

    def __init__(self, passed: float) -> None:
        self.lines: dict[Line, deque[Job]] = {}
        self.passed = passed
        """Turns it has had, as far as that matters."""


class _Shelf:
    """The waiting jobs of one queue."""

    __slots__ = ("floor", "passed", "queue", "tenants")

    def __init__(self, queue: Queue, passed: float) -> None:
        self.queue = queue
        self.passed = passed
        self.tenants: dict[str, _Tenant] = {}
        self.floor = 0.0
        """Where a tenant begins who comes after a pause."""


class Turn:
    """Whose turn it is: the head of a line."""

    __slots__ = ("job", "line", "shelf", "tenant")

    def __init__(self, job: Job, shelf: _Shelf, tenant: _Tenant, line: deque[Job]) -> None:
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

    def push(self, job: Job) -> None:
        """A new job, which is the youngest."""
        self._line(job).append(job)
        self._count += 1

    def push_back(self, jobs: Iterable[Job]) -> None:
        """Jobs queued again: each at the place its rank gives it among the first."""
        for job in sorted(jobs, key=lambda j: -j.rank):
            line = self._line(job)
            later: list[Job] = []
            while line and line[0].rank < job.rank:
                later.append(line.popleft())
            line.appendleft(job)
            line.extendleft(reversed(later))
            self._count += 1

    def _line(self, job: Job) -> deque[Job]:
        record = job.record
        shelf = self._shelves.get(record.queue.name)
        if shelf is None:
            shelf = self._shelves[record.queue.name] = _Shelf(record.queue, self._floor)
        tenant = shelf.tenants.get(record.fair_key)
        if tenant is None:
            tenant = shelf.tenants[record.fair_key] = _Tenant(shelf.floor)
        line = tenant.lines.get(record.line)
        if line is None:
            line = tenant.lines[record.line] = deque()
        return line

    def dropped(self, job: Job) -> None:
        """A ready job has ended; its entry is skipped when its turn comes."""
        self._count -= 1
        self._dropped += 1
        if self._dropped > SWEEP + self._count:
            for _, _, _, line in self._lines():
                alive = [j for j in line if j.state is State.READY]
                line.clear()
                line.extend(alive)
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
                    job = self._head(jobs)
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
        turn.line.popleft()
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
        job = self._head(turn.line)
        if job is None:
            return None
        turn.job = job
        return turn

    def tidy(self) -> None:
        """Forget lines, tenants and queues without jobs."""
        for shelf in list(self._shelves.values()):
            for name, tenant in list(shelf.tenants.items()):
                for line, jobs in list(tenant.lines.items()):
                    if self._head(jobs) is None:
                        del tenant.lines[line]
                if not tenant.lines:
                    del shelf.tenants[name]
            if not shelf.tenants:
                del self._shelves[shelf.queue.name]

    # -- looking ------------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[Queue, str, Line, deque[Job]]]:
        for shelf in self._shelves.values():
            for name, tenant in shelf.tenants.items():
                for line, jobs in tenant.lines.items():
                    yield shelf.queue, name, line, jobs

    def __iter__(self) -> Iterator[Job]:
        """All waiting jobs, line by line."""
        for _, _, _, jobs in self._lines():
            yield from (job for job in jobs if job.state is State.READY)

    def count(self, queue: str) -> int:
        """Entries of one queue, of which some may be of jobs that have ended."""
        shelf = self._shelves.get(queue)
        return 0 if shelf is None else sum(len(line) for t in shelf.tenants.values() for line in t.lines.values())

    def demands(self) -> list[Demand]:
        """What waiting jobs demand of a node, that of the oldest job first."""
        oldest: dict[Demand, int] = {}
        for _, _, line, jobs in self._lines():
            job = self._head(jobs)
            if job is not None:
                oldest[line.demand] = min(job.rank, oldest.get(line.demand, job.rank))
        return sorted(oldest, key=lambda demand: oldest[demand])

    def youngest_rank(self, demand: Demand) -> int:
        """Rank of the job accepted last, which may have ended; 0 if there is none."""
        return max((jobs[-1].rank for _, _, line, jobs in self._lines() if line.demand == demand and jobs), default=0)

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
    def next(line: deque[Job], count: int) -> Iterator[Job]:
        """The first entries of a line, of which some may be of jobs that have ended."""
        return islice(line, count)

    @staticmethod
    def _head(line: deque[Job]) -> Job | None:
        while line:
            if line[0].state is State.READY:
                return line[0]
            line.popleft()
        return None


def _passed(entry: _Shelf | _Tenant) -> float:
    return entry.passed


def _only(shelf: _Shelf) -> Iterable[_Tenant]:
    return shelf.tenants.values()


def _due(job: Job) -> tuple[float, int]:
    """What comes first: waiting since, less what its priority is worth."""
    return job.since - PRIORITY_S * job.record.line.priority, job.rank
