"""The table of an attempt's life, and the book of those held."""

from __future__ import annotations

import itertools

import pytest

from node.attempts import TABLE, Attempt, Attempts, IllegalStep, Phase, Step
from node.events import Run
from tests.playbook import SPEC


def attempt(token: int = 7, phase: Phase = Phase.QUEUED) -> Attempt:
    attempt = Attempt(Run(token, bytes(16), 1, SPEC, b"", None), 0.0)
    attempt.phase, attempt.last = phase, Step.GIVEN
    return attempt


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_but_the_last_has_a_way_out(phase: Phase) -> None:
    """What is owed is ended by an acknowledgement: it is forgotten, not moved."""
    assert bool([to for (of, _), to in TABLE.items() if of is phase]) is (phase is not Phase.OWED)


def test_every_phase_can_end_owed_and_every_step_is_taken_somewhere() -> None:
    assert {of for (of, step), to in TABLE.items() if to is Phase.OWED} == set(Phase) - {Phase.OWED}
    assert {step for _, step in TABLE} == set(Step)


@pytest.mark.parametrize(("pair", "to"), TABLE.items(), ids=str)
def test_a_legal_step_is_made_and_noted(pair: tuple[Phase, Step], to: Phase) -> None:
    a = attempt(phase=pair[0])
    a.step(pair[1])
    assert (a.phase, a.last) == (to, pair[1])


@pytest.mark.parametrize("pair", set(itertools.product(Phase, Step)) - set(TABLE), ids=str)
def test_an_illegal_step_stops_with_the_story(pair: tuple[Phase, Step]) -> None:
    a = attempt(phase=pair[0])
    with pytest.raises(IllegalStep) as e:
        a.step(pair[1])
    for part in ("attempt 7", pair[1].name, pair[0].value, "last GIVEN"):
        assert part in str(e.value)
    assert a.phase is pair[0]


def test_attempts_are_held_by_token() -> None:
    book, a = Attempts(), attempt()
    book.add(a)
    assert (len(book), list(book), book.get(7)) == (1, [a], a)
    assert book.remove(7) is a and book.remove(7) is None and book.get(7) is None


def test_what_is_taken_back_goes_before_all_others_in_its_order() -> None:
    book = Attempts()
    waiting = attempt(9)
    book.queue.append(waiting)
    back = [attempt(n, Phase.GIVEN) for n in (1, 2, 3)]
    book.requeue(back)
    assert list(book.queue) == [*back, waiting]
    assert {a.phase for a in back} == {Phase.QUEUED} and {a.slot for a in back} == {-1}
