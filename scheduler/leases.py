"""Who may run what, and until when. Rules of this file: a pure book, one per node.

A lease is a node's right to one attempt, named by its token. It holds while the node is heard. A result is
accepted only from the node that holds the token; any other is late and discarded. What is leased counts against the
caps of its queue, and against what the node offers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from scheduler.lifecycle import Job
from scheduler.resources import Holdings


class Leases:
    def __init__(self, node: str, offered: Mapping[str, float]) -> None:
        self._node = node
        self._held: dict[int, Job] = {}
        self.holdings = Holdings(offered)
        self.once = 0
        """How many of them must not start twice."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._held.values())

    def __contains__(self, token: int) -> bool:
        return token in self._held

    def grant(self, job: Job) -> None:
        record = job.record
        self._held[job.token] = job
        self.once += record.once
        record.queue.take(self._node)
        if record.claims is not None:
            self.holdings.take(record.claims)

    def get(self, token: int) -> Job | None:
        return self._held.get(token)

    def end(self, token: int) -> Job | None:
        job = self._held.pop(token, None)
        if job is not None:
            record = job.record
            self.once -= record.once
            record.queue.give_back(self._node)
            if record.claims is not None:
                self.holdings.give_back(record.claims)
        return job

    def end_all(self) -> list[Job]:
        jobs = list(self._held.values())
        for job in jobs:
            self.end(job.token)
        return jobs

    def absent_from(self, tokens: Iterable[int]) -> list[Job]:
        """Jobs whose token the node does not name: it never got them."""
        named = set(tokens)
        return [job for token, job in self._held.items() if token not in named]

    def newest_unstarted(self) -> list[Job]:
        """Attempts not known to run, the last granted first."""
        return [j for j in reversed(self._held.values()) if j.state.value == "leased" and not j.retracting]
