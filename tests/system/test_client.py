"""What users do with a client, against a real coordinator and a real node."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from cluster import Client, LocalCluster, current_job, errors

pytestmark = pytest.mark.system

SOON_S = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(slots=2, transport="tcp") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    client = cluster.client()
    yield client
    client.shutdown(wait=False, cancel_futures=True)  # a test that failed may have left what never ends


def wait_for_file(path: str) -> None:
    """Runs in a worker: until the test says go."""
    deadline = time.monotonic() + SOON_S
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.005)


def started_then_wait(started: str, go: str) -> str:
    open(started, "w").close()
    wait_for_file(go)
    return "done"


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        threading.Event().wait(0.005)


# ------------------------------------------------------------------------------------ many


def test_ten_thousand_jobs(client: Client) -> None:
    futures = [client.submit(lambda x: x * x, i) for i in range(10_000)]
    client.flush(SOON_S)
    assert [f.result(SOON_S) for f in futures] == [i * i for i in range(10_000)]


def test_map_over_an_infinite_generator(client: Client) -> None:
    numbers = itertools.count()
    results = client.map(lambda x: -x, numbers, buffersize=100)
    assert list(itertools.islice(results, 1_000)) == [-i for i in range(1_000)]
    assert next(numbers) <= 1_101
    results.close()  # type: ignore[attr-defined]


def test_map_in_chunks(client: Client) -> None:
    assert list(client.map(pow, range(1_000), itertools.repeat(2), chunksize=64)) == [i * i for i in range(1_000)]


def test_wait_and_as_completed(client: Client) -> None:
    futures = {client.submit(abs, -i): i for i in range(300)}
    for future in concurrent.futures.as_completed(futures, SOON_S):
        assert future.result() == futures[future]  # type: ignore[index]
    done, left = concurrent.futures.wait(futures, SOON_S)
    assert len(done) == 300 and not left


def test_asyncio(client: Client) -> None:
    async def main() -> tuple[int, list[int]]:
        one = await client.submit(abs, -1)
        return one, await asyncio.gather(*(asyncio.wrap_future(client.submit(abs, -i)) for i in range(200)))

    assert asyncio.run(main()) == (1, list(range(200)))


def test_many_threads_use_one_client(client: Client) -> None:
    def work(n: int) -> int:
        return sum(f.result(SOON_S) for f in [client.submit(abs, -n) for _ in range(200)])

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [200 * n for n in range(8)]


def test_two_clients_at_once(cluster: LocalCluster) -> None:
    with cluster.client() as one, cluster.client(transport="ipc") as two:
        a, b = one.map(abs, range(500)), two.map(abs, range(500))
        assert list(a) == list(b) == list(range(500))


def family(connection: str, generations: int) -> list[tuple[str, str | None, str | None]]:
    """Runs in a worker: a job and what it hands in, as they know themselves."""
    me = current_job()
    assert me is not None
    told: list[tuple[str, str | None, str | None]] = [(me.id, me.parent, me.root)]
    if generations:
        with Client(connection) as client:
            told += client.submit(family, connection, generations - 1).result(SOON_S)
    return told


def test_jobs_of_jobs_know_their_parent_and_their_root(client: Client, cluster: LocalCluster) -> None:
    (a, *of_a), (b, *of_b) = client.submit(family, str(cluster.connection_file), 1).result(SOON_S)
    assert of_a == [None, a] and of_b == [a, a]
    assert [(client.job(id)["parent"], client.job(id)["root"]) for id in (a, b)] == [(None, a), (a, a)]


def test_status_and_nodes(client: Client) -> None:
    assert client.status()["nodes"] == 1
    [node] = client.nodes()
    assert (node["name"], node["slots"]) == ("node-1", 2)


# ------------------------------------------------------------------------------------ large


def test_large_arrays_there_and_back(client: Client) -> None:
    arrays = [np.full((1_000, 1_000), float(i)) for i in range(4)]
    futures = [client.submit(lambda a: a * 2, a) for a in arrays]
    for a in arrays:
        a[:] = -1.0  # handed in is handed in
    for i, future in enumerate(futures):
        result = future.result(SOON_S)
        assert result.shape == (1_000, 1_000) and (result == 2.0 * i).all()
        result[0, 0] = 7.0


def test_results_of_equal_bytes_are_not_shared(client: Client) -> None:
    one, two = (f.result(SOON_S) for f in [client.submit(np.zeros, 100_000), client.submit(np.zeros, 100_000)])
    one[:] = 1.0
    assert not two.any()


def test_many_large_results(client: Client) -> None:
    results = client.map(lambda i: os.urandom(1) * 200_000 + bytes([i]), range(60))
    assert [r[-1] for r in results] == list(range(60))


def test_a_large_function(client: Client) -> None:
    ballast = os.urandom(300_000)
    digest = hashlib.sha256(ballast).digest()
    assert set(client.map(lambda _: hashlib.sha256(ballast).digest(), range(50))) == {digest}


def test_a_payload_above_the_limit_fails_alone(cluster: LocalCluster) -> None:
    from cluster import ClientLimits

    with cluster.client(limits=ClientLimits(max_blob_bytes=100_000)) as client:
        assert isinstance(client.submit(len, bytes(200_000)).exception(SOON_S), errors.TooLarge)
        assert client.submit(len, bytes(90_000)).result(SOON_S) == 90_000


# ------------------------------------------------------------------------------------ errors


class OwnError(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


def test_own_exception_types_come_back_with_a_readable_traceback(client: Client) -> None:
    def deep(n: int) -> int:
        if n:
            return deep(n - 1)
        raise OwnError(7, hint="turn it off and on")

    with pytest.raises(OwnError) as caught:
        client.submit(deep, 2).result(SOON_S)
    assert (caught.value.code, caught.value.hint) == (7, "turn it off and on")
    text = str(caught.value.__cause__)
    assert text.count("in deep") == 3 and 'raise OwnError(7, hint="turn it off and on")' in text
    assert "worker.py" not in text


def test_what_cannot_be_pickled_fails_alone_either_way(client: Client) -> None:
    there = client.submit(print, threading.Lock())
    back = client.submit(lambda: __import__("threading").Lock())
    for future in (there, back):
        assert isinstance(future.exception(SOON_S), errors.SerializationError)
    assert client.submit(abs, -1).result(SOON_S) == 1


def test_an_exception_that_cannot_be_pickled_keeps_its_name(client: Client) -> None:
    def fail() -> NoReturn:
        error = OwnError(1, hint="none")
        error.hint = threading.Lock()  # type: ignore[assignment]
        raise error

    error = client.submit(fail).exception(SOON_S)
    assert isinstance(error, errors.RemoteError)
    assert error.type_name.endswith("OwnError") and "code 1" in str(error)


def test_a_function_whose_module_is_not_there(client: Client) -> None:
    error = client.submit(eval, "__import__('no_such_module')").exception(SOON_S)
    assert isinstance(error, ModuleNotFoundError)


def interrupt_itself() -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize("leave", [lambda: sys.exit(3), interrupt_itself])
def test_a_job_that_exits(client: Client, leave: Callable[[], object]) -> None:
    assert isinstance(client.submit(leave).exception(SOON_S), errors.JobExited)
    assert client.submit(abs, -1).result(SOON_S) == 1


@pytest.mark.parametrize(
    "die, word",
    [
        (lambda: os._exit(5), "5"),
        (lambda: ctypes.string_at(0), "SIGSEGV"),
        (os.abort, "SIGABRT"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    ],
)
def test_a_job_that_kills_its_worker_says_how_and_harms_no_other(
    client: Client, die: Callable[[], object], word: str
) -> None:
    innocents = [client.submit(abs, -i) for i in range(250)]
    culprit = client.submit(die)
    innocents += [client.submit(abs, -i) for i in range(250, 500)]
    error = culprit.exception(SOON_S)
    assert isinstance(error, errors.WorkerCrashed)
    assert word in str(error)
    assert [f.result(SOON_S) for f in innocents] == list(range(500))


def test_a_result_of_a_module_not_here_fails_only_its_future(client: Client, tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("class Thing:\n    pass\n")

    def make(path: str) -> Any:
        sys.path.insert(0, path)
        try:
            import only_there  # type: ignore[import-not-found]

            return only_there.Thing()
        finally:
            sys.path.remove(path)

    error = client.submit(make, str(tmp_path)).exception(SOON_S)
    assert isinstance(error, errors.SerializationError)
    assert "only_there" in str(error)


# ------------------------------------------------------------------------------------ cancel


def test_cancel_is_truthful(client: Client, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    started = [str(tmp_path / f"started-{i}") for i in range(2)]
    running = [client.submit(started_then_wait, s, go) for s in started]
    until(lambda: all(map(os.path.exists, started)))
    waiting = [client.submit(started_then_wait, str(tmp_path / "never"), go) for _ in range(50)]
    assert all(f.accepted(SOON_S) for f in waiting)
    assert not running[0].cancel()
    cancelled = [f.cancel() for f in waiting]
    Path(go).touch()
    assert [f.result(SOON_S) for f in running] == ["done", "done"]
    for future, said in zip(waiting, cancelled, strict=True):
        assert said and future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(SOON_S)
    assert client.submit(abs, -1).result(SOON_S) == 1
    assert not os.path.exists(tmp_path / "never")


def test_closing_a_map_cancels_what_waits(client: Client, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    blockers = [client.submit(started_then_wait, str(tmp_path / f"b{i}"), go) for i in range(2)]
    until(lambda: all(os.path.exists(tmp_path / f"b{i}") for i in range(2)))
    marker = str(tmp_path / "ran")
    results = client.map(started_then_wait, [marker] * 200, [go] * 200)
    results.close()  # type: ignore[attr-defined]
    client.shutdown(wait=False, cancel_futures=True)
    Path(go).touch()
    client.shutdown()
    assert [f.result(0) for f in blockers] == ["done", "done"]


# ------------------------------------------------------------------------------------ endings


def script(cluster: LocalCluster, body: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GANGER_CONNECTION": str(cluster.connection_file)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **settings,
    )


def test_the_end_of_the_interpreter_hands_over_what_was_submitted(cluster: LocalCluster, tmp_path: Path) -> None:
    done = script(
        cluster,
        f"""
        from pathlib import Path
        from cluster import Client
        client = Client()
        for i in range(1000):
            client.submit(lambda i: i, i)
        client.submit(Path({str(tmp_path / "ran")!r}).touch)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    until((tmp_path / "ran").exists)


