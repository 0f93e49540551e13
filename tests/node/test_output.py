"""What jobs print goes on, up to a bound, and nobody waits for it but those who print."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node import worker as program
from node.output import MOST_BYTES, Output

PATIENCE_S = 30.0
WORD = f"\nganger: worker 71: what this job writes beyond {MOST_BYTES} bytes is left out here\n".encode()


class Worker:
    """A worker's two ends, its page, and what has come out."""

    pid = 71

    def __init__(self, output: Output) -> None:
        self.page = os.memfd_create("page")
        os.ftruncate(self.page, 4096)
        self.out, self.err = output.pipes(self, self.page)

    def begins(self, token: int) -> None:
        os.pwrite(self.page, program.PAGE.pack(token, program.USER_CODE), 0)

    def says(self, text: bytes, fd: int | None = None) -> None:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(self.out if fd is None else fd, rest) :]

    def close(self) -> None:
        for fd in (self.out, self.err, self.page):
            os.close(fd)


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "out", tmp_path / "err"


@pytest.fixture
def output(logs: tuple[Path, Path]) -> Iterator[Output]:
    fds = [os.open(log, os.O_WRONLY | os.O_CREAT) for log in logs]
    yield (output := Output((fds[0], fds[1])))
    output.close()
    for fd in fds:
        os.close(fd)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.002)


def test_either_stream_goes_where_the_nodes_own_goes(output: Output, logs: tuple[Path, Path]) -> None:
    worker = Worker(output)
    worker.says(b"one\n")
    worker.says(b"two\n", worker.err)
    worker.close()
    until(lambda: not output._streams)
    assert [log.read_bytes() for log in logs] == [b"one\n", b"two\n"]


def test_of_a_flood_the_beginning_is_kept_and_a_word_and_the_next_attempt_is_heard(
    output: Output, logs: tuple[Path, Path]
) -> None:
    worker, log = Worker(output), logs[0]
    worker.begins(1)
    for _ in range(100):
        worker.says(b"x" * MOST_BYTES)
    until(lambda: log.stat().st_size > MOST_BYTES)
    until(lambda: not select.select([*output._streams], [], [], 0)[0])
    for n in (1, 2):  # when the second is there, the round that took the last of the flood is over
        worker.says(b".", worker.err)
        until(lambda n=n: logs[1].stat().st_size == n)  # type: ignore[misc]
    worker.begins(2)
    worker.says(b"the next\n")
    worker.close()
    until(lambda: not output._streams)
    assert log.read_bytes() == b"x" * MOST_BYTES + WORD + b"the next\n"


def test_a_log_that_takes_nothing_holds_up_only_who_prints() -> None:
    read, write = os.pipe()
    output = Output((write, write))
    worker = Worker(output)
    os.set_blocking(worker.out, False)
    written = 0

    def blocked() -> bool:
        nonlocal written
        try:
            written += os.write(worker.out, bytes(4096))
            return False
        except BlockingIOError:
            time.sleep(0.01)
            return not select.select([], [worker.out], [], 0)[1]

    until(blocked)
    assert written < 3 * 65_536 + 4096
    another = Worker(output)
    worker.close()
    another.close()
    taken = b""
    while len(taken) < written:
        taken += os.read(read, 1 << 16)
    until(lambda: not output._streams)
    output.close()
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert taken == bytes(written)


def test_without_a_log_it_is_dropped() -> None:
    read, write = os.pipe()
    os.close(read)
    output = Output((write, write))
    worker = Worker(output)
    worker.says(b"x" * 200_000)
    worker.close()
    until(lambda: not output._streams)
    output.close()
    os.close(write)
