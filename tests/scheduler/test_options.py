"""Every option with its edges: what it means in a crash, a restart, and when time is over in each state."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from cluster.actor import Drained, Now
from cluster.ids import format_job, job_id
from cluster.jobs import About, End, Failure, Outcome, Rules, Spec
from cluster.messages import Assign, Awaiting, Bye, Discard, Results, Retract, Returned, Started, Waiting
from tests.playbook import CoordinatorPlay, FakeClient, FakeNode


def spec(name: str = "app:task", durable: bool = True, **rules: Any) -> Spec:
    return Spec(name, False, b"pickled reference", durable=durable, rules=Rules(**rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def told(node: FakeNode) -> list[dict[str, Any]]:
    """What the jobs of the next assignment may know of themselves."""
    return [msgpack.unpackb(raw) for _, raw in node.gets(Assign).about]


def back(play: CoordinatorPlay, client: FakeClient, *nodes: FakeNode) -> None:
    """The coordinator is killed and started again; these come back with empty hands."""
    play.restart()
    for node in nodes:
        node.joins()
    client.joins(accepted=client.counter)


# ------------------------------------------------------------------------------------ delay_s, at


@pytest.mark.parametrize("moment", ["delay_s", "at"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_job_does_not_run_before_its_moment_also_after_a_restart(
    play: CoordinatorPlay, moment: str, restart: bool
) -> None:
    node, client = play.node(), play.client()
    about = About(delay_s=30.0) if moment == "delay_s" else About(at=play.now.wall + 30.0)
    client.submit(about=about)
    client.gets_accepted(1)
    play.live(10, node, client)
    if restart:
        back(play, client, node)
    play.live(19, node, client)
    assert play.story_of(client, 1)["state"] == "scheduled"
    play.nothing_else()
    play.live(2, node, client)
    node.gets(Assign, jobs=[client.job(1)])
    play.nothing_else()


def test_a_moment_that_is_past_is_no_pause(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(about=About(at=play.now.wall - 1.0))
    node.gets(Assign, jobs=[client.job(1)])
    client.gets_accepted(1)
    play.nothing_else()


def test_the_moment_passes_while_the_coordinator_is_down(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(about=About(delay_s=5.0))
    client.gets_accepted(1)
    play.now = play.now._replace(mono=play.now.mono + 60, wall=play.now.wall + 60)
    play.restart()
    play.node().gets(Assign, jobs=[client.job(1)])
    play.nothing_else()


def test_a_job_that_waits_for_its_moment_can_be_cancelled(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(about=About(delay_s=30.0))
    client.gets_accepted(1)
    client.cancel(1)
    assert client.gets_failure(1, Outcome.CANCELLED).text == "cancelled before it started"
    play.live(31, node, client)
    play.nothing_else()
    play.nothing_kept()


# ------------------------------------------------------------------------------------ expires_s


def test_a_job_that_waits_for_a_node_expires(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=spec(expires_s=3.0))
    client.gets_accepted(1)
    play.live(2, client)
    play.nothing_else()
    play.live(2, client)
    failure = client.gets_failure(1, Outcome.EXPIRED)
    assert (failure.kind, failure.text) == ("JobExpired", "it had not begun 3 s after it was handed in (expires_s)")
    play.node()
    play.nothing_else()
    play.nothing_kept()


def test_a_job_that_waits_for_its_moment_expires_before_it(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(expires_s=3.0), about=About(delay_s=5.0))
    client.gets_accepted(1)
    play.live(4, node, client)
    client.gets_failure(1, Outcome.EXPIRED)
    play.live(4, node, client)
    play.nothing_else()


def test_a_job_whose_moment_and_time_to_begin_are_over_at_once_expires(play: CoordinatorPlay) -> None:
    """As after a pause of the coordinator; nothing else has waited in its queue for a while."""
    client = play.client()
    client.submit(spec=spec(expires_s=3.0, queue="mail"), about=About(delay_s=2.0))
    client.gets_accepted(1)
    play.now = Now(play.now.mono + 5, play.now.wall + 5)
    play.turn(Drained())
    client.gets_failure(1, Outcome.EXPIRED)
    assert not len(play.coordinator._ready)
    play.nothing_else()


def test_a_leased_job_that_expires_is_asked_back_and_ends_if_it_has_not_started(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(expires_s=3.0))
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    play.live(4, node, client)
    node.gets(Retract, tokens=[token])
    node.say(Returned([token], []))
    client.gets_failure(1, Outcome.EXPIRED)
    play.nothing_else()
    play.nothing_kept()


def test_a_leased_job_that_expires_goes_on_if_it_has_started(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(expires_s=3.0))
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    play.live(4, node, client)
    node.gets(Retract, tokens=[token])
    node.say(Returned([], [token]))
    node.finishes(token)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_a_job_that_runs_does_not_expire(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(expires_s=3.0))
    token = node.runs(client.job(1))
    client.gets_accepted(1)
    play.live(5, node, client)
    play.nothing_else()
    node.finishes(token)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


@pytest.mark.parametrize("restart", [False, True])
def test_a_job_that_waits_to_run_again_has_begun_and_does_not_expire(play: CoordinatorPlay, restart: bool) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(expires_s=3.0, retries=1, retry_delay_s=5.0, jitter=0.0))
    node.raises(node.runs(client.job(1)))
    client.gets_accepted(1)
    if restart:
        back(play, client, node)
    play.live(6, node, client)
    node.finishes(node.runs(client.job(1), attempt=2))
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


@pytest.mark.parametrize("how", ["crash", "lost node", "node left"])
def test_what_ran_and_runs_again_does_not_expire(play: CoordinatorPlay, how: str) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(expires_s=3.0))
    token = node.runs(client.job(1))
    client.gets_accepted(1)
    play.live(4, node, client)
    match how:
        case "crash":
            node.crashes(token)
        case "lost node":
            play.live(11, client)
            node = play.node("n2")
        case "node left":
            node.say(Bye("it is stopped"))
            node = play.node("n2")
    node.gets(Assign, jobs=[client.job(1)])
    play.nothing_else()


@pytest.mark.parametrize("after", [(), ("parent",)])
def test_time_to_begin_that_ends_around_a_restart_is_over_after_it(
    play: CoordinatorPlay, after: tuple[str, ...]
) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.runs(client.job(1))
    about = About(after=(client.job(1),)) if after else About()
    client.submit(spec=spec(expires_s=3.0), about=about)
    if not after:
        assert not node.inbox or node.gets(Assign)
    client.gets_accepted(2)
    play.restart()
    client.joins(accepted=2)
    play.live(5, client)
    client.say(Awaiting([2]))
    node.joins((token, client.job(1), 1))
    play.live(1, node, client)
    assert client.gets_failure(2, Outcome.EXPIRED).kind == "JobExpired"
    play.nothing_else()


def test_the_clock_of_a_job_is_not_set_back_by_a_restart(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=spec(expires_s=10.0))
    client.gets_accepted(1)
    play.live(6, client)
    client.gets(Waiting)
    back(play, client)
    client.say(Awaiting([1]))
    play.live(3, client)
    play.nothing_else()
    play.live(2, client)
    client.gets_failure(1, Outcome.EXPIRED)
    play.nothing_else()


def test_a_pause_holds_over_two_restarts_where_the_clock_was_set_back_before_the_first(play: CoordinatorPlay) -> None:
    """The first life after it moves the moment to today's clock; the second must find it there."""
    client = play.client()
    client.submit(spec=spec(), about=About(delay_s=30.0))
    client.gets_accepted(1)
    play.live(1, client)
    play.now = Now(play.now.mono, play.now.wall - 3_000.0)
    play.restart()
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    play.live(1, client)
    client.submit(about=About(delay_s=1_000.0))  # with it today's clock is on the disk
    client.gets_accepted(2)
    play.restart()
    client.joins(accepted=2)
    client.say(Awaiting([1, 2]))
    play.live(1, client)
    node = play.node()
    play.live(25, node, client)
    node.gets_nothing()
    play.live(4, node, client)
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


