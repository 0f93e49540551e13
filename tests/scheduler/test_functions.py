"""Functions: interned, learned, timed, and forgotten within bounds."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.jobs import BadSpec, Spec
from scheduler import functions
from scheduler.functions import Functions, RunTime
from scheduler.queues import Queues

CODE = b"pickled function"
BY_VALUE = Spec("f", True, hashlib.sha256(CODE).digest(), len(CODE))


def raw(name: str) -> bytes:
    return Spec(name, False, b"").encode()


def test_one_spec_of_one_owner_is_one_record_and_carries_that_owner() -> None:
    book = Functions(Queues())
    a = book.intern(raw("f"), "ann")
    assert book.intern(raw("f"), "ann") is a and book.intern(raw("f"), "ben") is not a
    assert Spec.decode(a.raw).owner == "ann"


def test_run_times_are_shared_by_name_within_a_namespace() -> None:
    book = Functions(Queues())
    a = book.intern(Spec("f", False, b"1").encode(), "ann")
    b = book.intern(Spec("f", False, b"2").encode(), "ann")
    c = book.intern(Spec("f", False, b"1", namespace="other").encode(), "ann")
    assert a.time is b.time is not c.time


def test_code_is_kept_if_it_is_what_its_hash_says() -> None:
    book = Functions(Queues())
    record = book.intern(BY_VALUE.encode(), "ann")
    with pytest.raises(BadSpec, match="does not match its hash"):
        book.learn(record, b"another")
    assert book.code(BY_VALUE.code) is None
    book.learn(record, CODE)
    book.learn(record, CODE)
    assert book.code(BY_VALUE.code) == CODE


def test_a_bad_spec_leaves_no_record() -> None:
    book = Functions(Queues())
    with pytest.raises(BadSpec):
        book.intern(b"\xc1", "ann")
    assert not book._records


def test_records_without_jobs_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_RECORDS", 100)
    book = Functions(Queues())
    live = book.intern(raw("live"), "ann")
    live.live = 1
    blob = book.intern(Spec("blob", True, bytes(32)).encode(), "ann")
    blob.holds_blob = True
    for n in range(1_000):
        book.intern(raw(f"f{n}"), "ann")
        assert len(book._records) <= 100
    assert book.intern(raw("live"), "ann") is live
    assert book.dropped == [bytes(32)]


def test_code_without_jobs_is_forgotten_when_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_SPARE_CODE_BYTES", 10_000)
    book = Functions(Queues())
    for n in range(100):
        code = bytes(990) + n.to_bytes(2, "big")
        record = book.intern(Spec("f", True, hashlib.sha256(code).digest()).encode(), "ann")
        book.learn(record, code)
        assert record.code == code, "what was just learned is there for the job that named it"
        assert sum(len(r.code) for r in book._records.values()) <= 11_000


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_NAMES", 10)
    book = Functions(Queues())
    for n in range(100):
        book.intern(raw(f"f{n}"), "ann")
    assert len(book._times) == 10


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 5_000)), min_size=1, max_size=30))
def test_a_mean_stays_between_the_extremes_observed(rows: list[tuple[int, int]]) -> None:
    time = RunTime()
    means = [max(total / count / 1e6, 1e-6) for total, count in rows]
    for total, count in rows:
        time.observe(total, count)
    assert min(means) * 0.999 <= time.mean_s <= max(means) * 1.001 or time.mean_s == 1e-6 or min(means) == 1e-6


def test_a_much_longer_time_is_believed_at_once() -> None:
    time = RunTime()
    time.observe(100, 1)
    time.observe(2_000_000, 1)
    assert time.mean_s == 2.0
