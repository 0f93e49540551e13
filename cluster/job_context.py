"""What a job knows of itself. Rules of this file: cheap for jobs that do not ask; a worker fills it in.

The coordinator tells about a job in an opaque msgpack map, which nobody on the way opens: it is read here, when the
job asks.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from cluster.ids import format_job

STATE_BYTES = 64 * 1024
"""Largest pickled state that ``save`` takes: it travels inside a message."""


class CurrentJob:
    """The job that runs here. ``cluster.current_job()`` makes it."""

    __slots__ = ("_about", "_id", "_save", "_saved", "_token", "attempt")

    def __init__(self, job: bytes, attempt: int, about: bytes, token: int, save: Callable[[int, bytes], None]) -> None:
        import msgpack

        self._id = job
        self.attempt = attempt
        """Number of this try, from 1."""
        self._about: dict[str, Any] = msgpack.unpackb(about) if about else {}
        self._token = token
        self._save = save
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
    def deadline(self) -> float | None:
        """When it is to be over, in seconds since the epoch."""
        return self._about.get("deadline")

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
        """Id of the job that handed this one in."""
        return self._named("parent")

    @property
    def root(self) -> str | None:
        """Id of the first of its ancestors."""
        return self._named("root")

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

    def _named(self, what: str) -> str | None:
        raw = self._about.get(what)
        return format_job(raw) if raw else None

    def __repr__(self) -> str:
        return f"<job {self.id}, attempt {self.attempt}>"


class Stage:
    """What the worker shows to the job it runs. One in a process; nothing is on it outside of a job."""

    __slots__ = ("check", "job", "shields")

    def __init__(self) -> None:
        self.job: tuple[bytes, int, bytes, int, Callable[[int, bytes], None]] | None = None
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
