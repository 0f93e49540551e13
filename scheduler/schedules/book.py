"""The book of schedules. Rules of this file: it decides; a time of a trigger fires once or is skipped for one reason.

- It is told moments of the wall clock, in whole microseconds, and ends of jobs. All that shall happen comes out of
  ``due`` and ``run_now``, and ``rows`` says what the store must have with it, in one transaction.
- What was not committed has not been decided: after a restart the same times come again.
- One call does bounded work. Where more is to be done, ``next_due`` is 0: ``due`` again, in the next turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cluster.jobs import Outcome
from cluster.triggers import SearchGoesOn
from scheduler.schedules import past
from scheduler.schedules.past import Kind, Reason, Run
from scheduler.schedules.schedule import GRACE_S, US, CatchUp, Overlap, Schedule
from scheduler.schedules.searches import Searches, last_time, next_time
from scheduler.schedules.standing import MAX_NOTE, Backfill, Running, Standing, Waiting
from scheduler.schedules.values import (
    Decision,
    Fire,
    Key,
    Rows,
    Skip,
    Stop,
    Upserted,
    View,
)
from scheduler.store import FiringRow, ScheduleRow, StandingRow

KEEP_US = 7 * 86_400 * US
"""So long a schedule's fired times outlive it, or for its catch-up window if that is longer."""

MAX_SCHEDULES = 1_000_000
"""Those that were removed and are remembered count."""

MAX_RUNNING = 10_000
"""Of one schedule,"""

MAX_WAITING = 1_000
"""...and such as wait for those to end."""

MAX_BACKFILL = 2_000
"""Times of one backfill: as many are looked for in one call."""

MAX_BACKFILLS = 16
"""Of one schedule at a time."""

MAX_CONCURRENCY = 1_000

_FAILURES = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.EXPIRED, Outcome.LOST)


