"""Which file system a path is on, by mount tables like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import file_systems
from cluster.file_systems import file_system

MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /home rw,relatime shared:2 master:7 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/anne/local rw,relatime - xfs /dev/sdb1 rw
32 22 0:42 / /mnt/two\040words rw - cifs //server/share rw
33 22 0:43 / /mnt/über rw - fuse.sshfs host:/ rw
34 22 0:44 / /mnt/again rw - nfs server:/old rw
35 22 8:2 / /mnt/again rw - ext4 /dev/sdc1 rw
36 22 0:45 / /homestead rw - btrfs /dev/sdd rw
no line of that file
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home", "nfs4"),
        ("/home/anne/cluster", "nfs4"),
        ("/home/anne/local/cluster", "xfs"),
        ("/homestead", "btrfs"),
        ("/mnt/two words/a", "cifs"),
        ("/mnt/über/a", "fuse.sshfs"),
        ("/mnt/again/a", "ext4"),
        ("/mnt", "ext4"),
    ],
)
def test_a_file_system_is_that_of_the_deepest_and_latest_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTINFO)
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    assert file_system(Path(path)) == kind


def test_where_it_cannot_be_told_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "none")
    assert file_system(tmp_path) == ""
    (tmp_path / "none").write_text("nonsense\n")
    assert file_system(tmp_path) == ""


def test_this_machine_tells(tmp_path: Path) -> None:
    assert file_system(Path("/proc")) == "proc"
    assert file_system(tmp_path) not in ("", "proc")
