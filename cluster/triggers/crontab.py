"""A cron expression and its times. Rules of this file: the words of crontab(5), and what it adds to them.

- Fields: minute, hour, day of month, month, day of week; a sixth one, of seconds, may come first. Names of months and
  weekdays in any case, lists, ranges, steps; Sunday is 0 and 7; ``@hourly`` and the like.
- If both day fields are restricted, either suffices. If one of them *begins* with ``*``, both must fit:
  ``0 0 */2 * 1`` is odd days that are Mondays.
- Beyond crontab(5): ``L`` (last day), ``LW`` (last weekday), ``15W`` (weekday nearest the 15th, in the same month),
  ``5L`` (last Friday), ``5#2`` (second Friday), ``5/15`` (from 5 on), ``FRI-SUN``, ``?`` for ``*`` as a day.
- What is malformed or can never fire is refused, with the field and the reason.

``cronsim`` parses the plain terms and searches, on naive wall-clock times. What a zone makes of these is decided here,
by the daylight-saving rule ``dst``:

- ``crond``: as cron(8). A job is *fixed* if neither its minute nor its hour field begins with ``*``. In a gap a
  fixed job runs at the first minute after it, others do not run. In an overlap a fixed job runs in the first pass only,
  others in both. A jump of three hours or more is a correction of the clock: nothing is made good or held back.
- ``wall``: runs whenever the clock shows its time. A gap is skipped, in an overlap both passes run.
- ``once``: a gap is skipped, and in an overlap only the first pass runs.

crond starts a fixed job once for each of its times in a gap, all in one minute. Here a moment fires once.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from cronsim import CronSim, CronSimError

from cluster.errors import BadTrigger
from cluster.triggers.moments import US, zone_of
from cluster.triggers.zones import EPOCH, Stretch, Zone, nearest

MAX_EXPRESSION = 256
"""Characters. The longest that says anything new, a list of all minutes, has 180."""
HORIZON_S = 50 * 366 * 86_400
"""A search ends here. The longest pause of a date is 40 years: a weekday on 29 February, over the year 2100."""
REFERENCE_US = int((datetime(2025, 1, 1) - EPOCH).total_seconds()) * US
"""Nothing here reads a clock: whether a trigger fires at all is tried from this moment on."""

DST_RULES = ("crond", "wall", "once")
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
REBOOT = "@reboot"
"""Has no times: it is for whoever starts the coordinator to fire it."""

_SECOND = timedelta(seconds=1)
_LATE_MIN = 5
"""crond takes a smaller gap for a late wake-up, and runs all that it missed (cron.c, ``wakeupKind`` 1)."""
_LONG_MIN = 180
"""crond takes a gap of so many minutes, or a longer overlap, for a correction of the clock (``wakeupKind`` 3 and -1;
it compares with the minute before, so a gap of just three hours is one already, and an overlap is not)."""


# --------------------------------------------------------------------------- fields


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Of the values from 0 on; empty where there is none."""

    def value(self, word: str) -> int:
        if word in self.names:
            return self.names.index(word)
        if not word.isdigit():
            near = nearest(word, [n for n in self.names if n])
            raise BadTrigger(self.name, f"{word!r} is not a number{f' or a name; did you mean {near}?' * bool(near)}")
        value = int(word)
        if not self.low <= value <= self.high:
            raise BadTrigger(self.name, f"{word} is not between {self.low} and {self.high}")
        return value


_MONTHS = ("", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
SECOND, MINUTE, HOUR = _Field("second", 0, 59), _Field("minute", 0, 59), _Field("hour", 0, 23)
DAY, MONTH, WEEKDAY = _Field("day of month", 1, 31), _Field("month", 1, 12, _MONTHS), _Field("day of week", 0, 7, _DAYS)
FIELDS = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY)

_TERM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d{1,4}))?", re.ASCII)
_NEAREST = re.compile(r"(\d{1,2})W", re.ASCII)
_LAST = re.compile(r"([0-7]|[A-Z]{3})L", re.ASCII)
_NTH = re.compile(r"(\w+)#(\w+)", re.ASCII)


