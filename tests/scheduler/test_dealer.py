"""Ready jobs are dealt out: to whom, how far ahead, in what messages."""

from __future__ import annotations

import pytest

from cluster.jobs import Spec
from cluster.messages import (
    Assign,
    Results,
    Returned,
    Submit,
)
from tests.playbook import (
    SPEC,
    CoordinatorPlay,
    known_run_time,
    sha_of,
)

OTHER = Spec("app:other", False, b"other reference")


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def test_one_function_is_described_once_a_message(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4), play.client()
    client.say(Submit(1, [SPEC.encode(), OTHER.encode()], [0, 1, 0], [b"a", b"b", b"c"], [], [], [""] * 3, []))
    node.gets(Assign, specs=2, spec_of=[0, 1, 0], payloads=[b"a", b"b", b"c"])
    client.gets_accepted(3)
    play.nothing_else()


def test_code_by_value_is_sent_once_a_link(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4), play.client()
    code = b"pickled function"
    by_value = Spec("app:f", True, sha_of(code), len(code))
    client.submit(1, by_value, code=[code])
    node.gets(Assign, code=[[sha_of(code), code]])
    client.submit(1, by_value)
    held = node.gets(Assign, code=[])
    client.gets_accepted(2)
    node.joins((held.tokens[0], held.jobs[0], 1))
    node.gets(Assign, code=[[sha_of(code), code]])
    play.nothing_else()


def test_the_order_is_that_of_acceptance_also_after_a_return(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(4)
    tokens = node.gets(Assign, jobs=2).tokens
    client.gets_accepted(4)
    with play.one_turn():
        node.say(Returned(tokens, []))
    node.gets(Assign, jobs=[client.job(1), client.job(2)], attempts=[1, 1])
    play.nothing_else()


def test_nothing_is_placed_ahead_before_a_run_time_was_observed(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(100)
    first = node.gets(Assign, jobs=2).tokens
    client.gets_accepted(100)
    play.nothing_else()
    node.finishes(first[0], run_us=1_000)
    node.gets(Assign, jobs=1 + 2 * 5)
    client.gets(Results)
    play.nothing_else()


def test_long_jobs_are_never_placed_ahead(play: CoordinatorPlay) -> None:
    node = play.node("n1", slots=2)
    known_run_time(play, node, 6_000)
    client = play.client()
    client.submit(10)
    node.gets(Assign, jobs=2, expected_us=[6_000])
    client.gets_accepted(10)
    play.nothing_else()


def test_labels_and_python_are_demanded_of_the_node(play: CoordinatorPlay) -> None:
    plain, client = play.node("plain", slots=4), play.client()
    client.submit(1, Spec("gpu", False, b"", labels=(("gpu", "a100"),)))
    client.submit(1, Spec("new", False, b"", python="3.13"))
    client.submit(1, SPEC)
    plain.gets(Assign, jobs=[client.job(3)])
    client.gets_accepted(3)
    play.nothing_else()
    play.node("gpu", labels={"gpu": "a100", "disk": "ssd"}).gets(Assign, jobs=[client.job(1)])
    play.node("new", python="3.13").gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


def test_a_batch_of_great_payloads_goes_in_several_messages(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=100), play.client()
    for _ in range(3):
        client.submit(8, payload=bytes(60_000))
        client.submit(8, payload=bytes(60_000))
    while node.inbox:
        assert sum(map(len, node.gets(Assign).payloads)) < 600_000
    client.gets_accepted(48)
    play.nothing_else()
