"""What is handed in becomes jobs, once; what cannot be taken is refused in words, or held back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.config import CoordinatorLimits
from cluster.jobs import Outcome, Spec
from cluster.messages import (
    Assign,
    GoOn,
    Hold,
    NotCancelled,
    Submit,
    Watch,
)
from tests.playbook import (
    SPEC,
    CoordinatorPlay,
    sha_of,
)


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def test_a_resent_submission_makes_no_second_job(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=8), play.client()
    message = client.submission(2)
    client.say(message)
    node.gets(Assign, jobs=2)
    client.gets_accepted(2)
    client.joins()
    client.say(message)
    client.gets_accepted(2)
    play.nothing_else()


def test_a_resend_that_overlaps_makes_only_what_is_new(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=8), play.client()
    client.submit(2)
    node.gets(Assign, jobs=2)
    client.submit(4, first=1)
    node.gets(Assign, jobs=[client.job(3), client.job(4)])
    client.gets_accepted(4)
    play.nothing_else()


def test_counters_may_have_holes(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=8), play.client()
    client.submit(first=5)
    client.submit(first=9)
    assert [node.gets(Assign).jobs for _ in range(2)] == [[client.job(5)], [client.job(9)]]
    client.gets_accepted(9)
    play.nothing_else()


def test_a_full_queue_holds_who_hands_in_with_its_figures_and_lets_go_on_when_there_is_room() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_jobs=2))
    client, other = play.client(), play.client()
    client.submit(3)
    assert "the queue is full: 2 unfinished jobs (max_jobs 2)" in client.gets(Hold, through=2).reason
    client.submit(1)  # sent before it had read that
    play.nothing_else()
    other.submit(1)
    other.gets(Hold, through=0)
    client.cancel(1)
    client.gets(GoOn)
    client.gets_results(1)
    other.gets(GoOn)
    client.submit(2, first=3)
    client.gets(Hold, through=3)
    other.cancel(9)
    other.gets(NotCancelled)
    play.nothing_else()
    assert play.coordinator._admission.jobs == 2


def test_what_was_sent_before_the_word_to_go_on_was_read_does_not_count() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_jobs=1))
    client = play.client()
    client.submit(2)
    client.gets(Hold, through=1)
    with play.one_turn():
        client.cancel(1)
        client.say(client.submission(1, first=3))
    client.gets(GoOn)
    client.gets_results(1)
    assert play.coordinator._admission.jobs == 0, "job 3 was taken, and job 2 never would be"
    client.say(client.submission(2, first=2))
    client.gets(Hold, through=2)
    play.nothing_else()


def test_nothing_is_said_of_the_cancelling_of_what_was_not_taken() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_jobs=1))
    client = play.client()
    client.submit(2)
    client.gets(Hold, through=1)
    client.cancel(2)
    play.nothing_else()


def test_a_new_link_asks_anew_whether_there_is_room() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_jobs=1))
    client = play.client()
    client.submit(2)
    client.gets(Hold, through=1)
    client.joins(accepted=1)
    client.say(client.submission(1, first=2))
    client.gets(Hold, through=1)
    client.cancel(1)
    client.gets(GoOn)
    client.gets_results(1)
    play.nothing_else()


def test_so_many_bytes_of_arguments_are_a_full_queue_too() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_job_bytes=1_000))
    client = play.client()
    client.submit(3, payload=bytes(600))
    assert "1200 bytes of arguments (max_job_bytes 1000)" in client.gets(Hold, through=2).reason
    play.nothing_else()


def test_what_only_memory_has_is_bounded_by_memory() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(payload_memory_bytes=1_000), durable=True)
    client = play.client()
    client.submit(3, payload=bytes(600), spec=replace(SPEC, durable=False))
    assert "1200 bytes" in client.gets(Hold, through=2).reason
    play.nothing_else()


def test_a_watch_while_held_is_not_taken_before_what_is_held() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_jobs=1))
    client = play.client()
    client.submit(2)
    client.gets(Hold, through=1)
    client.say(Watch([3], [client.job(1)]))
    client.cancel(1)
    client.gets(GoOn)
    client.gets_results(1)
    client.say(client.submission(1, first=2))
    client.say(Watch([3], [client.job(2)]))
    client.cancel(2)
    client.gets_results(2, 3)
    play.nothing_else()


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"\xc1", "unreadable"),
        (Spec("n" * 600, False, b"").encode(), "too long"),
        (Spec("n", False, b"", namespace="theirs").encode(), "namespace"),
        (Spec("n", True, sha_of(b"code")).encode(), "code did not arrive"),
    ],
)
def test_an_unusable_description_fails_its_jobs_alone(play: CoordinatorPlay, raw: bytes, word: str) -> None:
    client = play.client()
    client.say(Submit(1, [raw, SPEC.encode()], [0, 1, 7], [b"", b"", b""], [], [], [""] * 3, []))
    got = client.gets_results(1, 3, outcome=Outcome.FAILED)
    assert word in got.payloads[0].decode(errors="replace")
    assert b"names a spec its message lacks" in got.payloads[1]
    assert play.coordinator._admission.jobs == 1
    play.nothing_else()


def test_code_that_does_not_match_its_hash_fails_its_jobs(play: CoordinatorPlay) -> None:
    client = play.client()
    spec = Spec("f", True, sha_of(b"right"), 5)
    client.say(Submit(1, [spec.encode()], [0], [b""], [], [[sha_of(b"right"), b"wrong"]], [""], []))
    assert "does not match its hash" in client.gets_failure(1).text
    play.nothing_else()


def test_a_job_whose_payload_did_not_arrive_is_refused(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(1, large=[(bytes(32), 100_000)])
    assert "its payload did not arrive" in client.gets_failure(1).text
    play.nothing_else()
