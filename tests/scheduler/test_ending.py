"""Ending what runs: the wish holds over links, lost nodes and restarts until the job has its outcome."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.ids import format_job
from cluster.jobs import About, End, Outcome, Rules, Spec
from cluster.messages import Assign, Cancel, Interrupt, NotCancelled, Retract, Returned, Started
from tests.playbook import SPEC, CoordinatorPlay, FakeClient, FakeNode


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def ends(play: CoordinatorPlay, client: FakeClient, *counters: int) -> dict[str, Any]:
    """Somebody orders that these be ended; the answer."""
    return play.asks(client, "cancel", jobs=[format_job(client.job(c)) for c in counters], running=True)


def begin(play: CoordinatorPlay, spec: Spec = SPEC) -> tuple[FakeNode, FakeClient, int]:
    """One job runs; its token."""
    node, client = play.node(), play.client()
    client.submit(spec=spec)
    client.gets_accepted(1)
    return node, client, node.runs(client.job(1))


def test_what_runs_is_interrupted_and_cancelled_when_it_has_ended(play: CoordinatorPlay) -> None:
    node, client, token = begin(play, Spec("f", False, b"f", rules=Rules(grace_s=2.5, retries=3, crash_retries=3)))
    assert ends(play, client, 1) == {"found": 1, "cancelled": 0, "ending": 1}
    node.gets(Interrupt, tokens=[token], grace_ms=2_500)
    play.nothing_else()
    node.ends_cancelled(token)
    assert client.gets_failure(1, Outcome.CANCELLED).text == "cancelled while it ran"
    [tried] = play.story_of(client, 1)["attempts"]
    assert tried["error"] == "Cancelled: cancelled while it ran"
    play.nothing_else()
    play.nothing_kept()


def test_one_order_ends_what_runs_and_cancels_what_waits(play: CoordinatorPlay) -> None:
    node, client, token = begin(play)
    other = Spec("g", False, b"g", rules=Rules(grace_s=1.0))
    client.submit(spec=other, about=About(delay_s=60.0))
    client.gets_accepted(2)
    assert ends(play, client, 1, 2) == {"found": 2, "cancelled": 1, "ending": 1}
    client.gets_failure(2, Outcome.CANCELLED)
    node.gets(Interrupt, tokens=[token])
    assert ends(play, client, 1) == {"found": 1, "cancelled": 0, "ending": 1}
    play.nothing_else()  # it is under way


@pytest.mark.parametrize("end", [End.CRASHED, End.MEMORY, End.RAISED])
def test_one_that_comes_to_another_end_meanwhile_does_not_run_again(play: CoordinatorPlay, end: End) -> None:
    node, client, token = begin(play, Spec("f", False, b"f", rules=Rules(retries=3)))
    ends(play, client, 1)
    node.gets(Interrupt)
    node.finishes(token, outcome=end, payload=b"?")
    assert client.gets_failure(1, Outcome.CANCELLED).text == "cancelled before it ran again"
    play.nothing_else()


def test_a_result_that_was_quicker_counts(play: CoordinatorPlay) -> None:
    node, client, token = begin(play)
    ends(play, client, 1)
    node.gets(Interrupt)
    node.finishes(token)
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


def test_on_a_new_link_it_is_said_again(play: CoordinatorPlay) -> None:
    node, client, token = begin(play)
    ends(play, client, 1)
    node.inbox.clear()  # lost with the link
    node.joins((token, client.job(1), 1))
    node.gets(Interrupt, tokens=[token])
    play.nothing_else()
    node.ends_cancelled(token)
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()


def test_a_node_that_never_got_it_or_is_lost_ends_the_wish_as_wished(play: CoordinatorPlay) -> None:
    node, client, _ = begin(play)
    ends(play, client, 1)
    node.gets(Interrupt)
    play.live(12, client)
    client.gets_failure(1, Outcome.CANCELLED)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_restart_forgets_no_wish(play: CoordinatorPlay, comes_back: bool) -> None:
    node, client, token = begin(play)
    ends(play, client, 1)
    node.gets(Interrupt)
    play.restart()
    client.joins(accepted=1)
    if comes_back:
        node.joins((token, client.job(1), 1))
        node.gets(Interrupt, tokens=[token])
        node.ends_cancelled(token)
    else:
        other = play.node("n2")
        play.live(11, other, client)
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()


def test_a_wish_of_a_time_when_nobody_knows_who_has_the_job_reaches_its_node(play: CoordinatorPlay) -> None:
    node, client, token = begin(play)
    play.restart()
    client.joins(accepted=1)
    assert ends(play, client, 1)["ending"] == 1
    node.joins((token, client.job(1), 1))
    node.gets(Interrupt, tokens=[token])
    play.nothing_else()


def test_what_may_start_once_keeps_its_place_in_the_store_when_it_is_to_be_ended(play: CoordinatorPlay) -> None:
    """A wish while it is adrift must not let its row say that nobody has it."""
    node, client, _ = begin(play, Spec("pay", False, b"f", rules=Rules(at_most_once=True)))
    play.restart()
    client.joins(accepted=1)
    ends(play, client, 1)
    play.restart()
    client.joins(accepted=1)
    other = play.node("n2")
    play.live(11, other, client)
    client.gets_failure(1, Outcome.LOST)
    play.nothing_else()
    assert node.deaf or not node.inbox


def test_to_wish_it_unstarted_too_takes_nothing_back(play: CoordinatorPlay) -> None:
    """A client asks politely first, and the word that this cannot be comes later than its order."""
    node, client = play.node(), play.client()
    client.submit()
    client.gets_accepted(1)
    [token] = node.gets(Assign).tokens
    client.cancel(1)
    node.gets(Retract, tokens=[token])
    ends(play, client, 1)
    node.gets(Interrupt, tokens=[token])
    node.say(Returned([], [token]))
    client.say(Cancel([client.job(1)]))
    client.gets(NotCancelled)
    node.joins((token, client.job(1), 1))
    node.gets(Interrupt, tokens=[token])
    play.nothing_else()


def test_one_that_had_not_started_is_given_back_and_cancelled(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    client.gets_accepted(1)
    [token] = node.gets(Assign).tokens
    client.cancel(1)
    node.gets(Retract)
    ends(play, client, 1)
    node.gets(Interrupt)
    node.say(Returned([token], []))
    client.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()


def test_orders_to_one_node_are_few_messages(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=6), play.client()
    client.submit(3)
    client.submit(3, spec=Spec("g", False, b"g", rules=Rules(grace_s=1.0)))
    client.gets_accepted(6)
    one, two = node.gets(Assign), node.gets(Assign)
    node.say(Started(one.tokens + two.tokens))
    assert ends(play, client, *range(1, 7))["ending"] == 6
    said = {node.gets(Interrupt).grace_ms: 3 for _ in range(2)}
    assert said == {5_000: 3, 1_000: 3}
    play.nothing_else()
