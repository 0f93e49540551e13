"""``cluster run`` and ``cluster schedule`` against a real coordinator and a real node, which runs as this user."""

from __future__ import annotations

import getpass
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster import Client, LocalCluster, cli

pytestmark = pytest.mark.system

SOON_S = 30.0
HOST = "quarry"


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with LocalCluster(slots=2, labels={"run-as": getpass.getuser()}) as local:
        yield local


class Shell:
    """Has the commands run."""

    def __init__(self, connection: str) -> None:
        self.connection = connection

    def __call__(self, *words: str, says: str | None = None) -> Result:
        env = {"GANGER_CONNECTION": self.connection, "COLUMNS": "160", "TZ": "UTC"}
        return CliRunner().invoke(cli.root, words, input=says, env=env, prog_name="cluster")


@pytest.fixture
def cluster(local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    yield Shell(str(local.connection_file))
    with local.client() as client:
        for schedule in list(client.schedules):
            client.schedules.remove(schedule.name)


def document(done: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.05)


# ------------------------------------------------------------------------------------ cluster run


def test_run_ends_with_what_the_command_wrote_and_its_code(cluster: Shell) -> None:
    done = cluster("run", "--wait", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.exit_code, done.stdout) == (0, "out\nerr\n")
    done = cluster("run", "--wait", "--", "sh", "-c", "echo why; exit 7")
    assert (done.exit_code, done.stdout) == (7, "why\n")
    assert "ended with exit code 7" in done.stderr
    done = cluster("run", "--wait", "no-such-command")
    assert (done.exit_code, "no command 'no-such-command'" in done.stderr) == (127, True)
    found = document(cluster("run", "--wait", "--json", "--shell", "--env", "A=5", "echo $A | tr 5 6; exit 1"))
    assert (found["exit_code"], found["output"]) == (1, "6\n")


def test_run_gives_the_id_of_a_job_like_any_other(cluster: Shell, local: LocalCluster) -> None:
    done = cluster("run", "--queue", "shell", "--tag", "t", "--retries", "1", "--", "echo", "a b")
    id = done.stdout.strip()
    with local.client() as client:
        assert client.future(id).result(SOON_S)["output"] == "a b\n"
        job = client.job(id)
    assert (job["function"], job["arguments"], job["queue"], job["tags"]) == ("echo", "echo 'a b'", "shell", ["t"])
    timed = cluster("run", "--wait", "--timeout", "0.3", "--grace", "1s", "--", "sleep", "60")
    assert timed.exit_code == 1 and id not in timed.stderr


def test_run_does_not_wait_unless_it_is_asked_to(cluster: Shell, local: LocalCluster) -> None:
    id = cluster("run", "--", "sleep", "5").stdout.strip()
    with local.client() as client:
        assert client.job(id)["state"] in ("ready", "leased", "running")
        client.cancel(id, running=True)
        until(lambda: client.job(id)["state"] == "cancelled")


# ------------------------------------------------------------------------------------ schedules


def test_a_command_is_scheduled_shown_run_paused_and_removed(cluster: Shell) -> None:
    done = cluster(
        "schedule", "add", "--tz", "Europe/Berlin", "--retries", "2", "night", "0 3 * * *", "--", "echo", "hi"
    )
    assert done.exit_code == 0 and done.stdout.startswith("made\n")
    again = cluster(
        "schedule", "add", "--tz", "Europe/Berlin", "--retries", "2", "night", "0 3 * * *", "--", "echo", "hi"
    )
    assert again.stdout.startswith("as it was\n")
    changed = document(cluster("schedule", "add", "--json", "night", "0 4 * * *", "--", "echo", "hi"))
    assert (changed["made"], sorted(changed["changed"])) == (False, ["retries", "trigger"])
    ran = cluster("schedule", "run", "--wait", "night")
    assert ran.exit_code == 0
    history = document(cluster("schedule", "history", "--json", "night"))["runs"]
    assert [(run["kind"], run["outcome"], run["job"]) for run in history] == [
        ("manual", "succeeded", ran.stdout.strip())
    ]
    assert re.search(r"manual +succeeded +\d+ ms", cluster("schedule", "history", "night").stdout)
    assert "why not" in cluster("schedule", "pause", "night", "--note", "why not").stdout
    assert re.search(r"night +paused", cluster("schedule").stdout)
    assert document(cluster("schedule", "show", "night", "--json"))["paused"] == "why not"
    assert "At 04:00 every day" in cluster("schedule", "resume", "night").stdout
    assert len(document(cluster("schedule", "preview", "night", "--count", "3", "--json"))["times"]) == 3
    removed = cluster("schedule", "remove", "night", "other")
    assert (removed.exit_code, removed.stdout) == (1, "night: removed\nother: there is none\n")
    assert "no schedule has all of that" in cluster("schedule", "list").stdout


def test_what_a_command_claims_may_have_units_and_is_shown_with_them(cluster: Shell) -> None:
    claims = ("--memory", "1.5GiB", "--resource", "scratch_bytes=2GiB", "--resource", "licence=2", "--tag", "a")
    shown = cluster("schedule", "add", *claims, "large", "@yearly", "--", "true").stdout
    assert "memory_bytes 1.5 GiB, resources licence=2 scratch_bytes=2.0 GiB, tags a" in shown
    said = document(cluster("schedule", "show", "large", "--json"))["options"]
    assert (said["memory_bytes"], dict(said["resources"])) == (3 << 29, {"licence": 2.0, "scratch_bytes": 2.0 * 2**30})
    assert cluster("run", "--wait", "--memory", "64MiB", "--", "echo", "hi").stdout == "hi\n"


def test_a_name_that_is_none_gets_a_hint(cluster: Shell) -> None:
    cluster("schedule", "add", "reports/weekly", "@weekly", "--", "true")
    for command in ("show", "pause", "resume", "run", "preview"):
        done = cluster("schedule", command, "reports")
        assert done.exit_code == 1
        assert done.stderr.strip() == "cluster: no schedule is called 'reports'; there are reports/weekly"
    done = cluster("schedule", "add", "x", "61 * * * *", "--", "true")
    assert (done.exit_code, "minute: 61" in done.stderr) == (1, True)


def test_a_range_is_filled_once_that_was_said(cluster: Shell) -> None:
    cluster("schedule", "add", "--overlap", "allow", "hourly", "@hourly", "--", "true")
    span = ("hourly", "2026-01-01T00:00", "2026-01-01T02:00")
    assert len(document(cluster("schedule", "backfill", "--json", "--dry-run", *span))["times"]) == 3
    refused = cluster("schedule", "backfill", *span)
    assert (refused.exit_code, "say so by --yes" in refused.stderr) == (1, True)
    assert cluster("schedule", "backfill", "--yes", "--concurrency", "2", *span).stdout == (
        "3 times are fired, 2 at a time\n"
    )

    def ended() -> bool:
        runs = document(cluster("schedule", "history", "--json", "hourly"))["runs"]
        return [(run["kind"], run["outcome"]) for run in runs] == [("backfill", "succeeded")] * 3

    until(ended)
    future = cluster("schedule", "backfill", "--yes", "hourly", "2499-01-01", "2499-01-02")
    assert "only past times are made good" in future.stderr


def test_a_web_server_can_be_told_of_missed_times(cluster: Shell) -> None:
    def put(*options: str) -> str:
        done = cluster("schedule", "add", *options, "rare", "@yearly", "--", "true")
        return done.stdout.partition("\n")[0] or done.stderr

    hook = ("--on-missed", "https://example.org/missed")
    assert [put(*hook), put(*hook), put(), put(*hook)] == ["made", "as it was", *["changed: on_missed"] * 2]
    assert "http:// or https://" in put("--on-missed", "example.org")
    shown = cluster("schedule", "show", "rare")
    assert re.search(r"on missed +https://example.org/missed ", shown.stdout)
    assert document(cluster("schedule", "show", "rare", "--json"))["on_missed"] == hook[1]
    put()
    assert "missed" not in cluster("schedule", "show", "rare").stdout


def test_check_is_an_exit_code_for_monitoring(cluster: Shell) -> None:
    cluster("schedule", "add", "--overdue", "0.2s", "rare", "@yearly", "--", "true")
    cluster("schedule", "add", "other", "@yearly", "--", "true")
    until(lambda: cluster("schedule", "check").exit_code == 2)
    assert cluster("schedule", "check").stdout == "OVERDUE: rare, last success: never\n"
    assert [s["name"] for s in document(cluster("schedule", "check", "--json"))["overdue"]] == ["rare"]
    assert (cluster("schedule", "check", "other").exit_code, cluster("schedule", "check", "rare").exit_code) == (0, 2)
    assert cluster("schedule", "check", "none").exit_code == 3


# ------------------------------------------------------------------------------------ crontabs

NASTY = r"""# m h dom mon dow command
SHELL=/bin/bash
MAILTO=ann
GREETING = "hello  there"
  * * * * *   echo "$GREETING"; cat%one\%%two
@reboot	[[ -n $BASH_VERSION ]] && pwd
CRON_TZ=Asia/Kolkata
0 9 * * * date +\%F
61 * * * * never
0 0 30 2 * never
CRON_TZ=Mars/Base
0 1 * * * lost
"""


def test_a_nasty_crontab_is_imported_reported_and_fired(cluster: Shell, tmp_path: Path) -> None:
    tab = tmp_path / "tab"
    tab.write_text(NASTY)
    assert cluster("schedule", "import", "--dry-run", str(tab)).exit_code == 1
    assert document(cluster("schedule", "list", "--json"))["schedules"] == []
    done = cluster("schedule", "import", "--json", "--tz", "Europe/Berlin", str(tab))
    assert done.exit_code == 1, "some were refused"
    [report] = document(done)["files"]
    assert report["source"] == f"{HOST}:{tab}"
    verdicts = {line["line"]: (line["verdict"], line["why"]) for line in report["lines"]}
    assert {n: verdict.split()[-1] for n, (verdict, _) in verdicts.items()} == {
        2: "taken", 3: "remark", 4: "taken", 5: "taken", 6: "remark", 7: "taken", 8: "taken", 9: "refused",
        10: "refused", 11: "refused", 12: "refused",
    }  # fmt: skip
    assert "line 11" in verdicts[12][1]
    names = {line["line"]: line["schedule"] for line in report["lines"] if line["schedule"]}
    rows = {row["name"]: row for row in document(cluster("schedule", "list", "--json"))["schedules"]}
    assert set(rows) == set(names.values())
    assert rows[names[8]]["tz"] == "Asia/Kolkata" and rows[names[5]]["tz"] == "Europe/Berlin"
    assert (rows[names[5]]["catch_up"], rows[names[5]]["overlap"]) == ("none", "allow")
    outputs = {}
    for n, name in names.items():
        id = cluster("schedule", "run", "--wait", name).stdout.strip()
        with Client(cluster.connection) as client:
            outputs[n] = client.future(id).result(SOON_S)["output"]
    assert outputs[5] == "hello  there\none%\ntwo\n"
    assert outputs[6] == f"{Path('~').expanduser()}\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\n", outputs[8])