# ------------------------------------------------------------------------------------ retries


def test_a_job_runs_again_after_pauses_that_grow_and_is_dead_when_its_retries_are_spent(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=2, retry_delay_s=2.0, backoff=3.0, jitter=0.0))
    node.raises(node.runs(client.job(1), attempt=1), text="first")
    client.gets_accepted(1)
    play.live(1, node, client)
    play.nothing_else()
    play.live(1, node, client)
    node.raises(node.runs(client.job(1), attempt=2), text="second")
    play.live(5, node, client)
    play.nothing_else()
    play.live(1, node, client)
    node.raises(node.runs(client.job(1), attempt=3), text="third")
    assert client.gets_failure(1).text == "third"
    job = play.story_of(client, 1)
    assert (job["state"], job["dead"]) == ("failed", True)
    assert [t["error"] for t in job["attempts"]] == ["ValueError: first", "ValueError: second", "ValueError: third"]
    play.nothing_else()
    play.nothing_kept()


def test_without_retries_a_failure_is_no_dead_letter(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    node.raises(node.runs(client.job(1)))
    client.gets_failure(1)
    assert play.story_of(client, 1)["dead"] is False
    play.nothing_else()


def test_the_longest_pause_bounds_the_growth(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=5, retry_delay_s=2.0, backoff=100.0, retry_max_delay_s=4.0, jitter=0.0))
    for pause in (2, 4, 4):
        node.raises(node.runs(client.job(1)))
        play.live(pause - 1, node, client)
        node.gets_nothing()
        play.live(1, node, client)
    node.gets(Assign, attempts=[4])


