"""The hosts of the actors. Rules of this file: as boring as the real host; no decision that an actor could take.

A machine batches what happened into turns, says ``Drained`` when nothing waits, and ``Stalled`` after a pause. Each
has clocks of its own. Whatever an actor raises ends the world.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from cluster.actor import Actor, Drained, Identity, Now, Send, Stalled, Stop, Turn, WallClockJumped
from cluster.blobs import DropBlob, KeepBlob, ReadChunk, WriteChunk
from cluster.client_session import (
    Acknowledge,
    Answered,
    Asked,
    CancelDenied,
    CancelWished,
    ClientSession,
    Entry,
    GiveUp,
    Held,
    LeaveWished,
    Offered,
    Settle,
)
from cluster.commits import HELD_MAX, QUICK_S
from cluster.config import AgentLimits, CoordinatorLimits, Times
from cluster.ids import format_job, job_id
from cluster.jobs import About, Rules, Spec
from node import agent as agents
from node.agent import Agent, Self
from node.events import Give, InterruptWorker, KillWorker, Look, Recall, SpawnWorker
from scheduler.coordinator import Coordinator
from scheduler.journal import READERS, SpaceMeasured
from scheduler.store import Recovered, UnfinishedRow
from tests.scheduler.store.model import Disk as RowsOnDisk
from tests.scheduler.store.model import ModelStore
from tests.simulation.disks import Disk, Memory
from tests.simulation.leaks import excess
from tests.simulation.ledger import ORDER, Broken, Draining, Ending, Undraining
from tests.simulation.network import Wire
from tests.simulation.pool import Pool
from tests.simulation.work import GPUS, LARGE_BYTES, OFFERS, OLD, Work, sha

if TYPE_CHECKING:
    from tests.simulation.world import World

STALL_S = 1.0
"""Lateness that the real host tells its actor."""

TICK_S = 0.5
"""Longest sleep of the real host."""

JUMP_S = 1.0
"""Jump of the wall clock that the real host tells its actor."""

PAYLOADS_READ = 20
"""Jobs whose payloads are read at a restart; the others' are read when their turn comes."""

IDLE_TURNS = 200
"""Turns in a row without an event and with a deadline that has passed: the actor spins."""


@dataclass(slots=True)
class Directory:
    """What a node keeps on its disk. ``lock`` belongs to this very directory, and to this boot of its machine."""

    lock: str
    incarnation: int = 0
    previous: bytes = b""


NODE_KEY = Identity("nodes' key", "node", "nodes", "default")
CLIENT_KEY = Identity("clients' key", "client", "clients", "default")


def blobs_of(recovered: Recovered) -> set[bytes]:
    """Those that rows name: they stay on the coordinator's disk."""
    return {Spec.decode(row.raw).code for row in recovered.specs if row.blob} | recovered.blobs.keys()


