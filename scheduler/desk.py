"""The desk where people ask and order. Rules of this file: pure; it reads the books, and what is to be done about jobs
is done by the coordinator's verbs.

A question is answered at once where memory has the answer, else when the store has been read, a slice a turn
(``inquiries``). A listener's waits until something happens. Nobody hears of jobs outside his namespace, but the owner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from cluster.ids import format_job, session_of
from cluster.jobs import LONGEST_S, WORD_CHARS, About
from cluster.messages import Answer, Ask, Submit
from scheduler import answers, events, explain, inquiries
from scheduler.admission import Admission
from scheduler.clients import Client, Clients
from scheduler.dependencies import Dependencies
from scheduler.exchange import Exchange
from scheduler.functions import Functions, Record
from scheduler.journal import (
    ArgumentsDropped,
    ArgumentsRead,
    DropArguments,
    HistoryRead,
    Journal,
    ReadArguments,
    ReadHistory,
)
from scheduler.lifecycle import Job, State, Wish
from scheduler.outbox import Outbox
from scheduler.queues import SETTING, Queue, Queues, Settings
from scheduler.ready_queue import ReadyQueue
from scheduler.roster import Node, Roster
from scheduler.store import Arguments, OutcomeRow

MAX_BARRED = 10_000
MAX_INQUIRIES = 100
"""Questions looked into at a time, and listeners."""


@dataclass(frozen=True, slots=True)
class Books:
    """What is read here; of it only the queues' settings, and what they leave in the journal, are changed."""

    clients: Clients
    roster: Roster
    queues: Queues
    functions: Functions
    ready: ReadyQueue
    dependencies: Dependencies
    admission: Admission
    exchange: Exchange
    journal: Journal
    events: events.Events


@dataclass(frozen=True, slots=True)
class Verbs:
    """What the coordinator does for those who ask."""

    status: Callable[[], dict[str, Any]]
    cancel: Callable[[Iterable[Job], bool], None]
    """These, and those that run too where the second says so."""
    retract: Callable[[Node, list[Job]], None]
    bar: Callable[[str, float, str], None]
    """Give this node nothing new, take back in so many seconds what runs there then; in whose name."""
    admit: Callable[[str, str], None]
    """...and give it work again."""
    records: Callable[[Client, Submit], list[Record | str]]
    """The record of each spec of a submission, or why it is refused."""
    make: Callable[[Record, Arguments, str, About], Job]
    """A job of the coordinator's own: its function, arguments, summary and what else is said of it;"""
    made: Callable[[list[Job]], None]
    """...and this is all of them."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Somebody waits until nothing runs on a node that is drained."""

    client: Client
    ask: int
    node: str
    until: float


