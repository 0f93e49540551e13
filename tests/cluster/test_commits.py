"""Commits: nothing leaves before its rows are on disk, and turns leave in order."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from cluster.actor import Turn
from cluster.commits import HELD_MAX, QUICK_S, Commits

PATIENCE_S = 10.0


class Disk:
    """A store that notes what it is told, and commits when the test allows."""

    def __init__(self) -> None:
        self.story: list[Any] = []
        self.written: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails: Exception | None = None
        self.threads: list[int] = []

    def write(self, writes: Iterable[Any]) -> None:
        self.written.append(list(writes))

    def commit(self) -> None:
        self.threads.append(threading.get_ident())
        assert self.gate.wait(PATIENCE_S)
        if self.fails:
            raise self.fails
        self.story.append(("committed", tuple(self.written[-1])))


class Bench:
    def __init__(self) -> None:
        self.disk = Disk()
        self.commits = Commits(self.disk, self.release, clock=lambda: 0.0)

    def release(self, turn: Turn) -> None:
        self.disk.story.append(("left", *turn.after_commit))

    def slow(self) -> None:
        """From now on a commit is expected to take long."""
        self.commits._last_s = QUICK_S

    def await_commit(self) -> None:
        assert select.select([self.commits], [], [], PATIENCE_S)[0]
        self.commits.advance()


@pytest.fixture
def bench() -> Iterator[Bench]:
    b = Bench()
    yield b
    b.disk.gate.set()
    b.commits.close()


def test_what_a_turn_sends_leaves_after_its_rows_are_on_disk(bench: Bench) -> None:
    bench.commits.add(Turn(writes=["row"], after_commit=["word"]))
    assert bench.disk.story == [("committed", ("row",)), ("left", "word")]


def test_a_turn_without_rows_leaves_at_once_and_costs_no_commit(bench: Bench) -> None:
    bench.commits.add(Turn(after_commit=["word"]))
    assert bench.disk.story == [("left", "word")]


def test_a_slow_disk_does_not_hold_up_the_loop_and_turns_leave_in_order(bench: Bench) -> None:
    bench.slow()
    bench.disk.gate.clear()
    bench.commits.add(Turn(writes=["1"], after_commit=["a"]))
    bench.commits.add(Turn(after_commit=["b"]))
    bench.commits.add(Turn(writes=["2"], after_commit=["c"]))
    bench.commits.add(Turn(writes=["3"], after_commit=["d"]))
    assert bench.disk.story == []
    bench.slow()
    bench.disk.gate.set()
    bench.await_commit()
    bench.commits.finish()
    assert bench.disk.story == [
        ("committed", ("1",)),
        ("left", "a"),
        ("committed", ("2", "3")),
        ("left", "b"),
        ("left", "c"),
        ("left", "d"),
    ]
    assert bench.disk.threads[0] != threading.get_ident()


def test_nothing_of_a_failed_commit_or_of_later_turns_ever_leaves(bench: Bench) -> None:
    bench.slow()
    bench.disk.gate.clear()
    bench.disk.fails = OSError("the disk is gone")
    bench.commits.add(Turn(writes=["1"], after_commit=["a"]))
    bench.commits.add(Turn(after_commit=["b"]))
    bench.disk.gate.set()
    with pytest.raises(OSError, match="the disk is gone"):
        bench.commits.finish()
    assert bench.disk.story == []


def test_a_commit_on_the_spot_that_fails_is_raised_and_its_turn_stays(bench: Bench) -> None:
    bench.disk.fails = OSError("full")
    with pytest.raises(OSError, match="full"):
        bench.commits.add(Turn(writes=["1"], after_commit=["a"]))
    assert bench.disk.story == []


def test_a_disk_that_has_become_quick_again_is_written_on_the_spot(bench: Bench) -> None:
    bench.slow()
    bench.commits.add(Turn(writes=["1"]))
    bench.commits.finish()
    bench.commits.add(Turn(writes=["2"]))
    assert bench.disk.threads[0] != threading.get_ident()
    assert bench.disk.threads[1] == threading.get_ident()


def test_the_turns_that_wait_for_a_commit_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.slow()
    bench.disk.gate.clear()
    bench.commits.add(Turn(writes=["first"], after_commit=[0]))
    for n in range(1, HELD_MAX):
        bench.commits.add(Turn(after_commit=[n]))
    opened: list[int] = []

    def wait(timeout: float | None = None) -> bool:
        opened.append(len(bench.disk.story))
        bench.disk.gate.set()
        return threading.Event.wait(bench.commits._done, PATIENCE_S)

    monkeypatch.setattr(bench.commits._done, "wait", wait)
    bench.commits.add(Turn(after_commit=[HELD_MAX]))
    assert opened == [0], "the host waited, once, before anything had left"
    assert bench.disk.story == [("committed", ("first",)), *(("left", n) for n in range(HELD_MAX + 1))]
