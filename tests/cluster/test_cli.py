"""The command line without a cluster: help, suggestions, refusals, and what a person is shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from rich.console import Console, RenderableType

import cluster
import node.cli
from cluster import cli, packages, terminal
from cluster.demo import Function, Report, Share, Totals
from cluster.errors import CoordinatorUnreachable

STATUS: dict[str, Any] = {
    "cluster_id": "abcdef0123456789abcdef0123456789",
    "epoch": 3,
    "version": "0.1.0",
    "uptime_s": 4000.2,
    "address": "tcp://127.0.0.1:7077",
    "jobs": {
        "scheduled": 31_415,
        "ready": 1200,
        "leased": 3,
        "running": 2,
        "finished": {"succeeded": 77, "lost": 0, "timed out": 4},
    },
    "nodes": 2,
    "slots": 14,
    "busy": 2,
    "sessions": 1,
}
NODE: dict[str, Any] = {
    "name": "quarry",
    "host": "stone",
    "state": "up",
    "slots": 4,
    "busy": 2,
    "queued": 3,
    "finished": 1234,
    "heard_s": 0.21,
    "labels": {"gpu": "a100", "disk": "fast"},
    "python": "3.11",
    "pid": 4711,
    "load": None,
    "memory_free_bytes": None,
    "resources": {"cpus": {"offered": 4.0, "claimed": 0.0}, "memory_bytes": {"offered": 8 * 2.0**30, "claimed": 0.0}},
}
OTHER: dict[str, Any] = {
    **NODE,
    "name": "pit",
    "state": "suspect",
    "slots": 10,
    "labels": {},
    "load": 0.5,
    "memory_free_bytes": 3 << 30,
}


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.root, arguments, env=environment, prog_name="cluster")


def drawn(picture: RenderableType, width: int = 100) -> str:
    out = Console(file=StringIO(), width=width)
    out.print(picture)
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return text


class Coordinator:
    """Stands in for ``Client`` where only the answers matter."""

    def __init__(self, connection: object = None, **settings: object) -> None:
        self.connection = connection

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return STATUS

    def nodes(self) -> list[dict[str, Any]]:
        return [NODE, OTHER]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "Client", Coordinator)


# ------------------------------------------------------------------------------------ the root


def test_help_names_every_command() -> None:
    shown = invoke("--help")
    assert shown.exit_code == 0
    listed = re.findall(r"^  (\w+)  +\S", shown.output.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(cli.COMMANDS)


def test_help_imports_neither_coordinator_nor_node() -> None:
    program = (
        "import sys; from cluster.cli import root\n"
        "try: root(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'scheduler', 'node', 'zmq'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("name", ["coordinator", "node"])
def test_commands_of_other_rooms_have_their_own_help(name: str) -> None:
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    assert "--log-level" in shown.output


def test_version() -> None:
    shown = invoke("--version")
    assert shown.exit_code == 0
    assert re.fullmatch(r"ganger \S+\n", shown.output)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("worker", "node"),
        ("agent", "node"),
        ("scheduler", "coordinator"),
        ("server", "coordinator"),
        ("master", "coordinator"),
        ("start", "up"),
        ("ps", "status"),
        ("list", "status"),
        ("ls", "status"),
        ("statsu", "status"),
        ("Node", "node"),
        ("cordinator", "coordinator"),
        ("workers", "node"),
    ],
)
def test_an_unknown_command_is_answered_with_ours(written: str, meant: str) -> None:
    shown = invoke(written)
    assert shown.exit_code == 2
    assert shown.stderr == f"cluster {written}: no such command; did you mean `{meant}`?\n"


def test_a_command_unlike_any_is_answered_with_all() -> None:
    shown = invoke("xyzzy", "--foo")
    assert shown.exit_code == 2
    assert shown.stderr == (
        "cluster xyzzy: no such command; there are demo, up, status, nodes, jobs, job, explain, cancel, retry, drop,"
        " queue, run, schedule, drain, undrain, coordinator, node, health, doctor and completion\n"
    )


def test_no_synonym_hides_a_command_or_means_two() -> None:
    others = [other for many in cli.SYNONYMS.values() for other in many]
    assert len(others) == len(set(others))
    assert not set(others) & set(cli.COMMANDS)
    assert set(cli.SYNONYMS) == set(cli.COMMANDS)


def test_an_unknown_option_is_wrong_usage() -> None:
    shown = invoke("status", "--jsn")
    assert shown.exit_code == 2
    assert "--json" in shown.stderr


QUESTIONS = {
    *("states", "function", "queue", "tag", "node", "error", "arguments", "older", "newer"),
    *("limit", "everything", "yes", "running", "timeout", "wait"),
    *(option.name for option in cli.root.commands["run"].params if option.name not in ("as_json", "connection")),
}
"""Options of one question or order, which nobody sets for good."""


def test_every_option_has_its_variable() -> None:
    for name in cli.COMMANDS:
        context = click.Context(cli.root)
        command = cli.root.resolve_command(context, [name])[1]
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden and option.name not in QUESTIONS:
                assert str(option.envvar).startswith("GANGER_"), (name, option.name)


def test_a_command_of_another_room_is_ours_whatever_else_has_its_name(tmp_path: Path) -> None:
    for name in ("scheduler.py", "node.py"):
        (tmp_path / name).write_text("raise SystemExit('taken for ours')\n")
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cluster.cli import main; main()"
    for name in ("coordinator", "node"):
        command = [sys.executable, "-c", program, str(tmp_path), name, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert f"Usage: cluster {name}" in done.stdout


def test_a_room_that_is_not_ours_any_more_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "__init__.py").write_text('"""Of somebody else."""\n')
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    shown = invoke("node", "--slots", "1")
    assert shown.exit_code == 1
    assert shown.stderr.startswith(f"cluster: {tmp_path}/node/__init__.py is not Ganger's")
    assert len(shown.stderr.splitlines()) == 1


def test_a_room_of_which_half_is_another_release_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(node.cli, "node")
    shown = invoke("node", "--slots", "1")
    assert shown.exit_code == 1
    assert shown.stderr.startswith("cluster: the node cannot be loaded: ") and "cluster doctor" in shown.stderr


# ------------------------------------------------------------------------------------ completion


def completed(*words: str) -> list[str]:
    """What a shell is offered for the last word."""
    completer = ShellComplete(cli.root, {}, "cluster", "_CLUSTER_COMPLETE")
    return [str(item.value) for item in completer.get_completions(list(words[:-1]), words[-1])]


def test_commands_options_and_choices_are_completed() -> None:
    assert completed("no") == ["nodes", "node"]
    assert completed("") == list(cli.COMMANDS)
    assert completed("node", "--sl") == ["--slots"]
    assert completed("coordinator", "--h") == ["--host", "--heartbeat-s", "--help"]
    assert completed("node", "--transport", "") == ["auto", "tcp", "ipc"]
    assert completed("up", "--log-level", "w") == ["warning"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("command", ["status", "node", "doctor"])
def test_a_connection_is_completed_as_a_file(command: str) -> None:
    completer = ShellComplete(cli.root, {}, "cluster", "_CLUSTER_COMPLETE")
    assert [item.type for item in completer.get_completions([command, "--connection"], "cl")] == ["file"]


def test_nothing_is_said_to_a_shell_that_completes_what_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed("xyzzy", "--sl") == []
    monkeypatch.delattr(node.cli, "node")
    assert completed("node", "--sl") == []


@pytest.mark.parametrize("shell", list(cli.SHELLS))
def test_the_script_says_how_to_install_it_and_serves_both_names(shell: str) -> None:
    script = invoke("completion", shell).stdout
    assert script.startswith("# Completion of cluster and ganger. To install it:\n")
    assert f"cluster completion {shell}" in script.splitlines()[1]
    assert f"_CLUSTER_COMPLETE={shell}_complete" in script
    assert "ganger" in script.splitlines()[-1]


def test_a_shell_we_do_not_know_is_wrong_usage() -> None:
    shown = invoke("completion", "tcsh")
    assert shown.exit_code == 2 and "bash" in shown.stderr


# ------------------------------------------------------------------------------------ the doctor


def test_the_doctor_needs_no_cluster(tmp_path: Path) -> None:
    shown = invoke("doctor", "--json", GANGER_HOME=str(tmp_path), GANGER_CONNECTION="")
    assert shown.stderr == ""
    document = json.loads(shown.stdout)
    assert shown.exit_code == (0 if document["ok"] else 1)
    assert sum(document["counts"].values()) == len(document["findings"])
    assert set(document["findings"][0]) == {"group", "name", "state", "found", "remedy"}
    (reach,) = (f for f in document["findings"] if f["group"] == "reachability")
    assert reach["state"] == "skipped"


def test_the_doctor_ends_with_1_if_there_is_a_problem(tmp_path: Path) -> None:
    shown = invoke("doctor", "--connection", str(tmp_path / "missing.json"), GANGER_HOME=str(tmp_path))
    assert shown.exit_code == 1
    text = " ".join(shown.stdout.split())
    assert "(given) is not there" in text and re.search(r"✘ \d+ problem", text) and "\x1b" not in text


# ------------------------------------------------------------------------------------ errors


def test_no_connection_file_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    shown = invoke("status", GANGER_HOME=str(tmp_path), GANGER_CONNECTION="")
    assert shown.exit_code == 1
    assert shown.stdout == ""
    assert shown.stderr.startswith("cluster: no connection file")
    assert "cluster up" in shown.stderr and str(tmp_path) in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_a_given_connection_file_must_be_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.json")
    shown = invoke("nodes", "--connection", missing)
    assert shown.exit_code == 1
    assert f"{missing} (given)" in shown.stderr


def test_a_connection_file_from_the_environment_is_named_as_such(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.json")
    shown = invoke("nodes", GANGER_CONNECTION=missing)
    assert shown.exit_code == 1
    assert f"{missing} ($GANGER_CONNECTION)" in shown.stderr


def test_a_broken_connection_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "client.json"
    broken.write_text("{")
    broken.chmod(0o600)
    shown = invoke("status", "--connection", str(broken))
    assert shown.exit_code == 1
    assert shown.stderr.startswith(f"cluster: {broken} is not JSON")


def test_a_coordinator_that_goes_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Coordinator):
        def status(self) -> dict[str, Any]:
            raise CoordinatorUnreachable("nothing heard for 5 s")

    monkeypatch.setattr(cluster, "Client", Gone)
    shown = invoke("status")
    assert (shown.exit_code, shown.stderr) == (1, "cluster: nothing heard for 5 s\n")


def test_a_bug_is_no_plain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buggy(Coordinator):
        def status(self) -> dict[str, Any]:
            raise KeyError("jobs")

    monkeypatch.setattr(cluster, "Client", Buggy)
    assert isinstance(invoke("status").exception, KeyError)


# ------------------------------------------------------------------------------------ looking


@pytest.mark.usefixtures("answering")
def test_status_as_json_is_the_clients() -> None:
    shown = invoke("status", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout) == STATUS
    assert shown.stderr == ""


@pytest.mark.usefixtures("answering")
def test_nodes_as_json() -> None:
    assert json.loads(invoke("nodes", "--json").stdout) == {"nodes": [NODE, OTHER]}


@pytest.mark.usefixtures("answering")
def test_json_can_be_asked_for_by_variable() -> None:
    assert json.loads(invoke("status", GANGER_JSON="1").stdout) == STATUS


@pytest.mark.usefixtures("answering")
def test_status_shows_jobs_and_nodes() -> None:
    shown = invoke("status").stdout
    for wanted in (
        "tcp://127.0.0.1:7077",
        "1 h 6 min",
        "31,415",
        "1,200",
        "77",
        "timed out",
        "2 of 14 slots",
        "quarry",
        "pit",
    ):
        assert wanted in shown
    assert "lost" not in shown, "an outcome nobody had is not worth a column"
    assert "\x1b" not in shown, "no colour into a pipe"


@pytest.mark.usefixtures("answering")
def test_nodes_shows_each_in_one_line() -> None:
    lines = invoke("nodes").stdout.splitlines()
    assert len(lines) == 3
    assert re.split(r"  +", lines[1].strip()) == [
        *("pit", "stone", "suspect", "2/10", "3", "1,234", "0.50", "3.0 GiB", "0.2 s ago")
    ]
    assert "■■□□" in lines[2] and "disk=fast, gpu=a100" in lines[2]


LONG = "a-rather-long-name.cluster.example"


@pytest.mark.parametrize(("name", "host"), [(LONG, LONG), (LONG, "stone"), ("pit", LONG), ("pit", "stone")])
def test_in_80_columns_names_fold_and_nothing_is_lost(name: str, host: str) -> None:
    shown = drawn(terminal.nodes_table([{**NODE, "name": name, "host": host}]), 80)
    lines = shown.splitlines()
    assert "…" not in shown and all(len(line) <= 80 for line in lines)
    for whole in ("■■□□", "1,234", "0.2 s ago"):
        assert whole in shown
    body = lines[next(i for i, line in enumerate(lines) if "■■□□" in line) :]
    assert "".join(line.split(" ")[0] for line in body) == name
    assert "".join(line.split(" ")[-1] for line in (line.rstrip() for line in body) if len(line) > 70) == (
        "disk=fast,gpu=a100"
    )


def test_hosts_are_shown_where_nodes_have_other_names() -> None:
    same = {**NODE, "host": NODE["name"]}
    assert "host" not in drawn(terminal.nodes_table([same, same])).split()
    assert {"host", "stone"} <= set(drawn(terminal.nodes_table([same, OTHER])).split())


def offering(name: str, **amounts: tuple[float, float]) -> dict[str, Any]:
    """A node with so much claimed of so much."""
    return {**NODE, "name": name, "resources": {what: {"claimed": c, "offered": o} for what, (c, o) in amounts.items()}}


RICH = offering(
    "gpu-1",
    cpus=(2.5, 8),
    gpus=(1, 4),
    licence=(2, 2),
    memory_bytes=(2 << 30, 23.5 * 2**30),
    scratch_bytes=(512 << 20, 200 << 30),
    spool_bytes=(0, 100),
)
GLANCE = (
    "cpus 2.5/8  gpus 1/4  licence 2/2  memory_bytes 2/23.5 GiB  scratch_bytes 512 MiB/200 GiB  spool_bytes 0/100 B"
)


def test_resources_that_are_claimed_or_special_stand_below_the_nodes() -> None:
    lines = drawn(terminal.nodes_table([offering("gpu-2", gpus=(0, 4), cpus=(0, 8)), RICH, NODE]), 120).splitlines()
    assert [line.rstrip() for line in lines[5:]] == ["node   claimed/offered", f"gpu-1  {GLANCE}", "gpu-2  gpus 0/4"]


@pytest.mark.parametrize("width", [50, 80, 100])
def test_a_line_of_resources_breaks_between_two_of_them(width: int) -> None:
    lines = drawn(terminal.nodes_table([RICH]), width).splitlines()
    below = [line.removeprefix("gpu-1").strip() for line in lines[[line.strip() for line in lines].index("") + 2 :]]
    assert "  ".join(below) == GLANCE and len(below) > 1
    assert max(map(len, lines)) <= width


def test_what_every_node_offers_is_not_shown_unless_it_is_claimed() -> None:
    assert "offered" not in drawn(terminal.nodes_table([NODE, {**NODE, "name": "lost", "resources": {}}]))
    shown = drawn(terminal.nodes_table([offering("n", cpus=(0.25, 4), memory_bytes=(0, 8 << 30), gpus=(0, 0))]))
    assert "n     cpus 0.25/4 " in shown and "memory" not in shown and "gpus" not in shown


def test_no_nodes_says_what_to_do() -> None:
    assert "cluster node" in drawn(terminal.nodes_table([]))


def test_names_are_no_markup() -> None:
    assert "[bold]" in drawn(terminal.nodes_table([{**NODE, "name": "[bold]"}]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.99, "10 s"),
        (59.4, "59 s"),
        (59.9, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert terminal.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1 << 30, "1.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_size(value: float | None, text: str) -> None:
    assert terminal.size(value) == text


# ------------------------------------------------------------------------------------ the demo's report


def report(**changes: Any) -> Report:
    settings: dict[str, Any] = {
        "python": "3.11.0",
        "seed": 1,
        "totals": Totals(files=10, lines=1000, classes=5, functions=50, complexity=150, unparsed=1),
        "worst": [("json/decoder.py", Function("[x].parse", 7, 42))],
        "unparsed": [("bad.py", "SyntaxError: invalid syntax")],
        "shares": [Share("a", 11, 2, 0.5), Share("b", 12, 8, 12.0)],
        "results": 10,
        "executions": 12,
        "cluster_s": 2.0,
        "loop_s": 3.0,
        "killed": "a",
        "killed_at_s": 0.5,
        "noticed_after_s": 1.2,
        "replacement": "c",
    }
    return Report(**{**settings, **changes})


def test_report_of_a_good_run() -> None:
    shown = drawn(terminal.demo_report(report()))
    assert "✔ every one of 10 files has exactly one result" in shown
    assert re.search(r"42 +\[x\]\.parse +json/decoder\.py:7", shown)
    assert re.search(r"^a +11 +2 +20% +0\.5 s +killed on the way", shown, re.MULTILINE)
    assert re.search(r"^b +12 +8 +80% +12 s", shown, re.MULTILINE)
    assert re.search(r"^c +- +0 +0% +- +added then", shown, re.MULTILINE)
    assert "12 executions made 10 results: 2 ran again" in " ".join(shown.split())
    assert "5 jobs/s" in shown


def test_report_of_a_bad_run_lists_what_is_wrong_and_no_more_than_a_screen_of_it() -> None:
    bad = report(problems=[f"problem {i}" for i in range(50)], results=0, cluster_s=0.0, shares=[])
    shown = drawn(terminal.demo_report(bad))
    assert "✔" not in shown
    assert "✘ problem 0" in shown and "problem 20" not in shown and "30 more" in shown


def test_report_as_json_is_json() -> None:
    body = json.loads(json.dumps(report().as_json()))
    assert body["ok"] is True
    assert (body["results"], body["executions"], body["run_again"]) == (10, 12, 2)
    assert body["shares"][0] == {"node": "a", "pid": 11, "jobs": 2, "busy_s": 0.5}
    assert body["most_complex"] == [{"file": "json/decoder.py", "name": "[x].parse", "line": 7, "complexity": 42}]
    assert report(problems=["x"]).as_json()["ok"] is False


def test_a_pipe_gets_plain_lines_and_few() -> None:
    out = Console(file=StringIO(), width=80)
    screen = terminal.PlainScreen(out)
    screen.say("[hello]")
    for done in range(1001):
        screen.progress("cluster", done, 1000, [NODE])
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "[hello]" and len(lines) == 11
    assert lines[-1].endswith("1,000 of 1,000")


def test_a_picture_of_the_run_fetches_nothing() -> None:
    screen = terminal.KeepingScreen(terminal.PlainScreen(Console(file=StringIO())))
    screen.bad("killed")
    screen.progress("cluster", 5, 10, [NODE, {**OTHER, "state": "lost"}])
    svg = screen.svg("cluster demo", report())
    assert svg.startswith("<svg") and "quarry" in svg and "killed" in svg
    assert not re.search(r"@font-face|@import|url\(['\"]?http|href=['\"]http", svg)


def test_the_live_frame_fits_a_narrow_terminal() -> None:
    frame = terminal.demo_frame({"cluster": (5, 10), "check": (0, 10)}, [NODE, OTHER])
    assert max(map(len, drawn(frame, width=80).splitlines())) <= 80
