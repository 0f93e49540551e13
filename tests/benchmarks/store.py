"""``python -m tests.benchmarks.store``: what the store writes in a second, and how long a page of its history takes.

Bare figures, unlike those of ``python -m tests.benchmarks``: the store has no peer here. Commits wait for the disk of
``--directory``. A page is asked for as the coordinator does, slice by slice; what may hold it up is the longest slice.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.ids import job_id
from cluster.jobs import Outcome
from scheduler.store import Changes, History, JobRow, OutcomeRow, Search, SessionRow, Store
from scheduler.store.sqlite import SqliteStore

BATCH = 500
SPECS = 40
PAGE = 50
LOOK_AT = 20_000
SESSIONS = [bytes([n]) * 8 for n in range(1, 251)]


def job(rank: int) -> JobRow:
    summary = f"customer={rank % 1000}, region='north-{rank % 7}', path='/srv/in/{rank}.csv'"
    id = job_id(SESSIONS[rank // 4_000 % len(SESSIONS)], rank)
    return JobRow(id, rank, rank % SPECS + 1, bytes(80), None, 0, float(rank), summary, b"")


def ended(row: JobRow, fails: bool) -> OutcomeRow:
    outcome, error, tries = Outcome.SUCCEEDED, "", b""
    if fails:
        outcome, tries = Outcome.FAILED, bytes(120)
        error = f"{'KeyError' if row.rank % 3 else 'TimeoutError'}: no answer of host-{row.rank % 211} within 30 s"
    dead = int(fails and row.rank % 10 == 0)
    id, rank, spec, at = row.id, row.rank, row.spec, row.at + 1
    result = outcome, bytes(40), None, 0
    return OutcomeRow(
        id, rank, *result, at, 1, dead, 0.0, spec, row.at, row.summary, b"", f"n{rank % 16}", error, tries
    )


def batches(jobs: int, one_in: int) -> Iterator[tuple[Changes, Changes]]:
    """Jobs and their ends. Every so manieth one fails, never if 0; each batch has failures of every function."""
    for first in range(1, jobs + 1, BATCH):
        rows = [job(rank) for rank in range(first, min(first + BATCH, jobs + 1))]
        session = SessionRow(rows[-1].id[:8], "key", "owner", "default", rows[-1].rank)
        ends = [ended(row, bool(one_in) and row.rank % one_in == 0) for row in rows]
        yield Changes({session.session: session}, jobs=rows), Changes(outcomes=ends)


def write(store: Store, jobs: int, one_in: int) -> float:
    """Jobs a second, taken in and ended by batches with a commit each: the median batch."""
    times = []
    for taken, ends in batches(jobs, one_in):
        started = time.perf_counter()
        for change in (taken, ends):
            store.write([change])
            store.commit()
        times.append(time.perf_counter() - started)
    return BATCH / statistics.median(times)


def questions(jobs: int) -> dict[str, Search]:
    ok, failed = frozenset([Outcome.SUCCEEDED]), frozenset([Outcome.FAILED])
    function = frozenset([11, 21])
    return {
        "the last": Search(),
        "failures of a function by error": Search(function, failed, error="TIMEOUTERROR"),
        "failures by an error that none has": Search(outcomes=failed, error="no such thing"),
        "failures by an argument that none has": Search(outcomes=failed, summary="no such thing"),
        "dead letters of a function": Search(function, dead=True),
        "cancelled ones, of which there are none": Search(outcomes=frozenset([Outcome.CANCELLED])),
        "successes of a function by argument": Search(function, ok, summary="NORTH-3"),
        "successes of a function by a rare argument": Search(function, ok, summary="customer=130,"),
        "the oldest by its argument": Search(outcomes=ok, summary="/srv/in/1.csv"),
        "a function that has none": Search(frozenset([SPECS + 1])),
        "the oldest tenth": Search(until=jobs / 10),
        "one node": Search(node="n3"),
        "a job by 10 bytes of its id": Search(id=job(jobs // 2).id[:15]),
        "a session's": Search(id=SESSIONS[3]),
    }


def page(store: Store, search: Search) -> tuple[int, list[float]]:
    """Rows found, and the time of each slice."""
    found, before, times = 0, 0, []
    while True:
        started = time.perf_counter()
        history: History = store.history(search, before, PAGE - found, LOOK_AT)
        times.append(time.perf_counter() - started)
        found += len(history.rows)
        before = history.before
        if found == PAGE or not before:
            return found, times


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.store", description=__doc__)
    options.add_argument("--jobs", type=int, default=1_000_000, help="finished jobs in the history")
    options.add_argument("--one-in", type=int, default=20, help="so manieth job fails")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--directory", type=Path, help="where its files are made")
    args = options.parse_args()
    console = Console()
    table = Table(title=f"Batches of {BATCH} jobs: insert, commit, end, commit")
    table.add_column("")
    table.add_column("jobs/s", justify="right")
    for what, one_in in (("all succeed", 0), ("one in 20 fails", 20), ("all fail", 1)):
        rates = []
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory(dir=args.directory) as directory:
                store = SqliteStore(directory)
                rates.append(write(store, 20_000, one_in))
                store.close()
        table.add_row(what, f"{statistics.median(rates):,.0f}")
    console.print(table)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        store = SqliteStore(directory)
        write(store, args.jobs, args.one_in)
        store.close()
        store = SqliteStore(directory)
        mib = store.path.stat().st_size / 2**20
        table = Table(title=f"Pages of {PAGE} among {args.jobs:,} finished jobs ({mib:,.0f} MiB), medians")
        for column in ("", "found", "slices", "longest slice, ms", "page, ms", "worst page, ms"):
            table.add_column(column, justify="right" if column else "left")
        for what, search in questions(args.jobs).items():
            pages = [page(store, search) for _ in range(args.rounds)]
            found, times = pages[0]
            longest = statistics.median(max(times) for _, times in pages) * 1e3
            totals = [sum(times) * 1e3 for _, times in pages]
            figures = f"{longest:.1f}", f"{statistics.median(totals):.1f}", f"{max(totals):.1f}"
            table.add_row(what, str(found), str(len(times)), *figures)
        console.print(table)
        store.close()
    print(f"Python {sys.version.split()[0]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
