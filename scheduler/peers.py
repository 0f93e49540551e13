"""A session at the coordinator's end. Rules of this file: what clients and nodes have in common; pure.

A *peer* is (key, session id), bound at hello to the transport's route and checked on every message.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.actor import Header, Identity, Send
from cluster.blobs import Incoming, Outgoing
from cluster.config import MAX_BLOB_BYTES
from cluster.messages import Message
from cluster.session import Link


@dataclass(slots=True, eq=False)
class Peer:
    session: bytes
    identity: Identity
    route: bytes
    link: Link
    heard_at: float
    reachable: bool = True
    """False once the transport knows no such connection; the next hello brings a new one."""
    closed_at: float = 0.0
    """When ``reachable`` became false."""
    suspect: bool = False
    resync_asked: int = 0
    """Link for which a new hello has been asked."""
    resync_at: float = 0.0
    """When that was."""
    pulse_owed: bool = False
    """It showed itself and shall hear something back."""
    unacked_since: float | None = None
    """Since when some message of ours waits for its acknowledgement."""
    acked: int = 0
    """What it had acknowledged when that was last looked at."""
    incoming: Incoming = field(default_factory=lambda: Incoming(MAX_BLOB_BYTES))
    outgoing: Outgoing = field(default_factory=Outgoing)
    uploaded: set[bytes] = field(default_factory=set)
    """Blobs it has handed over and not yet named in a submission or a result."""

    @property
    def called(self) -> str:
        """In the words of facts."""
        return f"session {self.session.hex()}"

    def stamp(self, message: Message, now: float) -> Send:
        """Number and address one message."""
        if self.unacked_since is None:
            self.unacked_since = now
        self.pulse_owed = False
        return Send(self.route, self.link.header(), message)

    def plain(self, message: Message) -> Send:
        """Address a message outside the numbering."""
        return Send(self.route, Header(self.link.number, 0, 0), message)

    def acknowledged(self, now: float) -> None:
        """The peer's word on our messages may have risen."""
        if self.link.acked == self.link.sent:
            self.unacked_since = None
        elif self.link.acked > self.acked:
            self.unacked_since = now
        self.acked = self.link.acked

    def rebind(self, route: bytes, number: int, now: float) -> None:
        """A new link of the same session."""
        self.route = route
        self.link = Link(number)
        self.heard_at = now
        self.reachable = True
        self.suspect = False
        self.pulse_owed = False
        self.unacked_since = None
        self.acked = 0
        self.outgoing.restart()
