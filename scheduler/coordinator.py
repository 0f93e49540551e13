"""The coordinator: one method per event, delegating to its books. Rules of this file: pure; no policy of its own.

A turn takes all events in, then settles once: places ready jobs, writes one message per peer, answers who
showed himself. What silence decides is judged only when the host found every socket empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cluster import blobs
from cluster.actor import (
    Drained,
    Garbled,
    Header,
    Identity,
    Now,
    Received,
    Send,
    Stalled,
    Turn,
    Unroutable,
    WallClockJumped,
)
from cluster.config import ACCEPT_DELAY_S, MAX_HELD, PROTOCOL, CoordinatorLimits, Times
from cluster.facts import fact
from cluster.ids import SESSION_BYTES, counter_of, first_token, format_job, job_id, session_of
from cluster.jobs import BadSpec, End, Failure, Outcome
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
    Discard,
    Fetch,
    Finished,
    GoOn,
    Heartbeat,
    Hold,
    Message,
    NodeHello,
    NotCancelled,
    Pulse,
    Refusal,
    Resync,
    Retract,
    Returned,
    Started,
    Submit,
    Taken,
    Watch,
    Welcome,
)
from cluster.session import Link, Verdict
from scheduler import answers, names, retries
from scheduler.admission import Admission
from scheduler.adrift import Adrift
from scheduler.assigning import Batch
from scheduler.clients import Client, Clients, Owed
from scheduler.exchange import Exchange
from scheduler.functions import Functions, Record
from scheduler.journal import (
    Journal,
    OutcomesPruned,
    OutcomesRead,
    PayloadsRead,
    PruneOutcomes,
    ReadOutcomes,
    ReadPayloads,
    SpaceMeasured,
    Wanted,
    node_about,
)
from scheduler.lifecycle import Cause, Job, State, move
from scheduler.payloads import AHEAD, Payloads
from scheduler.peers import Peer
from scheduler.placement import Chance, choose, prefill
from scheduler.ready_queue import Demand, ReadyQueue
from scheduler.roster import Node, Roster
from scheduler.store import Recovered, UnfinishedRow
from scheduler.waiting import WaitingJobs

ACCEPT_EVERY = 1_000
"""...and no longer than so many jobs."""

PRUNE_EVERY_S, PRUNE_PAUSE_S, PRUNE_SLICE = 60.0, 0.25, 500
"""Old outcomes are looked for so often; while there are more, the next slice follows so soon; rows of one slice, which
takes a millisecond."""

STUCK_S = 0.05
"""Work lying ready on a node so long without a result there is asked back, if another node is idle."""


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
        self._functions = Functions()
        self._ready = ReadyQueue()
        self._clients = Clients()
        self._roster = Roster()
        self._waiting = WaitingJobs()
        self._exchange = Exchange()
        self._routes: dict[bytes, Peer] = {}
        self._token = first_token(epoch)
        self._rank = 0
        self._admission = Admission(self._limits)
        self._payloads = Payloads(self._limits.payload_memory_bytes)
        self._dead = 0
        self._finished = dict.fromkeys(Outcome, 0)
        self._discarded = 0
        self._born: float | None = None
        self._turn = Turn()
        self._now = self._wall = 0.0
        self._active: dict[int, Peer] = {}
        """Peers to look after at the end of this turn."""
        self._told_finished = dict(self._finished)
        self._judge_at = 0.0
        self._journal = Journal(recovered)
        self._prune_at = math.inf
        self._adrift = Adrift()
        if recovered is not None:
            self._recover(recovered, unfinished)

    # ------------------------------------------------------------------------------- the contract

    def turn(self, events: Sequence[Any], now: Now) -> Turn:
        self._turn = Turn()
        self._now, self._wall = now.mono, now.wall
        if self._born is None:
            self._be_born()
        drained = False
        garbled: dict[str, int] = {}
        for event in events:
            match event:
                case Received():
                    self._received(event)
                case blobs.ChunkWritten():
                    self._tell(self._exchange.written(event))
                case blobs.ChunkRead():
                    self._tell(self._exchange.read(event))
                case blobs.BlobFailed():
                    self._blob_failed(event)
                case OutcomesRead():
                    self._outcomes_read(event)
                case PayloadsRead():
                    self._payloads.arrived(event.found)
                case OutcomesPruned():
                    self._outcomes_pruned(event)
                case SpaceMeasured():
                    self._space(event.free)
                case Unroutable():
                    self._unroutable(event.route)
                case Garbled():
                    garbled[event.reason] = garbled.get(event.reason, 0) + 1
                case Stalled():
                    self._stalled(event.seconds)
                case WallClockJumped():
                    self._fact("clock_jumped", seconds=event.seconds)
                case Drained():
                    drained = True
        for reason, n in garbled.items():
            self._fact("garbled", n, reason=reason)
        self._place()
        self._let_go_on()
        if drained and now.mono >= self._judge_at:
            self._judge()
        self._settle()
        self._tell_finished()
        self._turn.writes += self._journal.take()
        return self._turn

    def deadline(self) -> float | None:
        times = [self._judge_at]
        for peer in self._active.values():
            due = peer.link.ack_due()
            if due is not None:
                times.append(due)
            if isinstance(peer, Client) and peer.told_due is not None:
                times.append(peer.told_due)
        return min(times)

    # ------------------------------------------------------------------------------- small tools

    def _fact(self, kind: str, n: int = 1, **about: Any) -> None:
        self._turn.facts.append(fact(kind, n, **about))

    def _send(self, peer: Peer, message: Message) -> None:
        """To a peer whose link stands; to another, nothing: its next hello puts things right."""
        if peer.reachable:
            self._turn.after_commit.append(peer.stamp(message, self._now))

    def _tell(self, words: Iterable[tuple[Peer, Message]]) -> None:
        for peer, message in words:
            self._active[id(peer)] = peer
            self._send(peer, message)

    def _reply(self, event: Received, message: Message) -> None:
        """An unnumbered answer to someone who is no peer (yet)."""
        self._turn.after_commit.append(Send(event.route, Header(event.header.link, 0, 0), message))

    # ------------------------------------------------------------------------------- receiving

    def _received(self, event: Received) -> None:
        message = event.message
        if isinstance(message, ClientHello):
            self._client_hello(event, message)
            return
        if isinstance(message, NodeHello):
            self._node_hello(event, message)
            return
        peer = self._routes.get(event.route)
        if peer is None or peer.identity.key != event.identity.key:
            self._reply(event, Resync("not known here"))
            return
        verdict = peer.link.take(event.header, message, self._now)
        if verdict is Verdict.GAP:
            self._resync(peer, "messages were lost on the way")
            return
        if verdict is not Verdict.NEXT:
            return
        self._heard(peer)
        if isinstance(peer, Client):
            self._from_client(peer, message)
        else:
            assert isinstance(peer, Node)
            self._from_node(peer, message)

    def _resync(self, peer: Peer, reason: str) -> None:
        """Have the peer join again; the word is repeated for a link only after a heartbeat, in case it was lost."""
        if peer.resync_asked == peer.link.number and self._now - peer.resync_at < self._times.heartbeat_s:
            return
        peer.resync_asked, peer.resync_at = peer.link.number, self._now
        self._fact("resync", peer=_name(peer), reason=reason)
        self._turn.after_commit.append(peer.plain(Resync(reason)))

    def _heard(self, peer: Peer) -> None:
        peer.heard_at = self._now
        peer.reachable = True
        if peer.unacked_since is not None:
            peer.acknowledged(self._now)
        self._active[id(peer)] = peer
        if peer.suspect:
            peer.suspect = False
            if isinstance(peer, Node):
                self._fact("node_back", node=peer.name)

    def _from_client(self, client: Client, message: Message) -> None:
        client.acknowledge()
        client.forgotten = False
        match message:
            case Submit():
                self._submit(client, message)
            case Pulse():
                client.pulse_owed = True
            case Cancel():
                self._cancel(client, message.jobs)
            case Ask():
                self._ask(client, message)
            case Bye():
                self._client_left(client, "it left")
            case Awaiting():
                self._await(client, message.counters)
            case Watch():
                self._watch(client, message)
            case Taken():
                self._client_took(client, message)
            case BlobRefused():
                self._client_done(client, message.sha)
                self._common(client, message)
            case _:
                self._common(client, message)

    def _from_node(self, node: Node, message: Message) -> None:
        match message:
            case Finished():
                self._results(node, message)
            case Heartbeat():
                node.vitals = message.vitals
                node.pulse_owed = True
            case Pulse():
                pass
            case Started():
                self._started(node, message.tokens)
            case Returned():
                self._returned(node, message)
            case Bye():
                self._node_gone(node, "left", counted=False)
                self._fact("node_left", node=node.name)
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
                self._fact("blob_failed", sha=message.sha.hex()[:12], reason=message.reason)
            case _:
                self._fact("unexpected", reason=f"{type(message).__name__} from {_name(peer)}")
        if answer is not None:
            self._send(peer, answer)

    def _fetch(self, peer: Peer, message: Fetch) -> Message | None:
        code = None if message.sha in self._exchange else self._functions.code(message.sha)
        if code is not None:
            return Chunk(message.sha, len(code), 0, code)
        answer = self._exchange.fetch(peer, message)
        if answer is not None and isinstance(peer, Client):
            self._client_lost(peer, message.sha)
        return answer

    def _blob_failed(self, event: blobs.BlobFailed) -> None:
        """The coordinator's disk has lost a blob, or would not take it."""
        self._fact("blob_failed", sha=event.sha.hex()[:12], reason=event.reason)
        words = self._exchange.failed(event)
        self._tell(words)
        for peer, _ in words:
            if isinstance(peer, Client):
                self._client_lost(peer, event.sha)

    # ------------------------------------------------------------------------------- joining

    def _refuse(self, event: Received, code: str, text: str) -> None:
        self._fact("peer_refused", reason=text)
        self._reply(event, Refusal(code, text))

    def _fit_to_join(self, event: Received, role: str, protocol: int, version: str, session: bytes) -> bool:
        if protocol != PROTOCOL:
            self._refuse(
                event,
                "version",
                f"this coordinator (ganger {self._version}) speaks protocol {PROTOCOL}, the {role} "
                f"(ganger {version}) speaks {protocol}: install the same version on both sides",
            )
        elif event.identity.role not in (role, "owner"):
            self._refuse(
                event,
                "role",
                f"the key {event.identity.owner!r} is for a {event.identity.role}, not for a {role}: "
                f"use the connection file {role}.json",
            )
        elif len(session) != SESSION_BYTES:
            self._refuse(event, "version", f"a session id has {SESSION_BYTES} bytes")
        else:
            return True
        return False

    def _bind(self, peer: Peer, event: Received) -> None:
        if self._routes.get(peer.route) is peer:
            del self._routes[peer.route]
        peer.rebind(event.route, event.header.link, self._now)
        other = self._routes.get(event.route)
        if other is not None:
            other.reachable = False
            other.closed_at = self._now
        self._routes[event.route] = peer
        self._active[id(peer)] = peer

    def _client_hello(self, event: Received, hello: ClientHello) -> None:
        if not self._fit_to_join(event, "client", hello.protocol, hello.version, hello.session):
            return
        identity = event.identity
        client = self._clients.get(hello.session)
        if client is not None and client.identity.key != identity.key:
            self._refuse(event, "name", "this session id belongs to another key")
            return
        namespace = hello.namespace or identity.namespace
        if namespace != identity.namespace and identity.role != "owner":
            self._refuse(
                event,
                "namespace",
                f"the key {identity.owner!r} is for namespace {identity.namespace!r}, not {namespace!r}",
            )
            return
        if client is not None and event.header.link <= client.link.number:
            return  # a late copy of an earlier hello
        kept = self._journal.session(hello.session)
        if kept is not None and kept.key != identity.key:
            self._refuse(event, "name", "this session id belongs to another key")
            return
        known = client is not None and not client.forgotten
        if client is None:
            if len(self._clients) >= self._limits.max_sessions:
                self._refuse(event, "full", f"{len(self._clients)} client sessions are the limit (max_sessions)")
                return
            client = Client(
                hello.session,
                identity,
                event.route,
                Link(),
                self._now,
                namespace=namespace,
                accepted=kept.accepted if kept else 0,
                forgotten=hello.epoch == self.epoch,  # it knows this epoch, which knew it once
            )
            self._clients.add(client)
        client.accepted = max(client.accepted, hello.accepted)  # what leaves no rows may be above those that do
        self._waiting.relinked(client)
        self._bind(client, event)
        client.owe_again()
        client.left = False
        client.told, client.told_due = client.accepted, None
        client.held, client.resumed_at = False, 0
        self._admission.held.pop(client, None)
        # A client that has not heard of this epoch yet has not been told either what the last one took with it.
        resumed = known and hello.epoch == self.epoch
        self._send(client, self._welcome(resumed, client.accepted, kept is not None))
        self._fact("client_joined", session=client.session.hex(), namespace=client.namespace, link=client.link.number)

    def _welcome(self, known: bool, accepted: int, kept: bool = False) -> Welcome:
        return Welcome(self.epoch, known, accepted, self._times.heartbeat_s, self._times.lease_s, kept)

    def _node_hello(self, event: Received, hello: NodeHello) -> None:
        if not self._fit_to_join(event, "node", hello.protocol, hello.version, hello.session):
            return
        node = self._roster.get(hello.name)
        if node is not None and node.session != hello.session:
            if not names.succeeds(hello, node):
                self._contest(event, hello, node)
                return
            self._node_gone(node, "a new life of it has come")
            node = None
        if node is not None and node.identity.key != event.identity.key:
            self._refuse(event, "name", "this session id belongs to another key")
            return
        if node is not None and event.header.link <= node.link.number:
            return  # a late copy of an earlier hello
        known = node is not None
        if node is None:
            if len(self._roster) >= self._limits.max_nodes:
                self._refuse(event, "full", f"{len(self._roster)} nodes are the limit (max_nodes)")
                return
            node = Node(
                hello.session,
                event.identity,
                event.route,
                Link(),
                self._now,
                name=hello.name,
                incarnation=hello.incarnation,
                previous=hello.previous[:SESSION_BYTES],
                lock=hello.lock,
                host=hello.host,
                pid=hello.pid,
                python=hello.python,
                slots=max(1, hello.slots),
                labels=hello.labels,
            )
            self._roster.add(node)
            self._journal.node(node)
        self._bind(node, event)
        node.code.clear()
        self._send(node, self._welcome(known, 0))
        self._fact("node_joined", node=node.name, slots=node.slots, host=node.host, link=node.link.number)
        self._adopt(node, hello)
        self._reconcile(node, hello.tokens)

    def _contest(self, event: Received, hello: NodeHello, holder: Node) -> None:
        """Refuse who claims a living node's name; leave it without an answer, which it asks for again, till we know."""
        if names.proved_alive(hello, holder):
            del holder.claims[hello.session]
            self._refuse(event, "name", names.refusal(hello, holder))
            return
        if not names.asked(hello, holder) and holder.reachable:
            self._send(holder, Retract([]))  # it asks for nothing, and is owed an acknowledgement soon
            names.claim(hello, holder)
            return
        silent = self._now - holder.heard_at
        quiet = not holder.placeable or silent >= 1.5 * self._times.heartbeat_s
        if quiet and self._now - holder.claims_told_at >= self._times.lease_s:
            holder.claims_told_at = self._now
            self._fact(
                "name_contested",
                node=holder.name,
                rival=f"host {hello.host}, process {hello.pid}",
                holder=f"host {holder.host}, process {holder.pid}",
                silent=silent,
            )

    def _reconcile(self, node: Node, tokens: list[int]) -> None:
        """What the node holds is settled by its own word: the rest never arrived, and costs nothing."""
        for job in node.leases:
            job.retracting = False
        self._requeue(node, node.leases.absent_from(tokens))
        strange = [t for t in tokens if t not in node.leases]
        if strange:
            self._send(node, Discard(strange))
        self._retract(node, [job for job in node.leases if job.cancel_wished])

    # ------------------------------------------------------------------------------- after a restart

    def _recover(self, recovered: Recovered, unfinished: Iterable[UnfinishedRow]) -> None:
        """Take up what the last life left. Jobs it may have assigned wait for the word of those it knew, or the
        end of the longest lease it can have given."""
        self._rank = recovered.last_rank
        for sha, (size, holds) in recovered.blobs.items():
            self._exchange.restore(sha, size, holds)
        records: dict[int, Record] = {}
        for spec in recovered.specs:
            record = self._functions.restore(spec.number, spec.raw, spec.owner, spec.code, spec.blob)
            records[spec.number] = record
            if spec.blob:
                self._exchange.restore(record.spec.code, record.spec.code_size, 1)
        for known in recovered.nodes:
            lock, pid, python, slots, labels = node_about(known)
            identity = Identity(known.key, "node", "node", "default")
            node = Node(known.session, identity, b"", Link(), 0.0, False, math.inf)
            node.name, node.incarnation, node.host, node.lock = known.name, known.incarnation, known.host, lock
            node.pid, node.python, node.slots, node.labels, node.awaited = pid, python, slots, labels, True
            self._roster.add(node)
        for row in unfinished:
            record = records[row.spec]
            client = self._clients.get(session_of(row.id)) or self._absent(session_of(row.id))
            large = (row.sha, row.size) if row.sha else None
            payload = row.payload or b""
            job = Job(row.id, counter_of(row.id), client, record, payload, large, row.rank, State.ADRIFT)
            job.size, job.absent = row.payload_bytes, len(payload) < row.payload_bytes
            job.attempt, job.lost_nodes, job.crashes = row.attempt, row.lost_nodes, row.crashes
            job.memory_kills, job.story = row.memory_kills, retries.unpack(row.story)
            client.jobs[job.counter] = job
            self._adrift.add(job, row.node if row.token else b"")
            record.live += 1
            self._admission.taken(job)
            self._payloads.taken(job)

    def _absent(self, session: bytes) -> Client:
        """A session of an earlier life, which may come back."""
        row = self._journal.session(session)
        assert row is not None, f"job of session {session.hex()}, which is not kept"
        identity = Identity(row.key, "client", row.owner, row.namespace)
        client = Client(session, identity, b"", Link(), 0.0, False, namespace=row.namespace, accepted=row.accepted)
        self._clients.add(client)
        return client

    def _be_born(self) -> None:
        """The first turn: silence and leases count from here."""
        self._born = self._now
        if self._journal.open:
            self._prune_at = self._now + PRUNE_EVERY_S
        for peer in (*self._clients, *self._roster):
            peer.heard_at = self._now
        if self._adrift:
            self._fact("jobs_recovered", len(self._adrift), nodes=len(self._roster))
        self._land()

    def _adopt(self, node: Node, hello: NodeHello) -> None:
        """What the node holds of an earlier life goes on under its old token. Of two that hold one job, the one with
        the later token has the right to it."""
        node.awaited = False
        self._adrift.told(node.session, frozenset(hello.jobs))
        ours = first_token(self.epoch)
        superseded: dict[int, tuple[Node, list[int]]] = {}
        for token, jid, attempt in zip(hello.tokens, hello.jobs, hello.attempts, strict=True):
            client = self._clients.get(session_of(jid))
            job = None if client is None else client.jobs.get(counter_of(jid))
            if job is None or token >= ours or not job.token < token:
                continue
            if job.state is State.ADRIFT:
                self._adrift.found(job)
            elif job.node is not None and job.token:
                job.node.leases.end(job.token)
                superseded.setdefault(id(job.node), (job.node, []))[1].append(job.token)
            else:
                continue
            move(job, Cause.ADOPTED)
            job.attempt, job.token, job.node, job.retracting = attempt, token, node, False
            node.leases.grant(job)
        for other, tokens in superseded.values():
            self._active[id(other)] = other
            self._send(other, Discard(tokens))
        self._land()

    def _land(self) -> None:
        """When all who may hold jobs of an earlier life have told, or are given up, the rest is nobody's."""
        if self._adrift and not any(node.awaited for node in self._roster):
            rest, doubtful = self._adrift.rest()
            for job in rest:
                move(job, Cause.LEFT_OVER)
            self._push_back(rest, "no node has them since the coordinator was restarted")
            for job in doubtful:
                self._give_up(job, "the node that may have started it did not come back after a restart")

    def _await(self, client: Client, counters: list[int]) -> None:
        """A session that was away for a life of ours: what has become of these?"""
        owed = {row.counter for row in client.owed()}
        wanted = [
            Wanted(job_id(client.session, c), client.session, c)
            for c in counters
            if c not in client.jobs and c not in owed
        ]
        self._look_up(wanted)

    def _watch(self, client: Client, message: Watch) -> None:
        wanted = []
        if client.holds:
            return  # it comes in its turn, as a submission does, and is handed in again
        for counter, jid in zip(message.counters, message.jobs, strict=True):
            client.accepted = max(client.accepted, counter)  # it comes in its turn, as a submission does
            owner = self._clients.get(session_of(jid))
            job = None if owner is None else owner.jobs.get(counter_of(jid))
            if job is None or not _may_see(client, job.client.namespace):
                wanted.append(Wanted(jid, client.session, counter))
            elif (client.session, counter) not in (job.watchers or ()):
                job.watchers = [*(job.watchers or ()), (client.session, counter)]
        self._active[id(client)] = client
        self._look_up(wanted)

    def _look_up(self, wanted: list[Wanted]) -> None:
        if wanted and self._journal.open:
            self._turn.after_commit.append(ReadOutcomes(wanted))
        else:
            self._outcomes_read(OutcomesRead([(w, None) for w in wanted]))

    def _outcomes_read(self, event: OutcomesRead) -> None:
        for wanted, row in event.found:
            client = self._clients.get(wanted.session)
            if client is None or client.left:
                continue
            if wanted.cancel:
                if row is None or row.outcome != Outcome.CANCELLED:  # else it has heard so, or asks what became of it
                    self._not_cancelled(client, [wanted.job])
                continue
            kept = self._journal.session(session_of(wanted.job))
            visible = kept is not None and _may_see(client, kept.namespace)
            if row is None or not visible:
                expired = visible and kept is not None and counter_of(wanted.job) <= kept.accepted
                row = _unknown(wanted, expired)
            self._owe(client, row._replace(counter=wanted.counter))

    def _owe(self, client: Client, row: Owed) -> None:
        if row.large is not None:
            self._exchange.hold(row.large[0])
            client.fetchable[row.large[0]] = client.fetchable.get(row.large[0], 0) + 1
        client.owe(row)
        self._active[id(client)] = client

    def _outcomes_pruned(self, event: OutcomesPruned) -> None:
        for sha in event.blobs:
            self._exchange.release(sha)
        if event.outcomes:
            self._fact("outcomes_pruned", event.outcomes)
        self._prune_at = self._now + (PRUNE_PAUSE_S if event.outcomes >= PRUNE_SLICE else PRUNE_EVERY_S)

    def _space(self, free: int) -> None:
        """At the watermark nothing new is taken, by itself again when there is room; what is taken goes on."""
        least = self._limits.min_free_bytes
        if free < least and not self._admission.disk_full:
            self._admission.disk_full = (
                f"{free} bytes are free on the disk of the coordinator's store, fewer than {least} (min_free_bytes)"
            )
            self._fact("disk_low", free=free, least=least)
        elif free >= least and self._admission.disk_full:
            self._admission.disk_full = ""
            self._fact("disk_well", free=free)

    # ------------------------------------------------------------------------------- submissions

    def _submit(self, client: Client, message: Submit) -> None:
        if client.holds:
            return  # it knows, or will
        first, count = message.first, len(message.payloads)
        large = {row: (sha, size) for row, sha, size in message.large}
        skip = max(0, client.accepted + 1 - first)
        if skip >= count:
            client.told = min(client.told, client.accepted - 1)
            self._unneeded(client, message, count)
            return
        records = self._records(client, message)
        admission, payloads = self._admission, self._payloads
        ready, jobs, session = self._ready, client.jobs, client.session
        accepted: list[Job] = []
        refused: list[tuple[bytes, bytes]] = []
        full = ""
        for row in range(skip, count):
            full = admission.full()
            if full:
                count = row
                break
            counter = first + row
            index = message.spec_of[row]
            record = records[index] if index < len(records) else "the job names a spec its message lacks"
            payload = message.payloads[row]
            ref = large.get(row)
            if isinstance(record, str):
                refused.append(self._refuse_job(client, counter, record))
                continue
            if ref is not None and ref[0] not in self._exchange:
                refused.append(self._refuse_job(client, counter, "its payload did not arrive"))
                continue
            if ref is not None:
                self._exchange.named(client, ref[0])
            self._rank += 1
            job = Job(job_id(session, counter), counter, client, record, payload, ref, self._rank)
            job.size = len(payload)
            jobs[counter] = job
            record.live += 1
            admission.taken(job)
            payloads.taken(job)
            ready.push(job)
            accepted.append(job)
        client.accepted = max(client.accepted, first + count - 1)
        self._unneeded(client, message, count)
        self._journal.refused(client, refused, self._wall)
        if accepted:
            self._journal.accepted(client, accepted)
            self._relieve_memory(accepted)
            self._fact("jobs_accepted", len(accepted), session=client.session.hex())
        if full:
            self._hold(client, full)

    def _relieve_memory(self, jobs: Iterable[Job]) -> None:
        """Payloads that the store has and that are not needed soon go, if there are too many."""
        if self._payloads.full:
            for job in jobs:
                if self._journal.keeps(job):
                    self._payloads.relieve(job)

    def _unneeded(self, client: Client, message: Submit, count: int) -> None:
        """What no job has taken over: the first ``count`` rows were known already, or refused."""
        if client.uploaded:
            named = [sha for row, sha, _ in message.large if row < count]
            for sha in named + [self._functions.code_of(raw) for raw in message.specs]:
                self._exchange.unneeded(client, sha)

    def _hold(self, client: Client, why: str) -> None:
        """It shall keep what is above its counter, until there is room."""
        client.held = True
        client.told, client.told_due = client.accepted, None
        self._admission.held[client] = None
        self._send(client, Hold(client.accepted, why))
        self._fact("submissions_held", session=client.session.hex(), reason=why)

    def _let_go_on(self) -> None:
        for client in self._admission.go_on():
            client.held = False
            if client.reachable:
                self._send(client, GoOn())
                client.resumed_at = client.link.sent

    def _records(self, client: Client, message: Submit) -> list[Record | str]:
        """The record of each spec of the message, or why its jobs are refused."""
        code = dict(message.code)
        out: list[Record | str] = []
        for raw in message.specs:
            try:
                record = self._functions.intern(raw, client.identity.owner)
                spec = record.spec
                if spec.rules.at_most_once and not (spec.durable and self._journal.open):
                    raise BadSpec("what must not start twice (at most once) must be durable")
                if spec.namespace != client.namespace:
                    raise BadSpec(f"its namespace {spec.namespace!r} is not the session's ({client.namespace!r})")
                if spec.by_value and not record.code:
                    if spec.code in code:
                        self._functions.learn(record, code[spec.code])
                    elif record.holds_blob:
                        pass
                    elif spec.code in self._exchange:
                        self._exchange.named(client, spec.code)
                        record.holds_blob = True
                    else:
                        raise BadSpec("its function's code did not arrive")
                out.append(record)
            except BadSpec as e:
                out.append(f"its description is not usable: {e}")
        return out

    def _refuse_job(self, client: Client, counter: int, why: str) -> tuple[bytes, bytes]:
        """Its id and the failure that is owed."""
        self._finished[Outcome.FAILED] += 1
        failure = Failure("JobRefused", f"the coordinator did not take the job: {why}").encode()
        client.owe(Owed(counter, Outcome.FAILED, failure, None))
        return job_id(client.session, counter), failure

    # ------------------------------------------------------------------------------- placing

    def _place(self) -> None:
        if not self._ready or not len(self._roster):
            return
        batches: dict[int, tuple[Node, Batch]] = {}
        limits = self._limits
        for demand in self._ready.demands():
            candidates = [n for n in self._roster.fitting(demand) if n.placeable]
            time, once = None, False
            open_nodes: list[Node] = []
            room: dict[int, int] = {}
            while (job := self._ready.head(demand)) is not None:
                record: Record = job.record
                if record.time is not time or record.once is not once:
                    time, once = record.time, record.once
                    mean_s = 0.0 if once else time.mean_s
                    room = {
                        id(n): min(
                            MAX_HELD // 2, n.slots + prefill(n.slots, mean_s, limits.prefill_s, limits.prefill_max)
                        )
                        - n.outstanding
                        for n in candidates
                    }
                    open_nodes = [n for n in candidates if room[id(n)] > 0]
                if not open_nodes or job.absent:
                    break
                node = choose(open_nodes, self._chance)
                self._ready.pop(demand)
                self._lease(job, node)
                entry = batches.get(id(node))
                if entry is None:
                    entry = batches[id(node)] = (node, Batch())
                entry[1].add(job)
                if entry[1].full:
                    self._assign(*batches.pop(id(node)))
                room[id(node)] -= 1
                if room[id(node)] <= 0:
                    open_nodes.remove(node)
            if self._payloads.absent and candidates:
                self._read_ahead(demand)
        for node, batch in batches.values():
            self._assign(node, batch)

    def _read_ahead(self, demand: Demand) -> None:
        """Have payloads at hand a little before their turn."""
        for place in (0, AHEAD // 2):
            job = self._ready.at(demand, place)
            if job is not None and job.absent:
                ranks = self._payloads.wanted(self._ready.next(demand, AHEAD))
                if ranks:
                    self._turn.after_commit.append(ReadPayloads(ranks))
                return

    def _lease(self, job: Job, node: Node) -> None:
        move(job, Cause.PLACED)
        job.attempt += 1
        job.token = self._token
        self._token += 1
        job.node = node
        if node.surplus_since is None:
            node.surplus_since = self._now
        node.leases.grant(job)
        if job.once:
            self._journal.standing(job)

    def _assign(self, node: Node, batch: Batch) -> None:
        self._send(node, batch.message(node.code))
        self._relieve_memory(batch.jobs)
        self._active[id(node)] = node
        self._fact("jobs_assigned", len(batch.jobs), node=node.name)

    # ------------------------------------------------------------------------------- what nodes say

    def _started(self, node: Node, tokens: list[int]) -> None:
        for token in tokens:
            job = node.leases.get(token)
            if job is not None and job.state is State.LEASED:
                move(job, Cause.STARTED)

    def _results(self, node: Node, message: Finished) -> None:
        large = {row: (sha, size) for row, sha, size in message.large} if message.large else {}
        late: list[int] = []
        spent: dict[int, list[Any]] = {}
        crashed: list[Job] = []
        for row, (token, end, payload, run_us) in enumerate(
            zip(message.tokens, message.ends, message.payloads, message.run_us, strict=True)
        ):
            job = node.leases.end(token)
            ref = large.get(row)
            if job is None:
                late.append(token)
                continue
            if end == End.CRASHED or end == End.MEMORY:
                self._crashed(node, job, end == End.MEMORY, payload, crashed)
                continue
            outcome = Outcome.SUCCEEDED if end == End.SUCCEEDED else Outcome.FAILED
            if ref is not None and ref[0] not in self._exchange:
                outcome, ref = Outcome.LOST, None
                payload = Failure("JobLost", "its result did not arrive").encode()
            if run_us:
                entry = spent.get(id(job.record))
                if entry is None:
                    spent[id(job.record)] = [job.record, run_us, 1]
                else:
                    entry[1] += run_us
                    entry[2] += 1
            if ref is not None:
                self._exchange.named(node, ref[0])
            self._end(job, Cause.RESULT, outcome, payload, ref)
        node.finished += len(message.tokens) - len(late)
        node.surplus_since = self._now if node.outstanding else None
        for record, total, count in spent.values():
            record.time.observe(total, count)
        for sha, _ in large.values():
            self._exchange.unneeded(node, sha)
        self._push_back(crashed, f"a worker of node {node.name} died under them")
        if late:
            self._discarded += len(late)
            self._fact("results_discarded", len(late), node=node.name)
            self._send(node, Discard(late))

    def _crashed(self, node: Node, job: Job, memory: bool, payload: bytes, back: list[Job]) -> None:
        failure = Failure.decode(payload)  # the agent's own words
        again = True
        if not retries.told(job):
            retries.remember(job, node.name, failure.text, self._wall)
            again = retries.after_crash(job, memory)
        if again:
            move(job, Cause.CRASHED)
            job.node, job.token, job.retracting = None, 0, False
            back.append(job)
            self._journal.standing(job)
            return
        rules = job.record.spec.rules
        budget = f"memory_retries {rules.memory_retries}" if memory else f"crash_retries {rules.crash_retries}"
        failure = replace(failure, text=failure.text + retries.last_words(job, budget))
        self._end(job, Cause.RESULT, Outcome.FAILED, failure.encode(), dead=True)

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
    ) -> None:
        """The one place where a job gets its outcome. ``large`` comes with a hold on its blob. ``dead``: it is set
        aside as a dead letter."""
        move(job, cause)
        job.outcome = OUTCOMES[outcome]
        job.node = None
        client: Client = job.client
        record: Record = job.record
        del client.jobs[job.counter]
        record.live -= 1
        self._admission.ended(job)
        self._payloads.ended(job)
        if dead:
            self._dead += 1
            self._fact("jobs_dead", cause=f"{format_job(job.id)} ({record.spec.name})")
        if job.large is not None:
            self._exchange.release(job.large[0])
        word = job.outcome
        self._finished[word] += 1
        if self._journal.ended(job, outcome, payload, large, self._wall, dead) and large is not None:
            self._exchange.hold(large[0])  # for the row
        for session, counter in job.watchers or ():
            watcher = self._clients.get(session)
            if watcher is not None and not watcher.left:
                self._owe(watcher, Owed(counter, outcome, payload, large))
        if client.left:
            if large is not None:
                self._exchange.release(large[0])
        else:
            client.owe(Owed(job.counter, outcome, payload, large))
            if large is not None:
                client.fetchable[large[0]] = client.fetchable.get(large[0], 0) + 1
        self._active[id(client)] = client

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
            if job.cancel_wished:
                job.cancel_wished = False
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
        if jobs:
            self._fact("jobs_requeued", len(jobs), cause=cause)
        wished = [j for j in jobs if j.cancel_wished]
        self._ready.push_back(jobs)
        for demand in {j.record.demand for j in jobs} if len(self._waiting) else ():
            self._waiting.requeued(demand)
        for job in wished:
            self._cancel_ready(job)

    # ------------------------------------------------------------------------------- cancelling

    def _cancel(self, client: Client, ids: list[bytes]) -> None:
        denied, ended = [], []
        retract: dict[int, tuple[Node, list[Job]]] = {}
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
                job.cancel_wished = False  # of an earlier copy of this wish: a denial is for good
                denied.append(jid)
            elif job.state is State.READY:
                self._cancel_ready(job)
            elif job.state is State.ADRIFT:
                job.cancel_wished = True
            else:
                job.cancel_wished = True
                retract.setdefault(id(job.node), (job.node, []))[1].append(job)
        for node, jobs in retract.values():
            self._retract(node, jobs)
        if denied or ended:  # but for those it is yet to hear are cancelled, by an earlier wish
            cancelled = {
                job_id(client.session, row.counter) for row in client.owed() if row.outcome == Outcome.CANCELLED
            }
            denied = [jid for jid in denied if jid not in cancelled]
            self._look_up([wanted for wanted in ended if wanted.job not in cancelled])
        if denied:
            self._not_cancelled(client, denied)

    def _cancel_ready(self, job: Job) -> None:
        self._ready.dropped(job)
        text = "cancelled before it ran again" if job.story else "cancelled before it started"
        self._end(job, Cause.CANCELLED, Outcome.CANCELLED, Failure("Cancelled", text).encode())

    def _not_cancelled(self, client: Client, ids: list[bytes]) -> None:
        self._active[id(client)] = client
        self._send(client, NotCancelled(ids))

    def _retract(self, node: Node, jobs: list[Job]) -> None:
        asked = [j for j in jobs if not j.retracting]
        for job in asked:
            job.retracting = True
        if asked:
            self._active[id(node)] = node
            self._send(node, Retract([j.token for j in asked]))

    # ------------------------------------------------------------------------------- peers that go

    def _unroutable(self, route: bytes) -> None:
        peer = self._routes.pop(route, None)
        if peer is not None and peer.route == route:
            peer.reachable = False
            peer.closed_at = self._now
            if isinstance(peer, Node):
                self._fact("node_suspect", node=peer.name, reason="its connection is closed")

    def _client_took(self, client: Client, message: Taken) -> None:
        arrived = self._exchange.taken(client, message)
        if arrived or message.sha not in self._exchange or message.through >= self._exchange.size(message.sha):
            self._client_done(client, message.sha)

    def _client_done(self, client: Client, sha: bytes) -> None:
        """It has the large result, or does not want it."""
        for _ in range(client.fetched(sha)):
            self._exchange.release(sha)

    def _client_lost(self, client: Client, sha: bytes) -> None:
        """It cannot have the large result any more, for whatever row that names it."""
        for _ in range(client.fetchable.pop(sha, 0)):
            self._exchange.release(sha)

    def _client_left(self, client: Client, reason: str) -> None:
        client.left = client.forgotten = True
        self._admission.held.pop(client, None)
        self._fact("client_forgotten", session=client.session.hex(), reason=reason)
        self._drop_owed(client)
        self._exchange.forget(client)
        if self._routes.get(client.route) is client:
            del self._routes[client.route]
        client.reachable = False
        if not client.jobs:
            self._clients.remove(client)

    def _drop_owed(self, client: Client) -> None:
        client.drop_owed()
        for sha, count in client.fetchable.items():
            for _ in range(count):
                self._exchange.release(sha)
        client.fetchable.clear()

    def _node_gone(self, node: Node, reason: str, counted: bool = True) -> None:
        """The node's leases end now. ``counted``: against the jobs' budgets for lost nodes."""
        self._roster.remove(node)
        self._exchange.forget(node)
        if self._routes.get(node.route) is node:
            del self._routes[node.route]
        node.reachable = False
        jobs = node.leases.end_all()
        back: list[Job] = []
        for job in jobs:
            job.retracting = False
            if counted:
                self._lost_once(job, back, f"node {node.name} was lost ({reason})")
            elif job.once:
                self._give_up(job, f"node {node.name} {reason}")
            else:
                move(job, Cause.NODE_LOST)
                job.node, job.token = None, 0
                back.append(job)
        if jobs or counted:
            self._fact("node_lost", len(jobs), node=node.name, session=node.session.hex(), reason=reason)
        self._push_back(back, f"node {node.name} is gone ({reason})")
        self._journal.node_gone(node)
        self._land()

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

    def _stalled(self, seconds: float) -> None:
        self._fact("stalled", seconds=seconds)
        for peer in (*self._clients, *self._roster):
            peer.heard_at += seconds
            peer.closed_at += seconds
            if peer.unacked_since is not None:
                peer.unacked_since += seconds

    def _judge(self) -> None:
        """What silence decides."""
        times, now = self._times, self._now
        pause = min(0.25, times.heartbeat_s / 4)
        for node in list(self._roster):
            silent = now - node.heard_at
            if silent >= times.lease_s:
                self._node_gone(node, f"silent for {silent:.1f} s")
            elif not node.reachable and now - node.closed_at >= times.gone_s and not node.leases.once:
                self._node_gone(node, "its connection is closed and no new one came")
            elif silent >= times.suspect_s and not node.suspect:
                node.suspect = True
                self._fact("node_suspect", node=node.name, reason=f"silent for {silent:.1f} s")
                # Asking tells a closed connection from a silent agent: the transport refuses the former.
                self._send(node, Pulse())
            elif self._unheard(node):
                pass
            elif silent >= 1.5 * times.heartbeat_s and node.reachable:
                self._send(node, Pulse())
            if node.outstanding > node.slots:
                pause = min(pause, STUCK_S)
        for client in list(self._clients):
            if client.left:
                if not client.jobs:
                    self._clients.remove(client)
                continue
            silent = now - client.heard_at
            if silent >= times.session_s:
                self._client_left(client, f"silent for {silent:.0f} s")
            else:
                self._unheard(client)
        self._bound_owed()
        self._relieve()
        self._waiting.watch(self._ready, self._roster, now)
        self._tell(self._waiting.words(self._ready, self._roster, now))
        self._exchange.relieve(now - times.suspect_s)
        if now >= self._prune_at:
            self._prune_at = math.inf  # until it is answered
            before = self._wall - self._limits.keep_outcomes_s
            self._turn.after_commit.append(PruneOutcomes(before, self._limits.keep_outcomes, PRUNE_SLICE))
        self._judge_at = now + pause

    def _unheard(self, peer: Peer) -> bool:
        """A peer that speaks and does not acknowledge has lost something of ours: it shall join again."""
        since = peer.unacked_since
        if since is None or self._now - since < self._times.suspect_s or peer.heard_at <= since:
            return False
        if not peer.reachable:
            return False
        self._resync(peer, "it does not acknowledge")
        return True

    def _bound_owed(self) -> None:
        """Results of absent clients are bounded: the longest absent goes first."""
        total = sum(c.owed_bytes for c in self._clients)
        if total <= self._limits.max_owed_bytes:
            return
        for client in sorted(self._clients, key=lambda c: c.heard_at):
            if total <= self._limits.max_owed_bytes or self._now - client.heard_at < self._times.suspect_s:
                return
            total -= client.owed_bytes
            self._client_left(client, f"more than {self._limits.max_owed_bytes} bytes of results wait (max_owed_bytes)")

    def _relieve(self) -> None:
        """Ask back what lies ready on a stuck node, where an idle one could run it."""
        if self._ready:
            return
        idle = [n for n in self._roster if n.placeable and n.outstanding < n.slots]
        if not idle:
            return
        for node in self._roster:
            surplus = node.outstanding - node.slots
            since = node.surplus_since
            if surplus <= 0 or since is None or self._now - since < STUCK_S:
                continue
            room = sum(n.slots - n.outstanding for n in idle)
            asked = sum(1 for j in node.leases if j.retracting)
            movable = [j for j in node.leases.newest_unstarted() if any(n.satisfies(j.record.demand) for n in idle)]
            self._retract(node, movable[: max(0, min(surplus, room) - asked)])

    # ------------------------------------------------------------------------------- ending a turn

    def _settle(self) -> None:
        """One look at every peer that had to do with this turn: results, credit, acknowledgements."""
        now = self._now
        if self._exchange.words:
            self._tell(self._exchange.words)
            self._exchange.words = []
        still: dict[int, Peer] = {}
        for key, peer in self._active.items():
            if isinstance(peer, Client) and peer.left:
                continue
            if not peer.reachable:
                continue
            if isinstance(peer, Client):
                while (batch := peer.next_results(self._limits.results_in_flight)) is not None:
                    rows, message = batch
                    self._send(peer, message)
                    peer.sent.append((peer.link.sent, rows))
                    peer.told, peer.told_due = peer.accepted, None
                if peer.told != peer.accepted:
                    if peer.told_due is None:
                        peer.told_due = now + ACCEPT_DELAY_S
                    if now >= peer.told_due or peer.accepted - peer.told >= ACCEPT_EVERY:
                        peer.told, peer.told_due = peer.accepted, None
                        self._send(peer, Accepted(peer.accepted))
                    else:
                        still[key] = peer
            if peer.outgoing:
                self._exchange.duties(peer)
            if peer.pulse_owed:
                self._send(peer, Pulse())
            due = peer.link.ack_due()
            if due is not None:
                if now >= due:
                    self._send(peer, Pulse())
                else:
                    still[key] = peer
        self._active = still
        self._journal.forget(self._functions)
        for sha in self._functions.dropped:
            self._exchange.release(sha)
        self._functions.dropped.clear()
        if self._exchange.effects:
            self._turn.after_commit += self._exchange.effects
            self._exchange.effects = []

    def _tell_finished(self) -> None:
        if self._told_finished != self._finished:
            for outcome, n in self._finished.items():
                if n != self._told_finished[outcome]:
                    self._fact("jobs_finished", n - self._told_finished[outcome], outcome=outcome.word)
            self._told_finished = dict(self._finished)

    # ------------------------------------------------------------------------------- questions

    def _ask(self, client: Client, message: Ask) -> None:
        match message.topic:
            case "status":
                self._send(client, Answer(message.ask, "", self._status()))
            case "nodes":
                self._send(client, Answer(message.ask, "", answers.nodes(self._roster, self._now, message.about)))
            case unknown:
                self._send(client, Answer(message.ask, f"no topic is called {unknown[:40]!r}", {}))

    def _status(self) -> dict[str, Any]:
        load = answers.load(self._roster)
        return {
            "cluster_id": self._cluster_id,
            "epoch": self.epoch,
            "version": self._version,
            "uptime_s": self._now - (self._born or self._now),
            "wall_s": self._wall,
            "jobs": {
                "ready": len(self._ready),
                "adrift": len(self._adrift),
                "leased": load.pop("leased"),
                "running": load["busy"],
                "finished": {o.word: n for o, n in self._finished.items()},
            },
            "dead_letters": self._dead,
            "results_discarded": self._discarded,
            "sessions": len(self._clients),
            **load,
        }


OUTCOMES = tuple(Outcome)


def _may_see(client: Client, namespace: str) -> bool:
    """Whether the outcomes of jobs there are any of its business."""
    return client.identity.role == "owner" or client.namespace == namespace


def _unknown(wanted: Wanted, expired: bool) -> Owed:
    """The word on a job of which there is no row."""
    if expired:
        failure = Failure("ResultExpired", "the job is done, and its outcome is not kept any more")
        return Owed(wanted.counter, Outcome.FAILED, failure.encode(), None)
    if wanted.session != session_of(wanted.job):
        failure = Failure("UnknownJob", f"no job {format_job(wanted.job)} is known to this coordinator")
        return Owed(wanted.counter, Outcome.FAILED, failure.encode(), None)
    failure = Failure("JobLost", "the coordinator was restarted and no longer knows the job")
    return Owed(wanted.counter, Outcome.LOST, failure.encode(), None)


def _name(peer: Peer) -> str:
    return f"node {peer.name}" if isinstance(peer, Node) else f"session {peer.session.hex()}"
