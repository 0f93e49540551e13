"""What measuring costs and what it brings: placement by load beside a neighbour, and by none; and scrapes.

    python -m tests.benchmarks.metrics [--rounds N] [noisy] [uniform] [scrape]

Each figure is the median of runs that take turns: A, B, B, A, ... so that a machine that gets busier meanwhile meets
both. *noisy*: two nodes of 4 slots, each pinned to one processor, on one of which 4 others compute; bursts of 4 jobs;
the time of a burst with load counted against without. Each of the others leads a session of its own, as services do:
the kernel shares processors out by session first. *uniform*: no others; processor time of coordinator and agents a job.
*scrape*: all pages once a second against none; the same time, and counters that only grow and agree with the client.

Rules of this file: what is compared runs side by side in one run; a figure that misses its goal ends it with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from cluster import Client
from cluster.local import LocalCluster, LocalProcess

BURNERS, SLOTS, BURST = 4, 4, 4
BURN = "while True: pass"
GOALS = {"noisy": 0.75, "uniform": 1.05, "scrape": 1.05}
_TICKS = os.sysconf("SC_CLK_TCK")


def work(seconds: float) -> None:
    """So much of a processor's time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def nothing(n: int) -> int:
    return n


class Cluster(LocalCluster):
    """With a weight for load, and nodes pinned where the test says."""

    def __init__(self, weight: float, pinned: list[int] | None = None, **about: Any) -> None:
        self._weight, self._pinned = weight, list(pinned or [])
        super().__init__(**about)

    def _start(self, name: str, command: str, arguments: list[str]) -> LocalProcess:
        if command == "coordinator":
            arguments = [*arguments, "--load-weight", str(self._weight)]
        if command == "node" and self._pinned:
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {self._pinned.pop(0)})
            try:
                return super()._start(name, command, arguments)
            finally:
                os.sched_setaffinity(0, before)
        return super()._start(name, command, arguments)


def cpu_s(pid: int) -> float:
    """Of one process."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextlib.contextmanager
def burning(processor: int, count: int) -> Iterator[None]:
    burners = []
    try:
        for _ in range(count):
            burner = subprocess.Popen([sys.executable, "-S", "-c", BURN], start_new_session=True)
            os.sched_setaffinity(burner.pid, {processor})
            burners.append(burner)
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def noisy(rounds: int) -> float:
    """Time of a burst with load counted, as a share of that without."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    took: dict[float, list[float]] = {1.0: [], 0.0: []}
    with contextlib.ExitStack() as stack:
        clients: dict[float, Client] = {}
        for weight in took:
            cluster = stack.enter_context(Cluster(weight, [first, second], nodes=2, slots=SLOTS))
            clients[weight] = stack.enter_context(cluster.client())
        stack.enter_context(burning(second, BURNERS))
        time.sleep(6.0)  # so long it is until both have told of it a few times: part of what is measured is not this
        for n in range(rounds):
            for weight in (1.0, 0.0) if n % 2 else (0.0, 1.0):
                began = time.perf_counter()
                for future in [clients[weight].submit(work, 0.25) for _ in range(BURST)]:
                    future.result()
                took[weight].append(time.perf_counter() - began)
                time.sleep(1.5)  # the other's jobs are forgotten, and heartbeats come by
    print(f"  with load {median(took[1.0]):.2f} s, without {median(took[0.0]):.2f} s a burst, {rounds} each")
    return median(took[1.0]) / median(took[0.0])


def _per_job_us(cluster: LocalCluster, client: Client, jobs: int) -> float:
    """Processor time of coordinator and agents a job."""
    pids = [cluster.coordinator.pid, *(node.pid for node in cluster.nodes)]
    before = sum(map(cpu_s, pids))
    for _ in client.map(nothing, range(jobs)):
        pass
    return (sum(map(cpu_s, pids)) - before) / jobs * 1e6


def _shares(clusters: dict[bool, LocalCluster], rounds: int, jobs: int) -> float:
    took: dict[bool, list[float]] = {True: [], False: []}
    with contextlib.ExitStack() as stack:
        clients = {on: stack.enter_context(cluster.client()) for on, cluster in clusters.items()}
        for on in clusters:
            _per_job_us(clusters[on], clients[on], jobs // 4)
        for n in range(rounds):
            for on in (True, False) if n % 2 else (False, True):
                took[on].append(_per_job_us(clusters[on], clients[on], jobs))
    print(
        f"  {median(took[True]):.1f} µs a job against {median(took[False]):.1f} µs, {rounds} runs of {jobs} jobs each"
    )
    return median(took[True]) / median(took[False])


def uniform(rounds: int) -> float:
    with Cluster(1.0, nodes=2, slots=1) as on, Cluster(0.0, nodes=2, slots=1) as off:
        return _shares({True: on, False: off}, rounds, 20_000)


def _scrape(addresses: list[str]) -> dict[str, float]:
    pages = []
    for address in addresses:
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            pages.append(answer.read().decode())
    counted = re.findall(r"^ganger_jobs_(\w+)_total\{[^}]*\} (\S+)$", pages[0], re.MULTILINE)
    out: dict[str, float] = {}
    for name, value in counted:
        out[name] = out.get(name, 0.0) + float(value)
    return out


def scrape(rounds: int) -> float:
    seen: list[dict[str, float]] = []
    done = threading.Event()
    with Cluster(1.0, nodes=2, slots=1, metrics=True) as on, Cluster(1.0, nodes=2, slots=1) as off:

        def look() -> None:
            while not done.wait(1.0):
                seen.append(_scrape(on.metrics_addresses))

        looker = threading.Thread(target=look)
        looker.start()
        try:
            share = _shares({True: on, False: off}, rounds, 20_000)
        finally:
            done.set()
            looker.join()
        jobs = rounds * 20_000 + 5_000
        last = _scrape(on.metrics_addresses)
        assert (last["submitted"], last["finished"]) == (jobs, jobs), last
    for earlier, later in pairwise(seen):
        assert all(later[name] >= n for name, n in earlier.items()), "a counter went back"
    print(f"  {len(seen)} scrapes, each after the one before; the last counts {jobs} jobs as the client does")
    return share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*GOALS, []], default=[])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    missed = 0
    for name in given.what or GOALS:
        print(f"{name}:")
        share = globals()[name](given.rounds)
        well = share <= GOALS[name]
        missed += not well
        print(f"  {share:.3f}, where at most {GOALS[name]} is {'wanted' if well else 'wanted, and MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
