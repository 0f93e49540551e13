"""Any order of turns, pruning and crashes leaves a body with the rows of a model of plain dicts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cluster.ids import counter_of, job_id, session_of
from scheduler.store import (
    AliasRow,
    Changes,
    FiringRow,
    JobRow,
    KeyRow,
    NodeRow,
    OutcomeRow,
    ScheduleRow,
    Search,
    SessionRow,
    SpecRow,
    Standing,
    StandingRow,
    StoreFailed,
)
from tests.scheduler.store.bodies import BODIES
from tests.scheduler.store.model import Disk, ModelStore, Rows, matches
from tests.scheduler.store.rows import everything, history

SESSIONS = [b"anne-ses", b"bert-ses", b"carl-ses"]
SHAS = [None, None, None, bytes(32), b"s" * 32]
TEXTS = ["", "aB_c%", "xX\\", "\u00e4Ab", "b\0a"]

chosen = st.none() | st.frozensets(st.integers(0, 3), max_size=3)
texts = st.just("") | st.text("aAbBxc_%\\\u00e4\0", max_size=3)
moments = st.integers(0, 100).map(float)
searches = st.builds(
    Search,
    chosen,
    chosen,
    st.sampled_from([None, None, True, False]),
    st.sampled_from(["", "", "n1", "n9"]),
    st.just(0.0) | moments,
    st.just(0.0) | moments,
    texts,
    texts,
    st.sampled_from([b"", b"", b"a", b"anne-ses", job_id(SESSIONS[0], 3), job_id(SESSIONS[1], 0)[:-1], b"x"]),
)


class Turns(RuleBasedStateMachine):
    """Writes the same to a body and to the model, and asks both whenever something was committed or lost."""

    body = ""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.opener = BODIES[self.body].opener(self.directory)
        self.disk = Disk()
        self.settled = True
        """Nothing is written and not committed."""
        self.aliases = 0
        self.search: Search | None = None
        """Whose slices are being read,"""
        self.before = 0
        """...the next one from here,"""
        self.seen: list[bytes] = []
        """...what was on them,"""
        self.wanted: list[bytes] = []
        """...and what there was when the first was read, in its order."""

    @initialize()
    def open(self) -> None:
        self.store, self.model = self.opener(), ModelStore(self.disk)
        self.settled = True

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.directory)

    @property
    def rows(self) -> Rows:
        """As they are with what is written."""
        return self.model.rows

    def write(self, *changes: Changes) -> None:
        self.settled = False
        self.store.write(changes)
        self.model.write(changes)

    # -- turns --------------------------------------------------------------------------------------

    @rule(turns=st.lists(st.tuples(st.sampled_from(SESSIONS), st.integers(1, 60)), max_size=3), data=st.data())
    def submit(self, turns: list[tuple[bytes, int]], data: Any) -> None:
        changes = []
        rank = self.rows.last_rank
        accepted = {s: r.accepted for s, r in self.rows.sessions.items()}
        used = {s: self.highest(s) for s in SESSIONS}
        for session, n in turns:
            first = max(accepted.get(session, 0), used[session]) + 1
            sha = data.draw(st.sampled_from(SHAS))
            rows = [
                JobRow(
                    job_id(session, first + i),
                    rank + i + 1,
                    i % 3,
                    b"p" * (i % 7),
                    sha,
                    9 if sha else 0,
                    float(i),
                    TEXTS[i % len(TEXTS)],
                    b"a" * (i % 2),
                )
                for i in range(n)
            ]
            used[session] = first + n - 1
            rank += n
            changes.append(Changes({session: SessionRow(session, "k", "o", "n", first + n - 1)}, jobs=rows))
        self.write(*changes)

    def highest(self, session: bytes) -> int:
        """Counter ever used: no job gets one twice, even of a forgotten session."""
        ids = [*(row.id for row in self.rows.jobs.values()), *self.rows.outcomes]
        return max((counter_of(id) for id in ids if session_of(id) == session), default=0)

    @rule(data=st.data(), at=moments, most=st.integers(1, 120), outcomes=st.sampled_from([[0], [1], [0, 0, 1, 2, 3]]))
    def end(self, data: Any, at: float, most: int, outcomes: list[int]) -> None:
        open_ranks = sorted(self.rows.jobs)
        if not open_ranks:
            return
        start, step = data.draw(st.integers(0, len(open_ranks) - 1)), data.draw(st.integers(1, 3))
        sha, until = data.draw(st.sampled_from(SHAS)), data.draw(st.just(0.0) | moments)
        rows = [self.rows.jobs[rank] for rank in open_ranks[start::step][:most]]
        if data.draw(st.booleans()):
            rows.reverse()
        ended = []
        for i, row in enumerate(rows):
            outcome = outcomes[i % len(outcomes)]
            dead, error = (i % 2, TEXTS[i % len(TEXTS)]) if outcome else (0, "")
            result = outcome, b"r" * (i % 3), sha, 9 if sha else 0
            told = row.spec, row.at, row.summary, row.about
            ended.append(OutcomeRow(row.id, row.rank, *result, at, 1, dead, until, *told, f"n{i % 2}", error, b"t"))
        self.write(Changes(outcomes=ended))

    @rule(session=st.sampled_from(SESSIONS))
    def refuse(self, session: bytes) -> None:
        counter = self.highest(session) + 1
        self.write(Changes(outcomes=[_refused(job_id(session, counter))]))

    @rule(data=st.data(), attempt=st.integers(1, 9), node=st.sampled_from([b"", b"node-ses"]))
    def remember(self, data: Any, attempt: int, node: bytes) -> None:
        if self.rows.jobs:
            chosen = data.draw(st.lists(st.sampled_from(sorted(self.rows.jobs)), unique=True, max_size=5))
            self.write(
                Changes(standings={rank: Standing(rank, attempt, attempt, node, 1.5, b"t", b"s") for rank in chosen})
            )

    @rule(names=st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 9)))
    def nodes(self, names: dict[str, int | None]) -> None:
        rows = {n: None if i is None else NodeRow(n, b"node-ses", i, "k", "h", b"a") for n, i in names.items()}
        self.write(Changes(nodes=rows))

    @rule(n=st.integers(1, 3), forget=st.lists(st.integers(1, 9)))
    def specs(self, n: int, forget: list[int]) -> None:
        first = self.rows.last_spec + 1
        rows = [SpecRow(first + i, "o", b"raw", b"", bool(i)) for i in range(n)]
        self.write(Changes(specs=rows, forgotten_specs=forget))

    @rule(session=st.sampled_from(SESSIONS), accepted=st.integers(0, 100))
    def claim(self, session: bytes, accepted: int) -> None:
        self.write(Changes({session: SessionRow(session, "k", "o", "n", accepted)}))

    @rule(sessions=st.lists(st.sampled_from(SESSIONS), max_size=2))
    def forget(self, sessions: list[bytes]) -> None:
        self.write(Changes(forgotten_sessions=sessions))

    @rule(names=st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), st.none() | moments))
    def keys(self, names: dict[tuple[str, str], float | None]) -> None:
        rows = {n: None if until is None else KeyRow(*n, b"j" * 16, b"f", until) for n, until in names.items()}
        self.write(Changes(keys=rows))

    @rule(data=st.data(), ages=st.lists(moments, max_size=5))
    def attach(self, data: Any, ages: list[float]) -> None:
        ids = [*(row.id for row in self.rows.jobs.values()), *self.rows.outcomes]
        if ids:
            rows = []
            for at in ages:
                self.aliases += 1
                rows.append(AliasRow(job_id(b"dora-ses", self.aliases), data.draw(st.sampled_from(ids)), at))
            self.write(Changes(aliases=rows))

    @rule(values=st.dictionaries(st.sampled_from("abc"), st.none() | st.binary(max_size=2)))
    def set(self, values: dict[str, bytes | None]) -> None:
        self.write(Changes(settings=values))

    @rule(
        schedules=st.dictionaries(st.sampled_from("ab"), st.none() | st.binary(max_size=2)),
        standings=st.dictionaries(st.sampled_from("ab"), st.binary(max_size=2)),
        firings=st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), st.none() | st.integers(0, 9)),
        forget=st.lists(st.sampled_from("ab"), max_size=1),
    )
    def order(
        self,
        schedules: dict[str, bytes | None],
        standings: dict[str, bytes],
        firings: dict[tuple[str, int], int | None],
        forget: list[str],
    ) -> None:
        change = Changes(forgotten_schedules=[("n", name) for name in forget])
        for name, value in schedules.items():
            change.schedules["n", name] = None if value is None else ScheduleRow("n", name, value)
        for name, packed in standings.items():
            change.schedule_standings["n", name] = StandingRow("n", name, packed)
        for (name, at), ended in firings.items():
            row = None if ended is None else FiringRow("n", name, at, b"", 0, 0, at, 0, ended, 0, 0, 0, b"")
            change.firings["n", name, at, b""] = row
        self.write(change)

    @rule(before=moments, keep=st.integers(0, 60), most=st.integers(1, 50), now=st.just(0.0) | moments)
    def prune(self, before: float, keep: int, most: int, now: float) -> None:
        self.settled = False
        pruned, expected = self.store.prune(before, keep, most, now), self.model.prune(before, keep, most, now)
        assert (pruned.outcomes, sorted(pruned.blobs)) == (expected.outcomes, sorted(expected.blobs))

    # -- history ------------------------------------------------------------------------------------

    @precondition(lambda self: self.settled)
    @rule(search=searches, most=st.integers(1, 40), look_at=st.integers(1, 100))
    def find(self, search: Search, most: int, look_at: int) -> None:
        found = history(self.store, search, most, look_at)
        assert found == history(self.model, search, most, look_at)
        assert found == [row._replace(payload=b"") for row in self.past if matches(search, row)]

    @property
    def past(self) -> list[OutcomeRow]:
        return list(reversed(self.rows.outcomes.values()))

    @precondition(lambda self: self.settled)
    @rule(search=searches | st.just(Search()), most=st.integers(1, 20), look_at=st.integers(1, 40))
    def turn_the_page(self, search: Search, most: int, look_at: int) -> None:
        """Other turns, prunings and crashes fall between the slices."""
        if self.search is None:
            self.search, self.before, self.seen = search, 0, []
            self.wanted = [row.id for row in self.past if matches(search, row)]
        found = self.store.history(self.search, self.before, most, look_at)
        self.seen += [row.id for row in found.rows]
        self.before = found.before
        if not self.before:
            there = set(self.seen) | self.rows.outcomes.keys()
            assert self.seen == [id for id in self.wanted if id in there]
            self.search = None

    # -- what becomes of them -----------------------------------------------------------------------

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.model.commit()
        self.settled = True

    @rule()
    def crash(self) -> None:
        self.store.close()
        self.open()

    @precondition(lambda self: self.rows.outcomes or self.rows.jobs)
    @rule(data=st.data())
    def contradict(self, data: Any) -> None:
        """A second outcome, one of no job, or one twice: the transaction is gone with the store."""
        wrong: list[list[OutcomeRow]] = []
        if self.rows.outcomes:
            row = data.draw(st.sampled_from(list(self.rows.outcomes.values())))
            wrong += [[row], [row._replace(rank=0)]]
        if self.rows.jobs:
            job = data.draw(st.sampled_from(list(self.rows.jobs.values())))
            row = _refused(job.id)._replace(rank=job.rank)
            wrong += [[row, row], [row._replace(rank=self.rows.last_rank + 1)]]
        changes = Changes(outcomes=data.draw(st.sampled_from(wrong)))
        for store in (self.store, self.model):
            with pytest.raises(StoreFailed):
                store.write([changes])
        self.crash()

    @invariant()
    def they_tell_the_same(self) -> None:
        if self.settled and hasattr(self, "store"):
            assert everything(self.store, *SESSIONS) == everything(self.model, *SESSIONS)
            for n in range(1, self.aliases + 1):
                id = job_id(b"dora-ses", n)
                assert (self.store.alias(id), self.store.outcome(id)) == (self.model.alias(id), self.model.outcome(id))


def _refused(id: bytes) -> OutcomeRow:
    return OutcomeRow(id, 0, 5, b"why", None, 0, 0.0, 0, 0, 0.0, 0, 0.0, "", b"", "", "no", b"")


@pytest.mark.parametrize("body", [name for name in BODIES if name != "model"])
def test_any_order_of_turns_and_crashes_leaves_the_rows_of_the_model(body: str) -> None:
    machine = type("Turns", (Turns,), {"body": body})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30))
