"""What the benchmarks run: importable, so that every system pickles it by reference."""

from __future__ import annotations

import os


def echo(x: int) -> tuple[int, int]:
    """The argument, and who ran it."""
    return x, os.getpid()
