"""A store as plain dicts, with a disk that outlives it: what the bodies are held to, and it passes the suite itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field

from scheduler.store import (
    Changes,
    JobRow,
    NodeRow,
    OutcomeRow,
    Pruned,
    Recovered,
    SessionRow,
    SpecRow,
    Standing,
    StoreFailed,
    UnfinishedRow,
)


@dataclass
class Rows:
    sessions: dict[bytes, SessionRow] = field(default_factory=dict)
    specs: dict[int, SpecRow] = field(default_factory=dict)
    jobs: dict[int, JobRow] = field(default_factory=dict)
    standings: dict[int, Standing] = field(default_factory=dict)
    outcomes: dict[bytes, OutcomeRow] = field(default_factory=dict)
    """The oldest first."""
    nodes: dict[str, NodeRow] = field(default_factory=dict)
    last_rank: int = 0
    last_spec: int = 0

    def copy(self) -> Rows:
        return Rows(*map(copy, vars(self).values()))

    def apply(self, change: Changes) -> None:
        for session, row in change.sessions.items():
            old = self.sessions.get(session, row)
            self.sessions[session] = old._replace(accepted=max(old.accepted, row.accepted))
        for spec in change.specs:
            _fresh(spec.number not in self.specs)
            self.specs[spec.number] = spec
            self.last_spec = max(self.last_spec, spec.number)
        for job in change.jobs:
            _fresh(job.rank not in self.jobs)
            self.jobs[job.rank] = job
            self.last_rank = max(self.last_rank, job.rank)
        for standing in change.standings.values():
            _fresh(standing.rank in self.jobs)
            self.standings[standing.rank] = standing
        for outcome in change.outcomes:
            _fresh(outcome.id not in self.outcomes and (not outcome.rank or outcome.rank in self.jobs))
            self.jobs.pop(outcome.rank, None)
            self.standings.pop(outcome.rank, None)
            self.outcomes[outcome.id] = outcome
        for name, node in change.nodes.items():
            if node is None:
                self.nodes.pop(name, None)
            else:
                self.nodes[name] = node
        for session in change.forgotten_sessions:
            self.sessions.pop(session, None)
        for number in change.forgotten_specs:
            self.specs.pop(number, None)


def _fresh(possible: bool) -> None:
    if not possible:
        raise StoreFailed("a row contradicts those before it")


@dataclass
class Disk:
    rows: Rows = field(default_factory=Rows)


class ModelStore:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open = False
        """Whether something is written and not committed."""
        self._dead = False
        self.rows = disk.rows.copy()
        """With what is written."""

    def _written(self) -> Rows:
        if self._dead:
            raise StoreFailed("it has failed, or is closed")
        self._open = True
        return self.rows

    def _committed(self) -> Rows:
        if self._dead:
            raise StoreFailed("it has failed, or is closed")
        assert not self._open, "what is written and not committed may be told to nobody"
        return self.rows

    def recover(self) -> Recovered:
        rows = self._committed()
        named = [(row.sha, row.size) for row in rows.jobs.values()]
        named += [(row.sha, row.size) for row in rows.outcomes.values()]
        return Recovered(
            list(rows.sessions.values()),
            list(rows.specs.values()),
            list(rows.nodes.values()),
            {sha: (size, count) for (sha, size), count in Counter(named).items() if sha is not None},
            len(rows.outcomes),
            rows.last_rank,
            rows.last_spec,
        )

    def unfinished(self, after: int, most: int, payloads: bool) -> list[UnfinishedRow]:
        rows = self._committed()
        out = []
        for rank in sorted(r for r in rows.jobs if r > after)[:most]:
            job, standing = rows.jobs[rank], rows.standings.get(rank, Standing(rank, 0, 0, b"", 0, 0, 0, b""))
            payload = job.payload if payloads else None
            size = len(job.payload)
            out.append(UnfinishedRow(job.id, rank, job.spec, payload, size, job.sha, job.size, *standing[1:]))
        return out

    def payloads(self, ranks: Sequence[int]) -> dict[int, bytes]:
        jobs = self._committed().jobs
        return {rank: jobs[rank].payload for rank in ranks if rank in jobs}

    def write(self, changes: Iterable[Changes]) -> None:
        for change in changes:
            try:
                self._written().apply(change)
            except StoreFailed:
                self._dead = True
                raise

    def commit(self) -> None:
        self._disk.rows = self._written().copy()
        self._open = False

    def outcome(self, job: bytes) -> OutcomeRow | None:
        return self._committed().outcomes.get(job)

    def outcomes_of(self, session: bytes, after: int, most: int) -> list[OutcomeRow]:
        low = session + after.to_bytes(8, "big")
        rows = [r for r in self._committed().outcomes.values() if r.id.startswith(session) and r.id > low]
        return sorted(rows, key=lambda r: r.id)[:most]

    def prune(self, before: float, keep: int, most: int) -> Pruned:
        rows = self._written()
        gone: list[OutcomeRow] = []
        for row in list(rows.outcomes.values())[:most]:
            if len(rows.outcomes) <= keep and row.at >= before:
                break
            gone.append(rows.outcomes.pop(row.id))
        return Pruned(len(gone), [row.sha for row in gone if row.sha is not None])

    def close(self) -> None:
        self._dead = True
