"""Plays of the client's session: what is handed in, what comes back, and that nothing else is sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import client_session
from cluster.actor import Drained, Garbled, Rejected, Stalled, Stop
from cluster.blobs import BlobFailed, ChunkRead, ChunkWritten
from cluster.client_session import Answered, CancelDenied, GiveUp, Held, Settled
from cluster.config import CHUNK_BYTES, INLINE_BYTES, MAX_BATCH, PROTOCOL, ClientLimits
from cluster.facts import WARNING
from cluster.jobs import Failure, Outcome, Spec
from cluster.messages import (
    Accepted,
    Answer,
    Ask,
    Assign,
    BlobRefused,
    Bye,
    Cancel,
    Chunk,
    ClientHello,
    Fetch,
    GoOn,
    Hold,
    NotCancelled,
    Pulse,
    Refusal,
    Results,
    Resync,
    Submit,
    Taken,
    Waiting,
    Welcome,
)
from tests.playbook import CLIENT_KEY, SPEC, SUCCEEDED, SessionPlay, any_message, sha_of

BLOB = bytes(range(256)) * 400
LONG_BLOB = b"0123456789abcdef" * (5 * CHUNK_BYTES // 32)
REF = (sha_of(BLOB), len(BLOB))
CODE = b"pickled function"


@pytest.fixture
def play() -> SessionPlay:
    """Connected and welcome."""
    play = SessionPlay()
    play.joins()
    play.nothing_else()
    return play


def rejoins(play: SessionPlay, *, accepted: int, resumed: bool = True) -> ClientHello:
    play.disconnect()
    play.connect()
    hello = play.coordinator.gets(ClientHello)
    play.coordinator.welcomes(accepted=accepted, resumed=resumed, epoch=1 if resumed else 2)
    return hello


def succeeds(play: SessionPlay, *counters: int, through: int | None = None) -> None:
    n = len(counters)
    through = max(counters) if through is None else through
    play.coordinator.say(Results(through, list(counters), [SUCCEEDED] * n, [b"42"] * n, []))
    assert all(play.settled[c] == Settled(c, SUCCEEDED, b"42") for c in counters)


def offers(play: SessionPlay, ref: tuple[bytes, int] = REF) -> None:
    """One chunk of a blob comes, and is answered: it is there."""
    play.coordinator.gets(Chunk, sha=ref[0], offset=0)
    play.coordinator.say(Taken(*ref))


# ------------------------------------------------------------------------------------ joining


def test_it_says_who_it_is() -> None:
    play = SessionPlay()
    play.connect()
    play.coordinator.gets(ClientHello, protocol=PROTOCOL, namespace="default", epoch=0, accepted=0, session=b"client--")
    play.coordinator.welcomes()
    assert play.told("connected")
    play.nothing_else()


def test_jobs_submitted_before_the_link_stands_go_out_with_it() -> None:
    play = SessionPlay()
    play.offer(2)
    play.connect()
    play.coordinator.gets(ClientHello)
    play.nothing_else()
    play.coordinator.welcomes(resumed=False)
    play.coordinator.gets(Submit, first=1, payloads=2)
    play.nothing_else()


def test_a_refusal_gives_up_with_the_counters_and_the_words() -> None:
    play = SessionPlay()
    play.offer(2)
    play.connect()
    play.coordinator.gets(ClientHello)
    play.coordinator.say(Refusal("version", "install the same version on both sides"))
    play.does(GiveUp, kind="refused", reason="install the same version on both sides", counters=[1, 2])
    play.wait(60.0)
    play.nothing_else()


def test_a_rejected_key_gives_up() -> None:
    play = SessionPlay()
    play.offer()
    play.turn(Rejected("the server's key is another"))
    play.does(GiveUp, kind="refused", counters=[1])
    play.nothing_else()


def test_what_is_submitted_after_the_end_fails_at_once(play: SessionPlay) -> None:
    play.turn(Rejected("no"))
    play.does(GiveUp)
    play.offer()
    assert play.failure(1).kind == "JobRefused"
    play.nothing_else()


def test_silence_for_the_timeout_gives_up_with_the_open_counters() -> None:
    play = SessionPlay(ClientLimits(reconnect_timeout_s=20.0))
    play.joins()
    play.offer(3)
    play.coordinator.gets(Submit)
    succeeds(play, 2, through=3)
    play.disconnect()
    play.wait(19.0)
    play.nothing_else()
    play.wait(1.5)
    play.does(GiveUp, kind="unreachable", counters=[1, 3])
    assert play.told("gave_up")
    play.nothing_else()


@pytest.mark.parametrize("end", ["silence", "refusal", "key"])
def test_what_was_not_accepted_at_the_end_is_never_said_to_be(play: SessionPlay, end: str) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.coordinator.say(Accepted(2))
    play.offer(3)
    play.coordinator.gets(Submit)
    if end == "silence":
        play.wait(61.0)
    elif end == "refusal":
        play.coordinator.say(Refusal("full", "no room"))
    else:
        play.turn(Rejected("the server's key is another"))
    play.effects.clear()
    play.turn(Drained())
    assert play.acknowledged == 2


def test_a_coordinator_that_was_never_reached_is_given_up_too() -> None:
    play = SessionPlay(ClientLimits(reconnect_timeout_s=20.0))
    play.offer()
    play.wait(21.0)
    play.does(GiveUp, kind="unreachable", counters=[1])
    play.nothing_else()


def test_who_waits_for_nothing_never_gives_up() -> None:
    play = SessionPlay(ClientLimits(reconnect_timeout_s=20.0))
    play.joins()
    play.disconnect()
    play.wait(1_000.0)
    play.nothing_else()


def test_a_stall_of_our_own_is_not_the_coordinators_silence(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    play.now = play.now._replace(mono=play.now.mono + 100)
    play.turn(Stalled(100.0), Drained())
    assert play.told("stalled")
    play.nothing_else()


def test_it_leaves_with_a_goodbye(play: SessionPlay) -> None:
    play.leave()
    play.coordinator.gets(Bye)
    play.does(Stop)
    play.wait(60.0)
    play.nothing_else()


# ------------------------------------------------------------------------------------ what people are told


def test_a_silence_is_told_once_with_what_is_open_and_so_is_its_end() -> None:
    play = SessionPlay(ClientLimits(reconnect_timeout_s=20.0), "tcp://there:7077")
    play.joins()
    play.offer(3)
    play.ask(1, "status")
    play.coordinator.gets(Submit)
    play.coordinator.gets(Ask)
    play.disconnect()
    play.wait(1.9)
    assert not play.told("coordinator_unheard")
    play.wait(10.0)
    (said,) = play.told("coordinator_unheard")
    assert said.text == (
        "the coordinator at tcp://there:7077 is not heard since 2 s; 3 jobs and 1 question are open; "
        "they fail after 20 s (reconnect_timeout_s)"
    )
    play.connect()
    play.coordinator.gets(ClientHello)
    assert not play.told("coordinator_back"), "a connection is no answer"
    play.coordinator.welcomes()
    assert [f.text for f in play.told("coordinator_back")] == ["connected again after 11.9 s"]
    play.coordinator.inbox.clear()
    play.coordinator.live(5)
    assert not play.told("coordinator_unheard") and not play.told("coordinator_back")
    play.coordinator.deaf = True
    play.wait(5)
    assert play.told("coordinator_unheard"), "another silence is told again"


def test_a_short_cut_is_not_spoken_of(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    for _ in range(5):
        play.disconnect()
        play.wait(1.5)
        play.connect()
        play.coordinator.gets(ClientHello)
        play.coordinator.welcomes()
        play.coordinator.gets(Submit)
        play.coordinator.say(Pulse())
    assert {f.kind for f in play.facts} == {"connected"}


def test_nobody_is_told_of_a_silence_in_which_nothing_was_open(play: SessionPlay) -> None:
    play.disconnect()
    play.wait(1_000.0)
    assert {f.kind for f in play.facts} == {"connected"}
    play.offer()
    play.turn(Drained())
    assert {f.kind for f in play.facts} == {"connected"}
    play.wait(2.5)
    (said,) = play.told("coordinator_unheard")
    assert "not heard since 1002 s; 1 job is open" in said.text
    play.nothing_else()


def test_what_is_submitted_after_a_long_silence_has_the_whole_timeout() -> None:
    play = SessionPlay(ClientLimits(reconnect_timeout_s=20.0))
    play.joins()
    play.disconnect()
    play.wait(1_000.0)
    play.offer()
    play.wait(19.0)
    play.nothing_else()
    play.wait(1.5)
    play.does(GiveUp, kind="unreachable", counters=[1])
    play.nothing_else()


def test_a_slow_heartbeat_is_no_silence() -> None:
    play = SessionPlay()
    play.connect()
    play.coordinator.gets(ClientHello)
    play.coordinator.say(Welcome(1, True, 0, 5.0, 30.0))
    play.offer()
    play.coordinator.gets(Submit)
    for _ in range(5):
        play.wait(5.0)
        play.coordinator.say(Pulse())
    assert not play.told("coordinator_unheard")


def test_a_stall_of_our_own_is_not_told_as_silence(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    play.now = play.now._replace(mono=play.now.mono + 30)
    play.turn(Stalled(30.0), Drained())
    play.wait(1.0)
    assert not play.told("coordinator_unheard")


@pytest.mark.parametrize(
    ("jobs", "words"), [(1, "1 job (app:fn) waits for"), (3, "3 jobs (the first: app:fn) wait for")]
)
def test_why_jobs_wait_is_told(play: SessionPlay, jobs: int, words: str) -> None:
    play.coordinator.say(Waiting(1, jobs, "app:fn", "a node: none has joined"))
    (said,) = play.told("jobs_wait")
    assert said.text == f"{words} a node: none has joined" and said.level == WARNING
    rejoins(play, accepted=0)
    play.coordinator.say(Waiting(1, jobs, "app:fn", "a node: none has joined"))
    assert not play.told("jobs_wait"), "it is the same wait"
    play.coordinator.say(Waiting(2, jobs, "app:fn", "a node: none has joined"))
    assert play.told("jobs_wait")
    play.nothing_else()


def test_waits_are_remembered_within_a_bound_and_by_epoch(play: SessionPlay) -> None:
    for wait in range(client_session.MAX_WAITS + 1):
        play.coordinator.say(Waiting(wait, 1, "app:fn", "a node"))
    assert len(play.told("jobs_wait")) == len(play.session._waits_told) + 1 == client_session.MAX_WAITS + 1
    rejoins(play, accepted=0, resumed=False)
    play.coordinator.say(Waiting(7, 1, "app:fn", "a node"))
    assert play.told("jobs_wait")
    play.nothing_else()


# ------------------------------------------------------------------------------------ signs of life


def test_it_shows_itself_slowly_while_idle_and_oftener_while_it_waits(play: SessionPlay) -> None:
    play.wait(0)
    for _ in range(20):
        play.wait(1.0)
        play.coordinator.acknowledges()
    assert play.coordinator.pulses == 1 + 4
    play.offer()
    play.coordinator.gets(Submit)
    for _ in range(20):
        play.wait(1.0)
        play.coordinator.acknowledges()
    assert play.coordinator.pulses >= 5 + 19
    play.nothing_else()


def test_a_job_after_an_idle_while_needs_no_new_link(play: SessionPlay) -> None:
    play.wait(0)
    play.coordinator.acknowledges()
    play.wait(4.9)
    play.offer()
    play.turn(Drained())
    play.coordinator.gets(Submit)
    play.nothing_else()


@pytest.mark.parametrize("busy", [True, False])
def test_a_coordinator_that_no_longer_answers_is_greeted_anew(play: SessionPlay, busy: bool) -> None:
    play.wait(0)
    play.coordinator.acknowledges()
    if busy:
        play.offer()
        play.coordinator.gets(Submit)
    play.wait(3.6 if busy else 8.0)
    play.coordinator.gets(ClientHello)


def test_a_resync_makes_it_join_again_and_send_again_what_is_not_accepted(play: SessionPlay) -> None:
    play.offer(3)
    play.coordinator.gets(Submit)
    play.coordinator.say(Accepted(2))
    assert play.acknowledged == 2
    play.coordinator.say(Resync("messages were lost on the way"))
    play.coordinator.gets(ClientHello, accepted=2)
    play.coordinator.welcomes(accepted=2)
    play.coordinator.gets(Submit, first=3, payloads=1)
    play.nothing_else()


def test_a_gap_makes_it_join_again(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    play.coordinator.lose(Accepted(1))
    play.coordinator.say(Pulse())
    play.coordinator.gets(ClientHello)
    play.coordinator.welcomes(accepted=1)
    assert play.acknowledged == 1
    play.nothing_else()


# ------------------------------------------------------------------------------------ jobs


def test_jobs_are_handed_in_accepted_and_settled(play: SessionPlay) -> None:
    play.offer(3)
    play.coordinator.gets(
        Submit, first=1, specs=[SPEC.encode()], spec_of=[0, 0, 0], payloads=[b"args"] * 3, large=[], code=[]
    )
    play.coordinator.say(Accepted(3))
    assert play.acknowledged == 3
    succeeds(play, 1, 2, 3)
    assert play.session.open_count == 0
    play.nothing_else()


def test_results_carry_the_word_of_acceptance(play: SessionPlay) -> None:
    play.offer(3)
    play.coordinator.gets(Submit)
    succeeds(play, 1, through=3)
    assert play.acknowledged == 3
    play.nothing_else()


def test_a_result_told_twice_settles_once(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    for _ in range(2):
        succeeds(play, 1)
    play.coordinator.say(Results(1, [7], [SUCCEEDED], [b""], []))
    assert set(play.settled) == {1}
    play.nothing_else()


def test_what_jobs_share_is_in_a_message_once(play: SessionPlay) -> None:
    other = Spec("app:other", True, sha_of(CODE), len(CODE))
    with play.one_turn():
        play.offer(2)
        play.offer(2, spec=other, code=CODE)
    play.coordinator.gets(Submit, specs=2, spec_of=[0, 0, 1, 1], code=[[sha_of(CODE), CODE]])
    play.nothing_else()


def test_great_batches_go_in_several_messages(play: SessionPlay) -> None:
    play.offer(MAX_BATCH + 1, payload=b"")
    assert [len(play.coordinator.gets(Submit).payloads) for _ in range(2)] == [MAX_BATCH, 1]
    play.offer(20, payload=bytes(60_000))
    assert [len(play.coordinator.gets(Submit).payloads) for _ in range(3)] == [9, 9, 2]
    code = bytes(INLINE_BYTES)
    play.offer(1_000, spec=Spec("f", True, sha_of(code), len(code)), code=code)
    play.coordinator.gets(Submit, payloads=1_000, code=1)
    play.nothing_else()


def test_a_resend_after_a_new_link_is_all_that_was_not_accepted_in_order(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.disconnect()
    play.offer(2)
    play.nothing_else()
    play.connect()
    play.coordinator.gets(ClientHello)
    play.coordinator.welcomes(accepted=1)
    play.coordinator.gets(Submit, first=2, payloads=3)
    assert play.acknowledged == 1
    play.nothing_else()


def test_after_a_restart_only_what_was_accepted_is_lost(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.coordinator.say(Accepted(2))
    play.offer(2)
    play.coordinator.gets(Submit)
    assert rejoins(play, accepted=2, resumed=False).accepted == 2
    assert [play.outcome(c) for c in (1, 2)] == [Outcome.LOST] * 2
    assert play.failure(1).kind == "JobLost"
    play.coordinator.gets(Submit, first=3, payloads=2)
    succeeds(play, 3, 4)
    play.nothing_else()


# ------------------------------------------------------------------------------------ cancelling


def test_an_unsent_job_is_cancelled_here_and_leaves_a_hole(play: SessionPlay) -> None:
    play.disconnect()
    play.offer(4)
    play.cancel(1, 3)
    assert play.outcome(1) == play.outcome(3) == Outcome.CANCELLED
    play.connect()
    play.coordinator.gets(ClientHello)
    play.coordinator.welcomes()
    play.coordinator.gets(Submit, first=2, payloads=1)
    play.coordinator.gets(Submit, first=4, payloads=1)
    play.coordinator.say(Accepted(4))
    assert play.acknowledged == 4
    play.nothing_else()


def test_when_all_are_cancelled_before_the_link_stands_all_is_acknowledged() -> None:
    play = SessionPlay()
    play.offer(2)
    play.cancel(1, 2)
    assert play.acknowledged == 2
    play.joins()
    play.nothing_else()


def test_a_sent_job_is_cancelled_by_the_coordinator(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.cancel(1, 2, 99)
    jobs = play.coordinator.gets(Cancel, jobs=2).jobs
    play.coordinator.say(NotCancelled(jobs[1:]))
    play.does(CancelDenied, counters=[2])
    word = Failure("Cancelled", "cancelled before it started").encode()
    play.coordinator.say(Results(2, [1], [int(Outcome.CANCELLED)], [word], []))
    assert play.outcome(1) == Outcome.CANCELLED
    play.nothing_else()


def test_a_wish_without_an_answer_is_repeated_on_a_new_link(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.coordinator.say(Accepted(2))
    play.cancel(1)
    play.coordinator.gets(Cancel)
    rejoins(play, accepted=2)
    play.coordinator.gets(Cancel, jobs=1)
    play.nothing_else()


def test_a_wish_for_what_the_coordinator_never_got_is_met_here(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.cancel(2)
    play.coordinator.gets(Cancel)
    rejoins(play, accepted=1)
    assert play.outcome(2) == Outcome.CANCELLED
    play.nothing_else()


def test_a_wish_for_very_many_goes_in_several_messages(play: SessionPlay) -> None:
    for _ in range(5):
        counters = play.offer(10_000, payload=b"")
        play.coordinator.inbox.clear()
        play.coordinator.say(Accepted(counters[-1]))
    play.cancel(*range(1, 50_001))
    assert sum(len(play.coordinator.gets(Cancel).jobs) for _ in range(50_000 // MAX_BATCH)) == 50_000
    play.nothing_else()


# ------------------------------------------------------------------------------------ questions


def test_a_question_is_answered_also_over_links(play: SessionPlay) -> None:
    play.ask(1, "status")
    play.coordinator.gets(Ask, ask=1, topic="status")
    rejoins(play, accepted=0)
    play.coordinator.gets(Ask, ask=1, topic="status")
    for _ in range(2):
        play.coordinator.say(Answer(1, "", {"nodes": 1}))
    play.does(Answered, ask=1, error="", body={"nodes": 1})
    play.nothing_else()


def test_a_question_is_answered_when_the_session_is_given_up() -> None:
    play = SessionPlay(ClientLimits(reconnect_timeout_s=20.0))
    play.ask(1, "status")
    play.wait(21.0)
    assert "not heard" in play.does(Answered, ask=1).error
    play.does(GiveUp, counters=[])
    play.nothing_else()


# ------------------------------------------------------------------------------------ blobs in


def test_a_large_payload_holds_back_its_entry_and_those_behind_it_only(play: SessionPlay) -> None:
    with play.one_turn():
        play.offer(1)
        play.offer(1, large=BLOB)
        play.offer(1)
    play.coordinator.gets(Submit, first=1, payloads=1)
    offers(play)
    play.coordinator.gets(Submit, first=2, payloads=[b"", b"args"], large=[[0, *REF]])
    play.coordinator.say(Accepted(3))
    assert not play.disk.blobs
    play.nothing_else()


def test_code_over_the_inline_limit_travels_as_a_blob_and_not_in_the_message(play: SessionPlay) -> None:
    play.offer(3, spec=Spec("f", True, *REF), code=BLOB)
    offers(play)
    play.coordinator.gets(Submit, first=1, payloads=3, code=[])
    play.coordinator.say(Accepted(3))
    assert not play.disk.blobs
    play.nothing_else()


def test_a_blob_is_offered_once_more_for_each_message_that_names_it(play: SessionPlay) -> None:
    play.offer(1, large=BLOB)
    play.offer(1, payload=b"x")
    play.offer(1, large=BLOB)
    offers(play)
    play.coordinator.gets(Submit, first=1, payloads=3)
    play.offer(1, large=BLOB)
    offers(play)
    play.coordinator.gets(Submit, first=4)
    play.coordinator.say(Accepted(4))
    assert not play.disk.blobs
    play.nothing_else()


def test_an_upload_cut_by_a_new_link_goes_on(play: SessionPlay) -> None:
    ref = (sha_of(LONG_BLOB), len(LONG_BLOB))
    play.offer(1, large=LONG_BLOB)
    play.coordinator.say(Taken(ref[0], 2 * CHUNK_BYTES))
    play.coordinator.inbox.clear()
    rejoins(play, accepted=0)
    assert play.coordinator.gets(Chunk).offset == 0, "a coordinator that was restarted has none of it"
    play.coordinator.say(Taken(*ref))
    play.coordinator.inbox = [m for m in play.coordinator.inbox if not isinstance(m, Chunk)]
    play.coordinator.gets(Submit, large=[[0, *ref]])
    play.nothing_else()


def test_a_refused_payload_fails_its_jobs_alone(play: SessionPlay) -> None:
    play.offer(1, large=BLOB)
    play.offer(1)
    play.coordinator.gets(Chunk)
    play.coordinator.say(BlobRefused(REF[0], "disk full"))
    assert "disk full" in play.failure(1).text and play.failure(1).kind == "JobRefused"
    if isinstance(play.coordinator.inbox[0], Chunk):
        play.coordinator.gets(Chunk, size=0)
    play.coordinator.gets(Submit, first=2)
    assert not play.disk.blobs
    play.nothing_else()


def test_a_payload_that_cannot_be_read_takes_its_other_blobs_along(play: SessionPlay) -> None:
    play.disk.sleeps = True
    play.offer(1, spec=Spec("f", True, sha_of(LONG_BLOB), len(LONG_BLOB)), large=BLOB, code=LONG_BLOB)
    play.turn(BlobFailed(REF[0], "its buffer is gone"))
    assert "its buffer is gone" in play.failure(1).text
    assert not play.disk.blobs


def test_a_cancelled_payload_is_withdrawn(play: SessionPlay) -> None:
    play.offer(1, large=LONG_BLOB)
    play.coordinator.inbox.clear()
    play.cancel(1)
    play.coordinator.gets(Chunk, sha=sha_of(LONG_BLOB), size=0, data=b"")
    assert play.outcome(1) == Outcome.CANCELLED and not play.disk.blobs
    play.coordinator.say(Taken(sha_of(LONG_BLOB), 0))
    play.nothing_else()


def test_a_blob_that_another_job_needs_outlives_a_cancel(play: SessionPlay) -> None:
    play.offer(2, large=BLOB)
    play.cancel(1)
    offers(play)
    play.coordinator.gets(Submit, first=2, payloads=1)
    play.nothing_else()


# ------------------------------------------------------------------------------------ blobs out


def test_a_large_result_is_fetched_and_then_settled(play: SessionPlay) -> None:
    ref = (sha_of(LONG_BLOB), len(LONG_BLOB))
    play.offer(2)
    play.coordinator.gets(Submit)
    play.coordinator.say(Results(2, [1, 2], [SUCCEEDED] * 2, [b"", b"42"], [[0, *ref]]))
    assert set(play.settled) == {2}
    play.coordinator.serves(LONG_BLOB)
    assert play.settled[1] == Settled(1, SUCCEEDED, b"", ref)
    assert play.disk.blobs[ref[0]] == LONG_BLOB
    play.nothing_else()


def test_identical_results_are_fetched_once_while_under_way(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.coordinator.say(Results(2, [1, 2], [SUCCEEDED] * 2, [b""] * 2, [[0, *REF], [1, *REF]]))
    play.coordinator.serves(BLOB)
    assert set(play.settled) == {1, 2}
    play.nothing_else()


def test_a_fetch_cut_by_a_new_link_is_asked_again(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    result = Results(1, [1], [SUCCEEDED], [b""], [[0, *REF]])
    play.coordinator.say(result)
    play.coordinator.gets(Fetch)
    rejoins(play, accepted=1)
    play.coordinator.gets(Fetch, sha=REF[0], size=REF[1])
    play.coordinator.say(result)
    play.coordinator.say(Chunk(*REF, 0, BLOB))
    play.coordinator.gets(Taken, through=REF[1])
    assert set(play.settled) == {1}
    play.nothing_else()


def test_a_large_result_told_again_need_not_be_kept(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    result = Results(1, [1], [SUCCEEDED], [b""], [[0, *REF]])
    play.coordinator.say(result)
    play.coordinator.serves(BLOB)
    rejoins(play, accepted=1)
    play.coordinator.say(result)
    play.coordinator.gets(Taken, sha=REF[0], through=REF[1])
    play.coordinator.say(Chunk(*REF, 0, BLOB))
    play.coordinator.gets(Taken, sha=REF[0], through=REF[1])
    play.nothing_else()


@pytest.mark.parametrize("told", [True, False])
def test_a_result_that_cannot_be_had_is_a_lost_job_in_words(play: SessionPlay, told: bool) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    play.coordinator.say(Results(1, [1], [SUCCEEDED], [b""], [[0, *REF]]))
    play.coordinator.gets(Fetch)
    if told:
        play.coordinator.say(BlobRefused(REF[0], "the coordinator does not have it"))
    else:
        play.disk.failing[REF[0]] = "no memory"
        play.coordinator.say(Chunk(*REF, 0, BLOB))
        play.coordinator.gets(BlobRefused)
    assert play.outcome(1) == Outcome.LOST and "could not be fetched" in play.failure(1).text
    assert not play.disk.parts
    play.nothing_else()


def test_a_result_over_the_clients_limit_is_a_lost_job_with_the_figure() -> None:
    play = SessionPlay(ClientLimits(max_blob_bytes=1_000))
    play.joins()
    play.offer()
    play.coordinator.gets(Submit)
    play.coordinator.say(Results(1, [1], [SUCCEEDED], [b""], [[0, *REF]]))
    play.coordinator.gets(Fetch)
    play.coordinator.say(Chunk(*REF, 0, BLOB))
    play.coordinator.gets(BlobRefused)
    assert "1000" in play.failure(1).text
    play.nothing_else()


def test_results_under_way_are_lost_with_a_coordinator_that_forgot(play: SessionPlay) -> None:
    play.offer()
    play.coordinator.gets(Submit)
    play.coordinator.say(Results(1, [1], [SUCCEEDED], [b""], [[0, sha_of(LONG_BLOB), len(LONG_BLOB)]]))
    play.coordinator.gets(Fetch)
    play.coordinator.say(Chunk(sha_of(LONG_BLOB), len(LONG_BLOB), 0, LONG_BLOB[:CHUNK_BYTES]))
    play.coordinator.gets(Taken)
    rejoins(play, accepted=1, resumed=False)
    assert play.outcome(1) == Outcome.LOST and not play.disk.parts
    play.nothing_else()


# ------------------------------------------------------------------------------------ garbage


def test_what_a_client_is_not_told_is_dropped_and_noted(play: SessionPlay) -> None:
    play.coordinator.say(Assign([], [], [], [], [], [], [], [], []))
    play.turn(Garbled(b"", CLIENT_KEY, "not msgpack"))
    assert play.told("unexpected") and play.told("garbled")
    play.nothing_else()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_nothing_that_happens_raises_and_every_job_has_one_outcome(data: st.DataObject) -> None:
    play = SessionPlay()
    play.coordinator.lenient = True
    counters: list[int] = []
    shas = [sha_of(b"a"), sha_of(b"b"), REF[0]]
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.integers(0, 8)):
            case 0 | 1:
                more: dict[str, Any] = data.draw(
                    st.sampled_from([{}, {"large": BLOB}, {"spec": Spec("f", True, *REF), "code": BLOB}])
                )
                counters += play.offer(data.draw(st.integers(1, 4)), **more)
            case 2:
                message = data.draw(any_message())
                if not isinstance(message, Refusal | Welcome):
                    play.coordinator.say(message)
            case 3:
                rows = data.draw(st.lists(st.integers(1, 30), max_size=5, unique=True))
                blob = data.draw(st.booleans())
                large = [[0, *REF]] if rows and blob else []
                play.coordinator.say(Results(0, rows, [SUCCEEDED] * len(rows), [b""] * len(rows), large))
            case 4:
                play.cancel(*data.draw(st.lists(st.integers(1, 30), max_size=5)))
            case 5:
                play.disconnect()
                play.connect()
                play.coordinator.welcomes(accepted=data.draw(st.integers(0, 30)), resumed=data.draw(st.booleans()))
            case 6:
                play.wait(data.draw(st.sampled_from([0.01, 1.0, 4.0])))
            case 7:
                sha = data.draw(st.sampled_from(shas))
                events = [ChunkWritten(sha, 1), ChunkRead(sha, 0, b"a"), BlobFailed(sha, "chaos")]
                play.turn(data.draw(st.sampled_from(events)))
            case 8:
                play.coordinator.say(data.draw(st.sampled_from([Chunk(*REF, 0, BLOB), Taken(*REF)])))
    gave_up = {c for e in play.effects if isinstance(e, GiveUp) for c in e.counters}
    assert set(counters) == set(play.settled) | play.session._open | gave_up
    assert not set(play.settled) & play.session._open


# ------------------------------------------------------------------------------------ a coordinator that is full


def test_what_a_full_coordinator_has_not_taken_is_kept_and_handed_in_again(play: SessionPlay) -> None:
    play.offer(3)
    play.coordinator.gets(Submit, first=1, payloads=3)
    play.coordinator.say(Hold(1, "the queue is full"))
    play.does(Held, reason="the queue is full")
    (fact,) = play.told("jobs_held")
    assert fact.level == WARNING and "2 jobs wait to be handed in: the queue is full" in fact.text
    play.offer(1)
    play.nothing_else()
    play.coordinator.say(GoOn())
    play.does(Held, reason="")
    play.coordinator.gets(Submit, first=2, payloads=3)
    play.nothing_else()


def test_what_must_not_wait_fails_where_the_coordinator_is_full_and_all_else_goes_on(play: SessionPlay) -> None:
    play.offer(2, block=False)
    play.coordinator.gets(Submit)
    play.coordinator.say(Hold(1, "the queue is full"))
    play.does(Held)
    failure = play.failure(2)
    assert failure.kind == "JobRefused" and "the queue is full" in failure.text
    assert play.offer(1, block=False) == [3]
    assert play.failure(3).kind == "JobRefused"
    play.offer(1)
    play.nothing_else()
    play.coordinator.say(GoOn())
    play.does(Held)
    play.coordinator.gets(Submit, first=4)
    play.nothing_else()


def test_a_blob_of_a_held_job_stays_offered_and_costs_no_second_upload(play: SessionPlay) -> None:
    play.offer(large=BLOB)
    assert play.coordinator.gets_blob(REF[0]) == BLOB
    play.coordinator.gets(Submit, first=1)
    play.coordinator.say(Hold(0, "the disk is full"))
    play.does(Held)
    play.nothing_else()
    play.coordinator.say(GoOn())
    play.does(Held)
    play.coordinator.gets(Chunk, sha=REF[0], offset=0)
    play.coordinator.say(Taken(*REF))
    play.coordinator.gets(Submit, first=1)
    play.nothing_else()


def test_a_held_job_that_is_cancelled_gives_its_blob_up(play: SessionPlay) -> None:
    play.offer(large=BLOB)
    play.coordinator.gets_blob(REF[0])
    play.coordinator.gets(Submit, first=1)
    play.coordinator.say(Hold(0, "the disk is full"))
    play.does(Held)
    play.cancel(1)
    play.coordinator.gets(Chunk, sha=REF[0], size=0)
    assert play.outcome(1) is Outcome.CANCELLED


def test_a_job_that_was_to_be_cancelled_and_comes_back_held_is_cancelled(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.cancel(2)
    play.coordinator.gets(Cancel)
    play.coordinator.say(Hold(1, "the queue is full"))
    play.does(Held)
    assert play.outcome(2) is Outcome.CANCELLED
    play.nothing_else()


def test_a_new_link_tries_again(play: SessionPlay) -> None:
    play.offer(2)
    play.coordinator.gets(Submit)
    play.coordinator.say(Hold(1, "the queue is full"))
    play.does(Held)
    rejoins(play, accepted=1)
    play.does(Held, reason="")
    play.coordinator.gets(Submit, first=2, payloads=1)
    play.nothing_else()
