"""Intervals, moments, unions, exclusions, bounds and the wire. Rules of this file: one property or example each."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster
from cluster.triggers import BadTrigger, SearchGoesOn, Trigger, at, cron, every, from_wire, holidays, rules, trigger
from cluster.triggers.crontab import REFERENCE_US
from cluster.triggers.moments import FIRST_US, LAST_US, US

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def us(text: str) -> int:
    return int(utc(text).timestamp()) * US


def shown(times: list[datetime]) -> list[str]:
    return [t.isoformat() for t in times]


def refused(field: str, reason: str, make: Callable[[], object]) -> None:
    with pytest.raises(BadTrigger) as caught:
        make()
    assert caught.value.field == field
    assert reason in caught.value.reason


# --------------------------------------------------------------------------- every


def test_an_interval_counts_elapsed_time_from_its_start() -> None:
    daily = every(timedelta(days=1), start="2026-03-28T02:30:00+01:00", tz=BERLIN)
    assert shown(daily.upcoming(utc("2026-03-28T00:00"), 3)) == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:30:00+02:00",  # the clock was put forward
        "2026-03-30T03:30:00+02:00",
    ]
    assert every(0.5, start=utc("2026-01-01")).next_after(us("2026-01-01")) == us("2026-01-01") + 500_000


def test_without_a_start_it_begins_one_interval_after_the_schedule_was_made() -> None:
    trigger = every(90)
    assert trigger.open and not every(90, aligned=True).open
    refused("start", "anchor the trigger first", lambda: trigger.next_after(0))
    made = us("2026-01-01T00:00:10")
    anchored = trigger.anchored(made)
    assert anchored.next_after(made) == made + 90 * US
    assert anchored.anchored(made + 1) is anchored
    assert shown(trigger.upcoming(utc("2026-01-01T00:00:10"), 2)) == [
        "2026-01-01T00:01:40+00:00",
        "2026-01-01T00:03:10+00:00",
    ]
    assert (trigger | cron("@daily")).anchored(made).next_after(made) == made + 90 * US


def test_aligned_is_on_multiples_since_1970_from_its_start_on() -> None:
    quarter = every(900, aligned=True)
    assert shown(quarter.upcoming(utc("2026-01-01T10:07"), 2)) == [
        "2026-01-01T10:15:00+00:00",
        "2026-01-01T10:30:00+00:00",
    ]
    later = every(900, start=utc("2026-01-01T12:01"), aligned=True)
    assert shown(later.upcoming(utc("2026-01-01T10:07"), 1)) == ["2026-01-01T12:15:00+00:00"]


@given(st.integers(1_000, 10**12), st.integers(FIRST_US, LAST_US), st.integers(FIRST_US, LAST_US - 10**12))
def test_an_interval_meets_all_its_times_and_no_others(interval: int, start: int, moment: int) -> None:
    found = from_wire([1, None, [[["every", interval, start, "UTC"], [], None, None]]]).next_after(moment)
    if found is None:
        assert start >= LAST_US
    else:
        assert found > moment and found >= start and (found - start) % interval == 0
        assert found == start or found - interval <= moment


@pytest.mark.parametrize("interval", [0, -1, 0.0001, 1e30, float("nan"), float("inf"), timedelta(0), "60", None, True])
def test_what_is_no_duration_is_refused(interval: Any) -> None:
    with pytest.raises(BadTrigger, match=r"^interval: "):
        every(interval)


# --------------------------------------------------------------------------- at


def test_moments_fire_in_order_once_each() -> None:
    trigger = at(["2026-05-01T12:00:00+02:00", utc("2026-05-01T09:00"), utc("2026-05-01T10:00")], tz=BERLIN)
    assert shown(trigger.upcoming(utc("2026-01-01"))) == ["2026-05-01T11:00:00+02:00", "2026-05-01T12:00:00+02:00"]
    assert at(utc("2026-05-01T09:00:00.000001")).next_after(us("2026-05-01T09:00")) == us("2026-05-01T09:00") + 1


def test_a_naive_moment_needs_a_zone_in_which_it_exists() -> None:
    naive = datetime(2026, 3, 29, 2, 30)
    refused("at", "has no time zone", lambda: at(naive))
    refused("at", "does not exist in Europe/Berlin", lambda: at(naive, tz=BERLIN))
    autumn = datetime(2026, 10, 25, 2, 30)
    both = at([autumn, autumn.replace(fold=1)], tz=BERLIN)
    assert shown(both.upcoming(utc("2026-01-01"))) == ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]
    assert shown(cron("@daily", BERLIN, start=datetime(2026, 7, 1)).upcoming(utc("2026-01-01"), 1)) == [
        "2026-07-01T00:00:00+02:00"
    ]


@pytest.mark.parametrize("when", ["", "soon", 1_790_000_000, None, [], date(2026, 1, 1), ["x"], b"x", "x" * 100])
def test_what_is_no_moment_is_refused(when: Any) -> None:
    with pytest.raises(BadTrigger, match=r"^at: "):
        at(when)


@pytest.mark.parametrize(
    "when", ["0001-01-01T00:00Z", "1899-12-31T00:00Z", "2500-01-02T00:00Z", "9999-12-31T23:59-12:00"]
)
def test_moments_are_of_the_years_that_are_kept(when: str) -> None:
    refused("at", "is not in the years 1900 to 2499", lambda: at(when))
    refused("at", "is not in the years 1900 to 2499", lambda: at(when[:16], tz="Asia/Tokyo"))


# --------------------------------------------------------------------------- unions


def test_a_union_fires_once_whenever_one_of_its_parts_does() -> None:
    union = cron("0 9 * * *") | cron("0 */9 * * *") | at("2026-01-01T10:30Z")
    assert [t.hour for t in union.upcoming(utc("2026-01-01T08:00"), 4)] == [9, 10, 18, 0]
    assert union | union == union
    assert len((cron("@daily") | cron("@daily")).parts) == 1
    assert (cron("@daily", "Asia/Tokyo") | cron("@daily", BERLIN)).upcoming(utc("2026-01-01"), 1)[0].tzname() == "JST"


exprs = st.sampled_from(["0 3 * * *", "*/7 * * * *", "30 2 * * 0", "0 0 1 * *", "15 30 4 * * *", "0 12 * * 1-5"])
moments = st.integers(us("2026-01-01"), us("2027-01-01"))
simple = st.one_of(
    st.builds(cron, exprs, st.sampled_from(["UTC", BERLIN, "Australia/Lord_Howe"]), st.sampled_from(["crond", "once"])),
    st.builds(lambda i, aligned: every(i, "2026-01-01T00:00Z", aligned), st.integers(60, 10**6), st.booleans()),
    st.builds(
        lambda ms: at([datetime.fromtimestamp(m / US, UTC) for m in ms]), st.lists(moments, min_size=1, max_size=5)
    ),
)


@given(st.lists(simple, min_size=1, max_size=4), moments)
def test_a_union_is_the_least_of_its_parts(parts: list[Trigger], moment: int) -> None:
    union = parts[0]
    for part in parts[1:]:
        union |= part
    found = [f for p in parts if (f := p.next_after(moment)) is not None]
    assert union.next_after(moment) == min(found, default=None)


# --------------------------------------------------------------------------- exclusions


def test_a_date_is_a_day_of_the_zone() -> None:
    trigger = every(6 * 3600, aligned=True, tz=BERLIN).without(date(2026, 3, 29))  # a day of 23 hours
    assert shown(trigger.upcoming(utc("2026-03-28T17:00"), 3)) == [
        "2026-03-28T19:00:00+01:00",
        "2026-03-30T02:00:00+02:00",
        "2026-03-30T08:00:00+02:00",
    ]
    elsewhere = cron("0 * * * *").without(date(2026, 3, 29), tz="Asia/Tokyo")
    assert shown(elsewhere.upcoming(utc("2026-03-28T14:30"), 1)) == ["2026-03-29T15:00:00+00:00"]


def test_days_that_end_or_begin_in_a_change_are_excluded_as_a_whole() -> None:
    """Sao Paulo has no midnight on 4 November 2018, and 16 February 2019 has two last hours; Apia lacks a day."""
    hours = cron("0 * * * *", "America/Sao_Paulo", "wall")
    assert shown(hours.without(date(2018, 11, 3)).upcoming(utc("2018-11-03T02:30"), 2)) == [
        "2018-11-04T01:00:00-02:00",
        "2018-11-04T02:00:00-02:00",
    ]
    assert shown(hours.without(date(2018, 11, 4)).upcoming(utc("2018-11-04T02:30"), 1)) == ["2018-11-05T00:00:00-02:00"]
    assert shown(hours.without(date(2019, 2, 16)).upcoming(utc("2019-02-16T12:30"), 1)) == ["2019-02-17T00:00:00-03:00"]
    apia = cron("0 */12 * * *", "Pacific/Apia").without(date(2011, 12, 29))
    assert shown(apia.upcoming(utc("2011-12-29T08:00"), 1)) == [
        "2011-12-31T00:00:00+14:00",
    ]


def test_a_cron_trigger_excludes_the_minutes_that_its_clock_shows() -> None:
    night = cron("* 22-23,0-5 * * *", BERLIN)
    trigger = every(1800, aligned=True, tz=BERLIN).without(night)
    times = trigger.upcoming(utc("2026-10-24T19:00"), 3)
    assert shown(times) == ["2026-10-24T21:30:00+02:00", "2026-10-25T06:00:00+01:00", "2026-10-25T06:30:00+01:00"]
    second = every(0.5, aligned=True).without(cron("0 * * * * *"))
    assert second.next_after(us("2026-01-01T00:00:59") + 600_000) == us("2026-01-01T00:01:01")
    minute = every(0.5, aligned=True).without(cron("1 0 * * *"))
    assert minute.next_after(us("2026-01-01T00:00:59") + 600_000) == us("2026-01-01T00:02")


def test_what_crond_moves_out_of_a_gap_is_excluded_with_it() -> None:
    trigger = cron("30 2 * * *", BERLIN) | cron("0 5 * * *", BERLIN)
    left = trigger.without(cron("30 2 * * *", BERLIN))
    assert [t.hour for t in left.upcoming(utc("2026-03-27T12:00"), 4)] == [5, 5, 5, 5]


def test_what_excludes_everything_is_refused() -> None:
    refused("without", "excludes all its times", lambda: cron("30 2 * * *").without(cron("* 2 * * *")))
    refused("without", "in a row", lambda: cron("* * * * *").without(cron("* * * * *")))
    refused("without", "excludes all its times", lambda: at("2026-01-01T00:00Z").without(date(2026, 1, 1)))
    refused("without", "excludes all its times", lambda: cron("0 0 25 12 *").without(holidays("DE")))


def test_a_search_over_much_that_is_excluded_is_broken_off_and_can_go_on() -> None:
    fine = cron("*/4 * * * *").without(cron("*/2 * 1-30 * *"))
    moment = us("2026-01-01")
    for _ in range(2):
        with pytest.raises(SearchGoesOn) as caught:
            fine.next_after(moment)
        assert moment + 10 * 86_400 * US < caught.value.until_us < us("2026-01-31")
        moment = caught.value.until_us
    assert fine.next_after(moment) == us("2026-01-31")
    assert shown(fine.upcoming(utc("2026-01-01"), 1)) == ["2026-01-31T00:00:00+00:00"]
    both = fine | cron("0 0 2 1 *")  # nearer than where it was broken off
    assert both.next_after(us("2026-01-01T12:00")) == us("2026-01-02")


def test_whole_hours_and_days_are_passed_at_once() -> None:
    trigger = cron("* * * * *", BERLIN).without(cron("* * 1-30 * *", BERLIN))
    assert shown(trigger.upcoming(utc("2026-01-01"), 1)) == ["2026-01-31T00:00:00+01:00"]


def test_holidays_are_those_of_the_package_in_the_zone() -> None:
    trigger = cron("0 9 * * 1-5", BERLIN).without(holidays("DE", "BY"))
    assert shown(trigger.upcoming(utc("2026-12-23T10:00"), 3)) == [
        "2026-12-24T09:00:00+01:00",
        "2026-12-28T09:00:00+01:00",
        "2026-12-29T09:00:00+01:00",
    ]
    assert shown(trigger.upcoming(utc("2026-06-03T10:00"), 1)) == ["2026-06-05T09:00:00+02:00"]  # Corpus Christi
    elsewhere = cron("0 9 * * 1-5", BERLIN).without(holidays("de"))
    assert shown(elsewhere.upcoming(utc("2026-06-03T10:00"), 1)) == ["2026-06-04T09:00:00+02:00"]
    refused("holidays country", "is none of", lambda: holidays("XX"))
    refused("holidays subdivision", "did you mean 'BY'?", lambda: holidays("DE", "by"))
    refused("holidays country", "a code such as 'DE'", lambda: holidays(None))  # type: ignore[arg-type]


def test_without_the_package_holidays_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    rules._countries.cache_clear()
    monkeypatch.setitem(sys.modules, "holidays", None)
    refused("holidays", "pip install 'ganger[holidays]'", lambda: holidays("DE"))
    rules._countries.cache_clear()


def naive_without(base: Trigger, out: Trigger, moment: int, until: int) -> int | None:
    """By walking: every time of the one that is none of the other."""
    found = base.next_after(moment)
    while found is not None and found < until:
        if out.next_after(found - 1) != found:
            return found
        found = base.next_after(found)
    return None


@given(simple, st.lists(moments, min_size=1, max_size=30), st.integers(60, 7200), moments)
def test_excluding_moments_and_intervals_leaves_the_rest(
    base: Trigger, singles: list[int], interval: int, moment: int
) -> None:
    out = at([datetime.fromtimestamp(m // US, UTC) for m in singles]) | every(interval, aligned=True)
    until = moment + 3 * 86_400 * US
    wanted = naive_without(base, out, moment, until)
    try:
        found = base.without(out).next_after(moment)
    except (BadTrigger, SearchGoesOn):
        return
    assert found == wanted or (wanted is None and (found is None or found >= until))


@given(st.sets(st.integers(0, 20)), st.integers(0, 19 * 24 * 60), st.sampled_from([BERLIN, "America/Sao_Paulo", "UTC"]))
def test_excluding_dates_leaves_the_times_on_others(days: set[int], minutes: int, tz: str) -> None:
    first = date(2018, 10, 20)
    dates = {first + timedelta(days=n) for n in days}
    base = cron("*/40 * * * *", tz, "wall")
    start = utc("2018-10-20T00:00") + timedelta(minutes=minutes)
    left = base.without(dates).upcoming(start, 40) if dates else base.upcoming(start, 40)
    all_of = base.upcoming(start, 40 + 21 * 50)  # a day has 50 at most
    assert left == [t for t in all_of if t.date() not in dates][:40]


@pytest.mark.parametrize("what", [7, "2026-01-01", None, {"a": 1}, [[3]], b"x"])
def test_what_cannot_be_excluded_is_refused(what: Any) -> None:
    refused("without", "dates, triggers or holidays(country)", lambda: cron("@daily").without(what))


# --------------------------------------------------------------------------- bounds


def test_start_and_end_are_included_and_only_narrowed() -> None:
    hourly = cron("0 * * * *", start="2026-01-01T10:00Z", end="2026-01-01T12:00Z")
    assert [t.hour for t in hourly.upcoming(utc("2025-01-01"))] == [10, 11, 12]
    narrower = hourly.bounded(start="2026-01-01T08:00Z", end="2026-01-01T11:30Z")
    assert [t.hour for t in narrower.upcoming(utc("2025-01-01"))] == [10, 11]
    assert every(60, end="2030-01-01T00:00Z").open
    refused("end", "is before the start", lambda: cron("@daily", start="2026-01-02T00:00Z", end="2026-01-01T00:00Z"))
    refused("end", "never fires", lambda: cron("0 0 1 1 *", start="2026-02-01T00:00Z", end="2026-03-01T00:00Z"))
    refused("end", "never fires", lambda: every(60, "2027-01-01T00:00Z", end="2026-01-01T00:00Z"))
    refused("start", "never fires", lambda: at("2026-01-01T00:00Z").bounded(start="2027-01-01T00:00Z"))
    assert cron("0 0 29 2 *", end="2000-03-01T00:00Z").next_after(us("1999-01-01")) == us("2000-02-29")


def test_a_count_bounds_what_is_upcoming_and_belongs_to_the_whole() -> None:
    thrice = cron("@daily", count=3)
    assert len(thrice.upcoming(utc("2026-01-01"), 10)) == 3
    assert (cron("@daily") | cron("@hourly")).bounded(count=5).bounded(count=7).count == 5
    refused("count", "belongs to the whole", lambda: thrice | cron("@hourly"))
    refused("without", "a trigger with a count", lambda: cron("@hourly").without(thrice))
    for bad in (0, -1, 1.5, True, 10**10, "3"):
        refused("count", "a number from 1", lambda bad=bad: cron("@daily", count=bad))  # type: ignore[misc]


def test_everything_has_its_limit() -> None:
    many = [at(datetime.fromtimestamp(i, UTC)) for i in range(1, 40)]
    union = many[0]
    for one in many[1 : trigger.MAX_PARTS]:
        union |= one
    refused("union", "32 are the most", lambda: union | many[-1])
    refused("without", "32 are the most", lambda: cron("@daily").without(many))
    refused("at", "more than 1000", lambda: at(datetime.fromtimestamp(i, UTC) for i in range(2000)))
    days = [date(2026, 1, 1) + timedelta(days=i) for i in range(1001)]
    refused("without", "1 to 1000 dates", lambda: cron("@daily").without(days))
    assert cron("@daily").without(days[1:]).next_after(us("2026-01-01")) == us("2026-01-01") + 1001 * 86_400 * US
    refused("count", "up to 10000", lambda: cron("@daily").upcoming(utc("2026-01-01"), 10_001))
    assert len(cron("* * * * *").upcoming(utc("2026-01-01"), 10_000)) == 10_000


def test_a_clock_that_is_far_off_does_no_harm() -> None:
    for trigger_ in (cron("0 3 * * *", BERLIN), every(7, aligned=True), at("2026-01-01T00:00Z")):
        assert trigger_.next_after(-(10**30)) is not None
        assert trigger_.next_after(10**30) is None
        assert trigger_.next_after(LAST_US - 1) is None


# --------------------------------------------------------------------------- the wire

rich = st.builds(
    lambda parts, dates, out, count: (
        (parts[0] if len(parts) == 1 else parts[0] | parts[1])
        .without([date(2026, 1, 1) + timedelta(days=d) for d in dates], out)
        .bounded("2025-01-01T00:00Z", None, count)
    ),
    st.lists(simple, min_size=1, max_size=2),
    st.sets(st.integers(0, 300), max_size=5),
    st.sampled_from([holidays("DE"), at("2026-06-01T00:00Z"), cron("* 4 1 * *"), every(86_400, aligned=True)]),
    st.none() | st.integers(1, 100),
)


@given(st.data(), moments)
def test_what_crosses_the_wire_is_the_same(data: st.DataObject, moment: int) -> None:
    try:
        value = data.draw(rich)
    except BadTrigger:
        return
    packed = msgpack.packb(value.to_wire())
    again = from_wire(msgpack.unpackb(packed))
    assert again == value and hash(again) == hash(value)
    assert msgpack.packb(again.to_wire()) == packed
    assert from_wire(msgpack.unpackb(packed, use_list=False)) == value
    assert pickle.loads(pickle.dumps(value)) == value
    assert value.describe() == again.describe()
    assert told(again, moment) == told(value, moment)


def told(trigger_: Trigger, moment: int) -> tuple[str, int | None]:
    try:
        return "found", trigger_.next_after(moment)
    except SearchGoesOn as e:
        return "until", e.until_us


WIRE: list[Any] = [
    1,
    5,
    [
        [
            ["cron", "0 3 * * MON", BERLIN, "crond"],
            [["dates", [739_617, 739_618], BERLIN], ["holidays", "DE", "BY", BERLIN]],
            us("2025-01-01"),
            us("2030-01-01"),
        ],
        [["every", 60 * US, None, "UTC"], [["times", [["at", [REFERENCE_US], "UTC"], [], None, None]]], None, None],
    ],
]

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(["cron", "every", "at", "dates", "times", "holidays", "* * * * *", "UTC", [], {}, [[]], "@reboot"]),
)


def places(value: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    out = [path]
    if isinstance(value, list):
        for i, item in enumerate(value):
            out += places(item, (*path, i))
    return out


def changed(value: Any, path: tuple[int, ...], new: Any) -> Any:
    if not path:
        return new
    return [changed(item, path[1:], new) if i == path[0] else item for i, item in enumerate(value)]


@given(st.sampled_from(places(WIRE)), atoms | st.recursive(atoms, st.lists, max_leaves=12))
def test_whatever_comes_in_is_a_trigger_or_is_refused(path: tuple[int, ...], new: Any) -> None:
    value = changed(WIRE, path, new)
    try:
        found = from_wire(value)
    except BadTrigger as e:
        said = str(e)
        assert said.startswith(f"{e.field}: ") and len(said) < 3_000  # noqa: PT017
    else:
        assert from_wire(found.to_wire()) == found
        found.describe()
        found.upcoming(utc("2026-01-01"), 2)


@given(st.recursive(atoms, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner)))
def test_any_value_at_all_is_refused_in_words(value: Any) -> None:
    with pytest.raises(BadTrigger):
        from_wire(value)


@pytest.mark.parametrize(
    ("path", "new", "field"),
    [
        ((0,), 2, "trigger"),
        ((0,), True, "trigger"),
        ((1,), 0, "count"),
        ((2,), [], "union"),
        ((2, 1), WIRE[2][0], "union"),
        ((2, 0, 0, 1), "0 3 * * mon", "expression"),
        ((2, 0, 0, 1), "0 30 * * *", "hour"),
        ((2, 0, 0, 2), "Europe/Nowhere", "tz"),
        ((2, 0, 0, 3), "never", "dst"),
        ((2, 0, 1, 0, 1), [739_618, 739_617], "without"),
        ((2, 0, 1, 0, 1), [], "without"),
        ((2, 0, 1, 0, 1), [1], "without"),
        ((2, 0, 1, 1, 1), "XX", "holidays country"),
        ((2, 0, 2), 1.5, "start"),
        ((2, 0, 3), us("2024-01-01"), "end"),
        ((2, 1, 0, 1), 10, "interval"),
        ((2, 1, 1, 0, 1, 1), [["dates", [739_617], "UTC"]], "without"),
        ((2, 1, 1, 0, 1, 0), ["every", US, None, "UTC"], "without"),
        ((2, 1, 1, 0, 1, 0), ["at", [REFERENCE_US, REFERENCE_US], "UTC"], "at"),
        ((2, 1, 0), ["sometimes"], "rule"),
    ],
)
def test_what_is_wrong_on_the_wire_is_named(path: tuple[int, ...], new: Any, field: str) -> None:
    assert from_wire(WIRE).to_wire() == WIRE
    with pytest.raises(BadTrigger) as caught:
        from_wire(changed(WIRE, path, new))
    assert caught.value.field == field


# --------------------------------------------------------------------------- words and weight


@pytest.mark.parametrize(
    ("trigger_", "sentence"),
    [
        (cron("0 3 * * *"), "At 03:00 every day, UTC"),
        (
            cron("30 4 1,15 * 5"),
            "At 04:30 on the first and the 15th day of month and on Friday (either day will do), UTC",
        ),
        (cron("0 9 15W * *"), "At the times of `0 9 15W * *` (W: the nearest weekday), UTC"),
        (cron("@reboot"), "At each start of the coordinator"),
        (
            cron("*/5 8-17 * * MON-FRI", BERLIN, "once", count=7),
            "Every fifth minute from 08:00 through 17:59 on Monday through Friday, Europe/Berlin, "
            "skipped in a gap, once in an overlap when the clocks change; 7 times at most",
        ),
        (every(90), "Every 90 seconds"),
        (every(timedelta(weeks=2), "2026-01-05T08:00Z"), "Every 2 weeks from 2026-01-05 08:00:00+00:00 on"),
        (every(3600, aligned=True), "Every hour, on multiples of it since 1970 in UTC"),
        (at("2026-05-01T12:00Z"), "At 2026-05-01 12:00:00+00:00"),
        (
            cron("0 3 * * *").without(date(2026, 1, 1), date(2026, 1, 2), holidays("DE", "BY")) | every(0.25),
            "At 03:00 every day, UTC, except 2026-01-01 and 2026-01-02 and holidays of DE-BY; and every 0.25 seconds",
        ),
    ],
)
def test_a_trigger_says_what_it_is(trigger_: Trigger, sentence: str) -> None:
    assert trigger_.describe() == str(trigger_) == sentence


def test_a_trigger_is_a_value() -> None:
    a = cron("0 3 * * *", BERLIN).without(date(2026, 1, 1))
    assert a == cron("0 3 * * *", BERLIN).without(date(2026, 1, 1)) and len({a, a}) == 1
    with pytest.raises(AttributeError):
        a.count = 3  # type: ignore[misc]
    assert a != cron("0 3 * * *", BERLIN) and a.__eq__(3) is NotImplemented
    with pytest.raises(TypeError):
        a | 3  # type: ignore[operator]


def test_many_schedules_with_few_expressions_weigh_little() -> None:
    """The coordinator holds 100,000 at 2 KiB each, for everything about a schedule; here, of the trigger."""
    wires = [msgpack.packb(cron(f"{i % 60} {i // 60} * * *", BERLIN).to_wire()) for i in range(500)]
    tracemalloc.start()
    try:
        kept = [from_wire(msgpack.unpackb(wires[i % 500])) for i in range(5_000)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(kept) < 512
    assert not hasattr(kept[0], "__dict__")


def test_the_front_door_has_them_and_is_not_slower_for_it() -> None:
    assert cluster.cron is cron and cluster.every is every and cluster.at is at
    code = (
        "import sys, cluster; assert not {m for m in sys.modules if m.startswith(('cluster.', 'cronsim', 'zoneinfo'))}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parent.parent.parent)