def test_a_pause_goes_on_over_a_restart_and_no_retry_is_lost_or_won(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=2, retry_delay_s=10.0, backoff=1.0, jitter=0.0))
    for attempt in (1, 2):
        node.raises(node.runs(client.job(1), attempt=attempt))
        if attempt == 1:
            client.gets_accepted(1)
        play.live(4, node, client)
        back(play, client, node)
        play.live(5, node, client)
        play.nothing_else()
        play.live(2, node, client)
    client.say(Awaiting([1]))
    node.raises(node.runs(client.job(1), attempt=3))
    client.gets_failure(1)
    assert len(play.story_of(client, 1)["attempts"]) == 3
    play.nothing_else()


def test_a_failure_told_twice_around_a_restart_counts_once(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=0.0))
    token = node.runs(client.job(1))
    node.deaf = True
    node.raises(token)
    node.deaf = False
    client.gets_accepted(1)
    play.restart()
    node.joins((token, client.job(1), 1))  # it has had no word that its result was taken
    node.gets(Discard, tokens=[token])
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    again = node.runs(client.job(1), attempt=2)
    node.raises(token)  # it crossed the word
    node.gets(Discard, tokens=[token])
    play.live(1, node, client)
    node.finishes(again)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    assert [t["number"] for t in play.story_of(client, 1)["attempts"]] == [1, 2]
    play.nothing_else()


def test_crashes_and_lost_nodes_do_not_spend_retries(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=0.0, crash_retries=1))
    node.crashes(node.runs(client.job(1), attempt=1))
    node.raises(node.runs(client.job(1), attempt=2))
    play.wait(0.1)
    node.raises(node.runs(client.job(1), attempt=3))
    client.gets_accepted(1)
    client.gets_failure(1)
    assert play.story_of(client, 1)["dead"] is True
    play.nothing_else()


def test_a_job_that_waits_to_run_again_can_be_cancelled_and_is_no_dead_letter(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=3, retry_delay_s=60.0))
    node.raises(node.runs(client.job(1)))
    client.cancel(1)
    assert client.gets_failure(1, Outcome.CANCELLED).text == "cancelled before it ran again"
    assert play.story_of(client, 1)["dead"] is False
    assert play.asks(client, "status")["dead_letters"] == 0
    play.nothing_else()


def test_a_wish_to_cancel_beats_a_retry(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=3, retry_delay_s=0.0))
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    client.cancel(1)
    node.gets(Retract, tokens=[token])
    node.raises(token)
    client.gets_failure(1, Outcome.CANCELLED)
    play.live(2, node, client)
    play.nothing_else()
    play.nothing_kept()


