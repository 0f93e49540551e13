"""The network between the machines. Rules of this file: bytes and connections; it knows no actor's mind.

It keeps what TCP keeps, order within one connection and nothing else. Beyond what TCP does, messages are lost
from the middle of a stream, come twice, and come late, after those that were sent after them. A connection that is
cut is known to neither side at once, or to one of them alone for long. What was sent into it may arrive, be lost, or
come over the next connection, under another route.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from cluster.actor import Connected, Disconnected, Identity, Received, Send, Unroutable
from cluster.codec import decode, encode
from tests.simulation.clock import Clock
from tests.simulation.ledger import Broken
from tests.simulation.plans import Plan

if TYPE_CHECKING:
    from tests.simulation.machines import Machine

COORDINATOR = Identity("coordinator's key", "coordinator", "coordinator", "default")
HALF_OPEN_S = 6.0
"""The transport's own heartbeat ends a connection whose other side is silent so long."""

DAYLIGHT_S = 10.0
"""At least so long between two silences of one machine that nobody is told of."""


@dataclass(slots=True)
class _Direction:
    """One of the two streams of a connection."""

    last_at: float = 0.0
    """Arrival of the message sent last: none overtakes it but by a fault."""
    frozen_until: float = 0.0
    dark_until: float = 0.0
    """What is sent is lost."""
    sent: int = 0
    come: int = 0
    """Number of the last message that arrived."""


@dataclass(slots=True, eq=False)
class Connection:
    route: bytes
    wire: Wire
    coordinator: Machine
    up: _Direction = field(default_factory=_Direction)
    down: _Direction = field(default_factory=_Direction)
    cut: bool = False
    seen_there: bool = False
    """The coordinator's side knows that it is cut."""


@dataclass(slots=True)
class _Numbers:
    """What one side has said on one link."""

    seq: int = 0
    ack: int = 0


class Wire:
    """A dialler's end: at most one connection, and what waits for the next one."""

    def __init__(self, machine: Machine, identity: Identity) -> None:
        self.machine = machine
        self.identity = identity
        self.connection: Connection | None = None
        self.left_over: list[bytes] = []
        self.dark_until = 0.0
        """Nothing gets through, at least one way, and no connection comes about."""
        self.troubled_until = -DAYLIGHT_S
        """End of the last silence that nobody was told of."""
        self.closed = False


