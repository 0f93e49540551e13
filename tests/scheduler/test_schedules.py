"""Each time of a trigger becomes one firing or has one stated reason. Rules of this file: a clock and a store of dicts.

The state machine at the end judges as Jepsen's test of Chronos did: it works out by itself which times there were, and
matches each to what was said of it.
"""

from __future__ import annotations

import gc
import tracemalloc
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.jobs import Outcome
from cluster.triggers import Trigger, at, cron, every
from scheduler.schedules import (
    CatchUp,
    Decision,
    Fire,
    FiringRow,
    Key,
    Kind,
    Overlap,
    Reason,
    Schedule,
    ScheduleRow,
    Schedules,
    Skip,
    StandingRow,
    Stop,
    past,
)
from scheduler.schedules import book as book_module
from scheduler.schedules.fired import RANGES, Fired
from scheduler.schedules.past import Run

US = 1_000_000
MINUTE, HOUR, DAY = 60 * US, 3600 * US, 86_400 * US
NOON = int(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()) * US
SUCCEEDED = Outcome.SUCCEEDED


class Bench:
    """A book with its clock and its store. A turn commits; what is lost with the book before one was never said."""

    def __init__(self, now: int = NOON) -> None:
        self.now = now
        self.book = Schedules()
        self.schedules: dict[tuple[str, str], ScheduleRow] = {}
        self.standings: dict[tuple[str, str], StandingRow] = {}
        self.firings: dict[Key, FiringRow] = {}
        self.jobs = 0

    def add(self, trigger: Trigger, name: str = "s", **options: object) -> None:
        self.book.upsert(Schedule("ns", name, trigger, {"function": "f"}, **options), self.now)  # type: ignore[arg-type]

    def decide(self, most: int = 1000) -> list[Decision]:
        out: list[Decision] = []
        while (due := self.book.next_due()) is not None and due <= self.now:
            said = self.book.due(self.now, most)
            self.make(said)
            out += said
        return out

    def make(self, said: Iterable[Decision]) -> None:
        for decision in said:
            if isinstance(decision, Fire):
                self.jobs += 1
                self.book.made(decision.key, self.jobs.to_bytes(16, "big"))

    def commit(self) -> None:
        rows = self.book.rows()
        gone = set(rows.forgotten)
        self.standings = {name: row for name, row in self.standings.items() if name not in gone}
        self.firings = {key: row for key, row in self.firings.items() if key[:2] not in gone}
        for schedule in rows.schedules:
            self.schedules[schedule[:2]] = schedule
        for standing in rows.standings:
            self.standings[standing[:2]] = standing
        for firing in rows.firings:
            self.firings[Key(*firing[:4])] = firing
        for name in rows.removed:
            self.schedules.pop(name, None)
        for key in rows.unsaid:
            self.firings.pop(key, None)

    def turn(self, passed: int = 0) -> list[Decision]:
        self.now += passed
        out = self.decide()
        self.commit()
        return out

    def restart(self) -> list[tuple[str, str, str]]:
        self.book = Schedules()
        return self.book.recovered(self.schedules.values(), self.standings.values(), self.firings.values(), self.now)

    def jump(self, by: int) -> None:
        self.now += by
        self.book.clock_jumped(self.now)

    def end(self, key: Key, outcome: Outcome = SUCCEEDED) -> bool:
        return self.book.ended(key, outcome, self.now, 7)

    @property
    def running(self) -> list[Key]:
        return [key for key, _ in self.book.running()]


