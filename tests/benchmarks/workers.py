"""``python -m tests.benchmarks.workers``: how soon a worker is there, how soon a crash is known, what idle ones cost.

Each figure stands beside what a fresh interpreter does in the same run, in turns with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any

from cluster import LocalCluster, payload, trees
from cluster.errors import WorkerCrashed
from cluster.jobs import Rules, Spec
from node.events import Give, KillWorker, Run, SpawnWorker, WorkerDone, WorkerGone, WorkerUp
from node.isolation import usual_limits
from node.pool import WorkerPool

WITHIN_S = 30.0
WANTED = (
    ("cold_ms", "p50", 15.0),
    ("cold_ms", "p99", 50.0),
    ("crash_ms", "p50", 100.0),
    ("idle_memory_share", "of fresh", 1 / 3),
)


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(s * 1e3 for s in seconds)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]}


def drain(pool: WorkerPool, ready: Callable[[Any], bool]) -> Any:
    """The first event that is ``ready``."""
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        select.select([pool], [], [], 1.0)
        for event in pool.drain(100)[0]:
            if ready(event):
                return event
    raise TimeoutError("the pool says nothing")


def is_a(kind: type | UnionType) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, kind)


def cold_workers(count: int, preload: tuple[str, ...], limits: Rules | None = None) -> dict[str, dict[str, float]]:
    """From the request for a worker to the first instruction of its job; and a fresh interpreter that does nothing.
    ``limits``: of workers that are contained."""
    cold: list[float] = []
    fresh: list[float] = []
    # The clock is the same for all processes of a machine.
    run = Run(1, b"j" * 16, 1, Spec("monotonic", False, b"ctime\nmonotonic\n."), bytes(payload.pack_call((), {})), None)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as blobs, contextlib.ExitStack() as stack:
        pool = stack.enter_context(contextlib.closing(WorkerPool(blobs, "n1", preload=preload, contained=limits)))
        for n in range(count + 1):
            began = time.monotonic()
            pool.perform(SpawnWorker(0))
            pool.perform(Give(0, [run]))
            done = drain(pool, is_a(WorkerDone | WorkerGone))
            if isinstance(done, WorkerGone):
                return {"cold_contained_ms": {}}  # jobs cannot be contained here
            if n:  # the first waits for the zygote
                cold.append(payload.unpack_result(done.rows[0].payload) - began)
            pool.perform(KillWorker(0))
            drain(pool, is_a(WorkerGone))
            if n % 4 == 1 and limits is None:
                began = time.monotonic()
                subprocess.run([sys.executable, "-c", "pass"], check=True)
                fresh.append(time.monotonic() - began)
    if limits is not None:
        return {"cold_contained_ms": percentiles(cold)}
    return {"cold_ms": percentiles(cold), "python_pass_ms": percentiles(fresh)}


def crashes(count: int) -> dict[str, dict[str, float]]:
    """From submit to the exception in the client, of a job that ends its process."""
    took = []
    with LocalCluster(slots=2) as cluster, cluster.client() as client:
        careless = client.options(crash_retries=0)
        client.submit(os.getpid).result(WITHIN_S)  # the first waits for the zygote
        for _ in range(count):
            began = time.monotonic()
            error = careless.submit(os._exit, 3).exception(WITHIN_S)
            took.append(time.monotonic() - began)
            assert isinstance(error, WorkerCrashed), error
    return {"crash_ms": percentiles(took)}


def idle_memory(workers: int) -> dict[str, dict[str, float]]:
    """Memory of idle workers with NumPy preloaded, their zygote's apart, and of as many interpreters with NumPy. What
    several processes share is shared out among them."""
    with tempfile.TemporaryDirectory() as blobs, contextlib.closing(WorkerPool(blobs, "n1", preload=["numpy"])) as pool:
        pids = []
        for slot in range(workers):
            pool.perform(SpawnWorker(slot))
            pids.append(drain(pool, is_a(WorkerUp)).pid)
        ours = sum(map(trees.shared_out_bytes, pids))
        zygote = trees.shared_out_bytes(trees.parents()[pids[0]])
    program = "import numpy, sys; print(flush=True); sys.stdin.read()"
    with contextlib.ExitStack() as stack:
        fresh = []
        for _ in range(workers):
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            fresh.append(process.pid)
        theirs = sum(map(trees.shared_out_bytes, fresh))
    return {
        "idle_memory_mib": {"workers": ours / 2**20, "zygote": zygote / 2**20, "fresh": theirs / 2**20},
        "idle_memory_share": {"of fresh": ours / theirs},
    }


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.workers", description=__doc__)
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    figures = cold_workers(args.count, ("numpy",)) | cold_workers(args.count, ("numpy",), usual_limits())
    figures |= crashes(max(5, args.count // 4)) | idle_memory(8)
    wanted = [(f"{name} {part}", figures[name][part], most) for name, part, most in WANTED]
    if args.json:
        print(json.dumps({**figures, "wanted": wanted}, indent=2))
    else:
        for name, row in figures.items():
            print(f"{name:20}", *(f"{part} {value:9.2f}" for part, value in row.items()))
        for name, value, most in wanted:
            print(f"{'ok  ' if value <= most else 'OVER'} {name}: {value:.2f}, wanted <= {most:.2f}")
        print(f"Python {sys.version.split()[0]}, load {Path('/proc/loadavg').read_text().split()[0]}")
    return int(any(value > most for _, value, most in wanted))


if __name__ == "__main__":
    raise SystemExit(main())
