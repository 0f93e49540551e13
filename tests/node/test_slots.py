"""Slots: how much a worker is given, and what it is thought to hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import AgentLimits
from node.slots import Slot, Slots

LIMITS = AgentLimits(give_s=0.002, give_max=4)


def ready() -> Slot:
    return Slot(0, pid=1)


def test_an_idle_worker_has_room_for_anything() -> None:
    assert ready().room(0.0, LIMITS) and ready().room(1_000.0, LIMITS)


def test_there_is_no_room_without_a_worker_or_while_it_is_asked_to_give_back() -> None:
    assert not Slot(0).room(0.001, LIMITS)
    slot = ready()
    slot.recalling = True
    assert not slot.room(0.001, LIMITS)


@pytest.mark.parametrize(("held", "more"), [(0.0, 0.001), (0.001, 0.0), (0.0015, 0.001), (1.0, 0.001)])
def test_nothing_is_put_behind_what_is_long_or_unknown(held: float, more: float) -> None:
    slot = ready()
    slot.give(1, held, 0.0)
    assert not slot.room(more, LIMITS)


@given(st.lists(st.floats(1e-6, 0.003), max_size=30))
def test_what_is_given_ahead_stays_within_both_bounds(times: list[float]) -> None:
    slot = ready()
    for token, expected_s in enumerate(times):
        if slot.room(expected_s, LIMITS):
            slot.give(token, expected_s, 0.0)
    assert len(slot.given) <= LIMITS.give_max
    assert len(slot.given) < 2 or sum(slot.given.values()) <= LIMITS.give_s * (1 + 1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.001, 0.0005]), st.booleans()), max_size=40))
def test_the_sums_are_those_of_what_is_held(steps: list[tuple[int, float, bool]]) -> None:
    slot = ready()
    for token, expected_s, distrust in steps:
        if token in slot.given:
            slot.take(token)
        else:
            slot.give(token, expected_s, 0.0)
        if distrust:
            slot.distrust()
        assert slot.expected_s == pytest.approx(sum(slot.given.values()))
        assert slot.unknown == sum(1 for s in slot.given.values() if not s)
    slot.take(99)
    slot.clear()
    assert (slot.given, slot.expected_s, slot.unknown) == ({}, 0.0, 0)


def test_the_moment_moves_when_an_idle_worker_gets_work_and_not_when_it_gets_more() -> None:
    slot = ready()
    slot.give(1, 0.001, 5.0)
    slot.give(2, 0.001, 6.0)
    assert slot.moved_at == 5.0


def test_a_worker_that_was_distrusted_gets_nothing_more_until_it_is_idle() -> None:
    slot = ready()
    slot.give(1, 0.0001, 0.0)
    assert slot.room(0.0001, LIMITS)
    slot.distrust()
    assert not slot.room(0.0001, LIMITS)
    slot.take(1)
    assert slot.room(0.0001, LIMITS)


def test_slots_are_numbered_and_counted() -> None:
    slots = Slots(3)
    assert [s.number for s in slots] == [0, 1, 2] and len(slots) == 3
    slots[1].give(1, 0.0, 0.0)
    assert slots.busy == 1
