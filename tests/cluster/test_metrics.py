"""What facts add up to, what is shown of it, and the one table of names."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from bisect import bisect_left
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from prometheus_client.parser import text_string_to_metric_families

from cluster.facts import KINDS, fact
from cluster.metrics import (
    BOTH,
    COORDINATOR,
    COUNTED,
    COUNTER,
    GAUGE,
    HISTOGRAM,
    KNOWN,
    LABEL_CHARS,
    METRICS,
    MOST,
    NODE,
    OTHER,
    OUTCOMES,
    Meter,
    bucketed,
    files,
    transport,
)

ROOT = Path(__file__).resolve().parents[2]


def shown(meter: Meter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each series' value, without the labels that all of its process have."""
    out = {}
    for family in text_string_to_metric_families(meter.text().decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "ganger_role"}
            out[sample.name, tuple(sorted(labels.items()))] = sample.value
    return out


def value(meter: Meter, name: str, **labels: str) -> float | None:
    return shown(meter).get((name, tuple(sorted(labels.items()))))


# ------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("name", METRICS)
def test_names_follow_the_rules(name: str) -> None:
    shape = METRICS[name]
    assert re.fullmatch(r"ganger_[a-z]+(_[a-z]+)*", name)
    assert (shape.kind == COUNTER) == name.endswith("_total")
    assert shape.kind in (COUNTER, GAUGE, HISTOGRAM) and shape.of in (COORDINATOR, NODE, BOTH)
    assert shape.help.endswith(".") and not re.search(r"_(ms|kib|mb|count|sum|bucket|percent)(_|$)", name)
    assert not {"job", "instance", "node", "le", "ganger_role"} & set(shape.labels)
    for label in shape.labels:
        assert label in KNOWN or label in MOST or label in ("file", "version", "python"), f"{label} has no bound"
    if shape.kind == HISTOGRAM:
        assert 10 <= len(shape.buckets) <= 14
        assert list(shape.buckets) == sorted(set(shape.buckets))
        assert name.endswith(("_seconds", "_bytes", "_turns"))


def test_every_fact_that_is_counted_is_a_fact() -> None:
    listened = set(Meter(COORDINATOR, "1")._listen) | set(COUNTED)
    assert listened <= set(KINDS)
    assert set(COUNTED.values()) <= set(METRICS)


@pytest.mark.parametrize(("heading", "of"), [("Coordinator", COORDINATOR), ("Node", NODE), ("Both", BOTH)])
def test_the_document_names_them_all(heading: str, of: str) -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    told = re.findall(r"^\| `(ganger_\w+)` \| (\w+) \| (.+?) \| (.+) \|$", body, re.MULTILINE)
    wanted = [
        (name, shape.kind, ", ".join(f"`{label}`" for label in shape.labels) or "-", shape.help)
        for name, shape in METRICS.items()
        if shape.of == of
    ]
    assert told == wanted


# ------------------------------------------------------------------------------------ columns


@given(
    st.lists(st.floats(0, 1e6), max_size=60),
    st.lists(st.floats(0, 1e5), min_size=1, max_size=14, unique=True).map(sorted),
)
def test_a_column_is_bucketed_as_its_values_one_by_one(values: list[float], bounds: list[float]) -> None:
    expected = [0] * (len(bounds) + 1)
    for one in values:
        expected[bisect_left(bounds, one)] += 1
    assert bucketed(values, bounds) == expected
    assert sum(expected) == len(values)


def test_a_histogram_is_cumulated_and_keeps_its_sum() -> None:
    meter = Meter(COORDINATOR, "1")
    meter.observe("ganger_job_queue_wait_seconds", [0.001, 0.002, 5_000.0], "q")
    meter.observe("ganger_job_queue_wait_seconds", [0.5] * 100, "q")
    found = {
        dict(labels)["le"]: n
        for (name, labels), n in shown(meter).items()
        if name == "ganger_job_queue_wait_seconds_bucket"
    }
    assert [found[le] for le in ("0.001", "0.003", "0.3", "1.0", "3600.0", "+Inf")] == [1, 2, 2, 102, 102, 103]
    assert value(meter, "ganger_job_queue_wait_seconds_count", queue="q") == 103
    assert value(meter, "ganger_job_queue_wait_seconds_sum", queue="q") == pytest.approx(5_050.003)


