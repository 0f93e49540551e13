"""Facts to figures for Prometheus. Rules of this file: one listener, and one table of all there is to be seen.

- A metric that is not in :data:`METRICS` is a bug. Names begin with ``ganger_``, units are seconds and bytes and stand
  last, counters end in ``_total``. No label collides with those of a scrape (``job``, ``instance``); none is a job's
  id.
- Labels are bounded (:data:`MOST`): the first values that come up have series of their own, the rest is ``other``.
- Columns are counted a column at a time: what a job costs here is a small part of a microsecond.
- The actor's thread writes, another one reads for a scrape. Each entry is replaced as a whole, never changed, and what
  is read is copied in one step of the interpreter: no lock, and neither waits for the other.
- Gauges of the actor's books are those it gave last, once a second (``measured``): a scrape walks no book.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from cluster.facts import Fact
from cluster.jobs import End, Outcome

CONTENT_TYPE = CONTENT_TYPE_LATEST
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
COORDINATOR, NODE, BOTH = "coordinator", "node", "coordinator and node"

OTHER = "other"
"""Stands for all values of a label beyond its bound."""

LABEL_CHARS = 120
"""Longer values are cut."""

OUTCOMES = tuple(o.word for o in Outcome)
ENDS = tuple(e.name.lower() for e in End if e is not End.UNSTARTED)
STATES = ("scheduled", "ready", "leased")
NODE_STATES = ("up", "suspect", "draining", "drained")
PRESSURES = ("cpu", "memory", "io")

KNOWN: dict[str, tuple[str, ...]] = {
    "outcome": OUTCOMES,
    "end": ENDS,
    "state": STATES,
    "direction": ("received", "sent"),
    "resource": PRESSURES,
    "start": ("cold", "warm"),
}
"""Labels of which all values are known: their series begin at 0."""

MOST: dict[str, int] = {"function": 64, "queue": 64, "reason": 32, "ganger_node": 256, "ganger_resource": 32}
"""Values with series of their own, of labels of which they are not."""

# -- buckets, in seconds but for the last ----------------------------------------------------------------

WAIT_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_600.0)
RUN_S = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 600.0, 3_600.0, 21_600.0, 86_400.0)
DISPATCH_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
COMMIT_S = (0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03, 0.1, 0.25, 0.5, 1.0)
TURN_S = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TURNS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
MEMORY = tuple(float(1 << n) for n in range(24, 36))


class Shape(NamedTuple):
    """What is known of one metric."""

    kind: str
    of: str
    """Who serves it."""
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: dict[str, Shape] = {
    # flow
    "ganger_jobs_submitted_total": Shape(COUNTER, COORDINATOR, "Jobs accepted.", ("queue",)),
    "ganger_jobs_dispatched_total": Shape(COUNTER, COORDINATOR, "Attempts given to nodes.", ("queue",)),
    "ganger_jobs_finished_total": Shape(COUNTER, COORDINATOR, "Jobs that got their outcome.", ("queue", "outcome")),
    "ganger_function_jobs_finished_total": Shape(
        COUNTER, COORDINATOR, "Jobs that got their outcome, by function.", ("function", "outcome")
    ),
    "ganger_jobs_retried_total": Shape(
        COUNTER, COORDINATOR, "Jobs that shall run again after a pause, by the kind of their failure.", ("reason",)
    ),
    "ganger_jobs_requeued_total": Shape(
        COUNTER, COORDINATOR, "Jobs queued again after a crash, a lost node, or when they were given back."
    ),
    "ganger_jobs_refused_total": Shape(COUNTER, COORDINATOR, "Jobs that were not taken.", ("reason",)),
    "ganger_jobs_dead_total": Shape(COUNTER, COORDINATOR, "Jobs set aside as dead letters.", ("queue",)),
    "ganger_submissions_held_total": Shape(
        COUNTER, COORDINATOR, "Times a client had to wait with what it hands in, because a limit was reached."
    ),
    "ganger_attempts_total": Shape(COUNTER, COORDINATOR, "Attempts that nodes told the end of.", ("end",)),
    "ganger_node_attempts_total": Shape(COUNTER, COORDINATOR, "Attempts whose end this node told.", ("ganger_node",)),
    # state
    "ganger_jobs": Shape(GAUGE, COORDINATOR, "Unfinished jobs; those that nodes have are leased.", ("queue", "state")),
    "ganger_queue_oldest_ready_timestamp_seconds": Shape(
        GAUGE, COORDINATOR, "Since when the oldest ready job of the queue waits; none if none does.", ("queue",)
    ),
    "ganger_queue_paused": Shape(GAUGE, COORDINATOR, "1 while the queue is paused.", ("queue",)),
    "ganger_dead_letters": Shape(GAUGE, COORDINATOR, "Jobs set aside in this life of the coordinator."),
    "ganger_sessions": Shape(GAUGE, COORDINATOR, "Sessions of clients."),
    "ganger_sessions_held": Shape(GAUGE, COORDINATOR, "...of which so many have to wait with what they hand in."),
    "ganger_results_owed_bytes": Shape(GAUGE, COORDINATOR, "Results in memory that clients have not acknowledged."),
    "ganger_payloads_bytes": Shape(GAUGE, COORDINATOR, "Payloads of unfinished jobs in memory."),
    # latency
    "ganger_job_queue_wait_seconds": Shape(
        HISTOGRAM, COORDINATOR, "From when a job could run until it was placed.", ("queue",), WAIT_S
    ),
    "ganger_job_run_seconds": Shape(
        HISTOGRAM, COORDINATOR, "Run time of attempts that told an end.", ("function",), RUN_S
    ),
    "ganger_job_end_to_end_seconds": Shape(
        HISTOGRAM, COORDINATOR, "From when a job was accepted until it had its outcome.", ("queue",), WAIT_S
    ),
    "ganger_dispatch_seconds": Shape(
        HISTOGRAM, NODE, "From when an assignment reached its node until a worker ran it.", (), DISPATCH_S
    ),
    # schedules
    "ganger_schedules_fired_total": Shape(COUNTER, COORDINATOR, "Jobs made for schedules."),
    "ganger_schedules_skipped_total": Shape(COUNTER, COORDINATOR, "Times of schedules skipped.", ("reason",)),
    "ganger_schedules_given_up_total": Shape(COUNTER, COORDINATOR, "Schedules paused after failures in a row."),
    "ganger_schedules": Shape(GAUGE, COORDINATOR, "Schedules there are."),
    "ganger_schedules_overdue": Shape(GAUGE, COORDINATOR, "Schedules without a success for too long."),
    "ganger_schedule_next_fire_timestamp_seconds": Shape(
        GAUGE, COORDINATOR, "When a schedule is due next; none if none is."
    ),
    "ganger_schedule_lag_seconds": Shape(
        HISTOGRAM, COORDINATOR, "How much later than due the last of those that fired together was.", (), WAIT_S
    ),
    # nodes, as the coordinator sees them
    "ganger_nodes": Shape(GAUGE, COORDINATOR, "Nodes by state.", ("state",)),
    "ganger_nodes_lost_total": Shape(COUNTER, COORDINATOR, "Nodes given up for their silence."),
    "ganger_nodes_suspected_total": Shape(COUNTER, COORDINATOR, "Times a node was silent for too long."),
    "ganger_node_up": Shape(GAUGE, COORDINATOR, "1 if the node may be given work.", ("ganger_node",)),
    "ganger_node_slots": Shape(GAUGE, COORDINATOR, "Attempts the node runs at a time.", ("ganger_node",)),
    "ganger_node_slots_busy": Shape(GAUGE, COORDINATOR, "...of which so many have one.", ("ganger_node",)),
    "ganger_node_queued_attempts": Shape(GAUGE, COORDINATOR, "Attempts lying ready beyond them.", ("ganger_node",)),
    "ganger_node_last_heard_timestamp_seconds": Shape(
        GAUGE, COORDINATOR, "When the node was heard last.", ("ganger_node",)
    ),
    "ganger_node_clock_offset_seconds": Shape(
        GAUGE, COORDINATOR, "The node's wall clock less ours, and the way of a message.", ("ganger_node",)
    ),
    "ganger_node_cpu_ratio": Shape(
        GAUGE, COORDINATOR, "Share of the processors it may use that was busy in the last second.", ("ganger_node",)
    ),
    "ganger_node_own_cpu_ratio": Shape(
        GAUGE, COORDINATOR, "...and that its own agent and workers used.", ("ganger_node",)
    ),
    "ganger_node_foreign_runnable": Shape(
        GAUGE, COORDINATOR, "Processes of others that run on its processors or want to.", ("ganger_node",)
    ),
    "ganger_node_penalty_ratio": Shape(
        GAUGE, COORDINATOR, "Share of its slots that counts as taken, for what others use there.", ("ganger_node",)
    ),
    "ganger_node_resource_offered": Shape(
        GAUGE, COORDINATOR, "How much of a resource it has to share out.", ("ganger_node", "ganger_resource")
    ),
    "ganger_node_resource_claimed": Shape(
        GAUGE, COORDINATOR, "...of which its jobs claim so much.", ("ganger_node", "ganger_resource")
    ),
    "ganger_node_load": Shape(GAUGE, COORDINATOR, "Runnable processes a processor, over a minute.", ("ganger_node",)),
    "ganger_node_memory_bytes": Shape(GAUGE, COORDINATOR, "Memory the node may use.", ("ganger_node",)),
    "ganger_node_memory_available_bytes": Shape(GAUGE, COORDINATOR, "...and what is left.", ("ganger_node",)),
    "ganger_node_own_memory_bytes": Shape(
        GAUGE, COORDINATOR, "Memory of its agent and workers; what they share counts for each.", ("ganger_node",)
    ),
    "ganger_node_pressure_ratio": Shape(
        GAUGE,
        COORDINATOR,
        "Share of the last ten seconds in which something had to wait for it (PSI some).",
        ("ganger_node", "resource"),
    ),
    "ganger_node_disk_free_bytes": Shape(GAUGE, COORDINATOR, "Free on the disk of its directory.", ("ganger_node",)),
    "ganger_node_disk_bytes": Shape(GAUGE, COORDINATOR, "...of so many.", ("ganger_node",)),
    "ganger_node_gpus": Shape(GAUGE, COORDINATOR, "Graphics processors.", ("ganger_node",)),
    "ganger_node_gpu_ratio": Shape(GAUGE, COORDINATOR, "...and how busy they are.", ("ganger_node",)),
    "ganger_node_gpu_memory_free_bytes": Shape(GAUGE, COORDINATOR, "...and their free memory.", ("ganger_node",)),
    # leases, epochs, peers
    "ganger_epoch": Shape(GAUGE, COORDINATOR, "Number of this life of the coordinator."),
    "ganger_leases_expired_total": Shape(COUNTER, COORDINATOR, "Attempts ended because their node was lost."),
    "ganger_results_discarded_total": Shape(COUNTER, COORDINATOR, "Late results of superseded attempts."),
    "ganger_reconciliations_total": Shape(COUNTER, COORDINATOR, "Hellos of nodes, each settled with what they hold."),
    "ganger_resyncs_total": Shape(COUNTER, COORDINATOR, "Peers asked to join again."),
    "ganger_jobs_recovered_total": Shape(COUNTER, COORDINATOR, "Unfinished jobs found after a restart."),
    "ganger_lives_total": Shape(COUNTER, COORDINATOR, "Times the coordinator began anew because its store failed."),
    "ganger_peers_refused_total": Shape(COUNTER, COORDINATOR, "Hellos refused: version, role, name, a limit."),
    # workers
    "ganger_workers_started_total": Shape(COUNTER, NODE, "Workers that became ready."),
    "ganger_workers_died_total": Shape(COUNTER, NODE, "Workers that died, whatever of."),
    "ganger_workers_replaced_total": Shape(COUNTER, NODE, "Workers replaced or let go in order."),
    "ganger_worker_attempts_total": Shape(
        COUNTER, COORDINATOR, "Attempts by whether their worker had just been started for them.", ("start",)
    ),
    "ganger_memory_kills_total": Shape(COUNTER, COORDINATOR, "Attempts killed because memory ran out."),
    "ganger_job_peak_memory_bytes": Shape(
        HISTOGRAM, COORDINATOR, "Peak memory of attempts that have a record.", (), MEMORY
    ),
    # the agent itself
    "ganger_agent_registered": Shape(GAUGE, NODE, "1 while the coordinator is heard."),
    "ganger_agent_slots": Shape(GAUGE, NODE, "Attempts it runs at a time."),
    "ganger_agent_slots_busy": Shape(GAUGE, NODE, "...of which so many have one."),
    "ganger_agent_workers": Shape(GAUGE, NODE, "Workers that are ready or busy."),
    "ganger_agent_attempts": Shape(GAUGE, NODE, "Attempts it holds, those with a result that is owed too."),
    "ganger_agent_results_owed": Shape(GAUGE, NODE, "Results the coordinator has not acknowledged."),
    "ganger_agent_attempts_finished_total": Shape(COUNTER, NODE, "Results handed over."),
    "ganger_agent_attempts_discarded_total": Shape(COUNTER, NODE, "Attempts the coordinator did not want any more."),
    "ganger_agent_links_total": Shape(COUNTER, NODE, "Times it registered with a coordinator."),
    "ganger_agent_links_down_total": Shape(COUNTER, NODE, "Times the coordinator was not heard for too long."),
    "ganger_agent_cpu_ratio": Shape(GAUGE, NODE, "As `ganger_node_cpu_ratio`, by its own word."),
    "ganger_agent_own_cpu_ratio": Shape(GAUGE, NODE, "As `ganger_node_own_cpu_ratio`."),
    "ganger_agent_foreign_runnable": Shape(GAUGE, NODE, "As `ganger_node_foreign_runnable`."),
    "ganger_agent_load": Shape(GAUGE, NODE, "As `ganger_node_load`."),
    "ganger_agent_memory_bytes": Shape(GAUGE, NODE, "As `ganger_node_memory_bytes`."),
    "ganger_agent_memory_available_bytes": Shape(GAUGE, NODE, "As `ganger_node_memory_available_bytes`."),
    "ganger_agent_own_memory_bytes": Shape(GAUGE, NODE, "As `ganger_node_own_memory_bytes`."),
    "ganger_agent_pressure_ratio": Shape(GAUGE, NODE, "As `ganger_node_pressure_ratio`.", ("resource",)),
    "ganger_agent_disk_free_bytes": Shape(GAUGE, NODE, "As `ganger_node_disk_free_bytes`."),
    "ganger_agent_disk_bytes": Shape(GAUGE, NODE, "As `ganger_node_disk_bytes`."),
    "ganger_agent_gpus": Shape(GAUGE, NODE, "As `ganger_node_gpus`."),
    "ganger_agent_gpu_ratio": Shape(GAUGE, NODE, "As `ganger_node_gpu_ratio`."),
    "ganger_agent_gpu_memory_free_bytes": Shape(GAUGE, NODE, "As `ganger_node_gpu_memory_free_bytes`."),
    # transport
    "ganger_transport_messages_total": Shape(COUNTER, BOTH, "Messages over the sockets.", ("direction",)),
    "ganger_transport_bytes_total": Shape(COUNTER, BOTH, "Their bytes.", ("direction",)),
    "ganger_transport_dropped_total": Shape(COUNTER, BOTH, "Sends dropped: no connection, or its queue was full."),
    "ganger_transport_unroutable_total": Shape(COUNTER, COORDINATOR, "Sends to a peer that was gone."),
    "ganger_transport_strangers_total": Shape(COUNTER, COORDINATOR, "Messages whose sender's key is not registered."),
    "ganger_handshakes_refused_total": Shape(COUNTER, COORDINATOR, "Handshakes refused."),
    "ganger_decode_errors_total": Shape(COUNTER, BOTH, "Messages that could not be read."),
    "ganger_unexpected_messages_total": Shape(COUNTER, BOTH, "Messages that make no sense from their sender."),
    "ganger_blobs_failed_total": Shape(COUNTER, BOTH, "Large payloads or results that could not be moved."),
    # store
    "ganger_store_commit_seconds": Shape(HISTOGRAM, COORDINATOR, "Time of one commit.", (), COMMIT_S),
    "ganger_store_commit_turns": Shape(HISTOGRAM, COORDINATOR, "Turns of the loop that one commit holds.", (), TURNS),
    "ganger_store_file_bytes": Shape(GAUGE, COORDINATOR, "Size of the store's files.", ("file",)),
    "ganger_store_disk_free_bytes": Shape(GAUGE, COORDINATOR, "Free on the store's disk."),
    "ganger_store_disk_low": Shape(GAUGE, COORDINATOR, "1 while nothing is taken because the disk is full."),
    "ganger_outcomes_pruned_total": Shape(COUNTER, COORDINATOR, "Old outcomes forgotten."),
    # loop and process
    "ganger_loop_turn_seconds": Shape(HISTOGRAM, BOTH, "Time of one turn of the loop, its commit with it.", (), TURN_S),
    "ganger_loop_lag_seconds": Shape(HISTOGRAM, BOTH, "How much later than meant the loop woke up.", (), TURN_S),
    "ganger_loop_events_total": Shape(COUNTER, BOTH, "Events handed to the actor."),
    "ganger_loop_stalls_total": Shape(COUNTER, BOTH, "Times this process did not run for a second or more."),
    "ganger_clock_jumps_total": Shape(COUNTER, BOTH, "Times the wall clock was set."),
    "ganger_process_cpu_seconds_total": Shape(COUNTER, BOTH, "Processor time of this process."),
    "ganger_process_resident_memory_bytes": Shape(GAUGE, BOTH, "Memory of this process."),
    "ganger_process_open_fds": Shape(GAUGE, BOTH, "Its open descriptors."),
    "ganger_process_max_fds": Shape(GAUGE, BOTH, "...of so many."),
    "ganger_process_start_timestamp_seconds": Shape(GAUGE, BOTH, "When it began."),
    "ganger_scrape_seconds": Shape(GAUGE, BOTH, "Time the scrape before this one took to write down."),
    "ganger_build_info": Shape(GAUGE, BOTH, "Always 1; what runs is in the labels.", ("version", "python")),
}

COUNTED: dict[str, str] = {
    "jobs_requeued": "ganger_jobs_requeued_total",
    "jobs_recovered": "ganger_jobs_recovered_total",
    "results_discarded": "ganger_results_discarded_total",
    "submissions_held": "ganger_submissions_held_total",
    "outcomes_pruned": "ganger_outcomes_pruned_total",
    "resync": "ganger_resyncs_total",
    "peer_refused": "ganger_peers_refused_total",
    "node_joined": "ganger_reconciliations_total",
    "node_suspect": "ganger_nodes_suspected_total",
    "handshake_refused": "ganger_handshakes_refused_total",
    "store_failed": "ganger_lives_total",
    "schedules_fired": "ganger_schedules_fired_total",
    "garbled": "ganger_decode_errors_total",
    "unexpected": "ganger_unexpected_messages_total",
    "blob_failed": "ganger_blobs_failed_total",
    "stalled": "ganger_loop_stalls_total",
    "clock_jumped": "ganger_clock_jumps_total",
    "worker_started": "ganger_workers_started_total",
    "worker_died": "ganger_workers_died_total",
    "worker_replaced": "ganger_workers_replaced_total",
    "jobs_run": "ganger_agent_attempts_finished_total",
    "assignments_discarded": "ganger_agent_attempts_discarded_total",
    "registered": "ganger_agent_links_total",
    "link_down": "ganger_agent_links_down_total",
}
"""Facts whose count is a counter. Of those that happen to both kinds of process, each counts its own."""

VITALS = (
    *(
        "cpu_ratio",
        "own_cpu_ratio",
        "foreign_runnable",
        "load",
        "memory_bytes",
        "memory_available_bytes",
        "own_memory_bytes",
    ),
    *("disk_free_bytes", "disk_bytes", "gpus", "gpu_ratio", "gpu_memory_free_bytes"),
)
"""Figures of a machine that are gauges under their own names."""

FLUSH = 64
"""Turns and commits are noted, and counted when there are so many,"""
FLUSH_S = 0.5
"""...or after this."""

Labels = tuple[str, ...]
Row = tuple[str, Labels, float]
"""A metric's name, the values of its labels, and its value."""


