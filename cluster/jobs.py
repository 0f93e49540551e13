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
    UNSTARTED = 5
    """Its time to start was over (at most once). Inside a node only: to the coordinator it is given back."""


class BadSpec(ValueError):
    """The bytes are no spec; the text says what is wrong."""


MOST_RETRIES = 100
"""Largest budget that a job may have for any one cause."""


def _truth(v: Any) -> bool:
    return type(v) is bool


def _budget(v: Any) -> bool:
    return type(v) is int and 0 <= v <= MOST_RETRIES


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

    def encode(self) -> bytes:
        out: bytes = msgpack.packb(
            [self.kind, shorten(self.text), shorten(self.traceback), list(self.bases[:32]), self.pickle]
        )
        return out

    @staticmethod
    def decode(raw: bytes) -> Failure:
        """Never raises: what cannot be read is a failure that says so."""
        try:
            packed: Any = msgpack.unpackb(raw)
            kind, text, traceback, bases, pickle = packed
            if type(kind) is type(text) is type(traceback) is str and type(pickle) is bytes:
                return Failure(kind, text, traceback, tuple(str(b) for b in bases), pickle)
        except Exception:
            pass
        return Failure("RemoteError", "the failure's description is unreadable")