# ------------------------------------------------------------------------------------ facts


def test_what_becomes_of_jobs_is_counted() -> None:
    meter = Meter(COORDINATOR, "1")
    meter(
        [
            fact("jobs_accepted", 3, session="s", queues=[("a", 2), ("b", 1)]),
            fact("jobs_assigned", 3, node="n", waits=[("a", [0.1, 0.2]), ("b", [0.3])]),
            fact("jobs_finished", 2, outcome="succeeded", rows=[("a", "m:f", [1.0, 2.0])]),
            fact("jobs_finished", 1, outcome="failed", rows=[("b", "m:g", [3.0])]),
            fact("jobs_dead", 1, first="x", function="m:g", queues=[("b", 1)]),
            fact("jobs_retried", 4, reason="OSError"),
            fact("jobs_refused", 5, reason="KeyConflict"),
            fact("node_lost", 6, node="n", reason="silent"),
            fact("attempts_ended", 3, node="n", ends=[0, 3, 0], records=[[0, 1, 1_024, 0, 7]], ran=[("m:f", [10, 20])]),
        ]
    )
    assert value(meter, "ganger_jobs_submitted_total", queue="a") == 2
    assert value(meter, "ganger_jobs_dispatched_total", queue="b") == 1
    assert value(meter, "ganger_job_queue_wait_seconds_sum", queue="a") == pytest.approx(0.3)
    assert value(meter, "ganger_jobs_finished_total", queue="a", outcome="succeeded") == 2
    assert value(meter, "ganger_function_jobs_finished_total", function="m:g", outcome="failed") == 1
    assert value(meter, "ganger_job_end_to_end_seconds_sum", queue="b") == 3
    assert value(meter, "ganger_jobs_dead_total", queue="b") == 1
    assert value(meter, "ganger_jobs_retried_total", reason="OSError") == 4
    assert value(meter, "ganger_jobs_refused_total", reason="KeyConflict") == 5
    assert value(meter, "ganger_nodes_lost_total") == 1
    assert value(meter, "ganger_leases_expired_total") == 6
    assert value(meter, "ganger_attempts_total", end="memory") == 1
    assert value(meter, "ganger_memory_kills_total") == 1
    assert value(meter, "ganger_worker_attempts_total", start="cold") == 1
    assert value(meter, "ganger_worker_attempts_total", start="warm") == 2
    assert value(meter, "ganger_job_run_seconds_sum", function="m:f") == pytest.approx(30e-6)
    assert value(meter, "ganger_job_peak_memory_bytes_sum") == 1 << 20


def test_what_may_happen_is_there_from_the_start_at_zero() -> None:
    meter = Meter(COORDINATOR, "1")
    assert value(meter, "ganger_nodes_lost_total") == 0
    assert value(meter, "ganger_attempts_total", end="crashed") == 0
    assert value(meter, "ganger_store_commit_seconds_count") == 0
    assert value(meter, "ganger_jobs_dead_total", queue="default") == 0
    assert value(meter, "ganger_jobs_dead_total", queue="a") is None
    meter([fact("jobs_accepted", 1, session="s", queues=[("a", 1)])])
    assert value(meter, "ganger_jobs_dead_total", queue="a") == 0, "else its first increase is not seen as one"
    meter([fact("jobs_finished", 1, outcome="succeeded", rows=[("a", "f", [0.1])])])
    assert [value(meter, "ganger_jobs_finished_total", queue="a", outcome=o) for o in OUTCOMES] == [1, 0, 0, 0, 0, 0]


def test_each_process_counts_its_own() -> None:
    node = Meter(NODE, "1", "n1")
    node([fact("garbled", 2, reason="x"), fact("node_joined", node="n", slots=1, host="h", link=1)])
    assert value(node, "ganger_decode_errors_total", ganger_node="n1") == 2
    assert not any(name.startswith("ganger_reconciliations") for name, _ in shown(node))


