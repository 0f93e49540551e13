"""Namespaces, mounts, Landlock and lost capabilities around a worker. Rules of this file: system calls; no decisions.

A zygote enters a user namespace of its own, in which it may do the rest, makes all file systems read-only, and hides
what is named. Each worker then is the first process of a process namespace, with mounts and System V IPC of its own:
what it leaves behind ends with it, by the kernel. Nothing here is proof: see ``escapes.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.trees import prctl

NEWNS, NEWIPC, NEWUSER, NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV, _NOEXEC = 4096, 16384, 1 << 18, 2, 4, 8
_AT_RECURSIVE, _ATTR_RDONLY, _ATTR_NOSUID = 0x8000, 1, 2
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 4, 24, 28
_NOROOT_LOCKED = 0x2F
"""No rights by being root, none kept or raised, for good."""
_LAST_CAPABILITY = 63

# The same on every architecture, since they are younger than the numbers' union.
_MOUNT_SETATTR, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 442, 444, 445, 446

_WRITES = (1 << 1) | sum(1 << bit for bit in range(4, 13))
"""Landlock's rights to write a file, and to remove and make what there is (version 1),"""
_REFER, _TRUNCATE = 1 << 13, 1 << 14
"""...to move it elsewhere (2), and to cut it (3)."""
_OF_FILES = (1 << 1) | _TRUNCATE
_SCOPES = 3
"""Abstract sockets and signals of others (6)."""

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "nvidia*", "dri/*", "kfd")
_PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_PROC_MASKED = ("kcore", "keys", "timer_list", "sched_debug")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _checked("unshare", _libc.unshare(flags))


def mount(source: str, target: str | Path, kind: str | None, flags: int, data: str = "") -> None:
    of_kind = kind.encode() if kind else None
    done = _libc.mount(source.encode(), os.fsencode(target), of_kind, ctypes.c_ulong(flags), data.encode())
    _checked(f"mount on {target}", done)


