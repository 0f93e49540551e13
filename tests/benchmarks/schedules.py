"""``python -m tests.benchmarks.schedules``: what a coordinator with 100,000 schedules pays.

The book alone, without jobs and store:

``start``: seconds to take up what the store has and to find each next time, 1,000 expressions in four zones.
``bytes``: memory of one schedule, its trigger and its place in the book included; with an empty history, and with a
full one. ``burst``: 10,000 that are due in one second: seconds until all are said, and until their rows are packed.
``jump``: seconds of the one call that tells of a clock set back, and until all next times are found again.

Then the coordinator itself, on its store and by the real clock, with a node that is played and has room for all:

``start``: seconds to open the store, take up 100,000 schedules with full histories and find each next time. ``idle``:
share of a core while nothing but they are there. ``bytes_each``: memory of one, by what Python has allocated;
``resident_bytes_each``: by what the process has got, in which the store's page cache is. ``ten_thousand``, ``hundred``:
seconds from the nominal time of so many schedules that are due at one moment to the message that assigns their jobs,
which leaves when these are on the disk.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack

from cluster.actor import Drained, Now, Send
from cluster.jobs import Outcome, Spec
from cluster.messages import Assign
from cluster.triggers import Trigger, at, cron, crontab, every
from scheduler.coordinator import Coordinator
from scheduler.schedules import Fire, FiringRow, Rows, Schedule, Schedules, past
from scheduler.store import Changes
from scheduler.store.sqlite import SqliteStore
from tests.playbook import VERSION, CoordinatorPlay

SCHEDULES, EXPRESSIONS, BURST = 100_000, 1_000, 10_000
NOW_US = crontab.REFERENCE_US + 1
SLICE = 1_000
IDLE_S = 20.0
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


# ------------------------------------------------------------------------------------ the coordinator itself


class Real(CoordinatorPlay):
    """The real coordinator on a real store, by the real clock. Its peers are played, over the real codec."""

    def __init__(self, directory: Path, epoch: int) -> None:
        super().__init__()
        self.file = SqliteStore(directory)
        self.store = self.file  # type: ignore[assignment]
        recovered = self.file.recover()
        unfinished = self.file.unfinished(0, 1_000_000, True)
        self.coordinator = Coordinator(epoch, "cluster", VERSION, random.Random(1), None, None, recovered, unfinished)
        self._actor = self.coordinator
        gc.disable()  # as its host does, which collects by its own plan
        self.late_s: list[float] = []

    def turn(self, *events: Any) -> None:
        self.now = Now(time.monotonic(), time.time())
        super().turn(*events)

    def deliver(self, send: Send) -> None:
        if isinstance(send.message, Assign):
            at = time.time()
            for _, told in send.message.about:
                self.late_s.append(at - msgpack.unpackb(told)["nominal_us"] / 1e6)
        super().deliver(send)

    def pass_until(self, moment: float, *alive: Any) -> None:
        """Sleep from one deadline to the next, as a host does."""
        beat_at = 0.0
        while (now := time.time()) < moment:
            due = self.coordinator.deadline()
            wait_s = moment - now if due is None else min(due - time.monotonic(), moment - now)
            if wait_s > 0:
                time.sleep(min(wait_s, 1.0))
            self.turn(Drained())
            if time.monotonic() > beat_at:
                beat_at = time.monotonic() + 1
                for end in alive:
                    end.beat()

    def put(self, count: int, trigger: Callable[[int], Trigger], name: str = "s") -> None:
        spec = Spec("app:task", False, b"a pickled reference to a function of some module").encode()
        orders = self.coordinator._orders
        for i in range(count):
            about = {"do": "put", "name": f"{name}-{i}", "trigger": trigger(i).to_wire(), "spec": spec}
            about |= {"payload": b"pickled arguments, some forty bytes of it", "summary": f"customer={i}"}
            orders.answer("default", "ann", about, time.time(), "")
            if i % 5_000 == 4_999:
                self.turn()
        self.turn()

    @property
    def settled(self) -> bool:
        return self.coordinator._orders.next > time.time()


def expression(i: int) -> Trigger:
    zones = ("Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata")
    e = i % EXPRESSIONS
    expr = f"{e % 60} {e // 60} {('*', '1', '*/2', '15W')[e % 4]} * {('*', '1-5', '0')[e % 3]}"
    return cron(expr, zones[e % 4])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def in_process(work: Callable[[Path], dict[str, float]], directory: Path) -> dict[str, float]:
    """Measured in a fresh process, whose memory tells."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (directory,))


