"""``python -m tests.benchmarks``: no-op throughput and sequential round trip against the standard library's pool.

Both systems have two workers and are measured in turns within one run, so that a noisy machine is noisy for
both. Each throughput round submits 5,000 jobs with arguments of their own, then collects and checks all results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster import Client, LocalCluster
from tests.benchmarks.work import echo

WORKERS = 2


def throughput(executor: Executor, jobs: int) -> float:
    """Jobs a second, submitted then all collected."""
    started = time.perf_counter()
    futures = [executor.submit(echo, i) for i in range(jobs)]
    results = [f.result() for f in futures]
    elapsed = time.perf_counter() - started
    assert [x for x, _ in results] == list(range(jobs)), "a result is wrong"
    assert 1 <= len({pid for _, pid in results}) <= WORKERS, "not the workers that were asked for"
    return jobs / elapsed


def round_trips(executor: Executor, count: int) -> list[float]:
    """Seconds from submit to result, one job at a time."""
    out = []
    for i in range(count):
        started = time.perf_counter()
        assert executor.submit(echo, i).result()[0] == i
        out.append(time.perf_counter() - started)
    return out


def assert_encrypted_tcp(cluster: LocalCluster) -> None:
    """The live sockets are TCP, and a peer without our keys gets no word out of them."""
    import zmq

    from cluster.keys import ConnectionFile

    connection = ConnectionFile.load(cluster.connection_file)
    address, key = connection.way("tcp")
    assert address.startswith("tcp://") and key is not None
    port = f":{address.rpartition(':')[2]} "
    listing = Path("/proc/net/tcp").read_text()
    established = sum(f":{int(port[1:]):04X} 01" in line for line in listing.splitlines())
    assert established >= 2, "client and node should be connected by TCP"
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(address)
        plain.send(b"hello")
        assert not plain.poll(500), "the coordinator answered a peer without CURVE"


DURABLE, VOLATILE, STDLIB = "ganger", "ganger, durable=False", "ProcessPoolExecutor"

WANTED = (
    ("jobs_per_s", DURABLE, STDLIB, ">=", 3.0),
    ("jobs_per_s", VOLATILE, STDLIB, ">=", 3.0),
    ("jobs_per_s", DURABLE, VOLATILE, ">=", 0.7),
    ("round_trip_p50_us", DURABLE, STDLIB, "<=", 6.0),
    ("round_trip_p50_us", VOLATILE, STDLIB, "<=", 4.0),
)
"""Figure, of whom, against whom, and what the ratio shall be."""


def measure(rounds: int, jobs: int, trips: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds, by figure and system."""
    with LocalCluster(nodes=1, slots=WORKERS, transport="tcp") as cluster, cluster.client() as client:
        assert isinstance(client, Client)
        with ProcessPoolExecutor(WORKERS) as pool:
            systems: dict[str, Executor] = {
                DURABLE: client,
                VOLATILE: client.options(durable=False),
                STDLIB: pool,
            }
            rates: dict[str, list[float]] = {name: [] for name in systems}
            times: dict[str, list[float]] = {name: [] for name in systems}
            for executor in systems.values():
                throughput(executor, 500)
            assert_encrypted_tcp(cluster)
            for _ in range(rounds):
                for name, executor in systems.items():
                    rates[name].append(throughput(executor, jobs))
                for name, executor in systems.items():
                    times[name] += round_trips(executor, trips)
    return {
        "jobs_per_s": {name: statistics.median(v) for name, v in rates.items()},
        "round_trip_p50_us": {name: statistics.median(v) * 1e6 for name, v in times.items()},
    }


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--jobs", type=int, default=5_000, help="jobs in one throughput round")
    options.add_argument("--trips", type=int, default=100, help="sequential round trips in one round")
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    figures = measure(args.rounds, args.jobs, args.trips)
    ratios = [
        (figure, of, to, figures[figure][of] / figures[figure][to], f"{sign} {wanted:g}")
        for figure, of, to, sign, wanted in WANTED
    ]
    if args.json:
        names = ("figure", "of", "to", "ratio", "wanted")
        print(json.dumps({**figures, "ratios": [dict(zip(names, row, strict=True)) for row in ratios]}, indent=2))
        return 0
    console = Console()
    table = Table(title=f"{WORKERS} workers, encrypted TCP, {args.rounds} interleaved rounds (medians)")
    for column in ("", DURABLE, VOLATILE, STDLIB):
        table.add_column(column, justify="right" if column else "left")
    for figure, row in figures.items():
        table.add_row(figure, *(f"{row[name]:,.0f}" for name in (DURABLE, VOLATILE, STDLIB)))
    console.print(table)
    table = Table()
    for column in ("", "of", "to", "ratio", "wanted"):
        table.add_column(column, justify="right" if column == "ratio" else "left")
    for figure, of, to, ratio, wanted in ratios:
        table.add_row(figure, of, to, f"{ratio:.2f}", wanted)
    console.print(table)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    print(f"Python {sys.version.split()[0]}, commit {commit.stdout.strip() or 'unknown'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
