"""Processes that are stopped and continued. Rules of this file: the outside record counts executions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cluster import LocalCluster

pytestmark = pytest.mark.system

STOPPED_S = 10.0


def recorded(x: int, record: str) -> int:
    """Ten milliseconds of work that leaves one byte per execution."""
    time.sleep(0.01)
    with open(os.path.join(record, str(x)), "a", encoding="ascii") as out:
        out.write("x")
    return x


def test_a_coordinator_stopped_for_ten_seconds_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with LocalCluster(nodes=2, slots=2, transport="tcp") as cluster, cluster.client() as client:
        work = client.options()
        futures = [work.submit(recorded, i, str(tmp_path)) for i in range(1000)]
        futures[20].result(timeout=30)
        os.kill(cluster.coordinator.pid, signal.SIGSTOP)
        continue_at = time.monotonic() + STOPPED_S
        try:
            assert sum(f.done() for f in futures) < 1000
            futures += [work.submit(recorded, i, str(tmp_path)) for i in range(1000, 1500)]
            while (left := continue_at - time.monotonic()) > 0:
                time.sleep(left)  # the pause is the subject, not a wait for something
        finally:
            os.kill(cluster.coordinator.pid, signal.SIGCONT)
        assert [f.result(timeout=60) for f in futures] == list(range(1500))
        executions = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert executions == {str(i): 1 for i in range(1500)}
