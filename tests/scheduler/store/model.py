"""A store as plain dicts, with a disk that outlives it: what the bodies are held to, and it passes the suite itself."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TypeVar

from scheduler.store import (
    AliasRow,
    Arguments,
    Changes,
    FiringKey,
    FiringRow,
    History,
    JobRow,
    KeyRow,
    NodeRow,
    OutcomeRow,
    Pruned,
    Recovered,
    ScheduleRow,
    Search,
    SessionRow,
    SpecRow,
    Standing,
    StandingRow,
    StoreFailed,
    UnfinishedRow,
)

K = TypeVar("K")
V = TypeVar("V")

ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass
class Rows:
    sessions: dict[bytes, SessionRow] = field(default_factory=dict)
    specs: dict[int, SpecRow] = field(default_factory=dict)
    jobs: dict[int, JobRow] = field(default_factory=dict)
    standings: dict[int, Standing] = field(default_factory=dict)
    outcomes: dict[bytes, OutcomeRow] = field(default_factory=dict)
    """The oldest first."""
    arguments: dict[bytes, Arguments] = field(default_factory=dict)
    """Of those outcomes that are no successes."""
    nodes: dict[str, NodeRow] = field(default_factory=dict)
    keys: dict[tuple[str, str], KeyRow] = field(default_factory=dict)
    aliases: dict[bytes, AliasRow] = field(default_factory=dict)
    settings: dict[str, bytes] = field(default_factory=dict)
    schedules: dict[tuple[str, str], ScheduleRow] = field(default_factory=dict)
    schedule_standings: dict[tuple[str, str], StandingRow] = field(default_factory=dict)
    firings: dict[FiringKey, FiringRow] = field(default_factory=dict)
    pruned: int = 0
    """Outcomes that are gone; so the number of each that is kept is known."""
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
            job_row = self.jobs.pop(outcome.rank, None)
            if job_row is not None and outcome.outcome:
                self.arguments[outcome.id] = Arguments(job_row.payload, job_row.sha, job_row.size)
            self.standings.pop(outcome.rank, None)
            self.outcomes[outcome.id] = outcome
        _put(self.nodes, change.nodes)
        _put(self.keys, change.keys)
        for alias in change.aliases:
            _fresh(alias.id not in self.aliases)
            self.aliases[alias.id] = alias
        _put(self.settings, change.settings)
        for name in change.forgotten_schedules:
            self.schedules.pop(name, None)
            self.schedule_standings.pop(name, None)
            self.firings = {key: row for key, row in self.firings.items() if key[:2] != name}
        _put(self.schedules, change.schedules)
        self.schedule_standings |= change.schedule_standings
        _put(self.firings, change.firings)
        for session in change.forgotten_sessions:
            self.sessions.pop(session, None)
        for number in change.retired_specs:
            if number in self.specs:
                self.specs[number] = self.specs[number]._replace(code=b"", blob=False)
        for number in change.forgotten_specs:
            self.specs.pop(number, None)
        for id in change.dropped:
            self.arguments.pop(id, None)
        for id in change.repeated + change.dropped:
            if id in self.outcomes:
                self.outcomes[id] = self.outcomes[id]._replace(dead=0)


def _put(rows: dict[K, V], changed: dict[K, V | None]) -> None:
    for name, row in changed.items():
        if row is None:
            rows.pop(name, None)
        else:
            rows[name] = row


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
        named += [(row.sha, row.size) for row in rows.arguments.values()]
        return Recovered(
            list(rows.sessions.values()),
            list(rows.specs.values()),
            list(rows.nodes.values()),
            {sha: (size, count) for (sha, size), count in Counter(named).items() if sha is not None},
            len(rows.outcomes),
            rows.last_rank,
            rows.last_spec,
            list(rows.keys.values()),
            dict(rows.settings),
            list(rows.schedules.values()),
            list(rows.schedule_standings.values()),
            list(rows.firings.values()),
        )

    def unfinished(self, after: int, most: int, payloads: bool) -> list[UnfinishedRow]:
        rows = self._committed()
        out = []
        for rank in sorted(r for r in rows.jobs if r > after)[:most]:
            job, standing = rows.jobs[rank], rows.standings.get(rank, Standing(rank, 0, 0, b"", 0.0, b"", b""))
            row = UnfinishedRow._make((*job[:4], len(job.payload), *job[4:], *standing[1:]))
            out.append(row if payloads else row._replace(payload=None))
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
        rows = self._committed()
        named = rows.aliases[job].job if job in rows.aliases else job
        return rows.outcomes.get(job) or rows.outcomes.get(named)

    def alias(self, id: bytes) -> bytes | None:
        row = self._committed().aliases.get(id)
        return None if row is None else row.job

    def arguments(self, job: bytes) -> Arguments | None:
        return self._committed().arguments.get(job)

    def history(self, search: Search, before: int, most: int, look_at: int) -> History:
        rows = self._committed()
        numbered = list(enumerate(rows.outcomes.values(), rows.pruned + 1))
        below = [(number, row) for number, row in reversed(numbered) if not before or number < before]
        found: list[OutcomeRow] = []
        for number, row in below[:look_at]:
            before = number
            if matches(search, row):
                found.append(row._replace(payload=b""))
            if len(found) == most:
                break
        return History(found, before if below and before > rows.pruned + 1 else 0)

    def prune(self, before: float, keep: int, most: int, now: float) -> Pruned:
        rows = self._written()
        gone: list[OutcomeRow] = []
        for row in list(rows.outcomes.values())[:most]:
            if len(rows.outcomes) <= keep and row.at >= before:
                break
            gone.append(rows.outcomes.pop(row.id))
        rows.pruned += len(gone)
        named = [rows.arguments.pop(row.id).sha for row in gone if row.id in rows.arguments]
        over = [row for row in rows.outcomes.values() if 0 < row.until <= now and (row.payload or row.sha)]
        over = sorted(over, key=lambda row: row.until)[: most - len(gone)]
        for row in over:
            rows.outcomes[row.id] = row._replace(payload=b"", sha=None, size=0)
        named += [row.sha for row in (*gone, *over)]
        needed = rows.outcomes.keys() | {key.job for key in rows.keys.values() if not key.until}
        aged = (row for row in rows.aliases.values() if row.at < before and row.job not in needed)
        old = sorted(aged, key=lambda row: (row.at, row.id))
        old = old[: most - len(gone) - len(over)]
        for alias in old:
            del rows.aliases[alias.id]
        return Pruned(len(gone) + len(over) + len(old), [sha for sha in named if sha is not None])

    def close(self) -> None:
        self._dead = True


def matches(search: Search, row: OutcomeRow) -> bool:
    return (
        (search.specs is None or row.spec in search.specs)
        and (search.outcomes is None or row.outcome in search.outcomes)
        and (search.dead is None or row.dead == search.dead)
        and (not search.node or row.node == search.node)
        and (not search.since or row.at >= search.since)
        and (not search.until or row.at < search.until)
        and _contains(row.error, search.error)
        and _contains(row.summary, search.summary)
        and row.id.startswith(search.id)
    )


def _contains(text: str, part: str) -> bool:
    return part.translate(ASCII_LOWER) in text.partition("\0")[0].translate(ASCII_LOWER)
