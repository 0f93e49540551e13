"""Moments and durations as whole microseconds, and how a bad one is refused. Rules of this file: numbers only.

A moment is an integer: microseconds since 1970 in UTC. The nominal time of a firing is part of a key, so it has to
be the same number wherever and whenever it is worked out; a float would do so only by luck.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cluster.errors import BadTrigger
from cluster.triggers.zones import EPOCH, Zone, ZoneUnknown, find

US = 1_000_000
_AWARE_EPOCH = EPOCH.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

FIRST_US = (datetime(1900, 1, 1) - EPOCH) // _MICROSECOND
LAST_US = (datetime(2500, 1, 1) - EPOCH) // _MICROSECOND
"""No moment is before the one or after the other."""

MIN_INTERVAL_US, MAX_INTERVAL_US = 1_000, 100 * 366 * 86_400 * US
MAX_TEXT = 64
"""Characters of a moment or of a zone's name."""


def zone_of(name: object, field: str = "tz") -> Zone:
    """The time zone of that IANA name. Raises ``BadTrigger`` with the nearest name."""
    if type(name) is not str or len(name) > MAX_TEXT:
        raise BadTrigger(field, f"a zone is given by its IANA name, such as 'Europe/Berlin', not as {_short(name)}")
    try:
        return find(name)
    except ZoneUnknown as e:
        raise BadTrigger(field, str(e)) from None


def moment_us(value: object, field: str, zone: Zone | None = None) -> int:
    """The moment of an aware datetime or ISO text; with a zone also of a naive one, which is that zone's wall clock."""
    if type(value) is str and len(value) <= MAX_TEXT:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise BadTrigger(field, f"{value!r} is not a moment such as '2026-03-29T02:30:00+01:00'") from None
    if not isinstance(value, datetime):
        raise BadTrigger(field, f"a moment is a datetime or ISO text, not {_short(value)}")
    if value.utcoffset() is None:
        if zone is None:
            raise BadTrigger(field, f"{value} has no time zone; give it one, or name one as tz=")
        if not 1900 <= value.year < 2500:
            raise BadTrigger(field, f"{value} is not in the years 1900 to 2499")
        wall = value.replace(tzinfo=zone.clock)
        if wall.astimezone(UTC).astimezone(zone.clock).replace(tzinfo=None) != value.replace(tzinfo=None):
            raise BadTrigger(field, f"{value} does not exist in {zone.name}: the clock is put forward over it")
        value = wall
    try:
        out = (value.astimezone(UTC) - _AWARE_EPOCH) // _MICROSECOND
    except OverflowError:
        out = LAST_US + 1
    if not FIRST_US <= out <= LAST_US:
        raise BadTrigger(field, f"{value} is not in the years 1900 to 2499")
    return out


def duration_us(value: object, field: str) -> int:
    """Whole microseconds of a number of seconds or a timedelta."""
    if isinstance(value, timedelta):
        out = value // _MICROSECOND
    elif isinstance(value, int | float) and type(value) is not bool and abs(value) < MAX_INTERVAL_US:
        out = round(value * US)
    else:
        raise BadTrigger(field, f"a duration is seconds or a timedelta, not {_short(value)}")
    if not MIN_INTERVAL_US <= out <= MAX_INTERVAL_US:
        raise BadTrigger(field, f"{_short(value)} is not between a millisecond and a hundred years")
    return out


def aware(moment: int, zone: Zone) -> datetime:
    """That moment on the zone's clock."""
    return (_AWARE_EPOCH + timedelta(microseconds=moment)).astimezone(zone.clock)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
