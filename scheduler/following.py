"""Jobs that follow others. Rules of this file: pure; it knows what the end of a job means for those that wait for it,
and moves none of them.

A parent is an unfinished job of the same namespace; of another the store is asked what became of it, or of which job it
is another name. A child goes on when all have ended well, or ended at all where it says so (``after_failure``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cluster.ids import format_job, session_of
from cluster.jobs import Outcome
from scheduler.clients import Clients, Owed
from scheduler.dependencies import Dependencies
from scheduler.journal import Journal, Wanted
from scheduler.lifecycle import Job
from scheduler.outbox import Outbox


class Following:
    """``look_up`` asks the store. ``met`` is told of a child that waits for nothing any more, ``failed`` of one that is
    not to run, and why."""

    def __init__(
        self,
        dependencies: Dependencies,
        clients: Clients,
        journal: Journal,
        out: Outbox,
        look_up: Callable[[list[Wanted]], None],
        met: Callable[[Job], None],
        failed: Callable[[Job, str], None],
    ) -> None:
        self._dependencies = dependencies
        self._clients = clients
        self._journal = journal
        self._out = out
        self._look_up = look_up
        self._met = met
        self._failed = failed
        self.ended: deque[tuple[bytes, bool, str]] = deque()
        """Jobs that others may wait for: id, whether it succeeded, and what became of it in words."""

    def wait(self, job: Job) -> None:
        """It goes on when all of them have ended; those that are not in memory, or none of its business, are looked
        up."""
        self._dependencies.wait(job, job.about.after)
        self._look_up(
            [Wanted(p, b"", 0, child=job.id) for p in dict.fromkeys(job.about.after) if not self._may_follow(job, p)]
        )

    def _may_follow(self, child: Job, parent: bytes) -> bool:
        """Whether that is an unfinished job of the same namespace."""
        job = self._clients.unfinished(parent)
        same: bool = job is not None and job.record.spec.namespace == child.record.spec.namespace
        return same

    def known(self, wanted: Wanted, row: Owed | None, alias: bytes) -> None:
        """What the store says of a parent, or of which job that is another name."""
        child = self._clients.unfinished(wanted.child)
        if child is None or wanted.job not in self._dependencies.waits_for(child):
            return
        kept = self._journal.session(session_of(wanted.job))
        if kept is None or kept.namespace != child.record.spec.namespace or not (row or alias):
            self._over(child, wanted.job, False, "is not known (any more)")
        elif row is None:
            self._dependencies.waits_instead(child, wanted.job, alias)
            if not self._may_follow(child, alias):
                self._look_up([wanted._replace(job=alias)])
        else:
            outcome = Outcome(row.outcome)
            self._over(child, wanted.job, outcome is Outcome.SUCCEEDED, f"is {outcome.word}")

    def follow(self) -> None:
        """Tell those who waited for jobs that have ended; ends may follow from ends."""
        while self.ended:
            parent, well, word = self.ended.popleft()
            for child in self._dependencies.ended(parent):
                self._over(child, parent, well, word)

    def _over(self, child: Job, parent: bytes, well: bool, word: str) -> None:
        if not well and child.record.spec.rules.after_failure == "fail":
            self._failed(child, f"it was to run after job {format_job(parent)}, which {word}")
        elif self._dependencies.met(child, parent) and child.due <= self._out.now.wall:
            self._met(child)
