"""Which node takes a job. Rules of this file: pure policy over plain figures; it changes nothing.

Two candidates are drawn by chance and the one with less outstanding work per slot is taken: nearly as good as
looking at all, and free of the herd that follows one stale best (Mitzenmacher, *The Power of Two Choices in
Randomized Load Balancing*, 2001). Short functions are placed a little ahead of need, long ones never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Chance(Protocol):
    """What is used of ``random.Random``."""

    def random(self) -> float: ...


class Candidate(Protocol):
    @property
    def slots(self) -> int: ...
    @property
    def outstanding(self) -> int: ...


def prefill(slots: int, mean_s: float, prefill_s: float, most: int) -> int:
    """How many jobs may lie ready on a node beyond its slots.

    ``mean_s``: observed run time, 0 if unknown; ``prefill_s``: seconds of work a slot; ``most``: jobs a slot.
    """
    if mean_s <= 0 or mean_s > prefill_s:
        return 0
    return slots * min(most, int(prefill_s / mean_s))


C = TypeVar("C", bound=Candidate)


def choose(candidates: Sequence[C], chance: Chance) -> C:
    """One of the candidates, of which there is at least one."""
    n = len(candidates)
    if n == 1:
        return candidates[0]
    first = int(chance.random() * n)
    second = int(chance.random() * (n - 1))
    if second >= first:
        second += 1
    a, b = candidates[first], candidates[second]
    return a if a.outstanding * b.slots <= b.outstanding * a.slots else b
