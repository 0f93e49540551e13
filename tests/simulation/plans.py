"""How much work there is and how often what fails. Rules of this file: figures only, named or drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    span_s: float = 15.0
    """Length of the first phase: jobs are handed in, and things fail, until then."""

    # -- the work
    jobs: int = 200
    clients: int = 2
    nodes: int = 3
    slots: int = 3
    long: float = 0.02
    """Share of jobs that run for seconds, up to longer than a lease."""
    endless: float = 0.0
    """Share of jobs that run for half a minute."""
    raises: float = 0.05
    poison: float = 0.0
    """Share of jobs that kill every worker they run in."""
    budgets: float = 0.0
    """Share of functions whose jobs may die of a cause more or less often than usual."""
    once: float = 0.0
    """Share of durable functions whose jobs must not start twice."""
    moody: float = 0.0
    """Share of jobs that raise at first, ask for a pause, or give up."""
    ruled: float = 0.0
    """Share of functions with retries, queues, tenants, priorities and times to begin."""
    timeouts: float = 0.0
    """Share of functions with a time limit, which some of their jobs exceed,"""
    memory: float = 0.0
    """...and with a limit of memory."""
    saves: float = 0.0
    """Share of jobs that save a state for their next attempt."""
    ends: float = 0.0
    """Share of jobs that somebody orders to be ended, whether they run or not."""
    after: float = 0.0
    """Share of jobs that run after others of their client,"""
    keys: float = 0.0
    """...that are handed in under one of a few keys,"""
    delays: float = 0.0
    """...and that may not run at once."""
    schedules: float = 0.0
    """Schedules that are made or changed,"""
    schedule_orders: float = 0.0
    """...and pauses, runs and removals of some."""
    skews: float = 0.0
    """The coordinator's wall clock is set by some seconds, up to a minute or two."""
    queue_pauses: float = 0.0
    """Pauses of a queue for some seconds."""
    impatient: float = 0.0
    """Share of jobs that fail where the coordinator takes nothing; the others wait."""
    max_jobs: int = 2_000_000
    payload_memory_bytes: int = 1 << 30
    """Limits of the coordinator."""
    by_value: float = 0.3
    """Share of functions that go by value; of these, half are blobs."""
    large: float = 0.1
    """Share of jobs whose payload is a blob,"""
    large_result: float = 0.1
    """...of those whose result is one,"""
    shared: float = 0.5
    """...and of blobs that are the same bytes as another's."""
    cancels: float = 0.1
    spare_blobs: int = 512
    """Blobs an agent keeps for the next job that names them."""

    store: bool = True
    """Whether the coordinator has one."""
    durable: float = 1.0
    """Share of functions whose jobs shall outlive it."""

    keep_outcomes: int = 1_000_000
    """Outcomes that stay on disk, for whoever comes late."""
    session_s: float = 60.0
    """How long results wait for a client that is away; less than most silences last where a story is about that."""

    claims: float = 0.0
    """Share of functions whose jobs claim resources of their node, or must not share it with others of their kind."""
    scarce: float = 0.0
    """Share of functions that demand a label which no node has,"""
    scarce_s: float = 9.0
    """...until one joins that has it, after so many seconds."""

    old_nodes: float = 0.0
    """Share of the nodes that are of an earlier release, and cannot read what ``budgets`` says."""

    # -- the network: seconds, and chances per message
    delay_s: float = 0.001
    slow: float = 0.01
    """Chance of a delay a hundred times as long."""
    loss: float = 0.0
    duplicate: float = 0.0
    """Three in ten of the second copies come late."""
    reorder: float = 0.0
    """Chance that messages sent later come first."""

    # -- what happens so many times in the whole first phase, on average
    cuts: float = 0.0
    freezes: float = 0.0
    """A direction of a connection holds everything back for seconds."""
    black_holes: float = 0.0
    """Nothing gets through to or from a machine for seconds, and none of the two ends is told."""
    one_way: float = 0.0
    """One direction of a connection is dark for seconds, and nobody is told."""
    half_opens: float = 0.0
    """A connection is gone, and one of its ends is not told for seconds."""
    clock_jumps: float = 0.0
    """The wall clock of a machine is set, by a moment or by weeks, forward or back."""
    coordinator_pauses: float = 0.0
    agent_pauses: float = 0.0
    client_pauses: float = 0.0
    agent_kills: float = 0.0
    agent_leaves: float = 0.0
    leave_s: float = 0.0
    """Longest time that an agent which leaves gives to what runs."""
    drains: float = 0.0
    """A node is drained by order, and undrained some seconds later;"""
    hasty: float = 0.5
    """...share of those drained with a time, after which what runs is taken back."""
    clones: float = 0.0
    """A node is copied with its directory, and the copy started; half of them while the original is cut off."""
    client_deaths: float = 0.0
    client_leaves: float = 0.0
    coordinator_restarts: float = 0.0
    commit_crashes: float = 0.0
    """The coordinator is killed while it commits; what it wrote may be on disk, or not."""
    commit_failures: float = 0.0
    """A commit fails, and nobody knows whether it was made."""
    joint_crashes: float = 0.0
    """The coordinator and a node are killed at one moment."""
    late_homes: float = 0.0
    """A node that was given up comes back to a new life of the coordinator, before those that have its jobs now."""
    full_disks: float = 0.0
    """The disk of the store is nearly full for some seconds."""

    # -- chances per piece of work
    worker_crash: float = 0.0
    """Per run, in the middle of it; half as often between two runs."""
    start_failure: float = 0.0
    disk_error: float = 0.0
    """Per chunk written or read, at the coordinator and at agents."""
    slow_commit: float = 0.1
    """Per commit: it takes up to a second and a half instead of a millisecond or two."""


