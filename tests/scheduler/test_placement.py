"""The choice of a node: properties of a pure policy."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from scheduler.placement import (
    DAMPING,
    FRESH_S,
    IGNORED,
    MOST,
    STALE_S,
    choose,
    damped,
    faded,
    foreign,
    fullest,
    prefill,
    score,
    short_of_memory,
)


@dataclass(eq=False)
class Seat:
    slots: int
    outstanding: int
    name: int = 0
    penalty: float = 0.0
    session: bytes = b""


class Scripted:
    def __init__(self, *values: float) -> None:
        self._values = list(values)

    def random(self) -> float:
        return self._values.pop(0)


unit = st.floats(0, 1, exclude_max=True)
seats = st.lists(
    st.builds(Seat, st.integers(1, 64), st.integers(0, 500), st.just(0), st.just(0.0) | st.floats(0, 1)),
    min_size=1,
    max_size=10,
)
vitals = st.fixed_dictionaries(
    {},
    optional={
        name: st.none() | st.floats(0, 2) | st.floats() | st.booleans()
        for name in (
            "cpu_ratio",
            "own_cpu_ratio",
            "foreign_runnable",
            "memory_pressure_ratio",
            "memory_bytes",
            "memory_available_bytes",
        )
    },
)
"""What a peer may say of itself, nonsense too."""


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
        assert score(chosen) <= score(other)
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


# ------------------------------------------------------------------------------------ measured load


def test_warm_nodes_win_ties_and_nothing_else() -> None:
    cold, warm = Seat(4, 1, session=b"a"), Seat(4, 1, session=b"b")
    for first in (0.0, 0.9):
        assert choose([cold, warm], Scripted(first, 0.0), {warm.session}) is warm
    warm.outstanding = 2
    for first in (0.0, 0.9):
        assert choose([cold, warm], Scripted(first, 0.0), {warm.session}) is cold


def test_a_machine_that_others_use_up_counts_as_full_and_takes_what_no_other_can() -> None:
    loaded, idle = Seat(4, 0, 1, penalty=1.0), Seat(4, 0, 2)
    chance = random.Random(1)
    for _ in range(4):
        choose([loaded, idle], chance).outstanding += 1
    assert (loaded.outstanding, idle.outstanding) == (0, 4)
    choose([loaded], chance).outstanding += 1
    assert loaded.outstanding == 1


@given(vitals)
def test_whatever_a_peer_says_its_load_is_a_share(said: dict[str, float | None]) -> None:
    load = foreign(said, 4)
    assert load == 0 or IGNORED <= load <= MOST
    assert short_of_memory(said, False) in (True, False)
    if short_of_memory(said, False):
        assert short_of_memory(said, True), "who is short is not well"


def test_what_a_node_uses_itself_is_no_load() -> None:
    assert foreign({"cpu_ratio": 1.0, "own_cpu_ratio": 1.0, "foreign_runnable": 9}, 4) == 0
    assert foreign({"cpu_ratio": 1.0, "own_cpu_ratio": 0.25}, 4) == 0.75
    assert foreign({"cpu_ratio": 0.09, "own_cpu_ratio": 0.0}, 4) == 0
    assert foreign({}, 4) == 0


def test_each_process_of_others_counts_as_an_attempt() -> None:
    loaded = {"cpu_ratio": 1.0, "own_cpu_ratio": 0.0}
    assert [foreign({**loaded, "foreign_runnable": n}, 4) for n in (0, 1, 4, 99)] == [0, 0.25, 1.0, MOST]


@given(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=20))
def test_the_penalty_goes_towards_each_report_and_never_beyond(before: float, loads: list[float]) -> None:
    penalty = before
    for load in loads:
        after = damped(penalty, load)
        assert min(penalty, load) - 0.01 <= after <= max(penalty, load)
        assert abs(after - penalty) <= DAMPING * abs(load - penalty) + 0.01
        penalty = after


def test_the_penalty_of_a_machine_that_is_quiet_again_ends() -> None:
    penalty = 1.0
    for _ in range(10):
        penalty = damped(penalty, 0.0)
    assert penalty == 0


@given(st.floats(0, 1), st.floats(0, 30), st.floats(0, 30))
def test_the_older_a_report_the_less_it_counts(penalty: float, a: float, b: float) -> None:
    young, old = sorted((a, b))
    assert 0 <= faded(penalty, old) <= faded(penalty, young) <= penalty
    assert faded(penalty, FRESH_S) == penalty and faded(penalty, STALE_S) == 0


def test_a_node_that_was_short_of_memory_has_to_recover_well() -> None:
    def has(share: float, waits: float = 0.0) -> dict[str, float]:
        return {"memory_bytes": 100.0, "memory_available_bytes": 100.0 * share, "memory_pressure_ratio": waits}

    assert [short_of_memory(has(share), False) for share in (0.5, 0.06, 0.04)] == [False, False, True]
    assert [short_of_memory(has(share), True) for share in (0.06, 0.07, 0.09)] == [True, True, False]
    assert [short_of_memory(has(0.5, waits), False) for waits in (0.1, 0.3)] == [False, True]
    assert [short_of_memory(has(0.5, waits), True) for waits in (0.15, 0.05)] == [True, False]


# ------------------------------------------------------------------------------------ packing


@given(seats)
def test_packing_never_takes_a_full_node_while_another_has_a_slot(candidates: list[Seat]) -> None:
    chosen = fullest(candidates)
    assert chosen in candidates
    if any(seat.outstanding < seat.slots for seat in candidates):
        assert chosen.outstanding < chosen.slots


def test_packed_work_fills_one_node_after_the_other_and_those_of_others_last() -> None:
    loaded, *nodes = Seat(2, 0, 0, penalty=1.0), Seat(2, 0, 1), Seat(2, 0, 2)
    order = []
    for _ in range(6):
        seat = fullest([loaded, *nodes])
        seat.outstanding += 1
        order.append(seat.name)
    assert order == [1, 1, 2, 2, 0, 0]
