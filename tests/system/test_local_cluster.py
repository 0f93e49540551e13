"""``LocalCluster``: it comes, it goes, and nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster import LocalCluster, errors
from cluster.keys import ConnectionFile

pytestmark = pytest.mark.system

SOON_S = 30.0


def until(true: Callable[[], object], within_s: float = SOON_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        threading.Event().wait(0.005)


def tree(pids: list[int]) -> list[psutil.Process]:
    roots = [psutil.Process(pid) for pid in pids]
    return roots + [child for root in roots for child in root.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def socket_dir(cluster_file: Path) -> Path:
    local = ConnectionFile.load(cluster_file).local
    assert local is not None
    return Path(local.removeprefix("ipc://")).parent


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_it_works_and_leaves_nothing(transport: str) -> None:
    with LocalCluster(nodes=2, slots=1, transport=transport) as cluster:  # type: ignore[arg-type]
        with cluster.client() as client:
            assert sorted(n["name"] for n in client.nodes()) == ["node-1", "node-2"]
            assert client.submit(pow, 2, 10).result(SOON_S) == 1024
            assert client._session.address.startswith(transport + "://")
        processes = tree([cluster.coordinator.pid, *(n.pid for n in cluster.nodes)])
        directory, sockets = cluster.directory, socket_dir(cluster.connection_file)
        assert directory.stat().st_mode & 0o777 == 0o700
        assert {os.getsid(p.pid) for p in processes}.isdisjoint({os.getsid(0)})
    assert gone(processes)
    assert not directory.exists() and not sockets.exists()
    cluster.close()
    with pytest.raises(errors.ClientClosed):
        cluster.client()


def test_two_at_once_know_nothing_of_each_other() -> None:
    with LocalCluster(slots=1) as one, LocalCluster(slots=2) as two, one.client() as a, two.client() as b:
        assert [a.nodes()[0]["slots"], b.nodes()[0]["slots"]] == [1, 2]
        assert list(a.map(abs, range(50))) == list(b.map(abs, range(50)))
        one.close()
        assert b.submit(abs, -1).result(SOON_S) == 1


def test_a_node_added_later_takes_what_demands_it() -> None:
    with LocalCluster(slots=1) as cluster, cluster.client() as client:
        demanding = client.options(labels={"disk": "fast"}).submit(os.getenv, "GANGER_AGENT")
        assert demanding.accepted(SOON_S) and not demanding.done()
        assert client.submit(abs, -1).result(SOON_S) == 1
        node = cluster.add_node(slots=3, labels={"disk": "fast"})
        assert demanding.result(SOON_S) == str(node.pid)
        assert (node.name, node.pid) == ("node-2", cluster.nodes[1].pid)
        assert {n["name"]: n["slots"] for n in client.nodes()} == {"node-1": 1, "node-2": 3}


@pytest.mark.parametrize("killed", [False, True])
def test_a_restarted_coordinator_is_found_again(killed: bool) -> None:
    with LocalCluster(slots=1, transport="tcp") as cluster, cluster.client() as client:
        assert client.submit(abs, -1).result(SOON_S) == 1
        old, address = cluster.coordinator.pid, client._session.address
        if killed:
            cluster.coordinator.kill()
        cluster.restart_coordinator()
        assert cluster.coordinator.pid != old
        assert client.submit(abs, -2).result(SOON_S) == 2
        with cluster.client() as another:
            assert another._session.address == address
            assert another.submit(abs, -3).result(SOON_S) == 3


def test_jobs_see_what_the_caller_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.py").write_text("def whose():\n    return 'the user'\n")
    (tmp_path / "scheduler.py").write_text("raise SystemExit('taken for ours')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with LocalCluster(slots=1) as cluster, cluster.client() as client:
        assert client.submit(os.getcwd).result(SOON_S) == str(tmp_path)
        assert client.submit(eval, "__import__('node').whose()").result(SOON_S) == "the user"


def test_settings_of_the_environment_are_not_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_SLOTS", "17")
    monkeypatch.setenv("GANGER_ADVERTISE", "nowhere.example:1")
    with LocalCluster(slots=1) as cluster, cluster.client(transport="tcp") as client:
        assert client.nodes()[0]["slots"] == 1


def test_what_does_not_come_up_says_why() -> None:
    with pytest.raises(errors.ConfigError, match=r"coordinator did not start: (.*\n)*.*lease"):
        LocalCluster(lease_s=-1.0)


def test_its_clients_end_with_it() -> None:
    with LocalCluster(slots=1) as cluster:
        client = cluster.client()
        future = client.options(labels={"not": "there"}).submit(abs, -1)
        assert future.accepted(SOON_S)
    error = future.exception(SOON_S)
    assert isinstance(error, errors.CoordinatorUnreachable)
    with pytest.raises(errors.CoordinatorUnreachable, match="closed"):
        client.submit(abs, 1)


PARENT = """
    import json, os, signal, sys, time
    from cluster import LocalCluster
    cluster = LocalCluster(nodes=2, slots=1)
    client = cluster.client()
    started = str(cluster.directory) + "-started"
    futures = [client.submit(time.sleep, 600) for _ in range(2)]
    client.submit(abs, 1).accepted(30)
    pids = [cluster.coordinator.pid, *(n.pid for n in cluster.nodes)]
    print(json.dumps([pids, str(cluster.directory), str(cluster.connection_file)]), flush=True)
