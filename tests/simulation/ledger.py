"""The promises, judged from outside. Rules of this file: what clients were told, what workers did, what failed.

It knows the answer of every job from its payload. It knows no actor: only the lives of machines, which the world
ends itself, and the coordinator's own word that a node is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.ids import format_job
from cluster.jobs import Failure, Outcome, Rules, Spec
from tests.simulation.work import Work, outcome_of, sha

if TYPE_CHECKING:
    from tests.scheduler.store.model import Rows

LOST_NODES = 4
"""So many lost nodes spend a job's budget."""


class Broken(AssertionError):
    """A promise is broken; the text says which, and for which job."""


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
    """Some run of it came to its end."""
    crashed: set[int] = field(default_factory=set)
    """Tokens of runs under which the worker died."""
    wished: int = 0
    """Cancels not yet denied."""
    denied: bool = False
    outcome: Outcome | None = None
    settled_at: float = 0.0

    @property
    def rules(self) -> Rules:
        return Spec.decode(self.work.spec).rules

    def __str__(self) -> str:
        runs = ", ".join(
            f"{s.node}.{s.life} at {s.at:.3f} (token {s.epoch}:{s.token & 0xFFFFFFFFFF})" for s in self.starts
        )
        return (
            f"job {format_job(self.id)} of {self.client}, handed in at {self.handed_in_at:.3f}, "
            f"outcome {'none' if self.outcome is None else self.outcome.word}, runs: {runs or 'none'}"
        )


