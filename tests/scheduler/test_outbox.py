"""What a turn sends to whom: results, acceptance and acknowledgements, in few messages."""

from __future__ import annotations

import pytest

from cluster.config import MAX_BATCH, CoordinatorLimits
from cluster.messages import (
    Accepted,
    Assign,
    NotCancelled,
    Results,
    Started,
)
from tests.playbook import (
    CoordinatorPlay,
)


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def test_acceptance_rides_with_results_if_they_come_soon(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    node.finishes(*node.gets(Assign).tokens)
    client.gets(Results, through=1)
    play.live(2, node, client)
    play.nothing_else()


def test_many_jobs_are_told_accepted_at_once(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(1_000)
    client.gets(Accepted, through=1_000)
    play.nothing_else()


def test_a_new_link_leaves_no_word_of_acceptance_due(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit()
    client.joins(accepted=0)
    client.cancel(99)
    client.gets(NotCancelled)
    play.wait(1.0)
    play.nothing_else()


def test_a_pulse_is_answered_at_once_and_an_acknowledgement_soon(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.beat()
    node.beat()
    assert (client.pulses, node.pulses) == (1, 1)
    node.say(Started([1]))
    play.wait(0.05)
    assert node.pulses == 2
    play.nothing_else()


def test_results_are_owed_until_acknowledged_over_links(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    a, b = node.gets(Assign).tokens
    node.finishes(a)
    client.gets_results(1)
    client.beat()  # acknowledges the first
    client.deaf = True
    node.finishes(b)
    client.deaf = False
    client.joins(accepted=2)
    client.gets_results(2)
    client.beat()
    client.joins(accepted=2)
    play.nothing_else()


def test_results_in_flight_are_bounded() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(results_in_flight=2))
    node, client = play.node("n1", slots=4), play.client()
    client.submit(4)
    for token in node.gets(Assign).tokens:
        node.finishes(token)
    client.gets_results(1)
    client.gets_results(2)
    play.nothing_else()
    client.beat()
    client.gets_results(3, 4)
    play.nothing_else()


def test_more_than_a_batch_is_told_in_several_messages() -> None:
    play = CoordinatorPlay()
    node, client = play.node("n1", slots=12_000), play.client()
    for _ in range(3):
        client.submit(4_000)
    while client.inbox:
        client.gets(Accepted)
    tokens: list[int] = []
    while node.inbox:
        a = node.gets(Assign)
        assert len(a.tokens) <= MAX_BATCH
        tokens += a.tokens
    assert len(tokens) == 12_000
    with play.one_turn():
        for i in range(0, 12_000, 4_000):
            node.finishes(*tokens[i : i + 4_000], payload=b"")
    assert sum(len(client.gets(Results).counters) for _ in range(len(client.inbox))) == 12_000
    play.nothing_else()
