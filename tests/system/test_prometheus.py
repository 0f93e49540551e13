"""A real Prometheus scrapes a real coordinator and three nodes under a load in which everything happens: no panel
is empty then, every rule has its data, and what it counted is what the clients know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import Client, Future, KeyConflict, LocalCluster, every
from tests.deploy.pictures import picture
from tests.deploy.reading import DASHBOARDS, ROOT, labels_in, other_queries_of, panels, queries_of, rules
from tests.system import load
from tests.system.prometheus import Prometheus, scraping

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("promtool") is None,
        reason="needs prometheus and promtool, of Debian's package prometheus (tests/run gets it)",
    ),
]

WITHIN_S = 90.0

EMPTY = {
    "ganger-nodes: Graphics processors": "this machine has none, or not their library",
    "ganger_node_gpu_ratio": "the same",
}
"""Panels, and series that rules look at, without data here; with the reason."""

WINDOW = "10s"
"""What Grafana puts for $__rate_interval at a scrape a second, or a little more."""

WELL, SLOW, FAILING, TWICE, CRASHING, WAITING = 400, 60, 30, 8, 2, 7


@dataclass
class Known:
    """What the client knows of the load: an independent count."""

    outcomes: Counter[str]
    submitted: int
    fired: int
    attempts: list[dict[str, Any]]
    """Of all jobs that did not simply succeed, by their records."""
    dead: int


@dataclass
class Stage:
    prometheus: Prometheus
    local: LocalCluster
    known: Known
    began: float
    ended: float


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.2)


def play(local: LocalCluster, client: Client, prometheus: Prometheus) -> Known:
    """Failures, retries, crashes, refusals, a dead node, a paused queue, schedules."""
    futures: list[Future[Any]] = []
    client.set_queue("paused", paused=True)
    paused = [client.options(queue="paused").submit(load.well, n) for n in range(WAITING)]
    client.schedule("often", every(1), load.well, (1,), overlap="allow")
    client.schedule("slowly", every(1), load.works, (4.0,), overlap="skip", queue="slow")
    futures += [client.submit(load.works, 0.4) for _ in range(SLOW)]
    futures += [client.options(retries=1, retry_delay_s=0.2, jitter=0).submit(load.fails) for _ in range(FAILING)]
    futures += [client.options(retries=5, retry_delay_s=0.2, jitter=0).submit(load.fails_twice) for _ in range(TWICE)]
    futures += [client.options(crash_retries=1).submit(load.crashes) for _ in range(CRASHING)]
    futures.append(client.options(key="k").submit(load.well, 1))
    refused = client.options(key="k").submit(load.works, 0.0)
    assert isinstance(refused.exception(WITHIN_S), KeyConflict)
    futures += [client.submit(load.well, n) for n in range(WELL // 2)]
    expired = client.options(queue="paused", expires_s=1.0).submit(load.well, 1)
    unwanted = client.options(queue="paused").submit(load.well, 1)
    client.flush()
    assert unwanted.cancel()
    until(lambda: (prometheus.figure("sum(ganger_node_slots_busy)") or 0) > 0, "the load is seen")
    until(lambda: (prometheus.figure('ganger_jobs{queue="paused",state="ready"}') or 0) == WAITING, "the pause is seen")
    local.nodes[2].kill()
    until(lambda: prometheus.figure("ganger_nodes_lost_total") == 1, "the lost node is seen")
    futures += [client.submit(load.well, n) for n in range(WELL - WELL // 2)]
    client.set_queue("paused", paused=False)
    for future in [*futures, *paused, expired, unwanted]:
        if not future.cancelled():
            future.exception(WITHIN_S)
    until(lambda: (prometheus.figure("sum(ganger_schedules_skipped_total)") or 0) > 0, "a skip is seen")
    for name in ("often", "slowly"):
        client.schedules.pause(name)
    until(lambda: not list(client.jobs("unfinished")), "all has ended")
    everything = [job for job in client.jobs("finished", limit=None) if not job["error"].startswith("KeyConflict")]
    outcomes = Counter(str(job["state"]) for job in everything)
    attempts = [
        attempt
        for job in everything
        if job["state"] != "succeeded" or job["attempt"] > 1
        for attempt in client.job(job["id"])["attempts"]
    ]
    scheduled = sum(1 for job in everything if job["schedule"])
    dead = len(list(client.jobs("dead", limit=None)))
    return Known(outcomes, len(everything) - scheduled, scheduled, attempts, dead)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("stage")
    with (
        LocalCluster(nodes=3, slots=2, metrics=True, heartbeat_s=0.25, lease_s=3.0, gone_s=0.5) as local,
        scraping(local.metrics_addresses, directory) as prometheus,
        local.client() as client,
    ):
        began = time.time()
        until(lambda: len(prometheus.now("up == 1")) == 4, "all are scraped")
        known = play(local, client, prometheus)
        until(lambda: prometheus.figure("sum(ganger_jobs)") == 0, "the end is seen")
        yield Stage(prometheus, local, known, began, time.time())


def filled(expr: str) -> str:
    """With all that a variable stands for."""
    return re.sub(r"\$(queue|function|node)\b", ".*", expr.replace("$__rate_interval", WINDOW))


def finite(row: dict[str, Any]) -> bool:
    return any(value not in ("NaN", "+Inf", "-Inf") for _, value in row["values"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_no_panel_is_empty(stage: Stage, path: Path) -> None:
    empty = []
    for query in queries_of(path):
        rows = [row for row in stage.prometheus.over(filled(query.expr), stage.began, stage.ended) if finite(row)]
        if query.where in EMPTY:
            continue
        if not rows:
            empty.append(query)
        wanted = labels_in(query.legend)
        for row in rows:
            assert wanted <= set(row["metric"]), f"{query}: {row['metric']}"
    assert empty == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_variables_have_values_and_annotations_can_be_asked(stage: Stage, path: Path) -> None:
    for query in other_queries_of(path):
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", query.expr)
        if found:
            assert stage.prometheus.values(found[2], found[1]), query
        else:
            stage.prometheus.now(query.expr)


def test_every_rule_has_its_data(stage: Stage) -> None:
    """Each is evaluated without a fault, and each series that an expression looks at was there."""
    until(lambda: all(rule["health"] == "ok" for rule in stage.prometheus.rules()), "all were evaluated")
    assert len(stage.prometheus.rules()) == len(rules())
    missing = []
    for rule in rules():
        for name, where in re.findall(r"\b(ganger[:_][a-z0-9_:]+)(\{[^}]*\})?", rule["expr"]):
            if name in ("ganger_role", "ganger_node"):
                continue
            if not stage.prometheus.over(f"{name}{where}", stage.began, stage.ended):
                missing.append((rule.get("alert") or rule["record"], name + where))
    assert missing == []


def test_what_went_wrong_is_alerted(stage: Stage) -> None:
    """Those without a time to wait: a node was lost, jobs were set aside."""
    fired = {
        row["metric"]["alertname"]
        for row in stage.prometheus.over('ALERTS{alertstate="firing"}', stage.began, time.time())
    }
    assert {"GangerNodeLost", "GangerDeadLetters"} <= fired
    assert not fired & {"GangerNoCoordinator", "GangerTwoCoordinators", "GangerStoreDiskLow", "GangerUnreadable"}


def test_core_metrics_equal_an_independent_count(stage: Stage) -> None:
    known, figure = stage.known, stage.prometheus.figure
    whats = [str(attempt["error"]) for attempt in known.attempts]
    crashed = sum(1 for what in whats if "worker process died" in what)
    raised = sum(1 for what in whats if what.startswith(("ConnectionError", "ValueError")))
    twelve: list[tuple[str, float]] = [
        ("sum(ganger_jobs_submitted_total)", known.submitted + known.fired),
        ("ganger_schedules_fired_total", known.fired),
        ('sum(ganger_jobs_finished_total{outcome="succeeded"})', known.outcomes["succeeded"]),
        ('sum(ganger_jobs_finished_total{outcome="failed"})', known.outcomes["failed"]),
        ('sum(ganger_jobs_finished_total{outcome="cancelled"})', known.outcomes["cancelled"]),
        ('sum(ganger_jobs_finished_total{outcome="expired"})', known.outcomes["expired"]),
        ("sum(ganger_jobs_dead_total)", known.dead),
        ('ganger_jobs_retried_total{reason="ValueError"}', FAILING),
        ('ganger_jobs_retried_total{reason="ConnectionError"}', 2 * TWICE),
        ('ganger_jobs_refused_total{reason="KeyConflict"}', 1),
        ('ganger_attempts_total{end="crashed"}', crashed),
        ('ganger_attempts_total{end="raised"}', raised),
        ("ganger_nodes_lost_total", 1),
        ('ganger_nodes{state="up"}', 2),
        ("sum(ganger_job_end_to_end_seconds_count)", sum(known.outcomes.values())),
        ('max_over_time(ganger_queue_paused{queue="paused"}[10m])', 1),
    ]
    assert crashed == 2 * CRASHING
    found = [(expr, figure(expr)) for expr, _ in twelve]
    assert found == twelve


def test_promtool_finds_the_pages_right(stage: Stage) -> None:
    for address in stage.local.metrics_addresses[:2]:
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            page = answer.read()
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_each_dashboard_can_be_drawn(stage: Stage, path: Path, tmp_path: Path) -> None:
    """The pictures of the documents are drawn here: GANGER_TESTS_PICTURES=docs/dashboards keeps them."""
    kept = os.environ.get("GANGER_TESTS_PICTURES")
    drawn: list[tuple[str, str, list[tuple[str, list[tuple[float, float]]]]]] = []
    for panel in panels(path):
        lines = []
        for target in panel["targets"]:
            for row in stage.prometheus.over(filled(target["expr"]), stage.began, stage.ended):
                legend = target["legendFormat"]
                for label in labels_in(legend):
                    legend = legend.replace(f"{{{{{label}}}}}", row["metric"].get(label, ""))
                lines.append((legend, [(float(t), float(v)) for t, v in row["values"] if v not in ("NaN", "+Inf")]))
        drawn.append((panel["title"], panel["fieldConfig"]["defaults"]["unit"], lines))
    out = (ROOT / kept if kept else tmp_path) / f"{path.stem}.svg"
    out.parent.mkdir(exist_ok=True, parents=True)
    out.write_text(picture(drawn), encoding="utf-8")
    text = out.read_text(encoding="utf-8")
    assert text.count("<polyline") > len(drawn) // 2
    assert (ROOT / f"docs/dashboards/{path.stem}.svg").exists()
