"""The pool with real processes: what it promises about work, death and recall."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import numpy as np
import pytest

from cluster import payload, trees
from cluster.config import INLINE_BYTES
from cluster.ids import format_job
from cluster.jobs import End, Failure, Rules, Spec
from node import worker as program
from node.events import (
    Done,
    Give,
    InterruptWorker,
    KillWorker,
    Look,
    Recall,
    Recalled,
    Run,
    Seen,
    SpawnWorker,
    StateSaved,
    WorkerDone,
    WorkerGone,
    WorkerUp,
)
from node.output import MOST_BYTES
from node.pool import Event, WorkerPool

pytestmark = pytest.mark.system

PATIENCE_S = 30.0
T = TypeVar("T")

JOBS = '''
import asyncio, ctypes, os, signal, stat, subprocess, sys, threading, time
from datetime import datetime, timezone
import cluster

def exit_hard(): os._exit(3)
def segfault(): ctypes.string_at(0)
def abort(): os.abort()
def kill_self(): os.kill(os.getpid(), signal.SIGKILL)
def kill_parent(): os.kill(os.getppid(), signal.SIGKILL); signal.pause()
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

def forks():
    """The child comes back too, and is waited for."""
    child = os.fork()
    if child: os.waitpid(child, 0)
def appends(path):
    with open(path, "a") as f: f.write("x")
class ForksInPickle:
    def __reduce__(self):
        forks()
        return int, ()
def appends_and_forks(path):
    appends(path)
    return ForksInPickle()

def leave_a_child_behind():
    return subprocess.Popen(["sleep", "600"]).pid

def daemon(tell):
    """A grandchild in a session of its own, which tells its number."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork() == 0:
        with open(tell, "w") as f: f.write(str(os.getpid()))
        while True: signal.pause()
    os._exit(0)

def leave_a_daemon(tell):
    os.mkfifo(tell)
    daemon(tell)
    return int(open(tell).read())

def daemon_and_kill(tell): daemon(tell); signal.pause()
def daemon_and_exit(tell):
    os.mkfifo(tell + "2")
    daemon(tell + "2")
    number = open(tell + "2").read()
    with open(tell, "w") as f: f.write(number)
    os._exit(3)

def forget_shared_memory():
    from multiprocessing.shared_memory import SharedMemory
    return SharedMemory(create=True, size=100).name

def square(x): return x * x
def pool_of_processes(n):
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.map(square, range(n))

def where():
    import tempfile
    return os.getcwd(), signal.pthread_sigmask(signal.SIG_BLOCK, ()), tempfile.gettempdir()

def make_a_mess(elsewhere):
    import tempfile
    os.chdir(elsewhere)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    path = tempfile.mkdtemp()
    open(path + "/file", "w").close()

def use(size, seconds):
    import time
    space = bytearray(size)
    end = time.process_time() + seconds
    while time.process_time() < end: pass

KEPT = []
def keep(size): KEPT.append(bytearray(size))

def use_elsewhere(seconds):
    work = f"import time; [None for _ in iter(lambda: time.process_time() < {seconds}, False)]"
    subprocess.run([sys.executable, "-S", "-c", work], check=True)

def getattr_of(module, name): return getattr(sys.modules[module], name)
def chance():
    import random, numpy
    return random.random(), numpy.random.random()

def say(started):
    with open(started, "w"): pass

def sleep(started): say(started); time.sleep(600)
def loop(started):
    say(started)
    while True: pass
def wait_for_a_child(started):
    child = subprocess.Popen(["sleep", "600"])
    with open(os.path.dirname(started) + "/child", "w") as f: f.write(str(child.pid))
    say(started)
    child.wait()
def hold_a_lock(started):
    lock = threading.Lock()
    lock.acquire()
    say(started)
    lock.acquire()
async def async_sleep(started): say(started); await asyncio.sleep(600)
async def async_loop(started):
    say(started)
    while True: pass
def swallow_once(started):
    try:
        say(started)
        time.sleep(600)
    except BaseException: pass
    time.sleep(600)
def in_finally(started):
    try:
        say(started)
        time.sleep(600)
    finally:
        time.sleep(0.3)         # is not interrupted a second time
        with open(started + "-finally", "w"): pass
def loop_in_c(started):
    say(started)
    sum(range(1 << 50))
def block_signals(started):
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    say(started)
    time.sleep(600)
