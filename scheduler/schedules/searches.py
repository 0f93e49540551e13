"""Searches for times of a trigger that need their result at once. Rules of this file: bounded; what is kept
changes no result."""

from __future__ import annotations

from cluster.triggers import SearchGoesOn, Trigger

_TRIES = 8
"""Goes at a search that excluded times have broken off, where its result is needed at once."""


MAX_KEPT = 20_000
"""Searches that are remembered."""


class Searches:
    """``next_after``, which many schedules with the same trigger ask from nearly the same moment."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Trigger, int, int]] = {}
        """By identity: between the two moments the trigger has no time, and at the second it has one."""

    def next_after(self, trigger: Trigger, at: int) -> int | None:
        """Raises as that of the trigger does."""
        kept = self._last.get(id(trigger))
        if kept is not None and kept[1] <= at < kept[2]:
            return kept[2]
        found = trigger.next_after(at)
        if found is not None:
            if len(self._last) >= MAX_KEPT:
                self._last.clear()
            self._last[id(trigger)] = (trigger, at, found)  # which keeps it, so that no other has its identity
        return found


def next_time(trigger: Trigger, at: int) -> int | None:
    """The first time after that moment; None also where what is excluded breaks the search off too often."""
    for _ in range(_TRIES):
        try:
            return trigger.next_after(at)
        except SearchGoesOn as e:
            at = e.until_us
    return None


def last_time(trigger: Trigger, first_us: int, until_us: int) -> int:
    """The last time up to ``until_us``; ``first_us`` is one. Triggers only search forwards, so this halves its way."""
    last, empty = first_us, until_us
    following = next_time(trigger, last)
    probe = until_us - (following - last) if following is not None else 0
    while following is not None and following <= until_us:
        last = following
        middle = probe if last < probe < empty else (last + empty) // 2
        found = next_time(trigger, middle)
        if found is not None and found <= until_us:
            last = found
        else:
            empty = middle
        following = next_time(trigger, last)
    return last
