"""Limits of control groups, read from trees like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cgroups import Cgroup, number_in


class Kernel:
    """``/proc/self`` and the mounted control groups, as files."""

    def __init__(self, top: Path) -> None:
        self.top, self.proc = top, top / "proc"
        self.proc.mkdir()
        self.mounts: list[str] = []
        self.groups: list[str] = []

    def v2(self, root: str = "/", point: str = "/sys/fs/cgroup", path: str = "/") -> None:
        self.mounts.append(f"30 20 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw")
        self.groups.append(f"0::{path}")

    def v1(self, controllers: str, path: str) -> None:
        point = f"/sys/fs/cgroup/{controllers}"
        self.mounts.append(f"31 20 0:27 / {point} rw shared:5 - cgroup cgroup rw,{controllers}")
        self.groups.append(f"{len(self.groups) + 1}:{controllers}:{path}")

    def write(self, path: str, text: str) -> None:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self) -> Cgroup:
        self.write("proc/mountinfo", "20 1 8:1 / / rw - ext4 /dev/vda rw\n" + "\n".join(self.mounts) + "\n")
        self.write("proc/cgroup", "\n".join(self.groups) + "\n")
        return Cgroup.of_this_process(self.proc, self.top)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_the_tightest_limit_on_the_way_up_counts(kernel: Kernel) -> None:
    kernel.v2(path="/user.slice/session")
    kernel.write("sys/fs/cgroup/user.slice/session/memory.max", "max\n")
    kernel.write("sys/fs/cgroup/user.slice/session/cpu.max", "max 100000\n")
    kernel.write("sys/fs/cgroup/user.slice/session/pids.max", "500\n")
    kernel.write("sys/fs/cgroup/user.slice/session/pids.current", "20\n")
    kernel.write("sys/fs/cgroup/user.slice/memory.max", "1073741824\n")
    kernel.write("sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n")
    kernel.write("sys/fs/cgroup/user.slice/pids.max", "400\n")
    kernel.write("sys/fs/cgroup/user.slice/pids.current", "390\n")
    found = kernel.read()
    assert (found.version, found.memory_bytes, found.processors, found.tasks) == ("version 2", 1 << 30, 1.5, (390, 400))


def test_in_a_container_the_mount_begins_at_its_group(kernel: Kernel) -> None:
    kernel.v2(root="/docker/abc", path="/docker/abc/job")
    kernel.write("sys/fs/cgroup/memory.max", "4096\n")
    kernel.write("sys/fs/cgroup/job/cgroup.procs", "")
    found = kernel.read()
    assert found.memory_bytes == 4096
    assert found.writable and "ours to divide" in found.words()


def test_a_group_outside_of_what_is_mounted_is_taken_for_its_top(kernel: Kernel) -> None:
    kernel.v2(root="/docker/abc", path="/")
    kernel.write("sys/fs/cgroup/memory.max", "8192\n")
    assert kernel.read().memory_bytes == 8192


def test_version_1(kernel: Kernel) -> None:
    kernel.v1("cpu,cpuacct", "/a")
    kernel.v1("memory", "/a/b")
    kernel.v1("pids", "/")
    kernel.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "200000\n")
    kernel.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n")
    kernel.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n")
    kernel.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "536870912\n")
    kernel.write("sys/fs/cgroup/pids/pids.max", "max\n")
    found = kernel.read()
    assert (found.version, found.memory_bytes, found.processors, found.tasks) == ("version 1", 512 << 20, 2.0, None)
    assert not found.writable


def test_no_limit_is_none(kernel: Kernel) -> None:
    kernel.v1("memory", "/")
    kernel.v1("cpu", "/")
    kernel.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    kernel.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    kernel.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    found = kernel.read()
    assert (found.memory_bytes, found.processors) == (None, None)


def test_without_control_groups_there_is_nothing_to_say(kernel: Kernel, tmp_path: Path) -> None:
    found = Cgroup.of_this_process(tmp_path / "nowhere", tmp_path)
    assert (found.version, found.memory_bytes) == ("", None) and found.words()


@pytest.mark.parametrize(("text", "number"), [("12 34\n", 12), ("max\n", None), ("", None)])
def test_number_in(tmp_path: Path, text: str, number: int | None) -> None:
    (tmp_path / "file").write_text(text)
    assert number_in(tmp_path / "file") == number
    assert number_in(tmp_path / "missing") is None