class Machine:
    """One process. ``life`` is a number no other process of this world has."""

    def __init__(self, world: World, name: str, chance: Random) -> None:
        self.world = world
        self.name = name
        self.life = world.new_life()
        self.alive = True
        self.chance = chance
        self._clock = world.clock
        self._mono = chance.uniform(0, 1e5)
        self._wall = self._known_wall = world.wall_of(name)
        self._inbox: deque[Any] = deque()
        self._turn_at: float | None = None
        self._late = 0.0
        self._working: Turn | None = None
        """A turn whose effects are yet to be performed."""
        self._spins = 0
        self.paused = False
        self.turns = 0

    @property
    def actor(self) -> Actor:
        raise NotImplementedError

    # -- waking up ----------------------------------------------------------------------------------

    def post(self, event: Any) -> None:
        if self.alive:
            self._inbox.append(event)
            self.ring()

    def ring(self) -> None:
        """Something waits: there will be a turn, after a moment in which more may come."""
        if self._turn_at is None or self._turn_at > self._clock.now + 0.0001:
            slow = 20 if self.chance.random() < 0.05 else 1
            self._wake(self._clock.now + slow * self.chance.uniform(0.00002, 0.0005))

    def _wake(self, moment: float) -> None:
        if self._turn_at is None or moment < self._turn_at:
            self._turn_at = moment
            self._clock.at(moment, self._run, moment)

    def set_wall(self, wall: float) -> None:
        """Somebody sets the clock on the wall; the host sees it in its next turn, whatever wakes it."""
        self._wall = wall

    def _run(self, moment: float) -> None:
        if self.alive and not self.paused and self._turn_at == moment:
            self._turn_at = None
            if self._working is None:
                self._take_turn()

    def pause(self, seconds: float) -> None:
        """The process does not run, as after SIGSTOP; what comes in waits."""
        if self.alive and not self.paused:
            self.paused = True
            sleeping = TICK_S if self._turn_at is None else min(TICK_S, max(0.0, self._turn_at - self._clock.now))
            self._clock.after(seconds, self._resume, seconds - sleeping)

    def _resume(self, late: float) -> None:
        if self.alive:
            self.paused = False
            self._late = late if late >= STALL_S else 0.0
            self._turn_at = None
            if self._working is not None:
                self._end_turn()
            else:
                self._wake(self._clock.now)

    # -- a turn -------------------------------------------------------------------------------------

    def _waiting(self) -> bool:
        return bool(self._inbox)

    def _drain(self) -> list[Any]:
        limit = self.chance.randint(1, 8) if self.chance.random() < 0.1 else 256
        return [self._inbox.popleft() for _ in range(min(limit, len(self._inbox)))]

    def _take_turn(self) -> None:
        events = self._drain()
        self._watch_for_spinning(events)
        if abs(self._wall - self._known_wall) >= JUMP_S:
            events.insert(0, WallClockJumped(self._wall - self._known_wall))
            self._known_wall = self._wall
        if self._late:
            events.insert(0, Stalled(self._late))
            self._late = 0.0
        if not self._waiting():
            events.append(Drained())
        now = Now(self._clock.now + self._mono, self._clock.now + self._wall)
        self._working = self.actor.turn(events, now)
        self.turns += 1
        if self.chance.random() < 0.3:  # the rest of the world goes on while this one thinks
            self._clock.after(self.chance.uniform(0.00005, 0.001), self._end_turn)
        else:
            self._end_turn()

    def _end_turn(self) -> None:
        turn = self._working
        if not self.alive or self.paused or turn is None:
            return
        self._working = None
        for fact in turn.facts:
            self._note(fact.kind, fact.n, fact.about, fact.text)
        self._release(turn)
        if not self.alive:
            return
        if self._waiting():
            self._wake(self._clock.now + 0.0001)
            return
        deadline = self.actor.deadline()
        if deadline is not None:
            self._wake(max(deadline - self._mono, self._clock.now + 0.0001))

    def _release(self, turn: Turn) -> None:
        assert not turn.writes, f"{self.name} has no store"
        for effect in (*turn.at_once, *turn.after_commit):
            if self.alive:
                self._perform(effect)

    def _watch_for_spinning(self, events: list[Any]) -> None:
        deadline = self.actor.deadline()
        spins = not events and deadline is not None and deadline < self._clock.now + self._mono - 0.01
        self._spins = self._spins + 1 if spins else 0
        if self._spins > IDLE_TURNS:
            raise Broken(f"{self.name} spins: its deadline has passed, and its turns do nothing about it")

    def _perform(self, effect: Any) -> None:
        raise NotImplementedError

    def _note(self, kind: str, n: int, about: dict[str, Any], text: str) -> None:
        self.world.ledger.note("{}: {}", self.name, text)

    def end(self) -> None:
        """The process is gone, with all it knew."""
        self.alive = False
        self._inbox.clear()


