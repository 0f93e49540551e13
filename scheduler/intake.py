"""How jobs come to be: handed in by sessions, or made by the coordinator itself. Rules of this file: pure; it knows no
node, and nothing of a job that has begun.

- What a session has handed in before makes no second job, nor does what comes under a key that is taken: that one is
  told of the job that is there.
- What cannot be taken is refused as one job's outcome. What finds no room is held back (``admission``).
- A submission's jobs, keys, refusals and its counter are written together.
"""

from __future__ import annotations

from hashlib import sha256

from cluster.actor import Identity
from cluster.ids import SESSION_BYTES, format_job, job_id
from cluster.jobs import NOTHING_SPECIAL, About, BadSpec, Failure, Outcome
from cluster.messages import GoOn, Hold, Submit
from cluster.session import Link
from scheduler import figures, keys
from scheduler.admission import Admission
from scheduler.clients import Client, Clients, Owed
from scheduler.events import Events
from scheduler.exchange import Exchange
from scheduler.following import Following
from scheduler.functions import Functions, Record
from scheduler.journal import Journal, Wanted
from scheduler.lifecycle import Job, State
from scheduler.outbox import Outbox
from scheduler.owing import Owing
from scheduler.payloads import Payloads
from scheduler.ready_queue import ReadyQueue
from scheduler.store import Arguments, KeyRow
from scheduler.tally import Tally
from scheduler.timers import Timers

HOUSE = bytes(SESSION_BYTES)
"""Session of the jobs that the coordinator makes itself, in the default namespace. No key may resume it."""


