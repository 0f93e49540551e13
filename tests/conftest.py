"""One source of chance, one kind of Ctrl-C, and no store left open. Rules of this file: what every test stands on.

A run repeats the last one, unless it is asked to explore. A shell that starts it in the background has interrupts
ignored, and programs under test would inherit that: so they are heard again here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from scheduler.store.sqlite import SqliteStore

signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("GANGER_TESTS_EXPLORE") else "steady")


@pytest.fixture(autouse=True)
def _no_store_is_left_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many tests leave one as a killed process does; from Python 3.13 on that is an error at some later test."""
    opened: list[SqliteStore] = []
    prepare = SqliteStore._prepare

    def noted(store: SqliteStore) -> None:
        prepare(store)
        opened.append(store)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "_prepare", noted)
        yield
    for store in opened:
        store.close()
