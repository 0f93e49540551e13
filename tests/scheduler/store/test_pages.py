"""Rows that share a page, and what becomes of such a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.store import Changes, JobRow, Search
from scheduler.store.pages import (
    GAP,
    PAYLOAD_BYTES,
    Outcomes,
    pack_jobs,
    pack_outcomes,
    plain_job,
    plain_outcome,
    spans_of_ids,
    split,
    unpack_jobs,
)
from scheduler.store.sqlite import SqliteStore
from tests.scheduler.store.rows import (
    ANNE,
    BERT,
    ended,
    history,
    job,
    jobs,
    outcomes_of,
    put,
    ranks,
    standing,
    unfinished,
)


def count(store: SqliteStore, table: str) -> int:
    (found,) = store._db.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found)


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=30), st.integers(1, 4), st.integers(0, 6))
def test_each_row_is_in_one_page_or_alone_and_those_of_a_page_follow_each_other(
    steps: list[tuple[int, bool]], least: int, more: int
) -> None:
    rank, rows = 0, []
    for step, plain in steps:
        rank += step
        rows.append(job(rank, sha=None if plain else bytes(32)))
    pages, alone = split(rows, plain_job, [row.rank for row in rows], (least, least + more))
    assert all(least <= len(page) <= least + more for _, page in pages)
    assert all([row.rank for row in page] == [*range(first, first + len(page))] for first, page in pages)
    assert all(number == row.rank for number, row in alone)
    assert all(plain_job(row) for _, page in pages for row in page)
    assert sorted([row for _, page in pages for row in page] + [row for _, row in alone]) == rows


def test_a_page_is_its_rows() -> None:
    rows = [job(n, payload=b"%d" % n)._replace(spec=n % 2, summary=f"n={n % 3}") for n in range(5, 12)]
    assert unpack_jobs(5, pack_jobs(rows)) == rows
    same = [job(n) for n in range(1, 4)]
    assert unpack_jobs(1, pack_jobs(same)) == same
    ends = [ended(row, at=2.5)._replace(attempt=n, node=f"n{n}", tries=b"t" * n) for n, row in enumerate(rows)]
    opened = Outcomes(pack_outcomes(ends))
    assert [opened.row(n) for n in range(len(opened))] == ends


def test_what_is_special_is_alone() -> None:
    assert plain_job(job(1, payload=bytes(PAYLOAD_BYTES)))
    assert not plain_job(job(1, payload=bytes(PAYLOAD_BYTES + 1)))
    assert not plain_job(job(1)._replace(about=b"later"))
    well = ended(job(1))
    assert plain_outcome(well)
    for other in ({"outcome": 1}, {"dead": 1}, {"until": 1.0}, {"about": b"x"}, {"error": "x"}, {"rank": 0}):
        assert not plain_outcome(well._replace(**other))
    assert not plain_outcome(well._replace(payload=bytes(PAYLOAD_BYTES + 1)))


@given(st.sets(st.tuples(st.sampled_from([ANNE, BERT]), st.integers(1, 5_000)), max_size=300))
def test_each_id_is_in_a_group_of_its_session_and_none_reaches_far(wanted: set[tuple[bytes, int]]) -> None:
    ids = {job(counter, name=name).id for name, counter in wanted}
    groups = list(spans_of_ids(list(ids)))
    assert all(sum(first <= id <= last for first, last in groups) == 1 for id in ids)
    for first, last in groups:
        assert first[:8] == last[:8]
        assert {first, last} <= ids
        assert int.from_bytes(last, "big") - int.from_bytes(first, "big") <= GAP * len(ids)


def test_outcomes_are_found_where_the_groups_of_pages_overlap(store: SqliteStore) -> None:
    put(store, jobs(*range(1, 401)))
    for step in range(4):
        put(store, Changes(outcomes=[ended(job(n)) for n in range(400 - step, 0, -4)]))
    assert count(store, "outcome_page_ids") == count(store, "outcome_pages") == 4
    assert [row.rank for row in outcomes_of(store, ANNE)] == [*range(1, 401)]
    assert [row.rank for row in history(store, Search(id=job(17).id))] == [17]
    assert store.outcome(job(401).id) is None
    assert store.outcome(job(17, name=BERT).id) is None


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path)


def test_what_is_alike_shares_a_page_and_the_page_goes_with_its_last_job(store: SqliteStore) -> None:
    put(store, jobs(*range(1, 101)))
    assert (count(store, "job_pages"), count(store, "jobs")) == (1, 0)
    put(store, Changes(outcomes=[ended(job(n)) for n in range(1, 100)]))
    assert (count(store, "job_pages"), count(store, "outcome_pages"), count(store, "outcomes")) == (1, 1, 0)
    assert ranks(store) == [100]
    put(store, Changes(outcomes=[ended(job(100))]))
    assert (count(store, "job_pages"), count(store, "job_pages_left"), ranks(store)) == (0, 0, [])
    assert len(outcomes_of(store, ANNE)) == 100


def test_a_job_to_be_remembered_gets_a_row_of_its_own(store: SqliteStore) -> None:
    put(store, jobs(*range(1, 21)))
    put(store, Changes(standings={7: standing(7, attempt=3)}, outcomes=[ended(job(9), outcome=1, error="no")]))
    assert count(store, "jobs") == 1
    assert [row.attempt for row in unfinished(store) if row.rank == 7] == [3]
    assert ranks(store) == [n for n in range(1, 21) if n != 9]
    kept = store.arguments(job(9).id)
    assert kept is not None
    assert kept.payload == job(9).payload


def test_few_that_are_left_of_an_old_page_do_not_keep_it(store: SqliteStore) -> None:
    put(store, jobs(*range(1, 101)), jobs(*range(101, 201)))
    put(store, Changes(outcomes=[ended(job(n)) for n in range(1, 200) if n not in (50, 60)]))
    assert store.prune(0.0, 1_000, 10, 0.0).outcomes == 0
    store.commit()
    assert (count(store, "job_pages"), count(store, "jobs")) == (1, 2), "the newest page stays"
    assert ranks(store) == [50, 60, 200]
    put(store, Changes(outcomes=[ended(job(n)) for n in (50, 60, 200)]))
    assert ranks(store) == []


def test_a_file_of_rows_goes_on_with_pages(tmp_path: Path) -> None:
    rows: list[JobRow] = [job(n) for n in range(1, 41)]
    old = SqliteStore(tmp_path, sizes=(1_000, 1_000))
    put(old, Changes(jobs=rows[:30]), Changes(outcomes=[ended(row, at=float(row.rank)) for row in rows[:10]]))
    assert old.prune(0.0, 7, 20, 0.0).outcomes == 3
    old.commit()
    old.close()
    new = SqliteStore(tmp_path)
    assert new.recover().outcomes == 7
    put(new, Changes(jobs=rows[30:]), Changes(outcomes=[ended(row, at=99.0) for row in rows[10:]]))
    assert (count(new, "outcome_pages"), count(new, "jobs"), ranks(new)) == (1, 0, [])
    assert [row.rank for row in history(new)] == [*range(40, 3, -1)]
    assert new.prune(50.0, 0, 20, 0.0).outcomes == 20
    new.commit()
    assert [row.rank for row in history(new, Search(summary="X="))] == [*range(40, 23, -1)]
    new.close()
