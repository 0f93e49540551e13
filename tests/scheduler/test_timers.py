"""Moments: in order, no more at once than asked for, and by the wall clock, which may jump."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.actor import Drained, WallClockJumped
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Assign, Results
from scheduler import coordinator
from scheduler.timers import Kind, Timers
from tests.playbook import CoordinatorPlay


@given(st.lists(st.integers(0, 20)), st.integers(0, 20), st.integers(1, 5))
def test_what_is_due_comes_in_order_and_each_once(moments: list[int], wall: int, most: int) -> None:
    timers = Timers()
    for number, moment in enumerate(moments):
        timers.at(float(moment), Kind.DUE, number)
    assert timers.next == (min(moments) if moments else math.inf)
    got: list[Any] = []
    while some := timers.take(float(wall), most):
        assert len(some) <= most
        got += some
    assert [what for _, what in got] == sorted(
        (n for n, moment in enumerate(moments) if moment <= wall), key=lambda n: (moments[n], n)
    )
    assert timers.next > wall
    assert len(timers) == sum(moment > wall for moment in moments)


def test_what_means_nothing_any_more_is_swept_out() -> None:
    timers = Timers()
    for number in range(100):
        timers.at(float(100 - number), Kind.KEY if number % 2 else Kind.DUE, number)
    timers.sweep(lambda kind, what: kind is Kind.KEY and what > 50)
    assert [what for _, what in timers.take(1e9, 1_000)] == list(range(99, 50, -2))


# ------------------------------------------------------------------------------------ in the coordinator


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def jumps(play: CoordinatorPlay, seconds: float) -> None:
    play.now = play.now._replace(wall=play.now.wall + seconds)
    play.turn(WallClockJumped(seconds), Drained())


def test_a_clock_that_is_put_forward_makes_due_what_is_due_by_it_and_ends_no_duration(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=2), play.client()
    client.submit(about=About(at=play.now.wall + 3_600.0))
    client.submit(spec=Spec("f", False, b"f", rules=Rules(expires_s=60.0)), about=About(delay_s=7_200.0))
    client.gets_accepted(2)
    jumps(play, 3_600.0)
    node.gets(Assign, jobs=[client.job(1)])
    play.nothing_else()
    play.live(61, node, client)
    client.gets_failure(2, Outcome.EXPIRED)
    play.nothing_else()


def test_a_clock_that_is_put_back_makes_people_wait_for_what_it_says(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=2), play.client()
    client.submit(about=About(at=play.now.wall + 10.0))
    client.gets_accepted(1)
    jumps(play, -20.0)
    play.live(28, node, client)
    play.nothing_else()
    play.live(3, node, client)
    node.gets(Assign, jobs=[client.job(1)])
    play.nothing_else()


def test_thousands_that_are_due_together_are_made_ready_in_turns(
    play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "TIMERS_PER_TURN", 10)
    node, client = play.node(slots=100), play.client()
    client.submit(95, about=About(delay_s=5.0))
    client.gets_accepted(95)
    play.live(6, node, client)
    assert sum(len(message.jobs) for message in node.inbox if isinstance(message, Assign)) == 95
    assert len(node.inbox) > 5
    node.inbox.clear()
    play.nothing_else()


def test_timers_of_what_has_ended_are_forgotten(play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "TIMERS_PER_TURN", 10)
    node, client = play.node(slots=100), play.client()
    client.submit(100, spec=Spec("f", False, b"f", rules=Rules(expires_s=86_400.0)))
    node.finishes(*node.gets(Assign, jobs=100).tokens)
    assert sum(len(m.counters) for m in client.inbox if isinstance(m, Results)) == 100
    client.inbox.clear()
    play.live(1, node, client)
    assert len(play.coordinator._timers) == 0
    play.nothing_else()


def test_a_moment_does_not_keep_the_coordinator_awake(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(about=About(delay_s=3_600.0))
    client.gets_accepted(1)
    due = play.coordinator.deadline()
    assert due is not None and due > play.now.mono
    play.nothing_else()
