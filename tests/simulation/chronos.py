"""One firing per fire time (P4), judged from what reaches the disk. Rules of this file: it knows triggers, no book.

As Jepsen's test of Chronos did: it works out by itself which times there were while a schedule stood, by the clock of
the coordinator, and matches each to exactly one job or to one stated reason. A reason must be one that the schedule's
policies can give; with ``catch_up="all", overlap="allow"`` only a pause, a removal or the window can.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgpack

from cluster.ids import format_job
from cluster.jobs import About, Spec
from cluster.triggers import Trigger, at, every
from scheduler.schedules import CatchUp, Overlap, Reason, Schedule
from scheduler.schedules.standing import Standing
from scheduler.store import Changes, FiringRow
from tests.simulation.ledger import HOUSE, Broken
from tests.simulation.work import ECHO, noise

US = 1_000_000
SHARE = 1 / 8
"""Of all slots, what one schedule whose jobs may overlap keeps busy: there are six, and what has piled up when all
are gone must have an end."""

Name = tuple[str, str]

_ALWAYS = {Reason.OUTSIDE_WINDOW, Reason.PAUSED, Reason.CHANGED, Reason.REMOVED}
_BY_OVERLAP = {
    Overlap.SKIP: {Reason.OVERLAP},
    Overlap.BUFFER_ONE: {Reason.OVERLAP},
    Overlap.BUFFER_ALL: {Reason.TOO_MANY},
    Overlap.CANCEL_OTHER: {Reason.GAVE_WAY},
    Overlap.KILL_OTHER: {Reason.GAVE_WAY},
    Overlap.ALLOW: set[Reason](),
}
_BY_CATCH_UP = {CatchUp.ALL: set[Reason](), CatchUp.LATEST: {Reason.SUPERSEDED}, CatchUp.NONE: {Reason.MISSED}}


@dataclass(slots=True)
class Order:
    """A schedule while it stands."""

    schedule: Schedule
    since_us: int
    """Times after this are its own."""


@dataclass(slots=True)
class Past:
    """What was said of the times of one name, whatever became of the schedule."""

    fired: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    """Jobs by nominal time and run."""
    said: dict[int, FiringRow] = field(default_factory=dict)
    """Skipped stretches that stand, by their first time,"""
    gone: list[tuple[int, int]] = field(default_factory=list)
    """...and those that newer ones have taken the room of."""
    waiting: frozenset[int] = frozenset()
    taken_us: int = 0
    """The last that has fired or waited to."""
    blurred_us: int = 0
    """Times up to this had come when the clock was set back. Of these a book may take some for fired that lie between
    such as have (``schedules.fired``): after a change of the trigger, or where they had been skipped."""


class Chronos:
    def __init__(self) -> None:
        self.orders: dict[Name, Order] = {}
        self._past: dict[Name, Past] = {}
        self.jobs: dict[bytes, Name] = {}
        """Every job that a schedule made,"""
        self.open: dict[bytes, Name] = {}
        """...and those without an outcome on disk."""
        self._may_be: dict[Name, set[Reason]] = {}
        """Reasons that some policy can give which the name was ordered to have."""
        self._wall_us = 0
        self.reasons: Counter[str] = Counter()
        self.matched = 0
        """Times that were judged."""

    @property
    def at_rest(self) -> bool:
        return not self.orders and not self.open

    def ordered(self, about: dict[str, Any]) -> None:
        """Somebody does this about schedules. What is made and changed in one turn leaves one row, of the last."""
        if about["do"] == "put":
            may_be = self._may_be.setdefault(("default", about["name"]), _ALWAYS.copy())
            may_be |= _BY_OVERLAP[about["overlap"]] | _BY_CATCH_UP[about["catch_up"]]

    def ran(self, job: bytes) -> None:
        """A worker runs a job of the house."""
        if job not in self.jobs:
            raise Broken(f"a worker runs {format_job(job)}, which no schedule has made")

    def committed(self, change: Changes) -> None:
        """These rows have reached the disk."""
        if "clock" not in change.settings:
            return
        wall_us = int(struct.unpack("<d", change.settings["clock"] or b"")[0] * US)
        if wall_us < self._wall_us:
            for past in self._past.values():
                past.blurred_us = max(past.blurred_us, past.taken_us)
        self._wall_us = wall_us
        for name in change.forgotten_schedules:
            self._past.pop(name, None)
            self.orders.pop(name, None)
        for job in change.jobs:
            about = About.decode(job.about)
            if job.id[:8] == HOUSE and about.schedule:
                self._made(job.id, ("default", about.schedule), (about.nominal_us, about.run), change)
        for key, row in change.firings.items():
            self._line(key, row, wall_us, change)
        for name, standing_row in change.schedule_standings.items():
            standing = Standing.unpack(standing_row)
            past = self._of(name)
            past.waiting = frozenset(one.nominal_us for one in standing.waiting or ())
            past.taken_us = max([past.taken_us, *past.waiting])
        for outcome in change.outcomes:
            self.open.pop(outcome.id, None)
        for name, schedule_row in change.schedules.items():
            order = self.orders.pop(name, None)
            if order is not None and schedule_row is None:
                self._judge(name, order, wall_us)
            if schedule_row is not None:
                schedule = Schedule.unpack(*schedule_row)
                if order is not None and order.schedule.trigger != schedule.trigger:
                    self._judge(name, order, wall_us)
                    order = None
                self.orders[name] = Order(schedule, wall_us if order is None else order.since_us)

    def judge(self, wall: float) -> None:
        """All that stands, up to this moment by the coordinator's clock."""
        for name, order in self.orders.items():
            self._judge(name, order, int(wall * US))

    def _of(self, name: Name) -> Past:
        return self._past.setdefault(name, Past())

    def _made(self, job: bytes, name: Name, key: tuple[int, bytes], change: Changes) -> None:
        past = self._of(name)
        if key in past.fired:
            raise Broken(f"{name[1]} fires twice at {key}: {format_job(past.fired[key])}, {format_job(job)}")
        row = change.firings.get((*name, *key))
        if row is None or row.job != job:
            raise Broken(f"{format_job(job)} of {name[1]} is written without the key of its firing")
        if any(said.nominal_us <= key[0] < said.until_us for said in past.said.values() if not key[1]):
            raise Broken(f"{name[1]} has a job and a reason for {key[0]}")
        past.fired[key] = job
        past.taken_us = max(past.taken_us, key[0])
        self.jobs[job] = self.open[job] = name

    def _line(self, key: tuple[str, str, int, bytes], row: FiringRow | None, wall_us: int, change: Changes) -> None:
        namespace, name, nominal_us, run = key
        past = self._of((namespace, name))
        if run or (row is not None and not row.reason):
            return  # what was asked for, and firings, which are judged by their jobs
        before = past.said.pop(nominal_us, None)
        if row is None:
            if before is not None and before.until_us <= wall_us + 1:
                past.gone.append((before.nominal_us, before.until_us))
            return
        past.said[nominal_us] = row
        if row.reason in (Reason.GAVE_WAY, Reason.REMOVED) and row.until_us == nominal_us + 1:
            past.taken_us = max(past.taken_us, nominal_us)  # it may have waited, and be known as one that has fired
        if before is None:
            self._check((namespace, name), past, row, change)

    def _check(self, name: Name, past: Past, row: FiringRow, change: Changes) -> None:
        """Whether that reason can be."""
        reason = Reason(row.reason)
        self.reasons[reason.name] += 1
        order = self.orders.get(name)
        if order is None:
            return  # it is put and said in one turn
        schedule = order.schedule
        may_be = _ALWAYS | _BY_OVERLAP[schedule.overlap] | _BY_CATCH_UP[schedule.catch_up]
        if name in change.schedules:
            may_be = self._may_be[name]
        if reason not in may_be:
            raise Broken(f"{name[1]} ({schedule.overlap}, {schedule.catch_up}) skips {row.nominal_us}: {reason.name}")
        late = row.at_us - row.nominal_us > schedule.window_us
        if reason is Reason.OUTSIDE_WINDOW and not late and change.schedules.get(name) is None:
            raise Broken(f"{name[1]} skips {row.nominal_us} as outside of a window in which it is")
        if reason is Reason.OVERLAP and not (past.waiting or name in self.open.values()):
            raise Broken(f"{name[1]} skips {row.nominal_us} for an earlier one, and none is unfinished")

    def _judge(self, name: Name, order: Order, until_us: int) -> None:
        past = self._of(name)
        trigger = order.schedule.trigger
        stretches = sorted([(row.nominal_us, row.until_us) for row in past.said.values()] + past.gone)
        found = trigger.next_after(order.since_us)
        while found is not None and found <= until_us:
            self.matched += 1
            following = found
            if (found, b"") not in past.fired and found not in past.waiting:
                covers = [end for begin, end in stretches if begin <= found < end]
                if not covers and found <= past.blurred_us:
                    self.reasons["taken for fired"] += 1
                    covers = [found + 1]
                if not covers:
                    raise Broken(
                        f"{order.schedule.name} ({order.schedule.overlap}, {order.schedule.catch_up}) has no job and no"
                        f" reason for {found}; it stands since {order.since_us}, and is judged up to {until_us}"
                    )
                following = max(covers) - 1
            found = trigger.next_after(following)


