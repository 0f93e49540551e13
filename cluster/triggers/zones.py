"""What the wall clock of a time zone shows. Rules of this file: offsets in whole seconds; it knows no triggers.

``zoneinfo`` answers which offset holds at a moment, not when that changes. Here the time line of a zone is cut into
*stretches* of one offset. At a stretch's start the clock is put forward (a *gap*: wall times that are never shown)
or back (an *overlap*: wall times that are shown twice). Stretches are found by probing and then by halving, in
blocks of about a year, as they are asked for.

A moment here is a number of seconds since 1970 in UTC; a wall time is counted in the same way as if it were UTC.
"""

from __future__ import annotations

import difflib
import zoneinfo
from bisect import bisect_right
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

EPOCH = datetime(1970, 1, 1)
_SECOND = timedelta(seconds=1)

_BLOCK_BITS = 25
"""A block has 2**25 seconds: 388 days."""
_PROBE_S = 3 * 86_400
"""No zone has changed its offset twice within this since 1900: the nearest are 3.98 days apart (Freetown, 1939)."""
_BEHIND_S = 2 * 86_400
"""A block looks back so far: longer than any overlap, the longest of which is a day (Kwajalein, 1969)."""
_NOT_PLACES = ("localtime", "posixrules", "Factory", "posix/", "right/")
"""Names that mean another zone on another machine, or none."""
_FIXED = ("UTC", "Etc/UTC", "Zulu", "Etc/Zulu", "GMT", "Etc/GMT", "Universal", "UCT", "Etc/UCT")
"""Zones whose clock was never changed; others without changes in our days had some before."""


class ZoneUnknown(LookupError):
    """There is no such zone; the text names the nearest."""


class Stretch(NamedTuple):
    """A part of the time line with one offset, or what of it lies in one block."""

    start: int
    end: int
    """The first moment after it."""
    offset: int
    before: int
    """The offset just before the start; the same where only the block begins there."""


class Zone:
    """One time zone. Get it from ``find``: there is one object a name."""

    __slots__ = ("clock", "fixed", "name")

    def __init__(self, name: str, clock: zoneinfo.ZoneInfo) -> None:
        self.name = name
        self.clock = clock
        self.fixed = name in _FIXED

    def stretch(self, moment: int) -> Stretch:
        """The one with that moment in it."""
        starts, stretches = _block(self, moment >> _BLOCK_BITS)
        return stretches[bisect_right(starts, moment) - 1]

    def offset(self, moment: int) -> int:
        shown = datetime.fromtimestamp(moment, self.clock).utcoffset()
        assert shown is not None
        return shown // _SECOND


@lru_cache(maxsize=1024)
def find(name: str) -> Zone:
    """The zone of that IANA name; ``ZoneUnknown`` if there is none."""
    try:
        if name.startswith(_NOT_PLACES) or not name.isascii():
            raise ValueError
        return Zone(name, zoneinfo.ZoneInfo(name))
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):  # a directory, a path, a name of none
        near = nearest(name, _names())
        hint = f"; did you mean {near!r}?" if near else ""
        raise ZoneUnknown(f"{name!r} is no IANA time zone{hint}") from None


def nearest(word: str, words: list[str]) -> str:
    """The one of the words that was probably meant, or nothing."""
    by_fold = {w.casefold(): w for w in words}
    found = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    if not found:  # a city without its continent
        by_last = {w.rpartition("/")[2]: w for w in by_fold}
        found = [by_last[last] for last in difflib.get_close_matches(word.casefold(), by_last, n=1, cutoff=0.8)]
    return by_fold[found[0]] if found else ""


@lru_cache(maxsize=1)
def _names() -> list[str]:
    import importlib.resources  # slow to import, and for an error's hint only

    return importlib.resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()


@lru_cache(maxsize=8192)
def _block(zone: Zone, number: int) -> tuple[tuple[int, ...], tuple[Stretch, ...]]:
    """Starts and stretches of one block, without a break between them."""
    begin = (number << _BLOCK_BITS) - _BEHIND_S
    end = (number + 1) << _BLOCK_BITS
    cuts: list[tuple[int, int]] = [(begin, zone.offset(begin))]
    at, offset = cuts[0]
    while at < end:
        probe = min(at + _PROBE_S, end)
        shown = zone.offset(probe)
        if shown != offset:
            same, other = at, probe
            while other - same > 1:
                middle = (same + other) // 2
                if zone.offset(middle) == offset:
                    same = middle
                else:
                    other = middle
            cuts.append((other, shown))
        at, offset = probe, shown
    befores = [cuts[0][1], *(o for _, o in cuts)]
    ends = [*(start for start, _ in cuts[1:]), end]
    stretches = [Stretch(start, until, o, b) for (start, o), until, b in zip(cuts, ends, befores, strict=False)]
    stretches = [s for s in stretches if s.start < s.end]
    return tuple(s.start for s in stretches), tuple(stretches)
