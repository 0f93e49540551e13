"""Who is silent is suspected, asked and given up; what is stuck, or owed for too long, is taken back."""

from __future__ import annotations

import pytest

from cluster.actor import Drained, Stalled, Unroutable
from cluster.config import CoordinatorLimits, Times
from cluster.messages import (
    Accepted,
    Assign,
    Results,
    Resync,
    Retract,
    Returned,
)
from tests.playbook import (
    CoordinatorPlay,
    known_run_time,
)


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def test_a_silent_node_gets_nothing_new_then_loses_its_leases(play: CoordinatorPlay) -> None:
    silent, client = play.node("n1"), play.client()
    client.submit()
    silent.gets(Assign, attempts=[1])
    client.gets_accepted(1)
    play.live(4, client)
    assert play.told("node_suspect")
    client.submit()
    client.gets_accepted(2)
    play.nothing_else()
    other = play.node("n2")
    second = other.gets(Assign, jobs=[client.job(2)]).tokens
    play.live(7, client, other)
    assert play.told("node_lost")[0].n == 1
    other.finishes(*second)
    client.gets(Results)
    other.gets(Assign, jobs=[client.job(1)], attempts=[2])
    play.nothing_else()


def test_a_suspect_that_is_heard_again_gets_work_again(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    play.live(4, client)
    client.submit()
    client.gets_accepted(1)
    play.nothing_else()
    node.beat()
    assert play.told("node_back")
    node.gets(Assign)
    play.nothing_else()


def test_a_closed_connection_ends_the_leases_sooner(play: CoordinatorPlay) -> None:
    node, other, client = play.node("n1"), play.node("n2"), play.client()
    play.turn(Unroutable(other.route))
    client.submit()
    node.gets(Assign)
    play.turn(Unroutable(node.route))
    client.gets_accepted(1)
    play.live(2, client)
    assert not play.told("node_lost")
    play.live(2, client)
    assert len(play.told("node_lost")) == 2
    play.nothing_else()


def test_a_reconnect_in_time_keeps_the_leases(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit()
    a = node.gets(Assign)
    play.turn(Unroutable(node.route))
    client.gets_accepted(1)
    play.live(2, client)
    node.joins((a.tokens[0], a.jobs[0], 1))
    node.finishes(*a.tokens)
    client.gets(Results)
    play.nothing_else()


def test_a_stall_of_our_own_moves_the_deadlines_of_others(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit()
    node.gets(Assign)
    client.gets_accepted(1)
    play.now = play.now._replace(mono=play.now.mono + 60)
    play.turn(Stalled(60.0), Drained())
    assert not play.told("node_lost") and not play.told("node_suspect")
    assert play.told("stalled")
    play.live(2, client)
    assert not play.told("node_suspect")
    play.live(9, client)
    assert play.told("node_lost")
    play.nothing_else()


def test_silence_is_not_judged_before_the_sockets_are_empty(play: CoordinatorPlay) -> None:
    play.node("n1")
    play.now = play.now._replace(mono=play.now.mono + 60)
    play.turn()
    assert not play.told("node_lost")
    play.turn(Drained())
    assert play.told("node_lost")
    play.nothing_else()


def test_what_lies_on_a_stuck_node_is_asked_back_for_an_idle_one(play: CoordinatorPlay) -> None:
    stuck = play.node("n1", slots=1)
    known_run_time(play, stuck, 1_000)
    client = play.client()
    client.submit(4)
    tokens = stuck.gets(Assign, jobs=4).tokens
    client.gets_accepted(4)
    idle = play.node("n2", slots=2)
    play.wait(0.3)
    stuck.gets(Retract, tokens=[tokens[3], tokens[2]])
    play.wait(0.3)
    play.nothing_else()
    stuck.say(Returned([tokens[3]], [tokens[2]]))
    idle.gets(Assign, jobs=[client.job(4)], attempts=[1])
    play.wait(0.3)
    stuck.gets(Retract, tokens=[tokens[1]])
    play.nothing_else()


def test_a_client_silent_for_too_long_is_forgotten_and_said_so_once() -> None:
    play = CoordinatorPlay(times=Times(session_s=30.0))
    node, client = play.node(), play.client()
    client.submit(2)
    node.finishes(*node.gets(Assign).tokens)
    node.gets(Assign)
    play.live(31, node)
    assert [f.about["reason"] for f in play.told("client_forgotten")] == ["silent for 30 s"]


def test_a_client_forgotten_while_its_jobs_went_on_is_not_told_it_was_resumed() -> None:
    play = CoordinatorPlay(times=Times(session_s=30.0))
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    a, _ = node.gets(Assign).tokens
    client.deaf = True
    node.finishes(a)
    play.live(31, node)
    client.dial()
    client.hello(accepted=2)  # the answer to this one is lost
    client.deaf = False
    welcome = client.joins(accepted=2)
    assert not welcome.resumed, "the first job's result is gone: the client would wait for it for ever"
    client.beat()
    assert client.joins(accepted=2).resumed
    play.nothing_else()


def test_the_longest_absent_client_is_forgotten_when_results_fill_the_memory() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_owed_bytes=1_000))
    node, away, here = play.node("n1", slots=2), play.client(), play.client()
    away.submit()
    here.submit()
    a, b = node.gets(Assign).tokens[0], node.gets(Assign).tokens[0]
    play.live(5, node, here)
    away.gets(Accepted), here.gets(Accepted)
    away.deaf = here.deaf = True
    node.finishes(a, b, payload=bytes(900))
    play.wait(0.5)
    reasons = [f.about for f in play.told("client_forgotten")]
    assert len(reasons) == 1 and reasons[0]["session"] == away.session.hex()
    assert "max_owed_bytes" in reasons[0]["reason"]


def test_who_speaks_and_does_not_acknowledge_is_asked_to_join_again(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    node.deaf = True
    client.submit()
    client.gets_accepted(1)
    for _ in range(5):
        play.wait(1.0)
        node.beat()
        client.beat()
    node.deaf = False
    play.wait(1.0)
    node.gets(Resync)
    play.nothing_else()
