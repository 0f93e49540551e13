"""The coordinator: one method per event, delegating to its books and rooms. Rules of this file: pure; no policy of its
own. Here is the way of a job that has begun: attempts, results, the one end, and jobs whose node is gone.

A turn takes all events in, then settles once: places ready jobs, writes one message per peer, answers who
showed himself. What silence decides is judged only when the host found every socket empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cluster import blobs
from cluster.actor import Drained, Garbled, Now, Received, Stalled, Turn, Unroutable, WallClockJumped
from cluster.config import CoordinatorLimits, Times
from cluster.ids import counter_of, first_token, job_id, session_of
from cluster.jobs import NOTHING_SPECIAL, About, End, Failure, Outcome
from cluster.messages import (
    Answer,
    Ask,
    Awaiting,
    BlobRefused,
    Bye,
    Cancel,
    Chunk,
    ClientHello,
    Discard,
    Draining,
    Fetch,
    Finished,
    Heartbeat,
    Interrupt,
    Message,
    NodeHello,
    NotCancelled,
    Pulse,
    Retract,
    Returned,
    Saved,
    Started,
    Submit,
    Taken,
    Watch,
)
from scheduler import ages, answers, events, figures, keys, retries
from scheduler.admission import Admission
from scheduler.adrift import Adrift
from scheduler.clients import Client, Clients, Owed
from scheduler.dealer import Dealer
from scheduler.dependencies import Dependencies
from scheduler.desk import Books, Desk, Verbs
from scheduler.door import Door
from scheduler.exchange import Exchange
from scheduler.following import Following
from scheduler.functions import Functions, Record
from scheduler.hooks import Hooks
from scheduler.intake import Intake
from scheduler.journal import (
    ArgumentsDropped,
    ArgumentsRead,
    HistoryRead,
    Journal,
    OutcomesPruned,
    OutcomesRead,
    PayloadsRead,
    SpaceMeasured,
    Wanted,
)
from scheduler.lifecycle import Cause, Job, State, Wish, move
from scheduler.outbox import Outbox
from scheduler.owing import Owing
from scheduler.payloads import Payloads
from scheduler.peers import Peer
from scheduler.placement import Chance
from scheduler.queues import Queues
from scheduler.ready_queue import ReadyQueue
from scheduler.recovery import Life, take_up
from scheduler.roster import BARRED, MOMENT, LoadsQueried, Node, Roster
from scheduler.silence import Decisions, Silence
from scheduler.standing_orders import House, StandingOrders
from scheduler.store import Arguments, Recovered, UnfinishedRow
from scheduler.tally import Tally
from scheduler.timers import Kind, Timers
from scheduler.upkeep import PRUNE_EVERY_S, Upkeep
from scheduler.waiting import WaitingJobs

TIMERS_PER_TURN = 5_000
"""Jobs that may become due in one turn; the rest follow in the next ones."""


_OUTCOME_OF: dict[int, Outcome] = {
    End.SUCCEEDED: Outcome.SUCCEEDED,
    End.TIMED_OUT: Outcome.TIMED_OUT,
    End.CANCELLED: Outcome.CANCELLED,
}
"""Of the ends that a job does not go on after; all others are failures."""


class Coordinator:
    """``epoch`` is this life's number; ``chance`` feeds placement. ``recovered`` is what the last life left in the
    store, and ``unfinished`` are its jobs by rank; without ``recovered`` there is no store.
    """

    def __init__(
        self,
        epoch: int,
        cluster_id: str,
        version: str,
        chance: Chance,
        times: Times | None = None,
        limits: CoordinatorLimits | None = None,
        recovered: Recovered | None = None,
        unfinished: Iterable[UnfinishedRow] = (),
    ) -> None:
        self.epoch = epoch
        self._cluster_id = cluster_id
        self._version = version
        self._chance = chance
        self._times = times or Times()
        self._limits = limits or CoordinatorLimits()
        self._born: float | None = None
        self._now = self._wall = 0.0
        self._measure_at = self._judge_at = 0.0
        self._query_fails = False
        """Whether the load query had no answer last time."""
        self._queues = Queues()
        self._functions = Functions(self._queues)
        self._timers = Timers()
        self._dependencies = Dependencies()
        self._keys = keys.Keys()
        self._events = events.Events()
        self._ready = ReadyQueue()
        self._clients = Clients()
        self._roster = Roster()
        self._waiting = WaitingJobs()
        self._exchange = Exchange()
        self._admission = Admission(self._limits)
        self._payloads = Payloads(self._limits.payload_memory_bytes)
        self._tally = Tally()
        self._adrift = Adrift()
        self._journal = Journal(recovered, self._functions)
        self._out = Outbox(self._exchange, self._limits.results_in_flight)
        self._door = Door(
            epoch,
            version,
            self._times,
            self._limits,
            self._clients,
            self._roster,
            self._journal,
            self._admission,
            self._waiting,
            self._out,
            self._node_gone,
        )
        self._dealer = Dealer(
            first_token(epoch),
            chance,
            self._limits,
            self._ready,
            self._roster,
            self._payloads,
            self._journal,
            self._events,
            self._out,
        )
        kept = recovered.settings.get(ages.SETTING) if recovered else None
        self._upkeep = Upkeep(ages.Ages(kept), self._limits, self._journal, self._exchange, self._out)
        self._silence = Silence(
            self._times,
            self._limits,
            self._clients,
            self._roster,
            self._out,
            Decisions(
                node_gone=self._node_gone,
                node_cleared=self._clear,
                client_gone=self._client_left,
                resync=self._door.resync,
                retract=self._retract,
            ),
        )
        self._owing = Owing(self._clients, self._journal, self._exchange, self._out)
        self._following = Following(
            self._dependencies,
            self._clients,
            self._journal,
            self._out,
            self._owing.look_up,
            self._follows,
            self._follows_not,
        )
        self._intake = Intake(
            clients=self._clients,
            functions=self._functions,
            keys=self._keys,
            timers=self._timers,
            ready=self._ready,
            admission=self._admission,
            payloads=self._payloads,
            exchange=self._exchange,
            journal=self._journal,
            tally=self._tally,
            events=self._events,
            owing=self._owing,
            following=self._following,
            out=self._out,
        )
        self._hooks = Hooks(self._functions, self._out, self._intake.make)
        self._orders = StandingOrders(
            House(self._order, self._stop, self._clients.unfinished, self._out.fact), self._functions, recovered, epoch
        )
        self._desk = self._open_desk()
        if recovered is not None:
            self._intake.rank = recovered.last_rank
            take_up(
                recovered,
                unfinished,
                Life(
                    clients=self._clients,
                    roster=self._roster,
                    queues=self._queues,
                    functions=self._functions,
                    keys=self._keys,
                    timers=self._timers,
                    exchange=self._exchange,
                    admission=self._admission,
                    payloads=self._payloads,
                    journal=self._journal,
                    adrift=self._adrift,
                ),
            )

    def _open_desk(self) -> Desk:
        books = Books(
            clients=self._clients,
            roster=self._roster,
            queues=self._queues,
            functions=self._functions,
            ready=self._ready,
            dependencies=self._dependencies,
            admission=self._admission,
            exchange=self._exchange,
            journal=self._journal,
            events=self._events,
        )
        verbs = Verbs(
            status=self._status,
            cancel=self._cancel_jobs,
            retract=self._retract,
            bar=self._bar,
            admit=self._admit,
            records=self._intake.records,
            make=self._intake.make,
            made=self._intake.made,
        )
        return Desk(self.epoch, books, verbs, self._out)

    # ------------------------------------------------------------------------------- the contract

    def turn(self, happened: Sequence[Any], now: Now) -> Turn:
        turn = self._out.begin(now)
        self._now, self._wall = now.mono, now.wall
        if self._born is None:
            self._be_born()
        drained = False
        garbled: dict[str, int] = {}
        for event in happened:
            match event:
                case Received():
                    self._received(event)
                case Drained():
                    drained = True
                case blobs.ChunkWritten():
                    self._out.tell_all(self._exchange.written(event))
                case blobs.ChunkRead():
                    self._out.tell_all(self._exchange.read(event))
                case blobs.BlobFailed():
                    self._blob_failed(event)
                case OutcomesRead():
                    self._outcomes_read(event)
                case HistoryRead():
                    self._desk.history_read(event)
                case ArgumentsRead():
                    self._desk.arguments_read(event)
                case ArgumentsDropped():
                    self._desk.arguments_dropped(event)
                case PayloadsRead():
                    self._payloads.arrived(event.found)
                case OutcomesPruned():
                    self._upkeep.pruned(event)
                case SpaceMeasured():
                    self._space(event.free)
                case LoadsQueried():
                    self._loads_queried(event)
                case Unroutable():
                    self._door.closed(event.route)
                case Garbled():
                    garbled[event.reason] = garbled.get(event.reason, 0) + 1
                case Stalled():
                    self._silence.stalled(event.seconds)
                case WallClockJumped():
                    self._clock_set(event.seconds)
        for reason, n in garbled.items():
            self._out.fact("garbled", n, reason=reason)
        self._ring()
        self._follow()
        self._keep_orders()
        self._dealer.deal()
        self._intake.let_go_on()
        if drained and now.mono >= self._judge_at:
            self._judge()
        self._follow()
        self._desk.inquire()
        self._desk.tell_events()
        self._desk.tell_drained()
        self._settle()
        turn.facts += self._tally.facts(self._wall)
        self._journal.orders(self._orders.rows())
        if now.mono >= self._measure_at:
            self._measure()
        turn.writes += self._journal.take(self._wall)
        return turn

    def deadline(self) -> float | None:
        if self._desk.busy:
            return self._now
        clock = min(self._timers.next, self._orders.next)
        return min(self._judge_at, self._now + clock - self._wall, self._out.due)

    # ------------------------------------------------------------------------------- what the host tells

    def _be_born(self) -> None:
        """The first turn: silence and leases count from here."""
        self._born = self._now
        self._upkeep.begin()
        for peer in (*self._clients, *self._roster):
            peer.heard_at = self._now
        self._orders.begin(self._wall)
        if self._wall < self._journal.last_at:
            self._clock_set(self._wall - self._journal.last_at)  # at least, and while nobody was there to see it
        elif self._journal.last_at and self._wall - self._journal.last_at > PRUNE_EVERY_S:
            self._upkeep.unlived(self._wall - self._journal.last_at)  # or the clock was set: nobody can tell
        if self._adrift:
            self._out.fact("jobs_recovered", len(self._adrift), nodes=len(self._roster))
        self._land()

    def _space(self, free: int) -> None:
        """At the watermark nothing new is taken, by itself again when there is room; what is taken goes on."""
        least = self._limits.min_free_bytes
        if free < least and not self._admission.disk_full:
            self._admission.disk_full = (
                f"{free} bytes are free on the disk of the coordinator's store, fewer than {least} (min_free_bytes)"
            )
            self._out.fact("disk_low", free=free, least=least)
        elif free >= least and self._admission.disk_full:
            self._admission.disk_full = ""
            self._out.fact("disk_well", free=free)

    def _loads_queried(self, event: LoadsQueried) -> None:
        """That there is no answer is told once: what was said before counts less with its age, and then no more."""
        if bool(event.failure) is not self._query_fails:
            self._query_fails = bool(event.failure)
            if event.failure:
                self._out.fact("load_query_failed", reason=event.failure)
            else:
                self._out.fact("load_query_well")
        if not event.failure:
            for node in self._roster:
                node.take_query(event.loads.get(node.name, 0.0), event.every_s, self._now)
                node.weigh(self._now, self._limits.load_weight)

    # ------------------------------------------------------------------------------- receiving

    def _received(self, event: Received) -> None:
        message = event.message
        if isinstance(message, ClientHello):
            self._door.client_hello(event, message)
            return
        if isinstance(message, NodeHello):
            node = self._door.node_hello(event, message)
            if node is not None:
                self._adopt(node, message)
                self._reconcile(node, message.tokens)
            return
        peer = self._door.hear(event)
        if isinstance(peer, Client):
            self._from_client(peer, message)
        elif isinstance(peer, Node):
            self._from_node(peer, message)

    def _from_client(self, client: Client, message: Message) -> None:
        client.acknowledge()
        client.forgotten = False
        match message:
            case Submit():
                self._intake.submit(client, message)
            case Pulse():
                client.pulse_owed = True
            case Cancel():
                self._cancel(client, message.jobs)
            case Ask(topic="schedules"):
                self._about_orders(client, message)
            case Ask():
                self._desk.ask(client, message)
            case Bye():
                self._client_left(client, "it left")
            case Awaiting():
                self._owing.await_outcomes(client, message.counters)
            case Watch():
                self._owing.watch(client, message)
            case Taken():
                self._owing.took(client, message)
            case BlobRefused():
                self._owing.done(client, message.sha)
                self._common(client, message)
            case _:
                self._common(client, message)

    def _from_node(self, node: Node, message: Message) -> None:
        match message:
            case Finished():
                self._results(node, message)
            case Heartbeat():
                node.take_vitals(message.vitals, self._now, self._wall)
                node.weigh(self._now, self._limits.load_weight)
                node.pulse_owed = True
            case Pulse():
                pass
            case Draining():
                node.draining = True
                self._out.fact("node_drains", node=node.name, reason=message.reason)
            case Started():
                self._started(node, message.tokens)
            case Saved():
                self._saved(node, message)
            case Returned():
                self._returned(node, message)
            case Bye():
                self._node_gone(node, "left", counted=False)
                self._out.fact("node_left", node=node.name)
            case Taken():
                self._exchange.taken(node, message)
            case _:
                self._common(node, message)

    def _common(self, peer: Peer, message: Message) -> None:
        """What either kind may say."""
        answer: Message | None = None
        match message:
            case Chunk():
                answer = self._exchange.chunk(peer, message)
            case Fetch():
                answer = self._fetch(peer, message)
            case BlobRefused():
                self._exchange.sent(peer, message.sha)
                self._out.fact("blob_failed", sha=message.sha.hex()[:12], reason=message.reason)
            case _:
                self._out.fact("unexpected", reason=f"{type(message).__name__} from {peer.called}")
        if answer is not None:
            self._out.send(peer, answer)

    def _fetch(self, peer: Peer, message: Fetch) -> Message | None:
        code = None if message.sha in self._exchange else self._functions.code(message.sha)
        if code is not None:
            return Chunk(message.sha, len(code), 0, code)
        answer = self._exchange.fetch(peer, message)
        if answer is not None and isinstance(peer, Client):
            self._owing.lost(peer, message.sha)
        return answer

    def _blob_failed(self, event: blobs.BlobFailed) -> None:
        """The coordinator's disk has lost a blob, or would not take it."""
        self._out.fact("blob_failed", sha=event.sha.hex()[:12], reason=event.reason)
        words = self._exchange.failed(event)
        self._out.tell_all(words)
        for peer, _ in words:
            if isinstance(peer, Client):
                self._owing.lost(peer, event.sha)

    # ------------------------------------------------------------------------------- what nodes hold

    def _reconcile(self, node: Node, tokens: list[int]) -> None:
        """What the node holds is settled by its own word: the rest never arrived, and costs nothing."""
        for job in node.leases:
            job.retracting = False
        self._requeue(node, node.leases.absent_from(tokens))
        strange = [t for t in tokens if t not in node.leases]
        if strange:
            self._out.send(node, Discard(strange))
        late = [j for j in node.leases if j.state is State.LEASED and (node.barred or self._late(j))]
        self._retract(node, [*(j for j in node.leases if j.cancel_wished is Wish.UNSTARTED), *late])
        self._interrupt([j for j in node.leases if j.cancel_wished is Wish.ENDED])

    def _adopt(self, node: Node, hello: NodeHello) -> None:
        """What the node holds of an earlier life goes on there."""
        node.awaited = False
        for other, tokens in self._adrift.adopt(node, hello, self._clients, first_token(self.epoch), self._wall):
            self._out.tell(other, Discard(tokens))
        self._land()

    def _land(self) -> None:
        """When all who may hold jobs of an earlier life have told, or are given up, the rest is nobody's. Not before:
        what is not due yet may have been, by a clock that was set back since."""
        if self._adrift and not any(node.awaited for node in self._roster):
            rest, doubtful = self._adrift.rest()
            back: list[Job] = []
            for job in rest:
                self._timers.again(job, self._wall)
                waits = bool(job.about.after) and not job.story  # what has begun had waited for them
                if waits or job.due > self._wall:
                    move(job, Cause.PUT_OFF)
                    if job.cancel_wished:
                        self._cancel_ready(job)
                    elif self._late(job):
                        self._expire(job)
                    elif waits:
                        self._following.wait(job)
                else:
                    move(job, Cause.LEFT_OVER)
                    back.append(job)
            self._push_back(back, "no node has them since the coordinator was restarted")
            for job in doubtful:
                self._give_up(job, "the node that may have started it did not come back after a restart")

    # ------------------------------------------------------------------------------- what nodes say

    def _started(self, node: Node, tokens: list[int]) -> None:
        for token in tokens:
            job = node.leases.get(token)
            if job is not None and job.state is State.LEASED:
                move(job, Cause.STARTED)

    def _saved(self, node: Node, message: Saved) -> None:
        """What attempts keep for the next ones of their jobs. It is told again on each link, as long as they run."""
        for token, state in zip(message.tokens, message.states, strict=True):
            job = node.leases.get(token)
            if job is None:
                continue  # another attempt has the job
            if job.state is State.LEASED:
                move(job, Cause.STARTED)
            if state != job.saved:
                self._admission.saved(job, state)
                self._journal.standing(job)

    def _results(self, node: Node, message: Finished) -> None:
        large = {row: (sha, size) for row, sha, size in message.large} if message.large else {}
        records = {record[0]: record for record in message.records} if message.records else {}
        late: list[int] = []
        spent: dict[int, list[Any]] = {}
        crashed: list[Job] = []
        for row, (token, end, payload, run_us, worker) in enumerate(
            zip(message.tokens, message.ends, message.payloads, message.run_us, message.workers, strict=True)
        ):
            job = node.leases.end(token)
            ref = large.get(row)
            if job is None:
                late.append(token)
                continue
            outcome = Outcome.SUCCEEDED
            ran: tuple[int, ...] | None = (run_us, worker)
            if row in records or end != End.SUCCEEDED:
                ran = retries.used(job, self._wall, run_us, worker, records.get(row, retries.NO_RECORD))
            if end != End.SUCCEEDED:
                took, ran = ran or (), None
                if end == End.CRASHED or end == End.MEMORY:
                    self._crashed(node, job, end == End.MEMORY, payload, crashed, took)
                    continue
                if self._raised(node, job, end, payload, took):
                    continue
                outcome = _OUTCOME_OF.get(end, Outcome.FAILED)
                if end == End.TIMED_OUT:
                    payload = _with_last_words(job, Failure.decode(payload), f"retries {job.record.spec.rules.retries}")
            if ref is not None and ref[0] not in self._exchange:
                outcome, ref = Outcome.LOST, None
                payload = Failure("JobLost", "its result did not arrive").encode()
            if run_us:
                entry = spent.get(id(job.record))
                if entry is None:
                    spent[id(job.record)] = [job.record, [run_us]]
                else:
                    entry[1].append(run_us)
            if ref is not None:
                self._exchange.named(node, ref[0])
            self._end(job, Cause.RESULT, outcome, payload, ref, ran=ran)
        node.finished += len(message.tokens) - len(late)
        times = [(record.spec.name, column) for record, column in spent.values()]
        ended = {"ends": message.ends, "run_us": message.run_us, "records": message.records, "ran": times}
        self._out.fact("attempts_ended", len(message.tokens), node=node.name, **ended)
        node.surplus_since = self._now if node.outstanding else None
        for record, column in spent.values():
            record.time.observe(sum(column), len(column))
            record.time.ran(node.session)
        for sha, _ in large.values():
            self._exchange.unneeded(node, sha)
        self._push_back(crashed, f"a worker of node {node.name} died under them")
        if late:
            self._tally.discarded += len(late)
            self._out.fact("results_discarded", len(late), node=node.name)
            self._out.send(node, Discard(late))

    def _raised(self, node: Node, job: Job, end: int, payload: bytes, took: Sequence[int]) -> bool:
        """Its function raised, ran out of time or wishes a pause, or it came to another end that is no success: whether
        it shall run again. What travels as a blob is not opened here."""
        failure = Failure.decode(payload) if payload else _UNSEEN
        retries.remember(job, node.name, f"{failure.kind}: {failure.text}", self._wall, took)
        if end not in _ERRORS or not payload or not retries.after_error(job, failure, end):
            return False
        move(job, Cause.RETRY)
        job.node, job.token, job.retracting = None, 0, False
        job.due = self._wall + retries.pause_s(job, failure, self._chance)
        self._tally.retried(failure.kind)
        self._events.note("retried", [job], self._out.now, failure.kind)
        if job.cancel_wished:
            self._cancel_ready(job)
            return True
        self._journal.standing(job)
        self._timers.at(job.due, Kind.DUE, job)
        return True

    def _crashed(
        self, node: Node, job: Job, memory: bool, payload: bytes, back: list[Job], took: Sequence[int]
    ) -> None:
        failure = Failure.decode(payload)  # the agent's own words
        retries.remember(job, node.name, failure.text, self._wall, took)
        if retries.after_crash(job, memory):
            move(job, Cause.CRASHED)
            job.node, job.token, job.retracting = None, 0, False
            back.append(job)
            self._journal.standing(job)
            return
        rules = job.record.spec.rules
        budget = f"memory_retries {rules.memory_retries}" if memory else f"crash_retries {rules.crash_retries}"
        self._end(job, Cause.RESULT, Outcome.FAILED, _with_last_words(job, failure, budget), dead=True)

    def _give_up(self, job: Job, why: str) -> None:
        """It must not start twice, and nobody can tell whether it has."""
        text = f"it may have started, and must not start twice (at most once): {why}"
        self._end(job, Cause.GIVEN_UP, Outcome.LOST, Failure("JobLost", text).encode(), dead=True)

    def _end(
        self,
        job: Job,
        cause: Cause,
        outcome: int,
        payload: bytes,
        large: tuple[bytes, int] | None = None,
        dead: bool = False,
        ran: tuple[int, ...] | None = None,
    ) -> None:
        """The one place where a job gets its outcome. ``large`` comes with a hold on its blob. ``dead``: it is set
        aside as a dead letter. ``ran``: what the attempt took that brought it well to its end (``retries.Used``)."""
        move(job, cause)
        job.outcome = _OUTCOMES[outcome]
        node, job.node = job.node, None
        client: Client = job.client
        record: Record = job.record
        del client.jobs[job.counter]
        record.live -= 1
        record.queue.jobs -= 1
        self._admission.ended(job)
        self._payloads.ended(job)
        well = job.outcome is Outcome.SUCCEEDED
        if not well and cause is Cause.RESULT and job.outcome in _DEADLY and record.spec.rules.retries:
            dead = True  # whose retries are spent, or were not to be used for this
        if job.about is not NOTHING_SPECIAL:
            self._over(job)
            if job.about.schedule:
                self._orders.ended(job, self._wall, ran)
        name = "" if node is None else node.name
        if ran is not None and (job.story or record.hooks):
            retries.remember(job, name, "", self._wall, ran)
        if record.hooks:
            self._hooks.ended.append((job, outcome, payload, dead))
        if len(self._dependencies):
            self._following.ended.append((job.id, well, f"is {job.outcome.word}"))
        self._tally.ended(job, dead)
        word = job.outcome
        if self._events.listened(self._now):
            self._events.add(word.word, job, self._wall, dead, job.story[-1].what if job.story and not well else "")
        kept = self._journal.ended(job, outcome, payload, large, self._wall, dead, name, ran)
        if kept and large is not None:
            self._exchange.hold(large[0])  # for the row
        if job.large is not None and (well or not kept):  # else the row keeps its arguments
            self._exchange.release(job.large[0])
        for session, counter in job.watchers or ():
            watcher = self._clients.get(session)
            if watcher is not None and not watcher.left:
                self._owing.owe(watcher, Owed(counter, outcome, payload, large))
        if client.left:
            if large is not None:
                self._exchange.release(large[0])
        else:
            client.owe(Owed(job.counter, outcome, payload, large))
            if large is not None:
                client.fetchable[large[0]] = client.fetchable.get(large[0], 0) + 1
        self._out.active[id(client)] = client

    def _over(self, job: Job) -> None:
        """Something special was said of a job that has ended."""
        about = job.about
        if about.after:
            self._dependencies.forget(job)
        if about.key:
            lasts = job.record.spec.rules.key_ttl_s if self._journal.keeps(job) else 0.0
            row = self._keys.ended(job.record.spec.namespace, about.key, job.id, self._wall + lasts)
            if row is not None:
                self._journal.key(row, job)
                self._timers.at(row.until, Kind.KEY, (row.namespace, row.key))

    def _returned(self, node: Node, message: Returned) -> None:
        back = [job for t in dict.fromkeys(message.tokens) if (job := node.leases.get(t)) is not None]
        self._requeue(node, back)
        for token in message.kept:
            job = node.leases.get(token)
            if job is None:
                continue
            job.retracting = False
            if job.state is State.LEASED:
                move(job, Cause.STARTED)
            if job.cancel_wished is Wish.UNSTARTED:
                job.cancel_wished = Wish.NONE
                self._not_cancelled(job.client, [job.id])

    def _requeue(self, node: Node, jobs: list[Job]) -> None:
        """These never started: they are ready again, or cancelled if that was wished meanwhile."""
        back: list[Job] = []
        for job in jobs:
            node.leases.end(job.token)
            job.retracting = False
            if job.state is State.RUNNING:
                # It was said to run and is not held any more: its result was lost with the node's memory.
                self._lost_once(job, back, f"node {node.name} no longer had it")
                continue
            move(job, Cause.RETURNED)
            job.node, job.token = None, 0
            job.attempt -= 1
            back.append(job)
            if job.once:
                self._journal.standing(job)
        self._push_back(back, f"node {node.name} has not started them")

    def _push_back(self, jobs: list[Job], cause: str) -> None:
        """These are ready again."""
        if jobs:
            self._out.fact("jobs_requeued", len(jobs), cause=cause)
            self._events.note("requeued", jobs, self._out.now, cause)
        wished = [j for j in jobs if j.cancel_wished]
        late = [j for j in jobs if self._late(j) and not j.cancel_wished]
        for job in jobs:
            job.since = max(job.due, job.at)
        self._ready.push_back(jobs)
        self._tell_again(jobs)
        for job in wished:
            self._cancel_ready(job)
        for job in late:
            self._expire(job)

    # ------------------------------------------------------------------------------- time and other jobs

    def _clock_set(self, seconds: float) -> None:
        """The wall clock was set: pauses and times to begin are durations, and end when they would have ended. What
        was due stays due."""
        self._out.fact("clock_jumped", seconds=seconds)
        self._keys.clock_set(seconds)
        self._orders.clock_jumped(self._wall)
        self._roster.clock_set(seconds)
        if seconds > 0:
            self._upkeep.unlived(seconds)
        then = self._wall - seconds
        for client in self._clients:
            for job in client.jobs.values():
                if self._wall < job.due <= then:
                    job.due = self._wall
                    if not self._adrift.in_doubt(job):
                        self._journal.standing(job)

        def moved(moment: float, kind: Kind, what: Any) -> float:
            if kind is Kind.EXPIRES and moment == what.expires:
                what.expires += seconds
            elif kind is Kind.DUE and moment <= then:
                return min(moment, self._wall)
            elif kind is Kind.DUE and moment == what.due and (what.story or not what.about.at):
                what.due += seconds
                if what.state in (State.SCHEDULED, State.ADRIFT) and not self._adrift.in_doubt(what):
                    self._journal.standing(what)  # the next life shall not take it for a moment of today's clock
            elif kind is not Kind.KEY:
                return moment
            return moment + seconds

        self._timers.move(moved)

    def _ring(self) -> None:
        """What the clock says is due."""
        if self._timers.next > self._wall:
            return
        back: list[Job] = []
        late: list[Job] = []  # looked at when those that are due stand in their lines: some may be both
        for kind, what in self._timers.take(self._wall, TIMERS_PER_TURN):
            if kind is Kind.KEY:
                namespace, name = what
                if self._keys.expired(namespace, name, self._wall):
                    self._journal.key_free(namespace, name)
            elif kind is Kind.DUE:
                if what.state is State.SCHEDULED and what.due <= self._wall and not self._dependencies.waits_for(what):
                    move(what, Cause.DUE)
                    back.append(what)
            else:
                late.append(what)
        self._make_ready(back)
        for job in late:
            if job.state in (State.SCHEDULED, State.READY) and not job.story:
                self._expire(job)
            elif job.state is State.LEASED and not job.story:
                self._retract(job.node, [job])

    def _tell_again(self, jobs: list[Job]) -> None:
        """Of whoever waits with these for what no node has, some have not been told."""
        for demand in {j.record.line.demand for j in jobs} if len(self._waiting) else ():
            self._waiting.requeued(demand)

    def _make_ready(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.since = max(job.due, job.at)
        if jobs:
            self._ready.push_back(jobs)
            self._tell_again(jobs)

    def _late(self, job: Job) -> bool:
        """Its time to begin is over, and it has not begun."""
        return 0 < job.expires <= self._wall and not job.story

    def _expire(self, job: Job) -> None:
        if job.state is State.READY:
            self._ready.dropped(job)
        text = f"it had not begun {job.record.spec.rules.expires_s:g} s after it was handed in (expires_s)"
        self._end(job, Cause.EXPIRED, Outcome.EXPIRED, Failure("JobExpired", text).encode())

    def _follow(self) -> None:
        """Tell those who waited for jobs that have ended, or that nobody knows; ends may follow from ends. Make the
        jobs that shall be run for it, in the very transaction of these ends."""
        if self._owing.unknown:
            self._outcomes_read(self._owing.take_unknown())
        self._following.follow()
        made = self._hooks.fire()
        if made:
            self._intake.made(made)

    def _outcomes_read(self, event: OutcomesRead) -> None:
        for wanted, row, alias in event.found:
            if wanted.child:
                self._following.known(wanted, row, alias)
            else:
                self._owing.known(wanted, row, alias)

    def _follows(self, child: Job) -> None:
        """All it waited for is over."""
        move(child, Cause.DUE)
        self._make_ready([child])

    def _follows_not(self, child: Job, text: str) -> None:
        self._end(child, Cause.PARENT_FAILED, Outcome.FAILED, Failure("DependencyFailed", text).encode())

    def _keep_orders(self) -> None:
        """Make the jobs that schedules say are due, in the very transaction that says so."""
        made = self._orders.turn(self._wall, self._admission.full())
        if made:
            self._intake.made(made)
        self._orders.stop()

    def _order(self, record: Record, payload: bytes, summary: str, about: About) -> Job:
        return self._intake.make(record, Arguments(payload, None, 0), summary, about)

    def _stop(self, job: Job, kill: bool) -> None:
        if kill and job.state in (State.LEASED, State.RUNNING) and job.cancel_wished is not Wish.ENDED:
            job.cancel_wished = Wish.ENDED
            self._journal.standing(job)
            self._out.send(job.node, Interrupt([job.token], 0))
        else:
            self._cancel_jobs([job], running=True)

    def _about_orders(self, client: Client, message: Ask) -> None:
        try:
            full = self._admission.full()
            body = self._orders.answer(client.namespace, client.identity.owner, message.about, self._wall, full)
            self._out.send(client, Answer(message.ask, "", body))
        except ValueError as e:
            self._out.send(client, Answer(message.ask, str(e), {}))

    # ------------------------------------------------------------------------------- cancelling

    def _cancel(self, client: Client, ids: list[bytes]) -> None:
        denied, ended = [], []
        wished: list[Job] = []
        for jid in dict.fromkeys(ids):
            owner = self._clients.get(session_of(jid))
            job = None if owner is None else owner.jobs.get(counter_of(jid))
            if owner is client and client.holds and counter_of(jid) > client.accepted:
                continue  # it was not taken: the client has it back, and cancels it by itself
            if job is None and self._journal.open and owner is client:
                ended.append(Wanted(jid, client.session, counter_of(jid), cancel=True))
            elif job is None or job.client is not client:
                denied.append(jid)
            elif job.state is State.RUNNING:
                if job.cancel_wished is Wish.UNSTARTED:
                    job.cancel_wished = Wish.NONE  # of an earlier copy of this wish: a denial is for good
                denied.append(jid)
            else:
                wished.append(job)
        self._cancel_jobs(wished)
        if denied or ended:  # but for those it is yet to hear are cancelled, by an earlier wish
            cancelled = {
                job_id(client.session, row.counter) for row in client.owed() if row.outcome == Outcome.CANCELLED
            }
            denied = [jid for jid in denied if jid not in cancelled]
            self._owing.look_up([wanted for wanted in ended if wanted.job not in cancelled])
        if denied:
            self._not_cancelled(client, denied)

    def _cancel_jobs(self, jobs: Iterable[Job], running: bool = False) -> None:
        """Cancel what has not started; what a node has is asked back, and with ``running`` ended there: that holds over
        links, lost nodes and restarts until the job has its outcome."""
        retract: dict[int, tuple[Node, list[Job]]] = {}
        end: list[Job] = []
        for job in jobs:
            if job.state in (State.READY, State.SCHEDULED):
                self._cancel_ready(job)
            elif running and job.cancel_wished is not Wish.ENDED:
                job.cancel_wished = Wish.ENDED
                if not self._adrift.in_doubt(job):
                    self._journal.standing(job)
                if job.state is not State.ADRIFT:
                    end.append(job)
            elif job.state is not State.RUNNING and not job.cancel_wished:
                job.cancel_wished = Wish.UNSTARTED
                if job.state is State.LEASED:
                    retract.setdefault(id(job.node), (job.node, []))[1].append(job)
        for node, some in retract.values():
            self._retract(node, some)
        self._interrupt(end)

    def _interrupt(self, jobs: Iterable[Job]) -> None:
        """Have their nodes end them."""
        tokens: dict[tuple[str, int], list[int]] = {}
        for job in jobs:
            grace_ms = int(job.record.spec.rules.grace_s * 1000)
            tokens.setdefault((job.node.name, grace_ms), []).append(job.token)
        for (name, grace_ms), some in tokens.items():
            node = self._roster.get(name)
            assert node is not None
            self._out.tell(node, Interrupt(some, grace_ms))

    def _cancel_ready(self, job: Job) -> None:
        if job.state is State.READY:
            self._ready.dropped(job)
        text = "cancelled before it ran again" if job.story else "cancelled before it started"
        self._end(job, Cause.CANCELLED, Outcome.CANCELLED, Failure("Cancelled", text).encode())

    def _not_cancelled(self, client: Client, ids: list[bytes]) -> None:
        self._out.tell(client, NotCancelled(ids))

    def _retract(self, node: Node, jobs: list[Job]) -> None:
        asked = [j for j in jobs if not j.retracting]
        for job in asked:
            job.retracting = True
        if asked:
            self._out.tell(node, Retract([j.token for j in asked]))

    # ------------------------------------------------------------------------------- peers that go

    def _client_left(self, client: Client, reason: str) -> None:
        client.left = client.forgotten = True
        self._admission.held.pop(client, None)
        bound = [job for job in client.jobs.values() if job.record.spec.rules.client_bound]
        self._cancel_jobs(bound)
        self._out.fact("client_forgotten", session=client.session.hex(), reason=reason)
        self._owing.drop(client)
        self._exchange.forget(client)
        self._door.shut(client)
        if not client.jobs:
            self._clients.remove(client)

    def _node_gone(self, node: Node, reason: str, counted: bool = True) -> None:
        """The node's leases end now. ``counted``: against the jobs' budgets for lost nodes."""
        self._roster.remove(node)
        self._exchange.forget(node)
        self._door.shut(node)
        jobs = node.leases.end_all()
        back: list[Job] = []
        for job in jobs:
            job.retracting = False
            if counted:
                self._lost_once(job, back, f"node {node.name} was lost ({reason})")
            elif job.once:
                self._give_up(job, f"node {node.name} {reason}")
            else:
                self._taken_back(job, back, f"node {node.name} {reason}")
        if jobs or counted:
            self._out.fact("node_lost", len(jobs), node=node.name, session=node.session.hex(), reason=reason)
        self._push_back(back, f"node {node.name} is gone ({reason})")
        self._journal.node_gone(node)
        self._land()

    def _taken_back(self, job: Job, back: list[Job], why: str) -> None:
        """Its attempt is over, and counts against no budget."""
        if job.state is State.RUNNING:  # it has begun, and people shall see that
            retries.remember(job, job.node.name, why, self._wall)
            self._journal.standing(job)
        move(job, Cause.NODE_LOST)
        job.node, job.token, job.retracting = None, 0, False
        back.append(job)

    def _lost_once(self, job: Job, back: list[Job], why: str) -> None:
        retries.remember(job, job.node.name, why, self._wall)
        job.node, job.token = None, 0
        if retries.after_lost_node(job, self._limits.lost_node_retries):
            move(job, Cause.NODE_LOST)
            back.append(job)
            self._journal.standing(job)
        elif job.once:
            self._give_up(job, why)
        else:
            text = why + retries.last_words(job, f"lost_node_retries {self._limits.lost_node_retries}")
            self._end(job, Cause.GIVEN_UP, Outcome.LOST, Failure("JobLost", text).encode(), dead=True)

    # ------------------------------------------------------------------------------- nodes that are drained

    def _bar(self, name: str, timeout_s: float, owner: str) -> None:
        """Give the node nothing new: what has not started there goes elsewhere, what runs has so much time."""
        clear_at = self._wall + timeout_s
        self._roster.bar(name, clear_at)
        self._journal.setting(BARRED + name, MOMENT.pack(clear_at))
        node = self._roster.get(name)
        self._out.fact("node_barred", 0 if node is None else node.outstanding, node=name, owner=owner)
        if node is not None:
            self._retract(node, [job for job in node.leases if job.state is State.LEASED])

    def _admit(self, name: str, owner: str) -> None:
        self._roster.admit(name)
        self._journal.setting(BARRED + name, None)
        self._out.fact("node_admitted", node=name, owner=owner)

    def _clear(self, node: Node) -> None:
        """The time to drain is over: what runs still runs again elsewhere, but for what must not start twice."""
        jobs = [job for job in node.leases if not job.once]
        if not jobs:
            return
        self._out.tell(node, Discard([job.token for job in jobs]))
        back: list[Job] = []
        for job in jobs:
            node.leases.end(job.token)
            self._taken_back(job, back, f"node {node.name} was drained, and its time was over")
        self._push_back(back, f"node {node.name} is drained, and its time is over")

    # ------------------------------------------------------------------------------- what silence decides

    def _judge(self) -> None:
        """What silence decides, and what else need not be looked at in every turn."""
        now = self._now
        pause = self._silence.judge()
        self._waiting.watch(self._ready, self._roster, now)
        self._out.tell_all(self._waiting.words(self._ready, self._roster, now))
        self._exchange.relieve(now - self._times.suspect_s)
        self._ready.tidy()
        if len(self._timers) > TIMERS_PER_TURN + 2 * (self._admission.jobs + len(self._keys)):
            self._timers.sweep(lambda kind, what: kind is Kind.KEY or what.state is not State.FINISHED)
        self._upkeep.look()
        self._judge_at = now + pause

    # ------------------------------------------------------------------------------- ending a turn

    def _settle(self) -> None:
        """Whoever had to do with this turn is told, and what nobody needs any more is let go."""
        self._out.settle()
        self._journal.forget(self._functions)
        for sha in self._functions.dropped:
            self._exchange.release(sha)
        self._functions.dropped.clear()
        if self._exchange.effects:
            self._out.turn.after_commit += self._exchange.effects
            self._exchange.effects = []

    def _measure(self) -> None:
        """How things stand, for those who listen to facts; a book of many entries is measured less often."""
        self._measure_at = self._now + 1.0 + (len(self._roster) + len(self._queues) + len(self._clients)) / 1_000
        gauges = {
            "epoch": self.epoch,
            "dead_letters": self._tally.dead,
            "sessions": len(self._clients),
            "sessions_held": len(self._admission.held),
            "results_owed_bytes": sum(client.owed_bytes for client in self._clients),
            "payloads_bytes": self._payloads.bytes,
            **self._orders.figures,
        }
        self._out.fact(
            "measured",
            self._admission.jobs,
            queues=figures.queues(self._queues, self._ready),
            nodes=figures.nodes(self._roster, self._now, self._wall),
            figures=gauges,
        )

    def _status(self) -> dict[str, Any]:
        load = answers.load(self._roster)
        outstanding = load["leased"] + load["busy"]
        return {
            "cluster_id": self._cluster_id,
            "epoch": self.epoch,
            "version": self._version,
            "uptime_s": self._now - (self._born or self._now),
            "wall_s": self._wall,
            "jobs": {
                "scheduled": self._admission.jobs - len(self._ready) - len(self._adrift) - outstanding,
                "ready": len(self._ready),
                "adrift": len(self._adrift),
                "leased": load.pop("leased"),
                "running": load["busy"],
                "finished": {o.word: n for o, n in self._tally.finished.items()},
            },
            "dead_letters": self._tally.dead,
            "results_discarded": self._tally.discarded,
            "sessions": len(self._clients),
            **load,
        }


_OUTCOMES = tuple(Outcome)
_ERRORS = frozenset((End.RAISED, End.RETRY, End.SNOOZE, End.GIVE_UP, End.TIMED_OUT))
"""Ends for which a job's own rules say whether it runs again."""
_DEADLY = (Outcome.FAILED, Outcome.TIMED_OUT)
"""Outcomes that make a dead letter of a job that has retries."""
_UNSEEN = Failure("RemoteError", "its error is too large to be shown here")


def _with_last_words(job: Job, failure: Failure, budget: str) -> bytes:
    """The failure of a job that is given up, with what became of the attempts before."""
    return replace(failure, text=failure.text + retries.last_words(job, budget)).encode()
