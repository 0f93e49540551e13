"""Commands about schedules, as far as they ask no cluster; the others are in tests/system/test_schedule_commands.py."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster import cli, schedule_pictures
from cluster.errors import BadTrigger
from cluster.schedule_commands import _files, _runs_as, local_zone, when
from cluster.triggers import at, cron, every


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.root, arguments, env={"COLUMNS": "200"}, prog_name="cluster")


def test_a_text_becomes_a_trigger() -> None:
    assert when("0 3 * * *", "Europe/Berlin", "wall") == cron("0 3 * * *", "Europe/Berlin", "wall")
    assert when("every 15min", "UTC") == when("@every 900", "UTC") == every(900, tz="UTC")
    assert when("2030-01-01T09:00", "Asia/Kolkata") == at(datetime(2030, 1, 1, 3, 30, tzinfo=UTC), tz="Asia/Kolkata")
    for text, why in (("every day", "no duration"), ("61 * * * *", "minute"), ("soon", "fields"), ("", "is empty")):
        with pytest.raises(BadTrigger, match=why):
            when(text, "UTC")


def test_the_zone_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    assert local_zone(tmp_path) == "UTC"
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert local_zone(tmp_path) == "Asia/Tokyo"
    (tmp_path / "timezone").write_text("Europe/Berlin\n")
    assert local_zone(tmp_path) == "Europe/Berlin"
    monkeypatch.setenv("TZ", ":America/New_York")
    assert local_zone(tmp_path) == "America/New_York"
    monkeypatch.setenv("TZ", "XYZ3")
    assert local_zone(tmp_path) == "UTC"


def test_of_a_directory_what_crond_reads_is_read(tmp_path: Path) -> None:
    for name in ("php", "e2scrub_all", ".placeholder", "php.dpkg-old"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    found = {path.name: why for path, why in _files(tmp_path)}
    assert [name for name, why in found.items() if not why] == ["e2scrub_all", "php"]
    assert found["sub"] == "it is no file" and "no file of that name" in found[".placeholder"]
    assert list(_files(tmp_path / ".placeholder")) == [(tmp_path / ".placeholder", "")]


def test_who_may_run_commands_as_a_user() -> None:
    nodes: list[dict[str, Any]] = [{"labels": {}}, {"labels": {"run-as": "ann"}}, {"labels": {"run-as": "any"}}]
    assert _runs_as("ann", nodes) == {"run-as": "ann"}
    assert _runs_as("bob", nodes) == {"run-as": "any"}
    assert _runs_as("bob", nodes[:2]) is None


def test_a_preview_of_an_expression_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    monkeypatch.setattr(schedule_pictures, "now", lambda: now)
    done = invoke("schedule", "preview", "30 2 * * *", "--tz", "Europe/Berlin", "--count", "2", "--json")
    assert json.loads(done.output)["times"] == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    shown = invoke("schedule", "preview", "30 2 * * *", "--tz", "Europe/Berlin", "--count", "1")
    assert "Sun 2026-03-29 03:00:00 CEST  Europe/Berlin" in shown.output
    bad = invoke("schedule", "preview", "30 24 * * *")
    assert (bad.exit_code, "hour: 24 is not between 0 and 23" in bad.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("run",), "Missing argument 'COMMAND...'"),
        (("run", "--env", "A", "--", "x"), "'A' is not NAME=VALUE"),
        (("run", "--timeout", "soon", "x"), "no duration"),
        (("run", "--memory", "8GB", "x"), "write 512MiB, 8GiB or a number of bytes"),
        (("schedule", "add", "--memory", "0", "name", "@daily", "x"), "'0' is not from 1 byte"),
        (("schedule", "add", "name", "@daily"), "Missing argument 'COMMAND...'"),
        (("schedule", "add", "name", "@daily", "--"), "no command behind --"),
        (("schedule", "import", "/"), "say --system"),
        (("schedule", "import", "/nowhere"), "does not exist"),
        (("beat",), "did you mean `schedule`?"),
        (("crontab",), "did you mean `schedule`?"),
        (("schedule", "fly"), "No such command 'fly'"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: tuple[str, ...], text: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, text in done.output) == (2, True), done.output