@dataclass(slots=True)
class Dataset:
    """What the coordinator's disk holds: it outlives every process, and a commit under way may have reached it."""

    rows: RowsOnDisk = field(default_factory=RowsOnDisk)
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    fate: str = ""
    """What strikes the coordinator in its next commit, as a word for people; empty for nothing."""
    commits: int = 0
    slow_commits: int = 0


class CoordinatorMachine(Machine):
    """With a store, by the rules of ``cluster/commits.py``: what a turn sends leaves when its rows are on disk, in the
    order of the turns. Turns computed meanwhile share the next commit; after a quick one the loop waits for the next.
    """

    def __init__(self, world: World, epoch: int, kept: Dataset) -> None:
        super().__init__(world, "coordinator", world.chance("coordinator" if epoch == 1 else f"coordinator {epoch}"))
        self._kept = kept
        self._store: ModelStore | None = None
        self._held: list[Turn] = []
        self._under_way: list[Turn] = []
        self._on_disk = False
        """What is under way has been made; only we have not seen it yet."""
        self._blocked = False
        """The loop waits for a commit."""
        self._last_s = 0.0
        recovered: Recovered | None = None
        unfinished: list[UnfinishedRow] = []
        self.disk = Disk(self._clock, self.chance, self.post, world.disk_fails)
        if world.plan.store:
            self._store = ModelStore(kept.rows)
            recovered = self._store.recover()
            unfinished = self._store.unfinished(0, PAYLOADS_READ, True)
            unfinished += self._store.unfinished(unfinished[-1].rank, 1_000_000, False) if unfinished else []
            wanted = blobs_of(recovered)
            self.disk.files = {sha: data for sha, data in kept.blobs.items() if sha in wanted}
        kept.blobs = self.disk.files
        self.coordinator = Coordinator(
            epoch,
            "the cluster",
            "0",
            world.chance("placement"),
            Times(session_s=world.plan.session_s),
            CoordinatorLimits(
                max_jobs=world.plan.max_jobs,
                payload_memory_bytes=world.plan.payload_memory_bytes,
                keep_outcomes=world.plan.keep_outcomes,
            ),
            recovered=recovered,
            unfinished=unfinished,
        )

    @property
    def actor(self) -> Actor:
        return self.coordinator

    def _end_turn(self) -> None:
        super()._end_turn()
        if self.turns % 8 == 0 and (word := excess(self, self.world.plan)):
            raise Broken(word)

    def measure_space(self, free: int) -> None:
        if self._store is not None:
            self.post(SpaceMeasured(free))

    # -- commits ------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        if not self._blocked and len(self._held) < HELD_MAX:
            super()._take_turn()

    def _release(self, turn: Turn) -> None:
        if self._store is None:
            super()._release(turn)
            return
        for effect in turn.at_once:
            self._perform(effect)
        self._held.append(turn)
        self._advance()

    def _advance(self) -> None:
        """Release what needs no commit, and commit what does."""
        while self._held and not self._under_way and self.alive:
            turns, self._held = self._held, []
            writes = [write for turn in turns for write in turn.writes]
            if writes:
                self._commit(turns, writes)
            else:
                self._let_go(turns)

    def _commit(self, turns: list[Turn], writes: list[Any]) -> None:
        assert self._store is not None
        self._store.write(writes)  # raises if a row contradicts another: a finding
        slow = self.world.faulty and self.chance.random() < self.world.plan.slow_commit
        seconds = 10 ** self.chance.uniform(-2.5, 0.2) if slow else self.chance.uniform(0.0001, 0.002)
        self._kept.slow_commits += slow
        self._blocked = self._last_s < QUICK_S
        self._last_s = seconds
        self._under_way = turns
        fate, self._kept.fate = self._kept.fate, ""
        if fate:
            self._clock.after(seconds * self.chance.random(), self._strike, fate)
        self._clock.after(seconds, self._committed, seconds)

    def _strike(self, fate: str) -> None:
        if self.alive and not self._on_disk:
            self.world.commit_struck(fate)

    def _committed(self, seconds: float) -> None:
        if not self.alive:
            return
        assert self._store is not None
        self._store.commit()
        self._stored()
        self._kept.commits += 1
        self._on_disk = True
        if self._blocked and seconds >= STALL_S:
            self._late = max(self._late, seconds)
        if not self.paused:
            self._conclude()

    def _conclude(self) -> None:
        turns, self._under_way = self._under_way, []
        self._on_disk = self._blocked = False
        self._let_go(turns)
        self._advance()
        if self.alive:
            self._wake(self._clock.now + 0.0001)

    def _let_go(self, turns: list[Turn]) -> None:
        for turn in turns:
            for effect in turn.after_commit:
                if self.alive:
                    self._perform(effect)

    def _resume(self, late: float) -> None:
        super()._resume(late)
        if self.alive and self._on_disk:
            self._conclude()

    def end(self) -> None:
        """A commit under way may have reached the disk all the same; what waits for the next has not."""
        super().end()
        if self._store is not None:
            if self._under_way and not self._on_disk:
                reached = self.chance.random() < 0.5
                self.world.faults[f"coordinators dead in a commit that {'was' if reached else 'was not'} made"] += 1
                if reached:
                    self._store.commit()
                    self._stored()
            if any(turn.writes for turn in self._held):
                self.world.faults["coordinators dead with rows not written"] += 1
            self._store.close()

    def _stored(self) -> None:
        """What is under way has reached the disk."""
        self.world.ledger.stored(row.id for turn in self._under_way for c in turn.writes for row in c.outcomes)
        for turn in self._under_way:
            for change in turn.writes:
                self.world.chronos.committed(change)

    def _perform(self, effect: Any) -> None:
        match effect:
            case Send():
                event = self.world.network.send_down(effect)
                if event is not None:
                    self.post(event)
            case KeepBlob() | WriteChunk() | ReadChunk() | DropBlob():
                self.disk.perform(effect)
            case _ if type(effect) in READERS:
                assert self._store is not None
                before = self._store.rows.outcomes.copy()
                self.post(READERS[type(effect)](self._store, effect))
                self.world.ledger.pruned(before.keys() - self._store.rows.outcomes.keys())
            case _:
                raise Broken(f"the coordinator wants {effect}")

    def _note(self, kind: str, n: int, about: dict[str, Any], text: str) -> None:
        super()._note(kind, n, about, text)
        if kind == "node_lost":
            self.world.ledger.node_lost(about["node"])
            if about["reason"] == "a new life of it has come":
                self.world.deposed(about["session"])
        elif kind == "results_discarded":
            self.world.discarded += 1
        elif kind == "jobs_recovered":
            self.world.recovered += n
        elif kind == "jobs_requeued" and "since the coordinator was restarted" in about["cause"]:
            self.world.left_over += n
        elif kind == "jobs_requeued" and "is drained, and its time is over" in about["cause"]:
            self.world.ledger.node_lost(about["cause"].split()[1])


