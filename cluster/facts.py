"""What happened, said once. Rules of this file: plain values and one table of the kinds; nothing listens here.

Actors report facts with counts, per turn, never one per job on the fast path. ``logs`` and ``metrics``
are the listeners. A kind missing from :data:`KINDS` is a bug and is refused when the fact is made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

DEBUG, INFO, WARNING, ERROR = "debug", "info", "warning", "error"


class Kind(NamedTuple):
    level: str
    text: str


KINDS: dict[str, Kind] = {
    # coordinator
    "jobs_accepted": Kind(DEBUG, "accepted {n} jobs of session {session}"),
    "jobs_assigned": Kind(DEBUG, "assigned {n} jobs to node {node}"),
    "jobs_finished": Kind(DEBUG, "{n} jobs {outcome}"),
    "attempts_ended": Kind(DEBUG, "{n} attempts ended on node {node}"),
    # ... with columns as `Finished` has them: ends, run_us, and records of those that are worth one
    "jobs_refused": Kind(DEBUG, "{n} jobs not taken: {reason}"),
    "measured": Kind(DEBUG, "the books hold {n} jobs"),  # once a second, in figures
    "jobs_recovered": Kind(INFO, "{n} unfinished jobs of the last life; {nodes} nodes may hold some of them"),
    "disk_low": Kind(
        WARNING, "submissions have to wait: {free} bytes are free on the store's disk, {least} are wanted"
    ),
    "disk_well": Kind(INFO, "submissions are taken again: {free} bytes are free on the store's disk"),
    "load_query_failed": Kind(WARNING, "the load query has no answer, and places no more work: {reason}"),
    "load_query_well": Kind(INFO, "the load query is answered again"),
    "outcomes_pruned": Kind(DEBUG, "{n} old outcomes forgotten"),
    "schedules_fired": Kind(DEBUG, "{n} jobs made for schedules, {late_s:.3f} s late at most"),
    "schedules_skipped": Kind(INFO, "{n} times of schedules skipped: {reason}"),
    "schedule_gave_up": Kind(WARNING, "schedule {schedule} is paused after {n} failures in a row"),
    "store_failed": Kind(ERROR, "this life of the coordinator ends, the next one begins: {reason}"),
    "submissions_held": Kind(WARNING, "session {session} has to wait with what it hands in: {reason}"),
    "jobs_retried": Kind(DEBUG, "{n} jobs shall run again after a pause: {reason}"),
    "queue_set": Kind(INFO, "{owner} has set queue {queue}: {what}"),
    "jobs_dead": Kind(WARNING, "{n} jobs set aside as dead letters; the first: {first}, which calls {function}"),
    "schedule_overdue": Kind(WARNING, "schedule {schedule} is overdue: no success for {seconds:.0f} s"),
    "schedule_on_time": Kind(INFO, "schedule {schedule} is overdue no more"),
    "schedule_unread": Kind(ERROR, "schedule {schedule} of namespace {namespace} cannot fire: {reason}"),
    "jobs_requeued": Kind(INFO, "{n} jobs queued again: {cause}"),
    "results_discarded": Kind(INFO, "{n} late results from node {node} discarded"),
    "client_joined": Kind(INFO, "client session {session} joined (namespace {namespace}, link {link})"),
    "client_forgotten": Kind(INFO, "client session {session} forgotten: {reason}"),
    "node_joined": Kind(INFO, "node {node} joined with {slots} slots from {host} (link {link})"),
    "node_suspect": Kind(WARNING, "node {node} is silent ({reason})"),
    "node_back": Kind(INFO, "node {node} is heard again"),
    "node_lost": Kind(WARNING, "node {node} is lost ({reason}); {n} attempts ended"),
    "node_drains": Kind(INFO, "node {node} takes nothing new and will leave: {reason}"),
    "node_barred": Kind(INFO, "{owner} drains node {node}, where {n} attempts are: it is given nothing new"),
    "node_admitted": Kind(INFO, "{owner} lets node {node} have work again"),
    "node_left": Kind(INFO, "node {node} left"),
    "name_contested": Kind(
        WARNING,
        "{rival} says hello as node {node} and has to wait: {holder} is silent for {silent:.1f} s, and may hold leases "
        "until it is given up",
    ),
    "peer_refused": Kind(WARNING, "refused a peer: {reason}"),
    "resync": Kind(INFO, "asked {peer} to join again: {reason}"),
    "garbled": Kind(WARNING, "{n} unreadable messages dropped: {reason}"),
    "unexpected": Kind(WARNING, "{n} messages dropped: {reason}"),
    "stalled": Kind(WARNING, "this process did not run for {seconds:.1f} s; deadlines were moved"),
    "clock_jumped": Kind(WARNING, "the wall clock jumped by {seconds:.1f} s"),
    "handshake_refused": Kind(WARNING, "{n} handshakes refused: {reason}"),
    # agent
    "registered": Kind(INFO, "registered with the coordinator (epoch {epoch}, link {link})"),
    "link_down": Kind(WARNING, "the coordinator is not heard since {seconds:.0f} s: {reason}"),
    "link_back": Kind(WARNING, "registered again after {seconds:.1f} s"),  # as loud as what it ends
    "worker_started": Kind(DEBUG, "worker {pid} serves slot {slot}"),
    "contained": Kind(INFO, "jobs are contained: {n} ways out were tried, and none leads anywhere{but}"),
    "worker_died": Kind(WARNING, "worker {pid} of slot {slot} died: {cause}"),
    "drains": Kind(
        INFO, "takes nothing new; leaves when {n} attempts have ended, in {seconds:.0f} s at the latest: {reason}"
    ),
    "worker_replaced": Kind(DEBUG, "worker {pid} of slot {slot} is replaced: {cause}"),
    "jobs_run": Kind(DEBUG, "{n} attempts {outcome}"),
    "assignments_discarded": Kind(INFO, "{n} attempts given up: {reason}"),
    "blob_failed": Kind(WARNING, "blob {sha}: {reason}"),
    "node_measured": Kind(DEBUG, "{n} attempts are held"),  # once a second, in figures
    # client
    "connected": Kind(INFO, "connected (epoch {epoch}, link {link})"),
    "coordinator_unheard": Kind(
        WARNING,
        "the coordinator at {address} is not heard since {seconds:.0f} s; {open}; they fail after {timeout:.0f} s "
        "(reconnect_timeout_s)",
    ),
    "coordinator_back": Kind(WARNING, "connected again after {seconds:.1f} s"),  # as loud as what it ends
    "jobs_wait": Kind(WARNING, "{what} for {reason}"),
    "jobs_held": Kind(WARNING, "{n} jobs wait to be handed in: {reason}"),
    "gave_up": Kind(ERROR, "gave up on the coordinator: {reason}"),
}


class Fact(NamedTuple):
    kind: str
    n: int
    about: dict[str, Any]

    @property
    def level(self) -> str:
        return KINDS[self.kind].level

    @property
    def text(self) -> str:
        return KINDS[self.kind].text.format(n=self.n, **self.about)


def fact(kind: str, n: int = 1, **about: Any) -> Fact:
    """Make a fact of a known kind; ``n`` is how many times it happened in this turn."""
    if kind not in KINDS:
        raise KeyError(f"no fact is called {kind!r}; add it to cluster/facts.py")
    return Fact(kind, n, about)
