"""Rules that need no calendar, and what can be excluded. Rules of this file: values; each knows its own times only.

A rule answers ``next_after(moment)``: its first fire time after that. What can be excluded answers
``covered_until(moment)``: the end of what it names around that moment, or None. A date is a day of its zone, from
midnight to midnight on that clock. Holidays are the dates the ``holidays`` package has for a country; a new release
of it can move them.
"""

from __future__ import annotations

import datetime as dt
import importlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cluster.errors import BadTrigger
from cluster.triggers.moments import MAX_TEXT, US, aware, zone_of
from cluster.triggers.zones import EPOCH, Zone, nearest

MAX_MOMENTS = 1_000
"""Of one ``at``."""
MAX_DATES = 1_000
"""Of one exclusion."""

FIRST_DAY, LAST_DAY = dt.date(1900, 1, 1).toordinal(), dt.date(2499, 12, 31).toordinal()
_EPOCH_DAY = EPOCH.toordinal()
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Every:
    """``start_us`` and whole intervals after it. Without a start it has no times until it is given one."""

    interval_us: int
    start_us: int | None
    """0 where the times are multiples of the interval since 1970 in UTC."""
    tz: str

    def next_after(self, moment_us: int) -> int:
        if self.start_us is None:
            raise BadTrigger("start", "this `every` has none yet: anchor the trigger first")
        passed = (moment_us - self.start_us) // self.interval_us
        return self.start_us + max(passed + 1, 0) * self.interval_us

    def covered_until(self, moment_us: int) -> int | None:
        return moment_us + 1 if self.next_after(moment_us - 1) == moment_us else None


@dataclass(frozen=True, slots=True)
class At:
    moments_us: tuple[int, ...]
    """Ascending, at least one."""
    tz: str

    def next_after(self, moment_us: int) -> int | None:
        found = bisect_right(self.moments_us, moment_us)
        return self.moments_us[found] if found < len(self.moments_us) else None

    def covered_until(self, moment_us: int) -> int | None:
        return moment_us + 1 if self.next_after(moment_us - 1) == moment_us else None


# --------------------------------------------------------------------------- days


def _end_of_day(day: int, moment_us: int, zone: Zone) -> int:
    """The first moment that is not on that day any more, after one that is."""
    wall = (day + 1 - _EPOCH_DAY) * _DAY_S
    here = zone.stretch(moment_us // US)
    while wall - here.offset >= here.end:
        here = zone.stretch(here.end)
    return max(wall - here.offset, here.start) * US  # midnight itself may be in a gap


@dataclass(frozen=True, slots=True)
class Dates:
    days: tuple[int, ...]
    """Proleptic ordinals (``date.toordinal``), ascending, at least one."""
    tz: str

    def covered_until(self, moment_us: int) -> int | None:
        zone = zone_of(self.tz)
        day = aware(moment_us, zone).toordinal()
        found = bisect_left(self.days, day)
        if found == len(self.days) or self.days[found] != day:
            return None
        return _end_of_day(day, moment_us, zone)


@dataclass(frozen=True, slots=True)
class Holidays:
    """Public holidays of a country (ISO 3166 code) or its part. Made by ``holidays``."""

    country: str
    subdivision: str
    tz: str
    """Empty until the trigger's own is put in."""

    def covered_until(self, moment_us: int) -> int | None:
        zone = zone_of(self.tz)
        shown = aware(moment_us, zone)
        day = shown.toordinal()
        if day not in _days_of(self.country, self.subdivision, shown.year):
            return None
        return _end_of_day(day, moment_us, zone)


def holidays_of(country: object, subdivision: object = "", tz: str = "") -> Holidays:
    """Checked. Raises ``BadTrigger`` for a country the package does not have, or without the package."""
    for name, value in (("country", country), ("subdivision", subdivision)):
        if type(value) is not str or len(value) > MAX_TEXT:
            raise BadTrigger(f"holidays {name}", f"a code such as 'DE', not {value!r:.64}")
    assert type(country) is str and type(subdivision) is str
    known = _countries()
    country = country.upper()
    if country not in known:
        raise BadTrigger("holidays country", f"{country!r} is none of {', '.join(sorted(known))}")
    if subdivision and subdivision not in known[country]:
        near = nearest(subdivision, known[country])
        hint = f"did you mean {near!r}?" if near else f"it has {', '.join(known[country]) or 'none'}"
        raise BadTrigger("holidays subdivision", f"{country} has no {subdivision!r}; {hint}")
    return Holidays(country, subdivision, tz)


def _package() -> Any:
    try:
        return importlib.import_module("holidays")
    except ImportError:
        raise BadTrigger("holidays", "the package is not installed; pip install 'ganger[holidays]'") from None


@lru_cache(maxsize=1)
def _countries() -> dict[str, list[str]]:
    return {str(country): [str(s) for s in parts] for country, parts in _package().list_supported_countries().items()}


@lru_cache(maxsize=4096)
def _days_of(country: str, subdivision: str, year: int) -> frozenset[int]:
    found: Iterable[dt.date] = _package().country_holidays(country, subdiv=subdivision or None, years=year)
    return frozenset(day.toordinal() for day in found)
