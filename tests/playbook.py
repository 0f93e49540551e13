"""The language of one-actor tests: event in, effects out, *and nothing else sent*. Rules of this file: no test in it.

A test is a play. One actor is real; its peers, its disk and its pool are played, and say only what the test has
them say. What the actor sends passes through the real codec and the real ``Link`` of the played end, so a message
that cannot cross the wire, or is numbered wrongly, fails the play. What has been sent waits until the test takes
it with ``gets`` (messages) or ``does`` (other effects); ``nothing_else`` ends a play. Bare pulses are the link's
own business: they are counted in ``pulses`` and never wait.

Time stands still but for ``wait``, which goes from one deadline of the actor to the next and hands in ``Drained``
at each: an actor whose deadline does not move on when it is served fails the play.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgpack
from hypothesis import strategies as st

from cluster import blobs, codec
from cluster import messages as m
from cluster.actor import Actor, Connected, Disconnected, Drained, Garbled, Header, Identity, Now, Received, Send
from cluster.client_session import (
    Acknowledge,
    Asked,
    CancelWished,
    ClientSession,
    Entry,
    LeaveWished,
    Offered,
    Settle,
    Settled,
)
from cluster.config import CHUNK_BYTES, PROTOCOL, AgentLimits, ClientLimits, CoordinatorLimits, Times
from cluster.facts import Fact
from cluster.ids import format_job, job_id
from cluster.jobs import NOTHING_SPECIAL, About, Failure, Outcome, Spec
from cluster.jobs import End as AttemptEnd
from cluster.messages import (
    CHECKS,
    FIELDS,
    MESSAGES,
    Accepted,
    Answer,
    Ask,
    Assign,
    BadMessage,
    Bye,
    Cancel,
    Check,
    Chunk,
    ClientHello,
    Fetch,
    Finished,
    Heartbeat,
    Message,
    NodeHello,
    Pulse,
    Results,
    Started,
    Submit,
    Taken,
    Welcome,
)
from cluster.session import Link, Verdict
from node.agent import Agent, Self
from node.events import Done, Give, Recalled, Run, SpawnWorker, WorkerDone, WorkerGone, WorkerUp
from scheduler.coordinator import Coordinator
from scheduler.journal import READERS
from scheduler.roster import Node
from tests.scheduler.store import model

M = TypeVar("M", bound=Message)
E = TypeVar("E")

VERSION = "1.2.3"
START = Now(1_000.0, 1_700_000_000.0)
SUCCEEDED = int(Outcome.SUCCEEDED)


def sha_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def over_the_wire(header: Header, message: Message) -> tuple[Header, Message]:
    """What the other side makes of it."""
    return codec.decode(codec.encode(header, message))


def fits(got: Any, kind: type[E], about: dict[str, Any]) -> E:
    """``got`` is of this kind and has these fields; a number given for a list is its length."""
    assert type(got) is kind, f"{got} came instead of {kind.__name__}"
    for name, want in about.items():
        value = getattr(got, name)
        seen = len(value) if type(want) is int and isinstance(value, list | dict | tuple) else value
        assert seen == want, f"{kind.__name__}.{name} is {seen!r}, not {want!r}: {got}"
    return got


class Disk:
    """Performs blob effects in memory, and answers at once, unless it ``fails`` or ``sleeps``."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.parts: dict[bytes, bytes] = {}
        self.reads: list[blobs.ReadChunk] = []
        self.failing: dict[bytes, str] = {}
        self.sleeps = False
        """Leaves reads unanswered."""

    def perform(self, effect: Any) -> list[Any]:
        sha = effect.sha
        if sha in self.failing and not isinstance(effect, blobs.DropBlob):
            self.parts.pop(sha, None)
            return [blobs.BlobFailed(sha, self.failing[sha])]
        match effect:
            case blobs.KeepBlob():
                if sha_of(effect.data) != sha:
                    return [blobs.BlobFailed(sha, "the bytes do not match their hash")]
                self.blobs[sha] = effect.data
            case blobs.WriteChunk():
                part = self.parts.get(sha, b"")
                assert effect.offset <= len(part), "a chunk was written past the end of what came before"
                part = self.parts[sha] = part[: effect.offset] + effect.data
                if len(part) == effect.size:
                    del self.parts[sha]
                    if sha_of(part) != sha:
                        return [blobs.BlobFailed(sha, "the bytes do not match their hash")]
                    self.blobs[sha] = part
                return [blobs.ChunkWritten(sha, len(part))]
            case blobs.ReadChunk():
                self.reads.append(effect)
                if not self.sleeps:
                    return self.answer_reads()
            case blobs.DropBlob():
                self.blobs.pop(sha, None)
                self.parts.pop(sha, None)
        return []

    def answer_reads(self) -> list[Any]:
        reads, self.reads = self.reads, []
        return [self._read(r.sha, r.offset, r.length) for r in reads]

    def _read(self, sha: bytes, offset: int, length: int) -> Any:
        data = self.blobs.get(sha)
        if data is None:
            return blobs.BlobFailed(sha, "is not here")
        return blobs.ChunkRead(sha, offset, data[offset : offset + length])


