"""What a job is on the way between programs. Rules of this file: values and their bytes, no state.

A ``Spec`` is all that jobs of one function and the same options share. It travels as bytes, once per message,
and is opened once per distinct value. ``Failure`` is how an error crosses the wire: names and text for
everybody, and a pickle that only the client opens.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgpack

from cluster.config import FAILURE_CHARS


class Outcome(enum.IntEnum):
    """How a job ended. Exactly one per job."""

    SUCCEEDED = 0
    FAILED = 1
    TIMED_OUT = 2
    CANCELLED = 3
    EXPIRED = 4
    LOST = 5

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", " ")


class End(enum.IntEnum):
    """How one attempt ended, as its node says. What becomes of the job is the coordinator's decision."""

    SUCCEEDED = 0
    RAISED = 1
    """Its function raised, or something around it that would do so again: unpickling, a limit."""
    CRASHED = 2
    """Its worker process died under it."""
    MEMORY = 3
    """The same, and because memory ran out."""
    SPOILT = 4
    """Its payload or its result could not be moved between the processes."""
    RETRY = 6
    """It asked to be run again, which costs an attempt,"""
    SNOOZE = 7
    """...which costs none,"""
    GIVE_UP = 8
    """...or never to be run again."""
    UNSTARTED = 5
    """Its time to start was over (at most once). Inside a node only: to the coordinator it is given back."""
    TIMED_OUT = 9
    """It ran longer than its ``timeout_s``, and was interrupted or killed for it."""
    CANCELLED = 10
    """It was interrupted, killed or not started because the coordinator said so."""


class BadSpec(ValueError):
    """The bytes are no spec; the text says what is wrong."""


MOST_RETRIES = 100
"""Largest budget that a job may have for any one cause."""
LONGEST_S = 10 * 366 * 86_400.0
"""Longest time a rule may name."""
LATEST = 1e11
"""Last moment one may name, in seconds since the epoch."""
MOST_PRIORITY = 10
WORD_CHARS = 200
"""Bound of a queue's, tag's, tenant's, key's or exception's name,"""
MOST_WORDS = 32
"""...and of how many of them a rule may list."""
MOST_PARENTS = 1_000
"""Jobs that one job may wait for."""
FINGERPRINT_BYTES = 64
MOST_BYTES, MOST_FILES, MOST_CPUS = 1 << 60, 1 << 22, 4096
RESOURCES = ("cpus", "memory_bytes", "gpus")
"""What every node offers by itself, as far as it has it; other resources have names of one's own."""
LEAST_AMOUNT = 0.001
"""Of a resource: amounts are counted in thousandths."""
VISIBLE_DEVICES = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "-1"}
"""Variables by which CUDA and HIP are told the devices that a process sees, each with what says that there are none:
for HIP that is not the empty one. ROCm's own ``ROCR_VISIBLE_DEVICES`` stays as it is: HIP counts within what it lets
through."""
HOOK_BYTES = 48 * 1024
"""Bound of a hook with its code: it lies in the spec of the jobs it belongs to."""

PLAIN = b"GNP1"
"""Begins a payload that is no pickle but plain values in msgpack, as the coordinator can make one."""


def thousandths(amount: float) -> int:
    """As amounts of resources are counted: so parts add up again, and nothing drifts."""
    return round(amount * 1000)


def in_devices(amount: float) -> bool:
    """Whether devices can be shared out so: a part of one, or whole ones."""
    return amount <= 1 or amount == int(amount)


def _truth(v: Any) -> bool:
    return type(v) is bool


def _budget(v: Any) -> bool:
    return type(v) is int and 0 <= v <= MOST_RETRIES


def _seconds(v: Any) -> bool:
    return type(v) in (int, float) and 0 <= v <= LONGEST_S


def _natural(v: Any) -> bool:
    return type(v) is int and 0 <= v <= MOST_BYTES


def _count(v: Any) -> bool:
    return type(v) is int and 0 <= v <= MOST_FILES


def _processors(v: Any) -> bool:
    return type(v) in (int, float) and 0 <= v <= MOST_CPUS


def _devices(v: Any) -> bool:
    return _processors(v) and (v == 0 or v >= LEAST_AMOUNT) and in_devices(v)


def _factor(v: Any) -> bool:
    return type(v) in (int, float) and 1 <= v <= 100


def _share(v: Any) -> bool:
    return type(v) in (int, float) and 0 <= v <= 1


