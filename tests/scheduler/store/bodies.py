"""The bodies that the suite is run on. A further one joins by a line in ``BODIES``, and no other place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scheduler.store import Store
from scheduler.store.sqlite import SqliteStore
from tests.scheduler.store.model import Disk, ModelStore

Opener = Callable[[], Store]
"""Opens the same rows each time. The store opened before is closed, or its process is dead."""


class Body(NamedTuple):
    opener: Callable[[Path], Opener]
    """For a fresh directory, which a body that keeps no files may take as a name."""
    survives: bool = True
    """Whether its rows outlive the process."""


def _model(directory: Path) -> Opener:
    disk = Disk()
    return lambda: ModelStore(disk)


BODIES: dict[str, Body] = {
    "model": Body(_model, survives=False),
    "sqlite": Body(lambda directory: lambda: SqliteStore(directory)),
    "sqlite, pages of up to 3": Body(lambda directory: lambda: SqliteStore(directory, sizes=(1, 3))),
    "sqlite, pages of 2 to 5": Body(lambda directory: lambda: SqliteStore(directory, sizes=(2, 5))),
}


def open_in_child(name: str, directory: str) -> Store:
    """What a child process calls, which is given texts only."""
    return BODIES[name].opener(Path(directory))()
