"""Why a job does not run: one sentence for each thing in its way, for each state it can be in."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import CoordinatorLimits
from cluster.ids import format_job
from cluster.jobs import About, Rules, Spec
from cluster.messages import Assign, Started, Waiting
from tests.playbook import CoordinatorPlay


def spec(labels: tuple[tuple[str, str], ...] = (), **rules: Any) -> Spec:
    return Spec("app:task", False, b"pickled reference", labels=labels, rules=Rules(**rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True, limits=CoordinatorLimits(prefill_max=0))


def test_no_node_and_no_node_that_fits(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=spec((("gpu", "a100"),)))
    client.gets_accepted(1)
    assert play.why(client, 1) == ["it waits for a node: none has joined"]
    play.node("n1", labels={"gpu": "h100"})
    [why] = play.why(client, 1)
    assert why == "it waits for a node with label gpu=a100; of 1 node none has it (n1: gpu=h100)"
    play.node("n2", labels={"gpu": "a100"}, queues=["mail"])
    [why] = play.why(client, 1)
    assert why.startswith("it waits for a node that serves queue default; of 2 nodes none does that could take them")
    play.nothing_else()


def test_a_node_that_is_silent(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=1), play.client()
    client.submit(2)
    node.gets(Assign, jobs=1)
    client.gets_accepted(2)
    play.live(5, client)
    assert "given up after its lease" in play.why(client, 1)[0]
    assert play.why(client, 2) == [
        "it waits for a node that is heard: of 1 node, 1 could take them (n1: silent for 5 s)"
    ]
    node.inbox.clear()
    client.inbox.clear()


def test_all_slots_are_taken(play: CoordinatorPlay) -> None:
    one, two, client = play.node("n1", slots=2), play.node("n2", slots=1), play.client()
    client.submit(5)
    client.gets_accepted(5)
    assert play.why(client, 5) == ["all 3 slots of the 2 nodes that fit are taken; 2 wait in its queue"]
    one.inbox.clear()
    two.inbox.clear()
    play.nothing_else()


def test_a_paused_queue_says_by_what_it_goes_on(play: CoordinatorPlay) -> None:
    _node, client = play.node("n1"), play.client()
    play.asks(client, "queue", name="mail", set={"paused": True})
    client.submit(spec=spec(queue="mail"))
    client.gets_accepted(1)
    assert play.why(client, 1) == ["queue mail is paused: cluster queue resume mail"]
    play.nothing_else()


def test_a_capped_queue_names_its_cap(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4), play.client()
    play.asks(client, "queue", name="all", set={"max_running": 1})
    play.asks(client, "queue", name="each", set={"max_per_node": 1})
    client.submit(2, spec=spec(queue="all"))
    client.submit(2, spec=spec(queue="each"))
    node.inbox.clear()
    client.gets_accepted(4)
    assert play.why(client, 2) == ["queue all runs 1 attempts, and may run 1 (max_running)"]
    assert play.why(client, 4) == ["each node that fits runs 1 of queue each already (max_per_node)"]
    play.nothing_else()


def test_a_moment_is_told_with_what_put_it_off(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(about=About(delay_s=60.0))
    client.submit(spec=spec(retries=1, retry_delay_s=30.0, jitter=0.0))
    node.raises(node.gets(Assign).tokens[0], text="503")
    client.gets_accepted(2)
    play.live(9, node, client)
    assert play.why(client, 1) == ["it is not due for another 51 s, as it was handed in"]
    assert play.why(client, 2) == ["it is not due for another 21 s, after attempt 1 (ValueError: 503)"]
    play.nothing_else()


@pytest.mark.parametrize(
    ("count", "said"), [(1, "after 1 job that has not ended: "), (5, "after 5 jobs that have not ended: ")]
)
def test_parents_are_named_as_far_as_there_is_room(play: CoordinatorPlay, count: int, said: str) -> None:
    _node, client = play.node("n1"), play.client()
    client.submit(count, about=About(delay_s=600.0))
    client.submit(about=About(after=tuple(client.job(n) for n in range(1, count + 1))))
    client.gets_accepted(count + 1)
    [why] = play.why(client, count + 1)
    assert why.startswith(f"it runs {said}")
    assert format_job(client.job(1)) in why
    assert ("and 2 more" in why) is (count == 5)
    play.nothing_else()


def test_what_runs_and_what_is_over_say_so(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    assert play.why(client, 1) == ["it was placed on node n1, which has not said yet that it runs"]
    node.say(Started([token]))
    assert play.why(client, 1) == ["it runs on node n1, attempt 1"]
    node.raises(token)
    client.gets_failure(1)
    assert play.why(client, 1) == ["it is over: failed"]
    play.nothing_else()


def test_where_no_node_is_contained_explain_and_the_client_s_log_say_so() -> None:
    play = CoordinatorPlay()
    node, client = play.node("n1"), play.client()
    client.submit(spec=Spec("f", False, b"f", labels=(("isolation", "contained"),)))
    client.gets_accepted(1)
    wanted = "a node with label isolation=contained; of 1 node none has it (n1: no labels)"
    assert play.why(client, 1) == [f"it waits for {wanted}"]
    play.live(6, node, client)
    assert client.gets(Waiting).reason == wanted
    contained = play.node("n2", labels={"isolation": "contained"})
    contained.gets(Assign)
    play.nothing_else()
