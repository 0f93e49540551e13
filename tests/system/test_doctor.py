"""``cluster doctor`` on real set-ups, each broken in one way, and on one that is well. Rules of this file: real
processes, files and limits; a test reads the document, for which the exit code must fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import LocalCluster, doctor
from cluster.keys import ConnectionFile
from tests.system.test_cli import COMMAND, WITHIN_S, Shell, shell

pytestmark = pytest.mark.system

__all__ = ["shell"]

Findings = dict[str, dict[str, str]]


def look(shell: Shell, *arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> Findings:
    """Findings by name."""
    done = subprocess.run(
        [*prefix, *COMMAND, "doctor", "--json", *arguments],
        env=shell.env | environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    found = {f["name"]: f for f in document["findings"]}
    assert len(found) == len(document["findings"])
    problems = [f for f in document["findings"] if f["state"] == "problem"]
    assert (document["ok"], done.returncode) == ((False, 1) if problems else (True, 0))
    return found


def problems(findings: Findings) -> set[str]:
    return {name for name, f in findings.items() if f["state"] == "problem"}


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=1, slots=1) as local:
        yield local


@pytest.fixture
def copied(running: LocalCluster, tmp_path: Path) -> Path:
    """Its client's file, as if on another machine."""
    path = tmp_path / "client.json"
    shutil.copy(running.connection_file, path)
    return path


def test_a_set_up_that_is_well(shell: Shell) -> None:
    shell.up("--port", "0", "--slots", "1")
    found = look(shell)
    assert problems(found) == set()
    machine = {"command", *(name for name, f in found.items() if f["group"] in ("limits", "directories"))}
    assert {f["state"] for name, f in found.items() if name not in machine} == {"ok"}
    assert {f["group"] for f in found.values()} == set(doctor.GROUPS)
    for name in ("client, TCP", "client, local socket"):
        assert "answers in" in found[name]["found"] and "epoch 1" in found[name]["found"]
    assert "lets its key in" in found["node, TCP"]["found"]
    shown = shell.run("doctor")
    assert shown.returncode == 0 and shown.stderr == ""
    assert "✔ no problem" in shown.stdout and "\x1b" not in shown.stdout


def test_the_clock_of_the_coordinator_is_compared(shell: Shell, copied: Path) -> None:
    clock = look(shell, "--connection", str(copied))["difference"]
    assert clock["state"] == "ok" and " ms " in clock["found"]


