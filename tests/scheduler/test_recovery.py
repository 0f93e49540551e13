"""The coordinator after a restart: what it takes up, who it waits for, and what it tells those who come back."""

from __future__ import annotations

import pytest

from cluster.actor import Unroutable
from cluster.config import CoordinatorLimits, Times
from cluster.jobs import Failure, Outcome, Rules, Spec
from cluster.messages import (
    Assign,
    Awaiting,
    Bye,
    Discard,
    Draining,
    Fetch,
    GoOn,
    Hold,
    NotCancelled,
    Refusal,
    Results,
    Returned,
    Started,
    Welcome,
)
from scheduler.journal import SpaceMeasured
from scheduler.lifecycle import State
from tests.playbook import SPEC, CoordinatorPlay, sha_of

ONCE = Spec("app:pay", False, b"pickled reference", rules=Rules(at_most_once=True))
VOLATILE = Spec("app:task", False, b"pickled reference", durable=False)


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def test_what_was_accepted_is_run_after_a_restart(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(3)
    client.gets_accepted(3)
    play.restart()
    node = play.node(slots=3)
    assign = node.gets(Assign)
    assert assign.jobs == [client.job(c) for c in (1, 2, 3)]
    assert assign.payloads == [b"args"] * 3
    welcome = client.joins(accepted=3)
    assert (welcome.epoch, welcome.resumed, welcome.accepted, welcome.kept) == (2, False, 3, True)
    node.finishes(*assign.tokens)
    client.gets_results(1, 2, 3, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_a_resend_of_what_a_life_before_had_accepted_makes_no_job(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(2)
    play.restart()
    client.joins(accepted=0)
    client.say(client.submission(3, first=1))
    client.gets_accepted(3)
    node = play.node(slots=9)
    assert node.gets(Assign).jobs == [client.job(c) for c in (1, 2, 3)]
    play.nothing_else()


def test_a_running_attempt_is_adopted_under_its_old_token_and_its_result_counts(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    assign = node.gets(Assign)
    client.gets_accepted(1)
    play.restart()
    node.joins((assign.tokens[0], client.job(1), 1))
    client.joins(accepted=1)
    node.finishes(assign.tokens[0], payload=b"worth it")
    assert client.gets_results(1).payloads == [b"worth it"]
    play.nothing_else()


def test_jobs_wait_for_the_word_of_every_node_that_may_hold_them(play: CoordinatorPlay) -> None:
    client = play.client()
    first, second = play.node("n1"), play.node("n2")
    client.submit(2)
    one, two = first.gets(Assign), second.gets(Assign)
    client.gets_accepted(2)
    play.restart()
    first.joins()  # it was restarted too, or never got it
    play.nothing_else()
    second.joins((two.tokens[0], two.jobs[0], 1))
    again = first.gets(Assign)
    assert again.jobs == one.jobs
    play.nothing_else()


def test_a_node_that_does_not_come_back_is_waited_for_as_long_as_its_lease_can_last(play: CoordinatorPlay) -> None:
    client = play.client()
    gone = play.node("gone")
    client.submit()
    gone.gets(Assign)
    client.gets_accepted(1)
    play.restart()
    fresh = play.node("fresh")
    play.live(9, fresh)
    play.nothing_else()
    play.live(2, fresh)
    assert fresh.gets(Assign).jobs == [client.job(1)]


def test_a_later_life_of_the_agent_ends_the_wait_at_once(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node("n1")
    client.submit()
    node.gets(Assign)
    client.gets_accepted(1)
    play.restart()
    later = play.new_node("n1", incarnation=2, previous=node.session)
    later.joins()
    assert later.gets(Assign).jobs == [client.job(1)]


def test_of_two_nodes_that_hold_one_job_the_later_token_has_the_right_to_it(play: CoordinatorPlay) -> None:
    client = play.client()
    slow, quick = play.new_node("slow"), play.new_node("quick")
    slow.joins()
    client.submit()
    old = slow.gets(Assign)
    client.gets_accepted(1)
    play.wait(11)  # slow is given up
    quick.joins()
    new = quick.gets(Assign)
    assert new.tokens[0] > old.tokens[0]
    play.restart()
    slow.joins((old.tokens[0], client.job(1), 1))
    quick.joins((new.tokens[0], client.job(1), 2))
    slow.gets(Discard, tokens=old.tokens)
    client.joins(accepted=1)
    slow.finishes(old.tokens[0], payload=b"late")
    slow.gets(Discard, tokens=old.tokens)
    quick.finishes(new.tokens[0], payload=b"right")
    assert client.gets_results(1).payloads == [b"right"]
    play.nothing_else()


def test_a_client_that_was_away_gets_the_outcome_of_what_ended_before_the_restart(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    assign = node.gets(Assign)
    node.finishes(assign.tokens[0], payload=b"kept")
    client.gets(Results)  # and it goes down before it has read this
    play.restart()
    welcome = client.joins(accepted=1)
    assert welcome.kept and not welcome.resumed
    client.say(Awaiting([1]))
    assert client.gets_results(1).payloads == [b"kept"]
    play.nothing_else()


def test_a_large_result_outlives_the_restart(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    data = b"r" * 300_000
    node.finishes_large(node.gets(Assign).tokens[0], data)
    client.gets(Results)
    play.restart()
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    row = client.gets(Results)
    _, sha, size = row.large[0]
    client.say(Fetch(sha, size))
    assert client.gets_blob(sha) == data


def test_an_outcome_that_is_not_kept_any_more_is_said_to_have_expired(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    node.finishes(node.gets(Assign).tokens[0])
    client.gets(Results)
    assert play.store is not None
    play.rows_on_disk.rows.outcomes.clear()
    play.restart()
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    assert client.gets_failure(1).kind == "ResultExpired"


def test_what_is_not_durable_leaves_no_row(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit(2, spec=VOLATILE)
    node.finishes(node.gets(Assign).tokens[0])
    assert play.store is not None
    disk = play.rows_on_disk.rows
    assert not disk.jobs and not disk.outcomes and not disk.sessions and not disk.specs


def test_counters_of_what_is_not_durable_are_taken_from_the_client(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(2)
    client.submit(2, spec=VOLATILE)
    client.gets_accepted(4)
    play.restart()
    welcome = client.joins(accepted=4)
    assert (welcome.accepted, welcome.kept) == (4, True)
    client.submit(first=5)
    client.gets_accepted(5)
    node = play.node(slots=9)
    assert node.gets(Assign).jobs == [client.job(c) for c in (1, 2, 5)]


def test_another_key_cannot_take_a_session_that_is_kept(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit()
    client.gets_accepted(1)
    play.restart()
    thief = play.new_client(identity=client.identity._replace(key="another"))
    thief.session = client.session
    thief.dial()
    thief.hello(accepted=1)
    assert "belongs to another key" in thief.gets(Refusal, code="name").text


def test_a_cancel_wished_while_nobody_knows_who_holds_the_job_is_kept_in_mind(play: CoordinatorPlay) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    node.gets(Assign)
    client.gets_accepted(1)
    play.restart()
    client.joins(accepted=1)
    client.cancel(1)
    play.nothing_else()
    node.joins()
    assert client.gets_failure(1, Outcome.CANCELLED).kind == "Cancelled"
    play.nothing_else()


def test_an_attempt_that_is_known_to_be_over_does_not_take_the_job_from_the_next_one(play: CoordinatorPlay) -> None:
    """Its node has not heard that its word came; the next attempt has succeeded on another, which is not back yet."""
    client, slow, quick = play.client(), play.node("n1"), play.new_node("n2")
    client.submit(spec=Spec("f", False, b"f", rules=Rules(retries=1, retry_delay_s=0.0)))
    client.gets_accepted(1)
    first = slow.runs(client.job(1))
    slow.say(Draining("told to stop"))
    quick.joins()
    slow.raises(first)
    play.wait(0.01)
    second = quick.runs(client.job(1), attempt=2)
    play.restart()
    client.joins(accepted=1)
    slow.joins((first, client.job(1), 1))
    slow.gets(Discard, tokens=[first])
    play.nothing_else()
    quick.joins((second, client.job(1), 2))
    quick.finishes(second)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_lost_nodes_are_counted_across_restarts(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit()
    client.gets_accepted(1)
    for n in range(4):
        node = play.new_node(f"n{n}")
        node.joins()
        node.gets(Assign)
        play.wait(11)
        play.restart()
        play.wait(0.1)
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    failure: Failure = client.gets_failure(1, Outcome.LOST)
    assert "given up (lost_node_retries 3)" in failure.text and "attempt 4 on node n3" in failure.text


def test_a_refused_job_keeps_its_refusal(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=Spec("app:task", False, b"x", namespace="elsewhere"))
    client.gets(Results)
    play.restart()
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    assert client.gets_failure(1).kind == "JobRefused"


def test_without_a_store_nothing_is_written_and_nothing_is_adrift() -> None:
    play = CoordinatorPlay()
    client = play.client()
    node = play.node()
    client.submit(spec=SPEC)
    node.finishes(node.gets(Assign).tokens[0])
    client.gets_results(1)
    assert all(job.state is not State.ADRIFT for c in play.coordinator._clients for job in c.jobs.values())


# ------------------------------------------------------------------------------------ bounds


def test_at_the_watermark_submissions_wait_outcomes_are_taken_and_room_opens_it_again(
    play: CoordinatorPlay,
) -> None:
    client = play.client()
    node = play.node()
    client.submit()
    assign = node.gets(Assign)
    client.gets_accepted(1)
    play.turn(SpaceMeasured(1000))
    play.turn(SpaceMeasured(900))
    assert len(play.told("disk_low")) == 1
    client.submit()
    reason = client.gets(Hold, through=1).reason
    assert "1000 bytes are free" in reason and "min_free_bytes" in reason
    node.finishes(assign.tokens[0])
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.turn(SpaceMeasured(1 << 30))
    assert len(play.told("disk_well")) == 1
    client.gets(GoOn)
    client.say(client.submission(1, first=2))
    node.gets(Assign, jobs=[client.job(2)])
    client.gets_accepted(2)


# ------------------------------------------------------------------------------------ found by the simulator


def test_a_stranger_that_claims_the_name_of_a_node_not_yet_back_has_to_wait(play: CoordinatorPlay) -> None:
    client = play.client()
    holder = play.node("n1", lock="its own")
    client.submit()
    holder.gets(Assign)
    client.gets_accepted(1)
    play.restart()
    rival = play.new_node("n1", lock="another", incarnation=7)
    rival.dial()
    rival.hello()
    play.nothing_else()
    play.wait(11)
    rival.hello()
    rival.gets(Welcome)
    assert rival.gets(Assign).jobs == [client.job(1)]


def test_restarts_multiply_no_specs_and_no_holds_on_their_code(play: CoordinatorPlay) -> None:
    code = b"c" * 300_000
    spec = Spec("app:task", True, sha_of(code), len(code))
    client = play.client()
    for n in range(3):
        client.hands_over(code)
        client.submit(spec=spec)
        client.gets_accepted(n + 1)
        play.restart()
        client.joins(accepted=n + 1)
    assert len(play.rows_on_disk.rows.specs) == 1
    assert len(play.coordinator._functions._records) == 1


def test_a_cancel_sent_again_after_a_restart_is_not_denied_if_it_was_granted_before(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(2)
    client.cancel(1)
    client.gets_failure(1, Outcome.CANCELLED)  # and it goes down before it has read this
    node = play.node()
    node.finishes(node.gets(Assign).tokens[0])
    client.gets(Results)
    play.restart()
    client.joins(accepted=2)
    client.cancel(1, 2)
    client.gets(NotCancelled, jobs=[client.job(2)])
    play.nothing_else()


def test_a_session_that_was_forgotten_with_nothing_left_to_do_is_told_so_until_it_answers() -> None:
    play = CoordinatorPlay(times=Times(session_s=30.0), durable=True)
    node, client = play.node(slots=2), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    client.deaf = True
    node.finishes(token)
    play.live(31, node)
    client.dial()
    client.hello(accepted=1)  # the answer to this one is lost
    client.deaf = False
    assert not client.joins(accepted=1).resumed
    client.say(Awaiting([1]))
    client.gets_results(1)


# ------------------------------------------------------------------------------------ at most once


def test_a_job_that_must_not_start_twice_is_lost_with_its_node_in_words(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=ONCE)
    node.gets(Assign, jobs=1)
    client.gets_accepted(1)
    play.wait(11)
    failure = client.gets_failure(1, Outcome.LOST)
    assert failure.kind == "JobLost" and "may have started, and must not start twice" in failure.text
    assert play.told("jobs_dead")
    play.node("n2")
    play.nothing_else()


def test_a_closed_connection_alone_does_not_end_the_lease_of_what_must_not_start_twice(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=ONCE)
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    play.turn(Unroutable(node.route))
    play.wait(9)
    play.nothing_else()
    node.joins((token, client.job(1), 1))
    node.finishes(token)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)


def test_its_own_agent_s_word_that_it_never_started_it_makes_it_ready_again(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=ONCE)
    first = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    node.say(Returned([first], []))
    second = node.gets(Assign, attempts=[1]).tokens[0]
    node.joins()  # and this one never arrived
    third = node.gets(Assign).tokens[0]
    assert first < second < third
    node.say(Started([third]))
    node.joins()  # it had it, and has it no more
    assert "may have started" in client.gets_failure(1, Outcome.LOST).text
    play.nothing_else()


def test_a_node_that_leaves_takes_what_it_may_have_started_with_it(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1", slots=2)
    client.submit(2, spec=ONCE)
    tokens = node.gets(Assign).tokens
    client.gets_accepted(2)
    node.say(Returned([tokens[0]], []))
    node.gets(Assign, jobs=[client.job(1)])
    node.say(Bye("told to stop"))
    client.gets_results(1, 2, outcome=Outcome.LOST)


def test_it_is_never_placed_ahead_of_need(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=ONCE)
    node.finishes(node.gets(Assign).tokens[0], run_us=10)
    client.gets(Results)
    client.submit(5, spec=ONCE)
    node.gets(Assign, jobs=1)
    play.nothing_else()


def test_a_crash_is_its_end(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=ONCE)
    node.finishes(node.gets(Assign).tokens[0], payload=Failure("WorkerCrashed", "signal 11").encode(), outcome=2)
    assert client.gets_failure(1).kind == "WorkerCrashed"
    play.nothing_else()


def test_after_a_restart_the_session_that_may_have_started_it_decides(play: CoordinatorPlay) -> None:
    client, node, other = play.client(), play.node("n1", slots=2), play.node("n2", slots=1)
    client.submit(3, spec=ONCE)
    here = node.gets(Assign)
    there = other.gets(Assign)
    client.gets_accepted(3)
    play.restart()
    node.joins((here.tokens[0], here.jobs[0], 1))
    play.nothing_else()
    later = play.new_node("n2", incarnation=9, previous=other.session)
    later.joins()
    assert later.gets(Assign).jobs == [here.jobs[1]], "n1 has said that it never had it"
    client.joins(accepted=3)
    lost = client.gets_results(int.from_bytes(there.jobs[0][8:], "big"), outcome=Outcome.LOST)
    assert "did not come back after a restart" in Failure.decode(lost.payloads[0]).text
    play.nothing_else()


def test_what_was_never_assigned_is_run_after_a_restart(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=ONCE)
    client.gets_accepted(1)
    play.restart()
    play.node("n1").gets(Assign, jobs=[client.job(1)])


def test_what_is_not_durable_cannot_be_at_most_once(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=Spec("app:pay", False, b"x", durable=False, rules=Rules(at_most_once=True)))
    assert "must be durable" in client.gets_failure(1).text


# ------------------------------------------------------------------------------------ deep queues


def deep(most: int = 100) -> CoordinatorPlay:
    return CoordinatorPlay(durable=True, limits=CoordinatorLimits(payload_memory_bytes=most))


def test_payloads_of_a_deep_queue_are_read_again_before_their_turn() -> None:
    play = deep()
    client = play.client()
    for n in range(8):
        client.submit(payload=b"%d" % n * 50)
    client.gets_accepted(8)
    assert play.coordinator._payloads.bytes <= 150
    assert play.coordinator._payloads.absent == 6
    node = play.node("n1")
    for n in range(8):
        assign = node.gets(Assign, payloads=[b"%d" % n * 50])
        node.finishes(*assign.tokens)
        client.gets_results(n + 1)
    assert (play.coordinator._payloads.bytes, play.coordinator._payloads.absent) == (0, 0)
    play.nothing_else()


def test_a_job_that_comes_back_has_its_payload_read_again() -> None:
    play = deep(10)
    client, node = play.client(), play.node("n1")
    client.submit(payload=b"x" * 50)
    token = node.gets(Assign, payloads=[b"x" * 50]).tokens[0]
    client.gets_accepted(1)
    assert play.coordinator._payloads.bytes == 0
    node.say(Returned([token], []))
    node.gets(Assign, payloads=[b"x" * 50])
    play.nothing_else()


def test_a_restart_reads_only_so_many_payloads_and_the_rest_in_time() -> None:
    play = deep()
    client = play.client()
    client.submit(6, payload=b"y" * 50)
    client.gets_accepted(6)
    play.restart(payloads=2)
    assert (play.coordinator._payloads.bytes, play.coordinator._payloads.absent) == (100, 4)
    node = play.node("n1", slots=6)
    assert node.gets(Assign, jobs=2).payloads == [b"y" * 50] * 2
    assert node.gets(Assign, jobs=4).payloads == [b"y" * 50] * 4
