"""The built-in job that runs a command on a node: ``cluster run``, and what crontabs say. Rules of this file: standard
library and our errors only; it runs in a worker.

The command is a process group of its own. What it writes, to either stream, is its output: bounded, the first and the
last of it. It is told by SIGTERM when the job is cancelled or out of time, and killed by the node if it stays.
"""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import IO, Any

from cluster.errors import CommandFailed, GiveUp
from cluster.job_context import shield
from cluster.jobs import VISIBLE_DEVICES

FIRST_BYTES, LAST_BYTES = 16 * 1024, 48 * 1024
"""Of the output that are kept."""

_PIECE = 64 * 1024
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a shell for a command that is none."""


def run(
    argv: list[str],
    stdin: str | None = None,
    env: dict[str, str] | None = None,
    user: str = "",
    clean: bool = False,
) -> dict[str, Any]:
    """Run a command to its end: ``{"exit_code": 0, "output": text}``. Raises :class:`CommandFailed` for another code.

    ``env``: variables besides. ``clean``: none of the worker's own, but those that crond gives and those that say which
    graphics processors it has, and it begins in ``HOME``. ``user``: as whom; raises :class:`GiveUp` where the node may
    not.
    """
    about = pwd.getpwuid(os.geteuid())
    switch: dict[str, Any] = {}
    if user and user != about.pw_name:
        switch = _as(user, about.pw_name)
        about = pwd.getpwnam(user)
    variables = {} if clean else dict(os.environ)
    if clean:
        who = {"HOME": about.pw_dir, "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
        given = {name: os.environ[name] for name in VISIBLE_DEVICES if name in os.environ}
        variables = {**who, **given, **(env or {}), "LOGNAME": about.pw_name, "USER": about.pw_name}
    else:
        variables |= env or {}
    cwd = variables["HOME"] if clean and os.path.isdir(variables["HOME"]) else "/" if clean else None
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=cwd,
            start_new_session=True,
            **switch,
        )
    except (FileNotFoundError, NotADirectoryError):
        raise CommandFailed(f"there is no command {argv[0]!r} on this node", NOT_FOUND) from None
    except OSError as e:
        raise CommandFailed(f"{argv[0]}: {e.strerror}", NOT_EXECUTABLE) from None
    output = _Output()
    with process:
        try:
            _feed(process, stdin)
            assert process.stdout is not None
            output.take(process.stdout)
            process.wait()
        except BaseException:
            with shield():
                _end(process)
            raise
    code = process.returncode
    if code == 0:
        return {"exit_code": 0, "output": output.text}
    if code < 0:
        raise CommandFailed(f"{_shown(argv)} was killed by {_signal(-code)}", 128 - code, output.text)
    raise CommandFailed(f"{_shown(argv)} ended with exit code {code}", code, output.text)


def _as(user: str, me: str) -> dict[str, Any]:
    """How to become that user."""
    try:
        about = pwd.getpwnam(user)
    except KeyError:
        raise GiveUp(f"there is no user {user!r} on this node") from None
    if os.geteuid() != 0:
        raise GiveUp(f"this node runs as {me!r}, and may run nothing as {user!r}: that takes an agent run by root")
    groups = os.getgrouplist(user, about.pw_gid)
    return {"user": about.pw_uid, "group": about.pw_gid, "extra_groups": groups}


def _feed(process: subprocess.Popen[bytes], text: str | None) -> None:
    """In a thread, since the command may write before it has read all."""
    if text is None:
        return
    pipe = process.stdin
    assert pipe is not None

    def write() -> None:
        with suppress(BrokenPipeError, ValueError), pipe:
            pipe.write(text.encode())

    threading.Thread(target=write, name="standard input", daemon=True).start()


def _end(process: subprocess.Popen[bytes]) -> None:
    """It shall end; the node kills what has not when the job's grace is over."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


class _Output:
    """The first and the last of what was written."""

    def __init__(self) -> None:
        self._first = b""
        self._last: deque[bytes] = deque()
        self._kept = self._left_out = 0

    def take(self, pipe: IO[bytes]) -> None:
        while piece := os.read(pipe.fileno(), _PIECE):
            room = FIRST_BYTES - len(self._first)
            self._first += piece[:room]
            if rest := piece[room:]:
                self._last.append(rest)
                self._kept += len(rest)
            while self._kept - len(self._last[0] if self._last else b"") > LAST_BYTES:
                self._kept -= len(self._last[0])
                self._left_out += len(self._last.popleft())

    @property
    def text(self) -> str:
        last = b"".join(self._last)
        spare = max(0, len(last) - LAST_BYTES)
        left_out = self._left_out + spare
        gap = f"\n... {left_out} bytes left out ...\n".encode() if left_out else b""
        return (self._first + gap + last[spare:]).decode(errors="replace")


def _shown(argv: list[str]) -> str:
    command = argv[2] if len(argv) == 3 and argv[1] == "-c" else shlex.join(argv)
    return command if len(command) <= 200 else f"{command[:200]}..."


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
