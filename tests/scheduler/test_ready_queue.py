"""The ready queue: its order against a model, and the shares it deals out."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.ids import job_id
from cluster.jobs import Rules, Spec
from scheduler.functions import Functions, Line
from scheduler.lifecycle import Job, State
from scheduler.queues import Queue, Queues
from scheduler.ready_queue import PRIORITY_S, SWEEP, ReadyQueue

LABELS: list[Any] = [(), (("gpu", "a100"),), (("gpu", "h100"),)]


class Made:
    """Jobs of queues, tenants and priorities."""

    def __init__(self) -> None:
        self.queues = Queues()
        self.functions = Functions(self.queues)
        self.rank = 0

    def job(self, *, which: int = 0, since: float = 0.0, **rules: Any) -> Job:
        self.rank += 1
        spec = Spec("f", False, b"f", labels=LABELS[which], rules=Rules(**rules))
        job = Job(
            job_id(bytes(8), self.rank), self.rank, None, self.functions.intern(spec.encode(), "ann"), b"", None, 0
        )
        job.rank, job.since = self.rank, since
        return job


def may_go(queue: Queue, line: Line) -> bool:
    return queue.room != 0


def served(queue: ReadyQueue, most: int = 1_000_000) -> list[Job]:
    out: list[Job] = []
    while len(out) < most and (turn := queue.turn(may_go)) is not None:
        queue.pop(turn)
        turn.job.state = State.LEASED
        out.append(turn.job)
    return out


class ReadyQueueAgainstModel(RuleBasedStateMachine):
    """One queue and one tenant: the first in each line goes first, whatever comes back or ends meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.made = Made()
        self.queue = ReadyQueue()
        self.ready: list[Job] = []
        self.away: list[Job] = []

    @rule(which=st.integers(0, 2), count=st.integers(1, 5))
    def push(self, which: int, count: int) -> None:
        for _ in range(count):
            self.ready.append(self.made.job(which=which))
            self.queue.push([self.ready[-1]])

    @rule(which=st.lists(st.integers(0, 2), max_size=8))
    def push_some(self, which: list[int]) -> None:
        some = [self.made.job(which=one) for one in which]
        self.ready += some
        self.queue.push(some)

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def pop(self, data: st.DataObject) -> None:
        demand = data.draw(st.sampled_from(self.queue.demands()))
        turn = self.queue.turn(lambda queue, line: line.demand == demand)
        first = min((j for j in self.ready if j.record.line.demand == demand), key=lambda j: j.rank)
        assert turn is not None and turn.job is first
        self.queue.pop(turn)
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

    @rule()
    def tidy(self) -> None:
        self.queue.tidy()

    @invariant()
    def it_counts_what_is_ready(self) -> None:
        assert len(self.queue) == len(self.ready)
        for name in ("default", "other"):
            mine = [j for j in self.ready if j.record.queue.name == name]
            assert self.queue.count(name) == len(mine)
            assert (self.queue.oldest(name) is None) == (not mine)
        assert sorted(j.rank for j in self.queue) == sorted(j.rank for j in self.ready)

    @invariant()
    def demands_come_by_their_oldest_job(self) -> None:
        oldest: dict[object, int] = {}
        for job in self.ready:
            demand = job.record.line.demand
            oldest[demand] = min(job.rank, oldest.get(demand, job.rank))
        assert self.queue.demands() == sorted(oldest, key=lambda d: oldest[d])


ReadyQueueAgainstModel.TestCase.settings = settings(max_examples=100, deadline=None)
TestReadyQueue = ReadyQueueAgainstModel.TestCase


def test_an_empty_queue_has_no_turn() -> None:
    assert ReadyQueue().turn(may_go) is None


def test_dropped_jobs_are_swept_out_before_they_outnumber_the_rest() -> None:
    made, queue = Made(), ReadyQueue()
    first = made.job()
    queue.push([first])
    for _ in range(1, 10 * SWEEP):
        job = made.job()
        queue.push([job])
        queue.dropped(job)
        job.state = State.FINISHED
        assert queue.count("default") <= 2 * SWEEP + 3
    assert served(queue) == [first]


# ------------------------------------------------------------------------------------ shares


def test_jobs_that_come_back_anywhere_into_a_long_line_cost_little() -> None:
    """A hundred thousand that failed together come back in any order, while as many wait."""
    made, queue = Made(), ReadyQueue()
    jobs = [made.job() for _ in range(20_000)]
    random.Random(0).shuffle(jobs)

    class Counted(Job):
        __slots__ = ()
        looked = 0

        @property
        def rank(self) -> int:  # type: ignore[override]
            Counted.looked += 1
            return self.counter

    for job in jobs:
        job.__class__ = Counted
    for first in range(0, len(jobs), 50):
        queue.push_back(jobs[first : first + 50])
    assert Counted.looked < 100 * len(jobs), "each is compared with a few, not with those before it"
    assert [job.counter for job in served(queue)] == list(range(1, 20_001))