BLOB_EFFECTS = (blobs.KeepBlob, blobs.WriteChunk, blobs.ReadChunk, blobs.DropBlob)


class Play:
    """One real actor, and its time. Subclasses add who it has to do with."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.now = START
        self.disk = Disk()
        self.effects: list[Any] = []
        """What was asked of the host, but for messages and blobs."""
        self.facts: list[Fact] = []
        self._held: list[Any] | None = None
        self.store: model.ModelStore | None = None

    # -- events -------------------------------------------------------------------------------------

    def turn(self, *events: Any) -> None:
        """Hand events in; with them the disk's answers, turn after turn, until there are none."""
        if self._held is not None:
            self._held += events
            return
        batch = list(events)
        while True:
            turn = self._actor.turn(batch, self.now)
            if turn.writes:
                assert self.store is not None, "rows, and no store"
                self.store.write(turn.writes)
                self.store.commit()
            for fact in turn.facts:
                assert fact.text, "every fact can be told"
            self.facts += turn.facts
            batch = []
            for effect in (*turn.at_once, *turn.after_commit):
                if isinstance(effect, Send):
                    self.deliver(effect)
                elif isinstance(effect, BLOB_EFFECTS):
                    batch += self.disk.perform(effect)
                elif type(effect) in READERS:
                    assert self.store is not None
                    batch.append(READERS[type(effect)](self.store, effect))
                else:
                    self.effects.append(effect)
            if not batch:
                return

    @contextmanager
    def one_turn(self) -> Iterator[None]:
        """What is said inside arrives together, in one turn."""
        held: list[Any] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
        self.turn(*held)

    def wait(self, seconds: float) -> None:
        """Let time pass: every deadline on the way is served, and everyone is silent."""
        end = self.now.mono + seconds
        idle_turns = 0
        while True:
            due = self._actor.deadline()
            at = end if due is None else min(end, max(due, self.now.mono))
            idle_turns = 0 if at > self.now.mono else idle_turns + 1
            assert idle_turns < 20, f"the deadline {due} does not move on"
            self.now = Now(at, self.now.wall + at - self.now.mono)
            self.turn(Drained())
            due = self._actor.deadline()
            if at >= end and (due is None or due > end):
                return

    def deliver(self, send: Send) -> None:
        raise NotImplementedError

    # -- what came of it ----------------------------------------------------------------------------

    def does(self, kind: type[E], /, **about: Any) -> E:
        """The next effect asked of the host."""
        assert self.effects, f"no {kind.__name__} was asked for"
        return fits(self.effects.pop(0), kind, about)

    def told(self, kind: str) -> list[Fact]:
        """The facts of this kind so far, taken."""
        out = [f for f in self.facts if f.kind == kind]
        self.facts = [f for f in self.facts if f.kind != kind]
        return out

    def nothing_else(self) -> None:
        assert not self.effects, f"and this was asked for: {self.effects}"


