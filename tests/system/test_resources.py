"""Claims on real nodes: two of them with resources of their own, over a restart of the coordinator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import Client, LocalCluster, current_job

pytestmark = pytest.mark.system

SOON_S = 60.0
COMMAND = [sys.executable, "-c", "from cluster.cli import main; main()"]


def hold(directory: str, name: str, seconds: float) -> tuple[str, int]:
    """Where it ran, and how many of its like were there meanwhile, itself among them."""
    node = os.environ["GANGER_NODE"]
    mine = Path(directory) / f"{node} {name}"
    mine.touch()
    most, until = 1, time.monotonic() + seconds
    while time.monotonic() < until:
        most = max(most, len(list(Path(directory).glob(f"{node} *"))))
        time.sleep(0.005)
    mine.unlink()
    return node, most


def until(true: Callable[[], object], seconds: float = SOON_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def claimed(client: Client, resource: str) -> dict[str, float]:
    return {node["name"]: node["resources"].get(resource, {}).get("claimed") for node in client.nodes()}


def test_claims_hold_on_real_nodes_and_over_a_restart(tmp_path: Path) -> None:
    with LocalCluster(nodes=0, slots=4) as local:
        local.add_node(resources={"licence": 2, "memory_bytes": 1 << 30})
        local.add_node(resources={"licence": 1}, labels={"zone": "a"})
        client = local.client()
        offers = {node["name"]: {k: v["offered"] for k, v in node["resources"].items()} for node in client.nodes()}
        assert offers["node-1"]["licence"] == 2 and offers["node-1"]["memory_bytes"] == 1 << 30
        assert offers["node-2"]["cpus"] >= 0.01 and offers["node-2"]["memory_bytes"] > 1 << 20

        licensed = client.options(resources={"licence": 1})
        ran = [f.result(SOON_S) for f in [licensed.submit(hold, str(tmp_path), str(n), 0.15) for n in range(9)]]
        assert {node for node, _ in ran} == {"node-1", "node-2"}
        assert max(most for node, most in ran if node == "node-1") <= 2
        assert max(most for node, most in ran if node == "node-2") == 1

        both = [client.options(anti_affinity="k").submit(hold, str(tmp_path), str(n), 0.3) for n in range(2)]
        assert {f.result(SOON_S)[0] for f in both} == {"node-1", "node-2"}
        near = client.options(prefer={"zone": "a"})
        assert [near.submit(hold, str(tmp_path), str(n), 0.0).result(SOON_S)[0] for n in range(3)] == ["node-2"] * 3

        # over a restart what runs still claims, and what waits waits
        held = [licensed.submit(hold, str(tmp_path), f"held {n}", 4.0) for n in range(3)]
        until(lambda: claimed(client, "licence") == {"node-1": 2.0, "node-2": 1.0})
        waits = licensed.submit(hold, str(tmp_path), "waits", 0.1)
        assert waits.accepted(SOON_S)
        local.restart_coordinator()
        until(lambda: claimed(client, "licence") == {"node-1": 2.0, "node-2": 1.0})
        assert not waits.done() and waits.job_id is not None
        [why] = client.explain(waits.job_id)
        assert why.count("licence 0 of") == 2, why
        assert sorted(f.result(SOON_S)[0] for f in held) == ["node-1", "node-1", "node-2"]
        assert waits.result(SOON_S)[1] <= 2
        until(lambda: claimed(client, "licence") == {"node-1": 0.0, "node-2": 0.0})

        # what no node offers
        vast = client.options(cpus=1000, resources={"licence": 3}).submit(hold, str(tmp_path), "vast", 0.0)
        assert vast.accepted(SOON_S) and vast.job_id is not None
        command = [*COMMAND, "explain", vast.job_id, "--connection", str(local.connection_file)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SOON_S).stdout
        assert "it waits for a node that offers cpus 1000 and licence 3; of 2 nodes none has so much" in said
        assert "node node-2: offers only cpus" in said and "licence 1 of 3" in said


def test_a_load_query_steers(tmp_path: Path) -> None:
    from tests.scheduler.test_load_query import prometheus, vector  # workers load this file, and have no coordinator

    with (
        prometheus(200, vector(**{"node-1": "1.5"})) as (url, asked),
        LocalCluster(nodes=2, slots=4) as local,
    ):
        local._times += ["--prometheus", url, "--load-query", "up", "--load-query-s", "0.5"]
        local.restart_coordinator()
        client = local.client()
        until(lambda: len(client.nodes()) == 2 and len(asked) > 2)
        ran = [client.submit(hold, str(tmp_path), str(n), 0.2) for n in range(4)]
        assert {f.result(SOON_S)[0] for f in ran} == {"node-2"}


def test_why_a_load_query_has_no_answer_is_logged_without_what_authenticates(tmp_path: Path) -> None:
    from tests.scheduler.test_load_query import prometheus

    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("t0ken-of-ours")
    with (
        prometheus(401, b'{"error":"unknown: %s"}') as (url, asked),
        LocalCluster(nodes=1, slots=1) as local,
    ):
        plain = list(local._times)
        for how in (
            ["--prometheus", url.replace("://", "://ann:passw0rd@")],
            ["--prometheus", url, "--prometheus-token-file", str(token)],
        ):
            before = len(asked)
            local._times = [*plain, *how, "--load-query", "up", "--load-query-s", "0.5"]
            local.restart_coordinator()
            with local.client() as client:
                until(lambda n=before: len(asked) > n + 1 and client.nodes())  # type: ignore[misc]
                shown = json.dumps([client.status(), client.nodes()])
        logged = "".join(path.read_text() for path in Path(local.directory).rglob("*.log"))
    assert logged.count("the load query has no answer, and places no more work: 401: unknown: ") == 2, logged
    for secret in ("passw0rd", "t0ken-of-ours", "YW5uOnBhc3N3MHJk"):
        assert secret not in logged + shown


def sees(directory: str, name: str, seconds: float) -> tuple[str, tuple[str, ...], int]:
    """Which graphics processors the job sees, which it has been given, and how many had one of these meanwhile."""
    job = current_job()
    assert job is not None
    mine = Path(directory) / f"{','.join(job.gpus)} {name}"
    mine.touch()
    most, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        there = [path.name.split(" ")[0].split(",") for path in Path(directory).iterdir()]
        most = max(most, sum(1 for ids in there if set(ids) & set(job.gpus)))
        time.sleep(0.005)
    mine.unlink()
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all"), job.gpus, most


def test_jobs_see_the_graphics_processors_they_claim_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    with LocalCluster(nodes=0, slots=4) as local:
        local.add_node()
        client = local.client()
        assert client.nodes()[0]["resources"]["gpus"] == {"offered": 2.0, "claimed": 0.0}
        assert client.submit(sees, str(tmp_path), "none", 0.0).result(SOON_S)[:2] == ("", ())

        claims = [2, 1, 0.5, 0.5, 0.6, 0.6, 0.8, 1]
        futures = [client.options(gpus=n).submit(sees, str(tmp_path), str(k), 0.2) for k, n in enumerate(claims)]
        for claim, future in zip(claims, futures, strict=True):
            seen, given, most = future.result(SOON_S)
            assert seen == ",".join(given) and set(given) <= {"3", "GPU-5"}
            assert len(given) == max(1, claim) and most <= (1 if claim > 0.5 else 2)
        assert client.options(gpus=2).submit(sees, str(tmp_path), "both", 0.0).result(SOON_S)[0] == "3,GPU-5"
        assert client.submit(sees, str(tmp_path), "none again", 0.0).result(SOON_S)[:2] == ("", ())

        local.add_node(resources={"gpus": 0})  # it shares out none, and leaves the variable alone
        plain = client.options(labels={"node": "node-2"})
        assert plain.submit(sees, str(tmp_path), "elsewhere", 0.0).result(SOON_S)[:2] == ("3,GPU-5", ())
