"""What a job is on the way between programs. Rules of this file: values and their bytes, no state.

A ``Spec`` is all that jobs of one function and the same options share. It travels as bytes, once per message,
and is opened once per distinct value. ``Failure`` is how an error crosses the wire: names and text for
everybody, and a pickle that only the client opens.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
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


class BadSpec(ValueError):
    """The bytes are no spec; the text says what is wrong."""


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
            ]
        )
        return out

    @staticmethod
    def decode(raw: bytes) -> Spec:
        try:
            fields: Any = msgpack.unpackb(raw, use_list=False)
            name, by_value, code, code_size, namespace, owner, python, labels, durable = fields
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
        return Spec(name, by_value, code, code_size, namespace, owner, python, labels, durable)

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
            fields: Any = msgpack.unpackb(raw)
            kind, text, traceback, bases, pickle = fields
            if type(kind) is type(text) is type(traceback) is str and type(pickle) is bytes:
                return Failure(kind, text, traceback, tuple(str(b) for b in bases), pickle)
        except Exception:
            pass
        return Failure("RemoteError", "the failure's description is unreadable")
