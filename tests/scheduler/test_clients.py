"""The clients' book: what is owed, against a model of a client that hears some of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.actor import LOCAL, Header
from cluster.config import BATCH_BYTES, MAX_BATCH
from cluster.messages import Pulse
from cluster.session import Link
from scheduler.clients import Client, Clients, Owed

BIG = (bytes(32), 100_000)


def client() -> Client:
    return Client(bytes(8), LOCAL, b"", Link(1), 0.0)


@given(st.lists(st.sampled_from(["owe", "send", "send", "ack", "break"]), max_size=80), st.integers(1, 4))
def test_every_result_is_told_until_it_is_acknowledged_and_in_order(steps: list[str], in_flight: int) -> None:
    c = client()
    owed = heard_of = 0
    acknowledged: list[int] = []
    told: list[tuple[int, list[int]]] = []
    for step in steps:
        if step == "owe":
            owed += 1
            c.owe(Owed(owed, 0, b"12345", None))
        elif step == "send":
            batch = c.next_results(in_flight)
            if batch is None:
                assert not c.waiting or len(c.sent) >= in_flight
                continue
            rows, message = batch
            c.sent.append((c.link.header().seq, rows))
            told.append((c.link.sent, message.counters))
        elif step == "ack" and told:
            seq, counters = told.pop(0)
            heard_of += 1
            c.link.take(Header(c.link.number, heard_of, seq), Pulse(), 0.0)
            c.acknowledge()
            acknowledged += counters
        elif step == "break":
            c.rebind(b"", c.link.number + 1, 0.0)
            c.owe_again()
            told.clear()
            heard_of = 0
        assert len(c.sent) <= in_flight
        pending = [n for _, rows in c.sent for n in (r.counter for r in rows)] + [r.counter for r in c.waiting]
        assert acknowledged + pending == list(range(1, owed + 1))
        assert c.owed_bytes == 5 * len(pending)


def test_one_message_is_bounded_in_bytes_and_rows() -> None:
    c = client()
    for n in range(20):
        c.owe(Owed(n, 0, bytes(60_000), None))
    batch = c.next_results(1)
    assert batch is not None
    assert BATCH_BYTES <= sum(map(len, batch[1].payloads)) < BATCH_BYTES + 60_000
    c = client()
    for n in range(MAX_BATCH + 1):
        c.owe(Owed(n, 0, b"", None))
    batch = c.next_results(1)
    assert batch is not None and len(batch[0]) == MAX_BATCH


def test_a_message_tells_acceptance_and_which_rows_are_blobs() -> None:
    c = client()
    c.accepted = 9
    c.owe(Owed(1, 0, b"x", None))
    c.owe(Owed(2, 1, b"", BIG))
    batch = c.next_results(1)
    assert batch is not None
    message = batch[1]
    assert (message.through, message.counters, message.outcomes, message.large) == (9, [1, 2], [0, 1], [[1, *BIG]])


def test_a_fetched_blob_ends_the_holds_of_rows_that_were_heard_of() -> None:
    c = client()
    for n in range(3):
        c.owe(Owed(n, 0, b"", BIG))
    c.fetchable[BIG[0]] = 3
    assert c.fetched(BIG[0]) == 0, "not one row was told yet"
    batch = c.next_results(1)
    assert batch is not None
    c.sent.append((1, batch[0][:2]))
    c.waiting.append(batch[0][2])
    c.link.sent = c.link.acked = 1
    c.acknowledge()
    assert c.fetched(BIG[0]) == 2 and c.fetchable == {BIG[0]: 1}
    c.waiting.clear()
    assert c.fetched(BIG[0]) == 1 and c.fetchable == {}


def test_dropping_what_is_owed_names_it_all() -> None:
    c = client()
    for n in range(3):
        c.owe(Owed(n, 0, b"xx", None))
    batch = c.next_results(1)
    assert batch is not None
    c.sent.append((1, batch[0]))
    c.owe(Owed(3, 0, b"xx", None))
    assert {r.counter for r in c.drop_owed()} == {0, 1, 2, 3}
    assert c.owed_bytes == 0 and c.next_results(1) is None


def test_clients_are_known_by_their_session() -> None:
    book, c = Clients(), client()
    book.add(c)
    assert (book.get(bytes(8)), len(book), list(book)) == (c, 1, [c])
    book.remove(c)
    book.remove(c)
    assert book.get(bytes(8)) is None
