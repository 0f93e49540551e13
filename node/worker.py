"""Runs user code, one attempt after another. Rules of this file: a program of its own, started by path.

The pool of the agent starts it with one end of a socket pair that keeps packets apart. Each packet is one
attempt; its result is written before the next is read, so a death has one suspect and loses no finished
work. A shared page tells which attempt is in which phase, to whoever looks after a death.

In here ``__main__`` is an empty module for the user, and our ``node`` and ``scheduler`` cannot be found: a
user's own ``node.py`` is theirs. So nothing is imported but the standard library, msgpack and ``cluster``.

In comes (token, job, attempt, by value, code, name, payload, SHA-256 of the payload's blob or empty, monotonic moment
after which it must not start or 0); out goes (token, end, payload, (SHA-256, size) of the result's blob or None,
run_us). Token 0 says "ready".
"""

from __future__ import annotations

import builtins
import ctypes
import faulthandler
import importlib.machinery
import importlib.util
import io
import mmap
import os
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

from cluster import errors, payload  # noqa: E402
from cluster.jobs import End, Failure  # noqa: E402

if __name__ == "__main__":
    sys.path.remove(_ROOT)

MAX_PACKET = 384 * 1024
"""No packet reaches this: two inline payloads, and names. It passes with the usual limit on socket buffers."""

PAGE = struct.Struct("<QQd")
"""The shared page: token, phase, and the monotonic moment (s) at which the phase began."""
IDLE, LOADING, USER_CODE, ANSWERING = range(4)
"""From ``USER_CODE`` on, the user's function has begun."""

_CACHED_FUNCTIONS = 256
_PR_SET_PDEATHSIG = 1

Answer = tuple[int, bytes, tuple[bytes, int] | None]
_WISHES = ((errors.Retry, End.RETRY), (errors.Snooze, End.SNOOZE), (errors.GiveUp, End.GIVE_UP))
"""What a job raises about itself."""
_UNSTARTED: Answer = (End.UNSTARTED, b"", None)


class Start(NamedTuple):
    """What the pool tells a worker on its command line, in this order."""

    socket_fd: int
    page_fd: int
    stderr_fd: int
    """Takes the place of the standard error that collected complaints about the start."""
    parent: int
    max_blob_bytes: int
    blob_dir: str
    node: str

    def argv(self) -> list[str]:
        return [str(field) for field in self]

    @staticmethod
    def from_argv(argv: Sequence[str]) -> Start:
        a, b, c, d, e, blob_dir, node = argv
        return Start(int(a), int(b), int(c), int(d), int(e), blob_dir, node)


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


