"""Drives one actor in the real world. Rules of this file: boring; no decision that an actor could take.

One loop: sleep until something can be read or the actor's deadline; drain every source within a bound; hand
the batch to the actor; perform its effects. The host also tells the actor what only it can see: that all
sources were found empty, that this process did not run for a while, that the wall clock jumped.

A *source* has ``pollables()`` (descriptors) and ``drain(limit)``, which returns events and whether it was
emptied; it is drained when one of them is readable, and once a tick in any case. A *performer* takes one effect
and may return an event.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from cluster.actor import Actor, Drained, Now, Stalled, Stop, Turn, WallClockJumped
from cluster.commits import Commits, Rows
from cluster.facts import Fact

DRAIN_LIMIT = 256
"""Messages taken from one source a turn: a batch, and yet no turn longer than some ten milliseconds."""

TICK_S = 0.5
"""Longest sleep, so that a stall of this process is known within it."""

STALL_S = 1.0
"""Lateness that is told to the actor."""

JUMP_S = 1.0
"""Difference of the two clocks that is told to the actor."""

YOUNG_IDLE, YOUNG_BUSY = 20_000, 500_000
"""New objects after which a host that owns the collector looks at them, when it is idle and when it never is."""

FULL_COLLECTION_S = 600.0
"""Time between full garbage collections, in idle moments only: one takes 0.4 s for a million live jobs."""


class Source(Protocol):
    def pollables(self) -> Iterable[int]: ...
    def drain(self, limit: int) -> tuple[list[Any], bool]: ...


class Meter(Protocol):
    """Who is told how long things took."""

    def turned(self, now: float, seconds: float, late_s: float, events: int) -> None: ...
    def committed(self, seconds: float, rows: int) -> None: ...


Performer = Callable[[Any], Any]


class Mailbox:
    """A source other threads put events into. ``put`` never blocks; the bound is the caller's business."""

    def __init__(self) -> None:
        self._queue: deque[Any] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False

    def put(self, event: Any) -> None:
        self._queue.append(event)
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._fd, 1)

    def pollables(self) -> list[int]:
        return [self._fd]

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        # After this line a put wakes us again; what was put before it is in the queue already.
        self._woken = False
        out: list[Any] = []
        queue = self._queue
        while queue and len(out) < limit:
            out.append(queue.popleft())
        if queue and not self._woken:
            self._woken = True
            os.eventfd_write(self._fd, 1)
        return out, not queue

    def close(self) -> None:
        os.close(self._fd)


