"""Runs user code, one attempt after another. Rules of this file: a program of its own, which imports almost nothing.

The zygote forks it, or starts it by path, with one end of a socket pair that keeps packets apart. Each packet is one
attempt; its result is written before the next is read, so a death has one suspect and loses no finished
work. A shared page tells which attempt is in which phase, to whoever looks after a death, and which attempt is to be
interrupted.

In here ``__main__`` is an empty module for the user, and our ``node`` and ``scheduler`` cannot be found: a
user's own ``node.py`` is theirs. So nothing is imported but the standard library, msgpack and ``cluster``.

In comes (token, job, attempt, by value, code, payload), for some with six more: SHA-256 of the payload's blob or
empty, monotonic moment after which it must not start or 0, opaque bytes about the job, how many files it may open or
0, its ``timeout_s`` or 0, ids of its graphics processors.
Out goes (token, end, payload, run_us), for some with four more: (SHA-256, size) of the result's blob or None, cpu_us,
peak_kib, why it leaves. Token 0 says "ready", with the time that took for ``run_us``; the end ``SAVED`` is none: the
payload is a state that the job saves.

What an attempt leaves behind does not reach the next one: its processes are killed, its temporary files removed, the
working directory and the signal mask put back. A worker in which more may be left, since a job was interrupted, left
processes or had graphics processors, says so in its answer, reads nothing more, and is replaced.
"""

from __future__ import annotations

import builtins
import contextlib
import faulthandler
import functools
import importlib
import importlib.machinery
import importlib.util
import io
import json
import mmap
import os
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import time
import types
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import msgpack

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(_HERE)
if __name__ == "__main__":  # ours, whatever else is called so
    sys.path.insert(0, _ROOT)

from cluster import errors, payload, trees  # noqa: E402
from cluster.job_context import STAGE  # noqa: E402
from cluster.jobs import VISIBLE_DEVICES, End, Failure  # noqa: E402

if __name__ == "__main__":
    sys.path.remove(_ROOT)

MAX_PACKET = 384 * 1024
"""No packet reaches this: two inline payloads, and names. It passes with the usual limit on socket buffers."""

PAGE = struct.Struct("<QQ")
"""At the start of the shared page: token and phase of what runs, or ran last."""
LOADING, USER_CODE, ANSWERING = range(1, 4)
"""From ``USER_CODE`` on, the user's function has begun."""

WISH, WISH_AT = struct.Struct("<QQd"), 64
"""What the agent writes into it: token of the attempt to be interrupted, why, and its ``timeout_s``."""
CANCEL, TIMEOUT = 1, 2

SIGNAL_INTERRUPT, SIGNAL_DUMP = signal.SIGRTMIN + 5, signal.SIGRTMIN + 6
"""Look at the wish; write the stack down, whatever runs. Others of these numbers are the user's."""

SAVED = 100
"""Stands where an answer has its ``jobs.End``."""

AGAIN_EVERY = 10
"""Interruptions of a coroutine that is unwinding are passed on to it one in so many."""

_CLEARED_WITHIN_S = 3.0
"""Processes of a job that live longer after SIGKILL are left to the zygote."""

_LOOP_FILES = re.compile(r"/asyncio/|/selectors\.py$")
"""Code of an event loop, in which nothing must be raised."""

_SHORT_US = 100
"""In less time no process is forked: what takes no longer is not looked after so closely,"""
_UNSEEN_US = 10_000
"""...until so much of it has come together,"""
_EACH_US = 40
"""...for which one counts so much more than it took."""

_CACHED_FUNCTIONS = 256

_NO_EXTRAS = (b"", 0.0, b"", 0, 0, ())

Answer = tuple[int, bytes, tuple[bytes, int] | None]
_WISHES = ((errors.Retry, End.RETRY), (errors.Snooze, End.SNOOZE), (errors.GiveUp, End.GIVE_UP))
"""What a job raises about itself."""
_UNSTARTED: Answer = (End.UNSTARTED, b"", None)


