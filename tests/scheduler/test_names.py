"""Plays of two processes that claim one name: lives of one node, namesakes, and copies of a directory."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.actor import Received, Stalled, Unroutable
from cluster.messages import Assign, Heartbeat, Refusal, Results, Resync, Retract, Welcome
from scheduler import names
from tests.playbook import CoordinatorPlay, FakeNode


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def claims(play: CoordinatorPlay, **about: Any) -> FakeNode:
    """Another process says hello as ``n1``, and has no answer yet."""
    known: dict[str, Any] = {"host": "b", "pid": 2, "lock": "its own"}
    rival = play.new_node("n1", **known | about)
    rival.dial()
    rival.hello()
    return rival


def is_refused(rival: FakeNode, holder: FakeNode) -> str:
    """The holder proves alive, and the rival's next hello has its answer."""
    holder.gets(Retract, tokens=[])
    rival.hello()
    rival.gets_nothing()
    holder.beat()
    rival.hello()
    return rival.gets(Refusal, code="name").text


def test_a_namesake_of_a_living_node_is_refused_in_words_that_name_both(play: CoordinatorPlay) -> None:
    holder = play.node("n1", host="a", pid=1)
    text = is_refused(claims(play, incarnation=5), holder)
    assert "host a, process 1" in text and "host b, process 2" in text and "--name" in text
    assert "copy" not in text
    assert play.told("peer_refused") and not play.told("name_contested")
    play.nothing_else()


@pytest.mark.parametrize("copied", ["while it ran", "before it started", "before the life before it"])
def test_a_copied_directory_is_called_one(play: CoordinatorPlay, copied: str) -> None:
    holder = play.node("n1", previous=b"earlier-", incarnation=5)
    known = {"while it ran": holder.session, "before it started": b"earlier-"}.get(copied, b"ancient-")
    text = is_refused(claims(play, previous=known, incarnation=6), holder)
    assert ("directory" in text and "copy" in text and "remove" in text) == (copied != "before the life before it")
    play.nothing_else()


def test_an_original_whose_name_its_copy_has_taken_is_told_so(play: CoordinatorPlay) -> None:
    original = play.node("n1", incarnation=5)
    play.live(11)
    copy = claims(play, previous=original.session, incarnation=6)
    copy.gets(Welcome)
    original.hello()
    assert "copy" in is_refused(original, copy)
    play.nothing_else()


def test_a_later_life_in_the_same_directory_takes_over_at_once(play: CoordinatorPlay) -> None:
    old, client = play.node("n1"), play.client()
    client.submit()
    old.gets(Assign)
    new = play.node("n1", incarnation=2, previous=old.session)
    new.gets(Assign, attempts=[2])
    assert play.told("node_lost")[0].about["session"] == old.session.hex()
    client.gets_accepted(1)
    play.nothing_else()


def test_a_life_between_them_that_nobody_heard_of_makes_no_difference(play: CoordinatorPlay) -> None:
    play.node("n1", incarnation=1)
    play.node("n1", incarnation=3, previous=b"unheard-")
    play.nothing_else()


def test_a_late_hello_of_an_earlier_life_deposes_nobody(play: CoordinatorPlay) -> None:
    old = play.node("n1", incarnation=1)
    new = play.node("n1", incarnation=2, previous=old.session)
    assert play.told("node_lost")
    client = play.client()
    client.submit()
    token = new.gets(Assign).tokens[0]
    old.dial()
    old.hello()
    new.gets(Retract, tokens=[])
    new.finishes(token)
    client.gets(Results)
    assert not play.told("node_lost")
    play.nothing_else()


def test_a_copy_of_a_running_nodes_directory_does_not_depose_it(play: CoordinatorPlay) -> None:
    """It names the running life as the one before its own, as a later life would; only the lock tells them apart."""
    holder = play.node("n1", incarnation=5, lock="boot 1:1")
    is_refused(claims(play, previous=holder.session, incarnation=6, lock="boot 1:2"), holder)
    assert not play.told("node_lost")
    play.nothing_else()


