"""What happens to jobs, for whoever listens. Rules of this file: a pure book; a ring that forgets the oldest.

Nothing is kept while nobody listens. A listener asks again and again, each time for what came after the last he was
told; where the ring has forgotten some of that, he is told how many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.actor import Now
from cluster.ids import format_job
from scheduler.clients import Client
from scheduler.lifecycle import Job

RING = 20_000
"""Events that are kept."""

LISTENS_S = 30.0
"""A listener who has not asked for so long is gone."""

HOLD_S = 10.0
"""A question that nothing answers is answered by nothing after this."""

PAGE = 500
"""Events in one answer."""

KINDS = (
    *("accepted", "assigned", "retried", "requeued"),
    *("succeeded", "failed", "timed out", "cancelled", "expired", "lost"),
)


@dataclass(slots=True)
class Waiting:
    """A question that waits for its answer."""

    client: Client
    ask: int
    after: int
    kinds: frozenset[str]
    function: str
    queue: str
    namespace: str | None
    until: float

    def fits(self, event: tuple[Any, ...]) -> bool:
        _, _, kind, _, function, queue, namespace, _, _ = event
        return (
            (not self.kinds or kind in self.kinds)
            and (not self.function or self.function in function)
            and (not self.queue or self.queue == queue)
            and (self.namespace is None or self.namespace == namespace)
        )


class Events:
    def __init__(self) -> None:
        self._ring: deque[tuple[Any, ...]] = deque(maxlen=RING)
        self._last = 0
        self._listens_until = float("-inf")
        self.waiting: list[Waiting] = []

    def listened(self, now: float) -> bool:
        return now < self._listens_until

    def heard(self, now: float) -> None:
        """Somebody listens."""
        self._listens_until = now + LISTENS_S

    @property
    def last(self) -> int:
        return self._last

    def add(self, kind: str, job: Job, at: float, dead: bool = False, text: str = "") -> None:
        spec = job.record.spec
        self._last += 1
        name = spec.name, spec.rules.queue, spec.namespace
        self._ring.append((self._last, at, kind, job.id, *name, dead, text))

    def note(self, kind: str, jobs: Iterable[Job], now: Now, text: str = "") -> None:
        """The same happened to these, if somebody listens."""
        if self.listened(now.mono):
            for job in jobs:
                self.add(kind, job, now.wall, False, text)

    def answers(self, now: float) -> list[tuple[Waiting, dict[str, Any]]]:
        """Who can be told something, or has waited long enough."""
        out = []
        for question in list(self.waiting):
            found = self._since(question)
            if found["events"] or found["missed"] or now >= question.until:
                self.waiting.remove(question)
                out.append((question, found))
        return out

    def _since(self, question: Waiting) -> dict[str, Any]:
        first = self._ring[0][0] if self._ring else self._last + 1
        missed = max(0, first - 1 - question.after)
        rows: list[dict[str, Any]] = []
        last = max(question.after, first - 1)
        for place in range(max(0, question.after - first + 1), len(self._ring)):
            event = self._ring[place]
            last = event[0]
            if question.fits(event):
                rows.append(_plain(event))
                if len(rows) >= PAGE:
                    break
        return {"events": rows, "last": last, "missed": missed}


def _plain(event: tuple[Any, ...]) -> dict[str, Any]:
    number, at, kind, job, function, queue, _, dead, text = event
    return {
        "number": number,
        "at": at,
        "kind": kind,
        "job": format_job(job),
        "function": function,
        "queue": queue,
        "dead": dead,
        "text": text,
    }