class Lifeline:
    """Turns the end of a pipe held by our parent into ``Stop``: however the parent dies, we see it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.broken = False
        os.set_blocking(fd, False)

    def pollables(self) -> list[int]:
        return [self._fd]

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        try:
            self.broken = os.read(self._fd, 64) == b""
        except BlockingIOError:
            pass
        return ([Stop("the parent process is gone")] if self.broken else []), True


def raise_file_limit() -> None:
    """As many descriptors as the hard limit allows: every peer takes one, every worker three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Host:
    """``run`` drives the actor until it, or a source, says ``Stop``.

    With a ``store`` what a turn sends leaves when its rows are on disk; ``run`` raises what the store raises.
    """

    def __init__(
        self,
        actor: Actor,
        sources: Sequence[Source],
        performers: Mapping[type, Performer],
        facts: Callable[[list[Fact]], None],
        *,
        store: Rows | None = None,
        own_gc: bool = False,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._actor = actor
        self._sources = sources
        self._performers = dict(performers)
        self._facts = facts
        self._meter = meter
        told = None if meter is None else meter.committed
        self._commits = None if store is None else Commits(store, self._release, told=told)
        self._own_gc = own_gc
        self._clock = clock
        self._wall = wall
        self._pending: list[Any] = []
        self._stop: Stop | None = None
        self._collected_at = clock()
        self._skew = wall() - clock()
        self._awake_at = 0.0
        """Moment of the last turn."""
        self.turned_at: float | None = None
        """The same, for other threads; None while none has been made, or no more will be."""
        self.turns = 0
        self.thread_id = 0

    def run(self) -> Stop:
        self.thread_id = threading.get_ident()
        poller = select.epoll()
        of: dict[int, Source] = {}
        for source in self._sources:
            for fd in source.pollables():
                poller.register(fd, select.EPOLLIN)
                of[fd] = source
        if self._commits is not None:
            poller.register(self._commits.fileno(), select.EPOLLIN)
        if self._own_gc:
            gc.collect()
            gc.freeze()
            gc.disable()
        full: set[Source] = set(self._sources)
        """Sources not known to be empty."""
        swept_at = self._awake_at = self._clock()
        try:
            while self._stop is None:
                allowed = self._sleep_s(not full)
                if self._own_gc:
                    self._collect(allowed > 0)
                for fd, _ in poller.poll(allowed):
                    if fd in of:
                        full.add(of[fd])
                    elif self._commits is not None:
                        self._commits.advance()
                now = self._clock()
                if now - swept_at >= TICK_S:
                    swept_at = now
                    full.update(self._sources)
                full = self._turn(full, allowed)
            if self._commits is not None:
                self._commits.finish()
        finally:
            self.turned_at = None
            poller.close()
            if self._commits is not None:
                self._commits.close()
            if self._own_gc:
                gc.enable()
                gc.unfreeze()
        return self._stop

    def _sleep_s(self, emptied: bool) -> float:
        if self._pending or not emptied:
            return 0.0
        deadline = self._actor.deadline()
        if deadline is None:
            return TICK_S
        return min(TICK_S, max(0.0, deadline - self._clock()))

    def _turn(self, full: set[Source], slept_s: float) -> set[Source]:
        """One turn over these sources, after a sleep meant to last so long; those of them that were not emptied."""
        events, self._pending = self._pending, []
        left: set[Source] = set()
        for source in self._sources:
            if source in full:
                more, empty = source.drain(DRAIN_LIMIT)
                events += more
                if not empty:
                    left.add(source)
        for event in events:
            if type(event) is Stop:
                self._stop = event
        now = Now(self._clock(), self._wall())
        # Up to this very moment: stopped while it drained, it found empty what had only not been read in yet.
        late = now.mono - self._awake_at - slept_s
        self._awake_at = self.turned_at = now.mono
        skew = now.wall - now.mono
        if abs(skew - self._skew) >= JUMP_S:
            events.insert(0, WallClockJumped(skew - self._skew))  # what came meanwhile is stamped with the new time
            self._skew = skew
        if late >= STALL_S:
            events.insert(0, Stalled(late))
        if not left:
            events.append(Drained())
        turn = self._actor.turn(events, now)
        for effect in turn.at_once:
            self._perform(effect)
        if self._commits is None:
            assert not turn.writes, "this host has no store"
            self._release(turn)
        else:
            self._commits.add(turn)
        if turn.facts:
            self._facts(turn.facts)
        self.turns += 1
        if self._meter is not None:
            done = self._clock()
            self._meter.turned(done, done - now.mono, max(0.0, late), len(events))
        return left

    def _release(self, turn: Turn) -> None:
        for effect in turn.after_commit:
            self._perform(effect)

    def _perform(self, effect: Any) -> None:
        if type(effect) is Stop:
            self._stop = effect
            return
        event = self._performers[type(effect)](effect)
        if event is not None:
            self._pending.append(event)

    def _collect(self, idle: bool) -> None:
        """Garbage is collected when there is nothing else to do: small generations often, all rarely."""
        if gc.get_count()[0] > (YOUNG_IDLE if idle else YOUNG_BUSY):
            gc.collect(1)
        if idle and self._clock() - self._collected_at > FULL_COLLECTION_S:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._collected_at = self._clock()
