"""Futures of jobs. Rules of this file: shell; a future waits and is settled, the session it belongs to does the rest.

Most futures are done before anybody asks them anything. What they need to be waited for is made when they are asked:
for each future that is a third of what its job costs the client, most of it for the garbage collector.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Generator
from concurrent.futures._base import FINISHED, PENDING
from typing import Any, NoReturn, Protocol, TypeVar

from cluster import errors
from cluster.ids import format_job, job_id

T = TypeVar("T")

CANCEL_WAIT_S = 5.0
"""How long ``cancel`` waits for the coordinator's word before it says False."""


class Session(Protocol):
    """What a future wants of the session it belongs to."""

    @property
    def id(self) -> bytes: ...
    def await_accepted(self, future: Future[Any], timeout: float | None) -> bool: ...
    def cancel(self, future: Future[Any]) -> bool: ...
    def order(self, topic: str, about: dict[str, Any]) -> None: ...
    def may_wait(self) -> bool: ...


class _NothingToWaitFor:
    """In place of the condition of a future that is done: it does not change any more, so nobody need be kept out."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *args: object) -> None: ...

    def notify_all(self) -> None: ...


_NOTHING_TO_WAIT_FOR = _NothingToWaitFor()
_asking = threading.Lock()
"""Who asks a future first, and who settles it: one of them at a time."""


class Future(concurrent.futures.Future[T]):
    """A :class:`concurrent.futures.Future` of one job. It can also be awaited in asyncio.

    ``running()`` is always False: a client is told how a job ended, not when it starts.
    """

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _counter = 0
    _accepted = False
    _watched: bytes | None = None
    _asked = False
    """Whether it has a condition of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if name != "_condition":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _asking:
            if "_condition" not in self.__dict__:
                self._asked = True
                self._condition = threading.Condition()
        return self._condition

    @property
    def job_id(self) -> str | None:
        """The job's name in the cluster; None if it never left, because it could not be pickled."""
        if self._watched is not None:
            return format_job(self._watched)
        return format_job(job_id(self._session.id, self._counter)) if self._counter else None

    def accepted(self, timeout: float | None = None) -> bool:
        """Wait until the coordinator has the job: True. False if it never will; the future says why.

        Raises ``TimeoutError`` after ``timeout`` seconds; on the session's own thread at once.
        """
        return self._session.await_accepted(self, timeout)

    def cancel(self, running: bool = False) -> bool:
        """Whether the job was cancelled, on the coordinator's word, for which it waits a bounded time.

        ``running``: also if it runs. It is interrupted then, and killed after its ``grace_s``; the future is done when
        it has ended, one way or the other. Without it a job that runs is not stopped.

        Where it must not wait (in a callback, in an event loop) the wish is sent, and it is True only if the
        job had not left. The future may be cancelled later all the same.
        """
        if self.done():
            return self.cancelled()
        if self._session.cancel(self) or not running or self.job_id is None:
            return self.cancelled()
        self._session.order("cancel", {"jobs": [self.job_id], "running": True})
        if self._session.may_wait():
            concurrent.futures.wait([self], CANCEL_WAIT_S)
        return self.cancelled()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a future belongs to its process; hand in its result() instead")

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    # -- settled by the session ---------------------------------------------------------------------

    def _succeed(self, value: T) -> None:
        with _asking:
            if not self._asked and self._state == PENDING:
                self._result, self._state = value, FINISHED
                self._condition = _NOTHING_TO_WAIT_FOR  # type: ignore[assignment]
                return
        try:
            self.set_result(value)
        except concurrent.futures.InvalidStateError:
            pass  # the user has settled it by hand
        except BaseException as e:
            _complain(e)

    def _fail(self, error: BaseException) -> None:
        try:
            self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            pass
        except BaseException as e:
            _complain(e)

    def _cancelled(self) -> None:
        try:
            if super().cancel():
                self.set_running_or_notify_cancel()
        except BaseException as e:
            _complain(e)

    def _left_behind(self, error: errors.ClientClosed) -> None:
        """In a forked child: whoever held its lock, or waited for it, is not in this process."""
        self._condition = threading.Condition()
        self._asked = True
        self._waiters, self._done_callbacks = [], []
        if not self.done():
            self.set_exception(error)


def _complain(error: BaseException) -> None:
    """A user's callback raised what no executor may raise: the session goes on."""
    threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))


def forked() -> None:
    """In a child, where no thread of the parent is that may have held it."""
    global _asking
    _asking = threading.Lock()
