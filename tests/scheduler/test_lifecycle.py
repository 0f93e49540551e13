"""The table of a job's life."""

from __future__ import annotations

import itertools

import pytest

from cluster.ids import job_id
from scheduler.lifecycle import TRANSITIONS, Cause, IllegalTransition, Job, State, move


def job(state: State) -> Job:
    return Job(job_id(bytes(8), 17), 17, None, None, b"", None, 1, state=state, attempt=3, token=44, last=Cause.PLACED)


@pytest.mark.parametrize("state", State)
def test_every_state_but_the_last_has_a_way_out(state: State) -> None:
    out = {to for (of, _), to in TRANSITIONS.items() if of is state}
    assert bool(out) is (state is not State.FINISHED)


def test_every_state_can_be_reached_and_finished_from() -> None:
    reached = {State.READY, State.ADRIFT}
    while more := {to for (of, _), to in TRANSITIONS.items() if of in reached} - reached:
        reached |= more
    assert reached == set(State)
    ending = {State.FINISHED}
    while more := {of for (of, _), to in TRANSITIONS.items() if to in ending} - ending:
        ending |= more
    assert ending == set(State)


def test_every_cause_moves_something() -> None:
    assert {cause for _, cause in TRANSITIONS} == set(Cause)


@pytest.mark.parametrize(("pair", "to"), TRANSITIONS.items(), ids=str)
def test_a_legal_move_is_made_and_noted(pair: tuple[State, Cause], to: State) -> None:
    moved = job(pair[0])
    move(moved, pair[1])
    assert (moved.state, moved.last) == (to, pair[1])


@pytest.mark.parametrize("pair", set(itertools.product(State, Cause)) - set(TRANSITIONS), ids=str)
def test_an_illegal_move_stops_with_the_story(pair: tuple[State, Cause]) -> None:
    stuck = job(pair[0])
    with pytest.raises(IllegalTransition) as e:
        move(stuck, pair[1])
    story = str(e.value)
    for part in ("0000000000000000-17", pair[1].name, pair[0].value, "attempt 3", "token 44", "last moved by PLACED"):
        assert part in story
    assert stuck.state is pair[0]
