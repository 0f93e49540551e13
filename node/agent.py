"""The agent: takes assignments, has them run, hands results over. Rules of this file: pure; how is the pool's.

It holds every attempt until the coordinator has acknowledged its result, over any number of links, and goes on
working while the coordinator is away. It alone beats: a worker that hogs its interpreter never looks dead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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
    WallClockJumped,
)
from cluster.config import BATCH_BYTES, INLINE_BYTES, MAX_BATCH, PROTOCOL, AgentLimits
from cluster.facts import fact
from cluster.jobs import AS_USUAL, BadSpec, End, Failure, Spec, thousandths
from cluster.messages import (
    Assign,
    BlobRefused,
    Bye,
    Chunk,
    Discard,
    Draining,
    Fetch,
    Finished,
    Heartbeat,
    Interrupt,
    Message,
    NodeHello,
    Pulse,
    Refusal,
    Retract,
    Returned,
    Saved,
    Started,
    Taken,
    Welcome,
)
from cluster.session import Dialer
from node import attempts as life
from node.attempts import Attempt, Attempts, Phase, Step
from node.devices import Devices
from node.events import (
    Done,
    Give,
    InterruptWorker,
    KillWorker,
    Look,
    Recall,
    Recalled,
    Run,
    Seen,
    SpawnWorker,
    StateSaved,
    WorkerDone,
    WorkerGone,
    WorkerUp,
)
from node.slots import Slot, Slots

MAX_SPECS = 2_000
"""Opened specs kept for the next message that names them."""


NOTED_WAIT_S = 0.01
"""An attempt that waited longer at its node has a record, however short it was."""


@dataclass(slots=True)
class VitalsTaken:
    """The host has measured this machine; plain numbers by name."""

    vitals: dict[str, Any]


@dataclass(slots=True)
class LeaveWished:
    """The agent shall stop: tell the coordinator, give back what has not started, let what runs go on for a while."""

    reason: str
    within_s: float = 0.0
    """After this what still runs is left, to be run elsewhere. A second wish may only shorten it."""


@dataclass(frozen=True, slots=True)
class Self:
    """What an agent says of itself."""

    session: bytes
    name: str
    incarnation: int
    host: str
    pid: int
    python: str
    version: str
    slots: int
    labels: dict[str, str]
    previous: bytes = b""
    """Session of the last life in the same directory that was welcomed."""
    lock: str = ""
    """Names the lock held on that directory, as in ``NodeHello``."""
    queues: tuple[str, ...] = ()
    """Those it serves; all, where none are named."""
    resources: dict[str, float] = field(default_factory=dict)
    """What jobs may claim there, beside slots."""
    gpus: tuple[str, ...] = ()
    """Ids of the graphics processors among that."""


class Agent:
    def __init__(self, me: Self, limits: AgentLimits | None = None) -> None:
        self._me = me
        self._limits = limits or AgentLimits()
        self._dialer = Dialer(self._hello)
        self._attempts = Attempts()
        self._slots = Slots(me.slots)
        self._devices = Devices(me.gpus, me.resources.get("gpus"))
        self._specs: dict[bytes, Spec] = {}
        self._shelf = blobs.Shelf(self._limits.cached_blobs, self._limits.cached_bytes)
        self._outgoing = blobs.Outgoing()
        self._incoming = blobs.Incoming(self._limits.max_blob_bytes)
        self._stored: set[bytes] = set()
        """Results that are blobs, and that the coordinator has said to hold."""
        self._wanted: dict[bytes, tuple[int, list[Attempt]]] = {}
        """Blobs asked of the coordinator, with their size and who waits."""
        self._unsent: list[Attempt] = []
        """Finished on this link's account, and not yet told."""
        self._unacked: deque[tuple[int, list[Attempt]]] = deque()
        self._states: list[Attempt] = []
        """Attempts that have saved something the coordinator has not been told on this link."""
        self._vitals: dict[str, Any] = {}
        self._leaving: str | None = None
        self._leave_by = float("inf")
        self._left = False
        self._now = self._wall = 0.0
        self._turn = Turn()

    # ------------------------------------------------------------------------------- the contract

    def turn(self, events: Sequence[Any], now: Now) -> Turn:
        self._turn = Turn()
        self._now, self._wall = now.mono, now.wall
        self._dialer.born(now.mono)
        drained = False
        for event in events:
            match event:
                case WorkerDone():
                    self._worker_done(event)
                case Received():
                    self._received(event)
                case Drained():
                    drained = True
                case WorkerUp():
                    self._worker_up(event)
                case WorkerGone():
                    self._worker_gone(event)
                case Recalled():
                    self._recalled(event)
                case StateSaved():
                    self._saved(event)
                case Seen():
                    self._seen(event)
                case blobs.ChunkWritten():
                    self._chunk_written(event)
                case blobs.ChunkRead():
                    chunk = self._outgoing.chunk(event, self._dialer.link.sent + 1)
                    if chunk is not None:
                        self._send(chunk)
                case blobs.BlobFailed():
                    if event.sha in self._incoming:
                        self._send(BlobRefused(event.sha, event.reason))
                    self._shelf.forget(event.sha)
                    self._do(blobs.DropBlob(event.sha))
                    self._blob_failed(event.sha, event.reason)
                case VitalsTaken():
                    self._measured(event.vitals)
                case Connected():
                    self._do(*self._dialer.connected(now.mono))
                case Disconnected():
                    self._dialer.disconnected()
                case Rejected():
                    self._do(Stop(event.reason, error=True))
                case LeaveWished():
                    self._leave(event)
                case Stalled():
                    self._stalled(event.seconds)
                case WallClockJumped():
                    self._fact("clock_jumped", seconds=event.seconds)
                case Garbled():
                    self._fact("garbled", reason=event.reason)
        self._staff()
        self._give()
        self._tell_states()
        self._tell_results()
        if self._outgoing:
            self._do(*self._outgoing.duties())
        if drained:
            self._judge()
        seconds = self._dialer.silence_ended()
        if seconds is not None:
            self._fact("link_back", seconds=seconds)
        return self._turn

    def deadline(self) -> float | None:
        beat = self._dialer.deadline(self._dialer.times.heartbeat_s)
        times = [t for t in (beat, self._dialer.word_due()) if t is not None]
        if self._leaving is not None and not self._left:
            times.append(self._leave_by if len(self._attempts) else self._now)
        limits = self._limits
        for slot in self._slots:
            if slot.given:
                if len(slot.given) > 1 and not slot.recalling:
                    times.append(slot.moved_at + limits.stuck_s)
                elif self._dialer.up and not self._told_started(slot):
                    times.append(slot.moved_at + limits.started_after_s)
                attempt = self._attempts.get(slot.head)
                if attempt is not None and (attempt.watch.stop is not None or attempt.run.spec.rules is not AS_USUAL):
                    times += self._due_times(slot, attempt)
            elif slot.spawning and not slot.killing:
                times.append(slot.asked_at + limits.start_within_s)
            elif slot.pid or slot.spawning:
                if slot.pid and not slot.killing and self._staffed > limits.min_workers:
                    times.append(slot.moved_at + limits.idle_s)
            elif not slot.resting and self._leaving is None:
                times.append(slot.spawn_at)
        return min(times, default=None)

    def _leave(self, wish: LeaveWished) -> None:
        self._leave_by = min(self._leave_by, self._now + wish.within_s)
        if self._leaving is None:
            self._leaving = wish.reason
            if wish.within_s:
                self._fact("drains", n=len(self._attempts), seconds=wish.within_s, reason=wish.reason)
                self._send(Draining(wish.reason))
                for slot in self._slots:
                    if len(slot.given) > 1:
                        self._recall(slot)

    # ------------------------------------------------------------------------------- small tools

    def _do(self, *effects: Any) -> None:
        self._turn.after_commit += effects

    def _fact(self, kind: str, n: int = 1, **about: Any) -> None:
        self._turn.facts.append(fact(kind, n, **about))

    def _send(self, message: Message) -> None:
        """While the link is down nothing is sent: the next hello puts things right."""
        if self._dialer.up:
            self._do(self._dialer.send(message, self._now))

    def _hello(self) -> Message:
        me = self._me
        held = list(self._attempts)
        return NodeHello(
            PROTOCOL,
            me.session,
            me.version,
            me.name,
            me.incarnation,
            me.previous,
            me.lock,
            me.host,
            me.pid,
            me.python,
            me.slots,
            me.labels,
            list(me.queues),
            [a.run.token for a in held],
            [a.run.job for a in held],
            [a.run.attempt for a in held],
            me.resources,
        )

    # ------------------------------------------------------------------------------- messages

    def _received(self, event: Received) -> None:
        message, sends = self._dialer.receive(event.header, event.message, self._now)
        self._do(*sends)
        if message is None:
            return
        self._acknowledged()
        match message:
            case Assign():
                self._assign(message)
            case Pulse():
                pass
            case Welcome():
                self._welcome(message)
            case Retract():
                self._retract(message.tokens)
            case Interrupt():
                self._interrupt(message.tokens, message.grace_ms / 1000)
            case Discard():
                self._discard(message.tokens, "the coordinator has given them to another, or to nobody")
            case Chunk():
                self._chunk(message)
            case Taken():
                if self._outgoing.taken(message, self._dialer.link.acked):
                    self._stored.add(message.sha)
                elif message.through and message.sha not in self._outgoing and message.sha not in self._stored:
                    self._send(self._outgoing.withdraw(message.sha))
            case BlobRefused():
                self._blob_failed(message.sha, message.reason)
            case Refusal():
                self._do(Stop(message.text, error=True))
            case _:
                self._fact("unexpected", reason=type(message).__name__)

    def _welcome(self, message: Welcome) -> None:
        self._fact("registered", epoch=message.epoch, link=self._dialer.link.number)
        for _, attempts in self._unacked:
            self._unsent += [a for a in attempts if a.phase is Phase.OWED and not a.discarded]
        self._unacked.clear()
        self._stored.clear()
        for word in self._outgoing.restart():
            self._send(word)
        if self._leaving is not None:
            self._send(Draining(self._leaving))
        for attempt in self._unsent:
            self._upload(attempt)
        for attempt in self._attempts:
            attempt.retract_asked = False
            attempt.told_started = False
            if attempt.watch.state is not None and (attempt.done is None or attempt.done.end != End.SUCCEEDED):
                attempt.own_watch.state_told = False
                self._states.append(attempt)
        for sha, (size, _) in self._wanted.items():
            self._send(Fetch(sha, size))

    def _acknowledged(self) -> None:
        acked = self._dialer.link.acked
        while self._unacked and self._unacked[0][0] <= acked:
            for attempt in self._unacked.popleft()[1]:
                self._forget(attempt)

    def _forget(self, attempt: Attempt) -> None:
        """The attempt is over and nobody asks for it any more."""
        if self._attempts.remove(attempt.run.token) is None:
            return
        if attempt.phase is not Phase.OWED:
            self._release_inputs(attempt)
        if attempt.done is not None and attempt.done.large is not None:
            sha = attempt.done.large[0]
            offered = sha in self._outgoing or sha in self._stored
            if offered and not any(a.needs(sha) for a in self._unsent if a is not attempt):
                self._withdraw(sha)
            self._do(*self._shelf.release(sha))

    def _withdraw(self, sha: bytes) -> None:
        """No result needs it any more that the coordinator does not have."""
        self._stored.discard(sha)
        self._send(self._outgoing.withdraw(sha))

    # ------------------------------------------------------------------------------- assignments

    def _assign(self, message: Assign) -> None:
        for sha, data in message.code:
            if sha not in self._shelf:
                self._shelf.add(sha, len(data))
                self._do(blobs.KeepBlob(sha, data))
        large = {row: (sha, size) for row, sha, size in message.large} if message.large else {}
        specs = [self._spec(raw) for raw in message.specs]
        expected = [us / 1e6 for us in message.expected_us]
        expected += [0.0] * (len(specs) - len(expected))
        for index, spec in enumerate(specs):
            if isinstance(spec, Spec) and spec.rules is not AS_USUAL:
                rules = spec.rules
                if rules.at_most_once or rules.timeout_s or rules.limited or rules.gpus:
                    expected[index] = 0.0  # it is alone in its worker
                if rules.gpus and not self._devices.could(thousandths(rules.gpus)):
                    specs[index] = f"it claims gpus {rules.gpus:g}, and the node does not offer so much"
        held, queue = self._attempts, self._attempts.queue
        link, now = self._dialer.link.number, self._now
        told: dict[int, bytes] = {row: raw for row, raw in message.about}  # noqa: C416 (the types)
        for row, (index, job, number, token, payload) in enumerate(
            zip(message.spec_of, message.jobs, message.attempts, message.tokens, message.payloads, strict=True)
        ):
            if held.get(token) is not None:
                continue
            spec = specs[index] if index < len(specs) else "the assignment names a spec its message lacks"
            if isinstance(spec, str):
                attempt = Attempt(Run(token, job, number, _UNKNOWN, payload, None), 0.0)
                held.add(attempt)
                self._end(attempt, _failure(token, "JobRefused", spec))
                continue
            about = told.get(row, b"") if told else b""
            run = Run(token, job, number, spec, payload, large.get(row) if large else None, 0.0, about)
            attempt = Attempt(run, expected[index], now, link)
            held.add(attempt)
            if spec.by_value or attempt.run.large is not None:
                self._want_inputs(attempt)
            if attempt.phase is Phase.QUEUED:
                queue.append(attempt)

    def _spec(self, raw: bytes) -> Spec | str:
        spec = self._specs.get(raw)
        if spec is None:
            if len(self._specs) >= MAX_SPECS:
                del self._specs[next(iter(self._specs))]
            try:
                spec = self._specs[raw] = Spec.decode(raw)
            except BadSpec as e:
                return f"the node cannot read the job's description: {e}"
        return spec

    def _inputs(self, attempt: Attempt) -> list[tuple[bytes, int]]:
        spec, large = attempt.run.spec, attempt.run.large
        out = [(spec.code, spec.code_size)] if spec.by_value else []
        return out if large is None else [*out, large]

    def _want_inputs(self, attempt: Attempt) -> None:
        """Hold the attempt's blobs, and ask for those that are not here."""
        for sha, size in self._inputs(attempt):
            self._shelf.hold(sha)
            if sha in self._shelf:
                continue
            attempt.phase = Phase.FETCHING
            attempt.missing += 1
            if sha in self._wanted:
                self._wanted[sha][1].append(attempt)
            else:
                self._wanted[sha] = (size, [attempt])
                self._send(Fetch(sha, size))

    def _release_inputs(self, attempt: Attempt) -> None:
        for sha, _ in self._inputs(attempt):
            self._do(*self._shelf.release(sha))

    def _arrived(self, sha: bytes, size: int) -> None:
        self._shelf.add(sha, size)
        for attempt in self._wanted.pop(sha, (0, []))[1]:
            attempt.missing -= 1
            if attempt.phase is Phase.FETCHING and not attempt.missing and not attempt.discarded:
                attempt.step(Step.ARRIVED)
                self._attempts.queue.append(attempt)

    def _chunk(self, chunk: Chunk) -> None:
        if chunk.sha not in self._wanted:
            if not chunk.offset:
                self._send(Taken(chunk.sha, chunk.size))  # it came on an earlier link
            return
        answer = self._incoming.take(chunk, have=False)
        if isinstance(answer, blobs.WriteChunk):
            self._do(answer)
        elif answer is not None:
            self._send(answer)
            if isinstance(answer, BlobRefused):
                self._blob_failed(chunk.sha, answer.reason)

    def _chunk_written(self, event: blobs.ChunkWritten) -> None:
        word = self._incoming.written(event)
        if word is None:
            return
        taken, whole = word
        self._send(taken)
        if whole:
            self._arrived(event.sha, event.through)

    def _blob_failed(self, sha: bytes, reason: str) -> None:
        """A blob cannot be had, or not be handed over: only the attempts that need it fail."""
        self._fact("blob_failed", sha=sha.hex()[:12], reason=reason)
        if self._incoming.drop(sha) and sha not in self._shelf:
            self._do(blobs.DropBlob(sha))
        for attempt in self._wanted.pop(sha, (0, []))[1]:
            if attempt.phase is Phase.FETCHING and not attempt.discarded:
                self._end(attempt, _failure(attempt.run.token, "JobLost", f"its payload could not be had: {reason}"))
        if sha in self._outgoing:
            self._withdraw(sha)
            for attempt in self._unsent:
                if attempt.needs(sha):
                    text = f"its result could not be handed over: {reason}"
                    attempt.done = _failure(attempt.run.token, "JobLost", text)
                    self._do(*self._shelf.release(sha))

    # ------------------------------------------------------------------------------- workers

    def _staff(self) -> None:
        """A worker for each slot, but for those that rest while there is no work for them."""
        if self._leaving is not None:
            return
        for slot in self._slots:
            if not slot.pid and not slot.spawning and self._now >= slot.spawn_at:
                if slot.resting and len(self._attempts.queue) <= self._free():
                    continue
                slot.spawning, slot.resting, slot.asked_at = True, False, self._now
                self._do(SpawnWorker(slot.number))

    @property
    def _staffed(self) -> int:
        return sum(1 for slot in self._slots if not slot.resting)

    def _free(self) -> int:
        return sum(1 for slot in self._slots if not slot.given and not slot.resting)

    def _worker_up(self, event: WorkerUp) -> None:
        slot = self._slots[event.slot]
        slot.pid, slot.spawning, slot.failures = event.pid, False, 0
        slot.moved_at, slot.init_us = self._now, event.init_us
        self._fact("worker_started", pid=event.pid, slot=event.slot)

    def _give(self) -> None:
        """Deal waiting attempts round the workers that have room, the emptiest first."""
        queue = self._attempts.queue
        if not queue or self._leaving is not None:
            return
        runs: dict[int, list[Run]] = {}
        put_off: list[Attempt] = []
        killing: bool | None = None
        devices_wait = False
        while queue:
            attempt = queue[0]
            if attempt.phase is not Phase.QUEUED or attempt.discarded:
                queue.popleft()
                continue
            if attempt.run.spec.rules is not AS_USUAL:
                if killing is None:
                    killing = self._still_killed()
                if killing:
                    put_off.append(queue.popleft())
                    continue
            if attempt.run.spec.rules.at_most_once:
                if self._now >= self._dialer.leased_until or not self._still_ours(attempt):
                    put_off.append(queue.popleft())
                    continue
                attempt.run = attempt.run._replace(start_by=self._dialer.leased_until)
            if attempt.run.spec.rules.gpus:
                # in order, or small claims that keep coming would hold up a large one for ever
                slot = None if devices_wait else self._with_devices(attempt)
                if slot is None:
                    devices_wait = True
                    put_off.append(queue.popleft())
                    continue
            else:
                slot = self._emptiest(attempt.expected_s)
            if slot is None:
                break
            queue.popleft()
            attempt.step(Step.GIVEN)
            attempt.slot = slot.number
            slot.give(attempt.run.token, attempt.expected_s, self._now)
            runs.setdefault(slot.number, []).append(attempt.run)
        queue.extendleft(reversed(put_off))
        for number, given in runs.items():
            self._do(Give(number, given))

    def _with_devices(self, attempt: Attempt) -> Slot | None:
        """Give it graphics processors and a worker that has run nothing: in another one CUDA may have looked already,
        and have found none. None if it has to wait, for devices or for such a worker.

        What does not fit waits here, though the coordinator counts enough as free: given back it would come again at
        once, since that knows no devices. It does not wait for ever: of what runs each end makes room, and nothing that
        claims devices passes it by.
        """
        claimed = thousandths(attempt.run.spec.rules.gpus)
        if not self._devices.fits(claimed):
            return None
        idle = [slot for slot in self._slots if not slot.given and slot.room(0.0, self._limits)]
        fresh = next((slot for slot in idle if not slot.used), None)
        if fresh is None:
            if idle and not (attempt.slot >= 0 and self._slots[attempt.slot].coming):
                attempt.slot = idle[0].number
                self._kill(idle[0], attempt.run.token)
            return None
        attempt.run = attempt.run._replace(gpus=self._devices.take(fresh.number, claimed))
        fresh.devices = attempt.run.token
        return fresh

    def _devices_back(self, slot: Slot) -> None:
        """Its worker has ended with all its processes, or has never read of them."""
        if slot.devices:
            self._devices.give_back(slot.number)
            slot.devices = 0

    def _still_killed(self) -> bool:
        """Whether something runs here that the coordinator has given up, and whose resources it counts as free."""
        held = self._attempts
        return any(
            attempt.discarded
            for slot in self._slots
            for token in slot.given
            if (attempt := held.get(token)) is not None
        )

    def _still_ours(self, attempt: Attempt) -> bool:
        """Of what we name in a hello the coordinator may say after its welcome that we have lost it: it has not, once
        it acknowledges anything we sent on that link."""
        link = self._dialer.link
        return attempt.link == link.number or link.acked > 0

    def _emptiest(self, expected_s: float) -> Slot | None:
        best: Slot | None = None
        for slot in self._slots:
            if slot.room(expected_s, self._limits) and (best is None or len(slot.given) < len(best.given)):
                best = slot
                if not slot.given:
                    break
        return best

    def _worker_done(self, event: WorkerDone) -> None:
        slot = self._slots[event.slot]
        slot.moved_at, slot.idle_deaths = self._now, 0
        slot.leaving = slot.leaving or bool(event.leaving)
        pid, take, held = event.pid, slot.take, self._attempts.get
        for done in event.rows:
            token, end, _, large, _, cpu_us, _ = done
            take(token)
            slot.cpu_us += cpu_us
            attempt = held(token)
            if attempt is None or attempt.phase is not Phase.GIVEN:
                if large is not None:
                    self._keep(*large)
                    self._do(*self._shelf.release(large[0]))
                continue
            attempt.pid = pid
            if slot.init_us:
                attempt.init_us, slot.init_us = slot.init_us, 0
            if end == End.UNSTARTED:
                self._take_back([attempt])
            else:
                self._end(attempt, done)
        if slot.devices and not slot.leaving:
            self._kill(slot, slot.devices)

    def _end(self, attempt: Attempt, done: Done) -> None:
        """The attempt has its outcome; it is owed to the coordinator from here on."""
        _, _, _, large, run_us, _, peak_kib = done
        if large is not None:
            self._keep(*large)
        attempt.done = done
        here_s = self._now - attempt.arrived
        if here_s > NOTED_WAIT_S or peak_kib or attempt.init_us:
            attempt.waited_us = max(0, int(here_s * 1e6) - run_us)
        attempt.step(Step.ENDED)
        if attempt.run.spec.by_value or attempt.run.large is not None:
            self._release_inputs(attempt)
        if attempt.discarded:
            self._forget(attempt)
            return
        self._unsent.append(attempt)
        if large is not None:
            self._upload(attempt)

    def _keep(self, sha: bytes, size: int) -> None:
        """Hold a blob that a worker has made, though one of the same bytes was to be dropped in this turn."""
        effects = self._turn.after_commit
        effects[:] = [e for e in effects if type(e) is not blobs.DropBlob or e.sha != sha]
        self._shelf.hold(sha)
        self._shelf.add(sha, size)

    def _worker_gone(self, event: WorkerGone) -> None:
        slot = self._slots[event.slot]
        cause, expected = event.cause, event.replaced or slot.resting or slot.killing > 0
        if slot.resting:
            cause = f"no work for it since {self._limits.idle_s:g} s"
        elif slot.killing and slot.spawning:
            cause = f"not ready after {self._limits.start_within_s:g} s (start_within_s)"
        self._fact("worker_replaced" if expected else "worker_died", pid=event.pid, slot=event.slot, cause=cause)
        if slot.spawning:
            slot.failures += 1
        elif event.suspect is None and not expected:
            slot.idle_deaths += 1
        if event.suspect is None:
            # The first death of an idle worker is an accident; what repeats itself is tried ever more slowly.
            excess = slot.failures + max(0, slot.idle_deaths - 1)
            pause_s = min(30.0, self._limits.spawn_retry_s * 2.0 ** min(excess - 1, 8)) if excess else 0.0
            slot.spawn_at = self._now + pause_s
        self._devices_back(slot)
        killed_for, cpu_us = slot.killing, max(0, event.cpu_us - slot.cpu_us)
        unread = []
        for token in list(slot.given):
            attempt = self._attempts.get(token)
            if attempt is None or attempt.phase is not Phase.GIVEN:
                continue
            bystander = killed_for and token != killed_for and not attempt.run.spec.rules.at_most_once
            if token == event.suspect and not bystander:
                attempt.pid = event.pid
                self._end(attempt, self._death_of(attempt, event, cpu_us))
            else:
                unread.append(attempt)
        slot.clear()
        self._take_back(unread)

    def _death_of(self, attempt: Attempt, event: WorkerGone, cpu_us: int) -> Done:
        """What is said of the attempt that a worker died with."""
        rules, stack = attempt.run.spec.rules, event.stack
        peak_kib = max(event.peak_kib, attempt.watch.seen_bytes >> 10)
        peak = f"; its memory peaked at {peak_kib >> 10} MiB" if peak_kib else ""
        kind, end = "WorkerCrashed", End.CRASHED
        match attempt.watch.stop:
            case life.Stop.CANCEL:
                kind, end = "Cancelled", End.CANCELLED
                text = f"cancelled while it ran, and killed {attempt.watch.grace_s:g} s later"
            case life.Stop.TIMEOUT:
                kind, end = "JobTimeout", End.TIMED_OUT
                text = (
                    f"killed {attempt.watch.grace_s:g} s (grace_s) after its timeout_s of {rules.timeout_s:g} s{peak}"
                )
            case life.Stop.MEMORY:
                end = End.MEMORY
                used = attempt.watch.seen_bytes
                text = f"killed by the agent: {used} bytes of memory where its memory_bytes is {rules.memory_bytes}"
            case life.Stop.PROCESSES:
                end = End.RAISED
                text = f"killed by the agent: more processes and threads than its limit of {rules.processes}"
            case _:
                when = "under the job" if event.noted else "before the job's function began"
                text, stack = f"the worker process died {when}: {event.cause}{peak}", ""
                end = End.MEMORY if event.out_of_memory else End.CRASHED
        run_us = max(0, int((self._now - self._slots[attempt.slot].moved_at) * 1e6))
        failure = Failure(kind, text, stack.strip())
        return Done(attempt.run.token, end, failure.encode(), None, run_us, cpu_us, peak_kib)

    def _recalled(self, event: Recalled) -> None:
        slot = self._slots[event.slot]
        slot.recalling = False
        back = []
        for token in event.tokens:
            slot.take(token)
            attempt = self._attempts.get(token)
            if attempt is not None and attempt.phase is Phase.GIVEN:
                attempt.expected_s = 0.0  # the figure was wrong here: one at a time from now on
                back.append(attempt)
            if token == slot.devices:
                self._devices_back(slot)
        slot.distrust()
        self._take_back(back)
        kept = []
        for token in slot.given:
            attempt = self._attempts.get(token)
            if attempt is None:
                continue
            if attempt.discarded:
                self._kill(slot, token)
            elif attempt.watch.stop is not None:
                self._unwind(slot, attempt)
            elif attempt.retract_asked:
                attempt.retract_asked = False
                kept.append(token)
        if kept:
            self._send(Returned([], kept))

    def _take_back(self, attempts: list[Attempt]) -> None:
        """Unread attempts wait again, but for those that are not wanted here any more."""
        stay, returned = [], []
        for attempt in attempts:
            if attempt.discarded:
                self._forget(attempt)
            elif attempt.watch.stop is life.Stop.CANCEL:
                self._end(attempt, _unstarted(attempt.run.token))
            elif attempt.retract_asked and self._dialer.up:
                returned.append(attempt)
            else:
                if attempt.watch.stop is not None:
                    attempt.watch.stop, attempt.watch.kill_at = None, 0.0  # its time has not begun
                stay.append(attempt)
        self._attempts.requeue(stay)
        self._return(returned)

    def _return(self, attempts: list[Attempt]) -> None:
        if attempts:
            for attempt in attempts:
                attempt.discarded = True  # a queue may still name it
                self._forget(attempt)
            self._send(Returned([a.run.token for a in attempts], []))

    def _recall(self, slot: Slot) -> None:
        if not slot.recalling:
            slot.recalling = True
            self._do(Recall(slot.number))

    # ------------------------------------------------------------------------------- ending what runs

    def _interrupt(self, tokens: list[int], grace_s: float) -> None:
        for token in dict.fromkeys(tokens):
            attempt = self._attempts.get(token)
            if attempt is None or attempt.phase is Phase.OWED or attempt.discarded:
                continue
            if attempt.phase is not Phase.GIVEN:
                self._end(attempt, _unstarted(token))
            elif attempt.watch.stop is None:
                attempt.own_watch.stop, attempt.own_watch.grace_s = life.Stop.CANCEL, grace_s
                self._recall(self._slots[attempt.slot])  # if it comes back, it has not started
            elif attempt.watch.kill_at:
                attempt.own_watch.kill_at = min(attempt.watch.kill_at, self._now + grace_s)

    def _unwind(self, slot: Slot, attempt: Attempt) -> None:
        """The attempt runs, and nothing lies behind it: interrupt it until it ends, and kill it in the end."""
        if not attempt.watch.kill_at:
            attempt.own_watch.kill_at = self._now + max(attempt.watch.grace_s, self._limits.interrupt_every_s / 2)
            attempt.own_watch.again_at = self._now
        self._press(slot, attempt)

    def _press(self, slot: Slot, attempt: Attempt) -> None:
        if self._now >= attempt.watch.kill_at:
            self._kill(slot, attempt.run.token)
        elif self._now >= attempt.watch.again_at:
            every, left_s = self._limits.interrupt_every_s, attempt.watch.kill_at - self._now
            first = attempt.watch.again_at <= attempt.watch.kill_at - max(attempt.watch.grace_s, every / 2)
            timeout_s = attempt.run.spec.rules.timeout_s if attempt.watch.stop is life.Stop.TIMEOUT else 0.0
            self._do(InterruptWorker(slot.number, attempt.run.token, timeout_s, dump=first or left_s <= 2 * every))
            last = attempt.watch.kill_at - every / 4  # for the stack that is told
            attempt.own_watch.again_at = min(self._now + every, last) if last > self._now else self._now + every

    def _kill(self, slot: Slot, token: int) -> None:
        if not slot.killing:
            slot.killing = token
            self._do(KillWorker(slot.number))

    def _due_times(self, slot: Slot, attempt: Attempt) -> list[float]:
        """When the attempt that runs must be attended to, for its limits or its end."""
        if slot.killing:
            return []
        if attempt.watch.stop is not None:
            return [min(attempt.watch.again_at, attempt.watch.kill_at)] if attempt.watch.kill_at else []
        rules, times = attempt.run.spec.rules, []
        if rules.timeout_s:
            times.append(slot.moved_at + rules.timeout_s)
        if rules.memory_bytes or rules.processes:
            times.append(max(attempt.watch.seen_at, slot.moved_at) + self._limits.look_every_s)
        return times

    def _limit(self, slot: Slot, attempt: Attempt) -> None:
        rules = attempt.run.spec.rules
        if slot.killing:
            return
        if attempt.watch.stop is not None:
            if attempt.watch.kill_at:
                self._press(slot, attempt)
            return
        if rules.timeout_s and self._now >= slot.moved_at + rules.timeout_s:
            attempt.own_watch.stop, attempt.own_watch.grace_s = life.Stop.TIMEOUT, rules.grace_s
            self._recall(slot)
        elif (rules.memory_bytes or rules.processes) and (
            self._now >= max(attempt.watch.seen_at, slot.moved_at) + self._limits.look_every_s
        ):
            attempt.own_watch.seen_at = self._now
            self._do(Look(slot.number, attempt.run.token))

    def _seen(self, event: Seen) -> None:
        slot, attempt = self._slots[event.slot], self._attempts.get(event.token)
        if attempt is None or slot.head != event.token or attempt.phase is not Phase.GIVEN:
            return
        rules = attempt.run.spec.rules
        attempt.own_watch.seen_bytes = max(attempt.watch.seen_bytes, event.memory_bytes)
        if rules.memory_bytes and event.memory_bytes > rules.memory_bytes:
            attempt.own_watch.stop = life.Stop.MEMORY
        elif rules.processes and event.processes > rules.processes:
            attempt.own_watch.stop = life.Stop.PROCESSES
        else:
            return
        self._recall(slot)
        self._kill(slot, event.token)

    # ------------------------------------------------------------------------------- what jobs save

    def _saved(self, event: StateSaved) -> None:
        attempt = self._attempts.get(event.token)
        if attempt is not None and attempt.phase is Phase.GIVEN and not attempt.discarded:
            attempt.own_watch.state, attempt.own_watch.state_told = event.state, False
            self._states.append(attempt)

    def _tell_states(self) -> None:
        if not self._states or not self._dialer.up:
            return
        tell = {
            a.run.token: a
            for a in self._states
            if not a.watch.state_told and a.watch.state is not None and not a.discarded
        }
        self._states.clear()
        tokens: list[int] = []
        states: list[bytes] = []
        for token, attempt in tell.items():
            assert attempt.watch.state is not None
            attempt.own_watch.state_told = True
            tokens.append(token)
            states.append(attempt.watch.state)
            if sum(map(len, states)) >= BATCH_BYTES:
                self._send(Saved(tokens, states))
                tokens, states = [], []
        if tokens:
            self._send(Saved(tokens, states))

    # ------------------------------------------------------------------------------- taking back

    def _retract(self, tokens: list[int]) -> None:
        back, kept = [], []
        for token in dict.fromkeys(tokens):
            attempt = self._attempts.get(token)
            if attempt is None or attempt.phase is Phase.OWED:
                kept.append(token)
            elif attempt.phase is Phase.GIVEN:
                attempt.retract_asked = True
                self._recall(self._slots[attempt.slot])
            else:
                back.append(attempt)
        self._return(back)
        if kept:
            self._send(Returned([], kept))

    def _discard(self, tokens: list[int], reason: str) -> None:
        count = 0
        for token in tokens:
            attempt = self._attempts.get(token)
            if attempt is None:
                continue
            count += 1
            attempt.discarded = True
            if attempt.phase is Phase.GIVEN:
                self._recall(self._slots[attempt.slot])
            else:
                self._forget(attempt)
        self._unsent = [a for a in self._unsent if not a.discarded]
        if count:
            self._fact("assignments_discarded", count, reason=reason)

    # ------------------------------------------------------------------------------- results

    def _upload(self, attempt: Attempt) -> None:
        if attempt.done is not None and attempt.done.large is not None:
            self._stored.discard(attempt.done.large[0])
            self._outgoing.send(*attempt.done.large)

    def _tell_results(self) -> None:
        """Messages for all results that can go: the large ones once their bytes have arrived."""
        if not self._unsent or not self._dialer.up:
            return
        waiting = []
        ready: list[Attempt] = []
        size = 0
        named: set[bytes] = set()
        for attempt in self._unsent:
            done = attempt.done
            assert done is not None
            large = done.large
            if large is not None:
                if large[0] not in self._stored or large[0] in named:
                    waiting.append(attempt)
                    continue
                named.add(large[0])
            ready.append(attempt)
            size += len(done.payload)
            if size >= BATCH_BYTES or len(ready) >= MAX_BATCH:
                self._finished(ready)
                ready, size = [], 0
        if ready:
            self._finished(ready)
        self._unsent = waiting
        for attempt in waiting:
            # A blob is kept for the result that names it; for others of the same bytes it is offered again.
            if attempt.done is not None and attempt.done.large is not None and attempt.done.large[0] in named:
                self._upload(attempt)
        self._stored -= named

    def _finished(self, attempts: list[Attempt]) -> None:
        tokens, ends, payloads, large, times_us, workers = [], [], [], [], [], []
        records = []
        for row, attempt in enumerate(attempts):
            done = attempt.done
            assert done is not None
            token, end, payload, blob, run_us, cpu_us, peak_kib = done
            tokens.append(token)
            ends.append(int(end))
            payloads.append(payload)
            if blob is not None:
                large.append([row, *blob])
            times_us.append(run_us)
            workers.append(attempt.pid)
            if attempt.waited_us or peak_kib or attempt.init_us:
                peak_kib = max(peak_kib, attempt.watch.seen_bytes >> 10)
                records.append([row, cpu_us or run_us, peak_kib, attempt.waited_us, attempt.init_us])
        self._send(Finished(tokens, ends, payloads, large, times_us, workers, records))
        self._unacked.append((self._dialer.link.sent, attempts))
        now, link = self._now, self._dialer.link.number  # what an earlier link left waited for this one too
        ran = zip(attempts, times_us, strict=True)
        waited_s = [max(0.0, now - a.arrived - us / 1e6) for a, us in ran if a.pid and a.link == link]
        self._fact("jobs_run", len(attempts), outcome="finished", waited_s=waited_s)

    # ------------------------------------------------------------------------------- time

    def _measured(self, vitals: dict[str, Any]) -> None:
        self._vitals = vitals
        gauges = {
            "slots": len(self._slots),
            "slots_busy": sum(1 for slot in self._slots if slot.given),
            "workers": sum(1 for slot in self._slots if slot.pid),
            "attempts": len(self._attempts),
            "results_owed": len(self._unsent) + sum(len(attempts) for _, attempts in self._unacked),
        }
        self._fact("node_measured", len(self._attempts), vitals=vitals, figures=gauges)

    def _stalled(self, seconds: float) -> None:
        self._fact("stalled", seconds=seconds)
        self._dialer.stalled(seconds)
        for slot in self._slots:
            slot.moved_at += seconds
            slot.asked_at += seconds
            attempt = self._attempts.get(slot.head)
            if attempt is not None and attempt.watch.kill_at:
                attempt.own_watch.kill_at += seconds

    def _is_superfluous(self, slot: Slot) -> bool:
        idle = bool(slot.pid) and not slot.killing and not slot.leaving
        return idle and self._now >= slot.moved_at + self._limits.idle_s and self._staffed > self._limits.min_workers

    def _told_started(self, slot: Slot) -> bool:
        attempt = self._attempts.get(next(iter(slot.given)))
        return attempt is None or attempt.told_started

    def _judge(self) -> None:
        started = []
        limits = self._limits
        for slot in self._slots:
            if not slot.given:
                if slot.spawning and self._now >= slot.asked_at + limits.start_within_s and not slot.killing:
                    self._kill(slot, -1)
                elif self._is_superfluous(slot):
                    slot.resting = True
                    self._kill(slot, -1)
                continue
            running = self._attempts.get(slot.head)
            if running is not None and (running.watch.stop is not None or running.run.spec.rules is not AS_USUAL):
                self._limit(slot, running)
            if len(slot.given) > 1 and self._now >= slot.moved_at + self._limits.stuck_s:
                self._recall(slot)
            if self._now >= slot.moved_at + self._limits.started_after_s and not self._told_started(slot):
                token = next(iter(slot.given))
                attempt = self._attempts.get(token)
                if attempt is not None and self._dialer.up:
                    attempt.told_started = True
                    started.append(token)
        if started:
            self._send(Started(started))
        if self._leaving is not None and not self._left:
            self._return([a for a in self._attempts if a.phase in (Phase.FETCHING, Phase.QUEUED) and not a.discarded])
            if self._now >= self._leave_by or not len(self._attempts):
                self._send(Bye(self._leaving))
                self._do(Stop(self._leaving))
                self._left = True
                return
        seconds = self._dialer.silence(self._now)
        if seconds is not None:
            answers = "it does not answer" if self._dialer.has_connection else "there is no connection"
            self._fact("link_down", seconds=seconds, reason=answers)
        self._do(
            *self._dialer.due(
                self._now, lambda: Heartbeat({**self._vitals, "wall_s": self._wall}), self._dialer.times.heartbeat_s
            )
        )


def _unstarted(token: int) -> Done:
    return _failure(token, "Cancelled", "cancelled before it started", End.CANCELLED)


_UNKNOWN = Spec("unknown", False, b"")


def _failure(token: int, kind: str, text: str, end: End = End.SPOILT) -> Done:
    return Done(token, end, Failure(kind, text).encode(), None, 0)


assert INLINE_BYTES < BATCH_BYTES
