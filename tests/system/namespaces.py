"""Two hosts on one machine: network namespaces joined by a cable. Rules of this file: set-up only, no assertions.

- A host has a network, a home and a runtime directory of its own, and does not see the other's. Its processes run
  as root: nothing here starts without it (``two_hosts`` skips, with the reason).
- Names are new each time, so that runs do not meet. Whoever ends, and however: a guard process holds the end
  of a pipe, and when that breaks it kills what runs in the namespaces, and removes them and the directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

T = TypeVar("T")

COMMAND = [sys.executable, "-c", "from cluster.cli import main; main()"]
SOON_S = 30.0
DEVICE = "wire0"
NOWHERE = "02:00:00:00:00:77"
"""Hardware address of nobody: frames sent there are lost without a word."""

_CLONE_NEWNET = 0x40000000
_ESTABLISHED = "01"

_GUARD = """
cat >/dev/null
for name in "$2" "$3"; do
    ip netns pids "$name" | xargs -r kill -9 2>/dev/null
    ip netns delete "$name"
done
rm -rf "$1"
"""

_HIDDEN = 'mount -t tmpfs -o mode=0700 none "$1" && shift && exec "$@"'
"""Runs a command that finds nothing in that directory. The mount is its own: ``ip netns exec`` sees to that."""


def until(true: Callable[[], object], what: str = "it did not become true", within_s: float = SOON_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.005)


class Joined(NamedTuple):
    """A coordinator, or a node, that said it is ready."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    log: Path

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def connections(self) -> int:
        """How many TCP connections a coordinator has. Read from its network, without starting anything there."""
        rows = [row.split() for row in Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.ready['port']:04X}") and row[3] == _ESTABLISHED for row in rows)


class Host:
    def __init__(self, namespace: str, address: str, address6: str, home: Path, hidden: Path, logs: Path) -> None:
        self.namespace = namespace
        self.address, self.address6 = address, address6
        self.home = home
        """``HOME`` of its processes."""
        self._prefix = ["ip", "netns", "exec", namespace]
        self._away = ["sh", "-c", _HIDDEN, "sh", str(hidden)]
        self._logs = logs
        self._started: list[subprocess.Popen[str]] = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
        self.env |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
        (home / "run").mkdir(mode=0o700, parents=True)

    def popen(self, command: list[str], **settings: Any) -> subprocess.Popen[str]:
        """Start it on this host. Its id is that of the process itself: all before it were replaced."""
        process = subprocess.Popen(
            [*self._prefix, *self._away, *command],
            **{"env": self.env, "text": True, "start_new_session": True, "cwd": self.home, **settings},
        )
        self._started.append(process)
        return process

    def python(self, code: str, *arguments: object, **settings: Any) -> subprocess.Popen[str]:
        """Start a program there, with pipes to it."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return self.popen([sys.executable, "-P", "-c", code, *map(str, arguments)], **{**pipes, **settings})

    def start(self, *arguments: str, name: str) -> Callable[[], Joined]:
        """Start one of our commands; the call of what is returned waits until it is ready."""
        log = self._logs / f"{name}.log"
        ours, theirs = os.pipe()
        try:
            with open(log, "a", encoding="utf-8") as out:
                process = self.popen(
                    [*COMMAND, *arguments, "--ready-fd", str(theirs)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=(theirs,),
                )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return functools.partial(_await_ready, process, ours, log)

    def coordinator(self, *arguments: str, name: str = "coordinator") -> Joined:
        return self.start("coordinator", *arguments, name=name)()

    def node(self, connection: Path, *arguments: str, name: str = "node") -> Joined:
        return self.starting_node(connection, *arguments, name=name)()

    def starting_node(self, connection: Path, *arguments: str, name: str) -> Callable[[], Joined]:
        return self.start("node", "--connection", str(connection), "--name", name, *arguments, name=name)

    def reap(self) -> None:
        """All that was started has ended, and is waited for."""
        for process in self._started:
            with contextlib.suppress(BrokenPipeError), process:
                pass

    def ip(self, *arguments: str) -> None:
        _run("ip", "-n", self.namespace, *arguments)

    def within(self, call: Callable[[], T]) -> T:
        """Call it in a thread that is on this host's network: the sockets it makes stay there."""
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with open(f"/run/netns/{self.namespace}", "rb") as namespace:
                    if _libc().setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                done.append(call())
            except BaseException as e:
                failed.append(e)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def cut(self, *selection: str) -> int:
        """Reset TCP connections, as a middlebox would that lost its table; how many there were."""
        return len(_run(*self._prefix, "ss", "-KHtn", "state", "established", *selection).splitlines())


