"""What the doctor says of each thing it can see, without a cluster."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from cluster import cli, doctor, packages, terminal, transport
from cluster.cgroups import Cgroup
from cluster.doctor import Finding, Named
from cluster.keys import ConnectionFile, Home
from node import pool, worker

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which a coordinator has been, once."""
    for name in list(os.environ):
        if name.startswith("GANGER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GANGER_HOME", str(tmp_path / "home"))
    with Home() as opened:
        opened.write_connection_files(["tcp://127.0.0.1:1"], None)
    return tmp_path / "home"


def states(findings: list[Finding]) -> dict[str, str]:
    return {f.name: f.state for f in findings}


# ------------------------------------------------------------------------------------ how checks are run


def ok(name: str) -> Finding:
    return Finding("versions", name, "ok", "there")


def test_findings_come_in_the_order_of_the_groups() -> None:
    found = doctor.run({"limits": [lambda: [Finding("limits", "b", "ok", "")]], "versions": [lambda: [ok("a")]]}, 5)
    assert [f.name for f in found] == ["a", "b"]


def test_a_check_that_fails_is_a_finding_and_hides_no_other() -> None:
    def failing() -> Iterator[Finding]:
        yield ok("before")
        raise OSError(errno.EIO, "input/output error")

    found = doctor.run({"versions": [failing, lambda: [ok("other")]]}, 5)
    assert states(found) == {"before": "ok", "check": "problem", "other": "ok"}
    assert "input/output error" in found[1].found


def test_a_check_that_hangs_is_given_up() -> None:
    release = threading.Event()

    def hanging() -> Iterator[Finding]:
        yield ok("before")
        release.wait()

    try:
        found = doctor.run({"versions": [hanging, lambda: [ok("other")]]}, 0.05)
    finally:
        release.set()
    assert states(found) == {"before": "ok", "check": "problem", "other": "ok"}


def test_what_needs_a_broken_package_is_skipped() -> None:
    def needing() -> Iterator[Finding]:
        raise ImportError("no module named 'zmq'")
        yield

    (found,) = doctor.run({"keys": [needing]}, 5)
    assert (found.state, found.remedy) == ("skipped", "see versions") and "zmq" in found.found


def test_a_coordinator_is_told_to_be_slow_only_after_all_that_it_may_take() -> None:
    assert doctor.DIAL_S + doctor.ANSWER_S < doctor.WITHIN_S


# ------------------------------------------------------------------------------------ packages


def test_ours_are_found_where_they_are() -> None:
    found = {f.name: f for f in doctor.packages_found()}
    assert [found[name].found for name in packages.NAMES] == [str(packages.ROOT / name) for name in packages.NAMES]
    assert {found[name].state for name in packages.NAMES} == {"ok"}


@pytest.mark.parametrize(("name", "state"), [("scheduler", "warning"), ("node", "warning"), ("cluster", "problem")])
def test_a_file_that_shadows_ours_is_named(tmp_path: Path, name: str, state: str) -> None:
    path = tmp_path / f"{name}.py"
    path.touch()
    found = doctor._package(name, [str(tmp_path), str(packages.ROOT)], "/")
    assert found.state == state and str(path) in found.found and found.remedy


