"""The control group this process is in, and its limits. Rules of this file: reads only, of both versions of cgroups.

A limit may be set at any level: what counts is the tightest from our group up to the top, as far as that can be seen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

UNLIMITED_BYTES = 1 << 60
"""Version 1 writes "no limit" as some number above this."""


def number_in(path: Path) -> int | None:
    """First word of a small file as a number; None if it is not there or says ``max``."""
    try:
        return int(path.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class Cgroup:
    version: str
    """For people; empty if there is no control group to be seen."""
    memory_bytes: int | None = None
    processors: float | None = None
    tasks: tuple[int, int] | None = None
    """How many there are, and how many there may be."""
    writable: bool = False

    def words(self) -> str:
        if not self.version:
            return "none to be seen: a job's processes cannot be held together by one"
        if not self.writable:
            return f"{self.version}, not ours to divide: no group of its own for a job"
        return f"{self.version}, ours to divide"

    @classmethod
    def of_this_process(cls, proc: Path = Path("/proc/self"), top: Path = Path("/")) -> Cgroup:
        """``top``: where the paths in ``mountinfo`` begin."""
        chains = own_groups(proc, top)
        unified = chains.get("", [])
        own = unified[0] if unified else None
        v1 = "memory" in chains or "cpu" in chains
        version = "" if not chains else "version 1" if v1 else "version 2"
        quotas = [_cpu_v2(d) for d in unified] + [_cpu_v1(d) for d in chains.get("cpu", [])]
        memories = [number_in(d / "memory.max") for d in unified]
        memories += [number_in(d / "memory.limit_in_bytes") for d in chains.get("memory", [])]
        pids = []
        for d in [*unified, *chains.get("pids", [])]:
            now, most = number_in(d / "pids.current"), number_in(d / "pids.max")
            if now is not None and most is not None:
                pids.append((now, most))
        return cls(
            version,
            min((m for m in memories if m is not None and m < UNLIMITED_BYTES), default=None),
            min((q for q in quotas if q is not None), default=None),
            min(pids, key=lambda p: p[1] - p[0], default=None),
            not v1 and own is not None and os.access(own, os.W_OK) and os.access(own / "cgroup.procs", os.W_OK),
        )


def own_groups(proc: Path = Path("/proc/self"), top: Path = Path("/")) -> dict[str, list[Path]]:
    """Directories of the groups this process is in, each with those above it, by controller of version 1; version 2 is
    under the empty name."""
    try:
        lines = (proc / "cgroup").read_text("ascii").splitlines()
        mounts = (proc / "mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return {}
    paths: dict[str, str] = {}
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(",") if number != "0" else [""]:
            paths[controller] = path
    chains: dict[str, list[Path]] = {}
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind = right.split(" ")[0]
        if kind not in ("cgroup", "cgroup2"):
            continue
        _, _, _, root, point, *_ = left.split(" ")
        for controller in [""] if kind == "cgroup2" else right.split(" ")[-1].split(","):
            if controller in paths:
                chains[controller] = _upwards(top / point.lstrip("/"), root, paths[controller])
    return chains


def _upwards(point: Path, root: str, path: str) -> list[Path]:
    """A group's directory and those above it, up to the mount point. In a container the group may lie outside of it."""
    below = os.path.relpath(path, root)
    directory = point if below.startswith("..") else point / below
    out = [directory]
    while out[-1] != point and point in out[-1].parents:
        out.append(out[-1].parent)
    return [d for d in out if d.is_dir()]


def _cpu_v2(directory: Path) -> float | None:
    try:
        quota, period = (directory / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _cpu_v1(directory: Path) -> float | None:
    quota, period = number_in(directory / "cpu.cfs_quota_us"), number_in(directory / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None
