"""One record per attempt, however it ended; and what becomes of a job that ran too long."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.jobs import About, End, Outcome, Rules, Spec
from cluster.messages import Assign, Finished
from tests.playbook import CoordinatorPlay, FakeClient


def spec(**rules: Any) -> Spec:
    return Spec("f", False, b"f", rules=Rules(**rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def is_dead(play: CoordinatorPlay, client: FakeClient) -> bool:
    """Whether job 1 is found among the dead letters."""
    return [job["id"].rpartition("-")[2] for job in play.asks(client, "jobs", states=["dead"])["jobs"]] == ["1"]


# ------------------------------------------------------------------------------------ records


def test_a_record_says_what_each_attempt_took(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=2.0, jitter=0.0))
    client.gets_accepted(1)  # 10 ms
    token = node.gets(Assign).tokens[0]
    play.wait(1.0)
    node.finishes(token, outcome=End.RAISED, payload=b"?", run_us=500_000, record=(400_000, 2_048, 100_000, 30_000))
    play.live(3, node, client)
    token = node.gets(Assign, attempts=[2]).tokens[0]
    play.wait(0.5)
    node.finishes(token, run_us=200_000, record=(100_000, 1_024, 0, 0))
    client.gets_results(1)
    first, second = play.story_of(client, 1)["attempts"]
    about = {"node": "n1", "worker": 1}
    assert first.items() >= {**about, "run_s": 0.5, "cpu_s": 0.4, "peak_bytes": 2 << 20, "waited_s": 0.1}.items()
    assert (first["cold"], first["init_s"], first["number"]) == (True, 0.03, 1)
    assert first["queued_s"] == pytest.approx(1.01 - 0.5 - 0.1, abs=1e-5)
    assert (second["cold"], second["cpu_s"], second["peak_bytes"], second["error"]) == (False, 0.1, 1 << 20, "")
    assert second["queued_s"] == pytest.approx(1.5 - 0.2, abs=1e-5)
    play.nothing_else()


@pytest.mark.parametrize("recorded", [False, True])
def test_a_success_at_once_has_its_record_too(play: CoordinatorPlay, recorded: bool) -> None:
    node, client = play.node(), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    play.wait(0.99)
    node.finishes(token, run_us=50, record=(70, 8, 0, 0) if recorded else ())
    client.gets_results(1)
    [tried] = play.story_of(client, 1)["attempts"]
    assert (tried["number"], tried["worker"], tried["run_s"], tried["error"]) == (1, 1, 50e-6, "")
    assert (tried["cpu_s"], tried["peak_bytes"]) == ((70e-6, 8192) if recorded else (None, None))
    assert tried["queued_s"] == pytest.approx(1.0, abs=1e-4)
    play.nothing_else()


@pytest.mark.parametrize("end", [e for e in End if e not in (End.SUCCEEDED, End.UNSTARTED)])
def test_the_last_attempt_has_a_record_whatever_its_end(play: CoordinatorPlay, end: End) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(crash_retries=0, memory_retries=0))
    token = node.gets(Assign).tokens[0]
    node.finishes(token, outcome=end, payload=b"?", run_us=7_000, record=(5_000, 4, 3_000, 2_000))
    if end is End.SNOOZE:
        client.gets_accepted(1)
    else:
        client.gets_results(1)
    [tried] = play.story_of(client, 1)["attempts"]
    assert (tried["run_s"], tried["cpu_s"], tried["peak_bytes"]) == (0.007, 0.005, 4096)
    assert tried["error"]


def test_attempts_are_a_fact_with_all_that_was_said_of_them(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=2), play.client()
    client.submit(2)
    one, two = node.gets(Assign).tokens
    failed = End.RAISED
    node.say(Finished([one, two], [0, failed], [b"", b"?"], [], [5, 6], [1, 1], [[1, 9, 8, 7, 0]]))
    client.gets_results(1, 2)
    [fact] = play.told("attempts_ended")
    assert (fact.n, fact.text) == (2, "2 attempts ended on node n1")
    told = {"node": "n1", "ends": [0, 1], "run_us": [5, 6], "records": [[1, 9, 8, 7, 0]], "ran": [("app:task", [5, 6])]}
    assert fact.about == told


# ------------------------------------------------------------------------------------ running too long


def test_a_job_that_ran_too_long_is_timed_out_and_does_not_run_again_by_itself(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(timeout_s=1.0))
    node.times_out(node.gets(Assign).tokens[0], text="killed after its timeout_s of 1 s; its memory peaked at 9 MiB")
    failure = client.gets_failure(1, Outcome.TIMED_OUT)
    assert (failure.kind, failure.text.endswith("peaked at 9 MiB")) == ("JobTimeout", True)
    assert not is_dead(play, client)
    play.nothing_else()


def test_a_timeout_uses_retries_and_the_last_one_tells_of_all(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(spec=spec(timeout_s=1.0, retries=1, retry_delay_s=1.0))
    client.gets_accepted(1)
    node.times_out(node.gets(Assign).tokens[0], "SoftTimeout", "Interrupted", "BaseException", text="first")
    assert play.story_of(client, 1)["state"] == "scheduled"
    play.live(2, node, client)
    node.times_out(node.gets(Assign, attempts=[2]).tokens[0], text="second")
    text = client.gets_failure(1, Outcome.TIMED_OUT).text
    assert text == (
        "second. It is given up (retries 1): attempt 1 on node n1: JobTimeout: first;"
        " attempt 2 on node n1: JobTimeout: second"
    )
    assert is_dead(play, client)
    play.nothing_else()


def test_one_that_was_too_slow_once_may_be_quick_the_next_time(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(timeout_s=1.0, retries=1, retry_delay_s=0.0))
    client.gets_accepted(1)
    node.times_out(node.gets(Assign).tokens[0])
    play.wait(0.01)
    node.finishes(node.gets(Assign, attempts=[2]).tokens[0])
    client.gets_results(1, outcome=Outcome.SUCCEEDED)
    play.nothing_else()


@pytest.mark.parametrize(
    ("rules", "again"),
    [
        ({"retry_on": ("JobTimeout",)}, True),
        ({"retry_on": ("SoftTimeout",)}, True),
        ({"retry_on": ("OSError",)}, False),
        ({"give_up_on": ("JobTimeout",)}, False),
        ({"give_up_on": ("ValueError",)}, True),
    ],
)
def test_rules_find_a_timeout_by_its_names(play: CoordinatorPlay, rules: dict[str, Any], again: bool) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(timeout_s=1.0, retries=3, retry_delay_s=0.0, **rules))
    node.times_out(node.gets(Assign).tokens[0], "SoftTimeout", "Interrupted", "BaseException")
    play.wait(0.01)
    if again:
        node.gets(Assign, attempts=[2])
    else:
        client.gets_results(1, outcome=Outcome.TIMED_OUT)
        assert is_dead(play, client)


def test_what_must_not_start_twice_is_not_run_again_for_a_timeout(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(timeout_s=1.0, at_most_once=True))
    node.times_out(node.gets(Assign).tokens[0])
    client.gets_results(1, outcome=Outcome.TIMED_OUT)
    play.wait(1.0)
    play.nothing_else()


def test_timeouts_and_memory_have_budgets_of_their_own(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, memory_retries=1, crash_retries=1, retry_delay_s=0.0))
    client.gets_accepted(1)
    for end in (lambda t: node.times_out(t), lambda t: node.crashes(t, memory=True), node.crashes):
        end(node.gets(Assign).tokens[0])
        play.wait(0.01)
    node.crashes(node.gets(Assign, attempts=[4]).tokens[0], memory=True)
    assert "memory_retries 1" in client.gets_failure(1).text
    play.nothing_else()


# ------------------------------------------------------------------------------------ dead letters


@pytest.mark.parametrize("end", [End.GIVE_UP, End.RAISED])
def test_one_that_is_not_to_use_its_retries_is_found_among_the_dead_letters(play: CoordinatorPlay, end: End) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=3, give_up_on=("ValueError",)))
    node.raises(node.gets(Assign).tokens[0], end=end)
    client.gets_failure(1)
    assert is_dead(play, client)
    play.nothing_else()


def test_one_without_retries_is_just_failed(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit()
    node.raises(node.gets(Assign).tokens[0], end=End.GIVE_UP)
    client.gets_failure(1)
    assert not is_dead(play, client)
    play.nothing_else()


# ------------------------------------------------------------------------------------ counts


def test_the_status_counts_each_unfinished_job_once(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=1), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=60.0))
    client.submit(about=About(delay_s=60.0))
    client.submit(2)
    client.gets_accepted(4)
    [token, *_] = node.gets(Assign).tokens
    node.raises(token)
    counts = play.asks(client, "status")["jobs"]
    unfinished = {name: counts[name] for name in ("scheduled", "ready", "leased", "running", "adrift")}
    assert sum(unfinished.values()) == 4 and unfinished["scheduled"] == 2
    node.gets(Assign)
    play.restart()
    client.joins(accepted=4)
    counts = play.asks(client, "status")["jobs"]
    assert (counts["scheduled"], counts["adrift"]) == (0, 4)  # no node has said yet what it holds
    node.joins()
    counts = play.asks(client, "status")["jobs"]
    assert (counts["scheduled"], counts["adrift"]) == (2, 0)