class Start(NamedTuple):
    """What a worker is told on its command line, as JSON, or by the zygote that forked it."""

    socket_fd: int
    page_fd: int
    stack_fd: int
    """Takes the stack that ``SIGNAL_DUMP`` asks for."""
    stderr_fd: int
    """Takes the place of the standard error that collected complaints about the start."""
    parent: int
    max_blob_bytes: int
    blob_dir: str
    node: str
    temp_dir: str = ""
    """Holds a directory of temporary files for each worker; empty: there are none."""
    preload: tuple[str, ...] = ()
    """Modules still to be imported."""
    init: str = ""
    """``package.module:function`` to be called before the first job."""
    max_jobs: int = 0
    """The worker leaves after so many attempts; 0: never,"""
    max_age_s: float = 0.0
    """...or when it is so old,"""
    max_left_bytes: int = 0
    """...or when so much more memory than at its start stays with it between jobs."""
    number: int = 0
    """By which the agent knows the process, if it is another one in here."""

    def argv(self) -> list[str]:
        return [json.dumps(self)]

    @staticmethod
    def from_argv(argv: Sequence[str]) -> Start:
        return Start._make(tuple(field) if isinstance(field, list) else field for field in json.loads(argv[0]))


class _Loaded(NamedTuple):
    function: Callable[..., Any]
    states_set: int | None
    """For a function that came with classes of its own: when they were as it brought them. Other pickles may
    have changed these very classes since, and then it must be loaded anew."""


