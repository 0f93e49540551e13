"""Outcomes that sessions ask for by the id of a job, whoever handed it in."""

from __future__ import annotations

import pytest

from cluster.jobs import Failure
from cluster.messages import (
    Accepted,
    Assign,
    BlobRefused,
    Chunk,
    Fetch,
    Results,
    Watch,
)
from tests.playbook import CoordinatorPlay

BLOB = bytes(range(256)) * 400
"""Above the inline limit, one chunk."""


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def test_another_session_is_owed_the_outcome_of_a_running_job_too(play: CoordinatorPlay) -> None:
    client, other = play.client(), play.client()
    node = play.node()
    client.submit()
    assign = node.gets(Assign)
    other.say(Watch([1], [client.job(1)]))
    client.gets_accepted(1)
    other.gets(Accepted, through=1)
    node.finishes(assign.tokens[0], payload=b"for both")
    assert client.gets_results(1).payloads == other.gets_results(1).payloads == [b"for both"]
    play.nothing_else()


def test_another_session_gets_an_outcome_of_an_earlier_life(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    node.finishes(node.gets(Assign).tokens[0], payload=b"kept")
    client.gets(Results)
    play.restart()
    other = play.client()
    other.say(Watch([1], [client.job(1)]))
    assert other.gets_results(1).payloads == [b"kept"]
    play.nothing_else()


def test_two_sessions_fetch_one_large_result_and_it_is_kept_for_a_third(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    data = b"r" * 300_000
    node.finishes_large(node.gets(Assign).tokens[0], data)
    _, sha, size = client.gets(Results).large[0]
    client.say(Fetch(sha, size))
    assert client.gets_blob(sha) == data
    for _ in range(2):
        other = play.client()
        other.say(Watch([1], [client.job(1)]))
        assert other.gets(Results).large == [[0, sha, size]]
        other.say(Fetch(sha, size))
        assert other.gets_blob(sha) == data
    assert sha in play.disk.blobs


@pytest.mark.parametrize(("counter", "kind"), [(1, "ResultExpired"), (2, "UnknownJob")])
def test_an_id_without_an_outcome_is_expired_or_unknown_and_never_pending(
    play: CoordinatorPlay, counter: int, kind: str
) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    node.finishes(node.gets(Assign).tokens[0])
    client.gets(Results)
    play.rows_on_disk.rows.outcomes.clear()
    play.restart()
    other = play.client()
    other.say(Watch([1], [client.job(counter)]))
    assert other.gets_failure(1).kind == kind


def test_jobs_of_another_namespace_are_unknown(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit(2)
    node.finishes(node.gets(Assign).tokens[0])
    client.gets(Results)
    stranger = play.new_client(identity=client.identity._replace(key="k", namespace="theirs"), namespace="theirs")
    stranger.joins()
    stranger.say(Watch([1, 2], [client.job(1), client.job(2)]))
    results = stranger.gets_results(1, 2)
    assert {Failure.decode(p).kind for p in results.payloads} == {"UnknownJob"}


def test_a_large_result_is_held_until_its_client_has_it() -> None:
    play = CoordinatorPlay()
    node, client = play.node(), play.client()
    client.submit()
    node.finishes_large(node.gets(Assign).tokens[0], BLOB)
    ref = client.gets(Results, payloads=[b""]).large[0][1:]
    client.say(Fetch(*ref))
    assert client.gets_blob(ref[0]) == BLOB
    play.nothing_else()
    play.nothing_kept()


def test_a_result_its_client_will_not_take_is_dropped() -> None:
    play = CoordinatorPlay()
    node, client = play.node(), play.client()
    client.submit()
    node.finishes_large(node.gets(Assign).tokens[0], BLOB)
    ref = client.gets(Results).large[0][1:]
    client.say(Fetch(*ref))
    client.gets(Chunk)
    client.say(BlobRefused(ref[0], "over the limit"))
    play.nothing_else()
    play.nothing_kept()