# ------------------------------------------------------------------------------------ Retry, Snooze, GiveUp


def test_a_snooze_costs_nothing_and_lasts_what_it_says_over_a_restart(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=0))
    for attempt in range(1, 5):
        token = node.runs(client.job(1), attempt=attempt)
        node.raises(token, "Snooze", "ClusterError", "Exception", end=End.SNOOZE, delay_s=10.0)
        if attempt == 1:
            client.gets_accepted(1)
        play.live(3, node, client)
        if attempt == 2:
            back(play, client, node)
        play.live(6, node, client)
        play.nothing_else()
        play.live(2, node, client)
    client.say(Awaiting([1]))
    node.finishes(node.runs(client.job(1), attempt=5))
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_a_job_that_asks_to_run_again_spends_a_retry_and_chooses_the_pause(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=60.0, retry_on=("KeyError",)))
    node.raises(node.runs(client.job(1)), "Retry", "Exception", end=End.RETRY, delay_s=2.0)
    client.gets_accepted(1)
    play.live(2, node, client)
    node.raises(node.runs(client.job(1), attempt=2), "Retry", "Exception", end=End.RETRY, delay_s=2.0)
    assert client.gets_failure(1).kind == "Retry"
    assert play.story_of(client, 1)["dead"] is True
    play.nothing_else()


def test_a_job_that_gives_up_ends_whatever_is_left(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=100, retry_delay_s=0.0))
    node.raises(node.runs(client.job(1)), "GiveUp", "Exception", end=End.GIVE_UP, text="never")
    assert client.gets_failure(1).text == "never"
    play.live(2, node, client)
    play.nothing_else()


# ------------------------------------------------------------------------------------ retry_on, give_up_on

OS = ("ConnectionResetError", "ConnectionError", "OSError", "Exception")


@pytest.mark.parametrize(
    ("rules", "bases", "again"),
    [
        ({"retry_on": ("OSError",)}, OS, True),
        ({"retry_on": ("ConnectionResetError",)}, OS, True),
        ({"retry_on": ("TimeoutError",)}, OS, False),
        ({"give_up_on": ("ConnectionError",)}, OS, False),
        ({"give_up_on": ("TimeoutError",)}, OS, True),
        ({"retry_on": ("OSError",), "give_up_on": ("ConnectionResetError",)}, OS, False),
        ({"retry_on": ("OSError",), "give_up_on": ("TimeoutError",)}, OS, True),
        ({"retry_on": ("Exception",)}, OS, True),
        ({"retry_on": ("Error",)}, OS, False),
    ],
)
def test_exceptions_are_matched_by_their_names_and_those_of_their_bases(
    play: CoordinatorPlay, rules: dict[str, Any], bases: tuple[str, ...], again: bool
) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=0.0, **rules))
    node.raises(node.runs(client.job(1)), *bases)
    play.wait(0.1)
    if again:
        node.gets(Assign, attempts=[2])
        client.inbox.clear()
    else:
        client.gets_failure(1)
    play.nothing_else()


# ------------------------------------------------------------------------------------ delivery


@pytest.mark.parametrize("end", [End.RAISED, End.RETRY, End.SNOOZE])
def test_what_must_not_start_twice_never_runs_again(play: CoordinatorPlay, end: End) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(at_most_once=True, retries=3, retry_delay_s=0.0))
    node.raises(node.runs(client.job(1)), end=end, delay_s=0.0)
    client.gets_failure(1)
    play.live(2, node, client)
    play.nothing_else()


def test_what_must_not_start_twice_waits_for_its_moment_over_a_restart(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(at_most_once=True), about=About(delay_s=10.0))
    client.gets_accepted(1)
    back(play, client, node)
    play.live(8, node, client)
    play.nothing_else()
    play.live(3, node, client)
    node.gets(Assign, attempts=[1])
    play.nothing_else()


# ------------------------------------------------------------------------------------ result_ttl_s


