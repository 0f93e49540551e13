"""What became of jobs, counted since this life began. Rules of this file: a pure book; it tells a turn's share once.

Not all that it counts is a job with a row: one that was refused has an outcome, and never was in the books.
"""

from __future__ import annotations

from cluster.facts import Fact, fact
from cluster.ids import format_job
from cluster.jobs import Outcome
from scheduler import figures
from scheduler.lifecycle import Job


class Tally:
    def __init__(self) -> None:
        self.finished = dict.fromkeys(Outcome, 0)
        self.dead = 0
        """Of them, set aside as dead letters."""
        self.discarded = 0
        """Results that came too late to be anything."""
        self._ended: list[Job] = []
        """Not told of yet,"""
        self._died: list[Job] = []
        """...those of them that are dead letters,"""
        self._refused: dict[str, int] = {}
        """...how many were not taken, by the kind of their error,"""
        self._retried: dict[str, int] = {}
        """...and how many shall run again, by the kind of their failure."""

    def ended(self, job: Job, dead: bool) -> None:
        """It has its outcome."""
        assert job.outcome is not None
        self.finished[job.outcome] += 1
        self._ended.append(job)
        if dead:
            self.dead += 1
            self._died.append(job)

    def refused(self, kind: str) -> None:
        """A job was not taken, and has failed by that."""
        self.finished[Outcome.FAILED] += 1
        self._refused[kind] = self._refused.get(kind, 0) + 1

    def retried(self, kind: str) -> None:
        self._retried[kind] = self._retried.get(kind, 0) + 1

    def facts(self, wall: float) -> list[Fact]:
        """What there is to tell since the last call."""
        if not (self._ended or self._retried or self._refused):
            return []
        out = []
        if self._died:
            first = self._died[0]
            out.append(
                fact(
                    "jobs_dead",
                    len(self._died),
                    first=format_job(first.id),
                    function=first.record.spec.name,
                    queues=figures.by_queue(self._died),
                )
            )
            self._died = []
        out += [fact("jobs_retried", n, reason=kind) for kind, n in self._retried.items()]
        out += [fact("jobs_refused", n, reason=kind) for kind, n in self._refused.items()]
        rows = figures.ended(self._ended, wall)
        if self._refused:
            rows.setdefault(Outcome.FAILED, [])
        for outcome, some in rows.items():
            n = sum([len(column) for _, _, column in some])
            if outcome is Outcome.FAILED:
                n += sum(self._refused.values())
            out.append(fact("jobs_finished", n, outcome=outcome.word, rows=some))
        self._ended = []
        self._retried.clear()
        self._refused.clear()
        return out
