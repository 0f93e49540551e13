"""Runs one agent. Rules of this file: wiring only; every decision is the actor's."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zmq

from cluster.actor import Send, Stop
from cluster.blob_files import BlobFiles
from cluster.blobs import DropBlob, KeepBlob, ReadChunk, WriteChunk
from cluster.errors import ConfigError, Refused
from cluster.facts import Fact
from cluster.host import Host, Lifeline, Mailbox, Source, raise_file_limit
from cluster.keys import ConnectionFile, home_dir
from cluster.logs import FactLog
from cluster.transport import Dial
from node.agent import Agent, LeaveWished, Self
from node.events import Give, KillWorker, Recall, SpawnWorker
from node.pool import WorkerPool
from node.vitals import Vitals

FAREWELL_MS = 200
"""How long the goodbye may take to leave at the end."""


@dataclass(frozen=True, slots=True)
class Settings:
    connection: ConnectionFile
    name: str = field(default_factory=socket.gethostname)
    slots: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    labels: dict[str, str] = field(default_factory=dict)
    directory: Path | None = None
    """Keeps the incarnation; default ``~/.ganger/nodes/<name>``."""
    transport: str = "auto"
    ready_fd: int | None = None
    lifeline_fd: int | None = None


class Life:
    """The agent's directory: locked, and with a number that rises with every start."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError(
                f"another agent uses {directory}: give this one another --name, or another --directory"
            ) from None
        path = directory / "incarnation"
        try:
            self.incarnation = int(path.read_text()) + 1 if path.exists() else 1
        except ValueError:
            raise ConfigError(f"{path} does not hold a number; remove {directory} to start anew") from None
        fresh = path.with_suffix(".new")
        with open(fresh, "w", encoding="ascii") as out:
            out.write(f"{self.incarnation}\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(fresh, path)

    def close(self) -> None:
        os.close(self._lock)


def run(settings: Settings) -> Stop:
    """Run an agent in this process until it is told to stop, or its parent is gone. Raises ``Refused``."""
    directory = settings.directory or home_dir() / "nodes" / settings.name
    raise_file_limit()
    life = Life(directory)
    scratch = Path(tempfile.mkdtemp(prefix="blobs-", dir=directory))
    for left in directory.glob("blobs-*"):
        if left != scratch:
            shutil.rmtree(left, ignore_errors=True)
    context = zmq.Context()
    address, server_key = settings.connection.way(settings.transport)
    dial = Dial(context, address, server_key, settings.connection.public_key, settings.connection.secret_key)
    blobs = BlobFiles(scratch, sync=False)
    pool = WorkerPool(str(scratch), settings.name, env={"GANGER_NODE": settings.name})
    mailbox = Mailbox()
    log = FactLog("node")
    me = Self(
        session=secrets.token_bytes(8),
        name=settings.name,
        incarnation=life.incarnation,
        host=socket.gethostname(),
        pid=os.getpid(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        version=version("ganger"),
        slots=settings.slots,
        labels=settings.labels,
    )
    ready_fd = settings.ready_fd

    def facts(facts: list[Fact]) -> None:
        nonlocal ready_fd
        log(facts)
        if ready_fd is not None and any(f.kind == "registered" for f in facts):
            os.write(ready_fd, json.dumps({"pid": me.pid, "name": me.name}).encode() + b"\n")
            os.close(ready_fd)
            ready_fd = None

    try:
        sources: list[Source] = [_Polled(pool), dial, blobs, mailbox, Vitals()]
        if settings.lifeline_fd is not None:
            sources.append(Lifeline(settings.lifeline_fd))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: mailbox.put(LeaveWished(f"told to stop by {signal.Signals(n).name}")))
        performers: dict[type, Any] = dict.fromkeys((SpawnWorker, Give, Recall, KillWorker), pool.perform)
        performers |= dict.fromkeys((KeepBlob, WriteChunk, ReadChunk, DropBlob), blobs.perform)
        performers[Send] = dial.send
        stop = Host(Agent(me), sources, performers, facts, own_gc=True).run()
    finally:
        pool.close()
        dial.close(FAREWELL_MS)
        context.term()
        blobs.close()
        shutil.rmtree(scratch, ignore_errors=True)
        life.close()
    if stop.error:
        raise Refused(stop.reason)
    return stop


class _Polled:
    """The pool as a source: one descriptor stands for all its workers."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def pollables(self) -> list[int]:
        return [self._pool.fileno()]

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        return self._pool.drain(limit)