STORIES: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("quiet", jobs=400),
        Plan("lossy", jobs=300, loss=0.03, duplicate=0.03, slow=0.03),
        Plan("out of order", jobs=300, reorder=0.05, duplicate=0.03, slow=0.03),
        Plan("one way", jobs=300, once=0.2, one_way=14, half_opens=10, coordinator_restarts=1, long=0.1),
        Plan("half-open links", jobs=300, half_opens=20, agent_kills=3, coordinator_restarts=2),
        Plan("wall clocks", jobs=300, clock_jumps=30, coordinator_restarts=3, client_pauses=3, large_result=0.3),
        Plan("old nodes", jobs=300, old_nodes=0.5, budgets=0.3, poison=0.03, by_value=0.5),
        Plan("cut links", jobs=300, cuts=25, freezes=5),
        Plan("black holes", jobs=300, black_holes=12, cuts=3),
        Plan("clones", jobs=300, clones=8, black_holes=2, freezes=6, cuts=6, agent_kills=6),
        Plan(
            "claims",
            jobs=300,
            slots=5,
            claims=0.7,
            memory=0.2,
            long=0.05,
            ends=0.1,
            coordinator_restarts=4,
            agent_kills=4,
            black_holes=4,
            late_homes=2,
            cuts=6,
            worker_crash=0.01,
        ),
        Plan("scarce labels", jobs=300, clients=3, scarce=0.4, scarce_s=14.0, cancels=0.0),
        Plan("pauses", jobs=300, coordinator_pauses=3, agent_pauses=6, client_pauses=4),
        Plan("agent crashes", jobs=300, agent_kills=8, agent_leaves=2, worker_crash=0.02, start_failure=0.2),
        Plan("poison", jobs=300, poison=0.05, budgets=0.5, worker_crash=0.01, coordinator_restarts=2, agent_kills=2),
        Plan(
            "at most once",
            jobs=300,
            once=0.7,
            long=0.1,
            black_holes=5,
            agent_pauses=5,
            agent_kills=3,
            agent_leaves=2,
            coordinator_restarts=4,
            commit_crashes=2,
            cuts=5,
            cancels=0.2,
        ),
        Plan("moods", jobs=300, moody=0.5, ruled=1.0, coordinator_restarts=3, agent_kills=3, worker_crash=0.02, cuts=4),
        Plan(
            "rules",
            jobs=400,
            ruled=1.0,
            delays=0.2,
            cancels=0.2,
            queue_pauses=4,
            coordinator_restarts=3,
            agent_kills=3,
            clock_jumps=4,
        ),
        Plan("schedules", jobs=200, schedules=12, schedule_orders=12, long=0.0),
        Plan(
            "schedules over restarts",
            jobs=200,
            schedules=10,
            schedule_orders=4,
            coordinator_restarts=5,
            commit_crashes=3,
            agent_kills=2,
            skews=2,
        ),
        Plan(
            "schedules and clocks",
            jobs=200,
            schedules=12,
            schedule_orders=6,
            skews=12,
            clock_jumps=3,
            coordinator_restarts=2,
            coordinator_pauses=2,
        ),
        Plan(
            "many schedules",
            jobs=200,
            long=0.0,
            schedules=40,
            schedule_orders=40,
            slow_commit=0.5,
            coordinator_restarts=3,
            commit_crashes=3,
            client_deaths=1,
            skews=6,
            clock_jumps=4,
        ),
        Plan(
            "limits",
            jobs=300,
            timeouts=0.5,
            memory=0.3,
            saves=0.3,
            moody=0.3,
            ruled=0.5,
            budgets=0.3,
            worker_crash=0.02,
            coordinator_restarts=2,
            agent_kills=2,
            cuts=4,
        ),
        Plan(
            "endings",
            jobs=300,
            slots=2,
            long=0.4,
            ends=0.4,
            cancels=0.1,
            moody=0.2,
            ruled=0.3,
            coordinator_restarts=4,
            commit_crashes=2,
            agent_kills=3,
            cuts=6,
            black_holes=3,
        ),
        Plan(
            "drains",
            jobs=300,
            long=0.1,
            once=0.2,
            saves=0.3,
            drains=8,
            agent_leaves=4,
            leave_s=5.0,
            agent_kills=2,
            coordinator_restarts=3,
            cuts=4,
        ),
        Plan("families", jobs=300, after=0.5, moody=0.1, raises=0.1, ruled=0.5, coordinator_restarts=4, cancels=0.1),
        Plan("keys", jobs=300, keys=0.6, coordinator_restarts=4, commit_crashes=2, cuts=6, loss=0.005, agent_kills=2),
        Plan("deep queue", jobs=400, slots=1, payload_memory_bytes=300, cancels=0.2, agent_kills=2, joint_crashes=2),
        Plan("full queue", jobs=400, max_jobs=25, impatient=0.3, cuts=8, loss=0.005, coordinator_restarts=3, large=0.3),
        Plan("full memory", jobs=400, durable=0.5, payload_memory_bytes=1_500, impatient=0.2, cuts=4),
        Plan("coordinator restart", jobs=300, coordinator_restarts=3, loss=0.002),
        Plan("volatile", jobs=300, store=False, durable=0.0, coordinator_restarts=3, loss=0.002),
        Plan(
            "durable and volatile", jobs=300, durable=0.5, coordinator_restarts=4, commit_crashes=2, cuts=5, loss=0.002
        ),
        Plan("slow commits", jobs=300, slow_commit=0.7, commit_crashes=3, coordinator_restarts=2, cuts=3),
        Plan("failed commits", jobs=300, slow_commit=0.3, commit_failures=5, cuts=3, large=0.3, large_result=0.3),
        Plan("joint crashes", jobs=300, joint_crashes=4, coordinator_restarts=2, long=0.1, large_result=0.3),
        Plan(
            "two hold one job",
            span_s=60.0,
            jobs=250,
            long=0.3,
            black_holes=14,
            coordinator_restarts=2,
            commit_crashes=2,
            late_homes=6,
            endless=0.1,
        ),
        Plan(
            "forgotten sessions",
            jobs=300,
            clients=3,
            session_s=7.0,
            client_pauses=8,
            black_holes=6,
            coordinator_restarts=2,
            large_result=0.3,
        ),
        Plan("few outcomes kept", jobs=400, keep_outcomes=20, coordinator_restarts=4, black_holes=4, large_result=0.3),
        Plan("full disks", jobs=300, full_disks=6, coordinator_restarts=3, cuts=5, large=0.2),
        Plan("orphans", jobs=250, clients=4, client_deaths=5, client_leaves=2, coordinator_restarts=3, long=0.05),
        Plan("cancels", jobs=400, cancels=0.6, slots=2, cuts=4, loss=0.005),
        Plan("blobs", jobs=250, large=0.5, large_result=0.5, by_value=0.8, cuts=5, loss=0.005, spare_blobs=4),
        Plan(
            "same results",
            jobs=250,
            clients=1,
            nodes=1,
            slots=6,
            large=0.3,
            large_result=0.9,
            shared=0.95,
            spare_blobs=1,
            loss=0.005,
        ),
        Plan("clients come and go", jobs=300, clients=4, client_deaths=3, client_leaves=3, large=0.3, large_result=0.3),
        Plan("bad disks", jobs=250, large=0.4, large_result=0.4, by_value=0.5, disk_error=0.01, cuts=2),
    )
}


