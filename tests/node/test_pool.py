"""The pool with real processes: what it promises about work, death and recall."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from cluster import payload
from cluster.config import INLINE_BYTES
from cluster.jobs import End, Failure, Spec
from node import worker as program
from node.events import (
    Done,
    Give,
    KillWorker,
    Recall,
    Recalled,
    Run,
    SpawnWorker,
    WorkerDone,
    WorkerGone,
    WorkerUp,
)
from node.pool import Event, WorkerPool

pytestmark = pytest.mark.system

PATIENCE_S = 30.0
T = TypeVar("T")

JOBS = '''
import ctypes, os, signal, stat, subprocess, sys

def exit_hard(): os._exit(3)
def segfault(): ctypes.string_at(0)
def abort(): os.abort()
def kill_self(): os.kill(os.getpid(), signal.SIGKILL)
def sys_exit(): sys.exit(7)
def ctrl_c(): os.kill(os.getpid(), signal.SIGINT); signal.pause()
def double(x): return 2 * x
async def double_async(x): return 2 * x
def fail(x): raise ValueError(x)
def pid(): return os.getpid()

def block(started, release):
    """Says that it has begun, and waits until it is told to go on."""
    with open(started, "w"): pass
    with open(release) as f: return f.read()

def fork_and_return():
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "the child's result, which nobody asked for"

def fork_and_raise():
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(5)

def leave_a_child_behind():
    return subprocess.Popen(["sleep", "600"]).pid

class DiesInPickle:
    def __reduce__(self): os._exit(4)

def die_in_pickle(): return DiesInPickle()

def pipe_fd():
    return next(fd for fd in range(3, 64) if is_socket(fd))

def is_socket(fd):
    try: return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError: return False

def scribble(data): os.write(pipe_fd(), data)
def scribble_and_hang(data): scribble(data); signal.pause()
def scribble_and_die(data): scribble(data); os._exit(3)
def steal_and_die(): os.read(pipe_fd(), 1 << 20); os._exit(1)

def scale(array, by):
    array *= by                     # in place: it is writable
    return array
'''


class Host:
    """Drives a pool the way the agent's host does."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.blobs = root / "blobs"
        self.blobs.mkdir()
        (root / "jobs.py").write_text(JOBS)
        options.setdefault("env", {"PYTHONPATH": str(root)})
        self.pool = WorkerPool(str(self.blobs), "n1", **options)
        self.root = root
        self.events: list[Event] = []
        self._token = 0

    def spawn(self, slot: int = 0) -> int:
        self.pool.perform(SpawnWorker(slot))
        return self.wait(lambda: next((e.pid for e in self.of(WorkerUp) if e.slot == slot), 0))

    def run(self, name: str, *args: Any, **kwargs: Any) -> Run:
        """An attempt at ``jobs.name``; large arguments are put where the agent puts blobs."""
        self._token += 1
        module, _, qualname = name.rpartition(":")
        code = f"c{module or 'jobs'}\n{qualname}\n.".encode()
        packed = payload.pack_call(args, kwargs)
        large = None
        if isinstance(packed, payload.LargePayload):
            self.blobs.joinpath(packed.sha.hex()).write_bytes(b"".join(packed.parts))
            large, packed = (packed.sha, packed.size), b""
        return Run(self._token, b"j" * 16, 1, Spec(name, False, code), packed, large)

    def give(self, *runs: Run, slot: int = 0) -> list[int]:
        self.pool.perform(Give(slot, list(runs)))
        return [run.token for run in runs]

    def wait(self, ready: Callable[[], T]) -> T:
        end = time.monotonic() + PATIENCE_S
        while not (found := ready()):
            assert time.monotonic() < end, f"waited in vain; so far: {self.events}"
            if select.select([self.pool], [], [], 1.0)[0]:
                self.events += self.pool.drain(1000)[0]
        return found

    def of(self, kind: type[T]) -> list[T]:
        return [e for e in self.events if isinstance(e, kind)]

    def rows(self) -> list[Done]:
        return [row for e in self.of(WorkerDone) for row in e.rows]

    def results(self, n: int) -> list[Any]:
        """The first ``n`` results or failures, in the order they came."""
        self.wait(lambda: len(self.rows()) >= n)
        return [self.value(row) for row in self.rows()[:n]]

    def value(self, row: Done) -> Any:
        raw = self.blobs.joinpath(row.large[0].hex()).read_bytes() if row.large else row.payload
        return payload.unpack_result(raw) if row.end == End.SUCCEEDED else Failure.decode(raw)

    def gone(self) -> WorkerGone:
        self.wait(lambda: self.of(WorkerGone))
        (event,) = self.of(WorkerGone)
        return event

    def block(self, slot: int = 0) -> tuple[int, Callable[[], None]]:
        """Keep a worker busy: the token of its attempt, and how to let it go on."""
        started, release = self.root / f"started{slot}", self.root / f"release{slot}"
        os.mkfifo(started)
        os.mkfifo(release)
        run = self.run("block", str(started), str(release))
        self.give(run, slot=slot)
        started.open().close()
        return run.token, lambda: release.open("w").close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    h = Host(tmp_path)
    yield h
    h.pool.close()


