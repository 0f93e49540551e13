"""What a long run must have done. Rules of this file: names and counts, taken from outside; no actor knows of it.

The moves of both tables are counted by standing between the actors and the one place that moves. A run of many seeds
in which a fault or a move of these never happened has proved less than it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from node.attempts import TABLE, Attempt, Step
from scheduler import adrift, coordinator, dealer
from scheduler.lifecycle import TRANSITIONS, Cause, Job, move

FAULTS = (
    "agent pauses",
    "agents killed",
    "agents that leave",
    "black holes",
    "client pauses",
    "clients killed",
    "clients that leave",
    "clocks skewed back",
    "clocks skewed forward",
    "commits under which the coordinator fails",
    "commits under which the coordinator is killed",
    "coordinator pauses",
    "coordinator restarts",
    "coordinators dead in a commit that was made",
    "coordinators dead in a commit that was not made",
    "coordinators dead with rows not written",
    "cuts",
    "disk errors",
    "disks full",
    "duplicated messages",
    "freezes",
    "half-open links (here)",
    "jobs interrupted",
    "jobs killed for their memory",
    "jobs killed that took no notice",
    "jobs ordered to be ended",
    "half-open links (there)",
    "nodes drained",
    "nodes drained with a time",
    "states saved",
    "joint crashes",
    "lost messages",
    "nodes cloned",
    "nodes refused",
    "nodes that come home late",
    "one-way partitions (down)",
    "one-way partitions (up)",
    "queues paused",
    "reordered messages",
    "slow commits",
    "slow messages",
    "wall clocks set back",
    "wall clocks set forward",
    "workers dead at start",
    "workers dead in a job",
    "workers dead when idle",
    "workers killed for want of memory",
    "workers not started",
    "workers that crashed",
)

JOB_MOVES = tuple(f"{state.name} {cause.name}" for state, cause in TRANSITIONS)
ATTEMPT_MOVES = tuple(f"{phase.name} {step.name}" for phase, step in TABLE)

MOVERS = (adrift, coordinator, dealer)
"""Rooms that move jobs."""


@contextmanager
def counted(jobs: Counter[str], attempts: Counter[str]) -> Iterator[None]:
    """Every move of a job and of an attempt, while this is open."""
    step = Attempt.step

    def moves(job: Job, cause: Cause) -> None:
        jobs[f"{job.state.name} {cause.name}"] += 1
        move(job, cause)

    def steps(self: Attempt, what: Step) -> None:
        attempts[f"{self.phase.name} {what.name}"] += 1
        step(self, what)

    with ExitStack() as patches:
        for room in MOVERS:
            patches.enter_context(mock.patch.object(room, "move", moves))
        patches.enter_context(mock.patch.object(Attempt, "step", steps))
        yield


def missing(faults: Iterable[str], jobs: Iterable[str], attempts: Iterable[str]) -> list[str]:
    """What never happened, in words."""
    words = [("fault", FAULTS, set(faults)), ("move of a job", JOB_MOVES, set(jobs))]
    words.append(("move of an attempt", ATTEMPT_MOVES, set(attempts)))
    return [f"{kind}: {name}" for kind, names, seen in words for name in names if name not in seen]