"""


class Parent:
    """A program with a cluster in which jobs run."""

    def __init__(self, last_line: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT) + last_line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.popen.stdout is not None
        pids, directory, connection_file = json.loads(self.popen.stdout.readline())
        self.directory, self.sockets = Path(directory), socket_dir(Path(connection_file))
        until(lambda: len(tree(pids)) >= 5)  # three of ours and a worker for each slot
        self.processes = tree(pids)

    def __enter__(self) -> Parent:
        return self

    def __exit__(self, *exc: object) -> None:
        """The end of the parent is enough; what it is not enough for has failed the test and is killed here."""
        self.popen.kill()
        with self.popen:
            pass
        psutil.wait_procs(self.processes, 5.0)
        for process in self.processes:
            if process.is_running():
                process.kill()

    def left_nothing(self, within_s: float) -> None:
        until(lambda: gone(self.processes), within_s)
        until(lambda: not self.directory.exists() and not self.sockets.exists(), within_s)


def test_a_parent_killed_takes_all_with_it() -> None:
    with Parent("time.sleep(600)") as parent:
        parent.popen.kill()
        parent.popen.wait()
        parent.left_nothing(5.0)


def test_a_forked_child_does_not_keep_it_alive() -> None:
    fork = "pid = os.fork() or time.sleep(600)\nprint(pid, flush=True)\ntime.sleep(600)"
    with Parent(fork) as parent:
        assert parent.popen.stdout is not None
        child = psutil.Process(int(parent.popen.stdout.readline()))
        try:
            parent.popen.kill()
            parent.popen.wait()
            parent.left_nothing(5.0)
            assert child.is_running()
        finally:
            child.kill()


@pytest.mark.parametrize("last_line", ["raise ValueError", "sys.exit(3)", "os._exit(4)", "pass"])
def test_a_parent_that_ends_leaves_nothing(last_line: str) -> None:
    with Parent(f"sys.stdin.readline()\n{last_line}") as parent:
        parent.popen.communicate(b"\n", timeout=SOON_S)
        parent.left_nothing(5.0)


def test_an_interrupt_of_the_terminal_does_not_reach_it() -> None:
    wait = "\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print(client.status()['nodes'], flush=True)\n"
    with Parent(wait + "time.sleep(600)") as parent:
        os.killpg(parent.popen.pid, signal.SIGINT)
        assert parent.popen.stdout is not None
        assert parent.popen.stdout.readline().strip() == b"2"
        assert all(p.is_running() for p in parent.processes)
