"""When a job is tried again: budgets, pauses, names, and what is kept of its tries."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.jobs import LONGEST_S, MOST_RETRIES, End, Failure, Rules, Spec
from scheduler import retries
from scheduler.functions import Functions
from scheduler.lifecycle import Job
from scheduler.queues import Queues
from scheduler.store import OutcomeRow


def made(**rules: Any) -> Job:
    record = Functions(Queues()).intern(Spec("app:task", False, b"f", rules=Rules(**rules)).encode(), "ann")
    return Job(bytes(16), 1, None, record, b"", None, 1)


def error(*bases: str, delay_s: float | None = None) -> Failure:
    return Failure(bases[0], "no", bases=bases, delay_s=delay_s)


OS = error("ConnectionResetError", "ConnectionError", "OSError", "Exception", "BaseException")


# ------------------------------------------------------------------------------------ budgets


@pytest.mark.parametrize("budget", [0, 1, 3, 100])
def test_each_cause_has_a_budget_of_its_own(budget: int) -> None:
    job = made(retries=budget, crash_retries=budget, memory_retries=budget)
    causes: list[Callable[[], bool]] = [
        lambda: retries.after_error(job, OS, End.RAISED),
        lambda: retries.after_crash(job, memory=False),
        lambda: retries.after_crash(job, memory=True),
        lambda: retries.after_lost_node(job, budget),
    ]
    for count in causes:
        assert [count() for _ in range(budget + 2)] == [True] * budget + [False, False]


def test_what_must_not_start_twice_has_no_budget() -> None:
    job = made(at_most_once=True, retries=5, crash_retries=5, memory_retries=5)
    assert not retries.after_error(job, OS, End.RAISED)
    assert not retries.after_error(job, OS, End.SNOOZE)
    assert not retries.after_error(job, OS, End.RETRY)
    assert not retries.after_crash(job, memory=False)
    assert not retries.after_lost_node(job, 5)


def test_a_snooze_is_free_a_wish_to_retry_is_not_and_giving_up_ends_it() -> None:
    job = made(retries=1, retry_on=("KeyError",))
    assert all(retries.after_error(job, OS, End.SNOOZE) for _ in range(1_000))
    assert (job.snoozes, job.retries) == (1_000, 0)
    assert not retries.after_error(job, OS, End.GIVE_UP)
    assert retries.after_error(job, OS, End.RETRY), "its own wish is not matched by names"
    assert not retries.after_error(job, OS, End.RETRY)


@pytest.mark.parametrize(
    ("retry_on", "give_up_on", "again"),
    [
        ((), (), True),
        (("OSError",), (), True),
        (("ConnectionResetError",), (), True),
        (("BaseException",), (), True),
        (("oserror",), (), False),
        (("builtins.OSError",), (), False),
        ((), ("Exception",), False),
        ((), ("KeyError",), True),
        (("OSError",), ("ConnectionError",), False),
    ],
)
def test_names_of_bases_decide(retry_on: tuple[str, ...], give_up_on: tuple[str, ...], again: bool) -> None:
    assert retries.after_error(made(retries=9, retry_on=retry_on, give_up_on=give_up_on), OS, End.RAISED) is again


def test_a_failure_without_bases_is_matched_by_its_kind() -> None:
    """So it is with errors of ours, such as a result that cannot be pickled."""
    failure = Failure("SerializationError", "no")
    assert retries.after_error(made(retries=1, retry_on=("SerializationError",)), failure, End.RAISED)
    assert not retries.after_error(made(retries=1, give_up_on=("SerializationError",)), failure, End.RAISED)


# ------------------------------------------------------------------------------------ pauses


@given(
    st.floats(0, LONGEST_S),
    st.floats(1, 100),
    st.floats(0, LONGEST_S),
    st.floats(0, 1),
    st.integers(0, MOST_RETRIES),
    st.integers(0, 1 << 32),
)
def test_a_pause_is_between_what_jitter_leaves_and_the_whole(
    delay_s: float, backoff: float, most_s: float, jitter: float, count: int, seed: int
) -> None:
    job = made(retry_delay_s=delay_s, backoff=backoff, retry_max_delay_s=most_s, jitter=jitter)
    job.retries = count
    pause = retries.pause_s(job, OS, random.Random(seed))
    whole = min(most_s, delay_s * backoff ** min(max(0, count - 1), 64))
    assert (1 - jitter) * whole * (1 - 1e-12) <= pause <= whole
    assert 0 <= pause <= LONGEST_S


def test_pauses_double_up_to_the_longest() -> None:
    job = made(jitter=0.0)
    pauses = []
    for job.retries in range(1, 13):
        pauses.append(retries.pause_s(job, OS, random.Random(0)))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]


def test_jobs_that_failed_together_come_back_spread_evenly() -> None:
    chance, job = random.Random(0), made(retry_delay_s=10.0, jitter=0.5)
    job.retries = 1
    seconds = [0] * 5
    for _ in range(10_000):
        seconds[int((retries.pause_s(job, OS, chance) - 5.0) % 5)] += 1
    assert max(seconds) < 1.1 * min(seconds)


@pytest.mark.parametrize("end", [End.RETRY, End.SNOOZE])
def test_a_job_may_choose_its_pause(end: End) -> None:
    job = made(retry_delay_s=7.0, jitter=0.0, retries=3)
    retries.after_error(job, error("Snooze"), end)
    assert retries.pause_s(job, error("Snooze", delay_s=0.0), random.Random(0)) == 0.0
    assert retries.pause_s(job, error("Snooze", delay_s=123.0), random.Random(0)) == 123.0
    assert retries.pause_s(job, error("Snooze"), random.Random(0)) == 7.0


# ------------------------------------------------------------------------------------ the story


def test_a_story_is_bounded_in_length_and_in_width() -> None:
    job = made()
    for job.attempt in range(1, 101):
        retries.remember(job, "n1", "x" * 10_000, float(job.attempt))
    assert [t.number for t in job.story] == list(range(81, 101))
    assert all(len(t.what) < 400 for t in job.story)
    assert len(retries.pack(job)) < 10_000


def ended(tries: bytes) -> OutcomeRow:
    return OutcomeRow(b"job", 1, 0, b"", None, 0, 12.5, 1, 0, 0.0, 1, 0.0, "", b"", "n1", "", tries)


def test_a_story_is_what_was_kept() -> None:
    job, other = made(), made()
    job.attempt, job.lost_nodes, job.crashes, job.memory_kills, job.retries, job.snoozes = 1, 1, 2, 3, 4, 5
    retries.remember(job, "n1", "KeyError: 'x'", 12.5, (1_000, 77))
    retries.restore(other, retries.pack(job))
    assert (other.lost_nodes, other.crashes, other.memory_kills, other.retries, other.snoozes) == (1, 2, 3, 4, 5)
    assert list(other.story) == list(job.story) == retries.story(ended(retries.pack(job)))
    retries.restore(other, b"")
    assert retries.story(ended(b"")) == []


def test_the_story_of_one_attempt_is_short_on_disk_and_whole_when_read() -> None:
    packed = retries.pack_only(1_000, 77)
    [tried] = retries.story(ended(packed))
    assert tried == retries.Tried(1, "n1", "", 12.5, 1_000, 77, queued_us=12_499_000)
    assert len(packed) == 16


def test_a_record_of_one_attempt_is_whole_when_read() -> None:
    for took in (retries.Used(1, 2, 3, 4, 5, 6, 7), retries.Used(*[1 << 40] * 7)):
        assert retries.story(ended(retries.pack_only(*took))) == [retries.Tried(1, "n1", "", 12.5, *took)]


def test_a_story_of_an_earlier_release_is_read() -> None:
    tries = bytes(msgpack.packb(((0, 0, 0, 1, 0), [(1, "n1", "no", 12.0, 1_000, 77)])))
    assert retries.story(ended(tries)) == [retries.Tried(1, "n1", "no", 12.0, 1_000, 77)]


def test_it_is_known_which_attempts_are_over() -> None:
    job = made()
    job.attempt = 1
    assert not retries.is_over(job, 1)
    retries.remember(job, "n1", "no", 1.0)
    assert retries.is_over(job, 1)
    assert not retries.is_over(job, 2)


def test_last_words_tell_each_attempt_where_there_was_more_than_one() -> None:
    job = made()
    job.attempt = 1
    retries.remember(job, "n1", "it died", 1.0)
    assert retries.last_words(job, "crash_retries 1") == ""
    job.attempt = 2
    retries.remember(job, "n2", "it died again", 2.0)
    assert retries.last_words(job, "crash_retries 1") == (
        ". It is given up (crash_retries 1): attempt 1 on node n1: it died; attempt 2 on node n2: it died again"
    )