def _set(target: str | Path, add: int, clear: int = 0, recursive: bool = False) -> None:
    attributes = struct.pack("<4Q", add, clear, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    done = _libc.syscall(_MOUNT_SETATTR, -100, os.fsencode(target), flags, attributes, len(attributes))
    _checked(f"mount_setattr of {target}", done)


def _bound(fd: int, target: str | Path) -> None:
    """Mount what is open there."""
    mount(f"/proc/self/fd/{fd}", target, None, _BIND)


# ------------------------------------------------------------------------------------ of a zygote


def enter(hidden: Sequence[str], writable: Sequence[str]) -> None:
    """Be in namespaces where all is read-only but ``writable``, which may lie below what is ``hidden``. One thread."""
    user, group = os.geteuid(), os.getegid()
    unshare(NEWUSER | NEWNS | NEWIPC)
    prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self would not be ours
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")  # of ours: in a further one a job would have rights
    mount("", "/", None, _REC | _PRIVATE)
    _set("/", _ATTR_RDONLY | _ATTR_NOSUID, recursive=True)
    with contextlib.ExitStack() as opened:
        kept = {path: _open(path, opened) for path in writable}
        _make_devices(opened)
        for path in hidden:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                _hide(path)
        for path, fd in kept.items():
            if not os.path.isdir(path):
                covers = [h for h in hidden if Path(h) in Path(path).parents]
                for cover in covers:
                    _set(cover, 0, _ATTR_RDONLY)
                os.makedirs(path)
                for cover in covers:
                    _set(cover, _ATTR_RDONLY)
            _bound(fd, path)
            _set(path, 0, _ATTR_RDONLY)


def _open(path: str | Path, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd


def _hide(path: str) -> None:
    if stat.S_ISDIR(os.stat(path).st_mode):
        mount("tmpfs", path, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "mode=755,size=64k")
        _set(path, _ATTR_RDONLY)
    else:
        mount("/dev/null", path, None, _BIND)


def _make_devices(opened: contextlib.ExitStack) -> None:
    """Another ``/dev``, with what everybody needs."""
    found = [path for name in _DEVICES for path in Path("/dev").glob(name) if path.is_char_device()]
    kept = [(path, _open(path, opened)) for path in found]
    mount("tmpfs", "/dev", "tmpfs", _NOSUID, "mode=755,size=64k")
    for path, fd in kept:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        _bound(fd, path)
    for name, target in (("fd", "/proc/self/fd"), ("ptmx", "pts/ptmx")):
        os.symlink(target, f"/dev/{name}")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.mkdir("/dev/shm")
    os.mkdir("/dev/pts")
    with contextlib.suppress(OSError):
        mount("devpts", "/dev/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    _set("/dev", _ATTR_RDONLY)


# ------------------------------------------------------------------------------------ of a worker


def fork() -> int:
    """As ``os.fork``, but the child is the first process of a process namespace.

    That can be said once in a process, so it is done in between, by one that ends at once: the child is ours then, if
    we are a subreaper. It comes back when it is.
    """
    parent = os.getpid()
    told, tell = os.pipe()
    between = os.fork()
    if between:
        os.close(tell)
        with open(told, "rb") as file:
            said = file.read()
        os.waitpid(between, 0)
        if len(said) != 4:
            raise OSError(f"no process namespace: {said.decode(errors='replace')}")
        return int.from_bytes(said, "little")
    try:
        between = os.getpid()
        unshare(NEWPID)
        child = os.fork()
    except OSError as e:
        os.write(tell, f"-- {e}".encode())
        os._exit(1)
    if child:
        os.write(tell, child.to_bytes(4, "little"))
        os._exit(0)
    os.close(told)
    os.close(tell)
    while (now := number_outside()[1]) == between:
        time.sleep(0.0002)
    if now != parent:
        os._exit(1)
    return 0


def number_outside() -> tuple[int, int]:
    """This process and its parent, as the ``/proc`` knows them that the zygote had."""
    with open("/proc/self/stat", "rb") as file:
        pid, _, rest = file.read().partition(b" ")
    return int(pid), int(rest.rpartition(b")")[2].split()[1])


def close_in(temp_dir: str, own: str, writable: Sequence[str]) -> None:
    """The rest, in the first process of a process namespace. ``own``, below ``temp_dir``, is all it sees there."""
    unshare(NEWNS | NEWIPC)
    with contextlib.ExitStack() as opened:
        os.makedirs(own, 0o700, exist_ok=True)
        fd = _open(own, opened)
        mount("tmpfs", temp_dir, "tmpfs", _NOSUID | _NODEV, "mode=755,size=64k")
        os.mkdir(own, 0o700)
        _bound(fd, own)
        _set(temp_dir, _ATTR_RDONLY)
    mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID | _NODEV, "mode=1777")
    mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    for name in _PROC_READ_ONLY:
        if os.path.exists(f"/proc/{name}"):
            mount(f"/proc/{name}", f"/proc/{name}", None, _BIND)
            _set(f"/proc/{name}", _ATTR_RDONLY)
    for name in _PROC_MASKED:
        if os.path.exists(f"/proc/{name}"):
            mount("/dev/null", f"/proc/{name}", None, _BIND)
    restrict([own, *writable, "/dev", "/proc"])
    drop_capabilities()


def landlock_version() -> int:
    """0 where the kernel has none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, 1)))


def restrict(writable: Sequence[str]) -> bool:
    """By Landlock, which needs no rights: a second wall behind the mounts. Whether the kernel has it."""
    version = landlock_version()
    if not version:
        return False
    handled = _WRITES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    ruleset = struct.pack("<3Q", handled, 0, _SCOPES)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    fd = _checked("landlock", _libc.syscall(_CREATE_RULESET, ruleset, len(ruleset), 0))
    try:
        for path in writable:
            below = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = handled if stat.S_ISDIR(os.fstat(below).st_mode) else handled & _OF_FILES
                rule = struct.pack("<Qi", allowed, below)
                _checked(f"landlock of {path}", _libc.syscall(_ADD_RULE, fd, 1, rule, 0))
            finally:
                os.close(below)
        _checked("landlock", _libc.syscall(_RESTRICT_SELF, fd, 0))
    finally:
        os.close(fd)
    return True


def drop_capabilities() -> None:
    """All, for good, also for root and for programs it starts."""
    for capability in range(_LAST_CAPABILITY + 1):
        if not prctl(_PR_CAPBSET_DROP, capability):
            break
    prctl(_PR_SET_SECUREBITS, _NOROOT_LOCKED)
    header = struct.pack("<Ii", 0x20080522, 0)
    _checked("capset", _libc.capset(header, struct.pack("<6I", *[0] * 6)))