@dataclass(slots=True)
class _Parsed:
    """One field: its terms as cronsim understands them, and the days that want a weekday near them."""

    terms: list[str]
    nearest: set[int]


def _parse(kind: _Field, text: str) -> _Parsed:
    out = _Parsed([], set())
    for term in text.split(","):
        if kind is DAY and (found := _NEAREST.fullmatch(term)):
            out.nearest.add(kind.value(found[1]))
        elif kind is DAY and term in ("L", "LW"):
            out.terms.append(term)
        elif kind is WEEKDAY and (found := _LAST.fullmatch(term)):
            out.terms.append(f"{kind.value(found[1])}L")
        elif kind is WEEKDAY and (found := _NTH.fullmatch(term)):
            if found[2] not in ("1", "2", "3", "4", "5"):
                raise BadTrigger(kind.name, f"{term!r}: a month has a first to a fifth weekday, no {found[2]!r}")
            out.terms.append(f"{kind.value(found[1])}#{found[2]}")
        elif found := _TERM.fullmatch(term):
            out.terms.append(_plain(kind, term, *found.groups()))
        else:
            raise BadTrigger(kind.name, _malformed(kind, term))
    return out


def _plain(kind: _Field, term: str, star: str | None, first: str | None, last: str | None, step: str | None) -> str:
    """A star, number or range, with its step: so that cronsim takes it as crontab(5) means it."""
    if step is not None and int(step) == 0:
        raise BadTrigger(kind.name, f"{term!r}: a step of 0")
    if star:
        return "*" if step is None or int(step) == 1 else f"*/{int(step)}"
    if kind is WEEKDAY and first == "L":
        raise BadTrigger(kind.name, "L stands behind a weekday, as in 5L")
    assert first is not None
    low = kind.value(first)
    if last is None:
        if step is None:
            return str(low)
        high = kind.high  # from there on: not in crontab(5), whose crond refuses it
    else:
        high = kind.value(last)
        if kind is WEEKDAY and high == 0 < low:
            high = 7
        if high < low:
            raise BadTrigger(kind.name, f"{term!r} runs backwards")
    if step is None:
        return f"{low}-{high}" if low < high else str(low)
    values = range(low, high + 1, int(step))
    # Of a range of one value with a step cronsim makes one that runs to the end.
    return f"{low}-{high}/{int(step)}" if len(values) > 1 else str(low)


def _malformed(kind: _Field, term: str) -> str:
    if not term:
        return "a list has an empty place"
    if term == "?" or re.fullmatch(r"[LW]|\w*[LW#]\w*", term):
        return f"{term!r} is not for this field, or not in this form"
    return f"{term!r} is not a number, a range, * or one of them with a step"


# --------------------------------------------------------------------------- search

_H = TypeVar("_H", bound=Hashable)


@lru_cache(maxsize=4096)
def _one(items: frozenset[_H]) -> set[_H]:
    """One set for all fields that name the same. Nobody changes it."""
    return set(items)