class End:
    """A played peer's end of a session: numbers what it says, checks the numbers of what it hears."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.link = Link()
        self.inbox: list[Message] = []
        self.pulses = 0
        self.deaf = False
        """Loses everything that is sent to it."""
        self.lenient = False
        """Takes everything, whatever its number."""

    def hear(self, header: Header, message: Message) -> None:
        if self.deaf:
            return
        header, message = over_the_wire(header, message)
        if type(message).UNNUMBERED or self.lenient:
            self.inbox.append(message)
            return
        assert header.link == self.link.number, f"{message} came on link {header.link}, not {self.link.number}"
        verdict = self.link.take(header, message, self.play.now.mono)
        assert verdict is Verdict.NEXT, f"{message} is a {verdict.value} at {header}"
        if isinstance(message, Pulse):
            self.pulses += 1
        else:
            self.inbox.append(message)

    def gets(self, kind: type[M], /, **about: Any) -> M:
        """The next message; ``about`` as in ``fits``."""
        assert self.inbox, f"no {kind.__name__} came"
        return fits(self.inbox.pop(0), kind, about)

    def gets_nothing(self) -> None:
        assert not self.inbox, f"and this was sent: {self.inbox}"

    def gets_blob(self, sha: bytes) -> bytes:
        """Chunks of one blob, answered as they come, until it is whole."""
        data = b""
        while True:
            chunk = self.gets(Chunk, sha=sha, offset=len(data))
            data += chunk.data
            self.say(Taken(sha, len(data)))
            if len(data) == chunk.size:
                assert sha_of(data) == sha
                return data

    def say(self, message: Message) -> None:
        raise NotImplementedError

    def hands_over(self, data: bytes) -> tuple[bytes, int]:
        """Send a blob whole, and take the word that it is there."""
        sha = sha_of(data)
        for offset in range(0, len(data), CHUNK_BYTES):
            self.say(Chunk(sha, len(data), offset, data[offset : offset + CHUNK_BYTES]))
        while self.gets(Taken, sha=sha).through < len(data):
            pass
        return sha, len(data)


# ------------------------------------------------------------------------------------ the coordinator's plays


class Dialed(End):
    """A played client or agent: opens links to the real coordinator."""

    play: CoordinatorPlay

    def __init__(self, play: CoordinatorPlay, identity: Identity, session: bytes) -> None:
        super().__init__(play)
        self.identity = identity
        self.session = session
        self.route = b""

    def dial(self) -> None:
        """A new connection: the transport names it anew."""
        self.route = self.play.new_route(self)

    def say(self, message: Message) -> None:
        self._hand_in(self.link.header(), message)

    def lose(self, message: Message) -> None:
        """Say something that never arrives."""
        over_the_wire(self.link.header(), message)

    def repeat(self, message: Message) -> None:
        """Say it twice under one number."""
        header = self.link.header()
        self._hand_in(header, message)
        self._hand_in(header, message)

    def _hand_in(self, header: Header, message: Message) -> None:
        self.play.turn(Received(self.route, self.identity, *over_the_wire(header, message)))

    def greet(self, message: Message) -> None:
        self.link = Link(self.link.number + 1)
        self._hand_in(Header(self.link.number, 0, 0), message)

    def beat(self) -> None:
        raise NotImplementedError


class FakeNode(Dialed):
    def __init__(self, play: CoordinatorPlay, name: str, session: bytes, identity: Identity, **about: Any) -> None:
        super().__init__(play, identity, session)
        self.name = name
        self.about: dict[str, Any] = {
            "protocol": PROTOCOL,
            "version": VERSION,
            "incarnation": 1,
            "previous": b"",
            "lock": f"lock-{name}",
            "host": f"host-{name}",
            "pid": 100,
            "python": "3.11",
            "slots": 1,
            "labels": {},
            "queues": [],
            "resources": {},
        } | about

    def hello(self, *held: tuple[int, bytes, int], **about: Any) -> None:
        """Join, holding these (token, job, attempt)."""
        a = self.about | about
        tokens, jobs, attempts = [t for t, _, _ in held], [j for _, j, _ in held], [n for _, _, n in held]
        self.greet(NodeHello(session=self.session, name=self.name, tokens=tokens, jobs=jobs, attempts=attempts, **a))

    def joins(self, *held: tuple[int, bytes, int]) -> Welcome:
        self.dial()
        self.hello(*held)
        return self.gets(Welcome)

    def beat(self) -> None:
        self.say(Heartbeat({"load": 0.5}))

    def finishes(
        self,
        *tokens: int,
        payload: bytes = b"done",
        run_us: int = 0,
        outcome: int = SUCCEEDED,
        record: Sequence[int] = (),
    ) -> None:
        """``record``: of the last one: cpu_us, peak_kib, waited_us, init_us."""
        n = len(tokens)
        records = [[n - 1, *record]] if record else []
        self.say(Finished(list(tokens), [outcome] * n, [payload] * n, [], [run_us] * n, [1] * n, records))

    def times_out(self, token: int, *bases: str, text: str = "the job has run for its timeout_s of 1 s") -> None:
        """It has unwound (``bases``: of its exception), or was killed."""
        self.finishes(token, outcome=AttemptEnd.TIMED_OUT, payload=Failure("JobTimeout", text, "", bases).encode())

    def ends_cancelled(self, token: int) -> None:
        failure = Failure("Cancelled", "cancelled while it ran")
        self.finishes(token, outcome=AttemptEnd.CANCELLED, payload=failure.encode())

    def raises(
        self,
        token: int,
        *bases: str,
        text: str = "no",
        end: AttemptEnd = AttemptEnd.RAISED,
        delay_s: float | None = None,
    ) -> None:
        """Its function has raised an exception of these classes, itself first; or has asked for another end."""
        names = bases or ("ValueError", "Exception")
        failure = Failure(names[0], text, "", names, delay_s=delay_s)
        self.say(Finished([token], [int(end)], [failure.encode()], [], [1_000], [7]))

    def crashes(self, token: int, *, memory: bool = False) -> None:
        """The worker has died under it."""
        failure = Failure("WorkerCrashed", "the worker process died: signal 9 (SIGKILL)")
        end = AttemptEnd.MEMORY if memory else AttemptEnd.CRASHED
        self.say(Finished([token], [int(end)], [failure.encode()], [], [1_000], [7]))

    def runs(self, job: bytes, *, attempt: int | None = None) -> int:
        """It is assigned just this job, and says that it runs; its token."""
        assign = self.gets(Assign, jobs=[job])
        assert attempt is None or assign.attempts == [attempt], assign
        self.say(Started(assign.tokens))
        token: int = assign.tokens[0]
        return token

    def finishes_large(self, token: int, data: bytes) -> None:
        self.say(Finished([token], [SUCCEEDED], [b""], [[0, *self.hands_over(data)]], [1], [1]))


class FakeClient(Dialed):
    def __init__(self, play: CoordinatorPlay, session: bytes, identity: Identity, namespace: str = "default") -> None:
        super().__init__(play, identity, session)
        self.namespace = namespace
        self.counter = 0
        self.epoch = 0

    def hello(self, accepted: int = 0, protocol: int = PROTOCOL) -> None:
        self.greet(ClientHello(protocol, self.session, VERSION, self.namespace, self.epoch, accepted))

    def joins(self, accepted: int = 0) -> Welcome:
        self.dial()
        self.hello(accepted)
        welcome = self.gets(Welcome)
        self.epoch = welcome.epoch
        return welcome

    def submit(self, count: int = 1, spec: Spec | None = None, payload: bytes = b"args", **more: Any) -> list[int]:
        """Hand in that many jobs of one function; their counters."""
        message = self.submission(count, spec, payload, **more)
        self.say(message)
        return list(range(message.first, message.first + count))

    def submission(
        self,
        count: int = 1,
        spec: Spec | None = None,
        payload: bytes = b"args",
        *,
        large: Sequence[tuple[bytes, int]] = (),
        code: Sequence[bytes] = (),
        first: int | None = None,
        about: About = NOTHING_SPECIAL,
        summary: str = "",
    ) -> Submit:
        first = self.counter + 1 if first is None else first
        self.counter = max(self.counter, first + count - 1)
        return Submit(
            first,
            [(spec or SPEC).encode()],
            [0] * count,
            [b"" if large else payload] * count,
            [[row, *ref] for row, ref in enumerate(large)],
            [[sha_of(c), c] for c in code],
            [summary] * count,
            [[row, about.encode()] for row in range(count) if about != NOTHING_SPECIAL],
        )

    def job(self, counter: int) -> bytes:
        return job_id(self.session, counter)

    def leave_quietly(self) -> None:
        """It is gone, and hears nothing more."""
        self.say(Bye("it leaves"))
        self.deaf = True

    def cancel(self, *counters: int) -> None:
        self.say(Cancel([self.job(c) for c in counters]))

    def gets_results(self, *counters: int, outcome: Outcome | None = None) -> Results:
        """One message with the results of just these, in any order."""
        got = self.gets(Results)
        assert sorted(got.counters) == sorted(counters)
        assert outcome is None or set(got.outcomes) == {int(outcome)}, got
        return got

    def gets_failure(self, counter: int, outcome: Outcome = Outcome.FAILED) -> Failure:
        return Failure.decode(self.gets_results(counter, outcome=outcome).payloads[0])

    def gets_accepted(self, through: int) -> None:
        """The word of acceptance, for which it has to wait a moment if no results carry it."""
        self.play.wait(0.01)
        self.gets(Accepted, through=through)

    def beat(self) -> None:
        self.say(Pulse())


SPEC = Spec("app:task", False, b"pickled reference")
NODE_KEY = Identity("node-key", "node", "nodes", "default")
CLIENT_KEY = Identity("client-key", "client", "ann", "default")


class CoordinatorPlay(Play):
    def __init__(
        self,
        *,
        times: Times | None = None,
        limits: CoordinatorLimits | None = None,
        epoch: int = 1,
        seed: int = 0,
        durable: bool = False,
    ) -> None:
        self._life = (times, limits, seed)
        self.coordinator = Coordinator(epoch, "cluster", VERSION, random.Random(seed), times, limits)
        super().__init__(self.coordinator)
        if durable:
            self.rows_on_disk = model.Disk()
            self.store = model.ModelStore(self.rows_on_disk)
            self._begin(epoch)
        self._ends: dict[bytes, Dialed] = {}
        self._routes = 0
        self._sessions = 0

    def _begin(self, epoch: int, payloads: int = 1_000_000) -> None:
        assert self.store is not None
        times, limits, seed = self._life
        recovered, unfinished = self.store.recover(), self.store.unfinished(0, payloads, True)
        if len(unfinished) == payloads:
            unfinished += self.store.unfinished(unfinished[-1].rank, 1_000_000, False)
        self.coordinator = Coordinator(
            epoch, "cluster", VERSION, random.Random(seed), times, limits, recovered, unfinished
        )
        self._actor = self.coordinator

    def restart(self, payloads: int = 1_000_000) -> None:
        """Kill the coordinator and start it again with what its store holds; everyone has to dial anew. ``payloads``:
        how many of the unfinished jobs' are read at once."""
        assert self.store is not None
        self.store.close()
        self.store = model.ModelStore(self.rows_on_disk)
        self._begin(self.coordinator.epoch + 1, payloads)
        for end in self._ends.values():
            end.gets_nothing()
        self._ends.clear()
        self.turn(Drained())

    def new_session(self) -> bytes:
        self._sessions += 1
        return self._sessions.to_bytes(8, "big")

    def new_route(self, end: Dialed) -> bytes:
        self._routes += 1
        route = b"route-%d" % self._routes
        self._ends[route] = end
        return route

    def new_node(self, name: str = "n1", identity: Identity = NODE_KEY, **about: Any) -> FakeNode:
        """A node that has not said anything yet."""
        return FakeNode(self, name, self.new_session(), identity, **about)

    def new_client(self, identity: Identity = CLIENT_KEY, namespace: str = "default") -> FakeClient:
        return FakeClient(self, self.new_session(), identity, namespace)

    def node(self, name: str = "n1", **about: Any) -> FakeNode:
        """A node that has joined."""
        node = self.new_node(name, **about)
        node.joins()
        return node

    def client(self) -> FakeClient:
        client = self.new_client()
        client.joins()
        return client

    def deliver(self, send: Send) -> None:
        end = self._ends.get(send.route)
        assert end is not None, f"{send} goes to a connection that never was"
        if end.route == send.route:
            end.hear(send.header, send.message)

    def live(self, seconds: float, *alive: Dialed) -> None:
        """Let time pass while these show themselves as they should."""
        for _ in range(math.ceil(seconds)):
            self.wait(1.0)
            for end in alive:
                end.beat()

    def asks(self, client: FakeClient, topic: str, **about: Any) -> dict[str, Any]:
        client.say(Ask(77, topic, about))
        self.look_into_questions()
        return client.gets(Answer, ask=77, error="").body

    def look_into_questions(self) -> None:
        """Turns without an event, as long as a question needs them."""
        for _ in range(10_000):
            if not self.coordinator._desk._inquiries:
                return
            assert self._actor.deadline() == self.now.mono
            self.turn()
        raise AssertionError("a question is looked into for ever")

    def is_refused(self, client: FakeClient, topic: str, **about: Any) -> str:
        """Why the question, or the order, is none."""
        client.say(Ask(77, topic, about))
        error: str = client.gets(Answer, ask=77, body={}).error
        assert error
        return error

    def story_of(self, client: FakeClient, counter: int) -> dict[str, Any]:
        """One job as people see it."""
        job: dict[str, Any] = self.asks(client, "job", id=format_job(client.job(counter)))["job"]
        return job

    def why(self, client: FakeClient, counter: int) -> list[str]:
        """Why it does not run."""
        why: list[str] = self.asks(client, "explain", id=format_job(client.job(counter)))["why"]
        return why

    def nothing_else(self) -> None:
        super().nothing_else()
        for end in self._ends.values():
            end.gets_nothing()

    def is_none_held(self, sha: bytes) -> bool:
        """Whether nobody needs that blob any more."""
        return not self.coordinator._exchange._shelf._refs.get(sha)

    def nothing_kept(self) -> None:
        """No job and no blob is left anywhere."""
        assert not self.disk.blobs and not self.disk.parts, "blobs are left"
        assert self.coordinator._admission.jobs == 0 and self.coordinator._admission.bytes == 0
        assert not len(self.coordinator._ready)
        for node in self.coordinator._roster:
            assert isinstance(node, Node) and not len(node.leases)


