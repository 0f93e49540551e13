"""Which payloads of unfinished jobs are in memory. Rules of this file: a pure book.

Above its bound a durable job's payload is left to the store, and read again a little before its turn: so memory is
bounded however deep the queue is. Those of jobs that are not durable are always here; ``admission`` bounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from scheduler.lifecycle import Job, State

AHEAD = 1_000
"""Jobs before the head of a queue whose payloads should be at hand,"""

AHEAD_BYTES = 4 * 1024 * 1024
"""...and no more bytes of them at a time; the next are read when half of those jobs are gone."""


class Payloads:
    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.bytes = 0
        """In memory."""
        self.absent = 0
        """Unfinished jobs whose payload is not."""
        self._reading: dict[int, Job] = {}

    def taken(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.bytes += len(job.payload)
            self.absent += job.absent

    @property
    def full(self) -> bool:
        return self.bytes > self._most

    def relieve(self, job: Job) -> None:
        """The store has it, or will before anybody asks: it need not be here, if there is too much."""
        if self.full and job.payload:
            self.bytes -= len(job.payload)
            job.payload = b""
            job.absent = True
            self.absent += 1

    def bound(self, jobs: Iterable[Job], keeps: Callable[[Job], bool]) -> None:
        """Of these, what the store keeps and nobody needs soon goes, if there is too much."""
        if self.full:
            for job in jobs:
                if keeps(job):
                    self.relieve(job)

    def ended(self, job: Job) -> None:
        self.bytes -= len(job.payload)
        if job.absent:
            self.absent -= 1
            self._reading.pop(job.rank, None)

    def wanted(self, jobs: Iterable[Job]) -> list[int]:
        """Ranks of those among the next jobs whose payload is to be read now."""
        ranks: list[int] = []
        size = 0
        for job in jobs:
            if not job.absent or job.state is not State.READY:
                continue
            size += job.size
            if ranks and size > AHEAD_BYTES:
                break
            if job.rank not in self._reading:
                self._reading[job.rank] = job
                ranks.append(job.rank)
        return ranks

    def arrived(self, found: dict[int, bytes]) -> None:
        for rank, payload in found.items():
            job = self._reading.pop(rank, None)  # None: it has ended meanwhile
            if job is not None and job.absent:
                job.payload = payload
                job.absent = False
                self.bytes += len(payload)
                self.absent -= 1
