"""Where large bytes lie: files for coordinator and agent, memory for a client. Rules of this file: shell.

Both perform the blob effects of ``blobs.py`` and answer with its events, which the host polls and drains.

- A blob is a file named by its SHA-256 in hex. It gets that name by a rename, when it is whole and verified.
- Hashing, writing and syncing is one thread's, in the order asked for. Knowing what there is and what is
  wanted is the host's side. They share a queue each way, and a lock for naming a blob that may be dropped.
- A dropped blob is gone when ``perform`` returns. Nothing under way brings it back, writes go unanswered.
- What waits for the disk is bounded; the credit of sessions bounds it long before.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from cluster.blobs import BlobFailed, ChunkRead, ChunkWritten, DropBlob, KeepBlob, ReadChunk, WriteChunk
from cluster.errors import ConfigError

Effect = KeepBlob | WriteChunk | ReadChunk | DropBlob
Event = ChunkWritten | ChunkRead | BlobFailed

MAX_WAITING_BYTES = 1 << 30
"""Bytes that may wait for the disk, either way; past it blobs fail. The credit of one session is 16 MiB."""

_MISMATCH = "the bytes do not match their hash"
_T = TypeVar("_T")


class _Answers(Generic[_T]):
    """A queue whose filling can be polled; any thread may add."""

    def __init__(self) -> None:
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.waiting: deque[_T] = deque()

    def add(self, answer: _T) -> None:
        self.waiting.append(answer)
        os.eventfd_write(self.bell, 1)

    def silence(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def ring_if_any(self) -> None:
        if self.waiting:
            os.eventfd_write(self.bell, 1)

    def close(self) -> None:
        os.close(self.bell)
        self.bell = -1


class _Part:
    """A blob that is coming in. The host counts ``asked``; all else is the thread's."""

    def __init__(self, sha: bytes, size: int, path: Path) -> None:
        self.sha, self.size, self.path = sha, size, path
        self.asked = 0
        """Handed to the thread below this."""
        self.dropped = False
        """Set by the host, under the lock."""
        self.failed = self.named = False
        self.written = 0
        self._hash = hashlib.sha256()
        self._fd = -1

    def append(self, data: bytes) -> None:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._hash.update(data)
        self.written += len(data)

    def verify(self, sync: bool) -> None:
        if self._hash.digest() != self.sha:
            raise ValueError(_MISMATCH)
        if sync:
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def discard(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self.named:
            self.path.unlink(missing_ok=True)


class _Reader:
    """An open blob, with the reads asked for and not yet drained: one descriptor a blob."""

    def __init__(self, sha: bytes, fd: int) -> None:
        self.sha, self.fd, self.pending = sha, fd, 0


class _Answer(NamedTuple):
    event: Event | None
    of: _Part | _Reader | None = None
    size: int = 0
    """Bytes that no longer wait for the disk."""


class BlobFiles:
    """Blobs in a directory of mode 0700.

    ``sync``: ``ChunkWritten`` says whole when the blob would survive a loss of power.
    ``keep``: blobs that may stay, all unless given; what was not finished is removed in any case.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        sync: bool = True,
        keep: Container[bytes] | None = None,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.directory = Path(directory)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self.directory, 0o700)
            for entry in list(self.directory.iterdir()):
                if entry.is_file() and not (_is_blob_name(entry.name) and _wanted(entry.name, keep)):
                    entry.unlink()
        except OSError as e:
            raise ConfigError(f"cannot keep blobs in {self.directory}: {e.strerror}") from None
        self._sync = sync
        self._max_waiting = max_waiting_bytes
        self._waiting = 0
        self._parts: dict[bytes, _Part] = {}
        self._readers: dict[bytes, _Reader] = {}
        self._scratches = 0
        self._lock = threading.Lock()
        self._answers: _Answers[_Answer] = _Answers()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="blob-files", daemon=True)
        self._thread.start()

    # -- the host's side ----------------------------------------------------------------------------

    def has(self, sha: bytes) -> bool:
        """Whether the blob is here; one that comes in is, once its last ``ChunkWritten`` was drained."""
        return sha not in self._parts and self.path(sha).exists()

    def path(self, sha: bytes) -> Path:
        return self.directory / sha.hex()

    def pollables(self) -> list[int]:
        return [self._answers.bell]

    def drain(self, limit: int) -> tuple[list[Event], bool]:
        """Up to ``limit`` answers, and whether there are no more now."""
        self._answers.silence()
        events: list[Event] = []
        while self._answers.waiting and len(events) < limit:
            event, of, size = self._answers.waiting.popleft()
            self._waiting -= size
            if isinstance(of, _Reader):
                self._read_done(of)
            elif isinstance(of, _Part):
                if of.dropped:
                    continue
                if (of.named or of.failed) and self._parts.get(of.sha) is of:
                    self._note(of, event)
            if event is not None:
                events.append(event)
        self._answers.ring_if_any()
        return events, not self._answers.waiting

    def _note(self, part: _Part, event: Event | None) -> None:
        """The part is over when the host hears of it, and not before."""
        if isinstance(event, BlobFailed) or (isinstance(event, ChunkWritten) and event.through == part.size):
            del self._parts[part.sha]

    def perform(self, effect: Effect) -> None:
        match effect:
            case WriteChunk():
                self._write(effect)
            case ReadChunk():
                self._read(effect)
            case KeepBlob():
                self._keep(effect)
            case DropBlob():
                self._drop(effect.sha)

    def close(self) -> None:
        """Finish what was asked for and end the thread; blobs that are not whole are removed."""
        if not self._thread.is_alive():
            return
        self._work.put(None)
        self._thread.join()
        for part in self._parts.values():
            part.discard()
        for answer in self._answers.waiting:
            if isinstance(answer.of, _Reader):
                self._read_done(answer.of)
        self._answers.close()

    def _write(self, effect: WriteChunk) -> None:
        sha, end = effect.sha, effect.offset + len(effect.data)
        part = self._parts.get(sha)
        if part is None and self.has(sha):
            self._answers.add(_Answer(ChunkWritten(sha, effect.size)))
            return
        if part is None:
            part = self._parts[sha] = _Part(sha, effect.size, self._scratch())
        if effect.size != part.size or end > part.size or effect.offset > part.asked:
            self._fail(sha, f"a chunk at {effect.offset} does not fit what came before")
            return
        fresh = effect.data[part.asked - effect.offset :] if end > part.asked else b""
        if self._waiting + len(fresh) > self._max_waiting:
            self._fail(sha, f"the disk is too slow: {self._waiting} bytes wait for it")
            return
        part.asked = max(part.asked, end)
        self._waiting += len(fresh)
        self._work.put(lambda: self._append(part, fresh, end))

    def _read(self, effect: ReadChunk) -> None:
        if self._waiting + effect.length > self._max_waiting:
            self._answers.add(_failure(effect.sha, f"the disk is too slow: {self._waiting} bytes wait for it"))
            return
        reader = self._readers.get(effect.sha)
        if reader is None:
            try:
                fd = os.open(self.path(effect.sha), os.O_RDONLY | os.O_CLOEXEC)
            except OSError as e:
                self._answers.add(_failure(effect.sha, f"cannot be read: {e.strerror}"))
                return
            reader = self._readers[effect.sha] = _Reader(effect.sha, fd)
        reader.pending += 1
        self._waiting += effect.length
        self._work.put(lambda: self._fetch(reader, effect))

    def _read_done(self, reader: _Reader) -> None:
        reader.pending -= 1
        if reader.pending:
            return
        os.close(reader.fd)
        if self._readers.get(reader.sha) is reader:
            del self._readers[reader.sha]

    def _keep(self, effect: KeepBlob) -> None:
        """Small bytes are written at once: who is told the path next will find the file."""
        path = self.path(effect.sha)
        if hashlib.sha256(effect.data).digest() != effect.sha:
            self._answers.add(_failure(effect.sha, _MISMATCH))
            return
        if path.exists():
            return
        scratch = self._scratch()
        try:
            with open(scratch, "xb") as f:
                f.write(effect.data)
            os.rename(scratch, path)
        except OSError as e:
            scratch.unlink(missing_ok=True)
            self._answers.add(_failure(effect.sha, f"cannot be written: {e.strerror}"))
            return
        if self._sync:
            self._work.put(lambda: self._settle(effect.sha))

    def _drop(self, sha: bytes) -> None:
        self._abandon(sha)
        self._readers.pop(sha, None)  # reads asked for before are still answered
        trash = self._scratch()
        with suppress(OSError):
            os.rename(self.path(sha), trash)
            self._work.put(lambda: trash.unlink(missing_ok=True))  # takes a while when large

    def _abandon(self, sha: bytes) -> None:
        part = self._parts.pop(sha, None)
        if part is not None:
            with self._lock:
                part.dropped = True
            self._work.put(part.discard)

    def _fail(self, sha: bytes, reason: str) -> None:
        self._abandon(sha)
        self._answers.add(_failure(sha, reason))

    def _scratch(self) -> Path:
        """A new name that is no blob's."""
        self._scratches += 1
        return self.directory / f"host-{self._scratches}.part"

    # -- the thread's side --------------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            with suppress(OSError):  # of removing files: the rest is answered for
                work()

    def _append(self, part: _Part, data: bytes, end: int) -> None:
        event: Event | None = None
        try:
            if not part.failed and not part.dropped:
                if data:
                    part.append(data)
                if part.written == part.size and not part.named:
                    self._finish(part)
                event = ChunkWritten(part.sha, end)
        except Exception as e:  # whatever it is, this blob fails and the thread lives on
            part.failed = True
            part.discard()
            if part.named:  # and yet not known to be on disk
                self.path(part.sha).unlink(missing_ok=True)
            event = BlobFailed(part.sha, _words(e, "written"))
        self._answers.add(_Answer(event, part, len(data)))

    def _finish(self, part: _Part) -> None:
        part.verify(self._sync)
        with self._lock:
            if part.dropped:
                return
            os.rename(part.path, self.path(part.sha))
            part.named = True
        if self._sync:
            self._sync_path(self.directory)

    def _fetch(self, reader: _Reader, effect: ReadChunk) -> None:
        event: Event
        try:
            data = os.pread(reader.fd, effect.length, effect.offset)
            if len(data) != effect.length:
                raise ValueError(f"it ends before {effect.offset + effect.length}")
            event = ChunkRead(effect.sha, effect.offset, data)
        except Exception as e:
            event = BlobFailed(effect.sha, _words(e, "read"))
        self._answers.add(_Answer(event, reader, effect.length))

    def _settle(self, sha: bytes) -> None:
        try:
            self._sync_path(self.path(sha))
            self._sync_path(self.directory)
        except FileNotFoundError:
            pass  # dropped meanwhile
        except OSError as e:
            self._answers.add(_failure(sha, _words(e, "written")))

    @staticmethod
    def _sync_path(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _failure(sha: bytes, reason: str) -> _Answer:
    return _Answer(BlobFailed(sha, reason))


def _words(error: Exception, what: str) -> str:
    if isinstance(error, OSError):
        return f"cannot be {what}: {error.strerror}"
    return str(error) or type(error).__name__


def _wanted(name: str, keep: Container[bytes] | None) -> bool:
    return keep is None or bytes.fromhex(name) in keep


def _is_blob_name(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


# ------------------------------------------------------------------------------------ memory


class Source(Protocol):
    """Bytes that can be sent piece by piece, without one copy of the whole."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


class MemoryBlobs:
    """The same effects in a client: it sends from ``Source`` objects and gathers results in memory.

    ``DropBlob`` forgets the source of that name; where there is none, what came in.
    """

    def __init__(self) -> None:
        self._answers: _Answers[Event] = _Answers()
        self._sources: dict[bytes, Source] = {}
        self._coming: dict[bytes, _Gathered] = {}
        self._whole: dict[bytes, bytearray] = {}

    def put(self, sha: bytes, source: Source) -> None:
        """Serve this blob's bytes, until it is dropped."""
        self._sources[sha] = source

    def take(self, sha: bytes) -> bytearray:
        """The bytes of a blob that has come in whole, given away; ``KeyError`` if it has not."""
        return self._whole.pop(sha)

    def has(self, sha: bytes) -> bool:
        """Whether the blob has come in, whole."""
        return sha in self._whole

    def pollables(self) -> list[int]:
        return [self._answers.bell]

    def drain(self, limit: int) -> tuple[list[Event], bool]:
        self._answers.silence()
        waiting = self._answers.waiting
        events = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
        self._answers.ring_if_any()
        return events, not waiting

    def perform(self, effect: Effect) -> None:
        try:
            match effect:
                case WriteChunk():
                    self._write(effect)
                case ReadChunk():
                    self._read(effect)
                case KeepBlob():
                    if hashlib.sha256(effect.data).digest() != effect.sha:
                        raise ValueError(_MISMATCH)
                    self._whole[effect.sha] = bytearray(effect.data)
                case DropBlob():
                    if self._sources.pop(effect.sha, None) is None:
                        self._coming.pop(effect.sha, None)
                        self._whole.pop(effect.sha, None)
        except Exception as e:  # memory, or the user's own buffer: it ends this blob and no other
            self._coming.pop(effect.sha, None)
            self._answers.add(BlobFailed(effect.sha, str(e) or type(e).__name__))

    def close(self) -> None:
        if self._answers.bell >= 0:
            self._answers.close()
        self._sources.clear()
        self._coming.clear()
        self._whole.clear()

    def _write(self, effect: WriteChunk) -> None:
        coming = self._coming.get(effect.sha)
        if coming is None:
            coming = self._coming[effect.sha] = _Gathered(effect.size)
        through = coming.add(effect)
        if through == coming.size:
            if coming.hash.digest() != effect.sha:
                raise ValueError(_MISMATCH)
            self._whole[effect.sha] = self._coming.pop(effect.sha).data
        self._answers.add(ChunkWritten(effect.sha, through))

    def _read(self, effect: ReadChunk) -> None:
        source = self._sources.get(effect.sha)
        if source is not None:
            data = source.read(effect.offset, effect.length)
        elif effect.sha in self._whole:
            data = bytes(self._whole[effect.sha][effect.offset : effect.offset + effect.length])
        else:
            raise ValueError("is not here")
        if len(data) != effect.length:
            raise ValueError(f"it ends before {effect.offset + effect.length}")
        self._answers.add(ChunkRead(effect.sha, effect.offset, data))


class _Gathered:
    def __init__(self, size: int) -> None:
        self.size, self.written = size, 0
        self.data = bytearray(size)
        self.hash = hashlib.sha256()

    def add(self, chunk: WriteChunk) -> int:
        end = chunk.offset + len(chunk.data)
        if chunk.size != self.size or chunk.offset != self.written or end > self.size:
            raise ValueError(f"a chunk at {chunk.offset} does not fit what came before")
        self.data[chunk.offset : end] = chunk.data
        self.hash.update(chunk.data)
        self.written = end
        return end
