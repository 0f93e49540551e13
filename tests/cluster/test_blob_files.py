"""Blobs on disk and in memory: what goes in comes out, and what does not match or fit never appears."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.blob_files import BlobFiles, MemoryBlobs
from cluster.blobs import BlobFailed, ChunkRead, ChunkWritten, DropBlob, KeepBlob, ReadChunk, WriteChunk
from cluster.errors import ConfigError

WAIT_S = 20.0
DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).digest()
CHUNK = 4096
Store = BlobFiles | MemoryBlobs


def chunks(data: bytes = DATA, sha: bytes = SHA) -> list[WriteChunk]:
    return [WriteChunk(sha, len(data), at, data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)]


WRITTEN = [ChunkWritten(SHA, through) for through in (4096, 8192, len(DATA))]


def answers(store: Store, n: int) -> list[Any]:
    """The next ``n`` answers, waited for by polling, and that there are no more."""
    out: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while len(out) < n:
        ready, _, _ = select.select(store.pollables(), [], [], deadline - time.monotonic())
        assert ready, f"only {out}"
        out += store.drain(100)[0]
    assert store.drain(100) == ([], True)
    assert len(out) == n
    return out


def quiet(store: BlobFiles) -> None:
    """All that was asked for is done, as the answer to a last question shows; nothing else was answered."""
    store.perform(ReadChunk(bytes(32), 0, 1))
    store.perform(KeepBlob(EMPTY, b""))
    store.perform(ReadChunk(EMPTY, 0, 0))
    assert answers(store, 2) == [
        BlobFailed(bytes(32), "cannot be read: No such file or directory"),
        ChunkRead(EMPTY, 0, b""),
    ]


EMPTY = hashlib.sha256(b"").digest()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[BlobFiles]:
    store = BlobFiles(tmp_path / "blobs")
    yield store
    store.close()


@pytest.fixture
def memory() -> Iterator[MemoryBlobs]:
    store = MemoryBlobs()
    yield store
    store.close()


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def listing(store: BlobFiles) -> set[str]:
    return set(os.listdir(store.directory))


# ------------------------------------------------------------------------------------ both


def test_what_is_written_in_chunks_is_read_back(store: Store) -> None:
    assert not store.has(SHA)
    for chunk in chunks():
        store.perform(chunk)
    assert answers(store, 3) == WRITTEN
    assert store.has(SHA)
    store.perform(ReadChunk(SHA, 0, CHUNK))
    store.perform(ReadChunk(SHA, 5000, 5000))
    assert answers(store, 2) == [ChunkRead(SHA, 0, DATA[:CHUNK]), ChunkRead(SHA, 5000, DATA[5000:10000])]


def test_bytes_that_do_not_match_their_hash_fail_and_leave_nothing(store: Store) -> None:
    wrong = hashlib.sha256(b"other").digest()
    for chunk in chunks(sha=wrong):
        store.perform(chunk)
    assert answers(store, 3)[-1] == BlobFailed(wrong, "the bytes do not match their hash")
    assert not store.has(wrong)
    for chunk in chunks():
        store.perform(chunk)
    assert answers(store, 3) == WRITTEN


def test_a_kept_blob_is_there_at_once_and_answered_only_if_it_fails(store: Store) -> None:
    store.perform(KeepBlob(SHA, DATA))
    assert store.has(SHA)
    store.perform(KeepBlob(SHA, DATA))
    store.perform(KeepBlob(EMPTY, b"not empty"))
    assert answers(store, 1) == [BlobFailed(EMPTY, "the bytes do not match their hash")]
    assert not store.has(EMPTY)


def test_reading_what_is_not_there_fails(store: Store) -> None:
    store.perform(ReadChunk(SHA, 0, 1))
    assert type(answers(store, 1)[0]) is BlobFailed
    store.perform(KeepBlob(SHA, DATA))
    store.perform(ReadChunk(SHA, len(DATA) - 1, 2))
    assert answers(store, 1) == [BlobFailed(SHA, f"it ends before {len(DATA) + 1}")]


def test_a_chunk_out_of_order_fails_the_blob(store: Store) -> None:
    first, second, third = chunks()
    for wrong in (third, WriteChunk(SHA, 5000, CHUNK, second.data), WriteChunk(SHA, 99, CHUNK, b"x")):
        store.perform(first)
        assert answers(store, 1) == [ChunkWritten(SHA, CHUNK)]
        store.perform(wrong)
        (failed,) = answers(store, 1)
        assert type(failed) is BlobFailed and "does not fit what came before" in failed.reason
    store.perform(second)
    assert type(answers(store, 1)[0]) is BlobFailed
    assert not store.has(SHA)


def test_a_dropped_blob_is_gone_and_can_come_again(store: Store) -> None:
    store.perform(KeepBlob(SHA, DATA))
    store.perform(DropBlob(SHA))
    assert not store.has(SHA)
    store.perform(DropBlob(SHA))
    for chunk in chunks():
        store.perform(chunk)
    assert answers(store, 3) == WRITTEN


def test_drain_takes_no_more_than_asked_and_stays_pollable(store: Store) -> None:
    for chunk in chunks():
        store.perform(chunk)
    got: list[Any] = []
    while len(got) < 3:
        assert select.select(store.pollables(), [], [], WAIT_S)[0]
        events, emptied = store.drain(1)
        assert len(events) <= 1
        got += events
    assert got == WRITTEN
    assert store.drain(1) == ([], True) and emptied
    assert not select.select(store.pollables(), [], [], 0)[0]


# ------------------------------------------------------------------------------------ files


def test_files_are_private_and_named_by_hash_only_when_whole(files: BlobFiles) -> None:
    first, *others = chunks()
    files.perform(first)
    answers(files, 1)
    assert SHA.hex() not in listing(files) and len(listing(files)) == 1
    for chunk in others:
        files.perform(chunk)
    answers(files, 2)
    assert listing(files) == {SHA.hex()} and files.path(SHA).read_bytes() == DATA
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(files.path(SHA).stat().st_mode) == 0o600


def test_a_blob_that_another_process_put_there_is_served(files: BlobFiles) -> None:
    files.path(SHA).write_bytes(DATA)
    assert files.has(SHA)
    files.perform(ReadChunk(SHA, 0, 4))
    assert answers(files, 1) == [ChunkRead(SHA, 0, DATA[:4])]


def test_two_peers_sending_the_same_blob_complete_it_together(files: BlobFiles) -> None:
    first, second, third = chunks()
    for chunk in (first, first, second, second, third, third):
        files.perform(chunk)
    assert answers(files, 6) == [w for w in WRITTEN for _ in range(2)]
    files.perform(first)
    assert answers(files, 1) == [WRITTEN[-1]]
    assert files.path(SHA).read_bytes() == DATA
    assert listing(files) == {SHA.hex()}


def test_dropping_while_writing_brings_nothing_back(files: BlobFiles) -> None:
    for _ in range(50):
        for chunk in chunks():
            files.perform(chunk)
        files.perform(DropBlob(SHA))
        assert not files.has(SHA)
    files.perform(KeepBlob(SHA, DATA))
    files.perform(DropBlob(SHA))
    quiet(files)
    assert listing(files) == {EMPTY.hex()}


def test_dropping_and_writing_anew_answers_for_the_new_one_only(files: BlobFiles) -> None:
    for chunk in chunks():
        files.perform(chunk)
    files.perform(DropBlob(SHA))
    for chunk in chunks():
        files.perform(chunk)
    assert answers(files, 3) == WRITTEN
    assert files.path(SHA).read_bytes() == DATA


def test_reads_asked_for_before_a_drop_are_still_answered(files: BlobFiles) -> None:
    files.perform(KeepBlob(SHA, DATA))
    files.perform(ReadChunk(SHA, 0, 4))
    files.perform(DropBlob(SHA))
    files.perform(ReadChunk(SHA, 0, 4))
    read, failed = sorted(answers(files, 2), key=lambda e: type(e).__name__, reverse=True)
    assert read == ChunkRead(SHA, 0, DATA[:4]) and type(failed) is BlobFailed


def test_a_start_keeps_whole_blobs_only_and_clear_keeps_none(tmp_path: Path) -> None:
    (tmp_path / SHA.hex()).write_bytes(DATA)
    (tmp_path / "host-1.part").write_bytes(b"half")
    (tmp_path / "directory").mkdir()
    first = BlobFiles(tmp_path)
    first.close()
    assert listing(first) == {SHA.hex(), "directory"} and first.has(SHA)
    BlobFiles(tmp_path, keep=()).close()
    assert listing(first) == {"directory"}


def test_a_directory_that_cannot_be_had_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot keep blobs in .*file"):
        BlobFiles(tmp_path / "file")


def disk_full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_fails_the_blob_in_words_and_only_once(
    files: BlobFiles, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, call, disk_full)
        for chunk in chunks():
            files.perform(chunk)
        got = answers(files, 1 if call == "write" else 3)
    assert got[-1] == BlobFailed(SHA, "cannot be written: No space left on device")
    assert not files.has(SHA) and listing(files) == set()
    for chunk in chunks():
        files.perform(chunk)
    assert answers(files, 3) == WRITTEN


def test_a_blob_whose_name_is_not_known_to_be_on_disk_is_removed(
    files: BlobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fails_on_directories(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fails_on_directories)
    for chunk in chunks():
        files.perform(chunk)
    assert answers(files, 3)[-1] == BlobFailed(SHA, "cannot be written: Input/output error")
    assert listing(files) == set()


@pytest.mark.parametrize("sync", [True, False])
def test_whole_means_synced_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    store = BlobFiles(tmp_path / "blobs", sync=sync)
    for chunk in chunks():
        store.perform(chunk)
    assert answers(store, 3) == WRITTEN
    assert synced == (["host-1.part", "blobs"] if sync else [])
    store.perform(KeepBlob(EMPTY, b""))
    store.close()
    assert synced[2:] == ([EMPTY.hex(), "blobs"] if sync else [])


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    store = BlobFiles(tmp_path, max_waiting_bytes=CHUNK)
    first, second, third = chunks()
    store.perform(first)
    assert answers(store, 1) == [ChunkWritten(SHA, CHUNK)]  # and its bytes wait no more
    store.perform(second)
    assert answers(store, 1) == [ChunkWritten(SHA, 2 * CHUNK)]
    store.perform(WriteChunk(SHA, len(DATA), 2 * CHUNK, third.data[:1]))
    store.perform(ReadChunk(SHA, 0, CHUNK))
    assert BlobFailed(SHA, "the disk is too slow: 1 bytes wait for it") in answers(store, 2)
    store.close()


def test_close_finishes_what_was_asked_for_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = BlobFiles(tmp_path)
    for chunk in chunks():
        store.perform(chunk)
    store.perform(WriteChunk(EMPTY, 9, 0, b"half"))
    store.close()
    store.close()
    assert listing(store) == {SHA.hex()}
    store = BlobFiles(tmp_path)
    store.perform(ReadChunk(SHA, 0, 4))
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------ memory


class Text:
    """A source that counts what is read of it."""

    def __init__(self, data: bytes, spoil: Callable[[], None] = lambda: None) -> None:
        self.data, self.size, self.reads, self._spoil = data, len(data), 0, spoil

    def read(self, offset: int, length: int) -> bytes:
        self._spoil()
        self.reads += length
        return self.data[offset : offset + length]


def test_a_source_is_served_piece_by_piece_until_it_is_dropped(memory: MemoryBlobs) -> None:
    source = Text(DATA)
    memory.put(SHA, source)
    assert not memory.has(SHA)
    memory.perform(ReadChunk(SHA, 8192, 100))
    assert answers(memory, 1) == [ChunkRead(SHA, 8192, DATA[8192:8292])]
    assert source.reads == 100
    memory.perform(DropBlob(SHA))
    memory.perform(ReadChunk(SHA, 0, 1))
    assert answers(memory, 1) == [BlobFailed(SHA, "is not here")]


def test_what_came_in_is_taken_once_and_survives_a_drop_of_the_source(memory: MemoryBlobs) -> None:
    memory.put(SHA, Text(DATA))
    for chunk in chunks():
        memory.perform(chunk)
    answers(memory, 3)
    memory.perform(DropBlob(SHA))
    taken = memory.take(SHA)
    assert type(taken) is bytearray and taken == DATA
    assert not memory.has(SHA)
    with pytest.raises(KeyError):
        memory.take(SHA)


def test_a_source_that_fails_ends_its_blob_only(memory: MemoryBlobs) -> None:
    def broken() -> None:
        raise RuntimeError("the buffer was closed")

    memory.put(SHA, Text(DATA, broken))
    memory.perform(ReadChunk(SHA, 0, 1))
    assert answers(memory, 1) == [BlobFailed(SHA, "the buffer was closed")]
