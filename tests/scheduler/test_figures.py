"""The books in figures: what a turn did, by queue and function, and once a second how things stand."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.facts import Fact
from cluster.jobs import End, Failure, Rules, Spec
from cluster.messages import Assign, Finished, Heartbeat, Results
from tests.playbook import CoordinatorPlay, FakeNode


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def spec(name: str, queue: str, **rules: Any) -> Spec:
    return Spec(name, False, name.encode(), rules=Rules(queue=queue, **rules))


def finishes(node: FakeNode, tokens: list[int], *ends: End, run_us: int = 1_000) -> None:
    payloads = [b"" if end == End.SUCCEEDED else Failure("ValueError", "no").encode() for end in ends]
    node.say(Finished(tokens, [int(end) for end in ends], payloads, [], [run_us] * len(ends), [1] * len(ends)))


def last(play: CoordinatorPlay, kind: str) -> Fact:
    return play.told(kind)[-1]


def test_jobs_are_told_by_queue_and_function(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=10), play.client()
    with play.one_turn():
        client.submit(3, spec("m:f", "a"))
        client.submit(2, spec("m:g", "b"))
    assert sorted(row for fact in play.told("jobs_accepted") for row in fact.about["queues"]) == [("a", 3), ("b", 2)]
    (assigned,) = play.told("jobs_assigned")
    assert sorted(assigned.about["waits"]) == [("a", [0.0] * 3), ("b", [0.0] * 2)]
    play.live(2.0, node, client)
    order = node.gets(Assign)
    of_g = next(row for row, index in enumerate(order.spec_of) if b"m:g" in order.specs[index])
    ends = [End.RAISED if row == of_g else End.SUCCEEDED for row in range(5)]
    finishes(node, order.tokens, *ends)
    ended = {fact.about["outcome"]: fact for fact in play.told("jobs_finished")}
    rows = sorted((queue, function, len(s)) for queue, function, s in ended["succeeded"].about["rows"])
    assert rows == [("a", "m:f", 3), ("b", "m:g", 1)]
    ((queue, function, lasted),) = ended["failed"].about["rows"]
    assert (queue, function) == ("b", "m:g") and lasted == [pytest.approx(2.0, abs=0.1)]
    assert dict(last(play, "attempts_ended").about["ran"]) == {"m:f": [1_000] * 3, "m:g": [1_000] * 2}


def test_a_job_that_waits_is_told_with_how_long(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(1)
    play.live(3.0, client)
    play.node("n1")
    (assigned,) = play.told("jobs_assigned")
    ((queue, waits),) = assigned.about["waits"]
    assert queue == "default" and waits == [pytest.approx(3.0, abs=0.1)]


def test_jobs_that_are_not_taken_are_told_by_the_kind_of_their_error(play: CoordinatorPlay) -> None:
    client = play.client()
    client.say(client.submission(2, spec("m:f", "a", at_most_once=True)))
    (refused,) = play.told("jobs_refused")
    assert (refused.n, refused.about["reason"]) == (2, "JobRefused")
    (ended,) = play.told("jobs_finished")
    assert (ended.n, ended.about["rows"]) == (2, []), "they were no jobs"
    client.gets(Results)


def test_once_a_second_the_books_are_told(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(5, spec("m:f", "a"))
    play.coordinator._queues.named("b").settings.paused = True
    client.submit(3, spec("m:f", "b"))
    play.live(1.5, node, client)
    fact = last(play, "measured")
    queues = {row["name"]: row for row in fact.about["queues"]}
    a, b = queues["a"], queues["b"]
    assert (a["leased"], a["ready"], a["scheduled"], a["paused"]) == (2, 3, 0, False)
    assert (b["leased"], b["ready"], b["scheduled"], b["paused"]) == (0, 3, 0, True)
    assert a["oldest"] == pytest.approx(play.now.wall - 1.5, abs=0.6)
    assert fact.about["figures"]["sessions"] == 1
    (row,) = fact.about["nodes"]
    assert (row["name"], row["state"], row["slots"], row["slots_busy"], row["queued_attempts"]) == ("n1", "up", 2, 2, 0)
    play.told("measured")
    play.live(10.0, node, client)
    assert 8 <= len(play.told("measured")) <= 11


def test_what_a_node_measures_is_told_with_the_offset_of_its_clock(play: CoordinatorPlay) -> None:
    node = play.node("n1")
    node.say(Heartbeat({"cpu_ratio": 0.5, "wall_s": play.now.wall - 2.0}))
    play.wait(1.2)
    (row,) = last(play, "measured").about["nodes"]
    assert row["vitals"]["cpu_ratio"] == 0.5 and row["clock_offset_s"] == pytest.approx(-2.0)
    node.say(Heartbeat({"wall_s": None}))
    play.wait(1.2)
    (row,) = last(play, "measured").about["nodes"]
    assert row["clock_offset_s"] is None
