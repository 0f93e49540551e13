"""The nominal times that must not fire again. Rules of this file: in doubt a time is taken for fired.

A range names times of the trigger in force when they fired: all of them from its first to its last. A year of a
schedule that never skips is one range, so all keys of a schedule are kept as long as it is known, in little room. When
there are too many ranges, those with the least between them become one. What was skipped between them then counts as
fired: it does not fire if the clock is set back. After a change of the trigger and a clock that was set back, times of
the new one inside an old range do not fire either.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

RANGES = 16
"""Kept apart as long as there are no more,"""

MAX_RANGES = 64
"""...or, of such as are yet to be passed again after the clock was set back, up to here."""


class Fired:
    __slots__ = ("_firsts", "_lasts")

    def __init__(self, flat: Iterable[int] = ()) -> None:
        packed = array("q", flat)
        self._firsts, self._lasts = packed[::2], packed[1::2]

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, moment_us: int) -> bool:
        return self.until(moment_us) is not None

    def flat(self) -> list[int]:
        return [edge for pair in zip(self._firsts, self._lasts, strict=True) for edge in pair]

    @property
    def last(self) -> int:
        return self._lasts[-1] if self._lasts else 0

    def until(self, moment_us: int) -> int | None:
        """The last time of the range that moment is in."""
        i = bisect_right(self._firsts, moment_us) - 1
        return self._lasts[i] if i >= 0 and moment_us <= self._lasts[i] else None

    def next_first(self, moment_us: int) -> int | None:
        """The first time of the next range after that moment."""
        i = bisect_right(self._firsts, moment_us)
        return self._firsts[i] if i < len(self._firsts) else None

    def add(self, nominal_us: int, previous_us: int) -> None:
        """That time fires; ``previous_us`` is where the search for it began, a time itself or not."""
        i = bisect_right(self._firsts, nominal_us)
        assert i == 0 or self._lasts[i - 1] < nominal_us, f"{nominal_us} has fired already: {self.flat()}"
        if i and self._lasts[i - 1] == previous_us:
            self._lasts[i - 1] = nominal_us
            return
        self._firsts.insert(i, nominal_us)
        self._lasts.insert(i, nominal_us)
        while len(self._firsts) > RANGES and self._join_nearest(nominal_us):
            pass

    def join(self, last_us: int, first_us: int) -> None:
        """No time is between the end of one range and the start of the next."""
        i = bisect_left(self._lasts, last_us)
        if i + 1 < len(self._lasts) and self._lasts[i] == last_us and self._firsts[i + 1] == first_us:
            self._join(i)

    def _join(self, i: int) -> None:
        del self._lasts[i], self._firsts[i + 1]

    def _join_nearest(self, seen_us: int) -> bool:
        """Of those that are past, first: between others there are times that have yet to be decided."""
        past = bisect_right(self._firsts, seen_us)
        if past < 2 and len(self._firsts) > MAX_RANGES:
            past = len(self._firsts)
        if past < 2:
            return False
        self._join(min(range(past - 1), key=lambda i: self._firsts[i + 1] - self._lasts[i]))
        return True
