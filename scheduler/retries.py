"""When a job is tried again, and what is kept of its tries. Rules of this file: pure policy; causes are counted apart.

A *budget* says how often a job may run again for one cause: its worker crashed, memory ran out, its node was lost. A
job whose budget is spent is a dead letter: it ends with what happened in each attempt. One that must not start twice
has no budget at all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from cluster import errors
from cluster.jobs import About, End, Failure, Rules, shorten
from scheduler.lifecycle import Job, Wish
from scheduler.placement import Chance
from scheduler.store import OutcomeRow

STORY_MOST = 20
"""Attempts that a story keeps: the last ones."""

CHARS = 300
"""Of what is said of one attempt."""

_PACK = msgpack.Packer().pack
_ONLY = struct.Struct(">QQ")
"""No list begins as this does."""


class Used(NamedTuple):
    """What an attempt took, in microseconds where nothing else is said. What nobody has measured is 0."""

    run_us: int = 0
    worker: int = 0
    """Process number."""
    cpu_us: int = 0
    """Processor time, with that of the processes it started."""
    peak_kib: int = 0
    """Largest memory of its worker while it ran."""
    waited_us: int = 0
    """At its node, from its arrival to its start."""
    init_us: int = 0
    """What its worker took to start, if this was its first; 0: it was warm."""
    queued_us: int = 0
    """Before it arrived at its node: since it was handed in or due, or the attempt before was over."""


class Tried(NamedTuple):
    """An attempt that is over."""

    number: int
    node: str
    what: str
    """Why it did not bring the end; empty if it succeeded."""
    at: float
    """When it was over, in seconds since the epoch."""
    run_us: int = 0
    worker: int = 0
    cpu_us: int = 0
    peak_kib: int = 0
    waited_us: int = 0
    init_us: int = 0
    queued_us: int = 0


def used(job: Job, wall: float, run_us: int, worker: int, record: Sequence[int]) -> Used:
    """What the present attempt took that is over now. ``record``: its node's, as ``Finished.records`` has them."""
    _, cpu_us, peak_kib, waited_us, init_us = record
    since = max(job.since, job.story[-1].at) if job.story else job.since
    queued_us = int((wall - since) * 1e6) - run_us - waited_us
    return Used(run_us, worker, cpu_us, peak_kib, waited_us, init_us, max(0, queued_us))


NO_RECORD = (0, 0, 0, 0, 0)
TIMEOUT = tuple(c.__name__ for c in errors.JobTimeout.__mro__)
"""Names under which the rules of a job find that it timed out."""


def after_lost_node(job: Job, budget: int) -> bool:
    """Count one lost node against the job; whether it may be queued again."""
    job.lost_nodes += 1
    return job.lost_nodes <= budget and not job.once


def after_crash(job: Job, memory: bool) -> bool:
    """Count the death of a worker, because ``memory`` ran out or not; whether the job may be queued again."""
    rules = job.record.spec.rules
    if memory:
        job.memory_kills += 1
        return job.memory_kills <= rules.memory_retries and not job.once
    job.crashes += 1
    return job.crashes <= rules.crash_retries and not job.once


def after_error(job: Job, failure: Failure, end: int) -> bool:
    """Count an exception of its function, a timeout or its own wish; whether it runs again."""
    rules: Rules = job.record.spec.rules
    if end == End.GIVE_UP or job.once:
        return False
    if end == End.SNOOZE:
        job.snoozes += 1
        return True
    if end in (End.RAISED, End.TIMED_OUT):
        names = failure.bases or (failure.kind,)
        if end == End.TIMED_OUT:
            names = (*names, *TIMEOUT)
        if rules.retry_on and not any(name in rules.retry_on for name in names):
            return False
        if any(name in rules.give_up_on for name in names):
            return False
    job.retries += 1
    return job.retries <= rules.retries


def pause_s(job: Job, failure: Failure, chance: Chance) -> float:
    """How long it waits before it runs again."""
    rules: Rules = job.record.spec.rules
    if failure.delay_s is not None:
        return failure.delay_s
    steps = min(max(0, job.retries - 1), 64)
    pause = min(rules.retry_max_delay_s, rules.retry_delay_s * rules.backoff**steps)
    return float(pause * (1 - rules.jitter * chance.random()))


def is_over(job: Job, attempt: int) -> bool:
    """Whether it is known what became of that attempt."""
    return any(tried.number == attempt for tried in job.story)


def remember(job: Job, node: str, what: str, at: float, took: Sequence[int] = ()) -> None:
    """The present attempt is over. ``took``: as ``Used``, or the beginning of it."""
    job.story = [*job.story[1 - STORY_MOST :], Tried(job.attempt, node, shorten(what, CHARS), at, *took)]


def last_words(job: Job, budget: str) -> str:
    """What is added to the text of a dead letter's failure; nothing where there was one attempt."""
    if len(job.story) < 2:
        return ""
    tries = "; ".join(f"attempt {t.number} on node {t.node}: {t.what}" for t in job.story)
    return f". It is given up ({budget}): {tries}"


def pack(job: Job) -> bytes:
    """Budgets used and story, for the store; and whether it is being ended, so that nobody has to ask twice."""
    counts = [job.lost_nodes, job.crashes, job.memory_kills, job.retries, job.snoozes]
    if job.cancel_wished is Wish.ENDED:
        counts.append(1)
    return bytes(_PACK((counts, job.story)))


def restore(job: Job, packed: bytes) -> None:
    if packed:
        counts, story = msgpack.unpackb(packed)
        job.lost_nodes, job.crashes, job.memory_kills, job.retries, job.snoozes, *ended = counts
        job.cancel_wished = Wish.ENDED if ended else Wish.NONE
        job.story = [Tried(*tried) for tried in story]


def pack_only(run_us: int, worker: int, *more: int) -> bytes:
    """The story of a job whose only attempt succeeded, as most do; the outcome's row says the rest."""
    return bytes(_PACK((run_us, worker, *more))) if more else _ONLY.pack(run_us, worker)


def story(row: OutcomeRow) -> list[Tried]:
    """What became of each attempt of a job that has ended."""
    if not row.tries:
        return []
    if row.tries[0] < 0x80:
        run_us, worker = _ONLY.unpack(row.tries)
        about = About.decode(row.about)
        due = max(about.at, row.accepted_at + about.delay_s)
        took = Used(run_us, worker, queued_us=max(0, int((row.at - due) * 1e6) - run_us))
        return [Tried(row.attempt, row.node, "", row.at, *took)]
    packed = msgpack.unpackb(row.tries)
    if len(packed) == len(Used._fields):
        return [Tried(row.attempt, row.node, "", row.at, *packed)]
    return [Tried(*tried) for tried in packed[1]]
