"""Questions about jobs, answered a slice a turn. Rules of this file: reads the books and changes nothing.

Unfinished jobs are in memory, what has ended is in the store. A question goes through both, the newest first, and looks
at no more than ``SLICE`` of either in a turn, so that nobody waits for it. What it has not found within ``LOOK_AT`` is
left to the next page, which goes on where this one ended.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.ids import SESSION_BYTES, format_job, parse_job
from cluster.jobs import NOTHING_SPECIAL, About, BadSpec, Failure, Outcome
from scheduler import retries
from scheduler.clients import Client
from scheduler.functions import Functions
from scheduler.lifecycle import Job, State
from scheduler.store import OutcomeRow, Search

SLICE = 20_000
"""Jobs or rows looked at in one turn: some 10 ms."""

LOOK_AT = 400_000
"""...and for one page."""

PAGE = 500
"""Most jobs of one page,"""

MOST_JOBS = 500
"""...and of one order."""

STATES = tuple(s.value for s in State if s is not State.FINISHED)
OUTCOMES = {o.word: o for o in Outcome}
TEXTS = ("function", "queue", "tag", "node", "error", "arguments", "id")
NUMBERS = ("since", "until")


class BadQuestion(ValueError):
    """What is asked for cannot be; the text says which part."""


@dataclass(slots=True)
class Filter:
    """What jobs shall have; what is empty does not matter."""

    states: frozenset[str] = frozenset()
    """Of unfinished jobs,"""
    outcomes: frozenset[int] = frozenset()
    """...and of others."""
    dead: bool = False
    function: str = ""
    queue: str = ""
    tag: str = ""
    node: str = ""
    error: str = ""
    arguments: str = ""
    id: str = ""
    """Beginning of the job's id as people write it."""
    since: float = 0.0
    """Handed in (or, if it has ended, ended) at this moment or later,"""
    until: float = 0.0
    """...and before this one."""

    @staticmethod
    def of(about: dict[str, Any]) -> Filter:
        """Raises :class:`BadQuestion`."""
        out = Filter()
        for name in TEXTS:
            value = about.get(name, "")
            if type(value) is not str or len(value) > 500:
                raise BadQuestion(f"{name} is a text of up to 500 characters")
            setattr(out, name, value)
        for name in NUMBERS:
            value = about.get(name, 0)
            if type(value) not in (int, float):
                raise BadQuestion(f"{name} is a number of seconds since the epoch")
            setattr(out, name, float(value))
        states = about.get("states", [])
        if type(states) is not list:
            raise BadQuestion("states is a list")
        unfinished, outcomes = set(), set()
        for state in states:
            if state in STATES:
                unfinished.add(state)
            elif state in OUTCOMES:
                outcomes.add(int(OUTCOMES[state]))
            elif state == "unfinished":
                unfinished |= set(STATES)
            elif state == "finished":
                outcomes |= set(map(int, Outcome))
            elif state == "dead":
                out.dead = True
            else:
                known = ", ".join([*STATES, *OUTCOMES, "unfinished", "finished", "dead"])
                raise BadQuestion(f"no state is called {str(state)[:40]!r}; there are {known}")
        out.states, out.outcomes = frozenset(unfinished), frozenset(outcomes)
        return out

    @property
    def any_unfinished(self) -> bool:
        """Whether some unfinished job can be meant."""
        return not self.error and (bool(self.states) or not (self.outcomes or self.dead))

    @property
    def any_finished(self) -> bool:
        return bool(self.outcomes) or self.dead or not self.states

    def fits(self, job: Job) -> bool:
        spec = job.record.spec
        return (
            (not self.states or job.state.value in self.states)
            and (not self.function or self.function in spec.name)
            and (not self.queue or self.queue == spec.rules.queue)
            and (not self.tag or self.tag in spec.rules.tags)
            and (not self.node or (job.node is not None and job.node.name == self.node))
            and (not self.arguments or self.arguments.lower() in job.summary.lower())
            and (not self.since or job.at >= self.since)
            and (not self.until or job.at < self.until)
            and (not self.id or format_job(job.id).startswith(self.id))
        )

    def meant(self, row: OutcomeRow) -> bool:
        """What the search alone does not say."""
        if self.dead and self.outcomes and not (row.dead or row.outcome in self.outcomes):
            return False
        return not self.id or format_job(row.id).startswith(self.id)

    def search(self, functions: Functions, namespace: str | None) -> Search:
        """The same, as the store is asked. ``namespace``: the only one that may be seen; None for all."""
        specs: frozenset[int] | None = None
        if self.function or self.queue or self.tag or namespace is not None:
            specs = frozenset(
                number
                for number, spec in functions.known()
                if (not self.function or self.function in spec.name)
                and (not self.queue or self.queue == spec.rules.queue)
                and (not self.tag or self.tag in spec.rules.tags)
                and (namespace is None or spec.namespace == namespace)
            )
        either = bool(self.dead and self.outcomes)  # the store is asked for what has both: ``meant`` sorts it out
        return Search(
            specs=specs,
            outcomes=None if either else self.outcomes or None,
            dead=True if self.dead and not either else None,
            node=self.node,
            since=self.since,
            until=self.until,
            error=self.error,
            summary=self.arguments,
            id=_id_bytes(self.id),
        )