LATE_HOMES = Plan(
    "late homes", span_s=60.0, jobs=60, nodes=4, slots=2, long=0.3, endless=0.4, late_homes=12, cancels=0.0
)
"""What has the rarest moves of all, which no other plan here meets by chance."""


def drawn(seed: int) -> Plan:
    """A plan for this seed: each kind of trouble is absent in half of them, and else has a strength of its own."""
    chance = random.Random(f"plan {seed}")

    def maybe(most: float) -> float:
        return 0.0 if chance.random() < 0.5 else most * 10 ** -chance.uniform(0, 1.5)

    if seed % 6 == 5:
        return replace(
            LATE_HOMES,
            name=f"seed {seed}",
            slow=maybe(0.1),
            loss=maybe(0.02),
            reorder=maybe(0.02),
            worker_crash=maybe(0.1),
            large=maybe(0.5),
            once=chance.choice((0.0, 0.3)),
            clock_jumps=maybe(12),
        )
    plan = Plan(
        f"seed {seed}",
        span_s=chance.uniform(3, 20),
        jobs=int(10 ** chance.uniform(1, 2.4)),
        clients=chance.randint(1, 4),
        nodes=chance.randint(1, 5),
        slots=chance.randint(1, 6),
        long=chance.choice((0.0, 0.02, 0.1)),
        raises=chance.choice((0.0, 0.1)),
        by_value=chance.choice((0.0, 0.3, 1.0)),
        large=chance.choice((0.0, 0.1, 0.5)),
        large_result=chance.choice((0.0, 0.1, 0.5)),
        shared=chance.choice((0.0, 0.5, 0.9)),
        cancels=chance.choice((0.0, 0.1, 0.5)),
        spare_blobs=chance.choice((0, 3, 512)),
        delay_s=10 ** chance.uniform(-4, -1.3),
    )
    durable = chance.choice((0.0, 0.5, 1.0, 1.0, 1.0))
    plan = _limited(plan, seed)
    late_homes = maybe(4)
    return replace(
        plan,
        late_homes=late_homes,
        endless=0.02 if late_homes else 0.0,
        span_s=plan.span_s + (20 if late_homes else 0),
        durable=durable,
        store=durable > 0 or chance.random() < 0.5,
        slow_commit=chance.choice((0.0, 0.05, 0.5)),
        commit_crashes=maybe(3),
        commit_failures=maybe(3),
        joint_crashes=maybe(2),
        full_disks=maybe(2),
        keep_outcomes=chance.choice((30, 1_000_000, 1_000_000)),
        slow=maybe(0.1),
        loss=maybe(0.1),
        duplicate=maybe(0.1),
        cuts=maybe(40),
        freezes=maybe(10),
        coordinator_pauses=maybe(4),
        agent_pauses=maybe(8),
        client_pauses=maybe(8),
        agent_kills=maybe(8),
        agent_leaves=maybe(3),
        client_deaths=maybe(3),
        client_leaves=maybe(3),
        coordinator_restarts=maybe(3),
        worker_crash=maybe(0.1),
        start_failure=maybe(0.5),
        disk_error=maybe(0.02),
        black_holes=maybe(6),
        clones=maybe(6),
        poison=maybe(0.05),
        moody=chance.choice((0.0, 0.1, 0.5)),
        ruled=chance.choice((0.0, 0.5, 1.0)),
        after=chance.choice((0.0, 0.0, 0.3)),
        keys=chance.choice((0.0, 0.0, 0.3)),
        delays=chance.choice((0.0, 0.2)),
        queue_pauses=maybe(3),
        once=chance.choice((0.0, 0.3, 1.0)),
        impatient=chance.choice((0.0, 0.2)),
        max_jobs=chance.choice((15, 2_000_000, 2_000_000)),
        payload_memory_bytes=chance.choice((300, 1 << 30, 1 << 30)),
        scarce=chance.choice((0.0, 0.0, 0.3)),
        scarce_s=chance.uniform(0, 15),
        reorder=maybe(0.1),
        one_way=maybe(8),
        half_opens=maybe(12),
        clock_jumps=maybe(12),
        budgets=chance.choice((0.0, 0.5)),
        old_nodes=chance.choice((0.0, 0.0, 0.0, 0.0, 0.4)),
        schedules=0.0 if durable < 1 else chance.choice((0.0, 0.0, 6.0)),
        schedule_orders=4.0,
        skews=maybe(4),
    )


def _limited(plan: Plan, seed: int) -> Plan:
    """What came later than the rest has chance of its own, which changes nothing there."""
    chance = random.Random(f"limits {seed}")
    return replace(
        plan,
        timeouts=chance.choice((0.0, 0.0, 0.3)),
        memory=chance.choice((0.0, 0.0, 0.3)),
        saves=chance.choice((0.0, 0.3)),
        ends=chance.choice((0.0, 0.0, 0.2)),
        leave_s=chance.choice((0.0, 5.0)),
        drains=chance.choice((0.0, 0.0, 4.0)),
        claims=chance.choice((0.0, 0.0, 0.4)),
    )


def differences(plan: Plan) -> str:
    """What a plan says other than the default, for people."""
    words = []
    for field in fields(plan):
        value = getattr(plan, field.name)
        if field.name != "name" and value != field.default:
            words.append(f"{field.name}={value:.4g}" if isinstance(value, float) else f"{field.name}={value}")
    return ", ".join(words)