class Ledger:
    def __init__(self, now: Callable[[], float], bad_disks: bool, store: bool) -> None:
        self._now = now
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
        self._asked: set[tuple[str, int]] = set()
        self.excess = 0
        """Runs of jobs that had run before."""
        self.excuses: Counter[str] = Counter()
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

    def pruned(self, jobs: set[bytes]) -> None:
        """Their outcomes are on disk no more."""
        self._pruned |= jobs

    def client_ended(self, client: str) -> None:
        self._open.pop(client, None)
        self._asked = {a for a in self._asked if a[0] != client}

    # -- what workers do ----------------------------------------------------------------------------

    def started(self, job: bytes, token: int, node: str, life: int, payload: bytes, code: bytes) -> None:
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
        if story.rules.at_most_once and (story.starts or story.outcome is not None):
            raise Broken(f"it must not start twice, nor after its end: {story}, and now on {node}.{life}")
        if story.starts:
            self.excess += 1
            last = max(story.starts, key=lambda s: s.token)
            self._excuse(story, *((last, start) if token > last.token else (start, last)))
        elif story.outcome is Outcome.CANCELLED:
            self._excuse_cancelled(story, start)
        story.starts.append(start)

    def _excuse(self, story: Story, before: Start, after: Start) -> None:
        """A job runs again only if a crash, a lost node or a restart ended its attempt before."""
        if before.token in story.crashed:
            self.excuses["its worker died"] += 1
            return
        if before.life in self._ended:
            why = "its agent died"
        elif self._lost_since(story.handed_in_at, before.node):
            why = "its node was lost"
        elif after.epoch > before.epoch and not story.durable:
            why = "the coordinator was restarted"
        else:
            raise Broken(f"it runs again without a cause: {story}, and {after.node}.{after.life}")
        self.excuses[why if after.at >= before.at else f"{why}, and runs it late"] += 1

    def _excuse_cancelled(self, story: Story, start: Start) -> None:
        """A node may run what was cancelled meanwhile, if it was given up before, until it hears of it."""
        if self._lost_since(story.handed_in_at, start.node):
            why = "its node was lost"
        elif self._restart_excuses(story, story.handed_in_at):
            why = "the coordinator was restarted"
        else:
            raise Broken(f"it was told cancelled, and runs: {story}")
        self.excuses[f"{why}, and runs it after its cancelling"] += 1

    def answered(self, job: bytes) -> None:
        self.jobs[job].answered = True

    def crashed(self, job: bytes, token: int) -> None:
        self.note("{} crashes its worker: token {}", job, token)
        self.jobs[job].crashed.add(token)

    # -- what clients are told ----------------------------------------------------------------------

    def handed_in(self, client: str, job: bytes, work: Work) -> None:
        story = self.jobs[job] = Story(job, client, work, self._store and work.durable, self._now())
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

    def asked(self, client: str, ask: int) -> None:
        self._asked.add((client, ask))

    def answer(self, client: str, ask: int, error: str) -> None:
        if (client, ask) not in self._asked:
            raise Broken(f"{client} got an answer to a question it did not ask, or once more")
        self._asked.discard((client, ask))
        if error:
            raise Broken(f"{client} got no answer: {error}")

    def settled(self, client: str, job: bytes, outcome: int, data: bytes, large: bool) -> None:
        story = self.jobs.get(job)
        if story is None or story.client != client:
            raise Broken(f"{client} was told of a job it did not hand in: {job.hex()}")
        if story.outcome is not None:
            raise Broken(f"told twice, now as {Outcome(outcome).word}: {story}")
        story.outcome, story.settled_at = Outcome(outcome), self._now()
        self.note("{} is {}", job, story.outcome.word)
        del self._open[client][job]
        if story.answered and (story.outcome, data, large) == outcome_of(story.work.payload, story.work.code):
            return
        why = self._wrong(story, Failure.decode(data))
        if why:
            raise Broken(f"{why}: {story}")

    def _wrong(self, story: Story, failure: Failure) -> str:
        """Why an outcome that is not the job's own may not be; empty if it may."""
        work = story.work
        needs_blob = self._bad_disks and (work.large or work.code or outcome_of(work.payload, work.code)[2])
        match story.outcome, failure.kind:
            case Outcome.FAILED, "WorkerCrashed":
                rules = story.rules
                if len(story.crashed) > (0 if rules.at_most_once else rules.crash_retries):
                    return ""
                return f"workers died under it {len(story.crashed)} times"
            case Outcome.FAILED, "ResultExpired":
                return "" if story.id in self._pruned else "its outcome is on disk still, or never was"
            case Outcome.FAILED, "JobRefused" if "did not take the job" in failure.text and not work.block:
                full = self.disk_was_full or "max_jobs" in failure.text or "payload_memory" in failure.text
                return "" if full and not story.starts else "nothing was full, or it has run"
            case Outcome.FAILED, "JobRefused" | "JobLost" | "OSError":
                return "" if needs_blob else f"it needs no blob that can fail: {failure.text}"
            case Outcome.CANCELLED, "Cancelled":
                if not story.wished:
                    return "nobody wished it cancelled"
                if story.denied:
                    return "its cancelling was denied"
                known = [s for s in story.starts if s.token not in story.crashed and not self._forgotten(story, s)]
                return "it was told cancelled, and has run" if known else ""
            case Outcome.LOST, "JobLost":
                if self._restart_excuses(story, story.handed_in_at) or needs_blob:
                    return ""
                if story.rules.at_most_once and self._may_have_started(story):
                    return ""
                if sum(at >= story.handed_in_at for lost in self._node_lost.values() for at in lost) >= LOST_NODES:
                    return ""
                return f"nothing was lost: {failure.text}"
        return f"its result is wrong ({failure.kind}: {failure.text[:100]})"

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

    def compare(self, rows: Rows) -> None:
        """What is on disk when all is done, with what clients were told, those included that are gone."""
        accepted = {session: row.accepted for session, row in rows.sessions.items()}
        for story in self.jobs.values():
            row = rows.outcomes.get(story.id)
            counter = int.from_bytes(story.id[8:], "big")
            told = counter <= self._acknowledged.get(story.client, 0)
            if row is None:
                if story.durable and told and story.id not in self._pruned and not self._by_its_session(story):
                    raise Broken(f"it was accepted, and has no outcome on disk: {story}")
                continue
            word = Outcome(row.outcome)
            if not story.durable and Failure.decode(row.payload).kind != "JobRefused":
                raise Broken(f"it is not durable, and leaves an outcome on disk: {story}")
            if counter > accepted.get(story.id[:8], 0):
                raise Broken(f"it is above what its session's row says is accepted: {story}")
            if story.outcome is not None and story.outcome is not word and not self._by_its_session(story):
                raise Broken(f"on disk it is {word.word}: {story}")
            right = (word, row.payload if row.sha is None else row.sha, row.sha is not None)
            outcome, data, large = outcome_of(story.work.payload, story.work.code)
            if word is Outcome.SUCCEEDED and right != (outcome, sha(data) if large else data, large):
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
        return not self._asked and not any(self._open.values())

    def last_words(self, count: int, job: bytes | None = None) -> list[str]:
        out = []
        for at, text, about in self.events:
            if job is None or job in about:
                words = [format_job(a) if type(a) is bytes else str(a) for a in about]
                out.append(f"{at:10.4f}  {text.format(*words)}")
        return out[-count:]
