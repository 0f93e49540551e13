"""What passes between the agent and its shell. Rules of this file: types only.

Blobs have events and effects of their own, shared by all three actors: see ``cluster/blobs.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """SIGKILL to the worker's process group. Answered by ``WorkerGone``."""

    slot: int


# ------------------------------------------------------------------------------------ events


@dataclass(slots=True)
class WorkerUp:
    """The worker has said that it is ready for work."""

    slot: int
    pid: int


@dataclass(slots=True)
class WorkerDone:
    slot: int
    pid: int
    rows: list[Done]


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
