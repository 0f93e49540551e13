"""Runs the coordinator. Rules of this file: wiring only; every decision is the actor's."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from cluster.actor import Send, Stop
from cluster.blob_files import BlobFiles
from cluster.blobs import DropBlob, KeepBlob, ReadChunk, WriteChunk
from cluster.config import CoordinatorLimits, Times
from cluster.errors import ConfigError
from cluster.facts import Fact, fact
from cluster.health import Health, Listen, serve
from cluster.host import Host, Lifeline, Mailbox, Source, raise_file_limit
from cluster.jobs import Spec
from cluster.keys import Home, is_address, remove_runtime_dir, runtime_dir
from cluster.logs import FactLog
from cluster.metrics import COORDINATOR, Meter, files, transport
from cluster.packages import own_version
from cluster.transport import Context, Doors
from scheduler.coordinator import Coordinator
from scheduler.journal import READERS, SpaceMeasured
from scheduler.load_query import LoadPoller, LoadQuery
from scheduler.store import StoreFailed, UnfinishedRow
from scheduler.store.sqlite import SqliteStore

PAGE, PAYLOAD_PAGE = 10_000, 1_000
"""Jobs read at a time, without and with their payloads."""

SPACE_EVERY_S = 0.5
"""A disk that fills at 500 MB/s is noticed before its last 256 MiB are gone."""

REBIRTH_S = 1.0
"""Pause between two lives."""

FAREWELL_MS = 200
"""How long last messages may take to leave at the end."""

EVERYWHERE = ("0.0.0.0", "::", "*", "")
"""Hosts to listen on that mean every interface."""


@dataclass(frozen=True, slots=True)
class Settings:
    directory: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7077
    advertise: str | None = None
    """``HOST`` or ``HOST:PORT`` written into the connection files, where that differs from the bound one."""
    times: Times = field(default_factory=Times)
    limits: CoordinatorLimits = field(default_factory=CoordinatorLimits)
    metrics: Listen = field(default_factory=Listen)
    metrics_functions: tuple[str, ...] = ()
    """Those with series of their own; the first that come up, where none are named."""
    load_query: LoadQuery | None = None
    """What is asked of the user's Prometheus about the nodes."""
    ready_fd: int | None = None
    lifeline_fd: int | None = None
    orphan_removes: bool = False
    """Remove the directory if the parent is gone: for clusters that live no longer than a program."""


class _Refusals:
    """A source without descriptors: what the doors refused becomes facts once a turn."""

    def __init__(self, doors: Doors, tell: Callable[[list[Fact]], None]) -> None:
        self._doors, self._tell = doors, tell

    def pollables(self) -> list[Any]:
        return []

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        facts = self._doors.take_facts()
        if facts:
            self._tell(facts)
        return [], True