def short(said: list[Decision]) -> list[tuple[object, ...]]:
    """By minutes since noon."""
    out: list[tuple[object, ...]] = []
    for decision in said:
        minute = (decision.key.nominal_us - NOON) / MINUTE
        match decision:
            case Fire():
                out.append(("fire", minute))
            case Skip(reason=reason, until_us=until):
                out.append((reason.name, minute, -((NOON - until) // MINUTE)))
            case Stop(kill=kill):
                out.append(("kill" if kill else "cancel", minute))
    return out


MINUTELY = cron("* * * * *")

# --------------------------------------------------------------------------- when they fire


def test_a_time_fires_once_when_it_comes() -> None:
    bench = Bench(NOON + 1)
    bench.add(MINUTELY)
    assert bench.turn() == []
    assert bench.book.next_due() == NOON + MINUTE
    assert bench.turn(MINUTE - 2) == []
    [fire] = bench.turn(1)
    assert fire == Fire(Key("ns", "s", NOON + MINUTE, b""), Kind.SCHEDULED, NOON + MINUTE, {"function": "f"})
    assert bench.turn() == []
    assert bench.book.next_due() == NOON + 2 * MINUTE


def test_times_before_a_schedule_was_made_are_not_its_own() -> None:
    bench = Bench()
    bench.add(MINUTELY, catch_up="all", catch_up_window_s=86_400)
    assert short(bench.turn(2 * MINUTE)) == [("fire", 1), ("OVERLAP", 2, 3)]


def test_a_union_and_single_moments_fire_and_are_over() -> None:
    bench = Bench()
    bench.add(at(["2026-06-01T12:01Z", "2026-06-01T12:02Z"]) | at("2026-06-01T12:01:30Z"), overlap="allow")
    assert [short(bench.turn(MINUTE // 2)) for _ in range(4)] == [[], [("fire", 1)], [("fire", 1.5)], [("fire", 2)]]
    assert bench.book.next_due() is None
    view = bench.book.get("ns", "s")
    assert view is not None and view.next_us is None


def test_many_due_at_once_come_in_slices_the_earliest_first() -> None:
    bench = Bench()
    for i in range(30):
        bench.add(every(60 + i), str(i))
    bench.turn()
    bench.now += 2 * MINUTE - 1
    seen: list[Decision] = []
    while (due := bench.book.next_due()) is not None and due <= bench.now:
        said = bench.book.due(bench.now, 7)
        assert len(said) <= 7
        seen += said
    assert [d.key.nominal_us for d in seen] == [NOON + (60 + i) * US for i in range(30)]


def test_a_search_that_excluded_times_break_off_goes_on() -> None:
    bench = Bench()
    bench.add(
        every(0.001).without(every(0.001, start=datetime(2026, 6, 1, 11, tzinfo=UTC), end="2026-06-01T12:00:06Z"))
    )
    fires = [d for _ in range(8) for d in bench.turn(US)]
    assert fires[0].key.nominal_us == NOON + 6 * US + 1000


# --------------------------------------------------------------------------- overlap


@pytest.mark.parametrize(
    ("overlap", "expected", "after"),
    [
        ("skip", [[("OVERLAP", 2, 3)], [("OVERLAP", 3, 4)]], []),
        ("buffer_one", [[], [("OVERLAP", 3, 4)]], [("fire", 2)]),
        ("buffer_all", [[], []], [("fire", 2), ("fire", 3)]),
        ("cancel_other", [[("cancel", 1)], [("GAVE_WAY", 2, 3)]], [("fire", 3)]),
        ("kill_other", [[("kill", 1)], [("GAVE_WAY", 2, 3)]], [("fire", 3)]),
        ("allow", [[("fire", 2)], [("fire", 3)]], []),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_overlap(overlap: str, expected: list[object], after: list[object], restart: bool) -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap=overlap)
    assert short(bench.turn(MINUTE)) == [("fire", 1)]
    assert [short(bench.turn(MINUTE)) for _ in range(2)] == expected
    if restart:
        bench.restart()
        again = short(bench.turn())
        # A wish to end is not kept: it is said again.
        assert again == ([expected[0][0]] if "other" in overlap else [])  # type: ignore[index]
    fired = []
    while bench.running:
        bench.end(bench.running[0])
        fired += short(bench.turn())
    assert fired == after
    assert short(bench.turn(MINUTE)) == [("fire", 4)]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_WAITING", 2)
    monkeypatch.setattr(book_module, "MAX_RUNNING", 2)
    bench = Bench()
    bench.add(MINUTELY, "all", overlap="buffer_all")
    bench.add(MINUTELY, "free", overlap="allow")
    said = [d for _ in range(4) for d in bench.turn(MINUTE)]
    assert short([d for d in said if d.key.name == "all"]) == [("fire", 1), ("TOO_MANY", 4, 5)]
    assert short([d for d in said if d.key.name == "free"]) == [
        ("fire", 1),
        ("fire", 2),
        ("TOO_MANY", 3, 4),
        ("TOO_MANY", 4, 5),
    ]


def test_another_overlap_policy_releases_what_waits() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="buffer_all")
    for _ in range(3):
        bench.turn(MINUTE)
    bench.add(MINUTELY, overlap="allow")
    assert short(bench.turn()) == [("fire", 2), ("fire", 3)]


# --------------------------------------------------------------------------- catch-up


@pytest.mark.parametrize(
    ("catch_up", "minutes", "expected"),
    [
        ("all", 4, [("fire", 1), ("fire", 2), ("fire", 3), ("fire", 4)]),
        ("latest", 4, [("SUPERSEDED", 1, 4), ("fire", 4)]),
        ("none", 4, [("MISSED", 1, 4), ("fire", 4)]),  # half a minute late is not missed
        ("all", 1, [("fire", 1)]),
        ("latest", 1, [("fire", 1)]),
        ("none", 1, [("fire", 1)]),
        # The window is tested first, then the policy.
        ("all", 13, [("OUTSIDE_WINDOW", 1, 4), *[("fire", i) for i in range(4, 14)]]),
        ("latest", 13, [("OUTSIDE_WINDOW", 1, 4), ("SUPERSEDED", 4, 13), ("fire", 13)]),
        ("none", 13, [("OUTSIDE_WINDOW", 1, 4), ("MISSED", 4, 13), ("fire", 13)]),
    ],
)
@pytest.mark.parametrize("how", ["restart", "jump"])
def test_catch_up(catch_up: str, minutes: int, expected: list[object], how: str) -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="allow", catch_up=catch_up, catch_up_window_s=600)
    bench.turn()
    if how == "restart":
        bench.now += minutes * MINUTE + MINUTE // 2
        bench.restart()
    else:
        bench.jump(minutes * MINUTE + MINUTE // 2)
    assert short(bench.turn()) == expected
    assert short(bench.turn(MINUTE // 2)) == [("fire", minutes + 1)]


@pytest.mark.parametrize(
    ("catch_up", "minutes", "expected"),
    [
        ("latest", 90, ("fire", 60)),
        ("none", 90, ("MISSED", 60, 61)),
        ("none", 61, ("fire", 60)),
        ("all", 60 + 121, ("OUTSIDE_WINDOW", 60, 61)),
        ("latest", 60 + 121, ("OUTSIDE_WINDOW", 60, 61)),
    ],
)
def test_catch_up_of_a_single_time(catch_up: str, minutes: int, expected: object) -> None:
    bench = Bench()
    bench.add(cron("0 13 * * *"), catch_up=catch_up, catch_up_window_s=7200)
    said = short(bench.turn(minutes * MINUTE))
    assert len(said) == 1
    assert said[0][:2] == expected[:2]  # type: ignore[index]


def test_a_long_stretch_of_missed_times_is_one_line_and_little_work() -> None:
    bench = Bench()
    bench.add(every(0.001), overlap="allow", catch_up="latest", catch_up_window_s=DAY // US)
    said = bench.turn(30 * DAY)
    assert [type(d).__name__ for d in said] == ["Skip", "Skip", "Fire"]
    assert said[2].key.nominal_us == bench.now
    assert said[0].key.nominal_us == NOON + 1000
    assert isinstance(said[0], Skip) and isinstance(said[1], Skip)
    assert said[0].until_us == said[1].key.nominal_us == bench.now - DAY
    assert said[1].until_us == bench.now


# --------------------------------------------------------------------------- jumps, keys


def test_a_clock_set_back_fires_nothing_twice_but_what_had_not_fired() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="skip")
    first = bench.turn(MINUTE)
    assert short(bench.turn(MINUTE)) == [("OVERLAP", 2, 3)]
    bench.end(first[0].key)
    assert short(bench.turn(MINUTE)) == [("fire", 3)]
    bench.end(bench.running[0])
    assert [line.reason for line in bench.book.history("ns", "s")] == [0, Reason.OVERLAP, 0]
    bench.jump(-3 * MINUTE)
    bench.commit()
    assert [line.reason for line in bench.book.history("ns", "s")] == [0, 0]  # the time comes again
    bench.restart()
    assert [short(bench.turn(MINUTE)) for _ in range(4)] == [[], [("fire", 2)], [], [("OVERLAP", 4, 5)]]


def test_a_clock_that_was_wrong_for_a_while_does_not_stop_a_schedule() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="allow")
    bench.jump(30 * DAY)
    assert [type(d).__name__ for d in bench.turn()] == ["Skip", "Skip", "Fire"]
    bench.jump(-30 * DAY)
    assert short(bench.turn(MINUTE)) == [("fire", 1)]
    assert [line.until_us for line in bench.book.history("ns", "s")] == [0, 0]


def test_a_clock_set_back_while_the_coordinator_was_down() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="allow")
    for _ in range(5):
        bench.turn(MINUTE)
    bench.now -= 3 * MINUTE
    bench.restart()
    assert [short(bench.turn(MINUTE)) for _ in range(4)] == [[], [], [], [("fire", 6)]]


def test_removed_and_made_again_fires_nothing_twice() -> None:
    bench = Bench()
    bench.add(MINUTELY)
    [fire] = bench.turn(MINUTE)
    assert bench.book.remove("ns", "s", bench.now)
    assert not bench.book.remove("ns", "s", bench.now)
    bench.commit()
    assert bench.book.get("ns", "s") is None and len(bench.book) == 0 and not bench.schedules
    bench.restart()
    bench.jump(-MINUTE)
    bench.add(MINUTELY)
    assert bench.turn(MINUTE) == []
    # Its job still runs, and is seen.
    assert short(bench.turn(MINUTE)) == [("OVERLAP", 2, 3)]
    bench.end(fire.key)
    assert short(bench.turn(MINUTE)) == [("fire", 3)]


def test_a_removed_schedule_is_forgotten_after_a_week_or_its_window() -> None:
    bench = Bench()
    bench.add(MINUTELY)
    bench.add(MINUTELY, "wide", catch_up_window_s=8 * DAY // US)
    bench.add(MINUTELY, "fresh")
    bench.book.remove("ns", "fresh", bench.now)
    for fire in bench.turn(MINUTE):
        bench.end(fire.key)
    for name in ("s", "wide"):
        bench.book.remove("ns", name, bench.now)
    bench.turn()
    assert {name for _, name in bench.standings} == {"s", "wide"}
    bench.turn(7 * DAY - 1)
    assert {name for _, name in bench.standings} == {"s", "wide"}
    bench.restart()
    bench.turn(1)
    assert {name for _, name in bench.standings} == {"wide"}
    bench.turn(DAY)
    assert not bench.standings and not bench.firings and bench.book.next_due() is None


@pytest.mark.parametrize("again", [False, True])
def test_the_moment_of_one_that_was_removed_before_it_fired_forgets_nothing(again: bool) -> None:
    bench = Bench()
    bench.add(every(30 * 86_400))
    bench.turn(MINUTE)
    bench.book.remove("ns", "s", bench.now)
    if again:
        bench.add(every(40 * 86_400))
    bench.turn()
    assert bench.turn(35 * DAY) == []
    assert len(bench.book) == len(bench.schedules) == len(bench.standings) == again
    assert len(bench.turn(10 * DAY)) == again


def test_removing_states_what_was_not_taken_up() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="buffer_all")
    bench.turn(MINUTE)
    bench.turn(MINUTE)
    bench.now += 2 * MINUTE
    bench.book.remove("ns", "s", bench.now)
    assert short(bench.turn()) == [("REMOVED", 3, 5), ("REMOVED", 2, 3)]
    assert len(bench.running) == 1


def test_fired_times_are_few_ranges() -> None:
    fired = Fired()
    for i in range(1000):
        fired.add(i * 10, (i - 1) * 10)
    assert fired.flat() == [0, 9990]
    fired = Fired()
    for i in range(1000):
        fired.add(i * 20, i * 20 - 10)  # each second time was skipped
    assert len(fired.flat()) == 2 * RANGES
    assert all(i * 20 in fired for i in range(1000))
    assert 19_970 not in fired


def test_ranges_between_which_times_are_undecided_stay_apart() -> None:
    fired = Fired()
    for i in range(RANGES):
        fired.add(100_000 + i * 20, 0)  # the clock was wrong
    for i in range(10):
        fired.add(i * 200, i * 200 - 10)
    assert fired.flat()[:2] == [0, 1800]  # these are put together, though more lies between them
    assert len(fired.flat()) == 2 * RANGES + 2


def test_a_schedule_with_a_full_history_takes_less_than_two_kib() -> None:
    bench, count = Bench(), 500
    for i in range(count):
        call = {"function": "f", "arguments": b"a" * 40, "_spec": b"s" * 90, "_summary": f"customer={i}", "_at": i / 7}
        bench.book.upsert(Schedule("ns", f"schedule-{i}", MINUTELY, call), NOON)
    bench.commit()
    lines = [
        FiringRow(*name, NOON - k * MINUTE, b"", 0, 0, NOON + k, 1, NOON + 2 * k, 5, 0, 0, k.to_bytes(16, "big"))
        for name in bench.schedules
        for k in range(1, past.MOST + 1)
    ]
    bench.firings = {Key(*line[:4]): line for line in lines}
    stored = [msgpack.packb(list(map(list, part.values()))) for part in (bench.schedules, bench.standings)]
    gc.collect()
    tracemalloc.start()
    try:
        schedules, standings = (msgpack.unpackb(part, use_list=False) for part in stored)  # texts of their own
        bench.book = book = Schedules()
        rows = map(ScheduleRow._make, schedules), map(StandingRow._make, standings)
        assert not book.recovered(*rows, bench.firings.values(), NOON)
        del schedules, standings, rows
        assert not bench.decide()
        gc.collect()  # what is left of it may wait for that, which says nothing of a schedule
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(book.history("ns", "schedule-7")) == past.MOST
    assert size / count < 1_900


# --------------------------------------------------------------------------- upsert


def test_upsert_says_what_changed() -> None:
    bench = Bench()
    one = Schedule("ns", "s", MINUTELY, {"function": "f", "queue": "a"})
    two = Schedule("ns", "s", cron("0 * * * *"), {"function": "f", "queue": "b"}, jitter_s=5)
    assert bench.book.upsert(one, NOON) == (True, ())
    bench.commit()
    assert bench.book.upsert(one, NOON) == (False, ())
    assert bench.book.rows() == ([], [], [], [], [], [])
    assert bench.book.upsert(two, NOON) == (False, ("trigger", "call.queue", "jitter_s"))
    bench.commit()
    bench.restart()
    assert bench.book.upsert(two, NOON) == (False, ())


def test_an_every_keeps_its_anchor_over_an_upsert_and_a_restart() -> None:
    bench = Bench()
    bench.add(every(3600), overlap="allow")
    bench.turn(HOUR + 10 * MINUTE)
    bench.restart()
    bench.add(every(3600), overlap="allow", jitter_s=1)
    bench.add(every(1800), overlap="allow")
    assert short(bench.turn(20 * MINUTE)) == [("fire", 90)]


def test_times_of_the_old_trigger_that_were_not_taken_up_are_stated() -> None:
    bench = Bench()
    bench.add(MINUTELY, catch_up="all")
    bench.now += 3 * MINUTE
    bench.add(cron("*/5 * * * *"))
    assert short(bench.turn(2 * MINUTE)) == [("CHANGED", 1, 4), ("fire", 5)]


def test_count_is_how_often_it_fires_in_all() -> None:
    bench = Bench()
    bench.add(every(60, count=3))
    [fire] = bench.turn(MINUTE)
    assert short(bench.turn(MINUTE)) == [("OVERLAP", 2, 3)]  # does not count
    bench.end(fire.key)
    bench.restart()
    bench.end(fire.key)
    for minute in (3, 4):
        [fire] = bench.turn(MINUTE)
        assert fire.key.nominal_us == NOON + minute * MINUTE
        bench.end(fire.key)
    assert bench.turn(10 * MINUTE) == []
    view = bench.book.get("ns", "s")
    assert view is not None and view.left == 0 and view.next_us is None
    bench.add(every(60, count=4))
    assert short(bench.turn()) == []
    assert short(bench.turn(MINUTE)) != []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"overlap": "never"}, "overlap: 'never' is none of skip, buffer_one"),
        ({"catch_up": "some"}, "catch_up: 'some' is none of all, latest, none"),
        ({"catch_up_window_s": 1}, "catch_up_window_s: 10 to"),
        ({"jitter_s": -1}, "jitter_s: 0 to"),
        ({"jitter_s": True}, "jitter_s: 0 to"),
        ({"pause_after": 1.5}, "pause_after: a whole number"),
        ({"name": ""}, "name: 1 to 200"),
    ],
)
def test_what_makes_no_schedule_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Bench().add(MINUTELY, **options)  # type: ignore[arg-type]


def test_a_schedule_is_the_same_from_the_store() -> None:
    one = Schedule("ns", "s", cron("0 3 * * *", "Europe/Berlin", count=3), {"a": [1]}, Overlap.ALLOW, jitter_s=0.5)
    assert Schedule.unpack("ns", "s", one.pack()) == one


def test_what_cannot_be_read_rests_and_can_be_made_anew_or_removed() -> None:
    bench = Bench()
    bench.add(MINUTELY)
    bench.add(MINUTELY, "t")
    bench.turn(MINUTE)
    for name in ("s", "t"):
        row = bench.schedules["ns", name]
        bench.schedules["ns", name] = row._replace(schedule=row.schedule.replace(b"UTC", b"XXX"))
    assert [reason[:2] for reason in bench.restart()] == [("ns", "s"), ("ns", "t")]
    assert bench.turn(30 * DAY) == [] and len(bench.standings) == 2
    bench.jump(-30 * DAY - MINUTE)
    bench.add(MINUTELY)
    assert bench.book.remove("ns", "t", bench.now)
    bench.commit()
    assert list(bench.schedules) == [("ns", "s")]
    assert bench.turn(MINUTE) == []  # that had fired


# --------------------------------------------------------------------------- jitter


def test_jitter_is_the_same_always_and_never_reaches_the_next_time() -> None:
    one = Schedule("ns", "s", MINUTELY, None, jitter_s=3600)
    delays = [one.jitter_us(NOON + i * MINUTE, NOON + (i + 1) * MINUTE) for i in range(1000)]
    assert delays == [one.jitter_us(NOON + i * MINUTE, NOON + (i + 1) * MINUTE) for i in range(1000)]
    assert 0 <= min(delays) < MINUTE // 50 and MINUTE * 49 // 50 < max(delays) < MINUTE
    other = Schedule("ns", "t", MINUTELY, None, jitter_s=3600)
    assert other.jitter_us(NOON, None) != one.jitter_us(NOON, None) < HOUR
    assert Schedule("ns", "s", MINUTELY, None, jitter_s=1).jitter_us(NOON, NOON + 1) == 0


def test_a_jittered_time_keeps_its_nominal_one() -> None:
    bench = Bench()
    bench.add(cron("0 * * * *"), jitter_s=600)
    bench.turn()
    due = bench.book.next_due()
    assert due is not None and NOON + HOUR < due <= NOON + HOUR + 600 * US
    assert bench.turn(due - bench.now - 1) == []
    [fire] = bench.turn(1)
    assert isinstance(fire, Fire)
    assert (fire.key.nominal_us, fire.due_us) == (NOON + HOUR, due)
    assert bench.book.history("ns", "s")[0].late_us == 0


@pytest.mark.parametrize("catch_up", ["all", "latest"])
def test_a_time_is_late_from_its_jittered_moment(catch_up: str) -> None:
    bench = Bench()
    bench.add(cron("0 * * * *"), jitter_s=3599, catch_up=catch_up, catch_up_window_s=10, overlap="allow")
    bench.turn()
    for hour in range(1, 20):
        due = bench.book.next_due()
        assert due is not None
        said = bench.turn(due - bench.now + 9 * US)
        assert short(said) == [("fire", hour * 60)]
    due = bench.book.next_due()
    assert due is not None
    assert short(bench.turn(due - bench.now + 10 * US + 1))[0][0] == "OUTSIDE_WINDOW"


# --------------------------------------------------------------------------- pause


def test_pause_and_resume() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="allow", catch_up="all")
    bench.turn(MINUTE)
    assert bench.book.pause("ns", "s", "the disk is full")
    bench.commit()
    bench.restart()
    assert bench.turn(3 * MINUTE) == [] and bench.book.next_due() is None
    view = bench.book.get("ns", "s")
    assert view is not None and view.paused == "the disk is full" and not view.gave_up and view.next_us is None
    assert bench.book.resume("ns", "s", bench.now)
    assert short(bench.turn()) == [("PAUSED", 2, 5)]
    assert short(bench.turn(MINUTE)) == [("fire", 5)]
    assert not bench.book.pause("ns", "no", "") and not bench.book.resume("ns", "no", 0)


def test_what_waits_goes_on_waiting_over_a_pause() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="buffer_all")
    [fire] = bench.turn(MINUTE)
    bench.turn(MINUTE)
    bench.book.pause("ns", "s", "")
    bench.end(fire.key)
    assert bench.turn() == []
    bench.book.resume("ns", "s", bench.now)
    assert short(bench.turn()) == [("fire", 2)]


