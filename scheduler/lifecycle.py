"""The life of a job: states and the one table of transitions. Rules of this file: it alone assigns ``job.state``.

Each state names who moves a job out of it. A pair that is not in the table is a bug: it stops the coordinator
with what it knew of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from cluster.ids import format_job
from cluster.jobs import NOTHING_SPECIAL, About, Outcome


class State(Enum):
    __hash__ = object.__hash__  # members are singletons; Enum's own hash is slow

    ADRIFT = "adrift"
    """Unfinished when an earlier coordinator ended, so that a node may hold it: that node's word moves it on, or the
    end of what leases there were."""
    SCHEDULED = "scheduled"
    """Waits for a moment, or for other jobs to end: these move it on, or a cancel, or the end of its time to begin."""
    READY = "ready"
    """Waits for a node; placement moves it on, or a cancel, or the end of its time to begin."""
    LEASED = "leased"
    """Sent to a node; its agent moves it on, the lease's end if the agent is silent."""
    RUNNING = "running"
    """Known to run user code; its agent moves it on, the lease's end if the agent is silent."""
    FINISHED = "finished"
    """Has its outcome. Nobody moves it any more."""


class Cause(Enum):
    __hash__ = object.__hash__

    PLACED = "placed"
    STARTED = "started"
    RETURNED = "returned by its node, not started"
    NODE_LOST = "its node was lost"
    RESULT = "its result came"
    CANCELLED = "cancelled"
    CRASHED = "its worker died under it"
    GIVEN_UP = "it may not run again"
    ADOPTED = "the node that holds it has told"
    LEFT_OVER = "no node holds it"
    PUT_OFF = "no node holds it, and its time has not come"
    DUE = "what it waited for has come"
    RETRY = "it shall run again after a pause"
    EXPIRED = "its time to begin is over"
    PARENT_FAILED = "a job it waits for did not succeed"


class Wish(IntEnum):
    """Whether somebody wants the job cancelled."""

    NONE = 0
    UNSTARTED = 1
    """If it has not started; else that is told, and the wish is over."""
    ENDED = 2
    """...and what runs of it is ended."""


TRANSITIONS: dict[tuple[State, Cause], State] = {
    (State.ADRIFT, Cause.ADOPTED): State.LEASED,
    (State.ADRIFT, Cause.LEFT_OVER): State.READY,
    (State.ADRIFT, Cause.GIVEN_UP): State.FINISHED,
    (State.ADRIFT, Cause.PUT_OFF): State.SCHEDULED,
    (State.SCHEDULED, Cause.DUE): State.READY,
    (State.SCHEDULED, Cause.CANCELLED): State.FINISHED,
    (State.SCHEDULED, Cause.EXPIRED): State.FINISHED,
    (State.SCHEDULED, Cause.PARENT_FAILED): State.FINISHED,
    (State.READY, Cause.PLACED): State.LEASED,
    (State.READY, Cause.EXPIRED): State.FINISHED,
    (State.READY, Cause.CANCELLED): State.FINISHED,
    (State.LEASED, Cause.STARTED): State.RUNNING,
    (State.LEASED, Cause.RETURNED): State.READY,
    (State.LEASED, Cause.NODE_LOST): State.READY,
    (State.LEASED, Cause.CRASHED): State.READY,
    (State.LEASED, Cause.RETRY): State.SCHEDULED,
    (State.LEASED, Cause.RESULT): State.FINISHED,
    (State.LEASED, Cause.GIVEN_UP): State.FINISHED,
    (State.LEASED, Cause.ADOPTED): State.LEASED,
    (State.RUNNING, Cause.ADOPTED): State.LEASED,
    (State.RUNNING, Cause.RETRY): State.SCHEDULED,
    (State.RUNNING, Cause.RESULT): State.FINISHED,
    (State.RUNNING, Cause.NODE_LOST): State.READY,
    (State.RUNNING, Cause.CRASHED): State.READY,
    (State.RUNNING, Cause.GIVEN_UP): State.FINISHED,
}


class IllegalTransition(AssertionError):
    """A bug of the coordinator; the text has the job's story so far."""


@dataclass(slots=True, eq=False)
class Job:
    """One accepted job, as long as it is unfinished. ``client`` and ``record`` are the books' own entries."""

    id: bytes
    counter: int
    client: Any
    record: Any
    """The function it calls with its options (``functions.Record``)."""
    payload: bytes
    large: tuple[bytes, int] | None
    rank: int
    """Order of acceptance; a job queued again keeps it."""
    state: State = State.READY
    attempt: int = 0
    token: int = 0
    """Of the current attempt; 0 while there is none."""
    node: Any = None
    size: int = 0
    """Bytes of its inline payload, wherever that is."""
    absent: bool = False
    """Its payload is in the store alone."""
    at: float = 0.0
    """When it was accepted, in seconds since the epoch,"""
    since: float = 0.0
    """...and since when it has waited for a node."""
    due: float = 0.0
    """Moment before which it must not run; 0 for none."""
    expires: float = 0.0
    """Moment by which it must have begun; 0 for none."""
    summary: str = ""
    about: About = NOTHING_SPECIAL
    lost_nodes: int = 0
    crashes: int = 0
    memory_kills: int = 0
    retries: int = 0
    """Attempts that ended because the function raised,"""
    snoozes: int = 0
    """...or asked for a pause, which costs nothing."""
    saved: bytes = b""
    """What its last attempt has saved for the next one."""
    story: Sequence[Any] = ()
    """Its attempts that are over (``retries.Tried``)."""
    cancel_wished: Wish = Wish.NONE
    retracting: bool = False
    last: Cause | None = None
    outcome: Outcome | None = None
    watchers: list[tuple[bytes, int]] | None = None
    """Other sessions that want its outcome, each with a counter of its own."""

    @property
    def first_due(self) -> float:
        """Moment before which it must not begin; 0 for none."""
        return max(self.about.at, self.at + self.about.delay_s if self.about.delay_s else 0.0)

    @property
    def once(self) -> bool:
        """Whether it must not start twice."""
        return bool(self.record.once)


def move(job: Job, cause: Cause) -> None:
    """Take the job to the state the table says; :class:`IllegalTransition` if it says nothing."""
    to = TRANSITIONS.get((job.state, cause))
    if to is None:
        raise IllegalTransition(
            f"job {format_job(job.id)} cannot be moved by {cause.name!r} while {job.state.value}: "
            f"attempt {job.attempt}, token {job.token}, node {getattr(job.node, 'name', None)}, "
            f"last moved by {job.last.name if job.last else None}"
        )
    job.state = to
    job.last = cause