def _priority(v: Any) -> bool:
    return type(v) is int and -MOST_PRIORITY <= v <= MOST_PRIORITY


def _word(v: Any) -> bool:
    return type(v) is str and len(v) <= WORD_CHARS


def _queue(v: Any) -> bool:
    return _word(v) and bool(v)


def _words(v: Any) -> bool:
    return type(v) is tuple and len(v) <= MOST_WORDS and all(map(_word, v))


def _hook(v: Any) -> bool:
    return type(v) is bytes and len(v) <= HOOK_BYTES


def _after_failure(v: Any) -> bool:
    return v in ("fail", "run")


def _paired(v: Any, value: Callable[[Any], bool]) -> bool:
    return (
        type(v) is tuple
        and len(v) <= MOST_WORDS
        and all(type(pair) is tuple and len(pair) == 2 and _queue(pair[0]) and value(pair[1]) for pair in v)
    )


def _amount(v: Any) -> bool:
    return type(v) in (int, float) and LEAST_AMOUNT <= v <= MOST_BYTES


def _amounts(v: Any) -> bool:
    return _paired(v, _amount)


def _words_by_name(v: Any) -> bool:
    return _paired(v, _word)


def _rule(default: Any, check: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, slots=True)
class Rules:
    """What shall be done with jobs of a spec, as its user has chosen. Only what differs from these values travels."""

    at_most_once: bool = _rule(False, _truth)
    """Never start it twice: where nobody can tell whether it has started it is lost."""
    crash_retries: int = _rule(2, _budget)
    """How often it runs again after its worker died under it,"""
    memory_retries: int = _rule(1, _budget)
    """...and after that happened because memory ran out."""
    retries: int = _rule(0, _budget)
    """How often it runs again after its function raised or timed out: not a ``GiveUp``, and as the next two say."""
    retry_on: tuple[str, ...] = _rule((), _words)
    """Names of exceptions, also of their bases: only these; empty for all."""
    give_up_on: tuple[str, ...] = _rule((), _words)
    """...and never these."""
    retry_delay_s: float = _rule(1.0, _seconds)
    """Pause before the first retry; each further one is longer by ``backoff``, up to ``retry_max_delay_s``."""
    backoff: float = _rule(2.0, _factor)
    retry_max_delay_s: float = _rule(600.0, _seconds)
    jitter: float = _rule(0.5, _share)
    """Share of the pause that is left to chance, so that what failed together does not come back together."""
    expires_s: float = _rule(0.0, _seconds)
    """Time after it was handed in by which it must have begun; 0 for any."""
    priority: int = _rule(0, _priority)
    """Higher goes first in its queue."""
    queue: str = _rule("default", _queue)
    fair_key: str = _rule("", _word)
    """Tenant: those with jobs ready in a queue take turns."""
    tags: tuple[str, ...] = _rule((), _words)
    after_failure: str = _rule("fail", _after_failure)
    """What becomes of it where a job it waits for does not succeed."""
    key_ttl_s: float = _rule(86_400.0, _seconds)
    """How long its key is taken after its end."""
    result_ttl_s: float = _rule(0.0, _seconds)
    """How long its result is kept at most; 0: as long as its outcome."""
    client_bound: bool = _rule(False, _truth)
    """Whether it is cancelled when its client's session ends."""
    on_success: bytes = _rule(b"", _hook)
    """Encoded ``Hook``: what is run when it has succeeded,"""
    on_failure: bytes = _rule(b"", _hook)
    """...when it has failed, timed out, expired or is lost,"""
    on_dead: bytes = _rule(b"", _hook)
    """...and when it is set aside as a dead letter."""
    timeout_s: float = _rule(0.0, _seconds)
    """How long one attempt may run before it is interrupted; 0 for ever."""
    grace_s: float = _rule(5.0, _seconds)
    """How long it may unwind after that, or after a cancel that gives no time of its own, before it is killed."""
    memory_bytes: int = _rule(0, _natural)
    """Memory that it may take with all its processes, on top of what its worker had, and that its node must have free
    of others' claims; 0 without limit and claim."""
    cpus: float = _rule(0.0, _processors)
    """Processors it may use with all its processes, in parts too, and that its node must have free; 0 as above."""
    open_files: int = _rule(0, _count)
    """Descriptors each of its processes may have open; 0: as many as the node's."""
    processes: int = _rule(0, _count)
    """Processes and threads it may have, with those of its worker; 0 without limit."""
    gpus: float = _rule(0.0, _devices)
    """Graphics processors that its node must have free of others' claims, and the only ones it sees: whole ones, or a
    part of one."""
    resources: tuple[tuple[str, float], ...] = _rule((), _amounts)
    """The same of what has a name of one's own, sorted by it."""
    prefer: tuple[tuple[str, str], ...] = _rule((), _words_by_name)
    """Labels that its node should have, sorted: the more of them the better."""
    anti_affinity: str = _rule("", _word)
    """Jobs of a namespace under one such key never have the same node at the same time."""

    @property
    def limited(self) -> bool:
        """Whether its processes have to be held together while it runs."""
        return bool(self.memory_bytes or self.cpus or self.processes)

    def encode(self) -> dict[str, Any]:
        return {name: value for name in _RULES if (value := getattr(self, name)) != _RULES[name].default}

    @staticmethod
    def decode(packed: Any) -> Rules:
        """Raises ``BadSpec``."""
        if type(packed) is not dict:
            raise BadSpec("its rules are no mapping")
        for name, value in packed.items():
            rule = _RULES.get(name)
            if rule is None or not rule.metadata["check"](value):
                raise BadSpec(f"{str(name)[:40]} cannot be {str(value)[:40]}")
        return Rules(**packed) if packed else AS_USUAL