def test_failures_in_a_row_pause_it() -> None:
    bench = Bench()
    bench.add(MINUTELY, pause_after=3)
    ends = [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.SUCCEEDED, Outcome.LOST, Outcome.CANCELLED, Outcome.EXPIRED]
    for outcome in ends:
        [fire] = bench.turn(MINUTE)
        assert not bench.end(fire.key, outcome)
    bench.commit()
    bench.restart()
    [fire] = bench.turn(MINUTE)
    assert bench.end(fire.key, Outcome.FAILED)
    view = bench.book.get("ns", "s")
    assert view is not None and view.gave_up and view.paused == "paused after 3 failures in a row"
    assert bench.turn(MINUTE) == []
    bench.book.resume("ns", "s", bench.now)
    view = bench.book.get("ns", "s")
    assert view is not None and view.failures == 0 and view.paused is None


# --------------------------------------------------------------------------- run now, backfill, reboot


@pytest.mark.parametrize(
    ("overlap", "asked", "expected"),
    [
        ("skip", None, [("OVERLAP", 1.5, 2)]),
        ("skip", Overlap.ALLOW, [("fire", 1.5)]),
        ("buffer_one", None, []),
        ("cancel_other", None, [("cancel", 1)]),
        ("allow", None, [("fire", 1.5)]),
    ],
)
def test_run_now(overlap: str, asked: Overlap | None, expected: list[object]) -> None:
    bench = Bench()
    bench.add(every(60, count=2), overlap=overlap)
    bench.turn(MINUTE)
    bench.now += MINUTE // 2
    said = bench.book.run_now("ns", "s", b"run-0001", bench.now, asked)
    assert short(said) == expected
    assert all(d.key.run == b"run-0001" for d in said if not isinstance(d, Stop))
    view = bench.book.get("ns", "s")
    assert view is not None and view.left == 1


