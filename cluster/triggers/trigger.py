"""A trigger: the pure rule from one moment to the next fire time. Rules of this file: values, bounded and checked.

- A trigger is a union of parts. A part is one rule, its start and end (both included), and what is excluded from it.
- A fire time is a moment in whole microseconds since 1970, and never twice the same.
- ``count`` bounds how often the trigger fires in all. The trigger keeps no count of its own: who fires it subtracts.
- On the wire and in a store it is a list of plain values. What comes in is checked as strictly as what users write.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from cluster.errors import BadTrigger
from cluster.triggers import words
from cluster.triggers.crontab import HORIZON_S, REBOOT, REFERENCE_US, Cron, cron_of
from cluster.triggers.moments import (
    FIRST_US,
    LAST_US,
    MAX_INTERVAL_US,
    MIN_INTERVAL_US,
    US,
    aware,
    moment_us,
    zone_of,
)
from cluster.triggers.rules import FIRST_DAY, LAST_DAY, MAX_DATES, MAX_MOMENTS, At, Dates, Every, Holidays, holidays_of

MAX_PARTS = 32
"""Of a union."""
MAX_EXCLUSIONS = 32
"""Of a part; a union that is excluded counts as its parts."""
MAX_COUNT = 1_000_000_000
MAX_UPCOMING = 10_000
MAX_PASSED = 4_000
"""Fire times that one search passes over as excluded, times the exclusions each is held against. A tenth of a second;
more than ``MAX_DATES`` days in a row. The parts of a union share it."""
_TRIES = 5
"""Searches that may end so while a part is tried for whether it fires at all."""

_HORIZON_US = HORIZON_S * US

WIRE_VERSION = 1

Rule = Cron | Every | At


class SearchGoesOn(Exception):
    """So much is excluded that the search was broken off. There is no fire time up to ``until_us``: go on from there.

    A bound on the work of one call, not an error of the trigger.
    """

    def __init__(self, until_us: int) -> None:
        super().__init__(until_us)
        self.until_us = until_us


@dataclass(frozen=True, slots=True)
class Part:
    rule: Rule
    outs: tuple[Dates | Holidays | Part, ...] = ()
    """What is excluded. A part here has no exclusions of its own."""
    start_us: int | None = None
    end_us: int | None = None

    def next_after(self, moment: int, most: int = MAX_PASSED) -> int | None:
        at = moment if self.start_us is None else max(moment, self.start_us - 1)
        found = self.rule.next_after(at)
        passed = 0
        while found is not None:
            if self.end_us is not None and found > self.end_us:
                return None
            until = self._excluded_until(found)
            if until is None:
                return found
            passed += len(self.outs)
            if until > at + _HORIZON_US:
                return None
            if passed >= most:
                raise SearchGoesOn(until - 1)
            found = self.rule.next_after(until - 1)
        return None

    def _excluded_until(self, moment: int) -> int | None:
        for out in self.outs:
            if (until := out.covered_until(moment)) is not None:
                return until
        return None

    def covered_until(self, moment: int) -> int | None:
        if (self.start_us is not None and moment < self.start_us) or (self.end_us is not None and moment > self.end_us):
            return None
        until = self.rule.covered_until(moment)
        return until if until is None or self.end_us is None else min(until, self.end_us + 1)


@dataclass(frozen=True, slots=True)
class Trigger:
    """Made by ``cron``, ``every`` and ``at``; ``a | b`` fires whenever one of them does. A value: equal, hashable."""

    parts: tuple[Part, ...]
    count: int | None = None
    """How often it fires in all; None is for ever."""

    # ------------------------------------------------------------------ times

    def next_after(self, moment: int) -> int | None:
        """The first fire time after that moment, both in microseconds since 1970 in UTC; None if there is none.

        It looks fifty years ahead. ``count`` is not regarded. Raises ``SearchGoesOn`` where a bound on excluded times
        was met, and ``BadTrigger`` for an ``every`` that has no start yet (``open``).
        """
        if moment >= LAST_US:
            return None
        moment = max(moment, FIRST_US)
        best: int | None = None
        unknown: int | None = None
        most = MAX_PASSED // len(self.parts)
        for part in self.parts:
            try:
                found = part.next_after(moment, most)
            except SearchGoesOn as e:
                unknown = e.until_us if unknown is None else min(unknown, e.until_us)
                continue
            if found is not None and (best is None or found < best):
                best = found
        if unknown is not None and (best is None or unknown < best):
            raise SearchGoesOn(unknown)
        return best if best is None or best < LAST_US else None

    def upcoming(self, start: dt.datetime, count: int = 10) -> list[dt.datetime]:
        """The next ``count`` fire times (10,000 at most) after ``start``, on the clock of the trigger's zone.

        Fewer if it ends before. An ``every`` without a start begins one interval after ``start`` here.
        Raises ``BadTrigger``.
        """
        if type(count) is not int or not 0 <= count <= MAX_UPCOMING:
            raise BadTrigger("count", f"a number up to {MAX_UPCOMING}, not {count!r:.64}")
        zone = zone_of(self.tz)
        moment = moment_us(start, "start", zone)
        trigger = self.anchored(moment)
        out: list[dt.datetime] = []
        passed = 0
        while len(out) < (count if self.count is None else min(count, self.count)):
            try:
                found = trigger.next_after(moment)
            except SearchGoesOn as e:
                moment = e.until_us
                passed += 1
                if passed > 100:
                    raise BadTrigger("without", f"excludes all up to {aware(moment, zone)}, and maybe more") from None
                continue
            if found is None:
                break
            out.append(aware(found, zone))
            moment = found
        return out

    @property
    def tz(self) -> str:
        """The zone its times are shown in: that of its first part."""
        return self.parts[0].rule.tz

    @property
    def reboot(self) -> bool:
        """Whether it fires once at each start of the coordinator, beside what times it has."""
        return any(type(part.rule) is Cron and part.rule.expr == REBOOT for part in self.parts)

    @property
    def open(self) -> bool:
        """Whether an ``every`` in it has no start yet."""
        return any(_open(part) for part in self.parts)

    def anchored(self, moment: int) -> Trigger:
        """The same with each open ``every`` beginning one interval after that moment."""
        if not self.open:
            return self
        return replace(self, parts=tuple(_anchored(part, moment) for part in self.parts))

    def describe(self) -> str:
        """A sentence for people."""
        return words.sentence(self)

    def __str__(self) -> str:
        return self.describe()

    # ------------------------------------------------------------------ making others

    def __or__(self, other: Trigger) -> Trigger:
        if not isinstance(other, Trigger):
            return NotImplemented
        if self.count is not None or other.count is not None:
            raise BadTrigger("count", "belongs to the whole: (a | b).bounded(count=...)")
        return _checked(Trigger(tuple(dict.fromkeys(self.parts + other.parts))))

    def without(self, *what: object, tz: str | None = None) -> Trigger:
        """The same but for what is given: dates, triggers, ``holidays(country)``, or iterables of them.

        A date is a day on the clock of ``tz``, by default of each part's own zone. A ``cron`` trigger excludes the
        whole minutes its expression names (with a field of seconds: the seconds), others exclude moments.
        Raises ``BadTrigger``, also if nothing is left.
        """
        days: set[int] = set()
        outs: list[Part | Holidays] = []
        _sort_out(what, days, outs)
        zone = None if tz is None else zone_of(tz).name

        def one(part: Part) -> Part:
            clock = zone or part.rule.tz
            own: list[Dates | Holidays | Part] = [Dates(tuple(sorted(days)), clock)] if days else []
            own += [replace(out, tz=out.tz or clock) if isinstance(out, Holidays) else out for out in outs]
            return replace(part, outs=tuple(dict.fromkeys([*part.outs, *own])))

        return _checked(replace(self, parts=tuple(one(part) for part in self.parts)))

    def bounded(self, start: object = None, end: object = None, count: int | None = None) -> Trigger:
        """The same from ``start`` to ``end``, both included, and ``count`` times at most. Narrows what there is."""
        zone = zone_of(self.tz)
        first = None if start is None else moment_us(start, "start", zone)
        last = None if end is None else moment_us(end, "end", zone)
        parts = tuple(
            replace(part, start_us=_pick(max, part.start_us, first), end_us=_pick(min, part.end_us, last))
            for part in self.parts
        )
        return _checked(Trigger(parts, _pick(min, self.count, count if count is None else _count(count))))

    # ------------------------------------------------------------------ as plain values

    def to_wire(self) -> list[Any]:
        """Lists, texts, integers and None, for msgpack. The same for equal triggers."""
        return [WIRE_VERSION, self.count, [_part_out(part) for part in self.parts]]

    def __reduce__(self) -> tuple[Callable[[object], Trigger], tuple[list[Any]]]:
        return from_wire, (self.to_wire(),)


def _pick(
    choose: Callable[[int, int], int],  # min or max
    a: int | None,
    b: int | None,
) -> int | None:
    return b if a is None else a if b is None else choose(a, b)


def _open(part: Part) -> bool:
    return type(part.rule) is Every and part.rule.start_us is None


def _anchored(part: Part, moment: int) -> Part:
    rule = part.rule
    if type(rule) is not Every or rule.start_us is not None:
        return part
    return replace(part, rule=replace(rule, start_us=moment + rule.interval_us))


def _sort_out(what: object, days: set[int], outs: list[Part | Holidays]) -> None:
    """Put what is excluded where it belongs."""
    if isinstance(what, dt.date) and not isinstance(what, dt.datetime):
        days.add(what.toordinal())
    elif isinstance(what, Holidays):
        outs.append(what)
    elif isinstance(what, Trigger):
        if what.count is not None:
            raise BadTrigger("without", "a trigger with a count cannot be excluded")
        outs += what.parts
    elif isinstance(what, Iterable) and not isinstance(what, str | bytes | dict):
        for item in what:
            _sort_out(item, days, outs)
            if len(days) > MAX_DATES or len(outs) > MAX_EXCLUSIONS:
                break  # more than enough to be refused
    else:
        raise BadTrigger("without", f"dates, triggers or holidays(country), not {what!r:.64}")


# --------------------------------------------------------------------------- checks


def _count(count: object) -> int:
    if type(count) is not int or not 1 <= count <= MAX_COUNT:
        raise BadTrigger("count", f"a number from 1 to {MAX_COUNT}, not {count!r:.64}")
    return count


def _checked(trigger: Trigger) -> Trigger:
    """That trigger, if it is within all bounds and fires. Its rules are checked already."""
    if not 1 <= len(trigger.parts) <= MAX_PARTS:
        raise BadTrigger("union", f"of {len(trigger.parts)}; {MAX_PARTS} are the most")
    for part in trigger.parts:
        if len(part.outs) > MAX_EXCLUSIONS:
            raise BadTrigger("without", f"{len(part.outs)} exclusions; {MAX_EXCLUSIONS} are the most")
        for out in part.outs:
            if type(out) is Dates and not (1 <= len(out.days) <= MAX_DATES and _days_sound(out.days)):
                raise BadTrigger("without", f"1 to {MAX_DATES} dates of the years 1900 to 2499")
            if type(out) is Part and out.outs:
                raise BadTrigger("without", "what is excluded cannot have exclusions of its own")
            if type(out) is Part and _open(out):
                raise BadTrigger("without", "an `every` that is excluded needs start= or aligned=True")
        if part.start_us is not None and part.end_us is not None and part.start_us > part.end_us:
            raise BadTrigger("end", "is before the start")
    _assert_fires(trigger)
    return trigger


def _days_sound(days: tuple[int, ...]) -> bool:
    return days[0] >= FIRST_DAY and days[-1] <= LAST_DAY


def _assert_fires(trigger: Trigger) -> None:
    """One part that does is enough: another may have ended, or be excluded as a whole."""
    reasons = []
    for part in trigger.parts:
        reason = _idle(part, MAX_PASSED // len(trigger.parts))
        if reason is None:
            return
        reasons.append(reason)
    raise reasons[0]


def _idle(part: Part, most: int) -> BadTrigger | None:
    """Why that part never fires."""
    if not part.outs and part.start_us is None and part.end_us is None:
        return None  # its rule was checked
    if type(part.rule) is Cron and part.rule.expr == REBOOT:
        return None
    part = _anchored(part, REFERENCE_US if part.start_us is None else part.start_us)
    rule = part.rule
    if part.start_us is not None:
        at = part.start_us - 1
    elif type(rule) is At:
        at = rule.moments_us[0] - 1
    elif type(rule) is Every and rule.start_us:
        at = rule.start_us - 1
    else:
        at = REFERENCE_US if part.end_us is None else min(REFERENCE_US, part.end_us - _HORIZON_US)
    for _ in range(_TRIES):
        try:
            found = part.next_after(at, most)
        except SearchGoesOn as e:
            at = e.until_us
            continue
        if found is not None:
            return None
        if part.outs:
            return BadTrigger("without", "excludes all its times")
        return BadTrigger("end" if part.end_us is not None else "start", "it never fires within its bounds")
    return BadTrigger("without", f"excludes all its times in a row up to {aware(at, zone_of(part.rule.tz))} at least")


# --------------------------------------------------------------------------- the wire


def _part_out(part: Part) -> list[Any]:
    return [_rule_out(part.rule), [_out_out(out) for out in part.outs], part.start_us, part.end_us]


def _rule_out(rule: Rule) -> list[Any]:
    match rule:
        case Cron():
            return ["cron", rule.expr, rule.tz, rule.dst]
        case Every():
            return ["every", rule.interval_us, rule.start_us, rule.tz]
        case At():
            return ["at", list(rule.moments_us), rule.tz]


def _out_out(out: Dates | Holidays | Part) -> list[Any]:
    match out:
        case Dates():
            return ["dates", list(out.days), out.tz]
        case Holidays():
            return ["holidays", out.country, out.subdivision, out.tz]
        case Part():
            return ["times", _part_out(out)]


def from_wire(value: object) -> Trigger:
    """The trigger of ``to_wire``; tuples do for lists. Raises ``BadTrigger``, and nothing else, for anything else."""
    version, count, parts = _list(value, "trigger", 3)
    if version != WIRE_VERSION or type(version) is not int:
        raise BadTrigger("trigger", f"is of version {version!r:.64}; this is {WIRE_VERSION}")
    made = tuple(_part_in(part, "part") for part in _list(parts, "union", None, MAX_PARTS))
    if len(set(made)) < len(made):
        raise BadTrigger("union", "has a part twice")
    if not made:
        raise BadTrigger("union", "has no parts")
    return _checked(Trigger(made, None if count is None else _count(count)))


def _part_in(value: object, where: str) -> Part:
    rule, outs, start, end = _list(value, where, 4)
    excluded = tuple(_out_in(out, where) for out in _list(outs, "without", None, MAX_EXCLUSIONS))
    return Part(_rule_in(rule), excluded, _moment(start, "start", True), _moment(end, "end", True))


def _rule_in(value: object) -> Rule:
    match _list(value, "rule", None, 4):
        case ["cron", expr, tz, dst]:
            rule = cron_of(expr, tz, dst)
            if rule.expr != expr:
                raise BadTrigger("expression", f"{expr!r:.64} is not in its plain form {rule.expr!r}")
            return rule
        case ["every", interval, start, tz]:
            if type(interval) is not int or not MIN_INTERVAL_US <= interval <= MAX_INTERVAL_US:
                raise BadTrigger("interval", f"{interval!r:.64} is not microseconds up to a hundred years")
            return Every(interval, _moment(start, "start", True), zone_of(tz).name)
        case ["at", moments, tz]:
            return At(_ascending(moments, "at", MAX_MOMENTS, FIRST_US, LAST_US), zone_of(tz).name)
        case _:
            raise BadTrigger("rule", f"{value!r:.64} is of no kind that is known")


def _out_in(value: object, where: str) -> Dates | Holidays | Part:
    if where == "without":
        raise BadTrigger("without", "what is excluded cannot have exclusions of its own")
    match _list(value, "without", None, 4):
        case ["dates", days, tz]:
            return Dates(_ascending(days, "without", MAX_DATES, FIRST_DAY, LAST_DAY), zone_of(tz).name)
        case ["holidays", country, subdivision, tz]:
            return holidays_of(country, subdivision, zone_of(tz).name)
        case ["times", part]:
            return _part_in(part, "without")
        case _:
            raise BadTrigger("without", f"{value!r:.64} is of no kind that is known")


def _list(value: object, field: str, length: int | None, most: int = 0) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise BadTrigger(field, f"a list, not {value!r:.64}")
    if len(value) != length if length is not None else len(value) > most:
        raise BadTrigger(field, f"a list of {length or most}, not of {len(value)}")
    return list(value)


def _moment(value: object, field: str, optional: bool = False) -> int | None:
    if value is None and optional:
        return None
    if type(value) is not int or not FIRST_US <= value <= LAST_US:
        raise BadTrigger(field, f"{value!r:.64} is not microseconds in the years 1900 to 2499")
    return value


def _ascending(value: object, field: str, most: int, low: int, high: int) -> tuple[int, ...]:
    out = _list(value, field, None, most)
    sound = all(type(x) is int for x in out) and bool(out)
    if not sound or not low <= out[0] or not out[-1] <= high or any(a >= b for a, b in pairwise(out)):
        raise BadTrigger(field, f"1 to {most} ascending numbers from {low} to {high}")
    return tuple(out)
