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
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import zmq

from cluster.actor import Send, Stop
from cluster.blob_files import BlobFiles
from cluster.blobs import DropBlob, KeepBlob, ReadChunk, WriteChunk
from cluster.config import AgentLimits
from cluster.errors import ConfigError, Refused
from cluster.facts import Fact
from cluster.health import Health, Listen, serve
from cluster.host import Host, Lifeline, Mailbox, Source, raise_file_limit
from cluster.jobs import VISIBLE_DEVICES
from cluster.keys import ConnectionFile, home_dir
from cluster.logs import FactLog
from cluster.metrics import NODE, Meter, transport
from cluster.packages import own_version
from cluster.transport import Dial
from node import devices, isolation
from node.agent import Agent, LeaveWished, Self
from node.events import Give, InterruptWorker, KillWorker, Look, Recall, SpawnWorker
from node.pool import WorkerPool
from node.vitals import Machine, Vitals

FAREWELL_MS = 200
"""How long the goodbye may take to leave at the end."""


@dataclass(frozen=True, slots=True)
class Settings:
    connection: ConnectionFile
    name: str = field(default_factory=socket.gethostname)
    slots: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    labels: dict[str, str] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    """Those it serves; all, where none are named."""
    resources: dict[str, float] = field(default_factory=dict)
    """What jobs may claim there, besides or instead of what is found."""
    directory: Path | None = None
    """Keeps the node's lives apart (``Life``); default ``~/.ganger/nodes/<name>``."""
    transport: str = "auto"
    preload: tuple[str, ...] = ()
    """Modules imported once for all workers."""
    init: str = ""
    """``package.module:function`` that each worker calls before its first job."""
    start: str = "fork"
    """...or ``spawn``: an interpreter anew for each worker."""
    env: tuple[str, ...] = ()
    """Patterns of the variables that jobs see, beside the basic ones."""
    isolation: str = "process"
    """...or ``contained``: what that means is proved before the node joins."""
    secrets: tuple[Path, ...] = ()
    """Files that contained jobs shall not find, with what lies beside them."""
    limits: AgentLimits = field(default_factory=AgentLimits)
    drain_s: float = 15.0
    """How long what runs may go on after SIGTERM."""
    metrics: Listen = field(default_factory=Listen)
    ready_fd: int | None = None
    lifeline_fd: int | None = None