def test_the_end_of_the_interpreter_names_what_was_not_handed_over(cluster: LocalCluster) -> None:
    with LocalCluster(slots=1) as other:
        done = script(
            other,
            f"""
            import os, signal
            from cluster import Client
            client = Client()
            client.submit(abs, 1).result(30)
            os.kill({other.coordinator.pid}, signal.SIGSTOP)
            client.submit(abs, 2)
            """,
        )
        os.kill(other.coordinator.pid, signal.SIGCONT)
    assert done.returncode == 0
    assert "1 jobs were not acknowledged" in done.stderr and "-2" in done.stderr


def test_functions_of_a_script_go_by_value(cluster: LocalCluster) -> None:
    done = script(
        cluster,
        """
        from cluster import Client
        factor = 3
        class Pair(tuple):
            pass
        def times(x):
            return Pair((x, x * factor))
        with Client() as client:
            first = client.submit(times, 2).result(30)
            factor = 5
            print(type(first) is Pair, first, client.submit(times, 2).result(30))
        """,
    )
    assert (done.stdout.strip(), done.stderr) == ("True (2, 6) (2, 10)", "")


def test_a_wrong_key_is_refused_in_words(cluster: LocalCluster, tmp_path: Path) -> None:
    import zmq

    from cluster.keys import ConnectionFile

    own = ConnectionFile.load(cluster.connection_file)
    public, secret = (key.decode() for key in zmq.curve_keypair())
    stranger = ConnectionFile(own.cluster_id, "client", public, secret, own.coordinators)
    with pytest.raises(errors.Refused, match="does not know this key"):
        Client(stranger)


def test_nobody_there_is_said_in_words(cluster: LocalCluster) -> None:
    from cluster.keys import ConnectionFile

    own = ConnectionFile.load(cluster.connection_file)
    nowhere = ConnectionFile(
        own.cluster_id, "client", own.public_key, own.secret_key, (("tcp://127.0.0.1:1", own.coordinators[0][1]),)
    )
    with pytest.raises(errors.CoordinatorUnreachable, match=r"127\.0\.0\.1:1 within 0\.3 s; check that"):
        Client(nowhere, connect_timeout_s=0.3)