class Intake:
    def __init__(
        self,
        *,
        clients: Clients,
        functions: Functions,
        keys: keys.Keys,
        timers: Timers,
        ready: ReadyQueue,
        admission: Admission,
        payloads: Payloads,
        exchange: Exchange,
        journal: Journal,
        tally: Tally,
        events: Events,
        owing: Owing,
        following: Following,
        out: Outbox,
    ) -> None:
        self._clients = clients
        self._functions = functions
        self._keys = keys
        self._timers = timers
        self._ready = ready
        self._admission = admission
        self._payloads = payloads
        self._exchange = exchange
        self._journal = journal
        self._tally = tally
        self._events = events
        self._owing = owing
        self._following = following
        self._out = out
        self.rank = 0
        """Of the last job."""
        self._keyed: list[tuple[KeyRow, Job]] = []
        """Keys taken by jobs of the submission at hand,"""
        self._aliased: list[tuple[bytes, bytes]] = []
        """...and submissions attached to jobs that were there."""

    def submit(self, client: Client, message: Submit) -> None:
        """Take in what is new of it, as far as there is room."""
        if client.holds:
            return  # it knows, or will
        first, count = message.first, len(message.payloads)
        large = {row: (sha, size) for row, sha, size in message.large}
        abouts: dict[int, bytes] = {row: about for row, about in message.abouts}  # noqa: C416 (they are lists)
        skip = max(0, client.accepted + 1 - first)
        if skip >= count:
            client.told = min(client.told, client.accepted - 1)
            self._unneeded(client, message, count)
            return
        records = self.records(client, message)
        admission, payloads = self._admission, self._payloads
        ready, jobs, session = self._ready, client.jobs, client.session
        wall = self._out.now.wall
        accepted: list[Job] = []
        begun: list[Job] = []
        refused: list[tuple[bytes, bytes]] = []
        full = ""
        near = admission.near(count, sum(map(len, message.payloads)))
        for row in range(skip, count):
            if near and (full := admission.full()):
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
            about = NOTHING_SPECIAL
            if row in abouts:
                try:
                    about = About.decode(abouts[row])
                except BadSpec as e:
                    refused.append(self._refuse_job(client, counter, str(e)))
                    continue
                if about.key and self._attached(client, counter, record, about, refused):
                    continue
            if ref is not None:
                self._exchange.named(client, ref[0])
            self.rank += 1
            job = Job(job_id(session, counter), counter, client, record, payload, ref, self.rank)
            job.size = len(payload)
            job.at = job.since = wall
            job.summary = message.summaries[row]
            jobs[counter] = job
            record.live += 1
            record.queue.jobs += 1
            accepted.append(job)
            if near:
                admission.taken(job)
            if about is NOTHING_SPECIAL and not record.timed:
                begun.append(job)
            else:
                job.about = about
                if self._begins(job):
                    begun.append(job)
        ready.push(begun)
        payloads.taken(accepted)
        if not near:
            admission.taken(*accepted)
        client.accepted = max(client.accepted, first + count - 1)
        self._unneeded(client, message, count)
        self._journal.refused(client, refused, wall)
        for alias, jid in self._aliased:
            self._journal.alias(client, alias, jid, wall)
        self._aliased.clear()
        if accepted:
            self._journal.accepted(client, accepted)
            self._events.note("accepted", accepted, self._out.now)
            for row_, job in self._keyed:
                self._journal.key(row_, job)
            self._keyed.clear()
            self._payloads.bound(accepted, self._journal.keeps)
            queues = figures.by_queue(accepted)
            self._out.fact("jobs_accepted", len(accepted), session=client.session.hex(), queues=queues)
        if full:
            self._hold(client, full)

    def _begins(self, job: Job) -> bool:
        """Of a new job something special is said: whether it need not wait for a moment, or for others."""
        about = job.about
        job.due = job.first_due
        if about.key:
            namespace = job.record.spec.namespace
            mark = keys.fingerprint(job.record.spec, about)
            self._keyed.append((self._keys.take(namespace, about.key, job.id, mark), job))
        self._timers.begin(job, self._out.now.wall)
        if about.after or job.due > self._out.now.wall:
            job.state = State.SCHEDULED
            if about.after:
                self._following.wait(job)
            return False
        return True

    def _attached(
        self, client: Client, counter: int, record: Record, about: About, refused: list[tuple[bytes, bytes]]
    ) -> bool:
        """Whether a job is there under this key already: then the submission is told of that one, or of a conflict."""
        spec = record.spec
        kept = self._keys.get(spec.namespace, about.key, self._out.now.wall)
        if kept is None:
            if len(self._keys) >= keys.MAX_KEYS:
                refused.append(self._refuse_job(client, counter, f"{keys.MAX_KEYS} keys are taken, which is the limit"))
                return True
            return False
        if kept.fingerprint != keys.fingerprint(spec, about):
            why = (
                f"the key {about.key!r} belongs to job {format_job(kept.job)}, which is not the same or not as durable"
            )
            refused.append(self._refuse_job(client, counter, why, "KeyConflict"))
            return True
        if spec.durable:
            self._aliased.append((job_id(client.session, counter), kept.job))
        if not self._owing.attach(client, counter, kept.job):
            self._owing.look_up([Wanted(kept.job, client.session, counter)])
        return True

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
        self._out.send(client, Hold(client.accepted, why))
        self._out.fact("submissions_held", session=client.session.hex(), reason=why)

    def let_go_on(self) -> None:
        """Have those go on who were held back, where there is room again."""
        for client in self._admission.go_on():
            client.held = False
            if client.reachable:
                self._out.send(client, GoOn())
                client.resumed_at = client.link.sent

    def records(self, client: Client, message: Submit) -> list[Record | str]:
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

    def _refuse_job(self, client: Client, counter: int, why: str, kind: str = "JobRefused") -> tuple[bytes, bytes]:
        """Its id and the failure that is owed."""
        self._tally.refused(kind)
        failure = Failure(kind, f"the coordinator did not take the job: {why}").encode()
        client.owe(Owed(counter, Outcome.FAILED, failure, None))
        return job_id(client.session, counter), failure

    # ------------------------------------------------------------------------------- jobs of the house

    def _of_the_house(self, namespace: str) -> Client:
        """The session of jobs that the coordinator makes itself; nobody is behind it."""
        session = HOUSE if namespace == "default" else sha256(b"house " + namespace.encode()).digest()[:SESSION_BYTES]
        client = self._clients.get(session)
        kept = self._journal.session(session)
        while (client is not None and client.identity.key) or (kept is not None and kept.key):  # somebody chose it
            session = sha256(session).digest()[:SESSION_BYTES]
            client, kept = self._clients.get(session), self._journal.session(session)
        if client is None:
            identity = Identity("", "owner", "coordinator", namespace)
            client = Client(session, identity, b"", Link(), self._out.now.mono, False, namespace=namespace)
            client.accepted = kept.accepted if kept else 0
            self._clients.add(client)
        client.left = client.forgotten = True
        return client

    def make(self, record: Record, kept: Arguments, summary: str, about: About) -> Job:
        """One of them; it is kept when ``made`` is told of it."""
        wall = self._out.now.wall
        client = self._of_the_house(record.spec.namespace)
        client.accepted += 1
        self.rank += 1
        ref = None if kept.sha is None else (kept.sha, kept.size)
        if ref is not None:
            self._exchange.hold(ref[0])
        job = Job(
            job_id(client.session, client.accepted), client.accepted, client, record, kept.payload, ref, self.rank
        )
        job.size, job.at, job.since, job.summary, job.about = len(kept.payload), wall, wall, summary, about
        client.jobs[job.counter] = job
        record.live += 1
        record.queue.jobs += 1
        self._admission.taken(job)
        self._payloads.taken([job])
        if self._begins(job):
            self._ready.push([job])
        return job

    def made(self, jobs: list[Job]) -> None:
        """These are all that were made now."""
        by_house: dict[Client, list[Job]] = {}
        for job in jobs:
            by_house.setdefault(job.client, []).append(job)
        for house, some in by_house.items():
            self._journal.accepted(house, some)
            self._events.note("accepted", some, self._out.now)
            self._payloads.bound(some, self._journal.keeps)
            self._out.fact("jobs_accepted", len(some), session=house.session.hex(), queues=figures.by_queue(some))
