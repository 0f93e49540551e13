"""The clients' sessions: what they handed in, what they are owed. Rules of this file: a pure book.

A result is *owed* until the client has acknowledged it, over any number of links. How many messages of results
may be unacknowledged is bounded; what is above waits here, counted in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.config import BATCH_BYTES, MAX_BATCH
from cluster.ids import counter_of, session_of
from cluster.messages import Results
from scheduler.lifecycle import Job
from scheduler.peers import Peer


class Owed(NamedTuple):
    counter: int
    outcome: int
    payload: bytes
    large: tuple[bytes, int] | None


@dataclass(slots=True, eq=False)
class Client(Peer):
    namespace: str = "default"
    accepted: int = 0
    """Highest counter ever accepted, or refused by an outcome: at or below it nothing is new."""
    told: int = 0
    """What it has been told of that."""
    told_due: float | None = None
    """When it has to be told more."""
    jobs: dict[int, Job] = field(default_factory=dict)
    """Unfinished, by counter."""
    left: bool = False
    """It said goodbye: its jobs go on, nobody waits for their results."""
    forgotten: bool = False
    """Its results were dropped, and it has not shown that it knows."""
    held: bool = False
    """It was told to keep what it hands in,"""
    resumed_at: int = 0
    """...or told that it may hand in again, by this message of ours: what it sent before it had read that is void."""
    waiting: deque[Owed] = field(default_factory=deque)
    sent: deque[tuple[int, list[Owed]]] = field(default_factory=deque)
    owed_bytes: int = 0
    fetchable: dict[bytes, int] = field(default_factory=dict)
    """Large results it was told of and has not fetched yet, with how many results name each."""

    @property
    def holds(self) -> bool:
        """Whether what it hands in now does not count."""
        return self.held or self.link.acked < self.resumed_at

    @property
    def only(self) -> str | None:
        """The namespace whose jobs are its business; None: all."""
        return None if self.identity.role == "owner" else self.namespace

    def may_see(self, namespace: str) -> bool:
        """Whether jobs there are any of its business."""
        return self.only in (None, namespace)

    def owe(self, row: Owed) -> None:
        self.waiting.append(row)
        self.owed_bytes += len(row.payload)

    def acknowledge(self) -> None:
        """Drop the results that the link's acknowledgement covers."""
        while self.sent and self.sent[0][0] <= self.link.acked:
            for row in self.sent.popleft()[1]:
                self.owed_bytes -= len(row.payload)

    def owe_again(self) -> None:
        """A new link: what was not acknowledged is sent once more."""
        for _, rows in reversed(self.sent):
            self.waiting.extendleft(reversed(rows))
        self.sent.clear()

    def next_results(self, in_flight: int) -> tuple[list[Owed], Results] | None:
        """One message of what is owed, if the bound allows."""
        if not self.waiting or len(self.sent) >= in_flight:
            return None
        rows: list[Owed] = []
        size = 0
        while self.waiting and size < BATCH_BYTES and len(rows) < MAX_BATCH:
            row = self.waiting.popleft()
            size += len(row.payload)
            rows.append(row)
        refs = [[i, *row.large] for i, row in enumerate(rows) if row.large is not None]
        return rows, Results(
            self.accepted, [r.counter for r in rows], [r.outcome for r in rows], [r.payload for r in rows], refs
        )

    def owed(self) -> Iterator[Owed]:
        """All it has not acknowledged."""
        yield from self.waiting
        for _, rows in self.sent:
            yield from rows

    def fetched(self, sha: bytes) -> int:
        """The client has this large result. How many holds on it end: not those of rows it has yet to hear."""
        unheard = sum(1 for row in self.owed() if row.large is not None and row.large[0] == sha)
        held = self.fetchable.pop(sha, 0)
        kept = min(held, unheard)
        if kept:
            self.fetchable[sha] = kept
        return held - kept

    def drop_owed(self) -> list[Owed]:
        """Nobody will fetch these any more."""
        rows = [*self.waiting, *(row for _, rows in self.sent for row in rows)]
        self.waiting.clear()
        self.sent.clear()
        self.owed_bytes = 0
        return rows


class Clients:
    def __init__(self) -> None:
        self._by_session: dict[bytes, Client] = {}

    def __len__(self) -> int:
        return len(self._by_session)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._by_session.values())

    def get(self, session: bytes) -> Client | None:
        return self._by_session.get(session)

    def add(self, client: Client) -> None:
        self._by_session[client.session] = client

    def remove(self, client: Client) -> None:
        self._by_session.pop(client.session, None)

    def unfinished(self, job: bytes) -> Job | None:
        """The job of this id, if it has not ended."""
        owner = self._by_session.get(session_of(job))
        return None if owner is None else owner.jobs.get(counter_of(job))