def _id_bytes(text: str) -> bytes:
    """The bytes with which ids of this beginning begin: those of the session, as far as they are whole."""
    head = text.partition("-")[0][: 2 * SESSION_BYTES]
    try:
        return bytes.fromhex(head[: len(head) & ~1])
    except ValueError:
        return b"\xff" * SESSION_BYTES  # no id begins so


@dataclass(slots=True)
class Inquiry:
    """One page being looked for, on behalf of one question."""

    client: Client
    ask: int
    filter: Filter
    search: Search
    namespace: str | None
    limit: int
    jobs: Iterator[Job]
    """Unfinished ones, the newest first; those that were so when it was asked."""
    before: int
    """Where the history goes on; -1 where it is not to be looked at."""
    left: int = LOOK_AT
    rows: list[dict[str, Any]] = field(default_factory=list)
    last_rank: int = 0
    reading: bool = False
    """The store has been asked for a slice."""

    def look(self, functions: Functions) -> bool:
        """Look at some unfinished jobs; whether they are through, or the page is full."""
        for _ in range(SLICE):
            job = next(self.jobs, None)
            if job is None:
                return True
            self.last_rank = job.rank
            self.left -= 1
            if job.state is State.FINISHED or not self.filter.fits(job):
                continue
            if self.namespace is None or job.record.spec.namespace == self.namespace:
                self.rows.append(of_job(job))
            if self.full:
                return True
        return self.left <= 0

    def take(self, rows: Iterable[OutcomeRow], before: int, functions: Functions) -> None:
        """A slice of the history."""
        self.reading = False
        self.left -= SLICE
        self.before = before or -1
        for row in rows:
            if self.filter.meant(row):
                self.rows.append(of_row(row, functions))

    @property
    def full(self) -> bool:
        return len(self.rows) >= self.limit

    def answer(self, unfinished_left: bool) -> dict[str, Any]:
        """The page. ``more``: what to ask for the next one with; nil where this is the last."""
        more: dict[str, int] | None = None
        if unfinished_left:
            more = {"rank": self.last_rank, "before": self.before}
        elif self.before >= 0:
            more = {"rank": 0, "before": self.before}
        return {"jobs": self.rows, "more": more}


def newest_first(clients: Iterable[Client], below: int) -> Iterator[Job]:
    """Unfinished jobs by rank, downwards, from under ``below`` (0: from the last)."""
    return heapq.merge(*(_downwards(list(c.jobs.values()), below) for c in clients if c.jobs), key=lambda j: -j.rank)


def _downwards(jobs: list[Job], below: int) -> Iterator[Job]:
    """Those of one client, which come by rank; a deep page passes over none of the earlier ones."""
    end = bisect_left(jobs, below, key=lambda j: j.rank) if below else len(jobs)
    return (jobs[place] for place in range(end - 1, -1, -1))


def job_of(about: dict[str, Any]) -> bytes:
    """The one job a question is about. Raises :class:`BadQuestion`."""
    return jobs_of({"jobs": [about.get("id")]})[0]


def jobs_of(about: dict[str, Any]) -> list[bytes]:
    """The jobs an order is about. Raises :class:`BadQuestion`."""
    texts = about.get("jobs")
    if type(texts) is not list or not 0 < len(texts) <= MOST_JOBS:
        raise BadQuestion(f"jobs is a list of 1 to {MOST_JOBS} job ids")
    out = []
    for text in texts:
        if type(text) is not str:
            raise BadQuestion("a job id is a text")
        out.append(parse_job(text))
    return list(dict.fromkeys(out))


