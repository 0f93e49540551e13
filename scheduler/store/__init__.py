"""What outlives the coordinator: the contract of a store. Rules of this file: values and protocols; no body.

The coordinator never reads while it decides. It is given all that is unfinished when it starts, keeps that in memory,
and says each turn which rows shall change: one :class:`Changes`, one transaction, all or nothing. What the turn sends
leaves after it. A body (``sqlite``) passes ``tests/scheduler/store``, whatever it is made of.

- *sessions* keep the highest counter accepted, so that a resend never makes a job, however long ago it was.
- *specs* are what jobs of one function and the same options share, with their code where that is small.
- *jobs* are unfinished. *outcomes* are what became of the others, until they are pruned, the oldest first.
- *nodes* are those that may hold attempts: after a restart jobs wait for their word, or for the lease's end.

A job goes by its rank here, since ranks only ever rise: jobs are then added at one end of their table and leave near
the other, and no index besides is needed. Outcomes are looked for by people and resends, so by the job's id.
Integers are from 0 to 2**63 - 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol


class SessionRow(NamedTuple):
    session: bytes
    """8 bytes."""
    key: str
    """Public key that may resume it."""
    owner: str
    namespace: str
    accepted: int
    """Highest counter accepted, or refused by an outcome. A row with a lower one does not lower it."""


class SpecRow(NamedTuple):
    number: int
    """Chosen by the coordinator, from 1; never used twice."""
    owner: str
    raw: bytes
    """The spec as its client sent it."""
    code: bytes
    """The pickled function where it goes by value and is small; else empty."""
    blob: bool
    """Whether the code is a blob, named by the spec."""


class JobRow(NamedTuple):
    """A job as it was accepted."""

    id: bytes
    """16 bytes: session and counter."""
    rank: int
    """Order of acceptance, from 1; never used twice."""
    spec: int
    payload: bytes
    sha: bytes | None
    """Name of the blob with the payload, where it is large."""
    size: int
    """Bytes of that blob; 0 without."""


class Standing(NamedTuple):
    """What has happened to an unfinished job, where it has to be remembered. The last one counts."""

    rank: int
    attempt: int
    """Number of the last attempt."""
    token: int
    """Of an attempt that must not be made again (at most once); 0 where there is none."""
    node: bytes
    """Session of the agent that has that attempt; empty where there is none."""
    lost_nodes: int
    """Attempts that ended with their node,"""
    crashes: int
    """...with their worker,"""
    memory_kills: int
    """...and with their worker because memory ran out."""
    story: bytes
    """What became of each attempt so far, as the coordinator packs it."""


class OutcomeRow(NamedTuple):
    id: bytes
    rank: int
    """Of the job, which is unfinished no more; 0 where it never became one (refused)."""
    outcome: int
    payload: bytes
    sha: bytes | None
    """Name of the blob with the result, where it is large."""
    size: int
    at: float
    """When, in seconds since the epoch."""
    attempt: int
    dead: int
    """1: a dead letter, whose budget for some cause is spent; else 0."""
    story: bytes
    """What became of each attempt but the last, as the coordinator packs it."""


class NodeRow(NamedTuple):
    name: str
    session: bytes
    incarnation: int
    key: str
    host: str
    about: bytes
    """The rest of what it said of itself, as the coordinator packs it."""


class UnfinishedRow(NamedTuple):
    """A job with its standing, as recovery finds it."""

    id: bytes
    rank: int
    spec: int
    payload: bytes | None
    """None where it was not asked for."""
    payload_bytes: int
    """Its length, in either case."""
    sha: bytes | None
    size: int
    attempt: int
    token: int
    node: bytes
    lost_nodes: int
    crashes: int
    memory_kills: int
    story: bytes


@dataclass(slots=True)
class Changes:
    """The rows of one turn. Within it the order is that of the fields."""

    sessions: dict[bytes, SessionRow] = field(default_factory=dict)
    """New, or risen."""
    specs: list[SpecRow] = field(default_factory=list)
    jobs: list[JobRow] = field(default_factory=list)
    standings: dict[int, Standing] = field(default_factory=dict)
    outcomes: list[OutcomeRow] = field(default_factory=list)
    """In the order of their ends, which is that of pruning."""
    nodes: dict[str, NodeRow | None] = field(default_factory=dict)
    """None: nothing is to be expected of it any more."""
    forgotten_sessions: list[bytes] = field(default_factory=list)
    forgotten_specs: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))


class Recovered(NamedTuple):
    """All but the jobs, of which there may be millions: see :meth:`Store.unfinished`."""

    sessions: list[SessionRow]
    specs: list[SpecRow]
    nodes: list[NodeRow]
    blobs: dict[bytes, tuple[int, int]]
    """Blobs that rows of jobs and outcomes name: size, and by how many rows."""
    outcomes: int
    """How many are kept."""
    last_rank: int
    last_spec: int


class Pruned(NamedTuple):
    outcomes: int
    blobs: list[bytes]
    """One entry for each row that named it."""


class StoreFailed(Exception):
    """The transaction did not happen, or nobody knows: this life of the coordinator is over.

    Every later call but ``close`` raises it too. The text says what to do.
    """


class Store(Protocol):
    """One writer and one call at a time, all from one thread; only :meth:`commit` may be called in another.

    Reading belongs between transactions: what was written and is not committed may be told to nobody. Either is an
    ``AssertionError``. Each call but ``close``, which waits for the one under way, may raise :class:`StoreFailed`.
    """

    def recover(self) -> Recovered: ...

    def unfinished(self, after: int, most: int, payloads: bool) -> list[UnfinishedRow]:
        """A page of jobs by rank, from above ``after``; it is the last one if it has fewer than ``most``."""
        ...

    def payloads(self, ranks: Sequence[int]) -> dict[int, bytes]:
        """Those of unfinished jobs among these. Whoever asks knows their lengths, and how much he can take."""
        ...

    def write(self, changes: Iterable[Changes]) -> None:
        """Put rows into the open transaction, in order.

        A second outcome of a job is refused, and a standing of one that is not unfinished.
        """
        ...

    def commit(self) -> None:
        """What was written is on disk when this returns."""
        ...

    def outcome(self, job: bytes) -> OutcomeRow | None:
        """What became of a job; None if it is unfinished, pruned or unknown."""
        ...

    def outcomes_of(self, session: bytes, after: int, most: int) -> list[OutcomeRow]:
        """A page of one session's, by counter, from above ``after``."""
        ...

    def prune(self, before: float, keep: int, most: int) -> Pruned:
        """Forget outcomes older than ``before``, and those above ``keep``: the oldest first, ``most`` in this slice.

        It ends at the first one that is to be kept. The rows belong to the open transaction.
        """
        ...

    def close(self) -> None:
        """What was written and not committed is forgotten, as in a crash."""
        ...