def known_run_time(play: CoordinatorPlay, node: FakeNode, run_us: int) -> None:
    """One job has run that long, so the function's time is known from here on."""
    client = play.client()
    client.submit()
    node.finishes(*node.gets(Assign).tokens, run_us=run_us)
    client.gets(Results)
    client.say(Bye("done"))


# ------------------------------------------------------------------------------------ plays of those who dial


class DialerPlay(Play):
    """The real actor dials; the coordinator's end is played."""

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self.coordinator = FakeCoordinator(self)

    def deliver(self, send: Send) -> None:
        assert send.route == b""
        self.coordinator.hear(send.header, send.message)

    def connect(self) -> None:
        self.turn(Connected())

    def disconnect(self) -> None:
        self.turn(Disconnected())

    def nothing_else(self) -> None:
        super().nothing_else()
        self.coordinator.gets_nothing()


class FakeCoordinator(End):
    """The played coordinator: its link is opened by the hello it hears, and stands when it says ``Welcome``."""

    def hear(self, header: Header, message: Message) -> None:
        if self.deaf:
            return
        if type(message).UNNUMBERED:
            assert header.link > self.link.number and header[1:] == (0, 0), f"{message} opens link {header}"
            self.link = Link(header.link)
            self.inbox.clear()
        super().hear(header, message)

    def say(self, message: Message, *, ack: int | None = None) -> None:
        """``ack``: acknowledge no more than this."""
        header = Header(self.link.number, 0, 0) if type(message).UNNUMBERED else self.link.header()
        if ack is not None:
            header = header._replace(ack=ack)
        self.play.turn(Received(b"", CLIENT_KEY, *over_the_wire(header, message)))

    def lose(self, message: Message) -> None:
        over_the_wire(self.link.header(), message)

    def repeat(self, message: Message) -> None:
        header = self.link.header()
        for _ in range(2):
            self.play.turn(Received(b"", CLIENT_KEY, *over_the_wire(header, message)))

    def welcomes(self, *, epoch: int = 1, resumed: bool = True, accepted: int = 0) -> None:
        times = Times()
        self.say(Welcome(epoch, resumed, accepted, times.heartbeat_s, times.lease_s))

    def acknowledges(self) -> None:
        """A bare acknowledgement of all that was said."""
        self.say(Pulse())

    def live(self, seconds: float) -> None:
        """Let time pass while the coordinator answers."""
        for _ in range(math.ceil(seconds)):
            self.play.wait(1.0)
            self.say(Pulse())

    def serves(self, data: bytes) -> bytes:
        """Answer the ``Fetch`` of a blob, as far as the credit of its reader."""
        sha = sha_of(data)
        self.gets(Fetch, sha=sha, size=len(data))
        for offset in range(0, len(data), CHUNK_BYTES):
            self.say(Chunk(sha, len(data), offset, data[offset : offset + CHUNK_BYTES]))
        while self.gets(Taken, sha=sha).through < len(data):
            pass
        return sha


