"""Every message that crosses the wire. Rules of this file: shape only; meaning is in PROTOCOL.md.

A message is a dataclass whose fields are packed in order. Jobs travel as *columns* (one list per field, all of
one length), because a column's types are checked in one step and shared by no one. Each field's annotation
carries its check, so a message that decodes is safe to use. ``Large`` is a sparse column: ``[row, sha256, size]``
for the rows whose bytes travel as a blob (their inline bytes are empty). So are ``Records``: ``[row, cpu_us, peak_kib,
waited_us, init_us]``, and ``Rows``: ``[row, bytes]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Annotated, Any, ClassVar, get_type_hints

from cluster.config import INLINE_BYTES, MAX_HELD, MAX_SUMMARY_CHARS
from cluster.ids import JOB_BYTES
from cluster.jobs import MOST_BYTES

Check = Callable[[Any], bool]
_MAX_INT = 1 << 62


def _natural(v: Any) -> bool:
    return type(v) is int and 0 <= v < _MAX_INT


def _counter(v: Any) -> bool:
    return type(v) is int and 0 <= v < _MAX_INT // 2  # so that the last job of a message still has a number


def _text(v: Any) -> bool:
    return type(v) is str and len(v) <= 64 * 1024


def _bytes(v: Any) -> bool:
    return type(v) is bytes


def _digest(v: Any) -> bool:
    return type(v) is bytes and len(v) == 32


_SHORT = 8
"""Up to here a loop is quicker than what is quickest for long columns."""
_INT, _BYTES = {int}, {bytes}


def _naturals(v: Any) -> bool:
    if type(v) is not list:
        return False
    if len(v) <= _SHORT:
        for x in v:  # noqa: SIM110 (a generator costs more)
            if type(x) is not int or not 0 <= x < _MAX_INT:
                return False
        return True
    return len(v) <= MAX_HELD and set(map(type, v)) == _INT and min(v) >= 0 and max(v) < _MAX_INT


def _byte_strings_of(v: Any, least: int, most: int) -> bool:
    if type(v) is not list:
        return False
    if len(v) <= _SHORT:
        for x in v:  # noqa: SIM110
            if type(x) is not bytes or not least <= len(x) <= most:
                return False
        return True
    if len(v) > MAX_HELD or set(map(type, v)) != _BYTES:
        return False
    sizes = set(map(len, v))
    return min(sizes) >= least and max(sizes) <= most


def _job_ids(v: Any) -> bool:
    return _byte_strings_of(v, JOB_BYTES, JOB_BYTES)


def _inline(v: Any) -> bool:
    return _byte_strings_of(v, 0, 2 * INLINE_BYTES)


def _states(v: Any) -> bool:
    return _byte_strings_of(v, 0, INLINE_BYTES)


def _large(v: Any) -> bool:
    return type(v) is list and all(
        type(r) is list and len(r) == 3 and _natural(r[0]) and _digest(r[1]) and _natural(r[2]) for r in v
    )


def _short_texts(v: Any) -> bool:
    if type(v) is not list or len(v) > MAX_HELD:
        return False
    for x in v:  # noqa: SIM110 (a generator costs more)
        if type(x) is not str or len(x) > MAX_SUMMARY_CHARS:
            return False
    return True


def _rows(v: Any) -> bool:
    return type(v) is list and all(
        type(r) is list and len(r) == 2 and _natural(r[0]) and type(r[1]) is bytes and len(r[1]) <= 2 * INLINE_BYTES
        for r in v
    )


def _code(v: Any) -> bool:
    return type(v) is list and all(
        type(r) is list and len(r) == 2 and _digest(r[0]) and type(r[1]) is bytes and len(r[1]) <= 2 * INLINE_BYTES
        for r in v
    )


def _records(v: Any) -> bool:
    return type(v) is list and all(type(r) is list and len(r) == 5 and all(map(_natural, r)) for r in v)


def _labels(v: Any) -> bool:
    return (
        type(v) is dict
        and len(v) <= 256
        and all(type(k) is str and type(x) is str and len(k) <= 256 and len(x) <= 256 for k, x in v.items())
    )


def _mapping(v: Any) -> bool:
    return type(v) is dict and all(type(k) is str for k in v)


def _figures(v: Any) -> bool:
    return (
        type(v) is dict
        and len(v) <= 256
        and all(type(k) is str and len(k) <= 256 and type(x) in (int, float, bool, NoneType) for k, x in v.items())
    )


def _offers(v: Any) -> bool:
    return (
        type(v) is dict
        and len(v) <= 256
        and all(
            type(k) is str and len(k) <= 256 and type(x) in (int, float) and 0 <= x <= MOST_BYTES for k, x in v.items()
        )
    )


def _truth(v: Any) -> bool:
    return type(v) is bool


def _float(v: Any) -> bool:
    return type(v) in (int, float) and v == v


Natural = Annotated[int, _natural]
Counter = Annotated[int, _counter]
Float = Annotated[float, _float]
Text = Annotated[str, _text]
Bytes = Annotated[bytes, _bytes]
Digest = Annotated[bytes, _digest]
Truth = Annotated[bool, _truth]
Labels = Annotated[dict[str, str], _labels]
Mapping = Annotated[dict[str, Any], _mapping]
Figures = Annotated[dict[str, float | None], _figures]
Offers = Annotated[dict[str, float], _offers]
Naturals = Annotated[list[int], _naturals]
JobIds = Annotated[list[bytes], _job_ids]
Inline = Annotated[list[bytes], _inline]
States = Annotated[list[bytes], _states]
Texts = Annotated[list[str], _short_texts]
Rows = Annotated[list[list[Any]], _rows]
Large = Annotated[list[list[Any]], _large]
Records = Annotated[list[list[int]], _records]
Code = Annotated[list[list[bytes]], _code]


class BadMessage(ValueError):
    """The bytes or fields are no message of this protocol; the text says which part."""


@dataclass(slots=True)
class Message:
    KIND: ClassVar[int] = 0
    COLUMNS: ClassVar[tuple[str, ...]] = ()
    """Fields that must have one length."""
    UNNUMBERED: ClassVar[bool] = False
    """Hellos, and what answers them before a link stands, are outside the numbering."""


# ------------------------------------------------------------------------------------ both directions


@dataclass(slots=True)
class Pulse(Message):
    """Nothing but its header: an acknowledgement, or a sign of life."""

    KIND: ClassVar[int] = 1


@dataclass(slots=True)
class Chunk(Message):
    """One piece of a blob. ``offset + len(data) == size`` is the last."""

    KIND: ClassVar[int] = 2
    sha: Digest
    size: Natural
    offset: Natural
    data: Bytes


@dataclass(slots=True)
class Taken(Message):
    """Credit: all below ``through`` is kept. ``through == size`` says whole, verified and stored."""

    KIND: ClassVar[int] = 3
    sha: Digest
    through: Natural


@dataclass(slots=True)
class BlobRefused(Message):
    """The receiver will not take the blob: too large, wrong hash, disk full."""

    KIND: ClassVar[int] = 4
    sha: Digest
    reason: Text


@dataclass(slots=True)
class Fetch(Message):
    """Please send me this blob."""

    KIND: ClassVar[int] = 5
    sha: Digest
    size: Natural


@dataclass(slots=True)
class Bye(Message):
    """The sender leaves for good."""

    KIND: ClassVar[int] = 6
    reason: Text


# ------------------------------------------------------------------------------------ to the coordinator


@dataclass(slots=True)
class ClientHello(Message):
    KIND: ClassVar[int] = 10
    UNNUMBERED: ClassVar[bool] = True
    protocol: Natural
    session: Bytes
    version: Text
    namespace: Text
    epoch: Natural
    """Epoch last heard of; 0 for none."""
    accepted: Counter
    """Counter through which the client knows its jobs to be accepted."""


@dataclass(slots=True)
class NodeHello(Message):
    """An agent joins, or joins again: what it holds is what it may finish."""

    KIND: ClassVar[int] = 11
    UNNUMBERED: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[str, ...]] = ("tokens", "jobs", "attempts")
    protocol: Natural
    session: Bytes
    version: Text
    name: Text
    incarnation: Natural
    previous: Bytes
    """Session of the last life in its directory that was welcomed; empty if there was none."""
    lock: Text
    """Names the lock this life holds on its directory; no two processes hold one at once. Empty: it cannot tell."""
    host: Text
    pid: Natural
    python: Text
    slots: Natural
    labels: Labels
    queues: Texts
    """Those it serves; all, where none are named."""
    tokens: Naturals
    jobs: JobIds
    attempts: Naturals
    resources: Offers
    """What it has to share out among its jobs, beside slots: ``cpus``, ``memory_bytes``, ``gpus``, names of its own."""


@dataclass(slots=True)
class Submit(Message):
    """Jobs ``first``, ``first + 1``, ... of this session. Below the accepted counter they are resends."""

    KIND: ClassVar[int] = 12
    COLUMNS: ClassVar[tuple[str, ...]] = ("spec_of", "payloads", "summaries")
    first: Counter
    specs: Inline
    spec_of: Naturals
    payloads: Inline
    large: Large
    code: Code
    """``[sha256, pickled function]`` for specs by value, as far as small enough."""
    summaries: Texts
    """Arguments as people shall see them."""
    abouts: Rows
    """``[row, encoded About]`` of those that have one."""


@dataclass(slots=True)
class Cancel(Message):
    """The user wishes these not to run. Answered per job by a result or by ``NotCancelled``."""

    KIND: ClassVar[int] = 13
    jobs: JobIds


@dataclass(slots=True)
class Awaiting(Message):
    """What has become of these jobs of this session, which an earlier life of the coordinator had accepted?"""

    KIND: ClassVar[int] = 19
    counters: Naturals


@dataclass(slots=True)
class Watch(Message):
    """Let these outcomes be owed to this session too, under counters of its own; a result answers each."""

    KIND: ClassVar[int] = 20
    COLUMNS: ClassVar[tuple[str, ...]] = ("counters", "jobs")
    counters: Naturals
    jobs: JobIds


@dataclass(slots=True)
class Ask(Message):
    """A question about the cluster; ``Answer`` has the same ``ask``."""

    KIND: ClassVar[int] = 14
    ask: Natural
    topic: Text
    about: Mapping


@dataclass(slots=True)
class Heartbeat(Message):
    KIND: ClassVar[int] = 15
    vitals: Figures


@dataclass(slots=True)
class Started(Message):
    """These attempts run user code since a while."""

    KIND: ClassVar[int] = 16
    tokens: Naturals


@dataclass(slots=True)
class Finished(Message):
    KIND: ClassVar[int] = 17
    COLUMNS: ClassVar[tuple[str, ...]] = ("tokens", "ends", "payloads", "run_us", "workers")
    tokens: Naturals
    ends: Naturals
    """``jobs.End`` of each."""
    payloads: Inline
    large: Large
    run_us: Naturals
    workers: Naturals
    records: Records = field(default_factory=list)
    """What the longer ones have used; of others that is not worth a row."""


@dataclass(slots=True)
class Saved(Message):
    """These attempts have saved a state for the next attempt of their jobs, in place of what was saved before."""

    KIND: ClassVar[int] = 23
    COLUMNS: ClassVar[tuple[str, ...]] = ("tokens", "states")
    tokens: Naturals
    states: States


@dataclass(slots=True)
class Draining(Message):
    """The node takes nothing new: what it is given all the same it gives back. It leaves when what runs has ended."""

    KIND: ClassVar[int] = 24
    reason: Text


@dataclass(slots=True)
class Returned(Message):
    """Answer to ``Retract``: ``tokens`` never started and are given back; ``kept`` have."""

    KIND: ClassVar[int] = 18
    tokens: Naturals
    kept: Naturals


# ------------------------------------------------------------------------------------ from the coordinator


@dataclass(slots=True)
class Welcome(Message):
    """The link stands. First message of it."""

    KIND: ClassVar[int] = 30
    epoch: Natural
    resumed: Truth
    """False: this life of the coordinator knew nothing of this session."""
    accepted: Natural
    heartbeat_s: Float
    lease_s: Float
    kept: Truth = False
    """Whether a store has what was accepted before, but for what is not durable. Neither this nor ``resumed``: it is
    lost."""


@dataclass(slots=True)
class Refusal(Message):
    """No link: ``code`` is version, role, name, full or namespace; the text is for people."""

    KIND: ClassVar[int] = 31
    UNNUMBERED: ClassVar[bool] = True
    code: Text
    text: Text


@dataclass(slots=True)
class Resync(Message):
    """Say hello again: this link has a gap, or is unknown here."""

    KIND: ClassVar[int] = 32
    UNNUMBERED: ClassVar[bool] = True
    reason: Text


@dataclass(slots=True)
class Accepted(Message):
    KIND: ClassVar[int] = 33
    through: Natural


@dataclass(slots=True)
class Results(Message):
    """Outcomes, and the word of ``Accepted`` with them."""

    KIND: ClassVar[int] = 34
    COLUMNS: ClassVar[tuple[str, ...]] = ("counters", "outcomes", "payloads")
    through: Natural
    counters: Naturals
    outcomes: Naturals
    payloads: Inline
    large: Large


@dataclass(slots=True)
class NotCancelled(Message):
    KIND: ClassVar[int] = 35
    jobs: JobIds


@dataclass(slots=True)
class Assign(Message):
    KIND: ClassVar[int] = 36
    COLUMNS: ClassVar[tuple[str, ...]] = ("spec_of", "jobs", "attempts", "tokens", "payloads")
    specs: Inline
    expected_us: Naturals
    """Observed run time per spec; 0 where unknown."""
    spec_of: Naturals
    jobs: JobIds
    attempts: Naturals
    tokens: Naturals
    payloads: Inline
    large: Large
    code: Code
    about: Rows = field(default_factory=list)
    """What jobs may know of themselves; most have nothing of the kind."""


@dataclass(slots=True)
class Retract(Message):
    """Give these back if they have not started."""

    KIND: ClassVar[int] = 37
    tokens: Naturals


@dataclass(slots=True)
class Discard(Message):
    """These attempts are not yours (any more): kill them, forget their results."""

    KIND: ClassVar[int] = 38
    tokens: Naturals


@dataclass(slots=True)
class Interrupt(Message):
    """End these attempts: what runs unwinds, and is killed after ``grace_ms``."""

    KIND: ClassVar[int] = 46
    tokens: Naturals
    grace_ms: Natural


@dataclass(slots=True)
class Answer(Message):
    KIND: ClassVar[int] = 39
    ask: Natural
    error: Text
    """Empty when the question could be answered."""
    body: Mapping


@dataclass(slots=True)
class Waiting(Message):
    """Jobs of this session wait for a node such as there is none, and no event that is due will change that."""

    KIND: ClassVar[int] = 40
    wait: Natural
    """Number of this wait, in this epoch: it may be told on two links, and is one all the same."""
    jobs: Natural
    function: Text
    """Name of what the first of them calls."""
    reason: Text


@dataclass(slots=True)
class Hold(Message):
    """Nothing above ``through`` was taken, and nothing of what is under way will be: keep it till ``GoOn``."""

    KIND: ClassVar[int] = 41
    through: Natural
    reason: Text


@dataclass(slots=True)
class GoOn(Message):
    """Hand in again what is held: what is sent after this was taken note of counts."""

    KIND: ClassVar[int] = 42


def _kinds(root: type[Message]) -> dict[int, type[Message]]:
    return {c.KIND: c for c in root.__subclasses__()}


MESSAGES: dict[int, type[Message]] = _kinds(Message)
FIELDS: dict[type[Message], tuple[str, ...]] = {c: tuple(f.name for f in fields(c)) for c in MESSAGES.values()}
COLUMN_PLACES: dict[type[Message], tuple[int, ...]] = {
    c: tuple(FIELDS[c].index(name) for name in c.COLUMNS) for c in MESSAGES.values()
}
CHECKS: dict[type[Message], tuple[Check, ...]] = {
    c: tuple(get_type_hints(c, include_extras=True)[name].__metadata__[0] for name in names)
    for c, names in FIELDS.items()
}
