"""Futures as the session's thread settles them, beside whoever asks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cluster.futures import Future

SOON_S = 20.0


def future() -> Future[int]:
    return Future(None)  # type: ignore[arg-type]


def test_a_future_that_nobody_asked_is_done_like_any_other() -> None:
    one = future()
    one._succeed(5)
    called: list[Any] = []
    one.add_done_callback(called.append)
    assert called == [one]
    assert (one.result(0), one.exception(0), one.done(), one.running(), one.cancelled()) == (
        5,
        None,
        True,
        False,
        False,
    )
    assert super(Future, one).cancel() is False
    assert concurrent.futures.wait([one], 0).done == {one}
    assert list(concurrent.futures.as_completed([one], 0)) == [one]
    assert "finished" in repr(one)
    with pytest.raises(concurrent.futures.InvalidStateError):
        one.set_result(6)
    one._succeed(7)
    assert one.result() == 5

    async def waited() -> int:
        return await asyncio.wrap_future(one)

    assert asyncio.run(waited()) == 5


def test_an_attribute_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(AttributeError, match="'Future' object has no attribute 'outcome'"):
        future().outcome  # noqa: B018
    assert not hasattr(future(), "_nothing")


def by_result(one: Future[int], seen: list[int]) -> None:
    seen.append(one.result(SOON_S))


def by_callback(one: Future[int], seen: list[int]) -> None:
    called = threading.Event()
    one.add_done_callback(lambda f: (seen.append(f.result(0)), called.set()))  # type: ignore[func-returns-value]
    assert called.wait(SOON_S)


def by_wait(one: Future[int], seen: list[int]) -> None:
    (found,) = concurrent.futures.wait([one], SOON_S).done
    seen.append(found.result(0))


def by_looking(one: Future[int], seen: list[int]) -> None:
    while not one.done():
        pass
    seen.append(one.result(0))


@pytest.mark.parametrize("ask", [by_result, by_callback, by_wait, by_looking])
def test_whoever_asks_while_it_is_settled_is_told_once(ask: Callable[[Future[int], list[int]], None]) -> None:
    count = 1_500
    futures = [future() for _ in range(count)]
    seen: list[list[int]] = [[] for _ in range(count)]
    gate = threading.Barrier(2)

    def settle() -> None:
        for n, one in enumerate(futures):
            gate.wait(SOON_S)
            one._succeed(n)

    settler = threading.Thread(target=settle)
    settler.start()
    for n, one in enumerate(futures):
        gate.wait(SOON_S)
        ask(one, seen[n])
    settler.join()
    assert seen == [[n] for n in range(count)]


def test_many_who_wait_for_done_and_pending_ones_do_not_hold_each_other_up() -> None:
    futures = [future() for _ in range(200)]
    for one in futures[::2]:
        one._succeed(1)
    found: list[int] = []

    def wait() -> None:
        found.append(len(concurrent.futures.wait(futures, SOON_S).done))

    waiting = [threading.Thread(target=wait) for _ in range(8)]
    for thread in waiting:
        thread.start()
    for one in futures[1::2]:
        one._succeed(2)
    for thread in waiting:
        thread.join(SOON_S)
    assert found == [200] * 8
    assert sum(one.result(0) for one in futures) == sum(itertools.repeat(3, 100))
