"""The promises, judged from outside. Rules of this file: what clients were told, what workers did, what failed.

It knows the answer of every job from its payload. It knows no actor: only the lives of machines, which the world
ends itself, and the coordinator's own word that a node is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.ids import format_job
from cluster.jobs import End, Failure, Outcome, Rules
from tests.simulation.work import OLD, Work, outcome_of, sha, unsigned, wish_of

if TYPE_CHECKING:
    from tests.scheduler.store.model import Rows

ORDER = "schedules"
"""Meant by an order about schedules, which may be of one there is none of."""

HOUSE = bytes(8)
"""Session of the jobs that schedules make: see ``chronos``."""

TIMER_S = 0.1
"""By so much an attempt may have begun later than its agent counts."""

LOST_NODES = 4
"""So many lost nodes spend a job's budget."""


class Broken(AssertionError):
    """A promise is broken; the text says which, and for which job."""


@dataclass(slots=True)
class Score:
    """The promises as figures: all are 0, or somebody was let down."""

    lost: int = 0
    """Durable jobs that were acknowledged and have no outcome, or one on disk that contradicts what was told."""
    duplicate_commits: int = 0
    """Outcomes told or stored once more."""
    second_starts: int = 0
    """Of jobs that must not start twice."""
    stuck: int = 0
    """Jobs that wait for ever."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An order to end this job, whether it runs or not."""

    job: bytes


@dataclass(frozen=True, slots=True)
class Draining:
    """An order to give this node nothing new,"""

    node: str


@dataclass(frozen=True, slots=True)
class Undraining:
    """...and to give it work again."""

    node: str


@dataclass(slots=True)
class Start:
    """User code began to run."""

    token: int
    node: str
    life: int
    at: float

    @property
    def epoch(self) -> int:
        return self.token >> 40


@dataclass(slots=True, eq=False)
class Story:
    """One job, from outside."""

    id: bytes
    client: str
    work: Work
    durable: bool
    """It is a row from its acceptance on, and a restart of the coordinator excuses nothing."""
    handed_in_at: float
    starts: list[Start] = field(default_factory=list)
    answered: bool = False
    """Some run of it came well to its end."""
    raised: set[int] = field(default_factory=set)
    """Tokens of runs that raised, or asked for a pause."""
    parents: tuple[bytes, ...] = ()
    """Jobs it runs after."""
    timed_out: set[int] = field(default_factory=set)
    """...and of those of them that ran too long."""
    given: dict[int, bytes] = field(default_factory=dict)
    """Tokens of runs, with the state each found,"""
    saved: dict[int, bytes] = field(default_factory=dict)
    """...and with what each saved."""
    ordered: bool = False
    """Somebody has ordered its end, be it running or not."""
    ends_at: int | None = None
    """It is to be ended, and nobody may be given it by a token from this one on."""
    crashed: dict[int, bool] = field(default_factory=dict)
    """Tokens of runs under which the worker died, and whether for want of memory."""
    unclear: set[int] = field(default_factory=set)
    """...of which nobody knows whether they were ended just before."""
    result: bytes = b""
    """What its client was told, if that is the job's own."""
    told: int = 0
    """How often its client was told an outcome."""
    wished: int = 0
    """Cancels not yet denied."""
    denied: bool = False
    outcome: Outcome | None = None
    settled_at: float = 0.0

    @property
    def rules(self) -> Rules:
        return self.work.rules

    def __str__(self) -> str:
        runs = ", ".join(
            f"{s.node}.{s.life} at {s.at:.3f} (token {s.epoch}:{s.token & 0xFFFFFFFFFF})" for s in self.starts
        )
        return (
            f"job {format_job(self.id)} of {self.client}, handed in at {self.handed_in_at:.3f}, "
            f"outcome {'none' if self.outcome is None else self.outcome.word}, runs: {runs or 'none'}"
        )


