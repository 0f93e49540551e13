"""What every store promises. Rules of this file: the contract's own words; nothing of any one body."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.store import (
    AliasRow,
    Arguments,
    Changes,
    FiringRow,
    History,
    JobRow,
    KeyRow,
    NodeRow,
    OutcomeRow,
    Pruned,
    Recovered,
    ScheduleRow,
    Search,
    SessionRow,
    SpecRow,
    Standing,
    StandingRow,
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
    alias,
    ended,
    ends,
    everything,
    firing,
    history,
    job,
    jobs,
    key,
    keys,
    node,
    orders,
    outcomes_of,
    put,
    ranks,
    refused,
    schedule,
    schedule_standing,
    session,
    slices,
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
moments = st.floats(0, 1e12)


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("body", BODIES)
@settings(max_examples=15)
@given(
    st.builds(SessionRow, st.binary(min_size=8, max_size=8), texts, texts, texts, naturals),
    st.builds(SpecRow, st.integers(1, MAX), texts, payloads, payloads, st.booleans()),
    st.builds(JobRow, ids, st.integers(1, MAX), naturals, payloads, shas, naturals, moments, texts, payloads),
    st.builds(Standing, st.just(0), naturals, naturals, st.binary(max_size=8), moments, payloads, payloads),
    st.builds(
        OutcomeRow,
        ids,
        st.just(0),
        st.integers(0, 20),
        payloads,
        shas,
        naturals,
        moments,
        naturals,
        st.integers(0, 1),
        moments,
        naturals,
        moments,
        texts,
        payloads,
        texts,
        texts,
        payloads,
    ),
    st.builds(NodeRow, texts, st.binary(min_size=8, max_size=8), naturals, texts, texts, payloads),
    st.builds(KeyRow, texts, texts, ids, payloads, moments),
    st.builds(AliasRow, ids, ids, moments),
    st.dictionaries(texts, payloads, max_size=3),
    st.builds(ScheduleRow, texts, texts, payloads),
    st.builds(StandingRow, texts, texts, payloads),
    st.builds(
        FiringRow, texts, texts, st.integers(-MAX, MAX), st.binary(max_size=8), *[naturals] * 8, st.binary(max_size=16)
    ),
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
    key: KeyRow,
    alias: AliasRow,
    settings: dict[str, bytes],
    schedule: ScheduleRow,
    stands: StandingRow,
    firing: FiringRow,
) -> None:
    standing = standing._replace(rank=job.rank)
    opener = BODIES[body].opener(tmp_path_factory.mktemp("store"))
    store = opener()
    put(
        store,
        Changes({session.session: session}, [spec], [job], {job.rank: standing}, [outcome], {node.name: node}),
        Changes(keys={(key.namespace, key.key): key}, aliases=[alias], settings=dict(settings)),
        orders(schedule, stands, firing),
    )
    store.close()
    store = opener()
    found = store.recover()
    assert (found.sessions, found.specs, found.nodes) == ([session], [spec], [node])
    assert (found.keys, found.settings, store.alias(alias.id)) == ([key], settings, alias.job)
    assert (found.schedules, found.schedule_standings, found.firings) == ([schedule], [stands], [firing])
    assert type(found.specs[0].blob) is bool
    assert (found.outcomes, found.last_rank, found.last_spec) == (1, job.rank, spec.number)
    row = UnfinishedRow._make((*job[:4], len(job.payload), *job[4:], *standing[1:]))
    assert store.unfinished(0, 10, True) == [row]
    assert store.unfinished(0, 10, False) == [row._replace(payload=None)]
    assert store.payloads([job.rank]) == {job.rank: job.payload}
    assert store.outcome(outcome.id) == outcome
    assert store.history(Search(), 0, 10, 10) == History([outcome._replace(payload=b"")], 0)
    store.close()


def test_a_fresh_store_is_empty(store: Store) -> None:
    assert store.recover() == Recovered([], [], [], {}, 0, 0, 0, [], {}, [], [], [])
    assert (store.alias(job(1).id), store.arguments(job(1).id)) == (None, None)
    assert store.history(Search(), 0, 10, 10) == store.history(Search(), 77, 10, 10) == History([], 0)
    assert store.unfinished(0, 10, True) == []
    assert (store.outcome(job(1).id), outcomes_of(store, ANNE)) == (None, [])
    assert store.payloads([1, 2]) == {}
    assert store.prune(1e12, 0, 10, 1e12) == Pruned(0, [])


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
    assert [row.rank for row in outcomes_of(store, ANNE)] == list(every)
    assert (ranks(store), store.recover().outcomes) == ([], n)


# ------------------------------------------------------------------------------------ what rows do


def test_a_sessions_counter_never_falls(store: Store, reopen: Reopen) -> None:
    for accepted in (5, 3, 7, 7, 0):
        put(store, Changes(sessions={ANNE: session(accepted=accepted), BERT: session(BERT, 1)}))
    assert sorted(reopen().recover().sessions) == [session(accepted=7), session(BERT, 1)]


def test_the_last_standing_counts_and_goes_with_its_job(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2), Changes(standings={1: standing(1, 1, 7, b"agent"), 2: standing(2, 1, due=7.5)}))
    put(store, Changes(standings={1: standing(1, 2, 9, b"other", 8.5, b"tries", b"saved")}))
    store = reopen()
    assert [row[-6:] for row in unfinished(store)] == [
        (2, 9, b"other", 8.5, b"tries", b"saved"),
        (1, 0, b"", 7.5, b"", b""),
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
    assert store.prune(0.0, 0, 100, 0.0) == Pruned(4, [])
    store.commit()
    assert reopen().recover() == Recovered([], [], [], {}, 0, 9, 7, [], {}, [], [], [])


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
        Changes(standings={1: standing(1, 1, due=7.5)}),
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
    store.write([keys(key()), Changes(aliases=[alias(1, job(1))], settings={"a": b"1"})])
    assert store.prune(1e12, 0, 1, 0.0).outcomes == 1
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
        lambda: store.unfinished(0, 1, True),
        lambda: store.payloads([1]),
        lambda: store.alias(job(1).id),
        lambda: store.arguments(job(1).id),
        lambda: store.history(Search(), 0, 1, 1),
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
        lambda: store.prune(0.0, 0, 1, 0.0),
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


def test_the_oldest_are_pruned_first_by_number_in_slices(store: Store, reopen: Reopen) -> None:
    put(store, jobs(*range(1, 11)))
    put(store, ends(4, 3, 2, 1))
    put(store, ends(10, 9, 8, 7, 6))
    slices = []
    for _ in range(4):
        slices.append(store.prune(0.0, 3, 4, 0.0).outcomes)
        store.commit()
    assert slices == [4, 2, 0, 0]
    store = reopen()
    assert [row.rank for row in outcomes_of(store, ANNE)] == [6, 7, 8]
    assert (store.recover().outcomes, ranks(store)) == (3, [5])


def test_what_is_older_is_pruned_and_what_is_as_old_stays(store: Store) -> None:
    put(store, jobs(1, 2, 3, 4), ends(1, 2, 3, 4))  # at 1.0 to 4.0 s
    assert store.prune(3.0, 100, 100, 0.0) == Pruned(2, [])
    store.commit()
    assert [row.at for row in outcomes_of(store, ANNE)] == [3.0, 4.0]


def test_pruning_ends_at_the_first_that_is_kept(store: Store) -> None:
    rows = [job(n) for n in (1, 2, 3)]
    put(store, Changes(jobs=rows, outcomes=[ended(row, at) for row, at in zip(rows, (1.0, 9.0, 2.0), strict=True)]))
    assert store.prune(5.0, 100, 100, 0.0).outcomes == 1
    assert store.prune(5.0, 100, 100, 0.0).outcomes == 0
    assert store.prune(5.0, 1, 100, 0.0).outcomes == 2
    store.commit()
    assert store.recover().outcomes == 0


def test_pruning_names_the_blob_of_each_row(store: Store) -> None:
    rows = [job(n) for n in (1, 2, 3, 4)]
    shas = [SHA, None, SHA, bytes(32)]
    put(store, Changes(jobs=rows, outcomes=[ended(r, sha=sha) for r, sha in zip(rows, shas, strict=True)]))
    assert store.prune(0.0, 1, 100, 0.0) == Pruned(3, [SHA, SHA])
    store.commit()
    assert store.recover().blobs == {bytes(32): (2000, 1)}


def test_pruning_is_part_of_the_transaction_it_falls_in(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2), ends(1))
    store.write([ends(2)])
    assert store.prune(0.0, 0, 100, 0.0).outcomes == 2
    store = reopen()
    assert (store.recover().outcomes, ranks(store)) == (1, [2])
    store.write([ends(2)])
    assert store.prune(0.0, 1, 100, 0.0).outcomes == 1
    store.commit()
    store = reopen()
    assert [row.rank for row in outcomes_of(store, ANNE)] == [2]


def test_outcomes_are_kept_in_order_when_all_before_were_pruned(store: Store, reopen: Reopen) -> None:
    put(store, jobs(*range(1, 7)))
    put(store, ends(3, 2))
    store.prune(0.0, 0, 100, 0.0)
    store.commit()
    put(reopen(), ends(6, 1))
    store = reopen()
    put(store, ends(5))
    assert store.prune(0.0, 1, 100, 0.0).outcomes == 2
    store.commit()
    assert [row.rank for row in outcomes_of(store, ANNE)] == [5]


# ------------------------------------------------------------------------------------ keys and settings


def test_a_key_is_replaced_and_freed_by_namespace_and_name(store: Store, reopen: Reopen) -> None:
    put(store, keys(key("a"), key("b"), key("a", job(2), namespace="other")))
    put(store, keys(key("a", job(3), until=9.5)), Changes(keys={("default", "b"): None, ("default", "c"): None}))
    assert sorted(reopen().recover().keys) == [key("a", job(3), until=9.5), key("a", job(2), namespace="other")]


def test_a_setting_is_replaced_and_gone_by_name(store: Store, reopen: Reopen) -> None:
    put(store, Changes(settings={"a": b"1", "b": b"2", "": b""}))
    put(store, Changes(settings={"a": b"3", "b": None, "c": None}))
    assert reopen().recover().settings == {"a": b"3", "": b""}


def test_an_alias_tells_its_job_and_what_became_of_it(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2), Changes(aliases=[alias(5, job(1)), alias(6, job(1)), alias(7, job(2))]))
    put(store, ends(1))
    store = reopen()
    assert [store.alias(alias(n, job(1)).id) for n in (5, 6, 7, 8)] == [job(1).id, job(1).id, job(2).id, None]
    assert store.alias(job(1).id) is None
    found = [store.outcome(alias(n, job(1)).id) for n in (5, 6, 7, 8)]
    assert found == [ended(job(1), at=1.0), ended(job(1), at=1.0), None, None]
    assert outcomes_of(store, BERT) == [], "an alias is no row of its session's outcomes"


def test_an_id_is_an_alias_once(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2), Changes(aliases=[alias(5, job(1))]))
    with pytest.raises(StoreFailed):
        store.write([Changes(aliases=[alias(5, job(2))])])
    assert reopen().alias(alias(5, job(1)).id) == job(1).id


# ------------------------------------------------------------------------------------ schedules


def test_rows_of_schedules_are_replaced_by_their_keys(store: Store, reopen: Reopen) -> None:
    put(store, orders(schedule(), schedule("s", b"other", "ns"), schedule_standing(), firing(), firing(run=b"r" * 8)))
    put(store, orders(schedule(what=b"new"), schedule_standing(standing=b"new"), firing(ended_us=9), firing("t")))
    found = reopen().recover()
    assert sorted(found.schedules) == [schedule(what=b"new"), schedule("s", b"other", "ns")]
    assert found.schedule_standings == [schedule_standing(standing=b"new")]
    assert sorted(found.firings) == [firing(ended_us=9), firing(run=b"r" * 8), firing("t")]


def test_a_removed_schedule_leaves_its_standing_and_its_firings(store: Store, reopen: Reopen) -> None:
    put(store, orders(schedule(), schedule_standing(), firing(), schedule("t")))
    gone = Changes(schedules={("default", "s"): None}, firings={("default", "s", 5, b""): None})
    put(store, gone, orders(schedule_standing(standing=b"removed")))
    found = reopen().recover()
    assert (found.schedules, found.firings) == ([schedule("t")], [firing()])
    assert found.schedule_standings == [schedule_standing(standing=b"removed")]


def test_a_firing_goes_by_its_whole_key(store: Store, reopen: Reopen) -> None:
    rows = [firing(), firing(run=b"r" * 8), firing(nominal_us=2), firing("t"), firing(namespace="ns")]
    put(store, orders(*rows))
    put(store, Changes(firings={rows[0][:4]: None}))
    assert sorted(reopen().recover().firings) == sorted(rows[1:])


def test_of_a_forgotten_schedule_all_goes_before_what_is_written(store: Store, reopen: Reopen) -> None:
    put(store, orders(schedule(), schedule_standing(), firing(), firing(nominal_us=2), schedule("t"), firing("t")))
    again = orders(schedule(what=b"anew"), firing(nominal_us=7))
    again.forgotten_schedules.append(("default", "s"))
    put(store, again)
    found = reopen().recover()
    assert sorted(found.schedules) == [schedule(what=b"anew"), schedule("t")]
    assert (found.schedule_standings, sorted(found.firings)) == ([], [firing(nominal_us=7), firing("t")])


def test_a_firing_and_its_job_are_committed_together_or_not_at_all(store: Store, reopen: Reopen) -> None:
    put(store, orders(schedule()))
    both = orders(firing())
    both.jobs.append(job(1))
    store.write([both])
    store = reopen()
    assert (store.recover().firings, ranks(store)) == ([], [])
    put(store, both)
    store = reopen()
    assert (store.recover().firings, ranks(store)) == ([firing()], [1])


# ------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("outcome", range(1, 6))
def test_what_did_not_succeed_keeps_its_arguments(store: Store, reopen: Reopen, outcome: int) -> None:
    large = bytes(range(256)) * 100
    rows = [job(1, payload=large), job(2, payload=b""), job(3, payload=b"", sha=SHA), job(4)]
    put(store, Changes(jobs=rows))
    put(store, Changes(outcomes=[*(ended(row, outcome=outcome) for row in rows[:3]), ended(rows[3])]))
    store = reopen()
    assert store.arguments(rows[0].id) == Arguments(large, None, 0)
    assert store.arguments(rows[1].id) == Arguments(b"", None, 0)
    assert store.arguments(rows[2].id) == Arguments(b"", SHA, 1000)
    assert store.arguments(rows[3].id) is None, "it succeeded"
    assert ranks(store) == []


def test_what_never_was_a_job_or_is_unfinished_or_unknown_keeps_no_arguments(store: Store) -> None:
    put(store, jobs(1), Changes(outcomes=[refused(2)]))
    assert [store.arguments(job(n).id) for n in (1, 2, 3)] == [None, None, None]


def test_a_job_that_comes_and_ends_within_one_turn_keeps_its_arguments(store: Store, reopen: Reopen) -> None:
    put(store, jobs(2, 3), ends(2))
    put(store, Changes(jobs=[job(1, 9, payload=b"one")], outcomes=[ended(job(1, 9), outcome=3), ended(job(3))]))
    assert reopen().arguments(job(1).id) == Arguments(b"one", None, 0)


def test_arguments_name_their_blob_beside_the_result(store: Store, reopen: Reopen) -> None:
    result = b"r" * 32
    rows = [job(n, sha=SHA) for n in (1, 2, 3, 4)]
    put(store, Changes(jobs=rows))
    put(store, Changes(outcomes=[ended(rows[0], sha=result, outcome=1), ended(rows[1], outcome=1), ended(rows[2])]))
    assert reopen().recover().blobs == {SHA: (1000, 3), result: (2000, 1)}


def test_pruning_takes_the_arguments_and_names_their_blobs(store: Store, reopen: Reopen) -> None:
    rows = [job(1, sha=SHA), job(2, sha=SHA), job(3), job(4, sha=SHA)]
    put(store, Changes(jobs=rows))
    put(store, Changes(outcomes=[ended(row, sha=bytes(32), outcome=row.rank % 3) for row in rows]))
    pruned = store.prune(0.0, 1, 100, 0.0)
    assert (pruned.outcomes, sorted(pruned.blobs)) == (3, sorted([SHA, SHA, *[bytes(32)] * 3]))
    store.commit()
    store = reopen()
    assert [store.arguments(row.id) for row in rows] == [None, None, None, Arguments(b"pay", SHA, 1000)]
    assert store.recover().blobs == {SHA: (1000, 1), bytes(32): (2000, 1)}


# ------------------------------------------------------------------------------------ results and aliases that go


def test_a_result_goes_at_its_moment_and_its_row_stays(store: Store, reopen: Reopen) -> None:
    untils = [5.0, 3.0, 0.0, 4.0, 3.0]
    rows = [job(n, sha=SHA) for n in range(1, 6)]
    kept = [ended(r, sha=bytes(32), outcome=r.rank % 2, until=u) for r, u in zip(rows, untils, strict=True)]
    put(store, Changes(jobs=rows, outcomes=kept))
    assert store.prune(0.0, 9, 100, 2.9) == Pruned(0, [])
    assert store.prune(0.0, 9, 100, 4.0) == Pruned(3, [bytes(32)] * 3)
    assert store.prune(0.0, 9, 100, 4.0) == Pruned(0, [])
    store.commit()
    store = reopen()
    for row in (1, 3, 4):
        kept[row] = kept[row]._replace(payload=b"", sha=None, size=0)
    assert [store.outcome(row.id) for row in rows] == [kept[0], kept[1], kept[2], kept[3], kept[4]]
    assert store.arguments(rows[4].id) == Arguments(b"pay", SHA, 1000), "to run it again"
    assert store.recover().blobs == {SHA: (1000, 3), bytes(32): (2000, 2)}


def test_results_go_in_slices_the_oldest_moment_first_after_the_rows_that_go(store: Store) -> None:
    rows = [job(n) for n in range(1, 7)]
    ends = [ended(row, at=float(row.rank), until=20.0 - row.rank) for row in rows]
    put(store, Changes(jobs=rows, outcomes=ends))
    assert store.prune(3.0, 9, 3, 99.0) == Pruned(3, []), "two rows, and one result"
    store.commit()
    left = [row.rank for row in outcomes_of(store, ANNE) if row.payload]
    assert ([row.rank for row in outcomes_of(store, ANNE)], left) == ([3, 4, 5, 6], [3, 4, 5])
    assert [store.prune(3.0, 9, 2, 99.0).outcomes for _ in range(3)] == [2, 1, 0]
    store.commit()


def test_old_aliases_go_in_slices_after_the_rows(store: Store, reopen: Reopen) -> None:
    put(store, jobs(1, 2, 3), ends(1, 2))
    put(store, Changes(aliases=[alias(n, job(3), at=float(n)) for n in (5, 3, 4, 1, 2)]))
    assert store.prune(4.0, 9, 3, 0.0) == Pruned(3, []), "two rows, and one alias"
    store.commit()
    store = reopen()
    assert [n for n in range(1, 6) if store.alias(alias(n, job(3)).id)] == [2, 3, 4, 5]
    assert [store.prune(4.0, 9, 100, 0.0).outcomes for _ in range(2)] == [2, 0]
    store.commit()
    assert [n for n in range(1, 6) if store.alias(alias(n, job(3)).id)] == [4, 5], "as old as that stays"


def test_an_alias_stays_as_long_as_its_job_is_unfinished_or_has_its_outcome(store: Store) -> None:
    put(store, jobs(1), keys(key("k", job(1))), Changes(aliases=[alias(7, job(1), at=1.0)]))
    assert store.prune(9.0, 9, 9, 0.0).outcomes == 0
    store.commit()
    put(store, ends(1), keys(key("k", job(1), until=20.0)))
    assert store.prune(0.0, 9, 9, 0.0).outcomes == 0
    store.commit()
    assert store.alias(alias(7, job(1)).id) == job(1).id
    assert store.prune(1e9, 0, 9, 0.0).outcomes == 2, "both go in one slice"
    store.commit()
    assert store.alias(alias(7, job(1)).id) is None


# ------------------------------------------------------------------------------------ history


def of(rows: list[OutcomeRow]) -> list[int]:
    return [row.rank for row in rows]


def written(store: Store, *rows: OutcomeRow) -> None:
    """Outcomes of jobs 1 and on, which end in their order."""
    put(store, jobs(*range(1, len(rows) + 1)))
    put(store, Changes(outcomes=list(rows)))


@pytest.mark.parametrize("look_at", [1, 2, 7, 1_000])
@pytest.mark.parametrize("most", [1, 3, 1_000])
def test_history_is_by_the_order_of_ends_and_the_last_comes_first(store: Store, most: int, look_at: int) -> None:
    put(store, jobs(*range(1, 11)))
    put(store, ends(4, 3, 9), ends(1))
    put(store, Changes(outcomes=[ended(job(7), at=0.0)]))
    assert of(history(store, Search(), most, look_at)) == [7, 1, 9, 3, 4]


def test_history_leaves_payloads_out_and_nothing_else(store: Store) -> None:
    row = ended(job(1), sha=SHA, outcome=1, until=7.5, error="ValueError: x")._replace(
        dead=1, spec=4, accepted_at=2.5, summary="a=1", about=b"about", node="n7", tries=b"tries"
    )
    written(store, row)
    assert store.history(Search(), 0, 1, 1).rows == [row._replace(payload=b"")]
    assert store.outcome(row.id) == row


PAST = [
    ended(job(1), at=1.0)._replace(spec=1, node="n1", summary="path='A%b_c'"),
    ended(job(2), at=2.0, outcome=1, error="ValueError: 100% wrong\\n")._replace(spec=2, node="n2", summary="x=1"),
    ended(job(3), at=5.0, outcome=1, error="KeyError: 'under_score'")._replace(spec=2, dead=1, summary="x=2"),
    ended(job(4), at=4.0, outcome=3)._replace(spec=3, node="", summary="\u00c4pfel und Birnen"),
    ended(job(5), at=5.5, outcome=2, error="TimeoutError: \u00e4lter")._replace(spec=1, node="n2", dead=1),
    ended(job(6), at=6.0)._replace(spec=2, summary="ABC\\def 'quoted' \"twice\" -- ?1"),
    ended(job(7), at=7.0)._replace(spec=3, summary="before\0behind"),
]


@pytest.mark.parametrize("look_at", [1, 2, 1_000])
@pytest.mark.parametrize(
    ("search", "found"),
    [
        (Search(), [7, 6, 5, 4, 3, 2, 1]),
        (Search(frozenset({2})), [6, 3, 2]),
        (Search(frozenset({1, 3, 99})), [7, 5, 4, 1]),
        (Search(frozenset()), []),
        (Search(outcomes=frozenset({0})), [7, 6, 1]),
        (Search(outcomes=frozenset({0, 3})), [7, 6, 4, 1]),
        (Search(outcomes=frozenset({1, 2})), [5, 3, 2]),
        (Search(outcomes=frozenset()), []),
        (Search(dead=True), [5, 3]),
        (Search(dead=False), [7, 6, 4, 2, 1]),
        (Search(node="n2"), [5, 2]),
        (Search(since=5.0), [7, 6, 5, 3]),
        (Search(until=5.0), [4, 2, 1]),
        (Search(since=4.0, until=5.5), [4, 3]),
        (Search(error="valueERROR"), [2]),
        (Search(error="error"), [5, 3, 2]),
        (Search(error="%"), [2]),
        (Search(error="_"), [3]),
        (Search(error="\\"), [2]),
        (Search(error="v%wrong"), []),
        (Search(error="\u00e4lter"), [5]),
        (Search(summary="a%B"), [1]),
        (Search(summary="b_C"), [1]),
        (Search(summary="a_b"), []),
        (Search(summary="\\"), [6]),
        (Search(summary="abc\\d"), [6]),
        (Search(summary="\\%"), []),
        (Search(summary="'quoted' \"twice\" -- ?1"), [6]),
        (Search(summary="\u00c4PFEL UND b"), [4]),
        (Search(summary="before"), [7]),
        (Search(summary="behind"), []),
        (Search(summary="before\0behind"), []),
        (Search(error="\0"), []),
        (Search(frozenset(), frozenset({1}), error="x"), []),
        (Search(summary="x" * 60_000), []),
        (Search(error="%" * 60_000), []),
        (Search(id=ANNE), [7, 6, 5, 4, 3, 2, 1]),
        (Search(id=ANNE[:1]), [7, 6, 5, 4, 3, 2, 1]),
        (Search(id=job(3).id), [3]),
        (Search(id=job(3).id + b"x"), []),
        (Search(id=BERT), []),
        (Search(id=b"\xff"), []),
        (Search(id=ANNE, outcomes=frozenset({1}), error="key"), [3]),
        (Search(frozenset({2}), frozenset({1, 2}), True, "n1", 1.0, 9.0, "KEY", "X", ANNE), [3]),
        (Search(frozenset({2}), frozenset({0}), False, "n1", 1.0, 9.0, "", "abc", ANNE), [6]),
    ],
    ids=repr,
)
def test_history_has_what_is_searched_for(store: Store, search: Search, found: list[int], look_at: int) -> None:
    written(store, *PAST)
    assert of(history(store, search, 2, look_at)) == found


@pytest.mark.parametrize(
    "search",
    [Search(error="none"), Search(summary="none"), Search(id=ANNE, node="none"), Search(dead=True), Search(since=9.0)],
    ids=repr,
)
def test_no_slice_looks_at_more_rows_than_it_may(store: Store, search: Search) -> None:
    written(store, *(ended(job(n), outcome=1) for n in range(1, 11)))
    assert [len(list(slices(store, search, 5, look_at))) for look_at in (1, 3, 10)] == [10, 4, 1]


def test_a_slice_that_reached_the_oldest_says_so(store: Store) -> None:
    written(store, *(ended(job(n), outcome=n % 2) for n in range(1, 5)))
    assert store.history(Search(), 0, 10, 10).before == 0
    assert store.history(Search(), 0, 10, 4).before == 0
    assert store.history(Search(), 0, 4, 10).before == 0
    assert store.history(Search(outcomes=frozenset({1})), 0, 10, 10).before == 0
    assert store.history(Search(), 0, 3, 10).before != 0
    assert store.history(Search(), 0, 10, 3).before != 0


@pytest.mark.parametrize("search", [Search(), Search(outcomes=frozenset({1})), Search(id=ANNE)], ids=repr)
def test_pages_neither_repeat_nor_skip_while_rows_come_and_go(store: Store, reopen: Reopen, search: Search) -> None:
    put(store, jobs(*range(1, 31)))
    put(store, Changes(outcomes=[ended(job(n), outcome=1) for n in range(1, 21)]))
    first = store.history(search, 0, 4, 100)
    assert of(first.rows) == [20, 19, 18, 17]
    put(store, Changes(outcomes=[ended(job(n), outcome=1) for n in range(21, 26)]))
    second = store.history(search, first.before, 4, 100)
    assert of(second.rows) == [16, 15, 14, 13]
    store.prune(0.0, 15, 100, 0.0)  # those up to 10
    store.commit()
    store = reopen()
    third = store.history(search, second.before, 4, 100)
    assert (of(third.rows), third.before) == ([12, 11], 0)


def test_what_ends_after_all_was_pruned_is_on_no_older_page(store: Store, reopen: Reopen) -> None:
    put(store, jobs(*range(1, 31)))
    put(store, ends(*range(1, 21)))
    before = store.history(Search(), 0, 4, 100).before
    store.prune(0.0, 0, 100, 0.0)
    store.commit()
    store = reopen()
    put(store, ends(21, 22))
    assert store.history(Search(), before, 4, 100) == History([], 0)
    assert of(history(store)) == [22, 21]


# ------------------------------------------------------------------------------------ kill -9

WRITER = """
import sys
from tests.scheduler.store.bodies import open_in_child
from tests.scheduler.store.rows import *
store = open_in_child(*sys.argv[1:3])
at = store.recover().last_rank

