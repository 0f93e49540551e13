"""Where blobs lie. Rules of this file: the shells' own rules (``cluster/blob_files.py``) on a virtual disk.

One thread writes and reads in the order asked for, each after a while. Hashes are really checked. A dropped blob is
gone at once: nothing under way brings it back, and its writes go unanswered; reads asked for before are answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

from cluster.blobs import BlobFailed, ChunkRead, ChunkWritten, DropBlob, KeepBlob, ReadChunk, WriteChunk
from tests.simulation.clock import Clock

Post = Callable[[Any], None]


class _Part:
    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0
        self.data = bytearray()
        self.over = False
        """Dropped, failed or whole."""


class Disk:
    """A directory of blobs, of the coordinator or an agent. ``fails`` is asked once per chunk."""

    def __init__(self, clock: Clock, chance: Random, post: Post, fails: Callable[[], bool]) -> None:
        self._clock = clock
        self._chance = chance
        self._post = post
        self._fails = fails
        self._parts: dict[bytes, _Part] = {}
        self._free_at = 0.0
        self.files: dict[bytes, bytes] = {}

    @property
    def parts(self) -> list[bytes]:
        return list(self._parts)

    def perform(self, effect: KeepBlob | WriteChunk | ReadChunk | DropBlob) -> None:
        match effect:
            case WriteChunk():
                self._write(effect)
            case ReadChunk():
                self._read(effect)
            case KeepBlob():
                assert hashlib.sha256(effect.data).digest() == effect.sha
                if self._fails():
                    self._post(BlobFailed(effect.sha, "cannot be written"))
                else:
                    self.files.setdefault(effect.sha, effect.data)
            case DropBlob():
                self._abandon(effect.sha)
                self.files.pop(effect.sha, None)

    def _later(self, happening: Callable[..., None], *args: Any) -> None:
        slow = 100 if self._chance.random() < 0.02 else 1
        self._free_at = max(self._free_at, self._clock.now) + slow * self._chance.uniform(0.00005, 0.001)
        self._clock.at(self._free_at, happening, *args)

    def _abandon(self, sha: bytes) -> None:
        part = self._parts.pop(sha, None)
        if part is not None:
            part.over = True

    def _write(self, effect: WriteChunk) -> None:
        part = self._parts.get(effect.sha)
        if part is None and effect.sha in self.files:
            self._post(ChunkWritten(effect.sha, effect.size))
            return
        if part is None:
            part = self._parts[effect.sha] = _Part(effect.size)
        end = effect.offset + len(effect.data)
        if effect.size != part.size or end > part.size or effect.offset > part.asked:
            self._abandon(effect.sha)
            self._post(BlobFailed(effect.sha, f"a chunk at {effect.offset} does not fit what came before"))
            return
        fresh = effect.data[part.asked - effect.offset :] if end > part.asked else b""
        part.asked = max(part.asked, end)
        self._later(self._append, effect.sha, part, fresh, end)

    def _append(self, sha: bytes, part: _Part, data: bytes, end: int) -> None:
        if part.over:
            return
        part.data += data
        bad = len(part.data) == part.size and hashlib.sha256(part.data).digest() != sha
        if bad or self._fails():
            self._abandon(sha)
            self._post(BlobFailed(sha, "the bytes do not match their hash" if bad else "cannot be written"))
            return
        if len(part.data) == part.size:
            self._abandon(sha)
            self.files[sha] = bytes(part.data)
        self._post(ChunkWritten(sha, end))

    def _read(self, effect: ReadChunk) -> None:
        data = self.files.get(effect.sha)
        if data is None:
            self._post(BlobFailed(effect.sha, "cannot be read: it is not here"))
            return
        piece = data[effect.offset : effect.offset + effect.length]
        self._later(self._fetched, effect, piece)

    def _fetched(self, effect: ReadChunk, piece: bytes) -> None:
        if len(piece) != effect.length or self._fails():
            self._post(BlobFailed(effect.sha, "cannot be read"))
        else:
            self._post(ChunkRead(effect.sha, effect.offset, piece))


class Memory:
    """A client's blobs: sources it sends from, and results that come in."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self.sources: dict[bytes, tuple[bytes, int]] = {}
        """Bytes, and the last job that needs them: ours to drop, once that is acknowledged."""
        self.coming: dict[bytes, bytearray] = {}
        self.whole: dict[bytes, bytes] = {}

    def serve(self, sha: bytes, data: bytes, counter: int) -> None:
        self.sources.pop(sha, None)
        self.sources[sha] = data, counter

    def acknowledged(self, through: int) -> None:
        for sha in [s for s, (_, counter) in self.sources.items() if counter <= through]:
            del self.sources[sha]

    def perform(self, effect: KeepBlob | WriteChunk | ReadChunk | DropBlob) -> None:
        match effect:
            case WriteChunk(sha, size, offset, data):
                coming = self.coming.setdefault(sha, bytearray())
                if offset != len(coming):
                    self._fail(sha, f"a chunk at {offset} does not fit what came before")
                    return
                coming += data
                through = len(coming)
                if through == size:
                    if hashlib.sha256(coming).digest() != sha:
                        self._fail(sha, "the bytes do not match their hash")
                        return
                    self.whole[sha] = bytes(self.coming.pop(sha))
                self._post(ChunkWritten(sha, through))
            case ReadChunk(sha, offset, length):
                source = self.sources.get(sha)
                if source is None:
                    self._fail(sha, "is not here")
                    return
                self._post(ChunkRead(sha, offset, source[0][offset : offset + length]))
            case DropBlob(sha):
                if sha not in self.sources:
                    self.coming.pop(sha, None)
                    self.whole.pop(sha, None)
            case KeepBlob():
                raise AssertionError("a client keeps no blobs")

    def _fail(self, sha: bytes, reason: str) -> None:
        self.coming.pop(sha, None)
        self._post(BlobFailed(sha, reason))
