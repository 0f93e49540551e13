"""The door: who comes in, which connection is whose, and whose word counts. Rules of this file: pure; it knows sessions
and links, and no job.

A peer joins by a hello, and again on every new link. Whoever is not known, or has lost a message, is asked for one,
which puts everything right. What a hello says of jobs is settled by the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.actor import Received
from cluster.config import PROTOCOL, CoordinatorLimits, Times
from cluster.ids import SESSION_BYTES
from cluster.messages import ClientHello, NodeHello, Refusal, Resync, Retract, Welcome
from cluster.session import Link, Verdict
from scheduler import names
from scheduler.admission import Admission
from scheduler.clients import Client, Clients
from scheduler.journal import Journal
from scheduler.outbox import Outbox
from scheduler.peers import Peer
from scheduler.roster import Node, Roster
from scheduler.waiting import WaitingJobs


class Door:
    """``gone`` is told of a node whose place another life of it takes, and why."""

    def __init__(
        self,
        epoch: int,
        version: str,
        times: Times,
        limits: CoordinatorLimits,
        clients: Clients,
        roster: Roster,
        journal: Journal,
        admission: Admission,
        waiting: WaitingJobs,
        out: Outbox,
        gone: Callable[[Node, str], None],
    ) -> None:
        self._epoch = epoch
        self._version = version
        self._times = times
        self._limits = limits
        self._clients = clients
        self._roster = roster
        self._journal = journal
        self._admission = admission
        self._waiting = waiting
        self._out = out
        self._gone = gone
        self._routes: dict[bytes, Peer] = {}

    # ------------------------------------------------------------------------------- those who are in

    def hear(self, event: Received) -> Peer | None:
        """Whose message this is; None if it does not count."""
        peer = self._routes.get(event.route)
        if peer is None or peer.identity.key != event.identity.key:
            self._out.reply(event, Resync("not known here"))
            return None
        now = self._out.now.mono
        verdict = peer.link.take(event.header, event.message, now)
        if verdict is Verdict.GAP:
            self.resync(peer, "messages were lost on the way")
            return None
        if verdict is not Verdict.NEXT:
            return None
        peer.heard_at = now
        peer.reachable = True
        if peer.unacked_since is not None:
            peer.acknowledged(now)
        self._out.active[id(peer)] = peer
        if peer.suspect:
            peer.suspect = False
            if isinstance(peer, Node):
                self._out.fact("node_back", node=peer.name)
        return peer

    def resync(self, peer: Peer, reason: str) -> None:
        """Have the peer join again; the word is repeated for a link only after a heartbeat, in case it was lost."""
        if peer.resync_asked == peer.link.number and self._out.now.mono - peer.resync_at < self._times.heartbeat_s:
            return
        peer.resync_asked, peer.resync_at = peer.link.number, self._out.now.mono
        self._out.fact("resync", peer=peer.called, reason=reason)
        self._out.do(peer.plain(Resync(reason)))

    def closed(self, route: bytes) -> None:
        """The transport knows no such connection any more."""
        peer = self._routes.pop(route, None)
        if peer is not None and peer.route == route:
            peer.reachable = False
            peer.closed_at = self._out.now.mono
            if isinstance(peer, Node):
                self._out.fact("node_suspect", node=peer.name, reason="its connection is closed")

    def shut(self, peer: Peer) -> None:
        """It is gone for good."""
        if self._routes.get(peer.route) is peer:
            del self._routes[peer.route]
        peer.reachable = False

    # ------------------------------------------------------------------------------- joining

    def _refuse(self, event: Received, code: str, text: str) -> None:
        self._out.fact("peer_refused", reason=text)
        self._out.reply(event, Refusal(code, text))

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
        peer.rebind(event.route, event.header.link, self._out.now.mono)
        other = self._routes.get(event.route)
        if other is not None:
            other.reachable = False
            other.closed_at = self._out.now.mono
        self._routes[event.route] = peer
        self._out.active[id(peer)] = peer

    def client_hello(self, event: Received, hello: ClientHello) -> None:
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
                self._out.now.mono,
                namespace=namespace,
                accepted=kept.accepted if kept else 0,
                forgotten=hello.epoch == self._epoch,  # it knows this epoch, which knew it once
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
        resumed = known and hello.epoch == self._epoch
        self._out.send(client, self._welcome(resumed, client.accepted, kept is not None))
        self._out.fact(
            "client_joined", session=client.session.hex(), namespace=client.namespace, link=client.link.number
        )

    def _welcome(self, known: bool, accepted: int, kept: bool = False) -> Welcome:
        return Welcome(self._epoch, known, accepted, self._times.heartbeat_s, self._times.lease_s, kept)

    def node_hello(self, event: Received, hello: NodeHello) -> Node | None:
        """The node, if it has joined: it has said what it holds."""
        if not self._fit_to_join(event, "node", hello.protocol, hello.version, hello.session):
            return None
        node = self._roster.get(hello.name)
        if node is not None and node.session != hello.session:
            if not names.succeeds(hello, node):
                self._contest(event, hello, node)
                return None
            self._gone(node, "a new life of it has come")
            node = None
        if node is not None and node.identity.key != event.identity.key:
            self._refuse(event, "name", "this session id belongs to another key")
            return None
        if node is not None and event.header.link <= node.link.number:
            return None  # a late copy of an earlier hello
        known = node is not None
        if node is None:
            if len(self._roster) >= self._limits.max_nodes:
                self._refuse(event, "full", f"{len(self._roster)} nodes are the limit (max_nodes)")
                return None
            node = Node(
                hello.session,
                event.identity,
                event.route,
                Link(),
                self._out.now.mono,
                name=hello.name,
                incarnation=hello.incarnation,
                previous=hello.previous[:SESSION_BYTES],
                lock=hello.lock,
                host=hello.host,
                pid=hello.pid,
                python=hello.python,
                slots=max(1, hello.slots),
                labels=hello.labels,
                queues=tuple(hello.queues),
                resources=hello.resources,
            )
            self._roster.add(node)
            self._journal.node(node)
        self._bind(node, event)
        node.code.clear()
        self._out.send(node, self._welcome(known, 0))
        self._out.fact("node_joined", node=node.name, slots=node.slots, host=node.host, link=node.link.number)
        return node

    def _contest(self, event: Received, hello: NodeHello, holder: Node) -> None:
        """Refuse who claims a living node's name; leave it without an answer, which it asks for again, till we know."""
        if names.proved_alive(hello, holder):
            del holder.claims[hello.session]
            self._refuse(event, "name", names.refusal(hello, holder))
            return
        if not names.asked(hello, holder) and holder.reachable:
            self._out.send(holder, Retract([]))  # it asks for nothing, and is owed an acknowledgement soon
            names.claim(hello, holder)
            return
        silent = self._out.now.mono - holder.heard_at
        quiet = not holder.placeable or silent >= 1.5 * self._times.heartbeat_s
        if quiet and self._out.now.mono - holder.claims_told_at >= self._times.lease_s:
            holder.claims_told_at = self._out.now.mono
            self._out.fact(
                "name_contested",
                node=holder.name,
                rival=f"host {hello.host}, process {hello.pid}",
                holder=f"host {holder.host}, process {holder.pid}",
                silent=silent,
            )
