"""A smaller world. Rules of this file: sizes only; what takes megabytes outside takes kilobytes here.

Windows, batches and inline limits are the same figures, divided: their edges are met by a few hundred jobs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from tests.simulation.work import LARGE_BYTES

SIZES = {
    "CHUNK_BYTES": 1024,
    "BATCH_BYTES": 4 * 1024,
    "MAX_BATCH": 40,
    "PRUNE_EVERY_S": 2.0,
    "PRUNE_SLICE": 10,
    "AHEAD": 8,
    "AHEAD_BYTES": 2 * 1024,
}
ROOMS = ("cluster.blobs", "cluster.client_session", "node.agent", "scheduler.")
"""Modules, or what their names begin with, whose sizes these are."""


@contextmanager
def reduced() -> Iterator[None]:
    """The actors' sizes, divided while this is open."""
    with ExitStack() as patches:
        for room, module in sorted(sys.modules.items()):
            if room.startswith(ROOMS):
                for name, size in SIZES.items():
                    if hasattr(module, name):
                        patches.enter_context(mock.patch.object(module, name, size))
        patches.enter_context(mock.patch("cluster.client_session.INLINE_BYTES", LARGE_BYTES))
        yield
