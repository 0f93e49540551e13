"""Our commands as child processes. Rules of this file: shell; how they start and end, and nothing of what they do.

- Each leads a session of its own: Ctrl-C here stops what runs here, not them.
- Each holds the reading end of a pipe whose writing end is only here, its lifeline. However this process dies, the
  pipe ends, and they with it.
- Each says by one line of JSON that it is ready.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import IO, Any

from cluster.errors import ConfigError

READY_WITHIN_S = 30.0
"""Time for one process to say that it is ready; a busy machine with a cold disk needs some."""

MODULES = {"coordinator": "scheduler", "node": "node"}
"""Command to the package that is run for it."""


class Process:
    """One of our commands, running. ``output`` gets what it writes to standard output and error, if not ``None``."""

    def __init__(
        self, name: str, command: str, arguments: Sequence[str], env: Mapping[str, str], output: IO[bytes] | None = None
    ) -> None:
        self.name = name
        self.ready: dict[str, Any] = {}
        """What it said when it was ready."""
        self._ready_fd, their_ready = os.pipe()
        their_life, self._lifeline = os.pipe()
        try:
            self._popen: subprocess.Popen[bytes] = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", MODULES[command], *arguments),
                    *("--ready-fd", str(their_ready), "--lifeline-fd", str(their_life)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE if output is None else output,
                env=env,
                pass_fds=(their_ready, their_life),
                start_new_session=True,
            )
        except BaseException:
            self._let_go()
            raise
        finally:
            os.close(their_ready)
            os.close(their_life)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def kill(self) -> None:
        """End it at once, as a crash would, and wait for its end."""
        self._popen.kill()
        self._popen.wait()

    def await_ready(self, deadline: float) -> None:
        """Raises ``ConfigError`` with its last words if it ends before, or is not ready at ``deadline``."""
        line = b""
        poll = select.poll()
        poll.register(self._ready_fd, select.POLLIN)
        try:
            while not line.endswith(b"\n"):
                left = deadline - monotonic()
                if left <= 0 or not poll.poll(left * 1000):
                    raise ConfigError(f"{self.name} was not ready in time: {self._last_words() or 'it said nothing'}")
                piece = os.read(self._ready_fd, 4096)
                if not piece:
                    raise self._never_ready()
                line += piece
        finally:
            os.close(self._ready_fd)
            self._ready_fd = -1
        self.ready = json.loads(line)

    def terminate(self) -> None:
        """At once: a node does not wait for what runs."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGINT)

    def wait_or_kill(self, deadline: float) -> None:
        try:
            self._popen.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
        self._let_go()

    def discard(self) -> None:
        """End one that did not come up."""
        self.kill()
        self._let_go()

    def __repr__(self) -> str:
        state = "runs" if self.alive else f"ended with {self._popen.returncode}"
        return f"<{self.name}: pid {self.pid}, {state}>"

    # -- within -------------------------------------------------------------------------------------

    def _never_ready(self) -> ConfigError:
        how = self._how_it_ended()
        said = self._last_words()
        return ConfigError(f"{self.name} did not start: {said}" if said else f"{self.name} {how} and said nothing")

    def _how_it_ended(self) -> str:
        """Waits for the end, which has begun."""
        code = self._popen.wait()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _last_words(self) -> str:
        """What it wrote last; a subclass knows where that is."""
        return ""

    def _let_go(self) -> None:
        for fd in (self._lifeline, self._ready_fd):
            if fd >= 0:
                os.close(fd)
        self._lifeline = self._ready_fd = -1
