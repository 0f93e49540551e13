"""Numbered, acknowledged links between a peer and the coordinator. Rules of this file: pure; both ends use it.

TCP under a ZeroMQ socket may lose the middle of a stream and go on. So a *session* (a peer's life) consists of
*links*. Each link is opened by the peer's hello, which carries a rising link number, and each side numbers its
messages on it from 1 and acknowledges what it took, cumulatively, in every header.

- A message of another link is stale and dropped. One already taken is a duplicate and dropped.
- A gap ends the link: the peer says hello again (the coordinator asks for that with ``Resync``), and what was
  not acknowledged is put right from state, not from a buffer of old messages.
- Only the peer sends pulses unasked; the coordinator answers them. A pulse alone owes no acknowledgement.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from cluster.actor import Header, Send
from cluster.config import (
    ACK_DELAY_S,
    ACK_EVERY,
    HASTY_LINKS,
    HELLO_RETRY_MAX_S,
    HELLO_RETRY_S,
    LEASE_MARGIN,
    LINK_HOLDS_S,
    LINK_PAUSE_S,
    SILENCE_WORD_S,
    Times,
)
from cluster.messages import Heartbeat, Message, Pulse, Refusal, Resync, Welcome


class Verdict(Enum):
    NEXT = "next"
    DUPLICATE = "duplicate"
    STALE = "stale"
    GAP = "gap"


@dataclass(slots=True)
class Link:
    number: int = 0
    sent: int = 0
    """Number of our last message."""
    heard: int = 0
    """Number of their last message taken."""
    acked: int = 0
    """What they have acknowledged of ours."""
    owed: int = 0
    """Messages taken and not yet acknowledged."""
    owed_since: float = 0.0

    def header(self) -> Header:
        """Number one more message of ours; it acknowledges all that was taken."""
        self.sent += 1
        self.owed = 0
        return Header(self.number, self.sent, self.heard)

    def take(self, header: Header, message: Message, now: float) -> Verdict:
        if header.link != self.number:
            return Verdict.STALE
        if header.seq <= self.heard:
            return Verdict.DUPLICATE
        if header.seq > self.heard + 1:
            return Verdict.GAP
        self.heard = header.seq
        self.acked = max(self.acked, min(header.ack, self.sent))
        if type(message) is not Pulse:
            if not self.owed:
                self.owed_since = now
            self.owed += 1
        return Verdict.NEXT

    def ack_due(self) -> float | None:
        """When an acknowledgement must go out by itself; None when nothing is owed."""
        if not self.owed:
            return None
        return self.owed_since if self.owed >= ACK_EVERY else self.owed_since + ACK_DELAY_S


class Dialer:
    """The peer's end: opens links and keeps one open. Owned by an actor, which gives it the clock.

    ``hello`` makes the greeting when one is needed, from the actor's state at that moment.
    """

    def __init__(self, hello: Callable[[], Message]) -> None:
        self._hello = hello
        self.link = Link()
        self.up = False
        self.refusal: Refusal | None = None
        self.epoch = 0
        self.times = Times()
        self.heard_at: float | None = None
        """When the coordinator last said anything; the dialler's birth before that."""
        self.leased_from = -math.inf
        """When we sent the last sign of life that we know the coordinator has had: its silence towards us is counted
        from then or later."""
        self._signs: deque[tuple[int, float]] = deque()
        """Signs of life on this link that are not acknowledged yet: number and moment."""
        self._connected = False
        self._asked_at: float | None = None
        """When we first said something that they have not answered by anything."""
        self._retry_at: float | None = None
        self._retry_s = HELLO_RETRY_S
        self._greeted_at = float("-inf")
        self._stood_at: float | None = None
        """Since when the link stands."""
        self._hasty = 0
        """Links in a row that broke as soon as they stood."""
        self._spoke_at = 0.0
        self._silent_since: float | None = None
        """Beginning of a silence that people were told of."""
        self._back_after_s: float | None = None

    # -- what the actor passes on -------------------------------------------------------------------

    def born(self, now: float) -> None:
        """The first turn: silence counts from here."""
        if self.heard_at is None:
            self.heard_at = now

    def connected(self, now: float) -> list[Send]:
        self._connected = True
        self._retry_s = HELLO_RETRY_S
        return self.greet(now)

    def disconnected(self) -> None:
        if self._stood_at is not None:  # the network did that; and the transport takes its time to dial again
            self._hasty = max(0, self._hasty - 1)
        self._connected = False
        self.up = False
        self._retry_at = None

    def stalled(self, seconds: float) -> None:
        """This process did not run: the other side's silence in that time proves nothing."""
        if self.heard_at is not None:
            self.heard_at += seconds
        if self._asked_at is not None:
            self._asked_at += seconds
        if self._silent_since is not None:
            self._silent_since += seconds

    def receive(self, header: Header, message: Message, now: float) -> tuple[Message | None, list[Send]]:
        """The message if it is next in order (``Welcome`` and ``Refusal`` included), and what to send for it."""
        if header.link != self.link.number:
            return None, []
        if isinstance(message, Refusal):
            self.refusal = message
            self.up = False
            self._retry_at = None
            return message, []
        if isinstance(message, Resync):
            self.heard_at = now
            return None, self.greet(now)
        if not self.up and not isinstance(message, Welcome):
            return None, []
        verdict = self.link.take(header, message, now)
        if verdict is Verdict.GAP:
            return None, self.greet(now)
        if verdict is not Verdict.NEXT:
            return None, []
        self.heard_at = now
        self._asked_at = None
        while self._signs and self._signs[0][0] <= self.link.acked:
            self.leased_from = self._signs.popleft()[1]
        if isinstance(message, Welcome):
            self.leased_from = self._greeted_at
            self.up = True
            self._stood_at = now
            self._retry_at = None
            self._retry_s = HELLO_RETRY_S
            self.epoch = message.epoch
            self.times = Times(heartbeat_s=message.heartbeat_s, lease_s=message.lease_s)
        if self._silent_since is not None:
            self._back_after_s = now - self._silent_since
            self._silent_since = None
        return message, []

    # -- what the actor asks ------------------------------------------------------------------------

    def greet(self, now: float) -> list[Send]:
        """Open a new link, unless there is no connection to open it on."""
        self.born(now)
        self.up = False
        self._asked_at = None
        if not self._connected or self.refusal is not None:
            return []
        if self._stood_at is not None and now - self._stood_at >= LINK_HOLDS_S:
            self._hasty = 0
        self._stood_at = None
        excess = self._hasty - HASTY_LINKS
        pause_s = min(LINK_PAUSE_S * 2.0 ** min(excess, 16), HELLO_RETRY_MAX_S) if excess >= 0 else 0.0
        if now < self._greeted_at + pause_s:
            self._retry_at = self._greeted_at + pause_s
            return []
        self._hasty += 1
        self._greeted_at = now
        self.link = Link(self.link.number + 1)
        self._signs.clear()
        self._retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, HELLO_RETRY_MAX_S)
        return [Send(b"", Header(self.link.number, 0, 0), self._hello())]

    def send(self, message: Message, now: float) -> Send:
        """Number and address one message; only while ``up``."""
        assert self.up, "a message before the link stands"
        self._spoke_at = now
        if self._asked_at is None:
            self._asked_at = now
        return Send(b"", self.link.header(), message)

    def due(self, now: float, beat: Callable[[], Heartbeat | Pulse], beat_s: float) -> list[Send]:
        """Acknowledgements, signs of life, hellos again: whatever its time has come."""
        if self._retry_at is not None and now >= self._retry_at:
            return self.greet(now)
        if not self.up or self.heard_at is None:
            return []
        if now >= self._patient_till():
            return self.greet(now)
        ack = self.link.ack_due()
        if now >= self._spoke_at + beat_s:
            out = self.send(beat(), now)
            self._signs.append((self.link.sent, now))
            return [out]
        if ack is not None and now >= ack:
            return [Send(b"", self.link.header(), Pulse())]
        return []

    def deadline(self, beat_s: float) -> float | None:
        if self._retry_at is not None:
            return self._retry_at
        if not self.up or self.heard_at is None:
            return None
        times = [self._spoke_at + beat_s, self._patient_till()]
        ack = self.link.ack_due()
        return min(times) if ack is None else min(ack, *times)

    def _patient_till(self) -> float:
        """When three beats without any answer have shown that the link is dead."""
        return math.inf if self._asked_at is None else self._asked_at + 2.5 * self.times.heartbeat_s

    @property
    def leased_until(self) -> float:
        """Until then the coordinator does not give us up: it cannot have been without a word of ours for so long."""
        return self.leased_from + (1 - LEASE_MARGIN) * self.times.lease_s

    def unheard_s(self, now: float) -> float:
        """How long the coordinator has been silent, or unreachable."""
        return 0.0 if self.heard_at is None else now - self.heard_at

    # -- what people are told of it -----------------------------------------------------------------

    def word_due(self, waited_from: float = -math.inf) -> float | None:
        """When people should be told of the silence, if it lasts; ``waited_from``: nobody waited for a word before."""
        if self._silent_since is not None or self.heard_at is None:
            return None
        return max(self.heard_at, waited_from) + max(SILENCE_WORD_S, 2 * self.times.heartbeat_s)

    def silence(self, now: float, waited_from: float = -math.inf) -> float | None:
        """Seconds of a silence that people should be told of now; each once."""
        due = self.word_due(waited_from)
        if due is None or now < due:
            return None
        self._silent_since = self.heard_at
        return self.unheard_s(now)

    def silence_ended(self) -> float | None:
        """Length of a silence that people were told of and that is over; each once."""
        seconds, self._back_after_s = self._back_after_s, None
        return seconds

    @property
    def has_connection(self) -> bool:
        """Whether the transport says so; silence on it is another matter."""
        return self._connected