def test_run_now_when_nothing_runs_or_it_is_paused() -> None:
    bench = Bench()
    bench.add(MINUTELY)
    bench.book.pause("ns", "s", "")
    said = bench.book.run_now("ns", "s", b"run-0001", bench.now)
    assert said == [Fire(Key("ns", "s", NOON, b"run-0001"), Kind.MANUAL, NOON, {"function": "f"})]
    with pytest.raises(KeyError):
        bench.book.run_now("ns", "no", b"run-0001", bench.now)


def test_backfill_runs_past_times_again_so_many_at_a_time() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="skip")
    bench.turn(MINUTE)
    start, end = NOON - 4 * MINUTE, NOON
    assert bench.book.preview("ns", "s", start, end, bench.now) == [start + i * MINUTE for i in range(5)]
    assert bench.book.backfill("ns", "s", start, end, b"backfill", 2, bench.now) == 5
    said = bench.turn()
    assert short(said) == [("fire", -4), ("fire", -3)]
    assert {(d.key.run, d.kind) for d in said if isinstance(d, Fire)} == {(b"backfill", Kind.BACKFILL)}
    bench.restart()
    assert bench.turn() == []
    assert not bench.end(said[1].key, Outcome.FAILED)
    more = bench.turn()
    assert short(more) == [("fire", -2)]
    bench.end(said[0].key)
    bench.end(more[0].key)
    assert short(bench.turn()) == [("fire", -1), ("fire", 0)]
    for key in bench.running[1:]:
        bench.end(key)
    bench.turn()
    view = bench.book.get("ns", "s")
    assert view is not None and view.backfills == 0 and view.running == 1