class Search(CronSim):
    """Dates and times that fit an expression, on a clock without a zone. It is never moved: searches are copies."""

    near: set[int]
    """Days of month that want the nearest weekday."""

    def __init__(self, parts: list[str]) -> None:
        parsed = [_parse(kind, text) for kind, text in zip(FIELDS, parts, strict=True)]
        days = parsed[3]
        texts = [",".join(p.terms) for p in parsed]
        if days.nearest:
            texts[3] = ",".join([*days.terms, "1"])
        try:
            super().__init__(" ".join(texts), EPOCH)
        except CronSimError:
            raise BadTrigger(DAY.name, f"no month of those named has a day {parts[3]}") from None
        if days.nearest:  # cronsim has not seen these, nor therefore how the field begins
            self.day_and = parts[3].startswith("*") or parts[5].startswith("*")
            self.days = CronSim(f"0 0 {','.join(days.terms)} * *", EPOCH).days if days.terms else set()
        self.near = days.nearest
        self.words = "" if days.nearest else self.explain()
        for name in ("seconds", "minutes", "hours", "days", "months", "weekdays", "near"):
            setattr(self, name, _one(frozenset(getattr(self, name))))

    def after(self, wall: int) -> int | None:
        """The first wall time after that one, or None if there is none in fifty years."""
        walk = Search.__new__(Search)
        walk.__dict__ = self.__dict__.copy()
        walk.dt = EPOCH + timedelta(seconds=wall + 1)
        try:
            walk.advance()
        except StopIteration:
            return None
        return (walk.dt - EPOCH) // _SECOND

    def match_dom(self, d: date) -> bool:
        return super().match_dom(d) or (bool(self.near) and d.day in _weekdays_near(d.year, d.month, self.near))

    def names(self, wall: datetime, minutely: bool) -> bool:
        """Whether that minute or second fits."""
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and (minutely or wall.second in self.seconds)
            and wall.month in self.months
            and self.match_day(wall)
        )

    def end_of(self, wall: datetime, minutely: bool) -> datetime:
        """The end of the second, minute, hour or day that fits as a whole, where ``wall`` does."""
        minute = wall.replace(second=0, microsecond=0)
        if not minutely and len(self.seconds) < 60:
            return wall.replace(microsecond=0) + _SECOND
        if len(self.minutes) < 60:
            return minute + timedelta(minutes=1)
        if len(self.hours) < 24:
            return minute.replace(minute=0) + timedelta(hours=1)
        return minute.replace(hour=0, minute=0) + timedelta(days=1)


def _weekdays_near(year: int, month: int, days: set[int]) -> set[int]:
    """Quartz: a Saturday becomes the Friday before, a Sunday the Monday after, but never in another month."""
    first, length = calendar.monthrange(year, month)
    out = set()
    for day in days:
        if day <= length:
            weekday = (first + day - 1) % 7
            if weekday == 5:
                day += -1 if day > 1 else 2
            elif weekday == 6:
                day += 1 if day < length else -2
            out.add(day)
    return out


# --------------------------------------------------------------------------- the rule


