"""Schedules at work: their firings as jobs, the ends of those, and what people ask of them. Rules of this file: pure.

The book of schedules decides when something fires; here that becomes jobs like those that are handed in, and the ends
of these are told to the book. The coordinator asks ``turn`` what is due, and writes what ``rows`` says in the very
transaction of the jobs: a firing and its job are committed together or not at all.

- While no job can be taken (the queue or the disk is full) nothing fires: it is late then, and each schedule's own
  policy says what becomes of what is missed.
- A job knows its firing (``About``), and the book knows the job of each firing: an end counts where both agree.
- A function by value and the arguments lie in the schedule, so both are small (``MAX_CALL_BYTES``).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cluster.config import INLINE_BYTES, MAX_SUMMARY_CHARS
from cluster.errors import BadTrigger
from cluster.ids import format_job
from cluster.jobs import LONGEST_S, WORD_CHARS, About, BadSpec, Hook, Outcome, Spec, plain_call
from cluster.summaries import address
from cluster.triggers import from_wire
from scheduler.functions import Functions, Record
from scheduler.lifecycle import Job
from scheduler.schedules import Decision, Fire, Key, Kind, Overlap, Reason, Rows, Run, Schedule, Schedules, Skip, View
from scheduler.store import Recovered

MAX_CALL_BYTES = INLINE_BYTES
"""Of a function by value, and of the arguments."""

MOST_PER_TURN = 500
"""Firings and skips of one turn: a commit of some ten milliseconds, so that nothing else waits for long."""

PAGE = 200
"""Schedules in one answer."""

WATCH_S = 30.0
"""So often it is looked for those that are overdue."""

US = 1_000_000
LAST_US = 1 << 62
_MISSED = (Reason.OUTSIDE_WINDOW, Reason.MISSED, Reason.SUPERSEDED)


@dataclass(frozen=True, slots=True)
class House:
    """What the coordinator does for its standing orders."""

    order: Callable[[Record, bytes, str, About], Job]
    """Make a job of the house: function, payload, summary."""
    stop: Callable[[Job, bool], None]
    """Have it end; killed, or as its ``grace_s`` says."""
    unfinished: Callable[[bytes], Job | None]
    fact: Callable[..., None]


class StandingOrders:
    """``recovered`` is what the store has; None where there is no store. ``epoch`` makes the ids of runs unique."""

    def __init__(self, house: House, functions: Functions, recovered: Recovered | None, epoch: int) -> None:
        self._house = house
        self._functions = functions
        self._recovered = recovered
        self._epoch = epoch
        self._runs = 0
        self._book = Schedules()
        self._shut = False
        """No job can be taken now."""
        self._made: list[Job] = []
        self._stops: list[tuple[Key, bool]] = []
        self._names: dict[str, list[str]] = {}
        """Sorted, by namespace; those that are asked for."""
        self._watched: dict[tuple[str, str], int] = {}
        """Who is overdue, and since when."""
        self._watch_at = math.inf

    def __len__(self) -> int:
        return len(self._book)

    # ------------------------------------------------------------------------------- the course of things

    def begin(self, wall: float) -> None:
        """The first turn: take up what the store has."""
        kept, self._recovered = self._recovered, None
        now_us = _us(wall)
        if kept is not None:
            for namespace, name, why in self._book.recovered(
                kept.schedules, kept.schedule_standings, kept.firings, now_us
            ):
                self._house.fact("schedule_unread", schedule=name, namespace=namespace, reason=why)
        for key, jid in list(self._book.running()):
            job = self._house.unfinished(jid) if jid else None
            if job is None or _key(job) != key:
                self._book.ended(key, Outcome.LOST, now_us)  # it was not durable
        self._book.started(self._run(), now_us)
        if len(self._book):
            self._watch_at = wall

    @property
    def next(self) -> float:
        """When ``turn`` has something to do, by the wall clock."""
        if self._shut:
            return math.inf
        due = self._book.next_due()
        # A microsecond later, since a moment as a float may be one too early.
        return min(self._watch_at, math.inf if due is None else (due + 1) / US)

    @property
    def figures(self) -> dict[str, float | None]:
        """How many there are, how many of them are overdue, and when one is due next."""
        due = self._book.next_due()
        return {
            "schedules": len(self._book),
            "schedules_overdue": len(self._watched),
            "schedule_next_fire_timestamp_seconds": None if due is None else due / US,
        }

    def turn(self, wall: float, full: str) -> list[Job]:
        """Fire what is due; the jobs made since the last turn, which are to be written with ``rows``."""
        self._shut = bool(full) and len(self._book) > 0
        if not self._shut and self.next <= wall:
            self._act(self._book.due(_us(wall), MOST_PER_TURN), wall)
            if wall >= self._watch_at:
                self._watch(wall)
        made, self._made = self._made, []
        return made

    def stop(self) -> None:
        """Have those end that later ones wait for. They may be jobs of this very turn, so these are written before."""
        if not self._stops:
            return
        stops, self._stops = self._stops, []
        for key, kill in stops:
            job = self._house.unfinished(self._book.job(key))
            if job is not None:
                self._house.stop(job, kill)

    def ended(self, job: Job, wall: float, ran: tuple[int, ...] | None) -> None:
        """A job that a schedule made, or that says so, has its outcome."""
        key = _key(job)
        if self._book.job(key) != job.id:
            return
        assert job.outcome is not None
        run_us = ran[0] if ran is not None else job.story[-1].run_us if job.story else 0
        if self._book.ended(key, job.outcome, _us(wall), run_us):
            view = self._book.get(key.namespace, key.name)
            self._house.fact("schedule_gave_up", schedule=key.name, n=view.failures if view is not None else 1)

    def clock_jumped(self, wall: float) -> None:
        self._book.clock_jumped(_us(wall))
        if self._watch_at < math.inf:
            self._watch_at = wall

    def rows(self) -> Rows | None:
        """What the store shall have, with the jobs of this turn; None if nothing has changed."""
        return self._book.rows() if self._book.changed else None

    # ------------------------------------------------------------------------------- firing

    def _act(self, said: Iterable[Decision], wall: float) -> list[Job]:
        made: list[Job] = []
        skipped: dict[Reason, int] = {}
        late_us = 0
        for decision in said:
            match decision:
                case Fire():
                    late_us = max(late_us, _us(wall) - decision.due_us)
                    job = self._fire(decision, wall)
                    if job is not None:
                        made.append(job)
                case Skip():
                    skipped[decision.reason] = skipped.get(decision.reason, 0) + 1
                    if decision.reason in _MISSED:
                        self._tell_missed(decision)
                case _:
                    self._stops.append((decision.key, decision.kill))
        if made:
            self._house.fact("schedules_fired", len(made), late_s=late_us / US)
        for reason, n in skipped.items():
            self._house.fact("schedules_skipped", n, reason=reason.words)
        self._made += made
        return made

    def _fire(self, fire: Fire, wall: float) -> Job | None:
        call, key = fire.call, fire.key
        about = About(delay_s=call.get("delay_s", 0.0), schedule=key.name, nominal_us=key.nominal_us, run=key.run)
        try:
            record = self._functions.intern(call["_spec"], _owner(call["_spec"]))
            if record.spec.by_value:
                self._functions.learn(record, call["_code"])
        except BadSpec as e:  # as where there are too many queues
            self._house.fact("schedule_unread", schedule=key.name, namespace=key.namespace, reason=str(e))
            self._book.ended(key, Outcome.FAILED, _us(wall))
            return None
        job = self._house.order(record, call["arguments"], call["_summary"], about)
        self._book.made(key, job.id)
        return job

    def _tell_missed(self, skip: Skip) -> None:
        """Run the hook of what has been missed."""
        view = self._book.get(skip.key.namespace, skip.key.name)
        raw = view.schedule.call.get("on_missed", b"") if view is not None else b""
        if view is None or not raw:
            return
        record: dict[str, Any] = {
            "schedule": skip.key.name,
            "namespace": skip.key.namespace,
            "first": skip.key.nominal_us / US,
            "before": skip.until_us / US,
            "reason": skip.reason.words,
        }
        try:
            hook = Hook.decode(raw)
            made = self._functions.intern(hook.spec, _owner(view.schedule.call["_spec"]))
            if made.spec.by_value:
                self._functions.learn(made, hook.code)
        except BadSpec as e:
            self._house.fact("unexpected", reason=f"a hook of schedule {skip.key.name}: {e}")
            return
        payload = plain_call([record], hook.kwargs)
        self._made.append(self._house.order(made, payload, f"of schedule {skip.key.name}", About()))

    def _run(self) -> bytes:
        """An id that no other run has, of this life or another."""
        self._runs += 1
        return (self._epoch << 32 | self._runs).to_bytes(8, "big")

    def _watch(self, wall: float) -> None:
        """Say who has become overdue, and who is no more."""
        now = {(namespace, name): since for namespace, name, since in self._book.overdue(_us(wall))}
        for (_, name), since in now.items() - self._watched.items():
            self._house.fact("schedule_overdue", schedule=name, seconds=wall - since / US)
        for _, name in self._watched.keys() - now.keys():
            self._house.fact("schedule_on_time", schedule=name)
        self._watched = now
        self._watch_at = wall + WATCH_S if len(self._book) else math.inf

    # ------------------------------------------------------------------------------- questions and orders

    def answer(self, namespace: str, owner: str, about: dict[str, Any], wall: float, full: str) -> dict[str, Any]:
        """What ``about`` asks for by its ``do``. Raises ``ValueError`` with what is wrong with it."""
        now_us = _us(wall)
        do = about.get("do")
        if do == "list":
            return self._list(namespace, about, wall)
        name = about.get("name")
        if type(name) is not str or not 0 < len(name) <= WORD_CHARS:
            raise ValueError(f"a schedule's name has 1 to {WORD_CHARS} characters")
        if do == "put":
            return self._put(namespace, owner, name, about, wall)
        if do == "history":
            lines = self._book.history(namespace, name)
            if not lines and self._book.get(namespace, name) is None:
                raise _unknown(name)
            return {"runs": [_line(line) for line in reversed(lines)]}
        if do == "remove":
            self._names.clear()
            return {"removed": self._book.remove(namespace, name, now_us)}
        if self._book.get(namespace, name) is None:
            raise _unknown(name)
        match do:
            case "get":
                pass
            case "pause":
                self._book.pause(namespace, name, _text(about, "note", 500))
            case "resume":
                self._book.resume(namespace, name, now_us)
            case "run":
                return self._run_now(namespace, name, about, wall, full)
            case "preview":
                first, last = _range(about)
                times = self._book.preview(namespace, name, first, last, now_us)
                return {"times": [at / US for at in times]}
            case "backfill":
                first, last = _range(about)
                most = about.get("concurrency", 1)
                return {"times": self._book.backfill(namespace, name, first, last, self._run(), most, now_us)}
            case _:
                raise ValueError(f"schedules know no {str(do)[:40]!r}")
        return {"schedule": self._told(namespace, name, wall)}

    def _put(self, namespace: str, owner: str, name: str, about: dict[str, Any], wall: float) -> dict[str, Any]:
        try:
            trigger = from_wire(about.get("trigger"))
            call = self._call(namespace, owner, about)
            plans = {k: about[k] for k in _PLANS if k in about}
            schedule = Schedule(namespace, name, trigger, call, **plans)
        except (BadTrigger, BadSpec) as e:
            raise ValueError(str(e)) from None
        call["_at"] = wall
        done = self._book.upsert(schedule, _us(wall))
        if done.made:
            self._names.clear()
        self._watch_at = min(self._watch_at, wall + WATCH_S)
        changed = [what.removeprefix("call.") for what in done.changed]
        return {"made": done.made, "changed": changed, "schedule": self._told(namespace, name, wall)}

    def _call(self, namespace: str, owner: str, about: dict[str, Any]) -> dict[str, Any]:
        """What is called, with its options: by plain values that two upserts are compared by. Keys that begin with a
        line are not compared."""
        raw, code, payload = (about.get(what, b"") for what in ("spec", "code", "payload"))
        hook, summary, mark = about.get("on_missed", b""), about.get("summary", ""), about.get("mark", "")
        if any(type(part) is not bytes for part in (raw, code, payload, hook)):
            raise ValueError("spec, code, payload and on_missed are bytes")
        if type(summary) is not str or len(summary) > MAX_SUMMARY_CHARS or type(mark) is not str or len(mark) > 200:
            raise ValueError("summary and mark are short texts")
        for part, what in ((code, "the function"), (payload, "the arguments")):
            if len(part) > MAX_CALL_BYTES:
                raise ValueError(f"{what} has {len(part)} bytes, and a schedule takes {MAX_CALL_BYTES}")
        spec = Spec.decode(raw)
        if spec.namespace != namespace:
            raise ValueError(f"its namespace {spec.namespace!r} is not the session's ({namespace!r})")
        if spec.rules.at_most_once and not spec.durable:
            raise ValueError("what must not start twice (at most once) must be durable")
        if spec.rules.client_bound:
            raise ValueError("a schedule outlives its client: lifetime='client' is not for it")
        raw = spec.owned_by(owner).encode()
        record = self._functions.intern(raw, owner)
        if spec.by_value:
            self._functions.learn(record, code)
        if hook and Spec.decode(Hook.decode(hook).spec).namespace != namespace:
            raise ValueError(f"on_missed is of another namespace than {namespace!r}")
        call: dict[str, Any] = {"function": spec.name, "arguments": payload}
        said = {"code": mark if spec.by_value else "", "python": spec.python, "source": _text(about, "source", 400)}
        call |= {what: value for what, value in said.items() if value}
        if not spec.durable:
            call["durable"] = False
        if spec.labels:
            call["labels"] = [list(pair) for pair in spec.labels]
        delay_s = about.get("delay_s", 0.0)
        if type(delay_s) not in (int, float) or not 0 <= delay_s <= LONGEST_S:
            raise ValueError("delay_s is a number of seconds")
        if delay_s:
            call["delay_s"] = delay_s
        for what, value in spec.rules.encode().items():
            call[what] = list(value) if type(value) is tuple else value
        call |= {"_spec": raw, "_summary": summary}
        if code:
            call["_code"] = code
        if hook:
            call["on_missed"] = hook
        return call

    def _run_now(self, namespace: str, name: str, about: dict[str, Any], wall: float, full: str) -> dict[str, Any]:
        if full:
            raise ValueError(full)
        overlap = about.get("overlap")
        try:
            policy = None if overlap is None else Overlap(overlap)
        except ValueError:
            raise ValueError(f"overlap: {overlap!r:.64} is none of {', '.join(Overlap)}") from None
        said = self._book.run_now(namespace, name, self._run(), _us(wall), policy)
        made = self._act(said, wall)
        skipped = next((decision.reason.words for decision in said if isinstance(decision, Skip)), "")
        return {"job": format_job(made[0].id) if made else None, "skipped": skipped}

    def _list(self, namespace: str, about: dict[str, Any], wall: float) -> dict[str, Any]:
        after, search, source = (_text(about, what, 400) for what in ("after", "search", "source"))
        names = self._names.get(namespace)
        if names is None:
            names = self._names[namespace] = sorted(self._book.names(namespace))
        overdue = about.get("overdue") is True
        found: list[dict[str, Any]] = []
        at = bisect_right(names, after) if after else 0
        looked_at = 0
        while at < len(names) and len(found) < PAGE and looked_at < 20 * PAGE:
            name = names[at]
            at, looked_at = at + 1, looked_at + 1
            if search not in name:
                continue
            view = self._book.get(namespace, name)
            assert view is not None
            if not source or _is_from(view.schedule.call.get("source", ""), source):
                told = self._view(view, wall)
                if told["overdue"] or not overdue:
                    found.append(told)
        return {"schedules": found, "more": names[at - 1] if at < len(names) else None}

    def _told(self, namespace: str, name: str, wall: float) -> dict[str, Any]:
        view = self._book.get(namespace, name)
        assert view is not None
        return self._view(view, wall)

    def _view(self, view: View, wall: float) -> dict[str, Any]:
        schedule, call = view.schedule, view.schedule.call
        spec = self._functions.intern(call["_spec"], _owner(call["_spec"])).spec
        lines = self._book.history(schedule.namespace, schedule.name)
        return {
            "name": schedule.name,
            "namespace": schedule.namespace,
            "owner": spec.owner,
            "trigger": view.trigger.to_wire(),
            "when": view.trigger.describe(),
            "tz": view.trigger.tz,
            "function": call["function"],
            "by_value": spec.by_value,
            "arguments": call["_summary"],
            "code_at": call["_at"],
            "queue": spec.rules.queue,
            "source": call.get("source", ""),
            "options": {what: value for what, value in spec.rules.encode().items() if type(value) is not bytes},
            "labels": dict(spec.labels),
            **{what: getattr(schedule, what) for what in _PLANS if what not in ("overlap", "catch_up")},
            "overlap": str(schedule.overlap),
            "catch_up": str(schedule.catch_up),
            "on_missed": _hook_in_words(call.get("on_missed", b"")),
            "made": view.made_us / US,
            "next": None if view.next_us is None else view.next_us / US,
            "paused": view.paused,
            "gave_up": view.gave_up,
            "left": view.left,
            "running": view.running,
            "waiting": view.waiting,
            "backfills": view.backfills,
            "failures": view.failures,
            "succeeded": view.succeeded_us / US if view.succeeded_us else None,
            "overdue": self._book.overdue_since(schedule.namespace, schedule.name, _us(wall)) is not None,
            "last": _line(lines[-1]) if lines else None,
        }


_PLANS = ("overlap", "catch_up", "catch_up_window_s", "jitter_s", "pause_after", "overdue_s")


@lru_cache(maxsize=4_096)
def _owner(spec: bytes) -> str:
    """Who has made the schedule: it is in the spec, since each thing more in a call costs memory a hundred thousand
    times."""
    return Spec.decode(spec).owner


def _us(wall: float) -> int:
    return int(wall * US)


def _key(job: Job) -> Key:
    about = job.about
    return Key(job.record.spec.namespace, about.schedule, about.nominal_us, about.run)


def _line(line: Run) -> dict[str, Any]:
    """One line of a history, as plain values."""
    skipped = bool(line.reason)
    return {
        "kind": Kind(line.kind).name.lower(),
        "nominal": line.nominal_us / US,
        "before": line.until_us / US if line.until_us else None,
        "at": line.at_us / US,
        "late_s": line.late_us / US,
        "ended": line.ended_us / US if line.ended_us else None,
        "run_s": line.run_us / US if line.ended_us else None,
        "outcome": "skipped" if skipped else Outcome(line.outcome).word if line.ended_us else "unfinished",
        "why": Reason(line.reason).words,
        "job": format_job(line.job) if line.job else None,
    }


def _hook_in_words(raw: bytes) -> str | None:
    """What it calls: the address of a webhook, else the name of its function. It was readable when it came."""
    if not raw:
        return None
    hook = Hook.decode(raw)
    url = hook.kwargs.get("url")
    return address(url[:2_000]) if type(url) is str else Spec.decode(hook.spec).name


def _unknown(name: str) -> ValueError:
    return ValueError(f"no schedule is called {name!r}")


def _text(about: dict[str, Any], what: str, most: int) -> str:
    value = about.get(what, "")
    if type(value) is not str or len(value) > most:
        raise ValueError(f"{what} is a text of up to {most} characters")
    return value


def _range(about: dict[str, Any]) -> tuple[int, int]:
    first, last = about.get("first"), about.get("last")
    if type(first) is not int or type(last) is not int or not -LAST_US < first <= last < LAST_US:
        raise ValueError("range: first and last are moments in microseconds, the first one first")
    return first, last


def _is_from(source: str, wanted: str) -> bool:
    """Whether it comes from there; of a directory, which ends with a slash, from a file in it."""
    return source == wanted or (wanted.endswith("/") and source.startswith(wanted))