def test_locks_without_a_name_prove_nothing(play: CoordinatorPlay) -> None:
    holder = play.node("n1", incarnation=5, lock="")
    is_refused(claims(play, previous=holder.session, incarnation=6, lock=""), holder)
    play.nothing_else()


def test_a_word_said_before_the_claim_does_not_show_the_holder_alive(play: CoordinatorPlay) -> None:
    holder = play.node("n1")
    rival = claims(play)
    play.live(0.1)
    late = holder.link.header()._replace(ack=0)
    holder.gets(Retract)
    play.turn(Received(holder.route, holder.identity, late, Heartbeat({})))
    rival.hello()
    play.nothing_else()


def test_the_claim_to_a_silent_nodes_name_waits_until_it_is_given_up(play: CoordinatorPlay) -> None:
    holder, client = play.node("n1", slots=2), play.client()
    client.submit()
    holder.gets(Assign)
    client.gets_accepted(1)
    rival = claims(play)
    holder.gets(Retract)
    for _ in range(9):
        play.live(1, client)
        rival.hello()
        rival.gets_nothing()
    (told,) = play.told("name_contested")
    assert "host b, process 2" in told.text and "host host-n1, process 100" in told.text and "silent" in told.text
    play.live(2, client)
    assert play.told("node_lost")
    rival.hello()
    rival.gets(Welcome)
    rival.gets(Assign, attempts=[2])
    play.nothing_else()


def test_a_claim_while_the_holders_connection_is_closed_waits_for_its_return_or_its_end(play: CoordinatorPlay) -> None:
    holder = play.node("n1")
    play.turn(Unroutable(holder.route))
    rival = claims(play)
    assert play.told("name_contested")
    rival.gets_nothing()
    holder.joins()
    rival.hello()
    is_refused(rival, holder)
    play.turn(Unroutable(holder.route))
    second = claims(play)
    play.live(4)
    assert play.told("node_lost")
    second.hello()
    second.gets(Welcome)
    play.nothing_else()


def test_a_holder_that_joined_again_is_asked_again(play: CoordinatorPlay) -> None:
    holder = play.node("n1")
    rival = claims(play)
    holder.gets(Retract)
    holder.joins()
    rival.hello()
    is_refused(rival, holder)
    play.nothing_else()


def test_a_stall_of_our_own_is_no_sign_of_the_holders_life(play: CoordinatorPlay) -> None:
    holder = play.node("n1")
    rival = claims(play)
    holder.gets(Retract)
    play.now = play.now._replace(mono=play.now.mono + 60)
    play.turn(Stalled(60.0))
    rival.hello()
    play.nothing_else()


def test_claims_are_bounded(play: CoordinatorPlay) -> None:
    holder = play.node("n1")
    rivals = [claims(play) for _ in range(names.MAX_CLAIMS + 1)]
    node = play.coordinator._roster.get("n1")
    assert node is not None and len(node.claims) == names.MAX_CLAIMS
    for _ in rivals:
        holder.gets(Retract)
    holder.beat()
    rivals[-1].hello()
    rivals[-1].gets(Refusal)
    play.nothing_else()


def test_whose_name_was_taken_is_refused_at_its_next_word(play: CoordinatorPlay) -> None:
    original = play.node("n1")
    play.live(11)
    other = claims(play)
    other.gets(Welcome)
    original.beat()
    original.gets(Resync)
    original.hello()
    is_refused(original, other)
    play.nothing_else()


def test_two_namesakes_that_come_together_are_one_node_and_one_refusal(play: CoordinatorPlay) -> None:
    with play.one_turn():
        first = claims(play, host="a")
        second = claims(play, host="b")
    first.gets(Welcome)
    is_refused(second, first)
    play.nothing_else()
