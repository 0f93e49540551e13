"""The nodes and what is known of them. Rules of this file: a pure book; the choice among them is placement's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from scheduler import placement
from scheduler.functions import Demand
from scheduler.leases import Leases
from scheduler.lifecycle import Job
from scheduler.peers import Peer
from scheduler.resources import Claims

OWN_NAME = "node"
"""A label that every node has: its name, and its host's."""


QUERY_FRESH = 2
"""The answer to a load query counts in full while it is no older than so many intervals, and is gone at twice that."""


@dataclass(frozen=True, slots=True)
class LoadsQueried:
    """An event: what the query of the user's Prometheus says of nodes."""

    loads: dict[str, float]
    """By node, in shares of its slots: 0 is idle, and 1 as full as its slots can be. Of those it does not name, 0."""
    every_s: float
    """It is asked so often."""
    failure: str = ""
    """Why there is no answer."""


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
    resources: dict[str, float] = field(default_factory=dict)
    """What it offers, beside slots."""
    leases: Leases = field(init=False)
    code: set[bytes] = field(default_factory=set)
    """Functions sent on this link."""
    vitals: dict[str, Any] = field(default_factory=dict)
    finished: int = 0
    clock_offset_s: float | None = None
    """Its wall clock less ours, by its last heartbeat, and the way of that."""
    load: float = 0.0
    """What others use of its processors, damped,"""
    load_at: float = 0.0
    """...and when it was told last."""
    queried: float = 0.0
    """The same by the query of the user's Prometheus,"""
    queried_at: float = 0.0
    """...when that was answered last,"""
    queried_every_s: float = 0.0
    """...and how often it is asked."""
    penalty: float = 0.0
    """What the larger of the two is worth now, in shares of its slots."""
    short: bool = False
    """Of memory: it is given nothing new until it has recovered."""
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
        self.leases = Leases(self.name, self.resources)

    @property
    def called(self) -> str:
        return f"node {self.name}"

    def weigh(self, now: float, weight: float) -> None:
        """What its load is worth now; ``weight``: of all loads."""
        load = placement.faded(self.load, now - self.load_at) if self.load else 0.0
        self.penalty = weight * max(load, self.told_load(now)) if self.queried else weight * load

    def told_load(self, now: float) -> float:
        """What the query says of it, as far as that is not stale."""
        fresh_s = QUERY_FRESH * self.queried_every_s
        return placement.faded(self.queried, now - self.queried_at, fresh_s, 2 * fresh_s) if self.queried else 0.0

    def take_query(self, load: float, every_s: float, now: float) -> None:
        """What the query of the user's Prometheus says of it, which is asked so often."""
        self.queried, self.queried_at, self.queried_every_s = min(load, placement.MOST), now, every_s

    def take_vitals(self, vitals: dict[str, Any], now: float, wall: float) -> None:
        """What it measured, as its heartbeat says, that came now."""
        self.vitals = vitals
        self.load, self.load_at = placement.damped(self.load, placement.foreign(vitals, self.slots)), now
        self.short = placement.short_of_memory(vitals, self.short)
        theirs = vitals.get("wall_s")
        self.clock_offset_s = None if not isinstance(theirs, (int, float)) else theirs - wall

    @property
    def outstanding(self) -> int:
        return len(self.leases)

    @property
    def placeable(self) -> bool:
        return self.reachable and not self.suspect and not self.draining and not self.barred and not self.short

    @property
    def state(self) -> str:
        """As people read it."""
        if self.draining or (self.barred and self.outstanding):
            return "draining"
        if self.barred and self.reachable and not self.suspect:
            return "drained"
        if self.short and self.reachable and not self.suspect:
            return "short of memory"
        return "up" if self.placeable else "suspect"

    def satisfies(self, demand: Demand) -> bool:
        """Whether it could take such a job if it had nothing else to do."""
        labels, python, queue, amounts = demand
        return (
            all(self.is_labelled(key, value) for key, value in labels)
            and (not python or python == self.python)
            and (not self.queues or queue in self.queues)
            and self.leases.holdings.could(amounts)
        )

    def is_labelled(self, key: str, value: str) -> bool:
        return self.labels.get(key) == value or (key == OWN_NAME and value in (self.name, self.host))

    def fits(self, claims: Claims | None) -> bool:
        """Whether it has free what a job claims beside a slot."""
        return claims is None or self.leases.holdings.fits(claims)

    def preferred(self, claims: Claims) -> int:
        """How many of the labels that its node should have it has."""
        return sum(self.is_labelled(key, value) for key, value in claims.prefer)


BARRED = "drained "
"""Begins the names of settings in the store that keep which nodes are barred,"""
MOMENT = struct.Struct("<d")
"""...and from when on what runs there is taken back."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A node that is kept clear for a job."""

    node: Node
    job: Job
    lacks: frozenset[str]
    """The resources that it lacks there; none if it is a slot."""

    def hinders(self, demand: Demand) -> bool:
        """Whether jobs that demand this would take of it."""
        return not self.lacks or any(name in self.lacks for name, _ in demand.amounts)


class Roster:
    def __init__(self) -> None:
        self._by_name: dict[str, Node] = {}
        self.reserved: Reserved | None = None
        """Of the last turn."""
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

    def restore(self, name: str, packed: bytes) -> None:
        """It was barred in an earlier life."""
        self.bar(name, *MOMENT.unpack(packed))

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
