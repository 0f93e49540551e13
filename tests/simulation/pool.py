"""An agent's workers. Rules of this file: the real pool's rules (``node/pool.py``), with virtual run times.

A worker reads one packet, runs it, answers, reads the next. What it has not read can be taken back. It may die under
an attempt, which is then its suspect, between two, or before it is up. One that was interrupted unwinds, unless its job
is stubborn, and leaves, and so does one whose job had graphics processors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgpack

from cluster.jobs import End, Failure, Outcome
from node.events import (
    Done,
    Give,
    InterruptWorker,
    KillWorker,
    Look,
    Recall,
    Recalled,
    Run,
    Seen,
    SpawnWorker,
    StateSaved,
    WorkerDone,
    WorkerGone,
    WorkerUp,
)
from tests.simulation.clock import Clock
from tests.simulation.disks import Disk
from tests.simulation.ledger import TIMER_S, Broken, Ledger
from tests.simulation.plans import Plan
from tests.simulation.work import (
    OFFERS,
    is_poison,
    is_stubborn,
    memory_of,
    outcome_of,
    saves,
    seconds_of,
    sha,
    signed,
    wish_of,
)

NAMED_WHEN_READ = True
"""A large result gets its blob's name when the agent reads of it. Were it named when it is written, the agent could
drop a blob of the same bytes between the two, and the result with it."""


@dataclass(slots=True, eq=False)
class _Worker:
    slot: int
    pid: int
    up: bool = False
    dead: bool = False
    killed: bool = False
    pipe: deque[Run] = field(default_factory=deque)
    used: bool = False
    """Whether it has run anything."""
    gpus: dict[str, float] = field(default_factory=dict)
    """What it may use of which, until it is buried."""
    running: Run | None = None
    payload: bytes = b""
    """Of what runs,"""
    began: float = 0.0
    """...and since when."""
    pressed: InterruptWorker | None = None
    """What runs was interrupted by the last of these,"""
    hogs: bool = False
    """...or was seen to take more memory than it may."""
    leaving: str = ""
    out_of_memory: bool = False
    done: list[Done] = field(default_factory=list)
    """Answers the agent has not read yet,"""
    results: dict[bytes, bytes] = field(default_factory=dict)
    """...and the blobs they name."""


class Pool:
    """``ring`` wakes the machine; ``drain`` gives it what happened, in the real pool's order."""

    def __init__(
        self,
        clock: Clock,
        chance: Random,
        plan: Plan,
        ledger: Ledger,
        disk: Disk,
        node: str,
        life: int,
        ring: Any,
        labels: dict[str, str],
        mono: Callable[[], float],
    ) -> None:
        """``mono``: the node's clock, which its workers share."""
        self._mono = mono
        self._clock = clock
        self._chance = chance
        self._plan = plan
        self._ledger = ledger
        self._disk = disk
        self._node = node
        self._life = life
        self._ring = ring
        self._labels = labels
        self._workers: dict[int, _Worker] = {}
        self._pids = 0
        self._news: list[Any] = []
        self._ups: list[_Worker] = []
        self._buried: list[tuple[_Worker, str]] = []
        self.faulty = True
        self.alive = True
        self.faults: dict[str, int] = {}

    @property
    def pending(self) -> bool:
        return bool(self._news or self._ups or self._buried or any(w.done for w in self._workers.values()))

    @property
    def busy(self) -> int:
        return sum(worker.running is not None for worker in self._workers.values())

    def drain(self) -> list[Any]:
        """What came of effects, then what workers said, then who died: its answers are told before."""
        events, self._news = self._news, []
        events += [WorkerUp(w.slot, w.pid) for w in self._ups if not w.dead]
        self._ups.clear()
        for worker in self._workers.values():
            if worker.done:
                self._disk.files.update(worker.results)
                worker.results.clear()
                events.append(WorkerDone(worker.slot, worker.pid, worker.done, worker.leaving))
                worker.done = []
        for worker, cause in self._buried:
            suspect = worker.running.token if worker.running else None
            unread = [run.token for run in worker.pipe]
            noted = suspect is not None
            events.append(
                WorkerGone(
                    worker.slot,
                    worker.pid,
                    cause,
                    suspect,
                    noted,
                    unread,
                    noted and worker.out_of_memory,
                    bool(worker.leaving),
                )
            )
            del self._workers[worker.slot]
        self._buried.clear()
        return events

    def perform(self, effect: SpawnWorker | Give | Recall | KillWorker | InterruptWorker | Look) -> None:
        match effect:
            case Give(slot, runs):
                worker = self._workers.get(slot)
                if worker is None:
                    self._tell(Recalled(slot, [run.token for run in runs]))
                    return
                worker.pipe.extend(runs)
                self._read(worker)
            case Recall(slot):
                worker = self._workers.get(slot)
                tokens = [run.token for run in worker.pipe] if worker else []
                if worker:
                    worker.pipe.clear()
                self._tell(Recalled(slot, tokens))
            case SpawnWorker(slot):
                self._spawn(slot)
            case KillWorker(slot):
                worker = self._workers.get(slot)
                if worker is not None and not worker.dead:
                    worker.killed = True
                    self._killed(worker)
                    self._die(worker, "killed by the agent")
            case InterruptWorker(slot, token):
                worker = self._workers.get(slot)
                if worker is not None and worker.running is not None and worker.running.token == token:
                    self._interrupt(worker, worker.running, effect)
            case Look(slot, token):
                worker = self._workers.get(slot)
                run = None if worker is None else worker.running
                if worker is not None and run is not None and run.token == token and not worker.dead:
                    used = memory_of(worker.payload)
                    worker.hogs = 0 < run.spec.rules.memory_bytes < used
                    self._tell(Seen(slot, token, used, 1))

    def close(self) -> None:
        """The agent is gone: the kernel ends its workers."""
        self.alive = False
        for worker in self._workers.values():
            worker.dead = True

    def _tell(self, event: Any) -> None:
        self._news.append(event)
        self._ring()

    def _chance_of(self, probability: float, fault: str) -> bool:
        if not self.faulty or self._chance.random() >= probability:
            return False
        self.faults[fault] = self.faults.get(fault, 0) + 1
        return True

    # -- one worker ---------------------------------------------------------------------------------

    def _spawn(self, slot: int) -> None:
        if slot in self._workers:
            raise Broken(f"{self._node} starts a second worker in slot {slot}")
        if self._chance_of(self._plan.start_failure / 2, "workers not started"):
            self._tell(WorkerGone(slot, 0, "could not be started: no processes left", None, False, []))
            return
        self._pids += 1
        worker = self._workers[slot] = _Worker(slot, self._life * 1000 + self._pids)
        self._clock.after(self._chance.uniform(0.01, 0.2), self._started, worker)

    def _started(self, worker: _Worker) -> None:
        if worker.dead:
            return
        if self._chance_of(self._plan.start_failure / 2, "workers dead at start"):
            self._die(worker, "could not be started: exit code 1")
            return
        worker.up = True
        self._ups.append(worker)
        self._ring()
        self._read(worker)

    def _read(self, worker: _Worker) -> None:
        """Begin the next packet, if it waits for one."""
        if worker.dead or not worker.up or worker.leaving or worker.running is not None or not worker.pipe:
            return
        if self._chance_of(self._plan.worker_crash / 2, "workers dead when idle"):
            self._die(worker, "signal 9 (SIGKILL)")
            return
        run = worker.running = worker.pipe.popleft()
        if any(self._labels.get(key) != value for key, value in run.spec.labels):
            raise Broken(f"{self._node} runs a job whose label it has not: token {run.token}")
        self._check_claims(run)
        self._check_devices(worker, run)
        worker.used = True
        try:
            payload, code = self._inputs(run)
        except Broken:
            if not self._plan.disk_error:
                raise
            failure = Failure("OSError", f"on node {self._node}: no such file").encode()
            self._answer(worker, Done(run.token, End.SPOILT, failure, None, 1))
            return
        if run.start_by and self._mono() > run.start_by:
            self._answer(worker, Done(run.token, End.UNSTARTED, b"", None, 1))
            return
        worker.payload, worker.began, worker.pressed, worker.hogs = payload, self._clock.now, None, False
        told: dict[str, Any] = msgpack.unpackb(run.about) if run.about else {}
        self._ledger.started(run.job, run.token, self._node, self._life, payload, code, told.get("saved", b""))
        seconds = seconds_of(payload)
        if saves(payload):
            self._clock.after(seconds * self._chance.random(), self._save, worker, run)
        if is_poison(payload) or self._chance_of(self._plan.worker_crash, "workers dead in a job"):
            self._clock.after(seconds * self._chance.random(), self._crash, worker, run)
        else:
            self._clock.after(seconds, self._finish, worker, run, payload, code)

    def _check_claims(self, run: Run) -> None:
        """What runs here together claims no more than the node offers, and has no anti-affinity key twice."""
        if not self._plan.claims and not self._plan.memory:
            return
        runs = [w.running for w in self._workers.values() if w.running is not None and not w.dead]
        rules = [one.spec.rules for one in runs]
        claimed = {"cpus": sum(r.cpus for r in rules), "memory_bytes": sum(r.memory_bytes for r in rules)}
        claimed["licence"] = sum(amount for r in rules for _, amount in r.resources)
        over = {name: amount for name, amount in claimed.items() if amount > OFFERS[name] + 1e-9}
        keys = [r.anti_affinity for r in rules if r.anti_affinity]
        if over or len(keys) > len(set(keys)):
            raise Broken(f"{self._node} begins token {run.token}, and is given more than it offers: {over or keys}")

    def _check_devices(self, worker: _Worker, run: Run) -> None:
        """No graphics processor is given away twice, or to a worker that may have looked for others before."""
        claimed = run.spec.rules.gpus
        if len(run.gpus) != -(-claimed // 1) or (run.gpus and worker.used):
            raise Broken(f"{self._node} begins token {run.token}, which claims gpus {claimed}, and has {run.gpus}")
        worker.gpus = dict.fromkeys(run.gpus, min(1.0, claimed))
        for one in run.gpus:
            if sum(w.gpus.get(one, 0.0) for w in self._workers.values()) > 1 + 1e-9:
                raise Broken(f"{self._node} begins token {run.token}, and others have {one} too")

    def _inputs(self, run: Run) -> tuple[bytes, bytes]:
        spec, files = run.spec, self._disk.files
        payload, code = run.payload, b""
        if run.large is not None:
            if run.large[0] not in files:
                raise Broken(f"{self._node} gives a worker token {run.token}, and its payload is not there")
            payload = files[run.large[0]]
        if spec.by_value:
            if spec.code not in files:
                raise Broken(f"{self._node} gives a worker token {run.token}, and its function is not there")
            code = files[spec.code]
        return payload, code

    def _save(self, worker: _Worker, run: Run) -> None:
        """Its job saves a state that says which attempt it is of."""
        if not worker.dead and worker.running is run:
            state = run.token.to_bytes(8, "big")
            self._count("states saved")
            self._ledger.saved(run.job, run.token, state)
            self._tell(StateSaved(worker.slot, run.token, state))

    def _count(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1

    # -- interruptions ------------------------------------------------------------------------------

    def _interrupt(self, worker: _Worker, run: Run, effect: InterruptWorker) -> None:
        first, worker.pressed = worker.pressed is None, effect
        if first and not worker.dead and not is_stubborn(worker.payload):
            self._clock.after(self._chance.uniform(0.0001, 0.02), self._unwind, worker, run)

    def _unwind(self, worker: _Worker, run: Run) -> None:
        """What was interrupted ends of itself, and its worker with it."""
        if worker.dead or worker.running is not run or worker.pressed is None:
            return
        self._count("jobs interrupted")
        late = worker.pressed.timeout_s > 0
        self._ledger.stopped(run.job, run.token, worker.pressed.timeout_s)
        failure = Failure("JobTimeout" if late else "Cancelled", "while it ran")
        worker.leaving = "its job was interrupted"
        end = End.TIMED_OUT if late else End.CANCELLED
        self._answer(
            worker, Done(run.token, end, failure.encode(), None, max(1, int(seconds_of(worker.payload) * 1e6)))
        )
        self._die(worker, worker.leaving)

    def _killed(self, worker: _Worker) -> None:
        run = worker.running
        if run is not None and worker.pressed is not None:
            self._count("jobs killed that took no notice")
            self._ledger.stopped(run.job, run.token, worker.pressed.timeout_s)
        elif run is not None and worker.hogs:
            self._count("jobs killed for their memory")
            self._ledger.crashed(run.job, run.token, True)

    def _finish(self, worker: _Worker, run: Run, payload: bytes, code: bytes) -> None:
        if worker.dead or worker.running is not run:
            return
        spent = max(1, int(seconds_of(payload) * 1e6))
        wish = wish_of(payload, run.attempt)
        if wish is not None:
            self._ledger.raised(run.job, run.token)
            self._answer(worker, Done(run.token, wish[0], wish[1], None, spent))
            return
        outcome, data, large = outcome_of(payload, code)
        if outcome is Outcome.SUCCEEDED:
            self._ledger.answered(run.job)
        else:
            self._ledger.raised(run.job, run.token)
        ref = None
        if large:
            ref = sha(data), len(data)
            (worker.results if NAMED_WHEN_READ else self._disk.files)[ref[0]] = data
            data = b""
        else:
            data = signed(data, run.token)
        end = End.SUCCEEDED if outcome is Outcome.SUCCEEDED else End.RAISED
        self._answer(worker, Done(run.token, end, data, ref, spent))

    def _answer(self, worker: _Worker, done: Done) -> None:
        worker.running = None
        worker.done.append(done)
        self._ring()
        if worker.gpus and not worker.leaving:
            worker.leaving = "its job had graphics processors"
            self._die(worker, worker.leaving)
        self._read(worker)

    def _crash(self, worker: _Worker, run: Run) -> None:
        if not worker.dead and worker.running is run:
            worker.out_of_memory = self._chance.random() < 0.3 or worker.hogs
            kind = "workers killed for want of memory" if worker.out_of_memory else "workers that crashed"
            self.faults[kind] = self.faults.get(kind, 0) + 1
            timeout_s = run.spec.rules.timeout_s
            late = timeout_s and self._clock.now >= worker.began + timeout_s - TIMER_S
            self._ledger.crashed(run.job, run.token, worker.out_of_memory, bool(worker.pressed or late))
            self._die(worker, "signal 9 (SIGKILL)" if worker.out_of_memory else "signal 11 (SIGSEGV)")

    def _die(self, worker: _Worker, cause: str) -> None:
        worker.dead = True
        self._clock.after(self._chance.uniform(0.0001, 0.02), self._bury, worker, cause)

    def _bury(self, worker: _Worker, cause: str) -> None:
        if self.alive:
            self._buried.append((worker, cause))
            self._ring()
