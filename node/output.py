"""What jobs print, on its way to where the node's own output goes. Rules of this file: shell; a thread of its own, so
that nobody waits for a log that takes nothing but those who print.

A worker has a pipe for standard output and one for standard error, which all that its job starts inherits. Of what an
attempt writes to either, the first ``MOST_BYTES`` are passed on, and then a word that the rest is left out. The rest is
read all the same, so that whoever writes goes on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from node import worker as program

MOST_BYTES = 1 << 20
"""Of what an attempt writes to standard output, and as much to standard error."""

_READ_BYTES = 1 << 16
"""As much as a pipe holds."""

_PAUSE_S = 0.0002
"""After something was left out: who floods his output shall not keep the agent from its work."""

_CLOSE_S = 1.0
"""How long the last words may take at the end."""


class Speaker(Protocol):
    """Whose output it is: a worker as the pool has it."""

    pid: int


@dataclass(slots=True, eq=False)
class _Stream:
    speaker: Speaker
    to: int
    page: mmap.mmap
    token: int = 0
    """Of the attempt that has written last."""
    left: int = MOST_BYTES


class Output:
    """``to``: descriptors that take standard output and standard error."""

    def __init__(self, to: tuple[int, int] = (1, 2)) -> None:
        self._to = to
        self._streams: dict[int, _Stream] = {}
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def pipes(self, speaker: Speaker, page_fd: int) -> tuple[int, int]:
        """The ends for a new worker to write to; the caller closes them. Raises ``OSError``."""
        ends: list[int] = []
        with contextlib.ExitStack() as undo:
            for to in self._to:
                ours, theirs = os.pipe()
                undo.callback(os.close, theirs)
                try:
                    self._streams[ours] = _Stream(speaker, to, mmap.mmap(page_fd, mmap.PAGESIZE, prot=mmap.PROT_READ))
                    self._epoll.register(ours, select.EPOLLIN)
                except BaseException:
                    self._streams.pop(ours, None)
                    os.close(ours)
                    raise
                ends.append(theirs)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ganger-output", daemon=True)
                self._thread.start()
            undo.pop_all()
        return ends[0], ends[1]

    def close(self) -> None:
        """When nobody writes any more."""
        os.eventfd_write(self._bell, 1)
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                return  # in a log that takes nothing
        for fd in list(self._streams):
            self._over(fd)
        self._epoll.close()
        os.close(self._bell)

    # -- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        buffer = bytearray(_READ_BYTES)
        closing = False
        while ready := self._epoll.poll(0 if closing else None):
            flooded = False
            for fd, _ in ready:
                if fd == self._bell:
                    closing = True
                    self._epoll.unregister(fd)
                elif size := os.readv(fd, [buffer]):
                    flooded |= self._heard(self._streams[fd], memoryview(buffer)[:size])
                else:
                    self._over(fd)
            if flooded and not closing:
                time.sleep(_PAUSE_S)

    def _heard(self, stream: _Stream, said: memoryview) -> bool:
        """Whether some of it was left out."""
        token, _ = program.PAGE.unpack_from(stream.page)
        if token != stream.token:
            stream.token, stream.left = token, MOST_BYTES
        if len(said) <= stream.left:
            stream.left -= len(said)
            _write(stream.to, said)
            return False
        if stream.left >= 0:
            _write(stream.to, said[: stream.left])
            word = f"what this job writes beyond {MOST_BYTES} bytes is left out here"
            _write(stream.to, f"\nganger: worker {stream.speaker.pid}: {word}\n".encode())
            stream.left = -1
        return True

    def _over(self, fd: int) -> None:
        self._epoll.unregister(fd)
        os.close(fd)
        self._streams.pop(fd).page.close()


def _write(to: int, said: bytes | memoryview) -> None:
    """All of it, however long that takes; nothing where there is no log any more."""
    rest = memoryview(said)
    while rest:
        try:
            rest = rest[os.write(to, rest) :]
        except BlockingIOError:
            select.select([], [to], [])
        except OSError:
            return
