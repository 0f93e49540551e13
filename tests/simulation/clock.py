"""Virtual time. Rules of this file: one heap, one order; what happens at one moment happens as it was asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Happening = Callable[..., None]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the world began."""
        self.happened = 0
        self._heap: list[tuple[float, int, Happening, tuple[Any, ...]]] = []
        self._number = 0

    def at(self, moment: float, happening: Happening, *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (max(moment, self.now), self._number, happening, args))

    def after(self, seconds: float, happening: Happening, *args: Any) -> None:
        self.at(self.now + seconds, happening, *args)

    def step(self) -> None:
        """Let the next thing happen; there always is one, since actors beat."""
        self.now, _, happening, args = heapq.heappop(self._heap)
        self.happened += 1
        happening(*args)
