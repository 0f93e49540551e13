"""Nodes with room for jobs of one kind, in one turn. Rules of this file: a pure book; the choice is placement's.

Whose turn it is and who fits nowhere is passed over, so that others use what is free. Who has waited for long is not: a
node is *kept clear* for it, of all that comes after it in the turn and takes what it lacks there (in schedulers of
batches this is a reservation, with backfill around it). One node at a time is kept clear in a cluster.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scheduler.functions import Demand, Record
from scheduler.lifecycle import Job
from scheduler.placement import Chance, choose, foremost, fullest
from scheduler.queues import Queue
from scheduler.resources import Claims
from scheduler.roster import Node, Reserved

RESERVE_AFTER_S = 5.0
"""A job that has waited for so long is not passed over any more for want of room. Sooner, nodes would run empty for
each large job; never, it would wait for ever behind small ones."""


def reserve(job: Job, nodes: Iterable[Node]) -> Reserved | None:
    """Of the nodes that could take it, the one that will be free for it soonest: that would be the least overfull with
    it. None if it does not lack room, or only what comes with the end of one certain job."""
    record: Record = job.record
    queue, claims = record.queue, record.claims
    apart = None if claims is None else claims.apart
    best: Node | None = None
    least = 0.0
    for node in nodes:
        if not node.placeable or queue.room_on(node.name) == 0 or node.leases.holdings.has(apart):
            continue
        filled = max((node.outstanding + 1) / node.slots, node.leases.holdings.fullness(record.line.demand.amounts))
        if best is None or filled < least:
            best, least = node, filled
    if best is None:
        return None
    holdings = best.leases.holdings
    if best.outstanding >= best.slots:
        return Reserved(best, job, frozenset())
    lacks = frozenset(name for name, n in record.line.demand.amounts if holdings.free(name) < n)
    return Reserved(best, job, lacks) if lacks else None


@dataclass(slots=True)
class Rooms:
    demand: Demand
    nodes: list[Node]
    """Those that had room when they were last looked at."""
    most: dict[int, int]
    """What each may hold of it at most, by its identity."""
    warm: Collection[bytes] = ()
    """Nodes that have run the function lately, by their identity."""

    def choose(self, chance: Chance, queue: Queue, avoid: str = "", claims: Claims | None = None) -> Node | None:
        """Which takes the next job of this queue; None where none can. ``avoid``: the node where its last attempt
        failed, which takes it only if no other can. ``claims``: what it asks for beside a slot."""
        nodes, most, warm = self.nodes, self.most, self.warm
        if claims is not None:
            return self._suited(chance, queue, avoid, claims)
        if queue.settings.placement == "pack":
            able = [n for n in nodes if n.outstanding < most[id(n)] and queue.room_on(n.name) != 0]
            return fullest([n for n in able if n.name != avoid] or able) if able else None
        if avoid and len(nodes) > 1:
            others = [
                n for n in nodes if n.name != avoid and n.outstanding < most[id(n)] and queue.room_on(n.name) != 0
            ]
            if others:
                return choose(others, chance, warm)
        if len(nodes) == 1 and queue.settings.max_per_node is None:
            return nodes[0] if nodes[0].outstanding < most[id(nodes[0])] else None
        if queue.settings.max_per_node is not None:
            nodes = [n for n in nodes if n.outstanding < most[id(n)] and queue.room_on(n.name)]
            return choose(nodes, chance, warm) if nodes else None
        while nodes:
            node = choose(nodes, chance, warm)
            if node.outstanding < most[id(node)]:
                return node
            nodes.remove(node)
        return None

    def keep_clear(self, reserved: Reserved) -> None:
        """Nothing of this goes there."""
        if reserved.hinders(self.demand):
            self.nodes = [node for node in self.nodes if node is not reserved.node]

    def _suited(self, chance: Chance, queue: Queue, avoid: str, claims: Claims) -> Node | None:
        """The same for a job that asks for more: all nodes are looked at. What it claims would lie idle while it waits
        for a slot, so it is not placed ahead of need."""
        able = [
            node
            for node in self.nodes
            if node.outstanding < (node.slots if claims.binding else self.most[id(node)])
            and node.fits(claims)
            and queue.room_on(node.name) != 0
        ]
        if not able:
            return None
        able = [node for node in able if node.name != avoid] or able
        if claims.prefer:
            able = foremost(able, lambda node: node.preferred(claims))
        return fullest(able) if queue.settings.placement == "pack" else choose(able, chance, self.warm)
