"""Who waits for whom: a pure book."""

from __future__ import annotations

from scheduler.dependencies import Dependencies
from scheduler.lifecycle import Job


def _job(number: int) -> Job:
    return Job(bytes(15) + bytes([number]), number, None, None, b"", None, number)


def test_a_child_is_free_when_the_last_parent_is_over() -> None:
    book, child = Dependencies(), _job(9)
    book.wait(child, [b"a", b"b", b"a"])
    assert book.waits_for(child) == [b"a", b"b"]
    assert book.ended(b"a") == [child]
    assert not book.met(child, b"a")
    assert book.met(child, b"b")
    assert book.waits_for(child) == [] and len(book) == 0


def test_nothing_is_kept_of_what_is_over() -> None:
    """A parent the store knows of never ends a second time, so no end would take its entry away."""
    book = Dependencies()
    for number in range(1, 4):
        child = _job(number)
        book.wait(child, [b"a", b"b"])
        book.met(child, b"a")
        if number == 1:
            book.forget(child)
        else:
            book.met(child, b"b")
    assert not book._children and not book._missing
