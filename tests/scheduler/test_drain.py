"""Nodes that are drained by people's order: nothing new goes there, what runs goes on, and it stays so."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.actor import WallClockJumped
from cluster.jobs import Outcome, Rules, Spec
from cluster.messages import Answer, Ask, Assign, Discard, Draining, Retract, Returned, Started, Waiting
from tests.playbook import CoordinatorPlay, FakeClient, FakeNode

SHORT = Spec("short", False, b"f")


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def state(play: CoordinatorPlay, client: FakeClient, name: str = "n1") -> str:
    rows: list[dict[str, str]] = play.asks(client, "nodes")["nodes"]
    return next(row["state"] for row in rows if row["name"] == name)


def busy(play: CoordinatorPlay, spec: Spec = SHORT) -> tuple[FakeNode, FakeClient, int]:
    """A node, where a job runs; its token."""
    node, client = play.node("n1"), play.client()
    client.submit(spec=spec)
    client.gets_accepted(1)
    return node, client, node.runs(client.job(1))


def test_a_drained_node_is_given_nothing_new_until_it_is_undrained(play: CoordinatorPlay) -> None:
    node, client, token = busy(play)
    assert play.asks(client, "drain", node="n1")["node"]["state"] == "draining"
    client.submit()
    client.gets_accepted(2)
    node.finishes(token)
    client.gets_results(1)
    assert state(play, client) == "drained"
    assert "drained, until cluster undrain n1" in play.why(client, 2)[0]
    play.nothing_else()
    assert play.asks(client, "undrain", node="n1")["node"]["state"] == "up"
    node.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


def test_clients_are_told_why_their_jobs_wait(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    play.asks(client, "drain", node="n1")
    client.submit()
    client.gets_accepted(1)
    play.live(6, node, client)
    reason = client.gets(Waiting, jobs=1).reason
    assert reason == "a node that takes work: of 1 node, 1 could take them (n1: drained, until cluster undrain n1)"
    play.nothing_else()


def test_what_has_not_started_there_goes_elsewhere(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    client.gets_accepted(2)
    assign = node.gets(Assign)
    node.say(Started(assign.tokens[:1]))
    other = play.node("n2", slots=2)
    play.asks(client, "drain", node="n1")
    node.gets(Retract, tokens=assign.tokens[1:])
    node.say(Returned(assign.tokens[1:], []))
    other.gets(Assign, jobs=assign.jobs[1:], attempts=[1])
    play.nothing_else()


@pytest.mark.parametrize("who", ["node", "coordinator"])
def test_it_stays_drained_over_restarts(play: CoordinatorPlay, who: str) -> None:
    node, client = play.node("n1"), play.client()
    play.asks(client, "drain", node="n1")
    if who == "node":
        node = play.node("n1", incarnation=2, previous=node.session, lock="lock-n1")
    else:
        play.restart()
        node.joins()
        client.joins()
    client.submit()
    client.gets_accepted(1)
    play.nothing_else()
    assert state(play, client) == "drained"
    play.asks(client, "undrain", node="n1")
    node.gets(Assign)
    play.nothing_else()
    if who == "coordinator":
        play.restart()
        assert not play.coordinator._roster.barred


def test_after_its_time_what_runs_runs_again_elsewhere_and_costs_no_budget(play: CoordinatorPlay) -> None:
    node, client, token = busy(play, Spec("f", False, b"f", rules=Rules(crash_retries=0)))
    play.asks(client, "drain", node="n1", timeout_s=5.0)
    other = play.node("n2")
    play.live(4, node, other, client)
    play.nothing_else()
    play.live(2, node, other, client)
    node.gets(Discard, tokens=[token])
    other.gets(Assign, attempts=[2])
    [tried] = play.story_of(client, 1)["attempts"]
    assert tried["error"] == "node n1 was drained, and its time was over"
    assert state(play, client) == "drained"
    node.finishes(token)  # it crossed the word
    node.gets(Discard, tokens=[token])
    play.nothing_else()


def test_what_must_not_start_twice_is_waited_for(play: CoordinatorPlay) -> None:
    node, client, token = busy(play, Spec("pay", False, b"f", rules=Rules(at_most_once=True)))
    play.asks(client, "drain", node="n1", timeout_s=0)
    other = play.node("n2")
    play.live(3, node, other, client)
    play.nothing_else()
    assert state(play, client) == "draining"
    node.finishes(token)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_the_time_to_drain_is_a_duration_whatever_the_wall_clock_does(play: CoordinatorPlay) -> None:
    node, client, _ = busy(play)
    play.asks(client, "drain", node="n1", timeout_s=5.0)
    play.now = play.now._replace(wall=play.now.wall + 3_600)
    play.turn(WallClockJumped(3_600.0))
    play.live(3, node, client)
    play.nothing_else()
    play.live(3, node, client)
    node.gets(Discard)


def test_the_time_to_drain_is_kept_over_a_restart(play: CoordinatorPlay) -> None:
    node, client, token = busy(play)
    play.asks(client, "drain", node="n1", timeout_s=5.0)
    play.restart()
    node.joins((token, client.job(1), 1))
    node.gets(Retract)  # nobody knows any more that it runs
    node.say(Returned([], [token]))
    client.joins(accepted=1)
    play.live(4, node, client)
    play.nothing_else()
    play.live(2, node, client)
    node.gets(Discard, tokens=[token])
    play.nothing_else()


def drained(play: CoordinatorPlay, client: FakeClient) -> dict[str, Any]:
    """What somebody is told who waits."""
    body: dict[str, Any] = client.gets(Answer, ask=5, error="").body
    return body


def test_whoever_waits_is_told_when_nothing_runs_there_any_more(play: CoordinatorPlay) -> None:
    node, client, token = busy(play)
    play.asks(client, "drain", node="n1")
    client.say(Ask(5, "drained", {"node": "n1"}))
    play.live(3, node, client)
    play.nothing_else()
    node.finishes(token)
    assert drained(play, client) == {"held": 0, "barred": True}
    client.gets_results(1)
    play.nothing_else()


def test_whoever_waits_long_asks_again_and_hears_of_an_undrain(play: CoordinatorPlay) -> None:
    node, client, _ = busy(play)
    play.asks(client, "drain", node="n1")
    client.say(Ask(5, "drained", {"node": "n1"}))
    play.live(11, node, client)
    assert drained(play, client) == {"held": 1, "barred": True}
    client.say(Ask(5, "drained", {"node": "n1"}))
    play.asks(client, "undrain", node="n1")
    assert drained(play, client) == {"held": 1, "barred": False}
    client.say(Ask(5, "drained", {"node": "gone"}))
    assert drained(play, client) == {"held": 0, "barred": False}
    play.nothing_else()


def test_orders_about_nodes_that_are_none_say_so(play: CoordinatorPlay) -> None:
    _, client = play.node("n1"), play.client()
    assert "no node is called 'n2'; there are n1" in play.is_refused(client, "drain", node="n2")
    assert "no node is called" in play.is_refused(client, "undrain", node=5)
    assert "timeout_s is 0 to" in play.is_refused(client, "drain", node="n1", timeout_s=-1)
    assert "node is a name" in play.is_refused(client, "drained", node=5)
    assert play.asks(client, "undrain", node="n1")["node"]["state"] == "up"
    play.nothing_else()


def test_a_node_that_leaves_by_itself_is_no_drained_one_when_it_is_back(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    node.say(Draining("told to stop"))
    assert state(play, client) == "draining"
    client.submit()
    client.gets_accepted(1)
    assert "n1: about to leave" in play.why(client, 1)[0]
    fresh = play.node("n1", incarnation=2, previous=node.session, lock="lock-n1")
    fresh.gets(Assign)
    play.nothing_else()
