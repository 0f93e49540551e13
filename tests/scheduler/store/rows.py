"""Rows to write, and all that a store gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.ids import job_id
from scheduler.store import (
    AliasRow,
    Changes,
    FiringRow,
    History,
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
    Store,
)

ANNE, BERT = b"anne-ses", b"bert-ses"
SHA = bytes(range(32))


def session(name: bytes = ANNE, accepted: int = 1) -> SessionRow:
    return SessionRow(name, "key", "owner", "default", accepted)


def spec(number: int = 1) -> SpecRow:
    return SpecRow(number, "owner", b"raw", b"code", False)


def standing(
    rank: int,
    attempt: int = 1,
    token: int = 0,
    node: bytes = b"",
    due: float = 0.0,
    tries: bytes = b"",
    saved: bytes = b"",
) -> Standing:
    return Standing(rank, attempt, token, node, due, tries, saved)


def node(name: str = "n1", incarnation: int = 1) -> NodeRow:
    return NodeRow(name, b"node-ses", incarnation, "key", "host", b"about")


def job(counter: int, rank: int = 0, name: bytes = ANNE, payload: bytes = b"pay", sha: bytes | None = None) -> JobRow:
    """Unless told otherwise, jobs are accepted in the order of their counters."""
    return JobRow(job_id(name, counter), rank or counter, 1, payload, sha, 1000 if sha else 0, 0.5, "x=1", b"")


def ended(
    row: JobRow, at: float = 1.5, sha: bytes | None = None, outcome: int = 0, until: float = 0.0, error: str = ""
) -> OutcomeRow:
    result = outcome, b"result", sha, 2000 if sha else 0
    told = row.spec, row.at, row.summary, row.about
    return OutcomeRow(row.id, row.rank, *result, at, 1, 0, until, *told, "n1", error, b"")


def refused(counter: int, name: bytes = ANNE) -> OutcomeRow:
    return OutcomeRow(job_id(name, counter), 0, 5, b"why", None, 0, 1.5, 0, 0, 0.0, 0, 0.0, "", b"", "", "no", b"")


def key(name: str = "k", row: JobRow | None = None, until: float = 0.0, namespace: str = "default") -> KeyRow:
    return KeyRow(namespace, name, (row or job(1)).id, b"print", until)


def schedule(name: str = "s", what: bytes = b"what", namespace: str = "default") -> ScheduleRow:
    return ScheduleRow(namespace, name, what)


def schedule_standing(name: str = "s", standing: bytes = b"stands", namespace: str = "default") -> StandingRow:
    return StandingRow(namespace, name, standing)


def firing(
    name: str = "s", nominal_us: int = 1, run: bytes = b"", ended_us: int = 0, namespace: str = "default"
) -> FiringRow:
    return FiringRow(namespace, name, nominal_us, run, 0, 0, 2, 3, ended_us, 4, 0, 0, b"j" * 16)


def orders(*rows: ScheduleRow | StandingRow | FiringRow) -> Changes:
    """Rows of schedules."""
    out = Changes()
    for row in rows:
        match row:
            case ScheduleRow():
                out.schedules[row[:2]] = row
            case StandingRow():
                out.schedule_standings[row[:2]] = row
            case FiringRow():
                out.firings[row[:4]] = row
    return out


def keys(*rows: KeyRow) -> Changes:
    return Changes(keys={row[:2]: row for row in rows})


def alias(counter: int, row: JobRow, at: float = 1.5, name: bytes = BERT) -> AliasRow:
    return AliasRow(job_id(name, counter), row.id, at)


def put(store: Store, *changes: Changes) -> None:
    store.write(changes)
    store.commit()


def jobs(*counters: int) -> Changes:
    return Changes(jobs=[job(n) for n in counters])


def ends(*counters: int) -> Changes:
    return Changes(outcomes=[ended(job(n), at=float(n)) for n in counters])


def unfinished(store: Store, page: int = 3) -> list[Any]:
    """All of them, by pages."""
    rows: list[Any] = []
    after = 0
    while True:
        found = store.unfinished(after, page, True)
        rows += found
        if len(found) < page:
            return rows
        after = found[-1].rank


def ranks(store: Store) -> list[int]:
    return [row.rank for row in unfinished(store)]


def slices(store: Store, search: Search, most: int = 3, look_at: int = 1_000, before: int = 0) -> Iterator[History]:
    """One after the other, each from where the last one ended."""
    while True:
        found = store.history(search, before, most, look_at)
        assert len(found.rows) <= most
        yield found
        before = found.before
        if not before:
            return


def history(store: Store, search: Search = Search(), most: int = 3, look_at: int = 1_000) -> list[OutcomeRow]:  # noqa: B008
    """All of it."""
    return [row for found in slices(store, search, most, look_at) for row in found.rows]


def outcomes_of(store: Store, session: bytes) -> list[OutcomeRow]:
    """All of its, by counter."""
    found = [store.outcome(row.id) for row in history(store, Search(id=session), most=50)]
    return sorted(row for row in found if row is not None)


def everything(store: Store, *names: bytes) -> dict[str, Any]:
    """What a coordinator can find out, the outcomes of these sessions with it, and the jobs of these ids."""
    found = store.recover()
    rows = unfinished(store)
    known = store.payloads([row.rank for row in rows])
    assert known == {row.rank: row.payload for row in rows}
    outcomes = [row for name in names for row in outcomes_of(store, name)]
    past = history(store, most=50)
    assert sorted(row for row in past if row.id[:8] in names) == sorted(row._replace(payload=b"") for row in outcomes)
    assert [store.outcome(row.id) for row in outcomes] == outcomes
    return {
        **found._asdict(),
        "sessions": sorted(found.sessions),
        "specs": sorted(found.specs),
        "nodes": sorted(found.nodes),
        "keys": sorted(found.keys),
        "schedules": sorted(found.schedules),
        "schedule_standings": sorted(found.schedule_standings),
        "firings": sorted(found.firings),
        "unfinished": rows,
        "rows of outcomes": outcomes,
        "history": past,
        "arguments": [store.arguments(row.id) for row in past],
    }
