"""Processes and what descends from them. Rules of this file: it reads ``/proc`` and kills, and decides nothing.

A *subreaper* inherits what its descendants leave behind, so a tree stays in one piece until it is cleared. Nobody's
word is taken for that: what is to be gone is looked for until it is not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38

TRACKER_S = 2.0
"""Time for ``multiprocessing``'s resource tracker to unlink what it was told of, once all others are dead."""

_PAUSE_S = 0.001
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


_prctl = ctypes.CDLL(None).prctl
"""Looked up once, before the fork: what a worker does anew is memory that it does not share."""


def prctl(option: int, value: int) -> bool:
    done: int = _prctl(option, value, 0, 0, 0)
    return done == 0


def become_subreaper() -> None:
    """From here on, orphans among our descendants become our children."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """No program started from here on gets rights of its file's owner."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def tie_to(parent: int, found: Callable[[], int] = os.getppid) -> None:
    """Die with the process that started this one; if it is dead already, at once. ``found``: who it is now."""
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if found() != parent:
        os._exit(1)


def parents() -> dict[int, int]:
    """Parent by process, of all that can be seen."""
    out = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                _, parent, *_ = file.read().rpartition(b")")[2].split(maxsplit=2)
                out[int(name)] = int(parent)
    return out


def descendants(root: int, without: Collection[int] = ()) -> list[int]:
    """Of ``root``, itself not among them, nor those in ``without`` and theirs; zombies too. The nearest first."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    out = [pid for pid in children.get(root, ()) if pid not in without]
    for pid in out:
        out += [child for child in children.get(pid, ()) if child not in without]
    return out


class Use(NamedTuple):
    memory_bytes: int
    processes: int
    """With threads."""


def use_of(root: int, at_most_bytes: int = 0) -> Use:
    """What a process and its descendants use. Pages that several share count for each, which is cheap to find out; if
    that is more than ``at_most_bytes`` they are shared out, which is not."""
    pids = [root, *descendants(root)]
    memory = threads = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            threads += int(fields[17])
            memory += int(fields[21]) * _PAGE_BYTES
    if memory > at_most_bytes:
        memory = sum(map(shared_out_bytes, pids))
    return Use(memory, threads)


def shared_out_bytes(pid: int) -> int:
    """Memory of one process, with its share of what it shares."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
    return 0


def may_be_tracker(pid: int) -> bool:
    """Whether it is ``multiprocessing``'s resource tracker, or is only becoming what it will be: who starts a program
    goes on a moment before the kernel knows its arguments."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            said = file.read(4096)
            return not said or b"multiprocessing.resource_tracker" in said
    except OSError:
        return False


def kill(pids: Collection[int], spare_trackers: bool) -> None:
    for pid in pids:
        if not (spare_trackers and may_be_tracker(pid)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def clear(within_s: float, known: Collection[int] = ()) -> bool:
    """Kill and reap all descendants of this process but ``known`` and theirs. Whether none is left."""
    began = time.monotonic()
    me = os.getpid()
    while True:
        left = descendants(me, known)
        if not left:
            return True
        waited = time.monotonic() - began
        if waited > within_s:
            return False
        kill(left, waited < TRACKER_S)
        reap(left)
        time.sleep(_PAUSE_S)


def reap(pids: Collection[int]) -> None:
    """Those of them that are our children and dead."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
