"""Which kind of file system a path is on. Rules of this file: reads only; what to make of it is others' business."""

from __future__ import annotations

import re
from pathlib import Path

# fmt: off
NETWORK_FILE_SYSTEMS = frozenset([
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.cephfs", "fuse.davfs2", "fuse.gcsfuse",
    "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs", "virtiofs",
])
# fmt: on
"""Where locks and syncs are not to be relied on, those of SQLite among them (sqlite.org/faq.html, question 5)."""


MOUNTS = Path("/proc/self/mountinfo")
"""What is mounted where, as proc(5) has it."""


def file_system(path: Path) -> str:
    """Name of the file system a path is on; empty where it cannot be told."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
        wanted = path.resolve()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        left, dash, right = line.partition(" - ")
        fields = left.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        depth = len(point.parts)
        if depth >= best and (point == wanted or point in wanted.parents):  # a later mount hides an earlier one
            best, kind = depth, right.split(" ")[0]
    return kind
