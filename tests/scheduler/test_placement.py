"""The choice of a node: properties of a pure policy."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from scheduler.placement import choose, prefill


@dataclass(eq=False)
class Seat:
    slots: int
    outstanding: int
    name: int = 0


class Scripted:
    def __init__(self, *values: float) -> None:
        self._values = list(values)

    def random(self) -> float:
        return self._values.pop(0)


unit = st.floats(0, 1, exclude_max=True)
seats = st.lists(st.builds(Seat, st.integers(1, 64), st.integers(0, 500)), min_size=1, max_size=10)


@given(seats, unit, unit)
def test_the_fuller_of_the_two_is_never_taken(candidates: list[Seat], x: float, y: float) -> None:
    chosen = choose(candidates, Scripted(x, y))
    n = len(candidates)
    if n == 1:
        assert chosen is candidates[0]
        return
    first, second = int(x * n), int(y * (n - 1))
    second += second >= first
    assert first != second
    for other in (candidates[first], candidates[second]):
        assert chosen.outstanding / chosen.slots <= other.outstanding / other.slots
    assert chosen in (candidates[first], candidates[second])


def test_every_candidate_but_the_fullest_is_taken_and_equals_equally_often() -> None:
    equal = [Seat(1, 0, name) for name in range(5)]
    count = Counter(choose(equal, random.Random(1)).name for _ in range(1))
    chance = random.Random(7)
    count = Counter(choose(equal, chance).name for _ in range(10_000))
    assert all(1_800 < count[n] < 2_200 for n in range(5))
    graded = [Seat(1, n, n) for n in range(5)]
    count = Counter(choose(graded, chance).name for _ in range(10_000))
    assert count[4] == 0 and count[0] > count[1] > count[2] > count[3] > 0


def test_dealing_out_work_keeps_nodes_level_by_their_slots() -> None:
    chance = random.Random(3)
    nodes = [Seat(slots, 0) for slots in (2, 2, 3, 3, 4, 4)]
    for _ in range(18 * 100):
        choose(nodes, chance).outstanding += 1
    loads = [n.outstanding / n.slots for n in nodes]
    assert max(loads) < 1.1 * min(loads)


@given(st.integers(1, 256), st.floats(1e-6, 10) | st.just(0.0), st.floats(0, 0.1), st.integers(0, 256))
def test_prefill_is_bounded_and_none_for_the_unknown_and_the_long(
    slots: int, mean_s: float, prefill_s: float, most: int
) -> None:
    ahead = prefill(slots, mean_s, prefill_s, most)
    assert 0 <= ahead <= slots * most
    if mean_s == 0 or mean_s > prefill_s:
        assert ahead == 0
    else:
        assert ahead / slots * mean_s <= prefill_s * (1 + 1e-9)


@given(st.integers(1, 64), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_shorter_functions_are_never_placed_less_far_ahead(slots: int, a: float, b: float) -> None:
    short, long = sorted((a, b))
    assert prefill(slots, short, 0.005, 256) >= prefill(slots, long, 0.005, 256)
