"""Why a job does not run. Rules of this file: it reads the books, and answers in words that say what to do.

Each state names who moves a job out of it; here that one is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.ids import format_job
from scheduler import waiting
from scheduler.lifecycle import Job, State
from scheduler.placement import score
from scheduler.ready_queue import ReadyQueue
from scheduler.roster import Node

SHOWN = 3
"""Parents and nodes that are named."""

MOST = 100
"""Nodes that are told of in full."""


def reasons(
    job: Job,
    ready: ReadyQueue,
    nodes: Sequence[Node],
    parents: Sequence[bytes],
    now: float,
    wall: float,
) -> list[str]:
    """One sentence for each thing that stands in its way; ``now`` monotonic, ``wall`` of the wall clock."""
    match job.state:
        case State.SCHEDULED:
            return _scheduled(job, parents, wall)
        case State.READY:
            return _ready(job, ready, nodes, now)
        case State.LEASED:
            node = job.node
            how = f"it was placed on node {node.name}, which has not said yet that it runs"
            if not node.placeable:
                how += f"; that node is silent, and is given up after {_lease(now, node)}"
            return [how]
        case State.RUNNING:
            return [f"it runs on node {job.node.name}, attempt {job.attempt}"]
        case State.ADRIFT:
            return [
                "the coordinator was restarted, and a node that has not come back may hold it: it waits for the word of"
                " that node, or for the end of its lease"
            ]
        case _:
            return ["it is over"]


def candidates(job: Job, nodes: Sequence[Node], now: float) -> list[dict[str, Any]]:
    """Each node as placement sees it for this job: what keeps the job from it, or how full it counts; of those that
    could take it the one that would be preferred first."""
    warm = job.record.time.ran_on
    out: list[dict[str, Any]] = []
    for node in nodes:
        why = _kept_from(job, node, now)
        out.append(
            {
                "node": node.name,
                "takes": not why,
                "why": why,
                "slots": node.slots,
                "outstanding": node.outstanding,
                "penalty": node.penalty,
                "score": score(node),
                "warm": id(node) in warm,
            }
        )
    out.sort(key=lambda row: (not row["takes"], row["score"], not row["warm"], row["node"]))
    return out[:MOST]


def _kept_from(job: Job, node: Node, now: float) -> str:
    """The first filter that the node does not pass; empty if it passes all."""
    queue = job.record.queue
    labels, python, _ = demand = job.record.line.demand
    if not node.satisfies(demand):
        lacks = [f"{key}={value}" for key, value in labels if node.labels.get(key) != value]
        if lacks:
            return f"lacks label {', '.join(lacks)}"
        if python and python != node.python:
            return f"has Python {node.python}, and its code needs {python}"
        return f"does not serve queue {queue.name}"
    if not node.placeable:
        return waiting.absence(node, now)
    if queue.room_on(node.name) == 0:
        return f"runs {queue.settings.max_per_node} of queue {queue.name} already (max_per_node)"
    if node.outstanding >= node.slots:
        return "all its slots are taken"
    return ""


def _lease(now: float, node: Node) -> str:
    return f"its lease ({now - node.heard_at:.0f} s of silence so far)"


def _scheduled(job: Job, parents: Sequence[bytes], wall: float) -> list[str]:
    out = []
    if job.due > wall:
        why = f"after attempt {job.attempt} ({job.story[-1].what})" if job.story else "as it was handed in"
        out.append(f"it is not due for another {job.due - wall:.0f} s, {why}")
    if parents:
        some = ", ".join(map(format_job, parents[:SHOWN]))
        more = f" and {len(parents) - SHOWN} more" if len(parents) > SHOWN else ""
        which = "1 job that has" if len(parents) == 1 else f"{len(parents)} jobs that have"
        out.append(f"it runs after {which} not ended: {some}{more}")
    return out or ["it is due"]


def _ready(job: Job, ready: ReadyQueue, nodes: Sequence[Node], now: float) -> list[str]:
    record = job.record
    queue, demand = record.queue, record.line.demand
    out = []
    settings = queue.settings
    if settings.paused:
        out.append(f"queue {queue.name} is paused: cluster queue resume {queue.name}")
    elif queue.room == 0:
        out.append(f"queue {queue.name} runs {queue.leased} attempts, and may run {settings.max_running} (max_running)")
    fitting = [n for n in nodes if n.satisfies(demand)]
    able = [n for n in fitting if n.placeable]
    if not able:
        out.append(f"it waits for {waiting.reason(demand, nodes, fitting, now)}")
        return out
    capped = [n for n in able if queue.room_on(n.name) == 0]
    if len(capped) == len(able):
        out.append(f"each node that fits runs {settings.max_per_node} of queue {queue.name} already (max_per_node)")
    busy = [n for n in able if n.outstanding >= n.slots]
    if len(busy) == len(able):
        slots = sum(n.slots for n in able)
        waiting_too = f"{ready.count(queue.name)} wait in its queue"
        out.append(f"all {slots} slots of the {len(able)} nodes that fit are taken; {waiting_too}")
    loaded = [f"{n.name}: {n.penalty:.2f}" for n in able if n.penalty]
    if loaded and not out:  # no reason not to run, but for a choice that may surprise
        out.append(f"nodes that others use count as fuller, by so much of their slots: {', '.join(loaded[:SHOWN])}")
    if job.absent:
        out.append("its arguments are being read from the disk")
    return out or ["its turn is next"]
