"""The nodes and what is known of them. Rules of this file: a pure book; the choice among them is placement's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from scheduler.functions import Demand
from scheduler.leases import Leases
from scheduler.peers import Peer

OWN_NAME = "node"
"""A label that every node has: its name, and its host's."""


@dataclass(slots=True, eq=False)
class Node(Peer):
    name: str = ""
    incarnation: int = 0
    previous: bytes = b""
    lock: str = ""
    host: str = ""
    pid: int = 0
    python: str = ""
    slots: int = 1
    labels: dict[str, str] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    """Those it serves; all, where none are named."""
    leases: Leases = field(init=False)
    code: set[bytes] = field(default_factory=set)
    """Functions sent on this link."""
    vitals: dict[str, Any] = field(default_factory=dict)
    finished: int = 0
    clock_offset_s: float | None = None
    """Its wall clock less ours, by its last heartbeat, and the way of that."""
    claims: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Other sessions that say hello under its name: link and number of the message that shall show it alive."""
    claims_told_at: float = float("-inf")
    """When people were last told that somebody waits for the name."""
    draining: bool = False
    """It takes nothing new, by its own word, and will leave."""
    barred: bool = False
    """It is given nothing new, by people's order, until they take that back."""
    awaited: bool = False
    """It may hold attempts of an earlier life of the coordinator, and has not said which."""
    surplus_since: float | None = None
    """Since when it has held more than its slots without finishing anything."""

    def __post_init__(self) -> None:
        self.leases = Leases(self.name)

    def take_vitals(self, vitals: dict[str, Any], wall: float) -> None:
        """What it measured, as its heartbeat says; ``wall``: ours, when that came."""
        self.vitals = vitals
        theirs = vitals.get("wall_s")
        self.clock_offset_s = None if not isinstance(theirs, (int, float)) else theirs - wall

    @property
    def outstanding(self) -> int:
        return len(self.leases)

    @property
    def placeable(self) -> bool:
        return self.reachable and not self.suspect and not self.draining and not self.barred

    @property
    def state(self) -> str:
        """As people read it."""
        if self.draining or (self.barred and self.outstanding):
            return "draining"
        if self.barred and self.reachable and not self.suspect:
            return "drained"
        return "up" if self.placeable else "suspect"

    def satisfies(self, demand: Demand) -> bool:
        labels, python, queue = demand
        mine = self.labels
        return (
            all(mine.get(k) == v or (k == OWN_NAME and v in (self.name, self.host)) for k, v in labels)
            and (not python or python == self.python)
            and (not self.queues or queue in self.queues)
        )


BARRED = "drained "
"""Begins the names of settings in the store that keep which nodes are barred."""


class Roster:
    def __init__(self) -> None:
        self._by_name: dict[str, Node] = {}
        self._fitting: dict[Any, list[Node]] = {}
        self.barred: dict[str, float] = {}
        """Names of nodes that are given nothing new, be they here or not, with the moment of the wall clock at which
        what runs there is taken back."""

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Node | None:
        return self._by_name.get(name)

    def add(self, node: Node) -> None:
        self._by_name[node.name] = node
        node.barred = node.name in self.barred
        self._fitting.clear()

    def remove(self, node: Node) -> None:
        if self._by_name.get(node.name) is node:
            del self._by_name[node.name]
        self._fitting.clear()

    def bar(self, name: str, clear_at: float) -> None:
        self.barred[name] = clear_at
        node = self.get(name)
        if node is not None:
            node.barred = True

    def admit(self, name: str) -> None:
        """It may be given work again."""
        self.barred.pop(name, None)
        node = self.get(name)
        if node is not None:
            node.barred = False

    def clock_set(self, seconds: float) -> None:
        """The wall clock was set by so much: what is left of a time to drain is a duration."""
        for name in self.barred:
            self.barred[name] += seconds

    def fitting(self, demand: Any) -> list[Node]:
        """Nodes that satisfy a demand, whatever their state."""
        nodes = self._fitting.get(demand)
        if nodes is None:
            if len(self._fitting) > 1000:
                self._fitting.clear()
            nodes = self._fitting[demand] = [n for n in self if n.satisfies(demand)]
        return nodes
