"""When a job is tried again, and what is kept of its tries. Rules of this file: pure policy; causes are counted apart.

A *budget* says how often a job may run again for one cause: its worker crashed, memory ran out, its node was lost. A
job whose budget is spent is a dead letter: it ends with what happened in each attempt. One that must not start twice
has no budget at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from cluster.jobs import shorten
from scheduler.lifecycle import Job

STORY_MOST = 20
"""Attempts that a story keeps: the last ones."""

CHARS = 300
"""Of what is said of one attempt."""


class Tried(NamedTuple):
    """An attempt that did not bring the job's end."""

    number: int
    node: str
    what: str
    at: float
    """When it was over, in seconds since the epoch."""


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


def told(job: Job) -> bool:
    """Whether it was counted already that the present attempt is over: by an earlier life, whose word about it the
    node has not had."""
    return any(tried.number == job.attempt for tried in job.story)


def remember(job: Job, node: str, what: str, at: float) -> None:
    """The present attempt is over, and the job is not."""
    job.story = [*job.story[1 - STORY_MOST :], Tried(job.attempt, node, shorten(what, CHARS), at)]


def last_words(job: Job, budget: str) -> str:
    """What is added to the text of a dead letter's failure; nothing where there was one attempt."""
    if len(job.story) < 2:
        return ""
    tries = "; ".join(f"attempt {t.number} on node {t.node}: {t.what}" for t in job.story)
    return f". It is given up ({budget}): {tries}"


def pack(story: Sequence[Tried]) -> bytes:
    return bytes(msgpack.packb(story)) if story else b""


def unpack(packed: bytes) -> list[Tried]:
    return [Tried(*tried) for tried in msgpack.unpackb(packed)] if packed else []