@pytest.mark.parametrize(
    ("file", "state"),
    [("cluster.py", "problem"), ("cluster/__init__.py", "problem"), ("cluster/data.csv", "ok"), ("scheduler.py", "ok")],
)
def test_a_cluster_in_the_working_directory_is_a_problem(tmp_path: Path, file: str, state: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    found = doctor._package("cluster", [str(packages.ROOT)], str(tmp_path))
    assert found.state == state
    assert state == "ok" or str(tmp_path / file) in found.remedy


def test_a_command_of_others_is_named(tmp_path: Path) -> None:
    script = tmp_path / "cluster"
    script.write_text("#!/bin/sh\n")
    assert doctor._command(str(script)).state == "warning"
    script.write_text("#!/usr/bin/python3\nfrom cluster.cli import main\n")
    assert doctor._command(str(script)).state == "ok"
    assert doctor._command(None).state == "skipped"


# ------------------------------------------------------------------------------------ versions


@pytest.mark.parametrize(
    ("version", "wanted", "enough"),
    [
        ("3.11.7", "3.11", True),
        ("3.9", "3.11", False),
        ("27.0b1", "26", True),
        ("1.0.7", "1.0.8", False),
        ("26", "26.0", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, wanted: str, enough: bool) -> None:
    assert doctor.at_least(version, wanted) == enough


def test_everything_we_stand_on_is_looked_at() -> None:
    found = states(list(doctor.versions()))
    assert set(found.values()) == {"ok"}
    assert {"python", "pyzmq", "libzmq", "msgpack", "cloudpickle", "click", "prometheus-client", "system"} <= set(found)
    assert "pytest" not in found


def test_requirements_of_a_source_tree_are_those_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor._requirements()
    monkeypatch.setattr(packages, "installed", list)
    python, requirements = doctor._requirements()
    assert python == installed[0] and set(requirements) == set(installed[1]) and "cloudpickle" in requirements


def test_a_package_too_old_or_broken_is_a_problem(tmp_path: Path) -> None:
    old = doctor._requirement("click", "99")
    assert old.state == "problem" and "older than 99" in old.found and "'click>=99'" in old.remedy
    missing = doctor._requirement("nonesuch", "1")
    assert missing.state == "problem" and "cannot be imported" in missing.found


def test_a_libzmq_without_curve_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda what: what != "curve")
    found = {f.name: f for f in doctor._libraries()}["libzmq"]
    assert found.state == "problem" and "without curve" in found.found


def test_without_zeromq_the_doctor_still_says_so(tmp_path: Path) -> None:
    (tmp_path / "zmq").mkdir()
    (tmp_path / "zmq" / "__init__.py").write_text("raise ImportError('libzmq.so.5: cannot open shared object file')\n")
    done = subprocess.run(
        [sys.executable, "-c", "from cluster.cli import main; main()", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "GANGER_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    found = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["pyzmq"]["state"] == "problem" and "libzmq.so.5" in found["pyzmq"]["found"]
    assert found["open files"]["state"] == "ok"


# ------------------------------------------------------------------------------------ settings


def told(**environment: str) -> dict[str, Finding]:
    return {f.name: f for f in doctor.settings(environment, cli._variables())}


def test_a_variable_nobody_reads_is_named_with_the_one_that_was_meant() -> None:
    found = told(GANGER_SLOT="3", GANGER_XYZZY="1", PATH="/bin")
    assert (found["GANGER_SLOT"].state, found["GANGER_SLOT"].remedy) == ("warning", "did you mean GANGER_SLOTS?")
    assert found["GANGER_XYZZY"].state == "warning" and "PATH" not in found


@pytest.mark.parametrize(
    ("name", "value"),
    [("GANGER_PORT", "http"), ("GANGER_SLOTS", "0"), ("GANGER_LABELS", "gpu"), ("GANGER_LOG_LEVEL", "loud")],
)
def test_a_variable_with_a_value_that_will_not_do_is_a_problem(name: str, value: str) -> None:
    found = told(**{name: value})[name]
    assert found.state == "problem" and value in found.found


def test_variables_that_are_right_are_ok() -> None:
    given = {"GANGER_PORT": "0", "GANGER_LABELS": "gpu=yes zone=a", "GANGER_JSON": "1", "GANGER_NODE_NAME": "n"}
    found = told(**given, GANGER_SLOTS="", GANGER_HOME="/srv/ganger", GANGER_CONNECTION="x.json", GANGER_NODE="here")
    assert {f.state for f in found.values()} == {"ok"} and len(found) == 8


def test_a_home_that_depends_on_where_one_stands_is_a_warning() -> None:
    assert told(GANGER_HOME="here")["GANGER_HOME"].state == "warning"


def test_no_variables_and_no_options_to_know_them_by() -> None:
    assert [f.state for f in doctor.settings({}, {})] == ["ok"]
    assert [f.state for f in doctor.settings({"GANGER_X": "1"}, None)] == ["skipped"]


# ------------------------------------------------------------------------------------ directories


def test_a_directory_that_is_not_there_is_well_if_it_can_be_made(tmp_path: Path) -> None:
    assert doctor.directory("d", tmp_path / "a" / "b").state == "ok"
    (tmp_path / "file").touch()
    found = doctor.directory("d", tmp_path / "file" / "b")
    assert found.state == "problem" and found.remedy
    assert doctor.directory("d", tmp_path / "file").remedy == "move it away"


def test_a_directory_open_to_others_is_told_with_the_command_that_closes_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = doctor.directory("d", tmp_path, open_is="problem")
    assert found.state == "problem" and "mode 0755" in found.found and found.remedy == f"chmod 700 {tmp_path}"
    assert doctor.directory("d", tmp_path).state == "ok"
    tmp_path.chmod(0o700)
    assert doctor.directory("d", tmp_path, open_is="problem").state == "ok"


def test_a_directory_of_another_user_is_a_problem_unless_it_is_meant_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    found = doctor.directory("d", tmp_path)
    assert found.state == "problem" and f"belongs to user {tmp_path.stat().st_uid}" in found.found
    assert doctor.directory("d", tmp_path, shared=True).state == "ok"


def test_a_directory_on_another_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "file_system", lambda path: "nfs4")
    found = doctor.directory("d", tmp_path, network_is="problem")
    assert found.state == "problem" and "nfs4" in found.found
    assert doctor.directory("d", tmp_path).state == "ok"


@pytest.mark.parametrize(("free", "state"), [(50 << 20, "problem"), (500 << 20, "warning"), (2 << 30, "ok")])
def test_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    def statvfs(path: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1 << 30, free // 4096, free // 4096, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert doctor.directory("d", tmp_path).state == state


def test_all_places_are_looked_at(home: Path) -> None:
    (home / "nodes" / "one").mkdir(parents=True, mode=0o755)
    (home / "nodes" / "one").chmod(0o755)
    found = states(list(doctor.directories()))
    assert found == {
        **dict.fromkeys(("home", "coordinator", "local socket", "temporary"), "ok"),
        "node one": "warning",
    }


# ------------------------------------------------------------------------------------ keys


def test_the_files_of_a_coordinator_are_well(home: Path) -> None:
    assert states(list(doctor.keys(None))) == dict.fromkeys(("client.json", "node.json", "cluster.json"), "ok")


def test_which_files_are_looked_at(home: Path) -> None:
    default = doctor.connection_files(None, {})
    assert [(n.role, n.path.name, n.source) for n in default] == [
        ("client", "client.json", ""),
        ("node", "node.json", ""),
    ]
    named = doctor.connection_files(None, {"GANGER_CONNECTION": "/a", "GANGER_NODE_CONNECTION": "/b"})
    assert [(n.role, str(n.path)) for n in named] == [("", "/a"), ("node", "/b")]
    assert [str(n.path) for n in doctor.connection_files(None, {"GANGER_CONNECTION": "/a"})] == ["/a"], "for both"
    assert [(n.role, str(n.path)) for n in doctor.connection_files("/c", {})] == [("", "/c")]


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "client.json"
    assert doctor.connection_file(Named("client", missing, "")).state == "skipped"
    found = doctor.connection_file(Named("client", missing, "$GANGER_CONNECTION"))
    assert found.state == "problem" and "($GANGER_CONNECTION)" in found.found


def test_a_file_others_can_read_is_told_with_the_command_that_closes_it(home: Path) -> None:
    for name in ("client.json", "cluster.json", "keys.json"):
        path = home / "coordinator" / name
        path.chmod(0o644)
        found = {f.name: f for f in doctor.keys(None) if f.state == "problem"}
        assert found[name].remedy == f"chmod 600 {path}"
        path.chmod(0o600)


def test_a_file_of_the_other_role_is_told(home: Path) -> None:
    found = doctor.connection_file(Named("node", home / "coordinator" / "client.json", "$GANGER_NODE_CONNECTION"))
    assert found.state == "problem" and "is the file of a client" in found.found
    assert doctor.connection_file(Named("", home / "coordinator" / "node.json", "given")).state == "ok"


def test_a_damaged_file_is_told(home: Path) -> None:
    for name, text in (("client.json", "{"), ("node.json", "{}"), ("cluster.json", "[]")):
        (home / "coordinator" / name).write_text(text)
    found = [f for f in doctor.keys(None) if f.state == "problem"]
    assert [f.name for f in found] == ["client.json", "node.json", "cluster.json"]
    assert all(f.remedy for f in found)


def test_a_file_left_from_another_cluster_is_told(home: Path, tmp_path: Path) -> None:
    with Home(tmp_path / "other") as other:
        other.write_connection_files(["tcp://127.0.0.1:1"], None)
    stale = (tmp_path / "other" / "client.json").read_bytes()
    (home / "coordinator" / "client.json").write_bytes(stale)
    (found,) = (f for f in doctor.keys(None) if f.state == "problem")
    assert found.name == "client.json" and "of another cluster" in found.found and "remove it" in found.remedy


def test_a_key_that_is_not_registered_is_told(home: Path) -> None:
    path = home / "coordinator" / "client.json"
    kept = ConnectionFile.load(path)
    public, secret = zmq.curve_keypair()
    body = json.loads(path.read_text()) | {"public_key": public.decode(), "secret_key": secret.decode()}
    path.write_text(json.dumps(body))
    assert ConnectionFile.load(path).cluster_id == kept.cluster_id
    (found,) = (f for f in doctor.keys(None) if f.state == "problem")
    assert "keys.json" in found.found


# ------------------------------------------------------------------------------------ reachability


def test_without_a_connection_file_there_is_nothing_to_dial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_HOME", str(tmp_path))
    monkeypatch.delenv("GANGER_CONNECTION", raising=False)
    (check,) = doctor.dials(None)
    (found,) = check()
    assert found.state == "skipped" and "cluster up" in found.remedy


def test_with_too_few_open_files_nothing_is_dialled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (32, 32))
    (check,) = doctor.dials(None)
    (found,) = check()
    assert (found.state, found.remedy) == ("skipped", "see limits")


def test_nobody_listening_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.connect(f"tcp://127.0.0.1:{port}") is None
    fault = doctor.connect(f"tcp://127.0.0.1:{port}")
    assert fault is not None and "nothing listens there (connection refused)" in fault[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "the name head cannot be resolved"),
        (TimeoutError(), "no answer within"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
    ],
)
def test_what_keeps_a_connection_from_coming_about_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        assert address == ("head", 7077)
        raise error

    monkeypatch.setattr(socket, "create_connection", create_connection)
    fault = doctor.connect("tcp://head:7077")
    assert fault is not None and words in fault[0] and fault[1]


NODE: dict[str, Any] = {
    "name": "a",
    "slots": 2,
    "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    "state": "up",
}


@pytest.mark.parametrize(
    ("nodes", "state", "words"),
    [
        ([], "warning", "has none"),
        ([NODE], "ok", "1 with 2 slots"),
        ([{**NODE, "python": "3.1"}], "warning", "none with Python"),
        ([NODE, {**NODE, "name": "b", "state": "suspect"}], "warning", "not heard of late: b"),
    ],
)
def test_nodes_that_cannot_do_our_work_are_told(nodes: list[dict[str, Any]], state: str, words: str) -> None:
    found = doctor._nodes(nodes)
    assert found.state == state and words in found.found


# ------------------------------------------------------------------------------------ clock


@pytest.mark.parametrize(
    ("theirs", "uncertain_s", "state", "words"),
    [
        (1000.0004, 0.0002, "ok", "0.4 ms ahead of ours"),
        (999.5, 0.001, "ok", "500.0 ms behind ours"),
        (1002.0, 0.001, "warning", "2.0 s ahead of ours"),
        (990.0, 0.001, "warning", "10.0 s behind ours"),
        (1002.0, 1.5, "ok", "± 1500.0 ms"),
        (1090.0, 0.001, "problem", "90.0 s ahead of ours"),
        (None, 0.001, "skipped", "does not tell"),
    ],
)
def test_clocks_that_differ_are_told(theirs: float | None, uncertain_s: float, state: str, words: str) -> None:
    found = doctor.clock(theirs, 1000.0, uncertain_s)
    assert found.state == state and words in found.found
    assert state == "ok" or found.remedy


# ------------------------------------------------------------------------------------ limits


def test_figures_are_those_of_the_program() -> None:
    assert (doctor.PIPE_BYTES, doctor.PACKET_BYTES) == (pool._PIPE_BYTES, worker.MAX_PACKET)
    assert doctor.BACKLOG == transport.BACKLOG


@pytest.mark.parametrize(
    ("hard", "slots", "state"),
    [(64, 2, "problem"), (1024, 2, "warning"), (1024, 400, "problem"), (65536, 400, "ok"), (UNLIMITED, 9000, "ok")],
)
def test_open_files(hard: int, slots: int, state: str) -> None:
    found = doctor.open_files(min(1024, hard) if hard != UNLIMITED else 1024, hard, slots)
    assert found.state == state
    assert state == "ok" or "LimitNOFILE" in found.remedy


def test_processes_of_the_user_and_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor.tasks(UNLIMITED, 10, Cgroup(""), 2).state == "ok"
    assert doctor.tasks(1000, 10, Cgroup("version 2"), 2).state == "ok"
    tight = doctor.tasks(100, 90, Cgroup("version 2", tasks=(5, 5000)), 2)
    assert tight.state == "problem" and "90 of 100 for this user" in tight.found
    group = doctor.tasks(UNLIMITED, 90, Cgroup("version 2", tasks=(5, 32)), 2)
    assert group.state == "problem" and "TasksMax" in group.remedy
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor.tasks(100, 90, Cgroup(""), 2).state == "ok", "root has no such limit"


def test_memory_and_processors() -> None:
    assert doctor.memory(8 << 30, Cgroup(""), 4).state == "ok"
    small = doctor.memory(8 << 30, Cgroup("version 2", memory_bytes=256 << 20), 4)
    assert small.state == "warning" and "by the control group" in small.found
    assert doctor.memory(None, Cgroup(""), 4).state == "skipped"
    assert doctor.processors(Cgroup("version 2", processors=1.0), 8, False).remedy == "--slots 1"
    assert doctor.processors(Cgroup("version 2", processors=1.0), 8, True).state == "ok", "it was chosen"
    assert doctor.processors(Cgroup(""), 8, False).state == "ok"


def test_shared_memory(tmp_path: Path) -> None:
    assert doctor.shared_memory(tmp_path / "missing").state == "warning"
    assert str(tmp_path) in doctor.shared_memory(tmp_path).found


@pytest.mark.parametrize(
    ("somaxconn", "pipe", "state"),
    [
        (4096, 425_984, "ok"),
        (128, 425_984, "warning"),
        (4096, 200_000, "warning"),
        (4096, 9_000, "problem"),
        (None, 425_984, "ok"),
    ],
)
def test_sockets(somaxconn: int | None, pipe: int, state: str) -> None:
    assert doctor.sockets(somaxconn, pipe).state == state


def test_this_machine_can_be_looked_at() -> None:
    found = states(list(doctor.limits()))
    assert set(found) == {
        *("open files", "processes", "memory", "processors", "cgroups", "shared memory", "sockets"),
    }
    assert doctor.pipe_bytes() > 0 and doctor._tasks_of(os.geteuid()) > 0


# ------------------------------------------------------------------------------------ what is shown


def test_every_finding_that_is_not_well_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_SLOT", "2")
    (home / "coordinator").chmod(0o755)
    findings = doctor.examine(doctor.Setup(None, cli._variables()))
    bad = [f for f in findings if f.state in ("problem", "warning")]
    assert {"coordinator", "GANGER_SLOT", "client, TCP", "node, TCP"} <= {f.name for f in bad}
    assert [f.name for f in bad if not f.remedy] == []
    assert {f.group for f in findings} == set(doctor.GROUPS) - {"clock"}, "nobody told the time"


def test_the_table_fits_a_narrow_terminal_and_names_no_markup() -> None:
    from tests.cluster.test_cli import drawn

    found = [Finding("keys", "client.json", "problem", "[bold]" + "x" * 200, "chmod 600"), ok("python")]
    shown = drawn(terminal.findings(found, doctor.summary(found)), width=80)
    assert "[bold]" in shown and "→ chmod 600" in shown and "✘ 1 problem, 1 ok" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "✔ no problem: 1 ok" in drawn(terminal.findings(found[1:], doctor.summary(found[1:])))