def test_a_node_is_ready_while_its_coordinator_is_heard() -> None:
    meter = Meter(NODE, "1", "n1")
    states = [meter.ready]
    for kind, about in (
        ("registered", {"epoch": 1, "link": 1}),
        ("link_down", {"seconds": 3.0, "reason": "x"}),
        ("link_back", {"seconds": 3.0}),
    ):
        meter([fact(kind, **about)])
        states.append(meter.ready)
        assert value(meter, "ganger_agent_registered", ganger_node="n1") == states[-1]
    assert states == [False, True, False, True]


OF_COUNTERS = {label: most for label, most in MOST.items() if label != "ganger_resource"}
"""The other is of gauges alone."""


@pytest.mark.parametrize(("label", "most"), OF_COUNTERS.items())
def test_labels_are_bounded(label: str, most: int) -> None:
    name, shape = next((n, s) for n, s in METRICS.items() if s.kind == COUNTER and s.labels[:1] == (label,))
    meter = Meter(COORDINATOR, "1")
    most -= len(meter._seen.get(label, ()))
    rest = [KNOWN[other][0] for other in shape.labels[1:]]
    for n in range(2 * most):
        meter.count(name, 1, f"value-{n}", *rest)
    found = {dict(labels)[label]: n for (kind, labels), n in shown(meter).items() if kind == name and n}
    assert len(found) == most + 1
    assert found[OTHER] == most
    meter.count(name, 1, "x" * 10_000, *rest)
    meter.count(name, 1, "value-0", *rest)
    assert max(len(dict(labels)[label]) for (kind, labels) in shown(meter) if kind == name) <= LABEL_CHARS
    assert sum(n for (kind, _), n in shown(meter).items() if kind == name) == 2 * most + 2


def test_named_functions_have_series_and_all_others_are_one() -> None:
    meter = Meter(COORDINATOR, "1", functions=["m:mine"])
    for function in ("m:first", "m:mine", "m:second"):
        meter([fact("jobs_finished", 1, outcome="succeeded", rows=[("q", function, [0.1])])])
    counts = {
        f: value(meter, "ganger_function_jobs_finished_total", function=f, outcome="succeeded")
        for f in ("m:mine", OTHER, "m:first")
    }
    assert counts == {"m:mine": 1, OTHER: 2, "m:first": None}


def test_what_people_write_cannot_break_the_page() -> None:
    meter = Meter(COORDINATOR, "1")
    evil = 'a"} 1\nganger_jobs_dead_total 99\n# \\'
    meter.count("ganger_jobs_submitted_total", 1, evil)
    assert value(meter, "ganger_jobs_submitted_total", queue=evil) == 1
    assert value(meter, "ganger_jobs_dead_total") is None


def test_what_is_not_in_the_table_is_a_bug() -> None:
    meter = Meter(COORDINATOR, "1")
    with pytest.raises(KeyError):
        meter.count("ganger_surprises_total")
    with pytest.raises(AssertionError):
        meter.show("ganger_surprise", {(): 1})
    with pytest.raises(KeyError):
        meter.count("ganger_workers_died_total")  # the node's


# ------------------------------------------------------------------------------------ gauges and the loop


def measured(**nodes: str) -> Any:
    queue = {"name": "q", "paused": True, "scheduled": 1, "ready": 2, "leased": 3, "oldest": 77.0}
    rows = [
        {
            "name": name,
            "state": state,
            "slots": 4,
            "slots_busy": 1,
            "queued_attempts": 0,
            "last_heard_timestamp_seconds": 5.0,
            "clock_offset_s": None,
            "penalty_ratio": 0.0,
            "resources": {"cpus": {"offered": 4.0, "claimed": 1.5}},
            "vitals": {"cpu_ratio": 0.5, "memory_pressure_ratio": 0.25, "strange": 1, "load": None},
        }
        for name, state in nodes.items()
    ]
    return fact("measured", 6, queues=[queue], nodes=rows, figures={"epoch": 3})