class Ledger:
    def __init__(self, now: Callable[[], float], bad_disks: bool, store: bool, clock_jumps: bool = False) -> None:
        self._now = now
        self._clock_jumps = clock_jumps
        self._bad_disks = bad_disks
        """Blobs may fail, and the jobs that need them."""
        self._store = store
        self._pruned: set[bytes] = set()
        self.disk_was_full = False
        self.jobs: dict[bytes, Story] = {}
        self._open: dict[str, dict[bytes, Story]] = {}
        self._tokens: dict[int, bytes] = {}
        self._node_lost: dict[str, list[float]] = {}
        self._ended: dict[int, float] = {}
        """Lives of nodes that are over, and since when."""
        self._restarts: list[float] = []
        self._acknowledged: dict[str, int] = {}
        self._asked: dict[tuple[str, int], Any] = {}
        """Questions and orders without an answer, with what is to be known of them."""
        self._drained: dict[str, int] = {}
        """Nodes that are drained; no token from this one on may go there."""
        self.excess = 0
        """Runs of jobs that had run before."""
        self.excuses: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        """Outcomes ``lost`` that the rules allow, by reason."""
        self._stored: Counter[bytes] = Counter()
        self._keyed: dict[str, list[Story]] = {}
        self.ran: Callable[[bytes], None] = lambda job: None
        """Hears of jobs of the house that run."""
        self.rests: Callable[[], bool] = lambda: True
        """Whether all is done that no client waits for."""
        self.events: deque[tuple[float, str, tuple[Any, ...]]] = deque(maxlen=4000)
        """What happened last; made into text only when it is asked for."""

    def note(self, text: str, *about: Any) -> None:
        self.events.append((self._now(), text, about))

    # -- what machines do ---------------------------------------------------------------------------

    def node_lost(self, name: str) -> None:
        """The coordinator has said so."""
        self._node_lost.setdefault(name, []).append(self._now())

    def node_ended(self, life: int) -> None:
        self._ended[life] = self._now()

    def coordinator_restarted(self) -> None:
        self._restarts.append(self._now())
        if not self._store:
            self._drained.clear()

    def pruned(self, jobs: set[bytes]) -> None:
        """Their outcomes are on disk no more."""
        self._pruned |= jobs

    def client_ended(self, client: str) -> None:
        self._open.pop(client, None)
        self._asked = {a: meant for a, meant in self._asked.items() if a[0] != client}

    # -- what workers do ----------------------------------------------------------------------------

    def started(
        self, job: bytes, token: int, node: str, life: int, payload: bytes, code: bytes, state: bytes = b""
    ) -> None:
        """``state``: what it finds of an attempt before."""
        if job[:8] == HOUSE:
            self.ran(job)
            return
        story = self.jobs.get(job)
        if story is None:
            raise Broken(f"a worker runs a job nobody handed in: {job.hex()}")
        self.note("{} starts on {}: token {}", story.id, node, token)
        if (payload, code) != (story.work.payload, story.work.code):
            raise Broken(f"a worker runs another payload or function than was handed in: {story}")
        if self._tokens.setdefault(token, job) != job:
            raise Broken(f"one token for two jobs: {story}")
        if any(s.token == token for s in story.starts):
            raise Broken(f"one attempt ran twice: {story}")
        start = Start(token, node, life, self._now())
        before = story.starts.copy()
        story.starts.append(start)
        if story.rules.at_most_once and (before or story.outcome is not None):
            raise Broken(f"it must not start twice, nor after its end: {story}")
        self._check_rules(story, start)
        self._check_orders(story, start)
        self._check_state(story, start, before, state)
        if before:
            self.excess += 1
            last = max(before, key=lambda s: s.token)
            self._excuse(story, *((last, start) if token > last.token else (start, last)))
            self._check_budgets(story, token, before)
        if story.outcome is not None:
            self._excuse_late(story, start)

    def _check_rules(self, story: Story, start: Start) -> None:
        """It starts after its parents, not before its time, and alone of those under its key."""
        if story.rules.after_failure == "fail":
            for parent in story.parents:
                if not any(s.answered for s in self._same(self.jobs[parent])):
                    raise Broken(f"it starts before a job it runs after has succeeded: {story}")
        if not self._clock_jumps and self._now() < story.handed_in_at + story.work.delay_s:
            raise Broken(f"it starts {story.work.delay_s} s too early: {story}")
        for other in self._same(story):
            free = self._clock_jumps or (not other.durable and self._restart_excuses(other, other.handed_in_at))
            if other is not story and other.starts and not free and story.durable:
                raise Broken(f"two jobs under one key run: {story}; {other}")

    def _check_orders(self, story: Story, start: Start) -> None:
        """What is to be ended is given to nobody any more, and what is drained is given nothing."""
        if story.ends_at is not None and start.token >= story.ends_at and not story.rules.at_most_once:
            raise Broken(f"it was to be ended, and is begun anew: {story}")
        if start.token >= self._drained.get(start.node, start.token + 1):
            raise Broken(f"its node is drained, and is given work: {story}")

    def _check_state(self, story: Story, start: Start, before: list[Start], state: bytes) -> None:
        """What an attempt finds was saved by one before; by the last, where nobody has forgotten anything."""
        story.given[start.token] = state
        if state and not any(state == story.saved.get(s.token) for s in before):
            raise Broken(f"it finds a state that no attempt before has saved: {story}")
        if not before:
            return
        last = max(before, key=lambda s: s.token)
        over = last.token in story.crashed or last.token in story.raised
        known = not any(self._forgotten(story, s) or self._came_home(story, s) for s in before)
        if last.token < start.token and over and known:
            wanted = story.saved.get(last.token) or story.given[last.token]
            if state != wanted:
                raise Broken(f"it does not find the state that was saved last: {story}")

    def _same(self, story: Story) -> list[Story]:
        """Those that have one outcome with it, since they have one key."""
        return self._keyed[story.work.key] if story.work.key else [story]

    def _excuse(self, story: Story, before: Start, after: Start) -> None:
        """A job runs again only if a crash, a lost node or a restart ended its attempt before."""
        if before.token in story.crashed:
            self.excuses["its worker died"] += 1
            return
        if before.token in story.raised:
            self.excuses["its function raised, or asked for a pause"] += 1
            return
        if before.life in self._ended:
            why = "its agent died"
        elif self._lost_since(story.handed_in_at, before.node):
            why = "its node was lost"
        elif after.epoch > before.epoch and not story.durable:
            why = "the coordinator was restarted"
        elif any(s.token < before.token and self._came_home(story, s) for s in story.starts):
            why = "one that was given up came home first, and had to run again"
        else:
            raise Broken(f"it runs again without a cause: {story}")
        self.excuses[why if after.at >= before.at else f"{why}, and runs it late"] += 1

    def _excuse_late(self, story: Story, start: Start) -> None:
        """A node may run what has its outcome, if it was given up before, until it hears of it."""
        if self._lost_since(story.handed_in_at, start.node):
            why = "its node was lost"
        elif self._restart_excuses(story, story.handed_in_at):
            why = "the coordinator was restarted"
        elif any(s.token < start.token and self._came_home(story, s) for s in story.starts):
            why = "one that was given up came home first"
        else:
            raise Broken(f"its client was told its end, and it runs: {story}")
        self.excuses[f"{why}, and runs it after its end"] += 1

    def _came_home(self, story: Story, start: Start) -> bool:
        """Whether its node was given up, and may have handed its result to a coordinator that knew nothing of that."""
        given_up = [at for at in self._node_lost.get(start.node, ()) if at >= story.handed_in_at]
        return any(restart >= at for restart in self._restarts for at in given_up)

    def _check_budgets(self, story: Story, token: int, before: list[Start]) -> None:
        """So many deaths, or ends for its time, of which somebody who decides must know are the end of a job."""
        known_of = [s for s in before if s.token < token and not self._forgotten(story, s)]
        known_of = [s for s in known_of if not self._came_home(story, s)]  # it is counted as a node that was lost
        late = [s for s in known_of if s.token in story.timed_out - story.crashed.keys()]
        if len(late) > story.rules.retries:
            raise Broken(f"it runs on, though it ran too long and has no retries left: {story}")
        dead = [s for s in known_of if s.token in story.crashed]
        known = Counter(story.crashed[s.token] for s in dead if s.token not in story.unclear)
        rules = story.rules
        if known[False] > rules.crash_retries or known[True] > rules.memory_retries:
            raise Broken(f"it runs on, though its budgets are spent ({rules}): {story}")

    def answered(self, job: bytes) -> None:
        """A run of it came well to its end."""
        if job[:8] != HOUSE:
            self.jobs[job].answered = True

    def raised(self, job: bytes, token: int) -> None:
        """A run of it came to another end."""
        self.note("{} raises: token {}", job, token)
        if job[:8] != HOUSE:
            self.jobs[job].raised.add(token)

    def stopped(self, job: bytes, token: int, timeout_s: float) -> None:
        """A run of it was ended, because it had run for that time or, without one, because it was to be ended."""
        if job[:8] == HOUSE:
            return
        story = self.jobs[job]
        start = next(s for s in story.starts if s.token == token)
        self.raised(job, token)
        if timeout_s:
            story.timed_out.add(token)
            if timeout_s != story.rules.timeout_s or self._now() < start.at + timeout_s - TIMER_S:
                raise Broken(f"it is ended for its time, which is not over: {story}")
        elif not story.wished:
            raise Broken(f"it is ended, and nobody wished that: {story}")

    def saved(self, job: bytes, token: int, state: bytes) -> None:
        if job[:8] != HOUSE:
            self.jobs[job].saved[token] = state

    def undrained(self, node: str) -> None:
        self._drained.pop(node, None)

    def crashed(self, job: bytes, token: int, for_memory: bool, unclear: bool = False) -> None:
        """``unclear``: it was to be ended at that moment, and its agent may say so instead."""
        self.note("{} crashes its worker: token {}", job, token)
        story = self.jobs.get(job)
        if story is None:
            return
        story.crashed[token] = for_memory
        if unclear:
            story.unclear.add(token)
            story.raised.add(token)
            story.timed_out.add(token)

    # -- what clients are told ----------------------------------------------------------------------

    def handed_in(self, client: str, job: bytes, work: Work, parents: tuple[bytes, ...] = ()) -> None:
        story = self.jobs[job] = Story(job, client, work, self._store and work.durable, self._now(), parents=parents)
        if work.key:
            self._keyed.setdefault(work.key, []).append(story)
        self._open.setdefault(client, {})[job] = story
        self.note("{} is handed in by {}", job, client)

    def cancel_wished(self, job: bytes) -> None:
        story = self.jobs[job]
        if story.outcome is None:
            self.note("{} shall be cancelled", job)
            story.wished += 1
            story.denied = False

    def cancel_denied(self, job: bytes) -> None:
        self.note("{} cannot be cancelled", job)
        self.jobs[job].denied = True

    def acknowledged(self, client: str, through: int, offered: int) -> None:
        before = self._acknowledged.get(client, 0)
        if through <= before:
            raise Broken(f"{client}'s acceptance goes back from {before} to {through}")
        if through > offered:
            raise Broken(f"{client}'s acceptance is at {through}, and only {offered} jobs were handed in")
        self._acknowledged[client] = through

    def asked(self, client: str, ask: int, meant: Any = None) -> None:
        self._asked[client, ask] = meant
        if isinstance(meant, Ending):
            self.jobs[meant.job].ordered = True

    def answer(self, client: str, ask: int, error: str, body: dict[str, Any], token: int, epoch: int) -> None:
        """``token``: the next one that the coordinator gives away; ``epoch``: of the coordinator that answers."""
        if (client, ask) not in self._asked:
            raise Broken(f"{client} got an answer to a question it did not ask, or once more")
        meant = self._asked.pop((client, ask))
        if error and meant != ORDER and not (isinstance(meant, Draining | Undraining) and "no node is called" in error):
            raise Broken(f"{client} got no answer: {error}")
        match meant:
            case Ending(job) if body["ending"]:
                self.note("{} is being ended", job)
                self.jobs[job].ends_at = token
            case Draining(node) if not error and not any(meant == Undraining(node) for meant in self._asked.values()):
                if self._store or epoch > len(self._restarts):  # else it was forgotten before this was heard
                    self._drained[node] = token

    def settled(self, client: str, job: bytes, outcome: int, data: bytes, large: bool) -> None:
        story = self.jobs.get(job)
        if story is None or story.client != client:
            raise Broken(f"{client} was told of a job it did not hand in: {job.hex()}")
        story.told += 1
        if story.outcome is not None:
            raise Broken(f"told twice, now as {Outcome(outcome).word}: {story}")
        story.outcome, story.settled_at = Outcome(outcome), self._now()
        self.note("{} is {}", job, story.outcome.word)
        del self._open[client][job]
        result, token = unsigned(data)
        own = outcome_of(story.work.payload, story.work.code)
        ended = [s for s in self._same(story) if (s.answered if own[0] is Outcome.SUCCEEDED else s.raised)]
        if ended and (story.outcome, result, large) == own:
            of_it = [s for s in ended if any(start.token == token for start in s.starts)]  # one key, several times
            one = of_it[0] if of_it else ended[0]
            self._check_attempt(one, token)
            self._check_retries(one)
            story.result = data
            return
        words = []
        for one in self._same(story):
            words.append(self._wrong(one, story.outcome, Failure.decode(data)))
            if not words[-1]:
                return
        raise Broken(f"{words[0]}: {story}")

    def _check_retries(self, story: Story) -> None:
        """One that failed has used up what its user gave it."""
        failed, _, _ = outcome_of(story.work.payload, story.work.code)
        given_up = wish_of(story.work.payload, 1)
        quits = given_up is not None and given_up[0] is End.GIVE_UP
        if failed is Outcome.FAILED and not quits and len(story.raised) <= story.rules.retries:
            raise Broken(f"it failed after {len(story.raised)} runs, and has {story.rules.retries} retries: {story}")

    def _check_attempt(self, story: Story, token: int) -> None:
        """A result is refused once another attempt has the job: of that we know, if it has started."""
        if not token:
            return
        start = next((s for s in story.starts if s.token == token), None)
        if start is None:
            raise Broken(f"its result is of an attempt that never ran: {story}")
        if any(s.token > token for s in story.starts) and not self._came_home(story, start):
            raise Broken(f"its result is of an attempt that was superseded (token {token & 0xFFFFFFFFFF}): {story}")

    def _wrong(self, story: Story, outcome: Outcome, failure: Failure) -> str:
        """Why an outcome that is not the job's own may not be; empty if it may."""
        work = story.work
        needs_blob = self._bad_disks and (work.large or work.code or outcome_of(work.payload, work.code)[2])
        match outcome, failure.kind:
            case Outcome.FAILED, "ValueError":
                moody = wish_of(work.payload, 1) is not None and len(story.raised) > story.rules.retries
                return "" if moody else f"it raised {len(story.raised)} times, and has {story.rules.retries} retries"
            case Outcome.TIMED_OUT, "JobTimeout":
                spent = len(story.raised) > story.rules.retries
                return "" if story.timed_out and spent else "it did not run too long, or had retries left"
            case Outcome.FAILED, "Snooze":
                return "" if story.raised and story.rules.at_most_once else "it may be run again, and was not"
            case Outcome.EXPIRED, "JobExpired":
                known = [s for s in story.starts if not self._forgotten(story, s)]
                return "it has run" if known else "" if story.rules.expires_s else "its time to begin had no end"
            case Outcome.FAILED, "DependencyFailed":
                well = [p for p in story.parents if self._has_succeeded(self.jobs[p])]
                return (
                    f"all it runs after have succeeded: {failure.text}" if len(well) == len(set(story.parents)) else ""
                )
            case Outcome.FAILED, "WorkerCrashed":
                rules = story.rules
                died = Counter(story.crashed.values())
                if died and rules.at_most_once:
                    return ""
                if died[False] > rules.crash_retries or died[True] > rules.memory_retries:
                    return ""
                return f"workers died under it {len(story.crashed)} times, and it had more left ({rules})"
            case Outcome.FAILED, "JobRefused" if OLD in failure.text:
                return "" if story.work.rules != Rules(story.rules.at_most_once) else "every node can read it"
            case Outcome.FAILED, "ResultExpired":
                pruned = story.id in self._pruned or (story.work.key and self._clock_jumps)
                return "" if pruned else "its outcome is on disk still, or never was"
            case Outcome.FAILED, "JobRefused" if "did not take the job" in failure.text and not work.block:
                full = self.disk_was_full or "max_jobs" in failure.text or "payload_memory" in failure.text
                ran = story.starts and not self._restart_excuses(story, story.handed_in_at)
                return "" if full and not ran else "nothing was full, or it has run"
            case Outcome.FAILED, "JobRefused" | "JobLost" | "OSError":
                return "" if needs_blob else f"it needs no blob that can fail: {failure.text}"
            case Outcome.CANCELLED, "Cancelled":
                if not story.wished:
                    return "nobody wished it cancelled"
                if story.denied and not story.ordered:
                    return "its cancelling was denied"
                over = story.crashed.keys() | story.raised
                known = [s for s in story.starts if s.token not in over and not self._forgotten(story, s)]
                return "it was told cancelled, and has run" if known else ""
            case Outcome.LOST, "JobLost":
                why = self._loss(story, bool(needs_blob))
                if not why:
                    return f"nothing was lost: {failure.text}"
                self.losses[why] += 1
                return ""
        return f"its result is wrong ({failure.kind}: {failure.text[:100]})"

    def _has_succeeded(self, parent: Story) -> bool:
        """Whether everybody must know that."""
        told = any(s.outcome is Outcome.SUCCEEDED for s in (self._same(parent) if parent.outcome is None else [parent]))
        return told and parent.durable and not self._pruned & {s.id for s in self._same(parent)}

    def _loss(self, story: Story, needs_blob: bool) -> str:
        """By which rule it may be lost; empty if by none."""
        if story.rules.at_most_once and self._may_have_started(story):
            return "must not start twice, and may have started"
        if self._restart_excuses(story, story.handed_in_at):
            return "not durable, and the coordinator was restarted"
        if sum(at >= story.handed_in_at for lost in self._node_lost.values() for at in lost) >= LOST_NODES:
            return "its nodes were lost too often"
        return "a disk has lost its blob" if needs_blob else ""

    def _lost_since(self, moment: float, node: str) -> bool:
        """Whether the coordinator has given the node up since then."""
        return any(at >= moment for at in self._node_lost.get(node, ()))

    def _may_have_started(self, story: Story) -> bool:
        """Whether nobody but a node that is gone could tell."""
        gone = [at for lost in self._node_lost.values() for at in lost] + list(self._ended.values())
        return any(at >= story.handed_in_at for at in gone)

    def _restart_excuses(self, story: Story, moment: float) -> bool:
        """Whether the coordinator may know nothing of what was before that moment."""
        return not story.durable and any(at >= moment for at in self._restarts)

    def _forgotten(self, story: Story, start: Start) -> bool:
        """Nobody who decides can know of this run any more."""
        if start.life in self._ended or self._lost_since(start.at, start.node):
            return True
        return self._restart_excuses(story, start.at)

    # -- the end ------------------------------------------------------------------------------------

    def stored(self, jobs: Iterable[bytes]) -> None:
        """Their outcomes have reached the disk."""
        self._stored.update(jobs)

    def score(self, ended: bool, rows: Rows | None) -> Score:
        """Counted anew from what was told, started and stored. ``ended``: the world has had its time."""
        stories = self.jobs.values()
        score = Score()
        score.duplicate_commits = sum(max(0, s.told - 1) + max(0, self._stored[s.id] - 1) for s in stories)
        score.second_starts = sum(len(s.starts) - 1 for s in stories if s.starts and s.rules.at_most_once)
        if ended:
            score.stuck = len(self.open)
            score.lost = sum(self._is_lost(story, rows) for story in stories) if rows is not None else 0
        return score

    def _is_lost(self, story: Story, rows: Rows) -> bool:
        told = int.from_bytes(story.id[8:], "big") <= self._acknowledged.get(story.client, 0)
        if not (story.durable and told):
            return False
        if story.work.key and story.id not in rows.outcomes:
            return False  # it was attached to another, or its alias has gone by age
        row = rows.outcomes.get(story.id)
        if story.outcome is None and row is None:
            return story.id not in self._pruned
        if story.outcome is None or row is None or self._by_its_session(story):
            return False
        return story.outcome is not Outcome(row.outcome) and story.id not in self._pruned

    def compare(self, rows: Rows) -> None:
        """What is on disk when all is done, with what clients were told, those included that are gone."""
        accepted = {session: row.accepted for session, row in rows.sessions.items()}
        ranks: dict[str, tuple[int, int]] = {}
        for story in self.jobs.values():
            row = rows.outcomes.get(story.id)
            counter = int.from_bytes(story.id[8:], "big")
            told = counter <= self._acknowledged.get(story.client, 0)
            if story.id in rows.aliases:
                if story.id in rows.outcomes:
                    raise Broken(f"it was attached to a job, and has an outcome of its own: {story}")
                continue
            if row is None:
                pruned = story.id in self._pruned or (story.work.key and (self._pruned or self._clock_jumps))
                if story.durable and told and not pruned and not self._by_its_session(story):
                    raise Broken(f"it was accepted, and has no outcome on disk: {story}")
                continue
            word = Outcome(row.outcome)
            if not story.durable and Failure.decode(row.payload).kind != "JobRefused":
                raise Broken(f"it is not durable, and leaves an outcome on disk: {story}")
            if counter > accepted.get(story.id[:8], 0):
                raise Broken(f"it is above what its session's row says is accepted: {story}")
            if story.outcome is not None and story.outcome is not word and not self._by_its_session(story):
                raise Broken(f"on disk it is {word.word}: {story}")
            last, last_rank = ranks.get(story.client, (0, 0))
            if row.rank and (counter < last or row.rank < last_rank):
                raise Broken(f"it was not taken in the order in which it was handed in: {story}")
            ranks[story.client] = (counter, row.rank) if row.rank else (last, last_rank)
            right = (word, unsigned(row.payload)[0] if row.sha is None else row.sha, row.sha is not None)
            outcome, data, large = outcome_of(story.work.payload, story.work.code)
            wrong = right != (outcome, sha(data) if large else data, large)
            if word is Outcome.SUCCEEDED and (wrong or (not large and story.result not in (b"", row.payload))):
                raise Broken(f"its result on disk is wrong: {story}")

    def _by_its_session(self, story: Story) -> bool:
        """Whether it may have ended without a row: cancelled before it was sent, refused, or a blob failed."""
        if story.outcome is Outcome.CANCELLED:
            return not story.starts
        if not story.work.block and story.outcome is Outcome.FAILED and not story.starts:
            return True  # refused, because it must not wait
        return self._bad_disks and story.outcome in (Outcome.FAILED, Outcome.LOST)

    @property
    def open(self) -> list[Story]:
        """Jobs of living clients without an outcome."""
        return [story for jobs in self._open.values() for story in jobs.values()]

    @property
    def at_rest(self) -> bool:
        return not self.asking and not any(self._open.values()) and self.rests()

    @property
    def asking(self) -> bool:
        """Whether a question, or an order, has no answer yet."""
        return bool(self._asked)

    def last_words(self, count: int, job: bytes | None = None) -> list[str]:
        out = []
        for at, text, about in self.events:
            if job is None or job in about:
                words = [format_job(a) if type(a) is bytes else str(a) for a in about]
                out.append(f"{at:10.4f}  {text.format(*words)}")
        return out[-count:]
