"""Large bytes in transit, for all three actors. Rules of this file: pure books and their event types.

A blob is content named by its SHA-256. It travels as numbered ``Chunk`` messages; the receiver's ``Taken`` is
both credit and progress, and ``Taken(through=size)`` says whole, verified and stored; ``Taken(through=0)`` asks
to begin anew. A receiver that already has the blob says so at the first chunk. After a new link the sender sends
that first chunk again, and the answer tells it where to go on. An empty chunk withdraws the blob: the receiver
forgets what it has of it and answers ``Taken(through=0)``. A word that was said before the first chunk of an offer
was heard, as its acknowledgement shows, is about an earlier offer of the same bytes.

``Outgoing`` belongs to a sender, one per peer; ``Incoming`` to a receiver, one per peer. Reading, writing
and hashing is the host's, off the loop; the events and effects for that are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from cluster.config import BLOBS_IN_FLIGHT, CHUNK_BYTES, CHUNKS_IN_FLIGHT
from cluster.messages import BlobRefused, Chunk, Message, Taken

# ------------------------------------------------------------------------------------ effects


@dataclass(slots=True)
class KeepBlob:
    """Store small bytes under their hash. No answer unless it fails (``BlobFailed``)."""

    sha: bytes
    data: bytes


@dataclass(slots=True)
class WriteChunk:
    """Append to a blob that is coming in. Answered by ``ChunkWritten``, or ``BlobFailed``."""

    sha: bytes
    size: int
    offset: int
    data: bytes


@dataclass(slots=True)
class ReadChunk:
    """Read a piece of a stored blob. Answered by ``ChunkRead``, or ``BlobFailed``."""

    sha: bytes
    offset: int
    length: int


@dataclass(slots=True)
class DropBlob:
    """Forget a blob, whole or partly written."""

    sha: bytes


# ------------------------------------------------------------------------------------ events


@dataclass(slots=True)
class ChunkWritten:
    """All below ``through`` is written. ``through == size`` comes after verifying the hash and syncing."""

    sha: bytes
    through: int


@dataclass(slots=True)
class ChunkRead:
    sha: bytes
    offset: int
    data: bytes


@dataclass(slots=True)
class BlobFailed:
    """Reading or writing failed, or the bytes do not match the hash."""

    sha: bytes
    reason: str


# ------------------------------------------------------------------------------------ books


@dataclass(slots=True)
class _Sending:
    size: int
    read: int = 0
    """Asked from the host, or taken, below this."""
    sent: int = 0
    """Sent, or taken, below this: what was read twice is sent once."""
    taken: int = 0
    first: int | None = None
    """Number of the message with its first chunk, on this link."""


class Outgoing:
    """Blobs on their way to one peer, a few at a time, each within its window, in the order asked for."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, int] = {}
        self._active: dict[bytes, _Sending] = {}
        self._withdrawn: dict[bytes, None] = {}
        """Until the receiver has answered: a new link says it again, and a new offer waits for it."""

    def __contains__(self, sha: bytes) -> bool:
        return sha in self._active or sha in self._waiting

    def __bool__(self) -> bool:
        return bool(self._active or self._waiting)

    def send(self, sha: bytes, size: int) -> None:
        if sha not in self:
            self._waiting[sha] = size

    def fetch(self, sha: bytes, size: int) -> None:
        """The receiver asks for it, so what was sent of it before is not on its way any more."""
        self.send(sha, size)
        if sha in self._active:
            self._begin(self._active[sha])

    def _begin(self, s: _Sending) -> None:
        s.read = s.sent = s.taken = 0
        s.first = None

    def duties(self) -> list[ReadChunk]:
        """What to read now, as far as credit goes."""
        out = []
        room = max(0, BLOBS_IN_FLIGHT - len(self._active))
        for sha in list(islice((s for s in self._waiting if s not in self._withdrawn), room)):
            self._active[sha] = _Sending(self._waiting.pop(sha))
        for sha, s in self._active.items():
            # The first chunk goes alone: who has the blob, or its middle, says so before the rest is sent for nothing.
            window = CHUNKS_IN_FLIGHT * CHUNK_BYTES if s.taken else CHUNK_BYTES
            while s.read < s.size and s.read - s.taken < window:
                length = min(CHUNK_BYTES, s.size - s.read)
                out.append(ReadChunk(sha, s.read, length))
                s.read += length
        return out

    def chunk(self, event: ChunkRead, number: int = 0) -> Chunk | None:
        """The message, of that number, for bytes that were read, unless they are no longer wanted."""
        s = self._active.get(event.sha)
        if s is None or event.offset != s.sent:
            return None
        if s.first is None:
            s.first = number
        s.sent += len(event.data)
        return Chunk(event.sha, s.size, event.offset, event.data)

    def taken(self, message: Taken, acked: int | None = None) -> bool:
        """Note the receiver's word; True when the blob has arrived whole. ``acked``: what it had heard by then."""
        s = self._active.get(message.sha)
        if not message.through:
            self._withdrawn.pop(message.sha, None)
        if s is None or (acked is not None and (s.first is None or acked < s.first)):
            return False
        if not message.through:
            self._begin(s)
            return False
        s.taken = max(s.taken, min(message.through, s.size))
        s.read, s.sent = max(s.read, s.taken), max(s.sent, s.taken)
        if s.taken < s.size:
            return False
        del self._active[message.sha]
        return True

    def drop(self, sha: bytes) -> None:
        self._waiting.pop(sha, None)
        self._active.pop(sha, None)

    def withdraw(self, sha: bytes) -> Chunk:
        """It is not offered any more, whatever has arrived of it. The message that says so."""
        self.drop(sha)
        self._withdrawn[sha] = None
        return _withdrawal(sha)

    def restart(self) -> list[Chunk]:
        """A new link: what was not taken is sent again. What to say first."""
        for s in self._active.values():
            self._begin(s)
        self._withdrawn = {sha: None for sha in self._withdrawn if sha not in self._waiting}
        return [_withdrawal(sha) for sha in self._withdrawn]

    def clear(self) -> list[bytes]:
        shas = [*self._active, *self._waiting]
        self._active.clear()
        self._waiting.clear()
        self._withdrawn.clear()
        return shas


