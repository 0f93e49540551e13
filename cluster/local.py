"""``LocalCluster``: a real coordinator and real nodes as child processes. Rules of this file: shell; processes only.

- Each process is the leader of a session of its own: Ctrl-C here stops what runs here, not the cluster.
- Each holds the reading end of a pipe whose writing end is only here. However this process dies, that pipe
  ends, and they with it; the coordinator then removes the directory.
- A forked child of this process closes its copies of the writing ends, and leaves the cluster alone.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.machinery
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from cluster.client import Client, Transport, flush_all
from cluster.errors import ClientClosed, ConfigError
from cluster.keys import remove_runtime_dir, runtime_dir

START_TIMEOUT_S = 30.0
"""Time for one process to say that it is ready; a busy machine with a cold disk needs some."""

STOP_S = 3.0
"""Time to leave in order, for all nodes together and then for the coordinator, before they are killed."""

STDERR_TAIL_BYTES = 4_000

_ROOT = str(Path(__file__).resolve().parent.parent)


class LocalProcess:
    """One process of a :class:`LocalCluster`."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], ready_fd: int, lifeline: int, log: Path) -> None:
        self.name = name
        self.ready: dict[str, Any] = {}
        """What it said when it was ready."""
        self.log = log
        """File with what it wrote to standard error."""
        self._popen = popen
        self._ready_fd = ready_fd
        self._lifeline = lifeline

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def kill(self) -> None:
        """End it at once, as a crash would, and wait for its end."""
        self._popen.kill()
        self._popen.wait()

    def __repr__(self) -> str:
        state = "runs" if self.alive else f"ended with {self._popen.returncode}"
        return f"<{self.name}: pid {self.pid}, {state}>"

    def _await_ready(self, deadline: float) -> None:
        """Raises ``ConfigError`` with its last words if it does not come up."""
        line = b""
        poll = select.poll()
        poll.register(self._ready_fd, select.POLLIN)
        try:
            while not line.endswith(b"\n"):
                left = deadline - monotonic()
                if left <= 0 or not poll.poll(left * 1000):
                    raise ConfigError(f"{self.name} is not ready after {START_TIMEOUT_S:g} s{self._last_words()}")
                piece = os.read(self._ready_fd, 4096)
                if not piece:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._popen.wait(STOP_S)
                    raise ConfigError(
                        f"{self.name} ended before it was ready (exit status {self._popen.poll()}){self._last_words()}"
                    )
                line += piece
        finally:
            os.close(self._ready_fd)
            self._ready_fd = -1
        self.ready = json.loads(line)

    def _last_words(self) -> str:
        try:
            text = self.log.read_bytes()[-STDERR_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""
        return f"; it said:\n{text}" if text else "; it said nothing"

    def _terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGTERM)

    def _wait_or_kill(self, deadline: float) -> None:
        try:
            self._popen.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
        self._let_go()

    def _let_go(self) -> None:
        for fd in (self._lifeline, self._ready_fd):
            if fd >= 0:
                os.close(fd)
        self._lifeline = self._ready_fd = -1


