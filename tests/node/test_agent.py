"""Plays of the agent: what it has run, what it says to the coordinator, and that it says nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.actor import Drained, Garbled, Rejected, Stalled, Stop, WallClockJumped
from cluster.blobs import BlobFailed, ChunkRead, ChunkWritten
from cluster.config import CHUNK_BYTES, LEASE_MARGIN, PROTOCOL, AgentLimits, Times
from cluster.ids import job_id
from cluster.jobs import End, Failure, Rules, Spec
from cluster.messages import (
    Accepted,
    Assign,
    BlobRefused,
    Bye,
    Chunk,
    Discard,
    Draining,
    Fetch,
    Finished,
    Heartbeat,
    Interrupt,
    NodeHello,
    Pulse,
    Refusal,
    Resync,
    Retract,
    Returned,
    Saved,
    Started,
    Taken,
)
from node.agent import LeaveWished, VitalsTaken
from node.attempts import Phase
from node.events import (
    Done,
    Give,
    InterruptWorker,
    KillWorker,
    Look,
    Recall,
    Recalled,
    Seen,
    SpawnWorker,
    StateSaved,
    WorkerDone,
    WorkerGone,
    WorkerUp,
)
from tests.playbook import CLIENT_KEY, SPEC, START, SUCCEEDED, AgentPlay, any_message, sha_of

BLOB = bytes(range(256)) * 400
LONG_BLOB = b"0123456789abcdef" * (5 * CHUNK_BYTES // 32)
CODE = b"pickled function"
BY_VALUE = Spec("app:f", True, sha_of(CODE), len(CODE))
REF = (sha_of(BLOB), len(BLOB))


@pytest.fixture
def play() -> AgentPlay:
    """One slot, registered, its worker ready."""
    play = AgentPlay()
    play.registers()
    play.nothing_else()
    return play


def two_slots(**limits: Any) -> AgentPlay:
    play = AgentPlay(2, AgentLimits(**limits))
    play.registers()
    return play


def gets_results(play: AgentPlay, *tokens: int) -> Finished:
    got = play.coordinator.gets(Finished)
    assert got.tokens == list(tokens)
    return got


def gets_failure(play: AgentPlay, token: int, kind: str) -> str:
    got = gets_results(play, token)
    assert got.ends != [End.SUCCEEDED]
    failure = Failure.decode(got.payloads[0])
    assert failure.kind == kind
    return failure.text


def rejoins(play: AgentPlay) -> NodeHello:
    """The connection is cut and made anew; the hello that names what is held."""
    play.disconnect()
    play.connect()
    hello = play.coordinator.gets(NodeHello)
    play.coordinator.welcomes()
    return hello


# ------------------------------------------------------------------------------------ registering


def test_it_says_who_it_is_and_starts_a_worker_a_slot() -> None:
    play = AgentPlay(slots=2)
    play.connect()
    hello = play.coordinator.gets(NodeHello, protocol=PROTOCOL, name="n1", incarnation=7, slots=2, python="3.11")
    assert hello.labels == {"gpu": "a100"} and hello.tokens == []
    play.does(SpawnWorker, slot=0)
    play.does(SpawnWorker, slot=1)
    play.coordinator.welcomes()
    assert play.told("registered")
    play.nothing_else()


def test_an_unanswered_hello_is_repeated_on_a_new_link_each_time() -> None:
    play = AgentPlay()
    play.connect()
    for link in range(1, 5):
        assert play.coordinator.link.number == link
        play.coordinator.gets(NodeHello)
        play.wait(2.0 if link > 3 else 0.25 * 2 ** (link - 1))
    play.coordinator.gets(NodeHello)


def test_a_refusal_stops_it_with_the_coordinators_words() -> None:
    play = AgentPlay()
    play.connect()
    play.coordinator.gets(NodeHello)
    play.coordinator.say(Refusal("name", "a node named n1 is here already"))
    play.does(SpawnWorker)
    assert play.does(Stop, error=True).reason == "a node named n1 is here already"
    play.wait(10.0)
    play.nothing_else()


def test_a_rejected_key_stops_it() -> None:
    play = AgentPlay()
    play.turn(Rejected("the server's key is another"))
    play.does(Stop, error=True)
    play.does(SpawnWorker)
    play.nothing_else()


def test_it_beats_with_its_vitals(play: AgentPlay) -> None:
    play.turn(VitalsTaken({"load": 0.25}))
    play.wait(1.0)
    beat = play.coordinator.gets(Heartbeat)
    assert beat.vitals == {"load": 0.25, "wall_s": play.now.wall}
    (fact,) = play.told("node_measured")
    assert fact.about["vitals"] == {"load": 0.25} and fact.about["figures"]["slots_busy"] == 0
    play.coordinator.live(5)
    assert len(play.coordinator.inbox) == 5 and set(map(type, play.coordinator.inbox)) == {Heartbeat}


def test_a_coordinator_that_no_longer_answers_is_greeted_anew(play: AgentPlay) -> None:
    play.wait(3.0)
    for _ in range(3):
        play.coordinator.gets(Heartbeat)
    play.nothing_else()
    play.wait(0.5)
    play.coordinator.gets(NodeHello)


def test_a_silence_is_told_once_with_its_kind_and_so_is_its_end(play: AgentPlay) -> None:
    play.disconnect()
    play.wait(1.9)
    assert not play.told("link_down")
    play.wait(10.0)
    (said,) = play.told("link_down")
    assert said.text == "the coordinator is not heard since 2 s: there is no connection"
    play.connect()
    play.coordinator.gets(NodeHello)
    assert not play.told("link_back")
    play.coordinator.welcomes()
    assert [f.text for f in play.told("link_back")] == ["registered again after 11.9 s"]
    play.coordinator.deaf = True
    play.wait(20.0)
    (said,) = play.told("link_down")
    assert "it does not answer" in said.text


def test_a_short_cut_is_not_spoken_of(play: AgentPlay) -> None:
    play.told("registered"), play.told("worker_started")
    for _ in range(5):
        play.disconnect()
        play.wait(1.5)
        play.connect()
        play.coordinator.gets(NodeHello)
        play.coordinator.welcomes()
    assert {f.kind for f in play.facts} == {"registered"}


def test_a_coordinator_that_is_not_there_at_the_start_is_told_too() -> None:
    play = AgentPlay()
    play.wait(30.0)
    assert len(play.told("link_down")) == 1
    play.connect()
    play.coordinator.gets(NodeHello, previous=b"previous", lock="lock")
    play.wait(60.0)
    assert not play.told("link_down"), "one silence is one word"


def test_a_stall_of_our_own_is_not_the_coordinators_silence(play: AgentPlay) -> None:
    play.wait(1.0)
    play.now = play.now._replace(mono=play.now.mono + 60)
    play.turn(Stalled(60.0), Drained())
    for _ in range(2):
        play.coordinator.gets(Heartbeat)
    play.nothing_else()


def test_a_gap_or_a_resync_makes_it_join_again(play: AgentPlay) -> None:
    play.coordinator.lose(Pulse())
    play.coordinator.say(Pulse())
    play.coordinator.gets(NodeHello)
    play.coordinator.welcomes()
    play.coordinator.say(Resync("not known here"))
    play.coordinator.gets(NodeHello)
    play.coordinator.say(Pulse())  # says nothing: the link does not stand
    play.nothing_else()


def test_an_acknowledgement_goes_out_soon(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.wait(0.03)
    assert play.coordinator.pulses
    play.nothing_else()


def test_it_leaves_with_a_goodbye(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.turn(LeaveWished("told to stop"), Drained())
    play.coordinator.gets(Bye, reason="told to stop")
    assert not play.does(Stop).error
    play.nothing_else()


def test_it_leaves_without_one_when_nobody_is_there() -> None:
    play = AgentPlay()
    play.turn(LeaveWished("told to stop"), Drained())
    play.does(Stop)
    play.nothing_else()


# ------------------------------------------------------------------------------------ running


def test_an_attempt_is_given_run_told_and_forgotten_once_acknowledged(play: AgentPlay) -> None:
    play.assign()
    run = play.gives(1)[0]
    assert (run.attempt, run.payload, run.spec) == (1, b"args", SPEC)
    play.done(1)
    got = play.coordinator.gets(Finished, tokens=[1], ends=[End.SUCCEEDED], payloads=[b"result"], large=[])
    assert (got.run_us, got.workers) == ([50], [1000])
    assert play.held() == [1]
    play.coordinator.acknowledges()
    assert play.held() == []
    play.nothing_else()


def test_one_at_a_time_where_the_run_time_is_unknown(play: AgentPlay) -> None:
    play.assign(3)
    for token in (1, 2, 3):
        play.gives(token)
        play.done(token)
        gets_results(play, token)
    play.nothing_else()


def test_short_work_is_given_ahead_within_its_bounds() -> None:
    play = AgentPlay(1, AgentLimits(give_s=0.002, give_max=64))
    play.registers()
    play.assign(30, expected_us=500)
    play.gives(1, 2, 3, 4)
    play.done(1, 2, 3)
    play.gives(5, 6, 7)
    gets_results(play, 1, 2, 3)
    play.nothing_else()


def test_work_is_dealt_to_the_emptiest_worker() -> None:
    play = two_slots()
    play.assign(4, expected_us=100)
    play.gives(1, 3, slot=0)
    play.gives(2, 4, slot=1)
    play.nothing_else()


def test_nothing_is_given_before_a_worker_is_up() -> None:
    play = AgentPlay()
    play.connect()
    play.coordinator.gets(NodeHello)
    play.coordinator.welcomes()
    play.does(SpawnWorker)
    play.assign()
    play.nothing_else()
    play.turn(WorkerUp(0, 1000))
    play.gives(1)
    play.nothing_else()


def test_an_attempt_that_runs_for_a_while_is_told_started_once(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.wait(0.06)
    play.coordinator.gets(Started, tokens=[1])
    play.wait(0.5)
    play.nothing_else()
    rejoins(play)
    play.wait(0.06)
    play.coordinator.gets(Started, tokens=[1])
    play.nothing_else()


def test_an_assignment_sent_twice_runs_once(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.tokens = 0
    play.assign()
    play.done(1)
    gets_results(play, 1)
    play.nothing_else()


def test_a_description_it_cannot_read_fails_its_job_in_words(play: AgentPlay) -> None:
    play.coordinator.say(Assign([b"\xc1"], [0], [0, 3], [bytes(16)] * 2, [1, 1], [8, 9], [b""] * 2, [], []))
    got = gets_results(play, 8, 9)
    texts = [Failure.decode(p).text for p in got.payloads]
    assert "cannot read" in texts[0] and "lacks" in texts[1]
    play.nothing_else()


def test_a_missing_figure_is_an_unknown_one(play: AgentPlay) -> None:
    play.coordinator.say(Assign([SPEC.encode()], [], [0, 0], [bytes(16)] * 2, [1, 1], [8, 9], [b""] * 2, [], []))
    play.gives(8)
    play.nothing_else()


def test_what_a_worker_says_of_unknown_attempts_is_dropped(play: AgentPlay) -> None:
    play.done(99)
    play.nothing_else()


# ------------------------------------------------------------------------------------ results owed


def test_results_are_owed_until_acknowledged_over_links(play: AgentPlay) -> None:
    play.assign(2)
    play.gives(1)
    play.done(1)
    play.gives(2)
    gets_results(play, 1)
    hello = rejoins(play)
    assert hello.tokens == [1, 2] and hello.attempts == [1, 1]
    gets_results(play, 1)
    play.coordinator.acknowledges()
    assert rejoins(play).tokens == [2]
    play.nothing_else()


def test_it_goes_on_working_while_the_coordinator_is_away(play: AgentPlay) -> None:
    play.assign(2)
    play.gives(1)
    play.disconnect()
    play.done(1)
    play.gives(2)
    play.done(2)
    play.wait(5.0)
    play.nothing_else()
    play.connect()
    assert play.coordinator.gets(NodeHello).tokens == [1, 2]
    play.coordinator.welcomes()
    gets_results(play, 1, 2)
    play.nothing_else()


def test_a_result_given_up_by_the_coordinator_is_not_sent_again(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.done(1)
    gets_results(play, 1)
    play.disconnect()
    play.connect()
    play.coordinator.gets(NodeHello, tokens=[1])
    play.coordinator.welcomes()
    gets_results(play, 1)
    play.coordinator.say(Discard([1]), ack=0)  # it answers the hello, not what was sent after that
    assert rejoins(play).tokens == []
    play.nothing_else()


def test_many_results_go_in_several_messages() -> None:
    play = AgentPlay(20)
    play.registers()
    play.assign(20)
    with play.one_turn():
        for slot in range(20):
            play.done(slot + 1, slot=slot, payload=bytes(60_000))
    for slot in range(20):
        play.does(Give, slot=slot)
    assert [len(play.coordinator.gets(Finished).tokens) for _ in range(3)] == [9, 9, 2]
    play.nothing_else()


# ------------------------------------------------------------------------------------ taking back


def test_what_waits_is_given_back_at_once(play: AgentPlay) -> None:
    play.assign(3)
    play.gives(1)
    play.coordinator.say(Retract([2, 3]))
    play.coordinator.gets(Returned, tokens=[2, 3], kept=[])
    play.done(1)
    gets_results(play, 1)
    assert play.held() == [1]
    play.nothing_else()


def test_what_lies_in_a_pipe_is_given_back_if_the_worker_has_not_read_it(play: AgentPlay) -> None:
    play.assign(3, expected_us=100)
    play.gives(1, 2, 3)
    play.coordinator.say(Retract([1, 3]))
    play.does(Recall, slot=0)
    play.nothing_else()
    play.recalled(2, 3)
    play.coordinator.gets(Returned, tokens=[3], kept=[])
    play.coordinator.gets(Returned, tokens=[], kept=[1])
    play.done(1)
    gets_results(play, 1)
    play.gives(2)
    play.nothing_else()


def test_what_is_done_or_unknown_is_kept(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.done(1)
    gets_results(play, 1)
    play.coordinator.say(Retract([1, 99]), ack=0)
    play.coordinator.gets(Returned, tokens=[], kept=[1, 99])
    play.nothing_else()


def test_one_token_asked_back_twice_is_given_back_once(play: AgentPlay) -> None:
    play.assign(2)
    play.gives(1)
    play.coordinator.say(Retract([2, 2]))
    play.coordinator.gets(Returned, tokens=[2])
    play.nothing_else()


def test_a_retraction_ends_with_its_link(play: AgentPlay) -> None:
    play.assign(2, expected_us=100)
    play.gives(1, 2)
    play.coordinator.say(Retract([2]))
    play.does(Recall)
    rejoins(play)
    play.recalled(2)
    play.nothing_else()
    play.done(1)
    gets_results(play, 1)
    play.gives(2)
    play.nothing_else()


def test_a_discarded_attempt_that_waits_is_dropped(play: AgentPlay) -> None:
    play.assign(2)
    play.gives(1)
    play.coordinator.say(Discard([2, 77]))
    assert play.told("assignments_discarded")[0].n == 1
    play.done(1)
    gets_results(play, 1)
    play.nothing_else()


def test_a_discarded_attempt_that_runs_is_killed_and_its_neighbours_run_again(play: AgentPlay) -> None:
    play.assign(3, expected_us=100)
    play.gives(1, 2, 3)
    play.coordinator.say(Discard([1]))
    play.does(Recall, slot=0)
    play.recalled(3)
    play.does(KillWorker, slot=0)
    play.dies(suspect=1, unread=[2])
    play.does(SpawnWorker, slot=0)
    play.nothing_else()
    play.turn(WorkerUp(0, 1000))
    play.gives(2)
    assert play.held() == [2, 3]
    play.nothing_else()


def test_what_claims_resources_waits_for_the_end_of_what_was_discarded() -> None:
    play = two_slots()
    play.assign()
    play.gives(1, slot=0)
    play.coordinator.say(Discard([1]))
    play.does(Recall, slot=0)
    play.assign(spec=Spec("m:f", False, b"f", rules=Rules(cpus=1.0)))
    play.recalled()
    play.does(KillWorker, slot=0)
    play.nothing_else()
    play.dies(suspect=1)
    play.does(SpawnWorker, slot=0)
    play.gives(2, slot=1)
    play.nothing_else()


# ------------------------------------------------------------------------------------ graphics processors


def with_gpus(*ids: str, slots: int = 3) -> AgentPlay:
    play = AgentPlay(slots, gpus=ids)
    play.registers()
    return play


def claiming(gpus: float, **rules: Any) -> Spec:
    return Spec("m:train", False, b"f", rules=Rules(gpus=gpus, **rules))


def ends(play: AgentPlay, token: int, slot: int, end: int = SUCCEEDED) -> None:
    why = "its job had graphics processors"
    play.turn(WorkerDone(slot, 1000 + slot, [Done(token, end, b"result", None, 50)], why))


def test_what_claims_devices_is_told_which_it_has_and_has_them_until_its_worker_is_gone() -> None:
    play = with_gpus("2", "GPU-5")
    play.assign(1, claiming(2))
    assert play.gives(1, slot=0)[0].gpus == ("2", "GPU-5")
    play.assign(1, claiming(0.5))
    play.nothing_else()
    ends(play, 1, 0)
    gets_results(play, 1)
    play.nothing_else()
    play.leaves(0)
    assert play.gives(2, slot=1)[0].gpus == ("2",)
    play.assign()
    assert play.gives(3, slot=2)[0].gpus == ()
    play.nothing_else()


def test_what_fits_no_device_waits_in_order_and_what_claims_none_passes_it_by() -> None:
    play = with_gpus("0", "1", slots=4)
    play.assign(2, claiming(0.6))
    assert play.gives(1, slot=0)[0].gpus == ("0",)
    assert play.gives(2, slot=1)[0].gpus == ("1",)
    play.assign(1, claiming(0.8))
    play.assign(1, claiming(0.1))
    play.assign()
    play.gives(5, slot=2)
    play.nothing_else()
    ends(play, 2, 1)
    gets_results(play, 2)
    play.leaves(1)
    assert play.gives(3, slot=3)[0].gpus == ("1",)
    play.turn(WorkerUp(1, 1001))
    assert play.gives(4, slot=1)[0].gpus == ("1",), "where the least is left"
    play.nothing_else()


def test_what_waits_for_a_device_is_given_back_when_it_is_asked_for() -> None:
    play = with_gpus("0")
    play.assign(2, claiming(1))
    play.gives(1, slot=0)
    play.coordinator.say(Retract([2]))
    play.coordinator.gets(Returned, tokens=[2], kept=[])
    play.nothing_else()


def test_devices_are_shown_to_a_worker_that_has_run_nothing() -> None:
    play = with_gpus("0", slots=2)
    play.assign(2)
    play.gives(1, slot=0)
    play.gives(2, slot=1)
    play.done(1, slot=0)
    gets_results(play, 1)
    play.assign(2, claiming(0.5))
    play.does(KillWorker, slot=0)
    play.nothing_else()
    play.assign()
    play.nothing_else()
    play.turn(WorkerGone(0, 1000, "killed by the agent", None, False, []))
    assert play.told("worker_replaced") and not play.told("worker_died")
    play.does(SpawnWorker, slot=0)
    play.turn(WorkerUp(0, 1000))
    play.gives(3, slot=0)
    play.done(2, slot=1)
    gets_results(play, 2)
    play.does(KillWorker, slot=1)
    play.leaves(1)
    play.turn(WorkerUp(1, 1001))
    play.gives(4, slot=1)
    play.nothing_else()


def test_a_worker_that_does_not_leave_with_its_devices_is_killed() -> None:
    play = with_gpus("0")
    play.assign(2, claiming(1))
    play.gives(1, slot=0)
    play.done(1, slot=0)
    play.does(KillWorker, slot=0)
    gets_results(play, 1)
    play.nothing_else()
    play.leaves(0)
    play.gives(2, slot=1)
    play.nothing_else()


def test_what_was_not_read_gives_its_devices_back() -> None:
    play = with_gpus("0")
    play.assign(1, claiming(1))
    play.gives(1, slot=0)
    play.coordinator.say(Retract([1]))
    play.does(Recall, slot=0)
    play.assign(1, claiming(1))
    play.recalled(1, slot=0)
    play.coordinator.gets(Returned, tokens=[1], kept=[])
    assert play.gives(2, slot=1)[0].gpus == ("0",)
    play.nothing_else()


def test_what_had_to_begin_sooner_waits_for_the_devices_it_had_itself() -> None:
    play = with_gpus("0")
    play.assign(1, claiming(1, at_most_once=True))
    assert play.gives(1, slot=0)[0].gpus == ("0",)
    ends(play, 1, 0, End.UNSTARTED)
    play.nothing_else()
    play.leaves(0)
    assert play.gives(1, slot=1)[0].gpus == ("0",)
    play.nothing_else()


def test_what_is_killed_holds_its_devices_until_it_is_gone() -> None:
    play = with_gpus("0")
    play.assign(1, claiming(1))
    play.gives(1, slot=0)
    play.coordinator.say(Discard([1]))
    play.does(Recall, slot=0)
    play.recalled(slot=0)
    play.does(KillWorker, slot=0)
    play.assign(1, claiming(1))
    play.nothing_else()
    play.dies(0, suspect=1)
    play.does(SpawnWorker, slot=0)
    assert play.gives(2, slot=1)[0].gpus == ("0",)
    play.nothing_else()


def test_more_than_the_node_has_is_refused_in_words() -> None:
    play = with_gpus("0")
    play.assign(1, claiming(2))
    assert gets_failure(play, 1, "JobRefused") == "it claims gpus 2, and the node does not offer so much"
    play.nothing_else()


# ------------------------------------------------------------------------------------ more of what was discarded


def test_a_discarded_attempt_that_ends_by_itself_is_not_told(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.coordinator.say(Discard([1]))
    play.does(Recall)
    play.done(1)
    play.recalled()
    assert play.held() == []
    play.nothing_else()


def test_a_discarded_attempt_that_was_not_read_kills_nobody(play: AgentPlay) -> None:
    play.assign(2, expected_us=100)
    play.gives(1, 2)
    play.coordinator.say(Discard([2]))
    play.does(Recall)
    play.recalled(2)
    assert play.held() == [1]
    play.nothing_else()


def test_a_stuck_worker_loses_what_lies_behind_and_gets_nothing_more() -> None:
    play = two_slots()
    play.assign(2, expected_us=100)
    play.gives(1, slot=0)
    play.gives(2, slot=1)
    play.assign(2, expected_us=100)
    play.gives(3, slot=0)
    play.gives(4, slot=1)
    play.done(2, 4, slot=1)
    gets_results(play, 2, 4)
    play.wait(0.025)
    play.does(Recall, slot=0)
    play.recalled(3, slot=0)
    play.gives(3, slot=1)
    play.done(3, slot=1)
    gets_results(play, 3)
    play.assign(3, expected_us=100)
    play.gives(5, 6, 7, slot=1)
    play.nothing_else()


# ------------------------------------------------------------------------------------ workers that die


def test_a_dead_worker_blames_exactly_its_suspect(play: AgentPlay) -> None:
    play.assign(3, expected_us=100)
    play.gives(1, 2, 3)
    play.dies(suspect=1, unread=[2, 3], cause="signal 11 (SIGSEGV)")
    assert "signal 11 (SIGSEGV)" in gets_failure(play, 1, "WorkerCrashed")
    play.does(SpawnWorker, slot=0)
    play.nothing_else()
    play.turn(WorkerUp(0, 1000))
    play.gives(2, 3)
    play.nothing_else()


def test_a_worker_that_dies_idle_blames_nobody(play: AgentPlay) -> None:
    play.assign(2, expected_us=100)
    play.gives(1, 2)
    play.dies(suspect=None, unread=[1, 2])
    play.does(SpawnWorker)
    assert play.told("worker_died")
    play.turn(WorkerUp(0, 1000))
    play.gives(1, 2)
    play.nothing_else()


def test_another_workers_attempts_are_untouched_by_a_death() -> None:
    play = two_slots()
    play.assign(2)
    play.gives(1, slot=0)
    play.gives(2, slot=1)
    play.dies(0, suspect=1)
    gets_failure(play, 1, "WorkerCrashed")
    play.does(SpawnWorker, slot=0)
    play.done(2, slot=1)
    gets_results(play, 2)
    play.nothing_else()


def test_a_worker_that_will_not_start_is_tried_with_growing_pauses() -> None:
    play = AgentPlay()
    play.turn()
    pauses = []
    for _ in range(7):
        play.does(SpawnWorker, slot=0)
        play.turn(WorkerGone(0, 0, "could not be started: no memory", None, False, []))
        start = play.now.mono
        while not play.effects:
            play.wait(0.5)
        pauses.append(round(play.now.mono - start))
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    play.does(SpawnWorker)
    play.turn(WorkerUp(0, 1000))
    play.dies()
    play.does(SpawnWorker)
    play.nothing_else()


def test_workers_that_keep_dying_idle_are_replaced_ever_more_slowly() -> None:
    play = AgentPlay()
    play.turn()
    pauses = []
    for _ in range(5):
        play.does(SpawnWorker, slot=0)
        play.turn(WorkerUp(0, 1000))
        play.dies()
        start = play.now.mono
        while not play.effects:
            play.wait(0.5)
        pauses.append(round(play.now.mono - start))
    assert pauses == [0, 1, 2, 4, 8]


# ------------------------------------------------------------------------------------ blobs in


def test_inline_code_is_kept_before_it_is_needed(play: AgentPlay) -> None:
    play.assign(1, BY_VALUE, code=[CODE])
    assert play.disk.blobs == {sha_of(CODE): CODE}
    play.gives(1)
    play.nothing_else()


def test_a_large_payload_is_fetched_before_its_attempt_waits_for_a_worker(play: AgentPlay) -> None:
    play.assign(1, large=[REF])
    play.assign(1)
    play.gives(2)
    play.coordinator.serves(BLOB)
    play.nothing_else()
    play.done(2)
    gets_results(play, 2)
    assert play.gives(1)[0].large == REF
    play.nothing_else()


def test_one_blob_of_many_attempts_is_fetched_once(play: AgentPlay) -> None:
    play.assign(3, Spec("f", True, REF[0], REF[1]))
    play.coordinator.serves(BLOB)
    play.gives(1)
    play.nothing_else()
    play.done(1)
    gets_results(play, 1)
    play.gives(2)
    assert REF[0] in play.disk.blobs
    play.nothing_else()


def test_a_blob_that_is_here_is_not_fetched_again_until_it_had_to_go() -> None:
    play = AgentPlay(1, AgentLimits(cached_blobs=1))
    play.registers()

    def runs(data: bytes, fetched: bool) -> None:
        token = play.assign(1, large=[(sha_of(data), len(data))])[0]
        if fetched:
            play.coordinator.serves(data)
        play.gives(token)
        play.done(token)
        gets_results(play, token)
        play.nothing_else()

    runs(BLOB, fetched=True)
    runs(BLOB, fetched=False)
    runs(LONG_BLOB, fetched=True)
    assert set(play.disk.blobs) == {sha_of(LONG_BLOB)}
    runs(BLOB, fetched=True)


def test_an_unfinished_fetch_is_asked_for_again_on_a_new_link(play: AgentPlay) -> None:
    ref = (sha_of(LONG_BLOB), len(LONG_BLOB))
    play.assign(1, large=[ref])
    play.coordinator.gets(Fetch)
    play.coordinator.say(Chunk(*ref, 0, LONG_BLOB[:CHUNK_BYTES]))
    play.coordinator.gets(Taken, through=CHUNK_BYTES)
    rejoins(play)
    play.coordinator.gets(Fetch, sha=ref[0])
    play.coordinator.say(Chunk(*ref, 0, LONG_BLOB[:CHUNK_BYTES]))
    play.coordinator.gets(Taken, through=CHUNK_BYTES)
    for offset in range(CHUNK_BYTES, len(LONG_BLOB), CHUNK_BYTES):
        play.coordinator.say(Chunk(*ref, offset, LONG_BLOB[offset : offset + CHUNK_BYTES]))
        play.coordinator.gets(Taken)
    play.gives(1)
    play.nothing_else()


def test_a_refused_blob_fails_only_the_jobs_that_need_it(play: AgentPlay) -> None:
    play.assign(2, large=[REF, (sha_of(LONG_BLOB), len(LONG_BLOB))])
    play.coordinator.gets(Fetch, sha=REF[0])
    play.coordinator.gets(Fetch, sha=sha_of(LONG_BLOB))
    play.coordinator.say(BlobRefused(REF[0], "the coordinator does not have it"))
    assert "does not have it" in gets_failure(play, 1, "JobLost")
    assert play.held() == [1, 2]
    play.nothing_else()


def test_a_blob_over_the_nodes_limit_fails_its_job_and_tells_the_sender() -> None:
    play = AgentPlay(1, AgentLimits(max_blob_bytes=1_000))
    play.registers()
    play.assign(1, large=[REF])
    play.coordinator.gets(Fetch)
    play.coordinator.say(Chunk(*REF, 0, BLOB))
    play.coordinator.gets(BlobRefused, sha=REF[0])
    assert "limit" in gets_failure(play, 1, "JobLost")
    play.nothing_else()


def test_a_full_disk_fails_the_job_and_tells_the_sender(play: AgentPlay) -> None:
    play.disk.failing[REF[0]] = "cannot be written: No space left on device"
    play.assign(1, large=[REF])
    play.coordinator.gets(Fetch)
    play.coordinator.say(Chunk(*REF, 0, BLOB))
    play.coordinator.gets(BlobRefused, sha=REF[0])
    assert "No space left" in gets_failure(play, 1, "JobLost")
    play.nothing_else()


def test_code_that_could_not_be_kept_is_fetched_the_next_time(play: AgentPlay) -> None:
    play.disk.failing[sha_of(CODE)] = "cannot be written: No space left on device"
    play.assign(1, BY_VALUE, code=[CODE])
    play.gives(1)
    play.done(1)
    gets_results(play, 1)
    del play.disk.failing[sha_of(CODE)]
    play.assign(1, BY_VALUE)
    play.coordinator.serves(CODE)
    play.gives(2)
    play.nothing_else()


def test_a_retracted_fetch_frees_its_other_blobs_once(play: AgentPlay) -> None:
    play.assign(1, BY_VALUE, code=[CODE])
    play.gives(1)
    play.assign(1, BY_VALUE, large=[REF])
    play.coordinator.gets(Fetch)
    play.coordinator.say(Retract([2]))
    play.coordinator.gets(Returned, tokens=[2])
    play.coordinator.say(BlobRefused(REF[0], "gone"))
    assert sha_of(CODE) in play.disk.blobs, "the first attempt still needs it"
    assert play.agent._shelf._refs == {sha_of(CODE): 1}
    play.nothing_else()


def test_chunks_nobody_asked_for_are_answered_so_that_their_sender_goes_on(play: AgentPlay) -> None:
    play.assign(1, large=[REF])
    play.coordinator.serves(BLOB)
    play.gives(1)
    rejoins(play)
    play.coordinator.say(Chunk(*REF, 0, BLOB))
    play.coordinator.gets(Taken, sha=REF[0], through=REF[1])
    play.nothing_else()


# ------------------------------------------------------------------------------------ blobs out


def test_a_large_result_arrives_before_it_is_told(play: AgentPlay) -> None:
    play.assign(2)
    play.gives(1)
    play.done_large(1, data=LONG_BLOB)
    play.gives(2)
    play.done(2)
    first = play.coordinator.gets(Chunk, offset=0)
    gets_results(play, 2)
    play.coordinator.say(Taken(sha_of(LONG_BLOB), CHUNK_BYTES))
    assert b"".join(c.data for c in (first, *(play.coordinator.gets(Chunk) for _ in range(2)))) == LONG_BLOB
    play.coordinator.say(Taken(sha_of(LONG_BLOB), 2 * CHUNK_BYTES))
    play.nothing_else()
    play.coordinator.say(Taken(sha_of(LONG_BLOB), len(LONG_BLOB)))
    got = gets_results(play, 1)
    assert got.large == [[0, sha_of(LONG_BLOB), len(LONG_BLOB)]] and got.payloads == [b""]
    play.coordinator.acknowledges()
    assert play.held() == []
    play.nothing_else()


def test_identical_large_results_are_each_handed_over(play: AgentPlay) -> None:
    play.assign(3)
    for token in (1, 2, 3):
        play.gives(token)
        play.done_large(token, data=BLOB)
    for token in (1, 2, 3):
        play.coordinator.gets(Chunk, sha=REF[0])
        play.coordinator.say(Taken(*REF))
        gets_results(play, token)
    play.coordinator.acknowledges()
    assert play.held() == []
    play.nothing_else()


def test_a_result_the_coordinator_refuses_loses_only_its_job(play: AgentPlay) -> None:
    play.assign(2)
    play.gives(1)
    play.done_large(1, data=BLOB)
    play.gives(2)
    play.coordinator.gets(Chunk)
    play.coordinator.say(BlobRefused(REF[0], "disk full"))
    play.coordinator.gets(Chunk, size=0)
    assert "could not be handed over: disk full" in gets_failure(play, 1, "JobLost")
    play.done(2)
    gets_results(play, 2)
    play.nothing_else()


def test_large_results_are_uploaded_again_on_a_new_link(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    play.done_large(1, data=BLOB)
    play.coordinator.gets_blob(REF[0])
    gets_results(play, 1)
    rejoins(play)
    play.coordinator.gets(Chunk, sha=REF[0])
    play.coordinator.say(Taken(*REF))
    gets_results(play, 1)
    play.coordinator.acknowledges()
    play.nothing_else()


def test_a_result_discarded_in_mid_upload_is_withdrawn() -> None:
    play = AgentPlay(1, AgentLimits(cached_blobs=0))
    play.registers()
    play.assign()
    play.gives(1)
    play.done_large(1, data=LONG_BLOB)
    play.coordinator.inbox.clear()
    play.coordinator.say(Discard([1]))
    play.coordinator.gets(Chunk, sha=sha_of(LONG_BLOB), size=0, data=b"")
    assert not play.disk.blobs
    play.nothing_else()


# ------------------------------------------------------------------------------------ garbage


ONCE = Spec("app:pay", False, b"pickled reference", rules=Rules(at_most_once=True))
LEASE_S = Times().lease_s * (1 - LEASE_MARGIN)


def test_what_must_not_start_twice_is_given_within_the_lease_and_alone() -> None:
    play = AgentPlay(slots=2)
    play.registers()
    first, second, third = play.assign(3, spec=ONCE, expected_us=10)
    (run,) = play.gives(first)
    (other,) = play.gives(second, slot=1)
    welcomed_at = START.mono
    assert run.start_by == other.start_by == welcomed_at + LEASE_S
    play.done(first)
    play.gives(third)
    play.coordinator.gets(Finished, tokens=[first])
    play.nothing_else()


def test_the_lease_counts_from_the_sending_of_the_last_beat_that_was_acknowledged(play: AgentPlay) -> None:
    play.coordinator.deaf = True
    play.wait(1.5)  # the next beat is on its way, or lost
    (run,) = play.gives(*play.assign(spec=ONCE))
    assert run.start_by == pytest.approx(START.mono + LEASE_S)


def test_after_its_lease_it_is_not_given_until_the_coordinator_has_heard_of_us_again(play: AgentPlay) -> None:
    play.coordinator.deaf = True
    play.coordinator.live(10)  # it speaks, and has heard nothing
    (token,) = play.assign(spec=ONCE)
    play.nothing_else()
    (usual,) = play.assign()
    play.gives(usual)
    play.done(usual)
    play.coordinator.deaf = False
    play.disconnect()
    play.connect()
    play.coordinator.gets(NodeHello, tokens=[token, usual])
    welcomed_at = play.now.mono
    play.coordinator.welcomes()
    play.coordinator.live(1.1)
    (run,) = play.gives(token)
    assert welcomed_at + LEASE_S <= run.start_by <= play.now.mono + LEASE_S


def test_what_it_held_before_a_hello_is_not_given_while_it_may_have_been_taken_away(play: AgentPlay) -> None:
    play.coordinator.deaf = True
    play.coordinator.live(10)
    (token,) = play.assign(spec=ONCE)
    play.coordinator.deaf = False
    play.disconnect()
    play.connect()
    play.coordinator.gets(NodeHello, tokens=[token])
    play.coordinator.welcomes()
    play.nothing_else()
    play.coordinator.say(Discard([token]))
    assert play.held() == []
    play.nothing_else()


def test_one_whose_time_to_start_was_over_waits_for_the_next_lease(play: AgentPlay) -> None:
    (token,) = play.assign(spec=ONCE)
    play.gives(token)
    play.turn(WorkerDone(0, 1000, [Done(token, End.UNSTARTED, b"", None, 1)]))
    play.gives(token)
    assert play.held() == [token]


def test_an_agent_that_leaves_gives_back_what_it_has_not_started(play: AgentPlay) -> None:
    started, waiting = play.assign(2, spec=ONCE)
    play.gives(started)
    play.turn(LeaveWished("told to stop"), Drained())
    play.coordinator.gets(Returned, tokens=[waiting], kept=[])
    play.coordinator.gets(Bye)
    play.does(Stop)
    play.nothing_else()


def test_an_agent_that_drains_leaves_when_what_runs_has_ended(play: AgentPlay) -> None:
    play.assign(2, expected_us=10)
    play.gives(1, 2)
    play.assign(1)
    play.turn(LeaveWished("told to stop", 30), Drained())
    play.does(Recall)
    play.coordinator.gets(Draining)
    play.coordinator.gets(Returned, tokens=[3], kept=[])
    play.recalled(2)
    play.wait(0)
    play.coordinator.gets(Returned, tokens=[2], kept=[])
    play.assign(1)
    play.wait(0)
    play.coordinator.gets(Returned, tokens=[4], kept=[])
    play.nothing_else()
    rejoins(play)
    play.coordinator.gets(Draining)
    play.done(1)
    gets_results(play, 1)
    quiet(play)
    play.nothing_else()
    play.coordinator.acknowledges()
    play.wait(0)
    play.coordinator.gets(Bye)
    play.does(Stop)
    quiet(play)
    play.nothing_else()


@pytest.mark.parametrize("again", [True, False])
def test_what_still_runs_at_the_end_of_a_drain_or_at_a_second_wish_is_left(play: AgentPlay, again: bool) -> None:
    play.assign(1)
    play.gives(1)
    play.turn(LeaveWished("told to stop", 3), Drained())
    play.coordinator.gets(Draining)
    play.nothing_else()
    if again:
        play.turn(LeaveWished("told to stop again"), Drained())
    else:
        play.coordinator.live(3)
    quiet(play)
    play.coordinator.gets(Bye)
    play.does(Stop)


def test_a_death_says_whether_memory_ran_out(play: AgentPlay) -> None:
    for out_of_memory, end in ((False, End.CRASHED), (True, End.MEMORY)):
        (token,) = play.assign()
        play.gives(token)
        play.turn(WorkerGone(0, 1000, "signal 9 (SIGKILL)", token, True, [], out_of_memory))
        assert play.coordinator.gets(Finished, tokens=[token]).ends == [end]
        play.does(SpawnWorker)
        play.turn(WorkerUp(0, 1000))


# ------------------------------------------------------------------------------------ ending what runs

TIMED = Spec("app:f", False, b"", rules=Rules(timeout_s=2, grace_s=1))


def interruptions(play: AgentPlay, seconds: float) -> list[InterruptWorker]:
    """What is asked of the pool in that time, while the coordinator answers."""
    out = []
    for _ in range(round(seconds * 20)):
        play.wait(0.05)
        play.coordinator.say(Pulse())
        out += [e for e in play.effects if isinstance(e, InterruptWorker)]
        play.effects = [e for e in play.effects if not isinstance(e, InterruptWorker)]
    return out


def quiet(play: AgentPlay) -> None:
    """Leave out signs of life."""
    play.coordinator.inbox = [m for m in play.coordinator.inbox if not isinstance(m, Heartbeat | Started)]


def test_what_runs_too_long_is_interrupted_again_and_again_and_then_killed(play: AgentPlay) -> None:
    play.assign(1, TIMED, expected_us=10)
    play.gives(1)
    assert interruptions(play, 1.9) == []
    asked = interruptions(play, 0.2)
    play.does(Recall)
    play.recalled()
    asked += interruptions(play, 0.95)
    assert len(asked) >= 8 and {(e.slot, e.token, e.timeout_s) for e in asked} == {(0, 1, 2)}
    assert asked[0].dump and asked[-1].dump and not asked[4].dump
    quiet(play)
    play.nothing_else()
    interruptions(play, 0.2)
    play.does(KillWorker)
    assert interruptions(play, 1) == []
    quiet(play)
    play.turn(WorkerGone(0, 1000, "killed by the agent", 1, True, [], peak_kib=5 << 10, stack="File a, line 1"))
    quiet(play)
    got = gets_results(play, 1)
    failure = Failure.decode(got.payloads[0])
    assert (got.ends, failure.kind, failure.traceback) == ([End.TIMED_OUT], "JobTimeout", "File a, line 1")
    assert "timeout_s of 2 s" in failure.text and "5 MiB" in failure.text
    assert got.records[0][2] == 5 << 10
    play.does(SpawnWorker)
    play.nothing_else()


def test_what_unwinds_in_time_is_told_and_its_worker_replaced(play: AgentPlay) -> None:
    play.assign(1, TIMED)
    play.gives(1)
    assert interruptions(play, 2.05) == []
    play.does(Recall)
    play.recalled()
    assert len(interruptions(play, 0.1)) >= 1
    play.assign(1)
    play.turn(WorkerDone(0, 1000, [Done(1, End.TIMED_OUT, b"failure", None, 50)], "its job was interrupted"))
    quiet(play)
    assert gets_results(play, 1).ends == [End.TIMED_OUT]
    play.nothing_else()
    play.turn(WorkerGone(0, 1000, "its job was interrupted", None, False, [], replaced=True))
    assert play.told("worker_replaced")
    play.does(SpawnWorker)
    play.turn(WorkerUp(0, 1001))
    play.gives(2)
    assert interruptions(play, 3) == []
    quiet(play)
    play.nothing_else()


def test_one_whose_time_was_up_before_its_worker_read_it_waits_again(play: AgentPlay) -> None:
    play.assign(1, TIMED)
    play.gives(1)
    interruptions(play, 2.05)
    play.does(Recall)
    play.recalled(1)
    play.gives(1)
    assert interruptions(play, 1.9) == []
    quiet(play)
    play.nothing_else()


def test_a_cancel_ends_what_waits_and_what_lies_in_a_pipe_and_interrupts_what_runs(play: AgentPlay) -> None:
    play.assign(3, expected_us=100)
    play.gives(1, 2, 3)
    play.assign(1)
    play.coordinator.say(Interrupt([1, 2, 4, 99], 1000))
    play.does(Recall)
    assert gets_results(play, 4).ends == [End.CANCELLED]
    play.recalled(2, 3)
    got = gets_results(play, 2)
    assert got.ends == [End.CANCELLED] and "before it started" in Failure.decode(got.payloads[0]).text
    assert play.does(InterruptWorker, token=1, timeout_s=0.0).dump
    play.nothing_else()
    play.turn(WorkerDone(0, 1000, [Done(1, End.CANCELLED, b"failure", None, 50)], "its job was interrupted"))
    assert gets_results(play, 1).ends == [End.CANCELLED]
    play.turn(WorkerGone(0, 1000, "its job was interrupted", None, False, [], replaced=True))
    play.does(SpawnWorker)
    play.turn(WorkerUp(0, 1001))
    play.gives(3)
    play.nothing_else()


def test_a_cancel_that_comes_too_late_changes_nothing(play: AgentPlay) -> None:
    play.assign(1)
    play.gives(1)
    play.coordinator.say(Interrupt([1], 1000))
    play.does(Recall)
    play.done(1)
    assert gets_results(play, 1).ends == [End.SUCCEEDED]
    play.recalled()
    play.coordinator.say(Interrupt([1], 1000))
    assert interruptions(play, 2) == []
    quiet(play)
    play.nothing_else()


def test_who_is_killed_in_anothers_place_runs_again(play: AgentPlay) -> None:
    """Its worker had begun with it in the moment in which the one that was to be killed ended."""
    play.assign(2, expected_us=100)
    play.gives(1, 2)
    play.coordinator.say(Interrupt([1], 0))
    play.does(Recall)
    play.recalled()
    assert interruptions(play, 0.2)
    play.effects = [e for e in play.effects if not isinstance(e, Recall)]  # it seems stuck as well
    play.does(KillWorker)
    play.turn(WorkerDone(0, 1000, [Done(1, SUCCEEDED, b"", None, 50)]), WorkerGone(0, 1000, "killed", 2, True, []))
    quiet(play)
    assert gets_results(play, 1).ends == [SUCCEEDED]
    play.does(SpawnWorker)
    play.turn(WorkerUp(0, 1001))
    play.gives(2)
    quiet(play)
    play.nothing_else()


@pytest.mark.parametrize(
    ("seen", "end", "text"), [((101, 1), End.MEMORY, "memory_bytes is 100"), ((1, 6), End.RAISED, "limit of 5")]
)
def test_what_is_above_its_limits_is_killed(play: AgentPlay, seen: tuple[int, int], end: End, text: str) -> None:
    play.assign(1, Spec("app:f", False, b"", rules=Rules(memory_bytes=100, processes=5)))
    play.gives(1)
    play.wait(0.1)
    play.does(Look, token=1)
    play.turn(Seen(0, 1, 100, 5))
    play.wait(0.1)
    play.does(Look, token=1)
    play.turn(Seen(0, 1, *seen))
    play.does(Recall)
    play.does(KillWorker)
    play.turn(WorkerGone(0, 1000, "killed by the agent", 1, True, []))
    quiet(play)
    got = gets_results(play, 1)
    assert got.ends == [end] and text in Failure.decode(got.payloads[0]).text
    play.does(SpawnWorker)
    play.nothing_else()


def test_jobs_with_limits_are_given_alone(play: AgentPlay) -> None:
    play.assign(2, TIMED, expected_us=10)
    play.gives(1)
    play.nothing_else()


def test_what_a_job_saves_is_told_before_its_end_and_on_each_link(play: AgentPlay) -> None:
    play.assign(1)
    play.gives(1)
    play.turn(StateSaved(0, 1, b"one"), StateSaved(0, 1, b"two"))
    assert play.coordinator.gets(Saved).states == [b"two"]
    play.nothing_else()
    rejoins(play)
    assert play.coordinator.gets(Saved, tokens=[1]).states == [b"two"]
    play.turn(StateSaved(0, 1, b"three"), WorkerDone(0, 1000, [Done(1, SUCCEEDED, b"", None, 50)]))
    assert play.coordinator.gets(Saved).states == [b"three"]
    gets_results(play, 1)
    quiet(play)
    play.nothing_else()


def test_what_was_saved_is_said_again_before_a_failure_that_nobody_has_acknowledged(play: AgentPlay) -> None:
    play.assign()
    play.gives(1)
    failed = Done(1, int(End.RAISED), Failure("ValueError", "no").encode(), None, 50)
    play.turn(StateSaved(0, 1, b"far"), WorkerDone(0, 1000, [failed]))
    play.coordinator.gets(Saved)
    gets_results(play, 1)
    rejoins(play)
    assert play.coordinator.gets(Saved, tokens=[1]).states == [b"far"]
    gets_results(play, 1)
    quiet(play)
    play.nothing_else()


def test_what_a_job_may_know_of_itself_goes_with_it(play: AgentPlay) -> None:
    jobs = [job_id(b"client--", n) for n in (1, 2)]
    play.coordinator.say(
        Assign([SPEC.encode()], [10], [0, 0], jobs, [1, 1], [1, 2], [b"", b""], [], [], [[1, b"about"]])
    )
    assert [run.about for run in play.gives(1, 2)] == [b"", b"about"]
    play.nothing_else()


def test_idle_workers_are_let_go_and_come_back_on_demand() -> None:
    play = two_slots(idle_s=5, min_workers=1)
    play.coordinator.live(4)
    play.done()
    play.coordinator.live(2)
    play.does(KillWorker)
    slot = next(s.number for s in play.agent._slots if s.resting)
    play.turn(WorkerGone(slot, 1000 + slot, "killed by the agent", None, False, []))
    assert play.told("worker_replaced")
    play.coordinator.live(10)
    quiet(play)
    play.nothing_else()
    play.assign(2)
    play.does(SpawnWorker, slot=slot)
    play.gives(1, slot=1 - slot)
    play.turn(WorkerUp(slot, 1005))
    play.gives(2, slot=slot)
    quiet(play)
    play.nothing_else()


def test_a_worker_that_is_not_ready_in_time_is_killed() -> None:
    play = AgentPlay(limits=AgentLimits(start_within_s=5))
    play.turn()
    play.does(SpawnWorker)
    play.wait(5)
    play.does(KillWorker)
    play.turn(WorkerGone(0, 1000, "killed by the agent", None, False, []))
    assert "not ready after 5 s" in next(f for f in play.facts if f.kind == "worker_died").text


def test_what_an_attempt_used_is_told_where_it_is_worth_it(play: AgentPlay) -> None:
    play.assign(2, expected_us=10)
    play.gives(1, 2)
    play.wait(0.01)
    play.turn(
        WorkerDone(0, 1000, [Done(1, SUCCEEDED, b"", None, 50, 0, 0), Done(2, SUCCEEDED, b"", None, 5000, 4000, 999)])
    )
    ((row, cpu_us, peak_kib, waited_us, init_us),) = gets_results(play, 1, 2).records
    assert (row, cpu_us, peak_kib, init_us) == (1, 4000, 999, 0) and 4000 <= waited_us <= 6000
    quiet(play)
    play.nothing_else()


def test_what_an_agent_is_not_told_is_dropped_and_noted(play: AgentPlay) -> None:
    play.coordinator.say(Accepted(3))
    assert play.told("unexpected")[0].about["reason"] == "Accepted"
    play.turn(Garbled(b"", CLIENT_KEY, "not msgpack"), WallClockJumped(5.0))
    assert play.told("garbled") and play.told("clock_jumped")
    play.nothing_else()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_nothing_that_happens_raises_and_no_attempt_is_lost_sight_of(data: st.DataObject) -> None:
    """The pool is honest: it answers for what it was given. All else is chance."""
    play = AgentPlay(2, gpus=("0", "1"))
    play.coordinator.lenient = True
    play.registers()
    pipes: dict[int, list[int]] = {0: [], 1: []}
    recalls: list[int] = []
    up = {0: True, 1: True}
    shas = [sha_of(b"a"), sha_of(b"b"), REF[0]]
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.integers(0, 9)):
            case 0 | 1:
                large = data.draw(st.booleans()) and [(data.draw(st.sampled_from(shas)), 1)]
                spec = data.draw(st.sampled_from([SPEC, Spec("v", True, sha_of(b"a"), 1), claiming(0.6), claiming(1)]))
                play.assign(data.draw(st.integers(1, 4)), spec, expected_us=100, large=large or ())
            case 2:
                message = data.draw(any_message())
                if not isinstance(message, Refusal):
                    play.coordinator.say(message)
            case 3:
                tokens = data.draw(st.lists(st.integers(1, 20), max_size=5))
                play.coordinator.say(data.draw(st.sampled_from([Retract, Discard]))(tokens))
            case 4:
                slot = data.draw(st.integers(0, 1))
                done = pipes[slot][: data.draw(st.integers(0, 3))]
                del pipes[slot][: len(done)]
                large_row = data.draw(st.sampled_from([None, (sha_of(b"a"), 1)]))
                play.disk.blobs[sha_of(b"a")] = b"a"
                play.turn(WorkerDone(slot, 1000 + slot, [Done(t, SUCCEEDED, b"", large_row, 1) for t in done]))
            case 5:
                slot = data.draw(st.integers(0, 1))
                if up[slot]:
                    suspect, unread = next(iter(pipes[slot]), None), pipes[slot][1:]
                    pipes[slot], up[slot] = [], False
                    recalls = [r for r in recalls if r != slot]
                    play.dies(slot, suspect, unread)
            case 6:
                play.wait(data.draw(st.sampled_from([0.01, 0.1, 4.0])))
            case 7:
                play.disconnect()
                play.connect()
                play.coordinator.welcomes()
            case 8:
                sha = data.draw(st.sampled_from(shas))
                events = [ChunkWritten(sha, 1), ChunkRead(sha, 0, b"a"), BlobFailed(sha, "chaos")]
                play.turn(data.draw(st.sampled_from(events)))
            case 9:
                if recalls:
                    slot = recalls.pop()
                    back, pipes[slot] = pipes[slot][1:], pipes[slot][:1]
                    play.turn(Recalled(slot, back))
        while play.effects:
            match play.effects.pop(0):
                case Give(slot, runs):
                    assert up[slot]
                    pipes[slot] += [r.token for r in runs]
                case SpawnWorker(slot):
                    assert not up[slot]
                    up[slot] = True
                    play.turn(WorkerUp(slot, 1000 + slot))
                case Recall(slot):
                    recalls.append(slot)
                case KillWorker(slot):
                    if up[slot]:
                        suspect, unread = next(iter(pipes[slot]), None), pipes[slot][1:]
                        pipes[slot], up[slot] = [], False
                        recalls = [r for r in recalls if r != slot]
                        play.dies(slot, suspect, unread)
        given_away = [t for slot in play.agent._slots for t in slot.given]
        assert sorted(given_away) == sorted(t for pipe in pipes.values() for t in pipe)
        assert set(play.agent._devices._held) == {slot.number for slot in play.agent._slots if slot.devices}
        for attempt in play.agent._attempts:
            if attempt.phase is Phase.GIVEN and attempt.run.spec.rules.gpus:
                share, ids = play.agent._devices._held[attempt.slot]
                assert (share, ids) == (attempt.run.spec.rules.gpus * 1000, attempt.run.gpus)
        refs: dict[bytes, int] = {}
        for attempt in play.agent._attempts:
            owed = attempt.done is not None
            held = [attempt.done.large] if attempt.done and attempt.done.large else []
            for sha, _ in held if owed else play.agent._inputs(attempt):
                refs[sha] = refs.get(sha, 0) + 1
        assert play.agent._shelf._refs == refs
