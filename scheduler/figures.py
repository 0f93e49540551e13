"""The books in figures: tallies of what a turn did, and once a second how things stand. Rules of this file: it reads
the books and changes nothing; a column at a time, since what is done for each job is done a million times.

Plain values only: what listens to facts knows no book.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from cluster.jobs import Outcome
from scheduler.functions import Record
from scheduler.lifecycle import Job
from scheduler.queues import Queue, Queues
from scheduler.ready_queue import ReadyQueue
from scheduler.roster import Node, Roster

MOST_QUEUES, MOST_NODES = 1_000, 1_000
"""Looked at, of those that have the most to tell: a cluster with more is measured as quickly."""

_record = attrgetter("record")


def by_queue(jobs: Iterable[Job]) -> list[tuple[str, int]]:
    """How many there are of each queue."""
    return [(record.queue.name, n) for record, n in Counter(map(_record, jobs)).items()]


def waits(records: Sequence[Record], spec_of: Sequence[int], jobs: Sequence[Job], wall: float) -> list[tuple[str, Any]]:
    """Of jobs that are placed now, how long each could have run, by queue. ``spec_of``: index of each one's record."""
    if len(records) == 1:
        return [(records[0].queue.name, [wall - job.since for job in jobs])]
    columns: list[list[float]] = [[] for _ in records]
    for index, job in zip(spec_of, jobs, strict=True):
        columns[index].append(wall - job.since)
    return [(record.queue.name, column) for record, column in zip(records, columns, strict=True)]


def ended(jobs: Iterable[Job], wall: float) -> dict[Outcome, list[tuple[str, str, list[float]]]]:
    """Of jobs that have their outcome now, how long each took from its acceptance, by queue and function."""
    columns: dict[tuple[Outcome, Record], list[float]] = {}
    for job in jobs:
        assert job.outcome is not None
        key = job.outcome, job.record
        column = columns.get(key)
        if column is None:
            columns[key] = [wall - job.at]
        else:
            column.append(wall - job.at)
    out: dict[Outcome, list[tuple[str, str, list[float]]]] = {}
    for (outcome, record), column in columns.items():
        out.setdefault(outcome, []).append((record.queue.name, record.spec.name, column))
    return out


def queues(all_: Queues, ready: ReadyQueue) -> list[dict[str, Any]]:
    """Jobs by queue and state; ``leased`` are those that nodes have."""
    some = list(all_)
    if len(some) > MOST_QUEUES:
        some = sorted(some, key=_jobs, reverse=True)[:MOST_QUEUES]
    out = []
    for queue in some:
        waiting = ready.count(queue.name)
        out.append(
            {
                "name": queue.name,
                "paused": queue.settings.paused,
                "scheduled": queue.jobs - queue.leased - waiting,
                "ready": waiting,
                "leased": queue.leased,
                "oldest": ready.oldest(queue.name) if waiting else None,
            }
        )
    return out


def _jobs(queue: Queue) -> int:
    return queue.jobs


def nodes(roster: Roster, now: float, wall: float) -> list[dict[str, Any]]:
    return [_node(node, now, wall) for node in list(roster)[:MOST_NODES]]


def _node(node: Node, now: float, wall: float) -> dict[str, Any]:
    return {
        "name": node.name,
        "state": node.state,
        "slots": node.slots,
        "slots_busy": min(node.outstanding, node.slots),
        "queued_attempts": max(0, node.outstanding - node.slots),
        "last_heard_timestamp_seconds": wall - (now - node.heard_at),
        "clock_offset_s": node.clock_offset_s,
        "penalty_ratio": node.penalty,
        "resources": node.leases.holdings.rows,
        "vitals": node.vitals,
    }
