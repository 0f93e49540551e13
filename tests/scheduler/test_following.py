"""Jobs that run after others: as long as these last, when they fail, are unknown, pruned, or nobody's business."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.actor import Identity
from cluster.config import CoordinatorLimits
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Assign, Awaiting, Results
from tests.playbook import SPEC, CoordinatorPlay, FakeClient

RUN = Spec("app:task", False, b"pickled reference", rules=Rules(after_failure="run"))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def after(client: FakeClient, *counters: int, **more: Any) -> About:
    return About(after=tuple(client.job(c) for c in counters), **more)


# ------------------------------------------------------------------------------------ parents that last


def test_a_job_runs_when_all_its_parents_have_succeeded(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit(2)
    first, second = node.gets(Assign).tokens
    client.submit(about=after(client, 1, 2))
    client.gets_accepted(3)
    node.finishes(first)
    client.gets_results(1)
    assert play.story_of(client, 3)["state"] == "scheduled"
    play.nothing_else()
    node.finishes(second)
    client.gets_results(2)
    node.finishes(node.gets(Assign, jobs=[client.job(3)]).tokens[0])
    client.gets_results(3)
    play.nothing_else()
    play.nothing_kept()


def test_parents_that_are_over_are_looked_up(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit()
    node.finishes(*node.gets(Assign).tokens)
    client.gets_results(1)
    client.submit(about=after(client, 1))
    node.gets(Assign, jobs=[client.job(2)])
    client.gets_accepted(2)
    play.nothing_else()
    assert not play.coordinator._dependencies._children


def test_a_parent_may_end_in_the_turn_that_brings_its_child(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    with play.one_turn():
        node.finishes(token)
        client.submit(about=after(client, 1))
    client.gets_results(1)
    node.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


def test_a_whole_graph_may_come_in_one_message_and_in_any_order_of_ends(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=8), play.client()
    with play.one_turn():
        client.submit(2)
        client.submit(about=after(client, 1, 2))
        client.submit(about=after(client, 3))
        client.submit(about=after(client, 1))
    first, second = node.gets(Assign, jobs=2).tokens
    client.gets_accepted(5)
    node.finishes(first)
    client.gets_results(1)
    fifth = node.gets(Assign, jobs=[client.job(5)]).tokens[0]
    node.finishes(second, fifth)
    client.gets_results(2, 5)
    node.finishes(*node.gets(Assign, jobs=[client.job(3)]).tokens)
    client.gets_results(3)
    node.finishes(*node.gets(Assign, jobs=[client.job(4)]).tokens)
    client.gets_results(4)
    play.nothing_else()
    play.nothing_kept()


def test_a_job_waits_for_its_moment_and_for_its_parents(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.submit(about=after(client, 1, delay_s=5.0))
    client.submit(about=after(client, 1, delay_s=20.0))
    client.gets_accepted(3)
    play.live(10, node, client)
    play.nothing_else()
    node.finishes(token)
    client.gets_results(1)
    node.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()
    play.live(11, node, client)
    node.gets(Assign, jobs=[client.job(3)])
    play.nothing_else()


# ------------------------------------------------------------------------------------ parents that fail


def test_a_failed_parent_fails_all_that_follow_from_it_in_one_turn(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit()
    token = node.runs(client.job(1))
    client.submit(about=after(client, 1))
    client.submit(about=after(client, 2))
    client.submit(about=after(client, 1, 2, 3))
    client.gets_accepted(4)
    node.raises(token)
    results = client.gets_results(1, 2, 3, 4, outcome=Outcome.FAILED)
    assert len(results.counters) == 4
    assert (
        play.story_of(client, 2)["error"]
        == f"DependencyFailed: it was to run after job {_text(client, 1)}, which is failed"
    )
    play.nothing_else()
    play.nothing_kept()


@pytest.mark.parametrize("how", ["failed", "cancelled", "expired"])
def test_a_job_may_be_told_to_run_all_the_same(play: CoordinatorPlay, how: str) -> None:
    node, client = play.node(slots=4), play.client()
    match how:
        case "failed":
            client.submit()
            token = node.runs(client.job(1))
        case "cancelled":
            client.submit(about=About(delay_s=60.0))
        case "expired":
            client.submit(spec=Spec("f", False, b"f", rules=Rules(expires_s=2.0)), about=About(delay_s=60.0))
    client.submit(spec=RUN, about=after(client, 1))
    client.gets_accepted(2)
    match how:
        case "failed":
            node.raises(token)
        case "cancelled":
            client.cancel(1)
        case "expired":
            play.live(3, node, client)
    client.gets(Results, counters=[1])
    node.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


def test_a_parent_that_runs_again_has_not_failed(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit(spec=Spec("f", False, b"f", rules=Rules(retries=1, retry_delay_s=2.0, jitter=0.0)))
    client.submit(about=after(client, 1))
    node.raises(node.runs(client.job(1)))
    client.gets_accepted(2)
    play.live(3, node, client)
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    node.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


@pytest.mark.parametrize("spec", [SPEC, RUN])
def test_an_unknown_parent_has_failed(play: CoordinatorPlay, spec: Spec) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec, about=About(after=(bytes(7) + b"\x09" + bytes(8),)))
    if spec is RUN:
        node.gets(Assign, jobs=[client.job(1)])
        client.gets_accepted(1)
    else:
        text = client.gets_failure(1).text
        assert text == "it was to run after job 0000000000000009-0, which is not known (any more)"
    play.nothing_else()


def test_a_pruned_parent_is_not_known_any_more() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(keep_outcomes_s=30.0))
    node, client = play.node(), play.client()
    client.submit()
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    play.live(100, node, client)
    client.submit(about=after(client, 1))
    assert "not known (any more)" in client.gets_failure(2).text
    play.nothing_else()


@pytest.mark.parametrize("state", ["finished", "failed", "unfinished"])
def test_parents_of_another_namespace_are_as_unknown(play: CoordinatorPlay, state: str) -> None:
    node, client = play.node(slots=4), play.client()
    other = play.new_client(Identity("other-key", "client", "bob", "theirs"), "theirs")
    other.joins()
    other.submit(spec=Spec("app:secret", False, b"pickled reference", namespace="theirs"))
    token = node.runs(other.job(1))
    if state != "unfinished":
        node.finishes(token) if state == "finished" else node.raises(token)
        other.gets(Results)
    client.submit(about=About(after=(other.job(1),)))
    assert "not known (any more)" in client.gets_failure(1).text
    other.inbox.clear()
    play.nothing_else()


def test_a_child_that_is_cancelled_or_expires_waits_for_nobody_any_more(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit()
    token = node.runs(client.job(1))
    client.submit(about=after(client, 1))
    client.submit(spec=Spec("f", False, b"f", rules=Rules(expires_s=2.0)), about=after(client, 1))
    client.submit(about=after(client, 2, 3))
    client.gets_accepted(4)
    client.cancel(2)
    client.gets_results(2, 4)
    play.live(3, node, client)
    client.gets_failure(3, Outcome.EXPIRED)
    node.finishes(token)
    client.gets_results(1)
    play.nothing_else()
    assert not play.coordinator._dependencies._children and not len(play.coordinator._dependencies)
    play.nothing_kept()


def test_a_job_cannot_wait_for_itself_and_stays_cancellable(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(about=About(after=(client.job(1),)))
    client.gets_accepted(1)
    client.cancel(1)
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()
    play.nothing_kept()


# ------------------------------------------------------------------------------------ parents that are aliases


@pytest.mark.parametrize("end", ["well", "failed"])
def test_a_parent_may_be_a_submission_that_was_attached_to_another_job(play: CoordinatorPlay, end: str) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit(about=About(key="k"))
    token = node.runs(client.job(1))
    client.submit(about=About(key="k"))
    client.submit(about=after(client, 2))
    client.gets_accepted(3)
    assert play.story_of(client, 3)["state"] == "scheduled"
    if end == "well":
        node.finishes(token)
        client.gets_results(1, 2)
        node.gets(Assign, jobs=[client.job(3)])
    else:
        node.raises(token)
        client.gets_results(1, 2, 3, outcome=Outcome.FAILED)
    play.nothing_else()
    assert not play.coordinator._dependencies._children


def test_a_parent_may_be_attached_to_a_job_that_is_over(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit(about=About(key="k"))
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    client.submit(about=About(key="k"))
    client.gets_results(2)
    client.submit(about=after(client, 2))
    node.gets(Assign, jobs=[client.job(3)])
    play.nothing_else()


# ------------------------------------------------------------------------------------ restarts


def test_a_restart_in_the_middle_forgets_neither_parents_nor_children(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit()
    client.submit()
    done = node.runs(client.job(1))
    token = node.runs(client.job(2))
    client.submit(about=after(client, 1, 2))
    client.gets_accepted(3)
    node.finishes(done)
    client.gets_results(1)
    play.restart()
    node.joins((token, client.job(2), 1))
    client.joins(accepted=3)
    client.say(Awaiting([2, 3]))
    assert play.why(client, 3) == [f"it runs after 1 job that has not ended: {_text(client, 2)}"]
    play.nothing_else()
    node.finishes(token)
    client.gets_results(2)
    node.gets(Assign, jobs=[client.job(3)])
    play.nothing_else()


def test_a_job_that_waits_for_moment_and_parent_does_so_after_a_restart(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit()
    token = node.runs(client.job(1))
    client.submit(about=after(client, 1, delay_s=5.0))
    client.gets_accepted(2)
    play.restart()
    node.joins((token, client.job(1), 1))
    client.joins(accepted=2)
    client.say(Awaiting([1, 2]))
    play.live(10, node, client)
    play.nothing_else()
    node.finishes(token)
    client.gets_results(1)
    node.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


def test_what_has_begun_waits_for_no_parent_after_a_restart() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(keep_outcomes_s=30.0))
    node, client = play.node(slots=4), play.client()
    client.submit()
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    again = Spec("f", False, b"f", rules=Rules(retries=1, retry_delay_s=120.0, jitter=0.0))
    client.submit(spec=again, about=after(client, 1))
    node.raises(node.runs(client.job(2)))
    client.gets_accepted(2)
    play.live(100, node, client)  # what became of the parent is not kept any more
    play.restart()
    play.now = play.now._replace(mono=play.now.mono + 30, wall=play.now.wall + 30)
    node.joins()
    node.gets(Assign, jobs=[client.job(2)], attempts=[2])
    play.nothing_else()


def test_a_child_of_an_earlier_life_can_be_cancelled_before_it_is_known_who_holds_what(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.runs(client.job(1))
    client.submit(about=after(client, 1))
    client.gets_accepted(2)
    play.restart()
    client.joins(accepted=2)
    client.say(Awaiting([1, 2]))
    client.cancel(2)
    node.joins((token, client.job(1), 1))
    client.gets_failure(2, Outcome.CANCELLED)
    node.finishes(token)
    client.gets_results(1)
    play.nothing_else()
    play.nothing_kept()


def test_a_chain_of_a_thousand_runs_in_order_with_a_restart_in_the_middle(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    with play.one_turn():
        client.submit()
        for counter in range(2, 1_001):
            client.submit(about=after(client, counter - 1))
    for counter in range(1, 1_001):
        assign = node.gets(Assign, jobs=[client.job(counter)])
        if counter == 500:
            client.inbox.clear()
            play.restart()
            node.joins((assign.tokens[0], client.job(counter), 1))
            client.joins(accepted=1_000)
            client.say(Awaiting(list(range(500, 1_001))))
        node.finishes(*assign.tokens)
    client.inbox.clear()
    play.nothing_else()
    play.nothing_kept()


def test_a_chain_of_a_thousand_fails_as_one(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    with play.one_turn():
        client.submit()
        for counter in range(2, 1_001):
            client.submit(about=after(client, counter - 1))
    node.raises(node.runs(client.job(1)))
    told = sum(len(message.counters) for message in client.inbox if isinstance(message, Results))
    assert told == 1_000
    client.inbox.clear()
    play.nothing_else()
    play.nothing_kept()


def test_a_job_may_have_a_thousand_parents_of_any_state(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=2_000), play.client()
    client.submit(1_000)
    tokens = [t for message in node.inbox for t in message.tokens]  # type: ignore[attr-defined]
    assert len(tokens) == 1_000
    node.inbox.clear()
    node.finishes(*tokens[:500])
    client.inbox.clear()
    client.submit(about=after(client, *range(1, 1_001)))
    assert play.why(client, 1_001)[0].startswith("it runs after 500 jobs that have not ended: ")
    node.finishes(*tokens[500:])
    node.gets(Assign, jobs=[client.job(1_001)])
    client.inbox.clear()
    play.nothing_else()


def test_of_a_parent_that_is_not_durable_nothing_is_known_when_it_has_ended(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=Spec("f", False, b"f", durable=False))
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    client.submit(about=after(client, 1))
    failure = client.gets_failure(2)
    assert failure.kind == "DependencyFailed" and "not known" in failure.text


def _text(client: FakeClient, counter: int) -> str:
    from cluster.ids import format_job

    return format_job(client.job(counter))
