"""Workers that can be trusted: whatever a job does, only it suffers, its error says how, and nothing is left.

A real cluster; ``-m long`` has the whole matrix and the many repetitions.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import JobError, JobTimeout, LocalCluster, WorkerCrashed, errors, trees
from cluster.client import Client
from cluster.futures import Future

pytestmark = pytest.mark.system

SOON_S = 60.0

HARM = """
import asyncio, ctypes, os, signal, socket, subprocess, sys, threading, time

def innocent(x): return x * x

# -- ways to die, and to misbehave: while arguments are loaded, while it runs, or while its result is packed
def exits(): sys.exit(3)
def exits_hard(): os._exit(3)
def segfaults(): ctypes.string_at(0)
def aborts(): os.abort()
def is_killed(): os.kill(os.getpid(), signal.SIGKILL)
def recurses(): return recurses()
def daemon(tell=None):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2): os.dup2(os.open("/dev/null", os.O_RDWR), fd)
        while True: time.sleep(600)
    os._exit(0)
def shared_memory():
    from multiprocessing.shared_memory import SharedMemory
    SharedMemory(create=True, size=4096)
def closes_stdout(): sys.stdout.close(); os.close(1)
def changes_directory(): os.chdir("/")
def blocks_signals(): signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def starts_threads():
    for _ in range(5): threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
def fills_a_pipe():
    r, w = os.pipe()
    os.set_blocking(w, False)
    try:
        while True: os.write(w, bytes(65536))
    except BlockingIOError: pass
def makes_files():
    import tempfile
    for _ in range(5): tempfile.mkstemp(); tempfile.mkdtemp()
def prints_much():
    for _ in range(200): print("x" * 10_000, file=open(os.devnull, "w"))
def leaves_a_lock():
    lock = threading.Lock(); lock.acquire()

DEEDS = {name: value for name, value in list(globals().items()) if callable(value) and name not in ("innocent",)}

class AtLoading:
    def __init__(self, deed): self.deed = deed
    def __reduce__(self): return do, (self.deed,)
def do(deed):
    DEEDS[deed]()
    return deed
class AtPacking:
    def __init__(self, deed): self.deed = deed
    def __reduce__(self):
        DEEDS[self.deed]()
        return str, (self.deed,)
def while_loading(deed): return deed
def while_running(deed): return do(deed)
def while_packing(deed): return AtPacking(deed)

# -- kinds of work that shall end
def sleeps(started): say(started); time.sleep(600)
def loops(started):
    say(started)
    while True: pass
def computes_in_c(started): say(started); sum(range(1 << 50))
def waits_for_a_program(started): say(started); subprocess.run(["sleep", "600"])
async def awaits(started):
    say(started)
    await asyncio.gather(asyncio.sleep(600), asyncio.sleep(600))
def say(started):
    with open(started, "w"): pass
def records(path, seconds, started=None):
    # how often it has begun, when it ends
    with open(path, "a") as f: f.write("x")
    if started: say(started)
    time.sleep(seconds)
    with open(path) as f: return len(f.read())
def daemons_of_its_own(tell):
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
    with open(tell, "w") as f: f.write(str(os.getpid()))
    time.sleep(600)
"""

DIES = {
    "exits_hard": "exit code 3",
    "segfaults": "signal 11 (SIGSEGV)",
    "aborts": "signal 6 (SIGABRT)",
    "is_killed": "signal 9 (SIGKILL)",
}
RAISES = {"exits": errors.JobExited, "recurses": RecursionError}
HARMLESS = [
    "daemon", "shared_memory", "closes_stdout", "changes_directory", "blocks_signals", "starts_threads",
    "fills_a_pipe", "makes_files", "prints_much", "leaves_a_lock",
]  # fmt: skip
MOMENTS = ["loading", "running", "packing"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Its jobs find the module ``harm``, and so does this program."""
    library = tmp_path_factory.mktemp("library")
    (library / "harm.py").write_text(HARM)
    sys.path.insert(0, str(library))
    try:
        with LocalCluster(slots=2) as cluster:
            yield cluster
    finally:
        sys.path.remove(str(library))
        sys.modules.pop("harm", None)


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def harm() -> Any:
    import harm  # type: ignore[import-not-found]

    return harm


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


def until(what: Callable[[], Any], about: Callable[[], object] = lambda: "") -> Any:
    end = time.monotonic() + SOON_S
    while not (found := what()):
        assert time.monotonic() < end, about()
        time.sleep(0.02)
    return found


