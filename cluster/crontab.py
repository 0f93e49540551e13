"""A crontab, line by line. Rules of this file: pure; text in, entries out, and a word on each line.

What crond makes of a line is from crontab(5) and its source (``env.c``, ``entry.c`` and ``do_command.c`` of Debian's
3.0pl1; ``CRON_TZ`` and ``RANDOM_DELAY`` from cronie's crontab(5)):

- A setting (``NAME = value``) holds for the lines below it. Blanks around ``=`` and at the end go; quotes keep those at
  the beginning. Nothing is expanded, and there are no comments behind it.
- An entry is five fields or an ``@word``, in a system's crontab a user, and the rest of the line as the command.
- In the command an unescaped ``%`` ends it; what follows is its standard input, where ``%`` is a newline.
- A comment begins with ``#`` as the first character that is no blank. There are no continued lines.

A line is taken, taken with a remark where something is otherwise than with crond, or refused and why. Names of entries
are made of source, user, times and command: they stay as long as these do, whatever else changes in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from cluster.errors import BadTrigger
from cluster.triggers import Trigger, cron
from cluster.triggers.crontab import MACROS, REBOOT

MAX_LINES = 20_000
"""Of one crontab; crond of cronie takes 10,000 entries and 1,000 settings."""

MAX_COMMAND = 16_384
"""Characters. crond of Debian takes a thousand, cronie's 131,072."""

MAX_DELAY_MIN = 1_440

MOST_SOURCE = 120
"""Characters of a source that stand in names; a longer one is shortened there."""

DEFAULT_SHELL, DEFAULT_PATH = "/bin/sh", "/usr/bin:/bin"
"""What crond gives a command whose crontab says nothing of it."""

FILE_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
"""Of a file in a directory like /etc/cron.d: crond reads no others (cron(8), run-parts(8))."""

_ENTRY = re.compile(r"[ \t]*(@\S+|(?:\S+[ \t]+){4}\S+)(?:[ \t]+(.*))?", re.DOTALL)
_CROND_TERM = r"(?:\*(?:/\d+)?|(?:\d+|[A-Za-z]{3})(?:-(?:\d+|[A-Za-z]{3})(?:/\d+)?)?)"
_CROND_FIELD = re.compile(rf"{_CROND_TERM}(?:,{_CROND_TERM})*", re.ASCII)
_MAIL_ONLY = ("MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING")


