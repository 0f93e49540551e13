"""What people and programs may ask of the coordinator. Rules of this file: reads the books, changes nothing.

Answers are plain figures and texts. A list is given in pages, since a message has a bound: ``after`` is the last
name of the page before, ``more`` says that there is another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from cluster.config import BATCH_BYTES
from scheduler.queues import Queue
from scheduler.roster import Node, Roster


def load(roster: Roster) -> dict[str, int]:
    """Slots and attempts of all nodes. An attempt beyond its node's slots lies ready and does not run yet."""
    busy = sum(min(n.outstanding, n.slots) for n in roster)
    return {
        "nodes": len(roster),
        "slots": sum(n.slots for n in roster),
        "busy": busy,
        "leased": sum(n.outstanding for n in roster) - busy,
    }


def queue(queue: Queue, ready: int) -> dict[str, Any]:
    settings = queue.settings
    return {
        "name": queue.name,
        "weight": settings.weight,
        "paused": settings.paused,
        "max_running": settings.max_running,
        "max_per_node": settings.max_per_node,
        "placement": settings.placement,
        "jobs": queue.jobs,
        "ready": ready,
        "leased": queue.leased,
    }


def nodes(roster: Iterable[Node], now: float, about: dict[str, Any]) -> dict[str, Any]:
    """The nodes by name, a page at a time."""
    after = about.get("after", "")
    rows: list[dict[str, Any]] = []
    size = 0
    for node in sorted(roster, key=lambda n: n.name):
        if type(after) is str and node.name <= after:
            continue
        row = of_node(node, now)
        size += len(msgpack.packb(row))
        if rows and size > BATCH_BYTES:
            return {"nodes": rows, "more": True}
        rows.append(row)
    return {"nodes": rows, "more": False}


def of_node(node: Node, now: float) -> dict[str, Any]:
    return {
        "name": node.name,
        "host": node.host,
        "pid": node.pid,
        "python": node.python,
        "labels": node.labels,
        "queues": list(node.queues),
        "state": node.state,
        "slots": node.slots,
        "busy": min(node.outstanding, node.slots),
        "queued": max(0, node.outstanding - node.slots),
        "finished": node.finished,
        "heard_s": now - node.heard_at,
        "load": node.vitals.get("load"),
        "memory_free_bytes": node.vitals.get("memory_available_bytes"),
        "resources": node.leases.holdings.rows,
    }
