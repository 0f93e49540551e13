"""A schedule as its user wants it. Rules of this file: a checked value; what has happened to it is in ``standing``.

- *overlap* says what becomes of a time that comes while a job of an earlier one is unfinished.
- *catch_up* says what becomes of a time that was missed. A time is missed when a later one is due already, or when it
  is more than ``GRACE_S`` late. But first of all: what is later than the window is skipped.
- *jitter* moves each time by a share of ``jitter_s`` that is a hash of namespace, name and nominal time: the same
  wherever and whenever it is worked out, and always before the next time of the trigger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgpack

from cluster.triggers import Trigger, from_wire

US = 1_000_000

GRACE_S = 60
"""So late a time is late, not missed: a coordinator starts again within it. Also the smallest resolution of cron."""

MIN_WINDOW_S, MAX_WINDOW_S = 10, 366 * 86_400
"""A smaller window would skip what a busy coordinator takes up a little late."""

MAX_JITTER_S = 366 * 86_400
MAX_NAME = 200
MAX_FAILURES = 1_000_000
VERSION = 1


class Overlap(StrEnum):
    SKIP = "skip"
    """It is skipped."""
    BUFFER_ONE = "buffer_one"
    """It waits for the end, if none waits yet."""
    BUFFER_ALL = "buffer_all"
    """It waits for the end of all before it."""
    CANCEL_OTHER = "cancel_other"
    """The unfinished job is asked to end, and it waits for that; one that waited already gives way to it."""
    KILL_OTHER = "kill_other"
    """The same, but the job is killed."""
    ALLOW = "allow"
    """It fires."""


class CatchUp(StrEnum):
    ALL = "all"
    LATEST = "latest"
    """The last of those missed stands for all of them."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Raises ``ValueError`` with the field and what is wrong with it."""

    namespace: str
    name: str
    trigger: Trigger
    """With start, end and count. An open ``every`` is anchored by the book, when the schedule is first made."""
    call: Any
    """What is called, with its options: plain values, opaque here. Of a dict it is said which keys have changed; those
    that begin with a line (``_code``) go with the others, and are not compared."""
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window_s: float = 3600
    jitter_s: float = 0
    pause_after: int = 0
    """Failures in a row after which it is paused; 0 for never."""
    overdue_s: float = 0
    """So long after its last success it is overdue; 0 for never."""

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_NAME:
            raise ValueError(f"name: 1 to {MAX_NAME} characters, not {len(self.name)}")
        for field, kind in (("overlap", Overlap), ("catch_up", CatchUp)):
            value = getattr(self, field)
            try:
                object.__setattr__(self, field, kind(value))
            except ValueError:
                raise ValueError(f"{field}: {value!r:.64} is none of {', '.join(kind)}") from None
        _within("catch_up_window_s", self.catch_up_window_s, MIN_WINDOW_S, MAX_WINDOW_S)
        _within("jitter_s", self.jitter_s, 0, MAX_JITTER_S)
        _within("overdue_s", self.overdue_s, 0, MAX_WINDOW_S)
        if type(self.pause_after) is not int:
            raise ValueError(f"pause_after: a whole number, not {self.pause_after!r:.64}")
        _within("pause_after", self.pause_after, 0, MAX_FAILURES)

    @property
    def window_us(self) -> int:
        return round(self.catch_up_window_s * US)

    def jitter_us(self, nominal_us: int, following_us: int | None) -> int:
        """How long after its nominal time it is due; ``following_us`` is the next one of the trigger, if there is."""
        most = round(self.jitter_s * US)
        if not most:
            return 0
        if following_us is not None:
            most = min(most, following_us - nominal_us - 1)
        said = f"{self.namespace}\0{self.name}\0{nominal_us}".encode()
        share = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")
        return share * (most + 1) >> 64

    def changes(self, other: Schedule) -> tuple[str, ...]:
        """Names of the fields in which the other one differs."""
        out = []
        for field in fields(self):
            before, after = getattr(self, field.name), getattr(other, field.name)
            if before == after:
                continue
            if field.name == "call" and isinstance(before, dict) and isinstance(after, dict):
                keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
                out += [f"call.{key}" for key in keys if not str(key).startswith("_")]
            else:
                out.append(field.name)
        return tuple(out)

    def pack(self) -> bytes:
        """All but namespace and name, for the store."""
        return bytes(
            msgpack.packb(
                [
                    VERSION,
                    msgpack.packb(self.trigger.to_wire()),
                    self.call,
                    str(self.overlap),
                    str(self.catch_up),
                    self.catch_up_window_s,
                    self.jitter_s,
                    self.pause_after,
                    self.overdue_s,
                ]
            )
        )

    @staticmethod
    def unpack(namespace: str, name: str, packed: bytes) -> Schedule:
        """Lists come back as lists. Raises ``ValueError``, as for holidays that are not installed here."""
        version, trigger, *rest = msgpack.unpackb(packed, strict_map_key=False)
        if version != VERSION:
            raise ValueError(f"version: {version!r:.64}; this is {VERSION}")
        call, *rest = rest
        if type(call) is dict:
            call = {key: _one(value) if type(value) in (str, bytes) else value for key, value in call.items()}
        plans: Iterator[Any] = (_one(value) if type(value) in (int, float) else value for value in rest)
        return Schedule(namespace, name, _trigger(trigger), call, *plans)


@lru_cache(maxsize=16_384)
def _trigger(wire: bytes) -> Trigger:
    """Schedules with the same times share them."""
    return from_wire(msgpack.unpackb(wire))


@lru_cache(maxsize=4_096, typed=True)
def _one(value: str | bytes | float) -> str | bytes | float:
    """What many schedules have in common is kept once."""
    return value


def _within(field: str, value: float, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{field}: {least} to {most}, not {value!r:.64}")