def test_a_backfill_ends_with_its_schedule_and_says_so() -> None:
    bench = Bench()
    bench.add(MINUTELY)
    bench.book.backfill("ns", "s", NOON - 4 * MINUTE, NOON, b"backfill", 2, bench.now)
    [first, second] = bench.turn()
    bench.book.remove("ns", "s", bench.now)
    assert short(bench.turn()) == [("REMOVED", -2, 1)]
    bench.end(first.key)
    bench.end(second.key)
    assert bench.turn() == []


@pytest.mark.parametrize(
    ("start", "end", "concurrency", "said"),
    [
        (0, HOUR, 1, "ends in the future"),
        (-1000 * HOUR, 0, 1, "more than 2000 times"),
        (-MINUTE + 1, -1, 1, "has no times"),
        (0, -HOUR, 1, "has no times"),
        (-HOUR, 0, 0, "concurrency: 1 to"),
    ],
)
def test_a_backfill_is_bounded(start: int, end: int, concurrency: int, said: str) -> None:
    bench = Bench()
    bench.add(MINUTELY)
    with pytest.raises(ValueError, match=said):
        bench.book.backfill("ns", "s", NOON + start, NOON + end, b"backfill", concurrency, NOON)


def test_reboot_fires_once_at_each_start() -> None:
    bench = Bench()
    bench.add(cron("@reboot"))
    bench.add(cron("@reboot"), "paused")
    bench.book.pause("ns", "paused", "")
    assert bench.turn() == [] and bench.book.next_due() is None
    bench.restart()
    bench.book.started(b"epoch--2", bench.now)
    said = bench.turn()
    assert short(said) == [("fire", 0), ("PAUSED", 0, 1)]
    assert isinstance(said[0], Fire) and said[0].kind == Kind.REBOOT and said[0].key.run == b"epoch--2"
    assert bench.turn(DAY) == []


