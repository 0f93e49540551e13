"""Cron times against the replay of crond (``crond.py``), over the changes of clocks. Rules of this file: properties."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.triggers import BadTrigger, cron
from cluster.triggers.crontab import DST_RULES, MACROS
from cluster.triggers.moments import US
from tests.cluster.crond import replay

HOUR_S, DAY_S = 3600, 86_400

CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("Europe/Dublin", "2026-03-29T01:00"),
    ("Europe/Dublin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("America/St_Johns", "2011-03-13T03:31"),  # at 00:01
    ("America/St_Johns", "2010-11-07T02:31"),  # at 00:01, into the day before
    ("America/Sao_Paulo", "2018-11-04T03:00"),  # no midnight
    ("America/Sao_Paulo", "2019-02-17T02:00"),  # midnight comes twice
    ("America/Havana", "2026-03-08T05:00"),
    ("America/Caracas", "2007-12-09T07:00"),  # half an hour back for good
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Pacific/Chatham", "2026-04-04T14:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),  # a day that never was
    ("Pacific/Kwajalein", "1993-08-21T12:00"),  # another
    ("Pacific/Kwajalein", "1969-09-30T13:00"),  # a day that was twice
    ("Antarctica/Troll", "2026-03-29T01:00"),  # two hours
    ("Antarctica/Troll", "2026-10-25T01:00"),
    ("Antarctica/Casey", "2009-10-17T18:00"),  # three hours
    ("Antarctica/Casey", "2010-03-04T15:00"),
    ("Antarctica/Vostok", "2023-12-17T19:00"),  # two hours back
    ("Asia/Pyongyang", "2018-05-04T15:00"),
    ("Asia/Gaza", "2026-03-28T00:00"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Asia/Kolkata", "2026-03-29T01:00"),  # none
    ("UTC", "2028-02-29T12:00"),
]


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def field(low: int, high: int, *others: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda p: f"{min(p)}-{max(p)}")
    step = st.integers(1, high + 1)
    term = st.one_of(
        number.map(str),
        span,
        st.tuples(span, step).map(lambda p: f"{p[0]}/{p[1]}"),
        st.tuples(number, step).map(lambda p: f"{p[0]}/{p[1]}"),
        step.map(lambda n: f"*/{n}"),
        *([st.sampled_from(others)] if others else []),
    )
    return st.one_of(st.just("*"), term, st.lists(term, min_size=2, max_size=3).map(",".join))


expressions = st.one_of(
    st.sampled_from(sorted(MACROS)),
    st.tuples(
        field(0, 59),
        st.one_of(field(0, 23), field(0, 3)),
        st.one_of(st.just("*"), field(1, 31, "L", "LW", "1W", "15W", "31W")),
        st.one_of(st.just("*"), field(1, 12, "jan-jun", "MAR", "Oct")),
        st.one_of(st.just("*"), field(0, 7, "mon-fri", "SUN", "fri-sun", "0L", "FRIL", "6#1", "sun#4", "7#5")),
    ).map(" ".join),
)


def fires(expr: str, tz: str, dst: str, first: int, last: int) -> list[int]:
    """From first to last, by walking."""
    trigger = cron(expr, tz, dst)
    out: list[int] = []
    moment = first * US - 1
    while (found := trigger.next_after(moment)) is not None and found <= last * US:
        assert found > moment and found % US == 0
        out.append(found // US)
        moment = found
    return out


@pytest.mark.parametrize("dst", DST_RULES)
@given(expr=expressions, change=st.sampled_from(CHANGES), before=st.integers(0, 20 * HOUR_S))
@example("15,45 2 * * *", CHANGES[0], 12 * HOUR_S)
@example("*/30 2 * * *", CHANGES[1], 12 * HOUR_S)
@example("30 2 * * *", CHANGES[12], 12 * HOUR_S)
@example("0 0 * * *", CHANGES[8], 12 * HOUR_S)
@example("* * 1W,*/1 * 0", CHANGES[0], 0)
def test_times_around_a_change_are_those_of_the_replay(
    dst: str, expr: str, change: tuple[str, str], before: int
) -> None:
    tz, text = change
    first, last = seconds(text) - before, seconds(text) + 28 * HOUR_S
    try:
        found = fires(expr, tz, dst, first, last)
    except BadTrigger:
        assert replay(expr, tz, dst, first, last) == []
    else:
        assert found == replay(expr, tz, dst, first, last)


@pytest.mark.parametrize("dst", DST_RULES)
@given(
    expr=expressions,
    change=st.sampled_from(CHANGES),
    moments=st.lists(st.integers(-3 * HOUR_S, 26 * HOUR_S), min_size=1, max_size=8),
)
def test_where_one_begins_to_look_does_not_matter(
    dst: str, expr: str, change: tuple[str, str], moments: list[int]
) -> None:
    """Also within a gap's first minute, in either pass of an overlap, and between two seconds."""
    tz, text = change
    middle = seconds(text)
    first, last = middle - 4 * HOUR_S, middle + 30 * HOUR_S
    try:
        trigger = cron(expr, tz, dst)
    except BadTrigger:
        return
    wanted = replay(expr, tz, dst, first, last)
    for moment in moments:
        after = next((w for w in wanted if w > middle + moment), None)
        for us in (0, 1, US - 1):
            found = trigger.next_after((middle + moment) * US + us)
            if after is not None:
                assert found == after * US
            else:
                assert found is None or found > last * US


def test_the_changes_are_changes() -> None:
    from cluster.triggers.zones import find

    for tz, text in CHANGES[:-2]:
        here = find(tz).stretch(seconds(text))
        assert here.start == seconds(text) and here.before != here.offset, (tz, text)


def test_no_zone_changes_twice_within_the_pace_of_probing() -> None:
    """Every stretch of every zone is found: the transitions that the pure Python ``zoneinfo`` reads from the files."""
    import zoneinfo
    from zoneinfo import _zoneinfo  # type: ignore[attr-defined]

    from cluster.triggers.zones import _PROBE_S, find

    first, last = seconds("1900-01-01"), seconds("2037-01-01")
    for name in sorted(zoneinfo.available_timezones() - {"localtime", "Factory"}):
        moments = [t for t in _zoneinfo.ZoneInfo.no_cache(name)._trans_utc if first <= t < last]
        assert all(b - a > _PROBE_S for a, b in pairwise(moments)), name
        if name.startswith(("Europe/D", "America/S", "Pacific/", "Africa/E")):
            zone = find(name)
            for t in moments:
                here = zone.stretch(t)
                assert here.offset == zone.offset(t)
                assert here.before == zone.offset(t - 1) or here.start < t
