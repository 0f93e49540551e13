"""Rows to write, and all that a store gives back."""

from __future__ import annotations

from typing import Any

from cluster.ids import job_id
from scheduler.store import Changes, JobRow, NodeRow, OutcomeRow, SessionRow, SpecRow, Standing, Store

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
    lost_nodes: int = 0,
    crashes: int = 0,
    memory_kills: int = 0,
    story: bytes = b"",
) -> Standing:
    return Standing(rank, attempt, token, node, lost_nodes, crashes, memory_kills, story)


def node(name: str = "n1", incarnation: int = 1) -> NodeRow:
    return NodeRow(name, b"node-ses", incarnation, "key", "host", b"about")


def job(counter: int, rank: int = 0, name: bytes = ANNE, payload: bytes = b"pay", sha: bytes | None = None) -> JobRow:
    """Unless told otherwise, jobs are accepted in the order of their counters."""
    return JobRow(job_id(name, counter), rank or counter, 1, payload, sha, 1000 if sha else 0)


def ended(row: JobRow, at: float = 1.5, sha: bytes | None = None, outcome: int = 0) -> OutcomeRow:
    return OutcomeRow(row.id, row.rank, outcome, b"result", sha, 2000 if sha else 0, at, 1, 0, b"")


def refused(counter: int, name: bytes = ANNE) -> OutcomeRow:
    return OutcomeRow(job_id(name, counter), 0, 5, b"why", None, 0, 1.5, 0, 0, b"")


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


def everything(store: Store, *names: bytes) -> dict[str, Any]:
    """What a coordinator can find out, the outcomes of these sessions with it."""
    found = store.recover()
    rows = unfinished(store)
    known = store.payloads([row.rank for row in rows])
    assert known == {row.rank: row.payload for row in rows}
    outcomes = [row for name in names for row in store.outcomes_of(name, 0, 1_000)]
    assert [store.outcome(row.id) for row in outcomes] == outcomes
    return {
        **found._asdict(),
        "sessions": sorted(found.sessions),
        "specs": sorted(found.specs),
        "nodes": sorted(found.nodes),
        "unfinished": rows,
        "rows of outcomes": outcomes,
    }
