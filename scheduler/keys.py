"""Keys that say: this has been asked for already. Rules of this file: a pure book.

A key is of a namespace. It belongs to the first job that came with it, as long as that is unfinished and a time of its
choice after that (not after that if its job is not durable: nothing is left to be told). A later submission under it
makes no job but is told what becomes of that one, if it asks for the same: the same function, or the same
``fingerprint`` where one is given, as durable. Else it is a conflict.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cluster.jobs import About, Spec
from scheduler.store import KeyRow

MAX_KEYS = 1_000_000


@dataclass(slots=True)
class Kept:
    job: bytes
    fingerprint: bytes
    until: float
    """0 while its job is unfinished."""


def fingerprint(spec: Spec, about: About) -> bytes:
    """What two submissions under one key must have in common."""
    said = about.fingerprint or spec.name.encode() + b"\0"
    return hashlib.sha256(said + (b"" if spec.durable else b"\0volatile")).digest()[:16]


class Keys:
    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], Kept] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def restore(self, row: KeyRow) -> None:
        self._keys[row.namespace, row.key] = Kept(row.job, row.fingerprint, row.until)

    def get(self, namespace: str, key: str, wall: float) -> Kept | None:
        kept = self._keys.get((namespace, key))
        return None if kept is None or 0 < kept.until <= wall else kept

    def take(self, namespace: str, key: str, job: bytes, mark: bytes) -> KeyRow:
        self._keys[namespace, key] = Kept(job, mark, 0.0)
        return KeyRow(namespace, key, job, mark, 0.0)

    def ended(self, namespace: str, key: str, job: bytes, until: float) -> KeyRow | None:
        """Its job has ended; the row that says how long the key is still taken."""
        kept = self._keys.get((namespace, key))
        if kept is None or kept.job != job:
            return None
        kept.until = until
        return KeyRow(namespace, key, job, kept.fingerprint, until)

    def clock_set(self, seconds: float) -> None:
        """The wall clock was set by so much: how long a key is still taken is a duration."""
        for kept in self._keys.values():
            if kept.until:
                kept.until += seconds

    def expired(self, namespace: str, key: str, wall: float) -> bool:
        """Forget it if its time is over."""
        kept = self._keys.get((namespace, key))
        if kept is None or not 0 < kept.until <= wall:
            return False
        del self._keys[namespace, key]
        return True
