"""What jobs do in tests of metrics: each ends as is known beforehand. Rules of this file: nothing but that."""

from __future__ import annotations

import os
import time

from cluster import current_job


def well(n: int) -> int:
    return n + 1


def works(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def fails() -> None:
    raise ValueError("as it does each time")


def fails_twice() -> int:
    job = current_job()
    assert job is not None
    if job.attempt < 3:
        raise ConnectionError("not yet")
    return job.attempt


def crashes() -> None:
    os._exit(3)
