"""What outlives the coordinator: the contract of a store. Rules of this file: values and protocols; no body.

The coordinator never reads while it decides. It is given all that is unfinished when it starts, keeps that in memory,
and says each turn which rows shall change: one :class:`Changes`, one transaction, all or nothing. What the turn sends
leaves after it. A body (``sqlite``) passes ``tests/scheduler/store``, whatever it is made of.

- *sessions* keep the highest counter accepted, so that a resend never makes a job, however long ago it was.
- *specs* are what jobs of one function and the same options share, with their code where that is small.
- *jobs* are unfinished. *outcomes* are what became of the others, until they are pruned, the oldest first; of those
  that did not succeed the arguments are kept with them, to be run again.
- *keys* attach a later submission to the job of an earlier one; *aliases* are the ids of such submissions.
- *settings* are small values by name, as of queues.
- *schedules* are standing orders. A *standing* is what is known of one besides, and outlives it; *firings* are what
  became of its last times, each written with the job it made: their keys tell a firing from all others.
- *nodes* are those that may hold attempts: after a restart jobs wait for their word, or for the lease's end.

A job goes by its rank here, since ranks only ever rise: jobs are then added at one end of their table and leave near
the other, and no index besides is needed. Outcomes are looked for by people and resends, so by the job's id.
Integers are from 0 to 2**63 - 1, and texts have no halves of characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
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
    at: float
    """When it was accepted, in seconds since the epoch."""
    summary: str
    """Its arguments, for people."""
    about: bytes
    """The rest of what its client said of this one job, as it was sent; empty for most."""


class Standing(NamedTuple):
    """What has happened to an unfinished job, where it has to be remembered. The last one counts."""

    rank: int
    attempt: int
    """Number of the last attempt."""
    token: int
    """Of an attempt that must not be made again (at most once); 0 where there is none."""
    node: bytes
    """Session of the agent that has that attempt; empty where there is none."""
    due: float
    """Moment before which it must not run, in seconds since the epoch; 0 where there is none."""
    tries: bytes
    """Budgets used and what became of each attempt so far, as the coordinator packs it."""
    saved: bytes
    """What the last attempt has saved for the next one."""


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
    """1: a dead letter, whose budget for some cause is spent; else 0, as of a success."""
    until: float
    """Moment from which the result is not kept any more, though the row may be; 0 where there is none. What has lost it
    has an empty payload and no blob."""
    spec: int
    """0 where it never became a job."""
    accepted_at: float
    summary: str
    about: bytes
    node: str
    """Name of the node of its last attempt; empty without."""
    error: str
    """Kind and first line of its failure, for people who look for it; empty of a success."""
    tries: bytes
    """What became of each attempt, as the coordinator packs it."""


class Arguments(NamedTuple):
    """What an outcome that was no success keeps of its job, so that it can be run again."""

    payload: bytes
    sha: bytes | None
    size: int


class KeyRow(NamedTuple):
    namespace: str
    key: str
    job: bytes
    fingerprint: bytes
    """What a later submission under the key must have too."""
    until: float
    """Moment at which the key is free again; 0 while its job is unfinished."""


class AliasRow(NamedTuple):
    """A submission that made no job, since one was there under its key."""

    id: bytes
    job: bytes
    at: float


class Search(NamedTuple):
    """Which outcomes a page of the history shall have; what is None, an empty text or 0 does not matter.

    Of an empty set there is nothing. No text is found that is, or begins, behind a zero character.
    """

    specs: frozenset[int] | None = None
    """Numbers of specs, which say function, queue, tags and namespace."""
    outcomes: frozenset[int] | None = None
    dead: bool | None = None
    node: str = ""
    since: float = 0.0
    """Ended at this moment or later,"""
    until: float = 0.0
    """...and before this one."""
    error: str = ""
    """Text that the error contains, whatever the case of its ASCII letters; no character stands for another,"""
    summary: str = ""
    """...and the arguments do."""
    id: bytes = b""
    """First bytes of the job's id."""


class History(NamedTuple):
    rows: list[OutcomeRow]
    """The last ended first; their payloads are left out."""
    before: int
    """Where the next slice goes on; 0 when the oldest row was looked at."""