def made(directory: Path) -> dict[str, float]:
    begun = time.perf_counter()
    real = Real(directory, 1)
    real.turn(Drained())
    real.put(SCHEDULES, expression)
    made_s = time.perf_counter() - begun
    for i in range(SCHEDULES):  # each has fired as often as is kept
        lines = [
            FiringRow("default", f"s-{i}", k, b"", 0, 0, k, k, k, k, 0, 0, k.to_bytes(16, "big"))
            for k in range(1, past.MOST + 1)
        ]
        real.file.write([Changes(firings={line[:4]: line for line in lines})])
    real.file.commit()
    real.file.close()
    return {"made_per_s": round(SCHEDULES / made_s)}


def started(directory: Path) -> dict[str, float]:
    gc.collect()
    before = resident()
    begun = time.perf_counter()
    real = Real(directory, 2)
    real.turn(Drained())
    while not real.settled:
        real.turn()
    start_s = time.perf_counter() - begun
    gc.collect()
    size = (resident() - before) / SCHEDULES
    gc.freeze()
    spent = time.process_time()
    real.pass_until(time.time() + IDLE_S)
    idle = (time.process_time() - spent) / IDLE_S
    real.file.close()
    return {"start_s": round(start_s, 2), "resident_bytes_each": round(size), "idle_core_share": round(idle, 4)}


def traced_there(directory: Path) -> dict[str, float]:
    tracemalloc.start()
    real = Real(directory, 3)
    real.turn(Drained())
    while not real.settled:
        real.turn()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    real.file.close()
    return {"bytes_each": round(size / SCHEDULES)}


def due_at_once(directory: Path, count: int) -> dict[str, float]:
    real = Real(directory, 1)
    node = real.node("n1", slots=2 * BURST)
    moment = float(int(time.time()) + 3 + count // 2_000)
    when = at(datetime.fromtimestamp(moment, UTC))
    real.put(count, lambda i: when)
    gc.collect()
    gc.freeze()
    real.pass_until(moment + 5, node)
    real.file.close()
    late = sorted(real.late_s)
    assert len(late) == count, f"{len(late)} of {count} were assigned"
    return {
        "p50_s": round(late[count // 2], 3),
        "p99_s": round(late[count * 99 // 100 - 1], 3),
        "most_s": round(late[-1], 3),
    }


def ten_thousand(directory: Path) -> dict[str, float]:
    return due_at_once(directory, BURST)


def hundred(directory: Path) -> dict[str, float]:
    return due_at_once(directory, 100)


def through_the_coordinator() -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for work in (made, started, traced_there, ten_thousand, hundred):
            directory = root / ("all" if work in (made, started, traced_there) else work.__name__)
            directory.mkdir(exist_ok=True)
            figures[work.__name__] = in_process(work, directory)
    return figures


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
    figures["coordinator"] = real = through_the_coordinator()
    print(json.dumps(figures, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2))
    missed = []
    if figures["start"]["read_s"] + figures["start"]["search_s"] > 10:
        missed.append("start")
    if figures["bytes"]["full_history"] > 2048:
        missed.append("bytes")
    missed += [name for name, figure in figures["burst"].items() if figure["said_s"] + figure["rows_s"] > 1]
    for name, figure, most in (
        ("start of the coordinator", real["started"]["start_s"], 10),
        ("memory", real["traced_there"]["bytes_each"], 2048),
        ("idle", real["started"]["idle_core_share"], 0.03),
        ("10,000 at once", real["ten_thousand"]["p99_s"], 1),
        ("100 at once", real["hundred"]["most_s"], 0.05),
    ):
        if figure > most:
            missed.append(f"{name} ({figure}, wanted {most})")
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