class Verdict(StrEnum):
    TAKEN = "taken"
    REMARK = "taken with a remark"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command and when it is run."""

    name: str
    """Of its schedule."""
    times: str
    """As they are written, with single blanks."""
    trigger: Trigger
    user: str
    command: str
    stdin: str | None
    """What it reads; None where the line says nothing of it."""
    environment: tuple[tuple[str, str], ...]
    """What the lines above it set, the last word on each name."""
    jitter_s: float


@dataclass(frozen=True, slots=True)
class Line:
    """What becomes of one line. Comments and blank lines have none."""

    number: int
    text: str
    verdict: Verdict
    why: str = ""
    """The remarks, or why it is refused."""
    entry: Entry | None = None
    """None of a setting, and of what is refused."""


def read(
    text: str, source: str, *, user: str = "", system: bool = False, tz: str = "UTC", webhook: bool = False
) -> list[Line]:
    """All lines of a crontab that say something.

    ``user``: whose it is; in a ``system``'s crontab each line names its own. ``tz``: zone of the host it is from.
    ``webhook``: somebody is told of failures in place of ``MAILTO``. Text that was no UTF-8 comes with lone surrogates.
    """
    reader = _Reader(source, user, system, tz, webhook)
    lines = text.removeprefix("\ufeff").split("\n")
    out = []
    for number, line in enumerate(lines[:MAX_LINES], 1):
        said = line.lstrip(" \t")
        if not said.strip() or said.startswith("#"):
            continue
        out.append(reader.line(number, line, number == len(lines)))
    if len(lines) > MAX_LINES:
        why = f"a crontab may have {MAX_LINES} lines; this and what follows is left out"
        out.append(Line(MAX_LINES + 1, lines[MAX_LINES], Verdict.REFUSED, why))
    return out


def setting(line: str) -> tuple[str, str] | None:
    """Name and value of a line that sets something; None if it is no such line (``load_env`` of ``env.c``)."""
    at, name = _word(line, 0, "=")
    if name is None or not name:
        return None
    at = _blanks(line, at)
    if at >= len(line) or line[at] != "=":
        return None
    at = _blanks(line, at + 1)
    if at < len(line) and line[at] in "'\"":
        end = line.find(line[at], at + 1)
        if end < 0 or line[end + 1 :].strip():
            return None
        return name, line[at + 1 : end].rstrip()  # as crond does, whatever crontab(5) says
    return name, line[at:].rstrip()


def command_and_input(text: str) -> tuple[str, str | None]:
    r"""The command of an entry and its standard input: ``%`` divides them, ``\%`` does not (``do_command.c``).

    In the command ``\%`` and ``\\`` lose a backslash. In the input each further ``%`` is a newline, ``\%`` loses its
    backslash, and the last line gets an end.
    """
    command: list[str] = []
    at, escaped = 0, False
    while at < len(text):
        char = text[at]
        at += 1
        if escaped:
            if char in "%\\":
                command.pop()
            command.append(char)
            escaped = False
        elif char == "%":
            return "".join(command), _input(text[at:])
        else:
            command.append(char)
            escaped = char == "\\"
    return "".join(command), None


def _input(text: str) -> str:
    out: list[str] = []
    escaped = False
    for char in text:
        if escaped and char != "%":
            out.append("\\")
        elif not escaped and char == "%":
            char = "\n"
        escaped = char == "\\"
        if not escaped:
            out.append(char)
    if escaped:
        out.append("\\")
    if out and out[-1] != "\n":
        out.append("\n")
    return "".join(out)


def _blanks(line: str, at: int) -> int:
    while at < len(line) and line[at].isspace():
        at += 1
    return at


def _word(line: str, at: int, ends: str) -> tuple[int, str | None]:
    """A name, with or without quotes, and where it ends; None of quotes that do not end."""
    at = _blanks(line, at)
    if at < len(line) and line[at] in "'\"":
        end = line.find(line[at], at + 1)
        return (len(line), None) if end < 0 else (end + 1, line[at + 1 : end])
    first = at
    while at < len(line) and not line[at].isspace() and line[at] not in ends:
        at += 1
    return at, line[first:at]


class _Refused(Exception):
    pass


class _Reader:
    """What the lines so far have set."""

    def __init__(self, source: str, user: str, system: bool, tz: str, webhook: bool) -> None:
        self._source, self._user, self._system, self._webhook = source, user, system, webhook
        self._tz = self._host_tz = tz
        self._bad_tz = ""
        """The line that named a zone there is not."""
        self._environment: dict[str, str] = {}
        self._delay_min = 0
        self._names: dict[str, int] = {}

    def line(self, number: int, line: str, last: bool) -> Line:
        shown = "".join("?" if "\ud800" <= char <= "\udfff" else char for char in line.strip())
        remarks: list[str] = []
        try:
            if "\0" in line or shown != line.strip():
                raise _Refused("it is no text in UTF-8")
            if line.endswith("\r"):
                line = line[:-1]
                remarks.append("it ends with a carriage return, which crond would pass on; it is left out")
            if last:
                remarks.append("it ends without a newline, and crond would not take it")
            if line.endswith("\\"):
                remarks.append("there are no continued lines: the next one is a line of its own")
            pair = setting(line)
            entry = None
            if pair is not None:
                self._set(number, *pair, line, remarks)
            else:
                entry = self._entry(line, remarks)
        except _Refused as e:
            return Line(number, shown, Verdict.REFUSED, str(e))
        verdict = Verdict.REMARK if remarks else Verdict.TAKEN
        return Line(number, shown, verdict, "; ".join(remarks), entry)

    # ------------------------------------------------------------------ settings

    def _set(self, number: int, name: str, value: str, line: str, remarks: list[str]) -> None:
        if "\0" in value or "=" in name:
            raise _Refused("that can be no environment variable")
        quoted = line.rstrip().endswith(("'", '"'))
        if re.search(r"\$\w|\$\{", value):
            remarks.append("nothing is expanded in a value, neither by crond nor here")
        if quoted and re.search(r"\s['\"]\s*$", line):
            remarks.append("blanks at the end of a value are lost, though it is quoted, as with crond")
        if not quoted and re.search(r"\s#", value):
            remarks.append("a comment cannot stand behind a setting: it is a part of the value")
        match name:
            case "CRON_TZ":
                self._zone(number, value)
                return
            case "RANDOM_DELAY":
                self._delay(value, remarks)
                return
            case "LOGNAME":
                remarks.append("it is the user's name and cannot be set; it is left out, as by crond")
                return
            case "MAILTO" if value and not self._webhook:
                remarks.append(
                    f"no mail is sent to {value}: the output is the job's, failures are in the history, and"
                    " --mailto-webhook URL tells a server of them"
                )
            case "MAILTO" if value:
                remarks.append(f"no mail is sent to {value}: failures go to the webhook")
            case "TZ":
                remarks.append("it is for the commands alone; the zone of the times is set by CRON_TZ")
            case _ if name in _MAIL_ONLY:
                remarks.append("it is about mail, and none is sent")
        self._environment[name] = value

    def _zone(self, number: int, value: str) -> None:
        try:
            cron("0 0 * * *", value or self._host_tz)
        except BadTrigger as e:
            self._bad_tz = f"line {number} sets a time zone that is none"
            raise _Refused(str(e)) from None
        self._tz, self._bad_tz = value or self._host_tz, ""

    def _delay(self, value: str, remarks: list[str]) -> None:
        if not value.isascii() or not value.isdigit() or int(value) > MAX_DELAY_MIN:
            raise _Refused(f"RANDOM_DELAY is a number of minutes from 0 to {MAX_DELAY_MIN}")
        self._delay_min = int(value)
        if self._delay_min:
            remarks.append("each time is moved by a share of that of its own, and never beyond the next one")

    # ------------------------------------------------------------------ entries

    def _entry(self, line: str, remarks: list[str]) -> Entry:
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise _Refused("it is neither a setting (NAME=value) nor five fields and a command")
        times, rest = " ".join(found[1].split()), found[2] or ""
        if times.startswith("-"):
            times = times[1:]
            remarks.append("the minus before it would keep it out of syslog; it is left out")
        user = self._user
        if self._system:
            user, rest = [*rest.split(None, 1), "", ""][:2]
            if not user:
                raise _Refused("a line of a system's crontab names a user before the command")
        if not rest.strip():
            raise _Refused(f"there is no command behind the user {user!r}" if self._system else "it has no command")
        if rest.startswith("-"):
            raise _Refused("its command begins with a minus: options of entries are another cron's, and not known here")
        if len(rest) > MAX_COMMAND:
            raise _Refused(f"its command has more than {MAX_COMMAND} characters")
        if self._bad_tz:
            raise _Refused(f"the zone of its times is not known: {self._bad_tz}")
        command, stdin = command_and_input(rest)
        return Entry(
            self._name(user, times, rest),
            times,
            self._trigger(times, remarks),
            user,
            command,
            stdin,
            tuple(self._environment.items()),
            self._delay_min * 60.0,
        )

    def _trigger(self, times: str, remarks: list[str]) -> Trigger:
        try:
            trigger = cron(times, self._tz)
        except BadTrigger as e:
            raise _Refused(str(e)) from None
        if times == REBOOT:
            remarks.append("it is run once for each start of the coordinator, not of the machine")
        elif times not in MACROS and not all(map(_CROND_FIELD.fullmatch, times.split())):
            remarks.append("crond would not take these times; they mean what cron(...) makes of them")
        return trigger

    def _name(self, user: str, times: str, rest: str) -> str:
        mark = blake2b(f"{times}\0{rest}".encode(), digest_size=4).hexdigest()
        name = f"{short_source(self._source)}:{user}:{mark}"
        self._names[name] = count = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}-{count}"


def short_source(source: str) -> str:
    """As it stands in names: a long one by its end and a hash."""
    if len(source) <= MOST_SOURCE:
        return source
    return f"{blake2b(source.encode(), digest_size=4).hexdigest()}~{source[9 - MOST_SOURCE :]}"
