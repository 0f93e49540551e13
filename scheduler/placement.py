"""Which node takes a job. Rules of this file: pure policy over plain figures; it changes nothing.

Two candidates are drawn by chance and the one with less outstanding work per slot is taken: nearly as good as
looking at all, and free of the herd that follows one stale best (Mitzenmacher, *The Power of Two Choices in
Randomized Load Balancing*, 2001). Short functions are placed a little ahead of need, long ones never.

To that comes what a node measured of its machine, as a *penalty*: what others run there counts as if so many of
its slots were taken. Its own jobs do not count there, so that no node is shunned for doing its work and none is
flooded for having been idle. The penalty is damped, since a burst of a second says little of the next ones, and fades
with the age of the report. A node that runs short of memory is given nothing new until it has recovered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

DAMPING = 0.5
"""Share of the newest report in the penalty; a report comes with each heartbeat."""

IGNORED = 0.1
"""What is measured below this is what a machine does for itself."""

MOST = 2.0
"""No node counts as more than twice as full, whatever others do there."""

FRESH_S, STALE_S = 3.0, 10.0
"""A report counts in full up to this age, and not at all from that on."""

SHORT_RATIO, WELL_RATIO = 0.05, 0.08
"""With less memory left than the first share a node is short of it, until more than the second is left,"""
PRESSED_RATIO, EASED_RATIO = 0.2, 0.1
"""...and if work waits for memory longer than the first share of the time, until less than the second."""


class Chance(Protocol):
    """What is used of ``random.Random``."""

    def random(self) -> float: ...


class Candidate(Protocol):
    @property
    def session(self) -> bytes: ...
    @property
    def slots(self) -> int: ...
    @property
    def outstanding(self) -> int: ...
    @property
    def penalty(self) -> float: ...


def prefill(slots: int, mean_s: float, prefill_s: float, most: int) -> int:
    """How many jobs may lie ready on a node beyond its slots.

    ``mean_s``: observed run time, 0 if unknown; ``prefill_s``: seconds of work a slot; ``most``: jobs a slot.
    """
    if mean_s <= 0 or mean_s > prefill_s:
        return 0
    return slots * min(most, int(prefill_s / mean_s))


def foreign(vitals: Mapping[str, Any], slots: int) -> float:
    """What others use of a machine, as a share of the node's slots: each of their processes that runs or wants to takes
    as much as an attempt would. Where they were not counted, the share of its processors that they use."""
    busy, own = figure(vitals, "cpu_ratio"), figure(vitals, "own_cpu_ratio")
    if busy is None:
        return 0.0
    used = min(1.0, max(0.0, busy - (own or 0.0)))
    count = figure(vitals, "foreign_runnable")
    others = used if count is None else min(MOST, count / slots)
    return others if others >= IGNORED and used >= IGNORED else 0.0


def damped(before: float, load: float) -> float:
    """The penalty after one more report."""
    after = before + DAMPING * (load - before)
    return after if after > 0.01 else 0.0


def faded(penalty: float, age_s: float, fresh_s: float = FRESH_S, stale_s: float = STALE_S) -> float:
    """What is left of it when the report is so old."""
    if age_s <= fresh_s:
        return penalty
    return penalty * max(0.0, (stale_s - age_s) / (stale_s - fresh_s))


def short_of_memory(vitals: Mapping[str, Any], was: bool) -> bool:
    """Whether a node may be given nothing new; it takes more to recover than to get there, so that it does not flap."""
    whole, left = figure(vitals, "memory_bytes"), figure(vitals, "memory_available_bytes")
    waits = figure(vitals, "memory_pressure_ratio") or 0.0
    share = left / whole if whole and left is not None else 1.0
    if was:
        return share < WELL_RATIO or waits > EASED_RATIO
    return share < SHORT_RATIO or waits > PRESSED_RATIO


def figure(vitals: Mapping[str, Any], name: str) -> float | None:
    """What a peer says of itself, if it is a figure that can be used."""
    value = vitals.get(name)
    if not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value < float("inf") else None


def score(node: Candidate) -> float:
    """How full it is: attempts a slot, and its penalty."""
    return node.outstanding / node.slots + node.penalty


C = TypeVar("C", bound=Candidate)


def fullest(candidates: Sequence[C]) -> C:
    """The candidate to pack into: of those with a free slot the fullest, and rather one that others leave alone."""
    return min(candidates, key=lambda n: (n.outstanding >= n.slots, n.penalty >= 0.5, -n.outstanding / n.slots))


def foremost(candidates: Sequence[C], preferred: Callable[[C], int]) -> list[C]:
    """Those with a free slot, of which those that have most of what is preferred; where all slots are taken, of all."""
    some = [node for node in candidates if node.outstanding < node.slots] or candidates
    most = max(map(preferred, some))
    return [node for node in some if preferred(node) == most]


def choose(candidates: Sequence[C], chance: Chance, warm: Collection[bytes] = ()) -> C:
    """One of the candidates, of which there is at least one. ``warm``: sessions of those that have run the function
    lately; they win ties.
    """
    n = len(candidates)
    if n == 1:
        return candidates[0]
    first = int(chance.random() * n)
    second = int(chance.random() * (n - 1))
    if second >= first:
        second += 1
    a, b = candidates[first], candidates[second]
    ours, theirs = a.outstanding / a.slots + a.penalty, b.outstanding / b.slots + b.penalty
    if ours == theirs:
        return b if b.session in warm and a.session not in warm else a
    return a if ours < theirs else b
