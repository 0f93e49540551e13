"""Blobs in transit: delivered whatever is lost or restarted; and what is kept, against a model."""

from __future__ import annotations

from collections import deque
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster import blobs
from cluster.blobs import ChunkRead, ChunkWritten, DropBlob, Incoming, Outgoing, ReadChunk, Shelf, WriteChunk
from cluster.config import BLOBS_IN_FLIGHT
from cluster.messages import BlobRefused, Chunk, Message, Taken

CHUNK = 4
"""The tests' own, so that small blobs have many."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(blobs, "CHUNKS_IN_FLIGHT", 3)


def name(n: int) -> bytes:
    return bytes([n]) * 32


class Transfer:
    """A sender and a receiver, a wire that keeps order and is cut now and then, and two slow disks."""

    def __init__(self, files: dict[bytes, bytes]) -> None:
        self.files = files
        self.out = Outgoing()
        self.into = Incoming(1 << 20)
        self.whole: dict[bytes, bytes] = {}
        self.parts: dict[bytes, bytes] = {}
        self.delivered: set[bytes] = set()
        self.reads: deque[ReadChunk] = deque()
        self.writes: deque[WriteChunk] = deque()
        self.there: deque[Message] = deque()
        self.back: deque[Message] = deque()
        for sha, data in files.items():
            self.out.send(sha, len(data))

    def step(self, what: str) -> bool:
        """Whether there was anything to do."""
        self.reads += self.out.duties()
        if what == "read" and self.reads:
            r = self.reads.popleft()
            chunk = self.out.chunk(ChunkRead(r.sha, r.offset, self.files[r.sha][r.offset : r.offset + r.length]))
            if chunk is not None:
                self.there.append(chunk)
        elif what == "chunk" and self.there:
            self._chunk(self.there.popleft())
        elif what == "write" and self.writes:
            self._write(self.writes.popleft())
        elif what == "word" and self.back:
            word = self.back.popleft()
            assert isinstance(word, Taken), word
            if self.out.taken(word):
                assert self.whole[word.sha] == self.files[word.sha]
                self.delivered.add(word.sha)
        else:
            return False
        return True

    def _chunk(self, message: Message) -> None:
        assert isinstance(message, Chunk)
        if not message.data:
            self.into.drop(message.sha)
            self.parts.pop(message.sha, None)
            self.writes = deque(w for w in self.writes if w.sha != message.sha)
            self.back.append(Taken(message.sha, 0))
            return
        answer = self.into.take(message, have=message.sha in self.whole)
        if isinstance(answer, WriteChunk):
            self.writes.append(answer)
        elif answer is not None:
            self.back.append(answer)

    def _write(self, w: WriteChunk) -> None:
        part = self.parts.get(w.sha, b"")
        assert w.offset == len(part), "chunks are written once and in order"
        part += w.data
        self.parts[w.sha] = part
        word = self.into.written(ChunkWritten(w.sha, len(part)))
        assert word is not None
        if word[1]:
            self.whole[w.sha] = self.parts.pop(w.sha)
        self.back.append(word[0])

    def cut(self) -> None:
        """A new link: what was under way is lost."""
        self.there.clear()
        self.back.clear()
        self.there += self.out.restart()

    def crash(self) -> None:
        """The receiver starts anew with nothing."""
        self.into = Incoming(1 << 20)
        self.whole.clear()
        self.parts.clear()
        self.writes.clear()
        self.cut()

    def settle(self) -> None:
        while sum(self.step(what) for what in ("read", "chunk", "write", "word")):
            pass


steps = st.lists(st.sampled_from(["read", "chunk", "write", "word"] * 4 + ["cut", "crash"]), max_size=120)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 60), min_size=1, max_size=BLOBS_IN_FLIGHT + 3), steps)
def test_every_blob_is_delivered_over_any_number_of_links_and_lives(sizes: list[int], steps: list[str]) -> None:
    files = {name(n): bytes(range(n, n + 200))[:size] for n, size in enumerate(sizes)}
    t = Transfer(files)
    for step in steps:
        if step == "cut":
            t.cut()
        elif step == "crash":
            t.crash()
        else:
            t.step(step)
    t.settle()
    assert t.delivered == set(files)
    assert not t.out and not list(t.into) and not t.parts


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.integers(0, 40))
def test_a_withdrawn_blob_leaves_nothing_behind(steps: list[str], when: int) -> None:
    t = Transfer({name(1): bytes(50), name(2): bytes(30)})
    for n, step in enumerate(steps[:when]):
        (t.cut if step in ("cut", "crash") else lambda s=step: t.step(s))()
        assert n < 120
    if name(1) not in t.delivered:
        t.there.append(t.out.withdraw(name(1)))
        for step in steps[when:]:
            (t.cut if step in ("cut", "crash") else lambda s=step: t.step(s))()
        t.settle()
        assert name(1) not in t.into and name(1) not in t.parts and name(1) not in t.out
    t.settle()
    assert name(2) in t.delivered


def test_a_withdrawal_is_said_again_on_a_new_link_until_it_is_answered() -> None:
    out = Outgoing()
    out.send(name(1), 10)
    out.duties()
    assert out.withdraw(name(1)) == Chunk(name(1), 0, 0, b"")
    assert out.restart() == [Chunk(name(1), 0, 0, b"")]
    out.taken(Taken(name(1), 0))
    assert out.restart() == []
    out.withdraw(name(1))
    out.send(name(1), 10)
    assert out.duties() == [], "a new offer waits for the answer"
    for word in out.restart():
        out.taken(Taken(word.sha, 0))
    assert out.duties()[0] == ReadChunk(name(1), 0, CHUNK)


def test_no_more_than_the_credit_is_sent_ahead_and_few_blobs_at_once() -> None:
    out = Outgoing()
    for n in range(BLOBS_IN_FLIGHT + 2):
        out.send(name(n), 100)
    duties = out.duties()
    assert duties == [ReadChunk(name(n), 0, CHUNK) for n in range(BLOBS_IN_FLIGHT)], "the first chunk goes alone"
    assert out.duties() == []
    out.taken(Taken(name(0), CHUNK))
    assert out.duties() == [ReadChunk(name(0), n * CHUNK, CHUNK) for n in (1, 2, 3)]
    out.taken(Taken(name(0), 2 * CHUNK))
    assert out.duties() == [ReadChunk(name(0), 4 * CHUNK, CHUNK)]
    out.taken(Taken(name(0), 100))
    assert {d.sha for d in out.duties()} == {name(BLOBS_IN_FLIGHT)}


def test_the_last_chunk_is_as_long_as_what_is_left() -> None:
    out = Outgoing()
    out.send(name(1), CHUNK + 1)
    assert [d.length for d in out.duties()] == [CHUNK]
    out.taken(Taken(name(1), CHUNK))
    assert [d.length for d in out.duties()] == [1]


def test_a_word_on_a_blob_that_is_not_sent_means_nothing() -> None:
    out = Outgoing()
    assert out.taken(Taken(name(1), 10)) is False and out.chunk(ChunkRead(name(1), 0, b"x")) is None


def test_clearing_names_all_that_was_to_be_sent() -> None:
    out = Outgoing()
    for n in range(BLOBS_IN_FLIGHT + 1):
        out.send(name(n), 100)
    out.duties()
    assert sorted(out.clear()) == [name(n) for n in range(BLOBS_IN_FLIGHT + 1)] and not out


@pytest.mark.parametrize(
    ("chunk", "word"),
    [
        (Chunk(name(1), 101, 0, b"x"), "over the limit of 100"),
        (Chunk(name(1), 2, 0, b"xyz"), "does not fit"),
        (Chunk(name(1), 2, 0, b""), "does not fit"),
    ],
)
def test_what_cannot_be_a_blob_is_refused(chunk: Chunk, word: str) -> None:
    answer = Incoming(100).take(chunk, have=False)
    assert isinstance(answer, BlobRefused) and word in answer.reason


def test_a_receiver_bounds_what_comes_at_once() -> None:
    into = Incoming(100)
    for n in range(2 * BLOBS_IN_FLIGHT):
        assert isinstance(into.take(Chunk(name(n), 2, 0, b"x"), have=False), WriteChunk)
    assert isinstance(into.take(Chunk(name(99), 2, 0, b"x"), have=False), BlobRefused)
    assert into.drop(name(0)) and not into.drop(name(0))
    assert isinstance(into.take(Chunk(name(99), 2, 0, b"x"), have=False), WriteChunk)


def test_a_receiver_that_has_it_says_so_at_the_first_chunk_alone() -> None:
    into = Incoming(100)
    assert into.take(Chunk(name(1), 8, 0, b"abcd"), have=True) == Taken(name(1), 8)
    assert into.take(Chunk(name(1), 8, 4, b"efgh"), have=True) is None
    assert into.written(ChunkWritten(name(1), 4)) is None


# ------------------------------------------------------------------------------------ what is kept


class ShelfAgainstModel(RuleBasedStateMachine):
    """The model: which are stored, who holds them, and in which order the rest became idle."""

    def __init__(self) -> None:
        super().__init__()
        self.shelf = Shelf(spare=2, spare_bytes=25)
        self.refs: dict[bytes, int] = {}
        self.stored: dict[bytes, int] = {}

    shas = st.integers(0, 5).map(name)

    @rule(sha=shas)
    def add(self, sha: bytes) -> None:
        self.shelf.add(sha, 5 + sha[0])
        self.stored.setdefault(sha, 5 + sha[0])

    @rule(sha=shas)
    def hold(self, sha: bytes) -> None:
        self.shelf.hold(sha)
        self.refs[sha] = self.refs.get(sha, 0) + 1

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        sha = data.draw(st.sampled_from(sorted(self.refs)))
        self.refs[sha] -= 1
        if not self.refs[sha]:
            del self.refs[sha]
        for drop in self.shelf.release(sha):
            assert isinstance(drop, DropBlob) and drop.sha not in self.refs, "nothing that is needed is dropped"
            del self.stored[drop.sha]
        if sha not in self.refs and sha in self.stored:
            idle = [s for s in self.stored if s not in self.refs]
            assert len(idle) <= 2 and sum(self.stored[s] for s in idle) <= 25

    @rule(sha=shas)
    def forget(self, sha: bytes) -> None:
        self.shelf.forget(sha)
        self.stored.pop(sha, None)

    @invariant()
    def it_knows_what_is_stored(self) -> None:
        assert len(self.shelf) == len(self.stored)
        for sha, size in self.stored.items():
            assert sha in self.shelf and self.shelf.size(sha) == size
        assert self.shelf._idle_bytes == sum(self.stored[s] for s in self.stored if s not in self.refs)


ShelfAgainstModel.TestCase.settings = settings(max_examples=150, deadline=None)
TestShelf = ShelfAgainstModel.TestCase


def test_the_oldest_spare_goes_first_and_use_makes_it_young() -> None:
    shelf = Shelf(spare=2, spare_bytes=1_000)

    def use(n: int) -> list[Any]:
        shelf.add(name(n), 10)
        shelf.hold(name(n))
        return shelf.release(name(n))

    assert use(1) == use(2) == use(1) == []
    assert use(3) == [DropBlob(name(2))]


def test_a_hold_may_come_before_the_blob() -> None:
    shelf = Shelf(spare=0)
    shelf.hold(name(1))
    shelf.add(name(1), 10)
    assert name(1) in shelf
    assert shelf.release(name(1)) == [DropBlob(name(1))]
    shelf.hold(name(2))
    assert shelf.release(name(2)) == []
