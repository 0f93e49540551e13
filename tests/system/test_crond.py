"""Debian's cron, run through nights that are not now, and what it started. Rules of this file: the real program.

libfaketime gives cron a clock that stands still until the test sets it. The test sets it minute by minute, wakes
cron by a signal, and waits until it sleeps again and has no children: what was started by then was started in that
minute. So it does not matter how fast the machine is, and nothing is left to luck. cron runs in a mount namespace
with a spool, an /etc/cron.d and a /run of its own.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster import crontab, shell_jobs
from cluster.triggers import BadTrigger, cron
from cluster.triggers.moments import US

pytestmark = pytest.mark.system

SOON_S = 30.0
_MOUNTED = """
set -e
mount --make-rprivate /
for place in /var/spool/cron /etc/cron.d /run; do mount --bind "$1$place" "$place"; done
if [ -e /etc/crontab ]; then mount --bind "$1/etc/crontab" /etc/crontab; fi
shift
exec setpriv --pdeathsig KILL "$@"
"""
"""Runs a command that sees only our crontabs, and dies with us."""


def library() -> Path | None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return found[0] if found else None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a cron; skips where none can be run."""
    missing = [name for name in ("cron", "crontab", "unshare", "setpriv") if shutil.which(name) is None]
    if os.geteuid() != 0:
        pytest.skip("needs root for a mount namespace")
    if missing or library() is None:
        pytest.skip(f"needs Debian's packages cron and faketime; missing: {', '.join(missing) or 'libfaketime'}")
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("the kernel does not list a process's children")
    root = tmp_path_factory.mktemp("cron")
    for name in ("var/spool/cron/crontabs", "etc/cron.d", "run"):
        (root / name).mkdir(parents=True)
    (root / "etc/crontab").touch()
    done = subprocess.run(mounted(root, "true"), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount in a namespace of its own: {done.stderr.strip()}")
    return root


def mounted(root: Path, *command: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", _MOUNTED, "sh", str(root), *command]


class Crond:
    """A cron whose clock is set by hand."""

    def __init__(self, root: Path, tz: str, lines: list[str], moment: int, text: str = "") -> None:
        """``text``: a whole crontab, instead of lines that leave a word."""
        self._now = root / "now"
        self._log = root / "log"
        self._log.write_text("")
        table = root / "var/spool/cron/crontabs/root"
        table.write_text(text or "".join(f"{line} echo {i} >>{self._log}\n" for i, line in enumerate(lines)))
        table.chmod(0o600)
        self._set(moment)
        environment = {
            "PATH": os.environ["PATH"],
            "TZ": tz,
            "TZDIR": str(importlib.resources.files("tzdata") / "zoneinfo"),
            "LD_PRELOAD": str(library()),
            "FAKETIME_FMT": "%s",
            "FAKETIME_TIMESTAMP_FILE": str(self._now),
            "FAKETIME_NO_CACHE": "1",
            "NO_FAKE_STAT": "1",
        }
        settings = [f"{name}={value}" for name, value in environment.items()]
        self._process = subprocess.Popen(mounted(root, "env", "-i", *settings, "cron", "-f", "-L", "0"))
        self._wait(lambda: self._comm() == "cron" and self._at_rest())

    def _set(self, moment: int) -> None:
        new = self._now.with_suffix(".new")
        new.write_text(f"{moment}\n")
        new.replace(self._now)

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()

    def _comm(self) -> str:
        return self._proc("comm").strip()

    def _switches(self) -> int:
        """How often it went to sleep by itself."""
        return int(self._proc("status").partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def _at_rest(self) -> bool:
        asleep = self._proc("stat").rpartition(")")[2].split()[0] == "S"
        return asleep and not self._proc(f"task/{self._process.pid}/children").strip()

    def _wait(self, true: Any) -> None:
        deadline = time.monotonic() + SOON_S
        while not true():
            assert self._process.poll() is None, "cron has ended"
            assert time.monotonic() < deadline, "cron does not come to rest"
            time.sleep(0.0003)

    def _wake(self) -> None:
        before = self._switches()
        os.kill(self._process.pid, signal.SIGCHLD)
        self._wait(lambda: self._switches() > before and self._at_rest())

    def minute(self, moment: int) -> list[int]:
        """Set the clock to that, and let cron do what it then does: the numbers of the lines it started."""
        self._set(moment)
        size = -1
        while size != (size := self._log.stat().st_size):  # it pauses between the minutes it makes good
            self._wake()
        out = [int(word) for word in self._log.read_text().split()]
        self._log.write_text("")
        return out

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def around(text: str, before_min: int, after_min: int) -> list[int]:
    middle = seconds(text)
    return list(range(middle - 60 * before_min, middle + 60 * after_min, 60))


LINES = [
    "* * * * *",
    "*/20 * * * *",
    "*/30 2 * * *",
    "7 * * * *",
    "15,45 * * * *",
    "* 2 * * *",
    "@hourly",
    "0-59/30 1-3 * * *",
    "@daily",
    "0 0 * * *",
    "30 0 * * *",
    "59 23 * * *",
    "30 1 * * *",
    "0 2 * * *",
    "5 2 * * *",
    "15,45 2 * * *",
    "30 2 * * *",
    "59 2 * * *",
    "0 3 * * *",
    "0 2-4 * * *",
    "30 2 * * 7",
    "30 2 29 3 *",
    "30 2 25 10 sun",
    "10 2 * * 1-5",
    "40 1-2 * mar,apr,oct,nov *",
]
"""Each is a case in each of these nights."""

NIGHTS = {
    "Berlin, spring": ("Europe/Berlin", "2026-03-29T01:00", 75, 75),
    "Berlin, autumn": ("Europe/Berlin", "2026-10-25T01:00", 75, 130),
    "New York, autumn": ("America/New_York", "2026-11-01T06:00", 70, 130),
    "Lord Howe, spring": ("Australia/Lord_Howe", "2026-10-03T15:30", 40, 40),
    "Lord Howe, autumn": ("Australia/Lord_Howe", "2026-04-04T15:00", 40, 70),
    "Dublin, spring": ("Europe/Dublin", "2026-03-29T01:00", 65, 65),
    "Sao Paulo, no midnight": ("America/Sao_Paulo", "2018-11-04T03:00", 65, 65),
    "Sao Paulo, midnight twice": ("America/Sao_Paulo", "2019-02-17T02:00", 65, 65),
    "Apia, no 30 December": ("Pacific/Apia", "2011-12-30T10:00", 5, 185),
    "Casey, three hours on": ("Antarctica/Casey", "2009-10-17T18:00", 5, 65),
    "Kolkata, nothing": ("Asia/Kolkata", "2026-03-28T18:30", 5, 10),
}

DAYS = [
    "0 12 13 * 5",
    "0 12 */2 * 1",
    "0 12 1-7 * */7",
    "0 12 1-31 * 1",
    "0 12 * * 0",
    "0 12 * * 7",
    "0 12 * * */3",
    "0 12 * * 5-7",
    "0 12 * * mon-fri",
    "0 12 31 * *",
    "0 12 29 2 *",
    "0 12 29 2 1",
    "0 12 */100 * *",
    "0 12 1,15 jan-jun/2 *",
    "0 12 30 4,6 *",
    "0 12 *,5 * 3",
    "0 12 10-20/5 * */2",
]

Started = dict[str, set[int]]


@pytest.fixture
def crond(place: Path) -> Iterator[Any]:
    running: list[Crond] = []

    def start(tz: str, lines: list[str], moments: list[int]) -> Started:
        """What cron started in each of these minutes."""
        running.append(Crond(place, tz, lines, moments[0] - 60))
        out: Started = {line: set() for line in lines}
        for moment in moments:
            for number in running[-1].minute(moment):
                out[lines[number]].add(moment)
        return out

    yield start
    for one in running:
        one.end()


def due(line: str, tz: str, moments: list[int]) -> set[int]:
    trigger = cron(line, tz)
    out = set()
    moment: int | None = moments[0] * US - 1
    while moment is not None and (moment := trigger.next_after(moment)) is not None and moment <= moments[-1] * US:
        out.add(moment // US)
    return out & set(moments)


def readable(started: Started, tz: str) -> dict[str, list[str]]:
    return {line: [datetime.fromtimestamp(m, UTC).isoformat() for m in sorted(ms)] for line, ms in started.items()}


@pytest.mark.parametrize("night", NIGHTS)
def test_a_night_is_as_crond_has_it(crond: Any, night: str) -> None:
    tz, text, before, after = NIGHTS[night]
    moments = around(text, before, after)
    started = crond(tz, LINES, moments)
    assert started["* * * * *"] == set(moments)  # it has seen each minute
    assert readable(started, tz) == readable({line: due(line, tz, moments) for line in LINES}, tz)


def test_days_are_as_crond_has_them(crond: Any) -> None:
    """Noon of each day of four months and a leap February. Leaps of a day are corrections of the clock for crond."""
    noons = [seconds("2026-01-01T12:00") + 86_400 * n for n in range(122)]
    noons += [seconds("2028-02-26T12:00") + 86_400 * n for n in range(6)]
    started = crond("UTC", DAYS, noons)
    assert readable(started, "UTC") == readable({line: due(line, "UTC", noons) for line in DAYS}, "UTC")


# --------------------------------------------------------------------------- how commands are run

COMMANDS = r"""
# a comment, and a setting that is one behind it: not
GREETING = " two  blanks "
BARE =  to the end # and on
'QUOTED NAME' = x
* * * * * printf "\%s" 'a\b c\\d \\\%' >OUT/0
* * * * * cat >OUT/1%one%two\%three\four%
* * * * * env | grep -v '^USER=' | sort >OUT/2
* * * * *	pwd >OUT/3
  *  * * * *   echo "$GREETING|$BARE" >OUT/4
SHELL=/bin/bash
HOME=/usr
PATH=/usr/local/bin:/usr/bin:/bin
LOGNAME=nobody
@hourly echo $0 $BASH_VERSION $LOGNAME >OUT/5; pwd >>OUT/5; env | grep -v '^USER=' | sort >>OUT/5
* * * * * cat >OUT/6
* * * * * cat >OUT/7%
"""
"""What ``cluster schedule import`` makes of each must leave the same file as cron does; but for ``USER``, which other
crons set and Debian's does not."""


def test_commands_are_run_as_crond_runs_them(place: Path, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    moment = seconds("2026-01-01T12:00")
    crond = Crond(place, "UTC", [], moment - 60, COMMANDS.replace("OUT", str(theirs)))
    try:
        crond.minute(moment)
    finally:
        crond.end()
    for line in crontab.read(COMMANDS.replace("OUT", str(ours)), "here", user="root"):
        if line.entry is None:
            assert crontab.setting(line.text) is not None
            continue
        environment = dict(line.entry.environment)
        shell = environment.get("SHELL", crontab.DEFAULT_SHELL)
        shell_jobs.run([shell, "-c", line.entry.command], stdin=line.entry.stdin, env=environment, clean=True)
    files = {path.name: path.read_text() for path in theirs.iterdir()}
    assert sorted(files) == [str(n) for n in range(8)], "cron has run them all"
    assert {path.name: path.read_text() for path in ours.iterdir()} == files


# --------------------------------------------------------------------------- what is taken at all

TAKEN = [*LINES, *DAYS, "@yearly", "@annually", "@monthly", "@weekly", "@midnight", "@reboot", "0 0 * JAN-Mar SuN"]
REFUSED = [
    "60 * * * *",
    "* 24 * * *",
    "* * 0 * *",
    "* * 32 * *",
    "* * * 0 *",
    "* * * 13 *",
    "* * * * 8",
    "*/0 * * * *",
    "5-64/30 * * * *",
    "1,,2 * * * *",
    "-5 * * * *",
    "1- * * * *",
    "x * * * *",
    "* * * january *",
    "@dayly",
    "@",
]
MORE = ["5/20 * * * *", "0 0 L * *", "0 0 15W * *", "0 0 * * friL", "0 0 ? * 1"]
"""Extensions: ours and others', not crond's."""
MISREAD = ["0 0 * * 5#2"]
"""crond takes them, and passes over what it does not understand: every Friday."""
LESS = ["0 0 30 2 *", "30-10 * * * *"]
"""crond takes them, and they never run."""


@pytest.mark.parametrize("line", TAKEN + REFUSED + MORE + LESS + MISREAD)
def test_what_crontab_takes_is_taken(place: Path, line: str) -> None:
    table = place / "table"
    table.write_text(f"{line} true\n")
    done = subprocess.run(mounted(place, "crontab", "-n", str(table)), capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (line in TAKEN + LESS + MISREAD), done.stderr
    try:
        cron(line)
    except BadTrigger:
        assert line in REFUSED + LESS
    else:
        assert line in TAKEN + MORE + MISREAD
