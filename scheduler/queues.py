"""The named queues and what is set for each. Rules of this file: a pure book; the order of jobs is the ready queue's.

A queue comes to be when it is first named, with the usual settings, and is forgotten when nothing was set for it and no
job is in it. What was set outlives the coordinator. ``leased`` counts what its jobs hold of the nodes, by node too, so
that a cap holds for all that may run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgpack

MAX_QUEUES = 10_000
"""Queues that may be set or hold jobs."""

MAX_WEIGHT = 1_000

PLACEMENTS = ("spread", "pack")

SETTING = "queue "
"""Begins the names of what is set for queues, in the store."""


@dataclass(slots=True)
class Settings:
    """Of one queue. ``None``: no cap."""

    weight: int = 1
    """Its share of the slots, against other queues that have jobs ready."""
    paused: bool = False
    """Nothing of it starts; what runs goes on."""
    max_running: int | None = None
    """Attempts at a time, in the whole cluster,"""
    max_per_node: int | None = None
    """...and on each node."""
    placement: str = "spread"
    """...over the nodes, or ``pack`` into as few as take them."""

    def changed(self, wanted: dict[str, Any]) -> Settings:
        """With these set. Raises ``ValueError`` with what is wrong."""
        out = replace(self)
        for name, value in wanted.items():
            if name == "weight":
                if type(value) is not int or not 1 <= value <= MAX_WEIGHT:
                    raise ValueError(f"weight is 1 to {MAX_WEIGHT}, not {value!r}")
            elif name == "paused":
                if type(value) is not bool:
                    raise ValueError(f"paused is true or false, not {value!r}")
            elif name in ("max_running", "max_per_node"):
                if value is not None and (type(value) is not int or not 1 <= value < 1 << 31):
                    raise ValueError(f"{name} is a positive number or none, not {value!r}")
            elif name == "placement":
                if value not in PLACEMENTS:
                    raise ValueError(f"placement is {' or '.join(PLACEMENTS)}, not {value!r}")
            else:
                known = ", ".join(field.name for field in fields(self))
                raise ValueError(f"a queue has no {str(name)[:40]!r}; it has {known}")
            setattr(out, name, value)
        return out

    @property
    def words(self) -> str:
        caps = [f"{name} {n}" for name in ("max_running", "max_per_node") if (n := getattr(self, name)) is not None]
        packed = ["pack"] if self.placement == "pack" else []
        return ", ".join([f"weight {self.weight}", *caps, *packed, *(["paused"] if self.paused else [])])

    def pack(self) -> bytes:
        return bytes(msgpack.packb([getattr(self, field.name) for field in fields(self)]))

    @staticmethod
    def unpack(packed: bytes) -> Settings:
        """What was not there yet when they were kept is as usual."""
        return Settings(*msgpack.unpackb(packed))


@dataclass(slots=True, eq=False)
class Queue:
    name: str
    settings: Settings = field(default_factory=Settings)
    leased: int = 0
    by_node: dict[str, int] = field(default_factory=dict)
    """Of ``leased``, where a node has some."""
    jobs: int = 0
    """Unfinished."""

    @property
    def room(self) -> int | None:
        """Attempts that may still be placed; None without a cap."""
        if self.settings.paused:
            return 0
        cap = self.settings.max_running
        return None if cap is None else max(0, cap - self.leased)

    def room_on(self, node: str) -> int | None:
        cap = self.settings.max_per_node
        return None if cap is None else max(0, cap - self.by_node.get(node, 0))

    def take(self, node: str) -> None:
        self.leased += 1
        self.by_node[node] = self.by_node.get(node, 0) + 1

    def give_back(self, node: str) -> None:
        self.leased -= 1
        left = self.by_node[node] - 1
        if left:
            self.by_node[node] = left
        else:
            del self.by_node[node]


class Queues:
    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    def __len__(self) -> int:
        return len(self._queues)

    def get(self, name: str) -> Queue | None:
        return self._queues.get(name)

    def named(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            if len(self._queues) >= MAX_QUEUES:
                self._forget_idle()
            queue = self._queues[name] = Queue(name)
        return queue

    @property
    def full(self) -> bool:
        return len(self._queues) >= MAX_QUEUES and not any(self._idle(q) for q in self)

    def restore(self, name: str, packed: bytes) -> None:
        self._queues[name] = Queue(name, Settings.unpack(packed))

    @staticmethod
    def _idle(queue: Queue) -> bool:
        return not queue.jobs and queue.settings == Settings()

    def _forget_idle(self) -> None:
        for queue in [q for q in self if self._idle(q)]:
            del self._queues[queue.name]
