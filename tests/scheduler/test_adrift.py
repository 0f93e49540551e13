"""Unfinished jobs of an earlier life: nobody runs them twice, nobody waits for ever."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.actor import WallClockJumped
from cluster.jobs import NOTHING_SPECIAL, About, Failure, Outcome, Rules, Spec
from cluster.messages import Assign, Awaiting, Results, Retract, Returned
from scheduler.adrift import Adrift
from scheduler.lifecycle import Job
from scheduler.queues import Queue
from tests.playbook import SPEC, CoordinatorPlay, FakeClient

ONCE = Spec("app:pay", False, b"pickled reference", rules=Rules(at_most_once=True))


QUEUE = Queue("default")


def job(number: int) -> Job:
    return Job(number.to_bytes(16, "big"), number, None, SimpleNamespace(queue=QUEUE), b"", None, number)


def test_what_nobody_holds_is_left_over_and_what_may_have_started_is_in_doubt() -> None:
    book = Adrift()
    jobs = [job(n) for n in range(4)]
    book.add(jobs[0], b"")
    book.add(jobs[1], b"s1")
    book.add(jobs[2], b"s1")
    book.add(jobs[3], b"s2")
    book.told(b"s1", {jobs[2].id})
    book.found(jobs[2])
    assert len(book) == QUEUE.leased == 3
    assert [book.in_doubt(one) for one in jobs] == [False, False, False, True]
    rest, doubtful = book.rest()
    assert not any(book.in_doubt(one) for one in jobs)
    assert (rest, doubtful) == ([jobs[0], jobs[1]], [jobs[3]])
    assert len(book) == QUEUE.leased == 0 and list(book) == []
    assert book.rest() == ([], [])


def test_it_may_be_gone_through_while_jobs_are_found() -> None:
    book = Adrift()
    for n in range(3):
        book.add(job(n), b"")
    for one in book:
        book.found(one)
    assert len(book) == 0


# ------------------------------------------------------------------------------------ in the coordinator


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def test_a_job_that_is_adrift_can_be_cancelled_when_it_is_known_who_holds_it(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=2), play.client()
    client.submit(2)
    first, _second = node.gets(Assign).tokens
    client.gets_accepted(2)
    play.restart()
    client.joins(accepted=2)
    client.say(Awaiting([1, 2]))
    client.cancel(1, 2)
    play.nothing_else()
    node.joins((first, client.job(1), 1))
    client.gets_failure(2, Outcome.CANCELLED)
    node.gets(Retract, tokens=[first])
    node.say(Returned([first], []))
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()
    play.nothing_kept()


def test_what_a_node_holds_of_an_earlier_life_and_has_not_begun_in_time_is_asked_back(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=Spec("f", False, b"f", rules=Rules(expires_s=3.0)))
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    play.restart()
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    play.live(5, client)
    node.joins((token, client.job(1), 1))
    node.gets(Retract, tokens=[token])
    node.say(Returned([token], []))
    client.gets_failure(1, Outcome.EXPIRED)
    play.nothing_else()
    play.nothing_kept()


def test_a_job_that_is_adrift_says_why_it_does_not_run(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    node.gets(Assign)
    client.gets_accepted(1)
    play.restart()
    client.joins(accepted=1)
    [why] = play.why(client, 1)
    assert why.startswith("the coordinator was restarted, and a node that has not come back may hold it")
    assert play.story_of(client, 1)["state"] == "adrift"
    play.nothing_else()


def test_a_node_that_comes_back_late_finds_its_attempts_given_to_others(play: CoordinatorPlay) -> None:
    from cluster.messages import Discard

    node, client = play.node("n1"), play.client()
    client.submit()
    token = node.runs(client.job(1))
    client.gets_accepted(1)
    play.restart()
    client.joins(accepted=1)
    client.say(Awaiting([1]))
    other = play.node("n2")
    play.live(11, client, other)
    mine = other.gets(Assign, jobs=[client.job(1)]).tokens[0]
    node.joins((token, client.job(1), 1))
    node.gets(Discard, tokens=[token])
    other.finishes(mine)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_what_must_not_start_twice_is_lost_with_the_node_that_may_have_started_it(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(spec=ONCE)
    node.runs(client.job(1))
    client.submit(spec=ONCE, about=About(delay_s=60.0))
    client.submit(spec=ONCE, about=About(after=(client.job(1),)))
    client.gets_accepted(3)
    play.restart()
    client.joins(accepted=3)
    client.say(Awaiting([1, 2, 3]))
    other = play.node("n2")
    play.live(11, client, other)
    got = client.gets(Results, counters=[1, 3], outcomes=[Outcome.LOST, Outcome.FAILED])
    words = [Failure.decode(payload) for payload in got.payloads]
    assert "must not start twice" in words[0].text and words[1].kind == "DependencyFailed"
    play.live(50, client, other)
    other.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


# ------------------------------------------------------------------------------------ clocks that were set back


def set_back(play: CoordinatorPlay, seconds: float) -> None:
    """The coordinator is killed, and started again on a clock that was set back meanwhile."""
    play.now = play.now._replace(wall=play.now.wall - seconds)
    play.restart()


def comes_again(play: CoordinatorPlay, client: FakeClient, accepted: int) -> None:
    client.joins(accepted=accepted)
    client.say(Awaiting(list(range(1, accepted + 1))))


@pytest.mark.parametrize("seconds", [1.0, 3_600.0])
@pytest.mark.parametrize("spec", [SPEC, Spec("f", False, b"f", rules=Rules(retries=1, retry_delay_s=5.0, jitter=0.0))])
def test_a_node_may_hold_what_is_not_due_by_a_clock_that_was_set_back(
    play: CoordinatorPlay, spec: Spec, seconds: float
) -> None:
    """It was given when its time had come, and nothing was written after that which tells how late it was then."""
    again = spec is not SPEC
    node, other, client = play.node("n1"), play.new_node("n2"), play.client()
    client.submit(spec=spec, about=NOTHING_SPECIAL if again else About(delay_s=5.0))
    client.gets_accepted(1)
    if again:
        node.raises(node.runs(client.job(1)))
    play.live(5, node, client)
    token = node.runs(client.job(1), attempt=1 + again)
    set_back(play, seconds)
    other.joins()
    comes_again(play, client, 1)
    play.live(3, other, client)
    play.nothing_else()
    node.joins((token, client.job(1), 1 + again))
    node.finishes(token)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()
    play.nothing_kept()


@pytest.mark.parametrize(("down", "left_s"), [(True, 10), (False, 6)])
def test_what_is_not_due_by_a_clock_that_was_set_back_waits_for_it_when_no_node_has_it(
    play: CoordinatorPlay, down: bool, left_s: int
) -> None:
    """Set while the coordinator is down, and nobody knows how long it lived, or while it waits for the node."""
    node, client = play.node(), play.client()
    client.submit(about=About(delay_s=10.0))
    client.gets_accepted(1)
    play.live(4, node, client)
    if down:
        set_back(play, 3_600.0)
    else:
        play.restart()
        play.now = play.now._replace(wall=play.now.wall - 3_600.0)
        play.turn(WallClockJumped(-3_600.0))
    play.restart()  # its moment is one of the clock as it was set
    comes_again(play, client, 1)
    node.joins()
    assert play.story_of(client, 1)["state"] == "scheduled"
    play.live(left_s - 1, node, client)
    play.nothing_else()
    play.live(2, node, client)
    node.gets(Assign, jobs=[client.job(1)])
    play.nothing_else()


def test_a_moment_that_came_while_nobody_knew_who_holds_a_job_comes_again(play: CoordinatorPlay) -> None:
    """The clock goes back by so little that nobody is told: the job's time has come, and then it has not."""
    node, client = play.node(), play.client()
    client.submit(about=About(delay_s=8.0))
    client.gets_accepted(1)
    play.restart()
    comes_again(play, client, 1)
    play.live(8, client)
    play.now = play.now._replace(wall=play.now.wall - 0.9)
    node.joins()
    assert play.story_of(client, 1)["state"] == "scheduled"
    play.live(1, node, client)
    node.gets(Assign, jobs=[client.job(1)])
    play.nothing_else()


