"""What silence decides. Rules of this file: pure; it looks at when peers were heard and moves no job.

It is judged only when every socket was found empty. Who is silent is suspected first and asked, and given up later; who
speaks and does not acknowledge shall join again. What absent clients are owed is bounded, and work that lies on a node
which finishes nothing is asked back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.config import CoordinatorLimits, Times
from cluster.messages import Pulse
from scheduler.clients import Client, Clients
from scheduler.functions import Record
from scheduler.lifecycle import Job
from scheduler.outbox import Outbox
from scheduler.peers import Peer
from scheduler.roster import Node, Roster

STUCK_S = 0.05
"""Work lying ready on a node so long without a result there is asked back, if another node is idle."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the coordinator does about the silent."""

    node_gone: Callable[[Node, str], None]
    """Its leases end, and why."""
    node_cleared: Callable[[Node], None]
    """Its time to drain is over."""
    client_gone: Callable[[Client, str], None]
    """It is owed nothing any more, and why."""
    resync: Callable[[Peer, str], None]
    """Have it join again, and why."""
    retract: Callable[[Node, list[Job]], None]


class Silence:
    def __init__(
        self,
        times: Times,
        limits: CoordinatorLimits,
        clients: Clients,
        roster: Roster,
        out: Outbox,
        decide: Decisions,
    ) -> None:
        self._times = times
        self._limits = limits
        self._clients = clients
        self._roster = roster
        self._out = out
        self._decide = decide

    def judge(self) -> float:
        """Look at everybody; after how many seconds to look again."""
        times, (now, wall) = self._times, self._out.now
        pause = min(0.25, times.heartbeat_s / 4)
        for node in list(self._roster):
            node.weigh(now, self._limits.load_weight)
            if node.barred and wall >= self._roster.barred[node.name]:
                self._decide.node_cleared(node)
            silent = now - node.heard_at
            if silent >= times.lease_s:
                self._decide.node_gone(node, f"silent for {silent:.1f} s")
            elif not node.reachable and now - node.closed_at >= times.gone_s and not node.leases.once:
                self._decide.node_gone(node, "its connection is closed and no new one came")
            elif silent >= times.suspect_s and not node.suspect:
                node.suspect = True
                self._out.fact("node_suspect", node=node.name, reason=f"silent for {silent:.1f} s")
                # Asking tells a closed connection from a silent agent: the transport refuses the former.
                self._out.send(node, Pulse())
            elif self._unheard(node):
                pass
            elif silent >= 1.5 * times.heartbeat_s and node.reachable:
                self._out.send(node, Pulse())
            if node.outstanding > node.slots:
                pause = min(pause, STUCK_S)
        for client in list(self._clients):
            if client.left:
                if not client.jobs and client.identity.key:  # that of the house stays
                    self._clients.remove(client)
                continue
            silent = now - client.heard_at
            if silent >= times.session_s:
                self._decide.client_gone(client, f"silent for {silent:.0f} s")
            else:
                self._unheard(client)
        self._bound_owed()
        self._relieve()
        return pause

    def stalled(self, seconds: float) -> None:
        """We were not there to hear anybody."""
        self._out.fact("stalled", seconds=seconds)
        for peer in (*self._clients, *self._roster):
            peer.heard_at += seconds
            peer.closed_at += seconds
            if peer.unacked_since is not None:
                peer.unacked_since += seconds

    def _unheard(self, peer: Peer) -> bool:
        """A peer that speaks and does not acknowledge has lost something of ours: it shall join again."""
        since = peer.unacked_since
        if since is None or self._out.now.mono - since < self._times.suspect_s or peer.heard_at <= since:
            return False
        if not peer.reachable:
            return False
        self._decide.resync(peer, "it does not acknowledge")
        return True

    def _bound_owed(self) -> None:
        """Results of absent clients are bounded: the longest absent goes first."""
        total = sum(c.owed_bytes for c in self._clients)
        if total <= self._limits.max_owed_bytes:
            return
        for client in sorted(self._clients, key=lambda c: c.heard_at):
            if total <= self._limits.max_owed_bytes or self._out.now.mono - client.heard_at < self._times.suspect_s:
                return
            total -= client.owed_bytes
            self._decide.client_gone(
                client, f"more than {self._limits.max_owed_bytes} bytes of results wait (max_owed_bytes)"
            )

    def _relieve(self) -> None:
        """Ask back what lies ready on a stuck node, where an idle one could run it. What is ready here cannot: it would
        have been placed."""
        idle = [n for n in self._roster if n.placeable and n.outstanding < n.slots]
        if not idle:
            return
        for node in self._roster:
            surplus = node.outstanding - node.slots
            since = node.surplus_since
            if surplus <= 0 or since is None or self._out.now.mono - since < STUCK_S:
                continue
            room = sum(n.slots - n.outstanding for n in idle)
            asked = sum(1 for j in node.leases if j.retracting)
            movable = [j for j in node.leases.newest_unstarted() if any(_could_run(n, j.record) for n in idle)]
            self._decide.retract(node, movable[: max(0, min(surplus, room) - asked)])


def _could_run(node: Node, record: Record) -> bool:
    """Whether an idle node may be given a job of it."""
    return node.satisfies(record.line.demand) and record.queue.room_on(node.name) != 0 and node.fits(record.claims)
