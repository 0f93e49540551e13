"""Nodes that are drained and replaced under load, on real processes: nothing is lost, nothing runs twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cluster import Client, Future, LocalCluster

SOON_S = 60.0
WITHIN_S = 90.0
"""Time for a whole rolling restart of three nodes."""


def until(true: Callable[[], bool], within_s: float = SOON_S) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends, "it did not come true"
        time.sleep(0.02)


def command(local: LocalCluster, *arguments: str) -> str:
    words = [str(Path(sys.executable).with_name("cluster")), *arguments, "--connection", str(local.connection_file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SOON_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(client: Client, name: str) -> str:
    return next((str(row["state"]) for row in client.nodes() if row["name"] == name), "gone")


def test_a_rolling_restart_of_all_nodes_under_load_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    began = time.monotonic()

    def runs(path: str, n: int) -> int:
        """Leaves one byte each time it runs."""
        import os
        import time

        descriptor = os.open(f"{path}/{n}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"x")
        os.close(descriptor)
        time.sleep(0.01 if n % 10 else 0.3)
        return n

    with LocalCluster(nodes=3, slots=2) as local:
        client = local.client()
        futures: list[Future[int]] = []
        over = threading.Event()

        def hands_in() -> None:
            while not over.wait(0.02):
                for _ in range(3):
                    futures.append(client.submit(runs, str(tmp_path), len(futures)))

        load = threading.Thread(target=hands_in)
        load.start()
        try:
            for node in list(local.nodes):
                told = json.loads(command(local, "drain", node.name, "--wait", "--json"))
                assert told["node"]["state"] == "drained"
                handed_in = len(futures)
                os.kill(node.pid, signal.SIGTERM)
                until(lambda node=node: not node.alive)  # type: ignore[misc]
                local.add_node(slots=2)
                until(lambda n=handed_in: len(futures) > n)  # type: ignore[misc]
        finally:
            over.set()
            load.join()
        assert [future.result(SOON_S) for future in futures] == list(range(len(futures)))
        ran = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert ran == {str(n): "x" for n in range(len(futures))}
        assert client.status()["results_discarded"] == 0
    assert len(futures) > 100
    assert time.monotonic() - began < WITHIN_S


def test_a_drain_with_a_time_sends_what_runs_elsewhere_and_ends_it_there(tmp_path: Path) -> None:
    def stays(path: str) -> str:
        import os
        import time

        with open(path, "a") as record:
            record.write(f"{os.environ['GANGER_NODE']} {os.getpid()}\n")
        if os.environ["GANGER_NODE"] == "node-1":
            time.sleep(600)
        return os.environ["GANGER_NODE"]

    with LocalCluster(nodes=0) as local:
        client = local.client()
        first = local.add_node(slots=1).name
        future = client.submit(stays, str(tmp_path / "record"))
        until((tmp_path / "record").exists)
        second = local.add_node(slots=1).name
        assert "it is draining, and has 1 attempt" in command(local, "drain", first, "--timeout", "1s")
        client.drain(first, timeout_s=1.0, wait=True)
        assert future.result(SOON_S) == second
        _, pid = (tmp_path / "record").read_text().splitlines()[0].split()
        until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
        assert state(client, first) == "drained"
        assert client.submit(stays, str(tmp_path / "record")).result(SOON_S) == second
        assert "it is up" in command(local, "undrain", first)
