"""Blobs that pass through the coordinator. Rules of this file: a pure book; it opens no blob.

A blob comes in from one peer at a time; another that offers the same waits for it to be whole, and starts
anew should the first one fail. Whoever has handed a blob over keeps it alive until a submission or a result
names it; after that, the jobs and results that name it do.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from cluster import blobs
from cluster.config import MAX_BLOB_BYTES
from cluster.messages import BlobRefused, Chunk, Fetch, Message, Taken
from scheduler.peers import Peer

Word = tuple[Peer, Message]


class Exchange:
    def __init__(self, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        self._max = max_blob_bytes
        self._shelf = blobs.Shelf(spare=0)
        self._from: dict[bytes, Peer] = {}
        self._waiting: dict[bytes, list[Peer]] = {}
        self._readers: dict[tuple[bytes, int], deque[Peer]] = {}
        self.effects: list[Any] = []
        """Of this turn; the coordinator takes them."""
        self.words: list[Word] = []
        """What peers shall be told for what became of others; the coordinator takes them."""

    def __contains__(self, sha: bytes) -> bool:
        return sha in self._shelf

    def restore(self, sha: bytes, size: int, holds: int) -> None:
        """A blob that outlived us, and how many rows name it."""
        for _ in range(holds):
            self._shelf.hold(sha)
        self._shelf.add(sha, size)

    # -- coming in ----------------------------------------------------------------------------------

    def chunk(self, peer: Peer, chunk: Chunk) -> Message | None:
        """Take a chunk; the answer for its sender, if there is one already."""
        sha = chunk.sha
        if not chunk.data:
            self._withdrawn(peer, sha)
            return Taken(sha, 0)
        if sha in self._shelf:
            if chunk.offset:
                return None
            self._handed_over(peer, sha)
            return Taken(sha, self._shelf.size(sha))
        if chunk.size > self._max:
            return BlobRefused(sha, f"{chunk.size} bytes are over the coordinator's limit of {self._max}")
        sender = self._from.setdefault(sha, peer)
        if sender is not peer:
            if peer not in self._waiting.setdefault(sha, []):
                self._waiting[sha].append(peer)
            return None
        answer = peer.incoming.take(chunk, have=False)
        if isinstance(answer, blobs.WriteChunk):
            self.effects.append(answer)
            return None
        if isinstance(answer, BlobRefused):
            self._give_up(peer, sha)
        elif sha not in peer.incoming:
            self._from.pop(sha, None)
        return answer

    def written(self, event: blobs.ChunkWritten) -> list[Word]:
        peer = self._from.get(event.sha)
        word = peer.incoming.written(event) if peer else None
        if peer is None or word is None:
            return []
        taken, whole = word
        if not whole:
            return [(peer, taken)]
        del self._from[event.sha]
        self._shelf.add(event.sha, event.through)
        receivers = [peer, *self._waiting.pop(event.sha, [])]
        for receiver in receivers:
            self._handed_over(receiver, event.sha)
        return [(receiver, Taken(event.sha, event.through)) for receiver in receivers]

    def failed(self, event: blobs.BlobFailed) -> list[Word]:
        """A blob could not be written or read: all who have to do with it are told."""
        self._shelf.forget(event.sha)
        self.effects.append(blobs.DropBlob(event.sha))
        sender = self._from.pop(event.sha, None)
        told = [] if sender is None else [sender]
        if sender is not None:
            sender.incoming.drop(event.sha)
        self._begin_anew(event.sha)
        for key in [k for k in self._readers if k[0] == event.sha]:
            for reader in self._readers.pop(key):
                self.sent(reader, event.sha)
                if reader not in told:
                    told.append(reader)
        return [(peer, BlobRefused(event.sha, event.reason)) for peer in told]

    def _begin_anew(self, sha: bytes) -> None:
        """Nobody sends it any more: those who waited for it shall, the first of them to answer."""
        self.words += [(peer, Taken(sha, 0)) for peer in self._waiting.pop(sha, [])]

    def _withdrawn(self, peer: Peer, sha: bytes) -> None:
        self.unneeded(peer, sha)
        if self._from.get(sha) is peer:
            self._give_up(peer, sha)
        elif peer in self._waiting.get(sha, []):
            self._waiting[sha].remove(peer)

    def _give_up(self, peer: Peer, sha: bytes) -> None:
        """Forget what the peer has sent of it."""
        del self._from[sha]
        peer.incoming.drop(sha)
        self.effects.append(blobs.DropBlob(sha))
        self._begin_anew(sha)

    def relieve(self, heard_before: float) -> None:
        """Who waits for a blob from a peer that is silent shall send it itself."""
        for sha in [s for s, waiting in self._waiting.items() if waiting]:
            sender = self._from[sha]
            if sender.heard_at < heard_before:
                self._give_up(sender, sha)
                self.words.append((sender, Taken(sha, 0)))

    def _handed_over(self, peer: Peer, sha: bytes) -> None:
        if sha not in peer.uploaded:
            peer.uploaded.add(sha)
            self._shelf.hold(sha)

    # -- needed -------------------------------------------------------------------------------------

    def named(self, peer: Peer, sha: bytes) -> None:
        """A job or a result has named the blob: its own hold takes the place of the sender's."""
        self._shelf.hold(sha)
        if sha in peer.uploaded:
            peer.uploaded.discard(sha)
            self.release(sha)

    def unneeded(self, peer: Peer, sha: bytes) -> None:
        """The peer handed it over for something that was known already."""
        if sha in peer.uploaded:
            peer.uploaded.discard(sha)
            self.release(sha)

    def size(self, sha: bytes) -> int:
        return self._shelf.size(sha)

    def hold(self, sha: bytes) -> None:
        self._shelf.hold(sha)

    def release(self, sha: bytes) -> None:
        self.effects += self._shelf.release(sha)

    # -- going out ----------------------------------------------------------------------------------

    def fetch(self, peer: Peer, message: Fetch) -> Message | None:
        sha = message.sha
        if sha not in self._shelf:
            return BlobRefused(sha, "the coordinator does not have it")
        if sha not in peer.outgoing:
            self._shelf.hold(sha)  # until it is sent, so that nothing is read of a blob that is gone
        peer.outgoing.fetch(sha, self._shelf.size(sha))
        return None

    def taken(self, peer: Peer, message: Taken) -> bool:
        """Note the peer's word; True if it has the blob whole."""
        whole = peer.outgoing.taken(message, peer.link.acked)
        if whole:
            self.release(message.sha)
        return whole

    def sent(self, peer: Peer, sha: bytes) -> None:
        """The peer has the blob, or does not want it, or cannot get it."""
        if sha in peer.outgoing:
            peer.outgoing.drop(sha)
            self.release(sha)

    def read(self, event: blobs.ChunkRead) -> list[Word]:
        readers = self._readers.get((event.sha, event.offset))
        if not readers:
            return []
        peer = readers.popleft()
        if not readers:
            del self._readers[event.sha, event.offset]
        chunk = peer.outgoing.chunk(event, peer.link.sent + 1)
        return [] if chunk is None else [(peer, chunk)]

    def duties(self, peer: Peer) -> None:
        """Have read what the peer's credit allows."""
        for duty in peer.outgoing.duties():
            self._readers.setdefault((duty.sha, duty.offset), deque()).append(peer)
            self.effects.append(duty)

    # -- ending -------------------------------------------------------------------------------------

    def forget(self, peer: Peer) -> None:
        """The peer is gone for good: what it had begun is given up, what it alone kept is released."""
        for waiting in self._waiting.values():
            if peer in waiting:
                waiting.remove(peer)
        for sha in [s for s, p in self._from.items() if p is peer]:
            self._give_up(peer, sha)
        for sha in peer.outgoing.clear():
            self.release(sha)
        for sha in list(peer.uploaded):
            peer.uploaded.discard(sha)
            self.release(sha)
