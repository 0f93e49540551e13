"""What passes between the agent and its shell. Rules of this file: types only.

Blobs have events and effects of their own, shared by all three actors: see ``cluster/blobs.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.jobs import Spec


class Run(NamedTuple):
    """One attempt, ready for a worker: all its blobs are in the agent's directory."""

    token: int
    job: bytes
    attempt: int
    spec: Spec
    payload: bytes
    large: tuple[bytes, int] | None
    """SHA-256 and size where the payload is a blob; ``payload`` is empty then."""
    start_by: float = 0.0
    """Monotonic moment after which the worker must not start it any more (at most once); 0 for none."""
    about: bytes = b""
    """What the job may know of itself; opaque here."""
    gpus: tuple[str, ...] = ()
    """Ids of the graphics processors it has been given; its worker has run nothing before."""


class Done(NamedTuple):
    """What a worker said of one attempt."""

    token: int
    end: int
    """``jobs.End``."""
    payload: bytes
    """Pickled result, or an encoded ``Failure``; empty where it is a blob."""
    large: tuple[bytes, int] | None
    """SHA-256 and size of a blob the worker has put into the agent's directory."""
    run_us: int
    cpu_us: int = 0
    """With that of processes it has started."""
    peak_kib: int = 0
    """Largest memory of its worker while it ran; 0, as the other, where it was too short to be measured."""


# ------------------------------------------------------------------------------------ effects


@dataclass(slots=True)
class SpawnWorker:
    """Start a process for this slot. Answered by ``WorkerUp`` or, if that fails, ``WorkerGone``."""

    slot: int


@dataclass(slots=True)
class Give:
    """Put these into the worker's pipe, in order."""

    slot: int
    runs: list[Run]


@dataclass(slots=True)
class Recall:
    """Take back what the worker has not read. Answered by ``Recalled``, possibly empty."""

    slot: int


@dataclass(slots=True)
class KillWorker:
    """SIGKILL to the worker, and to whatever it leaves. Answered by ``WorkerGone``."""

    slot: int


@dataclass(slots=True)
class InterruptWorker:
    """If this attempt runs user code now, make it raise. Not answered: it ends, or the agent says it again."""

    slot: int
    token: int
    timeout_s: float
    """The time it has used up; 0: it is cancelled."""
    dump: bool = False
    """Have its stack written down before."""


@dataclass(slots=True)
class Look:
    """See what the processes of this attempt use, since no group of theirs sees to it. Answered by ``Seen``."""

    slot: int
    token: int


# ------------------------------------------------------------------------------------ events


@dataclass(slots=True)
class WorkerUp:
    """The worker has said that it is ready for work."""

    slot: int
    pid: int
    init_us: int = field(default=0, compare=False)
    """From its start to this word."""


@dataclass(slots=True)
class WorkerDone:
    slot: int
    pid: int
    rows: list[Done]
    leaving: str = ""
    """Why the worker reads nothing more after these and is replaced; empty: it does not."""


@dataclass(slots=True)
class StateSaved:
    """The attempt that the worker runs has saved a state for the next one."""

    slot: int
    token: int
    state: bytes


@dataclass(slots=True)
class Seen:
    slot: int
    token: int
    memory_bytes: int
    processes: int
    """With threads."""


@dataclass(slots=True)
class Recalled:
    slot: int
    tokens: list[int]


@dataclass(slots=True)
class WorkerGone:
    """The worker process is dead, its results have all been read before."""

    slot: int
    pid: int
    """0 if it never was one."""
    cause: str
    """For people: ``signal 11 (SIGSEGV)``, ``exit code 3``, ``could not be started: ...``."""
    suspect: int | None
    """Token of the attempt that it had read and not answered."""
    noted: bool
    """Whether the suspect's user code had begun, by the shared page."""
    unread: list[int]
    """Tokens given to it that it never read."""
    out_of_memory: bool = False
    """Whether the kernel killed it to get memory."""
    replaced: bool = False
    """Whether it left by itself, as ``cause`` says."""
    cpu_us: int = field(default=0, compare=False)
    """Of its whole life,"""
    peak_kib: int = field(default=0, compare=False)
    """...as this is."""
    stack: str = field(default="", compare=False)
    """Of the running attempt, as it was when that was asked for."""