class AgentPlay(DialerPlay):
    def __init__(self, slots: int = 1, limits: AgentLimits | None = None, gpus: tuple[str, ...] = ()) -> None:
        resources = {"gpus": float(len(gpus))}
        me = Self(
            *(b"agent---", "n1", 7, "host", 100, "3.11", VERSION, slots, {"gpu": "a100"}, b"previous", "lock"),
            resources=resources,
            gpus=gpus,
        )
        self.agent = Agent(me, limits)
        super().__init__(self.agent)
        self.slots = slots
        self.tokens = 0

    def registers(self) -> None:
        """Connect, be welcome, have a worker in every slot, and beat once."""
        self.connect()
        self.coordinator.gets(NodeHello)
        self.coordinator.welcomes()
        for slot in range(self.slots):
            self.does(SpawnWorker, slot=slot)
            self.turn(WorkerUp(slot, 1000 + slot))
        self.wait(0)
        self.coordinator.gets(Heartbeat)
        self.coordinator.say(Pulse())

    def assign(
        self,
        count: int = 1,
        spec: Spec = SPEC,
        payload: bytes = b"args",
        *,
        expected_us: int = 0,
        large: Sequence[tuple[bytes, int]] = (),
        code: Sequence[bytes] = (),
    ) -> list[int]:
        """Assign that many jobs; their tokens."""
        tokens = list(range(self.tokens + 1, self.tokens + 1 + count))
        self.tokens += count
        self.coordinator.say(
            Assign(
                [spec.encode()],
                [expected_us],
                [0] * count,
                [job_id(b"client--", t) for t in tokens],
                [1] * count,
                tokens,
                [b"" if large else payload] * count,
                [[row, *ref] for row, ref in enumerate(large)],
                [[sha_of(c), c] for c in code],
            )
        )
        return tokens

    def gives(self, *tokens: int, slot: int = 0) -> list[Run]:
        """The next effect gives just these to that slot's worker."""
        give = self.does(Give, slot=slot)
        assert [r.token for r in give.runs] == list(tokens)
        return give.runs

    def done(self, *tokens: int, slot: int = 0, payload: bytes = b"result") -> None:
        self.turn(WorkerDone(slot, 1000 + slot, [Done(t, SUCCEEDED, payload, None, 50) for t in tokens]))

    def done_large(self, *tokens: int, slot: int = 0, data: bytes) -> None:
        """The worker has put its result into the agent's directory."""
        ref = (sha_of(data), len(data))
        self.disk.blobs[ref[0]] = data
        self.turn(WorkerDone(slot, 1000 + slot, [Done(t, SUCCEEDED, b"", ref, 50) for t in tokens]))

    def recalled(self, *tokens: int, slot: int = 0) -> None:
        self.turn(Recalled(slot, list(tokens)))

    def leaves(self, slot: int) -> None:
        """Its worker is gone, by its own word or the agent's, and the next one is asked for."""
        self.turn(WorkerGone(slot, 1000 + slot, "it was to be replaced", None, False, [], replaced=True))
        self.does(SpawnWorker, slot=slot)

    def dies(
        self, slot: int = 0, suspect: int | None = None, unread: Sequence[int] = (), cause: str = "signal 9 (SIGKILL)"
    ) -> None:
        self.turn(WorkerGone(slot, 1000 + slot, cause, suspect, suspect is not None, list(unread)))

    def held(self) -> list[int]:
        return [a.run.token for a in self.agent._attempts]