class Network:
    def __init__(self, clock: Clock, chance: Random, plan: Plan) -> None:
        self._clock = clock
        self._chance = chance
        self._plan = plan
        self._routes: dict[bytes, Connection] = {}
        self._route = 0
        self._by_dialler: dict[tuple[int, int], _Numbers] = {}
        self._by_coordinator: dict[tuple[int, int, int], _Numbers] = {}
        self._heard_of: dict[tuple[int, int], int] = {}
        """The last number any life of the coordinator has used on a link."""
        self._trace = hashlib.blake2b(digest_size=16)
        self.faulty = True
        """First phase: what the plan says may fail."""
        self.coordinator: Machine | None = None
        self.faults: Counter[str] = Counter()
        self.troubled_until = 0.0
        """End of the last silence of all."""
        self.slow = 0
        """Messages that took a hundred times as long."""
        self.hellos = 0
        self.delivered = 0
        self.bytes = 0

    @property
    def trace(self) -> str:
        """Hash of all that was delivered, and when."""
        return self._trace.hexdigest()

    @property
    def connections(self) -> list[Connection]:
        return [c for c in self._routes.values() if not c.cut]

    # -- connections --------------------------------------------------------------------------------

    def dial(self, wire: Wire) -> None:
        self._clock.after(self._chance.uniform(0.001, 0.3), self._try, wire)

    def _try(self, wire: Wire) -> None:
        if wire.closed or not wire.machine.alive or wire.connection is not None:
            return
        there = self.coordinator
        if (
            wire.dark_until > self._clock.now
            or there is None
            or not there.alive
            or (there.paused and self._chance.random() < 0.5)
        ):
            self.dial(wire)
            return
        self._route += 1
        connection = Connection(b"T" + self._route.to_bytes(5, "big"), wire, there)
        self._routes[connection.route] = connection
        wire.connection = connection
        waiting, wire.left_over = wire.left_over, []
        for raw in waiting:
            self._carry_up(connection, raw)
        wire.machine.post(Connected())

    def hang_up(self, wire: Wire) -> None:
        """The dialler's process is gone, or has closed its socket."""
        wire.closed = True
        if wire.connection is not None:
            self._cut(wire.connection)

    def cut(self, connection: Connection) -> None:
        if not connection.cut:
            self.faults["cuts"] += 1
            self._cut(connection)

    def _cut(self, connection: Connection) -> None:
        if connection.cut:
            return
        connection.cut = True
        late = self.faulty and self._chance.random() < 0.2
        here, there = (self._chance.uniform(0, HALF_OPEN_S if late else 0.05) for _ in range(2))
        self._clock.after(here, self._seen_here, connection)
        self._clock.after(there, self._seen_there, connection)

    def coordinator_gone(self) -> None:
        for connection in self.connections:
            self._cut(connection)

    def freeze(self, connection: Connection, seconds: float) -> None:
        """One direction, or both, hold everything back; a long one ends the connection."""
        self.faults["freezes"] += 1
        until = self._clock.now + seconds
        for direction in (connection.up, connection.down):
            if self._chance.random() < 0.7:
                direction.frozen_until = until
        if seconds > HALF_OPEN_S:
            self._clock.after(HALF_OPEN_S, self._cut, connection)

    def _bears(self, wire: Wire, seconds: float) -> bool:
        """Whether it may be without a word so long: silences that follow at once would make one no client bears."""
        now = self._clock.now
        if now < wire.troubled_until + DAYLIGHT_S or wire.closed:
            return False
        wire.troubled_until = now + seconds
        self.troubled_until = max(self.troubled_until, wire.troubled_until)
        return True

    def darken_one_way(self, wire: Wire, seconds: float) -> None:
        """One direction is dark, what is sent that way lost or held back; the other works, and nobody is told."""
        connection = wire.connection
        if connection is None or connection.cut or not self._bears(wire, seconds):
            return
        way, direction = self._chance.choice((("up", connection.up), ("down", connection.down)))
        self.faults[f"one-way partitions ({way})"] += 1
        wire.dark_until = self._clock.now + seconds
        if self._chance.random() < 0.5:
            direction.dark_until = wire.dark_until
        else:
            direction.frozen_until = wire.dark_until

    def half_open(self, wire: Wire, seconds: float) -> None:
        """The connection is gone, and one of its ends is not told for so long."""
        connection = wire.connection
        if connection is None or connection.cut or not self._bears(wire, seconds):
            return
        connection.cut = True
        soon = self._chance.uniform(0, 0.05)
        if self._chance.random() < 0.5:
            self.faults["half-open links (here)"] += 1
            here, there = seconds, soon
        else:
            self.faults["half-open links (there)"] += 1
            here, there = soon, seconds
        self._clock.after(here, self._seen_here, connection)
        self._clock.after(there, self._seen_there, connection)

    def darken(self, wire: Wire, seconds: float) -> bool:
        """A black hole lies on the way; whether it does."""
        if not self._bears(wire, seconds):
            return False
        self.faults["black holes"] += 1
        wire.dark_until = self._clock.now + seconds
        connection = wire.connection
        if connection is not None:
            connection.up.frozen_until = connection.down.frozen_until = wire.dark_until
            if seconds > HALF_OPEN_S:
                self._clock.after(HALF_OPEN_S, self._cut, connection)
        return True

    def _seen_here(self, connection: Connection) -> None:
        wire = connection.wire
        if wire.connection is connection:
            wire.connection = None
            if not wire.closed:
                wire.machine.post(Disconnected())
                self.dial(wire)

    def _seen_there(self, connection: Connection) -> None:
        connection.seen_there = True
        del self._routes[connection.route]

    # -- messages -----------------------------------------------------------------------------------

    def send_up(self, wire: Wire, effect: Send) -> None:
        self._check(wire, effect, from_coordinator=False)
        connection = wire.connection
        raw = encode(effect.header, effect.message)
        if connection is None:
            return
        if connection.cut:
            if self.faulty and self._chance.random() < 0.2:
                wire.left_over.append(raw)
            return
        self._carry_up(connection, raw)

    def _carry_up(self, connection: Connection, raw: bytes) -> None:
        connection.up.sent += 1
        for moment in self._arrivals(connection.up):
            self._clock.at(moment, self._arrive_up, connection, raw, connection.up.sent)

    def send_down(self, effect: Send) -> Unroutable | None:
        connection = self._routes.get(effect.route)
        if connection is None:
            return Unroutable(effect.route)
        self._check(connection.wire, effect, from_coordinator=True)
        raw = encode(effect.header, effect.message)
        if not connection.cut:
            connection.down.sent += 1
            for moment in self._arrivals(connection.down):
                self._clock.at(moment, self._arrive_down, connection, raw, connection.down.sent)
        return None

    def _arrivals(self, direction: _Direction) -> list[float]:
        """When one message arrives: usually once."""
        plan, chance = self._plan, self._chance
        delay = plan.delay_s * chance.uniform(0.5, 1.5)
        if direction.dark_until > self._clock.now:
            return []
        if self.faulty:
            if chance.random() < plan.loss:
                self.faults["lost messages"] += 1
                return []
            if chance.random() < plan.slow:
                delay *= 100
                self.slow += 1
        moment = max(direction.last_at, self._clock.now + delay, direction.frozen_until)
        late = moment + delay * chance.uniform(1, 30)
        if self.faulty and chance.random() < plan.reorder:
            return [late]  # those that are sent after it come first
        direction.last_at = moment
        if self.faulty and chance.random() < plan.duplicate:
            self.faults["duplicated messages"] += 1
            return [moment, late if chance.random() < 0.3 else moment]
        return [moment]

    def _comes(self, direction: _Direction, number: int) -> None:
        if number < direction.come:
            self.faults["reordered messages"] += 1
        direction.come = max(direction.come, number)

    def _arrive_up(self, connection: Connection, raw: bytes, number: int) -> None:
        if connection.coordinator.alive and self._survives(connection):
            self._comes(connection.up, number)
            self._deliver(connection.coordinator, b"up", raw, connection.route, connection.wire.identity)

    def _arrive_down(self, connection: Connection, raw: bytes, number: int) -> None:
        if connection.wire.machine.alive and self._survives(connection):
            self._comes(connection.down, number)
            self._deliver(connection.wire.machine, b"down", raw, b"", COORDINATOR)

    def _survives(self, connection: Connection) -> bool:
        """Of what was under way when a connection was cut, some is in the receiver's hands already."""
        return not connection.cut or self._chance.random() < 0.5

    def _deliver(self, machine: Machine, way: bytes, raw: bytes, route: bytes, identity: Identity) -> None:
        self._trace.update(b"%s %s %r %d " % (way, machine.name.encode(), self._clock.now, len(raw)))
        self._trace.update(raw)
        self.delivered += 1
        self.bytes += len(raw)
        header, message = decode(raw)
        machine.post(Received(route, identity, header, message))

    # -- the numbering, seen from the wire ----------------------------------------------------------

    def _check(self, wire: Wire, effect: Send, from_coordinator: bool) -> None:
        header, message = effect.header, effect.message
        what = f"{type(message).__name__} on link {header.link} with {wire.machine.name}"
        if type(message).UNNUMBERED:
            self.hellos += not from_coordinator
            if header.seq or header.ack:
                raise Broken(f"{what} carries numbers: {header}")
            return
        assert self.coordinator is not None
        link = (wire.machine.life, header.link)
        here = self._by_dialler.setdefault(link, _Numbers())
        there = self._by_coordinator.setdefault((*link, self.coordinator.life), _Numbers())
        mine = there if from_coordinator else here
        if from_coordinator:
            self._heard_of[link] = max(self._heard_of.get(link, 0), header.seq)
        if header.seq != mine.seq + 1:
            raise Broken(f"{what} has number {header.seq} after {mine.seq}")
        if header.ack < mine.ack:
            raise Broken(f"{what} takes an acknowledgement back: {header.ack} after {mine.ack}")
        theirs = here.seq if from_coordinator else self._heard_of.get(link, 0)
        if header.ack > theirs:
            raise Broken(f"{what} acknowledges {header.ack} of {theirs} messages")
        mine.seq, mine.ack = header.seq, header.ack
