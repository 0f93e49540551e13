"""Proof that this machine contains jobs. Rules of this file: nothing is taken for true that was not tried here and now.

The escapes of ``cluster/escapes.py`` are run as jobs in a worker of the pool that shall run the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster import containment, escapes, payload
from cluster.cgroups import Cgroup
from cluster.facts import Fact, fact
from cluster.jobs import End, Rules, Spec
from node.events import Give, KillWorker, Run, SpawnWorker, WorkerDone, WorkerGone, WorkerUp
from node.pool import WorkerPool

LABEL = "isolation"
"""Of a node, with ``contained`` once that is proved; nobody else may claim it."""

PROCESSES = 1024
"""Processes and threads a contained job has at most, unless it asks for less: enough for any pool of its own."""

MEMORY_SHARE = 0.9
"""...and its share of the node's memory."""

_WITHIN_S = 30.0
_MEMORY_BYTES = 64 << 20
"""Limit of the attempt that takes twice as much."""

_IPC_CREAT, _IPC_RMID, _READ_ALL = 0o1000, 0, 0o444


def usual_limits() -> Rules:
    """Of contained workers."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Rules(
        memory_bytes=int(MEMORY_SHARE * min(machine, Cgroup.of_this_process().memory_bytes or machine)),
        processes=PROCESSES,
    )


class Proof(NamedTuple):
    ways: dict[str, str]
    """Where each escape led to; empty: nowhere."""

    @property
    def open_ways(self) -> dict[str, str]:
        """Those that must not be there."""
        return {name: where for name, where in self.ways.items() if where and name not in escapes.OPTIONAL}

    def fact(self) -> Fact:
        """Once there are none."""
        others = "; ".join(f"{name.replace('_', ' ')}: {where}" for name, where in self.ways.items() if where)
        return fact(
            "contained", len(self.ways), but=f", but for what this kernel cannot prevent ({others})" * bool(others)
        )

    def words(self) -> str:
        return "; ".join(f"{name.replace('_', ' ')}: {where}" for name, where in self.open_ways.items())


def hidden_paths(files: Sequence[Path], directories: Sequence[Path], needed: Sequence[str]) -> list[str]:
    """What jobs shall not find: the directories, and the files with all that lies beside them, unless the jobs need
    something from there."""
    out = [str(path.absolute()) for path in directories]
    for file in files:
        beside = file.absolute().parent
        shared = any(beside in (Path(n), *Path(n).parents) for n in map(os.path.abspath, needed))
        out.append(str(file.absolute() if shared else beside))
    return [path for path in dict.fromkeys(out) if not any(Path(o) in Path(path).parents for o in out)]


def prove(pool: WorkerPool, hidden: Sequence[str], blob_dir: str) -> Proof:
    """Try every escape in slot 0 of a pool without workers, and leave it so."""
    with _outside(hidden, blob_dir) as outside:
        tried = _attempt(pool, "try_all", tuple(outside), Rules(processes=escapes.FORKS // 2))
        if isinstance(tried, WorkerGone):
            return Proof({"the_worker": tried.cause})
        end, raw = tried.rows[0].end, tried.rows[0].payload
        ways = dict(payload.unpack_result(raw)) if end == End.SUCCEEDED else {"the_worker": raw.decode("latin-1")}
        if not tried.leaving:
            _stop(pool)
        else:
            _wait(pool, lambda event: isinstance(event, WorkerGone))
        taken = _attempt(pool, "take_memory", 2 * _MEMORY_BYTES, Rules(memory_bytes=_MEMORY_BYTES))
        ways["takes_memory_without_end"] = ""
        if isinstance(taken, WorkerDone):
            if taken.rows[0].end == End.SUCCEEDED:
                ways["takes_memory_without_end"] = f"{2 * _MEMORY_BYTES} bytes, where {_MEMORY_BYTES} are allowed"
            _stop(pool)
    return Proof(ways)


@contextlib.contextmanager
def _outside(hidden: Sequence[str], blob_dir: str) -> Iterator[escapes.Outside]:
    """Something to be found by each escape."""
    libc = ctypes.CDLL(None)
    name, key = f"ganger-{secrets.token_hex(8)}", secrets.randbelow(1 << 30) + 1
    memory = Path("/dev/shm", name)
    segment = libc.shmget(key, 4096, _IPC_CREAT | _READ_ALL)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(b"\0" + name.encode())
            listener.listen()
            memory.touch()
            directories = ["/", "/etc", "/tmp", "/var/tmp", "/dev", os.getcwd(), os.path.expanduser("~"), *hidden]
            yield escapes.Outside(os.getpid(), tuple(hidden), (blob_dir,), tuple(directories), name, key, name.encode())
    finally:
        memory.unlink(missing_ok=True)
        libc.shmctl(segment, _IPC_RMID, None)


def _attempt(pool: WorkerPool, escape: str, argument: Any, rules: Rules) -> WorkerDone | WorkerGone:
    pool.perform(SpawnWorker(0))
    up = _wait(pool, lambda event: isinstance(event, WorkerUp | WorkerGone))
    if isinstance(up, WorkerGone):
        return up
    spec = Spec(escape, False, f"ccluster.escapes\n{escape}\n.".encode(), rules=rules)
    packed = payload.pack_call((argument,), {})
    assert isinstance(packed, bytes)  # small
    pool.perform(Give(0, [Run(1, bytes(16), 1, spec, packed, None)]))
    told = _wait(pool, lambda event: isinstance(event, WorkerDone | WorkerGone))
    assert isinstance(told, WorkerDone | WorkerGone)
    return told


def _stop(pool: WorkerPool) -> None:
    pool.perform(KillWorker(0))
    _wait(pool, lambda event: isinstance(event, WorkerGone))


def _wait(pool: WorkerPool, wanted: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + _WITHIN_S
    while time.monotonic() < end:
        select.select([pool], [], [], 1.0)
        for event in pool.drain(100)[0]:
            if wanted(event):
                return event
    pool.perform(KillWorker(0))
    return WorkerGone(0, 0, f"it has not answered within {_WITHIN_S:g} s", None, False, [])


def landlock_words() -> str:
    version = containment.landlock_version()
    return f"Landlock {version}" if version else "no Landlock"