def partial(started):
    try:
        say(started)
        time.sleep(600)
    except cluster.SoftTimeout: return "so far"
def shielded(started, done):
    with cluster.shield():
        say(started)
        time.sleep(0.5)
        with open(done, "w") as f: f.write("all of it")
    return "too much"
def import_and_sleep(started):
    say(started)
    import slow_module
    assert slow_module.DONE
    time.sleep(600)
def nap(seconds): time.sleep(seconds)

def saves():
    job = cluster.current_job()
    was = job.saved
    try: job.save(bytes(65536))
    except ValueError as e: text = str(e)[:24]
    job.save({"n": 2})
    return job.attempt, job.key, job.tags, was, text, job.saved
def keep_job():
    global kept_job
    kept_job = cluster.current_job()
def left():
    job = cluster.current_job()
    now = datetime.now(timezone.utc)
    return job.deadline and (job.deadline - now).total_seconds()
def whose():
    job = cluster.current_job()
    return job.parent, job.root
def save_kept(): kept_job.save(1)
def sees(): return os.environ["CUDA_VISIBLE_DEVICES"], cluster.current_job().gpus

def eat(mib, pause):
    parts = []
    for _ in range(mib // 10):
        parts.append(bytearray(10 << 20))
        time.sleep(pause)
    return mib
def eat_in_children(count, mib):
    work = f"import time; part = bytearray({mib} << 20); time.sleep(3)"
    children = [subprocess.Popen([sys.executable, "-S", "-c", work]) for _ in range(count)]
    if any([child.wait() for child in children]): raise RuntimeError("a child died")
def many_children(count):
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    time.sleep(600)
def open_many(count):
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    for fd in files: os.close(fd)
    return len(files)
def share_of_a_processor(seconds):
    began = time.monotonic()
    while time.process_time() < share_of_a_processor.spent + seconds: pass
    share_of_a_processor.spent = time.process_time()
    return seconds / (time.monotonic() - began)
share_of_a_processor.spent = 0

def prints(count, text):
    for _ in range(count): print(text)
    print(text[:9], "to standard error", file=sys.stderr)
    subprocess.run(["echo", text[:9], "by a program"])

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


def running(pid: int) -> bool:
    """A zombie does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_cpu(pid: int) -> None:
    """Until the process has worked for a while from now on."""
    spent = Path(f"/proc/{pid}/schedstat")
    enough = int(spent.read_text().split()[0]) + 50_000_000
    end = time.monotonic() + PATIENCE_S
    while int(spent.read_text().split()[0]) < enough:
        assert time.monotonic() < end, "it does not work"


def first(pool: WorkerPool, kind: type[T]) -> T:
    """The first event of that kind."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        select.select([pool], [], [], 1.0)
        for event in pool.drain(1000)[0]:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"there came no {kind.__name__}")


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
    host.give(run._replace(about=msgpack.packb({"key": "x" * INLINE_BYTES})))
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


def test_what_a_job_leaves_running_is_gone_before_its_result_is_there(host: Host) -> None:
    pid = host.spawn()
    host.give(host.run("leave_a_child_behind"), host.run("double", 1))
    (child,) = host.results(1)
    assert not running(child)
    gone = host.gone()
    assert (gone.pid, gone.suspect, len(gone.unread)) == (pid, None, 1)
    assert gone.replaced and gone.cause == "its job left processes behind"


def test_a_daemon_in_a_session_of_its_own_is_gone_too(host: Host, tmp_path: Path) -> None:
    host.spawn()
    host.give(host.run("leave_a_daemon", str(tmp_path / "daemon")))
    (daemon,) = host.results(1)
    assert not running(daemon)


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_a_dead_worker_takes_along_what_its_job_has_started(host: Host, tmp_path: Path, end: str) -> None:
    host.spawn()
    said = tmp_path / "daemon"
    os.mkfifo(said)
    host.give(host.run("daemon_and_" + end, str(said)))
    daemon = int(said.read_text())
    if end == "kill":
        assert running(daemon)
        host.pool.perform(KillWorker(0))
    host.gone()
    assert not running(daemon)


def test_shared_memory_that_a_job_forgets_is_gone(host: Host) -> None:
    host.spawn()
    host.give(host.run("forget_shared_memory"))
    (name,) = host.results(1)
    assert not Path("/dev/shm", name).exists()