# ------------------------------------------------------------------------------------ what is ordered


class Orders:
    """Draws what a user of schedules does."""

    NAMES = ("a", "b", "c", "d", "e", "f")

    def __init__(self, chance: Random, slots: int) -> None:
        """``slots``: what the world has to run them in."""
        self._chance = chance
        self._slots = slots

    def put(self, wall: float) -> dict[str, Any]:
        chance = self._chance
        name = chance.choice(self.NAMES)
        strict = name in ("a", "b")  # no reason is accepted of these
        seconds = 10 ** chance.uniform(-2.5, 0.8)
        number = chance.randint(1, 999)
        spec = Spec(f"user:{name}", False, b"f" + name.encode())
        trigger, a_second = self._trigger(wall)
        overlap = "allow" if strict else chance.choice(list(Overlap))
        if overlap == "allow":
            seconds = min(seconds, SHARE * self._slots / a_second)
        payload = msgpack.packb([number, int(seconds * 1e6), ECHO, 1])
        return {
            "do": "put",
            "name": name,
            "trigger": trigger.to_wire(),
            "spec": spec.encode(),
            "payload": payload + noise(f"schedule {name}", 8),
            "overlap": overlap,
            "catch_up": "all" if strict else chance.choice(list(CatchUp)),
            "catch_up_window_s": chance.choice((10, 30, 60)),
            "jitter_s": chance.choice((0, 0, 0, 2)),
        }

    def _trigger(self, wall: float) -> tuple[Trigger, float]:
        """And how often it fires in a second."""
        chance = self._chance
        intervals_s = [chance.choice((0.3, 0.5, 1, 2, 5))]
        trigger = every(intervals_s[0], aligned=True)
        if chance.random() < 0.3:
            intervals_s.append(chance.choice((0.7, 3)))
            trigger |= every(intervals_s[1], aligned=True)
        if chance.random() < 0.2:
            trigger |= at([datetime.fromtimestamp(wall + chance.uniform(-5, 15), UTC) for _ in range(3)])
        return trigger, sum(1 / seconds for seconds in intervals_s)

    def other(self) -> dict[str, Any]:
        name = self._chance.choice(self.NAMES)
        do = self._chance.choice(("pause", "resume", "resume", "run", "remove"))
        return {"do": do, "name": name}
