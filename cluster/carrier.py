"""The thread behind a client: it drives the pure ``ClientSession`` and settles the futures. Rules of this file: shell.

Callers put down jobs, wishes and questions; what is left of a session when its thread ends is said to all who wait.
Callbacks of futures run on the thread, so it never waits for anything but its host.

- Counters are given and jobs are put down under one lock, so they leave in order. What could be interrupted
  in between leaves a hole in the counters, which is allowed, never a job twice.
- A forked child shares sockets and descriptors with its parent, so it may touch none: all there is closed.
"""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from cluster import blobs, errors, futures
from cluster.actor import Actor, Send, Stop
from cluster.blob_files import MemoryBlobs
from cluster.blob_files import Source as BlobSource
from cluster.client_session import (
    Acknowledge,
    Answered,
    Asked,
    CancelDenied,
    CancelWished,
    ClientSession,
    Entry,
    GiveUp,
    Held,
    LeaveWished,
    Offered,
    Settle,
)
from cluster.config import INLINE_BYTES, ClientLimits
from cluster.facts import Fact
from cluster.futures import CANCEL_WAIT_S, Future
from cluster.host import Host, Source
from cluster.ids import SESSION_BYTES, format_job, job_id
from cluster.jobs import Failure, Outcome
from cluster.logs import FactLog
from cluster.options import Options
from cluster.packages import own_version
from cluster.payload import LargePayload, pack_error, unpack_failure, unpack_result

FLUSH_S = 5.0
"""How long ``shutdown(wait=False)`` and the end of the interpreter wait for acknowledgements."""

LINGER_MS = 500
"""Time for the last message of a session to leave."""

_SUCCEEDED, _CANCELLED = int(Outcome.SUCCEEDED), int(Outcome.CANCELLED)


class Wire(Source, Protocol):
    """What :class:`cluster.transport.Dial` is to a session."""

    address: str

    def send(self, effect: Send) -> Any: ...
    def close(self, linger_ms: int = 0) -> None: ...


class Code(NamedTuple):
    """A function by value, ready to travel."""

    sha: bytes
    data: bytes


@dataclass(slots=True)
class _CodeSource:
    """A large function as a blob to send."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


class _Question:
    def __init__(self) -> None:
        self.answered = threading.Event()
        self.error = ""
        self.body: dict[str, Any] = {}


class _Bell:
    """Wakes a thread that polls. It may be rung for as long as anybody has it, also when nobody listens any more."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def silence(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        os.close(self.fd)