class Counts(NamedTuple):
    """One histogram: how many were in each bucket alone, the one without an end last; and their sum."""

    buckets: tuple[int, ...]
    total: float


@cache
def _scaled(name: str, scale: float) -> tuple[float, ...]:
    """Bounds of a histogram for values that are yet to be multiplied. ``1 / scale`` is whole: bounds stay as they are
    meant."""
    return tuple(bound * round(1 / scale) for bound in METRICS[name].buckets)


def bucketed(values: Sequence[float], bounds: Sequence[float]) -> list[int]:
    """How many lie at or below each bound and above the one before it, and above all."""
    counts = [0] * (len(bounds) + 1)
    if len(values) < 6:
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        return counts
    first, last = bisect_left(bounds, min(values)), bisect_left(bounds, max(values))
    if first == last:  # as most columns are: what a turn handles is alike
        counts[first] = len(values)
        return counts
    ordered = sorted(values)
    edges = [0, *(bisect_right(ordered, bound) for bound in bounds), len(ordered)]
    return [b - a for a, b in pairwise(edges)]


class Meter:
    """Listens to the facts of one process, and shows what they add up to.

    ``role``: ``coordinator`` or ``node``; a node's series all carry its ``name``. ``functions``: those that have
    series of their own; without them the first that come up.
    """

    def __init__(self, role: str, version: str, name: str = "", functions: Iterable[str] = ()) -> None:
        self.role = role
        self.ready = False
        """Whether the agent is registered, by what was heard last."""
        self._constant = {"ganger_role": role} | ({"ganger_node": name} if name else {})
        self._shapes = {n: s for n, s in METRICS.items() if s.of in (role, BOTH)}
        self._counters: dict[str, dict[Labels, float]] = {n: {} for n, s in self._shapes.items() if s.kind == COUNTER}
        self._histograms: dict[str, dict[Labels, Counts]] = {
            n: {} for n, s in self._shapes.items() if s.kind == HISTOGRAM
        }
        self._gauges: dict[str, dict[Labels, float]] = {n: {} for n, s in self._shapes.items() if s.kind == GAUGE}
        self._seen: dict[str, dict[str, None]] = {}
        self._keys: dict[tuple[str, Labels], Labels] = {}
        """Of series that there are, to find them by their labels."""
        self._fixed = frozenset(functions)
        if self._fixed:
            self._seen["function"] = dict.fromkeys(sorted(self._fixed))
        self._looks: dict[str, Callable[[], Iterable[Row]]] = {"process": _process}
        self._turns: list[float] = []
        self._lags: list[float] = []
        self._commits: list[tuple[float, int]] = []
        self._events = 0
        self._flushed_at = 0.0
        self._listen: dict[str, Callable[[Fact], None]] = {
            "jobs_accepted": self._accepted,
            "jobs_assigned": self._assigned,
            "jobs_finished": self._finished,
            "jobs_dead": self._dead,
            "jobs_retried": self._retried,
            "jobs_refused": self._refused,
            "attempts_ended": self._ended,
            "node_lost": self._node_lost,
            "measured": self._measured,
            "node_measured": self._node_measured,
            "schedules_fired": self._fired,
            "schedules_skipped": self._skipped,
            "schedule_gave_up": lambda _: self.count("ganger_schedules_given_up_total"),
            "disk_low": lambda _: self.show("ganger_store_disk_low", {(): 1}),
            "disk_well": lambda _: self.show("ganger_store_disk_low", {(): 0}),
            "jobs_run": self._run,
            "registered": lambda _: self._is_ready(True),
            "link_back": lambda _: self._is_ready(True),
            "link_down": lambda _: self._is_ready(False),
        }
        for metric, shape in self._shapes.items():
            if shape.kind == COUNTER and not set(shape.labels) - KNOWN.keys():
                for labels in _combined(shape.labels, {}):
                    self._counters[metric][labels] = 0
            elif shape.kind == HISTOGRAM and not shape.labels:
                self._histograms[metric][()] = Counts((0,) * (len(shape.buckets) + 1), 0.0)
        python = ".".join(map(str, sys.version_info[:3]))
        self.show("ganger_build_info", {(version, python): 1})
        self.show("ganger_process_start_timestamp_seconds", {(): time.time()})
        if role == COORDINATOR:
            self._bounded("queue", "default")
            self.show("ganger_store_disk_low", {(): 0})
        else:
            self._is_ready(False)

    # -- what is told ---------------------------------------------------------------------------------

    def __call__(self, facts: list[Fact]) -> None:
        for fact in facts:
            name = COUNTED.get(fact.kind)
            if name is not None and name in self._counters:
                self.count(name, fact.n)
            listen = self._listen.get(fact.kind)
            if listen is not None:
                listen(fact)

    def count(self, name: str, n: float = 1, *labels: str) -> None:
        series = self._counters[name]
        key = (self._keys.get((name, labels)) or self._key(name, labels)) if labels else ()
        before = series.get(key)
        if before is None:
            self._begin(name, key)
            before = 0
        series[key] = before + n

    def observe(self, name: str, values: Sequence[float], *labels: str, scale: float = 1.0) -> None:
        """A column of them, each so many times what it says."""
        bounds = self._shapes[name].buckets if scale == 1.0 else _scaled(name, scale)
        key = (self._keys.get((name, labels)) or self._key(name, labels)) if labels else ()
        more = bucketed(values, bounds)
        series = self._histograms[name]
        old = series.get(key)
        total = sum(values) * scale
        if old is None:
            series[key] = Counts(tuple(more), total)
        else:
            series[key] = Counts(tuple(map(int.__add__, old.buckets, more)), old.total + total)

    def show(self, name: str, series: dict[Labels, float]) -> None:
        """All there is of a gauge now."""
        assert name in self._gauges, name
        self._gauges[name] = series

    def look(self, what: str, rows: Callable[[], Iterable[Row]]) -> None:
        """Ask this at each scrape, on another thread than the actor's; it replaces what had that name."""
        self._looks[what] = rows

    def turned(self, now: float, seconds: float, late_s: float, events: int) -> None:
        """One turn of the loop; ``now`` is monotonic."""
        self._turns.append(seconds)
        self._lags.append(late_s)
        self._events += events
        if len(self._turns) >= FLUSH or now - self._flushed_at >= FLUSH_S:
            self._flushed_at = now
            self._flush()

    def committed(self, seconds: float, rows: int) -> None:
        """One commit. It may be told on another thread: an entry is one step."""
        self._commits.append((seconds, rows))

    def _flush(self) -> None:
        turns, self._turns = self._turns, []
        lags, self._lags = self._lags, []
        self.observe("ganger_loop_turn_seconds", turns)
        self.observe("ganger_loop_lag_seconds", lags)
        self.count("ganger_loop_events_total", self._events)
        self._events = 0
        if self._commits:
            commits, self._commits = self._commits, []
            self.observe("ganger_store_commit_seconds", [seconds for seconds, _ in commits])
            self.observe("ganger_store_commit_turns", [rows for _, rows in commits])

    def _key(self, name: str, labels: Sequence[str]) -> Labels:
        """The values of the labels, as far as they may have series of their own."""
        key = tuple(map(self._bounded, self._shapes[name].labels, labels))
        if key == labels:  # so there are no more of these than series
            self._keys[name, key] = key
        return key

    def _bounded(self, label: str, value: str) -> str:
        most = MOST.get(label)
        if most is None:
            return value
        seen = self._seen.get(label)
        if seen is None:
            seen = self._seen[label] = {}
        elif value in seen:
            return value
        value = value[:LABEL_CHARS]
        if value in seen:
            return value
        if len(seen) >= most or (label == "function" and self._fixed):
            return OTHER
        seen[value] = None
        self._begin_all(label, value)
        return value

    def _begin_all(self, label: str, value: str) -> None:
        """All counters that have this label alone, beside those whose values are known, begin with a new value of it:
        an increase is only seen where there was a 0 before. Reasons are of one metric each."""
        for name, shape in self._shapes.items():
            if shape.kind == COUNTER and label != "reason" and set(shape.labels) - KNOWN.keys() == {label}:
                for labels in _combined(shape.labels, {label: value}):
                    self._counters[name].setdefault(labels, 0)

    def _begin(self, name: str, key: Labels) -> None:
        """With the first of a series come those that differ in what is known beforehand, at 0."""
        series = self._counters[name]
        names = self._shapes[name].labels
        for labels in _combined(names, dict(zip(names, key, strict=True))):
            series.setdefault(labels, 0)

    # -- facts that say more than a count -------------------------------------------------------------

    def _accepted(self, fact: Fact) -> None:
        for queue, n in fact.about.get("queues", ()):
            self.count("ganger_jobs_submitted_total", n, queue)

    def _assigned(self, fact: Fact) -> None:
        for queue, waits in fact.about.get("waits", ()):
            self.count("ganger_jobs_dispatched_total", len(waits), queue)
            self.observe("ganger_job_queue_wait_seconds", waits, queue)

    def _finished(self, fact: Fact) -> None:
        outcome = fact.about["outcome"]
        for queue, function, lasted in fact.about.get("rows", ()):
            self.count("ganger_jobs_finished_total", len(lasted), queue, outcome)
            self.count("ganger_function_jobs_finished_total", len(lasted), function, outcome)
            self.observe("ganger_job_end_to_end_seconds", lasted, queue)

    def _dead(self, fact: Fact) -> None:
        for queue, n in fact.about.get("queues", ()):
            self.count("ganger_jobs_dead_total", n, queue)

    def _retried(self, fact: Fact) -> None:
        self.count("ganger_jobs_retried_total", fact.n, fact.about["reason"])

    def _refused(self, fact: Fact) -> None:
        self.count("ganger_jobs_refused_total", fact.n, fact.about["reason"])

    def _ended(self, fact: Fact) -> None:
        ends = fact.about["ends"]
        well = ends.count(0)
        if well:
            self.count("ganger_attempts_total", well, ENDS[0])
        if well < len(ends):
            for end in filter(None, ends):
                self.count("ganger_attempts_total", 1, End(end).name.lower())
                if end == End.MEMORY:
                    self.count("ganger_memory_kills_total")
        self.count("ganger_node_attempts_total", fact.n, fact.about["node"])
        cold = 0
        if fact.about["records"]:
            cold = sum(1 for record in fact.about["records"] if record[4])
            peaks = [record[2] * 1024.0 for record in fact.about["records"] if record[2]]
            if peaks:
                self.observe("ganger_job_peak_memory_bytes", peaks)
            if cold:
                self.count("ganger_worker_attempts_total", cold, "cold")
        self.count("ganger_worker_attempts_total", fact.n - cold, "warm")
        for function, run_us in fact.about.get("ran", ()):
            self.observe("ganger_job_run_seconds", run_us, function, scale=1e-6)

    def _node_lost(self, fact: Fact) -> None:
        self.count("ganger_nodes_lost_total")
        self.count("ganger_leases_expired_total", fact.n)

    def _run(self, fact: Fact) -> None:
        waits = fact.about.get("waited_s")
        if waits:
            self.observe("ganger_dispatch_seconds", waits)

    def _fired(self, fact: Fact) -> None:
        self.observe("ganger_schedule_lag_seconds", [max(0.0, fact.about["late_s"])])

    def _skipped(self, fact: Fact) -> None:
        self.count("ganger_schedules_skipped_total", fact.n, fact.about["reason"])

    def _is_ready(self, ready: bool) -> None:
        self.ready = ready
        self.show("ganger_agent_registered", {(): int(ready)})

    # -- the books, once a second -----------------------------------------------------------------------

    def _measured(self, fact: Fact) -> None:
        """The coordinator's."""
        about = fact.about
        jobs: dict[Labels, float] = {}
        oldest: dict[Labels, float] = {}
        paused: dict[Labels, float] = {}
        for queue in about["queues"]:
            name = self._bounded("queue", queue["name"])
            for state in STATES:
                jobs[name, state] = jobs.get((name, state), 0) + queue[state]
            if queue["oldest"] is not None:
                oldest[(name,)] = min(oldest.get((name,), queue["oldest"]), queue["oldest"])
            paused[(name,)] = max(paused.get((name,), 0), int(queue["paused"]))
        self.show("ganger_jobs", jobs)
        self.show("ganger_queue_oldest_ready_timestamp_seconds", oldest)
        self.show("ganger_queue_paused", paused)
        for name, value in about["figures"].items():
            self.show(f"ganger_{name}", {} if value is None else {(): value})
        self._show_nodes(about["nodes"])

    def _show_nodes(self, nodes: list[dict[str, Any]]) -> None:
        states: dict[Labels, float] = {(state,): 0 for state in NODE_STATES}
        columns: dict[str, dict[Labels, float]] = {name: {} for name in self._gauges if name.startswith("ganger_node_")}
        for node in nodes:
            states[(node["state"],)] = states.get((node["state"],), 0) + 1
        for node in nodes[: MOST["ganger_node"]]:
            key = (node["name"][:LABEL_CHARS],)
            columns["ganger_node_up"][key] = int(node["state"] == "up")
            for name in ("slots", "slots_busy", "queued_attempts", "last_heard_timestamp_seconds", "penalty_ratio"):
                columns[f"ganger_node_{name}"][key] = node[name]
            for name, values in _vitals(node["vitals"]):
                for labels, value in values.items():
                    columns[f"ganger_node_{name}"][(*key, *labels)] = value
            for what, amounts in node["resources"].items():
                labels = (*key, self._bounded("ganger_resource", what))
                if labels[1] != OTHER:  # amounts of different things do not add up
                    for side, amount in amounts.items():
                        columns[f"ganger_node_resource_{side}"][labels] = amount
            offset = node["clock_offset_s"]
            if offset is not None:
                columns["ganger_node_clock_offset_seconds"][key] = offset
        self.show("ganger_nodes", states)
        for name, series in columns.items():
            self.show(name, series)

    def _node_measured(self, fact: Fact) -> None:
        """The agent's."""
        for name, value in fact.about["figures"].items():
            self.show(f"ganger_agent_{name}", {(): value})
        for name, series in _vitals(fact.about["vitals"]):
            self.show(f"ganger_agent_{name}", series)

    # -- what is shown ----------------------------------------------------------------------------------

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus. On any thread."""
        began = time.perf_counter()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        out: bytes = generate_latest(registry)
        self.show("ganger_scrape_seconds", {(): time.perf_counter() - began})
        return out

    def collect(self) -> Iterator[Metric]:
        looked: dict[str, dict[Labels, float]] = {}
        for look in list(self._looks.values()):
            with suppress(OSError, ValueError):  # of what is just being opened or closed there is nothing to tell
                for name, key, value in look():
                    looked.setdefault(name, {})[key] = value
        constant = tuple(self._constant.values())
        for name, shape in self._shapes.items():
            labels = (*self._constant, *shape.labels)
            if shape.kind == HISTOGRAM:
                family = HistogramMetricFamily(name, shape.help, labels=labels)
                for key, counts in list(self._histograms[name].items()):
                    family.add_metric((*constant, *key), _cumulated(shape.buckets, counts.buckets), counts.total)
                yield family
                continue
            kept = self._counters[name] if shape.kind == COUNTER else self._gauges[name]
            make = CounterMetricFamily if shape.kind == COUNTER else GaugeMetricFamily
            plain = make(name, shape.help, labels=labels)
            for key, value in list((looked.get(name) or kept).items()):
                plain.add_metric((*constant, *key), value)
            if plain.samples:
                yield plain


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    seen = 0
    for bound, n in zip((*map(_plain, bounds), "+Inf"), counts, strict=True):
        seen += n
        out.append((bound, seen))
    return out


def _plain(bound: float) -> str:
    return repr(float(bound))


def _combined(names: Sequence[str], given: Mapping[str, str]) -> list[Labels]:
    """All values of the labels that are known beforehand, with the given ones of the others."""
    out: list[Labels] = [()]
    for name in names:
        values = KNOWN.get(name) or (given[name],)
        out = [(*labels, value) for labels in out for value in values]
    return out


def _vitals(vitals: Mapping[str, Any]) -> Iterator[tuple[str, dict[Labels, float]]]:
    """Gauges of what a machine measured, as far as they are figures."""
    for name in VITALS:
        value = vitals.get(name)
        if isinstance(value, (int, float)):
            yield name, {(): value}
    pressures: dict[Labels, float] = {}
    for what in PRESSURES:
        value = vitals.get(f"{what}_pressure_ratio")
        if isinstance(value, (int, float)):
            pressures[(what,)] = value
    if pressures:
        yield "pressure_ratio", pressures


class Wire(Protocol):
    """What is needed of either side's sockets."""

    received: int
    received_bytes: int
    sent: int
    sent_bytes: int
    dropped: int


