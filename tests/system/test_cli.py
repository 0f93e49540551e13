"""The commands on real processes: ``up``, what looks at it, what goes wrong, and the demonstration to its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import Client

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-c", "from cluster.cli import main; main()"]
WITHIN_S = 60


class Shell:
    """A user's shell with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
        self.env |= {"GANGER_HOME": str(home), "COLUMNS": "160"}
        self.ups: list[Up] = []

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.env | environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    def document(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def up(self, *arguments: str) -> Up:
        errors = self.home.with_name("up.err")
        with open(errors, "w", encoding="utf-8") as err:
            process = subprocess.Popen(
                [*COMMAND, "up", *arguments], env=self.env, stdout=subprocess.PIPE, stderr=err, text=True
            )
        up = Up(process, errors)
        self.ups.append(up)
        up.await_panel()
        return up

    def connection(self, role: str) -> Path:
        return self.home / "coordinator" / f"{role}.json"


class Up:
    """A ``cluster up`` in the foreground of somebody's terminal."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.errors = errors
        self.panel = ""
        self.children: list[psutil.Process] = []

    def await_panel(self) -> None:
        """Its last row says how to stop it; by then everything runs."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.panel += line
            if line.startswith("╰"):
                break
        assert self.panel, self.errors.read_text()
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def ended(self) -> int:
        """Its exit code; nothing it started may be left."""
        code = self.process.wait(WITHIN_S)
        assert self.process.stdout is not None
        self.panel += self.process.stdout.read()
        self.process.stdout.close()
        _, alive = psutil.wait_procs(self.children, timeout=WITHIN_S)
        assert alive == []
        return code


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "home")
    yield shell
    for up in shell.ups:
        if up.process.poll() is None:
            up.process.kill()
            up.ended()


def test_up_serves_until_ctrl_c(shell: Shell) -> None:
    up = shell.up("--port", "0", "--slots", "2")
    assert str(shell.connection("client")) in up.panel
    assert f"cluster node --connection {shell.connection('node')}" in up.panel

    with Client(shell.connection("client")) as client:
        assert client.submit(pow, 2, 10).result(WITHIN_S) == 1024

    status = shell.document("status")
    assert (status["nodes"], status["slots"]) == (1, 2)
    assert status["jobs"]["finished"]["succeeded"] == 1
    (node,) = shell.document("nodes")["nodes"]
    assert (node["state"], node["slots"], node["finished"]) == ("up", 2, 1)

    shown = shell.run("status")
    assert shown.returncode == 0
    assert node["name"] in shown.stdout and "succeeded" in shown.stdout and "\x1b" not in shown.stdout
    assert node["name"] in shell.run("nodes", GANGER_CONNECTION=str(shell.connection("client"))).stdout

    up.process.send_signal(signal.SIGINT)
    assert up.ended() == 0
    assert up.panel.endswith("stopping\n")


def test_up_ends_in_order_when_terminated(shell: Shell) -> None:
    up = shell.up("--port", "0", "--slots", "1")
    up.process.terminate()
    assert up.ended() == 0


def test_nothing_is_left_when_up_is_killed(shell: Shell) -> None:
    up = shell.up("--port", "0", "--slots", "1")
    assert len(up.children) >= 2
    up.process.kill()
    assert up.ended() == -signal.SIGKILL


