"""What every store promises. Rules of this file: the contract's own words; nothing of any one body."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.store import (
    Changes,
    JobRow,
    NodeRow,
    OutcomeRow,
    Pruned,
    Recovered,
    SessionRow,
    SpecRow,
    Standing,
    Store,
    StoreFailed,
    UnfinishedRow,
)
from tests.scheduler.store.bodies import BODIES
from tests.scheduler.store.conftest import StartChild
from tests.scheduler.store.rows import (
    ANNE,
    BERT,
    SHA,
    ended,
    ends,
    everything,
    job,
    jobs,
    node,
    put,
    ranks,
    refused,
    session,
    spec,
    standing,
    unfinished,
)

Reopen = Callable[[], Store]
MAX = 2**63 - 1

naturals = st.integers(0, MAX)
ids = st.binary(min_size=16, max_size=16)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shas = st.none() | st.binary(min_size=32, max_size=32)
payloads = st.binary(max_size=30) | st.integers(0, 70_000).map(bytes)


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("body", BODIES)
@settings(max_examples=15)
@given(
    st.builds(SessionRow, st.binary(min_size=8, max_size=8), texts, texts, texts, naturals),
    st.builds(SpecRow, st.integers(1, MAX), texts, payloads, payloads, st.booleans()),
    st.builds(JobRow, ids, st.integers(1, MAX), naturals, payloads, shas, naturals),
    st.builds(Standing, st.just(0), naturals, naturals, st.binary(max_size=8), naturals, naturals, naturals, payloads),
    st.builds(
        OutcomeRow,
        ids,
        st.just(0),
        st.integers(0, 20),
        payloads,
        shas,
        naturals,
        st.floats(0, 1e12),
        naturals,
        st.integers(0, 1),
        payloads,
    ),
    st.builds(NodeRow, texts, st.binary(min_size=8, max_size=8), naturals, texts, texts),
)
def test_every_row_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    body: str,
    session: SessionRow,
    spec: SpecRow,
    job: JobRow,
    standing: Standing,
    outcome: OutcomeRow,
    node: NodeRow,
) -> None:
    standing = standing._replace(rank=job.rank)
    opener = BODIES[body].opener(tmp_path_factory.mktemp("store"))
    store = opener()
    put(
        store,
        Changes({session.session: session}, [spec], [job], {job.rank: standing}, [outcome], {node.name: node}),
    )
    store.close()
    store = opener()
    found = store.recover()
    assert (found.sessions, found.specs, found.nodes) == ([session], [spec], [node])
    assert type(found.specs[0].blob) is bool
    assert (found.outcomes, found.last_rank, found.last_spec) == (1, job.rank, spec.number)
    row = UnfinishedRow(job.id, job.rank, job.spec, job.payload, len(job.payload), job.sha, job.size, *standing[1:])
    assert store.unfinished(0, 10, True) == [row]
    assert store.unfinished(0, 10, False) == [row._replace(payload=None)]
    assert store.payloads([job.rank]) == {job.rank: job.payload}
    assert store.outcome(outcome.id) == outcome
    assert store.outcomes_of(outcome.id[:8], 0, 10) == ([] if outcome.id[8:] == bytes(8) else [outcome])
    store.close()


def test_a_fresh_store_is_empty(store: Store) -> None:
    assert store.recover() == Recovered([], [], [], {}, 0, 0, 0)
    assert store.unfinished(0, 10, True) == []
    assert (store.outcome(job(1).id), store.outcomes_of(ANNE, 0, 10)) == (None, [])
    assert store.payloads([1, 2]) == {}
    assert store.prune(1e12, 0, 10) == Pruned(0, [])


def test_unfinished_jobs_come_by_rank_in_pages(store: Store) -> None:
    order = [job(1, 30), job(2, 10), job(1, 20, BERT), job(2, 40, BERT)]
    put(store, Changes(jobs=order))
    assert [row.rank for row in store.unfinished(0, 3, False)] == [10, 20, 30]
    assert [row.rank for row in store.unfinished(30, 3, False)] == [40]
    assert store.unfinished(40, 3, False) == []
    assert [row.id for row in unfinished(store)] == [row.id for row in sorted(order, key=lambda r: r.rank)]


def test_payloads_are_those_of_unfinished_jobs_among_the_ranks(store: Store) -> None:
    rows = [job(n, payload=b"%d" % n) for n in (1, 2, 3, 5, 9, 10)]
    put(store, Changes(jobs=rows), ends(2, 10))
    assert store.payloads([9, 1, 2, 3, 4, 77]) == {9: b"9", 1: b"1", 3: b"3"}
    assert store.payloads([]) == {}


@pytest.mark.parametrize("n", [1, 49, 50, 51, 100, 777])
def test_any_number_of_rows_goes_into_one_transaction(store: Store, reopen: Reopen, n: int) -> None:
    every = range(1, n + 1)
    put(store, jobs(*every))
    store = reopen()
    assert ranks(store) == list(every)
    put(store, ends(*every))
    store = reopen()
    assert [row.rank for row in store.outcomes_of(ANNE, 0, 10_000)] == list(every)
    assert (ranks(store), store.recover().outcomes) == ([], n)


# ------------------------------------------------------------------------------------ what rows do


def test_a_sessions_counter_never_falls(store: Store, reopen: Reopen) -> None:
    for accepted in (5, 3, 7, 7, 0):
        put(store, Changes(sessions={ANNE: session(accepted=accepted), BERT: session(BERT, 1)}))
    assert sorted(reopen().recover().sessions) == [session(accepted=7), session(BERT, 1)]


def test_the_last_standing_counts_and_goes_with_its_job(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2), Changes(standings={1: standing(1, 1, 7, b"agent"), 2: standing(2, 1, lost_nodes=1)}))
    put(store, Changes(standings={1: standing(1, 2, 9, b"other", 3, 2, 1, b"story")}))
    store = reopen()
    assert [row[-7:] for row in unfinished(store)] == [
        (2, 9, b"other", 3, 2, 1, b"story"),
        (1, 0, b"", 1, 0, 0, b""),
    ]
    put(store, ends(1))
    assert [(row.rank, row.attempt) for row in unfinished(store)] == [(2, 1)]
    with pytest.raises(StoreFailed):
        store.write([Changes(standings={1: standing(1, 3)})])


def test_a_node_is_replaced_and_forgotten_by_name(store: Store, reopen: Reopen) -> None:
    put(store, Changes(nodes={"n1": node("n1"), "n2": node("n2")}))
    put(store, Changes(nodes={"n1": node("n1", 2), "n2": None, "n3": None}))
    assert reopen().recover().nodes == [node("n1", 2)]


def test_forgotten_sessions_and_specs_are_gone(store: Store, reopen: Reopen) -> None:
    put(store, Changes(sessions={n: session(n) for n in (ANNE, BERT)}, specs=[spec(1), spec(2), spec(3)]))
    put(store, Changes(forgotten_sessions=[BERT, b"nobody.."], forgotten_specs=[1, 3, 99]))
    found = reopen().recover()
    assert (found.sessions, found.specs, found.last_spec) == ([session(ANNE)], [spec(2)], 3)


@pytest.mark.parametrize("again", [ended(job(1)), refused(1)], ids=["of a job", "of a refused one"])
@pytest.mark.parametrize("first", [ended(job(1)), refused(1)], ids=["a job", "a refused one"])
def test_a_second_outcome_is_refused_and_nothing_of_its_transaction_stays(
    store: Store, reopen: Reopen, first: OutcomeRow, again: OutcomeRow
) -> None:
    put(store, jobs(2), Changes(outcomes=[first]) if not first.rank else jobs(1), Changes())
    if first.rank:
        put(store, Changes(outcomes=[first]))
    with pytest.raises(StoreFailed):
        store.write([jobs(3), ends(2), Changes(outcomes=[again])])
    store = reopen()
    assert (store.outcome(first.id), ranks(store)) == (first, [2])


def test_an_outcome_in_twice_or_of_no_job_is_refused(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2, 3))
    for wrong in (ends(1, 1), ends(2, 4), ends(4)):
        with pytest.raises(StoreFailed):
            reopen().write([wrong])
    assert ranks(reopen()) == [1, 2, 3]


def test_a_rank_or_number_is_never_used_twice(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1), Changes(specs=[spec(1)]))
    for wrong in (Changes(jobs=[job(2, rank=1)]), Changes(specs=[spec(1)])):
        with pytest.raises(StoreFailed):
            reopen().write([wrong])


def test_ranks_and_spec_numbers_are_remembered_when_their_rows_are_gone(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2, 9), Changes(specs=[spec(7)]))
    put(store, jobs(4), Changes(specs=[spec(3)]))
    put(store, ends(1, 2, 9, 4), Changes(forgotten_specs=[3, 7]))
    assert store.prune(0.0, 0, 100) == Pruned(4, [])
    store.commit()
    assert reopen().recover() == Recovered([], [], [], {}, 0, 9, 7)


def test_blobs_are_counted_by_the_rows_that_name_them(store: Store, reopen: Reopen) -> None:
    other = bytes(32)
    rows = [job(1, sha=SHA), job(2, sha=SHA), job(3, sha=other), job(4)]
    put(store, Changes(jobs=rows))
    assert reopen().recover().blobs == {SHA: (1000, 2), other: (1000, 1)}
    result = b"r" * 32
    put(reopen(), Changes(outcomes=[ended(rows[0], sha=result), ended(rows[2]), ended(rows[3], sha=result)]))
    assert reopen().recover().blobs == {SHA: (1000, 1), result: (2000, 2)}


# ------------------------------------------------------------------------------------ transactions


def test_changes_of_one_transaction_apply_in_order(store: Store, reopen: Reopen) -> None:
    put(
        store,
        Changes(
            sessions={ANNE: session(accepted=1)},
            specs=[spec(1)],
            jobs=[job(1), job(2)],
            nodes={"n1": node(), "n2": None},
        ),
        Changes(standings={1: standing(1, 1, lost_nodes=1)}),
        Changes(
            sessions={ANNE: session(accepted=3)},
            jobs=[job(3)],
            outcomes=[ended(job(1), sha=SHA)],
            nodes={"n1": None, "n2": node("n2")},
            forgotten_specs=[1],
        ),
        Changes(),
        Changes(specs=[spec(2)], outcomes=[ended(job(3))]),
    )
    store = reopen()
    found = store.recover()
    assert (found.sessions, found.specs, found.nodes) == ([session(accepted=3)], [spec(2)], [node("n2")])
    assert (ranks(store), found.blobs, found.outcomes) == ([2], {SHA: (2000, 1)}, 2)


def test_within_one_turn_a_job_may_come_and_end(store: Store, reopen: Reopen) -> None:
    put(
        store,
        Changes(jobs=[job(1), job(2)], standings={1: standing(1, 1, 5, b"agent")}, outcomes=[ended(job(1))]),
    )
    store = reopen()
    assert (ranks(store), store.outcome(job(1).id)) == ([2], ended(job(1)))


def test_what_is_not_committed_is_gone_with_a_crash(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2), ends(1), Changes(sessions={ANNE: session(accepted=2)}, nodes={"n1": node()}))
    before = everything(store, ANNE)
    store.write([jobs(3), ends(2), Changes(sessions={ANNE: session(accepted=3)}, nodes={"n1": None})])
    store.write([Changes(specs=[spec(1)], forgotten_sessions=[ANNE])])
    assert store.prune(1e12, 0, 1).outcomes == 1
    assert everything(reopen(), ANNE) == before


def test_what_is_written_in_several_calls_is_committed_together(store: Store, reopen: Reopen) -> None:
    store.write([jobs(1)])
    store.write([jobs(2), ends(1)])
    store.commit()
    store = reopen()
    assert (ranks(store), store.recover().outcomes) == ([2], 1)


def test_a_commit_of_nothing_is_no_error(store: Store, reopen: Reopen) -> None:
    store.commit()
    store.write([])
    store.commit()
    put(store, jobs(1))
    store.commit()
    assert ranks(reopen()) == [1]


def test_nothing_is_told_of_what_is_not_committed(store: Store) -> None:
    put(store, jobs(1))
    store.write([ends(1)])
    for ask in (
        store.recover,
        lambda: store.outcome(job(1).id),
        lambda: store.outcomes_of(ANNE, 0, 1),
        lambda: store.unfinished(0, 1, True),
        lambda: store.payloads([1]),
    ):
        with pytest.raises(AssertionError, match="may be told to nobody"):
            ask()
    store.commit()
    assert store.outcome(job(1).id) is not None


def test_after_a_failure_every_call_fails(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1))
    with pytest.raises(StoreFailed):
        store.write([ends(2)])
    for call in (
        lambda: store.write([jobs(2)]),
        store.commit,
        store.recover,
        lambda: store.outcome(job(1).id),
        lambda: store.prune(0.0, 0, 1),
    ):
        with pytest.raises(StoreFailed):
            call()
    assert ranks(reopen()) == [1]


def test_a_closed_store_fails_and_closes_again(store: Store) -> None:
    store.close()
    with pytest.raises(StoreFailed):
        store.write([jobs(1)])
    store.close()


def test_a_commit_may_be_made_in_another_thread(store: Store, reopen: Reopen) -> None:
    for turn in range(1, 21):
        store.write([jobs(turn), ends(turn)])
        thread = threading.Thread(target=store.commit)
        thread.start()
        thread.join()
        assert store.outcome(job(turn).id) is not None
    store = reopen()
    assert (ranks(store), store.recover().outcomes) == ([], 20)


# ------------------------------------------------------------------------------------ outcomes


def test_outcomes_of_a_session_come_by_counter_in_pages(store: Store) -> None:
    counters = [1, 2, 255, 256, 257, 70_000, 2**40]
    rows = [job(counter, rank) for rank, counter in enumerate(counters, 1)]
    put(store, Changes(jobs=[*rows, job(3, 100, BERT)]))
    put(store, Changes(outcomes=[ended(row) for row in reversed(rows)] + [ended(job(3, 100, BERT))]))
    first = store.outcomes_of(ANNE, 0, 3)
    assert first == [ended(row) for row in rows[:3]]
    assert store.outcomes_of(ANNE, 255, 3) == [ended(row) for row in rows[3:6]]
    assert store.outcomes_of(ANNE, 70_000, 3) == [ended(rows[6])]
    assert store.outcomes_of(ANNE, 2**40, 3) == store.outcomes_of(b"nobody..", 0, 3) == []
    assert store.outcomes_of(b"\xff" * 8, 0, 3) == []


def test_the_oldest_are_pruned_first_by_number_in_slices(store: Store, reopen: Reopen) -> None:
    put(store, jobs(*range(1, 11)))
    put(store, ends(4, 3, 2, 1))
    put(store, ends(10, 9, 8, 7, 6))
    slices = []
    for _ in range(4):
        slices.append(store.prune(0.0, 3, 4).outcomes)
        store.commit()
    assert slices == [4, 2, 0, 0]
    store = reopen()
    assert [row.rank for row in store.outcomes_of(ANNE, 0, 100)] == [6, 7, 8]
    assert (store.recover().outcomes, ranks(store)) == (3, [5])


def test_what_is_older_is_pruned_and_what_is_as_old_stays(store: Store) -> None:
    put(store, jobs(1, 2, 3, 4), ends(1, 2, 3, 4))  # at 1.0 to 4.0 s
    assert store.prune(3.0, 100, 100) == Pruned(2, [])
    store.commit()
    assert [row.at for row in store.outcomes_of(ANNE, 0, 100)] == [3.0, 4.0]


def test_pruning_ends_at_the_first_that_is_kept(store: Store) -> None:
    rows = [job(n) for n in (1, 2, 3)]
    put(store, Changes(jobs=rows, outcomes=[ended(row, at) for row, at in zip(rows, (1.0, 9.0, 2.0), strict=True)]))
    assert store.prune(5.0, 100, 100).outcomes == 1
    assert store.prune(5.0, 100, 100).outcomes == 0
    assert store.prune(5.0, 1, 100).outcomes == 2
    store.commit()
    assert store.recover().outcomes == 0


def test_pruning_names_the_blob_of_each_row(store: Store) -> None:
    rows = [job(n) for n in (1, 2, 3, 4)]
    shas = [SHA, None, SHA, bytes(32)]
    put(store, Changes(jobs=rows, outcomes=[ended(r, sha=sha) for r, sha in zip(rows, shas, strict=True)]))
    assert store.prune(0.0, 1, 100) == Pruned(3, [SHA, SHA])
    store.commit()
    assert store.recover().blobs == {bytes(32): (2000, 1)}


def test_pruning_is_part_of_the_transaction_it_falls_in(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2), ends(1))
    store.write([ends(2)])
    assert store.prune(0.0, 0, 100).outcomes == 2
    store = reopen()
    assert (store.recover().outcomes, ranks(store)) == (1, [2])
    store.write([ends(2)])
    assert store.prune(0.0, 1, 100).outcomes == 1
    store.commit()
    store = reopen()
    assert [row.rank for row in store.outcomes_of(ANNE, 0, 9)] == [2]


def test_outcomes_are_kept_in_order_when_all_before_were_pruned(store: Store, reopen: Reopen) -> None:
    put(store, jobs(*range(1, 7)))
    put(store, ends(3, 2))
    store.prune(0.0, 0, 100)
    store.commit()
    put(reopen(), ends(6, 1))
    store = reopen()
    put(store, ends(5))
    assert store.prune(0.0, 1, 100).outcomes == 2
    store.commit()
    assert [row.rank for row in store.outcomes_of(ANNE, 0, 100)] == [5]


# ------------------------------------------------------------------------------------ kill -9

WRITER = """
import sys
from tests.scheduler.store.bodies import open_in_child
from tests.scheduler.store.rows import *
store = open_in_child(*sys.argv[1:3])
at = store.recover().last_rank
if sys.argv[3] == "uncommitted":
    put(store, jobs(1, 2), ends(1))
    store.write([jobs(3), ends(2), Changes(sessions={ANNE: session()})])
    print("written", flush=True)
    sys.stdin.read()
