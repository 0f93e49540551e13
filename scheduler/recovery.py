"""What a restarted coordinator takes up of the life before. Rules of this file: rows into books, once, before the first
turn; it decides nothing, tells nobody, and knows no clock.

What that life may have assigned is adrift: it waits for the word of the nodes it knew, or for the end of the longest
lease it can have given. Its sessions and nodes are away until they say hello.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.actor import Identity
from cluster.ids import counter_of, session_of
from cluster.jobs import About
from cluster.session import Link
from scheduler import retries
from scheduler.admission import Admission
from scheduler.adrift import Adrift
from scheduler.clients import Client, Clients
from scheduler.exchange import Exchange
from scheduler.functions import Functions, Record
from scheduler.journal import Journal, node_about
from scheduler.keys import Keys
from scheduler.lifecycle import Job, State
from scheduler.payloads import Payloads
from scheduler.queues import SETTING, Queues
from scheduler.roster import BARRED, Node, Roster
from scheduler.store import NodeRow, Recovered, UnfinishedRow
from scheduler.timers import Kind, Timers


@dataclass(frozen=True, slots=True)
class Life:
    """The books that are filled: all that outlives a life."""

    clients: Clients
    roster: Roster
    queues: Queues
    functions: Functions
    keys: Keys
    timers: Timers
    exchange: Exchange
    admission: Admission
    payloads: Payloads
    journal: Journal
    adrift: Adrift


def take_up(recovered: Recovered, unfinished: Iterable[UnfinishedRow], life: Life) -> None:
    """``unfinished``: by rank."""
    for sha, (size, holds) in recovered.blobs.items():
        life.exchange.restore(sha, size, holds)
    for name, value in recovered.settings.items():
        if name.startswith(SETTING):
            life.queues.restore(name.removeprefix(SETTING), value)
        elif name.startswith(BARRED):
            life.roster.restore(name.removeprefix(BARRED), value)
    for key in recovered.keys:
        life.keys.restore(key)
        if key.until:
            life.timers.at(key.until, Kind.KEY, (key.namespace, key.key))
    records: dict[int, Record] = {}
    for spec in recovered.specs:
        record = life.functions.restore(spec.number, spec.raw, spec.owner, spec.code, spec.blob)
        records[spec.number] = record
        if spec.blob:
            life.exchange.restore(record.spec.code, record.spec.code_size, 1)
    for known in recovered.nodes:
        life.roster.add(_node(known))
    for row in unfinished:
        _job(row, life.functions.linked(records[row.spec]), life)


def _node(row: NodeRow) -> Node:
    """One that may hold attempts of the earlier life, and has not said which."""
    lock, pid, python, slots, labels, queues, resources = node_about(row)
    identity = Identity(row.key, "node", "node", "default")
    node = Node(row.session, identity, b"", Link(), 0.0, False, math.inf, name=row.name, resources=resources)
    node.incarnation, node.host, node.lock = row.incarnation, row.host, lock
    node.pid, node.python, node.slots, node.labels, node.awaited = pid, python, slots, labels, True
    node.queues = queues
    return node


def _job(row: UnfinishedRow, record: Record, life: Life) -> None:
    client = life.clients.get(session_of(row.id)) or _absent(session_of(row.id), life)
    large = (row.sha, row.size) if row.sha else None
    payload = row.payload or b""
    job = Job(row.id, counter_of(row.id), client, record, payload, large, row.rank, State.ADRIFT)
    job.size, job.absent = row.payload_bytes, len(payload) < row.payload_bytes
    job.attempt, job.at, job.since = row.attempt, row.at, row.at
    job.summary, job.about = row.summary, About.decode(row.about)
    job.due = row.due or job.first_due  # nothing has happened to it, so no row says when it may run
    retries.restore(job, row.tries)
    client.jobs[job.counter] = job
    life.adrift.add(job, row.node if row.token else b"")
    record.queue.jobs += 1
    life.timers.begin(job, 0.0)
    record.live += 1
    life.admission.taken(job)
    life.admission.saved(job, row.saved)
    life.payloads.taken([job])


def _absent(session: bytes, life: Life) -> Client:
    """A session of an earlier life, which may come back."""
    row = life.journal.session(session)
    assert row is not None, f"job of session {session.hex()}, which is not kept"
    identity = Identity(row.key, "client", row.owner, row.namespace)
    client = Client(session, identity, b"", Link(), 0.0, False, namespace=row.namespace, accepted=row.accepted)
    client.left = client.forgotten = not row.key  # of the house
    life.clients.add(client)
    return client