class ScheduleRow(NamedTuple):
    namespace: str
    name: str
    schedule: bytes
    """As the coordinator packs it."""


class StandingRow(NamedTuple):
    """Of a schedule, also of one that was removed."""

    namespace: str
    name: str
    standing: bytes
    """As the coordinator packs it."""


class FiringRow(NamedTuple):
    """A firing, or a stretch of times that were skipped. Its first four fields are its key: of two, the later one
    counts."""

    namespace: str
    name: str
    nominal_us: int
    """In microseconds since the epoch."""
    run: bytes
    """8 bytes that tell this from other runs with the same nominal time; empty for what the trigger has fired."""
    kind: int
    until_us: int
    at_us: int
    late_us: int
    ended_us: int
    run_us: int
    outcome: int
    reason: int
    job: bytes


FiringKey = tuple[str, str, int, bytes]


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
    at: float
    summary: str
    about: bytes
    attempt: int
    token: int
    node: bytes
    due: float
    tries: bytes
    saved: bytes


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
    keys: dict[tuple[str, str], KeyRow | None] = field(default_factory=dict)
    """By namespace and key; None: it is free again."""
    aliases: list[AliasRow] = field(default_factory=list)
    settings: dict[str, bytes | None] = field(default_factory=dict)
    forgotten_schedules: list[tuple[str, str]] = field(default_factory=list)
    """Of these all goes, standings and firings too, before what follows is written."""
    schedules: dict[tuple[str, str], ScheduleRow | None] = field(default_factory=dict)
    """By namespace and name; None: its own row goes, the others stay."""
    schedule_standings: dict[tuple[str, str], StandingRow] = field(default_factory=dict)
    firings: dict[FiringKey, FiringRow | None] = field(default_factory=dict)
    forgotten_sessions: list[bytes] = field(default_factory=list)
    retired_specs: list[int] = field(default_factory=list)
    """They lose their code; their rows stay, for jobs that have ended."""
    forgotten_specs: list[int] = field(default_factory=list)
    repeated: list[bytes] = field(default_factory=list)
    """Outcomes that are no dead letters any more,"""
    dropped: list[bytes] = field(default_factory=list)
    """...and those whose arguments are not kept any more either."""

    def __bool__(self) -> bool:
        return any(_TABLES(self))


_TABLES = attrgetter(*(f.name for f in fields(Changes)))


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
    keys: list[KeyRow]
    settings: dict[str, bytes]
    schedules: list[ScheduleRow]
    schedule_standings: list[StandingRow]
    firings: list[FiringRow]


class Pruned(NamedTuple):
    outcomes: int
    """How many rows are gone, aliases too, or have lost their result. There may be more where the slice is full."""
    blobs: list[bytes]
    """One entry for each row that named it, be it as result or as arguments."""


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
        """What became of a job, or of the one that an alias names; None if it is unfinished, pruned or unknown."""
        ...

    def alias(self, id: bytes) -> bytes | None:
        """The job that a submission was attached to; None if the id is no alias."""
        ...

    def arguments(self, job: bytes) -> Arguments | None:
        """What is kept to run a finished job again; None where nothing is."""
        ...

    def history(self, search: Search, before: int, most: int, look_at: int) -> History:
        """A slice of what has ended, the last first, from below ``before`` (0: from the last).

        It has at most ``most`` rows that are searched for, and looks at no more than ``look_at``, or fewer, so that no
        slice takes long. Slices that go on where the last one ended have each row that stays once, and none that ended
        after the first.
        """
        ...

    def prune(self, before: float, keep: int, most: int, now: float) -> Pruned:
        """Forget outcomes older than ``before``, and those above ``keep``, each with its arguments; then the results,
        not the rows, of outcomes whose ``until`` has come ``now``; then aliases older than ``before`` of jobs that have
        no outcome (any more), and hold no key as unfinished ones.

        The oldest of each come first, and ``most`` go in this slice, all together. Of outcomes it ends at the first one
        that is to be kept. The rows belong to the open transaction.
        """
        ...

    def close(self) -> None:
        """What was written and not committed is forgotten, as in a crash."""
        ...
