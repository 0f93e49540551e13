"""``LocalCluster``: a real coordinator and real nodes as child processes. Rules of this file: shell; processes only.

- However this process dies, they end with it (``processes``), and the coordinator then removes the directory.
- A forked child of this process closes its copies of the writing ends, and leaves the cluster alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from cluster import packages
from cluster.carrier import flush_all
from cluster.client import Client, Transport
from cluster.errors import ClientClosed, ConfigError
from cluster.keys import remove_runtime_dir, runtime_dir
from cluster.processes import MODULES, READY_WITHIN_S, Process

STOP_S = 3.0
"""Time to leave in order, for all nodes together and then for the coordinator, before they are killed."""

STDERR_TAIL_BYTES = 4_000


class LocalProcess(Process):
    """One process of a :class:`LocalCluster`."""

    def __init__(self, name: str, command: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        """File with what it wrote to standard error."""
        with open(log, "ab") as out:
            super().__init__(name, command, arguments, env, out)

    def _last_words(self) -> str:
        try:
            return self.log.read_bytes()[-STDERR_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""


class LocalCluster:
    """A coordinator and ``nodes`` nodes on this machine, with a private directory and keys of their own.

    ``slots``: jobs at a time per node; the processors are divided among the nodes unless given. ``transport``:
    ``tcp`` is encrypted TCP, ``ipc`` and ``auto`` the local socket. ``resources``: what jobs may claim on each
    node, which otherwise offers all that it finds on this machine. ``lease_s``, ``gone_s`` and ``heartbeat_s`` are the
    coordinator's times. With ``metrics`` all processes serve them (``metrics_addresses``). Jobs find what the
    caller finds: its ``sys.path`` and working directory.

    A context manager; it also ends when this process does. Raises :class:`errors.ConfigError`, with its last
    words, if a process does not come up.
    """

    def __init__(
        self,
        nodes: int = 1,
        slots: int | None = None,
        transport: Transport = "auto",
        *,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
        lease_s: float | None = None,
        gone_s: float | None = None,
        heartbeat_s: float | None = None,
        metrics: bool = False,
        log_level: str = "warning",
    ) -> None:
        if nodes < 0:
            raise ValueError(f"a cluster has no {nodes} nodes")
        if transport not in ("auto", "tcp", "ipc"):
            raise ValueError(f"transport is 'auto', 'tcp' or 'ipc', not {transport!r}")
        packages.check()
        self.transport: Transport = transport
        self.nodes: list[LocalProcess] = []
        self._slots = slots or max(1, len(os.sched_getaffinity(0)) // max(1, nodes))
        self._log_level = log_level
        self._metrics = ["--metrics-port", "0"] if metrics else []
        times = {"--lease-s": lease_s, "--gone-s": gone_s, "--heartbeat-s": heartbeat_s}
        self._times = [part for key, s in times.items() if s is not None for part in (key, str(s))]
        self._pid = os.getpid()
        self._named = 0
        self._closed = False
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self.directory = Path(tempfile.mkdtemp(prefix="ganger-"))
        _clusters.add(self)
        try:
            self.coordinator = self._start_coordinator(0)
            deadline = monotonic() + READY_WITHIN_S
            self.nodes += [self._start_node(self._slots, labels or {}, resources or {}) for _ in range(nodes)]
            for node in self.nodes:
                node.await_ready(deadline)
        except BaseException:
            self.close()
            raise

    @property
    def connection_file(self) -> Path:
        """For a client anywhere on this machine."""
        return self.directory / "client.json"

    @property
    def metrics_addresses(self) -> list[str]:
        """``host:port`` where each process serves ``/metrics``, ``/healthz`` and ``/readyz``: the coordinator's first,
        then those of the nodes; none without ``metrics``."""
        processes = [self.coordinator, *self.nodes]
        return [process.ready["metrics"] for process in processes if "metrics" in process.ready]

    def client(self, **settings: Any) -> Client:
        """A client of this cluster; ``settings`` are those of :class:`Client`. It ends with the cluster."""
        self._check_open()
        client = Client(self.connection_file, **{"transport": self.transport, **settings})
        self._clients.add(client)
        return client

    def add_node(
        self,
        slots: int | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        resources: Mapping[str, float] | None = None,
        isolation: str = "process",
    ) -> LocalProcess:
        """One node more; it has joined when this returns. ``isolation``: or ``contained``, as of ``cluster node``."""
        self._check_open()
        node = self._start_node(slots or self._slots, labels or {}, resources or {}, isolation)
        try:
            node.await_ready(monotonic() + READY_WITHIN_S)
        except BaseException:
            node.discard()
            raise
        self.nodes.append(node)
        return node

    def restart_coordinator(self) -> LocalProcess:
        """Kill the coordinator, if it still lives, and start it in the same directory at the same address."""
        self._check_open()
        old = self.coordinator
        old.discard()
        self.coordinator = self._start_coordinator(int(old.ready["port"]))
        return self.coordinator

    def close(self) -> None:
        """End all processes and remove the directory; no call but the first does anything.

        What clients made by ``client`` still have open fails.
        """
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        for client in list(self._clients):
            client._abandon("the local cluster was closed")
        # By the lifeline they know it too, should this process be killed right here.
        for node in self.nodes:
            node.terminate()
        deadline = monotonic() + STOP_S
        for node in self.nodes:
            node.wait_or_kill(deadline)
        if hasattr(self, "coordinator"):
            self.coordinator.terminate()
            self.coordinator.wait_or_kill(monotonic() + STOP_S)
        with contextlib.suppress(ConfigError):
            remove_runtime_dir(runtime_dir(self.directory))  # a coordinator that was killed leaves it
        shutil.rmtree(self.directory, ignore_errors=True)
        _clusters.discard(self)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self.nodes)} nodes"
        return f"<{type(self).__name__} in {self.directory}: {state}>"

    # -- within -------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the local cluster is closed")
        if self._pid != os.getpid():
            raise ClientClosed(f"this local cluster belongs to process {self._pid}, from which this one was forked")

    def _start_coordinator(self, port: int) -> LocalProcess:
        arguments = ["--directory", str(self.directory), "--host", "127.0.0.1", "--port", str(port)]
        arguments += [*self._times, *self._metrics]
        process = self._start("coordinator", "coordinator", [*arguments, "--remove-directory"])
        try:
            process.await_ready(monotonic() + READY_WITHIN_S)
        except BaseException:
            process.discard()
            raise
        return process

    def _start_node(
        self, slots: int, labels: Mapping[str, str], resources: Mapping[str, float], isolation: str = "process"
    ) -> LocalProcess:
        self._named += 1
        name = f"node-{self._named}"
        arguments = ["--connection", str(self.directory / "node.json"), "--name", name]
        arguments += ["--slots", str(slots), "--transport", self.transport, "--isolation", isolation]
        arguments += ["--env", "*"]  # jobs find what the caller finds
        arguments += ["--directory", str(self.directory / "nodes" / name)]
        for key, value in labels.items():
            arguments += ["--label", f"{key}={value}"]
        for key, amount in resources.items():
            arguments += ["--resource", f"{key}={amount:.3f}"]
        return self._start(name, "node", [*arguments, *self._metrics])

    def _start(self, name: str, command: str, arguments: list[str]) -> LocalProcess:
        env = {key: value for key, value in os.environ.items() if not key.startswith("GANGER_")}
        env["PYTHONPATH"] = os.pathsep.join(packages.search_path(_caller_path(), "cluster", MODULES[command]))
        arguments = [*arguments, "--log-level", self._log_level]
        return LocalProcess(name, command, arguments, env, self.directory / f"{name}.log")


def _caller_path() -> list[str]:
    """The caller's ``sys.path``, for a process that starts in the same working directory."""
    entries = [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
    return [os.path.abspath(entry) for entry in entries if os.pathsep not in entry]


# ------------------------------------------------------------------------------------ fork and exit

_clusters: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def _in_child() -> None:
    """A lifeline held by a forked child would keep a cluster alive that its parent left."""
    for cluster in list(_clusters):
        for process in [*cluster.nodes, *([cluster.coordinator] if hasattr(cluster, "coordinator") else [])]:
            process._let_go()
    _clusters.clear()


def _at_exit() -> None:
    if clusters := list(_clusters):
        flush_all()  # clients first, whichever was imported first
    for cluster in clusters:
        cluster.close()


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
