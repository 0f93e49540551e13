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
from scheduler.resources import Claims, figure, told
from scheduler.roster import Node, Reserved, Roster

SHOWN = 3
"""Parents and nodes that are named."""

MOST = 100
"""Nodes that are told of in full."""


def reasons(
    job: Job,
    ready: ReadyQueue,
    roster: Roster,
    parents: Sequence[bytes],
    now: float,
    wall: float,
) -> list[str]:
    """One sentence for each thing that stands in its way; ``now`` monotonic, ``wall`` of the wall clock."""
    match job.state:
        case State.SCHEDULED:
            return _scheduled(job, parents, wall)
        case State.READY:
            return _ready(job, ready, roster, now)
        case State.LEASED:
            node = job.node
            how = f"it was placed on node {node.name}, which has not said yet that it runs"
            if not node.placeable:
                how += f"; that node is silent, and is given up after {_lease(now, node)}"
            elif job.record.spec.rules.gpus:
                how += "; if none of its graphics processors has so much free, it waits there for those that run to end"
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


def candidates(job: Job, roster: Roster, now: float) -> list[dict[str, Any]]:
    """Each node as placement sees it for this job: what keeps the job from it, or how full it counts; of those that
    could take it the one that would be preferred first."""
    record = job.record
    warm, claims = record.time.ran_on, record.claims
    failed_on = job.story[-1].node if job.story else ""
    packs = record.queue.settings.placement == "pack"
    out: list[dict[str, Any]] = []
    for node in roster:
        why = _kept_from(job, node, roster.reserved, now)
        out.append(
            {
                "node": node.name,
                "takes": not why,
                "why": why,
                "slots": node.slots,
                "outstanding": node.outstanding,
                "penalty": node.penalty,
                "queried": node.told_load(now),
                "score": score(node),
                "warm": node.session in warm,
                "preferred": [f"{k}={v}" for k, v in claims.prefer if node.is_labelled(k, v)] if claims else [],
                "avoided": node.name == failed_on,
            }
        )

    def first(row: dict[str, Any]) -> tuple[Any, ...]:
        full = -row["score"] + 2 * row["penalty"] if packs else row["score"]
        return not row["takes"], row["avoided"], -len(row["preferred"]), full, not row["warm"], row["node"]

    out.sort(key=first)
    return out[:MOST]


def _kept_from(job: Job, node: Node, reserved: Reserved | None, now: float) -> str:
    """The first filter that the node does not pass; empty if it passes all."""
    queue = job.record.queue
    labels, python, _, amounts = demand = job.record.line.demand
    if not node.satisfies(demand):
        lacks = [f"{key}={value}" for key, value in labels if not node.is_labelled(key, value)]
        if lacks:
            return f"lacks label {', '.join(lacks)}"
        if python and python != node.python:
            return f"has Python {node.python}, and its code needs {python}"
        if node.queues and queue.name not in node.queues:
            return f"does not serve queue {queue.name}"
        offered = node.leases.holdings.offered
        least = [
            f"{name} {figure(name, offered.get(name, 0))} of {figure(name, n)}"
            for name, n in amounts
            if offered.get(name, 0) < n
        ]
        return f"offers only {', '.join(least)}"
    if not node.placeable:
        return waiting.absence(node, now)
    if queue.room_on(node.name) == 0:
        return f"runs {queue.settings.max_per_node} of queue {queue.name} already (max_per_node)"
    if node.outstanding >= node.slots:
        return "all its slots are taken"
    claimed = _claimed(job.record.claims, node)
    if claimed or reserved is None or reserved.node is not node or reserved.job is job or not reserved.hinders(demand):
        return claimed
    return f"is kept clear for job {format_job(reserved.job.id)}, which has waited for long"


def _claimed(claims: Claims | None, node: Node) -> str:
    """What others have taken of what the job claims there; empty if that is free."""
    if claims is None or node.fits(claims):
        return ""
    holdings = node.leases.holdings
    short = [
        f"{told(name, holdings.free(name))} of {figure(name, holdings.offered[name])} unclaimed, and it claims"
        f" {figure(name, n)}"
        for name, n in claims.amounts
        if holdings.free(name) < n
    ]
    if claims.apart is not None and holdings.has(claims.apart):
        short.append(f"runs a job of anti-affinity key {claims.apart[1]} already")
    return "; ".join(short)


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


def _ready(job: Job, ready: ReadyQueue, roster: Roster, now: float) -> list[str]:
    record, nodes = job.record, list(roster)
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
    if not out:
        kept = [(n.name, why) for n in able if (why := _kept_from(job, n, roster.reserved, now))]
        if len(kept) == len(able):
            out.append(f"no node that fits has room for it: {waiting.shown(kept)}")
    if roster.reserved is not None and roster.reserved.job is job:
        out.append(f"node {roster.reserved.node.name} is kept clear for it, as it has waited for long")
    loaded = [f"{n.name}: {n.penalty:.2f}" for n in able if n.penalty]
    if loaded and not out:  # no reason not to run, but for a choice that may surprise
        out.append(f"nodes that others use count as fuller, by so much of their slots: {', '.join(loaded[:SHOWN])}")
    if job.absent:
        out.append("its arguments are being read from the disk")
    return out or ["its turn is next"]
