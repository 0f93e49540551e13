"""Metrics and health of real processes, asked as Prometheus, a probe and an operator ask."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster import LocalCluster
from cluster.health import ask
from cluster.metrics import METRICS

pytestmark = pytest.mark.system

WITHIN_S = 30.0

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(address: str) -> Series:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    """Of all series of that name with these labels."""
    return sum(n for (kind, those), n in series.items() if kind == name and labels.items() <= set(those))


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.1)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def health(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cluster.cli import main; main()", "health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _has(address: str, name: str) -> bool:
    return total(scraped(address), name) > 0


@pytest.fixture
def local() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=2, slots=2, metrics=True, heartbeat_s=0.2, gone_s=0.5) as local:
        yield local


def test_all_serve_what_they_count(local: LocalCluster) -> None:
    addresses = local.metrics_addresses
    assert len(addresses) == len(set(addresses)) == 3
    with local.client() as client:
        assert list(client.map(pow, range(200), [2] * 200)) == [n * n for n in range(200)]
        failed = client.submit(divmod, 1, 0)
        assert isinstance(failed.exception(WITHIN_S), ZeroDivisionError)
    until(lambda: total(scraped(addresses[0]), "ganger_jobs_finished_total") == 201, "all counted")
    series = scraped(addresses[0])
    assert total(series, "ganger_jobs_submitted_total", queue="default") == 201
    assert total(series, "ganger_jobs_finished_total", outcome="failed") == 1
    assert total(series, "ganger_job_run_seconds_count", function="builtins:pow") == 200
    until(lambda: total(scraped(addresses[0]), "ganger_jobs") == 0, "the books are told once a second")
    until(lambda: total(scraped(addresses[0]), "ganger_node_up") == 2, "both nodes are measured")
    for address in addresses[1:]:
        until(partial(_has, address, "ganger_agent_memory_bytes"), "each measures itself")
    finished = [total(scraped(address), "ganger_agent_attempts_finished_total") for address in addresses[1:]]
    assert sum(finished) == 201
    names = {name for address in addresses for name, _ in scraped(address)}
    bare = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in names}
    assert {name for name in bare if name.startswith("ganger_")} <= set(METRICS)


def test_health_and_readiness_are_told_apart(local: LocalCluster) -> None:
    coordinator, node, _ = local.metrics_addresses
    for address in local.metrics_addresses:
        assert ask(address, "/healthz") == ask(address, "/readyz") == (True, "ok")
    well = health(coordinator, node)
    assert (well.returncode, well.stdout.count("ok ")) == (0, 4), well.stderr
    with stopped(local.coordinator.pid):
        until(lambda: not ask(node, "/readyz", 1.0)[0], "the node sees that its coordinator is gone")
        assert ask(node, "/healthz")[0], "and is well itself"
        bad = health("--json", node)
        document = json.loads(bad.stdout)
        assert bad.returncode == 1 and not document["ok"]
        assert [check["ok"] for check in document["checks"]] == [True, False]
    until(lambda: ask(node, "/readyz")[0], "it is registered again")


def test_the_command_asks_the_coordinator_where_no_address_is_given(local: LocalCluster) -> None:
    connection = str(local.connection_file)
    well = health("--connection", connection)
    assert (well.returncode, well.stdout.count("ok ")) == (0, 3), well.stderr
    local.nodes[1].kill()

    def lost() -> bool:
        return total(scraped(local.metrics_addresses[0]), "ganger_nodes_lost_total") == 1

    until(lost, "the node is given up")
    local.coordinator.kill()
    bad = health("--json", "--connection", connection)
    assert bad.returncode == 1 and json.loads(bad.stdout)["checks"][0]["ok"] is False


def test_counters_of_the_coordinator_outlive_a_node(local: LocalCluster) -> None:
    with local.client() as client:
        list(client.map(abs, range(100)))
        local.nodes[0].kill()
        address = local.metrics_addresses[0]
        until(lambda: total(scraped(address), "ganger_nodes_lost_total") == 1, "the node is given up")
        list(client.map(abs, range(100)))
        until(lambda: total(scraped(address), "ganger_jobs_finished_total") == 200, "all are counted")
    assert total(scraped(address), "ganger_attempts_total", end="succeeded") >= 200
    until(lambda: total(scraped(address), "ganger_node_up") == 1, "it has no series any more")
