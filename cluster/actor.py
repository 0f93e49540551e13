"""The contract every actor keeps. Rules of this file: types only, no behaviour.

An actor is pure and synchronous. The host hands it a batch of events (past tense: what happened) and the
time; it answers with a :class:`Turn`: effects (imperative: what the host shall do), facts (what happened, for
logs and metrics) and rows to store. It has no clock, chance, socket, file, thread or log of its own, so the
same actor runs under the real host and under the simulator.

Time is ``Now``: ``mono`` seconds of a clock that never jumps, for leases, timeouts and heartbeats; ``wall``
seconds since the Unix epoch, for schedules and for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from cluster.facts import Fact
from cluster.messages import Message


class Now(NamedTuple):
    mono: float
    wall: float


class Header(NamedTuple):
    """Numbers a message inside its session (see ``session.py``)."""

    link: int
    seq: int
    ack: int


class Identity(NamedTuple):
    """Who the transport has proved a peer to be, from its key or from the file system's guard."""

    key: str
    """z85 public key; ``"local"`` on the owner's own socket."""
    role: str
    """``client``, ``node``, or ``owner``, who may be both."""
    owner: str
    namespace: str


LOCAL = Identity("local", "owner", "local", "default")


@dataclass(slots=True)
class Turn:
    """What an actor wants done. Effects and facts are in the order they arose."""

    writes: list[Any] = field(default_factory=list)
    """Rows to commit in one transaction before ``after_commit`` is released."""
    at_once: list[Any] = field(default_factory=list)
    after_commit: list[Any] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)


class Actor(Protocol):
    def turn(self, events: Sequence[Any], now: Now) -> Turn: ...

    def deadline(self) -> float | None:
        """Monotonic moment at which the actor wants a turn even if nothing happens; None for never."""
        ...


# ------------------------------------------------------------------ events every host may send


@dataclass(slots=True)
class Received:
    """A message came in. ``route`` is the transport's name for the connection it came by."""

    route: bytes
    identity: Identity
    header: Header
    message: Message


@dataclass(slots=True)
class Garbled:
    """Bytes came in that are no message of ours."""

    route: bytes
    identity: Identity
    reason: str


@dataclass(slots=True)
class Unroutable:
    """The transport has no connection of that name (any more)."""

    route: bytes


@dataclass(slots=True)
class Connected:
    """A dialled connection is up and the keys were accepted."""


@dataclass(slots=True)
class Disconnected:
    """A dialled connection is gone; the transport keeps trying."""


@dataclass(slots=True)
class Rejected:
    """The other side refused our key, or is not whom our connection file names."""

    reason: str


@dataclass(slots=True)
class Drained:
    """All sockets were found empty, so silence may now be judged. Last event of its turn."""


@dataclass(slots=True)
class Stalled:
    """The host itself did not run for that long: others' silence in that time proves nothing."""

    seconds: float


@dataclass(slots=True)
class WallClockJumped:
    """The wall clock moved against the monotonic one; positive is forward."""

    seconds: float


# ------------------------------------------------------------------ effects every host performs


@dataclass(slots=True)
class Send:
    """Send one message. A send that cannot be done at once is dropped: sessions repair it."""

    route: bytes
    header: Header
    message: Message


@dataclass(slots=True)
class Stop:
    """The actor is done: leave the loop in order."""

    reason: str
    error: bool = False