def test_sync_makes_a_sources_schedules_equal_to_the_file(cluster: Shell, tmp_path: Path) -> None:
    cluster("schedule", "add", "mine", "@daily", "--", "true")
    tab, other = tmp_path / "tab", tmp_path / "tab2"
    other.write_text("@daily other\n")
    cluster("schedule", "import", str(other))
    tab.write_text("@daily one\n@daily two\n")
    cluster("schedule", "import", str(tab))
    tab.write_text("A=1\n@daily two\n@daily three\n")
    assert "removed" not in cluster("schedule", "import", str(tab)).stdout
    done = document(cluster("schedule", "import", "--sync", "--json", str(tab)))
    assert len(done["removed"]) == 1
    commands = [row["arguments"] for row in document(cluster("schedule", "list", "--json"))["schedules"]]
    assert sorted(commands) == ["other", "three", "true", "two"]
    done = document(cluster("schedule", "import", "--json", "-", says="@daily from me\n"))
    assert done["files"][0]["source"] == f"{HOST}:crontab"


def test_lines_of_the_system_need_a_node_that_may_run_as_their_user(cluster: Shell, tmp_path: Path) -> None:
    directory = tmp_path / "cron.d"
    directory.mkdir()
    (directory / "app").write_text(f"@daily {getpass.getuser()} true\n@daily somebody-else true\n")
    (directory / "app.bak").write_text("@daily root true\n")
    done = cluster("schedule", "import", "--system", "--json", str(directory))
    assert done.exit_code == 1
    app, backup = document(done)["files"]
    assert [line["verdict"] for line in app["lines"]] == ["taken", "refused"]
    assert "no node may run commands as 'somebody-else'" in app["lines"][1]["why"]
    assert backup["lines"][0]["verdict"] == "refused"
    [row] = document(cluster("schedule", "list", "--json"))["schedules"]
    assert row["labels"] == {"run-as": getpass.getuser()}
    assert cluster("schedule", "run", "--wait", row["name"]).exit_code == 0
    (directory / "app").unlink()
    synced = document(cluster("schedule", "import", "--system", "--sync", "--json", str(directory)))
    assert synced["removed"] == [row["name"]]


def test_a_crontab_of_a_host_runs_there(cluster: Shell, tmp_path: Path, local: LocalCluster) -> None:
    tab = tmp_path / "tab"
    tab.write_text("@daily echo here\n")
    with local.client() as client:
        node = client.nodes()[0]["name"]
    cluster("schedule", "import", "--node", node, str(tab))
    cluster("schedule", "import", "--node", "elsewhere", str(tab))
    here, there = sorted(document(cluster("schedule", "list", "--json"))["schedules"], key=lambda r: r["name"] < "f")
    rows = {row["labels"]["node"]: row for row in (here, there)}
    assert cluster("schedule", "run", "--wait", rows[node]["name"]).exit_code == 0
    id = cluster("schedule", "run", rows["elsewhere"]["name"]).stdout.strip()
    with local.client() as client:
        assert client.job(id)["state"] == "ready"
        client.cancel(id)
