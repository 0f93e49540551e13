"""The dealer: which ready job goes to which node, and with what lease. Rules of this file: pure; it starts nothing but
new attempts, and knows no result.

Whose turn it is comes from the ready queue, which nodes could take it from the roster, and the choice among these is
placement's. A turn's assignments for one node go in one message. A payload that is in the store alone is read a little
ahead; its job, and those behind it in its line, wait for that.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.config import MAX_HELD, CoordinatorLimits
from scheduler import figures
from scheduler.assigning import Batch
from scheduler.events import Events
from scheduler.functions import Demand, Line, Record, RunTime
from scheduler.journal import Journal, ReadPayloads
from scheduler.lifecycle import Cause, Job, move
from scheduler.outbox import Outbox
from scheduler.payloads import AHEAD, Payloads
from scheduler.placement import Chance, prefill
from scheduler.queues import Queue
from scheduler.ready_queue import ReadyQueue, Waiters
from scheduler.rooms import RESERVE_AFTER_S, Rooms, reserve
from scheduler.roster import Node, Roster


class Dealer:
    """``token`` is that of the next attempt; ``chance`` feeds placement."""

    def __init__(
        self,
        token: int,
        chance: Chance,
        limits: CoordinatorLimits,
        ready: ReadyQueue,
        roster: Roster,
        payloads: Payloads,
        journal: Journal,
        events: Events,
        out: Outbox,
    ) -> None:
        self.token = token
        self._chance = chance
        self._limits = limits
        self._ready = ready
        self._roster = roster
        self._payloads = payloads
        self._journal = journal
        self._events = events
        self._out = out

    def deal(self) -> None:
        """Deal ready jobs out, whose turn it is first, as far as there is room."""
        ready, roster = self._ready, self._roster
        roster.reserved = None
        if not ready or not len(roster):
            return
        batches: dict[int, tuple[Node, Batch]] = {}
        rooms: dict[tuple[Demand, int, bool], Rooms] = {}
        shut: set[tuple[str, Line]] = set()
        """Lines of which nothing more can go in this turn."""

        def may_go(queue: Queue, line: Line) -> bool:
            return queue.room != 0 and (queue.name, line) not in shut

        absent: dict[int, Waiters] = {}
        room: Rooms | None = None
        last: Record | None = None
        time, once = None, False
        wall = self._out.now.wall
        turn = ready.turn(may_go)
        while turn is not None:
            job = turn.job
            record: Record = job.record
            if room is None or record is not last:
                last, queue, claims, demand = record, record.queue, record.claims, record.line.demand
                if room is None or demand != room.demand or record.time is not time or record.once is not once:
                    time, once = record.time, record.once
                    room = rooms.get((demand, id(time), once))
                    if room is None:
                        room = rooms[demand, id(time), once] = self._rooms(demand, time, once)
                        if roster.reserved is not None:
                            room.keep_clear(roster.reserved)
            avoid = job.story[-1].node if job.story else ""
            node = None if job.absent else room.choose(self._chance, queue, avoid, claims)
            if node is None:
                shut.add((queue.name, record.line))
                if self._payloads.absent and room.nodes:
                    absent[id(turn.line)] = turn.line
                turn = ready.turn(may_go)
                if turn is not None and roster.reserved is None and wall - job.since > RESERVE_AFTER_S:
                    self._reserve(job, rooms.values())
                continue
            ready.pop(turn)
            self._lease(job, node)
            entry = batches.get(id(node))
            if entry is None:
                entry = batches[id(node)] = (node, Batch())
            entry[1].add(job)
            if entry[1].full:
                self._assign(*batches.pop(id(node)))
            following = ready.same_line(turn) if queue.settings.max_running is None else None
            if following is None:
                if self._payloads.absent:
                    absent[id(turn.line)] = turn.line
                following = ready.turn(may_go)
            turn = following
        for node, batch in batches.values():
            self._assign(node, batch)
        for line in absent.values():
            self._read_ahead(line)

    def _reserve(self, job: Job, rooms: Iterable[Rooms]) -> None:
        """Keep a node clear for it of what comes after it."""
        reserved = None if job.absent else reserve(job, self._roster.fitting(job.record.line.demand))
        if reserved is not None:
            self._roster.reserved = reserved
            for room in rooms:
                room.keep_clear(reserved)

    def _rooms(self, demand: Demand, time: RunTime, once: bool) -> Rooms:
        limits = self._limits
        mean_s = 0.0 if once else time.mean_s
        nodes = [n for n in self._roster.fitting(demand) if n.placeable]
        most = {
            id(n): min(MAX_HELD // 2, n.slots + prefill(n.slots, mean_s, limits.prefill_s, limits.prefill_max))
            for n in nodes
        }
        return Rooms(demand, [n for n in nodes if n.outstanding < most[id(n)]], most, time.ran_on)

    def _read_ahead(self, line: Waiters) -> None:
        """Have payloads at hand a little before their turn."""
        some = self._ready.next(line, AHEAD)
        if any(job.absent for job in some[:: AHEAD // 2]):
            ranks = self._payloads.wanted(some)
            if ranks:
                self._out.do(ReadPayloads(ranks))

    def _lease(self, job: Job, node: Node) -> None:
        move(job, Cause.PLACED)
        job.attempt += 1
        if job.story:  # an earlier attempt may have come home, and is the present one then
            job.attempt = max(job.attempt, 1 + max(tried.number for tried in job.story))
        job.token = self.token
        self.token += 1
        job.node = node
        if node.surplus_since is None:
            node.surplus_since = self._out.now.mono
        node.leases.grant(job)
        if job.once:
            self._journal.standing(job)

    def _assign(self, node: Node, batch: Batch) -> None:
        self._out.send(node, batch.message(node.code))
        self._payloads.bound(batch.jobs, self._journal.keeps)
        self._out.active[id(node)] = node
        waits = figures.waits(batch.records, batch.spec_of, batch.jobs, self._out.now.wall)
        self._out.fact("jobs_assigned", len(batch.jobs), node=node.name, waits=waits)
        self._events.note("assigned", batch.jobs, self._out.now, node.name)
