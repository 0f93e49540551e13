"""Turns that wait for their rows to be on disk. Rules of this file: shell; order is all it knows of a turn.

A turn's rows are written by the host's thread and committed once; what the turn sends leaves after that, in the order
of the turns, those without rows included. While one commit is under way the next turns may be computed; their rows
share the next one. A commit that fails ends the host: nothing of it or of later turns has left.

A thread of its own commits where that takes long, so that the loop goes on. Where the last one was quick it is done on
the spot: two changes of threads cost more than such a commit, and what comes in meanwhile makes the next batch.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from cluster.actor import Turn

QUICK_S = 0.003
"""A commit expected to take less is done on the spot."""

HELD_MAX = 64
"""Turns that may wait for one commit; then the host waits too."""


class Rows(Protocol):
    """What is needed of a store."""

    def write(self, writes: Iterable[Any]) -> None: ...
    def commit(self) -> None: ...


class Commits:
    """``release`` performs the effects of one turn. ``told`` hears of each commit how long it took and of how many
    rows, on whichever thread made it.
    """

    def __init__(
        self,
        store: Rows,
        release: Callable[[Turn], None],
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[float, int], None] | None = None,
    ) -> None:
        self._clock = clock
        self._told = told
        self._rows = 0
        """Of the commit under way."""
        self._store = store
        self._release = release
        self._held: list[Turn] = []
        self._under_way: list[Turn] = []
        self._last_s = 0.0
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._work: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """Readable when a commit under way has ended."""
        return self._bell

    def add(self, turn: Turn) -> None:
        """The next turn. What may leave leaves now."""
        self._held.append(turn)
        self.advance()
        if len(self._held) >= HELD_MAX:
            self._done.wait()
            self.advance()

    def advance(self) -> None:
        """Release what is on disk, and commit what waits. Raises what the store raised."""
        if self._under_way:
            if not self._done.is_set():
                return
            os.eventfd_read(self._bell)
            self._done.clear()
            if self._error is not None:
                raise self._error
            turns, self._under_way = self._under_way, []
            self._let_go(turns)
        while self._held:
            turns, self._held = self._held, []
            writes = [write for turn in turns for write in turn.writes]
            if writes:
                self._store.write(writes)
                self._rows = len(writes)
                if self._last_s >= QUICK_S:
                    self._under_way = turns
                    self._commit_elsewhere()
                    return
                self._commit()
            self._let_go(turns)

    def finish(self) -> None:
        """Commit and release all that waits."""
        while self._under_way or self._held:
            if self._under_way:
                self._done.wait()
            self.advance()

    def close(self) -> None:
        """End the thread. A commit under way is waited for, and not released."""
        if self._thread is not None:
            self._work.put(False)
            self._thread.join()
            self._thread = None
        os.close(self._bell)

    def _let_go(self, turns: list[Turn]) -> None:
        for turn in turns:
            self._release(turn)

    def _commit(self) -> None:
        began = self._clock()
        self._store.commit()
        self._last_s = self._clock() - began
        if self._told is not None:
            self._told(self._last_s, self._rows)

    def _commit_elsewhere(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
            self._thread.start()
        self._work.put(True)

    def _run(self) -> None:
        while self._work.get():
            try:
                self._commit()
            except BaseException as e:
                self._error = e
            os.eventfd_write(self._bell, 1)
            self._done.set()  # last: whoever finds it set may read the bell
