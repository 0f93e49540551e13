"""Cron expressions: their times, case by case with the source, and what is refused. Rules of this file: literals."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.triggers import BadTrigger, cron
from cluster.triggers.crontab import Search


class Case(NamedTuple):
    source: str
    expr: str
    tz: str
    dst: str
    after: datetime
    times: list[datetime]


def read(path: Path) -> list[Case]:
    out = []
    source = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"== .*?\((.+)\)", line):
            source = found[1]
        elif " ; " in line:
            expr, tz, dst, after, times = (cell.strip() for cell in line.split(" ; "))
            moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
            out.append(Case(source, expr, tz, dst, moment, [datetime.fromisoformat(t) for t in times.split()]))
    return out


CASES = read(Path(__file__).with_name("cron_cases.txt"))


@pytest.mark.parametrize("case", CASES, ids=[f"{c.expr} {c.tz} {c.dst} {c.after:%Y-%m-%d}" for c in CASES])
def test_the_times_of_a_case(case: Case) -> None:
    found = cron(case.expr, case.tz, case.dst).upcoming(case.after, len(case.times))
    shown = [(t.isoformat(), t.utcoffset()) for t in found]
    assert shown == [(t.isoformat(), t.utcoffset()) for t in case.times], case.source


def test_the_table_is_what_it_should_be() -> None:
    assert len(CASES) >= 200
    assert all(case.source and case.times and case.times[0] > case.after for case in CASES)
    assert {case.tz for case in CASES} >= {
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Europe/Dublin",
        "America/Sao_Paulo",
        "Pacific/Apia",
        "Asia/Kolkata",
    }


@pytest.mark.parametrize(
    ("expr", "field", "reason"),
    [
        ("", "expression", "is empty"),
        ("* * * *", "expression", "has 4 fields"),
        ("* * * * * * *", "expression", "has 7 fields"),
        ("*" * 300, "expression", "has 300 characters; 256 are the most"),
        ("@dayly", "expression", "did you mean @daily?"),
        ("@every 5m", "expression", "is no name for times"),
        ("CRON_TZ=UTC 0 0 * * *", "expression", "the zone is given as tz="),
        ("60 * * * *", "minute", "60 is not between 0 and 59"),
        ("-1 * * * *", "minute", "'-1' is not a number"),
        ("1.5 * * * *", "minute", "'1.5' is not a number"),
        ("x * * * *", "minute", "'X' is not a number"),
        ("1- * * * *", "minute", "'1-' is not a number"),
        ("1-2-3 * * * *", "minute", "'1-2-3' is not"),
        ("9-5 * * * *", "minute", "'9-5' runs backwards"),
        ("*/0 * * * *", "minute", "a step of 0"),
        ("*/ * * * *", "minute", "'*/' is not"),
        ("1//2 * * * *", "minute", "'1//2' is not"),
        ("5-64/30 * * * *", "minute", "64 is not between 0 and 59"),
        (",1 * * * *", "minute", "a list has an empty place"),
        ("1,,2 * * * *", "minute", "a list has an empty place"),
        ("¹ * * * *", "minute", "'¹' is not a number"),
        ("1_0 * * * *", "minute", "'1_0' is not a number"),
        ("? * * * *", "minute", "'?' is not for this field"),
        ("L * * * *", "minute", "'L' is not a number"),
        ("60 * * * * *", "second", "60 is not between 0 and 59"),
        ("* 24 * * *", "hour", "24 is not between 0 and 23"),
        ("* 1#2 * * *", "hour", "'1#2' is not for this field"),
        ("* * 0 * *", "day of month", "0 is not between 1 and 31"),
        ("* * 32 * *", "day of month", "32 is not between 1 and 31"),
        ("* * 32W * *", "day of month", "32 is not between 1 and 31"),
        ("* * W * *", "day of month", "'W' is not a number"),
        ("* * L/2 * *", "day of month", "'L' is not a number"),
        ("* * 1-5W * *", "day of month", "'5W' is not a number"),
        ("* * * 0 *", "month", "0 is not between 1 and 12"),
        ("* * * 13 *", "month", "13 is not between 1 and 12"),
        ("* * * july *", "month", "did you mean JUL?"),
        ("* * * * 8", "day of week", "8 is not between 0 and 7"),
        ("* * * * monday", "day of week", "'MONDAY' is not a number or a name"),
        ("* * * * L", "day of week", "L stands behind a weekday"),
        ("* * * * 1#6", "day of week", "a first to a fifth weekday"),
        ("* * * * 1#0", "day of week", "a first to a fifth weekday"),
        ("* * * * 5L-6", "day of week", "'5L' is not a number"),
        ("* * * * 5L#1", "day of week", "'5L' is not a number"),
        ("* * * * 5L/3", "day of week", "'5L' is not a number"),
        ("* * * * 7-1", "day of week", "'7-1' runs backwards"),
        # Never:
        ("0 0 30 2 *", "day of month", "no month of those named has a day 30"),
        ("0 0 31 4,6,9,11 *", "day of month", "no month of those named has a day 31"),
        ("0 0 31 2 */2", "day of month", "no month of those named has a day 31"),
        ("0 0 31W 2 *", "day of month", "no month of those named has a day 31W"),
        ("1 1 */100 * MON#4", "day of month", "no date fits both */100 and the day of week MON#4"),
    ],
)
def test_what_is_malformed_or_never_fires_is_refused_with_field_and_reason(expr: str, field: str, reason: str) -> None:
    with pytest.raises(BadTrigger) as caught:
        cron(expr)
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert str(caught.value) == f"{caught.value.field}: {caught.value.reason}"


def test_what_is_in_gaps_only_is_refused_by_the_rules_that_skip_them() -> None:
    for dst in ("wall", "once"):
        with pytest.raises(BadTrigger, match=r"dst: all its times are in gaps of Europe/Berlin"):
            cron("30 2 * 3 0L", "Europe/Berlin", dst)
        assert cron("30 2 * 3 0L", "Europe/London", dst)


@pytest.mark.parametrize(
    ("tz", "near"),
    [
        ("Europe/Berln", "'Europe/Berlin'"),
        ("europe/berlin", "'Europe/Berlin'"),
        ("berlin", "'Europe/Berlin'"),
        ("America/Sao Paulo", "'America/Sao_Paulo'"),
        ("Europe", None),
        ("localtime", None),
        ("../../etc/passwd", None),
        ("/etc/localtime", None),
        ("", None),
        ("Ber\0lin", None),
        ("Zürich", None),
        ("x" * 100, None),
        (None, None),
        (7, None),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest_name(tz: object, near: str | None) -> None:
    with pytest.raises(BadTrigger) as caught:
        cron("* * * * *", tz)  # type: ignore[arg-type]
    assert caught.value.field == "tz"
    if near:
        assert f"did you mean {near}?" in caught.value.reason


@pytest.mark.parametrize("dst", ["", "CROND", "skip", None, 1])
def test_an_unknown_rule_for_the_clocks_is_refused(dst: object) -> None:
    with pytest.raises(BadTrigger, match="is none of crond, wall, once"):
        cron("* * * * *", "UTC", dst)  # type: ignore[arg-type]


def test_equal_expressions_share_what_was_parsed() -> None:
    a, b = cron(" 0  3 * * mon\t", "Europe/Berlin"), cron("0 3 * * MON", "Europe/Berlin")
    assert a == b and hash(a) == hash(b)
    assert a.parts[0].rule is b.parts[0].rule
    assert a != cron("0 3 * * 1", "Europe/Berlin") != cron("0 3 * * 1", "Europe/Berlin", "wall")


def test_reboot_has_no_times_and_says_so() -> None:
    trigger = cron("@reboot")
    assert trigger.reboot and not (trigger | trigger).next_after(0)
    assert trigger.upcoming(datetime(2026, 1, 1, tzinfo=UTC)) == []
    assert (trigger | cron("@daily")).reboot and not cron("@daily").reboot
    assert trigger.bounded(end=datetime(2026, 1, 1, tzinfo=UTC)).reboot


def test_rare_dates_are_found_and_cheaply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of cronsim are what a search costs; the rarest date is forty years away."""
    steps = 0

    original = Search.match_day

    def counting(self: Search, d: date) -> bool:
        nonlocal steps
        steps += 1
        return original(self, d)

    monkeypatch.setattr(Search, "match_day", counting)
    times = cron("0 0 29 2 */7", "Europe/Berlin").upcoming(datetime(2061, 1, 1, tzinfo=UTC), 2)
    assert [t.year for t in times] == [2088, 2128]
    assert steps < 5_000