@pytest.mark.parametrize("restart", [False, True])
def test_a_result_is_kept_as_long_as_was_wished(play: CoordinatorPlay, restart: bool) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(result_ttl_s=20.0))
    node.finishes(node.runs(client.job(1)), payload=b"42")
    client.gets_results(1)
    play.live(5, node, client)
    if restart:
        back(play, client, node)
    client.say(Awaiting([1]))
    client.gets(Results, payloads=[b"42"])
    play.live(21, node, client)
    client.say(Awaiting([1]))
    assert client.gets_failure(1).kind == "ResultExpired"
    play.live(70, node, client)  # it is pruned, and people still see that it was there
    client.say(Awaiting([1]))
    assert client.gets_failure(1).kind == "ResultExpired"
    assert play.story_of(client, 1)["state"] == "succeeded"
    play.nothing_else()


# ------------------------------------------------------------------------------------ lifetime


def test_jobs_bound_to_a_client_end_with_its_session_but_for_those_that_run(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(client_bound=True))
    token = node.runs(client.job(1))
    client.submit(spec=spec(client_bound=True, queue="else"), about=About(delay_s=60.0))
    client.submit(spec=spec(queue="nobody"))
    client.say(Bye("it is done"))
    assert play.coordinator._admission.jobs == 2, "the one that runs, and the one that is bound to nobody"
    node.finishes(token)
    play.live(61, node)
    node.gets(Assign, jobs=[client.job(3)])
    client.inbox.clear()
    play.nothing_else()


def test_a_bound_job_that_was_placed_is_asked_back(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(client_bound=True))
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    client.say(Bye("it is done"))
    node.gets(Retract, tokens=[token])
    node.say(Returned([token], []))
    play.nothing_else()
    play.nothing_kept()


def test_a_bound_job_survives_a_restart_as_long_as_its_client_may_come_back(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=spec(client_bound=True))
    client.gets_accepted(1)
    play.restart()
    assert play.coordinator._admission.jobs == 1
    play.wait(601.0)
    play.nothing_else()
    play.nothing_kept()


# ------------------------------------------------------------------------------------ tags, summary


def test_tags_and_summaries_are_seen_while_it_waits_and_when_it_is_over_also_after_a_restart(
    play: CoordinatorPlay,
) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(tags=("nightly", "eu")), summary="5, password=***")
    waiting = play.story_of(client, 1)
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    over = play.story_of(client, 1)
    back(play, client, node)
    for job in (waiting, over, play.story_of(client, 1)):
        assert (job["tags"], job["arguments"]) == (["nightly", "eu"], "5, password=***")
    play.nothing_else()


# ------------------------------------------------------------------------------------ durable


def test_a_restart_forgets_moments_of_jobs_that_are_not_durable(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(durable=False), about=About(delay_s=5.0))
    client.gets_accepted(1)
    back(play, client, node)
    client.say(Awaiting([1]))
    client.gets_failure(1, Outcome.LOST)
    play.live(6, node, client)
    play.nothing_else()
    play.nothing_kept()


# ------------------------------------------------------------------------------------ what a client may not say


@pytest.mark.parametrize(
    "rules",
    [
        {"retries": 101},
        {"retries": -1},
        {"retry_delay_s": -1.0},
        {"backoff": 0.5},
        {"jitter": 1.5},
        {"priority": 11},
        {"queue": ""},
        {"tags": ("x" * 201,)},
        {"tags": tuple(str(n) for n in range(33))},
        {"expires_s": -1.0},
        {"after_failure": "wait"},
        {"no_such_rule": 1},
        {"crash_retries": True},
        {"gpus": -1.0},
        {"gpus": 1.5},
        {"resources": (("licence", 0),)},
        {"resources": (("licence", float("inf")),)},
        {"resources": (("licence", "1"),)},
        {"resources": (("", 1),)},
        {"resources": tuple((f"r{n}", 1) for n in range(33))},
        {"prefer": (("zone", 1),)},
        {"prefer": (("zone",),)},
        {"anti_affinity": "k" * 201},
    ],
)
def test_rules_that_no_client_of_ours_sends_are_refused_in_words(play: CoordinatorPlay, rules: dict[str, Any]) -> None:
    client = play.client()
    message = client.submission()
    fields = msgpack.unpackb(message.specs[0])
    fields[-1] = rules
    message.specs[0] = msgpack.packb(fields)
    client.say(message)
    failure = client.gets_failure(1)
    assert failure.kind == "JobRefused"
    assert next(iter(rules)) in failure.text
    play.nothing_else()
    play.nothing_kept()


