"""The worker program, spoken to over its pipe: what user code finds there, and what it cannot do to the loop."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

from cluster import payload
from cluster.jobs import End, Failure
from node import worker as program

pytestmark = pytest.mark.system

PATIENCE_S = 30.0

JOBS = """
import asyncio, importlib.util, os, sys, threading, time

def stage():
    import __main__
    return sys.argv, sorted(vars(__main__)), __main__.__name__, sys.path, os.getsid(0) == os.getpid()

def users_node():
    import node
    return node.WHOSE

def ours(name):
    found = importlib.util.find_spec(name)
    try:
        __import__(name)
    except ModuleNotFoundError as e:
        return found, type(e) is ModuleNotFoundError, str(e), e.name

def imports(name): return __import__(name)

def users_part():
    import node.part
    return node.part.WHOSE, sorted(node.__path__)

def keep_in_main(value):
    import __main__
    __main__.kept = value

def main_names():
    import __main__
    return __main__.kept

def print_half_a_line():
    print("half a line", end="")

def close_stdout():
    sys.stdout.close()

def close_fd_1():
    os.close(1)
    time.sleep(0.001)               # shorter, it would be looked for some jobs later

def replace_stdout():
    import io
    sys.stdout = io.StringIO()

def stdout_name(): return sys.stdout.name

class Loud(Exception):
    def __str__(self): raise SystemExit(1)

def raise_loud(): raise Loud

class Stubborn:
    def __reduce__(self): raise KeyboardInterrupt

def return_stubborn(): return Stubborn()
def return_lock(): return threading.Lock()
async def interrupted_coroutine(): raise KeyboardInterrupt
async def fails_deep():
    await asyncio.sleep(0)
    raise LookupError("deep")
def recurse(n=0): return recurse(n + 1)
def block(started, release):
    with open(started, "w"): pass
    with open(release) as f: return f.read()
def calls(counter=[]): counter.append(1); return len(counter)
def sees(loaded=None):
    import cluster
    names = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
    return loaded, [os.environ.get(name) for name in names], cluster.current_job().gpus