@given(st.lists(st.integers(1, 400), unique=True), st.integers(1, 300))
def test_jobs_that_come_back_many_or_few_at_a_time_stand_by_their_rank(away: list[int], at_once: int) -> None:
    made, queue = Made(), ReadyQueue()
    jobs = {n: made.job() for n in range(1, 401)}
    for n in sorted(jobs.keys() - set(away)):
        queue.push([jobs[n]])
    for first in range(0, len(away), at_once):
        queue.push_back([jobs[n] for n in away[first : first + at_once]])
    turn = queue.turn(may_go)
    assert turn is not None
    assert [job.rank for job in queue.next(turn.line, 1_000)] == list(range(1, 401))
    demand = turn.job.record.line.demand
    assert queue.youngest_rank(demand) == 400
    assert [job.rank for job in queue.younger_than(demand, 390)] == list(range(400, 390, -1))
    assert [job.rank for job in served(queue)] == list(range(1, 401))


def test_weights_of_three_to_one_deal_three_to_one() -> None:
    made, queue = Made(), ReadyQueue()
    for name, weight in (("a", 3), ("b", 1)):
        made.queues.named(name).settings.weight = weight
        for _ in range(10_000):
            queue.push([made.job(queue=name)])
    got = Counter(job.record.queue.name for job in served(queue, 10_000))
    assert got["a"] / got["b"] == pytest.approx(3, rel=0.05)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6), st.integers(50, 400))
def test_no_queue_is_ever_more_than_a_turn_off_its_share(weights: list[int], turns: int) -> None:
    made, queue = Made(), ReadyQueue()
    for n, weight in enumerate(weights):
        made.queues.named(f"q{n}").settings.weight = weight
        for _ in range(turns):
            queue.push([made.job(queue=f"q{n}")])
    got: Counter[str] = Counter()
    for done, job in enumerate(served(queue, turns), 1):
        got[job.record.queue.name] += 1
        for n, weight in enumerate(weights):
            assert abs(got[f"q{n}"] - done * weight / sum(weights)) < len(weights) + 1


def test_tenants_take_turns_however_much_one_has_waiting() -> None:
    made, queue = Made(), ReadyQueue()
    for _ in range(1_000):
        queue.push([made.job(fair_key="large")])
    for _ in range(10):
        queue.push([made.job(fair_key="small")])
    tenants = [job.record.fair_key for job in served(queue, 21)]
    assert tenants.count("small") == 10


def test_who_comes_late_or_was_paused_has_saved_up_no_turns() -> None:
    made, queue = Made(), ReadyQueue()
    paused = made.queues.named("paused")
    for name in ("paused", "busy"):
        for _ in range(1_000):
            queue.push([made.job(queue=name)])
    paused.settings.paused = True
    assert {j.record.queue.name for j in served(queue, 500)} == {"busy"}
    paused.settings.paused = False
    for _ in range(300):
        queue.push([made.job(queue="late")])
    got = Counter(job.record.queue.name for job in served(queue, 300))
    assert all(99 <= got[name] <= 102 for name in ("paused", "busy", "late")), got


def test_a_step_of_priority_is_worth_so_much_waiting_and_nothing_starves() -> None:
    made, queue = Made(), ReadyQueue()
    old = made.job(since=0.0)
    urgent = [made.job(since=n, priority=1) for n in range(100)]
    for job in (old, *urgent):
        queue.push([job])
    order = served(queue)
    assert order.index(old) == sum(job.since - PRIORITY_S < 0 for job in urgent) == PRIORITY_S


def test_caps_count_what_is_leased_anywhere_and_on_each_node() -> None:
    queue = Queues().named("q")
    assert (queue.room, queue.room_on("n1")) == (None, None)
    queue.settings = queue.settings.changed({"max_running": 3, "max_per_node": 2})
    for node in ("n1", "n1", "n2"):
        queue.take(node)
    assert (queue.room, queue.room_on("n1"), queue.room_on("n2"), queue.room_on("n3")) == (0, 0, 1, 2)
    queue.give_back("n1")
    assert (queue.room, queue.room_on("n1")) == (1, 1)


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        ({"weight": 0}, "weight is 1 to 1000"),
        ({"weight": True}, "weight is 1 to 1000"),
        ({"paused": 1}, "paused is true or false"),
        ({"max_running": 0}, "a positive number or none"),
        ({"max_per_node": "3"}, "a positive number or none"),
        ({"wieght": 3}, "has no 'wieght'; it has weight"),
    ],
)
def test_wrong_settings_are_refused_in_words(wanted: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Queues().named("q").settings.changed(wanted)


def test_idle_queues_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.queues.MAX_QUEUES", 3)
    queues = Queues()
    queues.named("used").jobs = 1
    queues.named("set").settings.weight = 5
    queues.named("idle")
    assert not queues.full
    queues.named("new").jobs = 1
    assert queues.get("idle") is None and len(queues) == 3 and queues.full


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("", "t1", "t2")), st.floats(0, 100)), max_size=30))
def test_each_queue_has_its_own_count_and_its_oldest(some: list[tuple[str, str, float]]) -> None:
    made, queue = Made(), ReadyQueue()
    some.sort(key=lambda one: one[2])
    jobs = [made.job(queue=name, fair_key=tenant, since=since) for name, tenant, since in some]
    queue.push(jobs)
    ended = jobs[::3]
    for job in ended:
        queue.dropped(job)
        job.state = State.FINISHED
    for name in "abc":
        mine = [job for job in jobs if job.record.queue.name == name and job not in ended]
        assert queue.count(name) == len(mine)
        assert queue.oldest(name) == min((job.since for job in mine), default=None)
    served(queue)
    assert [queue.count(name) for name in "abc"] == [0, 0, 0]