def transport(wire: Wire) -> Iterator[Row]:
    """To be looked at: counters of ``Doors`` or of a ``Dial``."""
    yield "ganger_transport_messages_total", ("received",), wire.received
    yield "ganger_transport_messages_total", ("sent",), wire.sent
    yield "ganger_transport_bytes_total", ("received",), wire.received_bytes
    yield "ganger_transport_bytes_total", ("sent",), wire.sent_bytes
    yield "ganger_transport_dropped_total", (), wire.dropped
    for name in ("unroutable", "strangers"):
        value = getattr(wire, name, None)
        if value is not None:
            yield f"ganger_transport_{name}_total", (), value


def files(database: Path) -> Iterator[Row]:
    """To be looked at: sizes of a store's files, and what is free on its disk."""
    for kind, path in (("database", database), ("journal", database.with_name(f"{database.name}-wal"))):
        yield "ganger_store_file_bytes", (kind,), path.stat().st_size if path.exists() else 0
    disk = os.statvfs(database.parent)
    yield "ganger_store_disk_free_bytes", (), disk.f_bavail * disk.f_frsize


_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _process() -> Iterator[Row]:
    """What the system says of this process."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    yield "ganger_process_cpu_seconds_total", (), (int(fields[11]) + int(fields[12])) / _TICKS
    yield "ganger_process_resident_memory_bytes", (), int(fields[21]) * _PAGE_BYTES
    yield "ganger_process_open_fds", (), len(os.listdir("/proc/self/fd"))
    yield "ganger_process_max_fds", (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
