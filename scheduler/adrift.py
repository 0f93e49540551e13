"""Unfinished jobs of an earlier life, until it is known who holds them. Rules of this file: a pure book.

Every node that life knew may hold some. Its hello says which: those go on there. When all have told, or are given up,
the rest is nobody's, and can be run anew. Not so a job that must not start twice: the row of its assignment names who
may have started it, and only that session's own word, that it does not have it, sets the job free.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from cluster.messages import NodeHello
from scheduler import retries
from scheduler.clients import Clients
from scheduler.lifecycle import Cause, Job, State, move
from scheduler.roster import Node

NOBODY = ""
"""In place of a node's name, where queues count their attempts: some node may hold them, and nobody knows which."""


class Adrift:
    def __init__(self) -> None:
        self._jobs: dict[bytes, Job] = {}
        self._once: dict[bytes, set[bytes]] = {}
        """By session: jobs that it may have started, and nobody else may."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, job: Job, holder: bytes) -> None:
        """``holder``: session that may have started it, where it must not start twice; else empty."""
        self._jobs[job.id] = job
        job.record.queue.take(NOBODY)
        if holder:
            self._once.setdefault(holder, set()).add(job.id)

    def found(self, job: Job) -> None:
        """A node holds it."""
        del self._jobs[job.id]
        job.record.queue.give_back(NOBODY)

    def in_doubt(self, job: Job) -> bool:
        """Whether some session may have started it, and nobody else may. Its row alone knows which."""
        return job.id in self._jobs and any(job.id in some for some in self._once.values())

    def told(self, session: bytes, held: Container[bytes]) -> None:
        """This session has said which jobs it holds: those it does not it never started."""
        left = {jid for jid in self._once.pop(session, ()) if jid in held}
        if left:
            self._once[session] = left

    def adopt(
        self, node: Node, hello: NodeHello, clients: Clients, ours: int, wall: float
    ) -> list[tuple[Node, list[int]]]:
        """What the node holds of an earlier life goes on under its old token, which is below ``ours``. Of two that hold
        one job, the one with the later token has the right to it: who has lost it, and which tokens."""
        self.told(node.session, frozenset(hello.jobs))
        superseded: dict[int, tuple[Node, list[int]]] = {}
        for token, jid, attempt in zip(hello.tokens, hello.jobs, hello.attempts, strict=True):
            job = clients.unfinished(jid)
            if job is None or token >= ours or not job.token < token:
                continue
            if retries.is_over(job, attempt):
                continue  # an earlier life has heard so: another node may have the next attempt
            if job.state is State.ADRIFT:
                self.found(job)
            elif job.node is not None and job.token:
                job.node.leases.end(job.token)
                superseded.setdefault(id(job.node), (job.node, []))[1].append(job.token)
            else:
                continue
            move(job, Cause.ADOPTED)
            job.attempt, job.token, job.node, job.retracting = attempt, token, node, False
            job.due = min(job.due, wall)  # it was due when it was given, whatever the clock says now
            node.leases.grant(job)
        return list(superseded.values())

    def rest(self) -> tuple[list[Job], list[Job]]:
        """Nobody else will tell: jobs that nobody holds, and those that may have been started. None are left here."""
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.record.queue.give_back(NOBODY)
        once: Iterable[set[bytes]] = self._once.values()
        doubtful = {jid for some in once for jid in some}
        self._once = {}
        return [j for j in jobs.values() if j.id not in doubtful], [j for j in jobs.values() if j.id in doubtful]
