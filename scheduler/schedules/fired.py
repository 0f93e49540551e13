"""The nominal times that must not fire again. Rules of this file: in doubt a time is taken for fired.

A range names times of the trigger in force when they fired: all of them from its first to its last. A year of a
schedule that never skips is one range, so all keys of a schedule are kept as long as it is known, in little room. When
there are too many ranges, those with the least between them become one. What was skipped between them then counts as
fired: it does not fire if the clock is set back. After a change of the trigger and a clock that was set back, times of
the new one inside an old range do not fire either.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable

RANGES = 16
"""Kept apart as long as there are no more,"""

MAX_RANGES = 64
"""...or, of such as are yet to be passed again after the clock was set back, up to here."""


class Fired:
    """The first and the last of each range lie in one array, in order: what belongs at an odd place is in a range."""

    __slots__ = ("_edges",)

    def __init__(self, flat: Iterable[int] = ()) -> None:
        self._edges = array("q", flat)

    def __bool__(self) -> bool:
        return bool(self._edges)

    def __contains__(self, moment_us: int) -> bool:
        return self.until(moment_us) is not None

    def flat(self) -> list[int]:
        return self._edges.tolist()

    @property
    def last(self) -> int:
        return self._edges[-1] if self._edges else 0

    def until(self, moment_us: int) -> int | None:
        """The last time of the range that moment is in."""
        i = bisect_right(self._edges, moment_us)
        if i % 2:
            return self._edges[i]
        return moment_us if i and self._edges[i - 1] == moment_us else None

    def next_first(self, moment_us: int) -> int | None:
        """The first time of the next range after that moment."""
        i = bisect_right(self._edges, moment_us)
        i += i % 2
        return self._edges[i] if i < len(self._edges) else None

    def add(self, nominal_us: int, previous_us: int) -> None:
        """That time fires; ``previous_us`` is where the search for it began, a time itself or not."""
        edges = self._edges
        i = bisect_right(edges, nominal_us)
        assert not i % 2 and (not i or edges[i - 1] < nominal_us), f"{nominal_us} has fired already: {self.flat()}"
        if i and edges[i - 1] == previous_us:
            edges[i - 1] = nominal_us
            return
        edges[i:i] = array("q", (nominal_us, nominal_us))
        while len(edges) > 2 * RANGES and self._join_nearest(nominal_us):
            pass

    def join(self, last_us: int, first_us: int) -> None:
        """No time is between the end of one range and the start of the next."""
        edges = self._edges
        i = bisect_right(edges, last_us)
        if i and not i % 2 and i < len(edges) and edges[i - 1] == last_us and edges[i] == first_us:
            self._join(i)

    def _join(self, first: int) -> None:
        """The range that begins at this place, with the one before it."""
        del self._edges[first - 1 : first + 1]

    def _join_nearest(self, seen_us: int) -> bool:
        """Of those that are past, first: between others there are times that have yet to be decided."""
        edges = self._edges
        past = (bisect_right(edges, seen_us) + 1) // 2
        if past < 2 and len(edges) > 2 * MAX_RANGES:
            past = len(edges) // 2
        if past < 2:
            return False
        self._join(min(range(2, 2 * past, 2), key=lambda i: edges[i] - edges[i - 1]))
        return True
