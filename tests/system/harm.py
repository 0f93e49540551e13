"""Jobs that do harm, and jobs that shall end. Rules of this file: the module the nodes import, and what it leads to.

``library`` writes the module where a local cluster finds it. Each deed can be done at three moments: while arguments
are loaded, while the job runs, and while its result is packed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster import JobTimeout, LocalCluster, WorkerCrashed, errors, trees

SOON_S = 60.0

MODULE = """
import asyncio, ctypes, os, signal, socket, subprocess, sys, threading, time

def innocent(x):
    # right only in a process that nobody has spoilt
    print(end="")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert os.getcwd() == HOME and not mask, (os.getcwd(), mask)
    return x * x
HOME = os.getcwd()

# -- deeds
def exits(): sys.exit(3)
def exits_hard(): os._exit(3)
def segfaults(): ctypes.string_at(0)
def aborts(): os.abort()
def is_killed(): os.kill(os.getpid(), signal.SIGKILL)
def recurses(): return recurses()
class Odd(Exception):
    def __reduce__(self): raise ValueError("no pickle")
    def __str__(self): raise ValueError("no text")
    __repr__ = __str__
def raises_oddly(): raise Odd(threading.Lock())
def eats_memory():
    eaten = []
    while True: eaten.append(bytearray(8 << 20)); time.sleep(0.01)
def forks_on():
    while True: os.fork()
def forks_much():
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    time.sleep(600)
def loops_for_ever():
    while True: pass
def loops_in_c_for_ever(): sum(range(1 << 50))
def sleeps_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    time.sleep(600)
def waits_for_a_full_pipe():
    r, w = os.pipe()
    while True: os.write(w, bytes(65536))
def leaves_a_daemon():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True: time.sleep(600)
    os._exit(0)
def leaves_shared_memory():
    from multiprocessing.shared_memory import SharedMemory
    SharedMemory(f"{os.environ['HARM_TAG']}-{os.getpid()}", create=True, size=4096)
def closes_stdout(): sys.stdout.close()
def closes_fd_1(): os.close(1); time.sleep(0.001)
def changes_directory(): os.chdir("/")
def blocks_signals(): signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def starts_threads():
    for _ in range(5): threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
def makes_files():
    import tempfile
    for _ in range(5): tempfile.mkstemp(); tempfile.mkdtemp()
def prints_much():
    line = "x" * 1023
    for _ in range(int(os.environ["HARM_KIB"])): print(line)
def leaves_a_lock(): threading.Lock().acquire()

def do(deed):
    globals()[deed]()
    return deed
class AtLoading:
    def __init__(self, deed): self.deed = deed
    def __reduce__(self): return do, (self.deed,)
class AtPacking:
    def __init__(self, deed): self.deed = deed
    def __reduce__(self):
        do(self.deed)
        return str, (self.deed,)
def while_loading(deed): return deed
def while_running(deed): return do(deed)
def while_packing(deed): return AtPacking(deed)
def returns_a_lock(): return threading.Lock()

# -- kinds of work that shall end
def say(started):
    with open(started, "w"): pass
def sleeps(started): say(started); time.sleep(600)
def loops(started):
    say(started)
    while True: pass
def computes_in_c(started): say(started); sum(range(1 << 50))
def waits_for_a_program(started): say(started); subprocess.run(["sleep", "600"])
async def awaits(started):
    say(started)
    await asyncio.gather(asyncio.sleep(600), asyncio.sleep(600))
def deaf(kind, started):
    # does it, and hears no interruption; it can still be asked where it is
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 5])
    if kind == "awaits": asyncio.run(awaits(started))
    else: globals()[kind](started)
def records(path, seconds, started=None):
    # how often it has begun, when it ends
    with open(path, "a") as f: f.write("x")
    if started: say(started)
    time.sleep(seconds)
    with open(path) as f: return len(f.read())
def where(): return os.environ["TMPDIR"]
def says_of_a_program(line): return subprocess.check_output(line, shell=True, text=True)
def square(x): return x * x
def squares_in_processes(n):
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(2) as pool: return pool.map(square, range(n))
def has_daemons(tell):
    for n in range(3):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        os.setsid()
        if os.fork() == 0:
            with open(f"{tell}-{n}", "w") as f: f.write(str(os.getpid()))
            os.rename(f"{tell}-{n}", f"{tell}.{n}")
            while True: time.sleep(600)
        os._exit(0)
    with open(f"{tell}-", "w") as f: f.write(str(os.getpid()))
    os.rename(f"{tell}-", tell)
    time.sleep(600)