def wait_for_end(pid: int) -> None:
    """Until the process is gone; it may be nobody's child of ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], PATIENCE_S)[0], f"process {pid} is still there"
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------ work


def test_results_come_in_order_with_their_service_time(host: Host) -> None:
    pid = host.spawn()
    tokens = host.give(*(host.run("double", i) for i in range(50)))
    assert host.results(50) == [2 * i for i in range(50)]
    assert [row.token for row in host.rows()] == tokens
    assert all(0 <= row.run_us < 30e6 for row in host.rows())
    assert {e.pid for e in host.of(WorkerDone)} == {pid} and not host.of(WorkerGone)


def test_work_given_before_the_worker_is_ready_is_run(host: Host) -> None:
    host.pool.perform(SpawnWorker(0))
    host.give(host.run("double", 1))
    assert host.results(1) == [2]
    assert isinstance(host.events[0], WorkerUp)


def test_two_workers_are_two_processes(host: Host) -> None:
    pids = [host.spawn(0), host.spawn(1)]
    host.give(host.run("pid"), slot=1)
    host.give(host.run("pid"), slot=0)
    assert sorted(host.results(2)) == sorted(pids)


def test_coroutine_functions_are_run_to_their_end(host: Host) -> None:
    host.spawn()
    host.give(host.run("double_async", 21))
    assert host.results(1) == [42]


def test_an_error_fails_its_job_alone(host: Host) -> None:
    host.spawn()
    host.give(host.run("fail", 1), host.run("double", 1))
    failure, result = host.results(2)
    assert (failure.kind, failure.text, result) == ("ValueError", "1", 2)
    assert "worker.py" not in failure.traceback and "in fail" in failure.traceback


@pytest.mark.parametrize(("job", "text"), [("sys_exit", "SystemExit: 7"), ("ctrl_c", "KeyboardInterrupt")])
def test_a_job_that_exits_is_a_failure_and_the_worker_goes_on(host: Host, job: str, text: str) -> None:
    host.spawn()
    host.give(host.run(job), host.run("double", 1))
    failure, result = host.results(2)
    assert (failure.kind, failure.text, result) == ("JobExited", f"the job raised {text}", 2)


def test_large_arguments_and_results_go_through_files(host: Host) -> None:
    host.spawn()
    array = np.arange(200_000.0)
    run = host.run("scale", array, by=3)
    assert run.large and not run.payload
    host.give(run)
    (result,) = host.results(1)
    assert np.array_equal(result, array * 3)
    (row,) = host.rows()
    assert row.large and not row.payload
    stored = host.blobs.joinpath(row.large[0].hex()).read_bytes()
    assert (hashlib.sha256(stored).digest(), len(stored)) == row.large
    assert sorted(p.name for p in host.blobs.iterdir()) == sorted([run.large[0].hex(), row.large[0].hex()])


def test_a_large_result_survives_the_drop_of_a_blob_of_the_same_bytes_before_it_is_read(host: Host) -> None:
    pid = host.spawn()
    host.give(host.run("double", b"x" * 200_000))
    host.wait(lambda: len(host.rows()) == 1)
    (large,) = (row.large for row in host.rows())
    assert large
    blob = host.blobs / large[0].hex()
    (token,) = host.give(host.run("double", b"x" * 200_000))
    part = Path(program.part_path(str(host.blobs), pid, token))
    end = time.monotonic() + PATIENCE_S
    while not part.exists() or part.stat().st_size < large[1]:
        assert time.monotonic() < end, "the worker writes nothing"
    blob.unlink()
    host.wait(lambda: len(host.rows()) == 2)
    assert host.rows()[1].large == large
    assert blob.stat().st_size == large[1]
    assert not part.exists()


def test_a_result_whose_file_is_gone_fails_its_job_alone(host: Host) -> None:
    pid = host.spawn()
    (token, _) = host.give(host.run("double", b"x" * 200_000), host.run("pid"))
    part = Path(program.part_path(str(host.blobs), pid, token))
    end = time.monotonic() + PATIENCE_S
    while not part.exists():
        assert time.monotonic() < end, "the worker writes nothing"
    part.unlink()
    lost, mine = host.results(2)
    assert "the result's file is gone" in lost.text
    assert mine == pid


def test_a_result_above_the_limit_is_too_large(tmp_path: Path) -> None:
    host = Host(tmp_path, max_blob_bytes=100_000)
    with contextlib.closing(host.pool):
        host.spawn()
        host.give(host.run("builtins:bytes", 200_000), host.run("double", 1))
        failure, result = host.results(2)
    assert failure.kind == "TooLarge" and "100000" in failure.text and result == 2


def test_a_function_by_value_is_read_from_its_file(host: Host) -> None:
    host.spawn()
    packed = payload.pack_function(lambda x: x + 1)
    sha = hashlib.sha256(packed.code).digest()
    host.blobs.joinpath(sha.hex()).write_bytes(packed.code)
    assert packed.by_value
    run = host.run("double", 1)
    host.give(run._replace(spec=Spec(packed.name, True, sha, len(packed.code))))
    assert host.results(1) == [2]


def test_a_missing_file_fails_the_job_and_names_the_node(host: Host) -> None:
    host.spawn()
    host.give(host.run("double", 1)._replace(payload=b"", large=(b"x" * 32, 10)), host.run("double", 1))
    failure, result = host.results(2)
    assert failure.kind == "OSError" and "n1" in failure.text and result == 2


def test_the_largest_inline_packet_passes(host: Host) -> None:
    host.spawn()
    run = host.run("builtins:len", bytes(INLINE_BYTES - 100))
    host.give(run._replace(spec=Spec("x" * INLINE_BYTES, False, run.spec.code)))
    assert host.results(1) == [INLINE_BYTES - 100]


def test_a_packet_no_pipe_takes_fails_its_job(host: Host) -> None:
    host.spawn()
    host.give(host.run("double", 1)._replace(payload=bytes(1 << 20)), host.run("double", 1))
    failure, result = host.results(2)
    assert failure.kind == "TooLarge" and result == 2


def test_drain_stops_at_its_limit_and_says_that_there_is_more(host: Host) -> None:
    host.spawn()
    host.give(*(host.run("double", i) for i in range(10)))
    barrier, release = host.block()
    events, emptied = host.pool.drain(4)
    assert [len(e.rows) for e in events if isinstance(e, WorkerDone)] == [4] and not emptied
    events, emptied = host.pool.drain(100)
    assert [len(e.rows) for e in events if isinstance(e, WorkerDone)] == [6] and emptied
    release()
    host.wait(lambda: barrier in [row.token for row in host.rows()])


def test_more_than_the_pipe_holds_waits_and_is_run_in_order(host: Host) -> None:
    host.spawn()
    blocker, release = host.block()
    tokens = host.give(*(host.run("builtins:len", bytes(INLINE_BYTES - 100)) for _ in range(60)))
    release()
    assert host.results(61)[1:] == [INLINE_BYTES - 100] * 60
    assert [row.token for row in host.rows()] == [blocker, *tokens]


# ------------------------------------------------------------------------------------ recall


@pytest.mark.parametrize("size", [0, INLINE_BYTES - 100])
def test_recall_gives_back_exactly_what_was_not_read(host: Host, size: int) -> None:
    host.spawn()
    blocker, release = host.block()
    tokens = host.give(*(host.run("builtins:len", bytes(size)) for _ in range(60)))
    host.pool.perform(Recall(0))
    host.wait(lambda: host.of(Recalled))
    assert host.of(Recalled) == [Recalled(0, tokens)]
    again = host.give(host.run("double", 4))
    release()
    assert host.results(2)[1] == 8
    assert [row.token for row in host.rows()] == [blocker, *again]


def test_recall_while_the_worker_reads_loses_and_doubles_nothing(host: Host) -> None:
    host.spawn()
    tokens = host.give(*(host.run("double", i) for i in range(300)))
    host.pool.perform(Recall(0))
    host.wait(lambda: host.of(Recalled))
    (recalled,) = host.of(Recalled)
    host.wait(lambda: len(host.rows()) + len(recalled.tokens) >= 300)
    assert sorted([*recalled.tokens, *(row.token for row in host.rows())]) == tokens


def test_work_for_an_empty_slot_comes_back(host: Host) -> None:
    tokens = host.give(host.run("double", 1), slot=5)
    host.pool.perform(Recall(5))
    host.pool.perform(KillWorker(5))
    host.wait(lambda: len(host.of(Recalled)) == 2)
    assert host.events == [Recalled(5, tokens), Recalled(5, [])]


# ------------------------------------------------------------------------------------ death


@pytest.mark.parametrize(
    ("job", "cause"),
    [
        ("exit_hard", "exit code 3"),
        ("segfault", "signal 11 (SIGSEGV)"),
        ("abort", "signal 6 (SIGABRT)"),
        ("kill_self", "signal 9 (SIGKILL)"),
        ("die_in_pickle", "exit code 4"),
    ],
)
def test_a_crash_has_one_suspect_and_harms_no_other_work(host: Host, job: str, cause: str) -> None:
    pid = host.spawn()
    before, culprit, *after = host.give(
        host.run("double", 1), host.run(job), host.run("double", 2), host.run("double", 3)
    )
    gone = host.gone()
    assert gone == WorkerGone(0, pid, cause, suspect=culprit, noted=True, unread=after)
    assert [row.token for row in host.rows()] == [before]
    assert host.events[-1] is gone
    host.events.clear()
    assert host.spawn() != pid
    host.give(host.run("double", 2))
    assert host.results(1) == [4]


def test_a_death_while_the_function_loads_is_not_noted_as_begun(host: Host) -> None:
    host.root.joinpath("deadly.py").write_text("import os; os._exit(9)")
    host.spawn()
    (token,) = host.give(host.run("deadly:f"))
    gone = host.gone()
    assert (gone.cause, gone.suspect, gone.noted) == ("exit code 9", token, False)


def test_an_idle_death_has_no_suspect(host: Host) -> None:
    pid = host.spawn()
    host.give(host.run("double", 1))
    host.results(1)
    os.kill(pid, signal.SIGTERM)
    assert host.gone() == WorkerGone(0, pid, "signal 15 (SIGTERM)", None, False, [])


def test_a_killed_worker_takes_along_what_its_jobs_left_running(host: Host) -> None:
    pid = host.spawn()
    host.give(host.run("leave_a_child_behind"))
    (child,) = host.results(1)
    blocker, _ = host.block()
    host.pool.perform(KillWorker(0))
    assert host.gone() == WorkerGone(0, pid, "killed by the agent", blocker, True, [])
    wait_for_end(child)


def test_a_crashed_worker_takes_along_what_its_jobs_left_running(host: Host) -> None:
    host.spawn()
    host.give(host.run("leave_a_child_behind"), host.run("exit_hard"))
    (child,) = host.results(1)
    host.gone()
    wait_for_end(child)


@pytest.mark.parametrize(("job", "status"), [("fork_and_return", 0), ("fork_and_raise", 5)])
def test_a_forked_child_that_comes_back_ends_instead_of_serving(host: Host, job: str, status: int) -> None:
    pid = host.spawn()
    tokens = host.give(host.run(job), host.run("pid"))
    assert host.results(2) == [status, pid]
    assert [row.token for row in host.rows()] == tokens


def test_a_half_written_result_is_removed_with_its_worker(host: Host) -> None:
    pid = host.spawn()
    part = Path(program.part_path(str(host.blobs), pid, 1))
    part.write_bytes(b"half")
    host.give(host.run("exit_hard"))
    host.gone()
    assert not part.exists()


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    host = Host(tmp_path, env={"PYTHONHOME": "/nonexistent"})
    with contextlib.closing(host.pool):
        host.pool.perform(SpawnWorker(0))
        tokens = host.give(host.run("double", 1))
        gone = host.gone()
    assert gone.cause.startswith("could not be started: exit code 1; ")
    assert "encodings" in gone.cause
    assert (gone.suspect, gone.unread) == (None, tokens)


def test_a_process_that_cannot_be_made_is_a_worker_gone(tmp_path: Path) -> None:
    host = Host(tmp_path, cwd=str(tmp_path / "missing"))
    with contextlib.closing(host.pool):
        host.pool.perform(SpawnWorker(0))
        gone = host.gone()
    assert gone.pid == 0 and "missing" in gone.cause


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"junk",
        bytes(1_000),
        b"\xc1",
        b"\x95\x00\x00\xc4\x00\xc0\x00",  # "ready", a second time
        b"\x95\x63\x00\xc4\x00\xc0\x00",  # a result of attempt 99
        b"\x95\x02\x00\xc4\x00\xc0\x00",  # a result of an attempt it has not read
        b"\x95\x01\x09\xc4\x00\xc0\x00",  # an unknown outcome
        b"\x94\x01\x00\xc4\x00\xc0",
    ],
)
def test_a_worker_that_sends_junk_is_killed_with_its_attempt(host: Host, junk: bytes) -> None:
    pid = host.spawn()
    culprit, neighbour = host.give(host.run("scribble_and_hang", junk), host.run("double", 1))
    gone = host.gone()
    assert gone.cause.startswith("killed by the agent: it sent a ")
    assert (gone.pid, gone.suspect, gone.noted, gone.unread) == (pid, culprit, True, [neighbour])
    assert not host.rows()


def test_junk_before_a_death_is_told_with_its_cause(host: Host) -> None:
    host.spawn()
    (culprit,) = host.give(host.run("scribble_and_die", b"junk"))
    gone = host.gone()
    assert gone.suspect == culprit
    assert gone.cause in (
        "exit code 3 after it sent a packet of 4 bytes that is no result",
        "killed by the agent: it sent a packet of 4 bytes that is no result",
    )


def test_attempts_run_behind_junk_are_each_told_once(host: Host) -> None:
    host.spawn()
    tokens = host.give(*(host.run("scribble", b"junk") for _ in range(200)))
    gone = host.gone()
    suspects = [] if gone.suspect is None else [gone.suspect]
    assert sorted([*(row.token for row in host.rows()), *suspects, *gone.unread]) == tokens


def test_work_that_user_code_took_from_the_pipe_is_not_lost_with_the_worker(host: Host) -> None:
    host.spawn()
    culprit, stolen, unread = host.give(host.run("steal_and_die"), host.run("double", 1), host.run("double", 1))
    gone = host.gone()
    assert (gone.suspect, gone.unread) == (culprit, [stolen, unread])


def test_programs_started_by_a_job_do_not_get_the_pipe(host: Host) -> None:
    host.spawn()
    host.give(host.run("subprocess:getoutput", "ls -l /proc/self/fd"))
    (listing,) = host.results(1)
    assert "socket:" not in listing and "memfd:" not in listing


def test_closing_kills_every_worker(host: Host) -> None:
    pids = [host.spawn(0), host.spawn(1)]
    host.block()
    host.pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    host.pool.close()  # a second time does no harm


AGENT = r"""
import os, select, signal, sys
sys.path[:0] = {path!r}
from cluster import payload
from cluster.jobs import Spec
from node.events import *
from node.pool import WorkerPool
pool = WorkerPool({blobs!r}, "n1")
pool.perform(SpawnWorker(0))
pool.perform(Give(0, [Run(1, b"j" * 16, 1, Spec("time:sleep", False, b"ctime\nsleep\n."),
                          payload.pack_call((600,), {{}}), None)]))
events = []
while not events:
    select.select([pool], [], [])
    events = pool.drain(10)[0]
print(events[0].pid, flush=True)
signal.pause()
"""


def test_a_busy_worker_dies_with_its_agent(tmp_path: Path) -> None:
    script = AGENT.format(path=[p for p in sys.path if p], blobs=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        agent.kill()
        wait_for_end(pid)


def test_the_pipe_needs_no_more_than_the_usual_socket_buffers() -> None:
    """Where the kernel's limit is the usual 208 KiB, the largest packet must still fit."""
    from node.worker import MAX_PACKET

    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, b:
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)
        assert a.send(bytes(MAX_PACKET)) == MAX_PACKET