# --------------------------------------------------------------------------- history, overdue


def test_history_has_the_last_lines() -> None:
    bench = Bench()
    bench.add(MINUTELY)
    [fire] = bench.turn(MINUTE + 5)
    bench.turn(MINUTE - 5)
    bench.end(fire.key, Outcome.FAILED)
    bench.commit()
    for _ in range(2):
        assert bench.book.history("ns", "s") == [
            Run(NOON + MINUTE, b"", 0, 0, NOON + MINUTE + 5, 5, bench.now, 7, 1, 0, (1).to_bytes(16, "big")),
            Run(NOON + 2 * MINUTE, b"", 0, NOON + 2 * MINUTE + 1, bench.now, 0, 0, 0, 0, Reason.OVERLAP, b""),
        ]
        bench.restart()
    assert Reason.OVERLAP.words == "an earlier one had not ended"


def test_history_is_bounded_but_what_runs_is_kept() -> None:
    bench = Bench()
    bench.add(MINUTELY, overlap="allow")
    [first] = bench.turn(MINUTE)
    for _ in range(40):
        [fire] = bench.turn(MINUTE)
        bench.end(fire.key)
    bench.commit()
    assert len(bench.book.history("ns", "s")) == past.MOST
    assert len(bench.firings) == past.MOST + 1
    bench.restart()
    assert bench.running == [first.key] and bench.book.job(first.key) == (1).to_bytes(16, "big")
    bench.end(first.key)
    bench.commit()
    assert len(bench.firings) == past.MOST
    assert not bench.end(first.key)


