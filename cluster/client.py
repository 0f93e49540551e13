"""The user's side: ``Client`` and its futures over a session. Rules of this file: shell; it decides little.

``Client`` packs, ``_Session`` carries, ``Future`` waits. One daemon thread per session drives the pure
``ClientSession`` and settles the futures; callbacks run on it, so it never waits for anything but its host.

- Counters are given and jobs are put down under one lock, so they leave in order. What could be interrupted
  in between leaves a hole in the counters, which is allowed, never a job twice.
- What cannot be pickled fails its own future. ``submit`` raises only for reasons of the session.
- A forked child shares sockets and descriptors with its parent, so it may touch none: all there is closed.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import hashlib
import itertools
import os
import secrets
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar

import zmq

from cluster import blobs, errors, futures, schedules
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
from cluster.ids import SESSION_BYTES, format_job, job_id, parse_job
from cluster.jobs import HOOK_BYTES, Failure, Hook, Outcome, Rules, Spec
from cluster.keys import ConnectionFile, find_connection
from cluster.logs import FactLog
from cluster.options import HOOKS, Options, Webhook
from cluster.packages import own_version
from cluster.payload import (
    ByValue,
    LargePayload,
    PackedFunction,
    by_value_names,
    holds_code,
    pack_call,
    pack_error,
    pack_function,
    unpack_failure,
    unpack_result,
)
from cluster.schedules import CatchUp, Overlap, Schedule, Schedules
from cluster.summaries import summary
from cluster.transport import Dial
from cluster.triggers import Trigger

P = ParamSpec("P")
T = TypeVar("T")

Transport = Literal["auto", "tcp", "ipc"]

CONNECT_TIMEOUT_S = 10.0
"""How long ``Client(...)`` waits for the coordinator's first word."""

FLUSH_S = 5.0
"""How long ``shutdown(wait=False)`` and the end of the interpreter wait for acknowledgements."""

LINGER_MS = 500
"""Time for the last message of a session to leave."""

_JOBS_PAGE = 200
"""Jobs asked for, or ordered about, at a time."""

KEPT_SPECS = 64
"""Functions whose encoded spec a client keeps; more are encoded anew."""

_WEBHOOK = Spec(
    "cluster.webhook:post",
    False,
    b"\x80\x02ccluster.webhook\npost\n.",
    rules=Rules(retries=8, retry_delay_s=5.0, backoff=3.0, retry_max_delay_s=3_600.0),
)
"""The built-in job, which tries for some hours."""

_SUCCEEDED, _CANCELLED = int(Outcome.SUCCEEDED), int(Outcome.CANCELLED)
_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Wire(Source, Protocol):
    """What :class:`cluster.transport.Dial` is to a session."""

    address: str

    def send(self, effect: Send) -> Any: ...
    def close(self, linger_ms: int = 0) -> None: ...


class _Code(NamedTuple):
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


class _Session:
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
        code: _Code | None,
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
                self.closed = _raiser(errors.ClientClosed, "the client was shut down")
            self._changed.notify_all()
            self._leave_if_done()

    def leave(self, error: Callable[[], Exception] | None = None) -> None:
        """Leave now, whatever is open; that fails with ``error``."""
        with self._changed:
            if error is not None or self.closed is None:
                self.closed = error or _raiser(errors.ClientClosed, "the client was shut down")
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
        self.closed = _raiser(errors.ClientClosed, text)
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
                self.closed = _raiser(errors.ClientClosed, f"the session's thread ended: {error!r}")
            elif self.closed is None:
                self.closed = _raiser(errors.ClientClosed, "the session is over")
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
                self.closed = _raiser(errors.Refused, effect.reason)
            else:
                text = f"{effect.reason} (at {self.address})"
                self.closed = _raiser(errors.CoordinatorUnreachable, text, ids)
        return Stop(effect.reason, error=True)