_RULES = {rule.name: rule for rule in fields(Rules)}
AS_USUAL = Rules()


@dataclass(frozen=True, slots=True)
class About:
    """What concerns one job alone, beyond its arguments. Empty for most, and then no bytes at all."""

    at: float = 0.0
    """Moment before which it must not run, in seconds since the epoch,"""
    delay_s: float = 0.0
    """...or the same counted from its acceptance."""
    key: str = ""
    """Whoever hands in again under it is told of this job."""
    fingerprint: bytes = b""
    """What two submissions under one key must have in common, instead of their function's name."""
    after: tuple[bytes, ...] = ()
    """Ids of jobs that must have succeeded before."""
    retry_of: bytes = b""
    """Id of the finished job that this one repeats."""
    parent: bytes = b""
    """Id of the job that has handed this one in,"""
    root: bytes = b""
    """...and of the first of its ancestors, where that is another."""
    schedule: str = ""
    """Name of the schedule that made it,"""
    nominal_us: int = 0
    """...for this moment, in microseconds since the epoch,"""
    run: bytes = b""
    """...in this run of it; empty for what its trigger fired."""

    def encode(self) -> bytes:
        said = {name: value for name in _ABOUT if (value := getattr(self, name)) != _ABOUT[name].default}
        return bytes(msgpack.packb(said)) if said else b""

    @staticmethod
    def decode(raw: bytes) -> About:
        """Raises ``BadSpec``."""
        if not raw:
            return NOTHING_SPECIAL
        try:
            said: Any = msgpack.unpackb(raw, use_list=False)
            about = About(**said)
            sound = (
                _moment(about.at)
                and _seconds(about.delay_s)
                and _word(about.key)
                and type(about.fingerprint) is bytes
                and len(about.fingerprint) <= FINGERPRINT_BYTES
                and type(about.after) is tuple
                and len(about.after) <= MOST_PARENTS
                and all(type(parent) is bytes and len(parent) == 16 for parent in about.after)
                and type(about.retry_of) is bytes
                and len(about.retry_of) in (0, 16)
                and type(about.parent) is bytes
                and len(about.parent) in (0, 16)
                and type(about.root) is bytes
                and len(about.root) in (0, 16)
                and _word(about.schedule)
                and type(about.nominal_us) is int
                and type(about.run) is bytes
                and len(about.run) in (0, 8)
            )
        except Exception as e:
            raise BadSpec(f"what is said about the job is unreadable: {type(e).__name__}") from None
        if not sound:
            raise BadSpec("what is said about the job has a wrong type or is too long")
        return about


def _moment(v: Any) -> bool:
    return type(v) in (int, float) and 0 <= v <= LATEST


_ABOUT = {part.name: part for part in fields(About)}
NOTHING_SPECIAL = About()