def check_corrected(about: dict[str, Any]) -> None:
    """The spec and the code that shall be run instead, if any. Raises :class:`BadQuestion`."""
    for name in ("spec", "code"):
        if type(about.get(name, b"")) is not bytes:
            raise BadQuestion(f"{name} is bytes")


# ------------------------------------------------------------------------------------ jobs as plain values


def of_job(job: Job) -> dict[str, Any]:
    spec = job.record.spec
    return {
        "id": format_job(job.id),
        "state": job.state.value,
        "dead": False,
        "function": spec.name,
        "by_value": spec.by_value,
        "queue": spec.rules.queue,
        "tags": list(spec.rules.tags),
        "namespace": spec.namespace,
        "owner": spec.owner,
        "arguments": job.summary,
        "accepted": job.at,
        "ended": None,
        "due": job.due or None,
        "attempt": job.attempt,
        "node": job.node.name if job.node is not None else None,
        "error": job.story[-1].what if job.story else "",
        "key": job.about.key or None,
        "retry_of": format_job(job.about.retry_of) if job.about.retry_of else None,
        "parent": format_job(job.about.parent) if job.about.parent else None,
        "root": format_job(job.about.root or job.about.parent or job.id),
        "schedule": job.about.schedule or None,
        "nominal": job.about.nominal_us / 1e6 if job.about.schedule else None,
        "after": [format_job(parent) for parent in job.about.after],
        "saved_bytes": len(job.saved),
        "attempts": [_tried(t) for t in job.story],
    }


def of_ended(job: Job, outcome: Outcome, failure: bytes, dead: bool, wall: float) -> dict[str, Any]:
    """A job that has just ended."""
    error = Failure.decode(failure) if failure else None
    return of_job(job) | {
        "state": outcome.word,
        "dead": dead,
        "ended": wall,
        "error": "" if error is None else f"{error.kind}: {error.text}",
        "traceback": "" if error is None else error.traceback,
    }


def of_row(row: OutcomeRow, functions: Functions) -> dict[str, Any]:
    spec = functions.spec(row.spec)
    about = _about(row.about)
    return {
        "id": format_job(row.id),
        "state": Outcome(row.outcome).word,
        "dead": bool(row.dead),
        "function": spec.name if spec else "",
        "by_value": bool(spec and spec.by_value),
        "queue": spec.rules.queue if spec else "",
        "tags": list(spec.rules.tags) if spec else [],
        "namespace": spec.namespace if spec else "",
        "owner": spec.owner if spec else "",
        "arguments": row.summary,
        "accepted": row.accepted_at,
        "ended": row.at,
        "due": None,
        "attempt": row.attempt,
        "node": row.node or None,
        "error": row.error,
        "key": about.key or None,
        "retry_of": format_job(about.retry_of) if about.retry_of else None,
        "parent": format_job(about.parent) if about.parent else None,
        "root": format_job(about.root or about.parent or row.id),
        "schedule": about.schedule or None,
        "nominal": about.nominal_us / 1e6 if about.schedule else None,
        "after": [format_job(parent) for parent in about.after],
        "saved_bytes": 0,
        "attempts": [_tried(t) for t in retries.story(row)],
    }


def _tried(tried: retries.Tried) -> dict[str, Any]:
    return {
        "number": tried.number,
        "node": tried.node,
        "worker": tried.worker or None,
        "ended": tried.at,
        "queued_s": tried.queued_us / 1e6,
        "waited_s": tried.waited_us / 1e6,
        "init_s": tried.init_us / 1e6,
        "cold": tried.init_us > 0,
        "run_s": tried.run_us / 1e6,
        "cpu_s": tried.cpu_us / 1e6 if tried.cpu_us else None,
        "peak_bytes": tried.peak_kib << 10 if tried.peak_kib else None,
        "error": tried.what,
    }


def lineage(raw: bytes) -> About:
    """What is said about a job, of its ancestors alone."""
    about = _about(raw)
    return About(parent=about.parent, root=about.root)


def _about(raw: bytes) -> About:
    try:
        return About.decode(raw)
    except BadSpec:
        return NOTHING_SPECIAL
