"""Contained jobs on a real cluster: they work as any other, do not find what is hidden, and leave nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cluster import Client, Future, LocalCluster, WorkerCrashed, errors
from tests.node.test_isolation import cannot_here
from tests.system.harm import SOON_S, alive, below, library, until

pytestmark = pytest.mark.system

CONTAINED = {"isolation": "contained"}


@pytest.fixture(scope="module")
def harm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with library(tmp_path_factory.mktemp("library")) as module:
        yield module


@pytest.fixture(scope="module")
def cluster(harm: ModuleType) -> Iterator[LocalCluster]:
    """A node that contains its jobs beside one that does not."""
    if why := cannot_here():
        pytest.skip(f"jobs cannot be contained here: {why}")
    with LocalCluster(slots=1) as cluster:
        cluster.add_node(slots=2, isolation="contained")
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Client:
    return cluster.client()  # ends with the cluster, and waits for nothing


def test_a_job_that_asks_to_be_contained_is(cluster: LocalCluster, client: Client, harm: ModuleType) -> None:
    assert [node["labels"] for node in client.nodes()] == [{}, CONTAINED]
    contained = client.options(labels=CONTAINED)
    jobs = [contained.submit(os.getpid) for _ in range(20)]
    assert {job.result(SOON_S) for job in jobs} == {1}
    assert contained.submit(os.listdir, str(cluster.directory)).result(SOON_S) == ["nodes"]
    assert contained.submit(harm.innocent, 7).result(SOON_S) == 49


def test_large_arguments_and_results_pass_and_programs_and_pools_run(client: Client, harm: ModuleType) -> None:
    contained = client.options(labels=CONTAINED)
    data = os.urandom(300_000)
    assert contained.submit(bytes.upper, data).result(SOON_S) == data.upper()
    assert contained.submit(harm.says_of_a_program, "echo here").result(SOON_S) == "here\n"
    assert contained.submit(harm.squares_in_processes, 4).result(SOON_S) == [0, 1, 4, 9]


@pytest.mark.parametrize(("deed", "cause"), [("exits_hard", "exit code 3"), ("segfaults", "SIGSEGV")])
def test_how_a_contained_job_dies_is_told(client: Client, harm: ModuleType, deed: str, cause: str) -> None:
    error = client.options(labels=CONTAINED, crash_retries=0).submit(harm.while_running, deed).exception(SOON_S)
    assert isinstance(error, WorkerCrashed) and cause in str(error)


@pytest.mark.parametrize("deed", ["leaves_a_daemon", "changes_directory", "blocks_signals", "makes_files"])
def test_what_a_contained_job_leaves_does_not_reach_the_next(client: Client, harm: ModuleType, deed: str) -> None:
    contained = client.options(labels=CONTAINED)
    assert contained.submit(harm.while_running, deed).result(SOON_S) == deed
    assert [contained.submit(harm.innocent, n).result(SOON_S) for n in range(4)] == [0, 1, 4, 9]


def runs(client: Client, future: Future[Any]) -> bool:
    with contextlib.suppress(errors.ClusterError):  # it is not known yet
        return bool(client.job(str(future.job_id))["state"] == "running")
    return False


@pytest.mark.parametrize("kind", ["sleeps", "loops", "awaits"])
def test_a_contained_job_can_be_cancelled(client: Client, harm: ModuleType, kind: str) -> None:
    future = client.options(labels=CONTAINED).submit(getattr(harm, kind), "/dev/shm/started")
    until(lambda: runs(client, future))
    assert future.cancel(running=True)
    until(future.done)
    assert future.cancelled()


@pytest.mark.parametrize("victim", ["agent", "zygote"])
def test_nothing_is_left_of_contained_jobs(harm: ModuleType, cluster: LocalCluster, victim: str) -> None:
    """Each has daemons in sessions of their own; one of these is asked for by what it does outside: it is a process."""
    with LocalCluster(nodes=0) as own:
        node = own.add_node(slots=2, isolation="contained")
        client = own.client()
        jobs = [client.options(crash_retries=0).submit(harm.has_daemons, "/dev/shm/tell") for _ in range(2)]
        until(lambda: len(below(node.pid)) == 1 + 2 * 4, lambda: below(node.pid))
        everybody = list(below(node.pid))
        (zygote,) = [pid for pid in everybody if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()][:1]
        os.kill(node.pid if victim == "agent" else zygote, signal.SIGKILL)
        until(lambda: not any(map(alive, everybody)), lambda: [pid for pid in everybody if alive(pid)])
        if victim == "zygote":
            assert isinstance(jobs[0].exception(SOON_S), WorkerCrashed)
            assert client.submit(os.getpid).result(SOON_S) == 1
