"""How old is what was kept. Rules of this file: a pure book; a clock that runs ahead makes nothing older.

What is kept is stamped by the wall clock. Where that is set forward, or nobody was there to look at it, a time passes
that was not lived: it is counted to the age of nothing that lay before it. Where the clock is set back, things stay
longer.
"""

from __future__ import annotations

import msgpack

SETTING = "unlived"

MOST = 64
"""Such times that are told apart; the oldest of more count as one, that ended when the last of them did."""


class Ages:
    def __init__(self, packed: bytes | None = None) -> None:
        self._unlived: list[tuple[float, float]] = []
        """When each was over, by the wall clock, and how long it was. The oldest first."""
        if packed:
            self._unlived = [(ended, seconds) for ended, seconds in msgpack.unpackb(packed)]

    def unlived(self, seconds: float, wall: float) -> bytes:
        """So much was not lived, up to now; how all of it is kept."""
        self._unlived.append((wall, seconds))
        if len(self._unlived) > MOST:
            (_, first), (ended, second) = self._unlived[:2]
            self._unlived[:2] = [(ended, first + second)]
        return bytes(msgpack.packb(self._unlived))

    def before(self, keep_s: float, wall: float) -> float:
        """The stamp before which all is older than that."""
        unlived = 0.0
        for i in range(len(self._unlived) - 1, -1, -1):
            ended, seconds = self._unlived[i]
            if wall - ended - unlived > keep_s:
                del self._unlived[: i + 1]  # what was kept before it is that old, too
                break
            unlived += seconds
        return wall - unlived - keep_s
