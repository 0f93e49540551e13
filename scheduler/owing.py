"""What sessions are owed beside the outcomes of their own jobs as these end. Rules of this file: pure; it moves no job
and decides no outcome.

Who asks for an unfinished job watches it, and is owed its outcome with the others when it ends. Of any other job the
store is asked; where there is none, nobody knows it. A large result is held until the client has it, once for each row
that names it.
"""

from __future__ import annotations

from cluster.ids import counter_of, format_job, job_id, session_of
from cluster.jobs import Failure, Outcome
from cluster.messages import NotCancelled, Taken, Watch
from scheduler.clients import Client, Clients, Owed
from scheduler.exchange import Exchange
from scheduler.journal import Journal, OutcomesRead, ReadOutcomes, Wanted
from scheduler.outbox import Outbox


class Owing:
    def __init__(self, clients: Clients, journal: Journal, exchange: Exchange, out: Outbox) -> None:
        self._clients = clients
        self._journal = journal
        self._exchange = exchange
        self._out = out
        self.unknown: list[Wanted] = []
        """Jobs that are not in memory, where there is no store that could know them."""

    def await_outcomes(self, client: Client, counters: list[int]) -> None:
        """A session that was away for a life of ours: what has become of these?"""
        owed = {row.counter for row in client.owed()}
        wanted = [
            Wanted(job_id(client.session, c), client.session, c)
            for c in counters
            if c not in client.jobs and c not in owed
        ]
        self.look_up(wanted)

    def watch(self, client: Client, message: Watch) -> None:
        wanted = []
        if client.holds:
            return  # it comes in its turn, as a submission does, and is handed in again
        for counter, jid in zip(message.counters, message.jobs, strict=True):
            client.accepted = max(client.accepted, counter)  # it comes in its turn, as a submission does
            if not self.attach(client, counter, jid):
                wanted.append(Wanted(jid, client.session, counter))
        self._out.active[id(client)] = client
        self.look_up(wanted)

    def attach(self, client: Client, counter: int, jid: bytes) -> bool:
        """Owe the outcome of an unfinished job under this counter too; whether there is such a job."""
        job = self._clients.unfinished(jid)
        if job is None or not client.may_see(job.client.namespace):
            return False
        if (client.session, counter) not in (job.watchers or ()):
            job.watchers = [*(job.watchers or ()), (client.session, counter)]
        return True

    def look_up(self, wanted: list[Wanted]) -> None:
        if wanted and self._journal.open:
            self._out.do(ReadOutcomes(wanted, self._out.now.wall))
        else:
            self.unknown += wanted

    def take_unknown(self) -> OutcomesRead:
        """What a store would say of these."""
        wanted, self.unknown = self.unknown, []
        return OutcomesRead([(w, None, b"") for w in wanted])

    def known(self, wanted: Wanted, row: Owed | None, alias: bytes) -> None:
        """What the store says of a job that a session waits for, or wishes cancelled."""
        client = self._clients.get(wanted.session)
        if client is None or client.left:
            return
        if wanted.cancel:
            if row is None or row.outcome != Outcome.CANCELLED:  # else it has heard so, or asks what became of it
                self._out.tell(client, NotCancelled([wanted.job]))
            return
        if alias:
            if not self.attach(client, wanted.counter, alias):  # that one has ended since the store was asked
                self.look_up([wanted._replace(job=alias)])
            return
        kept = self._journal.session(session_of(wanted.job))
        visible = kept is not None and client.may_see(kept.namespace)
        if row is None or not visible:
            expired = visible and kept is not None and counter_of(wanted.job) <= kept.accepted
            row = _unknown(wanted, expired)
        self.owe(client, row._replace(counter=wanted.counter))

    def owe(self, client: Client, row: Owed) -> None:
        if row.large is not None:
            self._exchange.hold(row.large[0])
            client.fetchable[row.large[0]] = client.fetchable.get(row.large[0], 0) + 1
        client.owe(row)
        self._out.active[id(client)] = client

    # ------------------------------------------------------------------------------- large results

    def took(self, client: Client, message: Taken) -> None:
        arrived = self._exchange.taken(client, message)
        if arrived or message.sha not in self._exchange or message.through >= self._exchange.size(message.sha):
            self.done(client, message.sha)

    def done(self, client: Client, sha: bytes) -> None:
        """It has the large result, or does not want it."""
        for _ in range(client.fetched(sha)):
            self._exchange.release(sha)

    def lost(self, client: Client, sha: bytes) -> None:
        """It cannot have the large result any more, for whatever row that names it."""
        for _ in range(client.fetchable.pop(sha, 0)):
            self._exchange.release(sha)

    def drop(self, client: Client) -> None:
        """It will fetch nothing any more."""
        client.drop_owed()
        for sha, count in client.fetchable.items():
            for _ in range(count):
                self._exchange.release(sha)
        client.fetchable.clear()


def _unknown(wanted: Wanted, expired: bool) -> Owed:
    """The word on a job of which there is no row."""
    if expired:
        failure = Failure("ResultExpired", "the job is done, and its outcome is not kept any more")
        return Owed(wanted.counter, Outcome.FAILED, failure.encode(), None)
    if wanted.session != session_of(wanted.job):
        failure = Failure("UnknownJob", f"no job {format_job(wanted.job)} is known to this coordinator")
        return Owed(wanted.counter, Outcome.FAILED, failure.encode(), None)
    failure = Failure("JobLost", "the coordinator was restarted and no longer knows the job")
    return Owed(wanted.counter, Outcome.LOST, failure.encode(), None)