class SessionPlay(DialerPlay):
    def __init__(self, limits: ClientLimits | None = None, address: str = "tcp://coordinator:7077") -> None:
        self.session = ClientSession(b"client--", "default", VERSION, limits, address)
        super().__init__(self.session)
        self.counter = 0
        self.settled: dict[int, Settled] = {}
        self.acknowledged = 0

    def turn(self, *events: Any) -> None:
        super().turn(*events)
        for effect in [e for e in self.effects if isinstance(e, Settle | Acknowledge)]:
            self.effects.remove(effect)
            if isinstance(effect, Acknowledge):
                assert effect.through > self.acknowledged, "the word of acceptance only rises"
                self.acknowledged = effect.through
            else:
                for row in effect.rows:
                    assert row.counter not in self.settled, f"{row} is a second outcome"
                    self.settled[row.counter] = row

    def joins(self) -> None:
        self.connect()
        self.coordinator.gets(ClientHello)
        self.coordinator.welcomes(resumed=False)

    def offer(
        self,
        count: int = 1,
        *,
        spec: Spec = SPEC,
        payload: bytes = b"args",
        large: bytes | None = None,
        code: bytes | None = None,
        block: bool = True,
    ) -> list[int]:
        """The user submits that many; their counters. ``large`` and ``code`` are put on the disk for them."""
        first = self.counter + 1
        self.counter += count
        for data in (large, code):
            if data is not None:
                self.disk.blobs[sha_of(data)] = data
        ref = None if large is None else (sha_of(large), len(large))
        value = None if code is None else (sha_of(code), code)
        inline = b"" if large is not None else payload
        counters = list(range(first, first + count))
        self.turn(Offered([Entry(c, spec.encode(), inline, ref, value, True, block) for c in counters]))
        return counters

    def cancel(self, *counters: int) -> None:
        self.turn(CancelWished(list(counters)))

    def ask(self, ask: int, topic: str) -> None:
        self.turn(Asked(ask, topic, {}))

    def leave(self) -> None:
        self.turn(LeaveWished("the client leaves"), Drained())

    def outcome(self, counter: int) -> Outcome:
        return Outcome(self.settled[counter].outcome)

    def failure(self, counter: int) -> Failure:
        return Failure.decode(self.settled[counter].payload)


