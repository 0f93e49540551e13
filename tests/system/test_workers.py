"""Workers that can be trusted: what runs can be ended, limits hold, and nothing is left of what is killed.

A real cluster. What jobs can do to each other is in ``test_faults.py``, how often they can be ended in
``test_endings.py``.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cluster import JobError, LocalCluster, WorkerCrashed, trees
from cluster.client import Client
from tests.system.harm import SOON_S, agent_of, alive, library, until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def harm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with library(tmp_path_factory.mktemp("library")) as module:
        yield module


@pytest.fixture(scope="module")
def client(harm: ModuleType) -> Iterator[Client]:
    with LocalCluster(slots=2) as cluster:
        yield cluster.client()  # ends with the cluster, and waits for nothing


def test_what_is_not_to_be_stopped_is_not(client: Client, harm: ModuleType, tmp_path: Path) -> None:
    started = tmp_path / "started"
    future = client.options(grace_s=1).submit(harm.sleeps, str(started))
    until(started.exists)
    assert not future.cancel()
    assert client.cancel(str(future.job_id), running=True) == 1
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(SOON_S)


def test_memory_above_its_limit_is_told_as_such(client: Client) -> None:
    greedy = client.options(memory_bytes=64 << 20, memory_retries=0)
    error = greedy.submit(bytearray, 512 << 20).exception(SOON_S)
    assert isinstance(error, MemoryError | WorkerCrashed)
    if isinstance(error, WorkerCrashed):
        assert "memory_bytes" in str(error)
    assert greedy.submit(len, bytes(1 << 20)).result(SOON_S) == 1 << 20


# ------------------------------------------------------------------------------------ what is killed


@pytest.mark.parametrize("victim", ["agent", "zygote", "worker"])
def test_nothing_is_left_of_what_is_killed(harm: ModuleType, tmp_path: Path, victim: str) -> None:
    """Each of two jobs has daemons in sessions of their own."""
    with LocalCluster(slots=2) as own:
        client = own.client()  # ends with the cluster, and does not wait for what cannot end
        agent = agent_of(own)
        tells = [tmp_path / f"job{n}" for n in range(2)]
        for tell in tells:
            client.options(crash_retries=0).submit(harm.has_daemons, str(tell))
        for tell in tells:
            until(tell.exists)
            for n in range(3):
                until(Path(f"{tell}.{n}").exists)
        workers = [int(tell.read_text()) for tell in tells]
        daemons = [int(Path(f"{tell}.{n}").read_text()) for tell in tells for n in range(3)]
        zygote = trees.parents()[workers[0]]
        assert trees.parents()[zygote] == agent
        everybody = [*daemons, *workers, *([zygote] if victim != "worker" else [])]
        assert all(alive(pid) for pid in everybody)
        for pid in {"agent": [agent], "zygote": [zygote], "worker": workers}[victim]:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, everybody)), lambda: [pid for pid in everybody if alive(pid)])
        if victim != "agent":
            assert client.submit(harm.innocent, 3).result(SOON_S) == 9


@pytest.mark.parametrize("signals", [1, 2])
def test_a_node_that_is_told_to_stop_finishes_what_runs(harm: ModuleType, tmp_path: Path, signals: int) -> None:
    with LocalCluster(nodes=1, slots=1) as own:
        client = own.client()
        started, record = tmp_path / "started", tmp_path / "record"
        first = client.submit(harm.records, str(record), 1.0 if signals == 1 else 600, str(started))
        until(started.exists)
        waiting = [client.submit(harm.records, f"{record}{n}", 0.0) for n in range(3)]
        node = own.nodes[0]
        for n in range(signals):
            os.kill(node.pid, signal.SIGTERM)
            if n + 1 < signals:
                until(lambda: client.nodes()[0]["state"] == "draining")
        until(lambda: not node.alive)
        own.add_node(slots=2)
        assert [f.result(SOON_S) for f in waiting] == [1, 1, 1]
        if signals == 1:
            assert first.result(SOON_S) == 1  # it ran once, and was not cut off
        else:
            until(lambda: record.read_text() == "xx")  # it was, and runs again


def test_nodes_are_replaced_one_after_another_and_nothing_runs_twice(harm: ModuleType, tmp_path: Path) -> None:
    with LocalCluster(nodes=2, slots=1) as own:
        client = own.client()
        futures = [client.submit(harm.records, str(tmp_path / str(n)), 0.02) for n in range(60)]
        for node in list(own.nodes):
            futures[0].result(SOON_S)
            own.add_node(slots=1)
            os.kill(node.pid, signal.SIGTERM)
            until(lambda node=node: not node.alive)  # type: ignore[misc]
        assert [f.result(SOON_S) for f in futures] == [1] * 60


def test_a_crash_is_an_exception_soon(client: Client, harm: ModuleType) -> None:
    careless = client.options(crash_retries=0)
    took = []
    for _ in range(9):
        began = time.monotonic()
        with pytest.raises(JobError):
            careless.submit(harm.exits_hard).result(SOON_S)
        took.append(time.monotonic() - began)
    assert sorted(took)[4] < 1.0, took
