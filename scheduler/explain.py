"""Why a job does not run. Rules of this file: it reads the books, and answers in words that say what to do.

Each state names who moves a job out of it; here that one is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.ids import format_job
from scheduler import waiting
from scheduler.lifecycle import Job, State
from scheduler.ready_queue import ReadyQueue
from scheduler.roster import Node

SHOWN = 3
"""Parents that are named."""


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
    if job.absent:
        out.append("its arguments are being read from the disk")
    return out or ["its turn is next"]
