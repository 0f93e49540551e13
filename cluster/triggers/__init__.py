"""When something is due: ``cron``, ``every``, ``at``. Rules of this room: pure; no clock, no chance, no state.

``zones`` knows what clocks show, ``crontab`` the times of an expression, ``rules`` those of the others, ``trigger``
puts them together, bounds them and carries them over the wire. Client and coordinator use the same code, so what was
previewed is what fires, as long as both have the same time-zone data.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace

from cluster.errors import BadTrigger
from cluster.triggers.crontab import cron_of
from cluster.triggers.moments import duration_us, moment_us, zone_of
from cluster.triggers.rules import MAX_MOMENTS, At, Every, Holidays, holidays_of
from cluster.triggers.trigger import Part, SearchGoesOn, Trigger, from_wire

__all__ = ["BadTrigger", "Holidays", "SearchGoesOn", "Trigger", "at", "cron", "every", "from_wire", "holidays"]

Moment = dt.datetime | str
Duration = float | dt.timedelta


def cron(
    expr: str,
    tz: str = "UTC",
    dst: str = "crond",
    *,
    start: Moment | None = None,
    end: Moment | None = None,
    count: int | None = None,
) -> Trigger:
    """The times of a cron expression on the clock of an IANA time zone.

    Five fields as in crontab(5), or six of which the first is the second; ``@daily`` and the like; ``L``, ``#`` and
    ``W``. ``@reboot`` has no times: it is fired at each start of the coordinator. ``dst`` says what is done when the
    clocks change: ``crond``, ``wall`` or ``once`` (see ``triggers.crontab``). A naive ``start`` or ``end`` is on the
    clock of ``tz``. Raises ``BadTrigger`` with the field and the reason, also for what can never fire.
    """
    trigger = Trigger((Part(cron_of(expr, tz, dst)),))
    return _bounded(trigger, start, end, count)


def every(
    interval: Duration,
    start: Moment | None = None,
    aligned: bool = False,
    *,
    end: Moment | None = None,
    count: int | None = None,
    tz: str | None = None,
) -> Trigger:
    """Each ``interval`` (seconds or a timedelta, a millisecond at least) of elapsed time, whatever clocks do.

    The first time is ``start``. Without it, it is one interval after the schedule was first made. ``aligned`` puts
    the times on multiples of the interval since 1970 in UTC; ``start`` is then only where they begin. ``tz`` is for
    naive moments and for showing. Raises ``BadTrigger``.
    """
    length = duration_us(interval, "interval")
    if type(aligned) is not bool:
        raise BadTrigger("aligned", f"True or False, not {aligned!r:.64}")
    zone = None if tz is None else zone_of(tz)
    first = None if start is None else moment_us(start, "start", zone)
    rule = Every(length, 0 if aligned else first, "UTC" if zone is None else zone.name)
    part = Part(rule, start_us=first if aligned else None)
    last = None if end is None else moment_us(end, "end", zone)
    return _bounded(Trigger((replace(part, end_us=last),)), None, None, count)


def at(when: Moment | Iterable[Moment], *, tz: str | None = None) -> Trigger:
    """Once at each of the moments: aware datetimes or ISO text, naive ones only with ``tz``. Raises ``BadTrigger``."""
    zone = None if tz is None else zone_of(tz)
    if isinstance(when, dt.datetime | str):
        when = [when]
    if not isinstance(when, Iterable) or isinstance(when, bytes | dict):
        raise BadTrigger("at", f"moments, not {when!r:.64}")
    moments = set()
    for moment in when:
        moments.add(moment_us(moment, "at", zone))
        if len(moments) > MAX_MOMENTS:
            raise BadTrigger("at", f"more than {MAX_MOMENTS} moments")
    if not moments:
        raise BadTrigger("at", "no moment is given")
    return Trigger((Part(At(tuple(sorted(moments)), "UTC" if zone is None else zone.name)),))


def holidays(country: str, subdivision: str = "") -> Holidays:
    """Public holidays of a country (``DE``) or its part (``BY``), for ``trigger.without``; needs ``ganger[holidays]``.

    Raises ``BadTrigger``.
    """
    return holidays_of(country, subdivision)


def _bounded(trigger: Trigger, start: object, end: object, count: int | None) -> Trigger:
    if start is end is count is None and not trigger.parts[0].end_us and trigger.parts[0].start_us is None:
        return trigger
    return trigger.bounded(start, end, count)