class OldAgent(Agent):
    """Of an earlier release, which knows no budgets: it cannot read a description that has any."""

    def _spec(self, raw: bytes) -> Spec | str:
        spec = super()._spec(raw)
        if isinstance(spec, Spec) and spec.rules != Rules(at_most_once=spec.rules.at_most_once):
            return f"the node cannot read the job's description: {OLD}"
        return spec


class NodeMachine(Machine):
    """``directory`` is its own, though another node's may be a copy of it."""

    def __init__(self, world: World, name: str, directory: Directory) -> None:
        directory.incarnation += 1
        super().__init__(world, name, world.chance(f"{name} {directory.incarnation} {directory.lock}"))
        plan = world.plan
        labels = world.labels_of(name)
        self.session = self.chance.randbytes(8)
        me = Self(
            self.session,
            name,
            directory.incarnation,
            f"{name}.host",
            self.life,
            "3.11",
            "0",
            plan.slots,
            labels,
            directory.previous,
            directory.lock,
            resources=OFFERS,
            gpus=GPUS,
        )
        self.directory = directory
        self.born_at = self._clock.now
        self.born_with = directory.previous
        self.ended_at: float | None = None
        make = OldAgent if world.is_old(name) else Agent
        self.agent = make(me, AgentLimits(cached_blobs=plan.spare_blobs))
        self.disk = Disk(self._clock, self.chance, self.post, world.disk_fails)
        self.pool = Pool(
            self._clock,
            self.chance,
            plan,
            world.ledger,
            self.disk,
            name,
            self.life,
            self.ring,
            labels,
            lambda: self._clock.now + self._mono,
        )
        self.pool.faulty = world.faulty
        self.wire = Wire(self, NODE_KEY)
        self.stopped: Stop | None = None
        world.network.dial(self.wire)
        self.post(agents.VitalsTaken({"load": 0.5}))

    @property
    def actor(self) -> Actor:
        return self.agent

    def _waiting(self) -> bool:
        return bool(self._inbox) or self.pool.pending

    def _drain(self) -> list[Any]:
        return [*self.pool.drain(), *super()._drain()]

    def leave(self, within_s: float = 0.0) -> None:
        self.post(agents.LeaveWished("told to stop", within_s))

    def _perform(self, effect: Any) -> None:
        match effect:
            case Send():
                self.world.network.send_up(self.wire, effect)
            case SpawnWorker() | Give() | Recall() | KillWorker() | InterruptWorker() | Look():
                self.pool.perform(effect)
            case KeepBlob() | WriteChunk() | ReadChunk() | DropBlob():
                self.disk.perform(effect)
            case Stop():
                if not effect.error:
                    self.world.node_ended(self)
                elif "is here already" in effect.reason:
                    self.world.node_refused(self)
                else:
                    raise Broken(f"{self.name} stops with an error: {effect.reason}")
            case _:
                raise Broken(f"{self.name} wants {effect}")

    def _note(self, kind: str, n: int, about: dict[str, Any], text: str) -> None:
        super()._note(kind, n, about, text)
        if kind == "registered":
            self.directory.previous = self.session

    def end(self) -> None:
        super().end()
        self.ended_at = self._clock.now
        self.pool.close()
        self.world.network.hang_up(self.wire)


