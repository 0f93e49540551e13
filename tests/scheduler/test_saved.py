"""What a job saves for its next attempt, and what it may know of itself."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from cluster.config import CoordinatorLimits
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Assign, Discard, GoOn, Hold, Saved
from tests.playbook import SPEC, CoordinatorPlay


def told(assign: Assign) -> dict[int, dict[str, Any]]:
    """What each job of the message may know of itself."""
    return {row: msgpack.unpackb(raw) for row, raw in assign.about}


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_what_an_attempt_has_saved_last_goes_with_the_next_one(
    play: CoordinatorPlay, restart: bool, durable: bool
) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=Spec("f", False, b"f", durable=durable))
    client.gets_accepted(1)
    assign = node.gets(Assign)
    assert told(assign) == {}
    node.say(Saved(assign.tokens, [b"one"]))
    node.say(Saved(assign.tokens, [b"two"]))
    assert play.story_of(client, 1)["saved_bytes"] == 3
    if restart and durable:
        play.restart()
        node.joins((assign.tokens[0], client.job(1), 1))
        client.joins(accepted=1)
    node.crashes(assign.tokens[0])
    again = node.gets(Assign, attempts=[2])
    assert told(again) == {0: {"saved": b"two"}}
    node.finishes(again.tokens[0])
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()
    play.nothing_kept()


def test_a_node_that_does_not_come_back_takes_nothing_with_it(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    client.gets_accepted(1)
    node.say(Saved(node.gets(Assign).tokens, [b"far"]))
    play.restart()
    other = play.node("n2")
    client.joins(accepted=1)
    play.live(11, other, client)
    assert told(other.gets(Assign, attempts=[2])) == {0: {"saved": b"far"}}
    play.nothing_else()


def test_a_superseded_attempt_saves_nothing_any_more(play: CoordinatorPlay) -> None:
    slow, client = play.node("n1"), play.client()
    client.submit()
    client.gets_accepted(1)
    first = slow.gets(Assign)
    slow.say(Saved(first.tokens, [b"first"]))
    other = play.node("n2")
    play.live(11, other, client)
    second = other.gets(Assign)
    other.say(Saved(second.tokens, [b"second"]))
    slow.joins((first.tokens[0], client.job(1), 1))
    slow.gets(Discard, tokens=first.tokens)
    slow.say(Saved(first.tokens, [b"late"]))
    other.crashes(second.tokens[0])
    third = (other if other.inbox else slow).gets(Assign)
    assert told(third) == {0: {"saved": b"second"}}
    play.nothing_else()


def test_what_has_saved_something_has_begun(play: CoordinatorPlay) -> None:
    """Where its node has lost it, nobody may say that it never started."""
    node, client = play.node(), play.client()
    client.submit(spec=Spec("pay", False, b"f", rules=Rules(at_most_once=True)))
    client.gets_accepted(1)
    node.say(Saved(node.gets(Assign).tokens, [b"paid"]))
    assert play.story_of(client, 1)["state"] == "running"
    node.joins()
    client.gets_failure(1, Outcome.LOST)
    play.nothing_else()


def test_what_is_saved_takes_room_until_its_job_has_ended() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(payload_memory_bytes=1_000))
    node, client = play.node(), play.client()
    client.submit()
    client.gets_accepted(1)
    token = node.gets(Assign).tokens[0]
    node.say(Saved([token], [bytes(900)]))
    node.say(Saved([token], [bytes(1_001)]))
    client.submit()
    held = client.gets(Hold, through=1)
    assert "saved states" in held.reason
    node.finishes(token)
    client.gets(GoOn)
    client.gets_results(1)
    assert (play.coordinator._admission.bytes, play.coordinator._admission.volatile_bytes) == (0, 0)
    play.nothing_else()


def test_a_restart_counts_what_is_saved_as_before(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(payload=b"12345")
    client.gets_accepted(1)
    assign = node.gets(Assign)
    node.say(Saved(assign.tokens, [b"123"]))
    before = play.coordinator._admission
    assert (before.bytes, before.volatile_bytes) == (8, 3)
    play.restart()
    after = play.coordinator._admission
    assert (after.bytes, after.volatile_bytes) == (8, 3)
    node.joins((assign.tokens[0], client.job(1), 1))
    client.joins(accepted=1)
    node.finishes(assign.tokens[0])
    client.gets_results(1)
    play.nothing_else()
    play.nothing_kept()


def test_a_job_is_told_its_key_tags_and_queue_and_a_usual_one_nothing(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    tagged = Spec("f", False, b"f", rules=Rules(tags=("a", "b"), queue="mail"))
    client.submit(spec=tagged, about=About(key="order-17"))
    assert told(node.gets(Assign)) == {0: {"tags": ["a", "b"], "queue": "mail", "key": "order-17"}}
    client.submit(2, spec=SPEC)
    assert told(node.gets(Assign)) == {}
    client.gets_accepted(3)
    play.nothing_else()
