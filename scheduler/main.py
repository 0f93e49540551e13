"""Runs the coordinator. Rules of this file: wiring only; every decision is the actor's."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from cluster.actor import Send, Stop
from cluster.blob_files import BlobFiles
from cluster.blobs import DropBlob, KeepBlob, ReadChunk, WriteChunk
from cluster.config import CoordinatorLimits, Times
from cluster.errors import ConfigError
from cluster.host import Host, Lifeline, Mailbox, Source, raise_file_limit
from cluster.keys import Home, is_address, remove_runtime_dir, runtime_dir
from cluster.logs import FactLog
from cluster.packages import own_version
from cluster.transport import Doors
from scheduler.coordinator import Coordinator

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
    ready_fd: int | None = None
    lifeline_fd: int | None = None
    orphan_removes: bool = False
    """Remove the directory if the parent is gone: for clusters that live no longer than a program."""


class _Refusals:
    """A source without descriptors: what the doors refused becomes facts once a turn."""

    def __init__(self, doors: Doors, log: FactLog) -> None:
        self._doors, self._log = doors, log

    def pollables(self) -> list[Any]:
        return []

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        facts = self._doors.take_facts()
        if facts:
            self._log(facts)
        return [], True


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
    """Run a coordinator in this process until it is told to stop, or its parent is gone."""
    advertised(settings, settings.host, settings.port or 1)  # before anything is made
    raise_file_limit()
    home = Home(settings.directory)
    context = zmq.Context()
    doors = Doors(context, home.server_secret, home.identity_of)
    sockets = runtime_dir(home.directory)
    blobs = BlobFiles(home.directory / "blobs", clear=True)
    mailbox = Mailbox()
    lifeline = None if settings.lifeline_fd is None else Lifeline(settings.lifeline_fd)
    log = FactLog("coordinator")
    try:
        host, port = doors.bind_tcp(settings.host, settings.port)
        ipc = sockets / "coordinator"
        ipc.unlink(missing_ok=True)
        doors.bind_ipc(ipc)
        home.write_connection_files([advertised(settings, host, port)], f"ipc://{ipc}")
        actor = Coordinator(
            home.epoch, home.cluster_id, own_version(), random.Random(), settings.times, settings.limits
        )
        sources: list[Source] = [doors, _Refusals(doors, log), blobs, mailbox]
        if lifeline is not None:
            sources.append(lifeline)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: mailbox.put(Stop(f"told to stop by {signal.Signals(n).name}")))
        tell_ready(settings.ready_fd, {"pid": os.getpid(), "host": host, "port": port, "ipc": str(ipc)})
        performers: dict[type, Any] = dict.fromkeys((KeepBlob, WriteChunk, ReadChunk, DropBlob), blobs.perform)
        performers[Send] = doors.send
        return Host(actor, sources, performers, log, own_gc=True).run()
    finally:
        doors.close(FAREWELL_MS)
        context.term()
        blobs.close()
        remove_runtime_dir(sockets)
        home.close()
        if settings.orphan_removes and lifeline is not None and lifeline.broken:
            shutil.rmtree(home.directory, ignore_errors=True)


def tell_ready(fd: int | None, about: dict[str, Any]) -> None:
    """One line of JSON to whoever started us, and no more."""
    if fd is not None:
        os.write(fd, json.dumps(about).encode() + b"\n")
        os.close(fd)
