"""Bytes and messages: what is encoded comes back, and bytes of any kind do no harm."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import codec
from cluster.actor import Header
from cluster.config import INLINE_BYTES, MAX_HELD, MAX_MESSAGE_BYTES
from cluster.messages import MESSAGES, Assign, BadMessage, Finished, Heartbeat, Message, NodeHello, Pulse, Submit, Taken
from tests.playbook import any_message, messages_of

HEADER = Header(3, 14, 15)
headers = st.builds(Header, *[st.integers(0, (1 << 64) - 1)] * 3)
relaxed = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def raw(kind: int, *fields: Any, header: Any = HEADER) -> bytes:
    out: bytes = msgpack.packb([kind, *header, *fields])
    return out


def same(a: Message, b: Message) -> bool:
    """Equal, where no number is one as well."""
    return repr(a) == repr(b)


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=lambda c: c.__name__)
def test_every_message_comes_back_as_it_was(kind: type[Message]) -> None:
    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(messages_of(kind), headers)
    def comes_back(message: Message, header: Header) -> None:
        got_header, got = codec.decode(codec.encode(header, message))
        assert got_header == header and type(got) is kind and same(got, message)

    comes_back()


@relaxed
@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_bad_message_or_nothing(data: bytes) -> None:
    try:
        codec.decode(data)
    except BadMessage:
        pass


@relaxed
@given(any_message(), st.data())
def test_mutated_messages_raise_bad_message_or_nothing(message: Message, data: st.DataObject) -> None:
    good = bytearray(codec.encode(HEADER, message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                good[at] = data.draw(st.integers(0, 255))
            case 1:
                del good[at : at + data.draw(st.integers(1, 8))]
                good = good or bytearray(b"\x90")
            case 2:
                good[at:at] = data.draw(st.binary(max_size=4))
    try:
        header, got = codec.decode(bytes(good))
    except BadMessage:
        return
    codec.encode(header, got)  # what was let in can go out again


@relaxed
@given(
    st.sampled_from(sorted(MESSAGES)),
    st.lists(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-3, 1 << 63)
            | st.floats()
            | st.text(max_size=3)
            | st.binary(max_size=3),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
            max_leaves=10,
        ),
        max_size=14,
    ),
)
def test_fields_of_any_shape_raise_bad_message_or_nothing(kind: int, fields: list[Any]) -> None:
    try:
        codec.decode(raw(kind, *fields))
    except BadMessage:
        pass


def test_fields_a_newer_peer_adds_are_ignored() -> None:
    assert codec.decode(raw(Taken.KIND, bytes(32), 5, "news", [1])) == (HEADER, Taken(bytes(32), 5))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (raw(1) + b"\x00", "not msgpack"),
        (msgpack.packb({"a": 1}), "not an array with a header"),
        (msgpack.packb([1, 2, 3]), "not an array with a header"),
        (raw(1, header=(1, -1, 0)), "not four natural numbers"),
        (raw(1, header=(1, True, 0)), "not four natural numbers"),
        (raw(1, header=(1, 1.0, 0)), "not four natural numbers"),
        (raw(99), "unknown kind 99"),
        (raw(Taken.KIND, bytes(32)), "Taken has 1 of 2 fields"),
        (raw(Taken.KIND, bytes(31), 5), "Taken.sha has the wrong shape"),
        (raw(Taken.KIND, bytes(32), 1 << 62), "Taken.through has the wrong shape"),
        (raw(Submit.KIND, 1 << 61, [], [], [], [], [], [], []), "Submit.first has the wrong shape"),
        (raw(Finished.KIND, [1, 2], [0], [b""], [], [1], [1], []), "columns of different length"),
        (raw(Finished.KIND, [1], [True], [b""], [], [1], [1], []), "Finished.ends"),
        (raw(Finished.KIND, [1], [0], [bytes(2 * INLINE_BYTES + 1)], [], [1], [1], []), "Finished.payloads"),
        (raw(Heartbeat.KIND, {"load": [1]}), "Heartbeat.vitals"),
        (raw(Heartbeat.KIND, {"load": msgpack.Timestamp(1, 2)}), "not msgpack"),
        (raw(Heartbeat.KIND, {"load": msgpack.ExtType(5, b"x")}), "not msgpack"),
        (raw(Heartbeat.KIND, {"load": msgpack.ExtType(5, b"")}), "extension types"),
        (b"\x91" * 5_000, "not msgpack"),
        (bytes(MAX_MESSAGE_BYTES + 1), "over the limit"),
    ],
)
def test_what_is_no_message_is_refused_in_words(data: bytes, word: str) -> None:
    with pytest.raises(BadMessage, match=word):
        codec.decode(data)


def test_code_and_descriptions_are_bounded_so_that_an_assignment_fits_a_message() -> None:
    big = bytes(2 * INLINE_BYTES + 1)
    for fields in ([[big], [0], [], [], [], [], [], [], []], [[], [], [], [], [], [], [], [], [[bytes(32), big]]]):
        with pytest.raises(BadMessage):
            codec.decode(raw(Assign.KIND, *fields))


def test_a_node_can_name_all_it_may_hold() -> None:
    n = MAX_HELD
    tokens = [(1 << 41) + i for i in range(n)]
    hello = NodeHello(
        1, bytes(8), "1", "n", 1, b"", "", "h", 1, "3.11", 1, {}, [], tokens, [bytes(16)] * n, [1] * n, {}
    )
    data = codec.encode(HEADER, hello)
    assert len(data) < MAX_MESSAGE_BYTES
    assert codec.decode(data)[1] == hello
    with pytest.raises(BadMessage):
        codec.decode(raw(16, [1] * (n + 1)))


def test_a_message_may_be_read_from_a_view() -> None:
    assert codec.decode(memoryview(codec.encode(HEADER, Pulse()))) == (HEADER, Pulse())


def test_not_a_number_is_no_time() -> None:
    with pytest.raises(BadMessage):
        codec.decode(raw(30, 1, True, 0, math.nan, 1.0))
