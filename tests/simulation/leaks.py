"""What must be empty when all is done, and what must never be large. Rules of this file: it looks into the actors, as
nothing else here does.

What is kept on purpose is no leak: spare blobs of an agent, and functions by value that came as blobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.simulation.scale import SIZES

if TYPE_CHECKING:
    from tests.simulation.machines import ClientMachine, CoordinatorMachine, NodeMachine
    from tests.simulation.plans import Plan
    from tests.simulation.world import World

PAYLOAD_BYTES = 24
"""Of one job, where they travel inside messages: see ``work.Workload``."""


def leaks(world: World) -> list[str]:
    """What is left over, in words; empty when the world is at rest."""
    out = [f"coordinator: {word}" for word in _of_coordinator(world.coordinator, world)]
    for node in world.nodes:
        out += [f"{node.name}: {word}" for word in _of_node(node)]
    out += [f"{clone.name}: a copy of it still claims its name" for clone in world.clones]
    for client in world.clients:
        out += [f"{client.name}: {word}" for word in _of_client(client)]
    return out


def excess(machine: CoordinatorMachine, plan: Plan) -> str:
    """Why it has too many payloads in memory, in words; empty if it has not.

    Beyond the limit there may be one job's, and what is read ahead for each demand.
    """
    for queue in machine.coordinator._queues:
        most, known = queue.settings.max_running, queue.leased - queue.by_node.get("", 0)
        if most is not None and known > most:
            return f"{known} attempts of queue {queue.name} are placed, and {most} may be"
    if not plan.store or plan.payload_memory_bytes > 1_000_000:
        return ""
    jobs = [job for client in machine.coordinator._clients for job in client.jobs.values()]
    size = sum(len(job.payload) for job in jobs)
    demands = len({job.record.line.demand for job in jobs})
    bound = plan.payload_memory_bytes + PAYLOAD_BYTES + demands * 2 * int(SIZES["AHEAD"]) * PAYLOAD_BYTES
    return f"{size} bytes of payloads are in memory, and {bound} may be" if size > bound else ""


def _left(owner: Any, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(owner, name)
        if value if isinstance(value, int) else len(value):
            yield f"{type(owner).__name__}.{name.lstrip('_')} is {_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "..."


def _of_coordinator(machine: CoordinatorMachine, world: World) -> Iterator[str]:
    it = machine.coordinator
    rows = world.kept.rows.rows
    yield from _left(it, "_ready", "_adrift")
    yield from _left(it._desk, "_inquiries")
    yield from _left(it._intake, "_keyed", "_aliased")
    yield from _left(it._following, "ended")
    yield from _left(it._hooks, "ended")
    yield from _left(it._owing, "unknown")
    yield from _left(it._dependencies, "_children", "_missing")
    for queue in it._queues:
        yield from _left(queue, "leased", "by_node", "jobs")
    yield from _left(it._admission, "jobs", "bytes", "volatile_bytes", "held")
    yield from _left(it._payloads, "bytes", "absent", "_reading")
    yield from _left(machine, "_held", "_under_way")
    yield from _left(rows, "jobs", "standings")
    if rows.nodes and rows.nodes.keys() != {node.name for node in it._roster}:
        yield f"the rows know the nodes {_short(list(rows.nodes))}"
    if rows.specs.keys() != {r.number for r in it._functions._records.values() if r.number}:
        yield f"{len(rows.specs)} rows of specs are not those of {len(it._functions._records)} records"
    for node in it._roster:
        yield from _left(node, "leases", "uploaded")
        yield from _left(node.outgoing, "_waiting", "_active")
        yield from _left(node.incoming, "_blobs")
    for client in it._clients:
        yield from _left(client, "jobs", "waiting", "sent", "owed_bytes", "fetchable", "uploaded")
        yield from _left(client.outgoing, "_waiting", "_active")
        yield from _left(client.incoming, "_blobs")
    exchange = it._exchange
    yield from _left(exchange, "_from", "_waiting", "_readers")
    needed = Counter(r.spec.code for r in it._functions._records.values() if r.holds_blob)
    needed.update(row.sha for row in rows.outcomes.values() if row.sha is not None)
    needed.update(row.sha for row in rows.arguments.values() if row.sha is not None)
    for record in it._functions._records.values():
        yield from _left(record, "live")
    refs = exchange._shelf._refs
    if refs != needed:
        yield f"holds on blobs are {_short(refs)}, and functions and rows need {_short(dict(needed))}"
    shelf, disk = set(exchange._shelf._sizes), set(machine.disk.files)
    if world.plan.disk_error:
        shelf -= needed.keys() - disk  # a blob the disk has lost comes back with the rows that name it, till it is read
    if shelf != disk:
        yield f"{len(shelf - disk)} blobs are on the shelf alone, {len(disk - shelf)} on the disk alone"
    if machine.disk.parts:
        yield f"parts of {len(machine.disk.parts)} blobs lie on the disk"
    if any(route != peer.route for route, peer in it._door._routes.items()):
        yield "a route leads to a peer that has another"


def _of_node(machine: NodeMachine) -> Iterator[str]:
    it = machine.agent
    yield from _left(it, "_attempts", "_unsent", "_unacked", "_wanted")
    yield from _left(it._attempts, "queue")
    yield from _left(it._outgoing, "_waiting", "_active")
    yield from _left(it._incoming, "_blobs")
    yield from _left(it._shelf, "_refs")
    for slot in it._slots:
        yield from _left(slot, "given", "recalling")
    if set(it._shelf._sizes) != set(machine.disk.files):
        shelf, disk = set(it._shelf._sizes), set(machine.disk.files)
        yield f"{len(shelf - disk)} blobs are on the shelf alone, {len(disk - shelf)} on the disk alone"
    if machine.disk.parts:
        yield f"parts of {len(machine.disk.parts)} blobs lie on the disk"


def _of_client(machine: ClientMachine) -> Iterator[str]:
    it = machine.session
    yield from _left(it, "_unsent", "_sent", "_open", "_stored", "_fetching", "_cancels", "_asks")
    yield from _left(it._outgoing, "_waiting", "_active")
    yield from _left(it._incoming, "_blobs")
    yield from _left(machine.memory, "sources", "coming", "whole")
