"""The exchange: many peers, the same blobs, any order of events; nothing needed is dropped, nothing else is kept."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster import blobs
from cluster.actor import LOCAL
from cluster.messages import BlobRefused, Chunk, Fetch, Taken
from cluster.session import Link
from scheduler.exchange import Exchange
from scheduler.peers import Peer
from tests.playbook import Disk, sha_of

FILES = {sha_of(data): data for data in (b"a" * 5, b"b" * 8, b"c" * 12)}


def make(n: int) -> Peer:
    return Peer(bytes([n]) * 8, LOCAL, b"", Link(1), 0.0)


class ExchangeOfThree(RuleBasedStateMachine):
    """Three peers that offer, name and fetch; a disk that answers when it likes."""

    shas = st.sampled_from(sorted(FILES))
    who = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.exchange = Exchange()
        self.disk = Disk()
        self.peers = [make(n) for n in range(3)]
        self.answers: list[Any] = []
        self.sent: dict[tuple[int, bytes], int] = {}
        """How far each peer has sent each blob it offers."""
        self.has: set[tuple[int, bytes]] = set()
        """Blobs a peer was told to be there, and may name."""
        self.jobs: list[bytes] = []
        self.fetched: dict[tuple[int, bytes], bytes] = {}

    # -- the wire ---------------------------------------------------------------------------------

    def hears(self, peer: Peer, message: Any) -> None:
        n = self.peers.index(peer) if peer in self.peers else None
        if n is None or message is None:
            return
        key = (n, message.sha)
        match message:
            case Taken(sha, 0):
                if key in self.sent:
                    self.sent[key] = 0
            case Taken(sha, through) if through == len(FILES[sha]):
                if self.sent.pop(key, None) is not None:
                    self.has.add(key)
            case BlobRefused():
                self.sent.pop(key, None)
                self.fetched.pop(key, None)
            case Chunk(sha, size, offset, data):
                if key in self.fetched and offset == len(self.fetched[key]):
                    self.fetched[key] += data
                    got = self.fetched[key]
                    if len(got) == size:
                        assert got == FILES[sha]
                        del self.fetched[key]
                    self.exchange.taken(peer, Taken(sha, len(got)))

    def perform(self) -> None:
        while self.exchange.words or self.exchange.effects:
            words, self.exchange.words = self.exchange.words, []
            effects, self.exchange.effects = self.exchange.effects, []
            for effect in effects:
                if isinstance(effect, blobs.DropBlob):  # writes of a dropped blob go unanswered
                    unanswered = (effect.sha, blobs.ChunkWritten)
                    self.answers = [a for a in self.answers if (a.sha, type(a)) != unanswered]
                self.answers += self.disk.perform(effect)
            for peer, message in words:
                self.hears(peer, message)

    # -- what happens -----------------------------------------------------------------------------

    @rule(n=who, sha=shas)
    def offer(self, n: int, sha: bytes) -> None:
        if (n, sha) not in self.has:
            self.sent.setdefault((n, sha), 0)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_a_chunk(self, data: st.DataObject) -> None:
        n, sha = data.draw(st.sampled_from(sorted(self.sent)))
        at = self.sent[n, sha]
        piece = FILES[sha][at : at + 4]
        if piece:
            self.sent[n, sha] = at + len(piece)
            answer = self.exchange.chunk(self.peers[n], Chunk(sha, len(FILES[sha]), at, piece))
            self.hears(self.peers[n], answer)
            self.perform()

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        n, sha = data.draw(st.sampled_from(sorted(self.sent)))
        del self.sent[n, sha]
        assert self.exchange.chunk(self.peers[n], Chunk(sha, 0, 0, b"")) == Taken(sha, 0)
        self.perform()

    @precondition(lambda self: self.has)
    @rule(data=st.data())
    def name(self, data: st.DataObject) -> None:
        n, sha = data.draw(st.sampled_from(sorted(self.has)))
        self.has.discard((n, sha))
        assert sha in self.exchange, "what a peer was told to be there is there when it names it"
        self.exchange.named(self.peers[n], sha)
        self.jobs.append(sha)
        self.perform()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def end_a_job(self, data: st.DataObject) -> None:
        sha = data.draw(st.sampled_from(self.jobs))
        self.jobs.remove(sha)
        self.exchange.release(sha)
        self.perform()

    @rule(n=who, sha=shas)
    def fetch(self, n: int, sha: bytes) -> None:
        self.fetched[n, sha] = b""
        answer = self.exchange.fetch(self.peers[n], Fetch(sha, len(FILES[sha])))
        self.hears(self.peers[n], answer)
        self.exchange.duties(self.peers[n])
        self.perform()

    @precondition(lambda self: self.answers)
    @rule()
    def disk_answers(self) -> None:
        event = self.answers.pop(0)
        if isinstance(event, blobs.ChunkWritten):
            words = self.exchange.written(event)
        elif isinstance(event, blobs.ChunkRead):
            words = self.exchange.read(event)
        else:
            words = self.exchange.failed(event)
        for peer, message in words:
            self.hears(peer, message)
            self.exchange.duties(peer)
        self.perform()

    @rule(n=who)
    def leave(self, n: int) -> None:
        self.exchange.forget(self.peers[n])
        self.peers[n] = make(n)
        for book in (self.sent, self.fetched):
            for key in [k for k in book if k[0] == n]:
                del book[key]
        self.has = {k for k in self.has if k[0] != n}
        self.perform()

    @invariant()
    def what_jobs_need_is_kept(self) -> None:
        for sha in self.jobs:
            assert sha in self.exchange and self.disk.blobs[sha] == FILES[sha]

    def teardown(self) -> None:
        for n in range(3):
            self.leave(n)
        while self.answers:
            self.disk_answers()
        while self.jobs:
            self.exchange.release(self.jobs.pop())
        self.perform()
        assert not self.disk.blobs and not self.disk.parts and not self.exchange._shelf._refs
        assert not any(self.exchange._waiting.values()) and not self.exchange._from


ExchangeOfThree.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestExchange = ExchangeOfThree.TestCase


def test_a_chunk_from_the_middle_of_an_unknown_blob_is_dropped() -> None:
    exchange, peer = Exchange(), make(1)
    assert exchange.chunk(peer, Chunk(bytes(32), 10, 5, b"x")) is None
    assert not exchange._from and not exchange.effects


@pytest.mark.parametrize("size", [101, 1 << 40])
def test_a_blob_over_the_limit_is_refused_and_leaves_no_trace(size: int) -> None:
    exchange, peer = Exchange(max_blob_bytes=100), make(1)
    assert isinstance(exchange.chunk(peer, Chunk(bytes(32), size, 0, b"x")), BlobRefused)
    assert not exchange._from and not exchange.effects
