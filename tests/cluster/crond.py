"""crond, minute by minute. Rules of this file: slow and simple, from cron.c and entry.c; nothing of ours is used.

It is what the triggers are held to. ``starts`` is crond's own loop over the minutes of a zone's clock, with its
virtual clock and its four kinds of waking up; ``shown`` is what the clock shows, in each pass or in the first only.
A job that crond starts several times in one minute is counted once.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass
class Entry:
    minutes: set[int]
    hours: set[int]
    days: str
    months: set[int]
    weekdays: str
    wild: bool
    """Flag MIN_STAR or HR_STAR."""

    @classmethod
    def of(cls, expr: str) -> Entry:
        minute, hour, day, month, weekday = MACROS.get(expr, expr).lower().replace("?", "*").split()
        return cls(
            numbers(minute, 0, 59),
            numbers(hour, 0, 23),
            day,
            numbers(month, 1, 12, ["", *MONTHS]),
            weekday,
            minute[0] == "*" or hour[0] == "*",
        )

    def fits(self, wall: datetime) -> bool:
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.month in self.months
            and self.day_fits(wall.year, wall.month, wall.day)
        )

    def day_fits(self, year: int, month: int, day: int) -> bool:
        a = any(day in days_of_month(term, year, month) for term in self.days.split(","))
        b = any(day in days_of_week(term, year, month) for term in self.weekdays.split(","))
        return (a and b) if self.days[0] == "*" or self.weekdays[0] == "*" else (a or b)


def numbers(text: str, low: int, high: int, names: list[str] = []) -> set[int]:  # noqa: B006
    out: set[int] = set()
    for term in text.split(","):
        body, _, step = term.partition("/")
        first, _, last = body.partition("-")
        if first == "*":
            a, b = low, high
        else:
            a = names.index(first) if first in names else int(first)
            b = (names.index(last) if last in names else int(last)) if last else (high if step else a)
        if b == 0 < a and high == 7:  # cronie
            b = 7
        out |= set(range(a, b + 1, int(step or 1)))
    return out


def days_of_month(term: str, year: int, month: int) -> set[int]:
    length = calendar.monthrange(year, month)[1]
    work = [d for d in range(1, length + 1) if calendar.weekday(year, month, d) < 5]
    if term == "l":
        return {length}
    if term == "lw":
        return {work[-1]}
    if term.endswith("w"):
        wanted = int(term[:-1])
        if wanted > length:
            return set()
        return {min(work, key=lambda d: (abs(d - wanted), d))}
    return numbers(term, 1, 31)


def days_of_week(term: str, year: int, month: int) -> set[int]:
    length = calendar.monthrange(year, month)[1]

    def all_of(weekdays: set[int]) -> list[int]:
        wanted = {(n - 1) % 7 for n in weekdays}
        return [d for d in range(1, length + 1) if calendar.weekday(year, month, d) in wanted]

    if term.endswith("l"):
        return {all_of(numbers(term[:-1], 0, 7, DAYS))[-1]}
    if "#" in term:
        weekday, _, nth = term.partition("#")
        return set(all_of(numbers(weekday, 0, 7, DAYS))[int(nth) - 1 : int(nth)])
    return set(all_of(numbers(term, 0, 7, DAYS)))


def clock(zone: ZoneInfo, first: int, last: int) -> Iterator[tuple[int, datetime]]:
    """Each minute and what the clock shows."""
    for moment in range(first - first % 60, last + 1, 60):
        yield moment, datetime.fromtimestamp(moment, zone)


def starts(entry: Entry, tz: str, first: int, last: int) -> list[int]:
    """crond's main loop, started a day before: the moments from first to last at which it runs the job."""
    out = []
    virtual: int | None = None
    epoch = datetime(1970, 1, 1)
    for moment, shown in clock(ZoneInfo(tz), first - 86_400, last):
        running = int((shown.replace(tzinfo=None) - epoch).total_seconds()) // 60
        if virtual is None:
            virtual = running - 1
        run = False

        def find_jobs(minute: int, wild: bool, fixed: bool) -> bool:
            return (wild if entry.wild else fixed) and entry.fits(epoch + timedelta(minutes=minute))

        late = running - virtual
        if late == 1:
            virtual = running
            run = find_jobs(virtual, True, True)
        elif 0 < late <= 5:
            while virtual < running:
                virtual += 1
                run |= find_jobs(virtual, True, True)
        elif 5 < late <= 180:
            run = find_jobs(running, True, False)
            while virtual < running:
                virtual += 1
                run |= find_jobs(virtual, False, True)
        elif -180 < late <= 0:
            run = find_jobs(running, True, False)
        else:
            virtual = running
            run = find_jobs(virtual, True, True)
        if run and moment >= first:
            out.append(moment)
    return out


def shown(entry: Entry, tz: str, first: int, last: int, first_pass_only: bool) -> list[int]:
    return [
        moment
        for moment, wall in clock(ZoneInfo(tz), first, last)
        if moment >= first and entry.fits(wall) and not (first_pass_only and wall.fold)
    ]


def replay(expr: str, tz: str, dst: str, first: int, last: int) -> list[int]:
    """The moments (seconds since 1970) from first to last at which that expression is due."""
    entry = Entry.of(expr)
    if dst == "crond":
        return starts(entry, tz, first, last)
    return shown(entry, tz, first, last, dst == "once")
