"""The ready queue against a model: a plain sorted list."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.ids import job_id
from cluster.jobs import Spec
from scheduler.functions import Record, RunTime
from scheduler.lifecycle import Job, State
from scheduler.ready_queue import SWEEP, ReadyQueue

DEMANDS = [((), ""), ((("gpu", "a100"),), ""), ((), "3.13")]
RECORDS = [Record(Spec("f", False, b""), b"", RunTime(), demand) for demand in DEMANDS]


def make(rank: int, which: int = 0) -> Job:
    return Job(job_id(bytes(8), rank), rank, None, RECORDS[which], b"", None, rank)


class ReadyQueueAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = ReadyQueue()
        self.ready: list[Job] = []
        self.away: list[Job] = []
        self.rank = 0

    @rule(which=st.integers(0, 2), count=st.integers(1, 5))
    def push(self, which: int, count: int) -> None:
        for _ in range(count):
            self.rank += 1
            self.ready.append(make(self.rank, which))
            self.queue.push(self.ready[-1])

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def pop(self, data: st.DataObject) -> None:
        demand = data.draw(st.sampled_from(self.queue.demands()))
        head = self.queue.head(demand)
        first = min((j for j in self.ready if j.record.demand == demand), key=lambda j: j.rank)
        assert head is first and self.queue.pop(demand) is first
        self.ready.remove(first)
        first.state = State.LEASED
        self.away.append(first)

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def push_back(self, data: st.DataObject) -> None:
        back = data.draw(st.lists(st.sampled_from(self.away), unique_by=id, max_size=6))
        for job in back:
            job.state = State.READY
            self.away.remove(job)
        self.ready += back
        self.queue.push_back(back)

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.ready))
        self.ready.remove(job)
        self.queue.dropped(job)
        job.state = State.FINISHED

    @invariant()
    def it_counts_what_is_ready(self) -> None:
        assert len(self.queue) == len(self.ready)

    @invariant()
    def demands_come_by_their_oldest_job(self) -> None:
        oldest: dict[object, int] = {}
        for job in self.ready:
            oldest[job.record.demand] = min(job.rank, oldest.get(job.record.demand, job.rank))
        assert self.queue.demands() == sorted(oldest, key=lambda d: oldest[d])


ReadyQueueAgainstModel.TestCase.settings = settings(max_examples=100, deadline=None)
TestReadyQueue = ReadyQueueAgainstModel.TestCase


def test_a_demand_nobody_waits_with_has_no_head() -> None:
    assert ReadyQueue().head(DEMANDS[0]) is None


def test_dropped_jobs_are_swept_out_before_they_outnumber_the_rest() -> None:
    queue = ReadyQueue()
    first = make(0)
    queue.push(first)
    for rank in range(1, 10 * SWEEP):
        job = make(rank)
        queue.push(job)
        queue.dropped(job)
        job.state = State.FINISHED
        assert sum(map(len, queue._groups.values())) <= 2 * SWEEP + 3
    assert queue.head(first.record.demand) is first
