"""Schedules as users have them: made by a program, kept by a real coordinator, run on a real node."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import cluster
from cluster import Client, LocalCluster, errors
from cluster.triggers import at, cron, every

pytestmark = pytest.mark.system

SOON_S = 30.0


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with LocalCluster(slots=2) as local:
        yield local


@pytest.fixture
def client(local: LocalCluster) -> Iterator[Client]:
    client = local.client()
    yield client
    for schedule in list(client.schedules):
        client.schedules.remove(schedule.name)
    client.shutdown(wait=False, cancel_futures=True)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.02)


def noted(path: str, word: str = "ran") -> str:
    job = cluster.current_job()
    assert job is not None
    with open(path, "a") as file:
        file.write(f"{word} {job.schedule} {job.nominal_time.isoformat() if job.nominal_time else '-'}\n")
    return word


def fails() -> None:
    raise ValueError("no")


def test_a_schedule_fires_and_its_job_knows_of_it(client: Client, tmp_path: Path) -> None:
    log = f"{tmp_path}/log"
    begin = datetime.now(UTC) + timedelta(seconds=0.3)
    made = client.schedule("beat", every(0.2, start=begin, count=3), noted, (log,), {"word": "beat"}, overlap="allow")
    assert (made.created, made.changed, made.left) == (True, (), 3)
    assert made.function == "tests.system.test_schedules:noted" and made.arguments.endswith("word='beat'")
    assert made.upcoming(9) == [begin + timedelta(seconds=0.2 * i) for i in range(3)]
    until(lambda: [run.outcome for run in client.schedules.history("beat")] == ["succeeded"] * 3)
    found = client.schedules.get("beat")
    assert (found.left, found.next, found.running) == (0, None, 0)
    lines = sorted(line.split() for line in Path(log).read_text().splitlines())
    assert lines == [["beat", "beat", (begin + timedelta(seconds=0.2 * i)).isoformat()] for i in range(3)]
    for run in client.schedules.history("beat"):
        assert run.job is not None and client.future(run.job).result(SOON_S) == "beat"
        assert run.late_s < 0.5


def test_an_upsert_returns_what_it_changes(client: Client) -> None:
    factor = 2

    def by_value() -> int:
        return 21 * factor

    client.schedule("n", cron("0 3 * * *", "Europe/Berlin"), by_value, retries=2)
    again = client.schedule("n", cron("0 3 * * *", "Europe/Berlin"), by_value, retries=2)
    assert (again.created, again.changed) == (False, ())
    assert again.by_value and again.next is not None and again.next.hour == 3
    factor = 3
    changed = client.schedule("n", "0 4 * * *", by_value, retries=3, jitter_s=timedelta(minutes=1))
    assert sorted(changed.changed) == ["code", "jitter_s", "retries", "trigger"]
    future = client.schedules.run("n")
    assert future is not None and future.result(SOON_S) == 63


def test_pause_run_backfill_and_remove(client: Client, tmp_path: Path) -> None:
    log = f"{tmp_path}/log"
    client.schedule("hourly", "@hourly", noted, (log,), overlap="allow")
    assert client.schedules.pause("hourly", "while we look").paused == "while we look"
    future = client.schedules.run("hourly")
    assert future is not None and future.result(SOON_S) == "ran"
    day = datetime(2024, 2, 28, 22, 30, tzinfo=UTC)
    times = client.schedules.preview("hourly", day, day + timedelta(hours=3))
    assert [t.hour for t in times] == [23, 0, 1]
    assert client.schedules.backfill("hourly", day, day + timedelta(hours=3), concurrency=2) == 3
    until(lambda: sum(run.outcome == "succeeded" for run in client.schedules.history("hourly")) == 4)
    nominal = [line.split()[2] for line in Path(log).read_text().splitlines()]
    assert sorted(nominal)[:3] == [t.isoformat() for t in times]
    assert [s.name for s in client.schedules] == ["hourly"]
    assert client.schedules.resume("hourly").paused is None
    assert client.schedules.remove("hourly") and not client.schedules.remove("hourly")
    assert list(client.schedules) == []
    with pytest.raises(errors.ClusterError, match="no schedule is called 'hourly'"):
        client.schedules.get("hourly")


def test_failures_pause_it_and_it_becomes_overdue(client: Client) -> None:
    begin = datetime.now(UTC) + timedelta(seconds=0.2)
    client.schedule("bad", every(0.1, start=begin), fails, pause_after=2, overdue_s=0.5)
    until(lambda: client.schedules.get("bad").gave_up)
    until(lambda: [s.name for s in client.schedules.list(overdue=True)] == ["bad"])
    found = client.schedules.get("bad")
    assert found.paused == "paused after 2 failures in a row" and found.last is not None
    assert found.last.outcome in ("failed", "skipped")


def test_what_a_schedule_cannot_have_is_refused_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(ValueError, match="take no key: a firing has a key of its own"):
        client.schedule("x", "@daily", fails, key="k")
    with pytest.raises(errors.BadTrigger, match="minute"):
        client.schedule("x", "61 * * * *", fails)
    with pytest.raises(errors.TooLarge, match="of a schedule"):
        client.schedule("x", "@daily", noted, (bytes(100_000),))
    with pytest.raises(errors.UnknownOption, match="did you mean 'retries'"):
        client.schedule("x", "@daily", fails, retrys=2)
    with pytest.raises(errors.ClusterError, match="overlap: 'often' is none of"):
        client.schedule("x", "@daily", fails, overlap="often")  # type: ignore[arg-type]
    with pytest.raises(errors.ClusterError, match="lifetime='client'"):
        client.schedule("x", "@daily", fails, lifetime="client")
    assert list(client.schedules) == []


def test_moments_in_the_past_are_no_times_of_a_new_schedule(client: Client) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    made = client.schedule("once", at([past, past + timedelta(days=1)]), fails)
    assert made.next == past + timedelta(days=1)
    assert client.schedules.history("once") == []


def kept(record: str) -> None:
    """Leaves one line per execution."""
    job = cluster.current_job()
    assert job is not None and job.nominal_time is not None
    with open(record, "a") as out:
        out.write(f"{job.schedule} {job.nominal_time.timestamp():.6f}\n")


@pytest.mark.parametrize(
    ("times", "interval_s", "kills"),
    [
        pytest.param(20, 0.5, 4, id="quick"),
        pytest.param(200, 0.5, 20, id="full", marks=[pytest.mark.long, pytest.mark.timeout(500)]),
    ],
)
def test_killed_coordinators_fire_each_time_exactly_once(
    tmp_path: Path, times: int, interval_s: float, kills: int
) -> None:
    """50 schedules with ``catch_up="all", overlap="allow"``, and kill -9 at random moments."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    record = tmp_path / "record"
    record.touch()
    with LocalCluster(nodes=1, slots=2, transport="tcp") as local, local.client() as client:
        begin = datetime.now(UTC) + timedelta(seconds=2)
        expected: Counter[str] = Counter()
        for n in range(50):
            start = begin + timedelta(seconds=n * interval_s / 50)
            trigger = every(interval_s, start=start, count=times)
            client.schedule(f"s{n}", trigger, kept, (str(record),), overlap="allow", catch_up="all", queue=f"q{n % 3}")
            moments = trigger.upcoming(start - timedelta(seconds=1), times)
            expected.update(f"s{n} {moment.timestamp():.6f}" for moment in moments)
        assert len(expected) == 50 * times
        span_s = times * interval_s
        for moment in sorted(chance.uniform(0, span_s) for _ in range(kills)):
            until(lambda at=begin + timedelta(seconds=moment): datetime.now(UTC) >= at)  # type: ignore[misc]
            local.restart_coordinator()
        deadline = time.monotonic() + 60 + span_s
        while time.monotonic() < deadline and any(s.left or s.running for s in client.schedules):
            time.sleep(0.2)
        ran = Counter(record.read_text().splitlines())
        assert ran - expected == Counter(), "fired twice, or for a time there is not"
        assert expected - ran == Counter(), "not fired"
        assert {s.last.outcome for s in client.schedules if s.last} == {"succeeded"}