@dataclass(frozen=True, slots=True)
class Spec:
    name: str
    """``package.module:qualname`` as people read it."""
    by_value: bool
    """Whether ``code`` is the hash of a pickled function, or the pickle of a reference to one."""
    code: bytes
    """By reference: the pickle. By value: SHA-256 of the pickle, which travels as a blob."""
    code_size: int = 0
    """Bytes of the pickled function where it goes by value."""
    namespace: str = "default"
    owner: str = ""
    """Name of the submitting key; set by the coordinator, whatever the client says."""
    python: str = ""
    """Minor version (``3.11``) the node must run; empty where any will do."""
    labels: tuple[tuple[str, str], ...] = ()
    """Labels the node must have, sorted."""
    durable: bool = True
    """Whether the job outlives the coordinator."""
    rules: Rules = AS_USUAL

    def encode(self) -> bytes:
        out: bytes = msgpack.packb(
            [
                self.name,
                self.by_value,
                self.code,
                self.code_size,
                self.namespace,
                self.owner,
                self.python,
                self.labels,
                self.durable,
                self.rules.encode(),
            ]
        )
        return out

    @staticmethod
    def decode(raw: bytes) -> Spec:
        try:
            packed: Any = msgpack.unpackb(raw, use_list=False)
            name, by_value, code, code_size, namespace, owner, python, labels, durable, rules = packed
            texts = (name, namespace, owner, python, *(t for pair in labels for t in pair))
            sound = (
                all(type(t) is str and len(t) <= 512 for t in texts)
                and type(labels) is tuple
                and all(type(pair) is tuple and len(pair) == 2 for pair in labels)
                and type(by_value) is type(durable) is bool
                and type(code) is bytes
                and type(code_size) is int
                and 0 <= code_size < 1 << 62
                and (not by_value or len(code) == 32)
            )
        except Exception as e:
            raise BadSpec(f"unreadable: {type(e).__name__}") from None
        if not sound:
            raise BadSpec("a field has the wrong type or is too long")
        return Spec(name, by_value, code, code_size, namespace, owner, python, labels, durable, Rules.decode(rules))

    def owned_by(self, owner: str) -> Spec:
        return replace(self, owner=owner)


def shorten(text: str, limit: int = FAILURE_CHARS) -> str:
    """``text``, cut in the middle to ``limit`` characters with a note of what is missing."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters cut ...\n{text[-half:]}"


def plain_call(args: list[Any], kwargs: dict[str, Any]) -> bytes:
    """The payload of a call with plain values."""
    return PLAIN + bytes(msgpack.packb([args, kwargs]))


@dataclass(frozen=True, slots=True)
class Hook:
    """What is run when a job has ended: a job of its own, whose first argument is the record of that one."""

    spec: bytes
    """Encoded ``Spec``."""
    code: bytes = b""
    """The pickled function, where it goes by value."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments, plain values."""

    def encode(self) -> bytes:
        return bytes(msgpack.packb([self.spec, self.code, self.kwargs]))

    @staticmethod
    def decode(raw: bytes) -> Hook:
        """Raises ``BadSpec``."""
        try:
            spec, code, kwargs = msgpack.unpackb(raw)
        except Exception as e:
            raise BadSpec(f"a hook is unreadable: {type(e).__name__}") from None
        if type(spec) is not bytes or type(code) is not bytes or type(kwargs) is not dict:
            raise BadSpec("a hook has a field of the wrong type")
        return Hook(spec, code, kwargs)


@dataclass(frozen=True, slots=True)
class Failure:
    kind: str
    """Class name of the exception, or of one of ours (``errors.JOB_ERRORS``)."""
    text: str
    traceback: str = ""
    bases: tuple[str, ...] = ()
    """Names of the exception's classes, itself first, for rules that match by name."""
    pickle: bytes = b""
    """The exception itself; empty when it could not be pickled. Only a client opens it."""
    delay_s: float | None = None
    """Pause the job asks for before it runs again, with ``Retry`` and ``Snooze``."""

    def encode(self) -> bytes:
        out: bytes = msgpack.packb(
            [self.kind, shorten(self.text), shorten(self.traceback), list(self.bases[:32]), self.pickle, self.delay_s]
        )
        return out

    @staticmethod
    def decode(raw: bytes) -> Failure:
        """Never raises: what cannot be read is a failure that says so."""
        try:
            packed: Any = msgpack.unpackb(raw)
            kind, text, traceback, bases, pickle, delay_s = packed
            if type(kind) is type(text) is type(traceback) is str and type(pickle) is bytes:
                delay_s = float(delay_s) if delay_s is not None and _seconds(delay_s) else None
                return Failure(kind, text, traceback, tuple(str(b) for b in bases), pickle, delay_s)
        except Exception:
            pass
        return Failure("RemoteError", "the failure's description is unreadable")