# ------------------------------------------------------------------------------------ anything at all

_names = st.text(max_size=8)
_figures = st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False), st.none(), st.booleans())
_plain = st.recursive(
    _figures | _names | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


def _pack(value: Any) -> bytes:
    out: bytes = msgpack.packb(value)
    return out


_natural = st.integers(0, 40) | st.integers(0, (1 << 62) - 1)
_sha = st.sampled_from([sha_of(b"a"), sha_of(b"b")]) | st.binary(min_size=32, max_size=32)
_job = st.builds(job_id, st.integers(1, 3).map(lambda n: n.to_bytes(8, "big")), st.integers(0, 40))
_specs = [SPEC, Spec("by:value", True, sha_of(b"a"), 1), Spec("x", False, b"", labels=(("gpu", "a100"),))]
_unsound = [
    [s.name, s.by_value, s.code, size, s.namespace, s.owner, s.python, labels]
    for s in _specs
    for size in (0, (1 << 64) - 1)
    for labels in ({}, {"ab": 1}, ["ab"], [{"a": 1, "b": 2}], "ab")
]
_raw = (
    st.sampled_from([s.encode() for s in _specs])
    | st.sampled_from(_unsound).map(_pack)
    | _plain.map(_pack)
    | st.binary(max_size=8)
)
_abouts = (
    st.sampled_from(
        [About(), About(at=1.7e9), About(delay_s=3.0), About(key="k"), About(after=(job_id(bytes(7) + b"\1", 2),))]
    ).map(About.encode)
    | _plain.map(_pack)
    | st.binary(max_size=8)
)
_COLUMNS: dict[Check, st.SearchStrategy[Any]] = {
    m._naturals: _natural,
    m._job_ids: _job,
    m._inline: _raw,
    m._states: _raw,
    m._large: st.tuples(st.integers(0, 4), _sha, _natural).map(list),
    m._records: st.lists(_natural, min_size=5, max_size=5),
    m._code: st.tuples(_sha, st.sampled_from([b"a", b"b", b"?"])).map(list),
    m._short_texts: _names,
    m._rows: st.tuples(st.integers(0, 4), _abouts).map(list),
}
_FIELDS: dict[Check, st.SearchStrategy[Any]] = {
    m._natural: _natural,
    m._counter: st.integers(0, 40) | st.integers(0, (1 << 61) - 1),
    m._float: st.floats(allow_nan=False) | st.integers(0, 10),
    m._text: _names,
    m._bytes: st.binary(max_size=16) | st.integers(1, 3).map(lambda n: n.to_bytes(8, "big")),
    m._digest: _sha,
    m._truth: st.booleans(),
    m._labels: st.dictionaries(_names, _names, max_size=3),
    m._offers: st.dictionaries(_names, st.integers(0, 1 << 60) | st.floats(0, 1e6), max_size=3),
    m._mapping: st.dictionaries(_names, _plain, max_size=3),
    m._figures: st.dictionaries(_names, st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.none(), max_size=3),
}


@st.composite
def messages_of(draw: st.DrawFn, kind: type[Message]) -> Message:
    """Any message of a kind: whatever may cross the wire, with a leaning to figures that mean something."""
    rows = draw(st.integers(0, 4))
    values = []
    for name, check in zip(FIELDS[kind], CHECKS[kind], strict=True):
        if check in _FIELDS:
            values.append(draw(_FIELDS[check]))
        elif name in kind.COLUMNS:
            values.append(draw(st.lists(_COLUMNS[check], min_size=rows, max_size=rows)))
        else:
            values.append(draw(st.lists(_COLUMNS[check], max_size=4)))
    return kind(*values)


def any_message() -> st.SearchStrategy[Message]:
    return st.sampled_from(sorted(MESSAGES.values(), key=lambda c: c.KIND)).flatmap(messages_of)


def readable(raw: bytes) -> tuple[Header, Message] | Garbled:
    """What a transport makes of bytes."""
    try:
        return codec.decode(raw)
    except BadMessage as e:
        return Garbled(b"", CLIENT_KEY, str(e))
