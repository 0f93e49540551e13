"""The attempts an agent holds. Rules of this file: a pure book with the one table of an attempt's life.

Held from its assignment until the coordinator has acknowledged its result, or has said to discard it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from node.events import Done, Run


class Phase(Enum):
    __hash__ = object.__hash__  # members are singletons; Enum's own hash is slow

    FETCHING = "fetching"
    """Its function or payload is on the way; the arrival of the last blob moves it on."""
    QUEUED = "queued"
    """Waits for a worker; the agent gives it away as soon as one has room."""
    GIVEN = "given"
    """In a worker's pipe or running; the worker's answer or death moves it on, or a recall."""
    OWED = "owed"
    """Finished; the coordinator's acknowledgement ends it."""


class Stop(Enum):
    """Why a held attempt is to end before it does by itself. The first reason stays."""

    __hash__ = object.__hash__

    CANCEL = "cancelled"
    TIMEOUT = "timed out"
    MEMORY = "above its memory"
    PROCESSES = "above its processes"


class Step(Enum):
    __hash__ = object.__hash__

    ARRIVED = "its blobs are here"
    GIVEN = "given to a worker"
    RECALLED = "taken back unread"
    ENDED = "has its outcome"


TABLE: dict[tuple[Phase, Step], Phase] = {
    (Phase.FETCHING, Step.ARRIVED): Phase.QUEUED,
    (Phase.FETCHING, Step.ENDED): Phase.OWED,
    (Phase.QUEUED, Step.GIVEN): Phase.GIVEN,
    (Phase.QUEUED, Step.ENDED): Phase.OWED,
    (Phase.GIVEN, Step.RECALLED): Phase.QUEUED,
    (Phase.GIVEN, Step.ENDED): Phase.OWED,
}


class IllegalStep(AssertionError):
    """A bug of the agent; the text has the attempt's story so far."""


@dataclass(slots=True, eq=False)
class Watch:
    """What few attempts need: those with limits, or with a state, or that are to end before they do by themselves."""

    stop: Stop | None = None
    """Why it shall end,"""
    grace_s: float = 0.0
    """...and in which time."""
    again_at: float = 0.0
    """When it is interrupted next; 0 before the first time,"""
    kill_at: float = 0.0
    """...and when it is killed."""
    seen_at: float = 0.0
    """When its processes were looked at last,"""
    seen_bytes: int = 0
    """...and the most memory that was seen then."""
    state: bytes | None = None
    """What it has saved last,"""
    state_told: bool = True
    """...and whether the coordinator has been told on this link."""


UNWATCHED = Watch()
"""Of all that have none of their own; only read."""


@dataclass(slots=True, eq=False)
class Attempt:
    run: Run
    expected_s: float
    """Observed run time of the function; 0 where unknown."""
    arrived: float = 0.0
    link: int = 0
    """On which it was assigned."""
    phase: Phase = Phase.QUEUED
    missing: int = 0
    """Blobs still to come."""
    slot: int = -1
    told_started: bool = False
    discarded: bool = False
    """The coordinator does not want it any more; what its worker says is dropped."""
    retract_asked: bool = False
    done: Done | None = None
    pid: int = 0
    waited_us: int = 0
    """At this node before it ran, if that is worth a record."""
    init_us: int = 0
    """What its worker took to start, if it was the first there."""
    watch: Watch = UNWATCHED
    last: Step | None = None

    @property
    def own_watch(self) -> Watch:
        """To be written to."""
        if self.watch is UNWATCHED:
            self.watch = Watch()
        return self.watch

    def needs(self, sha: bytes) -> bool:
        """Whether its result is this blob, and still wanted."""
        done = self.done
        return done is not None and done.large is not None and done.large[0] == sha and not self.discarded

    def step(self, step: Step) -> None:
        to = TABLE.get((self.phase, step))
        if to is None:
            raise IllegalStep(
                f"attempt {self.run.token} cannot take {step.name} while {self.phase.value} "
                f"(slot {self.slot}, last {self.last.name if self.last else None})"
            )
        self.phase = to
        self.last = step


class Attempts:
    """All that is held, by token, and the queue of those that wait for a worker."""

    def __init__(self) -> None:
        self._held: dict[int, Attempt] = {}
        self.queue: deque[Attempt] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._held.values())

    def get(self, token: int) -> Attempt | None:
        return self._held.get(token)

    def add(self, attempt: Attempt) -> None:
        self._held[attempt.run.token] = attempt

    def remove(self, token: int) -> Attempt | None:
        return self._held.pop(token, None)

    def requeue(self, attempts: list[Attempt]) -> None:
        """Put these before all others, in order."""
        for attempt in attempts:
            attempt.step(Step.RECALLED)
            attempt.slot = -1
        self.queue.extendleft(reversed(attempts))
