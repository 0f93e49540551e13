"""The agent's slots and how much each worker has in its pipe. Rules of this file: a pure book and its policy.

A worker gets a little more than it runs, if the work is short, so that it never waits for the agent. What lies
in a pipe can be taken back unread, so giving costs nothing but the taking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.config import AgentLimits


@dataclass(slots=True, eq=False)
class Slot:
    number: int
    pid: int = 0
    """Of its worker; 0 while there is none ready."""
    spawning: bool = False
    given: dict[int, float] = field(default_factory=dict)
    """Tokens in its pipe or running, in order, with their expected run time."""
    expected_s: float = 0.0
    """Sum of ``given``."""
    moved_at: float = 0.0
    """When it last was given something while idle, or answered."""
    unknown: int = 0
    """How many of ``given`` have no expected time."""
    recalling: bool = False
    leaving: bool = False
    """Its worker reads nothing more, and its death is due,"""
    killing: int = 0
    """...or it was killed, for the sake of this attempt."""
    used: bool = False
    """Whether its worker has been given anything."""
    devices: int = 0
    """Token of the attempt for which its worker has graphics processors: they are free when that is gone."""
    resting: bool = False
    """Without a worker, until there is work for one."""
    asked_at: float = 0.0
    """When its worker was asked for."""
    init_us: int = 0
    """What its worker took to start; 0 once it has run something."""
    cpu_us: int = 0
    """What its worker has told of so far."""
    failures: int = 0
    """Starts that failed in a row."""
    idle_deaths: int = 0
    """Workers in a row that died without having answered anything."""
    spawn_at: float = 0.0

    @property
    def ready(self) -> bool:
        return self.pid != 0

    @property
    def coming(self) -> bool:
        """Whether it will have another worker, which has run nothing."""
        return self.leaving or self.killing != 0 or not (self.pid or self.resting)

    def room(self, expected_s: float, limits: AgentLimits) -> bool:
        """Whether one more attempt of that expected time (0: unknown) should be given."""
        if not self.pid or self.recalling or self.leaving or self.killing:
            return False
        if not self.given:
            return True
        if not expected_s or self.unknown or len(self.given) >= limits.give_max:
            return False
        return self.expected_s + expected_s <= limits.give_s

    def give(self, token: int, expected_s: float, now: float) -> None:
        if not self.given:
            self.moved_at = now
        self.used = True
        self.given[token] = expected_s
        if expected_s:
            self.expected_s += expected_s
        else:
            self.unknown += 1

    def take(self, token: int) -> None:
        expected_s = self.given.pop(token, None)
        if expected_s == 0.0:
            self.unknown -= 1
        elif expected_s is not None:
            self.expected_s = max(0.0, self.expected_s - expected_s) if self.given else 0.0

    def distrust(self) -> None:
        """What it holds takes longer than was thought: nothing more is put behind it."""
        for token in self.given:
            self.given[token] = 0.0
        self.expected_s, self.unknown = 0.0, len(self.given)

    @property
    def head(self) -> int:
        """Token of what runs, or is about to; 0 for none."""
        return next(iter(self.given), 0)

    def clear(self) -> None:
        self.pid, self.spawning, self.recalling, self.leaving, self.killing = 0, False, False, False, 0
        self.used, self.devices = False, 0
        self.init_us = self.cpu_us = 0
        self.given.clear()
        self.expected_s = 0.0
        self.unknown = 0


class Slots:
    def __init__(self, count: int) -> None:
        self._slots = [Slot(i) for i in range(count)]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    @property
    def busy(self) -> int:
        return sum(1 for s in self._slots if s.given)