"""


class Wire:
    def __init__(self, root: Path, path: Sequence[Path] = ()) -> None:
        (root / "jobs.py").write_text(JOBS)
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(PATIENCE_S)
        page_fd = os.memfd_create("page")
        os.ftruncate(page_fd, mmap.PAGESIZE)
        self.page = mmap.mmap(page_fd, mmap.PAGESIZE)
        self.log = (root / "log").open("w+b")
        with (root / "start").open("w+b") as complaints:
            stack_fd = os.memfd_create("stack")
            start = program.Start(
                theirs.fileno(), page_fd, stack_fd, self.log.fileno(), os.getpid(), 1 << 20, str(root), "n1"
            )
            self.process = subprocess.Popen(
                [sys.executable, "-P", program.__file__, *start.argv()],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=complaints,
                pass_fds=(start.socket_fd, start.page_fd, start.stack_fd, start.stderr_fd),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, root]))},
            )
        theirs.close()
        os.close(page_fd)
        os.close(stack_fd)
        assert self.receive()[0] == 0

    def receive(self) -> tuple[Any, ...]:
        fields: tuple[Any, ...] = msgpack.unpackb(self.ours.recv(1 << 20), use_list=False)
        return fields

    def send(self, name: str, *args: Any, token: int = 1, code: bytes = b"", start_by: float = 0.0) -> None:
        self.send_packed(code or f"cjobs\n{name}\n.".encode(), payload.pack_call(args, {}), token, start_by)

    def send_packed(
        self,
        code: bytes,
        arguments: bytes | payload.LargePayload,
        token: int = 1,
        start_by: float = 0.0,
        about: bytes = b"",
        gpus: Sequence[str] = (),
    ) -> None:
        self.ours.send(msgpack.packb((token, b"j" * 16, 1, False, code, arguments, b"", start_by, about, 0, 0, gpus)))

    def call(self, name: str, *args: Any, code: bytes = b"") -> Any:
        self.send(name, *args, code=code)
        token, outcome, result, _, *extras = self.receive()
        assert token == 1 and (not extras or extras[0] is None)
        return Failure.decode(result) if outcome else payload.unpack_result(result)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self.ours.close()
        self.page.close()
        self.log.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    w = Wire(tmp_path)
    yield w
    w.close()


def test_the_stage_is_empty_and_a_session_of_its_own(wire: Wire) -> None:
    argv, names, name, path, leads_session = wire.call("stage")
    assert (argv, name, leads_session) == ([""], "__main__", True)
    assert "Worker" not in names and "main" not in names
    assert os.path.dirname(program.__file__) not in path


def test_main_is_the_users_and_lasts(wire: Wire) -> None:
    wire.call("keep_in_main", 5)
    assert wire.call("main_names") == 5


def test_a_users_node_module_is_theirs(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "node.py").write_text("WHOSE = 'the user'")
    assert wire.call("users_node") == "the user"


def test_a_users_node_package_is_theirs(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "__init__.py").write_text("WHOSE = 'the package'")
    (tmp_path / "node" / "part.py").write_text("WHOSE = 'the part'")
    assert wire.call("users_node") == "the package"
    assert wire.call("users_part") == ("the part", [str(tmp_path / "node")])


def copy_of_ours(directory: Path) -> Path:
    for file in ("cluster/payload.py", "scheduler/coordinator.py", "node/worker.py"):
        path = directory / file
        path.parent.mkdir(parents=True)
        (path.parent / "__init__.py").touch()
        path.touch()
    return directory


def test_a_users_node_is_found_behind_ours(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    copy_of_ours(first)
    for portion in (second, third):  # a namespace package in two portions
        (portion / "node").mkdir(parents=True)
    (third / "node" / "part.py").write_text("WHOSE = 'the portion'")
    root = Path(program.__file__).parent.parent
    with contextlib.closing(Wire(tmp_path, [root, first, second, third])) as wire:
        assert wire.call("users_part") == ("the portion", [str(second / "node"), str(third / "node")])


def test_a_users_node_is_found_beside_ours(tmp_path: Path) -> None:
    here = copy_of_ours(tmp_path / "here")
    (here / "node.py").write_text("WHOSE = 'the file beside'")
    with contextlib.closing(Wire(tmp_path, [here])) as wire:
        assert wire.call("users_node") == "the file beside"
        assert wire.call("ours", "scheduler")[0] is None


@pytest.mark.parametrize("name", ["node", "scheduler"])
def test_our_packages_are_not_there_for_a_job(wire: Wire, name: str) -> None:
    assert wire.call("ours", name) == (None, True, f"No module named {name!r}", name)


def test_a_module_the_node_does_not_have_is_named_with_what_to_do(wire: Wire) -> None:
    what_to_do = "the module 'nosuchmodule' cannot be imported on node n1; install it there, or "
    failure = wire.call("f", code=b"cnosuchmodule\nf\n.")
    assert failure.kind == "SerializationError" and what_to_do in failure.text
    failure = wire.call("imports", "nosuchmodule")
    assert failure.kind == "ModuleNotFoundError" and failure.text == "No module named 'nosuchmodule'"
    assert what_to_do in failure.traceback


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        ("raise_loud", "jobs.Loud"),
        ("return_lock", "SerializationError"),
        ("return_stubborn", "JobExited"),
        ("interrupted_coroutine", "JobExited"),
        ("recurse", "RecursionError"),
        ("missing", "SerializationError"),
    ],
)
def test_whatever_a_job_does_short_of_dying_fails_it_alone(wire: Wire, job: str, kind: str) -> None:
    assert wire.call(job).kind == kind
    assert wire.call("calls") == 1


class Sees:
    """What looks when it is loaded, as modules do that ask for devices when they are imported."""

    def __reduce__(self) -> Any:
        return os.getenv, ("CUDA_VISIBLE_DEVICES",)


def test_a_job_sees_its_own_graphics_processors_while_it_is_loaded_too_and_its_worker_leaves(wire: Wire) -> None:
    hidden = [os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("HIP_VISIBLE_DEVICES")]
    assert wire.call("sees") == (None, hidden, ())
    wire.send_packed(b"cjobs\nsees\n.", payload.pack_call((Sees(),), {}), gpus=("3", "GPU-5"))
    _, end, result, _, large, _, _, leaving = wire.receive()
    assert (end, large, leaving) == (End.SUCCEEDED, None, "its job had graphics processors")
    assert payload.unpack_result(result) == ("3,GPU-5", ["3,GPU-5", "3,GPU-5"], ("3", "GPU-5"))
    assert wire.process.wait(PATIENCE_S) == 0


def test_arguments_that_do_not_load_fail_the_job_alone(wire: Wire) -> None:
    wire.ours.send(msgpack.packb((1, b"", 1, False, b"cjobs\ncalls\n.", b"junk")))
    failure = Failure.decode(wire.receive()[2])
    assert failure.kind == "SerializationError" and "arguments" in failure.text
    assert wire.call("calls") == 1


def test_a_traceback_begins_with_the_users_code(wire: Wire) -> None:
    failure = wire.call("fails_deep")
    assert failure.kind == "LookupError"
    frames = [line for line in failure.traceback.splitlines() if line.startswith("  File")]
    assert len(frames) == 1 and "fails_deep" in frames[0]


def test_a_function_is_loaded_once(wire: Wire) -> None:
    assert [wire.call("calls") for _ in range(3)] == [1, 2, 3]


def test_a_class_by_value_is_as_it_was_when_the_job_was_handed_in(wire: Wire) -> None:
    class Settings:
        value = 0

    def value() -> int:
        return Settings.value

    def value_of(settings: Settings) -> int:
        return settings.value

    codes, settings = [], []
    for Settings.value in (1, 2):
        codes.append(payload.pack_function(value).code)
        settings.append(payload.pack_call((Settings(),), {}))
    for i in (0, 1, 0, 1, 1, 0):
        assert wire.call("", code=codes[i]) == i + 1
    for i in (0, 1, 0):
        wire.send_packed(payload.pack_function(value_of).code, settings[i])
        assert payload.unpack_result(wire.receive()[2]) == i + 1
        assert wire.call("", code=codes[1 - i]) == 2 - i


def test_an_interrupt_between_jobs_is_ignored(wire: Wire) -> None:
    for n in range(1, 20):
        os.kill(wire.process.pid, signal.SIGINT)
        assert wire.call("calls") == n


def test_the_page_tells_that_user_code_of_this_attempt_runs(wire: Wire, tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    os.mkfifo(started)
    os.mkfifo(release)
    wire.send("block", str(started), str(release), token=78)
    started.open().close()
    token, phase = program.PAGE.unpack_from(wire.page)
    assert (token, phase) == (78, program.USER_CODE)
    release.open("w").close()
    assert wire.receive()[0] == 78


def test_output_is_flushed_before_the_result_is_sent(wire: Wire, tmp_path: Path) -> None:
    wire.call("print_half_a_line")
    assert (tmp_path / "log").read_text() == "half a line"


@pytest.mark.parametrize("job", ["close_stdout", "close_fd_1"])
def test_a_worker_whose_stdout_was_closed_is_not_for_the_next_job(wire: Wire, job: str) -> None:
    wire.send(job)
    token, end, *_, leaving = wire.receive()
    assert (token, end) == (1, 0) and "closed" in leaving
    assert wire.process.wait(PATIENCE_S) == 0


def test_a_replaced_stdout_is_put_back(wire: Wire) -> None:
    wire.call("replace_stdout")
    assert wire.call("stdout_name") == "<stdout>"


def test_the_end_of_the_pipe_ends_the_worker(wire: Wire) -> None:
    wire.ours.close()
    assert wire.process.wait(PATIENCE_S) == 0


def test_a_worker_whose_parent_is_another_leaves_at_once(tmp_path: Path) -> None:
    start = program.Start(0, 0, 0, 2, os.getpid() + 1, 0, str(tmp_path), "n")
    argv = [sys.executable, "-P", program.__file__, *start.argv()]
    assert subprocess.run(argv, timeout=PATIENCE_S).returncode == 1


def test_a_crash_leaves_its_stack_in_the_log(wire: Wire, tmp_path: Path) -> None:
    wire.send("", 0, code=b"cctypes\nstring_at\n.")
    fd = os.pidfd_open(wire.process.pid)
    assert select.select([fd], [], [], PATIENCE_S)[0]
    os.close(fd)
    assert "Segmentation fault" in (tmp_path / "log").read_text()
