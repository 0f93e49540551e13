"""Reading crontabs. The cases of a table are from crontab(5) and crond's source; the properties hold for any text."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.crontab import (
    FILE_NAME,
    MAX_LINES,
    MOST_SOURCE,
    Entry,
    Line,
    Verdict,
    command_and_input,
    read,
    setting,
    short_source,
)

TAKEN, REMARK, REFUSED = Verdict


def one(line: str, **about: object) -> Line:
    [found] = read(line + "\n", "host:file", **about)  # type: ignore[arg-type]
    return found


def entry(line: str, **about: object) -> Entry:
    found = one(line, **about).entry
    assert found is not None, one(line, **about).why
    return found


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("A=b", ("A", "b")),
        ("  A  =  b  ", ("A", "b")),
        ("A=", ("A", "")),
        ("A=''", ("A", "")),
        ("A = ' b '", ("A", " b")),
        ('A="b\'c"', ("A", "b'c")),
        ("'A B' = c", ("A B", "c")),
        ("A=b=c", ("A", "b=c")),
        ("A=b c # d", ("A", "b c # d")),
        ("A=b'c'", ("A", "b'c'")),
        ("A='b", None),
        ("A='b' c", None),
        ("'A = b", None),
        ("=b", None),
        ("A", None),
        ("", None),
        ("* * * * * X=1 run", None),
        ("@daily X=1 run", None),
        ("A b=c", None),
    ],
)
def test_a_setting_is_what_load_env_takes_for_one(line: str, pair: tuple[str, str] | None) -> None:
    assert setting(line) == pair


@given(st.text(st.characters(codec="utf-8", exclude_characters="'\"\n\r\0="), min_size=1).filter(str.strip), st.text())
def test_a_quoted_value_comes_back_but_for_blanks_at_its_end(name: str, value: str) -> None:
    value = value.replace('"', "").replace("\n", "")
    assert setting(f"'{name}'=\"{value}\"") == (name, value.rstrip())


@pytest.mark.parametrize(
    ("line", "verdict", "why"),
    [
        ("PATH=/bin:/usr/bin", TAKEN, ""),
        ("PATH=$HOME/bin:/bin", REMARK, "nothing is expanded"),
        ("A=b # comment", REMARK, "part of the value"),
        ("A='b # no comment'", TAKEN, ""),
        ("A=' b '", REMARK, "are lost, though it is quoted"),
        ("MAILTO=root", REMARK, "no mail is sent to root"),
        ('MAILTO=""', TAKEN, ""),
        ("MAILFROM=cron", REMARK, "about mail"),
        ("CONTENT_TYPE=text/plain", REMARK, "about mail"),
        ("LOGNAME=me", REMARK, "left out"),
        ("TZ=Europe/Berlin", REMARK, "CRON_TZ"),
        ("CRON_TZ=Europe/Berlin", TAKEN, ""),
        ("CRON_TZ=Mars/Base", REFUSED, "no IANA time zone"),
        ("RANDOM_DELAY=0", TAKEN, ""),
        ("RANDOM_DELAY=30", REMARK, "never beyond the next"),
        ("RANDOM_DELAY=1441", REFUSED, "minutes from 0 to 1440"),
        ("RANDOM_DELAY=-1", REFUSED, "minutes from 0 to 1440"),
        ("'A=B'=c", REFUSED, "no environment variable"),
    ],
)
def test_what_is_said_of_settings(line: str, verdict: Verdict, why: str) -> None:
    said = one(line)
    assert (said.verdict, said.entry) == (verdict, None)
    assert why in said.why and bool(why) == bool(said.why)


def test_a_setting_holds_for_the_lines_below_it() -> None:
    text = "A=1\n* * * * * one\nA=2\nB=3\n* * * * * two\nLOGNAME=x\nMAILTO=me\n* * * * * three\n"
    one_, two, three = [line.entry.environment for line in read(text, "s") if line.entry]
    assert one_ == (("A", "1"),)
    assert two == (("A", "2"), ("B", "3"))
    assert dict(three) == {"A": "2", "B": "3", "MAILTO": "me"}


def test_mailto_with_a_webhook_says_who_is_told() -> None:
    assert "go to the webhook" in one("MAILTO=root", webhook=True).why


def test_zone_and_delay_hold_for_the_lines_below_them() -> None:
    text = "0 9 * * * a\nCRON_TZ=Asia/Kolkata\nRANDOM_DELAY=6\n0 9 * * * b\nCRON_TZ=\nRANDOM_DELAY=0\n0 9 * * * c\n"
    found = [line.entry for line in read(text, "s", tz="Europe/Berlin") if line.entry]
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert [e.trigger.upcoming(begin, 1)[0].astimezone(UTC).strftime("%H:%M") for e in found] == [
        "08:00",
        "03:30",
        "08:00",
    ]
    assert [e.jitter_s for e in found] == [0, 360, 0]


def test_lines_below_a_zone_that_is_none_are_refused_until_another_is_set() -> None:
    lines = read("CRON_TZ=Mars/Base\n0 0 * * * a\nA=b\nCRON_TZ=UTC\n0 0 * * * b\n", "s")
    assert [line.verdict for line in lines] == [REFUSED, REFUSED, TAKEN, TAKEN, TAKEN]
    assert "line 1" in lines[1].why


# ------------------------------------------------------------------------------------ entries


@pytest.mark.parametrize(
    ("line", "times", "command", "stdin"),
    [
        ("* * * * * run", "* * * * *", "run", None),
        ("  \t*/5\t0-6/2  1,15 jan mon   run  a \t b ", "*/5 0-6/2 1,15 jan mon", "run  a \t b ", None),
        ("@daily run", "@daily", "run", None),
        ("@hourly\trun # no comment", "@hourly", "run # no comment", None),
        (r"0 0 * * * date +\%F", "0 0 * * *", "date +%F", None),
        ("0 0 * * * mail -s hi root%Dear root,%%bye", "0 0 * * *", "mail -s hi root", "Dear root,\n\nbye\n"),
        ("0 0 * * * cat%", "0 0 * * *", "cat", ""),
        ("0 0 * * * X=1 run", "0 0 * * *", "X=1 run", None),
    ],
)  # fmt: skip
def test_an_entry_of_a_user(line: str, times: str, command: str, stdin: str | None) -> None:
    found = entry(line)
    assert (found.user, found.times, found.command, found.stdin) == ("", times, command, stdin)


def test_an_entry_of_the_system_names_its_user() -> None:
    found = entry("17 *\t* * *\troot    cd / && run-parts --report /etc/cron.hourly", system=True)
    assert (found.user, found.command) == ("root", "cd / && run-parts --report /etc/cron.hourly")
    assert entry("@daily\twww-data\ttouch x", system=True).user == "www-data"
    assert "names a user" in one("@daily", system=True).why
    assert "behind the user 'root'" in one("0 0 * * * root", system=True).why


@pytest.mark.parametrize(
    ("line", "verdict", "why"),
    [
        ("0 0 * * * run", TAKEN, ""),
        ("0 0 * * 7 run", TAKEN, ""),
        ("@reboot run", REMARK, "each start of the coordinator"),
        ("-0 0 * * * run", REMARK, "out of syslog"),
        ("0 0 L * * run", REMARK, "crond would not take these times"),
        ("5/15 0 * * * run", REMARK, "crond would not take these times"),
        ("0 0 * * MON#1 run", REMARK, "crond would not take these times"),
        ("0 0 * * * run\r", REMARK, "carriage return"),
        ("0 0 * * * run \\", REMARK, "no continued lines"),
        ("0 0 * * *", REFUSED, "no command"),
        ("0 0 * *", REFUSED, "neither a setting"),
        ("@daily", REFUSED, "no command"),
        ("@sometimes run", REFUSED, "@sometimes"),
        ("60 0 * * * run", REFUSED, "minute"),
        ("0 0 31 2 * run", REFUSED, "day"),
        ("0 0 * * * -n run", REFUSED, "another cron's"),
        ("0~5 0 * * * run", REFUSED, "minute"),
        ("run at noon, every day of the year", REFUSED, "minute"),
        ("0 0 * * * " + "x" * 20_000, REFUSED, "characters"),
        ("0 0 * * * \udcff", REFUSED, "UTF-8"),
    ],
)
def test_what_is_said_of_entries(line: str, verdict: Verdict, why: str) -> None:
    said = one(line)
    assert said.verdict == verdict, said.why
    assert why in said.why and bool(why) == bool(said.why)
    assert (said.entry is None) == (verdict == REFUSED)


def test_a_last_line_without_a_newline_is_taken_where_crond_takes_it_not() -> None:
    first, last = read("@daily a\n@daily b", "s")
    assert (first.verdict, last.verdict) == (TAKEN, REMARK)
    assert "without a newline" in last.why and last.entry is not None


def test_comments_and_blank_lines_say_nothing() -> None:
    assert read("\ufeff# first\n\n  \t \n  # A=b\n#* * * * * x\n", "s") == []


def test_what_is_too_long_is_cut_off_with_a_word() -> None:
    lines = read("@daily x\n" * (MAX_LINES + 5), "s")
    assert len(lines) == MAX_LINES + 1
    assert lines[-1].verdict == REFUSED and str(MAX_LINES) in lines[-1].why


# ------------------------------------------------------------------------------------ percent signs


@pytest.mark.parametrize(
    ("text", "command", "stdin"),
    [
        ("a", "a", None),
        (r"a\b", r"a\b", None),
        (r"a\\b", r"a\b", None),
        (r"a\\\\b", r"a\\b", None),
        (r"a\\%b", "a\\", "b\n"),
        (r"a\%b%c\%d", "a%b", "c%d\n"),
        (r"a%b\c", "a", "b\\c\n"),
        (r"a%b\\c", "a", "b\\\\c\n"),
        ("a%b%", "a", "b\n"),
        ("a%\\", "a", "\\\n"),
        ("%b", "", "b\n"),
    ],
)
def test_percent_signs(text: str, command: str, stdin: str | None) -> None:
    assert command_and_input(text) == (command, stdin)


PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"))


@given(PLAIN)
def test_what_is_escaped_is_one_command(text: str) -> None:
    escaped = re.sub(r"([\\%])", r"\\\1", text)
    assert command_and_input(escaped) == (text, None)


@given(st.lists(PLAIN.map(lambda text: text.replace("\\", "").replace("%", "")), min_size=1))
def test_lines_of_the_input_are_divided_by_percent_signs(lines: list[str]) -> None:
    _, stdin = command_and_input("cat%" + "%".join(lines))
    text = "\n".join(lines)
    assert stdin == (text if not text or text.endswith("\n") else text + "\n")


# ------------------------------------------------------------------------------------ names


def test_a_name_stays_whatever_else_changes() -> None:
    before = {
        e.command: e.name for line in read("A=1\n0 0 * * * a\n0 0 * * * b\n", "h:f", user="me") if (e := line.entry)
    }
    text = "# new\nA=2\n5 5 * * * c\n0 \t0 * * * b\n0 0 * * * a\n"
    after = {e.command: e.name for line in read(text, "h:f", user="me") if (e := line.entry)}
    assert before.items() <= after.items()
    assert len(set(after.values())) == 3
    assert all(name.startswith("h:f:me:") for name in after.values())


def test_names_tell_sources_users_times_and_commands_apart() -> None:
    lines = ["0 0 * * * a", "0 1 * * * a", "0 0 * * * b"]
    names = {entry(line, user=user).name for line in lines for user in ("me", "you")}
    names |= {line.entry.name for line in read("0 0 * * * a\n", "other", user="me") if line.entry}
    assert len(names) == 7


def test_lines_that_say_the_same_are_run_as_often_as_they_are_there() -> None:
    names = [line.entry.name for line in read("@daily a\n" * 3, "s", user="me") if line.entry]
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]


@given(st.text(min_size=1, max_size=400))
def test_a_source_in_a_name_is_short_and_told_from_others(source: str) -> None:
    short = short_source(source)
    assert len(short) <= MOST_SOURCE
    assert short == source or short != short_source("x" + source)


@pytest.mark.parametrize("name", [".placeholder", "php.dpkg-dist", "a~", "a b", ""])
def test_files_that_crond_does_not_read(name: str) -> None:
    assert FILE_NAME.fullmatch(name) is None


# ------------------------------------------------------------------------------------ any text

FIELD = st.sampled_from(["*", "0", "*/5", "1-5", "61", "L", "mon", "x"])
ENTRIES = st.builds(lambda fields, rest: " ".join(fields) + rest, st.lists(FIELD, min_size=4, max_size=6), st.text())
LINES = st.one_of(st.text(), ENTRIES, st.sampled_from(["A=b", "# c", "", "CRON_TZ=x", "CRON_TZ=UTC", "@reboot x"]))


@given(st.lists(LINES).map("\n".join), st.booleans())
def test_every_line_that_says_something_is_answered_once(text: str, system: bool) -> None:
    lines = read(text, "s", system=system)
    numbers = [line.number for line in lines]
    says = [
        n
        for n, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1)
        if line.strip() and not line.lstrip(" \t").startswith("#")
    ]
    assert numbers == says
    names = [line.entry.name for line in lines if line.entry]
    assert len(set(names)) == len(names)
    for line in lines:
        assert bool(line.why) == (line.verdict != TAKEN)
        assert line.verdict != REFUSED or line.entry is None
    assert read(text, "s", system=system) == lines
