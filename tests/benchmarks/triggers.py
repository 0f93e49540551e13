"""``python -m tests.benchmarks.triggers``: fire times of the case table against croniter, in turns within one run.

Both are given the same expressions, zones and moments, and asked for the same number of times. ``cold``: each parses
its expression for every case. ``warm``: triggers keep what they parsed, as they do in the coordinator; croniter has
nothing to keep. Cases croniter does not take are left out for both, and counted. Whose times are right is not asked
here (croniter differs in many of these cases); the tests do that.

Then what a coordinator with 100,000 schedules of 1,000 expressions pays at its start.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
from croniter import CroniterError, croniter

from cluster.triggers import cron, crontab, from_wire
from tests.cluster.test_triggers_cron import CASES, Case

SCHEDULES, EXPRESSIONS = 100_000, 1_000
NOW_US = crontab.REFERENCE_US


def of_ours(case: Case) -> list[datetime]:
    return cron(case.expr, case.tz, case.dst).upcoming(case.after, len(case.times))


def of_ours_cold(case: Case) -> list[datetime]:
    crontab.cron_rule.cache_clear()
    return of_ours(case)


def of_croniter(case: Case) -> list[datetime]:
    times = croniter(
        case.expr.replace("?", "*"), case.after.astimezone(ZoneInfo(case.tz)), second_at_beginning=True, day_or=True
    )
    return [times.get_next(datetime) for _ in case.times]


def taken(case: Case) -> bool:
    try:
        of_croniter(case)
    except (CroniterError, KeyError, ValueError):
        return False
    return True


def seconds(find: Callable[[Case], list[datetime]], cases: list[Case]) -> float:
    started = time.perf_counter()
    for case in cases:
        find(case)
    return time.perf_counter() - started


def compare(rounds: int) -> dict[str, Any]:
    cases = [case for case in CASES if taken(case)]
    of_each: dict[str, list[float]] = {"cold": [], "warm": [], "croniter": []}
    for _ in range(rounds):
        of_each["cold"].append(seconds(of_ours_cold, cases))
        of_each["croniter"].append(seconds(of_croniter, cases))
        seconds(of_ours, cases)
        of_each["warm"].append(seconds(of_ours, cases))
    times = sum(len(case.times) for case in cases)
    out: dict[str, Any] = {name: round(statistics.median(s) / times * 1e6, 1) for name, s in of_each.items()}
    return {"cases": len(cases), "left_out": len(CASES) - len(cases), "times": times, "us_per_time": out}


def start() -> dict[str, float]:
    """Seconds and bytes a trigger to read what the store holds, and seconds to find each next fire time."""
    zones = ("Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata")
    wires = []
    for i in range(EXPRESSIONS):
        expr = f"{i % 60} {i // 60} {('*', '1', '*/2', '15W')[i % 4]} * {('*', '1-5', '0')[i % 3]}"
        wires.append(msgpack.packb(cron(expr, zones[i % 4]).to_wire()))
    assert len(set(wires)) == EXPRESSIONS
    stored = [wires[i % EXPRESSIONS] for i in range(SCHEDULES)]
    crontab.cron_rule.cache_clear()
    begun = time.perf_counter()
    triggers = [from_wire(msgpack.unpackb(raw)) for raw in stored]
    read = time.perf_counter()
    due = [trigger.next_after(NOW_US) for trigger in triggers]
    found = time.perf_counter()
    assert all(due)
    del triggers
    crontab.cron_rule.cache_clear()
    tracemalloc.start()
    kept = [from_wire(msgpack.unpackb(raw)) for raw in stored]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "read_s": round(read - begun, 2),
        "next_s": round(found - read, 2),
        "bytes_per_trigger": round(size / len(kept)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    asked = parser.parse_args()
    figures = {"table": compare(asked.rounds), "start": start()}
    print(json.dumps(figures, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2))
    us = figures["table"]["us_per_time"]
    missed = [name for name in ("cold", "warm") if us[name] > us["croniter"]]
    if figures["start"]["read_s"] + figures["start"]["next_s"] > 10 or figures["start"]["bytes_per_trigger"] > 2048:
        missed.append("start")
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