def test_watch_shows_the_cluster_until_ctrl_c(shell: Shell) -> None:
    shell.up("--port", "0", "--slots", "1")
    watch = subprocess.Popen(
        [*COMMAND, "status", "--watch", "--interval", "0.1", "--json"],
        env=shell.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout is not None
    with watch.stdout as out:
        first, second = (json.loads(out.readline()) for _ in range(2))
        watch.send_signal(signal.SIGINT)
        assert first["uptime_s"] < second["uptime_s"]
        assert watch.wait(WITHIN_S) == 0


@pytest.mark.parametrize("victim", ["scheduler", "node"])
def test_up_says_which_of_the_two_has_died(shell: Shell, victim: str) -> None:
    up = shell.up("--port", "0", "--slots", "1")
    (process,) = (child for child in up.children if child.cmdline()[1:4] == ["-P", "-m", victim])
    process.kill()
    assert up.ended() == 1
    name = {"scheduler": "coordinator"}.get(victim, victim)
    assert f"cluster: the {name} was killed by signal 9" in up.errors.read_text()


def test_a_port_in_use_is_one_line(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shell.run("up", "--port", str(port))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"cluster: the coordinator did not start: port {port} on 127.0.0.1 is in use")
    assert len(done.stderr.splitlines()) == 1


def test_a_second_coordinator_in_one_home_is_refused(shell: Shell) -> None:
    shell.up("--port", "0", "--slots", "1")
    done = shell.run("up", "--port", "0")
    assert done.returncode == 1
    assert "is in use by the coordinator with pid" in done.stderr and "Traceback" not in done.stderr


def test_a_connection_file_of_the_wrong_role_or_without_coordinator(shell: Shell) -> None:
    up = shell.up("--port", "0", "--slots", "1")
    wrong = shell.run("status", "--connection", str(shell.connection("node")))
    assert wrong.returncode == 1
    assert "is the connection file of a node" in wrong.stderr

    up.process.terminate()
    assert up.ended() == 0
    dead = shell.run("nodes")
    assert dead.returncode == 1
    assert dead.stderr.startswith("cluster: no word from the coordinator") and "cluster up" in dead.stderr
    assert len(dead.stderr.splitlines()) == 1


def test_a_node_without_connection_file_is_one_line(shell: Shell) -> None:
    done = shell.run("node")
    assert done.returncode == 1
    assert done.stderr.startswith("cluster: no connection file for a node")


def test_a_node_of_ours_named_so_in_the_directory_is_not_started(shell: Shell, tmp_path: Path) -> None:
    """Users have files called ``node.py`` and ``scheduler.py``."""
    for name in ("node.py", "scheduler.py"):
        (tmp_path / name).write_text("raise SystemExit('mine')\n")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        up = shell.up("--port", "0", "--slots", "1")
    finally:
        os.chdir(before)
    assert "the cluster is up" in up.panel


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `cluster` and `ganger` are commands, and a shell reads nobody's settings."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("cluster", "ganger"):
        script = commands / name
        script.write_text(f"#!{sys.executable}\n{COMMAND[2]}\n")
        script.chmod(0o755)
    return {"PATH": f"{commands}:{os.environ['PATH']}", "HOME": str(tmp_path)}


CASES = {
    "cluster node --sl": ["--slots"],
    "ganger node --sl": ["--slots"],
    "cluster no": ["nodes", "node"],
    "cluster coordinator --adv": ["--advertise"],
    "cluster up --log-level w": ["warning"],
    "cluster node --transport t": ["tcp"],
    "cluster xyzzy --sl": [],
}


def test_bash_completes_our_commands(on_path: dict[str, str]) -> None:
    program = """
        eval "$(cluster completion bash)"
        for line in "$@"; do
            function=$(complete -p ${line%% *}); function=${function#*-F }; function=${function%% *}
            COMP_WORDS=($line) COMP_CWORD=$(wc -w <<<"$line"); COMP_CWORD=$((COMP_CWORD - 1)) COMPREPLY=()
            $function ${line%% *}
            echo "${COMPREPLY[*]}"
        done
    """
    done = subprocess.run(
        ["bash", "--norc", "-euc", program, "bash", *CASES], env=on_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert dict(zip(CASES, (line.split() for line in done.stdout.splitlines()), strict=True)) == CASES


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish on this machine")
def test_fish_completes_our_commands(on_path: dict[str, str]) -> None:
    program = "cluster completion fish | source\nfor line in $argv; complete -C $line; echo ==; end"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program, *CASES], env=on_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    offered = [sorted(row.split("\t")[0] for row in part.splitlines()) for part in done.stdout.split("==\n")[:-1]]
    assert offered == [sorted(candidates) for candidates in CASES.values()]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh on this machine")
def test_zsh_completes_our_commands(on_path: dict[str, str]) -> None:
    """Only its line editor may offer anything, so the words for that are taken by others of their names."""
    program = """
        compdef() { compdefs+=("$*") }
        compadd() { print -r -- $completions }
        _describe() { print -r -- ${completions_with_descriptions%%:*} }
        eval "$(cluster completion zsh)"
        for line; do
            words=(${=line}) CURRENT=$#words
            offered=$(_cluster_completion)
            print -r -- $offered
        done
        print -r -- $compdefs[2]
    """
    done = subprocess.run(
        ["zsh", "-f", "-c", program, "zsh", *CASES], env=on_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    *offered, other = done.stdout.splitlines()
    assert [line.split() for line in offered] == list(CASES.values())
    assert other == "_cluster_completion ganger"


def test_the_demonstration_loses_nothing(shell: Shell) -> None:
    done = shell.run("demo", "--limit", "150", "--json", "--seed", "7")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True and report["problems"] == []
    assert report["results"] == report["totals"]["files"] == 150
    assert report["executions"] >= 150
    assert report["killed"] in ("node-1", "node-2")
    assert report["noticed_after_s"] is not None
    assert sum(share["jobs"] for share in report["shares"]) == 150
    assert {share["node"] for share in report["shares"]} <= {"node-1", "node-2", "node-3"}
    assert len({share["pid"] for share in report["shares"]}) >= 2
    assert f"killed {report['killed']} with signal 9" in done.stderr


def test_the_demonstration_in_a_pipe_is_plain(shell: Shell, tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    done = shell.run("demo", "--limit", "40", "--svg", str(picture))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "✔ every one of 40 files has exactly one result" in done.stdout
    assert "40 of 40" in done.stdout
    assert picture.read_text().startswith("<svg")


def test_the_demonstrations_cluster_can_be_kept(shell: Shell) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--limit", "20", "--keep"], env=shell.env, stdout=subprocess.PIPE, text=True
    )
    assert demo.stdout is not None
    with demo.stdout as out:
        shown = ""
        for line in out:
            shown += line
            if line.startswith("╰"):
                break
        assert "the cluster is still up" in shown
        connection = next(word for word in shown.split() if word.endswith("client.json"))
        assert shell.document("status", "--connection", connection)["jobs"]["finished"]["succeeded"] == 20
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(WITHIN_S) == 0
    _, alive = psutil.wait_procs(children, timeout=WITHIN_S)
    assert alive == []