class Schedules:
    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Standing] = {}
        self._live = 0
        self._heap: list[tuple[int, int, Standing]] = []
        self._number = 0
        self._ready: dict[Standing, None] = {}
        """Those that have more to do at once than their next time."""
        self._said: list[Decision] = []
        """Decided between two calls of ``due``."""
        self._schedules: dict[tuple[str, str], ScheduleRow | None] = {}
        self._standings: dict[Standing, None] = {}
        self._firings: dict[Key, FiringRow | None] = {}
        self._forgotten: dict[tuple[str, str], None] = {}
        self._searches = Searches()

    def __len__(self) -> int:
        return self._live

    # ------------------------------------------------------------------ what users do

    def upsert(self, schedule: Schedule, now_us: int) -> Upserted:
        """Make it, or change it. Times up to now are not taken up; an open ``every`` keeps its anchor over a change.

        What has fired under that name stays known, also from before it was removed. A changed count goes on from what
        has been used of it. Raises ``ValueError`` if there are too many.
        """
        name = (schedule.namespace, schedule.name)
        standing = self._all.get(name)
        if standing is None or standing.schedule is None:
            if standing is None:
                if len(self._all) >= MAX_SCHEDULES:
                    raise ValueError(f"there are {MAX_SCHEDULES} schedules, with those that fired in the last days")
                standing = self._all[name] = Standing(*name)
            self._live += 1
            self._rewind(standing, now_us)
            standing.anchor_us = standing.seen_us = now_us
            standing.taken = standing.failures = standing.succeeded_us = standing.until_us = 0
            standing.paused, standing.gave_up = None, False
            out = Upserted(True, ())
        else:
            out = Upserted(False, standing.schedule.changes(schedule))
            if not out.changed:
                return out
            if replace(standing.schedule.trigger, count=None) != replace(schedule.trigger, count=None):
                self._settle(standing, now_us, Reason.CHANGED)
                self._rewind(standing, now_us)
                standing.seen_us = now_us
            elif standing.over:
                standing.seen_us = max(standing.seen_us, now_us)
        standing.schedule = schedule
        standing.trigger = schedule.trigger.anchored(standing.anchor_us)
        self._schedules[name] = ScheduleRow(*name, schedule.pack())
        self._standings[standing] = None
        self._arm(standing)
        self._ready[standing] = None
        return out

    def remove(self, namespace: str, name: str, now_us: int) -> bool:
        """Whether there was one. Its unfinished jobs go on; what it has fired is remembered for a time.

        So a schedule that is removed and made again fires none of its times twice, and sees what still runs.
        """
        standing = self._all.get((namespace, name))
        if standing is None or (standing.schedule is None and standing.until_us):
            return False
        keep = KEEP_US
        if standing.schedule is not None:
            self._settle(standing, now_us, Reason.PAUSED if standing.paused is not None else Reason.REMOVED)
            for one in standing.waiting or ():
                self._skip_one(standing, one, Reason.REMOVED, now_us, self._said)
            for run, backfill in (standing.backfills or {}).items():
                self._skip_rest(standing, run, backfill, now_us)
            keep = max(keep, standing.schedule.window_us)
            self._live -= 1
        standing.until_us = max(now_us, standing.fired.last) + keep
        standing.schedule = standing.trigger = standing.next_us = None
        standing.waiting = standing.backfills = standing.reboot = None
        self._ready.pop(standing, None)
        self._schedules[namespace, name] = None
        self._standings[standing] = None
        if standing.fired or standing.running:
            self._push(standing, standing.until_us)
        else:
            self._forget(standing)
        return True

    def pause(self, namespace: str, name: str, note: str) -> bool:
        """Nothing of it fires but what is asked for. Whether there is such a schedule."""
        standing = self._live_one(namespace, name)
        if standing is None:
            return False
        self._pause(standing, note, False)
        return True

    def resume(self, namespace: str, name: str, now_us: int) -> bool:
        """What passed while it was paused is skipped; what waited before goes on waiting."""
        standing = self._live_one(namespace, name)
        if standing is None:
            return False
        if standing.paused is not None:
            self._settle(standing, now_us, Reason.PAUSED)
            standing.paused, standing.gave_up, standing.failures = None, False, 0
            self._standings[standing] = None
            self._arm(standing)
            self._ready[standing] = None
        return True

    def run_now(
        self, namespace: str, name: str, run: bytes, now_us: int, overlap: Overlap | None = None
    ) -> list[Decision]:
        """Fire once, now, also if it is paused; ``run`` is 8 bytes that no other run has.

        Under its own overlap policy, or the one given. An empty list: it waits for what runs.
        Raises ``KeyError`` if there is no such schedule.
        """
        standing = self._live_one(namespace, name)
        if standing is None:
            raise KeyError(name)
        assert len(run) == 8
        out: list[Decision] = []
        self._accept(standing, Waiting(now_us, run, Kind.MANUAL, now_us), now_us, out, overlap)
        return out

    def preview(self, namespace: str, name: str, start_us: int, end_us: int, now_us: int) -> list[int]:
        """The nominal times a backfill from ``start_us`` to ``end_us``, both included, would fire.

        Raises ``KeyError`` if there is no such schedule, ``ValueError`` if they are none, too many, or not past.
        """
        standing = self._live_one(namespace, name)
        if standing is None:
            raise KeyError(name)
        assert standing.trigger is not None
        if end_us > now_us:
            raise ValueError("range: ends in the future; only past times are made good")
        out: list[int] = []
        at = start_us - 1
        while (found := next_time(standing.trigger, at)) is not None and found <= end_us:
            out.append(found)
            at = found
            if len(out) > MAX_BACKFILL:
                raise ValueError(f"range: has more than {MAX_BACKFILL} times; take a part of it first")
        if not out:
            raise ValueError("range: has no times")
        return out

    def backfill(
        self, namespace: str, name: str, start_us: int, end_us: int, run: bytes, concurrency: int, now_us: int
    ) -> int:
        """Fire all times of a range again, ``concurrency`` at a time; how many they are.

        They run beside what the schedule itself fires: its policies, pause, failures and count are not theirs.
        Raises as ``preview`` does.
        """
        times = self.preview(namespace, name, start_us, end_us, now_us)
        if type(concurrency) is not int or not 1 <= concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"concurrency: 1 to {MAX_CONCURRENCY}, not {concurrency!r:.64}")
        standing = self._all[namespace, name]
        if standing.backfills is None:
            standing.backfills = {}
        if len(standing.backfills) >= MAX_BACKFILLS:
            raise ValueError(f"{MAX_BACKFILLS} backfills of it are not finished")
        assert len(run) == 8 and run not in standing.backfills
        standing.backfills[run] = Backfill(times[0] - 1, times[-1], concurrency)
        self._standings[standing] = None
        self._ready[standing] = None
        return len(times)

    # ------------------------------------------------------------------ what happens

    def started(self, run: bytes, now_us: int) -> None:
        """The coordinator has: what fires at each start of it (``@reboot``) shall. ``run`` names this start."""
        assert len(run) == 8
        for standing in self._all.values():
            if standing.schedule is not None and standing.schedule.trigger.reboot:
                standing.reboot = (now_us, run)
                self._ready[standing] = None

    def made(self, key: Key, job: bytes) -> None:
        """The job of a firing, in the turn it was fired."""
        standing = self._all[key.namespace, key.name]
        assert standing.running is not None
        running = standing.running[key.nominal_us, key.run]
        running.line = running.line._replace(job=job)
        self._rewrite(standing, running.line)

    def job(self, key: Key) -> bytes:
        """Of a firing that is unfinished; empty where it is not known."""
        standing = self._all.get((key.namespace, key.name))
        running = standing.running.get((key.nominal_us, key.run)) if standing and standing.running else None
        return b"" if running is None else running.line.job

    def ended(self, key: Key, outcome: int, now_us: int, run_us: int = 0) -> bool:
        """The job of a firing has ended; whether this was one failure too many, so that the schedule is paused now."""
        standing = self._all.get((key.namespace, key.name))
        running = standing.running.pop((key.nominal_us, key.run), None) if standing and standing.running else None
        if standing is None or running is None:
            return False
        line = running.line._replace(ended_us=max(now_us, 1), run_us=run_us, outcome=outcome)
        self._rewrite(standing, line)
        standing.running = standing.running or None
        if standing.schedule is None:
            if standing.running is None:
                self._push(standing, standing.until_us)
        elif standing.waiting or standing.backfills:
            self._ready[standing] = None
        if line.kind == Kind.BACKFILL:
            backfill = (standing.backfills or {}).get(key.run)
            if backfill is not None:
                backfill.running -= 1
            return False
        standing.busy -= 1
        if standing.schedule is None:
            return False
        if outcome == Outcome.SUCCEEDED:
            standing.failures, standing.succeeded_us = 0, now_us
        elif outcome in _FAILURES:
            standing.failures += 1
        else:
            return False
        self._standings[standing] = None
        most = standing.schedule.pause_after
        if not most or standing.failures < most or standing.paused is not None:
            return False
        self._pause(standing, f"paused after {standing.failures} failures in a row", True)
        return True

    def clock_jumped(self, now_us: int) -> None:
        """The wall clock was set. Forwards: what lies between is missed, and ``due`` takes it up.

        Backwards: times that come again are decided again, but for those that have fired.
        """
        for standing in self._all.values():
            if self._rewind(standing, now_us) and standing.schedule is not None and standing.paused is None:
                self._number += 1
                standing.entry = self._number
                self._heap.append((now_us, self._number, standing))
        self._sweep()

    # ------------------------------------------------------------------ what comes of it

    def next_due(self) -> int | None:
        """When ``due`` has something to do; 0 for at once, None for never."""
        if self._said or self._ready:
            return 0
        while self._heap:
            when, number, standing = self._heap[0]
            if standing.entry == number:
                return when
            heapq.heappop(self._heap)
        return None

    def due(self, now_us: int, most: int) -> list[Decision]:
        """What is to be done by now: about ``most`` decisions, the earliest due first."""
        out = self._said[:most]
        del self._said[:most]
        work = len(out)
        # What is ready leaves room for what is due, and the other way round.
        work = self._serve(now_us, out, work, work + max(1, (most - work) // 2))
        while work < most and self._heap and self._heap[0][0] <= now_us:
            _, number, standing = heapq.heappop(self._heap)
            if standing.entry == number:
                standing.entry = 0
                self._advance(standing, now_us, out)
                work += 1
        if work < most:
            self._serve(now_us, out, work, most)
        return out

    @property
    def changed(self) -> bool:
        """Whether ``rows`` has anything."""
        return bool(self._standings or self._firings or self._schedules or self._forgotten)

    def rows(self) -> Rows:
        """What has changed since the last call."""
        out = Rows(
            [row for row in self._schedules.values() if row is not None],
            [standing.pack() for standing in self._standings],
            [row for row in self._firings.values() if row is not None],
            [name for name, row in self._schedules.items() if row is None],
            list(self._forgotten),
            [key for key, row in self._firings.items() if row is None],
        )
        self._schedules, self._standings, self._firings, self._forgotten = {}, {}, {}, {}
        return out

    def recovered(
        self,
        schedules: Iterable[ScheduleRow],
        standings: Iterable[StandingRow],
        firings: Iterable[FiringRow],
        now_us: int,
    ) -> list[tuple[str, str, str]]:
        """All that the store has. Those that cannot be read here, with the reason: they rest, as do their rows.

        Nothing is searched yet; the first calls of ``due`` do that.
        """
        assert not self._all
        unread = []
        for standing_row in standings:
            standing = Standing.unpack(standing_row)
            self._all[standing.namespace, standing.name] = standing  # their texts, which are shared
        for row in schedules:
            standing = self._all[row[:2]]
            try:
                standing.schedule = Schedule.unpack(standing.namespace, standing.name, row.schedule)
            except ValueError as e:
                unread.append((row.namespace, row.name, str(e)))
                continue
            self._live += 1
            standing.trigger = standing.schedule.trigger.anchored(standing.anchor_us)
            if standing.paused is None:
                self._push(standing, 0)
            if standing.waiting or standing.backfills:
                self._ready[standing] = None
        for firing in sorted(firings, key=lambda firing: firing.at_us):
            standing = self._all[firing[:2]]
            line = Run(*firing[2:])
            standing.past, gone = past.added(standing.past, line)
            if gone is not None and (gone.reason or gone.ended_us):
                self._firings[standing.key(gone.nominal_us, gone.run)] = None
            if not line.reason and not line.ended_us:
                self._runs(standing, line)
        for standing in self._all.values():
            if standing.until_us:
                self._push(standing, standing.until_us)
        self.clock_jumped(now_us)
        return unread

    # ------------------------------------------------------------------ what people ask

    def get(self, namespace: str, name: str) -> View | None:
        standing = self._live_one(namespace, name)
        return None if standing is None else self._view(standing)

    def names(self, namespace: str) -> Iterator[str]:
        """Of the schedules there, in no order."""
        return (name for (ns, name), one in self._all.items() if ns == namespace and one.schedule is not None)

    def __iter__(self) -> Iterator[View]:
        """In no order. It may search for their next times: to be taken in slices."""
        for standing in self._all.values():
            if standing.schedule is not None:
                yield self._view(standing)

    def history(self, namespace: str, name: str) -> list[Run]:
        """Its last lines, the oldest first; also of one that was removed and is not forgotten."""
        standing = self._all.get((namespace, name))
        return [] if standing is None else list(past.lines(standing.past))

    def running(self) -> Iterator[tuple[Key, bytes]]:
        """The unfinished firings and their jobs: after a restart those whose jobs are gone have ended."""
        for standing in self._all.values():
            for (nominal_us, run), one in (standing.running or {}).items():
                yield standing.key(nominal_us, run), one.line.job

    def overdue(self, now_us: int) -> list[tuple[str, str, int]]:
        """Those without a success for too long, and since when they have had none. Not those a user has paused."""
        found = ((standing, self._overdue_since(standing, now_us)) for standing in self._all.values())
        return [(standing.namespace, standing.name, since) for standing, since in found if since is not None]

    def overdue_since(self, namespace: str, name: str, now_us: int) -> int | None:
        """Since when that one has had no success; None if it is not overdue."""
        standing = self._live_one(namespace, name)
        return None if standing is None else self._overdue_since(standing, now_us)

    @staticmethod
    def _overdue_since(standing: Standing, now_us: int) -> int | None:
        schedule = standing.schedule
        if schedule is None or not schedule.overdue_s or (standing.paused is not None and not standing.gave_up):
            return None
        since = standing.succeeded_us or standing.anchor_us
        return since if now_us - since > schedule.overdue_s * US else None

    def _view(self, standing: Standing) -> View:
        assert standing.schedule is not None and standing.trigger is not None
        if standing.next_us is None and standing.paused is None:
            self._arm(standing)
        count = standing.trigger.count
        return View(
            standing.schedule,
            standing.trigger,
            standing.anchor_us,
            None if standing.paused is not None else standing.next_us,
            standing.paused,
            standing.gave_up,
            None if count is None else max(0, count - standing.taken),
            len(standing.running or ()),
            len(standing.waiting or ()),
            len(standing.backfills or ()),
            standing.failures,
            standing.succeeded_us,
        )

    # ------------------------------------------------------------------ times

    def _live_one(self, namespace: str, name: str) -> Standing | None:
        standing = self._all.get((namespace, name))
        return None if standing is None or standing.schedule is None else standing

    def _push(self, standing: Standing, when: int) -> None:
        self._number += 1
        standing.entry = self._number
        heapq.heappush(self._heap, (when, self._number, standing))
        if len(self._heap) > 64 + 3 * len(self._all):
            self._sweep()

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].entry == entry[1]]
        heapq.heapify(self._heap)

    def _arm(self, standing: Standing) -> None:
        """Search its next time and wake it then."""
        standing.entry = 0
        when = self._look(standing)
        if when is not None and standing.paused is None:
            self._push(standing, when)

    def _look(self, standing: Standing) -> int | None:
        """Search ``next_us``; when it is due, or where the search goes on. None if there are no times any more."""
        standing.next_us = None
        trigger, schedule = standing.trigger, standing.schedule
        assert trigger is not None and schedule is not None
        if standing.over:
            return None
        try:
            while True:
                found = self._searches.next_after(trigger, standing.seen_us)
                if found is None:
                    return None
                last = standing.fired.until(found)
                if last is None:
                    break
                standing.fired.join(standing.seen_us, found)
                standing.seen_us = last
        except SearchGoesOn as e:
            standing.seen_us = e.until_us
            return e.until_us
        standing.next_us = found
        jitter_us = self._jitter(standing, found)
        standing.due_us = found + jitter_us if jitter_us else found  # the very number, which many share
        return standing.due_us

    def _jitter(self, standing: Standing, nominal_us: int) -> int:
        assert standing.schedule is not None and standing.trigger is not None
        if not standing.schedule.jitter_s:
            return 0
        try:
            following = standing.trigger.next_after(nominal_us)
        except SearchGoesOn as e:
            following = e.until_us
        return standing.schedule.jitter_us(nominal_us, following)

    def _advance(self, standing: Standing, now_us: int, out: list[Decision]) -> None:
        """Its moment has come: decide one time, or one stretch of them, and wake it for the next."""
        schedule, trigger = standing.schedule, standing.trigger
        if schedule is None or trigger is None:
            if standing.until_us and standing.until_us <= now_us and standing.running is None:
                self._forget(standing)
            return
        nominal, due = standing.next_us, standing.due_us
        if nominal is None or due > now_us:
            self._arm(standing)
            return
        edge = now_us - schedule.window_us
        until = 0
        if due < edge:
            # The times that are due before the edge: all up to it, but for the last one if its jitter moves that over.
            last = last_time(trigger, nominal, edge)
            until = last if last > nominal and last + self._jitter(standing, last) >= edge else last + 1
            reason = Reason.OUTSIDE_WINDOW
        elif schedule.catch_up != CatchUp.ALL:
            none = schedule.catch_up == CatchUp.NONE
            reason = Reason.MISSED if none else Reason.SUPERSEDED
            last = last_time(trigger, nominal, now_us)
            if last > nominal and last + self._jitter(standing, last) > now_us:
                last = last_time(trigger, nominal, last - 1)
            if last > nominal:
                until = last
            elif none and now_us - due > GRACE_S * US:
                until = nominal + 1
        if until:
            fired = standing.fired.next_first(nominal)
            until = until if fired is None else min(until, fired)
            self._skip(standing, nominal, until, reason, now_us, out=out)
            standing.seen_us = until - 1
            self._standings[standing] = None
        else:
            self._accept(standing, Waiting(nominal, b"", Kind.SCHEDULED, due), now_us, out)
            standing.seen_us = nominal
        self._arm(standing)

    def _rewind(self, standing: Standing, now_us: int) -> bool:
        """Times after now are undecided, but for those that have fired. Whether any had been decided."""
        if standing.seen_us <= now_us:
            return False
        standing.seen_us, standing.next_us = now_us, None
        self._standings[standing] = None
        self._take_back(standing, now_us)
        return True

    def _settle(self, standing: Standing, now_us: int, reason: Reason) -> None:
        """The times up to now that are undecided are skipped for that reason."""
        when = self._look(standing)
        while when is not None and (nominal := standing.next_us or when) <= now_us:
            if standing.next_us is not None:
                fired = standing.fired.next_first(nominal)
                until = now_us + 1 if fired is None else min(now_us + 1, fired)
                self._skip(standing, nominal, until, reason, now_us)
                standing.seen_us = until - 1
            when = self._look(standing)

    # ------------------------------------------------------------------ firings

    def _accept(
        self,
        standing: Standing,
        one: Waiting,
        now_us: int,
        out: list[Decision],
        overlap: Overlap | None = None,
    ) -> None:
        """Its time has come: fire it, let it wait or skip it, as the overlap policy says."""
        assert standing.schedule is not None
        overlap = overlap or standing.schedule.overlap
        waiting = standing.waiting or []
        if overlap == Overlap.ALLOW:
            if standing.busy >= MAX_RUNNING:
                self._skip_one(standing, one, Reason.TOO_MANY, now_us, out)
                return
            self._take(standing, one)
            self._fire(standing, one, now_us, out)
        elif not standing.busy and (not waiting or standing.paused is not None):
            self._take(standing, one)
            self._fire(standing, one, now_us, out)
        elif overlap == Overlap.SKIP or (overlap == Overlap.BUFFER_ONE and waiting):
            self._skip_one(standing, one, Reason.OVERLAP, now_us, out)
        elif overlap == Overlap.BUFFER_ALL and len(waiting) >= MAX_WAITING:
            self._skip_one(standing, one, Reason.TOO_MANY, now_us, out)
        else:
            self._take(standing, one)
            if overlap in (Overlap.CANCEL_OTHER, Overlap.KILL_OTHER):
                for other in waiting:
                    self._skip_one(standing, other, Reason.GAVE_WAY, now_us, out)
                waiting = []
                self._stop(standing, overlap, out)
            standing.waiting = [*waiting, one]
            self._standings[standing] = None

    def _take(self, standing: Standing, one: Waiting) -> None:
        """It shall fire, now or later, and no second time."""
        if one.kind == Kind.SCHEDULED:
            standing.fired.add(one.nominal_us, standing.seen_us)
            standing.taken += 1
            self._standings[standing] = None

    def _fire(self, standing: Standing, one: Waiting, now_us: int, out: list[Decision]) -> None:
        assert standing.schedule is not None
        late = max(0, now_us - one.due_us)
        line = Run(one.nominal_us, one.run, one.kind, 0, now_us, late, 0, 0, 0, Reason.NONE, b"")
        self._runs(standing, line)
        self._write(standing, line)
        key = standing.key(one.nominal_us, one.run)
        out.append(Fire(key, Kind(one.kind), one.due_us, standing.schedule.call))

    def _runs(self, standing: Standing, line: Run) -> None:
        if standing.running is None:
            standing.running = {}
        standing.running[line.nominal_us, line.run] = Running(line)
        if line.kind != Kind.BACKFILL:
            standing.busy += 1
        elif standing.backfills and line.run in standing.backfills:
            standing.backfills[line.run].running += 1

    def _stop(self, standing: Standing, overlap: Overlap, out: list[Decision]) -> None:
        wanted = 2 if overlap == Overlap.KILL_OTHER else 1
        for (nominal_us, run), running in (standing.running or {}).items():
            if running.line.kind != Kind.BACKFILL and running.stopping < wanted:
                running.stopping = wanted
                out.append(Stop(standing.key(nominal_us, run), wanted == 2))

    def _pause(self, standing: Standing, note: str, gave_up: bool) -> None:
        standing.paused, standing.gave_up, standing.entry = note[:MAX_NOTE], gave_up, 0
        self._standings[standing] = None

    def _serve(self, now_us: int, out: list[Decision], work: int, most: int) -> int:
        """What is ready, as far as ``most`` allows; how much work has been done."""
        while self._ready and work < most:
            standing = next(iter(self._ready))
            del self._ready[standing]
            room = most - work
            before = len(out)
            if self._release(standing, now_us, out, room):
                self._ready[standing] = None
            work += max(1, len(out) - before)
        return work

    def _release(self, standing: Standing, now_us: int, out: list[Decision], room: int) -> bool:
        """What waited and may fire. Whether there is more."""
        assert standing.schedule is not None
        overlap = standing.schedule.overlap
        end = len(out) + room
        if standing.reboot is not None:
            (nominal_us, run), standing.reboot = standing.reboot, None
            one = Waiting(nominal_us, run, Kind.REBOOT, nominal_us)
            if standing.paused is None:
                self._accept(standing, one, now_us, out)
            else:
                self._skip_one(standing, one, Reason.PAUSED, now_us, out)
        while standing.waiting and (standing.paused is None or standing.waiting[0].kind == Kind.MANUAL):
            if standing.busy and overlap != Overlap.ALLOW:
                if overlap in (Overlap.CANCEL_OTHER, Overlap.KILL_OTHER):
                    self._stop(standing, overlap, out)
                break
            if len(out) >= end:
                return True
            one, standing.waiting = standing.waiting[0], standing.waiting[1:] or None
            self._standings[standing] = None
            self._fire(standing, one, now_us, out)
        for run, backfill in list((standing.backfills or {}).items()):
            if self._fill(standing, run, backfill, now_us, out, end):
                return True
        return False

    def _fill(
        self, standing: Standing, run: bytes, backfill: Backfill, now_us: int, out: list[Decision], end: int
    ) -> bool:
        """Fire of a backfill what may run at a time. Whether there is more."""
        assert standing.trigger is not None and standing.backfills is not None
        while backfill.running < backfill.concurrency:
            if len(out) >= end:
                return True
            self._standings[standing] = None
            found = next_time(standing.trigger, backfill.seen_us)
            if found is None or found > backfill.last_us:
                if not backfill.running:
                    del standing.backfills[run]
                    standing.backfills = standing.backfills or None
                return False
            backfill.seen_us = found
            self._fire(standing, Waiting(found, run, Kind.BACKFILL, now_us), now_us, out)
        return False

    # ------------------------------------------------------------------ lines and rows

    def _skip_one(self, standing: Standing, one: Waiting, reason: Reason, now_us: int, out: list[Decision]) -> None:
        self._skip(standing, one.nominal_us, one.nominal_us + 1, reason, now_us, one.kind, one.run, out)

    def _skip_rest(self, standing: Standing, run: bytes, backfill: Backfill, now_us: int) -> None:
        assert standing.trigger is not None
        first = next_time(standing.trigger, backfill.seen_us)
        if first is not None and first <= backfill.last_us:
            self._skip(standing, first, backfill.last_us + 1, Reason.REMOVED, now_us, Kind.BACKFILL, run)

    def _skip(
        self,
        standing: Standing,
        first_us: int,
        until_us: int,
        reason: Reason,
        now_us: int,
        kind: int = Kind.SCHEDULED,
        run: bytes = b"",
        out: list[Decision] | None = None,
    ) -> None:
        self._write(standing, Run(first_us, run, kind, until_us, now_us, 0, 0, 0, 0, reason, b""))
        said = self._said if out is None else out
        said.append(Skip(standing.key(first_us, run), Kind(kind), until_us, reason))

    def _write(self, standing: Standing, line: Run) -> None:
        standing.past, gone = past.added(past.without(standing.past, line), line)
        self._firings[standing.key(line.nominal_us, line.run)] = standing.row(line)
        if gone is not None:
            kept = standing.running is not None and (gone.nominal_us, gone.run) in standing.running
            if not kept:
                self._firings[standing.key(gone.nominal_us, gone.run)] = None
        self._standings[standing] = None

    def _rewrite(self, standing: Standing, line: Run) -> None:
        """A line that is there, or was until newer ones took its place: of the unfinished, rows stay."""
        changed = past.changed(standing.past, line)
        standing.past = changed or standing.past
        keep = changed is not None or not line.ended_us
        self._firings[standing.key(line.nominal_us, line.run)] = standing.row(line) if keep else None

    def _take_back(self, standing: Standing, now_us: int) -> None:
        """The clock was set back: what it skipped after now comes again, so it is not said any more."""
        kept = b""
        for line in past.lines(standing.past):
            again = line.reason and line.kind == Kind.SCHEDULED and line.until_us > now_us + 1
            if again and line.nominal_us not in standing.fired:
                key = standing.key(line.nominal_us, line.run)
                if line.nominal_us > now_us:
                    self._firings[key] = None
                    continue
                line = line._replace(until_us=now_us + 1)
                self._firings[key] = standing.row(line)
            kept += past.pack(line)
        standing.past = kept

    def _forget(self, standing: Standing) -> None:
        name = (standing.namespace, standing.name)
        standing.entry = 0  # else its moment comes, and finds another of that name
        del self._all[name]
        self._standings.pop(standing, None)
        for line in past.lines(standing.past):
            self._firings.pop(standing.key(line.nominal_us, line.run), None)
        self._forgotten[name] = None
