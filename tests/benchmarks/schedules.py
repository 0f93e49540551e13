"""``python -m tests.benchmarks.schedules``: what a coordinator with 100,000 schedules pays, without jobs and store.

``start``: seconds to take up what the store has and to find each next time, 1,000 expressions in four zones.
``bytes``: memory of one schedule, its trigger and its place in the book included; with an empty history, and with a
full one. ``burst``: 10,000 that are due in one second: seconds until all are said, and until their rows are packed.
``jump``: seconds of the one call that tells of a clock set back, and until all next times are found again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.jobs import Outcome
from cluster.triggers import cron, crontab, every
from scheduler.schedules import Fire, FiringRow, Rows, Schedule, Schedules, past

SCHEDULES, EXPRESSIONS, BURST = 100_000, 1_000, 10_000
NOW_US = crontab.REFERENCE_US + 1
SLICE = 1_000
MINUTE = 60_000_000


def book_of_expressions(count: int) -> Schedules:
    zones = ("Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata")
    book = Schedules()
    for i in range(count):
        e = i % EXPRESSIONS
        expr = f"{e % 60} {e // 60} {('*', '1', '*/2', '15W')[e % 4]} * {('*', '1-5', '0')[e % 3]}"
        book.upsert(Schedule("default", f"schedule-{i}", cron(expr, zones[e % 4]), (i, b"payload")), NOW_US)
    return book


def taken_up(rows: Rows) -> Schedules:
    book = Schedules()
    assert not book.recovered(rows.schedules, rows.standings, rows.firings, NOW_US)
    searched(book)
    return book


def searched(book: Schedules) -> float:
    """The longest slice, in seconds."""
    longest = 0.0
    while (due := book.next_due()) is not None and due <= NOW_US:
        begun = time.perf_counter()
        assert not book.due(NOW_US, SLICE)
        longest = max(longest, time.perf_counter() - begun)
    return longest


def with_history(rows: Rows) -> Rows:
    firings = [
        FiringRow(row.namespace, row.name, i, b"", 0, 0, i, i, i, i, 0, 0, i.to_bytes(16, "big"))
        for row in rows.schedules
        for i in range(1, past.MOST + 1)
    ]
    return rows._replace(firings=firings)


def traced(make: Callable[[], Schedules]) -> int:
    crontab.cron_rule.cache_clear()
    tracemalloc.start()
    book = make()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size // len(book)


def start(rows: Rows) -> dict[str, float]:
    crontab.cron_rule.cache_clear()
    begun = time.perf_counter()
    book = Schedules()
    book.recovered(rows.schedules, rows.standings, rows.firings, NOW_US)
    read = time.perf_counter()
    longest = searched(book)
    found = time.perf_counter()
    book.clock_jumped(NOW_US - MINUTE)
    jumped = time.perf_counter()
    return {
        "read_s": round(read - begun, 2),
        "search_s": round(found - read, 2),
        "longest_slice_s": round(longest, 3),
        "jump_s": round(jumped - found, 3),
    }


def burst(catch_up: str, jitter_s: float) -> dict[str, float]:
    book = Schedules()
    for i in range(BURST):
        trigger = cron("* * * * *") if i % 2 else every(60)
        book.upsert(Schedule("default", f"schedule-{i}", trigger, i, "skip", catch_up, jitter_s=jitter_s), 0)  # type: ignore[arg-type]
    book.due(0, 2 * BURST)
    book.rows()
    now = 2 * MINUTE - 1
    begun = time.perf_counter()
    said: list[Fire] = []
    longest = 0.0
    while (due := book.next_due()) is not None and due <= now:
        slice_begun = time.perf_counter()
        for decision in book.due(now, SLICE):
            assert isinstance(decision, Fire)
            said.append(decision)
            book.made(decision.key, b"j" * 16)
        longest = max(longest, time.perf_counter() - slice_begun)
    decided = time.perf_counter()
    rows = book.rows()
    packed = time.perf_counter()
    assert len(said) == len(rows.firings) == BURST
    for fire in said:
        book.ended(fire.key, Outcome.SUCCEEDED, now)
    ended = time.perf_counter()
    return {
        "said_s": round(decided - begun, 3),
        "longest_slice_s": round(longest, 3),
        "rows_s": round(packed - decided, 3),
        "ended_s": round(ended - packed, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    asked = parser.parse_args()
    rows = book_of_expressions(SCHEDULES).rows()
    few = book_of_expressions(SCHEDULES // 10).rows()
    full = with_history(few)
    figures: dict[str, Any] = {
        "start": start(rows),
        "bytes": {"fresh": traced(lambda: taken_up(few)), "full_history": traced(lambda: taken_up(full))},
        "burst": {
            f"{policy}, jitter {jitter}": burst(policy, jitter) for policy in ("all", "latest") for jitter in (0, 9)
        },
    }
    print(json.dumps(figures, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2))
    missed = []
    if figures["start"]["read_s"] + figures["start"]["search_s"] > 10:
        missed.append("start")
    if figures["bytes"]["full_history"] > 2048:
        missed.append("bytes")
    missed += [name for name, figure in figures["burst"].items() if figure["said_s"] + figure["rows_s"] > 1]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
