"""Nodes with room for jobs of one kind, in one turn. Rules of this file: a pure book; the choice is placement's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from scheduler.functions import Demand
from scheduler.placement import Chance, choose, fullest
from scheduler.queues import Queue
from scheduler.roster import Node


@dataclass(slots=True)
class Rooms:
    demand: Demand
    nodes: list[Node]
    """Those that had room when they were last looked at."""
    most: dict[int, int]
    """What each may hold of it at most, by its identity."""
    warm: Collection[int] = ()
    """Nodes that have run the function lately, by their identity."""

    def choose(self, chance: Chance, queue: Queue, avoid: str = "") -> Node | None:
        """Which takes the next job of this queue; None where none can. ``avoid``: the node where its last attempt
        failed, which takes it only if no other can."""
        nodes, most, warm = self.nodes, self.most, self.warm
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
