"""``python -m tests.benchmarks.jobs``: failures by the hundred thousand, a poison job, questions to a long history.

A local cluster, real workers. ``--scale 0.01`` makes everything so much smaller. What is promised stands in the tables
beside what was measured: a rate of retries that stays flat, less than 5 % of throughput for a poison job, pages within
300 ms, and a stream of other jobs that does not notice the questions.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from cluster import Client, LocalCluster
from tests.benchmarks.work import echo

PATIENCE_S = 3_600.0
SAMPLE = 5_000
"""Jobs whose stories are read to tell when retries ran."""


def fail(x: int) -> None:
    raise OSError(f"number {x % 7} fails")


def poison() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right")
    return table


# ------------------------------------------------------------------------------------ many failures


def retries(client: Client, jobs: int) -> Table:
    """So many jobs that fail three times. When did their retries run?"""
    again = client.options(retries=2, retry_delay_s=jobs / 10_000, backoff=2, jitter=0.5, tags=["failing"])
    begun = time.time()
    futures = [again.submit(fail, n) for n in range(jobs)]
    submitted = time.time() - begun
    for future in futures:
        future.exception(timeout=PATIENCE_S)
    took = time.time() - begun
    sample = list(client.jobs("failed", tag="failing", limit=SAMPLE))
    stories = [client.job(job["id"])["attempts"] for job in sample[:: max(1, len(sample) // 500)]]
    assert all(len(story) == 3 for story in stories), "each was tried three times"
    table = _table(f"{jobs:,} jobs that fail three times", "", "figure")
    table.add_row("handed in, s", f"{submitted:.1f}")
    table.add_row("until the last outcome, s", f"{took:.1f}")
    table.add_row("attempts a second", f"{3 * jobs / took:,.0f}")
    status = client.status()
    table.add_row("dead letters", f"{status['dead_letters']:,}")
    return table


def rates(client: Client, jobs: int) -> Table:
    """The finished attempts of failing jobs, second by second, as nodes count them."""
    again = client.options(retries=3, retry_delay_s=jobs / 20_000, backoff=1, jitter=0.9, durable=False)
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            seen.append((time.perf_counter(), sum(node["finished"] for node in client.nodes())))

    watcher = threading.Thread(target=watch)
    futures = [again.submit(fail, n) for n in range(jobs)]
    watcher.start()
    for future in futures:
        future.exception(timeout=PATIENCE_S)
    over.set()
    watcher.join()
    per_s = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(seen, seen[4:], strict=False)]
    middle = per_s[len(per_s) // 10 : max(1, len(per_s) * 8 // 10)] or [0.0]
    table = _table(f"{jobs:,} failing jobs with jitter: attempts a second", "", "figure")
    table.add_row("lowest second of the middle", f"{min(middle):,.0f}")
    table.add_row("median second", f"{statistics.median(middle):,.0f}")
    table.add_row("highest second", f"{max(per_s or [0.0]):,.0f}")
    table.add_row("highest / median (flat: near 1)", f"{max(middle) / max(1.0, statistics.median(middle)):.2f}")
    return table


# ------------------------------------------------------------------------------------ a poison job


def poisoned(client: Client, jobs: int, rounds: int) -> Table:
    """Throughput of other jobs with a job that kills its workers among them, and without, in turns."""

    def stream(also: Callable[[], object]) -> float:
        begun = time.perf_counter()
        also()
        for future in [client.submit(echo, n) for n in range(jobs)]:
            future.result(timeout=PATIENCE_S)
        return jobs / (time.perf_counter() - begun)

    stream(lambda: None)
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(stream(lambda: None))
        beside.append(stream(lambda: client.submit(poison)))
    a, b = statistics.median(alone), statistics.median(beside)
    table = _table(f"A poison job among {jobs:,}, medians of {rounds}", "", "jobs a second")
    table.add_row("alone", f"{a:,.0f}")
    table.add_row("with the poison job (3 dead workers)", f"{b:,.0f}")
    table.add_row("cost (promised: under 5 %)", f"{100 * (1 - b / a):.1f} %")
    return table


# ------------------------------------------------------------------------------------ a long history


def history(client: Client, jobs: int, rounds: int) -> Table:
    """Pages among so many finished jobs, and what a stream of others notices of them."""
    names = [client.options(name=f"app:f{n}", tags=[f"t{n % 3}"], queue=f"q{n % 5}") for n in range(20)]
    for first in range(0, jobs, 10_000):
        futures = [names[n % 20].submit(echo, n) for n in range(first, min(jobs, first + 10_000))]
        for future in futures:
            future.result(timeout=PATIENCE_S)

    turns: list[float] = []
    over = threading.Event()

    def stream() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            client.submit(echo, 0).result(timeout=PATIENCE_S)
            turns.append((time.perf_counter() - begun) * 1e3)

    def quiet(seconds: float) -> None:
        time.sleep(seconds)

    questions: dict[str, dict[str, str]] = {
        "all": {},
        "by function": {"function": "f7"},
        "by tag": {"tag": "t1"},
        "by queue": {"queue": "q3"},
        "by arguments, old": {"arguments": "17"},
        "by error: none has it": {"error": "no such error"},
        "by arguments: none has it": {"arguments": "no such thing"},
    }
    streaming = threading.Thread(target=stream)
    streaming.start()
    quiet(3.0)
    turns.clear()
    quiet(5.0)
    alone = sorted(turns)
    turns.clear()
    table = _table(
        f"Pages of 50 among {jobs:,} finished jobs (promised: within 300 ms)", "", "found", "median ms", "worst ms"
    )
    for what, wanted in questions.items():
        times, found = [], 0
        for _ in range(rounds):
            begun = time.perf_counter()
            page = client.ask("jobs", **wanted, states=["finished"], limit=50, more=None)
            times.append((time.perf_counter() - begun) * 1e3)
            found = len(page["jobs"])
        table.add_row(what, str(found), f"{statistics.median(times):.1f}", f"{max(times):.1f}")
    asked = sorted(turns)
    over.set()
    streaming.join()
    for what, some in (("a job there and back, alone", alone), ("the same while pages are asked for", asked)):
        p99 = some[int(len(some) * 0.99)] if some else 0.0
        table.add_row(what, f"p99 {p99:.1f}", f"{statistics.median(some or [0.0]):.1f}", f"{max(some or [0.0]):.1f}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.jobs", description=__doc__.split("\n\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes that are promised for")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["retries", "rates", "poison", "history"])
    args = parser.parse_args()
    parts: dict[str, Callable[[Client], Table]] = {
        "retries": lambda client: retries(client, int(100_000 * args.scale)),
        "rates": lambda client: rates(client, int(100_000 * args.scale)),
        "poison": lambda client: poisoned(client, max(2_000, int(50_000 * args.scale)), args.rounds),
        "history": lambda client: history(client, int(1_000_000 * args.scale), args.rounds),
    }
    console, counted = Console(), Counter[str]()
    for name, part in parts.items():
        if args.only in (None, name):
            with LocalCluster(nodes=1) as local, local.client() as client:
                console.print(part(client))
                counted[name] += 1
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