class LocalCluster:
    """A coordinator and ``nodes`` nodes on this machine, with a private directory and keys of their own.

    ``slots``: jobs at a time per node; the processors are divided among the nodes unless given. ``transport``:
    ``tcp`` is encrypted TCP, ``ipc`` and ``auto`` the local socket. ``lease_s``, ``gone_s`` and ``heartbeat_s``
    are the coordinator's times. Jobs find what the caller finds: its ``sys.path`` and working directory.

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
        lease_s: float | None = None,
        gone_s: float | None = None,
        heartbeat_s: float | None = None,
        log_level: str = "warning",
    ) -> None:
        if nodes < 0:
            raise ValueError(f"a cluster has no {nodes} nodes")
        if transport not in ("auto", "tcp", "ipc"):
            raise ValueError(f"transport is 'auto', 'tcp' or 'ipc', not {transport!r}")
        self.transport: Transport = transport
        self.nodes: list[LocalProcess] = []
        self._slots = slots or max(1, len(os.sched_getaffinity(0)) // max(1, nodes))
        self._log_level = log_level
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
            deadline = monotonic() + START_TIMEOUT_S
            self.nodes += [self._start_node(self._slots, labels or {}) for _ in range(nodes)]
            for node in self.nodes:
                node._await_ready(deadline)
        except BaseException:
            self.close()
            raise

    @property
    def connection_file(self) -> Path:
        """For a client anywhere on this machine."""
        return self.directory / "client.json"

    def client(self, **settings: Any) -> Client:
        """A client of this cluster; ``settings`` are those of :class:`Client`. It ends with the cluster."""
        self._check_open()
        client = Client(self.connection_file, **{"transport": self.transport, **settings})
        self._clients.add(client)
        return client

    def add_node(self, slots: int | None = None, labels: Mapping[str, str] | None = None) -> LocalProcess:
        """One node more; it has joined when this returns."""
        self._check_open()
        node = self._start_node(slots or self._slots, labels or {})
        try:
            node._await_ready(monotonic() + START_TIMEOUT_S)
        except BaseException:
            node.kill()
            node._let_go()
            raise
        self.nodes.append(node)
        return node

    def restart_coordinator(self) -> LocalProcess:
        """Kill the coordinator, if it still lives, and start it in the same directory at the same address."""
        self._check_open()
        old = self.coordinator
        old.kill()
        old._let_go()
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
            node._terminate()
        deadline = monotonic() + STOP_S
        for node in self.nodes:
            node._wait_or_kill(deadline)
        if hasattr(self, "coordinator"):
            self.coordinator._terminate()
            self.coordinator._wait_or_kill(monotonic() + STOP_S)
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
        command = ["scheduler", "--directory", str(self.directory), "--host", "127.0.0.1", "--port", str(port)]
        command += [*self._times, "--remove-directory"]
        process = self._start("coordinator", command, [_ROOT, *_caller_path()])
        try:
            process._await_ready(monotonic() + START_TIMEOUT_S)
        except BaseException:
            process.kill()
            process._let_go()
            raise
        return process

    def _start_node(self, slots: int, labels: Mapping[str, str]) -> LocalProcess:
        self._named += 1
        name = f"node-{self._named}"
        command = ["node", "--connection", str(self.directory / "node.json"), "--name", name]
        command += ["--slots", str(slots), "--transport", self.transport]
        command += ["--directory", str(self.directory / "nodes" / name)]
        for key, value in labels.items():
            command += ["--label", f"{key}={value}"]
        path = _caller_path()
        # Ours come first only where they would not be found otherwise: jobs shall see the caller's order.
        return self._start(name, command, path if _finds_ours(path) else [_ROOT, *path])

    def _start(self, name: str, command: list[str], path: list[str]) -> LocalProcess:
        env = {key: value for key, value in os.environ.items() if not key.startswith("GANGER_")}
        env["PYTHONPATH"] = os.pathsep.join(path)
        log = self.directory / f"{name}.log"
        with contextlib.ExitStack() as opened:
            ready_ours, ready_theirs = os.pipe()
            life_theirs, life_ours = os.pipe()
            for fd in (ready_theirs, life_theirs):
                opened.callback(os.close, fd)
            try:
                out = opened.enter_context(open(log, "ab"))
                popen = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", *command, "--log-level", self._log_level),
                        *("--ready-fd", str(ready_theirs), "--lifeline-fd", str(life_theirs)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=env,
                    pass_fds=(ready_theirs, life_theirs),
                    start_new_session=True,
                )
            except BaseException:
                os.close(ready_ours)
                os.close(life_ours)
                raise
        return LocalProcess(name, popen, ready_ours, life_ours, log)


def _caller_path() -> list[str]:
    """The caller's ``sys.path``, for a process that starts in the same working directory."""
    entries = [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
    return [os.path.abspath(entry) for entry in entries if os.pathsep not in entry]


def _finds_ours(path: list[str]) -> bool:
    """Whether nothing of the caller's, such as its own ``node.py``, stands before our packages."""
    for name in ("cluster", "node"):
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin != os.path.join(_ROOT, name, "__init__.py"):
            return False
    return True


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
