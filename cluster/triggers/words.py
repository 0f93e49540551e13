"""A trigger in words. Rules of this file: English for people; nothing reads it back."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cluster.triggers.crontab import Cron, Search
from cluster.triggers.moments import US, aware, zone_of
from cluster.triggers.rules import At, Dates, Every, Holidays

if TYPE_CHECKING:
    from cluster.triggers.trigger import Part, Trigger

MAX_LISTED = 5
"""Moments, dates and exclusions that are named; of more, their number is told."""

_UNITS = ((7 * 86_400, "week"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_IN_CHANGES = {
    "crond": "as crond does when the clocks change",
    "wall": "skipped in a gap, twice in an overlap when the clocks change",
    "once": "skipped in a gap, once in an overlap when the clocks change",
}


def sentence(trigger: Trigger) -> str:
    text = "; and ".join(_part(part) for part in trigger.parts[:MAX_LISTED])
    more = len(trigger.parts) - MAX_LISTED
    if more > 0:
        text += f"; and {more} more"
    if trigger.count is not None:
        text += f"; {trigger.count} time{'s' * (trigger.count > 1)} at most"
    return text[:1].upper() + text[1:]


def _part(part: Part) -> str:
    zone = zone_of(part.rule.tz)
    text = _rule(part.rule)
    if part.start_us is not None:
        text += f", from {_moment(aware(part.start_us, zone))}"
    if part.end_us is not None:
        text += f", until {_moment(aware(part.end_us, zone))}"
    if part.outs:
        text += f", except {_listed([_out(out) for out in part.outs], 'exclusions')}"
    return text


def _rule(rule: Cron | Every | At) -> str:
    zone = zone_of(rule.tz)
    match rule:
        case Cron():
            if rule.search is None:
                return "at each start of the coordinator"
            changes = "" if zone.fixed else f", {_IN_CHANGES[rule.dst]}"
            return f"{_times(rule.expr, rule.search)}, {rule.tz}{changes}"
        case Every():
            text = f"every {_duration(rule.interval_us)}"
            if rule.start_us is None:
                return text
            if rule.start_us == 0:
                return f"{text}, on multiples of it since 1970 in UTC"
            return f"{text} from {_moment(aware(rule.start_us, zone))} on"
        case At():
            return f"at {_listed([_moment(aware(m, zone)) for m in rule.moments_us], 'moments')}"


def _times(expr: str, search: Search) -> str:
    if not search.words:
        return f"at the times of `{expr}` (W: the nearest weekday)"
    either = "" if search.day_and else " (either day will do)"
    return f"{search.words[:1].lower()}{search.words[1:]}{either}"


def _out(out: Dates | Holidays | Part) -> str:
    match out:
        case Dates():
            return _listed([dt.date.fromordinal(day).isoformat() for day in out.days], "dates")
        case Holidays():
            return f"holidays of {out.country}{f'-{out.subdivision}' * bool(out.subdivision)}"
        case _:
            return f"({_part(out)})"


def _listed(words: list[str], noun: str) -> str:
    if len(words) > MAX_LISTED:
        return f"{len(words)} {noun} ({words[0]} to {words[-1]})" if noun != "exclusions" else f"{len(words)} {noun}"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _moment(shown: dt.datetime) -> str:
    return f"{shown.isoformat(' ', 'auto')}"


def _duration(us: int) -> str:
    if us % US:
        return f"{us / US:g} seconds"
    seconds = us // US
    for size, name in _UNITS:
        if seconds % size == 0:
            n = seconds // size
            return name if n == 1 else f"{n} {name}s"
    raise AssertionError(us)