def test_a_job_may_have_processes_of_its_own(host: Host) -> None:
    host.spawn()
    host.give(host.run("pool_of_processes", 3))
    assert host.results(1) == [[0, 1, 4]]


def test_nothing_of_a_job_reaches_the_next_one(host: Host, tmp_path: Path) -> None:
    pid = host.spawn()
    host.give(host.run("where"), host.run("make_a_mess", str(tmp_path)), host.run("where"))
    before, _, after = host.results(3)
    assert before == after and host.rows()[2] and host.of(WorkerDone)[-1].pid == pid


def test_the_shortest_job_that_changes_directory_or_mask_is_noticed(host: Host, tmp_path: Path) -> None:
    host.spawn()
    host.give(host.run("where"), host.run("where"))
    (_, before) = host.results(2)
    mask: tuple[Any, ...] = (signal.SIG_BLOCK, [signal.SIGTERM])
    for n, (name, args) in enumerate(
        {"os:chdir": ("/",), "posix:chdir": ("/",), "signal:pthread_sigmask": mask}.items()
    ):
        host.give(host.run(name, *args), host.run("where"))
        assert host.results(4 + 2 * n)[-1] == before, name


def test_an_attempt_is_measured(host: Host) -> None:
    host.spawn()
    host.give(host.run("double", 1), host.run("use", 64 << 20, 0.2), host.run("double", 1))
    host.results(3)
    small, big, again = host.rows()
    assert big.cpu_us >= 150_000 > small.cpu_us and big.cpu_us <= big.run_us * 2
    assert big.peak_kib > small.peak_kib + 60_000
    assert again.peak_kib < big.peak_kib - 50_000
    assert 0 < host.of(WorkerUp)[0].init_us < 10e6


def test_the_time_of_its_processes_is_a_jobs_own(host: Host) -> None:
    host.spawn()
    host.give(host.run("use_elsewhere", 0.2))
    host.results(1)
    assert host.rows()[0].cpu_us > 150_000


def zygote_of(pid: int) -> int:
    return trees.parents()[pid]


def test_a_zygote_that_dies_takes_its_workers_along_and_another_takes_its_place(host: Host) -> None:
    pid = host.spawn()
    blocker, _ = host.block()
    old = zygote_of(pid)
    os.kill(old, signal.SIGKILL)
    gone = host.gone()
    assert (gone.pid, gone.suspect, gone.cause) == (pid, blocker, "its zygote has died: signal 9 (SIGKILL)")
    host.events.clear()
    assert zygote_of(host.spawn()) != old
    host.give(host.run("double", 1))
    assert host.results(1) == [2]