def settled(cluster: LocalCluster, client: Client) -> int:
    """The agent's descriptors when every slot has its worker and nothing else runs there."""
    agent = agent_of(cluster)
    until(lambda: len(below(agent)) == 3, lambda: below(agent))  # the zygote and two workers
    return descriptors(agent)


def deed(client: Client, name: str, moment: str) -> Future[Any]:
    h = harm()
    argument = h.AtLoading(name) if moment == "loading" else name
    return client.submit(getattr(h, f"while_{moment}"), argument)


def outcome_fits(future: Future[Any], name: str, moment: str) -> None:
    error = future.exception(SOON_S)
    if name in DIES:
        assert isinstance(error, WorkerCrashed) and DIES[name] in str(error), (name, moment, error)
        assert ("before the job's function began" in str(error)) == (moment == "loading"), error
    elif name in RAISES:
        kinds = (RAISES[name], errors.SerializationError) if moment != "running" else RAISES[name]
        assert isinstance(error, kinds), (name, moment, error)
    else:
        assert error is None and future.result() == name, (name, moment, error)


def matrix(cluster: LocalCluster, client: Client, cases: list[tuple[str, str]], innocents: int) -> None:
    h = harm()
    before = settled(cluster, client)
    files = {p for p in Path("/dev/shm").iterdir() if p.name.startswith("psm_")}
    careless = client.options(crash_retries=0)
    chance = random.Random(1)
    order = [*cases, *[("innocent", "")] * innocents]
    chance.shuffle(order)
    futures = [
        (name, moment, client.submit(h.innocent, n) if name == "innocent" else deed(careless, name, moment))
        for n, (name, moment) in enumerate(order)
    ]
    for n, (name, moment, future) in enumerate(futures):
        if name == "innocent":
            assert future.result(SOON_S) == n * n
        else:
            outcome_fits(future, name, moment)
    until(lambda: settled(cluster, client) <= before, lambda: f"{before} descriptors became {settled(cluster, client)}")
    left = {p for p in Path("/dev/shm").iterdir() if p.name.startswith("psm_")} - files
    assert not left


def test_whatever_a_job_does_only_it_suffers(cluster: LocalCluster, client: Client) -> None:
    cases = [(name, MOMENTS[n % 3]) for n, name in enumerate([*DIES, *RAISES, *HARMLESS])]
    matrix(cluster, client, cases, 200)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_whatever_a_job_does_at_any_moment_only_it_suffers(cluster: LocalCluster, client: Client) -> None:
    matrix(cluster, client, [(n, m) for n in [*DIES, *RAISES, *HARMLESS] for m in MOMENTS], 200)


# ------------------------------------------------------------------------------------ ending what runs

KINDS = ["sleeps", "loops", "computes_in_c", "waits_for_a_program", "awaits"]


def ends(client: Client, tmp_path: Path, kind: str, way: str, number: int, delay_s: float) -> None:
    """Start one, end it after a moment, and see that the next jobs on its slot are right."""
    h = harm()
    started = tmp_path / f"{kind}-{way}-{number}"
    grace_s = 0.1 if kind == "computes_in_c" or way == "hard" else 10.0
    options: dict[str, Any] = {"grace_s": grace_s}
    if way != "cancel":
        options["timeout_s"] = 0.05 + delay_s
    future = client.options(**options).submit(getattr(h, kind), str(started))
    if way == "cancel":
        until(started.exists)
        time.sleep(delay_s)  # the moment is the subject
        assert future.cancel(running=True)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(SOON_S)
    else:
        error = future.exception(SOON_S)
        assert isinstance(error, JobTimeout), error
        if kind == "computes_in_c":
            where = str(error.__cause__)
            assert "grace_s" in str(error) and ("harm.py" in where or not started.exists()), where  # it may load still
    assert [f.result(SOON_S) for f in [client.submit(h.innocent, n) for n in range(4)]] == [0, 1, 4, 9]


