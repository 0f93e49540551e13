"""Which payloads are in memory: bounded, read a little before their turn, whatever a job waits for."""

from __future__ import annotations

import pytest

from cluster.config import CoordinatorLimits
from cluster.ids import format_job
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Assign, Awaiting
from scheduler import payloads
from scheduler.functions import Functions
from scheduler.lifecycle import Job, State
from scheduler.payloads import Payloads
from scheduler.queues import Queues
from tests.playbook import SPEC, CoordinatorPlay

SMALL = CoordinatorLimits(payload_memory_bytes=10)


def made(rank: int, payload: bytes = b"12345", absent: bool = False) -> Job:
    record = Functions(Queues()).intern(SPEC.encode(), "ann")
    job = Job(bytes(16), rank, None, record, b"" if absent else payload, None, rank)
    job.size, job.absent = len(payload), absent
    return job


def test_what_is_in_memory_is_counted_whatever_becomes_of_it() -> None:
    book = Payloads(10)
    jobs = [made(1), made(2), made(3)]
    for job in jobs:
        book.taken([job])
    assert (book.bytes, book.absent, book.full) == (15, 0, True)
    book.relieve(jobs[2])
    book.relieve(jobs[1])
    assert (book.bytes, book.absent, book.full) == (10, 1, False)
    assert (jobs[2].payload, jobs[2].absent, jobs[1].absent) == (b"", True, False)
    assert book.wanted(jobs) == [3]
    assert book.wanted(jobs) == [], "it is being read"
    book.arrived({3: b"12345", 99: b"of no job"})
    assert (book.bytes, book.absent, jobs[2].payload) == (15, 0, b"12345")
    for job in jobs:
        book.ended(job)
    assert (book.bytes, book.absent) == (0, 0)


def test_a_payload_that_comes_when_its_job_has_ended_is_nobodys() -> None:
    book, job = Payloads(10), made(1, absent=True)
    book.taken([job])
    assert book.wanted([job]) == [1]
    book.ended(job)
    book.arrived({1: b"12345"})
    assert (book.bytes, book.absent, job.payload) == (0, 0, b"")


def test_only_so_many_bytes_are_read_at_a_time_but_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "AHEAD_BYTES", 12)
    book = Payloads(10)
    large = [made(1, b"x" * 100, absent=True), made(2, absent=True)]
    assert book.wanted(large) == [1]
    some = [made(n, absent=True) for n in range(3, 9)]
    some[1].state = State.FINISHED
    assert book.wanted(some) == [3, 5]


# ------------------------------------------------------------------------------------ in the coordinator


@pytest.mark.parametrize("about", [About(delay_s=5.0), About(after=(bytes(7) + b"\2" + bytes(7) + b"\1",))])
def test_a_payload_that_went_to_the_disk_is_back_when_its_job_has_its_turn(about: About) -> None:
    play = CoordinatorPlay(durable=True, limits=SMALL)
    node, client = play.node(slots=9), play.client()
    client.submit(payload=b"first")
    token = node.gets(Assign).tokens[0]
    client.submit(6, payload=b"waits", about=about)
    client.gets_accepted(7)
    assert play.coordinator._payloads.absent > 0
    node.finishes(token)
    client.gets_results(1)
    play.live(6, node, client)
    got: list[bytes] = []
    while node.inbox:
        assign = node.gets(Assign)
        got += assign.payloads
        node.finishes(*assign.tokens)
    assert got == [b"waits"] * 6
    client.inbox.clear()
    play.nothing_else()
    play.nothing_kept()
    assert (play.coordinator._payloads.bytes, play.coordinator._payloads.absent) == (0, 0)


def test_a_job_that_runs_again_has_its_arguments_though_they_had_left_memory() -> None:
    play = CoordinatorPlay(durable=True, limits=SMALL)
    node, client = play.node(slots=9), play.client()
    again = Spec("f", False, b"f", rules=Rules(retries=2, retry_delay_s=1.0))
    client.submit(5, spec=again, payload=b"these")
    seen: list[bytes] = []
    for _ in range(3):
        tokens: list[int] = []
        while node.inbox:
            assign = node.gets(Assign)
            seen += assign.payloads
            tokens += assign.tokens
        for token in tokens:
            node.raises(token)
        play.live(4, node, client)
    assert seen == [b"these"] * 15
    outcomes = sum(len(m.counters) for m in client.inbox if hasattr(m, "counters"))
    assert outcomes == 5
    client.inbox.clear()
    made_ = play.asks(client, "retry", jobs=[format_job(client.job(1))])
    assert made_["refused"] == {}
    node.finishes(*node.gets(Assign, payloads=[b"these"]).tokens)
    play.nothing_else()
    play.nothing_kept()
    assert (play.coordinator._payloads.bytes, play.coordinator._payloads.absent) == (0, 0)


def test_a_restart_reads_no_more_than_there_is_room_for() -> None:
    play = CoordinatorPlay(durable=True, limits=SMALL)
    client = play.client()
    client.submit(10, payload=b"12345")
    client.gets_accepted(10)
    play.restart(payloads=2)
    assert (play.coordinator._payloads.bytes, play.coordinator._payloads.absent) == (10, 8)
    client.joins(accepted=10)
    client.cancel(10)
    client.say(Awaiting([10]))
    client.gets_failure(10, Outcome.CANCELLED)
    node = play.node(slots=9)
    got = 0
    while node.inbox:
        assign = node.gets(Assign)
        assert set(assign.payloads) == {b"12345"}
        got += len(assign.jobs)
        node.finishes(*assign.tokens)
    assert got == 9
    client.inbox.clear()
    play.nothing_kept()
