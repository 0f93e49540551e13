"""The user's side: ``Client``. Rules of this file: shell; it packs, and ``carrier.Session`` carries.

What cannot be pickled fails its own future. ``submit`` raises only for reasons of the session.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from types import MappingProxyType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar

import zmq

from cluster import errors, schedules
from cluster.carrier import FLUSH_S, LINGER_MS, Code, Session, Wire, raiser, without_frames
from cluster.config import INLINE_BYTES, ClientLimits
from cluster.futures import Future
from cluster.ids import format_job, parse_job
from cluster.job_context import STAGE, Staged, as_child
from cluster.jobs import HOOK_BYTES, Hook, Rules, Spec
from cluster.keys import ConnectionFile, find_connection
from cluster.options import HOOKS, Options, Webhook
from cluster.payload import (
    ByValue,
    PackedFunction,
    by_value_names,
    holds_code,
    pack_call,
    pack_function,
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

_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


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
        session = Session(wire, namespace or found.namespace, limits or ClientLimits(), context.term)
        self._set_up(session, connect_timeout_s)

    @classmethod
    def _over(cls, wire: Wire, limits: ClientLimits, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> Client:
        """A client whose coordinator is whatever is behind ``wire``."""
        client = cls.__new__(cls)
        client._set_up(Session(wire, "default", limits, lambda: None), connect_timeout_s)
        return client

    def _set_up(self, session: Session, connect_timeout_s: float) -> None:
        self._options = Options()
        self._about = b""
        self._child: tuple[Staged | None, bytes] = None, b""
        self._by_value = ByValue()
        self._session = session
        self._specs: dict[tuple[PackedFunction, bool], tuple[bytes, Code | None]] = {}
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
            future._fail(without_frames(e))
            return future
        session.offer(future, spec, payload, code, self._options, self._summary(fn, args, kwargs), self._said)
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
        twin._child = None, b""
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
        self._session.leave(raiser(errors.CoordinatorUnreachable, reason))
        self._session.join(2 * LINGER_MS / 1000)

    def _spec(self, packed: PackedFunction, code_in_call: bool) -> tuple[bytes, Code | None]:
        """What all jobs of this function and these options share, as bytes. ``code_in_call``: in the arguments."""
        kept = self._specs.get((packed, code_in_call))
        if kept is not None:
            return kept
        options = self._options
        code = Code(hashlib.sha256(packed.code).digest(), packed.code) if packed.by_value else None
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

    @property
    def _said(self) -> bytes:
        """What is said about each job, encoded; of one that is handed in by a job, also that."""
        parent = STAGE.job
        if parent is None:
            return self._about
        kept = self._child
        if kept[0] is not parent:
            self._child = kept = parent, as_child(self._options.about, parent).encode()
        return kept[1]

    def _summary(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        wanted = self._options.summary
        return summary(fn, args, kwargs) if wanted is True else wanted or ""

    def _caller(self, fn: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Future[Any]]:
        """``submit`` of one function, packed now and never again."""
        session, by_value, options, about = self._session, self._by_value, self._options, self._said
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
                future._fail(without_frames(broken))
                return future
            try:
                payload = pack_call(args, {}, by_value=by_value, max_bytes=max_bytes)
            except Exception as e:
                future._fail(without_frames(e))
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
