"""Control groups: what is written where in a version 2 that is made of files, and what the kernel makes of it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cgroups import own_groups
from cluster.jobs import Rules
from node.groups import Group, Groups

PATIENCE_S = 30.0


def read(path: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in path.iterdir() if file.is_file()}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Our group, which may be divided for these."""
    (tmp_path / "cgroup.controllers").write_text("cpu hugetlb memory pids\n")
    return tmp_path


def test_version_2_is_divided_with_us_in_a_leaf(own: Path) -> None:
    groups = Groups({"": [own]})
    assert set(groups.places) == {"cpu", "memory", "pids"} and groups.version_2
    (place,) = set(groups.places.values())
    assert (own / f"{place.name}-agent" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (place / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_where_it_may_not_be_divided_we_stay_where_we_were(own: Path) -> None:
    (own / "cgroup.subtree_control").mkdir()  # nobody can write to it
    groups = Groups({"": [own]})
    assert not groups.places and not groups.version_2
    assert (own / "cgroup.procs").read_text() == str(os.getpid())
    assert groups.new("7", 7) is None


def test_a_group_without_controllers_is_left_alone(own: Path) -> None:
    (own / "cgroup.controllers").write_text("hugetlb")
    assert not Groups({"": [own]}).places
    assert [path.name for path in own.iterdir()] == ["cgroup.controllers"]


def test_version_1_has_a_group_for_each_controller(tmp_path: Path) -> None:
    chains = {name: [tmp_path / name] for name in ("memory", "pids")}
    for (path,) in chains.values():
        path.mkdir()
    groups = Groups(chains)
    assert set(groups.places) == {"memory", "pids"} and not groups.version_2
    group = groups.new("7", 7)
    assert group is not None
    group.limit(Rules(memory_bytes=1 << 20, processes=9, cpus=0.5))
    assert read(group.paths["pids"]) == {"cgroup.procs": "7", "pids.max": "9"}
    said = read(group.paths["memory"])
    assert said["memory.limit_in_bytes"] == said["memory.memsw.limit_in_bytes"] == str(1 << 20)
    group.unlimit()
    assert read(group.paths["memory"])["memory.limit_in_bytes"] == "-1"


def test_limits_come_and_go_with_a_job(own: Path) -> None:
    groups = Groups({"": [own]})
    group = groups.new("7", 7)
    assert group is not None and group.holds("memory") and group.holds("pids")
    (path,) = set(group.paths.values())
    group.limit(Rules(memory_bytes=1 << 20, processes=9, cpus=0.3))
    limited = {"memory.max": str(1 << 20), "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "9",
               "cpu.max": "30000 100000", "cgroup.procs": "7", "memory.peak": "0"}  # fmt: skip
    assert read(path) == limited
    group.unlimit()
    none = {"memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "0", "pids.max": "max",
            "cpu.max": "max 100000"}  # fmt: skip
    assert read(path) == limited | none


def test_no_job_gets_more_than_what_is_usual(own: Path) -> None:
    groups = Groups({"": [own]})
    groups.usual = Rules(memory_bytes=1000, processes=50)
    group = groups.new("7", 7)
    assert group is not None
    (path,) = set(group.paths.values())
    for rules, memory, processes in ((Rules(), "1000", "50"), (Rules(memory_bytes=2000, processes=9), "1000", "9")):
        group.limit(rules)
        assert (read(path)["memory.max"], read(path)["pids.max"]) == (memory, processes)
    group.unlimit()
    assert (read(path)["memory.max"], read(path)["pids.max"]) == ("1000", "50")


def test_what_was_used_and_who_was_killed_is_read(own: Path) -> None:
    group = Groups({"": [own]}).new("7", 7)
    assert group is not None
    (path,) = set(group.paths.values())
    (path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    group.limit(Rules(memory_bytes=1 << 20))
    assert not group.out_of_memory()  # those were killed before
    (path / "memory.events").write_text("low 0\noom 4\noom_kill 3\n")
    assert group.out_of_memory()
    for name, value in (("memory.current", "7\n"), ("memory.peak", "8\n"), ("pids.current", "9\n")):
        (path / name).write_text(value)
    assert (group.memory_bytes(), group.peak_bytes(), group.processes()) == (7, 8, 9)


def test_groups_of_agents_that_were_killed_are_cleared(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait(PATIENCE_S)
    left, ours = tmp_path / f"ganger-{dead.pid}-0" / "12", tmp_path / f"ganger-{os.getpid()}-999"
    left.mkdir(parents=True)
    ours.mkdir()
    Groups({"memory": [tmp_path]})
    assert not left.parent.exists() and ours.exists()


# ------------------------------------------------------------------------------------ the kernel's


@pytest.fixture(params=["version 1", "version 2"])
def real(request: pytest.FixtureRequest) -> Iterator[Group]:
    """An empty group of this machine. Of version 2 it may have no controllers, which those of version 1 have taken."""
    version_2 = request.param == "version 2"
    controller = "" if version_2 else "pids"
    path = next(iter(own_groups().get(controller, [])), Path("/nonexistent")) / f"ganger-{os.getpid()}-test"
    try:
        path.mkdir()
    except OSError:
        pytest.skip(f"there is no group of {request.param} that is ours to divide")
    group = Group({"pids": path}, version_2)
    yield group
    group.kill()
    assert group.close()


def test_all_in_a_group_are_killed_daemons_too(real: Group) -> None:
    program = "import os, time; os.fork() or os.setsid(); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", "input();" + program], stdin=-1, stdout=-1) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        (real.paths["pids"] / "cgroup.procs").write_text(str(parent.pid))
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        assert parent.stdout.read(2) == b"\n\n"
        members = [int(pid) for pid in (real.paths["pids"] / "cgroup.procs").read_text().split()]
        assert len(members) == 2 and parent.pid in members
        ends = [os.pidfd_open(pid) for pid in members]
        real.kill()
        for end in ends:
            assert select.select([end], [], [], PATIENCE_S)[0]
            os.close(end)