class Life:
    """The agent's directory: locked, with a number that rises with every start, and the last life that was welcomed.

    A copy of the directory has the same number and remembers the same life; the lock is its own.
    """

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
        self._path = directory / "life"
        try:
            text = self._path.read_text("ascii") if self._path.exists() else "0"
            number, _, session = text.strip().partition(" ")
            self.incarnation = int(number) + 1
            self.previous = bytes.fromhex(session)
        except ValueError:
            self.close()
            raise ConfigError(
                f"{self._path} does not hold a number and a session; remove {directory} to start anew"
            ) from None
        self._keep(self.previous)

    @property
    def lock(self) -> str:
        """Names the lock: no two processes that run at once, here or elsewhere, hold locks of one name."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return ""
        found = os.fstat(self._lock)
        return f"{boot} {found.st_dev}:{found.st_ino}"

    def welcomed(self, session: bytes) -> None:
        """The coordinator knows this life by that session: the next one names it."""
        self._keep(session)

    def _keep(self, session: bytes) -> None:
        fresh = self._path.with_suffix(".new")
        with open(fresh, "w", encoding="ascii") as out:
            out.write(f"{self.incarnation} {session.hex()}\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(fresh, self._path)

    def close(self) -> None:
        os.close(self._lock)


def run(settings: Settings) -> Stop:
    """Run an agent in this process until it is told to stop, or its parent is gone. Raises ``Refused``."""
    directory = settings.directory or home_dir() / "nodes" / settings.name
    machine = Machine(directory)
    named = devices.named(os.environ)
    resources = {**machine.offers(), **({} if named is None else {"gpus": len(named)}), **settings.resources}
    try:
        gpus = devices.shared_out(resources.get("gpus", 0), named)
    except ValueError as e:
        machine.close()
        raise ConfigError(str(e)) from None
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
    limits = settings.limits
    contained = settings.isolation == "contained"
    hidden: list[str] = []
    if contained:
        sockets = [Path(settings.connection.local.removeprefix("ipc://"))] if settings.connection.local else []
        needed = [*sys.path, os.getcwd(), sys.prefix, sys.executable]
        hidden = isolation.hidden_paths([*settings.secrets, *sockets], [home_dir(), directory], needed)
    pool = WorkerPool(
        str(scratch),
        settings.name,
        env={
            "GANGER_NODE": settings.name,
            "GANGER_AGENT": str(os.getpid()),
            **(VISIBLE_DEVICES if gpus else {}),  # a job that claims none sees none
        },
        preload=settings.preload,
        init=settings.init,
        fork=settings.start == "fork",
        passed=settings.env,
        max_jobs=limits.max_jobs_per_worker,
        max_age_s=limits.max_worker_age_s,
        max_left_bytes=limits.max_left_bytes,
        adopts=True,
        contained=isolation.usual_limits() if contained else None,
        hidden=hidden,
    )
    labels = settings.labels
    proved: list[Fact] = []
    if contained:
        proof = isolation.prove(pool, hidden, str(scratch))
        if proof.open_ways:
            pool.close()
            raise ConfigError(f"this machine cannot contain jobs. {proof.words()}")
        proved = [proof.fact()]
        labels = {**labels, isolation.LABEL: "contained"}
    mailbox = Mailbox()
    log = FactLog("node")
    log(proved)
    measured = settings.metrics.port is not None
    meter = Meter(NODE, own_version(), settings.name)
    meter.look("transport", partial(transport, dial))
    me = Self(
        session=secrets.token_bytes(8),
        name=settings.name,
        incarnation=life.incarnation,
        previous=life.previous,
        lock=life.lock,
        host=_host(address),
        pid=os.getpid(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        version=own_version(),
        slots=settings.slots,
        labels=labels,
        queues=settings.queues,
        resources=resources,
        gpus=gpus,
    )
    ready_fd = settings.ready_fd
    welcomed = False

    def facts(facts: list[Fact]) -> None:
        nonlocal welcomed
        log(facts)
        if measured:
            meter(facts)
        if not welcomed and any(f.kind == "registered" for f in facts):
            welcomed = True
            life.welcomed(me.session)
            if ready_fd is not None:
                served = {} if server is None else {"metrics": server.address}
                os.write(ready_fd, json.dumps({"pid": me.pid, "name": me.name, **served}).encode() + b"\n")
                os.close(ready_fd)

    server = None
    try:
        sources: list[Source] = [_Polled(pool), dial, blobs, mailbox, Vitals(machine)]
        if settings.lifeline_fd is not None:
            sources.append(Lifeline(settings.lifeline_fd))
        told_before = False

        def told(number: int, _: object) -> None:
            nonlocal told_before
            within_s = settings.drain_s if number == signal.SIGTERM and not told_before else 0.0
            told_before = True
            mailbox.put(LeaveWished(f"told to stop by {signal.Signals(number).name}", within_s))

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, told)
        performers: dict[type, Any] = dict.fromkeys(
            (SpawnWorker, Give, Recall, KillWorker, InterruptWorker, Look), pool.perform
        )
        performers |= dict.fromkeys((KeepBlob, WriteChunk, ReadChunk, DropBlob), blobs.perform)
        performers[Send] = dial.send
        host = Host(Agent(me, limits), sources, performers, facts, own_gc=True, meter=meter if measured else None)
        server = serve(settings.metrics, Health(lambda: host.turned_at, lambda: meter.ready, meter.text))
        stop = host.run()
    finally:
        if server is not None:
            server.close()
        machine.close()
        pool.close()
        dial.close(FAREWELL_MS)
        context.term()
        blobs.close()
        shutil.rmtree(scratch, ignore_errors=True)
        life.close()
    if stop.error:
        raise Refused(stop.reason)
    return stop


def _host(address: str) -> str:
    """This host for people: its name, and the address by which it reaches a coordinator on another one."""
    name = socket.gethostname()
    if not address.startswith("tcp://"):
        return name
    there, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        family, kind, _, _, target = socket.getaddrinfo(there.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # nothing is sent
            here = str(probe.getsockname()[0])
    except OSError:
        return name
    return name if ip_address(here).is_loopback else f"{name} ({here})"


class _Polled:
    """The pool as a source: one descriptor stands for all its workers."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def pollables(self) -> list[int]:
        return [self._pool.fileno()]

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        return self._pool.drain(limit)