def test_overdue() -> None:
    bench = Bench()
    bench.add(MINUTELY, overdue_s=150)
    bench.add(MINUTELY, "other")
    bench.turn(150 * US)
    assert bench.book.overdue(bench.now) == []
    assert bench.book.overdue(bench.now + 1) == [("ns", "s", NOON)]
    bench.end(next(key for key in bench.running if key.name == "s"))
    assert bench.book.overdue(bench.now + 1) == []
    assert bench.book.overdue(bench.now + 151 * US) == [("ns", "s", bench.now)]
    bench.book.pause("ns", "s", "")
    assert bench.book.overdue(bench.now + 151 * US) == []


# --------------------------------------------------------------------------- the judge

TRIGGERS = [
    MINUTELY,
    cron("*/7 * * * *"),
    cron("0 * * * *"),
    every(90, start=datetime(2026, 6, 1, 11, 0, 10, tzinfo=UTC)),
    every(300, aligned=True) | at("2026-06-01T12:34:56Z"),
    cron("*/2 * * * *").without(cron("* 13 * * *")),
]
BAND = DAY
"""Clocks go no further from noon, so that nothing is forgotten."""


@cache
def all_times(trigger: Trigger) -> list[int]:
    out = []
    at = NOON - BAND - HOUR
    while (found := trigger.next_after(at)) is not None and found < NOON + 2 * BAND:
        out.append(found)
        at = found
    return out