while True:
    store.write([jobs(*range(at + 1, at + 101))])
    store.write([ends(*range(at + 1, at + 51))])
    store.commit()
    at += 100
    sys.stdout.write(f"{at}\\n")
    sys.stdout.flush()
"""


def test_kill_9_takes_what_was_written_and_not_committed(lasting: str, tmp_path: Path, start_child: StartChild) -> None:
    child = start_child(WRITER, lasting, str(tmp_path), "uncommitted")
    assert child.stdout is not None and child.stdout.readline() == "written\n"
    child.kill()
    child.wait()
    store = BODIES[lasting].opener(tmp_path)()
    assert (ranks(store), store.outcomes_of(ANNE, 0, 9), store.recover().sessions) == (
        [2],
        [ended(job(1), at=1.0)],
        [],
    )
    store.close()


def test_kill_9_takes_nothing_that_was_committed_and_splits_no_transaction(
    lasting: str, tmp_path: Path, start_child: StartChild
) -> None:
    reopened = 0
    for commits in (1, 2, 3, 20, 150):
        child = start_child(WRITER, lasting, str(tmp_path), "")
        assert child.stdout is not None
        for _ in range(commits):
            told = int(child.stdout.readline())
        child.kill()  # while it goes on writing
        told = max([told, *(int(line) for line in child.stdout if line.endswith("\n"))])
        child.wait()
        store = BODIES[lasting].opener(tmp_path)()
        last = store.recover().last_rank
        assert last in (told, told + 100)
        assert store.recover().outcomes == last // 2
        assert ranks(store) == [n for n in range(1, last + 1) if (n - 1) % 100 >= 50]
        store.close()
        assert told > reopened
        reopened = told