class ClientMachine(Machine):
    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name, world.chance(name))
        self.session = ClientSession(self.chance.randbytes(8), "default", "0")
        self.memory = Memory(self.post)
        self.wire = Wire(self, CLIENT_KEY)
        self.offered = 0
        self._asks = 0
        world.network.dial(self.wire)

    @property
    def actor(self) -> Actor:
        return self.session

    # -- what its user does -------------------------------------------------------------------------

    def submit(self, works: list[Work]) -> list[int]:
        """Hand these in; their counters."""
        entries = []
        for work in works:
            self.offered += 1
            large = code = None
            if work.large:
                large = (sha(work.payload), len(work.payload))
                self.memory.serve(large[0], work.payload, self.offered)
            if work.code:
                code = (sha(work.code), work.code)
                if len(work.code) > LARGE_BYTES:
                    self.memory.serve(*code, self.offered)
            payload = b"" if work.large else work.payload
            parents = self._parents()
            about = About(delay_s=work.delay_s, key=work.key, after=parents)
            entries.append(
                Entry(self.offered, work.spec, payload, large, code, work.durable, work.block, "", about.encode())
            )
            self.world.ledger.handed_in(self.name, self._job(self.offered), work, parents)
        self.post(Offered(entries))
        return [entry.counter for entry in entries]

    def _parents(self) -> tuple[bytes, ...]:
        """Some that were handed in before, if the next job shall run after others."""
        if self.offered < 2 or self.chance.random() >= self.world.plan.after:
            return ()
        return tuple({self._job(self.chance.randint(1, self.offered - 1)): None for _ in range(2)})

    def set_queue(self, name: str, **settings: Any) -> None:
        if self.alive:
            self._asks += 1
            self.world.ledger.asked(self.name, self._asks)
            self.post(Asked(self._asks, "queue", {"name": name, "set": settings}))

    def _order(self, topic: str, about: dict[str, Any], meant: Any) -> None:
        if self.alive:
            self._asks += 1
            self.world.ledger.asked(self.name, self._asks, meant)
            self.post(Asked(self._asks, topic, about))

    def end_job(self, counter: int) -> None:
        """Order it to be ended, whether it runs or not."""
        job = self._job(counter)
        self.world.ledger.cancel_wished(job)
        self._order("cancel", {"jobs": [format_job(job)], "running": True}, Ending(job))

    def drain(self, node: str, timeout_s: float | None) -> None:
        self._order("drain", {"node": node, "timeout_s": timeout_s}, Draining(node))

    def undrain(self, node: str) -> None:
        self.world.ledger.undrained(node)
        self._order("undrain", {"node": node}, Undraining(node))

    def cancel(self, counters: list[int]) -> None:
        if self.alive:
            for counter in counters:
                self.world.ledger.cancel_wished(self._job(counter))
            self.post(CancelWished(counters))

    def ask(self) -> None:
        if self.alive:
            self._asks += 1
            self.world.ledger.asked(self.name, self._asks)
            self.post(Asked(self._asks, "status" if self._asks % 2 else "nodes", {}))

    def order(self, about: dict[str, Any]) -> None:
        """Something of schedules."""
        if self.alive:
            self._asks += 1
            self.world.ledger.asked(self.name, self._asks, ORDER)
            self.world.chronos.ordered(about)
            self.post(Asked(self._asks, ORDER, about))

    def leave(self) -> None:
        self.post(LeaveWished("done"))

    def _job(self, counter: int) -> bytes:
        return job_id(self.session.session, counter)

    # -- what its session does ----------------------------------------------------------------------

    def _note(self, kind: str, n: int, about: dict[str, Any], text: str) -> None:
        super()._note(kind, n, about, text)
        if kind == "jobs_wait":
            self.world.told_waiting(self, about["reason"])

    def _perform(self, effect: Any) -> None:
        ledger = self.world.ledger
        match effect:
            case Send():
                self.world.network.send_up(self.wire, effect)
            case Settle():
                self._settle(effect)
            case Acknowledge(through):
                ledger.acknowledged(self.name, through, self.offered)
                self.memory.acknowledged(through)
            case CancelDenied(counters):
                for counter in counters:
                    ledger.cancel_denied(self._job(counter))
            case Answered(ask, error, body):
                token, epoch = self.world.coordinator.coordinator._dealer.token, self.session._dialer.epoch
                ledger.answer(self.name, ask, error, body, token, epoch)
            case KeepBlob() | WriteChunk() | ReadChunk() | DropBlob():
                self.memory.perform(effect)
            case Held():
                pass
            case Stop():
                self.world.client_ended(self)
            case GiveUp():
                raise Broken(f"{self.name} gives up: {effect.reason}")
            case _:
                raise Broken(f"{self.name} wants {effect}")

    def _settle(self, effect: Settle) -> None:
        shared: dict[bytes, bytes] = {}
        for counter, outcome, payload, large in effect.rows:
            if large is not None:
                if large[0] not in shared:
                    if large[0] not in self.memory.whole:
                        raise Broken(f"{self.name} settles job {counter}, and its result is not there")
                    shared[large[0]] = self.memory.whole.pop(large[0])
                payload = shared[large[0]]
            self.world.ledger.settled(self.name, self._job(counter), outcome, payload, large is not None)

    def end(self) -> None:
        super().end()
        self.world.network.hang_up(self.wire)