def test_a_module_that_starts_threads_is_named(tmp_path: Path) -> None:
    (tmp_path / "harmless.py").touch()
    (tmp_path / "threads.py").write_text(
        "import threading\nthreading.Thread(target=input, daemon=True).start()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    with contextlib.closing(Host(tmp_path, preload=["harmless", "threads"]).pool) as pool:
        pool.perform(SpawnWorker(0))
        assert "importing 'threads' has started some" in first(pool, WorkerGone).cause


@pytest.mark.parametrize(
    ("option", "about"),
    [
        ({"preload": ["nowhere"]}, "preloading 'nowhere': ModuleNotFoundError"),
        ({"init": "jobs:sys_exit"}, "init 'jobs:sys_exit': SystemExit: 7"),
    ],
)
@pytest.mark.parametrize("fork", [True, False])
def test_what_cannot_be_loaded_is_said(tmp_path: Path, option: dict[str, Any], about: str, fork: bool) -> None:
    with contextlib.closing(Host(tmp_path, fork=fork, **option).pool) as pool:
        pool.perform(SpawnWorker(0))
        cause = first(pool, WorkerGone).cause
    assert cause.startswith("could not be started: ") and about in cause


@pytest.mark.parametrize("fork", [True, False])
def test_workers_find_what_was_loaded_before(tmp_path: Path, fork: bool) -> None:
    (tmp_path / "heavy.py").write_text("import os\nBY = os.getpid()\nREADY = []\ndef init(): READY.append(os.getpid())")
    host = Host(tmp_path, fork=fork, preload=["heavy", "numpy"], init="heavy:init")
    with contextlib.closing(host.pool):
        pid = host.spawn()
        host.give(host.run("getattr_of", "heavy", "BY"), host.run("getattr_of", "heavy", "READY"), host.run("chance"))
        by, ready, chance = host.results(3)
        assert by == (zygote_of(pid) if fork else pid) and ready == [pid]
        host.spawn(1)
        host.give(host.run("chance"), slot=1)
        assert all(a != b for a, b in zip(chance, host.results(4)[3], strict=True))


def test_a_core_is_not_left_by_what_crashes(host: Host) -> None:
    host.spawn()
    host.give(host.run("resource:getrlimit", resource.RLIMIT_CORE))
    assert host.results(1)[0][0] == 0


def test_of_the_environment_goes_on_what_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_HOST", "here")
    monkeypatch.setenv("SECRET", "word")
    host = Host(tmp_path, passed=["DB_*"])
    with contextlib.closing(host.pool):
        host.spawn()
        host.give(*(host.run("os:getenv", name) for name in ("DB_HOST", "SECRET", "PATH", "PYTHONPATH")))
        assert host.results(4) == ["here", None, os.environ["PATH"], str(tmp_path)]


def test_a_worker_leaves_after_so_many_jobs(tmp_path: Path) -> None:
    host = Host(tmp_path, max_jobs=3)
    with contextlib.closing(host.pool):
        host.spawn()
        tokens = host.give(*(host.run("double", i) for i in range(5)))
        gone = host.gone()
        assert host.results(3) == [0, 2, 4]
        assert gone == WorkerGone(0, gone.pid, "it has run 3 jobs", None, False, tokens[3:], replaced=True)


def test_a_worker_leaves_at_its_age(tmp_path: Path) -> None:
    host = Host(tmp_path, max_age_s=0.001)
    with contextlib.closing(host.pool):
        host.spawn()
        host.give(host.run("nap", 0.001))
        assert host.gone().cause == "it is older than 0.001 s" and host.of(WorkerGone)[0].replaced


def test_a_worker_leaves_when_memory_stays_with_it(tmp_path: Path) -> None:
    host = Host(tmp_path, max_left_bytes=40 << 20)
    with contextlib.closing(host.pool):
        host.spawn()
        host.give(host.run("use", 64 << 20, 0.0), host.run("keep", 64 << 20))
        cause = host.gone().cause
        assert len(host.rows()) == 2 and "MiB of memory stayed with it" in cause


# ------------------------------------------------------------------------------------ interrupting


def end_of(host: Host, token: int, timeout_s: float = 0.0, within_s: float = 5.0) -> Done | WorkerGone:
    """Interrupt an attempt until it has ended, as the agent does; kill its worker if it does not."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        host.pool.perform(InterruptWorker(0, token, timeout_s, dump=True))
        if select.select([host.pool], [], [], 0.05)[0]:
            host.events += host.pool.drain(1000)[0]
        for row in host.rows():
            if row.token == token:
                return row
    host.pool.perform(KillWorker(0))
    return host.gone()


SLOW = ["sleep", "loop", "wait_for_a_child", "hold_a_lock", "async_sleep", "async_loop", "swallow_once", "in_finally"]


@pytest.mark.parametrize("job", SLOW)
@pytest.mark.parametrize("timeout_s", [0.0, 1.5])
def test_what_runs_is_interrupted(host: Host, tmp_path: Path, job: str, timeout_s: float) -> None:
    host.spawn()
    started = tmp_path / "started"
    os.mkfifo(started)
    (token,) = host.give(host.run(job, str(started)))
    started.read_text()
    row = end_of(host, token, timeout_s)
    assert isinstance(row, Done)
    failure = Failure.decode(row.payload)
    kind, end = ("JobTimeout", End.TIMED_OUT) if timeout_s else ("Cancelled", End.CANCELLED)
    assert (failure.kind, row.end) == (kind, end) and f"in {job}" in failure.traceback
    gone = host.gone()
    assert gone.replaced and gone.cause == "its job was interrupted"
    assert not (tmp_path / "child").exists() or not running(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("job", ["loop_in_c", "block_signals"])
def test_what_cannot_be_interrupted_is_killed_with_its_stack(host: Host, tmp_path: Path, job: str) -> None:
    pid = host.spawn()
    started = tmp_path / "started"
    os.mkfifo(started)
    (token,) = host.give(host.run(job, str(started)))
    started.read_text()
    if job == "loop_in_c":
        wait_for_cpu(pid)
    gone = end_of(host, token, within_s=0.3)
    assert isinstance(gone, WorkerGone) and gone.suspect == token
    assert job == "block_signals" or "in loop_in_c" in gone.stack


def test_a_job_may_answer_a_timeout_with_what_it_has(host: Host, tmp_path: Path) -> None:
    host.spawn()
    started = tmp_path / "started"
    os.mkfifo(started)
    (token,) = host.give(host.run("partial", str(started)))
    started.read_text()
    row = end_of(host, token, 1.0)
    assert isinstance(row, Done) and (row.end, host.value(row)) == (End.SUCCEEDED, "so far")
    assert host.gone().replaced


def test_a_shielded_section_is_finished_first(host: Host, tmp_path: Path) -> None:
    host.spawn()
    started, done = tmp_path / "started", tmp_path / "done"
    os.mkfifo(started)
    (token,) = host.give(host.run("shielded", str(started), str(done)))
    started.read_text()
    row = end_of(host, token)
    assert isinstance(row, Done) and row.end == End.CANCELLED and done.read_text() == "all of it"


def test_an_import_is_not_interrupted(host: Host, tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.5)\nDONE = True\n")
    host.spawn()
    started = tmp_path / "started"
    os.mkfifo(started)
    (token,) = host.give(host.run("import_and_sleep", str(started)))
    started.read_text()
    row = end_of(host, token)
    assert isinstance(row, Done) and row.end == End.CANCELLED
    assert "in import_and_sleep" in Failure.decode(row.payload).traceback and "slow_module" not in str(row.payload)


def test_an_interruption_that_is_late_hits_nobody(host: Host) -> None:
    pid = host.spawn()
    for n in range(100):
        first, second = host.give(host.run("double", n), host.run("nap", 0.002))
        for token in (first, second + 1):
            host.pool.perform(InterruptWorker(0, token, 0.0))
            os.kill(pid, program.SIGNAL_INTERRUPT)
        host.wait(lambda n=n: len(host.rows()) == 2 * n + 2)  # type: ignore[misc]
    assert {row.end for row in host.rows() if row.token % 2 == 0} == {End.SUCCEEDED}
    assert not host.of(WorkerGone)


def test_what_a_job_saves_comes_before_its_result(host: Host) -> None:
    host.spawn()
    about = msgpack.packb({"key": "k", "tags": ["a"], "saved": payload.pack_state({"n": 1}, 100)})
    host.give(host.run("saves")._replace(about=about), host.run("double", 1))
    seen, result = host.results(2)
    assert seen == (1, "k", ("a",), {"n": 1}, "the state is a pickle of", {"n": 2}) and result == 2
    assert [payload.unpack_state(e.state) for e in host.of(StateSaved)] == [{"n": 2}]


def test_a_job_knows_when_it_will_be_timed_out(host: Host) -> None:
    host.spawn()
    limited, free = host.run("left"), host.run("left")
    limited = limited._replace(spec=replace(limited.spec, rules=Rules(timeout_s=60.0)))
    host.give(limited)
    host.results(1)
    host.give(free._replace(spec=replace(free.spec, rules=Rules(open_files=100))))
    left_s, none = host.results(2)
    assert 50.0 < left_s < 60.0 and none is None


def test_a_job_sees_its_own_graphics_processors_and_has_its_worker_for_itself(tmp_path: Path) -> None:
    host = Host(tmp_path, env={"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""})
    with contextlib.closing(host.pool):
        first_pid = host.spawn()
        host.give(host.run("sees"))
        assert host.results(1) == [("", ())]
        claims = Spec("sees", False, b"cjobs\nsees\n.", rules=Rules(gpus=2))
        host.give(host.run("sees")._replace(spec=claims, gpus=("2", "GPU-5")))
        assert host.results(2)[1] == ("2,GPU-5", ("2", "GPU-5"))
        gone = host.gone()
        assert (gone.pid, gone.replaced, gone.cause) == (first_pid, True, "its job had graphics processors")
        host.events.clear()
        host.spawn()
        host.give(host.run("sees"))
        assert host.results(1) == [("", ())]


def test_a_job_knows_whose_child_it_is(host: Host) -> None:
    host.spawn()
    child, grandchild = {"parent": b"p" * 16}, {"parent": b"p" * 16, "root": b"r" * 16}
    run = host.run("whose")
    host.give(run, *(host.run("whose")._replace(about=msgpack.packb(said)) for said in (child, grandchild)))
    me, parent, root = (format_job(byte * 16) for byte in (b"j", b"p", b"r"))
    assert host.results(3) == [(None, me), (parent, parent), (parent, root)]


def test_a_job_that_is_over_saves_nothing(host: Host) -> None:
    host.spawn()
    host.give(host.run("keep_job"), host.run("save_kept"))
    assert host.results(2)[1].text == "the job is over: it cannot save any more"
    assert not host.of(StateSaved)


@pytest.mark.parametrize("fork", [True, False])
def test_of_what_each_job_prints_the_beginning_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], fork: bool
) -> None:
    host = Host(tmp_path, fork=fork)
    try:
        pid = host.spawn()
        line = "x" * 1023
        host.give(host.run("prints", 3 * MOST_BYTES // 1024, line))
        assert host.results(1) == [None]
        host.give(host.run("prints", 1, "the other"))
        assert host.results(2) == [None] * 2
    finally:
        host.pool.close()
    out, err = capfd.readouterr()
    flood, word, rest = out.partition(f"\nganger: worker {pid}: ")
    assert flood == (line + "\n") * (MOST_BYTES // 1024) and word
    assert rest.endswith("the other\nthe other by a program\n") and len(rest) < 4 * 65_536
    assert err == "xxxxxxxxx to standard error\nthe other to standard error\n"


# ------------------------------------------------------------------------------------ limits


def limited(run: Run, **rules: Any) -> Run:
    return run._replace(spec=replace(run.spec, rules=Rules(**rules)))


@pytest.fixture(params=["groups", "watched"])
def limiting(request: pytest.FixtureRequest, host: Host) -> Host:
    if request.param == "watched":
        host.pool._groups.close()
        host.pool._groups.places.clear()
    elif not host.pool._groups.places:
        pytest.skip("no control group of this process may be divided")
    host.spawn()
    return host


def watch(host: Host, token: int) -> WorkerGone | None:
    """Look as the agent does, until the attempt has ended, and kill it when it is above."""
    rules = Rules(memory_bytes=150 << 20, processes=40)
    while True:
        host.pool.perform(Look(0, token))
        host.wait(lambda: host.events)
        for event in host.events:
            if isinstance(event, Seen) and (
                event.memory_bytes > rules.memory_bytes or event.processes > rules.processes
            ):
                host.pool.perform(KillWorker(0))
                return host.gone()
            if isinstance(event, WorkerGone):
                return event
            if isinstance(event, WorkerDone):
                return None
        host.events.clear()
        select.select([host.pool], [], [], 0.05)
        host.events += host.pool.drain(100)[0]


def test_memory_above_its_limit_ends_the_job(limiting: Host) -> None:
    host = limiting
    grouped = bool(host.pool._groups.places)
    (token,) = host.give(limited(host.run("eat", 400, 0.01), memory_bytes=150 << 20))
    gone = watch(host, token)
    assert gone is not None and gone.suspect == token
    if grouped:
        assert gone.out_of_memory and "memory_bytes of 157286400" in gone.cause
    assert 100 << 10 < gone.peak_kib < 400 << 10
    host.events.clear()
    host.spawn()
    (token,) = host.give(limited(host.run("eat", 100, 0.0), memory_bytes=150 << 20))
    assert watch(host, token) is None
    host.events.clear()
    host.give(host.run("eat", 200, 0.0))
    assert host.results(1) == [200]


def test_memory_of_all_its_processes_counts(limiting: Host) -> None:
    host = limiting
    (token,) = host.give(limited(host.run("eat_in_children", 4, 80), memory_bytes=150 << 20))
    gone = watch(host, token)
    if gone is None:
        assert host.rows()[0].end == End.MEMORY
    else:
        assert gone.suspect == token


def test_a_fork_bomb_hurts_itself(limiting: Host) -> None:
    host = limiting
    (token,) = host.give(limited(host.run("many_children", 200), processes=40))
    gone = watch(host, token)
    if gone is None:
        (row,) = host.rows()
        assert Failure.decode(row.payload).kind == "BlockingIOError"
    else:
        assert gone.suspect == token
    host.wait(lambda: host.of(WorkerGone))
    host.events.clear()
    host.spawn()
    host.give(host.run("double", 1))
    assert host.results(1) == [2]


def test_open_files_are_limited_for_that_job_alone(host: Host) -> None:
    host.spawn()
    host.give(limited(host.run("open_many", 100), open_files=50), host.run("open_many", 100))
    failure, many = host.results(2)
    assert (failure.kind, failure.text.split("]")[0], many) == ("OSError", "[Errno 24", 100)


def test_processors_are_limited_for_that_job_alone(limiting: Host) -> None:
    host = limiting
    host.give(limited(host.run("share_of_a_processor", 0.5), cpus=0.3))
    (share,) = host.results(1)
    host.events.clear()
    host.give(host.run("share_of_a_processor", 0.2))
    host.results(1)
    if host.pool._groups.places.get("cpu"):
        assert share < 0.6


def test_no_process_and_no_directory_is_left_by_a_closed_pool(tmp_path: Path) -> None:
    host = Host(tmp_path)
    pid = host.spawn()
    zygote = zygote_of(pid)
    host.give(host.run("where"))
    (_, _, temp) = host.results(1)[0]
    assert Path(temp).parent.exists()
    host.pool.close()
    assert not running(pid) and not running(zygote) and not Path(temp).parent.exists()


@pytest.mark.parametrize(("job", "status"), [("fork_and_return", 0), ("fork_and_raise", 5)])
def test_a_forked_child_that_comes_back_ends_instead_of_serving(host: Host, job: str, status: int) -> None:
    pid = host.spawn()
    tokens = host.give(host.run(job), host.run("pid"))
    assert host.results(2) == [status, pid]
    assert [row.token for row in host.rows()] == tokens


@pytest.mark.parametrize("moment", ["loading", "packing"])
def test_a_child_forked_beside_the_function_does_not_go_on_as_the_worker(host: Host, moment: str) -> None:
    """Neither runs it the job a second time, nor does it answer for it."""
    host.spawn()
    ran = host.root / "ran"
    run = host.run("appends" if moment == "loading" else "appends_and_forks", str(ran))
    if moment == "loading":
        run = run._replace(spec=replace(run.spec, code=b"cjobs\nforks\n)R0" + run.spec.code))
    tokens = host.give(run, host.run("double", 2))
    assert host.results(2)[1] == 4
    assert [row.token for row in host.rows()] == tokens
    assert ran.read_text() == "x"


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


def test_a_worker_asked_of_a_dead_zygote_says_why_it_died(tmp_path: Path) -> None:
    host = Host(tmp_path, env={"PYTHONHOME": "/nonexistent"})
    with contextlib.closing(host.pool):
        host.pool.perform(SpawnWorker(0))
        zygote = host.pool._zygote
        assert zygote is not None
        assert select.select([zygote.pidfd], [], [], PATIENCE_S)[0]
        host.pool.perform(SpawnWorker(1))  # its request finds nobody
        host.wait(lambda: len(host.of(WorkerGone)) == 2)
    for gone in host.of(WorkerGone):
        assert gone.cause.startswith("could not be started: exit code 1; ") and "encodings" in gone.cause


def test_what_a_worker_had_begun_whose_birth_was_not_told_is_not_taken_for_unread(host: Host) -> None:
    host.spawn()
    zygote = host.pool._zygote
    assert zygote is not None
    host.pool.perform(SpawnWorker(1))
    assert select.select([zygote.control], [], [], PATIENCE_S)[0]
    _, fds, _, _ = socket.recv_fds(zygote.control, 4096, 1)
    os.close(fds[0])
    (token,) = host.give(host.run("kill_parent"), slot=1)
    host.wait(lambda: len(host.of(WorkerGone)) == 2)
    gone = next(e for e in host.of(WorkerGone) if e.slot == 1)
    assert (gone.suspect, gone.noted, gone.unread) == (token, True, [])


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
        b"\x94\x00\x00\xc4\x00\x00",  # "ready", a second time
        b"\x94\x63\x00\xc4\x00\x00",  # a result of attempt 99
        b"\x94\x02\x00\xc4\x00\x00",  # a result of an attempt it has not read
        b"\x94\x01\x0b\xc4\x00\x00",  # an unknown outcome
        b"\x94\x01\x00\xc4\x00\xc0",
        b"\x93\x01\x00\xc4\x00",
        b"\x98\x01\x00\xc4\x00\x00\xa0\x00\x00\xa0",  # a blob without a name
        b"\x98\x01\x00\xc4\x00\x00\xc0\xc0\x00\xa0",
        b"\x98\x01\x00\xc4\x00\x00\xc0\x00\x00\xc0",
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
