"""One world from one seed: its machines, its weather, its end. Rules of this file: chance comes from the seed alone."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from unittest import mock

from cluster.config import WAIT_WORD_S
from scheduler.queues import Settings
from scheduler.schedules import past
from tests.simulation.chronos import Chronos, Orders
from tests.simulation.clock import Clock
from tests.simulation.exercised import counted
from tests.simulation.leaks import leaks
from tests.simulation.ledger import Broken, Ledger, Score
from tests.simulation.machines import (
    ClientMachine,
    CoordinatorMachine,
    Dataset,
    Directory,
    Machine,
    NodeMachine,
)
from tests.simulation.network import Network
from tests.simulation.plans import Plan
from tests.simulation.scale import reduced
from tests.simulation.work import LABEL, Workload

SETTLE_S = 240.0
"""Virtual time in which all jobs must have their outcome once nothing fails any more."""

REST_S = 20.0
"""...and in which the last acknowledgements must have passed after that."""

MAX_HAPPENINGS = 3_000_000
"""A world that needs more is running away."""


@dataclass(slots=True)
class Report:
    """What one world came to."""

    plan: Plan
    seed: int
    failure: str = ""
    story: list[str] = field(default_factory=list)
    score: Score = field(default_factory=Score)
    job_moves: Counter[str] = field(default_factory=Counter)
    attempt_moves: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    """Outcomes ``lost`` that the rules allow, by reason."""
    endless: bool = False
    virtual_s: float = 0.0
    settle_s: float = 0.0
    """From the end of all faults until the last outcome."""
    happenings: int = 0
    turns: int = 0
    messages: int = 0
    hellos: int = 0
    bytes: int = 0
    jobs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    slow: Counter[str] = field(default_factory=Counter)
    """What was late, and is no fault."""
    executions: int = 0
    excess: int = 0
    excuses: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    discarded: int = 0
    disk_commits: int = 0
    rows: int = 0
    """Outcomes on disk at the end."""
    recovered: int = 0
    left_over: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    schedules: Counter[str] = field(default_factory=Counter)
    """Times of schedules that were judged, jobs made for them, and reasons of those that were skipped."""
    trace: str = ""


class World:
    def __init__(self, seed: int, plan: Plan) -> None:
        self.seed = seed
        self.plan = plan
        self.clock = Clock()
        self.ledger = Ledger(lambda: self.clock.now, plan.disk_error > 0, plan.store, plan.clock_jumps > 0)
        self.chronos = Chronos()
        self.ledger.ran, self.ledger.rests = self.chronos.ran, lambda: self.chronos.at_rest
        self.network = Network(self.clock, self.chance("network"), plan)
        self.faulty = True
        self.faults: Counter[str] = Counter()
        self.discarded = 0
        self.recovered = self.left_over = 0
        """Jobs that coordinators found on disk when they began, and those of them that no node had."""
        self.kept = Dataset()
        if plan.store:
            self.kept.rows.rows.settings["queue capped"] = Settings(max_running=2).pack()
        self._lives = 0
        self._walls: dict[str, float] = {}
        self._drained: set[str] = set()
        """Nodes that are to be undrained,"""
        self._paused: set[str] = set()
        """...and queues that are to go on again."""
        """Where the wall clocks of machines stand, against the world's own."""
        self._weather = self.chance("weather")
        self._disks = self.chance("disks")
        self._names = 0
        self._gone: list[Machine] = []
        self.coordinator = self._new_coordinator(1)
        self._sessions: dict[str, NodeMachine] = {}
        """Every life of a node there was."""
        self.nodes = [self._new_node(f"node{n}", Directory(f"node{n}")) for n in range(plan.nodes)]
        self.clones: list[NodeMachine] = []
        """Copies of a node that claim its name."""
        self._told_waiting: dict[tuple[str, int], int] = {}
        """How often a client was told that no node has the label, by an epoch of the coordinator."""
        self._scarce = plan.scarce > 0
        self.clients = [self._new_client() for _ in range(plan.clients)]
        self._plan_work()
        self._plan_faults()

    def chance(self, purpose: str) -> Random:
        """Chance of its own for each purpose, so that one more draw here changes nothing there."""
        return Random(f"{self.seed} {self.plan.name} {purpose}")

    def new_life(self) -> int:
        self._lives += 1
        return self._lives

    def wall_of(self, name: str) -> float:
        """A machine keeps its clock from one process to the next."""
        if name not in self._walls:
            self._walls[name] = 1.7e9 + self.chance(f"wall of {name}").uniform(-100, 100)
        return self._walls[name]

    def is_old(self, name: str) -> bool:
        """Whether the node is of an earlier release; what is not asked for by label may come to it."""
        return self.chance(f"release of {name}").random() < self.plan.old_nodes

    def disk_fails(self) -> bool:
        if self.faulty and self._disks.random() < self.plan.disk_error:
            self.faults["disk errors"] += 1
            return True
        return False

    # -- machines that come and go ------------------------------------------------------------------

    def _new_coordinator(self, epoch: int) -> CoordinatorMachine:
        machine = CoordinatorMachine(self, epoch, self.kept)
        self.network.coordinator = machine
        machine.ring()
        return machine

    def _new_client(self) -> ClientMachine:
        self._names += 1
        return ClientMachine(self, f"client{self._names}")

    def _end(self, machine: Machine) -> None:
        machine.end()
        self._gone.append(machine)

    def client_ended(self, client: ClientMachine) -> None:
        """It left or died; another takes its place."""
        self.ledger.client_ended(client.name)
        self._end(client)
        self.clients[self.clients.index(client)] = self._new_client()

    def node_ended(self, node: NodeMachine) -> None:
        """It left or died; after a while it begins a new life."""
        self.ledger.node_ended(node.life)
        self.faults.update(node.pool.faults)
        self._end(node)
        self.clock.after(self._weather.uniform(0.1, 6), self._restart_node, node)

    def _new_node(self, name: str, directory: Directory) -> NodeMachine:
        node = NodeMachine(self, name, directory)
        self._sessions[node.session.hex()] = node
        return node

    def _restart_node(self, node: NodeMachine) -> None:
        if self._chance_of_a_reboot():
            node.directory.lock += "'"
        self.nodes[self.nodes.index(node)] = self._new_node(node.name, node.directory)

    def _chance_of_a_reboot(self) -> bool:
        return self.plan.clones > 0 and self._weather.random() < 0.3

    def node_refused(self, node: NodeMachine) -> None:
        """It was told that another has its name, and stops for good; but one that nobody copied is started again."""
        others = [m for m in self._sessions.values() if m.name == node.name and m is not node]
        if not any(m.ended_at is None or m.ended_at > node.born_at for m in others):
            raise Broken(f"{node.name} is refused for its name, which nobody else has borne in its time")
        self.faults["nodes refused"] += 1
        self.ledger.note("{} (life {}) is refused for its name", node.name, node.life)
        if node in self.clones:
            self.clones.remove(node)
            self.ledger.node_ended(node.life)
            self._end(node)
            return
        clone = next((c for c in self.clones if c.name == node.name), None)
        if clone is None:
            self.node_ended(node)
            return
        self.ledger.node_ended(node.life)
        self._end(node)
        self.clones.remove(clone)
        self.nodes[self.nodes.index(node)] = clone

    def deposed(self, session: str) -> None:
        """The coordinator ends a life because a later one has come."""
        if self._sessions[session].alive:
            raise Broken(f"{self._sessions[session].name} lives, and another takes its name")

    def labels_of(self, name: str) -> dict[str, str]:
        return dict([LABEL]) if name == "labelled" else {}

    def told_waiting(self, client: ClientMachine, reason: str) -> None:
        if "label gpu=yes" not in reason:
            return
        stories = self.ledger.jobs.values()
        if not any(s.client == client.name and s.work.picky for s in stories):
            raise Broken(f"{client.name} is told that jobs wait for a label, and has no such jobs")
        key = client.name, self.coordinator.coordinator.epoch
        self._told_waiting[key] = self._told_waiting.get(key, 0) + 1
        # else jobs of several queues may wait, or with several claims, and of each a word is said
        one = not (self.plan.ruled or self.plan.claims or self.plan.memory)
        if self._scarce and one and not self.plan.cancels and self._told_waiting[key] > 1:
            raise Broken(f"{client.name} is told twice why its jobs wait")

    def _end_scarcity(self) -> None:
        """A node joins that has the label. Who has waited for it was told why, if nothing came between."""
        self._scarce = False
        prompt = not self.plan.slow or self.plan.delay_s < 0.005
        quiet = prompt and not self.faults and not self.network.faults
        for client in self.clients if quiet else ():
            since = [s.handed_in_at for s in self.ledger.open if s.client == client.name and s.work.picky]
            waited = bool(since) and self.clock.now - min(since) > WAIT_WORD_S + 2
            if waited and (client.name, self.coordinator.coordinator.epoch) not in self._told_waiting:
                raise Broken(f"{client.name} was not told why its jobs wait")
        self.nodes.append(self._new_node("labelled", Directory("labelled")))
        if not self.faulty:
            self.nodes[-1].pool.faulty = False

    def _restart_coordinator(self) -> None:
        if not self.coordinator.alive:
            return
        epoch = self.coordinator.coordinator.epoch + 1
        self._end(self.coordinator)
        self.ledger.coordinator_restarted()
        self.network.coordinator_gone()
        self.clock.after(self._weather.uniform(0.05, 5), self._coordinator_back, epoch)

    def commit_struck(self, fate: str) -> None:
        """The coordinator dies in a commit, or because of it."""
        self._count(f"commits under which the coordinator {fate}", self._restart_coordinator)

    def _doom(self, fate: str) -> None:
        """The next commit shall be struck."""
        if self.plan.store:
            self.kept.fate = fate

    def _fill_disk(self) -> None:
        """Nearly full for a while, for whichever coordinator lives then."""
        self._count("disks full", lambda: self.coordinator.measure_space(0))
        self.ledger.disk_was_full = True
        self.clock.after(self._weather.uniform(0.2, 4), lambda: self.coordinator.measure_space(1 << 40))

    def _crash_together(self) -> None:
        node = self._living_node()
        if node is not None and self.coordinator.alive:
            self._count("joint crashes", lambda: self.node_ended(node))
            self._restart_coordinator()

    def _coordinator_back(self, epoch: int) -> None:
        self.coordinator = self._new_coordinator(epoch)

    # -- work ---------------------------------------------------------------------------------------

    def _plan_work(self) -> None:
        chance = self.chance("work")
        load = Workload(self.plan, chance)
        left = self.plan.jobs
        while left:
            count = min(left, chance.choice((1, 1, 5, 20, 60)))
            left -= count
            moment = chance.uniform(0, self.plan.span_s) * chance.random()
            self.clock.at(moment, self._submit, load, count, chance)
        if self._scarce:
            self.clock.at(self.plan.scarce_s, self._end_scarcity)
        for _ in range(5):
            self.clock.at(chance.uniform(0, self.plan.span_s), self._ask, chance)
        if self.plan.schedules and self.plan.store:
            chance = self.chance("schedules")
            orders = Orders(chance, self.plan.nodes * self.plan.slots)
            for _ in range(int(self.plan.schedules)):
                self.clock.at(chance.uniform(0, self.plan.span_s * chance.random()), self._put, orders, chance)
            for _ in range(int(self.plan.schedule_orders)):
                moment = chance.uniform(0, self.plan.span_s)
                self.clock.at(moment, lambda: chance.choice(self.clients).order(orders.other()))
            self.clock.at(self.plan.span_s, self._remove_schedules)

    def _put(self, orders: Orders, chance: Random) -> None:
        chance.choice(self.clients).order(orders.put(self.wall_of("coordinator") + self.clock.now))

    def _remove_schedules(self) -> None:
        """As nothing fails any more they go, so that there is an end."""
        for _, name in sorted(self.chronos.orders):
            self._weather.choice(self.clients).order({"do": "remove", "name": name})
        if self.chronos.orders or self.ledger.asking or self.clock.now < self.plan.span_s + 8:
            self.clock.after(2.0, self._remove_schedules)

    def _submit(self, load: Workload, count: int, chance: Random) -> None:
        client = chance.choice(self.clients)
        counters = client.submit(load.burst(count))
        wished = [c for c in counters if chance.random() < self.plan.cancels]
        for counter in counters:
            if self.plan.ends and chance.random() < self.plan.ends:
                self._count_later(chance.choice((0.1, 1.0, 4.0, 15.0)) * chance.random(), client, counter)
        while wished:
            some = [wished.pop() for _ in range(min(len(wished), chance.randint(1, 5)))]
            self.clock.after(chance.choice((0.0, 0.005, 0.1, 2.0)) * chance.random(), client.cancel, some)

    def _count_later(self, seconds: float, client: ClientMachine, counter: int) -> None:
        def order() -> None:
            if client.alive:
                self.faults["jobs ordered to be ended"] += 1
                client.end_job(counter)

        self.clock.after(seconds, order)

    def _ask(self, chance: Random) -> None:
        chance.choice(self.clients).ask()

    # -- weather ------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        plan = self.plan
        kinds: list[tuple[float, Callable[[], None]]] = [
            (plan.cuts, self._cut),
            (plan.freezes, self._freeze),
            (plan.coordinator_pauses, lambda: self._pause("coordinator pauses", [self.coordinator])),
            (plan.agent_pauses, lambda: self._pause("agent pauses", self.nodes)),
            (plan.client_pauses, lambda: self._pause("client pauses", self.clients)),
            (plan.agent_kills, self._kill_node),
            (plan.agent_leaves, self._node_leaves),
            (plan.client_deaths, self._kill_client),
            (plan.client_leaves, self._client_leaves),
            (plan.black_holes, self._darken),
            (plan.clones, self._clone),
            (plan.one_way, self._darken_one_way),
            (plan.half_opens, self._half_open),
            (plan.clock_jumps, self._set_a_clock),
            (plan.coordinator_restarts, lambda: self._count("coordinator restarts", self._restart_coordinator)),
            (plan.commit_crashes, lambda: self._doom("is killed")),
            (plan.commit_failures, lambda: self._doom("fails")),
            (plan.joint_crashes, self._crash_together),
            (plan.late_homes, self._come_home_late),
            (plan.full_disks if plan.store else 0.0, self._fill_disk),
            (plan.queue_pauses, self._pause_queue),
            (plan.skews, self._skew),
            (plan.drains, self._drain_node),
        ]
        for mean, fault in kinds:
            moment = 0.0
            while mean and (moment := moment + self._weather.expovariate(mean / plan.span_s)) < plan.span_s:
                self.clock.at(moment, fault)
        self.clock.at(plan.span_s, self._clear_up)

    def _count(self, kind: str, fault: Callable[[], None]) -> None:
        self.faults[kind] += 1
        self.ledger.note("fault: {}", kind)
        fault()

    def _cut(self) -> None:
        connections = self.network.connections
        if connections:
            connection = self._weather.choice(connections)
            self.ledger.note("fault: the connection of {} is cut", connection.wire.machine.name)
            self.network.cut(connection)

    def _freeze(self) -> None:
        connections = self.network.connections
        if connections:
            connection = self._weather.choice(connections)
            self.ledger.note("fault: the connection of {} is frozen", connection.wire.machine.name)
            self.network.freeze(connection, 10 ** self._weather.uniform(-1, 1))

    def _dialler(self) -> NodeMachine | ClientMachine:
        machines: list[NodeMachine | ClientMachine] = [*self.nodes, *self.clients, *self.clones]
        return self._weather.choice(machines)

    def _darken_one_way(self) -> None:
        machine = self._dialler()
        self.ledger.note("fault: one way between {} and the coordinator is dark", machine.name)
        self.network.darken_one_way(machine.wire, 10 ** self._weather.uniform(0, 1.35))

    def _half_open(self) -> None:
        machine = self._dialler()
        self.ledger.note("fault: the link of {} is half open", machine.name)
        self.network.half_open(machine.wire, 10 ** self._weather.uniform(0, 1.3))

    def _set_a_clock(self) -> None:
        machine: Machine = self._weather.choice([self.coordinator, self.coordinator, self._dialler()])
        seconds = 10 ** self._weather.uniform(-0.5, 6.5) * self._weather.choice((1, -1))
        self._walls[machine.name] += seconds
        way = "forward" if seconds > 0 else "back"
        self._count(f"wall clocks set {way}", lambda: machine.set_wall(self._walls[machine.name]))

    def _skew(self) -> None:
        """The coordinator's clock is set by some seconds: fire times are passed over, or come again."""
        seconds = 10 ** self._weather.uniform(-0.5, 2) * self._weather.choice((1, -1))
        self._walls["coordinator"] = self.wall_of("coordinator") + seconds
        way = "forward" if seconds > 0 else "back"
        self._count(f"clocks skewed {way}", lambda: self.coordinator.set_wall(self._walls["coordinator"]))

    def _darken(self) -> None:
        machine = self._dialler()
        self.ledger.note("fault: {} is in a black hole", machine.name)
        self.network.darken(machine.wire, 10 ** self._weather.uniform(0.5, 1.4))

    def _come_home_late(self) -> None:
        """A node is silent for longer than a lease; as it is back, the coordinator is new, and the others are away."""
        node = self._living_node()
        seconds = self._weather.uniform(11, 15)
        if node is not None and self.network.darken(node.wire, seconds):
            self.ledger.note("fault: {} is given up, and will come home to a new coordinator", node.name)
            self.clock.after(seconds - 1, self._home_is_new, node)

    def _home_is_new(self, node: NodeMachine) -> None:
        if self.faulty and node.alive and self.coordinator.alive:
            self._count("nodes that come home late", self._restart_coordinator)
            for other in self.nodes:
                if other is not node:
                    self.network.darken(other.wire, 9)

    def _clone(self) -> None:
        """The machine is copied as it runs, or as it was when it began; the original lives on, or is cut off."""
        original = self._living_node()
        if original is None or any(c.name == original.name for c in self.clones):
            return
        directory = replace(original.directory, lock=f"copy {self.new_life()}")
        if self._weather.random() < 0.3:
            directory.incarnation, directory.previous = directory.incarnation - 1, original.born_with
        self._count("nodes cloned", lambda: self.clones.append(self._new_node(original.name, directory)))
        self.clones[-1].pool.faulty = self.faulty
        if self._weather.random() < 0.5:
            self.network.darken(original.wire, 10 ** self._weather.uniform(0.5, 1.4))

    def _pause(self, kind: str, machines: Sequence[Machine]) -> None:
        machine = self._weather.choice(machines)
        seconds = 10 ** self._weather.uniform(-0.5, 1.2)
        self._count(kind, lambda: machine.pause(seconds))
        if seconds > 6:
            for connection in self.network.connections:
                if machine in (connection.wire.machine, connection.coordinator):
                    self.clock.after(6, self.network.cut, connection)

    def _living_node(self) -> NodeMachine | None:
        living = [n for n in self.nodes if n.alive]
        return self._weather.choice(living) if living else None

    def _kill_node(self) -> None:
        node = self._living_node()
        if node is not None:
            self._count("agents killed", lambda: self.node_ended(node))

    def _node_leaves(self) -> None:
        node = self._living_node()
        if node is not None:
            within_s = self.plan.leave_s * self._weather.uniform(0.5, 1)
            self._count("agents that leave", lambda: node.leave(within_s))

    def _kill_client(self) -> None:
        client = self._weather.choice(self.clients)
        self._count("clients killed", lambda: self.client_ended(client))

    def _client_leaves(self) -> None:
        self._count("clients that leave", self._weather.choice(self.clients).leave)

    def _clear_up(self) -> None:
        """From here on nothing fails any more."""
        self.ledger.note("nothing fails any more")
        self.faulty = self.network.faulty = False
        self.kept.fate = ""
        for node in (*self.nodes, *self.clones):
            node.pool.faulty = False
        for queue in sorted(self._paused):
            self._resume_queue(queue)
        for name in sorted(self._drained):
            self._undrain(name)

    def _pause_queue(self) -> None:
        queue = self._weather.choice(("default", "other", "capped"))
        client = self._weather.choice(self.clients)
        self._paused.add(queue)
        self._count("queues paused", lambda: client.set_queue(queue, paused=True))
        self.clock.after(self._weather.uniform(0.5, 5), self._resume_queue, queue)

    def _drain_node(self) -> None:
        node = self._weather.choice(self.nodes).name
        timeout_s = self._weather.uniform(0, 3) if self._weather.random() < self.plan.hasty else None
        client = self._weather.choice(self.clients)
        self._drained.add(node)
        kind = "nodes drained" if timeout_s is None else "nodes drained with a time"
        self._count(kind, lambda: client.drain(node, timeout_s))
        self.clock.after(self._weather.uniform(0.5, 6), self._undrain, node)

    def _undrain(self, node: str) -> None:
        """As with queues: somebody sees to it that it is done."""
        if node not in self._drained:
            return
        if not self.ledger.asking:
            if self.coordinator.alive and node not in self.coordinator.coordinator._roster.barred:
                self._drained.discard(node)
                return
            self._weather.choice(self.clients).undrain(node)
        self.clock.after(1.0, self._undrain, node)

    def _resume_queue(self, queue: str) -> None:
        """Somebody does, who does not die before it is done: it is asked for until it is, and on disk."""
        if queue not in self._paused:
            return
        if not self.ledger.asking:
            row = self.coordinator.coordinator._queues.get(queue)
            if self.coordinator.alive and row is not None and not row.settings.paused:
                self._paused.discard(queue)
                return
            self._weather.choice(self.clients).set_queue(queue, paused=False)
        self.clock.after(1.0, self._resume_queue, queue)

    # -- to the end ---------------------------------------------------------------------------------

    def run(self, report: Report) -> None:
        """Until everything is at rest. Raises :class:`Broken`, or what an actor raised."""
        clock, span_s = self.clock, self.plan.span_s
        while clock.now < span_s or not self.ledger.at_rest:
            clock.step()
            if clock.now > span_s + SETTLE_S:
                report.endless = True
                raise Broken(f"stuck: {self._stuck()}")
            if clock.happened > MAX_HAPPENINGS:
                report.endless = True
                raise Broken("more happens than can be meant")
        report.settle_s = clock.now - span_s
        end = max(clock.now, self.network.troubled_until) + REST_S + (2 * self.plan.session_s if self._gone else 0)
        while words := leaks(self):
            if clock.now > end:
                raise Broken("something is left over when all is done: " + "; ".join(words))
            look_at = clock.now + 1
            while clock.now < look_at:
                clock.step()
        if self.plan.store:
            self.ledger.compare(self.kept.rows.rows)

    def _stuck(self) -> str:
        stories = self.ledger.open
        if not stories:
            if self.ledger.asking:
                return "a question has no answer"
            busy = sum(node.pool.busy for node in self.nodes)
            left = f"{len(self.chronos.orders)} schedules stand, {len(self.chronos.open)} of their jobs have no end"
            return f"{left}; {busy} of {len(self.nodes) * self.plan.slots} slots are busy"
        words = [f"{len(stories)} jobs have no outcome; {stories[0]}"]
        client = next(c for c in self.clients if c.name == stories[0].client)
        coordinator = self.coordinator.coordinator
        peer = coordinator._clients.get(client.session.session)
        for story in stories[:3]:
            job = None if peer is None else peer.jobs.get(int.from_bytes(story.id[8:], "big"))
            why = ", ".join(coordinator._desk.explain(job)) if job is not None else ""
            words.append(f"the coordinator has {job.state.value if job else 'nothing'} of it ({why})")
        return "; ".join(words)

    def fill(self, report: Report) -> None:
        for node in (*self.nodes, *self.clones):
            self.faults.update(node.pool.faults)
        stories = self.ledger.jobs.values()
        report.virtual_s = self.clock.now
        report.happenings = self.clock.happened
        report.turns = sum(m.turns for m in (self.coordinator, *self.nodes, *self.clients, *self._gone))
        report.hellos = self.network.hellos
        report.messages, report.bytes = self.network.delivered, self.network.bytes
        report.jobs = len(stories)
        report.faults = self.faults + self.network.faults
        report.slow = +Counter({"slow messages": self.network.slow, "slow commits": self.kept.slow_commits})
        report.executions = sum(len(s.starts) for s in stories)
        report.excess, report.excuses = self.ledger.excess, self.ledger.excuses
        report.outcomes = Counter(s.outcome.word for s in stories if s.outcome is not None)
        report.commits = report.outcomes.total()
        report.discarded = self.discarded
        report.disk_commits = self.kept.commits
        report.rows = len(self.kept.rows.rows.outcomes)
        report.recovered, report.left_over = self.recovered, self.left_over
        report.losses = self.ledger.losses
        ended = report.endless or not report.failure
        report.score = self.ledger.score(ended, self.kept.rows.rows if self.plan.store else None)
        report.score.stuck += report.endless and not report.score.stuck
        report.schedules = self.chronos.reasons + Counter(
            {"times judged": self.chronos.matched, "jobs made": len(self.chronos.jobs)}
        )
        report.trace = self.network.trace


def simulate(seed: int, plan: Plan, tail: int = 60) -> Report:
    """Run one world to its end; what went wrong is in the report, with its last ``tail`` happenings."""
    report = Report(plan, seed)
    # Schedules forget nothing here, so that each reason is on the disk to be judged.
    lines = mock.patch.object(past, "MOST", 5_000)
    with reduced(), lines, counted(report.job_moves, report.attempt_moves):
        world = World(seed, plan)
        try:
            world.run(report)
        except Broken as e:
            report.failure = str(e)
        except Exception:  # whatever an actor raises is a finding
            report.failure = traceback.format_exc()
        if report.failure:
            report.story = world.ledger.last_words(tail)
        world.fill(report)
    return report