def _withdrawal(sha: bytes) -> Chunk:
    return Chunk(sha, 0, 0, b"")


@dataclass(slots=True)
class _Receiving:
    size: int
    asked: int = 0
    """Handed to the host below this."""
    written: int = 0


class Incoming:
    """Blobs on their way from one peer."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._blobs: dict[bytes, _Receiving] = {}

    def __contains__(self, sha: bytes) -> bool:
        return sha in self._blobs

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blobs)

    def take(self, chunk: Chunk, have: bool) -> WriteChunk | Message | None:
        """What to do with a chunk: write it, answer at once, or nothing. ``have``: it is stored already."""
        if have:
            return Taken(chunk.sha, chunk.size) if chunk.offset == 0 else None
        if chunk.size > self._max:
            return BlobRefused(chunk.sha, f"{chunk.size} bytes are over the limit of {self._max}")
        blob = self._blobs.get(chunk.sha)
        if blob is None:
            if chunk.offset:
                return None
            if len(self._blobs) >= 2 * BLOBS_IN_FLIGHT:
                return BlobRefused(chunk.sha, "too many blobs at once")
            blob = self._blobs[chunk.sha] = _Receiving(chunk.size)
        if chunk.size != blob.size or chunk.offset + len(chunk.data) > blob.size or not chunk.data:
            return BlobRefused(chunk.sha, "the chunk does not fit the blob")
        if chunk.offset != blob.asked:
            return Taken(chunk.sha, blob.written) if chunk.offset < blob.asked and blob.written else None
        blob.asked += len(chunk.data)
        return WriteChunk(chunk.sha, chunk.size, chunk.offset, chunk.data)

    def written(self, event: ChunkWritten) -> tuple[Taken, bool] | None:
        """The word to give the sender, and whether the blob is complete; None if it is not coming from there."""
        blob = self._blobs.get(event.sha)
        if blob is None:
            return None
        blob.written = max(blob.written, event.through)
        whole = blob.written >= blob.size
        if whole:
            del self._blobs[event.sha]
        return Taken(event.sha, blob.written), whole

    def drop(self, sha: bytes) -> bool:
        return self._blobs.pop(sha, None) is not None


class Shelf:
    """Which blobs are stored here, who needs them, and which to drop. One per actor.

    ``spare`` unreferenced blobs of ``spare_bytes`` together are kept for the next one who asks, oldest first to go.
    """

    def __init__(self, spare: int, spare_bytes: int = 0) -> None:
        self._spare = spare
        self._spare_bytes = spare_bytes
        self._idle_bytes = 0
        self._sizes: dict[bytes, int] = {}
        self._refs: dict[bytes, int] = {}
        self._idle: dict[bytes, None] = {}

    def __contains__(self, sha: bytes) -> bool:
        return sha in self._sizes

    def add(self, sha: bytes, size: int) -> None:
        if sha in self._sizes:
            return
        self._sizes[sha] = size
        if sha not in self._refs:
            self._rest(sha)

    def hold(self, sha: bytes) -> None:
        """One more needs it; also before it is stored."""
        self._refs[sha] = self._refs.get(sha, 0) + 1
        self._wake(sha)

    def release(self, sha: bytes) -> list[DropBlob]:
        """One fewer needs it. What to drop for that."""
        refs = self._refs.get(sha, 0) - 1
        if refs > 0:
            self._refs[sha] = refs
            return []
        self._refs.pop(sha, None)
        if sha not in self._sizes:
            return []
        self._rest(sha)
        out = []
        while len(self._idle) > self._spare or self._idle_bytes > self._spare_bytes:
            oldest = next(iter(self._idle))
            self.forget(oldest)
            out.append(DropBlob(oldest))
        return out

    def forget(self, sha: bytes) -> None:
        """It is not stored (any more)."""
        self._wake(sha)
        self._sizes.pop(sha, None)

    def _rest(self, sha: bytes) -> None:
        if sha not in self._idle:
            self._idle[sha] = None
            self._idle_bytes += self._sizes[sha]

    def _wake(self, sha: bytes) -> None:
        if sha in self._idle:
            del self._idle[sha]
            self._idle_bytes -= self._sizes[sha]

    def size(self, sha: bytes) -> int:
        return self._sizes[sha]

    def __len__(self) -> int:
        return len(self._sizes)