"""

KINDS = ("sleeps", "loops", "computes_in_c", "waits_for_a_program", "awaits")
"""Of work that shall end."""

MOMENTS = ("loading", "running", "packing")

DIES = {
    "exits_hard": "exit code 3",
    "segfaults": "signal 11 (SIGSEGV)",
    "aborts": "signal 6 (SIGABRT)",
    "is_killed": "signal 9 (SIGKILL)",
}
RAISES: dict[str, type[BaseException]] = {
    "exits": errors.JobExited,
    "recurses": RecursionError,
    "raises_oddly": errors.JobError,
}
NEVER_ENDS = ("loops_for_ever", "loops_in_c_for_ever", "sleeps_deaf", "waits_for_a_full_pipe")
TOO_MUCH = ("eats_memory", "forks_on", "forks_much")
HARMLESS = (
    "leaves_a_daemon", "leaves_shared_memory", "closes_stdout", "closes_fd_1", "changes_directory", "blocks_signals",
    "starts_threads", "makes_files", "prints_much", "leaves_a_lock",
)  # fmt: skip
DEEDS = (*DIES, *RAISES, *NEVER_ENDS, *TOO_MUCH, *HARMLESS)


def options_of(deed: str) -> dict[str, Any]:
    """So that it has an end, and one try."""
    once = {"crash_retries": 0, "memory_retries": 0}
    if deed in NEVER_ENDS:
        return {**once, "timeout_s": 0.4, "grace_s": 0.2}
    if deed == "eats_memory":
        return {**once, "memory_bytes": 128 << 20}
    if deed in TOO_MUCH:
        return {**once, "processes": 30}
    return once


def check(deed: str, moment: str, error: BaseException | None, result: object) -> None:
    """Its outcome tells what it did, and when."""
    about = deed, moment, error, result
    if deed in DIES:
        assert isinstance(error, WorkerCrashed) and DIES[deed] in str(error), about
        assert ("before the job's function began" in str(error)) == (moment == "loading"), about
    elif deed in RAISES:
        kinds = (RAISES[deed], errors.SerializationError) if moment != "running" else RAISES[deed]
        assert isinstance(error, kinds), about
    elif deed in NEVER_ENDS:
        assert isinstance(error, JobTimeout) and "timeout_s of 0.4 s" in str(error), about
        interrupted = moment == "running" and deed in ("loops_for_ever", "waits_for_a_full_pipe")
        assert interrupted or "killed" in str(error), about
    elif deed == "eats_memory":
        assert isinstance(error, WorkerCrashed) and "memory_bytes" in str(error), about
    elif deed in TOO_MUCH:  # it is not let fork, or killed
        refused = isinstance(error, BlockingIOError | errors.SerializationError) and "Errno 11" in str(error)
        assert refused or (isinstance(error, errors.JobError) and "its limit of 30" in str(error)), about
    else:
        assert error is None and result == deed, about


@contextlib.contextmanager
def library(directory: Path) -> Iterator[ModuleType]:
    """The module, for this program and for clusters it starts."""
    (directory / "harm.py").write_text(MODULE)
    sys.path.insert(0, str(directory))
    try:
        yield importlib.import_module("harm")
    finally:
        sys.path.remove(str(directory))
        sys.modules.pop("harm", None)


def until(what: Callable[[], Any], about: Callable[[], object] = lambda: "") -> Any:
    """What it says once that is true."""
    end = time.monotonic() + SOON_S
    while not (found := what()):
        assert time.monotonic() < end, about()
        time.sleep(0.02)
    return found


def agent_of(cluster: LocalCluster) -> int:
    return cluster.nodes[0].pid


def below(pid: int) -> dict[int, bytes]:
    """What descends from a process, with its command line."""
    out = {}
    for child in trees.descendants(pid):
        with contextlib.suppress(OSError):
            out[child] = Path(f"/proc/{child}/cmdline").read_bytes()
    return {child: line for child, line in out.items() if line}


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
