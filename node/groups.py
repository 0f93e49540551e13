"""Control groups of workers whose jobs have limits. Rules of this file: it writes below our own group only.

Each controller is taken from where it is: version 2 if our group may be divided there, else version 1. What is in none
is left to others to watch. A worker enters its group with its first job that has limits, and stays: what it had before
counts as the node's, and what it takes from there on as its own.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cluster.cgroups import number_in, own_groups
from cluster.jobs import AS_USUAL, Rules

_PERIOD_US = 100_000
_NONE = "-1"
_numbers = itertools.count()


class Groups:
    """Where groups can be made, by controller; nowhere, if this process has not the right to."""

    def __init__(self, chains: Mapping[str, list[Path]] | None = None) -> None:
        chains = own_groups() if chains is None else chains
        self._name = f"ganger-{os.getpid()}-{next(_numbers)}"
        self.places: dict[str, Path] = {}
        """Our own group of each controller, below which those of workers are."""
        self.version_2 = False
        self.usual = Rules()
        """Limits of a group whose job has none of its own."""
        for controller in ("memory", "pids", "cpu"):
            for own in chains.get(controller, [])[:1]:
                _clear(own)
                with contextlib.suppress(OSError):
                    (own / self._name).mkdir()
                    self.places[controller] = own / self._name
        if not self.places and chains.get(""):
            with contextlib.suppress(OSError):
                self._divide(chains[""][0])

    def _divide(self, own: Path) -> None:
        """Processes and groups with limits may not be in one group of version 2: we go into a leaf."""
        offered = set((own / "cgroup.controllers").read_text("ascii").split()) & {"memory", "pids", "cpu"}
        if not offered:
            return
        leaf, place = own / f"{self._name}-agent", own / self._name
        leaf.mkdir()
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        try:
            wanted = " ".join(f"+{name}" for name in sorted(offered))
            (own / "cgroup.subtree_control").write_text(wanted)
            place.mkdir()
            (place / "cgroup.subtree_control").write_text(wanted)
        except OSError:
            (own / "cgroup.procs").write_text(str(os.getpid()))
            leaf.rmdir()
            raise
        self.version_2 = True
        self.places = dict.fromkeys(sorted(offered), place)

    def new(self, name: str, pid: int) -> Group | None:
        """A group with that process in it."""
        if not self.places:
            return None
        group = Group({c: place / name for c, place in self.places.items()}, self.version_2, self.usual)
        try:
            for path in dict.fromkeys(group.paths.values()):
                path.mkdir(exist_ok=True)
                (path / "cgroup.procs").write_text(str(pid))
        except OSError:
            group.close()
            return None
        return group

    def close(self) -> None:
        for place in set(self.places.values()):
            _remove(place)


def _clear(own: Path) -> None:
    """Groups of agents that were killed are empty, and still there."""
    for place in own.glob("ganger-*-*"):
        pid = place.name.split("-")[1]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            _remove(place)


def _remove(place: Path) -> None:
    for path in [*place.glob("*/"), place]:
        with contextlib.suppress(OSError):
            path.rmdir()


def _tighter(one: int, other: int) -> int:
    """0 is no limit."""
    return min(one, other) if one and other else one or other


class Group:
    def __init__(self, paths: dict[str, Path], version_2: bool, usual: Rules = AS_USUAL) -> None:
        self.paths = paths
        self._usual = usual
        self._v2 = version_2
        self._killed = self._kills()

    def limit(self, rules: Rules) -> None:
        """For the next job; it may not be kept from starting by a limit that cannot be set."""
        usual = self._usual
        rules = replace(
            rules,
            memory_bytes=_tighter(rules.memory_bytes, usual.memory_bytes),
            processes=_tighter(rules.processes, usual.processes),
        )
        self._killed = self._kills()
        none = "max" if self._v2 else _NONE
        memory = str(rules.memory_bytes) if rules.memory_bytes else none
        self._set("memory", "memory.max" if self._v2 else "memory.limit_in_bytes", memory)
        if self._v2:
            self._set("memory", "memory.swap.max", "0" if rules.memory_bytes else "max")
            self._set("memory", "memory.oom.group", "1" if rules.memory_bytes else "0")
        else:
            self._set("memory", "memory.memsw.limit_in_bytes", memory)
        self._set("memory", "memory.peak" if self._v2 else "memory.max_usage_in_bytes", "0")
        self._set("pids", "pids.max", str(rules.processes) if rules.processes else "max")
        quota = str(max(1000, math.ceil(rules.cpus * _PERIOD_US))) if rules.cpus else none
        if self._v2:
            self._set("cpu", "cpu.max", f"{quota} {_PERIOD_US}")
        else:
            self._set("cpu", "cpu.cfs_quota_us", quota)

    def unlimit(self) -> None:
        if not self._v2:  # with a limit on both, the wider one has to go first
            self._set("memory", "memory.memsw.limit_in_bytes", _NONE)
        self.limit(AS_USUAL)

    def holds(self, controller: str) -> bool:
        return controller in self.paths

    def memory_bytes(self) -> int:
        """In use now."""
        return self._number("memory", "memory.current" if self._v2 else "memory.usage_in_bytes")

    def peak_bytes(self) -> int:
        return self._number("memory", "memory.peak" if self._v2 else "memory.max_usage_in_bytes")

    def processes(self) -> int:
        return self._number("pids", "pids.current")

    def out_of_memory(self) -> bool:
        """Whether one of its processes was killed for its limit since that was set."""
        return self._kills() > self._killed

    def kill(self) -> None:
        """Whatever is in it: it may be in nobody's tree any more."""
        for path in dict.fromkeys(self.paths.values()):
            with contextlib.suppress(OSError):
                if self._v2:
                    (path / "cgroup.kill").write_text("1")
                else:
                    for pid in (path / "cgroup.procs").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)

    def close(self) -> bool:
        """Whether it is gone: not as long as a process is in it."""
        gone = True
        for path in dict.fromkeys(self.paths.values()):
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                gone = False
        return gone

    def _kills(self) -> int:
        path = self.paths.get("memory")
        with contextlib.suppress(OSError, ValueError):
            text = "" if path is None else (path / ("memory.events" if self._v2 else "memory.oom_control")).read_text()
            return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)
        return 0

    def _number(self, controller: str, file: str) -> int:
        path = self.paths.get(controller)
        return 0 if path is None else number_in(path / file) or 0

    def _set(self, controller: str, file: str, value: str) -> None:
        path = self.paths.get(controller)
        if path is not None:
            with contextlib.suppress(OSError):
                (path / file).write_text(value)