def test_nothing_is_changed_by_looking(shell: Shell, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    look(shell)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scheduler_and_a_node_of_the_users_are_named_and_disturb_nothing(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "app"
    path.mkdir()
    for name in ("scheduler", "node"):
        (path / f"{name}.py").write_text(f"def whose():\n    return 'the user: {name}'\n")
    found = look(shell, PYTHONPATH=str(path))
    for name in ("scheduler", "node"):
        assert found[name]["state"] == "warning"
        assert str(path / f"{name}.py") in found[name]["found"] and found[name]["remedy"]

    shell.env["PYTHONPATH"] = str(path)
    shell.up("--port", "0", "--slots", "1")
    program = (
        "from cluster import Client\n"
        "with Client() as c:\n"
        "    for name in ('scheduler', 'node'):\n"
        "        print(c.submit(eval, f'__import__({name!r}).whose()').result(30))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=shell.env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["the user: scheduler", "the user: node"], done.stderr


@pytest.mark.parametrize("command", ["coordinator", "node"])
def test_a_command_started_beside_such_files_is_ours(shell: Shell, tmp_path: Path, command: str) -> None:
    for name in ("scheduler", "node"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken for ours')\n")
    done = shell.run(command, "--help", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0 and f"Usage: cluster {command}" in done.stdout


def test_a_cluster_of_the_users_in_the_working_directory_is_a_problem(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "cluster.py").touch()
    found = look(shell, prefix=("env", "-C", str(tmp_path), "PYTHONSAFEPATH=1"))
    assert problems(found) == {"cluster"}
    assert str(tmp_path / "cluster.py") in found["cluster"]["remedy"]


def test_a_connection_file_that_others_can_read(shell: Shell, copied: Path) -> None:
    copied.chmod(0o644)
    found = look(shell, "--connection", str(copied))
    assert problems(found) == {"client.json"}
    assert found["client.json"]["remedy"] == f"chmod 600 {copied}"
    assert found["connection"]["state"] == "skipped", "a file that is refused is not used"


def test_a_connection_file_with_the_key_of_another_cluster(shell: Shell, running: LocalCluster, copied: Path) -> None:
    """The coordinator at that address is alive, and is another one."""
    mine = ConnectionFile.load(copied)
    with LocalCluster(nodes=0) as other:
        theirs = ConnectionFile.load(other.connection_file)
    mixed = ConnectionFile(
        mine.cluster_id,
        mine.role,
        mine.public_key,
        mine.secret_key,
        ((mine.coordinators[0][0], theirs.coordinators[0][1]),),
    )
    mixed.save(copied)
    found = look(shell, "--connection", str(copied))
    assert problems(found) == {"client, TCP"}
    assert "key" in found["client, TCP"]["found"]
    assert "copy a fresh connection file" in found["client, TCP"]["remedy"]


@pytest.mark.parametrize("role", ["client", "node"])
def test_a_key_the_coordinator_does_not_know(shell: Shell, running: LocalCluster, tmp_path: Path, role: str) -> None:
    mine = ConnectionFile.load(running.directory / f"{role}.json")
    with LocalCluster(nodes=0) as other:
        theirs = ConnectionFile.load(other.directory / f"{role}.json")
    mixed = ConnectionFile(mine.cluster_id, role, theirs.public_key, theirs.secret_key, mine.coordinators)
    mixed.save(tmp_path / "mixed.json")
    found = look(shell, "--connection", str(tmp_path / "mixed.json"))
    assert problems(found) == {f"{role}, TCP"}
    assert "does not know this key" in found[f"{role}, TCP"]["found"]


def test_a_coordinator_that_does_not_run(shell: Shell, tmp_path: Path) -> None:
    with LocalCluster(nodes=0) as local:
        shutil.copy(local.connection_file, tmp_path / "client.json")
    found = look(shell, "--connection", str(tmp_path / "client.json"))
    assert problems(found) == {"client, TCP"}
    assert "nothing listens there (connection refused)" in found["client, TCP"]["found"]
    assert "cluster up" in found["client, TCP"]["remedy"]


def test_a_coordinator_that_is_stopped_is_told_from_one_that_is_not_there(shell: Shell, tmp_path: Path) -> None:
    with LocalCluster(nodes=0) as local:
        os.kill(local.coordinator.pid, signal.SIGSTOP)
        try:
            found = look(shell, "--connection", str(local.connection_file))
        finally:
            os.kill(local.coordinator.pid, signal.SIGCONT)
    assert "client, TCP" in problems(found)
    assert "something listens there, but no coordinator answers" in found["client, TCP"]["found"]


def test_a_file_limit_far_too_low(shell: Shell) -> None:
    found = look(shell, prefix=("bash", "-c", 'ulimit -n 64; exec "$@"', "bash"))
    assert problems(found) == {"open files"}
    assert "hard 64" in found["open files"]["found"] and "LimitNOFILE" in found["open files"]["remedy"]


def test_a_directory_that_is_open_to_others(shell: Shell) -> None:
    directory = shell.home / "coordinator"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    found = look(shell)
    assert problems(found) == {"coordinator"}
    assert "mode 0755" in found["coordinator"]["found"]
    assert found["coordinator"]["remedy"] == f"chmod 700 {directory}"
    refused = shell.run("coordinator", "--port", "0")
    assert refused.returncode == 1 and f"chmod 700 {directory}" in refused.stderr, "and so says who would need it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user(shell: Shell) -> None:
    directory = shell.home / "coordinator"
    directory.mkdir(parents=True, mode=0o700)
    os.chown(directory, 65534, 65534)
    found = look(shell)
    assert problems(found) == {"coordinator"}
    assert "belongs to user 65534" in found["coordinator"]["found"]


def test_a_variable_with_a_slip_of_the_pen(shell: Shell) -> None:
    found = look(shell, GANGER_SLOTZ="4", GANGER_PORT="seven")
    assert problems(found) == {"GANGER_PORT"}
    assert found["GANGER_SLOTZ"]["remedy"] == "did you mean GANGER_SLOTS?"