@pytest.mark.parametrize(
    "said",
    [
        {"at": -1.0},
        {"at": float("nan")},
        {"at": 1e300},
        {"delay_s": -5},
        {"delay_s": "soon"},
        {"key": "k" * 201},
        {"key": b"k"},
        {"fingerprint": b"f" * 65},
        {"after": [b"short"]},
        {"after": [bytes(16)] * 1001},
        {"retry_of": b"x"},
        {"parent": b"x"},
        {"root": "x" * 16},
        {"what": 1},
    ],
)
def test_what_cannot_be_said_about_a_job_is_refused_in_words(play: CoordinatorPlay, said: dict[str, Any]) -> None:
    node, client = play.node(), play.client()
    message = client.submission(2)
    message.abouts = [[0, msgpack.packb(said)]]
    client.say(message)
    node.gets(Assign, jobs=[client.job(2)])
    assert client.gets_failure(1).kind == "JobRefused"
    play.nothing_else()


def test_a_client_may_say_what_its_job_repeats(play: CoordinatorPlay) -> None:
    """``retry_of`` is a note for people: a client that says it gains nothing by it."""
    node, client = play.node(), play.client()
    client.submit(about=About(retry_of=bytes(15) + b"\1"))
    node.gets(Assign, jobs=[client.job(1)])
    assert play.story_of(client, 1)["retry_of"] == "0000000000000000-1"
    client.gets_accepted(1)
    play.nothing_else()


@pytest.mark.parametrize("restart", [False, True])
def test_a_job_knows_and_shows_whose_child_it_is(play: CoordinatorPlay, restart: bool) -> None:
    node, client = play.node(slots=3), play.client()
    first, second, third = (job_id(client.session, n) for n in (1, 2, 3))
    client.submit()
    token = node.runs(client.job(1))
    client.gets_accepted(1)
    client.submit(about=About(parent=first))
    assert told(node) == [{"parent": first}]
    client.gets_accepted(2)
    client.submit(about=About(parent=second, root=first))
    assert told(node) == [{"parent": second, "root": first}]
    client.gets_accepted(3)
    if restart:
        play.restart()
        node.joins((token, first, 1))
        client.joins(accepted=3)
        assert told(node) == [{"parent": first}, {"parent": second, "root": first}]
    ids = [format_job(jid) for jid in (first, second, third)]
    stories = [play.story_of(client, n) for n in (1, 2, 3)]
    assert [(s["parent"], s["root"]) for s in stories] == [(None, ids[0]), (ids[0], ids[0]), (ids[1], ids[0])]
    play.nothing_else()


def test_a_failure_that_cannot_be_read_is_an_error_as_any_other(play: CoordinatorPlay) -> None:
    from cluster.messages import Finished

    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=0.0))
    token = node.runs(client.job(1))
    node.say(Finished([token], [int(End.RAISED)], [b"\xff"], [], [1], [1]))
    client.gets_accepted(1)
    token = node.runs(client.job(1), attempt=2)
    node.say(Finished([token], [int(End.RAISED)], [b""], [], [1], [1]))
    assert Failure.decode(client.gets(Results).payloads[0]).kind == "RemoteError"
    play.nothing_else()


def test_a_node_may_tell_late_of_what_has_been_put_off(play: CoordinatorPlay) -> None:
    """Its word about an attempt that is over moves nothing."""
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=60.0))
    token = node.runs(client.job(1))
    node.raises(token)
    client.gets_accepted(1)
    node.say(Started([token]))
    node.say(Returned([], [token]))
    node.say(Returned([token], []))
    node.finishes(token)
    node.gets(Discard, tokens=[token])
    assert play.story_of(client, 1)["state"] == "scheduled"
    play.nothing_else()