def _settle_with(future: Future[Any], data: bytes | bytearray) -> None:
    """On its own, so that no frame of the session keeps the value."""
    try:
        value = unpack_result(data)
    except BaseException as e:
        future._fail(_without_frames(e))
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


def _without_frames(error: BaseException) -> BaseException:
    """The same error, without the frames that would keep the user's values; as text it loses nothing."""
    if isinstance(error, errors.JobError):
        return unpack_failure(pack_error(error))
    if isinstance(error, Exception):
        return error.with_traceback(None)
    return errors.SerializationError(f"unpickling raised {type(error).__name__}: {error}")


def _raiser(kind: type[Exception], *args: Any) -> Callable[[], Exception]:
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

_sessions: weakref.WeakSet[_Session] = weakref.WeakSet()


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


# ------------------------------------------------------------------------------------ the client


class Client(concurrent.futures.Executor):
    """A :class:`concurrent.futures.Executor` whose workers are a cluster. Usable from any thread.

    ``connection`` is a connection file or its path; without it ``$GANGER_CONNECTION`` names the path, else it is
    the file that a coordinator of this user left on this machine. ``transport="auto"`` takes the local socket
    where the coordinator is this user's on this machine, and TCP otherwise.

    Raises :class:`errors.NoConnection`, :class:`errors.ConfigError`, :class:`errors.Refused`, or
    :class:`errors.CoordinatorUnreachable` if nothing was heard in ``connect_timeout_s`` seconds.
    """

    def __init__(
        self,
        connection: str | os.PathLike[str] | ConnectionFile | None = None,
        *,
        transport: Transport = "auto",
        namespace: str | None = None,
        limits: ClientLimits | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        found = connection if isinstance(connection, ConnectionFile) else find_connection("client", connection)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            wire = _dial(context, found, transport)
        except BaseException:
            context.term()
            raise
        session = _Session(wire, namespace or found.namespace, limits or ClientLimits(), context.term)
        self._set_up(session, connect_timeout_s)

    @classmethod
    def _over(cls, wire: Wire, limits: ClientLimits, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> Client:
        """A client whose coordinator is whatever is behind ``wire``."""
        client = cls.__new__(cls)
        client._set_up(_Session(wire, "default", limits, lambda: None), connect_timeout_s)
        return client

    def _set_up(self, session: _Session, connect_timeout_s: float) -> None:
        self._options = Options()
        self._about = b""
        self._by_value = ByValue()
        self._session = session
        self._specs: dict[tuple[PackedFunction, bool], tuple[bytes, _Code | None]] = {}
        self._origin: Client | None = None
        session.start()
        try:
            if not session.await_connected(connect_timeout_s):
                raise errors.CoordinatorUnreachable(
                    f"no word from the coordinator at {session.address} within {connect_timeout_s:g} s; check that"
                    " it runs (`cluster up`), that the connection file is its own and not an older one, and"
                    " that nothing between here and there blocks that address"
                )
        except BaseException:
            session.leave()
            session.join(LINGER_MS / 1000)
            raise
        weakref.finalize(self, session.close).atexit = False

    # -- Executor -----------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Hand in one call; its future. What cannot be pickled fails the future, not this call.

        Waits while too much is unacknowledged; see :class:`Options`. Raises :class:`errors.Full`, and after the
        end of the session :class:`errors.ClientClosed` or the reason of that end.
        """
        session, by_value = self._session, self._by_value
        if session.closed is not None:
            raise session.closed()
        future: Future[T] = Future(session)
        try:
            packed = pack_function(fn, by_value=by_value, max_bytes=session.limits.max_blob_bytes)
            payload = pack_call(args, kwargs, by_value=by_value, max_bytes=session.limits.max_blob_bytes)
            spec, code = self._spec(packed, holds_code(payload))
        except Exception as e:
            future._fail(_without_frames(e))
            return future
        session.offer(future, spec, payload, code, self._options, self._summary(fn, args, kwargs), self._about)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Results in the order of the calls. The function is pickled once for all of them.

        ``timeout``: seconds from this call to the last result, after which the iterator raises
        ``TimeoutError``. ``chunksize``: calls in one job, which succeed or fail together. ``buffersize``: jobs
        submitted ahead of the results taken; the iterables are then read as the results are taken, and may
        be infinite. Closing the iterator cancels what is left.
        """
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1")
        deadline = None if timeout is None else monotonic() + timeout
        calls: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        if chunksize == 1:
            return self._results(self._caller(fn), calls, deadline, buffersize)
        chunks = iter(lambda: tuple(itertools.islice(calls, chunksize)), ())
        lists = self._results(self._caller(_in_chunks(fn)), chunks, deadline, buffersize)
        return _flattened(lists)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing new. Ends the session of all twins once every future is settled.

        ``wait``: until then; otherwise only until all is acknowledged, and no longer than a few seconds: the
        work goes on. ``cancel_futures`` cancels what does not run yet. A second call is allowed.
        """
        session = self._session
        session.close()
        if cancel_futures:
            session.wish_cancelled()
        if wait:
            session.join()
            return
        try:
            session.flush(FLUSH_S)
        except (TimeoutError, errors.ClusterError):
            pass  # the futures tell; and the end of the interpreter names what is still missing

    # -- what an Executor has not ------------------------------------------------------------------

    def options(self, **options: Any) -> Client:
        """A twin with these options (see :class:`Options`), over the same session.

        Raises :class:`errors.UnknownOption`, and ``TypeError`` or ``ValueError`` for a wrong value.
        """
        twin = type(self).__new__(type(self))
        twin._options = self._options.changed(options)
        same = twin._options.by_value == self._options.by_value
        twin._by_value = self._by_value if same else ByValue(by_value_names(twin._options.by_value))
        twin._session = self._session
        twin._about = twin._options.about.encode()
        twin._specs = {}
        twin._origin = self
        return twin

    def future(self, job_id: str) -> Future[Any]:
        """The future of a job that was handed in before, by this or another program: its id is ``Future.job_id``.

        Its result is there as long as the coordinator keeps it; then it is :class:`errors.ResultExpired`. An id that
        the coordinator has never accepted is :class:`errors.UnknownJob`. Neither is ever pending. It cannot cancel
        the job. Raises :class:`errors.BadJobId` for what is no id.
        """
        future: Future[Any] = Future(self._session)
        self._session.watch(future, parse_job(job_id))
        return future

    def schedule(
        self,
        name: str,
        trigger: Trigger | str,
        fn: Callable[..., Any],
        /,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
        *,
        overlap: Overlap = "skip",
        catch_up: CatchUp = "latest",
        catch_up_window_s: float | timedelta = 3600.0,
        jitter_s: float | timedelta = 0.0,
        pause_after: int = 0,
        overdue_s: float | timedelta = 0.0,
        on_missed: Callable[..., Any] | Webhook | str | None = None,
        **options: Any,
    ) -> Schedule:
        """Have the coordinator call ``fn`` whenever ``trigger`` says so: make the schedule ``name``, or change it.

        ``trigger`` is one of :func:`cron`, :func:`every`, :func:`at` and what is made of them, or a cron expression,
        which is then in UTC. ``overlap``: what becomes of a time that comes while an earlier job is unfinished;
        ``catch_up``: of those that were missed, no longer ago than the window; ``jitter_s``: each time is moved by a
        share of this of its own. ``pause_after``: failures in a row that pause it; ``overdue_s``: time without a
        success after which it is overdue; ``on_missed``: what is run when times were missed. ``options``: those of its
        jobs, see :class:`Options`. The function is fixed now, by reference or by value.

        Returns it with what has changed: nothing where all is as it was. Raises :class:`errors.BadTrigger`,
        :class:`errors.ClusterError` with what the coordinator finds wrong, and what ``options`` raises.
        """
        plans = {
            "overlap": overlap,
            "catch_up": catch_up,
            "catch_up_window_s": catch_up_window_s,
            "jitter_s": jitter_s,
            "pause_after": pause_after,
            "overdue_s": overdue_s,
        }
        twin = self.options(**options) if options else self
        hook = Webhook(on_missed) if isinstance(on_missed, str) else on_missed
        return schedules.make(twin, name, trigger, fn, args, kwargs, plans, hook)

    @property
    def schedules(self) -> Schedules:
        """The schedules of this namespace: list, get, pause, resume, run, backfill, remove, history."""
        return schedules.Schedules(self)

    def flush(self, timeout: float | None = None) -> None:
        """Return when all that was submitted so far is acknowledged: it is safe with the coordinator.

        Raises ``TimeoutError`` after ``timeout`` seconds, and the reason if the session ended before.
        """
        self._session.flush(timeout)

    def ask(self, topic: str, **about: Any) -> dict[str, Any]:
        """The coordinator's answer to a question, as plain values."""
        return self._session.ask(topic, about)

    def status(self) -> dict[str, Any]:
        """What the cluster is and does: its version, nodes, and jobs by state."""
        return self.ask("status")

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes, each with its name, state, slots, labels and load."""
        rows: list[dict[str, Any]] = []
        more = True
        while more:
            page = self.ask("nodes", after=rows[-1]["name"] if rows else "")
            rows += page["nodes"]
            more = page["more"]
        return rows

    def jobs(
        self,
        *states: str,
        function: str = "",
        queue: str = "",
        tag: str = "",
        node: str = "",
        error: str = "",
        arguments: str = "",
        id: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 100,
    ) -> Iterator[dict[str, Any]]:
        """Jobs that have all of this, the unfinished ones first, and of each kind the newest.

        ``states``: of ``scheduled``, ``ready``, ``leased``, ``running``, ``adrift``, of the outcomes (``failed`` ...),
        and ``unfinished``, ``finished``, ``dead``. ``function``, ``error`` and ``arguments`` are texts contained in the
        name, in the error's first line, in the summary of the arguments; ``queue``, ``tag`` and ``node`` are names;
        ``id`` is the beginning of ids. ``since``, ``until``: when it ended, or was handed in if it has not.
        ``limit``: how many at most; None for all. They are read as they are taken, a page at a time.
        """
        wanted: dict[str, Any] = {
            "states": list(states),
            "function": function,
            "queue": queue,
            "tag": tag,
            "node": node,
            "error": error,
            "arguments": arguments,
            "id": id,
            "since": 0.0 if since is None else since.timestamp(),
            "until": 0.0 if until is None else until.timestamp(),
        }
        return self._jobs(wanted, limit)

    def _jobs(self, wanted: dict[str, Any], limit: int | None) -> Iterator[dict[str, Any]]:
        left, more = limit, None
        while left is None or left > 0:
            page = self.ask("jobs", **wanted, limit=_JOBS_PAGE if left is None else min(left, _JOBS_PAGE), more=more)
            yield from page["jobs"]
            more = page["more"]
            if more is None:
                return
            left = None if left is None else left - len(page["jobs"])

    def job(self, id: str) -> dict[str, Any]:
        """One job with its story; ``id`` may be the beginning of its id.

        Raises :class:`errors.ClusterError` if there is none, or more than one whose id begins so.
        """
        job: dict[str, Any] = self.ask("job", id=self._whole_id(id))["job"]
        return job

    def explain(self, id: str) -> list[str]:
        """Why a job does not run, in sentences; ``id`` as for :meth:`job`."""
        why: list[str] = self.ask("explain", id=self._whole_id(id))["why"]
        return why

    def candidates(self, id: str) -> list[dict[str, Any]]:
        """Of a job that is ready: each node as placement sees it, the one it would prefer first; ``id`` as for
        :meth:`job`. ``takes``, or ``why`` not; ``score``: attempts a slot and ``penalty``, the least is preferred;
        ``queried``: what the load query says of it; ``preferred``: labels it has that the job prefers; ``warm``: it has
        run the function lately; ``avoided``: the job's last attempt failed there."""
        found: list[dict[str, Any]] = self.ask("explain", id=self._whole_id(id)).get("nodes", [])
        return found

    def _whole_id(self, id: str) -> str:
        try:
            return format_job(parse_job(id))
        except errors.BadJobId:
            found: list[str] = [job["id"] for job in self.jobs(id=id, limit=3)]
        if not found:
            raise errors.ClusterError(f"no job's id begins with {id!r}")
        if len(found) > 1:
            raise errors.ClusterError(f"{id!r} is the beginning of more than one id: {', '.join(found)} ...")
        return found[0]

    def cancel(self, *ids: str, running: bool = False) -> int:
        """Cancel jobs that have not started, whoever handed them in; how many were cancelled at once.

        What is on its way to a node is asked back, and cancelled if it has not started there. ``running``: those that
        have are interrupted, and killed after their ``grace_s``; they count, though they have yet to end.
        """
        said = ({"jobs": list(some), "running": running} for some in _in_hundreds(ids))
        answers = [self.ask("cancel", **about) for about in said]
        return sum(answer["cancelled"] + answer["ending"] for answer in answers)

    def retry(self, *ids: str, fn: Callable[..., Any] | None = None) -> dict[str, str]:
        """Run jobs again that have ended and did not succeed: new jobs with their arguments and options; their ids by
        those of the old ones. ``fn``: what to call instead, as corrected code, with this twin's options.

        Raises :class:`errors.NotRunAgain` if some cannot be, with the reasons; it has the new ids of the others, too.
        """
        about: dict[str, Any] = {}
        if fn is not None:
            packed = pack_function(fn, by_value=self._by_value, max_bytes=INLINE_BYTES)
            spec, code = self._spec(packed, False)
            about = {"spec": spec, "code": b"" if code is None else code.data}
        made: dict[str, str] = {}
        refused: dict[str, str] = {}
        for some in _in_hundreds(ids):
            answer = self.ask("retry", jobs=list(some), **about)
            made |= answer["made"]
            refused |= answer["refused"]
        if refused:
            raise errors.NotRunAgain(made, refused)
        return made

    def drop(self, *ids: str) -> int:
        """Set dead letters aside no more: they stay in the history, and what is needed to run them again goes. How many
        there were."""
        return sum(self.ask("drop", jobs=list(some))["dropped"] for some in _in_hundreds(ids))

    def queues(self) -> list[dict[str, Any]]:
        """The queues that have jobs or settings of their own, each with both."""
        rows: list[dict[str, Any]] = self.ask("queues")["queues"]
        return rows

    def events(self, *kinds: str, function: str = "", queue: str = "") -> Iterator[dict[str, Any]]:
        """What happens to jobs from now on, as it happens: ``accepted``, ``assigned``, ``retried``, ``requeued``, and
        the outcomes. ``kinds``: only these; ``function``: only where the name contains this; ``queue``: only of this.

        It ends with the session, by its error. Where the coordinator has forgotten some before they were read, as after
        a restart of it, there is an event ``gap`` with how many were ``missed`` (0: nobody knows).
        """
        wanted = {"kinds": list(kinds), "function": function, "queue": queue}
        last, epoch = -1, 0
        while True:
            answer = self.ask("events", after=last, epoch=epoch, **wanted)
            if answer["missed"] or (epoch and answer["epoch"] != epoch):
                yield {"kind": "gap", "missed": answer["missed"]}
            last, epoch = answer["last"], answer["epoch"]
            yield from answer["events"]

    def drain(self, node: str, *, timeout_s: float | None = None, wait: bool = False) -> dict[str, Any] | None:
        """Give this node nothing new, until :meth:`undrain`, also over restarts of it or of the coordinator. What has
        not started there goes elsewhere, what runs goes on; what runs after ``timeout_s`` is taken back and runs again
        elsewhere, but for what must not start twice. The node as it is then, or None if it has gone.

        ``wait``: until nothing runs there any more, or somebody has undrained it.
        """
        row: dict[str, Any] | None = self.ask("drain", node=node, timeout_s=timeout_s)["node"]
        if not wait:
            return row
        while True:
            now = self.ask("drained", node=node)
            if not (now["held"] and now["barred"]):
                return next((row for row in self.nodes() if row["name"] == node), None)

    def undrain(self, node: str) -> dict[str, Any] | None:
        """Give this node work again; the node as it is then, or None if it is not there."""
        row: dict[str, Any] | None = self.ask("undrain", node=node)["node"]
        return row

    def set_queue(self, name: str, **settings: Any) -> dict[str, Any]:
        """Set ``weight`` (1 to 1000), ``paused``, ``max_running`` or ``max_per_node`` (a number, or None for no cap),
        or ``placement`` (``spread`` or ``pack``) of a queue, for good; the queue as it is then."""
        queue: dict[str, Any] = self.ask("queue", name=name, set=settings)["queue"]
        return queue

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client belongs to its process and cannot go into a job")

    def __repr__(self) -> str:
        state = "closed" if self._session.closed is not None else "open"
        return f"<{type(self).__name__} {self._session.id.hex()} at {self._session.address}, {state}>"

    # -- within -------------------------------------------------------------------------------------

    def _abandon(self, reason: str) -> None:
        """The cluster is gone for good: what is open fails now."""
        self._session.leave(_raiser(errors.CoordinatorUnreachable, reason))
        self._session.join(2 * LINGER_MS / 1000)

    def _spec(self, packed: PackedFunction, code_in_call: bool) -> tuple[bytes, _Code | None]:
        """What all jobs of this function and these options share, as bytes. ``code_in_call``: in the arguments."""
        kept = self._specs.get((packed, code_in_call))
        if kept is not None:
            return kept
        options = self._options
        code = _Code(hashlib.sha256(packed.code).digest(), packed.code) if packed.by_value else None
        hooks: dict[str, Any] = {name: self._hook(name, getattr(options, name)) for name in HOOKS}
        spec = Spec(
            name=options.name or packed.name,
            by_value=packed.by_value,
            code=packed.code if code is None else code.sha,
            code_size=0 if code is None else len(code.data),
            namespace=self._session.namespace,
            python=_PYTHON if code_in_call or holds_code(packed.code) else "",
            labels=options.demanded,
            durable=options.durable,
            rules=replace(options.rules, **hooks),
        )
        if len(self._specs) >= KEPT_SPECS or len(packed.code) > INLINE_BYTES:
            self._specs.clear()  # at most one large function is kept
        self._specs[packed, code_in_call] = made = (spec.encode(), code)
        return made

    def _hook(self, name: str, value: Callable[..., Any] | Webhook | str | None) -> bytes:
        """A hook as its job's spec has it. Raises :class:`errors.SerializationError`, :class:`errors.TooLarge`."""
        if value is None:
            return b""
        namespace, durable = self._session.namespace, self._options.durable
        if isinstance(value, Webhook):
            spec = replace(_WEBHOOK, namespace=namespace, durable=durable)
            return Hook(spec.encode(), b"", {"url": value.url, "secret": value.secret}).encode()
        assert callable(value)
        packed = pack_function(value, by_value=self._by_value, max_bytes=HOOK_BYTES // 2)
        spec = Spec(
            name=packed.name,
            by_value=packed.by_value,
            code=hashlib.sha256(packed.code).digest() if packed.by_value else packed.code,
            code_size=len(packed.code) if packed.by_value else 0,
            namespace=namespace,
            python=_PYTHON if holds_code(packed.code) else "",
            durable=durable,
        )
        hook = Hook(spec.encode(), packed.code if packed.by_value else b"").encode()
        if len(hook) > HOOK_BYTES:
            raise errors.TooLarge(f"{name}: the function has {len(hook)} bytes, the limit is {HOOK_BYTES}")
        return hook

    def _summary(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        wanted = self._options.summary
        return summary(fn, args, kwargs) if wanted is True else wanted or ""

    def _caller(self, fn: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Future[Any]]:
        """``submit`` of one function, packed now and never again."""
        session, by_value, options, about = self._session, self._by_value, self._options, self._about
        max_bytes = session.limits.max_blob_bytes
        if session.closed is not None:
            raise session.closed()
        broken: Exception | None = None
        try:
            packed = pack_function(fn, by_value=by_value, max_bytes=max_bytes)
            specs = [self._spec(packed, code_in_call) for code_in_call in (False, True)]
        except Exception as e:
            broken, specs = e, []

        def call(args: tuple[Any, ...]) -> Future[Any]:
            future: Future[Any] = Future(session)
            if broken is not None:
                future._fail(_without_frames(broken))
                return future
            try:
                payload = pack_call(args, {}, by_value=by_value, max_bytes=max_bytes)
            except Exception as e:
                future._fail(_without_frames(e))
                return future
            spec, code = specs[holds_code(payload)]
            session.offer(future, spec, payload, code, options, self._summary(fn, args, {}), about)
            return future

        return call

    def _results(
        self,
        call: Callable[[tuple[Any, ...]], Future[Any]],
        calls: Iterator[tuple[Any, ...]],
        deadline: float | None,
        buffersize: int | None,
    ) -> Generator[Any, None, None]:
        """Submits now, and gives a generator of the results."""
        futures: deque[Future[Any]] = deque()
        try:
            for args in itertools.islice(calls, buffersize):
                futures.append(call(args))
        except BaseException:
            self._session.wish_cancelled(futures)
            raise

        def results() -> Generator[Any, None, None]:
            try:
                while futures:
                    if buffersize is not None:
                        for args in itertools.islice(calls, 1):
                            futures.append(call(args))
                            del args
                    yield _next_result(futures, deadline)
            finally:  # and as long as this lives, so does the client, which ends its session when it goes
                self._session.wish_cancelled(futures)

        return results()


def _dial(context: zmq.Context[zmq.Socket[bytes]], connection: ConnectionFile, transport: Transport) -> Dial:
    if transport not in ("auto", "tcp", "ipc"):
        raise ValueError(f"transport is 'auto', 'tcp' or 'ipc', not {transport!r}")
    address, server_key = connection.way(transport)
    return Dial(context, address, server_key, connection.public_key, connection.secret_key)


def _in_hundreds(ids: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """As many at a time as one order may name."""
    for first in range(0, len(ids), _JOBS_PAGE):
        yield ids[first : first + _JOBS_PAGE]


def _next_result(futures: deque[Future[Any]], deadline: float | None) -> Any:
    """The first one's result, to which nothing here keeps a reference; it stays in the queue if there is none."""
    future = futures[0]
    try:
        value = future.result(None if deadline is None else deadline - monotonic())
        futures.popleft()
        return value
    finally:
        del future


def _flattened(lists: Iterator[list[Any]]) -> Generator[Any, None, None]:
    try:
        for results in lists:
            results.reverse()
            while results:
                yield results.pop()
    finally:
        lists.close()  # type: ignore[attr-defined]


def _in_chunks(fn: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Many calls as one; defined in here so that it goes by value: a worker need not import this module."""

    def run(*calls: tuple[Any, ...]) -> list[Any]:
        return [fn(*args) for args in calls]

    name: object = getattr(fn, "__qualname__", None)
    run.__qualname__ = f"{name if isinstance(name, str) else type(fn).__qualname__}.<locals>.chunk"
    run.__module__ = getattr(fn, "__module__", None) or "__main__"
    return run