@dataclass(frozen=True, slots=True)
class Cron:
    """An expression on the clock of a zone. Get it from ``cron_rule``: equal ones are one object."""

    expr: str
    tz: str
    dst: str
    zone: Zone = field(init=False, repr=False, compare=False)
    search: Search | None = field(init=False, repr=False, compare=False)
    """None for ``@reboot``."""
    fixed: bool = field(init=False, repr=False, compare=False)
    minutely: bool = field(init=False, repr=False, compare=False)
    """Without a field of seconds."""

    def __post_init__(self) -> None:
        put: Any = object.__setattr__
        put(self, "zone", zone_of(self.tz))
        parts = MACROS.get(self.expr, self.expr).split()
        put(self, "minutely", len(parts) < 6)
        if self.expr == REBOOT:
            put(self, "search", None)
            put(self, "fixed", True)
            return
        if self.minutely:
            parts = ["0", *parts]
        for i in (3, 5):
            parts[i] = "*" if parts[i] == "?" else parts[i]
        put(self, "fixed", not parts[1].startswith("*") and not parts[2].startswith("*"))
        put(self, "search", Search(parts))
        self._assert_fires(parts)

    def _assert_fires(self, parts: list[str]) -> None:
        assert self.search is not None
        if self.search.after(REFERENCE_US // US) is None:
            if not self.search.day_and or parts[5] == "*":
                raise BadTrigger(DAY.name, f"no month of those named has a day {parts[3]}")
            raise BadTrigger(DAY.name, f"no date fits both {parts[3]} and the day of week {parts[5]}")
        if self.next_after(REFERENCE_US) is None:
            raise BadTrigger("dst", f"all its times are in gaps of {self.tz}, and {self.dst!r} skips these")

    def next_after(self, moment_us: int) -> int | None:
        """The first fire time after that moment; None if there is none within fifty years."""
        search = self.search
        if search is None:
            return None
        at = moment_us // US  # fire times are whole seconds
        limit = at + HORIZON_S
        searched, found = 0, None  # no wall time fits between these two
        while at < limit:
            here = self.zone.stretch(at + 1)
            wall = at + here.offset
            if here.offset > here.before:
                late = self._after_gap(here)
                if late > at:
                    gap = here.start + here.before - 1
                    if found is None or not searched <= gap < found:
                        searched, found = gap, search.after(gap)
                        if found is None:
                            return None
                    if found < here.start + here.offset:
                        return late * US
            elif here.offset < here.before and self._first_pass_only(here):
                wall = max(wall, here.start + here.before - 1)
            if found is None or not searched <= wall < found:
                searched, found = wall, search.after(wall)
                if found is None:
                    return None
            if found - here.offset < here.end:
                return (found - here.offset) * US
            at = here.end - 1
        return None

    def _after_gap(self, here: Stretch) -> int:
        """When a job runs whose time is in the gap before; -1 if it does not."""
        minutes = (here.offset - here.before) // 60
        if self.dst != "crond" or not (minutes < _LATE_MIN or (self.fixed and minutes < _LONG_MIN)):
            return -1
        return here.start + -(here.start + here.offset) % 60 if self.minutely else here.start

    def _first_pass_only(self, here: Stretch) -> bool:
        if self.dst == "crond":
            return self.fixed and (here.before - here.offset) // 60 <= _LONG_MIN
        return self.dst == "once"

    def covered_until(self, moment_us: int) -> int | None:
        """As an exclusion: the end of what this names around that moment, or None if that is not named.

        An expression names whole minutes, with a field of seconds whole seconds, whenever the clock shows them; and
        the moments it fires at after a gap.
        """
        if self.search is None:
            return None
        here = self.zone.stretch(moment_us // US)
        wall = EPOCH + timedelta(seconds=moment_us // US + here.offset)
        if self.search.names(wall, self.minutely):
            end = (self.search.end_of(wall, self.minutely) - EPOCH) // _SECOND - here.offset
            return min(end, here.end) * US
        if moment_us == self._after_gap(here) * US and self.next_after(moment_us - 1) == moment_us:
            return moment_us + 1
        return None


@lru_cache(maxsize=16_384)
def cron_rule(expr: str, tz: str, dst: str) -> Cron:
    return Cron(expr, tz, dst)


def cron_of(expr: object, tz: object, dst: object) -> Cron:
    """The rule, checked. Raises ``BadTrigger``."""
    if type(dst) is not str or dst not in DST_RULES:
        raise BadTrigger("dst", f"{dst!r:.64} is none of {', '.join(DST_RULES)}")
    zone = zone_of(tz)
    if type(expr) is not str:
        raise BadTrigger("expression", f"text, not {type(expr).__name__}")
    if len(expr) > MAX_EXPRESSION:
        raise BadTrigger("expression", f"has {len(expr)} characters; {MAX_EXPRESSION} are the most")
    words = expr.upper().split()
    if not words:
        raise BadTrigger("expression", "is empty")
    if words[0].startswith("@"):
        name = " ".join(words).lower()
        if name not in MACROS and name != REBOOT:
            near = nearest(name, [*MACROS, REBOOT])
            raise BadTrigger("expression", f"{name!r} is no name for times{f'; did you mean {near}?' * bool(near)}")
        return cron_rule(name, zone.name, dst)
    if "=" in words[0]:
        raise BadTrigger("expression", f"begins with {words[0]!r}; the zone is given as tz=")
    if len(words) not in (5, 6):
        raise BadTrigger(
            "expression",
            f"has {len(words)} fields; it wants minute, hour, day, month, weekday, and may begin with second",
        )
    return cron_rule(" ".join(words), zone.name, dst)
