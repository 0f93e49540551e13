"""The client's actor: hands jobs in, waits for outcomes. Rules of this file: pure; it knows no future and no pickle.

An entry is *unsent*, then *sent*, then *accepted*, and open until it is settled. Acceptance is one rising
counter. What is not accepted when a link breaks is sent again on the next; the coordinator recognises it.
Counters may have holes: an entry cancelled before it was sent never existed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster import blobs
from cluster.actor import (
    Connected,
    Disconnected,
    Drained,
    Garbled,
    Now,
    Received,
    Rejected,
    Stalled,
    Stop,
    Turn,
)
from cluster.config import BATCH_BYTES, INLINE_BYTES, MAX_BATCH, PROTOCOL, ClientLimits
from cluster.facts import fact
from cluster.ids import counter_of, job_id
from cluster.jobs import Failure, Outcome
from cluster.messages import (
    Accepted,
    Answer,
    Ask,
    Awaiting,
    BlobRefused,
    Bye,
    Cancel,
    Chunk,
    ClientHello,
    Fetch,
    GoOn,
    Hold,
    Message,
    NotCancelled,
    Pulse,
    Refusal,
    Results,
    Submit,
    Taken,
    Waiting,
    Watch,
    Welcome,
)
from cluster.session import Dialer

MAX_WAITS = 1_000
"""Waits that were told and are remembered, so that they are told once."""

IDLE_BEATS = 5
"""A client that waits for nothing shows itself so many times less often."""


class Entry(NamedTuple):
    """One job on its way to the coordinator."""

    counter: int
    spec: bytes
    payload: bytes
    large: tuple[bytes, int] | None = None
    """SHA-256 and size of a payload that travels as a blob; the host can read it."""
    code: tuple[bytes, bytes] | None = None
    """SHA-256 and bytes of a function by value; a blob too when over the inline limit."""
    durable: bool = True
    """Whether the job outlives the coordinator."""
    block: bool = True
    """Whether it waits while the coordinator takes nothing; else it fails then."""
    summary: str = ""
    """Its arguments, for people."""
    about: bytes = b""
    """``jobs.About`` of this one job; empty for most."""
    watch: bytes = b""
    """Id of a job that is there already and whose outcome is wanted; there is nothing to hand in then."""


# ------------------------------------------------------------------------------------ events


@dataclass(slots=True)
class Offered:
    """Jobs the user has submitted, in the order of their counters."""

    entries: list[Entry]


@dataclass(slots=True)
class CancelWished:
    counters: list[int]


@dataclass(slots=True)
class Asked:
    ask: int
    topic: str
    about: dict[str, Any]


@dataclass(slots=True)
class LeaveWished:
    """The user is done with this session."""

    reason: str


# ------------------------------------------------------------------------------------ effects


class Settled(NamedTuple):
    """Outcome of one job. Where ``large`` is set, its bytes are a blob the host has received."""

    counter: int
    outcome: int
    payload: bytes
    large: tuple[bytes, int] | None = None


@dataclass(slots=True)
class Settle:
    rows: list[Settled]


@dataclass(slots=True)
class Acknowledge:
    """All jobs up to and including this counter are accepted, or settled."""

    through: int


@dataclass(slots=True)
class Held:
    """The coordinator takes nothing for now, for this reason; empty: it does again."""

    reason: str


@dataclass(slots=True)
class CancelDenied:
    """These run already, or are done: they will end by themselves."""

    counters: list[int]


@dataclass(slots=True)
class Answered:
    ask: int
    error: str
    body: dict[str, Any]


@dataclass(slots=True)
class GiveUp:
    """The session is over for a reason of the outside; ``kind`` is ``refused`` or ``unreachable``."""

    kind: str
    reason: str
    counters: list[int]


class ClientSession:
    """See the module. ``session`` is 8 random bytes; ``address`` is for people."""

    def __init__(
        self,
        session: bytes,
        namespace: str,
        version: str,
        limits: ClientLimits | None = None,
        address: str = "its address",
    ) -> None:
        self.session = session
        self._namespace = namespace
        self._version = version
        self._address = address
        self._limits = limits or ClientLimits()
        self._dialer = Dialer(self._hello)
        self._unsent: deque[Entry] = deque()
        self._sent: deque[Entry] = deque()
        self._open: set[int] = set()
        self._volatile: set[int] = set()
        """Those of them that a restart of the coordinator loses."""
        self._watches: dict[int, bytes] = {}
        """Those of them that are jobs of another session, with their ids."""
        self._awaiting: int | None = None
        """Number of the last message that asks what became of them; 0 if it is to be sent. None: there is no need."""
        self._accepted = 0
        self._offered = 0
        self._held = ""
        """Why nothing may be handed in for now."""
        self._stored: set[bytes] = set()
        """Blobs the coordinator has said to hold for entries not yet accepted."""
        self._uses: dict[bytes, int] = {}
        """How many entries that are not yet accepted need a blob."""
        self._outgoing = blobs.Outgoing()
        self._incoming = blobs.Incoming(self._limits.max_blob_bytes)
        self._fetching: dict[bytes, list[Settled]] = {}
        self._cancels: set[int] = set()
        self._asks: dict[int, Asked] = {}
        self._waits_told: dict[tuple[int, int], None] = {}
        """Epoch and number of the waits that people have read of."""
        self._waits_since: float | None = None
        """Since when something is open: before that nobody missed the coordinator."""
        self._leaving: str | None = None
        self._over = False
        self._told = 0
        self._settled: list[Settled] = []
        self._now = 0.0
        self._turn = Turn()

    @property
    def open_count(self) -> int:
        return len(self._open)

    # ------------------------------------------------------------------------------- the contract

    def turn(self, events: Sequence[Any], now: Now) -> Turn:
        self._turn = turn = Turn()
        self._now = now.mono
        self._dialer.born(now.mono)
        drained = False
        for event in events:
            match event:
                case Received():
                    self._received(event, now.mono)
                case Offered():
                    self._offer(event.entries)
                case blobs.ChunkRead():
                    chunk = self._outgoing.chunk(event, self._dialer.link.sent + 1)
                    if chunk is not None and self._dialer.up:
                        self._send(chunk, now.mono)
                case blobs.ChunkWritten():
                    self._chunk_written(event, now.mono)
                case blobs.BlobFailed():
                    if event.sha in self._incoming and self._dialer.up:
                        self._send(BlobRefused(event.sha, event.reason), now.mono)
                    self._blob_failed(event, now.mono)
                case Connected():
                    turn.after_commit += self._dialer.connected(now.mono)
                case Disconnected():
                    self._dialer.disconnected()
                case Rejected():
                    self._give_up("refused", event.reason)
                case CancelWished():
                    self._cancel(event.counters, now.mono)
                case Asked():
                    self._asks[event.ask] = event
                    if self._dialer.up:
                        self._send(Ask(event.ask, event.topic, event.about), now.mono)
                case LeaveWished():
                    self._leaving = event.reason
                case Garbled():
                    turn.facts.append(fact("garbled", reason=event.reason))
                case Stalled():
                    self._dialer.stalled(event.seconds)
                    if self._waits_since is not None:
                        self._waits_since += event.seconds
                    turn.facts.append(fact("stalled", seconds=event.seconds))
                case Drained():
                    drained = True
        self._hand_in(now.mono)
        if self._told < self._through() and not self._over:
            self._told = self._through()
            turn.after_commit.append(Acknowledge(self._told))
        first = len(turn.after_commit)
        if not (self._open or self._asks):
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now.mono
        if drained:
            self._judge(now.mono)
        if self._settled:
            # Last, for who waits for a result wakes by it; but the end of the session has none open any more.
            turn.after_commit.insert(first if self._over else len(turn.after_commit), Settle(self._settled))
            self._settled = []
        seconds = self._dialer.silence_ended()
        if seconds is not None:
            turn.facts.append(fact("coordinator_back", seconds=seconds))
        return turn

    def deadline(self) -> float | None:
        if self._over:
            return None
        times = [self._dialer.deadline(self._beat_s())]
        if self._waits_since is not None:
            times.append(self._missed_since(self._waits_since) + self._limits.reconnect_timeout_s)
            times.append(self._dialer.word_due(self._waits_since))
        return min((t for t in times if t is not None), default=None)

    # ------------------------------------------------------------------------------- handing in

    def _hello(self) -> Message:
        return ClientHello(PROTOCOL, self.session, self._version, self._namespace, self._dialer.epoch, self._accepted)

    def _offer(self, entries: list[Entry]) -> None:
        if self._over:
            refusal = Failure("JobRefused", "the session is over").encode()
            self._settled += [Settled(e.counter, Outcome.FAILED, refusal) for e in entries]
            return
        for entry in entries:
            self._open.add(entry.counter)
            if not entry.durable:
                self._volatile.add(entry.counter)
            if entry.watch:
                self._watches[entry.counter] = entry.watch
            if entry.large is None and entry.code is None:
                continue
            for sha, size in _blobs_of(entry):
                self._uses[sha] = self._uses.get(sha, 0) + 1
                if sha not in self._stored:  # else it is offered again once it has been named: see _offer_again
                    self._outgoing.send(sha, size)
        self._unsent += entries
        self._offered = max(self._offered, entries[-1].counter)
        if self._held:
            self._refuse_what_must_not_wait()

    def _hand_in(self, now: float) -> None:
        """Send what can be sent: runs of successive counters whose blobs have arrived."""
        if not self._dialer.up or self._held:
            return
        unsent = self._unsent
        while unsent:
            batch: list[Entry] = []
            shared: set[bytes] = set()
            named: set[bytes] = set()
            size, following = 0, unsent[0].counter
            while unsent and len(batch) < MAX_BATCH and size < BATCH_BYTES:
                entry = unsent[0]
                if entry.watch or entry.counter != following:
                    break
                if entry.large is not None or entry.code is not None:
                    needed = {sha for sha, _ in _blobs_of(entry)}
                    if not needed <= self._stored:
                        break
                    named |= needed
                batch.append(unsent.popleft())
                following += 1
                size += len(entry.payload) + 4 * len(entry.summary) + len(entry.about)
                if entry.spec not in shared:
                    shared.add(entry.spec)
                    size += len(entry.spec) + (len(entry.code[1]) if entry.code else 0)
            if not batch:
                if not (unsent and unsent[0].watch):
                    break
                entry = unsent.popleft()
                self._send(Watch([entry.counter], [entry.watch]), now)
                self._sent.append(entry)
                continue
            self._send(_submit(batch), now)
            self._sent += batch
            self._offer_again(named)
        if self._outgoing:
            self._turn.after_commit += self._outgoing.duties()

    def _offer_again(self, named: set[bytes]) -> None:
        """A blob is kept for the message that names it; for those still to come it is offered once more.

        Cheap if the coordinator has it yet: it says so at the first chunk.
        """
        self._stored -= named
        if named:
            for entry in self._unsent:
                for sha, size in _blobs_of(entry):
                    if sha in named:
                        self._outgoing.send(sha, size)

    def _take_back(self) -> None:
        """What was sent and not accepted is handed in again."""
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()

    def _hold(self, message: Hold, now: float) -> None:
        """The coordinator is full: what it has not taken waits here, or fails if it must not wait."""
        self._accept(message.through, now)
        named = {sha for entry in self._sent for sha, _ in _blobs_of(entry)}
        self._take_back()
        self._offer_again(named)  # they are at the coordinator, and shall not stay there for nothing
        self._held = message.reason or "it is full"
        self._turn.after_commit.append(Held(self._held))
        self._turn.facts.append(fact("jobs_held", len(self._unsent), reason=self._held))
        self._cancel(sorted(self._cancels & {e.counter for e in self._unsent}), now)
        self._refuse_what_must_not_wait()

    def _go_on(self) -> None:
        self._held = ""
        self._turn.after_commit.append(Held(""))

    def _refuse_what_must_not_wait(self) -> None:
        refused = [e for e in self._unsent if not e.block]
        if refused:
            failure = Failure("JobRefused", f"the coordinator did not take the job: {self._held}").encode()
            self._drop_unsent(refused, Outcome.FAILED, failure)

    def _drop_unsent(self, entries: list[Entry], outcome: Outcome, failure: bytes) -> None:
        """These are not handed in any more."""
        counters = {e.counter for e in entries}
        self._unsent = deque(e for e in self._unsent if e.counter not in counters)
        self._settle(Settled(e.counter, outcome, failure) for e in entries)
        for entry in entries:
            for sha, _ in _blobs_of(entry):
                self._release(sha, self._now)

    def _through(self) -> int:
        """All up to here is acknowledged: what is neither unsent nor sent has been accepted or settled."""
        first = self._sent[0] if self._sent else self._unsent[0] if self._unsent else None
        return self._offered if first is None else first.counter - 1

    def _accept(self, through: int, now: float) -> None:
        through = min(through, self._offered)  # nobody can have accepted what was not offered
        self._accepted = max(self._accepted, through)
        while self._sent and self._sent[0].counter <= through:
            entry = self._sent.popleft()
            if entry.large is not None or entry.code is not None:
                for sha, _ in _blobs_of(entry):
                    self._release(sha, now)

    def _release(self, sha: bytes, now: float) -> None:
        """An entry no longer needs its blob here; another may."""
        self._uses[sha] -= 1
        if self._uses[sha]:
            return
        del self._uses[sha]
        if sha in self._outgoing or sha in self._stored:
            self._withdraw(sha, now)
        self._turn.after_commit.append(blobs.DropBlob(sha))

    def _withdraw(self, sha: bytes, now: float) -> None:
        """No job needs it any more that the coordinator does not have."""
        self._stored.discard(sha)
        word = self._outgoing.withdraw(sha)
        if self._dialer.up:
            self._send(word, now)

    # ------------------------------------------------------------------------------- messages

    def _send(self, message: Message, now: float) -> None:
        self._turn.after_commit.append(self._dialer.send(message, now))

    def _received(self, event: Received, now: float) -> None:
        message, sends = self._dialer.receive(event.header, event.message, now)
        self._turn.after_commit += sends
        if self._awaiting and message is not None and self._dialer.link.acked >= self._awaiting:
            self._awaiting = None
        match message:
            case None | Pulse():
                pass
            case Results():
                self._results(message, now)
            case Accepted():
                self._accept(message.through, now)
            case Welcome():
                self._welcome(message, now)
            case Refusal():
                self._give_up("refused", message.text)
            case Hold():
                self._hold(message, now)
            case GoOn():
                self._go_on()
            case NotCancelled():
                counters = [counter_of(j) for j in message.jobs]
                self._cancels.difference_update(counters)
                self._turn.after_commit.append(CancelDenied(counters))
            case Answer():
                if self._asks.pop(message.ask, None) is not None:
                    self._turn.after_commit.append(Answered(message.ask, message.error, message.body))
            case Taken():
                if self._outgoing.taken(message, self._dialer.link.acked):
                    self._stored.add(message.sha)
                elif message.through and message.sha not in self._outgoing and message.sha not in self._stored:
                    self._withdraw(message.sha, now)
            case Waiting():
                self._wait_told(message)
            case Chunk():
                self._chunk(message, now)
            case BlobRefused():
                self._blob_failed(blobs.BlobFailed(message.sha, message.reason), now)
            case _:
                self._turn.facts.append(fact("unexpected", reason=type(message).__name__))

    def _welcome(self, message: Welcome, now: float) -> None:
        self._turn.facts.append(fact("connected", epoch=message.epoch, link=self._dialer.link.number))
        if not message.resumed:
            lost = Failure("JobLost", "the coordinator was restarted and no longer knows the job").encode()
            through = max(self._accepted, message.accepted)  # what we had not heard of is lost as well
            gone = (self._volatile & self._open if message.kept else self._open) - self._watches.keys()
            self._settle(Settled(c, Outcome.LOST, lost) for c in sorted(gone) if c <= through)
            self._awaiting = 0 if message.kept or self._watches else None
            for sha in self._fetching:
                if self._incoming.drop(sha):
                    self._turn.after_commit.append(blobs.DropBlob(sha))
            self._fetching.clear()
        self._accept(message.accepted, now)
        self._take_back()
        if self._held:
            self._go_on()  # or it says so again
        if self._awaiting is not None:
            self._await(now)
        for word in self._outgoing.restart():
            self._send(word, now)
        self._offer_again({sha for entry in self._unsent for sha, _ in _blobs_of(entry)})
        for sha, rows in self._fetching.items():
            self._send(Fetch(sha, rows[0].large[1] if rows[0].large else 0), now)
        for asked in self._asks.values():
            self._send(Ask(asked.ask, asked.topic, asked.about), now)
        self._cancel(sorted(self._cancels), now)

    def _await(self, now: float) -> None:
        """Ask what has become of all that an earlier life of the coordinator had accepted."""
        waiting = {e.counter for e in self._unsent}
        accepted = sorted(c for c in self._open if c not in waiting)
        own = [c for c in accepted if c not in self._watches]
        watched = [c for c in accepted if c in self._watches]
        for first in range(0, len(own), MAX_BATCH):
            self._send(Awaiting(own[first : first + MAX_BATCH]), now)
        for first in range(0, len(watched), MAX_BATCH):
            some = watched[first : first + MAX_BATCH]
            self._send(Watch(some, [self._watches[c] for c in some]), now)
        self._awaiting = self._dialer.link.sent if accepted else None

    def _results(self, message: Results, now: float) -> None:
        self._accept(message.through, now)
        large = {row: (sha, size) for row, sha, size in message.large}
        rows = []
        known: dict[bytes, int] = {}
        for i, (counter, outcome, payload) in enumerate(
            zip(message.counters, message.outcomes, message.payloads, strict=True)
        ):
            if counter not in self._open:
                if i in large:
                    known[large[i][0]] = large[i][1]
                continue
            if i in large:
                sha, size = large[i]
                row = Settled(counter, outcome, b"", (sha, size))
                held = self._fetching.get(sha)
                if held is None:
                    self._fetching[sha] = [row]
                    self._send(Fetch(sha, size), now)
                elif all(r.counter != counter for r in held):
                    held.append(row)
            else:
                rows.append(Settled(counter, outcome, payload))
        for sha, size in known.items():
            if sha not in self._fetching:
                self._send(Taken(sha, size), now)  # told twice, and no other row needs it: it need not be kept for us
        self._settle(rows)

    def _wait_told(self, message: Waiting) -> None:
        """People read of each wait once, however often and on how many links it is told."""
        wait = (self._dialer.epoch, message.wait)
        if wait in self._waits_told:
            return
        if len(self._waits_told) >= MAX_WAITS:
            del self._waits_told[next(iter(self._waits_told))]
        self._waits_told[wait] = None
        what = _waits(message.jobs, message.function)
        self._turn.facts.append(fact("jobs_wait", message.jobs, what=what, reason=message.reason))

    def _settle(self, rows: Iterable[Settled]) -> None:
        for row in rows:
            if row.counter in self._open:
                self._open.discard(row.counter)
                self._volatile.discard(row.counter)
                self._watches.pop(row.counter, None)
                self._cancels.discard(row.counter)
                self._settled.append(row)

    # ------------------------------------------------------------------------------- large results

    def _chunk(self, chunk: Chunk, now: float) -> None:
        if chunk.sha not in self._fetching:
            if not chunk.offset:
                self._send(Taken(chunk.sha, chunk.size), now)  # it came on an earlier link
            return
        answer = self._incoming.take(chunk, have=False)
        if isinstance(answer, blobs.WriteChunk):
            self._turn.after_commit.append(answer)
        elif isinstance(answer, Message):
            self._send(answer, now)
            if isinstance(answer, BlobRefused):
                self._blob_failed(blobs.BlobFailed(chunk.sha, answer.reason), now)

    def _chunk_written(self, event: blobs.ChunkWritten, now: float) -> None:
        word = self._incoming.written(event)
        if word is None:
            return
        taken, whole = word
        if self._dialer.up:
            self._send(taken, now)
        if whole:
            self._settle(self._fetching.pop(event.sha, []))

    def _blob_failed(self, event: blobs.BlobFailed, now: float) -> None:
        """A blob cannot be sent or received: the jobs that need it end here, no other does."""
        self._turn.facts.append(fact("blob_failed", sha=event.sha.hex()[:12], reason=event.reason))
        failure = Failure("JobRefused", f"a large payload could not be handed in: {event.reason}").encode()
        spoilt = [e for e in self._unsent if any(sha == event.sha for sha, _ in _blobs_of(e))]
        if event.sha in self._outgoing or event.sha in self._stored:
            self._withdraw(event.sha, now)
        if spoilt:
            self._drop_unsent(spoilt, Outcome.FAILED, failure)
        if event.sha in self._fetching:
            if self._incoming.drop(event.sha):
                self._turn.after_commit.append(blobs.DropBlob(event.sha))
            failure = Failure("JobLost", f"the result could not be fetched: {event.reason}").encode()
            self._settle(Settled(r.counter, Outcome.LOST, failure) for r in self._fetching.pop(event.sha))

    # ------------------------------------------------------------------------------- cancelling, ending

    def _cancel(self, counters: list[int], now: float) -> None:
        others = [c for c in counters if c in self._watches]
        if others:
            self._turn.after_commit.append(CancelDenied(others))
        wished = {c for c in counters if c in self._open and c not in self._watches}
        if not wished:
            return
        unsent = [e for e in self._unsent if e.counter in wished]
        if unsent:
            word = Failure("Cancelled", "cancelled before it was sent").encode()
            self._drop_unsent(unsent, Outcome.CANCELLED, word)
            wished.difference_update(e.counter for e in unsent)
        if wished:
            self._cancels |= wished
            if self._dialer.up:
                jobs = [job_id(self.session, c) for c in sorted(wished)]
                for first in range(0, len(jobs), MAX_BATCH):
                    self._send(Cancel(jobs[first : first + MAX_BATCH]), now)

    def _beat_s(self) -> float:
        busy = self._open or self._asks
        return self._dialer.times.heartbeat_s * (1 if busy else IDLE_BEATS)

    def _judge(self, now: float) -> None:
        """What only silence or the passing of time decides; the sockets are empty."""
        if self._over:
            return
        if self._leaving is not None:
            if self._dialer.up:
                self._send(Bye(self._leaving), now)
            self._over = True
            self._turn.after_commit.append(Stop(self._leaving))
            return
        if self._waits_since is not None:
            timeout_s = self._limits.reconnect_timeout_s
            if now >= self._missed_since(self._waits_since) + timeout_s:
                silent = self._dialer.unheard_s(now)
                self._give_up("unreachable", f"the coordinator was not heard for {silent:.0f} s")
                return
            seconds = self._dialer.silence(now, self._waits_since)
            if seconds is not None:
                self._tell_silence(seconds)
        self._turn.after_commit += self._dialer.due(now, Pulse, self._beat_s())

    def _missed_since(self, waits_since: float) -> float:
        """Since when somebody waits for a word of the coordinator, and there is none."""
        heard_at = self._dialer.heard_at
        return waits_since if heard_at is None else max(heard_at, waits_since)

    def _tell_silence(self, seconds: float) -> None:
        things = [(len(self._open), "job"), (len(self._asks), "question")]
        words = [f"{n} {thing}{'s' * (n > 1)}" for n, thing in things if n]
        verb = "are" if sum(n for n, _ in things) > 1 else "is"
        self._turn.facts.append(
            fact(
                "coordinator_unheard",
                address=self._address,
                seconds=seconds,
                open=f"{' and '.join(words)} {verb} open",
                timeout=self._limits.reconnect_timeout_s,
            )
        )

    def _give_up(self, kind: str, reason: str) -> None:
        if self._over:
            return
        self._over = True
        counters = sorted(self._open)
        self._open.clear()
        self._unsent.clear()
        self._uses.clear()
        self._sent.clear()
        for sha in self._outgoing.clear():
            self._turn.after_commit.append(blobs.DropBlob(sha))
        for ask in self._asks:
            self._turn.after_commit.append(Answered(ask, reason, {}))
        self._asks.clear()
        self._turn.facts.append(fact("gave_up", reason=reason))
        self._turn.after_commit.append(GiveUp(kind, reason, counters))


def _blobs_of(entry: Entry) -> list[tuple[bytes, int]]:
    """What must have arrived before the entry may be submitted."""
    if entry.large is None and entry.code is None:
        return []
    out = [] if entry.large is None else [entry.large]
    if entry.code is not None and len(entry.code[1]) > INLINE_BYTES:
        out.append((entry.code[0], len(entry.code[1])))
    return out


def _waits(jobs: int, function: str) -> str:
    return f"1 job ({function}) waits" if jobs == 1 else f"{jobs} jobs (the first: {function}) wait"


def _submit(batch: list[Entry]) -> Submit:
    """One message for a run of successive counters; what jobs share is in it once."""
    specs: dict[bytes, int] = {}
    code: dict[bytes, bytes] = {}
    large: list[list[Any]] = []
    for row, entry in enumerate(batch):
        specs.setdefault(entry.spec, len(specs))
        if entry.large is not None:
            large.append([row, *entry.large])
        if entry.code is not None and len(entry.code[1]) <= INLINE_BYTES:
            code[entry.code[0]] = entry.code[1]
    return Submit(
        batch[0].counter,
        list(specs),
        [specs[e.spec] for e in batch],
        [e.payload for e in batch],
        large,
        [[sha, data] for sha, data in code.items()],
        [e.summary for e in batch],
        [[row, e.about] for row, e in enumerate(batch) if e.about],
    )