class _Space:
    """A source without descriptors: how much is free on a directory's disk, measured now and then."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._measured_at = -math.inf

    def pollables(self) -> list[int]:
        return []

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        now = time.monotonic()
        if now - self._measured_at < SPACE_EVERY_S:
            return [], True
        self._measured_at = now
        found = os.statvfs(self._directory)
        return [SpaceMeasured(found.f_bavail * found.f_frsize)], True


def advertised(settings: Settings, host: str, port: int) -> str:
    """The address others shall dial. Raises ``ConfigError`` if it cannot be told."""
    given = settings.advertise
    if not given and host in EVERYWHERE:
        raise ConfigError(
            f"listening on {host} means every interface, so the address others shall dial cannot be told: "
            "give it with --advertise HOST[:PORT]"
        )
    name, own_port = given or host, str(port)
    if given and not given.endswith("]") and (given.startswith("[") or given.count(":") == 1):
        name, _, own_port = given.rpartition(":")
    address = f"tcp://[{name}]:{own_port}" if ":" in name and not name.startswith("[") else f"tcp://{name}:{own_port}"
    if given and (not is_address(address) or name.strip("[]") in EVERYWHERE):
        raise ConfigError(
            f"--advertise {given} is no address that others can dial; it is HOST, HOST:PORT or [IPV6]:PORT, with a"
            " name or a number of this machine"
        )
    return address


def run(settings: Settings) -> Stop:
    """Run a coordinator in this process until it is told to stop, or its parent is gone.

    Where the store fails, what was not committed has not left either: a new life begins with what the store has.
    """
    advertised(settings, settings.host, settings.port or 1)  # before anything is made
    if settings.load_query is not None:
        settings.load_query.credentials()  # later an error is a line in the log
    raise_file_limit()
    mailbox = Mailbox()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: mailbox.put(Stop(f"told to stop by {signal.Signals(n).name}")))
    lifeline = None if settings.lifeline_fd is None else Lifeline(settings.lifeline_fd)
    life = _Life(settings, mailbox, lifeline)
    # While the loop turns, the store is open and the directory's lock is held: it is ready then.
    server = serve(settings.metrics, Health(life.turned_at, lambda: True, life.meter.text))
    if server is not None:
        life.said["metrics"] = server.address
    poller = None if settings.load_query is None else LoadPoller(settings.load_query, mailbox.put)
    try:
        while True:
            try:
                return life.live()
            except StoreFailed as e:
                life.tell([fact("store_failed", reason=str(e))])
                time.sleep(REBIRTH_S)
    finally:
        if poller is not None:
            poller.close()
        if server is not None:
            server.close()


class _Life:
    """From one opening of the directory to its closing."""

    def __init__(self, settings: Settings, mailbox: Mailbox, lifeline: Lifeline | None) -> None:
        self._settings = settings
        self._mailbox, self._lifeline = mailbox, lifeline
        self._log = FactLog("coordinator")
        self.meter = Meter(COORDINATOR, own_version(), functions=settings.metrics_functions)
        self._measured = settings.metrics.port is not None
        self._host: Host | None = None
        self.said: dict[str, Any] = {}
        """More for whoever waits for us to be ready."""
        self._port = settings.port
        self._ready_fd = settings.ready_fd

    def tell(self, facts: list[Fact]) -> None:
        self._log(facts)
        if self._measured:
            self.meter(facts)

    def turned_at(self) -> float | None:
        host = self._host
        return None if host is None else host.turned_at

    def live(self) -> Stop:
        settings = self._settings
        with ExitStack() as opened:
            home = opened.enter_context(Home(settings.directory))
            if settings.orphan_removes:
                opened.callback(self._remove_if_orphaned, home.directory)
            store = SqliteStore(home.directory)
            opened.callback(store.close)
            recovered = store.recover()
            wanted = {Spec.decode(row.raw).code for row in recovered.specs if row.blob} | recovered.blobs.keys()
            blobs = BlobFiles(home.directory / "blobs", keep=wanted)
            opened.callback(blobs.close)
            # What rows name and the disk has lost is handed in anew by whoever has it, not taken for here.
            here = {sha: row for sha, row in recovered.blobs.items() if blobs.has(sha)}
            context: Context = zmq.Context()
            opened.callback(context.term)
            doors = Doors(context, home.server_secret, home.identity_of)
            opened.callback(doors.close, FAREWELL_MS)
            sockets = runtime_dir(home.directory)
            opened.callback(remove_runtime_dir, sockets)
            host, self._port = doors.bind_tcp(settings.host, self._port)
            ipc = sockets / "coordinator"
            ipc.unlink(missing_ok=True)
            doors.bind_ipc(ipc)
            home.write_connection_files([advertised(settings, host, self._port)], f"ipc://{ipc}")
            actor = Coordinator(
                home.epoch,
                home.cluster_id,
                own_version(),
                random.Random(),
                settings.times,
                settings.limits,
                recovered._replace(blobs=here),
                _pages(store, settings.limits.payload_memory_bytes),
            )
            sources: list[Source] = [doors, _Refusals(doors, self.tell), blobs, self._mailbox, _Space(home.directory)]
            if self._lifeline is not None:
                sources.append(self._lifeline)
            said = {"pid": os.getpid(), "host": host, "port": self._port, "ipc": str(ipc), **self.said}
            tell_ready(self._ready_fd, said)
            self._ready_fd = None
            self.meter.look("transport", partial(transport, doors))
            self.meter.look("store", partial(files, store.path))
            performers: dict[type, Any] = dict.fromkeys((KeepBlob, WriteChunk, ReadChunk, DropBlob), blobs.perform)
            performers[Send] = doors.send
            performers |= {kind: partial(read, store) for kind, read in READERS.items()}
            meter = self.meter if self._measured else None
            self._host = Host(actor, sources, performers, self.tell, store=store, own_gc=True, meter=meter)
            return self._host.run()

    def _remove_if_orphaned(self, directory: Path) -> None:
        if self._lifeline is not None and self._lifeline.broken:
            shutil.rmtree(directory, ignore_errors=True)


def _pages(store: SqliteStore, payload_bytes: int) -> Iterator[UnfinishedRow]:
    """All unfinished jobs; the first ones with their payloads, up to about that many bytes."""
    after, read = 0, 0
    while True:
        payloads = read < payload_bytes
        most = PAYLOAD_PAGE if payloads else PAGE
        page = store.unfinished(after, most, payloads)
        yield from page
        if len(page) < most:
            return
        after = page[-1].rank
        read += sum(row.payload_bytes for row in page)


def tell_ready(fd: int | None, about: dict[str, Any]) -> None:
    """One line of JSON to whoever started us, and no more."""
    if fd is not None:
        os.write(fd, json.dumps(about).encode() + b"\n")
        os.close(fd)
