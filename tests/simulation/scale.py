"""A smaller world. Rules of this file: sizes only; what takes megabytes outside takes kilobytes here.

Windows, batches and inline limits are the same figures, divided: their edges are met by a few hundred jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from tests.simulation.work import LARGE_BYTES

CHUNK_BYTES = 1024
BATCH_BYTES = 4 * 1024
MAX_BATCH = 40

_SIZES: dict[str, int] = {
    "cluster.blobs.CHUNK_BYTES": CHUNK_BYTES,
    "cluster.client_session.BATCH_BYTES": BATCH_BYTES,
    "cluster.client_session.MAX_BATCH": MAX_BATCH,
    "cluster.client_session.INLINE_BYTES": LARGE_BYTES,
    "node.agent.BATCH_BYTES": BATCH_BYTES,
    "node.agent.MAX_BATCH": MAX_BATCH,
    "scheduler.clients.BATCH_BYTES": BATCH_BYTES,
    "scheduler.clients.MAX_BATCH": MAX_BATCH,
    "scheduler.coordinator.BATCH_BYTES": BATCH_BYTES,
    "scheduler.coordinator.MAX_BATCH": MAX_BATCH,
}


@contextmanager
def reduced() -> Iterator[None]:
    """The actors' sizes, divided while this is open."""
    patches = [mock.patch(name, size) for name, size in _SIZES.items()]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()
