"""Real agents of one name: lives of one directory, and copies of it. Rules of this file: every agent is a process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import LocalCluster

pytestmark = pytest.mark.system

WITHIN_S = 30.0


class Agents:
    """Agents of a cluster's first node's name, beside the one the cluster started itself."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.processes: list[subprocess.Popen[str]] = []

    def directory(self) -> Path:
        return self.cluster.directory / "nodes" / "node-1"

    def copied(self) -> Path:
        """A copy of the directory, as it is now."""
        copy = self.cluster.directory / "copy"
        shutil.copytree(self.directory(), copy, ignore=shutil.ignore_patterns("blobs-*"))
        return copy

    def start(self, directory: Path) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "node",
            "--name",
            "node-1",
            "--slots",
            "1",
            "--directory",
            str(directory),
        ]
        command += ["--connection", str(self.cluster.directory / "node.json"), "--transport", self.cluster.transport]
        env = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def pid_of_the_node(self, other_than: int = 0) -> int:
        """The agent the coordinator knows by the name, once it is another one than this."""
        with self.cluster.client() as client:
            wait_until(lambda: [n for n in client.nodes() if n["pid"] != other_than])
            return int(client.nodes()[0]["pid"])

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def agents(request: pytest.FixtureRequest) -> Iterator[Agents]:
    times: dict[str, Any] = getattr(request, "param", {})
    with LocalCluster(nodes=1, slots=1, transport="tcp", **times) as cluster:
        agents = Agents(cluster)
        try:
            yield agents
        finally:
            agents.end()


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def refusal(process: subprocess.Popen[str]) -> str:
    """Its last line, having ended with exit code 1."""
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def names_both(line: str, holder: int, refused: int) -> bool:
    return re.search(rf"host \S+, process {holder}; this one is host \S+, process {refused}\b", line) is not None


def test_a_copy_of_a_running_nodes_directory_ends_with_a_line_that_names_both(agents: Agents) -> None:
    original = agents.cluster.nodes[0]
    clone = agents.start(agents.copied())
    line = refusal(clone)
    assert names_both(line, original.pid, clone.pid), line
    assert "copy" in line and "--name" in line and "--directory" in line
    assert original.alive
    with agents.cluster.client() as client:
        assert client.submit(os.getppid).result(WITHIN_S) > 0
        assert [n["pid"] for n in client.nodes()] == [original.pid]


@pytest.mark.parametrize("agents", [{"lease_s": 120.0, "gone_s": 120.0}], indirect=True)
def test_a_new_life_in_the_same_directory_takes_over_at_once(agents: Agents) -> None:
    """The leases of the life before would last for minutes."""
    original = agents.cluster.nodes[0]
    with agents.cluster.client() as client:
        held = client.submit(time.sleep, 0.5)
        wait_until(lambda: client.nodes()[0]["busy"])
        original.kill()
        successor = agents.start(agents.directory())
        assert agents.pid_of_the_node(other_than=original.pid) == successor.pid
        assert held.result(WITHIN_S) is None
    successor.terminate()
    assert successor.wait(WITHIN_S) == 0


@pytest.mark.parametrize("agents", [{"lease_s": 3.0, "heartbeat_s": 0.3}], indirect=True)
def test_the_copy_of_a_silent_node_waits_for_its_leases_and_the_original_is_refused_when_it_is_back(
    agents: Agents,
) -> None:
    cluster = agents.cluster
    cluster.nodes[0].kill()
    original = agents.start(agents.directory())  # one whose last words we hear
    assert agents.pid_of_the_node(other_than=cluster.nodes[0].pid) == original.pid
    copy = agents.copied()
    os.kill(original.pid, signal.SIGSTOP)
    try:
        clone = agents.start(copy)
        assert agents.pid_of_the_node(other_than=original.pid) == clone.pid
    finally:
        os.kill(original.pid, signal.SIGCONT)
    line = refusal(original)
    assert names_both(line, clone.pid, original.pid) and "copy" in line, line
    assert clone.poll() is None
    said = (cluster.directory / "coordinator.log").read_text()
    assert f"process {clone.pid} says hello as node node-1 and has to wait" in said