def end(*counters):  # every fifth one fails
    rows = [ended(job(n), at=float(n), outcome=int(n % 5 == 0)) for n in counters]
    return Changes(outcomes=rows, aliases=[alias(n, job(n)) for n in counters if n % 10 == 0])

if sys.argv[3] == "uncommitted":
    put(store, jobs(1, 2), ends(1), keys(key("kept")), Changes(settings={"kept": b"1"}))
    store.write([jobs(3), Changes(outcomes=[ended(job(2), outcome=1)], sessions={ANNE: session()})])
    store.write([keys(key("kept", until=1.0), key("new")), Changes(settings={"kept": None, "new": b"1"})])
    store.write([Changes(aliases=[alias(1, job(1))])])
    print("written", flush=True)
    sys.stdin.read()
while True:
    store.write([jobs(*range(at + 1, at + 101))])
    store.write([end(*range(at + 1, at + 51))])
    at += 100
    store.write([keys(key(), key(f"{at}", job(at))), Changes(settings={"at": b"%d" % at})])
    store.commit()
    sys.stdout.write(f"{at}\\n")
    sys.stdout.flush()
"""


def test_kill_9_takes_what_was_written_and_not_committed(lasting: str, tmp_path: Path, start_child: StartChild) -> None:
    child = start_child(WRITER, lasting, str(tmp_path), "uncommitted")
    assert child.stdout is not None and child.stdout.readline() == "written\n"
    child.kill()
    child.wait()
    store = BODIES[lasting].opener(tmp_path)()
    found = store.recover()
    assert (ranks(store), outcomes_of(store, ANNE)) == ([2], [ended(job(1), at=1.0)])
    assert (found.sessions, found.keys, found.settings) == ([], [key("kept")], {"kept": b"1"})
    assert (store.alias(alias(1, job(1)).id), store.arguments(job(2).id), of(history(store))) == (None, None, [1])
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
        found = store.recover()
        last = found.last_rank
        assert last in (told, told + 100)
        assert found.outcomes == last // 2
        assert ranks(store) == [n for n in range(1, last + 1) if (n - 1) % 100 >= 50]
        assert found.settings == {"at": b"%d" % last}
        assert sorted(found.keys) == sorted([key(), *(key(f"{n}", job(n)) for n in range(100, last + 1, 100))])
        past = of(history(store, most=10_000, look_at=100_000))
        assert past == [n for n in range(last, 0, -1) if (n - 1) % 100 < 50]
        assert of(history(store, Search(outcomes=frozenset({1})), 10_000)) == [n for n in past if n % 5 == 0]
        assert [n for n in past if store.arguments(job(n).id)] == [n for n in past if n % 5 == 0]
        assert [n for n in past if store.alias(alias(n, job(n)).id)] == [n for n in past if n % 10 == 0]
        store.close()
        assert told > reopened
        reopened = told


def test_a_retired_spec_keeps_its_row_and_loses_its_code(store: Store, reopen: Reopen) -> None:
    put(store, Changes(specs=[spec(1)._replace(blob=True), spec(2)]))
    put(store, Changes(retired_specs=[1, 9]))
    assert sorted(reopen().recover().specs) == [spec(1)._replace(code=b"", blob=False), spec(2)]


def test_what_is_repeated_is_no_dead_letter_and_keeps_its_arguments(store: Store, reopen: Reopen) -> None:
    rows = [ended(job(n), outcome=1)._replace(dead=1) for n in (1, 2)]
    put(store, jobs(1, 2), Changes(outcomes=rows))
    put(store, Changes(repeated=[rows[0].id, job(9).id]))
    store = reopen()
    assert store.outcome(rows[0].id) == rows[0]._replace(dead=0)
    assert store.arguments(rows[0].id) is not None
    assert [row.id for row in store.history(Search(dead=True), 0, 10, 100).rows] == [rows[1].id]


def test_what_is_dropped_is_no_dead_letter_and_cannot_be_run_again(store: Store, reopen: Reopen) -> None:
    rows = [ended(job(n), outcome=1)._replace(dead=1) for n in (1, 2)]
    put(store, jobs(1, 2), Changes(outcomes=rows))
    put(store, Changes(dropped=[rows[0].id, job(9).id]))
    store = reopen()
    assert store.outcome(rows[0].id) == rows[0]._replace(dead=0)
    assert store.outcome(rows[1].id) == rows[1]
    assert store.arguments(rows[0].id) is None and store.arguments(rows[1].id) is not None
    assert store.history(Search(dead=True), 0, 10, 100).rows[0].id == rows[1].id