@pytest.mark.parametrize("way", ["cancel", "soft"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_is_ended_and_the_next_job_is_right(client: Client, tmp_path: Path, kind: str, way: str) -> None:
    chance = random.Random(f"{kind}{way}")
    for number in range(3):
        ends(client, tmp_path, kind, way, number, chance.uniform(0, 0.03))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", ["cancel", "soft", "hard"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_two_hundred_times(client: Client, tmp_path: Path, kind: str, way: str) -> None:
    chance = random.Random(f"{kind}{way}")
    for number in range(200):
        ends(client, tmp_path, kind, way, number, chance.uniform(0, 0.05))


def test_what_is_not_to_be_stopped_is_not(client: Client, tmp_path: Path) -> None:
    h = harm()
    started = tmp_path / "started"
    future = client.options(grace_s=1).submit(h.sleeps, str(started))
    until(started.exists)
    assert not future.cancel()
    assert client.cancel(str(future.job_id), running=True) == 0  # none at once
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(SOON_S)


def test_memory_above_its_limit_is_told_as_such(client: Client) -> None:
    greedy = client.options(memory_bytes=64 << 20, memory_retries=0)
    error = greedy.submit(bytearray, 512 << 20).exception(SOON_S)
    assert isinstance(error, MemoryError | WorkerCrashed)
    if isinstance(error, WorkerCrashed):
        assert "memory_bytes" in str(error)
    assert greedy.submit(len, bytes(1 << 20)).result(SOON_S) == 1 << 20


# ------------------------------------------------------------------------------------ what is killed


@pytest.mark.parametrize("victim", ["agent", "zygote", "worker"])
def test_nothing_is_left_of_what_is_killed(cluster: LocalCluster, tmp_path: Path, victim: str) -> None:
    """Each of two jobs has daemons in sessions of their own."""
    with LocalCluster(slots=2) as own:
        client = own.client()  # ends with the cluster, and does not wait for what cannot end
        h = harm()
        agent = agent_of(own)
        tells = [tmp_path / f"job{n}" for n in range(2)]
        for tell in tells:
            client.options(crash_retries=0).submit(h.daemons_of_its_own, str(tell))
        for tell in tells:
            until(tell.exists)
            for n in range(3):
                until(Path(f"{tell}.{n}").exists)
        workers = [int(tell.read_text()) for tell in tells]
        daemons = [int(Path(f"{tell}.{n}").read_text()) for tell in tells for n in range(3)]
        zygote = trees.parents()[workers[0]]
        assert trees.parents()[zygote] == agent
        everybody = [*daemons, *workers, *([zygote] if victim != "worker" else [])]
        assert all(alive(pid) for pid in everybody)
        for pid in {"agent": [agent], "zygote": [zygote], "worker": workers}[victim]:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, everybody)), lambda: [pid for pid in everybody if alive(pid)])
        if victim != "agent":
            assert client.submit(h.innocent, 3).result(SOON_S) == 9


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("signals", [1, 2])
def test_a_node_that_is_told_to_stop_finishes_what_runs(cluster: LocalCluster, tmp_path: Path, signals: int) -> None:
    with LocalCluster(nodes=1, slots=1) as own:
        client = own.client()
        h = harm()
        started, record = tmp_path / "started", tmp_path / "record"
        first = client.submit(h.records, str(record), 1.0 if signals == 1 else 600, str(started))
        until(started.exists)
        waiting = [client.submit(h.records, f"{record}{n}", 0.0) for n in range(3)]
        node = own.nodes[0]
        for n in range(signals):
            os.kill(node.pid, signal.SIGTERM)
            if n + 1 < signals:
                until(lambda: client.nodes()[0]["state"] == "draining")
        until(lambda: not node.alive)
        own.add_node(slots=2)
        assert [f.result(SOON_S) for f in waiting] == [1, 1, 1]
        if signals == 1:
            assert first.result(SOON_S) == 1  # it ran once, and was not cut off
        else:
            until(lambda: record.read_text() == "xx")  # it was, and runs again


def test_nodes_are_replaced_one_after_another_and_nothing_runs_twice(tmp_path: Path) -> None:
    with LocalCluster(nodes=2, slots=1) as own:
        client = own.client()
        h = harm()
        futures = [client.submit(h.records, str(tmp_path / str(n)), 0.02) for n in range(60)]
        for node in list(own.nodes):
            futures[0].result(SOON_S)
            own.add_node(slots=1)
            os.kill(node.pid, signal.SIGTERM)
            until(lambda node=node: not node.alive)  # type: ignore[misc]
        assert [f.result(SOON_S) for f in futures] == [1] * 60


def test_a_crash_is_an_exception_soon(client: Client) -> None:
    h = harm()
    careless = client.options(crash_retries=0)
    took = []
    for _ in range(9):
        began = time.monotonic()
        with pytest.raises(JobError):
            careless.submit(h.exits_hard).result(SOON_S)
        took.append(time.monotonic() - began)
    assert sorted(took)[4] < 1.0, took
