"""What a job knows of itself. Rules of this file: cheap for jobs that do not ask; a worker fills it in.

The coordinator tells about a job in an opaque msgpack map, which nobody on the way opens: it is read here, when the
job asks.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from cluster.ids import format_job
from cluster.jobs import About

STATE_BYTES = 64 * 1024
"""Largest pickled state that ``save`` takes: it travels inside a message."""


class CurrentJob:
    """The job that runs here. ``cluster.current_job()`` makes it."""

    __slots__ = ("_about", "_ends", "_id", "_save", "_saved", "_token", "attempt", "gpus")

    def __init__(
        self,
        job: bytes,
        attempt: int,
        about: bytes,
        token: int,
        save: Callable[[int, bytes], None],
        ends: float,
        gpus: tuple[str, ...],
    ) -> None:
        import msgpack

        self._id = job
        self.attempt = attempt
        """Number of this try, from 1."""
        self.gpus = gpus
        """Ids of the graphics processors it has been given, as its node knows them; empty where it claims none."""
        self._about: dict[str, Any] = msgpack.unpackb(about) if about else {}
        self._token = token
        self._save = save
        self._ends = ends
        self._saved: bytes = self._about.get("saved") or b""

    @property
    def id(self) -> str:
        """As ``future.job_id`` says it."""
        return format_job(self._id)

    @property
    def key(self) -> str | None:
        return self._about.get("key")

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self._about.get("tags") or ())

    @property
    def queue(self) -> str:
        return str(self._about.get("queue", "default"))

    @property
    def deadline(self) -> datetime | None:
        """The moment at which this attempt will have run for its ``timeout_s``, in UTC; ``None`` without one.

        By the node's clock as it is now, and without the time that the machine may be found to have stood still.
        """
        if not self._ends:
            return None
        return datetime.now(UTC) + timedelta(seconds=self._ends - time.monotonic())

    @property
    def schedule(self) -> str | None:
        """Name of the schedule that made it."""
        return self._about.get("schedule")

    @property
    def nominal_time(self) -> datetime | None:
        """The moment for which that schedule made it, in UTC; of a run that was asked for, when that was."""
        if not self.schedule:
            return None
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._about["nominal_us"])

    @property
    def parent(self) -> str | None:
        """Id of the job that handed this one in; ``None`` if that was no job."""
        raw = self._about.get("parent")
        return format_job(raw) if raw else None

    @property
    def root(self) -> str:
        """Id of the first of its ancestors; its own without any."""
        return format_job(self._root)

    @property
    def _root(self) -> bytes:
        return self._about.get("root") or self._about.get("parent") or self._id

    @property
    def saved(self) -> Any:
        """What an attempt of this job has saved last, here or elsewhere; ``None`` if nothing was."""
        from cluster.payload import unpack_state

        return unpack_state(self._saved) if self._saved else None

    def save(self, state: Any) -> None:
        """Keep ``state`` for the next attempt, in place of what was saved before. Raises ``ValueError`` if its pickle
        has more than 64 KiB (``STATE_BYTES``), ``RuntimeError`` once the job is over."""
        from cluster.payload import pack_state

        packed = pack_state(state, STATE_BYTES)
        self._save(self._token, packed)
        self._saved = packed

    def __repr__(self) -> str:
        return f"<job {self.id}, attempt {self.attempt}>"


Staged = tuple[bytes, int, bytes, int, Callable[[int, bytes], None], float, tuple[str, ...]]
"""Job, attempt, what is told about it, token, how to save, when it is timed out by the monotonic clock or 0, and its
graphics processors."""


class Stage:
    """What the worker shows to the job it runs. One in a process; nothing is on it outside of a job."""

    __slots__ = ("check", "job", "shields")

    def __init__(self) -> None:
        self.job: Staged | None = None
        self.shields = 0
        """Sections not to be interrupted that the main thread is in."""
        self.check: Callable[[], None] = _nothing
        """Raises the interruption that a shield has put off."""


def _nothing() -> None:
    pass


STAGE = Stage()


def current_job() -> CurrentJob | None:
    """The job that this code runs in; ``None`` outside of jobs."""
    return None if STAGE.job is None else CurrentJob(*STAGE.job)


def as_child(about: About, parent: Staged) -> About:
    """The same, of a job that ``parent`` hands in."""
    job = CurrentJob(*parent)
    return replace(about, parent=job._id, root=b"" if job._root == job._id else job._root)


class shield:
    """``with cluster.shield():`` no cancel or soft timeout comes in between; it comes at the end.

    What takes longer than the job's grace is killed all the same. It protects the main thread of a job, the only one
    that is interrupted; elsewhere it does nothing. Coroutines have ``asyncio.shield``.
    """

    __slots__ = ("_counts",)

    def __enter__(self) -> None:
        self._counts = STAGE.job is not None and threading.current_thread() is threading.main_thread()
        if self._counts:
            STAGE.shields += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._counts:
            STAGE.shields -= 1
            if not STAGE.shields and sys.exc_info()[1] is None:
                STAGE.check()