def test_gauges_are_what_the_books_said_last() -> None:
    meter = Meter(COORDINATOR, "1")
    meter([measured(a="up", b="suspect")])
    assert value(meter, "ganger_jobs", queue="q", state="leased") == 3
    assert value(meter, "ganger_queue_oldest_ready_timestamp_seconds", queue="q") == 77
    assert value(meter, "ganger_queue_paused", queue="q") == 1
    assert value(meter, "ganger_nodes", state="suspect") == 1
    assert value(meter, "ganger_node_up", ganger_node="b") == 0
    assert value(meter, "ganger_node_cpu_ratio", ganger_node="a") == 0.5
    assert value(meter, "ganger_node_pressure_ratio", ganger_node="a", resource="memory") == 0.25
    cpus = {"ganger_node": "a", "ganger_resource": "cpus"}
    assert value(meter, "ganger_node_resource_offered", **cpus) == 4.0
    assert value(meter, "ganger_node_resource_claimed", **cpus) == 1.5
    assert value(meter, "ganger_epoch") == 3
    meter([measured(a="up")])
    assert value(meter, "ganger_node_up", ganger_node="b") is None, "a node that is gone has no series"
    assert value(meter, "ganger_nodes", state="suspect") == 0


def test_resources_have_series_as_far_as_there_are_not_too_many() -> None:
    told = measured(a="up")
    told.about["nodes"][0]["resources"] = {f"r{n}" * 200: {"offered": 1.0, "claimed": 0.0} for n in range(99)}
    meter = Meter(COORDINATOR, "1")
    meter([told])
    series = [dict(labels) for (name, labels) in shown(meter) if name == "ganger_node_resource_offered"]
    assert len(series) == MOST["ganger_resource"]
    assert all(
        labels["ganger_resource"] != OTHER and len(labels["ganger_resource"]) <= LABEL_CHARS for labels in series
    )


def test_turns_and_commits_are_counted_together() -> None:
    meter = Meter(COORDINATOR, "1")
    for n in range(5):
        meter.committed(0.002, 3)
        meter.turned(100.0 + n, 0.0005, 0.0, 7)
    assert value(meter, "ganger_loop_turn_seconds_count") == 5
    assert value(meter, "ganger_loop_events_total") == 35
    assert value(meter, "ganger_store_commit_seconds_count") == 5
    assert value(meter, "ganger_store_commit_turns_sum") == 15


class Wire:
    received, received_bytes, sent, sent_bytes, dropped = 1, 2, 3, 4, 5
    unroutable = 6


def test_what_others_keep_is_asked_at_each_scrape(tmp_path: Path) -> None:
    meter = Meter(COORDINATOR, "1")
    meter.look("wire", lambda: transport(Wire()))
    (tmp_path / "store.db").write_bytes(bytes(10))
    meter.look("store", lambda: files(tmp_path / "store.db"))
    assert value(meter, "ganger_transport_bytes_total", direction="sent") == 4
    assert value(meter, "ganger_transport_unroutable_total") == 6
    assert value(meter, "ganger_store_file_bytes", file="database") == 10
    assert (value(meter, "ganger_process_cpu_seconds_total") or 0) > 0
    (tmp_path / "store.db").unlink()
    tmp_path.rmdir()
    assert value(meter, "ganger_transport_bytes_total", direction="sent") == 4, "what fails takes nothing with it"


def test_a_scrape_and_the_loop_do_not_meet() -> None:
    """A counter never goes back, and a histogram is whole, while another thread writes."""
    meter = Meter(COORDINATOR, "1")
    done = threading.Event()

    def write() -> None:
        n = 0
        while not done.is_set():
            n += 1
            queue = f"q{n % 90}"
            meter([fact("jobs_assigned", 2, node="n", waits=[(queue, [0.5, 0.5])])])

    writer = threading.Thread(target=write)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    writer.start()
    try:
        last: dict[Any, float] = {}
        for _ in range(15):
            now = shown(meter)
            for key, n in last.items():
                if key[0].endswith(("_total", "_count", "_sum", "_bucket")) and "process" not in key[0]:
                    assert now[key] >= n, key
            for (name, labels), n in now.items():
                if name == "ganger_job_queue_wait_seconds_count":
                    assert now["ganger_job_queue_wait_seconds_sum", labels] == n / 2
            last = now
    finally:
        done.set()
        writer.join()
        sys.setswitchinterval(interval)
    assert len({key for key in last if key[0] == "ganger_jobs_dispatched_total"}) == MOST["queue"] + 1


def test_the_core_does_without_it() -> None:
    """An actor that reports facts loads no library of Prometheus."""
    program = "import sys, scheduler.coordinator, node.agent; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
