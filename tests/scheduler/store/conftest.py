"""Fixtures of the stores' tests: an opener for each body, and children that write and are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.store import Store
from tests.scheduler.store.bodies import BODIES, Opener

ROOT = Path(__file__).resolve().parents[3]

Child = subprocess.Popen[str]
StartChild = Callable[..., Child]


@pytest.fixture(params=list(BODIES))
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    return BODIES[request.param].opener(tmp_path)


@pytest.fixture
def reopen(opener: Opener) -> Iterator[Callable[[], Store]]:
    """Close the store that is open, as a crash would, and open it anew."""
    opened: list[Store] = []

    def again() -> Store:
        if opened:
            opened.pop().close()
        opened.append(opener())
        return opened[-1]

    yield again
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    return reopen()


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    """Run Python with arguments; its output comes by lines. None outlives its test."""
    children: list[Child] = []

    def start(code: str, *arguments: str) -> Child:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, *arguments]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture(params=[name for name, body in BODIES.items() if body.survives])
def lasting(request: pytest.FixtureRequest) -> str:
    """Name of a body whose rows outlive the process."""
    return str(request.param)
