"""The dashboards, as a program: it writes ``dashboards/*.json``, which Grafana loads.

    python deploy/grafana/dashboards.py            write them
    python deploy/grafana/dashboards.py --check    compare them, and end with 1 if they differ

Rules of this file: a panel is a title, what it shows, and queries with their legends; what they look like is decided
once. Rows go from what an operator looks at first to what explains it. Needs ``grafana-foundation-sdk`` (``.[dev]``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

HERE = Path(__file__).resolve().parent / "dashboards"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
EVERY = "$__rate_interval"
WIDTH = 24


class Panel(NamedTuple):
    title: str
    shows: str
    """For the little i in its corner."""
    unit: str
    queries: tuple[tuple[str, str], ...]
    """PromQL and legend."""
    kind: str = "time"
    """``time``, ``stat`` or ``table``."""
    width: int = 8
    stacked: bool = False
    bad_above: float | None = None
    """From here on a ``stat`` is red."""


def one(title: str, shows: str, unit: str, expr: str, bad_above: float | None = None) -> Panel:
    return Panel(title, shows, unit, ((expr, title),), "stat", 4, bad_above=bad_above)


def over_time(
    title: str, shows: str, unit: str, *queries: tuple[str, str], width: int = 8, stacked: bool = False
) -> Panel:
    return Panel(title, shows, unit, queries, width=width, stacked=stacked)


def quantiles(
    histogram: str, by: str = "", where: str = "", of: Sequence[float] = (0.5, 0.95, 0.99)
) -> list[tuple[str, str]]:
    """Queries for quantiles of a histogram, by a label."""
    group = f"{by}, le" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return [
        (f"histogram_quantile({q}, sum by ({group}) (rate({histogram}_bucket{where}[{EVERY}])))", f"{name}p{q * 100:g}")
        for q in of
    ]


def per_second(counter: str, by: str = "", where: str = "") -> str:
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}(rate({counter}{where}[{EVERY}]))"


QUEUE, FUNCTION, NODE = '{queue=~"$queue"}', '{function=~"$function"}', '{ganger_node=~"$node"}'
BAD = 'outcome=~"failed|timed out|lost"'

OVERVIEW: list[tuple[str, list[Panel]]] = [
    (
        "Now",
        [
            one("Ready", "Jobs that wait for a slot.", "short", 'sum(ganger_jobs{state="ready"})'),
            one(
                "Oldest ready",
                "How long the oldest of them has waited.",
                "s",
                "max(time() - ganger_queue_oldest_ready_timestamp_seconds) or vector(0)",
                600,
            ),
            one("Busy slots", "Of all that nodes offer.", "percentunit", "ganger:slots_busy:ratio", 0.95),
            one("Nodes up", "Nodes that may be given work.", "short", 'ganger_nodes{state="up"}'),
            one("Nodes not up", "Suspect, draining or drained.", "short", 'sum(ganger_nodes{state!="up"})', 1),
            one("Dead letters", "Jobs set aside in this life of the coordinator.", "short", "ganger_dead_letters", 1),
            one("Finished", "Jobs that got an outcome, a second.", "ops", per_second("ganger_jobs_finished_total")),
            one(
                "Failing",
                "Share of those that failed, timed out or were lost.",
                "percentunit",
                per_second("ganger_jobs_finished_total", where=f"{{{BAD}}}")
                + f" / ({per_second('ganger_jobs_finished_total')} > 0) or vector(0)",
                0.05,
            ),
            one(
                "Queue wait p95",
                "95 of 100 jobs waited less for their slot.",
                "s",
                "max(ganger:queue_wait_seconds:p95_5m)",
                60,
            ),
            one("Held clients", "Clients that may not hand in more.", "short", "ganger_sessions_held", 1),
            one(
                "Alerts",
                "Alerts of Ganger that fire.",
                "short",
                'count(ALERTS{alertname=~"Ganger.*",alertstate="firing"}) or vector(0)',
                1,
            ),
            one(
                "Up for",
                "Since the coordinator was started.",
                "s",
                'time() - max(ganger_process_start_timestamp_seconds{ganger_role="coordinator"})',
            ),
        ],
    ),
    (
        "Flow",
        [
            over_time(
                "Jobs a second",
                "Handed in, placed and finished: they run together when all is well.",
                "ops",
                (per_second("ganger_jobs_submitted_total"), "submitted"),
                (per_second("ganger_jobs_dispatched_total"), "dispatched"),
                (per_second("ganger_jobs_finished_total"), "finished"),
            ),
            over_time(
                "Outcomes",
                "How jobs end.",
                "ops",
                (per_second("ganger_jobs_finished_total", "outcome"), "{{outcome}}"),
                stacked=True,
            ),
            over_time(
                "Jobs by state",
                "Unfinished ones.",
                "short",
                ("sum by (state) (ganger_jobs)", "{{state}}"),
                stacked=True,
            ),
            over_time(
                "Queue wait",
                "From when a job could run until it was placed.",
                "s",
                *quantiles("ganger_job_queue_wait_seconds"),
            ),
            over_time(
                "End to end",
                "From when a job was accepted until it had its outcome.",
                "s",
                *quantiles("ganger_job_end_to_end_seconds"),
            ),
            over_time(
                "Again",
                "Attempts repeated a second: for an error, or for a crash, a lost node, a recall.",
                "ops",
                (per_second("ganger_jobs_retried_total"), "retried"),
                (per_second("ganger_jobs_requeued_total"), "queued again"),
            ),
        ],
    ),
    (
        "Machines",
        [
            over_time(
                "Slots",
                "What nodes offer, and what is used.",
                "short",
                ("sum(ganger_node_slots)", "slots"),
                ("sum(ganger_node_slots_busy)", "busy"),
            ),
            over_time("Nodes", "By state.", "short", ("sum by (state) (ganger_nodes)", "{{state}}"), stacked=True),
            over_time(
                "Processors",
                "Busy share, by node.",
                "percentunit",
                ("ganger_node_cpu_ratio", "{{ganger_node}}"),
            ),
        ],
    ),
]

QUEUES: list[tuple[str, list[Panel]]] = [
    (
        "Queues",
        [
            over_time(
                "Ready",
                "Jobs that wait, by queue.",
                "short",
                ('sum by (queue) (ganger_jobs{queue=~"$queue",state="ready"})', "{{queue}}"),
            ),
            over_time(
                "With nodes",
                "Jobs that nodes have, by queue.",
                "short",
                ('sum by (queue) (ganger_jobs{queue=~"$queue",state="leased"})', "{{queue}}"),
            ),
            over_time(
                "For later",
                "Jobs that wait for a moment or for others, by queue.",
                "short",
                ('sum by (queue) (ganger_jobs{queue=~"$queue",state="scheduled"})', "{{queue}}"),
            ),
            over_time(
                "Oldest ready",
                "How long the oldest has waited.",
                "s",
                (f"time() - ganger_queue_oldest_ready_timestamp_seconds{QUEUE}", "{{queue}}"),
            ),
            over_time("Paused", "1 while it is.", "short", (f"ganger_queue_paused{QUEUE}", "{{queue}}")),
            over_time(
                "Queue wait p95",
                "From when a job could run until it was placed.",
                "s",
                *quantiles("ganger_job_queue_wait_seconds", "queue", QUEUE, (0.95,)),
            ),
            over_time(
                "Submitted",
                "A second.",
                "ops",
                (per_second("ganger_jobs_submitted_total", "queue", QUEUE), "{{queue}}"),
            ),
            over_time(
                "Finished",
                "A second, by outcome.",
                "ops",
                (per_second("ganger_jobs_finished_total", "queue, outcome", QUEUE), "{{queue}} {{outcome}}"),
            ),
            over_time(
                "End to end p95",
                "From acceptance to outcome.",
                "s",
                *quantiles("ganger_job_end_to_end_seconds", "queue", QUEUE, (0.95,)),
            ),
            over_time(
                "Dead letters",
                "Set aside a second.",
                "ops",
                (per_second("ganger_jobs_dead_total", "queue", QUEUE), "{{queue}}"),
            ),
            over_time(
                "Refused",
                "Not taken, by kind of error.",
                "ops",
                (per_second("ganger_jobs_refused_total", "reason"), "{{reason}}"),
            ),
            over_time(
                "Held",
                "Clients that have to wait with what they hand in.",
                "short",
                ("ganger_sessions_held", "clients"),
                (per_second("ganger_submissions_held_total"), "told so a second"),
            ),
        ],
    ),
    (
        "Functions",
        [
            over_time(
                "Finished by function",
                "A second, by function and outcome.",
                "ops",
                (
                    per_second("ganger_function_jobs_finished_total", "function, outcome", FUNCTION),
                    "{{function}} {{outcome}}",
                ),
                width=12,
            ),
            over_time(
                "Failing",
                "Share of their jobs in ten minutes.",
                "percentunit",
                (f"ganger:function_failures:ratio10m{FUNCTION}", "{{function}}"),
                width=12,
            ),
            over_time(
                "Run time p50", "Of attempts.", "s", *quantiles("ganger_job_run_seconds", "function", FUNCTION, (0.5,))
            ),
            over_time(
                "Run time p95", "Of attempts.", "s", *quantiles("ganger_job_run_seconds", "function", FUNCTION, (0.95,))
            ),
            over_time(
                "Slots used",
                "Seconds of run time a second: how many slots each function keeps busy.",
                "short",
                (per_second("ganger_job_run_seconds_sum", "function", FUNCTION), "{{function}}"),
                stacked=True,
            ),
            over_time(
                "Retried",
                "A second, by kind of error.",
                "ops",
                (per_second("ganger_jobs_retried_total", "reason"), "{{reason}}"),
            ),
            over_time(
                "Ends of attempts",
                "But for success, a second.",
                "ops",
                (per_second("ganger_attempts_total", "end", '{end!="succeeded"}'), "{{end}}"),
            ),
            over_time(
                "Peak memory",
                "Of attempts that have a record.",
                "bytes",
                *quantiles("ganger_job_peak_memory_bytes", of=(0.5, 0.95)),
            ),
        ],
    ),
]

NODES: list[tuple[str, list[Panel]]] = [
    (
        "Nodes",
        [
            Panel(
                "Nodes",
                "As the coordinator sees them now.",
                "short",
                (
                    (f"ganger_node_up{NODE}", "up"),
                    (f"ganger_node_slots{NODE}", "slots"),
                    (f"ganger_node_slots_busy{NODE}", "busy"),
                    (f"ganger_node_queued_attempts{NODE}", "queued"),
                    (f"ganger_node_cpu_ratio{NODE}", "cpu"),
                    (f"ganger_node_own_cpu_ratio{NODE}", "own cpu"),
                    (f"ganger:node_memory_available:ratio{NODE}", "memory left"),
                ),
                "table",
                WIDTH,
            ),
            over_time(
                "Busy slots", "By node.", "short", (f"ganger_node_slots_busy{NODE}", "{{ganger_node}}"), stacked=True
            ),
            over_time(
                "Queued",
                "Attempts that lie ready beyond the slots.",
                "short",
                (f"ganger_node_queued_attempts{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Attempts",
                "Ended a second.",
                "ops",
                (per_second("ganger_node_attempts_total", "ganger_node", NODE), "{{ganger_node}}"),
            ),
        ],
    ),
    (
        "What they measure",
        [
            over_time(
                "Processors",
                "Busy share of those it may use.",
                "percentunit",
                (f"ganger_node_cpu_ratio{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Own",
                "...and what its agent and jobs use.",
                "percentunit",
                (f"ganger_node_own_cpu_ratio{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Foreign",
                "What others use there: placement avoids it.",
                "percentunit",
                (f"ganger:node_foreign_cpu:ratio{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Penalty",
                "Share of its slots that counts as taken when work is placed.",
                "percentunit",
                (f"ganger_node_penalty_ratio{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Claimed",
                "Share of what the node offers that its jobs claim: processors, memory, and names of your own.",
                "percentunit",
                (
                    f"ganger_node_resource_claimed{NODE} / (ganger_node_resource_offered{NODE} > 0)",
                    "{{ganger_node}} {{ganger_resource}}",
                ),
            ),
            over_time(
                "Others",
                "Processes beside ours that run on its processors or want to.",
                "short",
                (f"ganger_node_foreign_runnable{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Memory left",
                "Share of what the node may use.",
                "percentunit",
                (f"ganger:node_memory_available:ratio{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Memory of ours",
                "Agent and workers.",
                "bytes",
                (f"ganger_node_own_memory_bytes{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Load",
                "Runnable processes a processor, over a minute.",
                "short",
                (f"ganger_node_load{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Pressure",
                "Share of ten seconds in which something waited.",
                "percentunit",
                (f"ganger_node_pressure_ratio{NODE}", "{{ganger_node}} {{resource}}"),
            ),
            over_time(
                "Disk left",
                "Share of the disk of its directory.",
                "percentunit",
                (f"ganger_node_disk_free_bytes{NODE} / ganger_node_disk_bytes{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Graphics processors", "Busy share.", "percentunit", (f"ganger_node_gpu_ratio{NODE}", "{{ganger_node}}")
            ),
        ],
    ),
    (
        "Life",
        [
            over_time(
                "Heard",
                "Seconds since the last word.",
                "s",
                (f"time() - ganger_node_last_heard_timestamp_seconds{NODE}", "{{ganger_node}}"),
            ),
            over_time(
                "Clocks", "Off ours by so much.", "s", (f"ganger_node_clock_offset_seconds{NODE}", "{{ganger_node}}")
            ),
            over_time(
                "Lost",
                "Nodes given up, and silences.",
                "short",
                (f"sum(increase(ganger_nodes_lost_total[{EVERY}]))", "lost"),
                (f"sum(increase(ganger_nodes_suspected_total[{EVERY}]))", "suspected"),
            ),
            over_time(
                "Workers",
                "Started, died and replaced a second.",
                "ops",
                (per_second("ganger_workers_started_total"), "started"),
                (per_second("ganger_workers_died_total"), "died"),
                (per_second("ganger_workers_replaced_total"), "replaced"),
            ),
            over_time(
                "Starts",
                "Attempts by whether their worker was started for them.",
                "ops",
                (per_second("ganger_worker_attempts_total", "start"), "{{start}}"),
                stacked=True,
            ),
            over_time("Killed for memory", "A second.", "ops", (per_second("ganger_memory_kills_total"), "attempts")),
            over_time(
                "Dispatch",
                "From an assignment's arrival at its node until a worker ran it.",
                "s",
                *quantiles("ganger_dispatch_seconds"),
            ),
            over_time(
                "Agents",
                "What they hold, and what they owe the coordinator.",
                "short",
                ("sum(ganger_agent_attempts)", "attempts"),
                ("sum(ganger_agent_results_owed)", "results owed"),
            ),
            over_time(
                "Links",
                "1 while a node hears its coordinator.",
                "short",
                ("ganger_agent_registered", "{{ganger_node}}"),
            ),
        ],
    ),
]

OF = '{ganger_role="coordinator"}'
COORDINATOR: list[tuple[str, list[Panel]]] = [
    (
        "Loop",
        [
            over_time(
                "Turns", "Time of one turn of the coordinator.", "s", *quantiles("ganger_loop_turn_seconds", where=OF)
            ),
            over_time(
                "Lag",
                "How much later than meant a loop woke up (p99).",
                "s",
                *quantiles("ganger_loop_lag_seconds", "ganger_role", of=(0.99,)),
            ),
            over_time(
                "Events",
                "Handed to the actor a second.",
                "ops",
                (per_second("ganger_loop_events_total", "ganger_role"), "{{ganger_role}}"),
            ),
            over_time(
                "Stalls",
                "Times a process did not run, and the clock was set.",
                "short",
                (f"sum(increase(ganger_loop_stalls_total[{EVERY}]))", "stalls"),
                (f"sum(increase(ganger_clock_jumps_total[{EVERY}]))", "clock set"),
            ),
            over_time(
                "Processor time",
                "Seconds a second.",
                "short",
                (
                    per_second("ganger_process_cpu_seconds_total", "ganger_role, instance"),
                    "{{ganger_role}} {{instance}}",
                ),
            ),
            over_time(
                "Memory", "Resident.", "bytes", ("ganger_process_resident_memory_bytes", "{{ganger_role}} {{instance}}")
            ),
        ],
    ),
    (
        "Store",
        [
            over_time("Commits", "Time of one.", "s", *quantiles("ganger_store_commit_seconds")),
            over_time(
                "Commits a second",
                "And how many turns share one.",
                "short",
                (per_second("ganger_store_commit_seconds_count"), "commits"),
                (
                    per_second("ganger_store_commit_turns_sum")
                    + f" / ({per_second('ganger_store_commit_turns_count')} > 0)",
                    "turns in one",
                ),
            ),
            over_time("Files", "The store's.", "bytes", ("ganger_store_file_bytes", "{{file}}")),
            over_time("Disk left", "For the store.", "bytes", ("ganger_store_disk_free_bytes", "free")),
            over_time(
                "Pruned",
                "Old outcomes forgotten a second.",
                "ops",
                (per_second("ganger_outcomes_pruned_total"), "outcomes"),
            ),
            over_time(
                "In memory",
                "Payloads, and results owed to clients.",
                "bytes",
                ("ganger_payloads_bytes", "payloads"),
                ("ganger_results_owed_bytes", "results owed"),
            ),
        ],
    ),
    (
        "Transport",
        [
            over_time(
                "Messages",
                "A second.",
                "ops",
                (
                    per_second("ganger_transport_messages_total", "ganger_role, direction"),
                    "{{ganger_role}} {{direction}}",
                ),
            ),
            over_time(
                "Bytes",
                "A second.",
                "Bps",
                (per_second("ganger_transport_bytes_total", "ganger_role, direction"), "{{ganger_role}} {{direction}}"),
            ),
            over_time(
                "Trouble",
                "A second: dropped, unroutable, unreadable, without sense, without a key.",
                "ops",
                (per_second("ganger_transport_dropped_total"), "dropped"),
                (per_second("ganger_transport_unroutable_total"), "unroutable"),
                (per_second("ganger_decode_errors_total"), "unreadable"),
                (per_second("ganger_unexpected_messages_total"), "unexpected"),
                (per_second("ganger_transport_strangers_total"), "strangers"),
                (per_second("ganger_handshakes_refused_total"), "handshakes refused"),
                (per_second("ganger_blobs_failed_total"), "blobs failed"),
            ),
            over_time(
                "Sessions", "Of clients.", "short", ("ganger_sessions", "sessions"), ("ganger_sessions_held", "held")
            ),
            over_time(
                "Leases",
                "Attempts ended with their node, late results, hellos of nodes, peers asked to join again.",
                "ops",
                (per_second("ganger_leases_expired_total"), "expired"),
                (per_second("ganger_results_discarded_total"), "results discarded"),
                (per_second("ganger_reconciliations_total"), "reconciled"),
                (per_second("ganger_resyncs_total"), "asked to join again"),
            ),
            over_time(
                "Lives",
                "The coordinator's number, and what it found after its last start.",
                "short",
                ("ganger_epoch", "epoch"),
                ("ganger_jobs_recovered_total", "jobs recovered"),
            ),
        ],
    ),
    (
        "Schedules",
        [
            over_time(
                "Fired",
                "Jobs made for schedules, a second.",
                "ops",
                (per_second("ganger_schedules_fired_total"), "fired"),
            ),
            over_time(
                "Skipped",
                "Times of schedules, a second, by reason.",
                "ops",
                (per_second("ganger_schedules_skipped_total", "reason"), "{{reason}}"),
            ),
            over_time("Late", "How late they fire.", "s", *quantiles("ganger_schedule_lag_seconds", of=(0.5, 0.95))),
            over_time(
                "Schedules",
                "All, and those without a success for too long.",
                "short",
                ("ganger_schedules", "schedules"),
                ("ganger_schedules_overdue", "overdue"),
            ),
            over_time(
                "Next",
                "Until the next one is due.",
                "s",
                ("ganger_schedule_next_fire_timestamp_seconds - time()", "next"),
            ),
            over_time(
                "Given up",
                "Paused after failures in a row.",
                "short",
                (f"sum(increase(ganger_schedules_given_up_total[{EVERY}]))", "schedules"),
            ),
        ],
    ),
    (
        "These metrics",
        [
            over_time(
                "Scrapes", "Time to write one down.", "s", ("ganger_scrape_seconds", "{{ganger_role}} {{instance}}")
            ),
            over_time(
                "Open files",
                "Share of what may be open.",
                "percentunit",
                ("ganger_process_open_fds / ganger_process_max_fds", "{{ganger_role}} {{instance}}"),
            ),
            over_time(
                "Versions",
                "Processes by what they run.",
                "short",
                ("count by (version, python) (ganger_build_info)", "{{version}} Python {{python}}"),
                stacked=True,
            ),
        ],
    ),
]

BOARDS: dict[str, tuple[str, str, list[tuple[str, list[Panel]]], tuple[tuple[str, str], ...]]] = {
    "ganger-overview": ("Overview", "What is wrong, within a minute.", OVERVIEW, ()),
    "ganger-queues": (
        "Queues and functions", "What waits, what runs, what fails.", QUEUES,
        (
            ("queue", "label_values(ganger_jobs, queue)"),
            ("function", "label_values(ganger_function_jobs_finished_total, function)"),
        ),
    ),
    "ganger-nodes": (
        "Nodes and placement", "Which machine does what, and how well.", NODES,
        (("node", "label_values(ganger_node_up, ganger_node)"),),
    ),
    "ganger-coordinator": ("Coordinator", "Loop, store, transport, schedules.", COORDINATOR, ()),
}  # fmt: skip

ANNOTATIONS = (
    (
        "Deploys",
        "blue",
        "count by (version) (ganger_build_info) unless count by (version) (ganger_build_info offset 5m)",
    ),
    (
        "Restarts of the coordinator",
        "orange",
        'changes(ganger_process_start_timestamp_seconds{ganger_role="coordinator"}[1m]) > 0',
    ),
    ("Nodes lost", "red", "increase(ganger_nodes_lost_total[1m]) > 0"),
)


def query(expr: str, legend: str, ref: str, kind: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(SOURCE)
    if kind == "time":
        return made.range()
    made = made.instant()
    return made.format("table") if kind == "table" else made  # type: ignore[arg-type]


def panel(one: Panel, at: models.GridPos) -> Any:
    made: Any
    if one.kind == "stat":
        made = stat.Panel().graph_mode(kinds.BigValueGraphMode.NONE)
        steps = [models.Threshold(color="green", value=None)]
        if one.bad_above is not None:
            steps.append(models.Threshold(color="red", value=one.bad_above))
        made = made.thresholds(build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    elif one.kind == "table":
        made = table.Panel()
        names = {f"Value #{chr(65 + n)}": legend for n, (_, legend) in enumerate(one.queries)}
        made = made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        hidden = dict.fromkeys(("Time", "__name__", "job", "instance", "ganger_role"), True)
        options = {"excludeByName": hidden, "renameByName": {"ganger_node": "node", **names}}
        made = made.with_transformation(models.DataTransformerConfig(id_val="organize", options=options))
    else:
        made = timeseries.Panel().fill_opacity(20 if one.stacked else 0).show_points(kinds.VisibilityMode.NEVER)
        made = made.legend(common.VizLegendOptions().show_legend(True).placement(kinds.LegendPlacement.BOTTOM))
        made = made.tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI))
        if one.stacked:
            made = made.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
        if one.unit != "s" or "Clock" not in one.title:
            made = made.min(0)
    made = made.title(one.title).description(one.shows).unit(one.unit).datasource(SOURCE).grid_pos(at)
    for n, (expr, legend) in enumerate(one.queries):
        made = made.with_target(query(expr, legend, chr(65 + n), one.kind))
    return made


def board(uid: str) -> dict[str, Any]:
    title, shows, rows, variables = BOARDS[uid]
    made = (
        build.Dashboard(f"Ganger / {title}").uid(uid).description(shows).tags(["ganger"]).refresh("10s")
        .time("now-1h", "now").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )  # fmt: skip
    for name, values in variables:
        made = made.with_variable(
            build.QueryVariable(name).label(name.capitalize()).query(values).datasource(SOURCE).multi(True)
            .include_all(True).all_value(".*").refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .current(models.VariableOption(text="All", value="$__all", selected=True))
        )  # fmt: skip
    made = made.with_variable(build.TextBoxVariable("job_id").label("Job id, for its log lines").default_value(""))
    for name, color, expr in ANNOTATIONS:
        made = made.annotation(
            build.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expr)
        )
    others = build.DashboardLink("Ganger").type(models.DashboardLinkType.DASHBOARDS).tags(["ganger"]).keep_time(True)
    panes = {"log": {"queries": [{"refId": "A", "expr": '{unit=~"ganger-.*"} |= "${job_id}"'}]}}
    logs = build.DashboardLink("Log lines of the job").type(models.DashboardLinkType.LINK).keep_time(True)
    made = made.link(others).link(logs.url(f"/explore?schemaVersion=1&panes={json.dumps(panes)}").icon("doc"))
    y = 0
    for name, panels in rows:
        made = made.with_row(build.Row(name).grid_pos(models.GridPos(h=1, w=WIDTH, x=0, y=y)))
        y += 1
        x = height = 0
        for one in panels:
            if x + one.width > WIDTH:
                x, y = 0, y + height
            height = 4 if one.kind == "stat" else 8
            made = made.with_panel(panel(one, models.GridPos(h=height, w=one.width, x=x, y=y)))
            x += one.width
        y += height
    out: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    for number, one_panel in enumerate(out["panels"], 1):
        one_panel["id"] = number
    return out


def main() -> int:
    differ = 0
    HERE.mkdir(exist_ok=True)
    for uid in BOARDS:
        text = json.dumps(board(uid), indent=1, sort_keys=True) + "\n"
        path = HERE / f"{uid}.json"
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"{path} is not what this program makes: run it without --check")
                differ = 1
        else:
            path.write_text(text, encoding="utf-8")
    return differ


if __name__ == "__main__":
    sys.exit(main())