class Judge(RuleBasedStateMachine):
    """Knows the trigger and the clock, and keeps what was said of each time.

    Whatever happens between two commits is lost with a restart: book and judge go back to the last commit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.said: dict[int, str] = {}
        """By nominal time of the trigger: "fire", the name of a reason, or "taken back" when the clock was."""
        self.open: dict[Key, None] = {}
        self.since = NOON
        """Times after this belong to this life of the schedule."""
        self.latest = NOON
        self.runs = 0
        self.live = False
        self.paused = False
        self.kept: tuple[Any, ...] = ()

    @initialize(
        trigger=st.sampled_from(TRIGGERS),
        overlap=st.sampled_from(list(Overlap)),
        catch_up=st.sampled_from(list(CatchUp)),
        window=st.sampled_from([600, 3600, 3 * DAY // US]),
        jitter=st.sampled_from([0, 0, 40, 5000]),
    )
    def begin(self, trigger: Trigger, overlap: Overlap, catch_up: CatchUp, window: int, jitter: int) -> None:
        self.trigger = trigger
        self.schedule = Schedule(
            "ns",
            "s",
            trigger,
            None,
            overlap,
            catch_up,
            window,
            jitter,
        )
        self.all_times = all_times(trigger)
        pairs = zip(self.all_times, [*self.all_times[1:], None], strict=True)
        self.due = {time: time + self.schedule.jitter_us(time, following) for time, following in pairs}
        self.strict = overlap == Overlap.ALLOW and catch_up == CatchUp.ALL and window > DAY // US
        self.add()
        self.commit()

    # What is said is judged at once: a time that has fired must not be spoken of again.

    def hear(self, said: list[Decision]) -> None:
        self.latest = max(self.latest, self.bench.now)
        for decision in said:
            nominal, kind = decision.key.nominal_us, getattr(decision, "kind", None)
            if isinstance(decision, Stop):
                assert decision.key in self.open
                continue
            if isinstance(decision, Fire):
                self.open[decision.key] = None
                assert len(self.open) == 1 or self.schedule.overlap == Overlap.ALLOW
            if kind != Kind.SCHEDULED:
                continue
            if isinstance(decision, Fire):
                assert nominal in self.times(nominal, nominal)
                assert decision.due_us <= self.latest  # what has waited may fire when the clock was set back
                assert self.said.get(nominal, "taken back") == "taken back"
                self.said[nominal] = "fire"
            else:
                assert not self.strict or decision.reason in (Reason.PAUSED, Reason.REMOVED), decision
                skipped = self.times(nominal, decision.until_us - 1)
                assert skipped and skipped[0] == nominal
                self.assert_true(decision, skipped)
                for time in skipped:
                    assert self.said.get(time, "taken back") == "taken back", (time, self.said[time], decision)
                    self.said[time] = decision.reason.name

    def assert_true(self, said: Skip, skipped: list[int]) -> None:
        now, schedule = self.bench.now, self.schedule
        match said.reason:
            case Reason.OUTSIDE_WINDOW:
                assert all(self.due[time] < now - schedule.window_us for time in skipped)
            case Reason.SUPERSEDED | Reason.MISSED:
                assert schedule.catch_up == ("none" if said.reason == Reason.MISSED else "latest")
                [later] = self.times(said.until_us, NOON + 2 * BAND)[:1]
                alone_and_late = said.reason == Reason.MISSED and self.due[skipped[0]] < now - MINUTE
                assert self.due[later] <= now or alone_and_late
            case Reason.OVERLAP:
                assert self.open and schedule.overlap in (Overlap.SKIP, Overlap.BUFFER_ONE)
            case Reason.GAVE_WAY:
                assert schedule.overlap in (Overlap.CANCEL_OTHER, Overlap.KILL_OTHER)
            case Reason.PAUSED | Reason.REMOVED:
                assert skipped[-1] <= self.latest
            case _:
                raise AssertionError(said)

    def times(self, first: int, last: int) -> list[int]:
        return self.all_times[bisect_left(self.all_times, first) : bisect_right(self.all_times, last)]

    def hear_all(self) -> None:
        self.hear(self.bench.decide(5))

    def commit(self) -> None:
        self.bench.commit()
        self.kept = (dict(self.said), dict(self.open), self.since, self.live, self.paused)

    def take_back(self) -> None:
        for time, word in self.said.items():
            if time > self.bench.now and word != "fire":
                self.said[time] = "taken back"
        self.since = min(self.since, self.bench.now)

    # ------------------------------------------------------------------ what happens

    @rule(by=st.sampled_from([1, 30 * US, MINUTE, 10 * MINUTE, HOUR]), commit=st.booleans())
    def time_passes(self, by: int, commit: bool) -> None:
        if abs(self.bench.now + by - NOON) < BAND:
            self.bench.now += by
            self.hear_all()
            if commit:
                self.commit()

    @rule(by=st.sampled_from([-12 * HOUR, -HOUR, -3 * MINUTE, -30 * US, MINUTE, HOUR, 9 * HOUR]))
    def clock_jumps(self, by: int) -> None:
        if abs(self.bench.now + by - NOON) < BAND:
            self.bench.jump(by)
            if by < 0:
                self.take_back()
            self.hear_all()

    @rule(by=st.sampled_from([-HOUR, -MINUTE, 0, MINUTE, HOUR, 6 * HOUR]), committed=st.booleans())
    def restarts(self, by: int, committed: bool) -> None:
        if committed:
            self.commit()
        said, opened, self.since, self.live, self.paused = self.kept
        self.said, self.open = dict(said), dict(opened)
        if abs(self.bench.now + by - NOON) < BAND:
            self.bench.now += by
        assert self.bench.restart() == []
        assert set(self.bench.running) == set(self.open)
        self.take_back()
        self.hear_all()
        self.commit()

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 1000), outcome=st.sampled_from(list(Outcome)), at_once=st.booleans())
    def a_job_ends(self, which: int, outcome: Outcome, at_once: bool) -> None:
        key = list(self.open)[which % len(self.open)]
        del self.open[key]
        self.bench.end(key, outcome)
        if at_once:
            self.hear_all()

    @precondition(lambda self: not self.live)
    @rule()
    def add(self) -> None:
        assert self.bench.book.upsert(self.schedule, self.bench.now).made
        self.live, self.paused = True, False
        self.since = self.bench.now

    @precondition(lambda self: self.live)
    @rule()
    def remove(self) -> None:
        self.bench.book.remove("ns", "s", self.bench.now)
        self.hear_all()
        # Its times up to now have come; those after it are no times of this life.
        self.account()
        self.live = False

    @precondition(lambda self: self.live)
    @rule(pause=st.booleans())
    def pauses(self, pause: bool) -> None:
        if pause:
            self.bench.book.pause("ns", "s", "")
        else:
            self.bench.book.resume("ns", "s", self.bench.now)
        self.paused = pause
        self.hear_all()

    @precondition(lambda self: self.live)
    @rule()
    def runs_now(self) -> None:
        self.runs += 1
        said = self.bench.book.run_now("ns", "s", self.runs.to_bytes(8, "big"), self.bench.now)
        self.bench.make(said)
        self.hear(said)

    @precondition(lambda self: self.live)
    @rule()
    def upserted_again(self) -> None:
        assert self.bench.book.upsert(self.schedule, self.bench.now) == (False, ())

    # ------------------------------------------------------------------ what must be

    def account(self) -> None:
        """Each time that has come in this life of the schedule is one firing, waits to be one, or has its reason."""
        if not self.live:
            return
        waiting = 0
        for time in self.times(self.since + 1, self.bench.now):
            if self.due[time] > self.bench.now:
                continue
            word = self.said.get(time)
            waiting += word is None
            # A clock set back brings skipped times again, but for those between fired ones that were put together.
            assert word != "taken back" or time in self.bench.book._all["ns", "s"].fired, time
        view = self.bench.book.get("ns", "s")
        most = view.waiting if view is not None else 0
        assert waiting <= most, f"{waiting} times have no firing and no reason, {most} wait"

    @invariant()
    def all_is_accounted_for(self) -> None:
        if self.live and not self.paused:
            self.account()

    @invariant()
    def the_history_tells_no_two_things_of_one_time(self) -> None:
        lines = self.bench.book.history("ns", "s")
        assert len(lines) <= past.MOST
        spoken: set[int] = set()
        for line in lines:
            if line.kind == Kind.SCHEDULED:
                times = self.times(line.nominal_us, max(line.nominal_us, line.until_us - 1))
                assert times and not spoken & set(times)
                spoken |= set(times)


TestJudge = Judge.TestCase
TestJudge.settings = settings(max_examples=100, stateful_step_count=40)
