"""Whatever a job does, only it suffers, its error says how, and nothing is left. A real cluster of two slots."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cluster import LocalCluster, errors
from cluster.cgroups import own_groups
from cluster.client import Client
from node.groups import Groups
from tests.system.harm import DEEDS, MOMENTS, SOON_S, agent_of, below, check, descriptors, library, options_of, until

pytestmark = pytest.mark.system

TAG = f"harm-{os.getpid()}"


@pytest.fixture(scope="module")
def harm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with library(tmp_path_factory.mktemp("library")) as module:
        yield module


@pytest.fixture(scope="module")
def deeds() -> tuple[str, ...]:
    """A bomb without a limit on processes that the kernel holds would be the machine's."""
    groups = Groups()
    held = "pids" in groups.places
    groups.close()
    return tuple(d for d in DEEDS if held or d != "forks_on")


class Left:
    """What is there beside the agent, its zygote and two workers."""

    def __init__(self, cluster: LocalCluster, client: Client, harm: ModuleType) -> None:
        self._agent = agent_of(cluster)
        self._temp = Path(client.submit(harm.where).result(SOON_S)).parent
        self._nodes = cluster.directory / "nodes"

    def everybody(self) -> dict[int, bytes]:
        return below(self._agent)

    def settled(self) -> bool:
        return len(self.everybody()) == 3

    def descriptors(self) -> list[int]:
        """Of the agent, and of its zygote."""
        until(self.settled, self.everybody)
        return [descriptors(self._agent), descriptors(min(self.everybody()))]

    def files(self) -> set[str]:
        """Shared memory, half results, and whatever is below a directory of temporary files or belongs to no worker."""
        workers = {str(pid) for pid in self.everybody()}
        out = {str(path) for path in Path("/dev/shm").glob(f"{TAG}*")}
        out |= {str(path) for path in self._nodes.rglob("*.part")}
        out |= {str(path) for path in self._temp.rglob("*") if path.parent != self._temp or path.name not in workers}
        for controller in ("memory", "pids", "cpu", ""):
            for own in own_groups().get(controller, [])[:1]:
                groups = own.glob(f"ganger-{self._agent}-*/*/")
                out |= {str(path) for path in groups if path.name not in workers}
        return out


def matrix(harm: ModuleType, deeds: tuple[str, ...], rounds: int, innocents: int) -> None:
    with LocalCluster(slots=2) as cluster:
        client = cluster.client()  # ends with the cluster, and waits for nothing
        left = Left(cluster, client, harm)
        before = left.descriptors()
        order = [(deed, moment) for deed in deeds for moment in MOMENTS] * rounds + [("innocent", "")] * innocents
        random.Random(1).shuffle(order)
        futures = []
        for n, (deed, moment) in enumerate(order):
            if deed == "innocent":
                futures.append(client.submit(harm.innocent, n))
            else:
                careless = client.options(**options_of(deed))
                argument = harm.AtLoading(deed) if moment == "loading" else deed
                futures.append(careless.submit(getattr(harm, f"while_{moment}"), argument))
        for n, ((deed, moment), future) in enumerate(zip(order, futures, strict=True)):
            error = future.exception(4 * SOON_S)
            if deed == "innocent":
                assert error is None and future.result() == n * n, error
            else:
                check(deed, moment, error, future.result() if error is None else None)
        until(lambda: left.descriptors() <= before, lambda: (before, left.descriptors()))
        until(lambda: not left.files(), left.files)
        temp = left._temp
    assert not temp.exists()


def test_whatever_a_job_does_at_any_moment_only_it_suffers(
    harm: ModuleType, deeds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARM_TAG", TAG)
    monkeypatch.setenv("HARM_KIB", str(8 << 10))
    matrix(harm, deeds, 1, 200)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_same_many_times_with_a_gibibyte_of_output(
    harm: ModuleType, deeds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARM_TAG", TAG)
    monkeypatch.setenv("HARM_KIB", str(1 << 20))
    matrix(harm, ("prints_much",), 1, 200)
    monkeypatch.setenv("HARM_KIB", "64")
    matrix(harm, deeds, 5, 2000)


def test_what_cannot_be_pickled_fails_its_job_alone(harm: ModuleType) -> None:
    with LocalCluster(slots=1) as cluster, cluster.client() as client:
        futures = [client.submit(harm.returns_a_lock), client.submit(harm.innocent, 3)]
        assert isinstance(futures[0].exception(SOON_S), errors.SerializationError)
        assert futures[1].result(SOON_S) == 9
