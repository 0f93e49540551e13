"""What became of jobs is counted for good, and told once."""

from __future__ import annotations

from cluster.jobs import End, Failure, Outcome, Rules, Spec
from cluster.messages import Assign, Finished, Submit
from scheduler.tally import Tally
from tests.playbook import CoordinatorPlay


def test_nothing_is_told_of_a_turn_in_which_nothing_ended() -> None:
    tally = Tally()
    assert tally.facts(0.0) == []


def test_what_was_told_is_not_told_again_and_still_counts() -> None:
    tally = Tally()
    tally.refused("Full")
    tally.refused("Full")
    tally.retried("OSError")
    told = [(f.kind, f.n, f.about.get("reason")) for f in tally.facts(0.0)]
    assert told == [("jobs_retried", 1, "OSError"), ("jobs_refused", 2, "Full"), ("jobs_finished", 2, None)]
    assert tally.facts(0.0) == []
    assert tally.finished[Outcome.FAILED] == 2


def test_jobs_that_fail_and_jobs_that_are_refused_are_one_figure_in_a_turn() -> None:
    play = CoordinatorPlay()
    node, client = play.node("n1"), play.client()
    client.submit(1, Spec("m:f", False, b"f", rules=Rules(retries=1)))
    order = node.gets(Assign)
    failure = Failure("ValueError", "no", "", ("ValueError", "Exception")).encode()
    with play.one_turn():
        node.say(Finished(order.tokens, [int(End.GIVE_UP)], [failure], [], [1], [1], []))
        client.say(Submit(2, [b"no spec"], [0], [b"x"], [], [], ["x"], []))
    (finished,) = play.told("jobs_finished")
    assert (finished.n, finished.about["outcome"]) == (2, "failed")
    assert [(queue, name, len(times)) for queue, name, times in finished.about["rows"]] == [("default", "m:f", 1)]
    (dead,) = play.told("jobs_dead")
    assert (dead.n, dead.about["function"]) == (1, "m:f")
