"""Forks workers. Rules of this file: a program of its own, started by path; one thread; it knows no job.

The agent's pool starts one for each environment. It loads what all workers need once, and forks a worker from that in
milliseconds, sharing the memory. It alone can reap them, so it tells how they ended and what they used. It inherits
what dead workers leave running, kills that, and only then tells of the death.

Over a socket pair that keeps packets apart comes a number, with four descriptors: pipe, shared page, stack file,
complaints file. Out goes (BORN, number, pid) with a descriptor of the process, or (FAILED, number, text); and later
(DEAD, pid, wait status, cpu_us, peak_kib). When the pair ends, the agent is gone: everything is killed, again and again
until no child is left.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgpack

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(_HERE)
if __name__ == "__main__":  # ours, whatever else is called so
    sys.path.insert(0, _ROOT)

from cluster import containment, trees  # noqa: E402

if TYPE_CHECKING:
    from node import worker as program

BORN, FAILED, DEAD = range(3)
MAX_PACKET = 4096
DESCRIPTORS = 6

_SWEEP_S = 0.002
"""Pause between two looks for what dead workers have left."""

_HELD_S = 3.0
"""A death is told no later than this, whatever cannot be killed."""

_END_S = 30.0
"""What is not gone so long after the agent hangs in the kernel."""


_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Environment(NamedTuple):
    """What the pool tells a zygote on its command line, as JSON."""

    control_fd: int
    stderr_fd: int
    max_blob_bytes: int
    blob_dir: str
    node: str
    temp_dir: str
    preload: tuple[str, ...] = ()
    init: str = ""
    fork: bool = True
    """Else each worker is a new interpreter, which loads all by itself."""
    max_jobs: int = 0
    max_age_s: float = 0.0
    max_left_bytes: int = 0
    contained: bool = False
    hidden: tuple[str, ...] = ()
    """What a contained worker does not find."""

    def argv(self) -> list[str]:
        return [json.dumps(self)]

    @staticmethod
    def from_argv(argv: Sequence[str]) -> Environment:
        return Environment._make(tuple(field) if isinstance(field, list) else field for field in json.loads(argv[0]))


class _Dead(NamedTuple):
    report: bytes
    told_by: float


class Zygote:
    def __init__(self, control: socket.socket, environment: Environment, worker: Any) -> None:
        self._control = control
        self._environment = environment
        self._program = worker
        self._pid = os.getpid()
        self._workers: dict[int, int] = {}
        """Process by its descriptor."""
        self._dead: list[_Dead] = []
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._culprit = ""
        """Module whose import has started threads."""

    def load(self) -> None:
        """Import what all workers need, if they are forked. Raises ``CannotStart``."""
        if not self._environment.fork:
            return
        if _threads() > 1:
            self._culprit = "sitecustomize, or whatever else Python imports at its start,"
        for name in self._environment.preload:
            self._program.preload([name])
            if not self._culprit and _threads() > 1:
                self._culprit = repr(name)
        gc.collect()
        gc.freeze()  # or the first collection in each worker would copy all that is shared

    def run(self) -> NoReturn:
        while True:
            for fd, _ in self._poll.poll(_SWEEP_S * 1000 if self._dead else None):
                if fd == self._control.fileno():
                    self._hear()
                elif fd in self._workers:
                    self._bury(fd)
            if self._dead:
                self._sweep()

    # -- births -------------------------------------------------------------------------------------

    def _hear(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET, DESCRIPTORS)
        except OSError:
            data, fds = b"", []
        if not data:
            self._end()
        number = msgpack.unpackb(data)
        try:
            pid = self._fork(fds) if self._environment.fork else self._spawn(fds)
        except (OSError, self._program.CannotStart) as e:
            self._tell(FAILED, number, str(e))
            return
        finally:
            for fd in fds:
                os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [msgpack.packb((BORN, number, pid))], [pidfd])

    def _start(self, fds: Sequence[int]) -> program.Start:
        to = self._environment
        pipe, page, stack, _, _, stderr_fd = fds
        start: program.Start = self._program.Start(
            pipe, page, stack, stderr_fd, self._pid, to.max_blob_bytes, to.blob_dir, to.node, to.temp_dir,
            () if to.fork else to.preload, to.init, to.max_jobs, to.max_age_s, to.max_left_bytes,
        )  # fmt: skip
        return start

    def _fork(self, fds: Sequence[int]) -> int:
        began_at = time.monotonic()
        if (count := _threads()) > 1:
            culprit = self._culprit or "something that was preloaded"
            raise self._program.CannotStart(
                f"a process of {count} threads must not be forked, and importing {culprit} has started some:"
                " do not preload it, or start workers with --start spawn"
            )
        sys.stdout.flush()
        sys.stderr.flush()
        contained = self._environment.contained
        pid = containment.fork() if contained else os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            for signum in _DEAF_TO:
                signal.signal(signum, signal.SIG_DFL)
            if contained:
                trees.tie_to(self._pid, lambda: containment.number_outside()[1])
            else:
                trees.tie_to(self._pid)
            os.dup2(fds[3], 2)
            os.dup2(fds[4], 1)
            os.close(fds[3])
            os.close(fds[4])
            self._control.close()
            for pidfd in self._workers:
                os.close(pidfd)
            start = self._start(fds)
            if contained:
                start = self._closed_in(start)
            if "numpy.random" in sys.modules:  # Python's own has been seeded again by the fork
                sys.modules["numpy.random"].seed()
            self._program.begin(start, began_at)
        except BaseException as e:
            os.write(2, f"{type(e).__name__}: {e}".encode(errors="replace"))
        finally:
            os._exit(1)

    def _closed_in(self, start: program.Start) -> program.Start:
        number, _ = containment.number_outside()
        own = os.path.join(self._environment.temp_dir, str(number))
        containment.close_in(self._environment.temp_dir, own, [self._environment.blob_dir])
        return start._replace(number=number)

    def _spawn(self, fds: Sequence[int]) -> int:
        start = self._start(fds)
        popen = subprocess.Popen(
            [sys.executable, "-P", self._program.__file__, *start.argv()],
            stdin=subprocess.DEVNULL,
            stdout=fds[4],
            stderr=fds[3],
            pass_fds=(start.socket_fd, start.page_fd, start.stack_fd, start.stderr_fd),
            start_new_session=True,
        )
        popen.returncode = 0  # it is ours to reap
        return popen.pid

    # -- deaths -------------------------------------------------------------------------------------

    def _bury(self, pidfd: int) -> None:
        pid = self._workers[pidfd]
        reaped, status, used = os.wait4(pid, os.WNOHANG)
        if not reaped:
            return
        del self._workers[pidfd]
        self._poll.unregister(pidfd)
        os.close(pidfd)
        cpu_us = int((used.ru_utime + used.ru_stime) * 1e6)
        report = msgpack.packb((DEAD, pid, os.waitstatus_to_exitcode(status), cpu_us, used.ru_maxrss))
        self._dead.append(_Dead(report, time.monotonic() + _HELD_S))
        if self._environment.temp_dir:
            shutil.rmtree(os.path.join(self._environment.temp_dir, str(pid)), ignore_errors=True)

    def _sweep(self) -> None:
        """Whoever is our child and no worker has outlived one."""
        left = trees.descendants(self._pid, set(self._workers.values()))
        now = time.monotonic()
        trees.kill(left, now < self._dead[0].told_by - _HELD_S + trees.TRACKER_S)
        trees.reap(left)
        if not left:
            for dead in self._dead:
                self._send(dead.report)
            self._dead.clear()
        while self._dead and now > self._dead[0].told_by:
            self._send(self._dead.pop(0).report)

    def _end(self) -> NoReturn:
        trees.clear(_END_S)
        if self._environment.temp_dir:
            shutil.rmtree(self._environment.temp_dir, ignore_errors=True)
        os._exit(0)

    def _tell(self, *what: Any) -> None:
        self._send(msgpack.packb(what))

    def _send(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # the end of the pair is heard in its turn
            self._control.send(packet)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _load_program() -> Any:
    """Our ``worker.py``, under a name that is in nobody's way."""
    path = os.path.join(_HERE, "worker.py")
    spec = importlib.util.spec_from_file_location("__ganger_worker__", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(argv: Sequence[str]) -> NoReturn:
    environment = Environment.from_argv(argv)
    os.set_inheritable(environment.control_fd, False)
    os.set_inheritable(environment.stderr_fd, False)
    trees.become_subreaper()
    trees.no_new_privileges()
    control = socket.socket(fileno=environment.control_fd)
    for number in _DEAF_TO:
        signal.signal(number, lambda *_: None)  # a handler, since what is ignored is so for children too
    sys.path.insert(0, _ROOT)
    worker = _load_program()
    sys.path.remove(_ROOT)
    worker.clear_the_stage("__ganger_zygote__")
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    zygote = Zygote(control, environment, worker)
    try:
        if environment.contained:
            containment.enter(environment.hidden, [environment.blob_dir, environment.temp_dir])
        zygote.load()
    except (OSError, worker.CannotStart) as e:
        os.write(2, str(e).encode(errors="replace"))
        os._exit(1)
    if complaints := os.pread(2, 1 << 16, 0):
        os.write(environment.stderr_fd, complaints)
    os.dup2(environment.stderr_fd, 2)
    os.close(environment.stderr_fd)
    zygote.run()


if __name__ == "__main__":
    sys.path.remove(_ROOT)
    main(sys.argv[1:])