def test_so_does_the_moment_by_which_it_must_have_begun(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.runs(client.job(1))
    client.submit(spec=Spec("f", False, b"f", rules=Rules(expires_s=8.0, at_most_once=True)))
    client.gets_accepted(2)
    play.restart()
    comes_again(play, client, 2)
    play.live(8, client)
    play.now = play.now._replace(wall=play.now.wall - 0.9)
    node.joins((token, client.job(1), 1))
    assert play.story_of(client, 2)["state"] == "ready"
    play.live(1, node, client)
    client.gets_failure(2, Outcome.EXPIRED)
    play.nothing_else()


def test_what_waits_for_its_moment_after_a_restart_can_be_cancelled_and_expires(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(about=About(delay_s=60.0))
    client.submit(spec=Spec("f", False, b"f", rules=Rules(expires_s=3.0)), about=About(delay_s=60.0))
    client.gets_accepted(2)
    play.restart()
    comes_again(play, client, 2)
    client.cancel(1)
    play.live(5, client)
    node.joins()
    client.gets_results(1, 2)
    play.nothing_else()
    play.nothing_kept()


@pytest.mark.parametrize("held", [True, False])
def test_a_clock_that_was_set_back_does_not_make_anybody_forget_who_may_have_started_a_job(
    play: CoordinatorPlay, held: bool
) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(spec=ONCE, about=About(delay_s=5.0))
    client.gets_accepted(1)
    if held:
        play.live(6, node, client)
        node.runs(client.job(1))
    set_back(play, 3_600.0)
    play.restart()
    comes_again(play, client, 1)
    other = play.node("n2")
    play.live(11, client, other)
    if held:
        assert "must not start twice" in client.gets_failure(1, Outcome.LOST).text
    else:
        other.gets(Assign, jobs=[client.job(1)])
    play.nothing_else()
