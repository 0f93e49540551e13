"""What the agent measures of its machine. Rules of this file: cheap reads, plain numbers, no opinion.

A millisecond once a second: files of ``/proc`` stay open and are read again, and of processes our own descendants are
looked at, and all others only where they use much of our processors. What cannot be had is left out.

| figure | what it is |
|---|---|
| ``cpu_ratio`` | share of the processors this process may use that was busy since the last look |
| ``own_cpu_ratio`` | ...and what the agent with all that descends from it used |
| ``foreign_runnable`` | processes of others that run there or want to, at this moment |
| ``load`` | runnable processes a processor, over a minute |
| ``memory_bytes``, ``memory_available_bytes`` | by the kernel, or by the control group where that is tighter |
| ``own_memory_bytes`` | of the agent with all that descends from it; what they share counts for each |
| ``cpu_pressure_ratio``, ``memory_...``, ``io_...`` | share of ten seconds in which something waited (PSI ``some``) |
| ``disk_bytes``, ``disk_free_bytes`` | of the disk of the agent's directory |
| ``gpus``, ``gpu_ratio``, ``gpu_memory_free_bytes`` | of the graphics processors, together |
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from cluster.cgroups import Cgroup, number_in, own_groups
from node.agent import VitalsTaken

EVERY_S = 1.0

MOST_PROCESSES = 1_000
"""Descendants that are looked at."""

MOST_LOOKED_AT = 4_000
"""Processes of a machine that are looked at for whether they run: 15 µs each."""

IDLE_RATIO = 0.1
"""Where others use less than this share of the processors, nobody is looked for."""

PRESSURES = ("cpu", "memory", "io")

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_IDLE = (3, 4)
"""Columns of ``/proc/stat``: idle, and waiting for a disk, which is idle too."""
_UNREADABLE = (OSError, ValueError, LookupError)


class _Kept:
    """A small file of the kernel's that is read again and again."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        out = piece = os.pread(self._fd, 1 << 16, 0)
        while len(piece) == 1 << 16:
            piece = os.pread(self._fd, 1 << 16, len(out))
            out += piece
        return out

    def close(self) -> None:
        os.close(self._fd)


