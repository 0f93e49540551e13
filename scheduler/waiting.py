"""Jobs that no node can take, and who was told why. Rules of this file: a pure book; it looks, and moves no job.

It is looked after when silence is judged and costs nothing besides: a ready job whose demand some node meets, however
busy that node is, is none of its business. Each waiting job is looked at once, when its session shall be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cluster.config import WAIT_WORD_S
from cluster.messages import Waiting
from scheduler.clients import Client
from scheduler.functions import Demand
from scheduler.ready_queue import ReadyQueue
from scheduler.resources import Amounts, told
from scheduler.roster import Node, Roster

MAX_DEMANDS = 100
"""Demands that nobody meets and that are watched, the longest waiting first. Others are told when these are met."""

SHOWN, SHOWN_CHARS = 4, 60
"""Nodes, labels or versions that a text names, and how much of each."""


@dataclass(slots=True)
class _Unmet:
    """A demand that no node can meet now."""

    number: int
    since: float
    looked_through: int = 0
    """Rank of the youngest job that was looked at."""
    untold: dict[Client, tuple[int, str]] = field(default_factory=dict)
    """Sessions that are to be told: how many of their jobs were seen, and what the first calls."""
    told: dict[Client, tuple[int, str]] = field(default_factory=dict)
    """Sessions that were told on their present link."""


class WaitingJobs:
    def __init__(self) -> None:
        self._unmet: dict[Demand, _Unmet] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._unmet)

    def watch(self, ready: ReadyQueue, roster: Roster, now: float) -> None:
        """See which demands cannot be met. One that can be again, or has no jobs any more, is forgotten."""
        before, self._unmet = self._unmet, {}
        if not ready:
            return
        for demand in ready.demands():
            if any(n.placeable for n in roster.fitting(demand)):
                continue
            unmet = before.get(demand)
            if unmet is None:
                self._number += 1
                unmet = _Unmet(self._number, now)
            self._unmet[demand] = unmet
            if len(self._unmet) >= MAX_DEMANDS:
                break

    def requeued(self, demand: Demand) -> None:
        """Older jobs have come back among those that wait."""
        unmet = self._unmet.get(demand)
        if unmet is not None:
            unmet.looked_through = 0

    def words(self, ready: ReadyQueue, roster: Roster, now: float) -> Iterator[tuple[Client, Waiting]]:
        """Whom to tell now. Each is told once a link as long as the demand stays unmet."""
        for demand, unmet in self._unmet.items():
            if now < unmet.since + WAIT_WORD_S:
                continue
            youngest = ready.youngest_rank(demand)
            if youngest > unmet.looked_through:
                self._look(unmet, demand, ready)
                unmet.looked_through = youngest
            why = ""
            for client in [c for c in unmet.untold if c.reachable or c.left]:
                jobs, function = unmet.told[client] = unmet.untold.pop(client)
                if client.reachable:
                    why = why or reason(demand, list(roster), roster.fitting(demand), now)
                    yield client, Waiting(unmet.number, jobs, _plain(function), why)

    def _look(self, unmet: _Unmet, demand: Demand, ready: ReadyQueue) -> None:
        if not unmet.looked_through:
            unmet.untold.clear()
        for job in ready.younger_than(demand, unmet.looked_through):  # the youngest first
            if job.client not in unmet.told:
                jobs, _ = unmet.untold.get(job.client, (0, ""))
                unmet.untold[job.client] = jobs + 1, job.record.spec.name

    def relinked(self, client: Client) -> None:
        """It has a new link: a word may have been lost with the one before."""
        for unmet in self._unmet.values():
            if client in unmet.told:
                unmet.untold[client] = unmet.told.pop(client)


# ------------------------------------------------------------------------------------ in words


def reason(demand: Demand, nodes: Sequence[Node], fitting: Sequence[Node], now: float) -> str:
    """What the jobs wait for, and what there is instead; of bounded length."""
    labels, python, queue, amounts = demand
    if not nodes:
        return "a node: none has joined"
    if fitting:
        absent = shown([(n.name, absence(n, now)) for n in fitting])
        of = f"{_count(len(nodes))}, {len(fitting)} could take them ({absent})"
        if all(n.draining or n.barred or n.short for n in fitting):
            return f"a node that takes work: of {of}"
        return f"a node that is heard: of {of}"
    of = f"of {_count(len(nodes))}"
    wanted = _list([f"{k}={v}" for k, v in labels], " and ")
    labelled = [n for n in nodes if all(n.is_labelled(k, v) for k, v in labels)]
    if not labelled:
        have = [(n.name, _list([f"{k}={v}" for k, v in sorted(n.labels.items())]) or "no labels") for n in nodes]
        what = "it" if len(labels) == 1 else "them all"
        return f"a node with label{'s' * (len(labels) > 1)} {wanted}; {of} none has {what} ({shown(have)})"
    versions = _list(sorted({n.python for n in labelled}))
    versioned = [n for n in labelled if not python or n.python == python]
    serving = [n for n in versioned if not n.queues or queue in n.queues]
    if serving:
        claimed = _list([told(*one) for one in amounts], " and ")
        lacks = [
            (n.name, _list([told(name, n.leases.holdings.offered.get(name, 0)) for name in scarce(n, amounts)]))
            for n in serving
        ]
        return f"a node that offers {claimed}; {of} none has so much, however idle ({shown(lacks)})"
    if versioned:
        served = [(n.name, _list(sorted(n.queues))) for n in versioned]
        return f"a node that serves queue {_plain(queue)}; {of} none does that could take them ({shown(served)})"
    which = f"those with label{'s' * (len(labels) > 1)} {wanted}" if labels else "the nodes"
    return f"a node with Python {_plain(python)}, because code travels by value; {which} have {versions}"


def scarce(node: Node, amounts: Amounts) -> list[str]:
    """Names of what it offers less of than that."""
    return [name for name, amount in amounts if node.leases.holdings.offered.get(name, 0) < amount]


def absence(node: Node, now: float) -> str:
    """Why it takes nothing."""
    if node.barred:
        return f"drained, until cluster undrain {_plain(node.name)}"
    if node.draining:
        return "about to leave"
    if node.short and node.reachable and not node.suspect:
        return "short of memory: it is given nothing new until it has recovered"
    return f"silent for {now - node.heard_at:.0f} s" if node.reachable else "its connection is closed"


def _count(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def shown(about: Sequence[tuple[str, str]]) -> str:
    """``name: word; name: word; and 7 more``."""
    words = [f"{_plain(name)}: {word}" for name, word in about[:SHOWN]]
    if len(about) > SHOWN:
        words.append(f"and {len(about) - SHOWN} more")
    return "; ".join(words)


def _list(words: Sequence[str], joint: str = ", ") -> str:
    more = [f"{len(words) - SHOWN} more"] if len(words) > SHOWN else []
    return joint.join([*map(_plain, words[:SHOWN]), *more])


def _plain(text: str) -> str:
    """What peers chose to call something, fit for one line of a log."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."
