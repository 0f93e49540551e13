"""The host: what it drains, tells the actor and performs, on a clock of the test's own."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from cluster import host
from cluster.actor import Drained, Now, Stalled, Stop, Turn, WallClockJumped
from cluster.facts import Fact, fact
from cluster.host import DRAIN_LIMIT, Host, Lifeline, Mailbox


class Clock:
    def __init__(self) -> None:
        self.mono, self.wall = 100.0, 1_000.0

    def sleep(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds


class Script:
    """An actor that notes its turns and answers with what the test has put ready for each."""

    def __init__(self, *turns: Turn, due: float | None = 0.0) -> None:
        self.turns = list(turns)
        self.seen: list[list[Any]] = []
        self.due = due
        self.moments: list[Now] = []

    def turn(self, events: Sequence[Any], now: Now) -> Turn:
        self.seen.append(list(events))
        self.moments.append(now)
        return self.turns.pop(0) if self.turns else Turn(after_commit=[Stop("the play is over")])

    def deadline(self) -> float | None:
        return self.due


class Batches:
    """A source of given batches, one a drain; a batch may be a function that is called then."""

    def __init__(self, *batches: Any) -> None:
        self.batches = list(batches)
        self.limits: list[int] = []

    def pollables(self) -> list[int]:
        return []

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        self.limits.append(limit)
        batch = self.batches.pop(0) if self.batches else []
        if callable(batch):
            batch = batch() or []
        return list(batch), not self.batches


def run(actor: Script, *sources: Any, performers: dict[type, Any] | None = None, clock: Clock | None = None) -> Any:
    clock = clock or Clock()
    told: list[Fact] = []
    stop = Host(actor, sources, performers or {}, told.extend, clock=lambda: clock.mono, wall=lambda: clock.wall).run()
    return stop, told


def test_what_all_sources_have_is_one_turn_and_empty_ones_are_told_last() -> None:
    actor = Script()
    stop, _ = run(actor, Batches([1, 2]), Batches(["a"]))
    assert actor.seen == [[1, 2, "a", Drained()]]
    assert stop == Stop("the play is over")


def test_a_source_that_is_not_emptied_is_asked_again_and_nothing_is_called_drained() -> None:
    actor = Script(Turn())
    source = Batches([1], [2])
    run(actor, source, Batches(["a"]))
    assert actor.seen == [[1, "a"], [2, Drained()]]
    assert set(source.limits) == {DRAIN_LIMIT}


def test_effects_are_performed_in_order_and_their_events_come_next_turn() -> None:
    done: list[Any] = []

    def perform(effect: Any) -> Any:
        done.append(effect)
        return f"after {effect}" if effect != 2 else None

    actor = Script(Turn(at_once=[1], after_commit=[2, 3]))
    run(actor, Batches(), performers={int: perform})
    assert done == [1, 2, 3]
    assert actor.seen[1][:2] == ["after 1", "after 3"]


def test_facts_are_handed_on() -> None:
    told_one = fact("stalled", seconds=1.0)
    assert run(Script(Turn(facts=[told_one])), Batches())[1] == [told_one]


def test_a_stop_of_a_source_ends_it_after_its_turn() -> None:
    actor = Script(Turn(), Turn(), Turn())
    stop, _ = run(actor, Batches([1, Stop("told to stop", error=True)]))
    assert stop == Stop("told to stop", error=True) and len(actor.seen) == 1


def test_an_actor_with_rows_to_store_needs_another_host() -> None:
    with pytest.raises(AssertionError, match="no store"):
        run(Script(Turn(writes=[1])), Batches())


def test_a_stall_of_the_process_is_told_first() -> None:
    clock = Clock()
    actor = Script(Turn(), Turn())
    run(actor, Batches([0], [1], lambda: None), clock=clock)
    assert not any(isinstance(e, Stalled) for events in actor.seen for e in events)

    actor = Script(Turn())
    late = Batches(lambda: clock.sleep(7.0), [1])
    run(actor, late, clock=clock)
    assert actor.seen[0][0] == Stalled(7.0)


def test_a_jump_of_the_wall_clock_is_told_once() -> None:
    clock = Clock()

    def jump() -> None:
        clock.wall -= 3_600.0

    actor = Script(Turn(), Turn())
    run(actor, Batches(jump, [], []), clock=clock)
    jumps = [e for events in actor.seen for e in events if isinstance(e, WallClockJumped)]
    assert jumps == [WallClockJumped(-3_600.0)]


def test_the_actor_is_given_both_clocks() -> None:
    actor = Script()
    run(actor, Batches())
    assert actor.moments == [Now(100.0, 1_000.0)]


def test_a_mailbox_wakes_the_host_from_another_thread() -> None:
    mailbox = Mailbox()
    actor = Script(Turn(), due=None)
    stop: list[Stop] = []
    running = Host(actor, [mailbox], {}, lambda facts: None)
    thread = threading.Thread(target=lambda: stop.append(running.run()))
    thread.start()
    mailbox.put("news")
    mailbox.put(Stop("enough"))
    thread.join(10)
    assert not thread.is_alive() and running.turns >= 1 and running.thread_id
    assert "news" in [e for events in actor.seen for e in events]
    mailbox.close()


def test_a_mailbox_gives_no_more_than_asked_and_keeps_the_order() -> None:
    mailbox = Mailbox()
    for n in range(5):
        mailbox.put(n)
    assert mailbox.drain(3) == ([0, 1, 2], False)
    mailbox.put(5)
    assert mailbox.drain(9) == ([3, 4, 5], True)
    assert mailbox.drain(9) == ([], True)
    mailbox.close()


def test_a_lifeline_stops_when_the_parents_end_is_closed() -> None:
    theirs, ours = os.pipe()
    line = Lifeline(theirs)
    assert line.drain(1) == ([], True) and line.pollables() == [theirs]
    os.close(ours)
    assert line.drain(1) == ([Stop("the parent process is gone")], True)
    os.close(theirs)


def test_a_host_that_owns_the_collector_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[bool] = []

    class Watching(Script):
        def turn(self, events: Sequence[Any], now: Now) -> Turn:
            during.append(gc.isenabled())
            return super().turn(events, now)

    monkeypatch.setattr(host, "FULL_COLLECTION_S", 0.0)
    clock = Clock()
    actor = Watching(Turn(), Turn(), due=None)
    monkeypatch.setattr(host, "TICK_S", 0.001)
    Host(
        actor, [Batches()], {}, lambda facts: None, own_gc=True, clock=lambda: clock.mono, wall=lambda: clock.wall
    ).run()
    assert during == [False] * 3 and gc.isenabled()


def test_a_pause_in_the_middle_of_draining_is_told_in_that_very_turn_and_once() -> None:
    clock = Clock()
    actor = Script(Turn(), Turn())

    def stopped() -> list[Any]:
        clock.sleep(10.0)
        return ["heard before"]

    run(actor, Batches(stopped), clock=clock)
    assert actor.seen[0] == [Stalled(10.0), "heard before", Drained()]
    assert not any(isinstance(e, Stalled) for turn in actor.seen[1:] for e in turn)
