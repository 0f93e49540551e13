"""Cancel, soft and hard timeout of every kind of work, at any moment; the next job on the slot is always right."""

from __future__ import annotations

import concurrent.futures
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cluster import JobTimeout, LocalCluster
from cluster.client import Client
from tests.system.harm import KINDS, SOON_S, library, until

pytestmark = pytest.mark.system

SLOTS = 4
WAYS = ("cancel", "soft", "hard")


@pytest.fixture(scope="module")
def harm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with library(tmp_path_factory.mktemp("library")) as module:
        yield module


@pytest.fixture(scope="module")
def client(harm: ModuleType) -> Iterator[Client]:
    with LocalCluster(slots=SLOTS) as cluster:
        yield cluster.client()  # ends with the cluster, and waits for nothing


def ends(client: Client, harm: ModuleType, started: Path, kind: str, way: str, moment_s: float) -> None:
    """Start one, end it after a moment, and see that the next jobs, of which one comes to its slot, are right."""
    deaf = way == "hard" or kind == "computes_in_c"  # code in C hears nothing before it returns
    options: dict[str, Any] = {"grace_s": 0.15 if deaf else 20.0}
    if way != "cancel":
        options["timeout_s"] = 0.03 + moment_s
    able = client.options(**options)
    if way == "hard":
        future = able.submit(harm.deaf, kind, str(started))
    else:
        future = able.submit(getattr(harm, kind), str(started))
    if way == "cancel":
        if moment_s > 0.02:  # else it may come before it runs
            until(started.exists)
        time.sleep(moment_s)  # the moment is the subject
        assert future.cancel(running=True) or future.done()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(SOON_S)
    else:
        error = future.exception(SOON_S)
        assert isinstance(error, JobTimeout), error
        killed = "killed" in str(error)
        # What computes in C may be told in the moment between its note and that code.
        assert killed or not deaf or way == "soft" or not started.exists(), error
        if killed and started.exists():
            assert "harm.py" in str(error.__cause__), error.__cause__  # where it was
        assert deaf or not killed, error
    next_ones = [client.submit(harm.innocent, n) for n in range(SLOTS)]
    assert [f.result(SOON_S) for f in next_ones] == [n * n for n in range(SLOTS)]


def all_of(client: Client, harm: ModuleType, tmp_path: Path, kind: str, way: str, count: int) -> None:
    chance = random.Random(f"{kind}{way}")
    moments = [chance.uniform(0, 0.05) for _ in range(count)]
    with ThreadPoolExecutor(SLOTS) as threads:
        ended = [
            threads.submit(ends, client, harm, tmp_path / str(n), kind, way, moment) for n, moment in enumerate(moments)
        ]
    for one in ended:
        one.result()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_is_ended_and_the_next_job_is_right(
    client: Client, harm: ModuleType, tmp_path: Path, kind: str, way: str
) -> None:
    all_of(client, harm, tmp_path, kind, way, 20)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_two_hundred_times(client: Client, harm: ModuleType, tmp_path: Path, kind: str, way: str) -> None:
    all_of(client, harm, tmp_path, kind, way, 200)
