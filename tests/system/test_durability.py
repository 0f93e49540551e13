"""Coordinators killed with -9: what was acknowledged is there afterwards, and ran once by an outside record."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster import Client, LocalCluster, errors

pytestmark = pytest.mark.system

PATIENCE_S = 60.0


def recorded(x: int, record: str, seconds: float = 0.0) -> int:
    """Leaves one line per execution."""
    with open(record, "a", encoding="ascii") as out:
        out.write(f"{x}\n")
    time.sleep(seconds)
    return x


def executions(record: Path) -> Counter[int]:
    return Counter(map(int, record.read_text().split())) if record.exists() else Counter()


def wait_until(what: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=2, slots=3, transport="tcp") as c:
        yield c


@pytest.mark.parametrize(
    ("short", "short_s", "long", "long_s"),
    [
        pytest.param(1_500, 0.005, 4, 4.0, id="quick"),
        pytest.param(10_000, 0.01, 20, 30.0, id="full", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
def test_three_killed_coordinators_lose_nothing_and_no_attempt_that_runs_is_begun_again(
    tmp_path: Path, short: int, short_s: float, long: int, long_s: float
) -> None:
    slots = long // 2 + 2
    with LocalCluster(nodes=2, slots=slots, transport="tcp") as cluster, cluster.client() as client:
        record, long_record = tmp_path / "short", tmp_path / "long"
        slow = [client.submit(recorded, i, str(long_record), long_s) for i in range(long)]
        wait_until(lambda: len(executions(long_record)) == long)
        quick = [client.submit(recorded, i, str(record), short_s) for i in range(short)]
        for part in (0.2, 0.4, 0.6):
            wait_until(lambda part=part: sum(f.done() for f in quick) >= part * short)  # type: ignore[misc]
            cluster.restart_coordinator()
        assert [f.result(timeout=PATIENCE_S + long * long_s) for f in quick] == list(range(short))
        assert [f.result(timeout=PATIENCE_S + long_s) for f in slow] == list(range(long))
        assert executions(long_record) == Counter(range(long)), "each long job was started exactly once"
        assert executions(record) == Counter(range(short))
        finished = client.status()["jobs"]["finished"]
        assert {word for word, n in finished.items() if n} <= {"succeeded"}


SUBMITTER = """
import sys, time
sys.path.insert(0, {here!r})
from cluster import Client
from test_durability import recorded
client = Client({connection!r}).options(by_value=["test_durability"])
futures = [client.submit(recorded, i, {record!r}, 0.05) for i in range(50)]
client.flush()
print(*[f.job_id for f in futures], flush=True)
time.sleep(600)
"""


def test_results_of_a_program_that_was_killed_are_there_for_another_by_id(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    code = SUBMITTER.format(
        here=str(Path(__file__).parent), connection=str(cluster.connection_file), record=str(tmp_path / "record")
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    ids = child.stdout.readline().split()
    child.kill()
    child.wait()
    child.stdout.close()
    assert len(ids) == 50
    cluster.restart_coordinator()
    with Client(cluster.connection_file) as client:
        futures = [client.future(job_id) for job_id in ids]
        assert [f.job_id for f in futures] == ids
        assert [f.result(timeout=PATIENCE_S) for f in futures] == list(range(50))
        assert [client.future(job_id).result(timeout=PATIENCE_S) for job_id in ids] == list(range(50)), "once more"
        session, _, _ = ids[0].partition("-")
        with pytest.raises(errors.UnknownJob, match=f"{session}-999999"):
            client.future(f"{session}-999999").result(timeout=PATIENCE_S)
        with pytest.raises(errors.UnknownJob):
            client.future("0123456789abcdef-1").result(timeout=PATIENCE_S)
        with pytest.raises(errors.BadJobId, match="not a job id"):
            client.future("nonsense")
    assert executions(tmp_path / "record") == Counter(range(50))


def test_large_arguments_results_and_functions_outlive_the_coordinator(cluster: LocalCluster, tmp_path: Path) -> None:
    table = np.arange(200_000)
    gate = tmp_path / "gate"

    def held_up(x: np.ndarray) -> np.ndarray:
        while not gate.exists():
            time.sleep(0.01)
        return x + table

    with cluster.client() as client:
        futures = [client.submit(held_up, np.full(200_000, n)) for n in range(8)]
        client.flush()
        cluster.restart_coordinator()
        gate.touch()
        for n, future in enumerate(futures):
            assert np.array_equal(future.result(timeout=PATIENCE_S), table + n)
            if n == 3:
                cluster.restart_coordinator()


def test_what_is_not_durable_is_lost_by_a_restart_and_says_so(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.client() as client:
        blocked = [client.submit(recorded, i, str(tmp_path / "long"), 3.0) for i in range(6)]
        fleeting = client.options(durable=False).submit(recorded, 1, str(tmp_path / "fleeting"))
        kept = client.submit(recorded, 2, str(tmp_path / "kept"))
        client.flush()
        cluster.restart_coordinator()
        with pytest.raises(errors.JobLost, match="was restarted and no longer knows"):
            fleeting.result(timeout=PATIENCE_S)
        assert kept.result(timeout=PATIENCE_S) == 2
        assert [f.result(timeout=PATIENCE_S) for f in blocked] == list(range(6))


def test_coordinator_and_nodes_killed_together_leave_the_queue(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.client() as client:
        futures = [client.submit(recorded, i, str(tmp_path / "record"), 0.05) for i in range(100)]
        client.flush()
        for node in cluster.nodes:
            node.kill()
        cluster.restart_coordinator()
        cluster.add_node(slots=3)
        assert [f.result(timeout=PATIENCE_S) for f in futures] == list(range(100))


def test_a_payload_the_disk_has_lost_is_taken_from_whoever_hands_it_in_again() -> None:
    array = np.arange(100_000)
    with LocalCluster(nodes=0, slots=1, transport="tcp") as cluster, cluster.client() as client:
        first = client.submit(np.sum, array)
        client.flush(PATIENCE_S)
        for blob in (cluster.directory / "blobs").iterdir():
            blob.unlink()
        cluster.restart_coordinator()
        second = client.submit(np.sum, array)
        client.flush(PATIENCE_S)
        cluster.add_node()
        assert first.result(timeout=PATIENCE_S) == second.result(timeout=PATIENCE_S) == array.sum()
