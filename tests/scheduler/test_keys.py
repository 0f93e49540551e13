"""Idempotency keys: one job, however often and by whomever it is handed in, before and after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.actor import Identity
from cluster.config import CoordinatorLimits
from cluster.ids import format_job
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Assign, Awaiting, NotCancelled, Results, Submit, Watch
from scheduler import keys
from scheduler.journal import OutcomesRead, Wanted
from scheduler.keys import Keys, fingerprint
from tests.playbook import SPEC, CoordinatorPlay

KEY = About(key="order-17")
OTHER = Spec("app:other", False, b"another reference")


def spec(durable: bool = True, **rules: Any) -> Spec:
    return Spec("app:task", False, b"pickled reference", durable=durable, rules=Rules(**rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


# ------------------------------------------------------------------------------------ the book


def test_a_key_is_taken_until_its_time_after_the_end_of_its_job_is_over() -> None:
    book = Keys()
    assert book.get("ns", "k", 1.0) is None
    book.take("ns", "k", b"job", b"mark")
    assert book.get("ns", "k", 1e12) is not None
    assert book.get("other", "k", 1.0) is None
    assert book.ended("ns", "k", b"another job", 10.0) is None
    row = book.ended("ns", "k", b"job", 10.0)
    assert row is not None and row.until == 10.0
    assert book.get("ns", "k", 9.9) is not None
    assert book.get("ns", "k", 10.0) is None
    assert not book.expired("ns", "k", 9.9) and len(book) == 1
    assert book.expired("ns", "k", 10.0) and len(book) == 0
    assert not book.expired("ns", "k", 11.0)


def test_what_two_submissions_must_have_in_common() -> None:
    by_name = [fingerprint(Spec(name, False, b"x"), About(key="k")) for name in ("a:f", "a:f", "a:g")]
    assert by_name[0] == by_name[1] != by_name[2]
    given = [fingerprint(Spec(name, False, b"x"), About(key="k", fingerprint=b"v1")) for name in ("a:f", "a:g")]
    assert given[0] == given[1] != by_name[0]
    assert fingerprint(SPEC, About(key="k", fingerprint=SPEC.name.encode())) != fingerprint(SPEC, About(key="k"))


# ------------------------------------------------------------------------------------ attaching


def test_two_of_one_message_are_one_job(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit(3, about=KEY)
    node.finishes(*node.gets(Assign, jobs=[client.job(1)]).tokens, payload=b"42")
    assert client.gets_results(1, 2, 3).payloads == [b"42"] * 3
    play.nothing_else()
    play.nothing_kept()


def test_whoever_comes_while_it_waits_runs_or_is_over_gets_its_outcome(play: CoordinatorPlay) -> None:
    client, second = play.client(), play.client()
    client.submit(about=KEY)
    client.gets_accepted(1)
    second.submit(about=KEY)
    second.gets_accepted(1)
    node = play.node()
    token = node.runs(client.job(1))
    second.submit(about=KEY)
    second.gets_accepted(2)
    node.finishes(token, payload=b"42")
    client.gets_results(1)
    second.gets_results(1, 2)
    second.submit(about=KEY)
    assert second.gets_results(3).payloads == [b"42"]
    play.nothing_else()
    play.nothing_kept()


def test_a_failure_is_shared_as_a_result_is(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(2, about=KEY)
    node.raises(node.runs(client.job(1)))
    client.gets_results(1, 2, outcome=Outcome.FAILED)
    client.submit(about=KEY)
    client.gets_failure(3)
    play.nothing_else()


def test_a_resend_of_an_attached_submission_is_none(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    message = client.submission(2, about=KEY)
    client.say(message)
    token = node.runs(client.job(1))
    client.gets_accepted(2)
    client.joins()
    client.say(message)
    client.gets_accepted(2)
    node.finishes(token)
    client.gets_results(1, 2)
    play.nothing_else()


def test_a_large_result_is_kept_for_each_who_is_attached(play: CoordinatorPlay) -> None:
    from cluster.messages import Chunk, Fetch, Taken

    node, client, second = play.node(), play.client(), play.client()
    client.submit(about=KEY)
    second.submit(about=KEY)
    client.gets_accepted(1)
    second.gets_accepted(1)
    token = node.gets(Assign).tokens[0]
    data = b"x" * 2_000
    node.finishes_large(token, data)
    for one in (client, second):
        [[_, sha, size]] = one.gets(Results, counters=[1]).large
        one.say(Fetch(sha, size))
        one.gets(Chunk, data=data)
        one.say(Taken(sha, size))
    play.nothing_else()


def test_to_cancel_what_was_attached_cancels_nobodys_job(play: CoordinatorPlay) -> None:
    client, second = play.client(), play.client()
    client.submit(about=KEY)
    second.submit(about=KEY)
    client.gets_accepted(1)
    second.gets_accepted(1)
    second.cancel(1)
    second.gets(NotCancelled, jobs=[second.job(1)])
    client.cancel(1)
    client.gets_failure(1, Outcome.CANCELLED)
    second.gets_failure(1, Outcome.CANCELLED)
    play.nothing_else()


# ------------------------------------------------------------------------------------ conflicts


@pytest.mark.parametrize(
    ("other", "about"),
    [
        (OTHER, KEY),
        (SPEC, About(key="order-17", fingerprint=b"v2")),
        (OTHER, About(key="order-17", fingerprint=b"v2")),
    ],
)
@pytest.mark.parametrize("state", ["unfinished", "finished", "restarted"])
def test_who_asks_for_something_else_under_the_key_is_told_so(
    play: CoordinatorPlay, other: Spec, about: About, state: str
) -> None:
    node, client = play.node(slots=2), play.client()
    client.submit(about=KEY)
    token = node.runs(client.job(1))
    client.gets_accepted(1)
    if state == "finished":
        node.finishes(token)
        client.gets_results(1)
    if state == "restarted":
        play.restart()
        node.joins((token, client.job(1), 1))
        client.joins(accepted=1)
    client.submit(spec=other, about=about)
    failure = client.gets_failure(2)
    assert failure.kind == "KeyConflict"
    assert format_job(client.job(1)) in failure.text and "'order-17'" in failure.text
    play.nothing_else()


def test_a_fingerprint_makes_another_function_the_same(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=2), play.client()
    about = About(key="order-17", fingerprint=b"v1")
    client.submit(about=about)
    client.submit(spec=OTHER, about=about)
    node.finishes(*node.gets(Assign, jobs=[client.job(1)]).tokens)
    client.gets_results(1, 2)
    play.nothing_else()


def test_keys_of_namespaces_are_their_own(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=2), play.client()
    other = play.new_client(Identity("other-key", "client", "bob", "theirs"), "theirs")
    other.joins()
    client.submit(about=KEY)
    other.submit(spec=Spec("app:other", False, b"r", namespace="theirs"), about=KEY)
    node.gets(Assign, jobs=[client.job(1)])
    node.gets(Assign, jobs=[other.job(1)])
    client.gets_accepted(1)
    other.gets_accepted(1)
    play.nothing_else()


# ------------------------------------------------------------------------------------ how long


def test_a_key_is_free_when_its_time_is_over_and_a_new_job_has_it_then(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(key_ttl_s=10.0), about=KEY)
    play.live(20, node, client)  # no time is over while it is unfinished
    client.inbox.clear()
    node.finishes(node.gets(Assign).tokens[0])
    client.gets_results(1)
    play.live(9, node, client)
    client.submit(spec=spec(key_ttl_s=10.0), about=KEY)
    client.gets_results(2)
    play.live(2, node, client)
    client.submit(spec=spec(key_ttl_s=10.0), about=KEY)
    node.gets(Assign, jobs=[client.job(3)])
    client.gets_accepted(3)
    assert len(play.coordinator._keys) == 1
    play.nothing_else()


def test_a_key_without_a_life_is_free_at_once(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    for counter in (1, 2):
        client.submit(spec=spec(key_ttl_s=0.0), about=KEY)
        node.finishes(*node.gets(Assign, jobs=[client.job(counter)]).tokens)
        client.gets_results(counter)
    play.wait(1.0)
    assert len(play.coordinator._keys) == 0
    play.nothing_else()


@pytest.mark.parametrize("waits", [False, True])
def test_a_key_that_becomes_free_while_the_coordinator_is_down_is_free(play: CoordinatorPlay, waits: bool) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(key_ttl_s=10.0), about=KEY)
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    seconds = 5.0 if waits else 11.0
    play.now = play.now._replace(mono=play.now.mono + seconds, wall=play.now.wall + seconds)
    play.restart()
    node.joins()
    client.joins(accepted=1)
    client.submit(spec=spec(key_ttl_s=10.0), about=KEY)
    if waits:
        client.gets_results(2)
        play.live(6, node, client)
        assert len(play.coordinator._keys) == 0
    else:
        node.gets(Assign, jobs=[client.job(2)])
        client.gets_accepted(2)
    play.nothing_else()


def test_a_key_outlives_what_became_of_its_job() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(keep_outcomes_s=30.0))
    node, client = play.node(), play.client()
    client.submit(about=KEY)
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    play.live(100, node, client)
    client.submit(about=KEY)
    assert client.gets_failure(2).kind == "ResultExpired"
    play.nothing_else()


def test_no_more_keys_are_taken_than_there_may_be(play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 1)
    node, client = play.node(slots=4), play.client()
    client.submit(about=KEY)
    client.submit(about=About(key="another"))
    client.submit(about=KEY)
    client.submit()
    node.gets(Assign, jobs=[client.job(1)])
    node.gets(Assign, jobs=[client.job(4)])
    failure = client.gets_failure(2)
    assert failure.kind == "JobRefused" and "1 keys are taken" in failure.text
    play.nothing_else()


# ------------------------------------------------------------------------------------ restarts


def test_who_was_attached_is_so_after_a_restart(play: CoordinatorPlay) -> None:
    node, client, second = play.node(), play.client(), play.client()
    client.submit(2, about=KEY)
    second.submit(about=KEY)
    token = node.runs(client.job(1))
    client.gets_accepted(2)
    second.gets_accepted(1)
    play.restart()
    node.joins((token, client.job(1), 1))
    client.joins(accepted=2)
    second.joins(accepted=1)
    client.say(Awaiting([1, 2]))
    second.say(Awaiting([1]))
    second.submit(about=KEY)
    second.gets_accepted(2)
    node.finishes(token, payload=b"42")
    client.gets_results(1, 2)
    second.gets_results(1, 2)
    play.nothing_else()
    play.nothing_kept()


def test_who_was_attached_asks_after_a_restart_what_has_become_of_it(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(2, about=KEY)
    token = node.runs(client.job(1))
    client.gets_accepted(2)
    client.deaf = True
    node.finishes(token, payload=b"42")
    client.deaf = False
    play.restart()
    client.joins(accepted=2)
    client.say(Awaiting([1, 2]))
    assert client.gets_results(1, 2).payloads == [b"42"] * 2
    play.nothing_else()


def test_the_id_of_an_attached_submission_is_one_to_watch(play: CoordinatorPlay) -> None:
    node, client, second = play.node(), play.client(), play.client()
    client.submit(2, about=KEY)
    token = node.runs(client.job(1))
    client.gets_accepted(2)
    second.say(Watch([1], [client.job(2)]))
    second.counter = 1
    second.gets_accepted(1)
    node.finishes(token, payload=b"42")
    client.gets_results(1, 2)
    assert second.gets_results(1).payloads == [b"42"]
    second.say(Watch([2], [client.job(2)]))
    assert second.gets_results(2).payloads == [b"42"]
    play.nothing_else()


def test_a_job_may_end_while_the_store_is_asked_who_is_attached_to_it(play: CoordinatorPlay) -> None:
    node, client, second = play.node(), play.client(), play.client()
    client.submit(2, about=KEY)
    token = node.runs(client.job(1))
    client.gets_accepted(2)
    node.finishes(token, payload=b"42")
    client.gets_results(1, 2)
    late = Wanted(client.job(2), second.session, 1)
    play.turn(OutcomesRead([(late, None, client.job(1))]))
    assert second.gets_results(1).payloads == [b"42"]
    play.nothing_else()


def test_a_key_of_a_job_that_is_not_durable_ends_with_the_coordinator(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(durable=False), about=KEY)
    client.gets_accepted(1)
    node.gets(Assign)
    play.restart()
    node.joins()
    client.joins(accepted=1)
    client.submit(spec=spec(durable=False), about=KEY)
    node.gets(Assign, jobs=[client.job(2)])
    client.gets_accepted(2)
    play.nothing_else()


def test_a_key_is_kept_with_the_turn_that_takes_its_job(play: CoordinatorPlay) -> None:
    """A submission that is resent because the coordinator died before it wrote makes one job."""
    client = play.client()
    message = client.submission(2, about=KEY)
    client.lose(message)
    play.restart()
    client.joins()
    client.say(message)
    client.gets_accepted(2)
    play.restart()
    node = play.node()
    client.joins(accepted=2)
    client.say(Awaiting([1, 2]))
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1, 2)
    play.nothing_else()


# ------------------------------------------------------------------------------------ questions by an alias


@pytest.mark.parametrize("over", [False, True])
def test_the_id_of_an_attached_submission_shows_and_explains_the_job(play: CoordinatorPlay, over: bool) -> None:
    node, client = play.node(), play.client()
    client.submit(2, about=KEY)
    token = node.runs(client.job(1))
    client.gets_accepted(2)
    if over:
        node.finishes(token)
        client.gets_results(1, 2)
    assert play.story_of(client, 2)["id"] == format_job(client.job(1))
    assert play.why(client, 2) == play.why(client, 1)
    play.nothing_else()


def test_a_dead_letter_can_be_run_again_and_dropped_by_the_id_of_who_was_attached(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(2, spec=spec(retries=1, retry_delay_s=0.0), about=KEY)
    node.raises(node.runs(client.job(1)))
    client.gets_accepted(2)
    node.raises(node.runs(client.job(1)))
    client.gets_results(1, 2)
    made = play.asks(client, "retry", jobs=[format_job(client.job(2))])
    assert made["refused"] == {} and list(made["made"]) == [format_job(client.job(1))]
    node.finishes(node.gets(Assign).tokens[0])
    assert play.asks(client, "drop", jobs=[format_job(client.job(2))]) == {"dropped": 1}
    assert play.story_of(client, 1)["dead"] is False
    play.nothing_else()


def test_a_spec_that_is_refused_takes_no_key(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    wrong = Spec("app:task", False, b"pickled reference", namespace="theirs")
    client.submit(spec=wrong, about=KEY)
    assert client.gets_failure(1).kind == "JobRefused"
    client.submit(spec=OTHER, about=KEY)
    node.gets(Assign, jobs=[client.job(2)])
    client.gets_accepted(2)
    play.nothing_else()


def test_keys_in_one_message_of_two_functions_conflict(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    about = [[row, KEY.encode()] for row in range(2)]
    client.say(Submit(1, [SPEC.encode(), OTHER.encode()], [0, 1], [b"a", b"b"], [], [], [""] * 2, about))
    node.gets(Assign, jobs=[client.job(1)])
    assert client.gets_failure(2).kind == "KeyConflict"
    play.nothing_else()
