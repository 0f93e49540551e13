"""Whether new jobs are taken: each limit, what pushes back, and who is told that there is room again."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import CoordinatorLimits
from cluster.ids import format_job
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Assign, GoOn, Hold
from scheduler.admission import ROOM, Admission
from tests.playbook import CoordinatorPlay

VOLATILE = Spec("app:task", False, b"pickled reference", durable=False)


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ({"jobs": 10}, "the queue is full: 10 unfinished jobs (max_jobs 10)"),
        ({"bytes": 101}, "the queue is full: 101 bytes of arguments (max_job_bytes 100)"),
        ({"volatile_bytes": 51}, "memory is full: 51 bytes of arguments that are not durable"),
        ({"disk_full": "the disk is full"}, "the disk is full"),
        ({"jobs": 9, "bytes": 100, "volatile_bytes": 50}, ""),
    ],
)
def test_each_limit_is_told_with_its_figure(figures: dict[str, Any], word: str) -> None:
    admission = Admission(CoordinatorLimits(max_jobs=10, max_job_bytes=100, payload_memory_bytes=50))
    for name, value in figures.items():
        setattr(admission, name, value)
    assert admission.full().startswith(word) and bool(admission.full()) == bool(word)


def test_there_is_room_again_below_a_share_of_the_limit() -> None:
    admission, client = Admission(CoordinatorLimits(max_jobs=100)), object()
    admission.held[client] = None  # type: ignore[index]
    admission.jobs = int(100 * ROOM)
    assert admission.go_on() == []
    admission.jobs -= 1
    assert admission.go_on() == [client]
    assert admission.go_on() == []


@pytest.mark.parametrize("about", [About(delay_s=600.0), About(after=(bytes(7) + b"\2" + bytes(7) + b"\1",))])
def test_jobs_that_wait_for_a_moment_or_for_others_count(about: About) -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(max_jobs=2))
    node, client = play.node(), play.client()
    assert client.session == bytes(7) + b"\2"
    client.submit(1)
    token = node.gets(Assign).tokens[0]
    client.submit(1, about=about)
    client.submit(1)
    client.gets(Hold, through=2)
    client.cancel(2)
    client.gets(GoOn)
    client.gets_failure(2, Outcome.CANCELLED)
    node.finishes(token)
    client.gets_results(1)
    play.nothing_else()


def test_a_job_that_waits_to_run_again_counts_once() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(max_jobs=2))
    node, client = play.node(), play.client()
    client.submit(spec=Spec("f", False, b"f", rules=Rules(retries=5, retry_delay_s=1.0, backoff=1.0)))
    for _ in range(3):
        node.raises(node.gets(Assign).tokens[0])
        play.live(2, node, client)
    assert play.coordinator._admission.jobs == 1
    client.inbox.clear()
    node.finishes(node.gets(Assign).tokens[0])
    client.gets_results(1)
    play.nothing_else()
    play.nothing_kept()


def test_what_is_attached_by_a_key_takes_no_room() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(max_jobs=2))
    node, client = play.node(), play.client()
    client.submit(10, about=About(key="k"))
    client.gets_accepted(10)
    assert play.coordinator._admission.jobs == 1
    node.finishes(node.gets(Assign).tokens[0])
    client.gets_results(*range(1, 11))
    play.nothing_else()
    play.nothing_kept()


def test_jobs_that_are_run_again_count_with_the_others_and_their_bytes() -> None:
    play = CoordinatorPlay(durable=True)
    node, client = play.node(), play.client()
    client.submit(payload=b"12345")
    node.raises(node.gets(Assign).tokens[0])
    client.gets_failure(1)
    play.asks(client, "retry", jobs=[format_job(client.job(1))])
    assert (play.coordinator._admission.jobs, play.coordinator._admission.bytes) == (1, 5)
    node.finishes(node.gets(Assign).tokens[0])
    play.nothing_else()
    play.nothing_kept()


def test_what_the_last_life_left_counts_before_anything_new_is_taken() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(max_jobs=2))
    client = play.client()
    client.submit(2, about=About(delay_s=600.0))
    client.gets_accepted(2)
    play.restart()
    client.joins(accepted=2)
    client.submit(1)
    client.gets(Hold)
    play.nothing_else()


def test_bytes_that_are_not_durable_are_bounded_by_themselves() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(payload_memory_bytes=10))
    client = play.client()
    client.submit(3, payload=b"12345")  # durable: the store has them
    client.gets_accepted(3)
    client.submit(3, spec=VOLATILE, payload=b"123456")
    assert "are not durable" in client.gets(Hold).reason
    client.cancel(4, 5)
    client.gets(GoOn)
    client.gets_results(4, 5, outcome=Outcome.CANCELLED)
    play.nothing_else()