def part_path(blob_dir: str, pid: int, token: int | str) -> str:
    """Where a worker writes the large result of one attempt. The pool names it when it reads the answer.

    Named here, it would be lost whenever the agent drops a blob of the same bytes before it has read of this one.
    """
    return os.path.join(blob_dir, f"worker-{pid}-{token}.part")


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is below this frame is user code, and may be interrupted."""
    return function(*args, **kwargs)


class Worker:
    def __init__(self, pipe: socket.socket, page: mmap.mmap, start: Start) -> None:
        self._pipe = pipe
        self._page = page
        self._node = start.node
        self._blob_dir = start.blob_dir
        self._max_blob_bytes = start.max_blob_bytes
        self._pid = os.getpid()
        self._number = start.number or self._pid
        self._token = 0
        self._functions: OrderedDict[tuple[bool, bytes], _Loaded] = OrderedDict()
        self._last: tuple[bool, bytes, Callable[..., Any]] = False, b"", call
        """The function that was called last, if nothing can have changed it."""
        self._saver = self._save
        self._in_user_code = False
        self._interruptions = 0
        """How often the running attempt was interrupted,"""
        self._why = 0
        """...and why at first."""
        self._task: Any = None
        """The coroutine that runs, as a task of asyncio."""
        self._loop: Any = None
        self._hidden = {Worker._run.__code__.co_filename, payload.__file__}
        """Files whose frames the user need not see at the top of a traceback."""
        self._traces = Traces(start)
        self._stdout = sys.stdout
        self._forked = False
        """Whether this is a child that user code has forked, and that came back."""

    def _is_forked(self) -> None:
        self._forked = True

    def serve(self, began_at: float) -> None:
        """Until the agent is gone, or the worker is to be replaced."""
        pipe, pack, unpackb, clock = self._pipe, msgpack.Packer().pack, msgpack.unpackb, time.perf_counter_ns
        getpid = os.getpid
        os.register_at_fork(after_in_child=self._is_forked)
        traces = self._traces
        cleared = traces.cleared
        buffer = bytearray(MAX_PACKET)  # receiving into new bytes would cost five times the rest
        view = memoryview(buffer)
        traces.begin()
        pipe.send(pack((0, 0, b"", int((time.monotonic() - began_at) * 1e6))))
        while size := pipe.recv_into(buffer):
            began = clock()
            token, job, attempt, by_value, code, arguments, *extras = unpackb(view[:size])
            self._token = token
            sha, start_by, about, files, timeout_s, gpus = extras or _NO_EXTRAS
            if files:
                traces.limit_files(files)
            end, result, large = self._run(
                token, job, attempt, by_value, code, arguments, sha, start_by, about, timeout_s, tuple(gpus)
            )
            if getpid() != self._pid:  # forked by C code
                _leave(None)
            self._flush()
            run_us = (clock() - began) // 1000
            left = cleared(run_us)
            if left is None and large is None and not self._interruptions and not gpus:
                pipe.send(pack((token, end, result, run_us)))
                continue
            cpu_us, peak_kib, leaving = left or (0, 0, "")
            if self._interruptions:
                leaving = "its job was interrupted"
            elif gpus:
                leaving = leaving or "its job had graphics processors"  # to which CUDA binds a process for good
            pipe.send(pack((token, end, result, run_us, large, cpu_us, peak_kib, leaving)))
            if leaving:
                return

    def ctrl_c(self, signum: int, frame: types.FrameType | None) -> None:
        """SIGINT is for user code alone; it must not end the loop."""
        if self._in_user_code:
            raise KeyboardInterrupt

    # -- being interrupted --------------------------------------------------------------------------

    def interrupt(self, signum: int, frame: types.FrameType | None) -> None:
        """The agent wishes the running attempt to end, and says so again and again until it has.

        Raised is in user code alone, in no import, and not while the job unwinds from the last time.
        """
        token, why, timeout_s = WISH.unpack_from(self._page, WISH_AT)
        if token != self._token or not self._in_user_code or STAGE.shields or os.getpid() != self._pid:
            return
        exc = sys.exception()
        while exc is not None:
            if isinstance(exc, errors.Interrupted):
                return
            exc = exc.__context__
        in_loop = frame is not None and _LOOP_FILES.search(frame.f_code.co_filename) is not None
        while frame is not None and frame.f_code is not call.__code__:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                return
            frame = frame.f_back
        if frame is None:
            return
        self._interruptions += 1
        self._why = self._why or why
        if self._task is not None:
            if self._interruptions % AGAIN_EVERY == 1:
                self._loop.call_soon_threadsafe(self._task.cancel)
            if in_loop or self._interruptions < 3:
                return
        if why == CANCEL:
            raise errors.JobCancelled("the job was cancelled")
        raise errors.SoftTimeout(f"the job has run for its timeout_s of {timeout_s:g} s")

    def _check(self) -> None:
        self.interrupt(0, sys._getframe())

    def _save(self, token: int, state: bytes) -> None:
        if token != self._token or not self._in_user_code:
            raise RuntimeError("the job is over: it cannot save any more")
        self._pipe.send(msgpack.packb((token, SAVED, state, 0)))

    # -- one attempt --------------------------------------------------------------------------------

    def _run(
        self,
        token: int,
        job: bytes,
        attempt: int,
        by_value: bool,
        code: bytes,
        arguments: bytes,
        sha: bytes,
        start_by: float,
        about: bytes,
        timeout_s: float,
        gpus: tuple[str, ...],
    ) -> Answer:
        page, stage = self._page, STAGE
        ends = time.monotonic() + timeout_s if timeout_s else 0.0
        if gpus:  # before anything of the user's is loaded, and looks for them
            os.environ.update(dict.fromkeys(VISIBLE_DEVICES, ",".join(gpus)))
        _note(page, 0, token, LOADING)
        try:
            last = self._last
            fn = last[2] if code == last[1] and by_value == last[0] else self._function(by_value, code)
            args, kwargs = payload.unpack_call(self._mapped(sha) if sha else arguments, self._node)
        except BaseException as e:  # what is being loaded is user code too
            return self._failed(e, ours=True)
        if self._forked:
            _leave(None)
        try:
            _note(page, 0, token, USER_CODE)
            if start_by and time.monotonic() > start_by:
                return _UNSTARTED
            stage.job = job, attempt, about, token, self._saver, ends, gpus
            self._in_user_code = True
            value = call(fn, args, kwargs)
            if type(value) is types.CoroutineType:
                value = call(self._finish, (value,), {})
            self._in_user_code = False
        except BaseException as e:
            self._in_user_code = False
            self._off_stage()
            _note(page, 0, token, ANSWERING)
            if isinstance(e, ModuleNotFoundError) and e.name:
                e.add_note(payload.missing_module(e, self._node, in_job=True))
            return self._failed(e, ours=False)
        self._off_stage()
        _note(page, 0, token, ANSWERING)
        if self._forked:
            _leave(None)
        try:
            packed = payload.pack_result(value, max_bytes=self._max_blob_bytes)
            if isinstance(packed, bytes):
                return End.SUCCEEDED, packed, None
            if self._forked:
                _leave(None)
            return End.SUCCEEDED, b"", self._written(token, packed)
        except BaseException as e:
            return self._failed(e, ours=True)

    def _flush(self) -> None:
        """User code may have closed standard output, or put anything in its place."""
        try:
            sys.stdout.flush()
            if sys.stdout is self._stdout:
                return
        except Exception:
            pass
        sys.stdout = self._stdout
        if self._stdout is not None and self._stdout.closed:
            self._traces.spoilt = "its job closed standard output"

    def _off_stage(self) -> None:
        STAGE.job = None
        STAGE.shields = 0

    def _failed(self, exc: BaseException, ours: bool) -> Answer:
        """``ours``: raised around the user's function, not by it."""
        if os.getpid() != self._pid:
            _leave(exc)
        if ours and isinstance(exc, errors.JobError):
            return End.RAISED, payload.pack_error(exc).encode(), None
        if ours and isinstance(exc, OSError):  # a blob's file; not to be taken for an error of the job
            failure = Failure("OSError", f"on node {self._node}: {exc}", "", ("OSError", "Exception"))
            return End.SPOILT, failure.encode(), None
        failure = payload.pack_failure(exc, self._hidden)
        end = End.RAISED
        if self._interruptions and (self._why == CANCEL or _is_interruption(exc)):
            cancelled = self._why == CANCEL
            end = End.CANCELLED if cancelled else End.TIMED_OUT
            text = "cancelled while it ran" if cancelled else f"{exc}" if _is_interruption(exc) else failure.text
            if not cancelled and not isinstance(exc, errors.SoftTimeout):
                text = "the job has run for its timeout_s"
            failure = Failure("Cancelled" if cancelled else "JobTimeout", text, failure.traceback, failure.bases)
        else:
            for kind, wish in _WISHES:
                if not ours and isinstance(exc, kind):
                    end, failure = wish, replace(failure, delay_s=getattr(exc, "delay_s", None))
        return end, failure.encode(), None

    def _function(self, by_value: bool, code: bytes) -> Callable[..., Any]:
        key = by_value, code
        kept = self._functions.get(key)
        if kept is not None and (kept.states_set is None or kept.states_set == payload.class_states_set()):
            self._functions.move_to_end(key)
            if kept.states_set is None:
                self._last = by_value, code, kept.function
            return kept.function
        pickled = code
        if by_value:
            with open(self._blob_path(code), "rb") as file:
                pickled = file.read()
        before = payload.class_states_set()
        fn = payload.load_function(pickled, self._node)
        after = payload.class_states_set()
        if len(self._functions) >= _CACHED_FUNCTIONS:
            self._functions.popitem(last=False)
        self._functions[key] = _Loaded(fn, after if after != before else None)
        return fn

    def _finish(self, coroutine: types.CoroutineType[Any, Any, Any]) -> Any:
        import asyncio

        self._hidden |= {asyncio.runners.__file__, asyncio.base_events.__file__}
        try:
            return asyncio.run(self._as_task(coroutine))
        finally:
            self._task = None

    async def _as_task(self, coroutine: types.CoroutineType[Any, Any, Any]) -> Any:
        import asyncio

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await coroutine

    def _blob_path(self, sha: bytes) -> str:
        return os.path.join(self._blob_dir, sha.hex())

    def _mapped(self, sha: bytes) -> mmap.mmap:
        """A private view: arrays in it can be written to, and only pages that are written to are copied."""
        with open(self._blob_path(sha), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _written(self, token: int, large: payload.LargePayload) -> tuple[bytes, int]:
        part = part_path(self._blob_dir, self._number, token)
        try:
            with open(part, "wb", buffering=0) as file:
                for piece in large.parts:
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[file.write(rest) :]
        except OSError:
            if os.path.exists(part):
                os.unlink(part)
            raise
        return large.sha, large.size


class Traces:
    """What an attempt uses and leaves behind, at the price of some additions where it was short."""

    def __init__(self, start: Start) -> None:
        self._max_jobs = start.max_jobs
        self._max_age_s = start.max_age_s
        self._max_left = start.max_left_bytes
        self._born = time.monotonic()
        self._jobs_left = start.max_jobs
        """Below 0 where it does not count."""
        self._unseen_us = 0
        """What short attempts have taken since traces were looked for."""
        self._temp_dir = os.path.join(start.temp_dir, str(start.number or os.getpid())) if start.temp_dir else ""
        self._temp_fd = -1
        self._temp_stamp = 0
        self._home = ""
        self._cpu_s = 0.0
        self._children_cpu_s = 0.0
        self._peak_kib = 0
        """Peak that the kernel knows of, from before the attempt."""
        self._first_kib = 0
        """Memory at the start."""
        self._files: tuple[int, int] | None = None
        self.spoilt = ""
        """Why the worker is of no use to another job."""
        self._standard_files: list[tuple[int, int]] = []
        self._clear_refs = self._statm = -1

    def begin(self) -> None:
        self._home = os.getcwd()
        self._standard_files = _standard_files()
        if self._temp_dir:
            os.makedirs(self._temp_dir, 0o700, exist_ok=True)
            os.environ["TMPDIR"] = self._temp_dir
            if "tempfile" in sys.modules:
                sys.modules["tempfile"].__dict__["tempdir"] = None
            self._temp_fd = os.open(self._temp_dir, os.O_RDONLY | os.O_DIRECTORY)
            self._temp_stamp = os.fstat(self._temp_fd).st_mtime_ns
        with contextlib.suppress(OSError):
            self._clear_refs = os.open("/proc/self/clear_refs", os.O_WRONLY)
            self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu_s = used.ru_utime + used.ru_stime
        self._first_kib = self._now_kib() or used.ru_maxrss
        self._forget_peak(used.ru_maxrss)

    def limit_files(self, most: int) -> None:
        """For the next attempt; raised again after it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._files = soft, hard
        self._unseen_us = _UNSEEN_US
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, hard), hard))

    def cleared(self, run_us: int) -> tuple[int, int, str] | None:
        """After an attempt: cpu time (us) and peak memory (KiB) of it, and why the worker is to be replaced; ``None``
        if it was too short to be measured and nothing is to be said."""
        self._jobs_left -= 1
        short = run_us < _SHORT_US and self._unseen_us < _UNSEEN_US
        if short and self._jobs_left and not _touched and not self.spoilt:
            self._unseen_us += run_us + _EACH_US
            return None
        return self._looked(run_us)

    def _looked(self, run_us: int) -> tuple[int, int, str]:
        global _touched
        _touched = False
        if _sigmask(0, ()):
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            if os.getcwd() != self._home:
                os.chdir(self._home)
        except OSError:
            os.chdir(self._home)
        leaving = self.spoilt
        if not leaving and _standard_files() != self._standard_files:
            leaving = "its job closed or replaced a standard file"
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            pass
        else:
            leaving = "its job left processes behind"
            _let_trackers_go()
            trees.clear(_CLEARED_WITHIN_S)
        if self._temp_fd >= 0 and os.fstat(self._temp_fd).st_mtime_ns != self._temp_stamp:
            self._empty_temp_dir()
        if self._files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._files)
            self._files = None
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime
        cpu_s, self._cpu_s = max(0.0, spent - self._cpu_s - self._unseen_us * 1e-6), spent
        self._unseen_us = 0
        peak_kib = used.ru_maxrss
        of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = of_children.ru_utime + of_children.ru_stime
        cpu_s += spent - self._children_cpu_s
        self._children_cpu_s = spent
        if peak_kib > self._peak_kib:
            left_kib = self._now_kib()
            self._forget_peak(left_kib)
            if self._max_left and (left_kib - self._first_kib) * 1024 > self._max_left:
                leaving = leaving or f"{(left_kib - self._first_kib) >> 10} MiB of memory stayed with it"
        return int(cpu_s * 1e6), peak_kib, leaving or self._worn()

    def _worn(self) -> str:
        if not self._jobs_left:
            return f"it has run {self._max_jobs} jobs"
        if self._max_age_s and time.monotonic() - self._born > self._max_age_s:
            return f"it is older than {self._max_age_s:g} s"
        return ""

    def _now_kib(self) -> int:
        if self._statm < 0:
            return 0
        return int(os.pread(self._statm, 128, 0).split()[1]) * (mmap.PAGESIZE >> 10)

    def _forget_peak(self, otherwise_kib: int) -> None:
        """Have the kernel count the peak from the present use on. A little more is not worth to ask again for."""
        try:
            os.pwrite(self._clear_refs, b"5", 0)
            self._peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 1024
        except OSError:
            self._peak_kib = otherwise_kib

    def _empty_temp_dir(self) -> None:
        for entry in os.scandir(self._temp_fd):
            path = os.path.join(self._temp_dir, entry.name)
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._temp_stamp = os.fstat(self._temp_fd).st_mtime_ns


_note = PAGE.pack_into


def _standard_files() -> list[tuple[int, int]]:
    """What is behind the descriptors 1 and 2."""
    found = []
    for fd in (1, 2):
        try:
            seen = os.fstat(fd)
            found.append((seen.st_dev, seen.st_ino))
        except OSError:
            found.append((0, 0))
    return found


_sigmask: Callable[..., Any] = getattr(signal, "_signal", signal).pthread_sigmask
"""Without the names that ``signal`` gives to the numbers."""

_touched = False
"""Whether a job has called what changes the whole process: then it is put back, however short the job was."""


def _telling(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def tells(*args: Any, **kwargs: Any) -> Any:
        global _touched
        _touched = True
        return function(*args, **kwargs)

    return tells


def _have_changes_told() -> None:
    """To ask the kernel after each job whether it is where it was would cost a tenth of a short job."""
    for name in ("chdir", "fchdir"):
        function = getattr(os, name)
        telling = os.__dict__[name] = sys.modules["posix"].__dict__[name] = _telling(function)
        if function in os.supports_fd:
            os.supports_fd.add(telling)
    sys.modules["_signal"].__dict__["pthread_sigmask"] = _telling(_sigmask)


def _let_trackers_go() -> None:
    """The resource tracker of ``multiprocessing`` unlinks what was forgotten when nobody holds its pipe any more."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    fd = getattr(tracker, "_fd", None)
    if tracker is not None and isinstance(fd, int):
        with contextlib.suppress(OSError):
            os.close(fd)
        tracker._fd = None


def _is_interruption(exc: BaseException) -> bool:
    """Whether it is what we have raised, or what becomes of it in asyncio."""
    if isinstance(exc, BaseExceptionGroup):
        return any(_is_interruption(inner) for inner in exc.exceptions)
    return isinstance(exc, errors.Interrupted) or type(exc).__name__ == "CancelledError"


def _leave(exc: BaseException | None) -> NoReturn:
    """End of a child that user code forked and that came back: the loop is its parent's, not its own."""
    code = 0
    try:
        if isinstance(exc, SystemExit):
            code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        elif exc is not None:
            sys.excepthook(type(exc), exc, exc.__traceback__)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


class _NotOurs(importlib.machinery.FileFinder):
    """Finds modules in one directory as usual, but for our ``node`` and ``scheduler``: those of the user it does."""

    def find_spec(self, fullname: str, target: types.ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        spec = super().find_spec(fullname, target)
        if fullname not in ("node", "scheduler") or spec is None or not self._is_ours(spec):
            return spec
        for kind, suffixes in _LOADERS:  # the package stands before a file of the same name
            for suffix in suffixes:
                file = os.path.join(self.path, fullname + suffix)
                if os.path.isfile(file):
                    return importlib.util.spec_from_file_location(fullname, file, loader=kind(fullname, file))
        return None

    def _is_ours(self, spec: importlib.machinery.ModuleSpec) -> bool:
        """A package beside which the other two lie is of a Ganger, be it this one or another copy."""
        return spec.submodule_search_locations is not None and all(
            os.path.isfile(os.path.join(self.path, *file)) for file in _OUR_FILES
        )


_OUR_FILES = (("cluster", "payload.py"), ("scheduler", "coordinator.py"), ("node", "worker.py"))
_LOADERS: tuple[tuple[Any, list[str]], ...] = (
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
    (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
)


def clear_the_stage(name: str) -> None:
    """Leave the user a ``__main__``, an ``argv`` and names that are not ours. ``name``: what we are called then."""
    ours = sys.modules["__main__"]
    ours.__name__ = name
    sys.modules[name] = ours
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = [""]
    sys.path_hooks.insert(-1, _NotOurs.path_hook(*_LOADERS))  # before Python's own for directories
    sys.path_importer_cache.clear()
    _have_changes_told()


class CannotStart(Exception):
    """The text says why, for people."""


def preload(modules: Sequence[str]) -> None:
    """Import these. BLAS and OpenMP start no threads meanwhile, unless the node's environment says how many."""
    ours = [name for name in THREAD_COUNTS if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    try:
        for name in modules:
            try:
                importlib.import_module(name)
            except BaseException as e:
                raise CannotStart(f"preloading {name!r}: {type(e).__name__}: {e}") from e
    finally:
        for name in ours:
            os.environ.pop(name, None)


THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def _initialise(name: str) -> None:
    module, _, function = name.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for part in function.split("."):
            target = getattr(target, part)
        target()
    except BaseException as e:
        raise CannotStart(f"init {name!r}: {type(e).__name__}: {e}") from e


def begin(start: Start, began_at: float) -> None:
    """Be a worker from here to the end of the process, which is a new one, alone in its session."""
    os.set_inheritable(start.socket_fd, False)  # programs that user code runs have no part in it
    os.set_inheritable(start.page_fd, False)
    os.set_inheritable(start.stack_fd, False)
    trees.become_subreaper()
    trees.no_new_privileges()
    page = mmap.mmap(start.page_fd, mmap.PAGESIZE)
    worker = Worker(socket.socket(fileno=start.socket_fd), page, start)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a job printed is not lost with its worker
    signal.signal(signal.SIGINT, worker.ctrl_c)
    signal.signal(SIGNAL_INTERRUPT, worker.interrupt)
    faulthandler.register(SIGNAL_DUMP, start.stack_fd, all_threads=False)
    STAGE.check = worker._check
    try:
        if start.preload:
            preload(start.preload)
        if start.init:
            _initialise(start.init)
    except CannotStart as e:
        os.write(2, str(e).encode(errors="replace"))
        os._exit(1)
    if complaints := os.pread(2, 1 << 16, 0):
        os.write(start.stderr_fd, complaints)
    os.dup2(start.stderr_fd, 2)
    os.close(start.stderr_fd)
    faulthandler.enable()
    worker.serve(began_at)
    os._exit(0)  # what the last job printed has been flushed


def main(argv: Sequence[str]) -> None:
    began_at = time.monotonic()
    start = Start.from_argv(argv)
    trees.tie_to(start.parent)
    clear_the_stage("__ganger_worker__")
    begin(start, began_at)


if __name__ == "__main__":
    main(sys.argv[1:])
