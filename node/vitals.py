"""What the agent measures of its machine. Rules of this file: cheap reads, plain numbers, no opinion."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from node.agent import VitalsTaken

EVERY_S = 1.0


def measure() -> dict[str, Any]:
    """``load``: runnable processes a core (1 min); ``memory_free_bytes``: available memory, by the kernel."""
    out: dict[str, Any] = {"load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 3)}
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    out["memory_free_bytes"] = int(line.split()[1]) * 1024
                    break
    except OSError:
        pass
    return out


class Vitals:
    """A source without descriptors: measures when a turn comes by and the last figures are old."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken_at = float("-inf")

    def pollables(self) -> list[int]:
        return []

    def drain(self, limit: int) -> tuple[list[Any], bool]:
        now = self._clock()
        if now - self._taken_at < EVERY_S:
            return [], True
        self._taken_at = now
        return [VitalsTaken(measure())], True
