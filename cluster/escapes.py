"""Named ways out of a contained worker. Rules of this file: it runs as a job, tries them, and says which led out.

A node calls itself contained only if each was tried in one of its own workers, and led nowhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cluster import containment

FORKS = 64
"""The job that tries them may have half as many processes."""


class Outside(NamedTuple):
    """What there is outside, for the job to look for."""

    agent: int
    hidden: tuple[str, ...]
    """Files and directories with keys, sockets and the agent's state,"""
    kept: tuple[str, ...]
    """...below which this is needed."""
    directories: tuple[str, ...]
    """Where files could be made."""
    shared_memory: str
    """Name of a file in ``/dev/shm``,"""
    shared_key: int
    """...and key of System V shared memory."""
    abstract: bytes
    """Name of an abstract socket that somebody listens on."""


def sees_other_processes(outside: Outside) -> str:
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    return "" if os.getpid() == 1 and pids == ["1"] else f"it is process {os.getpid()} and sees {len(pids)}"


def signals_the_agent(outside: Outside) -> str:
    try:
        os.kill(outside.agent, 0)
    except (ProcessLookupError, PermissionError):
        return ""
    return f"process {outside.agent} can be signalled"


def reads_what_is_hidden(outside: Outside) -> str:
    for path in outside.hidden:
        with contextlib.suppress(OSError):
            if os.path.isdir(path):
                for left in (os.path.join(path, name) for name in os.listdir(path)):
                    if not any(Path(left) in (Path(kept), *Path(kept).parents) for kept in outside.kept):
                        return f"{left} is there"
            elif Path(path).read_bytes():
                return f"{path} can be read"
    return ""


def writes_outside(outside: Outside) -> str:
    for directory in outside.directories:
        path = os.path.join(directory, f"ganger-escape-{os.getpid()}")
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except OSError:
            continue
        os.close(fd)
        os.unlink(path)
        return f"a file can be made in {directory}"
    return ""


def changes_the_kernel(outside: Outside) -> str:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/domainname", "/proc/sysrq-trigger"):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            return f"{path} can be written to"
    return ""


def opens_disks(outside: Outside) -> str:
    for path in Path("/dev").rglob("*"):
        with contextlib.suppress(OSError):
            if stat.S_ISBLK(os.stat(path).st_mode):
                os.close(os.open(path, os.O_RDONLY))
                return f"{path} can be opened"
    with contextlib.suppress(OSError):
        path = Path(os.environ["TMPDIR"], "disk")
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(8, 0))
        return "a disk can be made"
    return ""


def mounts(outside: Outside) -> str:
    for target in (os.environ["TMPDIR"], "/mnt"):
        with contextlib.suppress(OSError):
            containment.mount("tmpfs", target, "tmpfs", 0)
            return f"a file system can be mounted on {target}"
    for path in (*outside.hidden, "/proc"):
        if ctypes.CDLL(None).umount2(os.fsencode(path), 2) == 0:
            return f"{path} can be uncovered"
    return ""


def makes_a_user_namespace(outside: Outside) -> str:
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(OSError):
            containment.unshare(containment.NEWUSER)
            code = 0
        os._exit(code)
    return "" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) else "and it has all rights there"


def keeps_rights(outside: Outside) -> str:
    said = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(said[name], 16):
            return f"{name} is {said[name]}"
    return "" if said["NoNewPrivs"].strip() == "1" else "programs may get new privileges"


def shares_memory(outside: Outside) -> str:
    if os.path.exists(f"/dev/shm/{outside.shared_memory}"):
        return "/dev/shm is that of the others"
    return "" if ctypes.CDLL(None).shmget(outside.shared_key, 0, 0) < 0 else "System V IPC is that of the others"


def forks_without_end(outside: Outside) -> str:
    children = []
    try:
        for _ in range(FORKS):
            child = os.fork()
            if not child:
                signal.pause()
                os._exit(0)
            children.append(child)
    except BlockingIOError:
        return ""
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return f"{FORKS} times, where {FORKS // 2} processes are allowed"


def reaches_abstract_sockets(outside: Outside) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ours, contextlib.suppress(OSError):
        ours.connect(b"\0" + outside.abstract)
        return "they belong to the network, which it has"
    return ""


ESCAPES: tuple[Callable[[Outside], str], ...] = (
    sees_other_processes, signals_the_agent, reads_what_is_hidden, writes_outside, changes_the_kernel, opens_disks,
    mounts, makes_a_user_namespace, keeps_rights, shares_memory, forks_without_end, reaches_abstract_sockets,
)  # fmt: skip

OPTIONAL = ("reaches_abstract_sockets",)
"""What only newer kernels prevent (Landlock 6); the docs say so."""


def try_all(outside: tuple[Any, ...]) -> dict[str, str]:
    """What each led to; empty: nowhere."""
    told = {}
    for escape in ESCAPES:
        try:
            told[escape.__name__] = escape(Outside(*outside))
        except Exception as e:
            told[escape.__name__] = f"could not be tried: {type(e).__name__}: {e}"
    return told


def take_memory(size: int) -> int:
    """As much as that, page by page."""
    taken = bytearray(size)
    for at in range(0, size, 4096):
        taken[at] = 1
    return len(taken)