class Session:
    """What clients, futures and the session's thread share. As a host's source it is the outbox.

    ``_changed`` guards all of it; it is re-entrant, because finalizers and signal handlers may submit too.
    """

    def __init__(self, wire: Wire, namespace: str, limits: ClientLimits, on_end: Callable[[], object]) -> None:
        self.id: Final = secrets.token_bytes(SESSION_BYTES)
        self.limits: Final = limits
        self.address: Final = wire.address
        self.namespace: Final = namespace
        self.closed: Callable[[], Exception] | None = None
        """Makes the error of whoever still submits; None while all is well."""
        self._wire = wire
        self._on_end = on_end
        self._actor: Actor = ClientSession(self.id, namespace, own_version(), limits, wire.address)
        self._blobs = MemoryBlobs()
        self._log = FactLog("client")
        self._changed = threading.Condition(threading.RLock())
        self._held = ""
        """Why the coordinator takes nothing for now."""
        self._waiting = 0
        """Threads that want to hear of any change."""
        self._connected = False
        self._leaving = False
        self._ended = False
        self._forked = False
        self._pid = os.getpid()
        # the outbox
        self._bell = _Bell()
        self._rung = False
        self._counters = itertools.count(1)
        self._last = 0
        self._drained = 0
        """Jobs up to this counter are the actor's business."""
        self._entries: list[Entry] = []
        self._loads: list[tuple[bytes, int, BlobSource]] = []
        self._wishes: list[int] = []
        self._mail: list[Any] = []
        # what is open
        self._futures: dict[int, Future[Any]] = {}
        self._acknowledged = 0
        self._sizes: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._sources: dict[bytes, int] = {}
        """Blobs to send, and the last job that needs each; ordered by that."""
        self._denials: dict[int, list[threading.Event]] = {}
        self._questions: dict[int, _Question] = {}
        self._question_numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._run, name="ganger-session", daemon=True)

    def start(self) -> None:
        _sessions.add(self)
        self._thread.start()

    # -- any thread -----------------------------------------------------------------------------------

    def await_connected(self, timeout: float) -> bool:
        """Whether the coordinator said welcome in time. Raises what it said instead."""
        with self._changed:
            self._wait(lambda: self._connected or self.closed is not None, timeout)
            if self.closed is not None:
                raise self.closed()
            return self._connected

    def offer(
        self,
        future: Future[Any],
        spec: bytes,
        payload: bytes | LargePayload,
        code: Code | None,
        options: Options,
        summary: str,
        about: bytes,
    ) -> None:
        """Put one job down. Raises ``Full``, or the reason why the session is closed."""
        large: tuple[bytes, int] | None = None
        if type(payload) is bytes:
            size = len(payload)
            inline = payload
        else:
            assert isinstance(payload, LargePayload)
            size = payload.size
            large, inline = (payload.sha, size), b""
        with self._changed:
            if (
                self._last - self._acknowledged >= self.limits.max_unacknowledged_jobs
                or self._bytes + size > self.limits.max_unacknowledged_bytes
            ):
                self._make_room(size, options.block)
            if self._held and not options.block:
                raise errors.Full(f"the coordinator at {self.address} takes nothing for now: {self._held}")
            if self.closed is not None:
                raise self.closed()
            # An interrupt may strike between any two of these lines: it may cost this future, nothing else.
            counter = next(self._counters)
            if large is not None:
                self._loads.append((large[0], counter, payload))  # type: ignore[arg-type]
            if code is not None and len(code.data) > INLINE_BYTES:
                self._loads.append((code.sha, counter, _CodeSource(code.data)))
            future._counter = counter
            entry = Entry(counter, spec, inline, large, code, options.durable, options.block, summary, about)
            self._entries.append(entry)
            self._futures[counter] = future
            if counter > self._last:
                self._last = counter
            self._sizes.append((counter, size))
            self._bytes += size
            wake = not self._rung
            self._rung = True
        if wake:  # not under the lock, for which the thread that wakes would have to wait
            self._bell.ring()

    def watch(self, future: Future[Any], job: bytes) -> None:
        """Have the outcome of a job that is there already."""
        future._watched = job
        with self._changed:
            if self._last - self._acknowledged >= self.limits.max_unacknowledged_jobs:
                self._make_room(0, True)
            if self.closed is not None:
                raise self.closed()
            counter = next(self._counters)
            future._counter = counter
            self._entries.append(Entry(counter, b"", b"", watch=job))
            self._futures[counter] = future
            self._last = max(self._last, counter)
            self._sizes.append((counter, 0))
            self._ring()

    def _make_room(self, size: int, block: bool) -> None:
        limits = self.limits

        def room() -> bool:
            jobs = self._last - self._acknowledged
            fits = not self._bytes or self._bytes + size <= limits.max_unacknowledged_bytes
            return self.closed is not None or (jobs < limits.max_unacknowledged_jobs and fits)

        if room():
            return
        if not block or self._on_own_thread():
            raise errors.Full(
                f"{self._last - self._acknowledged} jobs and {self._bytes} bytes are not yet acknowledged; the"
                f" limits are {limits.max_unacknowledged_jobs} jobs and {limits.max_unacknowledged_bytes} bytes"
            )
        self._wait(room, None)

    def await_accepted(self, future: Future[Any], timeout: float | None) -> bool:
        self._check_process()
        counter = future._counter
        with self._changed:

            def known() -> bool:
                return self._acknowledged >= counter or future.done() or self._ended

            if not counter:
                return False
            if not known() and not self._wait(known, 0 if self._on_own_thread() else timeout):
                raise TimeoutError(f"job {future.job_id} is not acknowledged after {timeout} s")
            return future._accepted if future.done() else self._acknowledged >= counter

    def flush(self, timeout: float | None) -> None:
        self._check_process()
        with self._changed:
            through = self._last
            if self._acknowledged >= through:
                return
            limit = 0 if self._on_own_thread() else timeout
            if not self._wait(lambda: self._acknowledged >= through or self._ended, limit):
                missing = through - self._acknowledged
                raise TimeoutError(f"{missing} jobs are not acknowledged by {self.address} after {timeout} s")
            if self._acknowledged < through and self.closed is not None:
                raise self.closed()

    def cancel(self, future: Future[Any]) -> bool:
        counter = future._counter
        word: threading.Event | None = None
        with self._changed:
            if self._ended or counter not in self._futures:
                return future.cancelled()
            self._wishes.append(counter)
            self._ring()
            unsent = counter > self._drained
            if unsent:
                # In the very drain that hands it to the actor the wish follows: it will never be sent.
                del self._futures[counter]
            elif self.may_wait():
                word = threading.Event()
                self._denials.setdefault(counter, []).append(word)
        if unsent:
            future._cancelled()
            self._leave_if_done()
            return True
        if word is None:
            return False
        word.wait(CANCEL_WAIT_S)
        with self._changed:
            waiting = self._denials.get(counter)
            if waiting is not None and word in waiting:
                waiting.remove(word)
                if not waiting:
                    del self._denials[counter]
        return future.cancelled()

    def wish_cancelled(self, futures: Iterable[Future[Any]] | None = None) -> None:
        """Ask for many at once (all that are open, unless given); nobody waits for the words."""
        with self._changed:
            if self._ended:
                return
            open_ones = list(self._futures.values()) if futures is None else futures
            self._wishes += [f._counter for f in open_ones if f._counter and not f.done()]
            self._ring()

    def order(self, topic: str, about: dict[str, Any]) -> None:
        """A question whose answer nobody waits for; to a session that is over, nothing."""
        with self._changed:
            if not self._ended:
                self._mail.append(Asked(next(self._question_numbers), topic, about))
                self._ring()

    def may_wait(self) -> bool:
        """Whether what answers can come while the caller waits, and nobody else is held up."""
        return not self._on_own_thread() and not _in_event_loop()

    def ask(self, topic: str, about: dict[str, Any]) -> dict[str, Any]:
        if self._on_own_thread():
            raise errors.ClusterError("a question in a callback would wait for itself; ask in another thread")
        question = _Question()
        with self._changed:
            if self.closed is not None:
                raise self.closed()
            number = next(self._question_numbers)
            self._questions[number] = question
            self._mail.append(Asked(number, topic, about))
            self._ring()
        try:
            # The actor answers for a silent coordinator; the margin is for this process only.
            answered = question.answered.wait(self.limits.reconnect_timeout_s + 2 * FLUSH_S)
        finally:
            self._questions.pop(number, None)
        if not answered:
            raise errors.CoordinatorUnreachable(f"no answer from {self.address} about {topic!r}")
        if question.error:
            raise errors.ClusterError(question.error)
        return question.body

    def close(self) -> None:
        """Take nothing new, and leave when the last future is settled."""
        with self._changed:
            if self.closed is None:
                self.closed = raiser(errors.ClientClosed, "the client was shut down")
            self._changed.notify_all()
            self._leave_if_done()

    def leave(self, error: Callable[[], Exception] | None = None) -> None:
        """Leave now, whatever is open; that fails with ``error``."""
        with self._changed:
            if error is not None or self.closed is None:
                self.closed = error or raiser(errors.ClientClosed, "the client was shut down")
            if not self._leaving and not self._ended:
                self._leaving = True
                self._mail.append(LeaveWished("the client leaves"))
                self._changed.notify_all()
                self._ring()

    def join(self, timeout: float | None = None) -> None:
        if not self._on_own_thread():
            self._thread.join(timeout)

    @property
    def over(self) -> bool:
        return self._ended

    def unacknowledged(self) -> list[str]:
        with self._changed:
            return [
                format_job(job_id(self.id, counter))
                for counter in sorted(self._futures)
                if counter > self._acknowledged
            ]

    def forked(self) -> None:
        """This is a child of the process that owns the session: nothing here may be used."""
        text = (
            f"this client belongs to process {self._pid}, from which this one was forked;"
            " make a new Client in this process"
        )
        self._changed = threading.Condition(threading.RLock())
        self.closed = raiser(errors.ClientClosed, text)
        self._ended = self._forked = True
        futures, self._futures = self._futures, {}
        for future in futures.values():
            future._left_behind(errors.ClientClosed(text))

    def _check_process(self) -> None:
        if self._forked and self.closed is not None:
            raise self.closed()

    def _on_own_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def _wait(self, found: Callable[[], bool], timeout: float | None) -> bool:
        """Under the lock: wait until something is found true."""
        self._waiting += 1
        try:
            return self._changed.wait_for(found, timeout)
        finally:
            self._waiting -= 1

    def _ring(self) -> None:
        """Under the lock: wake the thread, once until it has looked."""
        if not self._rung:
            self._rung = True
            self._bell.ring()

    def _leave_if_done(self) -> None:
        with self._changed:
            if self.closed is not None and not self._futures:
                self.leave()

    # -- the outbox, as a source of the host --------------------------------------------------------

    def pollables(self) -> list[int]:
        return [self._bell.fd]

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        """All that was put down: it is bounded where it is put down, and shares one event."""
        with self._changed:
            self._bell.silence()
            self._rung = False
            entries, self._entries = self._entries, []
            loads, self._loads = self._loads, []
            wishes, self._wishes = self._wishes, []
            mail, self._mail = self._mail, []
            events: list[Any] = []
            if entries:
                entries.sort(key=_counter)  # one put down by a signal handler may have overtaken another
                self._drained = entries[-1].counter
                events.append(Offered(entries))
        for sha, counter, source in loads:
            self._blobs.put(sha, source)
            self._sources.pop(sha, None)
            self._sources[sha] = counter
        if wishes:
            events.append(CancelWished(wishes))
        return events + mail, True

    # -- the session's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            host = Host(
                self._actor,
                [self, self._wire, self._blobs],
                {
                    Send: self._wire.send,
                    Settle: self._settle,
                    Acknowledge: self._acknowledge,
                    Held: self._hold,
                    CancelDenied: self._cancel_denied,
                    Answered: self._answered,
                    GiveUp: self._give_up,
                    blobs.KeepBlob: self._blobs.perform,
                    blobs.WriteChunk: self._blobs.perform,
                    blobs.ReadChunk: self._blobs.perform,
                    blobs.DropBlob: self._drop_blob,
                },
                self._note,
            )
            host.run()
        except BaseException as e:
            error = e
            raise
        finally:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended = True
            if error is not None:
                self.closed = raiser(errors.ClientClosed, f"the session's thread ended: {error!r}")
            elif self.closed is None:
                self.closed = raiser(errors.ClientClosed, "the session is over")
            self._entries.clear()
            self._loads.clear()
            left, self._futures = self._futures, {}
            questions, self._questions = self._questions, {}
            self._changed.notify_all()
        for future in left.values():
            future._accepted = future._counter <= self._acknowledged
            future._fail(self.closed())
        for question in questions.values():
            question.error = str(self.closed())
            question.answered.set()
        for word in itertools.chain.from_iterable(self._denials.values()):
            word.set()
        self._wire.close(LINGER_MS)
        self._blobs.close()
        self._on_end()

    def _note(self, facts: list[Fact]) -> None:
        self._log(facts)
        if not self._connected and any(f.kind == "connected" for f in facts):
            with self._changed:
                self._connected = True
                self._changed.notify_all()

    def _settle(self, effect: Settle) -> None:
        take = self._futures.pop
        shared: dict[bytes, bytearray] = {}
        for counter, outcome, payload, large in effect.rows:
            future = take(counter, None)
            bytes_: bytes | bytearray = payload
            if large is not None:
                bytes_ = self._taken(large[0], shared)
            if future is None:
                continue
            if outcome == _SUCCEEDED:
                future._accepted = True
                _settle_with(future, bytes_)
            elif outcome == _CANCELLED:
                future._accepted = counter <= self._acknowledged
                future._cancelled()
            else:
                failure = Failure.decode(bytes(bytes_))
                future._accepted = failure.kind != "JobRefused"
                future._fail(_error_of(outcome, failure))
            if counter in self._denials:
                self._say(counter)
        del shared
        if self._waiting or (self.closed is not None and not self._futures):
            with self._changed:
                self._changed.notify_all()
                self._leave_if_done()

    def _taken(self, sha: bytes, shared: dict[bytes, bytearray]) -> bytearray:
        """Bytes of a large result. Arrays are views of them, so no two results may have the same."""
        if sha in shared:
            return bytearray(shared[sha])
        shared[sha] = data = self._blobs.take(sha)
        return data

    def _acknowledge(self, effect: Acknowledge) -> None:
        through = effect.through
        with self._changed:
            self._acknowledged = through
            sizes = self._sizes
            freed = 0
            while sizes and sizes[0][0] <= through:
                freed += sizes.popleft()[1]
            self._bytes -= freed
            if self._waiting:
                self._changed.notify_all()
        while self._sources:
            sha = next(iter(self._sources))
            if self._sources[sha] > through:
                break
            del self._sources[sha]
            self._blobs.perform(blobs.DropBlob(sha))

    def _drop_blob(self, effect: blobs.DropBlob) -> None:
        """What we send is ours to drop: a job just drained may need it again, unknown yet to the actor."""
        if effect.sha not in self._sources:
            self._blobs.perform(effect)

    def _hold(self, effect: Held) -> None:
        self._held = effect.reason

    def _cancel_denied(self, effect: CancelDenied) -> None:
        for counter in effect.counters:
            self._say(counter)

    def _say(self, counter: int) -> None:
        """Whoever waits whether this job is cancelled can look now."""
        with self._changed:
            for word in self._denials.pop(counter, ()):
                word.set()

    def _answered(self, effect: Answered) -> None:
        question = self._questions.get(effect.ask)
        if question is not None:
            question.error, question.body = effect.error, effect.body
            question.answered.set()

    def _give_up(self, effect: GiveUp) -> Stop:
        with self._changed:
            ids = tuple(format_job(job_id(self.id, c)) for c in sorted(self._futures))
            if effect.kind == "refused":
                self.closed = raiser(errors.Refused, effect.reason)
            else:
                text = f"{effect.reason} (at {self.address})"
                self.closed = raiser(errors.CoordinatorUnreachable, text, ids)
        return Stop(effect.reason, error=True)


