"""Placement of jobs that ask for more than a slot: properties over whole sequences, and what is kept clear for whom."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.actor import Identity
from cluster.ids import job_id
from cluster.jobs import Rules, Spec
from cluster.session import Link
from scheduler.functions import Functions, Record
from scheduler.lifecycle import Job
from scheduler.queues import Queues
from scheduler.rooms import Rooms, reserve
from scheduler.roster import Node, Roster

RESOURCES = ("cpus", "memory_bytes", "gpus", "licence")
ZONES = ("a", "b")
KEY = Identity("key", "node", "node", "default")
amounts = st.dictionaries(st.sampled_from(RESOURCES), st.sampled_from((0.1, 0.5, 1, 2, 3)), max_size=3)
nodes = st.lists(st.tuples(amounts, st.integers(1, 4), st.sampled_from(ZONES), st.booleans()), min_size=1, max_size=5)


def node(name: str, resources: dict[str, float], slots: int = 4, zone: str = "a", loaded: bool = False) -> Node:
    out = Node(
        bytes(8), KEY, b"", Link(), 0.0, name=name, slots=slots, labels={"zone": zone}, resources=dict(resources)
    )
    out.penalty = float(loaded)
    return out


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    said = draw(amounts)
    return Rules(
        cpus=float(said.get("cpus", 0)),
        memory_bytes=int(said.get("memory_bytes", 0)),
        gpus=float(said.get("gpus", 0)),
        resources=(("licence", said["licence"]),) if "licence" in said else (),
        anti_affinity=draw(st.sampled_from(("", "", "one", "two"))),
        prefer=draw(st.sampled_from(((), (("zone", "a"),), (("node", "n0"), ("zone", "b"))))),
        queue=draw(st.sampled_from(("spread", "pack", "capped"))),
    )


@dataclass
class Cluster:
    """Books as the coordinator has them, and jobs placed one by one."""

    nodes: list[Node]
    queues: Queues = field(default_factory=Queues)
    held: list[Job] = field(default_factory=list)
    placed: int = 0

    def __post_init__(self) -> None:
        self.functions = Functions(self.queues)
        self.queues.named("pack").settings.placement = "pack"
        self.queues.named("capped").settings.max_per_node = 1

    def record(self, rules: Rules) -> Record:
        return self.functions.intern(Spec("m:f", False, b"f", rules=rules).encode(), "owner")

    def place(self, record: Record, chance: random.Random, avoid: str = "") -> Node | None:
        fitting = [n for n in self.nodes if n.satisfies(record.line.demand)]
        most = {id(n): n.slots + 2 for n in fitting}
        rooms = Rooms(record.line.demand, [n for n in fitting if n.outstanding < most[id(n)]], most)
        node = rooms.choose(chance, record.queue, avoid, record.claims)
        if node is not None:
            self.grant(record, node)
        return node

    def grant(self, record: Record, node: Node) -> Job:
        self.placed += 1
        job = Job(job_id(bytes(8), self.placed), self.placed, None, record, b"", None, self.placed, token=self.placed)
        job.node = node
        node.leases.grant(job)
        self.held.append(job)
        return job

    def end(self, job: Job) -> None:
        self.held.remove(job)
        assert job.node.leases.end(job.token) is job


def claimed(rules: Rules) -> dict[str, float]:
    said: dict[str, float] = {"cpus": rules.cpus, "memory_bytes": rules.memory_bytes, "gpus": rules.gpus}
    return {name: amount for name, amount in (said | dict(rules.resources)).items() if amount}


def keeps_its_word(node: Node) -> None:
    """No more is claimed than is offered, and of an anti-affinity key there is one job: counted anew from the jobs."""
    total: dict[str, float] = {}
    keys: list[str] = []
    for job in node.leases:
        said = job.record.spec.rules
        for name, amount in claimed(said).items():
            total[name] = total.get(name, 0.0) + amount
        keys += [said.anti_affinity] * bool(said.anti_affinity)
    for name, amount in total.items():
        assert amount <= node.resources.get(name, 0.0) + 1e-9, f"{name}: {amount} of {node.resources}"
    assert len(keys) == len(set(keys))


def could_take(node: Node, record: Record) -> bool:
    """By the very words of the documents, from the jobs that are there."""
    said = record.spec.rules
    there = [job.record.spec.rules for job in node.leases]
    free = all(
        node.resources.get(name, 0.0) - sum(claimed(other).get(name, 0.0) for other in there) >= amount - 1e-9
        for name, amount in claimed(said).items()
    )
    apart = not said.anti_affinity or all(other.anti_affinity != said.anti_affinity for other in there)
    capped = said.queue == "capped" and any(other.queue == "capped" for other in there)
    return free and apart and not capped and len(there) < node.slots


relaxed = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(nodes, st.lists(st.tuples(rules(), st.integers(0, 9), st.sampled_from(("", "n0", "n1"))), max_size=40))
def test_claims_never_exceed_offers_and_a_preference_never_blocks(
    offers: list[tuple[dict[str, float], int, str, bool]], steps: list[tuple[Rules, int, str]]
) -> None:
    cluster = Cluster([node(f"n{i}", *offer) for i, offer in enumerate(offers)])
    chance = random.Random(1)
    for said, ends, avoid in steps:
        record = cluster.record(said)
        could = [n for n in cluster.nodes if could_take(n, record)]
        preferred = {n.name: sum(n.is_labelled(*pair) for pair in said.prefer) for n in cluster.nodes}
        packed = said.queue == "pack"
        taken = cluster.place(record, chance, avoid)
        if could:
            assert taken is not None, "a slot that fits was left, and the job waits"
        if taken is not None and record.claims is not None and record.claims.binding:
            assert taken in could, "what claims more than a slot is not placed ahead of need"
            rest = [n for n in could if n.name != avoid] or could
            assert taken in rest, "what failed there goes elsewhere"
            assert preferred[taken.name] == max(preferred[n.name] for n in rest)
            if packed and not said.prefer:
                assert not taken.penalty or all(n.penalty for n in rest), "who is left alone by others comes first"
        for n in cluster.nodes:
            keeps_its_word(n)
        for job in cluster.held[: ends - 6]:
            cluster.end(job)
    for job in list(cluster.held):
        cluster.end(job)
    for n in cluster.nodes:
        assert not any(n.leases.holdings.taken.values()) and not n.leases.holdings.has(("default", "one"))


@relaxed
@given(nodes, rules())
def test_a_node_satisfies_what_it_could_take_when_it_is_empty(
    offers: list[tuple[dict[str, float], int, str, bool]], said: Rules
) -> None:
    cluster = Cluster([node(f"n{i}", *offer) for i, offer in enumerate(offers)])
    record = cluster.record(said)
    for n in cluster.nodes:
        assert n.satisfies(record.line.demand) is could_take(n, record)


def test_a_plain_job_has_no_claims_and_waits_in_the_line_of_all() -> None:
    cluster = Cluster([node("n", {})])
    plain = cluster.record(Rules())
    assert plain.claims is None and plain.line.demand.amounts == ()
    assert cluster.record(Rules(prefer=(("zone", "a"),))).line == plain.line, "what is preferred holds up nobody"
    assert cluster.record(Rules(cpus=1.0)).line != plain.line
    assert cluster.record(Rules(anti_affinity="a")).line != cluster.record(Rules(anti_affinity="b")).line


# ------------------------------------------------------------------------------------ kept clear


def reserved(cluster: Cluster, said: Rules) -> Any:
    record = cluster.record(said)
    job = Job(bytes(16), 99, None, record, b"", None, 99)
    return reserve(job, [n for n in cluster.nodes if n.satisfies(record.line.demand)])


def test_the_node_that_will_be_free_soonest_is_kept_clear_of_what_takes_the_same() -> None:
    small, large = node("small", {"cpus": 2}), node("large", {"cpus": 4, "licence": 1})
    cluster = Cluster([small, large])
    for n, count in ((small, 2), (large, 3)):
        for _ in range(count):
            cluster.grant(cluster.record(Rules(cpus=1.0)), n)
    kept = reserved(cluster, Rules(cpus=2.0))
    assert kept.node is large and kept.lacks == {"cpus"}
    assert kept.hinders(cluster.record(Rules(cpus=0.5, gpus=1.0)).line.demand)
    assert not kept.hinders(cluster.record(Rules(resources=(("licence", 1.0),))).line.demand)
    assert not kept.hinders(cluster.record(Rules()).line.demand)


def test_who_lacks_a_slot_has_the_node_kept_clear_of_all() -> None:
    only = node("only", {}, slots=1)
    cluster = Cluster([only])
    cluster.grant(cluster.record(Rules()), only)
    kept = reserved(cluster, Rules(queue="capped"))
    assert kept.node is only and kept.lacks == frozenset()
    assert kept.hinders(cluster.record(Rules()).line.demand)
    room = Rooms(cluster.record(Rules()).line.demand, [only], {id(only): 9})
    room.keep_clear(kept)
    assert room.nodes == []


def test_nothing_is_kept_clear_for_what_waits_for_one_certain_job() -> None:
    only = node("only", {"cpus": 4})
    cluster = Cluster([only])
    cluster.grant(cluster.record(Rules(anti_affinity="k")), only)
    assert reserved(cluster, Rules(anti_affinity="k", cpus=1.0)) is None
    cluster.grant(cluster.record(Rules(queue="capped")), only)
    assert reserved(cluster, Rules(queue="capped")) is None
    assert reserved(cluster, Rules(cpus=1.0)) is None, "it lacks nothing"
    roster = Roster()
    assert roster.reserved is None
