"""Specs and failures: what is encoded comes back, and bytes of others do no harm."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import FAILURE_CHARS
from cluster.jobs import BadSpec, Failure, Outcome, Rules, Spec, shorten

texts = st.text(max_size=20)
specs = st.builds(
    Spec,
    name=texts,
    by_value=st.just(False),
    code=st.binary(max_size=20),
    code_size=st.integers(0, (1 << 62) - 1),
    namespace=texts,
    owner=texts,
    python=texts,
    labels=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    durable=st.booleans(),
    rules=st.builds(Rules, st.booleans(), st.integers(0, 100), st.integers(0, 100)),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, (1 << 64) - 1) | texts | st.binary(max_size=32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(specs)
def test_a_spec_comes_back_as_it_was(spec: Spec) -> None:
    assert Spec.decode(spec.encode()) == spec


def test_rules_as_they_usually_are_take_no_bytes() -> None:
    assert Rules().encode() == {} and Rules(crash_retries=0).encode() == {"crash_retries": 0}


def test_the_owner_is_set_whatever_was_said() -> None:
    assert Spec("f", False, b"", owner="mallory").owned_by("ann").owner == "ann"


@given(
    st.binary(max_size=60)
    | anything.map(msgpack.packb)
    | st.lists(anything, min_size=10, max_size=10).map(msgpack.packb)
)
def test_bytes_of_any_kind_are_a_usable_spec_or_bad(raw: bytes) -> None:
    try:
        spec = Spec.decode(raw)
    except BadSpec:
        return
    hash((spec.labels, spec.python))
    assert Spec.decode(spec.encode()) == spec


GOOD: list[Any] = ["n", True, bytes(32), 7, "default", "", "3.11", [["gpu", "a100"]], True, {"crash_retries": 5}]


@pytest.mark.parametrize(
    ("field", "value"),
    [(0, 5), (0, "x" * 513), (1, 1), (2, "text"), (2, bytes(31)), (3, -1), (3, 1 << 62), (3, True), (4, None),
     (6, 3.11), (7, {}), (7, {"ab": 1}), (7, ["ab"]), (7, "ab"), (7, [["a"]]), (7, [{"a": 1, "b": 2}]),
     (7, [["a", 1]]), (8, 1), (9, []), (9, {"crash_retries": -1}), (9, {"crash_retries": True}),
     (9, {"crash_retries": 101}), (9, {"at_most_once": 1}), (9, {"retires": 1}), (9, {1: 1})],
)  # fmt: skip
def test_a_field_of_the_wrong_shape_is_refused(field: int, value: Any) -> None:
    Spec.decode(msgpack.packb(GOOD))
    with pytest.raises(BadSpec):
        Spec.decode(msgpack.packb([*GOOD[:field], value, *GOOD[field + 1 :]]))


def test_a_failure_comes_back_with_its_texts_cut_in_the_middle() -> None:
    failure = Failure("ValueError", "a" * FAILURE_CHARS * 2, "short", ("ValueError", "Exception"), b"pickle")
    got = Failure.decode(failure.encode())
    assert "characters cut" in got.text and len(got.text) < FAILURE_CHARS + 60
    assert (got.kind, got.traceback, got.bases, got.pickle) == ("ValueError", "short", failure.bases, b"pickle")


@given(st.binary(max_size=60) | st.lists(anything, min_size=5, max_size=5).map(msgpack.packb))
def test_reading_a_failure_never_raises(raw: bytes) -> None:
    got = Failure.decode(raw)
    assert type(got.kind) is type(got.text) is type(got.traceback) is str and type(got.pickle) is bytes
    assert all(type(b) is str for b in got.bases)


def test_shorten_leaves_short_texts_alone_and_counts_what_it_cuts() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdefgh", 4) == "ab\n... 4 characters cut ...\ngh"


def test_outcomes_have_words() -> None:
    assert [o.word for o in Outcome] == ["succeeded", "failed", "timed out", "cancelled", "expired", "lost"]
