"""Plays of the coordinator: what it says to whom, and that it says nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.actor import Drained, Garbled, Stalled, Unroutable, WallClockJumped
from cluster.blobs import BlobFailed, ChunkRead, ChunkWritten
from cluster.config import CHUNK_BYTES, CHUNKS_IN_FLIGHT, CoordinatorLimits
from cluster.jobs import End, Failure, Outcome, Rules, Spec
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
    Discard,
    Fetch,
    Finished,
    Hold,
    Message,
    NodeHello,
    NotCancelled,
    Refusal,
    Results,
    Resync,
    Retract,
    Returned,
    Started,
    Submit,
    Taken,
)
from tests.playbook import (
    CLIENT_KEY,
    SPEC,
    CoordinatorPlay,
    FakeClient,
    FakeNode,
    any_message,
    sha_of,
)

BLOB = bytes(range(256)) * 400
"""Above the inline limit, one chunk."""
LONG_BLOB = b"0123456789abcdef" * (5 * CHUNK_BYTES // 32)
"""Two chunks and a half."""


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


# ------------------------------------------------------------------------------------ a job's way


def test_a_job_is_assigned_finished_and_its_result_told(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(3)
    assigned = node.gets(Assign, jobs=2, attempts=[1, 1], payloads=[b"args"] * 2, expected_us=[0])
    assert Spec.decode(assigned.specs[0]).owner == "ann"
    play.nothing_else()
    client.gets_accepted(3)
    node.finishes(*assigned.tokens, payload=b"42")
    client.gets(Results, through=3, counters=[1, 2], outcomes=[0, 0], payloads=[b"42", b"42"], large=[])
    node.finishes(*node.gets(Assign, jobs=[client.job(3)]).tokens)
    client.gets(Results, counters=[3])
    play.nothing_else()
    play.nothing_kept()


def test_code_that_a_node_has_lost_can_be_fetched(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    code = b"pickled function"
    client.submit(1, Spec("app:f", True, sha_of(code), len(code)), code=[code])
    node.gets(Assign)
    node.say(Fetch(sha_of(code), len(code)))
    node.gets(Chunk, data=code)
    node.say(Taken(sha_of(code), len(code)))
    client.gets_accepted(1)
    play.nothing_else()


def test_a_result_for_a_token_not_held_is_discarded_and_counted(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    node.say(Finished([token, token, 99], [0, 0, 0], [b"1", b"2", b"3"], [], [1, 1, 1], [1, 1, 1]))
    client.gets(Results, counters=[1], payloads=[b"1"])
    node.gets(Discard, tokens=[token, 99])
    assert play.asks(client, "status")["results_discarded"] == 2
    play.nothing_else()


def test_a_result_counts_once_however_often_it_is_sent(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    node.repeat(Finished([token], [0], [b"1"], [], [1], [1]))
    client.gets(Results, counters=[1])
    play.nothing_else()


def test_an_outcome_that_does_not_exist_is_a_failure(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    node.finishes(*node.gets(Assign).tokens, outcome=77)
    client.gets_failure(1)
    play.nothing_else()


# ------------------------------------------------------------------------------------ nodes that go


def test_a_node_that_rejoins_keeps_what_it_holds_and_the_rest_is_placed_again(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    a = node.gets(Assign, jobs=2)
    client.gets_accepted(2)
    node.joins((a.tokens[0], a.jobs[0], 1), (4711, client.job(99), 1))
    node.gets(Discard, tokens=[4711])
    again = node.gets(Assign, jobs=[a.jobs[1]], attempts=[1])
    assert again.tokens[0] not in a.tokens
    node.finishes(a.tokens[0])
    client.gets(Results, counters=[1])
    node.finishes(a.tokens[1])
    node.gets(Discard, tokens=[a.tokens[1]])
    play.nothing_else()


def test_a_running_job_its_node_no_longer_has_is_tried_again_as_a_new_attempt(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    node.say(Started([token]))
    node.joins()
    node.gets(Assign, attempts=[2])
    play.nothing_else()


def test_what_a_lost_node_says_later_is_answered_with_resync_and_discard(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit()
    a = node.gets(Assign)
    play.live(11, client)
    client.gets(Accepted)
    node.finishes(*a.tokens)
    node.gets(Resync)
    node.joins((a.tokens[0], a.jobs[0], 1))
    node.gets(Discard, tokens=a.tokens)
    node.gets(Assign, attempts=[2])
    play.nothing_else()


def test_a_new_incarnation_ends_the_old_ones_leases_at_once(play: CoordinatorPlay) -> None:
    old, client = play.node("n1"), play.client()
    client.submit()
    old.gets(Assign)
    new = play.node("n1", incarnation=2)
    new.gets(Assign, attempts=[2])
    client.gets_accepted(1)
    old.beat()
    old.gets(Resync)
    play.nothing_else()


def test_after_too_many_lost_nodes_a_job_is_lost_in_words() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(lost_node_retries=1))
    client = play.client()
    client.submit()
    client.gets_accepted(1)
    for life in (1, 2):
        play.node("n1", incarnation=life).gets(Assign, attempts=[life])
    play.node("n1", incarnation=3)
    text = client.gets_failure(1, Outcome.LOST).text
    assert "given up (lost_node_retries 1): attempt 1 on node n1: node n1 was lost (a new life" in text
    assert "attempt 2 on node n1" in text
    assert play.told("jobs_dead")
    play.nothing_else()
    play.nothing_kept()


def test_a_node_that_leaves_costs_its_jobs_nothing() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(lost_node_retries=0))
    node, client = play.node("n1"), play.client()
    client.submit()
    node.gets(Assign)
    node.say(Bye("told to stop"))
    assert play.told("node_left")
    client.gets_accepted(1)
    play.node("n2").gets(Assign, attempts=[2])
    play.nothing_else()


def test_a_jump_of_the_wall_clock_is_a_fact_and_moves_nothing(play: CoordinatorPlay) -> None:
    play.node("n1")
    play.turn(WallClockJumped(-3600.0), Drained())
    assert play.told("clock_jumped") and not play.told("node_lost")
    play.nothing_else()


# ------------------------------------------------------------------------------------ cancelling


def test_a_ready_job_is_cancelled_at_once(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(2)
    client.gets_accepted(2)
    client.cancel(1)
    assert client.gets_failure(1, Outcome.CANCELLED).kind == "Cancelled"
    play.node().gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


def test_a_placed_job_is_cancelled_if_its_node_gives_it_back(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    client.cancel(1)
    client.cancel(1)
    node.gets(Retract, tokens=[token])
    play.nothing_else()
    node.say(Returned([token], []))
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()
    play.nothing_kept()


def test_a_cancel_is_denied_if_the_node_has_begun(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    client.cancel(1)
    node.gets(Retract)
    node.say(Returned([], [token]))
    client.gets(NotCancelled, jobs=[client.job(1)])
    node.finishes(token)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_a_cancel_of_a_running_finished_or_unknown_job_is_denied(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    done, running = node.gets(Assign).tokens
    node.finishes(done)
    client.gets(Results)
    node.say(Started([running]))
    client.cancel(1, 2, 3)
    client.gets(NotCancelled, jobs=[client.job(n) for n in (1, 2, 3)])
    play.nothing_else()


def test_nobody_cancels_the_jobs_of_another_session(play: CoordinatorPlay) -> None:
    client, other = play.client(), play.client()
    client.submit()
    client.gets_accepted(1)
    other.say(Cancel([client.job(1)]))
    other.gets(NotCancelled)
    assert play.coordinator._admission.jobs == 1
    play.nothing_else()


def test_a_cancel_outlives_the_nodes_link(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    a = node.gets(Assign)
    client.gets_accepted(2)
    play.turn(Unroutable(node.route))
    client.cancel(1, 2)
    node.joins((a.tokens[0], a.jobs[0], 1))
    client.gets_failure(2, Outcome.CANCELLED)
    node.gets(Retract, tokens=a.tokens[:1])
    node.say(Returned(a.tokens[:1], []))
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()


def test_a_wish_for_many_comes_to_the_node_in_one_message_also_after_a_new_link(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=3), play.client()
    client.submit(3)
    a = node.gets(Assign)
    client.gets_accepted(3)
    client.cancel(1, 2, 3)
    node.gets(Retract, tokens=3)
    node.joins(*zip(a.tokens, a.jobs, a.attempts, strict=True))
    node.gets(Retract, tokens=3)
    play.nothing_else()


def test_a_job_wished_away_while_its_node_is_lost_is_cancelled(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    node.gets(Assign)
    client.gets_accepted(1)
    client.cancel(1)
    node.gets(Retract)
    node.say(Bye("leaves"))
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()


def test_one_job_named_twice_is_cancelled_once(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(2)
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(2)
    client.cancel(1, 1, 2, 2)
    client.gets_failure(2, Outcome.CANCELLED)
    node.gets(Retract, tokens=[token])
    node.say(Returned([token, token], [token]))
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()


def test_cancelled_jobs_do_not_pile_up_behind_one_that_waits(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit()
    client.gets_accepted(1)
    for _ in range(50):
        counters = client.submit(200)
        client.cancel(*counters)
        client.gets_results(*counters)
        client.beat()
    play.wait(0.1)
    assert play.coordinator._ready.count("default") < 5_000
    play.node().gets(Assign, jobs=[client.job(1)])
    play.nothing_else()


# ------------------------------------------------------------------------------------ dead letters


def crashed(node: FakeNode, token: int, end: End = End.CRASHED, how: str = "signal 11") -> None:
    node.finishes(token, payload=Failure("WorkerCrashed", f"the worker process died: {how}").encode(), outcome=end)


def test_a_job_whose_worker_died_runs_again_until_its_budget_is_spent(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit()
    for attempt in (1, 2, 3):
        assign = node.gets(Assign, attempts=[attempt])
        crashed(node, assign.tokens[0], how=f"signal {attempt}")
    failure = client.gets_failure(1)
    assert failure.kind == "WorkerCrashed"
    assert failure.text == (
        "the worker process died: signal 3. It is given up (crash_retries 2): "
        + "; ".join(f"attempt {n} on node n1: the worker process died: signal {n}" for n in (1, 2, 3))
    )
    (dead,) = play.told("jobs_dead")
    assert "app:task" in dead.text
    assert play.asks(client, "status")["dead_letters"] == 1
    play.nothing_else()
    play.nothing_kept()


def test_causes_are_counted_apart() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(lost_node_retries=1))
    client = play.client()
    client.submit(spec=replace(SPEC, rules=Rules(crash_retries=1, memory_retries=1)))
    node = play.node("n1", incarnation=1)
    crashed(node, node.gets(Assign).tokens[0])
    client.gets_accepted(1)
    crashed(node, node.gets(Assign).tokens[0], End.MEMORY)
    node.gets(Assign, attempts=[3])
    node = play.node("n1", incarnation=2)
    crashed(node, node.gets(Assign, attempts=[4]).tokens[0], End.MEMORY)
    assert "(memory_retries 1): attempt 1 on node n1" in client.gets_failure(1).text
    play.nothing_else()
    play.nothing_kept()


def test_without_a_budget_the_first_death_is_the_outcome(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(spec=replace(SPEC, rules=Rules(crash_retries=0)))
    crashed(node, node.gets(Assign).tokens[0])
    assert client.gets_failure(1).text == "the worker process died: signal 11"
    play.nothing_else()


def test_a_job_that_waits_to_run_again_can_be_cancelled(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.cancel(1)
    node.gets(Retract, tokens=[token])
    crashed(node, token)
    assert "before it ran again" in client.gets_failure(1, Outcome.CANCELLED).text
    play.nothing_else()


def test_an_unknown_topic_is_answered_in_words(play: CoordinatorPlay) -> None:
    client = play.client()
    client.say(Ask(5, "weather", {}))
    client.gets(Answer, ask=5, error="no topic is called 'weather'", body={})
    client.say(Ask(6, "\x00" * 60_000, {}))
    client.gets(Answer, ask=6)
    play.nothing_else()


def test_status_and_nodes_tell_the_figures(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2, labels={"gpu": "a100"}), play.client()
    client.submit(3)
    node.gets(Assign)
    client.gets_accepted(3)
    node.beat()
    status = play.asks(client, "status")
    assert (status["jobs"]["ready"], status["jobs"]["running"]) == (1, 2)
    assert (status["nodes"], status["slots"], status["busy"], status["sessions"]) == (1, 2, 2, 1)
    assert status["wall_s"] == play.now.wall, "others compare their clocks with it"
    row = play.asks(client, "nodes")["nodes"][0]
    assert (row["name"], row["state"], row["busy"], row["load"]) == ("n1", "up", 2, 0.5)
    assert row["labels"] == {"gpu": "a100"}
    play.nothing_else()


def test_vitals_of_any_shape_do_no_harm_to_those_who_ask(play: CoordinatorPlay) -> None:
    from cluster.messages import Heartbeat
    from tests.playbook import over_the_wire

    node, client = play.node(), play.client()
    deep: Any = 1
    for _ in range(508):
        deep = [deep]
    try:
        over_the_wire(node.link.header(), Heartbeat({"load": deep}))
        node.link.sent -= 1
        node.say(Heartbeat({"load": deep}))
    except ValueError:
        node.link.sent -= 1
    play.asks(client, "nodes")
    play.nothing_else()


# ------------------------------------------------------------------------------------ clients that go


def test_a_client_that_leaves_is_owed_nothing_and_its_jobs_go_on(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(2)
    first = node.gets(Assign).tokens
    client.say(Bye("done"))
    node.finishes(*first)
    node.finishes(*node.gets(Assign, jobs=[client.job(2)]).tokens)
    assert [f.about["reason"] for f in play.told("client_forgotten")] == ["it left"]
    play.wait(1.0)
    assert play.asks(play.client(), "status")["sessions"] == 1
    play.nothing_else()
    play.nothing_kept()


def test_a_client_of_an_earlier_epoch_is_not_resumed_until_it_has_heard_of_this_one(play: CoordinatorPlay) -> None:
    client = play.new_client()
    client.dial()
    client.deaf = True
    client.hello(accepted=7)
    client.deaf = False
    assert not client.joins(accepted=7).resumed
    assert client.joins(accepted=7).resumed
    play.nothing_else()


# ------------------------------------------------------------------------------------ blobs


def test_a_large_payload_is_held_until_its_job_ends(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    ref = client.hands_over(LONG_BLOB)
    client.submit(1, large=[ref])
    a = node.gets(Assign, large=[[0, *ref]], payloads=[b""])
    node.say(Fetch(*ref))
    assert node.gets_blob(ref[0]) == LONG_BLOB
    client.gets_accepted(1)
    node.finishes(*a.tokens)
    client.gets(Results)
    play.nothing_else()
    play.nothing_kept()


def test_credit_bounds_what_is_sent_ahead(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    data = bytes((CHUNKS_IN_FLIGHT + 2) * CHUNK_BYTES)
    ref = client.hands_over(data)
    client.submit(1, large=[ref])
    node.gets(Assign)
    node.say(Fetch(*ref))
    node.gets(Chunk, offset=0)
    play.nothing_else()  # until the answer to it: the node may have the blob, or most of it
    node.say(Taken(ref[0], CHUNK_BYTES))
    assert len(node.inbox) == CHUNKS_IN_FLIGHT
    node.say(Taken(ref[0], 2 * CHUNK_BYTES))
    assert len(node.inbox) == CHUNKS_IN_FLIGHT + 1


def test_two_clients_with_one_blob_each_get_their_job_run(play: CoordinatorPlay) -> None:
    node, a, b = play.node("n1", slots=2), play.client(), play.client()
    sha, size = sha_of(LONG_BLOB), len(LONG_BLOB)
    a.say(Chunk(sha, size, 0, LONG_BLOB[:CHUNK_BYTES]))
    a.gets(Taken, through=CHUNK_BYTES)
    b.say(Chunk(sha, size, 0, LONG_BLOB[:CHUNK_BYTES]))
    play.nothing_else()
    for offset in range(CHUNK_BYTES, size, CHUNK_BYTES):
        a.say(Chunk(sha, size, offset, LONG_BLOB[offset : offset + CHUNK_BYTES]))
    assert [a.gets(Taken).through for _ in range(2)][-1] == size
    b.gets(Taken, through=size)
    a.submit(1, large=[(sha, size)])
    node.finishes(*node.gets(Assign).tokens)
    a.gets(Results)
    b.submit(1, large=[(sha, size)])
    node.finishes(*node.gets(Assign).tokens)
    b.gets(Results)
    play.nothing_else()
    play.nothing_kept()


def test_who_waits_for_anothers_upload_starts_anew_when_that_one_leaves(play: CoordinatorPlay) -> None:
    a, b = play.client(), play.client()
    sha, size = sha_of(LONG_BLOB), len(LONG_BLOB)
    first = Chunk(sha, size, 0, LONG_BLOB[:CHUNK_BYTES])
    a.say(first)
    a.gets(Taken)
    b.say(first)
    a.say(Bye("gone"))
    play.wait(0.5)
    b.gets(Taken, sha=sha, through=0)
    b.hands_over(LONG_BLOB)
    play.nothing_else()


def test_an_upload_goes_on_over_links(play: CoordinatorPlay) -> None:
    client = play.client()
    sha, size = sha_of(LONG_BLOB), len(LONG_BLOB)
    client.say(Chunk(sha, size, 0, LONG_BLOB[:CHUNK_BYTES]))
    client.gets(Taken)
    client.joins()
    client.say(Chunk(sha, size, 0, LONG_BLOB[:CHUNK_BYTES]))
    client.gets(Taken, through=CHUNK_BYTES)
    for offset in range(CHUNK_BYTES, size, CHUNK_BYTES):
        client.say(Chunk(sha, size, offset, LONG_BLOB[offset : offset + CHUNK_BYTES]))
        client.gets(Taken, through=min(size, offset + CHUNK_BYTES))
    play.nothing_else()


def test_a_download_goes_on_over_links_whatever_was_lost(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    node.finishes_large(node.gets(Assign).tokens[0], LONG_BLOB)
    ref = client.gets(Results).large[0][1:]
    client.say(Fetch(*ref))
    client.gets(Chunk, offset=0)
    client.say(Taken(ref[0], 2 * CHUNK_BYTES))
    client.inbox.clear()
    client.joins(accepted=1)
    assert client.gets(Chunk).offset == 0, "who receives may have lost what it had"
    client.inbox.clear()
    client.say(Taken(ref[0], ref[1]))
    play.nothing_else()
    play.nothing_kept()


def test_a_blob_of_the_wrong_bytes_is_refused(play: CoordinatorPlay) -> None:
    client = play.client()
    client.say(Chunk(sha_of(b"right"), 5, 0, b"wrong"))
    assert "do not match" in client.gets(BlobRefused).reason
    assert not play.disk.parts
    play.nothing_else()


def test_a_chunk_that_does_not_fit_ends_the_upload_and_no_other(play: CoordinatorPlay) -> None:
    client = play.client()
    for n in range(20):
        sha = sha_of(b"%d" % n)
        client.say(Chunk(sha, 10, 0, b"12345"))
        client.gets(Taken)
        client.say(Chunk(sha, 11, 5, b"12345"))
        client.gets(BlobRefused)
    assert not play.disk.parts
    client.hands_over(BLOB)
    play.nothing_else()


def test_uploads_given_up_by_their_sender_leave_nothing(play: CoordinatorPlay) -> None:
    client = play.client()
    for n in range(20):
        sha = sha_of(b"%d" % n)
        client.say(Chunk(sha, 10, 0, b"12345"))
        client.gets(Taken)
        client.say(Chunk(sha, 0, 0, b""))
        client.gets(Taken, sha=sha, through=0)
    assert not play.disk.parts
    client.hands_over(BLOB)
    play.nothing_else()


def test_a_blob_over_the_limit_is_refused_with_the_figure(play: CoordinatorPlay) -> None:
    client = play.client()
    client.say(Chunk(bytes(32), 1 << 31, 0, b"x"))
    assert str(1 << 31) in client.gets(BlobRefused).reason
    play.nothing_else()


def test_a_full_disk_refuses_the_blob_in_words(play: CoordinatorPlay) -> None:
    client = play.client()
    play.disk.failing[sha_of(BLOB)] = "cannot be written: No space left on device"
    client.say(Chunk(sha_of(BLOB), len(BLOB), 0, BLOB))
    client.gets(BlobRefused, reason="cannot be written: No space left on device")
    play.nothing_else()


def test_a_result_that_did_not_arrive_is_a_lost_job(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    node.say(Finished([token], [0], [b""], [[0, bytes(32), 100_000]], [1], [1]))
    assert "its result did not arrive" in client.gets_failure(1, Outcome.LOST).text
    play.nothing_else()


def test_a_held_job_s_blob_is_kept_till_it_is_handed_in_or_withdrawn() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_jobs=0))
    client = play.client()
    sha, size = client.hands_over(BLOB)
    client.submit(1, large=[(sha, size)])
    client.gets(Hold, through=0)
    assert play.disk.blobs
    client.say(Chunk(sha, 0, 0, b""))
    client.gets(Taken, sha=sha, through=0)
    play.nothing_else()
    play.nothing_kept()


def test_rows_that_share_a_blob_with_a_refused_row_keep_it(play: CoordinatorPlay) -> None:
    client = play.client()
    ref = client.hands_over(BLOB)
    client.say(Submit(1, [b"\xc1", SPEC.encode()], [0, 1], [b"", b""], [[0, *ref], [1, *ref]], [], [""] * 2, []))
    client.gets_failure(1)
    assert play.coordinator._admission.jobs == 1 and play.disk.blobs
    play.nothing_else()


def test_the_late_result_of_a_large_blob_keeps_nothing(play: CoordinatorPlay) -> None:
    node = play.node()
    node.finishes_large(4711, BLOB)
    node.gets(Discard)
    play.nothing_else()
    play.nothing_kept()


def test_a_client_that_leaves_takes_its_blobs_along(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    a, b = node.gets(Assign).tokens
    node.finishes_large(a, BLOB)
    client.gets(Results)
    client.hands_over(LONG_BLOB)
    client.say(Bye("done"))
    node.finishes_large(b, LONG_BLOB)
    play.nothing_else()
    play.nothing_kept()


def test_a_blob_that_cannot_be_read_is_refused_to_its_reader(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    ref = client.hands_over(BLOB)
    client.submit(1, large=[ref])
    node.gets(Assign)
    play.disk.failing[ref[0]] = "cannot be read: Input/output error"
    node.say(Fetch(*ref))
    node.gets(BlobRefused)
    client.gets_accepted(1)
    node.say(Fetch(bytes(32), 5))
    node.gets(BlobRefused, reason="the coordinator does not have it")
    play.nothing_else()


# ------------------------------------------------------------------------------------ garbage


def test_unreadable_messages_are_counted_by_reason(play: CoordinatorPlay) -> None:
    play.turn(*[Garbled(b"r", CLIENT_KEY, "not msgpack")] * 3, Garbled(b"r", CLIENT_KEY, "unknown kind"))
    assert [f.n for f in play.told("garbled")] == [3, 1]
    play.nothing_else()


def test_messages_of_the_other_role_are_dropped_and_told(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    node.say(Submit(1, [SPEC.encode()], [0], [b""], [], [], [""], []))
    client.say(Finished([1], [0], [b""], [], [1], [1]))
    client.say(Started([1]))
    assert [f.about["reason"].split()[0] for f in play.told("unexpected")] == ["Submit", "Finished", "Started"]
    play.nothing_else()


@pytest.mark.parametrize("labels", [{}, {"ab": 1}, [{"a": 1, "b": 2}], ["ab"], "ab", [["a", "b"]] * 2])
def test_labels_of_the_wrong_shape_harm_nobody(play: CoordinatorPlay, labels: Any) -> None:
    import msgpack

    raw = msgpack.packb(["n", False, b"", 0, "default", "", "", labels])
    client = play.client()
    client.say(Submit(1, [raw], [0], [b""], [], [], [""], []))
    play.node()


def test_a_size_no_message_can_carry_harms_no_node(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(1, Spec("f", True, client.hands_over(BLOB)[0], (1 << 64) - 1))
    client.gets_failure(1)
    node.gets_nothing()


def test_no_message_to_a_node_is_over_the_limit_whatever_clients_hand_in(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=8), play.client()
    with play.one_turn():
        for n in range(4):
            try:
                client.submit(1, Spec("f", False, bytes(1_200_000) + bytes([n])))
            except ValueError:
                client.link.sent -= 1
    node.inbox.clear()  # what came passed the codec


class Chaos:
    """Three peers that say anything, and events of the host that mean nothing."""

    def __init__(self) -> None:
        self.play = CoordinatorPlay(limits=CoordinatorLimits(max_jobs=30))
        self.clients = [self.play.client(), self.play.client()]
        self.peers: list[FakeNode | FakeClient] = [self.play.node("n1", slots=3), *self.clients]

    def says(self, who: int, message: Message) -> None:
        peer = self.peers[who]
        peer.lenient = True
        peer.inbox.clear()
        peer.beat()
        if any(isinstance(m, Resync | Refusal) for m in peer.inbox):
            peer.dial()
            peer.hello()
        if isinstance(message, ClientHello | NodeHello):
            peer.greet(message)
        else:
            peer.say(message)

    def event(self, what: int, sha: bytes, n: int) -> None:
        events: list[Any] = [
            ChunkWritten(sha, n),
            ChunkRead(sha, n, b"x"),
            BlobFailed(sha, "chaos"),
            Unroutable(self.peers[n % 3].route),
            Unroutable(b"nowhere"),
            Stalled(float(n)),
            Drained(),
        ]
        self.play.turn(events[what])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_nothing_that_peers_say_raises(data: st.DataObject) -> None:
    chaos = Chaos()
    held: list[int] = []
    for _ in range(data.draw(st.integers(1, 25))):
        for message in chaos.peers[0].inbox:
            if isinstance(message, Assign):
                held += message.tokens
        what = data.draw(st.integers(0, 9))
        if what < 5:
            message = data.draw(any_message())
            tokens = getattr(message, "tokens", None)
            if tokens and held and data.draw(st.booleans()):
                message.tokens = [data.draw(st.sampled_from(held)) for _ in tokens]  # type: ignore[attr-defined]
            chaos.says(data.draw(st.integers(0, 2)), message)
        elif what == 5:
            n = data.draw(st.integers(0, 1))
            chaos.says(1 + n, chaos.clients[n].submission(data.draw(st.integers(1, 5))))
        elif what == 6:
            sha = data.draw(st.sampled_from([sha_of(b"a"), sha_of(b"b"), bytes(32)]))
            chaos.event(data.draw(st.integers(0, 6)), sha, data.draw(st.integers(0, 3)))
        elif what == 7:
            chaos.play.wait(data.draw(st.sampled_from([0.01, 1.0, 4.0, 11.0])))
        else:
            n = data.draw(st.integers(0, 1))
            counters = data.draw(st.lists(st.integers(0, 6), max_size=5))
            chaos.says(1 + n, Cancel([chaos.clients[n].job(c) for c in counters]))
    live = sum(len(c.jobs) for c in chaos.play.coordinator._clients)
    ready, leased = len(chaos.play.coordinator._ready), sum(len(n.leases) for n in chaos.play.coordinator._roster)
    assert chaos.play.coordinator._admission.jobs == live == ready + leased


def test_who_waits_for_the_upload_of_a_silent_client_sends_it_itself(play: CoordinatorPlay) -> None:
    silent, other = play.client(), play.client()
    sha, size = sha_of(LONG_BLOB), len(LONG_BLOB)
    first = Chunk(sha, size, 0, LONG_BLOB[:CHUNK_BYTES])
    silent.say(first)
    silent.gets(Taken)
    other.say(first)
    play.live(5, other)
    other.gets(Taken, sha=sha, through=0)
    silent.gets(Taken, sha=sha, through=0)
    other.hands_over(LONG_BLOB)
    play.nothing_else()


# ------------------------------------------------------------------------------------ facts


def test_what_became_of_jobs_is_told_with_counts_once_a_turn(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4), play.client()
    client.submit(5)
    tokens = node.gets(Assign).tokens
    assert [(f.kind, f.n) for f in play.facts if f.kind.startswith("jobs")] == [
        ("jobs_accepted", 5),
        ("jobs_assigned", 4),
    ]
    play.facts.clear()
    with play.one_turn():
        node.say(Finished(tokens[:3], [0, 1, 0], [b""] * 3, [], [1] * 3, [1] * 3))
        node.say(Returned(tokens[3:], []))
    finished = [(f.n, f.about["outcome"]) for f in play.told("jobs_finished")]
    assert finished == [(2, "succeeded"), (1, "failed")]
    assert [f.n for f in play.told("jobs_requeued")] == [1]