def _settle_with(future: Future[Any], data: bytes | bytearray) -> None:
    """On its own, so that no frame of the session keeps the value."""
    try:
        value = unpack_result(data)
    except BaseException as e:
        future._fail(without_frames(e))
    else:
        future._succeed(value)


def _error_of(outcome: int, failure: Failure) -> BaseException:
    error = unpack_failure(failure)
    wanted: type[errors.JobError] | None = None
    if outcome == Outcome.LOST:
        wanted = errors.JobLost
    elif outcome == Outcome.TIMED_OUT:
        wanted = errors.JobTimeout
    if wanted is None or isinstance(error, wanted):
        return error
    return wanted(failure.text)


def without_frames(error: BaseException) -> BaseException:
    """The same error, without the frames that would keep the user's values; as text it loses nothing."""
    if isinstance(error, errors.JobError):
        return unpack_failure(pack_error(error))
    if isinstance(error, Exception):
        return error.with_traceback(None)
    return errors.SerializationError(f"unpickling raised {type(error).__name__}: {error}")


def raiser(kind: type[Exception], *args: Any) -> Callable[[], Exception]:
    """Makes a new error each time: one raised in many threads would collect all their frames."""
    return lambda: kind(*args)


def _counter(entry: Entry) -> int:
    return entry.counter


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# ------------------------------------------------------------------------------------ fork and exit

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _in_child() -> None:
    futures.forked()
    for session in list(_sessions):
        session.forked()
    _sessions.clear()


def flush_all() -> None:
    """The end of this process: hand over what was submitted, and name what could not be."""
    deadline = monotonic() + FLUSH_S
    open_sessions = [s for s in list(_sessions) if not s.over]
    for session in open_sessions:
        try:
            session.flush(max(0.0, deadline - monotonic()))
        except (TimeoutError, errors.ClusterError):
            pass
        missing = session.unacknowledged()
        if missing:
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            print(
                f"ganger: {len(missing)} jobs were not acknowledged by the coordinator at {session.address}"
                f" and may be lost: {', '.join(missing[:10])}{more}",
                file=sys.stderr,
            )
        session.leave()
    for session in open_sessions:
        session.join(max(0.5, deadline - monotonic()))


os.register_at_fork(after_in_child=_in_child)
atexit.register(flush_all)