class Pair(NamedTuple):
    head: Host
    away: Host

    @contextlib.contextmanager
    def black_hole(self) -> Iterator[None]:
        """What one sends to the other is lost, both ways, and nobody is told."""
        ways = [(self.head, self.away.address), (self.away, self.head.address)]
        for host, address in ways:
            host.ip("neigh", "replace", address, "lladdr", NOWHERE, "nud", "permanent", "dev", DEVICE)
        try:
            yield
        finally:
            for host, address in ways:
                host.ip("neigh", "del", address, "dev", DEVICE)

    def carry(self, coordinator: Path, role: str) -> Path:
        """Copy a connection file from the one host to the other, as ``scp`` would."""
        target = self.away.home / f"{coordinator.name}-{role}.json"
        shutil.copy(coordinator / f"{role}.json", target)
        return target


@contextlib.contextmanager
def two_hosts(logs: Path) -> Iterator[Pair]:
    """Two hosts with a cable between them; the logs of their processes go to that directory."""
    if why_not := _why_not():
        pytest.skip(why_not)
    base = Path(tempfile.mkdtemp(prefix="ganger-hosts-"))
    run = secrets.token_hex(4)
    names = [f"ganger-{run}-{end}" for end in ("head", "away")]
    # In a session of its own: whatever ends the tests must leave it.
    guard = subprocess.Popen(
        ["sh", "-c", _GUARD, "sh", str(base), *names],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    hosts: list[Host] = []
    try:
        for i, name in enumerate(names, 1):
            _run("ip", "netns", "add", name)
            mine, other = base / str(i), base / str(3 - i)
            hosts.append(Host(name, f"10.77.0.{i}", f"fd77::{i}", mine, other, logs))
        _run(
            *("ip", "-n", names[0], "link", "add", DEVICE, "type", "veth"), *("peer", "name", DEVICE, "netns", names[1])
        )
        for host in hosts:
            host.ip("link", "set", "lo", "up")
            host.ip("address", "add", f"{host.address}/24", "dev", DEVICE)
            with contextlib.suppress(OSError):  # no IPv6 in this kernel
                host.ip("address", "add", f"{host.address6}/64", "dev", DEVICE, "nodad")
            host.ip("link", "set", DEVICE, "up")
        yield Pair(*hosts)
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(SOON_S)
        for host in hosts:
            host.reap()


def needs_cuts(host: Host) -> None:
    """Skip where connections cannot be cut from outside."""
    if shutil.which("ss") is None:
        pytest.skip("needs ss (Debian: iproute2)")

    def cut_one() -> int:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            return host.cut("dport", "=", f":{server.getsockname()[1]}")

    if not host.within(cut_one):
        pytest.skip("ss -K cuts nothing: this kernel has no INET_DIAG_DESTROY")


@functools.cache
def _why_not() -> str:
    if not sys.platform.startswith("linux"):
        return "network namespaces are of Linux"
    if os.geteuid():
        return "network namespaces need root"
    for program in ("ip", "mount", "xargs"):
        if shutil.which(program) is None:
            return f"needs {program} (Debian: iproute2, mount, findutils)"
    name = f"ganger-{secrets.token_hex(4)}-try"
    try:
        _run("ip", "netns", "add", name)
        try:
            _run("ip", "-n", name, "link", "add", DEVICE, "type", "veth", "peer", "name", "wire1")
            _run("ip", "netns", "exec", name, "mount", "-t", "tmpfs", "none", "/mnt")
        finally:
            _run("ip", "netns", "delete", name)
    except OSError as e:
        return f"no network namespaces here: {e}"
    return ""


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _run(*command: str) -> str:
    """What it printed; ``OSError`` with what it complained of."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _await_ready(process: subprocess.Popen[str], fd: int, log: Path) -> Joined:
    line = b""
    deadline = time.monotonic() + SOON_S
    try:
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(fd, 4096) if ready else b""
            assert piece, f"not ready; it said: {log.read_text(encoding='utf-8')}"
            line += piece
    finally:
        os.close(fd)
    return Joined(process, json.loads(line), log)
