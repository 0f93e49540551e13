"""Ages by a clock that may be set: nothing is called old before its time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.ages import MOST, Ages

KEEP_S, WEEK_S = 100, 7 * 86_400


def test_age_is_what_the_clock_says_as_long_as_nobody_sets_it() -> None:
    assert Ages().before(KEEP_S, 1_000.0) == 900.0


def test_what_lies_before_a_jump_is_kept_for_its_whole_time_and_no_longer() -> None:
    ages = Ages()
    packed = ages.unlived(WEEK_S, 1_000.0 + WEEK_S)
    for book in (ages, Ages(packed)):
        assert book.before(KEEP_S, 1_000.0 + WEEK_S) == 900.0
        assert book.before(KEEP_S, 1_100.0 + WEEK_S) == 1_000.0
        assert book.before(KEEP_S, 1_101.0 + WEEK_S) == 1_001.0 + WEEK_S


steps = st.lists(st.tuples(st.sampled_from(["live", "ahead", "back", "restart"]), st.integers(1, 150)), max_size=60)


@given(steps)
def test_nothing_is_called_old_before_its_time_and_without_steps_back_all_is_in_time(
    steps: list[tuple[str, int]],
) -> None:
    ages, packed, wall, lived, back = Ages(), b"", 10_000, 0, False
    kept: list[tuple[int, int]] = []
    for kind, seconds in steps:
        match kind:
            case "live":
                wall, lived = wall + seconds, lived + seconds
            case "ahead":
                wall += seconds
                packed = ages.unlived(seconds, wall)
            case "back":
                wall, back = wall - seconds, True
            case _:
                ages = Ages(packed)
        kept.append((wall, lived))
        before = ages.before(KEEP_S, wall)
        old = [at < before for at, _ in kept]
        due = [lived - since > KEEP_S for _, since in kept]
        assert all(due[i] for i in range(len(kept)) if old[i])
        assert back or old == due


def test_many_jumps_take_little_room() -> None:
    ages = Ages()
    for i in range(10 * MOST):
        packed = ages.unlived(1.0, 1_000.0 + i)
    assert len(packed) < 20 * MOST
    assert Ages(packed).before(KEEP_S, 1_000.0 + 10 * MOST) <= 900.0