class Worker:
    def __init__(self, pipe: socket.socket, page: mmap.mmap, start: Start) -> None:
        self._pipe = pipe
        self._page = page
        self._node = start.node
        self._blob_dir = start.blob_dir
        self._max_blob_bytes = start.max_blob_bytes
        self._pid = os.getpid()
        self._functions: OrderedDict[tuple[bool, bytes], _Loaded] = OrderedDict()
        self._in_user_code = False
        self._hidden = {Worker._run.__code__.co_filename, payload.__file__}
        """Files whose frames the user need not see at the top of a traceback."""

    def serve(self) -> None:
        """Until the agent is gone."""
        pipe, pack, unpackb, clock = self._pipe, msgpack.Packer().pack, msgpack.unpackb, time.perf_counter_ns
        buffer = bytearray(MAX_PACKET)  # receiving into new bytes would cost five times the rest
        view = memoryview(buffer)
        pipe.send(pack((0, 0, b"", None, 0)))
        while size := pipe.recv_into(buffer):
            began = clock()
            token, _job, _attempt, by_value, code, _name, arguments, sha, start_by = unpackb(view[:size])
            end, result, large = self._run(token, by_value, code, arguments, sha, start_by)
            pipe.send(pack((token, end, result, large, (clock() - began) // 1000)))
            self._note(token, IDLE)

    def interrupted(self, signum: int, frame: types.FrameType | None) -> None:
        """SIGINT is for user code alone; it must not end the loop."""
        if self._in_user_code:
            raise KeyboardInterrupt

    def _note(self, token: int, phase: int) -> None:
        PAGE.pack_into(self._page, 0, token, phase, time.monotonic())

    def _run(self, token: int, by_value: bool, code: bytes, arguments: bytes, sha: bytes, start_by: float) -> Answer:
        self._note(token, LOADING)
        try:
            fn = self._function(by_value, code)
            args, kwargs = payload.unpack_call(self._mapped(sha) if sha else arguments, self._node)
        except BaseException as e:  # what is being loaded is user code too
            return self._failed(e, ours=True)
        try:
            self._note(token, USER_CODE)
            if start_by and time.monotonic() > start_by:
                return _UNSTARTED
            self._in_user_code = True
            value = fn(*args, **kwargs)
            if type(value) is types.CoroutineType:
                value = self._finish(value)
            self._in_user_code = False
        except BaseException as e:
            self._in_user_code = False
            self._note(token, ANSWERING)
            if isinstance(e, ModuleNotFoundError) and e.name:
                e.add_note(payload.missing_module(e, self._node, in_job=True))
            return self._failed(e, ours=False)
        self._note(token, ANSWERING)
        if os.getpid() != self._pid:
            _leave(None)
        _flush()
        try:
            packed = payload.pack_result(value, max_bytes=self._max_blob_bytes)
            if isinstance(packed, bytes):
                return End.SUCCEEDED, packed, None
            return End.SUCCEEDED, b"", self._written(token, packed)
        except BaseException as e:
            return self._failed(e, ours=True)

    def _failed(self, exc: BaseException, ours: bool) -> Answer:
        """``ours``: raised around the user's function, not by it."""
        if os.getpid() != self._pid:
            _leave(exc)
        _flush()
        if ours and isinstance(exc, errors.JobError):
            return End.RAISED, payload.pack_error(exc).encode(), None
        if ours and isinstance(exc, OSError):  # a blob's file; not to be taken for an error of the job
            failure = Failure("OSError", f"on node {self._node}: {exc}", "", ("OSError", "Exception"))
            return End.SPOILT, failure.encode(), None
        failure = payload.pack_failure(exc, self._hidden)
        for kind, end in _WISHES:
            if not ours and isinstance(exc, kind):
                return end, replace(failure, delay_s=getattr(exc, "delay_s", None)).encode(), None
        return End.RAISED, failure.encode(), None

    def _function(self, by_value: bool, code: bytes) -> Callable[..., Any]:
        key = by_value, code
        kept = self._functions.get(key)
        if kept is not None and kept.states_set in (None, payload.class_states_set()):
            self._functions.move_to_end(key)
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
        return asyncio.run(coroutine)

    def _blob_path(self, sha: bytes) -> str:
        return os.path.join(self._blob_dir, sha.hex())

    def _mapped(self, sha: bytes) -> mmap.mmap:
        """A private view: arrays in it can be written to, and only pages that are written to are copied."""
        with open(self._blob_path(sha), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _written(self, token: int, large: payload.LargePayload) -> tuple[bytes, int]:
        part = part_path(self._blob_dir, self._pid, token)
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


def _flush() -> None:
    try:
        sys.stdout.flush()
    except Exception:  # user code may have closed it, or put anything in its place
        pass


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


def _clear_the_stage() -> None:
    """Leave the user a ``__main__``, an ``argv`` and names that are not ours."""
    ours = sys.modules["__main__"]
    ours.__name__ = "__ganger_worker__"
    sys.modules["__ganger_worker__"] = ours
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = [""]
    sys.path_hooks.insert(-1, _NotOurs.path_hook(*_LOADERS))  # before Python's own for directories
    sys.path_importer_cache.clear()


def _tie_to(parent: int) -> None:
    """Die with the process that started this one; if it is dead already, at once."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main(argv: Sequence[str]) -> None:
    start = Start.from_argv(argv)
    _tie_to(start.parent)
    os.set_inheritable(start.socket_fd, False)  # programs that user code runs have no part in it
    os.set_inheritable(start.page_fd, False)
    page = mmap.mmap(start.page_fd, mmap.PAGESIZE)
    pipe = socket.socket(fileno=start.socket_fd)
    worker = Worker(pipe, page, start)
    _clear_the_stage()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a job printed is not lost with its worker
    signal.signal(signal.SIGINT, worker.interrupted)
    if complaints := os.pread(2, 1 << 16, 0):
        os.write(start.stderr_fd, complaints)
    os.dup2(start.stderr_fd, 2)
    os.close(start.stderr_fd)
    faulthandler.enable()
    worker.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
