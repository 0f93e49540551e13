"""The client over a coordinator that is played in this process: real session, real codec, no socket."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType, ModuleType
from typing import Any

import msgpack
import pytest

from cluster import errors
from cluster.actor import Connected, Identity, Received, Rejected, Send
from cluster.client import Client
from cluster.codec import decode, encode
from cluster.config import ClientLimits
from cluster.futures import Future
from cluster.host import Mailbox
from cluster.ids import counter_of, parse_job
from cluster.job_context import STAGE
from cluster.jobs import About, Failure, Outcome, Spec
from cluster.messages import (
    Accepted,
    Answer,
    Ask,
    Bye,
    Cancel,
    Chunk,
    ClientHello,
    Message,
    NotCancelled,
    Results,
    Submit,
    Taken,
    Welcome,
)
from cluster.options import Options
from cluster.payload import load_function, pack_failure, pack_result, unpack_call
from cluster.session import Link

SOON_S = 10.0


class Coordinator:
    """Accepts, runs and answers at once, as far as it is told to; ``say`` makes it speak by itself."""

    address = "played://here"

    def __init__(self, *, accepts: bool = True, runs: bool = True, joins: bool = True) -> None:
        self.accepts, self.runs = accepts, runs
        self.cancels = True
        self.heard: list[Message] = []
        self.specs: list[Spec] = []
        self.counters: list[int] = []
        self.blobs: dict[bytes, bytearray] = {}
        self._ears = Mailbox()
        self._accepted = 0
        self._link = Link()
        self._open: dict[int, tuple[Spec, bytes]] = {}
        self._code: dict[bytes, bytes] = {}
        if joins:
            self._ears.put(Connected())

    # -- what a session wants of its wire ----------------------------------------------------------

    def pollables(self) -> list[int]:
        return self._ears.pollables()

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        said, emptied = self._ears.drain(limit)
        return [self._received(s) if isinstance(s, Message) else s for s in said], emptied

    def send(self, effect: Send) -> None:
        header, message = decode(encode(effect.header, effect.message))
        if isinstance(message, ClientHello):
            self._link = Link(header.link)
            self.say(Welcome(1, True, 0, 1.0, 10.0))
            return
        self._link.take(header, message, 0.0)
        self.heard.append(message)
        match message:
            case Submit():
                self._submitted(message)
            case Cancel():
                self._cancel([counter_of(job) for job in message.jobs])
            case Ask():
                if message.topic == "cancel":
                    self.ends_what_runs(message.about)
                known = message.topic in ("status", "cancel")
                body = {"about": message.about} if known else {}
                self.say(Answer(message.ask, "" if known else f"no topic is called {message.topic!r}", body))
            case Chunk():
                data = self.blobs.setdefault(message.sha, bytearray())
                data[message.offset :] = message.data
                self.say(Taken(message.sha, len(data)))

    def close(self, linger_ms: int = 0) -> None:
        self._ears.close()

    # -- what tests tell it -------------------------------------------------------------------------

    def say(self, message: Message) -> None:
        self._ears.put(message)

    def refuse(self, reason: str) -> None:
        self._ears.put(Rejected(reason))

    def accept_all(self) -> None:
        self._accepted = max(self.counters, default=0)
        self.say(Accepted(self._accepted))

    def ends_what_runs(self, about: dict[str, Any]) -> None:
        for text in about["jobs"] if about["running"] else ():
            self.settle(counter_of(parse_job(text)), Outcome.CANCELLED, Failure("Cancelled", "cancelled while it ran"))

    def settle(self, counter: int, outcome: Outcome, failure: Failure) -> None:
        self._open.pop(counter, None)
        self.say(Results(self._accepted, [counter], [int(outcome)], [failure.encode()], []))

    def run_all(self) -> None:
        rows = [(counter, *self._result(*call)) for counter, call in sorted(self._open.items())]
        self._open.clear()
        if rows:
            counters, outcomes, payloads = zip(*rows, strict=True)
            self.say(Results(self._accepted, list(counters), list(outcomes), list(payloads), []))

    # -- what it does -------------------------------------------------------------------------------

    def _received(self, message: Message) -> Received:
        header = self._link.header()
        return Received(b"", Identity("key", "coordinator", "", "default"), *decode(encode(header, message)))

    def _submitted(self, message: Submit) -> None:
        self._code |= {row[0]: row[1] for row in message.code}
        large = {row: bytes(self.blobs[sha]) for row, sha, _ in message.large}
        for i, payload in enumerate(message.payloads):
            spec = Spec.decode(message.specs[message.spec_of[i]])
            self.specs.append(spec)
            self.counters.append(message.first + i)
            self._open[message.first + i] = (spec, large.get(i, payload))
        if self.accepts:
            self.accept_all()
        if self.runs:
            self.run_all()

    def _result(self, spec: Spec, payload: bytes) -> tuple[int, bytes]:
        code = (self._code.get(spec.code) or bytes(self.blobs[spec.code])) if spec.by_value else spec.code
        args, kwargs = unpack_call(payload)
        try:
            result = pack_result(load_function(code)(*args, **kwargs))
        except Exception as e:
            return int(Outcome.FAILED), pack_failure(e).encode()
        assert isinstance(result, bytes)
        return int(Outcome.SUCCEEDED), result

    def _cancel(self, counters: list[int]) -> None:
        for counter in counters:
            if self.cancels and counter in self._open:
                self.settle(counter, Outcome.CANCELLED, Failure("Cancelled", "cancelled"))
            else:
                self.say(NotCancelled([self._job(counter)]))

    def _job(self, counter: int) -> bytes:
        job: bytes = next(m for m in reversed(self.heard) if isinstance(m, Cancel)).jobs[0]
        return job[:8] + counter.to_bytes(8, "big")


Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[Client] = []

    def connect(coordinator: Coordinator, **limits: Any) -> Client:
        clients.append(Client._over(coordinator, ClientLimits(**limits), SOON_S))
        return clients[-1]

    yield connect
    for client in clients:
        client._abandon("the test is over")


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        threading.Event().wait(0.001)


# ------------------------------------------------------------------------------------ submit


def test_a_call_goes_and_its_result_comes(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    future = client.submit(divmod, 17, 5)
    assert future.result(SOON_S) == (3, 2)
    assert isinstance(future, concurrent.futures.Future)
    assert future.job_id is not None and future.job_id.endswith("-1")
    assert future.accepted(SOON_S)
    [spec] = coordinator.specs
    assert (spec.name, spec.by_value, spec.python) == ("builtins:divmod", False, "")


def test_a_function_by_value_demands_this_python(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    base = 40
    assert client.submit(lambda x, y: base + x + y, 1, y=1).result(SOON_S) == 42
    [spec] = coordinator.specs
    assert spec.by_value and spec.python == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_what_a_job_hands_in_is_its_child(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    keyed = client.options(key="k")
    mine, root = b"m" * 16, b"r" * 16
    for job, about in (
        (root, b""),
        (mine, msgpack.packb({"parent": root})),
        (mine, msgpack.packb({"parent": mine, "root": root})),
    ):
        monkeypatch.setattr(STAGE, "job", (job, 1, about, 1, lambda token, state: None, 0.0, ()))
        client.submit(abs, -1).result(SOON_S)
        keyed.submit(abs, -1).result(SOON_S)
        assert list(client.map(abs, [-1])) == [1]
    monkeypatch.setattr(STAGE, "job", None)
    client.submit(abs, -1).result(SOON_S)
    said = [raw for message in coordinator.heard if isinstance(message, Submit) for _, raw in message.abouts]
    child, grandchild = About(parent=root), About(parent=mine, root=root)
    kinds = (child, grandchild, grandchild)
    assert [About.decode(raw) for raw in said] == [s for k in kinds for s in (k, replace(k, key="k"), k)]


def test_a_large_function_and_a_large_argument_go_as_blobs_once_more_each_time_needed(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    ballast = bytes(range(256)) * 400
    argument = os.urandom(100_000)
    for _ in range(3):
        assert client.submit(lambda a: len(a) + len(ballast), argument).result(SOON_S) == 202_400
        client.flush(SOON_S)
        coordinator.blobs.clear()
    many = client.map(lambda a: a + len(ballast), range(500))
    assert list(many) == [i + 102_400 for i in range(500)]
    assert not client._session._sources


def test_an_exception_comes_back_as_itself_with_the_remote_traceback(connect: Connect) -> None:
    client = connect(Coordinator())
    error = client.submit(int, "x").exception(SOON_S)
    assert type(error) is ValueError
    assert isinstance(error.__cause__, errors.RemoteTraceback)
    assert "invalid literal" in str(error.__cause__)


def test_what_cannot_be_pickled_fails_its_own_future(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    broken: list[Future[Any]] = [
        client.submit(print, threading.Lock()),
        client.submit(threading.Lock().acquire),
    ]
    for future in broken:
        error = future.exception(0)
        assert isinstance(error, errors.SerializationError)
        assert error.__traceback__ is None
        assert future.job_id is None and not future.accepted(0)
    assert isinstance(client.submit(3).exception(0), TypeError)  # type: ignore[arg-type]
    results = client.map(threading.Lock().acquire, [1], [2])
    with pytest.raises(errors.SerializationError):
        next(results)
    assert client.submit(abs, -1).result(SOON_S) == 1
    assert coordinator.counters == [1]


def test_what_is_too_large_fails_its_own_future(connect: Connect) -> None:
    client = connect(Coordinator(), max_blob_bytes=1000)
    assert isinstance(client.submit(len, b"x" * 2000).exception(0), errors.TooLarge)
    assert client.submit(len, b"x" * 100).result(SOON_S) == 100


def test_a_result_that_cannot_be_unpickled_is_that_futures_error(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    future = client.submit(abs, 1)
    future.accepted(SOON_S)
    coordinator.say(Results(1, [1], [0], [b"\x80\x05cno_such_module\nthing\n."], []))
    error = future.exception(SOON_S)
    assert isinstance(error, errors.SerializationError)
    assert "no_such_module" in str(error)


def test_lost_and_timed_out_jobs_say_so(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    lost, late = client.submit(abs, 1), client.submit(abs, 2)
    late.accepted(SOON_S)
    coordinator.settle(1, Outcome.LOST, Failure("JobLost", "three nodes died"))
    coordinator.settle(2, Outcome.TIMED_OUT, Failure("JobTimeout", "after 3 s"))
    assert isinstance(lost.exception(SOON_S), errors.JobLost)
    assert isinstance(late.exception(SOON_S), errors.JobTimeout)


def test_a_callback_that_raises_harms_nobody(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    future = client.submit(abs, -1)

    def leave(_: object) -> None:
        raise SystemExit(3)

    future.add_done_callback(leave)
    future.accepted(SOON_S)
    coordinator.runs = True
    assert client.submit(abs, -2).result(SOON_S) == 2
    assert future.result(SOON_S) == 1
    [complaint] = complaints
    assert complaint.exc_type is SystemExit


def test_nothing_is_kept_of_arguments_and_results(connect: Connect) -> None:
    class Big(list[int]):
        pass

    coordinator = Coordinator()
    client = connect(coordinator)
    argument = Big([1, 2])
    gone = weakref.ref(argument)
    future = client.submit(Big, argument)
    result: Any = future.result(SOON_S)
    del argument
    assert gone() is None
    result_gone = weakref.ref(result)
    del future, result
    client.submit(abs, 1).result(SOON_S)
    gc.collect()
    assert result_gone() is None
    iterator = client.map(Big, [[1], [2]])
    first = next(iterator)
    first_gone = weakref.ref(first)
    del first
    assert first_gone() is None


# ------------------------------------------------------------------------------------ waiting


def test_wait_as_completed_and_callbacks(connect: Connect) -> None:
    client = connect(Coordinator())
    futures = [client.submit(abs, -i) for i in range(100)]
    done, left = concurrent.futures.wait(futures, SOON_S)
    assert len(done) == 100 and not left
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, SOON_S)) == list(range(100))
    seen: list[int] = []
    futures[3].add_done_callback(lambda f: seen.append(f.result()))
    assert seen == [3]


def test_futures_can_be_awaited(connect: Connect) -> None:
    client = connect(Coordinator())

    async def main() -> list[int]:
        one = await client.submit(abs, -1)
        two = await asyncio.wrap_future(client.submit(abs, -2))
        return [one, two, *await asyncio.gather(*map(asyncio.wrap_future, [client.submit(abs, -3)]))]

    assert asyncio.run(main()) == [1, 2, 3]


def test_accepted_and_flush_wait_for_the_coordinators_word(connect: Connect) -> None:
    coordinator = Coordinator(accepts=False, runs=False)
    client = connect(coordinator)
    future = client.submit(abs, 1)
    with pytest.raises(TimeoutError):
        future.accepted(0.01)
    with pytest.raises(TimeoutError, match="1 jobs are not acknowledged"):
        client.flush(0.01)
    until(lambda: coordinator.counters)
    coordinator.accept_all()
    client.flush(SOON_S)
    assert future.accepted(0) and not future.done()


def test_questions(connect: Connect) -> None:
    client = connect(Coordinator())
    assert client.ask("status", deep=True) == {"about": {"deep": True}}
    with pytest.raises(errors.ClusterError, match="no topic is called 'weather'"):
        client.ask("weather")


# ------------------------------------------------------------------------------------ cancel


def test_cancel_says_what_the_coordinator_says(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    first, second = client.submit(abs, 1), client.submit(abs, 2)
    assert second.accepted(SOON_S)
    assert first.cancel() and first.cancelled() and first.cancel()
    done, _ = concurrent.futures.wait([first], SOON_S)
    assert done == {first}
    with pytest.raises(concurrent.futures.CancelledError):
        first.result(0)
    coordinator.cancels = False
    assert not second.cancel() and not second.done()
    coordinator.run_all()
    assert second.result(SOON_S) == 2
    assert not second.cancel()


def test_in_an_event_loop_cancel_sends_the_wish_and_does_not_wait(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)

    async def main() -> None:
        future = client.submit(abs, 1)
        await asyncio.to_thread(future.accepted, SOON_S)
        assert not future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.cancelled()

    asyncio.run(main())


def test_what_runs_is_ended_when_that_is_said(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    coordinator.cancels = False
    client = connect(coordinator)
    future = client.submit(abs, 1)
    assert future.accepted(SOON_S)
    assert not future.cancel() and not future.done()
    assert future.cancel(running=True) and future.cancelled()


def test_where_it_must_not_wait_the_wish_to_end_what_runs_is_sent(connect: Connect) -> None:
    """In an event loop and in a callback: there nothing may block, and nothing is raised."""
    coordinator = Coordinator(runs=False)
    coordinator.cancels = False
    client = connect(coordinator)
    future, first, second = (client.submit(abs, n) for n in range(3))
    assert second.accepted(SOON_S)

    async def main() -> None:
        assert not future.cancel(running=True)
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())
    said: list[bool] = []
    first.add_done_callback(lambda _: said.append(second.cancel(running=True)))
    coordinator.settle(2, Outcome.CANCELLED, Failure("Cancelled", "cancelled"))
    until(second.cancelled)
    assert said == [False]


def test_a_client_that_is_gone_cannot_end_what_runs(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    future = client.submit(abs, 1)
    assert future.accepted(SOON_S)
    client.shutdown(wait=False, cancel_futures=False)
    coordinator.run_all()
    assert future.result(SOON_S) == 1
    assert not future.cancel(running=True)


def test_on_the_sessions_thread_cancel_does_not_wait(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    first, second = client.submit(abs, 1), client.submit(abs, 2)
    assert second.accepted(SOON_S)
    said: list[bool] = []
    first.add_done_callback(lambda _: said.append(second.cancel()))
    assert first.cancel()
    until(second.cancelled)
    assert said == [False]


def test_a_job_that_never_left_is_cancelled_at_once(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    first = client.submit(abs, 1)
    assert first.accepted(SOON_S)
    said: list[Any] = []

    def submit_and_cancel(_: object) -> None:
        future = client.submit(abs, 2)
        said.extend([future.cancel(), future.cancelled()])

    first.add_done_callback(submit_and_cancel)
    coordinator.run_all()
    client.flush(SOON_S)
    until(lambda: len(said) == 2)
    client.submit(abs, 3).accepted(SOON_S)
    assert said == [True, True]
    assert coordinator.counters == [1, 3]


# ------------------------------------------------------------------------------------ map


def test_map_reads_ahead_no_further_than_its_buffer(connect: Connect) -> None:
    client = connect(Coordinator())
    numbers = itertools.count()
    results = client.map(abs, numbers, buffersize=5)
    assert next(numbers) == 5
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert next(numbers) == 9
    results.close()  # type: ignore[attr-defined]


def test_map_without_a_buffer_submits_all_at_once(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    client.map(abs, range(100))
    client.flush(SOON_S)
    assert coordinator.counters == list(range(1, 101))


def test_closing_the_iterator_cancels_the_rest(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    results = client.map(abs, range(50))
    client.flush(SOON_S)
    coordinator.settle(1, Outcome.FAILED, pack_failure(KeyError("x")))
    with pytest.raises(KeyError):
        next(results)
    until(lambda: not client._session._futures)
    [cancel] = [m for m in coordinator.heard if isinstance(m, Cancel)]
    assert len(cancel.jobs) == 49


def test_map_times_out_and_cancels(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    with pytest.raises(TimeoutError):
        list(client.map(abs, range(3), timeout=0.01))
    until(lambda: not client._session._futures)


def test_map_in_chunks_makes_fewer_jobs(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    assert list(client.map(pow, range(25), itertools.repeat(2), chunksize=10)) == [i * i for i in range(25)]
    assert len(coordinator.counters) == 3
    lazy = client.map(abs, itertools.count(), chunksize=10, buffersize=2)
    assert list(itertools.islice(lazy, 45)) == list(range(45))
    lazy.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"buffersize": 0}, ValueError),
        ({"buffersize": 1.5}, TypeError),
        ({"chunksize": 0}, ValueError),
    ],
)
def test_map_checks_its_arguments(connect: Connect, wrong: dict[str, Any], error: type[Exception]) -> None:
    client = connect(Coordinator())
    with pytest.raises(error):
        client.map(abs, [1], **wrong)


# ------------------------------------------------------------------------------------ options


def test_a_twin_shares_the_session_and_not_the_options(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    twin = client.options(labels={"gpu": "yes", "disk": "ssd"}, name="mine")
    other = twin.options(name="other")
    for each in (twin, other, client):
        assert each.submit(abs, -3).result(SOON_S) == 3
    assert [(s.name, s.labels) for s in coordinator.specs] == [
        ("mine", (("disk", "ssd"), ("gpu", "yes"))),
        ("other", (("disk", "ssd"), ("gpu", "yes"))),
        ("builtins:abs", ()),
    ]
    assert coordinator.counters == [1, 2, 3]
    twin.shutdown()
    with pytest.raises(errors.ClientClosed):
        client.submit(abs, 1)


def test_options_never_mix_with_a_functions_own_arguments(connect: Connect) -> None:
    client = connect(Coordinator())
    assert client.submit(dict, labels=1, name=2, fn=3, self=4).result(SOON_S) == {
        "labels": 1,
        "name": 2,
        "fn": 3,
        "self": 4,
    }


def test_an_unknown_option_names_the_nearest(connect: Connect) -> None:
    client = connect(Coordinator())
    with pytest.raises(errors.UnknownOption, match="no option is called 'label'; did you mean 'labels'"):
        client.options(label={})
    with pytest.raises(errors.UnknownOption, match="there are labels, isolation, prefer, anti_affinity"):
        client.options(xyzzy=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": "gpu"},
        {"labels": {"gpu": 1}},
        {"name": ""},
        {"name": "x" * 501},
        {"block": 1},
        {"by_value": "pytest"},
        {"by_value": ["never_imported"]},
        {"by_value": 5},
    ],
)
def test_a_wrong_value_of_an_option_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Options().changed(wrong)


# ------------------------------------------------------------------------------------ code by value


PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_arguments_with_code_in_them_demand_this_python_and_others_do_not(connect: Connect) -> None:
    class Local:
        pass

    coordinator = Coordinator()
    client = connect(coordinator)
    ballast = os.urandom(100_000)
    for args in [(1,), (Local(),), (ballast,), (ballast, Local()), ("__main__",), (2,)]:
        client.submit(type, args).result(SOON_S)
    assert [spec.python for spec in coordinator.specs] == ["", PYTHON, "", PYTHON, "", ""]
    coordinator.specs.clear()
    list(client.map(type, [1, Local(), 2]))
    assert sorted(spec.python for spec in coordinator.specs) == ["", "", PYTHON]
    assert not any(spec.by_value for spec in coordinator.specs)


def test_a_large_function_without_code_runs_on_any_python(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    assert client.submit(functools.partial(isinstance, bytes(100_000)), bytes).result(SOON_S) is True
    [spec] = coordinator.specs
    assert spec.by_value and spec.python == ""


def test_modules_go_by_value_through_the_twin_that_was_told_so_and_no_other(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = ModuleType("client_lib")
    exec("K = 1\ndef f(x): return x + K\nclass Thing: pass", lib.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "client_lib", lib)
    coordinator = Coordinator()
    client = connect(coordinator)
    twin = client.options(by_value=["client_lib"])
    heir = twin.options(name="heir")
    for via in (twin, client, heir, client.options(by_value=[lib])):
        assert via.submit(lib.f, 1).result(SOON_S) == 2
        assert isinstance(via.submit(lib.Thing).result(SOON_S), lib.Thing)
        assert list(via.map(lib.f, [1, 2], chunksize=2)) == [2, 3]
    by_value = [spec.by_value for spec in coordinator.specs]
    assert by_value == [True] * 3 + [False, False, True] + [True] * 6  # a chunk is a function of ours, always by value
    assert {spec.python for spec, sent in zip(coordinator.specs, by_value, strict=True) if sent} == {PYTHON}
    lib.K = 5  # type: ignore[attr-defined]
    assert twin.submit(lib.f, 1).result(SOON_S) == 6
    assert twin._options.by_value == ("client_lib",) and client._options.by_value == ()


def test_neither_a_client_nor_a_future_can_go_into_a_job_and_the_error_says_why(connect: Connect) -> None:
    client = connect(Coordinator())
    for argument, words in [(client, "a client belongs to its process"), (client.submit(abs, 1), "hand in its result")]:
        error = client.submit(print, argument).exception(0)
        assert isinstance(error, errors.SerializationError) and words in str(error)


# ------------------------------------------------------------------------------------ limits


def test_submit_waits_while_too_much_is_unacknowledged(connect: Connect) -> None:
    coordinator = Coordinator(accepts=False, runs=False)
    client = connect(coordinator, max_unacknowledged_jobs=10)
    for i in range(10):
        client.submit(abs, i)
    with pytest.raises(errors.Full, match="10 jobs"):
        client.options(block=False).submit(abs, 0)
    eleventh: list[Future[int]] = []
    thread = threading.Thread(target=lambda: eleventh.append(client.submit(abs, 10)))
    thread.start()
    until(lambda: client._session._waiting)
    assert not eleventh
    until(lambda: len(coordinator.counters) == 10)
    coordinator.accept_all()
    thread.join(SOON_S)
    assert eleventh


def test_bytes_are_bounded_too_but_one_may_pass_alone(connect: Connect) -> None:
    coordinator = Coordinator(accepts=False, runs=False)
    client = connect(coordinator, max_unacknowledged_bytes=10_000).options(block=False)
    client.submit(len, b"x" * 20_000)
    with pytest.raises(errors.Full):
        client.submit(len, b"")
    until(lambda: coordinator.counters)
    coordinator.accept_all()
    client.flush(SOON_S)
    client.submit(len, b"")


def test_a_callback_never_waits_for_room(connect: Connect) -> None:
    coordinator = Coordinator(accepts=False, runs=False)
    client = connect(coordinator, max_unacknowledged_jobs=1)
    caught: list[BaseException] = []
    future = client.submit(abs, 1)

    def submit_more(_: object) -> None:
        try:
            client.submit(abs, 2)
        except errors.Full as e:
            caught.append(e)

    future.add_done_callback(submit_more)
    until(lambda: coordinator.counters)
    coordinator.run_all()
    until(lambda: caught)


def test_waiting_for_room_ends_with_the_session(connect: Connect) -> None:
    coordinator = Coordinator(accepts=False, runs=False)
    client = connect(coordinator, max_unacknowledged_jobs=1)
    client.submit(abs, 1)
    caught: list[BaseException] = []

    def submit_more() -> None:
        try:
            client.submit(abs, 2)
        except errors.ClusterError as e:
            caught.append(e)

    thread = threading.Thread(target=submit_more)
    thread.start()
    until(lambda: client._session._waiting)
    coordinator.refuse("your key was removed")
    thread.join(SOON_S)
    assert [type(e) for e in caught] == [errors.Refused]


def test_counters_stay_in_order_when_a_signal_handler_submits(connect: Connect) -> None:
    coordinator = Coordinator()
    client = connect(coordinator)
    futures: list[Future[int]] = []

    def submit_too(number: int, frame: FrameType | None) -> None:
        futures.append(client.submit(abs, -1))

    before = signal.signal(signal.SIGALRM, submit_too)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(5_000):
            futures.append(client.submit(abs, -2))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert {f.result(SOON_S) for f in futures} == {1, 2}
    assert coordinator.counters == list(range(1, len(futures) + 1))


# ------------------------------------------------------------------------------------ endings


def test_shutdown_waits_for_the_work_and_says_goodbye(connect: Connect) -> None:
    coordinator = Coordinator()
    with connect(coordinator) as client:
        futures = [client.submit(abs, -i) for i in range(1000)]
    assert all(f.done() for f in futures)
    assert isinstance(coordinator.heard[-1], Bye)
    assert not client._session._thread.is_alive()
    with pytest.raises(errors.ClientClosed):
        client.submit(abs, 1)
    with pytest.raises(RuntimeError):
        client.map(abs, [1])
    client.shutdown()


def test_shutdown_without_waiting_leaves_the_work_running(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    future = client.submit(abs, -7)
    client.shutdown(wait=False)
    assert future.accepted(0) and not future.done()
    coordinator.run_all()
    assert future.result(SOON_S) == 7
    client.shutdown(wait=True)
    assert isinstance(coordinator.heard[-1], Bye)


def test_shutdown_may_cancel_what_waits(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    futures = [client.submit(abs, i) for i in range(10)]
    client.shutdown(cancel_futures=True)
    assert all(f.cancelled() for f in futures)


def test_a_client_that_is_forgotten_finishes_its_work_and_leaves(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = Client._over(coordinator, ClientLimits())
    future = client.options(name="twin").submit(abs, -7)
    session = client._session
    assert future.accepted(SOON_S)
    del client
    gc.collect()
    coordinator.run_all()
    assert future.result(SOON_S) == 7
    session.join(SOON_S)
    assert session.over


def test_a_refusal_ends_all_futures_with_its_reason(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    future = client.submit(abs, 1)
    assert future.accepted(SOON_S)
    coordinator.refuse("your key was removed")
    error = future.exception(SOON_S)
    assert isinstance(error, errors.Refused) and "your key was removed" in str(error)
    assert future.accepted(0)
    with pytest.raises(errors.Refused):
        client.submit(abs, 1)


def test_a_coordinator_silent_for_too_long_fails_the_futures_by_name(connect: Connect) -> None:
    coordinator = Coordinator(accepts=False, runs=False)
    client = connect(coordinator, reconnect_timeout_s=0.2)
    future = client.submit(abs, 1)
    error = future.exception(SOON_S)
    assert isinstance(error, errors.CoordinatorUnreachable)
    assert error.job_ids == (future.job_id,)


def test_a_client_that_hears_nothing_says_where_it_called(connect: Connect) -> None:
    with pytest.raises(errors.CoordinatorUnreachable, match=r"played://here within 0\.05 s"):
        Client._over(Coordinator(joins=False), ClientLimits(), 0.05)


def test_a_client_that_is_refused_says_why() -> None:
    coordinator = Coordinator(joins=False)
    coordinator.refuse("wrong key")
    with pytest.raises(errors.Refused, match="wrong key"):
        Client._over(coordinator, ClientLimits(), SOON_S)


def test_without_a_connection_file_the_error_says_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("GANGER_CONNECTION", raising=False)
    monkeypatch.setenv("GANGER_HOME", str(tmp_path))
    with pytest.raises(errors.NoConnection, match="cluster up") as caught:
        Client()
    assert "$GANGER_CONNECTION" in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_child_the_client_is_closed(connect: Connect) -> None:
    coordinator = Coordinator(runs=False)
    client = connect(coordinator)
    future = client.submit(abs, -1)
    assert future.accepted(SOON_S)
    pid = os.fork()
    if pid == 0:
        said: list[str] = []
        try:
            calls: list[Callable[[], object]] = [
                lambda: client.submit(abs, 1),
                lambda: client.map(abs, [1]),
                lambda: client.flush(1),
                lambda: client.ask("status"),
                lambda: future.result(1),
                lambda: future.accepted(1),
            ]
            for call in calls:
                try:
                    call()
                except errors.ClientClosed as e:
                    said.append(str(e))
            client.shutdown()
        finally:
            os._exit(sum("forked" in text for text in said))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 6
    coordinator.run_all()
    assert future.result(SOON_S) == 1


def test_importing_the_payload_brings_no_socket() -> None:
    import subprocess

    code = "import sys, cluster.payload; print(sorted({'zmq', 'click', 'cluster.client'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_front_door_has_all_it_names() -> None:
    import cluster

    for name in cluster.__all__:
        assert getattr(cluster, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = cluster.Clint