class Machine:
    """Measures. The first look has no shares of processors: they need two. ``proc``: where ``/proc`` is."""

    def __init__(
        self, directory: Path, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        self._proc = proc
        self._clock = clock
        self._files: dict[str, _Kept] = {}
        for name in ("stat", "meminfo", *(f"pressure/{what}" for what in PRESSURES)):
            with contextlib.suppress(OSError):
                kept = self._files[name] = _Kept(proc / name)
                with contextlib.suppress(OSError):
                    kept.read()
                    continue
                del self._files[name]
                kept.close()
        group = Cgroup.of_this_process(proc / "self")
        self._most_memory = group.memory_bytes
        self._group_uses = [d / "memory.current" for d in own_groups(proc / "self").get("", [])[:1]]
        self._quota = group.processors
        self._last: tuple[float, int, int, float] | None = None
        """When was looked last; ticks that processors were busy, and that there were; seconds of our own."""
        self._gpus = _Gpus.found()

    def measure(self) -> dict[str, Any]:
        out: dict[str, Any] = {"load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 3)}
        with contextlib.suppress(*_UNREADABLE):
            self._processors(out)
        with contextlib.suppress(*_UNREADABLE):
            self._memory(out)
        for what in PRESSURES:
            file = self._files.get(f"pressure/{what}")
            if file is not None:
                with contextlib.suppress(*_UNREADABLE):
                    out[f"{what}_pressure_ratio"] = _some(file.read())
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._directory)
            out["disk_bytes"] = disk.f_blocks * disk.f_frsize
            out["disk_free_bytes"] = disk.f_bavail * disk.f_frsize
        if self._gpus is not None:
            out |= self._gpus.measure()
        return out

    def offers(self) -> dict[str, float]:
        """What jobs may claim of it, as far as it is known: all that this process may use."""
        processors = len(os.sched_getaffinity(0))
        out: dict[str, float] = {"cpus": min(processors, self._quota or processors)}
        found: dict[str, int] = {}
        with contextlib.suppress(*_UNREADABLE):
            self._memory(found)
            out["memory_bytes"] = found["memory_bytes"]
        if self._gpus is not None:
            out["gpus"] = self._gpus.count
        return out

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _processors(self, out: dict[str, Any]) -> None:
        own = {b"cpu%d" % number for number in os.sched_getaffinity(0)}
        now = self._clock()
        busy = total = 0
        for line in self._files["stat"].read().splitlines():
            name, *columns = line.split()
            if not name.startswith(b"cpu"):
                break
            if name in own:
                ticks = list(map(int, columns[:8]))
                total += sum(ticks)
                busy += sum(ticks) - sum(ticks[i] for i in _IDLE)
        own_s, out["own_memory_bytes"], tree = self._own()
        last, self._last = self._last, (now, busy, total, own_s)
        if last is None or total <= last[2] or now <= last[0]:
            return
        processors = min(len(own), self._quota or len(own))
        ours = min(1.0, max(0.0, (own_s - last[3]) / (now - last[0]) / processors))
        out["own_cpu_ratio"] = round(ours, 4)
        out["cpu_ratio"] = share = round(min(1.0, max(ours, (busy - last[1]) / (total - last[2]))), 4)
        # Where others use little nobody is counted, which is most of what looking costs.
        others = 0 if share - ours < IDLE_RATIO else self._others({int(name[3:]) for name in own}, tree)
        if others is not None:
            out["foreign_runnable"] = others

    def _others(self, processors: Collection[int], tree: Collection[str]) -> int | None:
        """Processes beside our own that run on these processors or want to; None if there are too many to look at."""
        pids = [pid for pid in os.listdir(self._proc) if pid.isdigit()]
        if len(pids) > MOST_LOOKED_AT:
            return None
        out = 0
        for pid in pids:
            if pid not in tree:
                with contextlib.suppress(*_UNREADABLE):
                    fields = self._stat(pid)
                    out += fields[0] == b"R" and int(fields[36]) in processors
        return out

    def _own(self) -> tuple[float, int, set[str]]:
        """Seconds and memory of this process and its descendants, and who they are; seconds of those they have buried
        too."""
        ticks = pages = 0
        tree = {str(os.getpid())}
        for pid in self._tree():
            tree.add(pid)
            with contextlib.suppress(*_UNREADABLE):
                fields = self._stat(pid)
                ticks += sum(map(int, fields[11:15]))
                pages += int(fields[21])
        return ticks / _TICKS, pages * _PAGE_BYTES, tree

    def _stat(self, pid: str) -> list[bytes]:
        """What the kernel says of a process, from its state on. There may be thousands to ask about."""
        fd = os.open(f"{self._proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).rpartition(b")")[2].split(None, 37)
        finally:
            os.close(fd)

    def _tree(self) -> Iterator[str]:
        pids = ["self"]
        for pid in pids:
            yield pid
            if len(pids) > MOST_PROCESSES:
                continue
            with contextlib.suppress(OSError):
                for thread in os.listdir(self._proc / pid / "task"):
                    with contextlib.suppress(OSError):
                        pids += (self._proc / pid / "task" / thread / "children").read_text("ascii").split()

    def _memory(self, out: dict[str, Any]) -> None:
        found: dict[bytes, int] = {}
        for line in self._files["meminfo"].read().splitlines()[:5]:
            name, kib, *_ = line.split()
            found[name] = int(kib) * 1024
        whole, available = found[b"MemTotal:"], found[b"MemAvailable:"]
        if self._most_memory is not None and self._most_memory < whole:
            whole = self._most_memory
            used = next((n for path in self._group_uses if (n := number_in(path)) is not None), None)
            # what was read from files and can be dropped is counted as used, and fills a group up to its limit
            spare = sum(_droppable(path.with_name("memory.stat")) for path in self._group_uses)
            available = min(available, whole if used is None else max(0, whole - used + spare))
        out["memory_bytes"], out["memory_available_bytes"] = whole, available


def _droppable(path: Path) -> int:
    """Bytes of files in a control group's memory that nothing has used lately."""
    with contextlib.suppress(*_UNREADABLE):
        for line in path.read_text("ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":
                return int(value)
    return 0


def _some(text: bytes) -> float:
    """``some avg10=1.53 avg60=...`` as a ratio."""
    return round(float(text.split(b"avg10=", 1)[1].split(b" ", 1)[0]) / 100, 4)


class _Gpus:
    """By NVIDIA's own library, where ``nvidia-ml-py`` and a driver are installed."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._all = [library.nvmlDeviceGetHandleByIndex(n) for n in range(library.nvmlDeviceGetCount())]

    @classmethod
    def found(cls) -> _Gpus | None:
        try:
            library = importlib.import_module("pynvml")
            library.nvmlInit()
            return cls(library)
        except Exception:  # not installed, no driver, no card: whatever it is, there is nothing to measure
            return None

    @property
    def count(self) -> int:
        return len(self._all)

    def measure(self) -> dict[str, Any]:
        out: dict[str, Any] = {"gpus": self.count}
        try:
            busy = [self._library.nvmlDeviceGetUtilizationRates(one).gpu for one in self._all]
            free = [self._library.nvmlDeviceGetMemoryInfo(one).free for one in self._all]
        except Exception:  # a card that has fallen off its bus is no reason to stop
            return out
        if self._all:
            out["gpu_ratio"] = round(sum(busy) / len(busy) / 100, 4)
            out["gpu_memory_free_bytes"] = sum(free)
        return out


class Vitals:
    """A source without descriptors: measures when a turn comes by and the last figures are old."""

    def __init__(self, machine: Machine, clock: Callable[[], float] = time.monotonic) -> None:
        self._machine = machine
        self._clock = clock
        self._taken_at = float("-inf")

    def pollables(self) -> list[int]:
        return []

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        now = self._clock()
        if now - self._taken_at < EVERY_S:
            return [], True
        self._taken_at = now
        return [VitalsTaken(self._machine.measure())], True