class Desk:
    def __init__(self, epoch: int, books: Books, verbs: Verbs, out: Outbox) -> None:
        self._epoch = epoch
        self._books = books
        self._verbs = verbs
        self._out = out
        self._inquiries: list[inquiries.Inquiry] = []
        self._drains: list[Drain] = []

    @property
    def busy(self) -> bool:
        """Whether a question can be looked into further at once."""
        return any(not inquiry.reading for inquiry in self._inquiries)

    # ------------------------------------------------------------------------------- questions

    def ask(self, client: Client, message: Ask) -> None:
        try:
            body = self._answer(client, message.ask, message.topic, message.about)
        except ValueError as e:
            self._out.tell(client, Answer(message.ask, str(e), {}))
            return
        if body is not None:
            self._out.tell(client, Answer(message.ask, "", body))

    def _answer(self, client: Client, ask: int, topic: str, about: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None where it comes later. Raises ``ValueError`` with what is wrong with the question."""
        books = self._books
        match topic:
            case "status":
                return self._verbs.status()
            case "nodes":
                return answers.nodes(books.roster, self._out.now.mono, about)
            case "events":
                return self._listen(client, ask, about)
            case "jobs":
                self._find(client, ask, about)
                return None
            case "job" | "explain":
                return self._tell_of(client, ask, topic, inquiries.job_of(about))
            case "queues":
                return {"queues": [self._queue(q) for q in sorted(books.queues, key=lambda q: q.name)]}
            case "queue":
                return {"queue": self._set_queue(client, about)}
            case "cancel":
                return self._cancel(client, about)
            case "drain" | "undrain":
                return {"node": self._drain(client, about, topic == "drain")}
            case "drained":
                self._await_drained(client, ask, about)
                return None
            case "retry" | "drop":
                inquiries.check_corrected(about)
                self._out.do(ReadArguments((client.session, ask, topic, about), inquiries.jobs_of(about)))
                return None
        raise ValueError(f"no topic is called {topic[:40]!r}")

    def _tell_of(self, client: Client, ask: int, topic: str, jid: bytes) -> dict[str, Any] | None:
        """What there is to say of one job, or why it does not run."""
        job = self._books.clients.unfinished(jid)
        if job is None or not client.may_see(job.record.spec.namespace):
            self._out.do(ReadArguments((client.session, ask, topic, {}), [jid]))
            return None
        body: dict[str, Any] = {"job": inquiries.of_job(job)}
        if topic == "explain":
            body["why"] = self.explain(job)
            if job.state is State.READY:
                body["nodes"] = explain.candidates(job, self._books.roster, self._out.now.mono)
        return body

    def explain(self, job: Job) -> list[str]:
        """Why it does not run, in words; one for each thing that stands in its way."""
        books = self._books
        parents = books.dependencies.waits_for(job)
        return explain.reasons(job, books.ready, books.roster, parents, self._out.now.mono, self._out.now.wall)

    def _find(self, client: Client, ask: int, about: dict[str, Any]) -> None:
        wanted = inquiries.Filter.of(about)
        limit, more = about.get("limit", 50), about.get("more") or {"rank": 0, "before": 0}
        if type(limit) is not int or not 1 <= limit <= inquiries.PAGE:
            raise ValueError(f"limit is 1 to {inquiries.PAGE}")
        if type(more) is not dict or not all(
            type(more.get(k)) is int and -1 <= more[k] < 1 << 62 for k in ("rank", "before")
        ):
            raise ValueError("more is what the page before gave")
        if len(self._inquiries) >= MAX_INQUIRIES:
            raise ValueError(f"{MAX_INQUIRIES} questions are being looked into; ask again")
        books = self._books
        # A later page is beyond the unfinished jobs if it names none of them.
        first = "more" not in about or not about["more"]
        in_memory = wanted.any_unfinished and (first or more["rank"] > 0)
        self._inquiries.append(
            inquiries.Inquiry(
                client,
                ask,
                wanted,
                wanted.search(books.functions, client.only),
                client.only,
                limit,
                inquiries.newest_first(books.clients, more["rank"]) if in_memory else iter(()),
                more["before"] if wanted.any_finished and books.journal.open else -1,
            )
        )

    def inquire(self) -> None:
        """Go on with what people have asked for, a slice each."""
        for inquiry in [i for i in self._inquiries if not i.reading]:
            if not inquiry.look(self._books.functions):
                continue
            through = not inquiry.full and inquiry.left > 0
            if through and inquiry.before >= 0:
                inquiry.reading = True
                most = inquiry.limit - len(inquiry.rows)
                self._out.do(ReadHistory(inquiry, inquiry.search, inquiry.before, most, inquiries.SLICE))
                continue
            self._inquiries.remove(inquiry)
            left = not through and next(inquiry.jobs, None) is not None
            self._out.tell(inquiry.client, Answer(inquiry.ask, "", inquiry.answer(left)))

    def history_read(self, event: HistoryRead) -> None:
        if event.ask in self._inquiries:
            event.ask.take(event.rows, event.before, self._books.functions)

    # ------------------------------------------------------------------------------- listening

    def _listen(self, client: Client, ask: int, about: dict[str, Any]) -> dict[str, Any] | None:
        kinds, after = about.get("kinds", []), about.get("after", -1)
        if type(kinds) is not list or type(after) is not int or not -1 <= after < 1 << 62:
            raise ValueError("kinds is a list, and after a number")
        strange = [kind for kind in kinds if kind not in events.KINDS]
        if strange:
            raise ValueError(f"no event is called {str(strange[0])[:40]!r}; there are {', '.join(events.KINDS)}")
        texts = {name: about.get(name, "") for name in ("function", "queue")}
        if any(type(text) is not str for text in texts.values()):
            raise ValueError("function and queue are texts")
        book = self._books.events
        book.heard(self._out.now.mono)
        book.waiting = [w for w in book.waiting if (w.client, w.ask) != (client, ask)]
        if len(book.waiting) >= MAX_INQUIRIES:
            raise ValueError(f"{MAX_INQUIRIES} listeners are the limit")
        if about.get("epoch") != self._epoch:
            return {"events": [], "last": book.last, "missed": 0, "epoch": self._epoch}
        until = self._out.now.mono + events.HOLD_S
        book.waiting.append(
            events.Waiting(client, ask, after, frozenset(kinds), texts["function"], texts["queue"], client.only, until)
        )
        return None

    def tell_events(self) -> None:
        book = self._books.events
        for question, found in book.answers(self._out.now.mono) if book.waiting else ():
            self._out.tell(question.client, Answer(question.ask, "", {**found, "epoch": self._epoch}))

    # ------------------------------------------------------------------------------- orders

    def _queue(self, queue: Queue) -> dict[str, Any]:
        return answers.queue(queue, self._books.ready.count(queue.name))

    def _set_queue(self, client: Client, about: dict[str, Any]) -> dict[str, Any]:
        queues, name = self._books.queues, about.get("name")
        if type(name) is not str or not 0 < len(name) <= WORD_CHARS:
            raise ValueError(f"a queue's name has 1 to {WORD_CHARS} characters")
        wanted = about.get("set", {})
        if type(wanted) is not dict:
            raise ValueError("what is to be set is a mapping")
        if queues.full and queues.get(name) is None:
            raise ValueError(f"{len(queues)} queues are the limit")
        queue = queues.named(name)
        settings = queue.settings.changed(wanted)
        if settings != queue.settings:
            queue.settings = settings
            self._books.journal.setting(SETTING + name, settings.pack() if settings != Settings() else None)
            self._out.fact("queue_set", queue=name, owner=client.identity.owner, what=settings.words)
            if settings.paused:  # what lies ready on nodes has not started either
                for node in self._books.roster:
                    some = [j for j in node.leases if j.state is State.LEASED and j.record.queue is queue]
                    self._verbs.retract(node, some)
        return self._queue(queue)

    def _drain(self, client: Client, about: dict[str, Any], drain: bool) -> dict[str, Any] | None:
        """The node as it is then; None if one that is let in again is not here."""
        name, timeout_s = about.get("node"), about.get("timeout_s")
        roster, owner = self._books.roster, client.identity.owner
        if type(name) is not str or not (name in roster.barred or roster.get(name) is not None):
            raise ValueError(f"no node is called {str(name)[:80]!r}; there are {self._names()}")
        if timeout_s is not None and (type(timeout_s) not in (int, float) or not 0 <= timeout_s <= LONGEST_S):
            raise ValueError(f"timeout_s is 0 to {LONGEST_S:.0f} seconds, or none")
        if drain and name not in roster.barred and len(roster.barred) >= MAX_BARRED:
            raise ValueError(f"{MAX_BARRED} nodes are drained, which is the limit: cluster undrain those that are gone")
        if drain:
            self._verbs.bar(name, math.inf if timeout_s is None else timeout_s, owner)
        elif name in roster.barred:
            self._verbs.admit(name, owner)
        node = roster.get(name)
        return None if node is None else answers.of_node(node, self._out.now.mono)

    def _names(self) -> str:
        names = sorted(node.name for node in self._books.roster)
        return ", ".join(names[:5]) + " ..." * (len(names) > 5) if names else "none"

    def _await_drained(self, client: Client, ask: int, about: dict[str, Any]) -> None:
        name = about.get("node")
        if type(name) is not str:
            raise ValueError("node is a name")
        if len(self._drains) >= MAX_INQUIRIES:
            raise ValueError(f"{MAX_INQUIRIES} who wait are the limit")
        self._drains = [d for d in self._drains if (d.client, d.ask) != (client, ask)]
        self._drains.append(Drain(client, ask, name, self._out.now.mono + events.HOLD_S))

    def tell_drained(self) -> None:
        """Whoever waits for a drain is told when nothing runs there any more, or to ask again."""
        roster = self._books.roster
        for drain in self._drains.copy():
            node = roster.get(drain.node)
            held, barred = 0 if node is None else node.outstanding, drain.node in roster.barred
            if held and barred and self._out.now.mono < drain.until:
                continue
            self._drains.remove(drain)
            self._out.tell(drain.client, Answer(drain.ask, "", {"held": held, "barred": barred}))

    def _cancel(self, client: Client, about: dict[str, Any]) -> dict[str, Any]:
        mine = [job for jid in inquiries.jobs_of(about) if (job := self._visible(client, jid)) is not None]
        self._verbs.cancel(mine, about.get("running") is True)
        cancelled = sum(job.state is State.FINISHED for job in mine)
        ending = sum(job.state is not State.FINISHED and job.cancel_wished is Wish.ENDED for job in mine)
        return {"found": len(mine), "cancelled": cancelled, "ending": ending}

    def arguments_read(self, event: ArgumentsRead) -> None:
        """What the store has of jobs that somebody asks or orders something about."""
        session, ask, topic, about = event.ask
        client = self._books.clients.get(session)
        if client is None or client.left:
            return
        rows: dict[bytes, tuple[OutcomeRow, Arguments | None]] = {}
        for found in event.found.values():
            if found is not None and client.may_see(self._namespace_of(found[0])):
                rows[found[0].id] = found
        body: dict[str, Any] | None
        if topic in ("job", "explain"):
            jid = next(iter(event.found))
            if jid in event.aliases:
                body = self._tell_of(client, ask, topic, event.aliases[jid])
            elif not rows:
                self._out.tell(client, Answer(ask, f"no job {format_job(jid)} is known to this coordinator", {}))
                return
            else:
                [(row, _)] = rows.values()
                job = inquiries.of_row(row, self._books.functions)
                body = {"job": job}
                if topic == "explain":
                    body["why"] = [f"it is over: {job['state']}"]
        elif topic == "drop":
            self._out.do(DropArguments((session, ask), list(rows)))
            return
        else:
            body = self._run_again(client, rows, about)
            for jid, found in event.found.items():
                if found is None or found[0].id not in rows:
                    there = self._visible(client, event.aliases.get(jid, jid))
                    why = "no such job is known" if there is None else "it has not ended"
                    body["refused"][format_job(jid)] = why
        if body is not None:
            self._out.tell(client, Answer(ask, "", body))

    def _visible(self, client: Client, jid: bytes) -> Job | None:
        """The unfinished job, if it is any of its business."""
        job = self._books.clients.unfinished(jid)
        return job if job is not None and client.may_see(job.record.spec.namespace) else None

    def _namespace_of(self, row: OutcomeRow) -> str:
        """Of a job that was refused: that of its session."""
        spec, kept = self._books.functions.spec(row.spec), self._books.journal.session(session_of(row.id))
        return spec.namespace if spec is not None else kept.namespace if kept is not None else ""

    def arguments_dropped(self, event: ArgumentsDropped) -> None:
        session, ask = event.ask
        for sha in event.blobs:
            self._books.exchange.release(sha)
        client = self._books.clients.get(session)
        if client is not None and not client.left:
            self._out.tell(client, Answer(ask, "", {"dropped": event.jobs}))

    def _run_again(
        self, client: Client, rows: dict[bytes, tuple[OutcomeRow, Arguments | None]], about: dict[str, Any]
    ) -> dict[str, Any]:
        """New jobs with the arguments of these; ``about`` may have a spec and code of its own."""
        made: dict[str, str] = {}
        refused: dict[str, str] = {}
        other: Record | str = ""
        if about.get("spec"):
            code = about.get("code", b"")
            message = Submit(1, [about["spec"]], [], [], [], [[sha256(code).digest(), code]] if code else [], [], [])
            other = self._verbs.records(client, message)[0]
        jobs: list[Job] = []
        for jid, (row, kept) in rows.items():
            record: Record | str | None = other or self._books.functions.numbered(row.spec)
            why = self._books.admission.full()
            if isinstance(record, str):
                why = record
            elif record is None or (record.spec.by_value and not record.code and not record.holds_blob):
                why = "its function is not kept any more: give it anew (fn=...)"
            elif kept is None:
                why = "its arguments are not kept: those of jobs that succeeded or were dropped are not"
            elif kept.sha is not None and kept.sha not in self._books.exchange:
                why = "its arguments are lost"
            if why or record is None or isinstance(record, str) or kept is None:
                refused[format_job(jid)] = why
                continue
            job = self._verbs.make(record, kept, row.summary, replace(inquiries.lineage(row.about), retry_of=jid))
            jobs.append(job)
            made[format_job(jid)] = format_job(job.id)
        if jobs:
            self._verbs.made(jobs)
            self._books.journal.repeated(job.about.retry_of for job in jobs)
        return {"made": made, "refused": refused}
