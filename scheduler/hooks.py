"""What is to be run when a job has ended. Rules of this file: pure; a hook is a job like others, made in the very
transaction of the end that it is for.

It runs in the name of the job's owner and in its namespace, and is told of the job as people are told who ask.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.jobs import NOTHING_SPECIAL, About, BadSpec, Hook, Outcome, plain_call
from scheduler import inquiries
from scheduler.functions import Functions, Record
from scheduler.lifecycle import Job
from scheduler.outbox import Outbox
from scheduler.store import Arguments


class Hooks:
    """``make`` makes a job of the coordinator's own."""

    def __init__(self, functions: Functions, out: Outbox, make: Callable[[Record, Arguments, str, About], Job]) -> None:
        self._functions = functions
        self._out = out
        self._make = make
        self.ended: list[tuple[Job, int, bytes, bool]] = []
        """Jobs with hooks: outcome, failure, and whether it is a dead letter."""

    def fire(self) -> list[Job]:
        """The jobs that shall be run because these have ended."""
        if not self.ended:
            return []
        ended, self.ended = self.ended, []
        made: list[Job] = []
        for job, outcome, payload, dead in ended:
            rules = job.record.spec.rules
            well = outcome == Outcome.SUCCEEDED
            hooks = [rules.on_success if well else b"" if outcome == Outcome.CANCELLED else rules.on_failure]
            hooks += [rules.on_dead] if dead else []
            for raw in filter(None, hooks):
                try:
                    hook = Hook.decode(raw)
                    record = self._functions.intern(hook.spec, job.record.spec.owner)
                    if record.spec.namespace != job.record.spec.namespace:
                        raise BadSpec(f"it is of namespace {record.spec.namespace!r}")
                    if record.spec.by_value:
                        self._functions.learn(record, hook.code)
                except BadSpec as e:
                    self._out.fact("unexpected", reason=f"a hook of {job.record.spec.name}: {e}")
                    continue
                about = inquiries.of_ended(job, Outcome(outcome), b"" if well else payload, dead, self._out.now.wall)
                arguments = Arguments(plain_call([about], hook.kwargs), None, 0)
                made.append(self._make(record, arguments, f"of job {about['id']}", NOTHING_SPECIAL))
        return made
