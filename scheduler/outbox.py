"""What leaves in a turn, and for whom. Rules of this file: pure; it knows peers and their links, and no job.

Effects and facts go out in the order in which they arose. Whoever had to do with a turn is looked after once, at its
end: results, acceptance, acknowledgement. What may ride on a later message waits a moment for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cluster.actor import Header, Now, Received, Send, Turn
from cluster.config import ACCEPT_DELAY_S
from cluster.facts import fact
from cluster.messages import Accepted, Message, Pulse
from scheduler.clients import Client
from scheduler.exchange import Exchange
from scheduler.peers import Peer

ACCEPT_EVERY = 1_000
"""The word of acceptance waits for results that carry it (``ACCEPT_DELAY_S``), and for no more than so many jobs."""


class Outbox:
    """``results_in_flight``: messages of results that a client may leave unacknowledged."""

    def __init__(self, exchange: Exchange, results_in_flight: int) -> None:
        self._exchange = exchange
        self._results_in_flight = results_in_flight
        self.turn = Turn()
        self.now = Now(0.0, 0.0)
        """Of this turn."""
        self.active: dict[int, Peer] = {}
        """Peers to look after at the end of this turn, by their identity."""

    def begin(self, now: Now) -> Turn:
        """A new turn, which fills as it goes on."""
        self.turn, self.now = Turn(), now
        return self.turn

    def do(self, effect: Any) -> None:
        """Have the host carry it out, when what the turn writes is kept."""
        self.turn.after_commit.append(effect)

    def fact(self, kind: str, n: int = 1, **about: Any) -> None:
        self.turn.facts.append(fact(kind, n, **about))

    def send(self, peer: Peer, message: Message) -> None:
        """To a peer whose link stands; to another, nothing: its next hello puts things right."""
        if peer.reachable:
            self.turn.after_commit.append(peer.stamp(message, self.now.mono))

    def tell(self, peer: Peer, message: Message) -> None:
        """The same to a peer that may have had nothing to do with this turn."""
        self.active[id(peer)] = peer
        self.send(peer, message)

    def tell_all(self, words: Iterable[tuple[Peer, Message]]) -> None:
        for peer, message in words:
            self.tell(peer, message)

    def reply(self, event: Received, message: Message) -> None:
        """An unnumbered answer to someone who is no peer (yet)."""
        self.do(Send(event.route, Header(event.header.link, 0, 0), message))

    def settle(self) -> None:
        """One look at every peer that had to do with this turn: results, credit, acknowledgements."""
        now = self.now.mono
        if self._exchange.words:
            self.tell_all(self._exchange.words)
            self._exchange.words = []
        still: dict[int, Peer] = {}
        for key, peer in self.active.items():
            if isinstance(peer, Client) and peer.left:
                continue
            if not peer.reachable:
                continue
            if isinstance(peer, Client):
                while (batch := peer.next_results(self._results_in_flight)) is not None:
                    rows, message = batch
                    self.send(peer, message)
                    peer.sent.append((peer.link.sent, rows))
                    peer.told, peer.told_due = peer.accepted, None
                if peer.told != peer.accepted:
                    if peer.told_due is None:
                        peer.told_due = now + ACCEPT_DELAY_S
                    if now >= peer.told_due or peer.accepted - peer.told >= ACCEPT_EVERY:
                        peer.told, peer.told_due = peer.accepted, None
                        self.send(peer, Accepted(peer.accepted))
                    else:
                        still[key] = peer
            if peer.outgoing:
                self._exchange.duties(peer)
            if peer.pulse_owed:
                self.send(peer, Pulse())
            due = peer.link.ack_due()
            if due is not None:
                if now >= due:
                    self.send(peer, Pulse())
                else:
                    still[key] = peer
        self.active = still

    @property
    def due(self) -> float:
        """When somebody has waited long enough for a message to ride on."""
        due = math.inf
        for peer in self.active.values():
            ack = peer.link.ack_due()
            if ack is not None:
                due = min(due, ack)
            if isinstance(peer, Client) and peer.told_due is not None:
                due = min(due, peer.told_due)
        return due
