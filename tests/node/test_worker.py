"""The worker program, spoken to over its pipe: what user code finds there, and what it cannot do to the loop."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from cluster import payload
from cluster.jobs import Failure
from node import worker as program

pytestmark = pytest.mark.system

PATIENCE_S = 30.0

JOBS = """
import asyncio, os, sys, threading, time

def stage():
    import __main__
    return sys.argv, sorted(vars(__main__)), __main__.__name__, sys.path, os.getsid(0) == os.getpid()

def users_node():
    import node
    return node.WHOSE

def ours():
    import node

def keep_in_main(value):
    import __main__
    __main__.kept = value

def main_names():
    import __main__
    return __main__.kept

def print_half_a_line():
    print("half a line", end="")

def close_stdout():
    sys.stdout.close()

class Loud(Exception):
    def __str__(self): raise SystemExit(1)

def raise_loud(): raise Loud

class Stubborn:
    def __reduce__(self): raise KeyboardInterrupt

def return_stubborn(): return Stubborn()
def return_lock(): return threading.Lock()
async def interrupted_coroutine(): raise KeyboardInterrupt
async def fails_deep():
    await asyncio.sleep(0)
    raise LookupError("deep")
def recurse(n=0): return recurse(n + 1)
def block(started, release):
    with open(started, "w"): pass
    with open(release) as f: return f.read()
def calls(counter=[]): counter.append(1); return len(counter)
"""


class Wire:
    def __init__(self, root: Path) -> None:
        (root / "jobs.py").write_text(JOBS)
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(PATIENCE_S)
        page_fd = os.memfd_create("page")
        os.ftruncate(page_fd, mmap.PAGESIZE)
        self.page = mmap.mmap(page_fd, mmap.PAGESIZE)
        self.log = (root / "log").open("w+b")
        with (root / "start").open("w+b") as complaints:
            start = program.Start(theirs.fileno(), page_fd, self.log.fileno(), os.getpid(), 1 << 20, str(root), "n1")
            self.process = subprocess.Popen(
                [sys.executable, "-P", program.__file__, *start.argv()],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=complaints,
                pass_fds=(start.socket_fd, start.page_fd, start.stderr_fd),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
        theirs.close()
        os.close(page_fd)
        assert self.receive()[0] == 0

    def receive(self) -> tuple[Any, ...]:
        fields: tuple[Any, ...] = msgpack.unpackb(self.ours.recv(1 << 20), use_list=False)
        return fields

    def send(self, name: str, *args: Any, token: int = 1, code: bytes = b"") -> None:
        code = code or f"cjobs\n{name}\n.".encode()
        packed = payload.pack_call(args, {})
        self.ours.send(msgpack.packb((token, b"j" * 16, 1, False, code, name, packed, b"")))

    def call(self, name: str, *args: Any, code: bytes = b"") -> Any:
        self.send(name, *args, code=code)
        token, outcome, result, large, _ = self.receive()
        assert token == 1 and large is None
        return Failure.decode(result) if outcome else payload.unpack_result(result)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self.ours.close()
        self.page.close()
        self.log.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    w = Wire(tmp_path)
    yield w
    w.close()


def test_the_stage_is_empty_and_a_session_of_its_own(wire: Wire) -> None:
    argv, names, name, path, leads_session = wire.call("stage")
    assert (argv, name, leads_session) == ([""], "__main__", True)
    assert "Worker" not in names and "main" not in names
    assert os.path.dirname(program.__file__) not in path


def test_main_is_the_users_and_lasts(wire: Wire) -> None:
    wire.call("keep_in_main", 5)
    assert wire.call("main_names") == 5


def test_a_users_node_module_is_theirs(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "node.py").write_text("WHOSE = 'the user'")
    assert wire.call("users_node") == "the user"


def test_our_node_package_cannot_be_imported_by_a_job(wire: Wire) -> None:
    failure = wire.call("ours")
    assert failure.kind == "ModuleNotFoundError" and "'node'" in failure.text


def test_a_module_the_node_does_not_have_is_named(wire: Wire) -> None:
    failure = wire.call("f", code=b"cnosuchmodule\nf\n.")
    assert failure.kind == "SerializationError"
    assert "the module 'nosuchmodule' cannot be imported on node n1" in failure.text


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        ("raise_loud", "jobs.Loud"),
        ("return_lock", "SerializationError"),
        ("return_stubborn", "JobExited"),
        ("interrupted_coroutine", "JobExited"),
        ("recurse", "RecursionError"),
        ("missing", "SerializationError"),
    ],
)
def test_whatever_a_job_does_short_of_dying_fails_it_alone(wire: Wire, job: str, kind: str) -> None:
    assert wire.call(job).kind == kind
    assert wire.call("calls") == 1


def test_arguments_that_do_not_load_fail_the_job_alone(wire: Wire) -> None:
    wire.ours.send(msgpack.packb((1, b"", 1, False, b"cjobs\ncalls\n.", "calls", b"junk", b"")))
    failure = Failure.decode(wire.receive()[2])
    assert failure.kind == "SerializationError" and "arguments" in failure.text
    assert wire.call("calls") == 1


def test_a_traceback_begins_with_the_users_code(wire: Wire) -> None:
    failure = wire.call("fails_deep")
    assert failure.kind == "LookupError"
    frames = [line for line in failure.traceback.splitlines() if line.startswith("  File")]
    assert len(frames) == 1 and "fails_deep" in frames[0]


def test_a_function_is_loaded_once(wire: Wire) -> None:
    assert [wire.call("calls") for _ in range(3)] == [1, 2, 3]


def test_an_interrupt_between_jobs_is_ignored(wire: Wire) -> None:
    for n in range(1, 20):
        os.kill(wire.process.pid, signal.SIGINT)
        assert wire.call("calls") == n


def test_the_page_tells_that_user_code_of_this_attempt_runs(wire: Wire, tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    os.mkfifo(started)
    os.mkfifo(release)
    wire.send("block", str(started), str(release), token=78)
    started.open().close()
    token, phase, began = program.PAGE.unpack_from(wire.page)
    assert (token, phase) == (78, program.USER_CODE) and 0 < began <= time.monotonic()
    release.open("w").close()
    assert wire.receive()[0] == 78


def test_output_is_flushed_before_the_result_is_sent(wire: Wire, tmp_path: Path) -> None:
    wire.call("print_half_a_line")
    assert (tmp_path / "log").read_text() == "half a line"


def test_a_closed_stdout_is_the_jobs_own_affair(wire: Wire) -> None:
    wire.call("close_stdout")
    assert wire.call("calls") == 1


def test_the_end_of_the_pipe_ends_the_worker(wire: Wire) -> None:
    wire.ours.close()
    assert wire.process.wait(PATIENCE_S) == 0


def test_a_worker_whose_parent_is_another_leaves_at_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-P", program.__file__, "0", "0", "2", str(os.getpid() + 1), "0", str(tmp_path), "n"]
    assert subprocess.run(argv, timeout=PATIENCE_S).returncode == 1


def test_a_crash_leaves_its_stack_in_the_log(wire: Wire, tmp_path: Path) -> None:
    wire.send("", 0, code=b"cctypes\nstring_at\n.")
    fd = os.pidfd_open(wire.process.pid)
    assert select.select([fd], [], [], PATIENCE_S)[0]
    os.close(fd)
    assert "Segmentation fault" in (tmp_path / "log").read_text()
