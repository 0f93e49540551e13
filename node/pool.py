"""The agent's worker processes. Rules of this file: how they are started, fed, read and buried; never when.

A port of the host: one descriptor to poll, ``drain`` for what happened, ``perform`` for what shall. Nothing in
it waits, but for the start of the zygote. That forks the workers and tells how they ended; the pool starts another one
when it is gone, and its workers with it.

A worker is fed through a socket pair that keeps packets apart, one packet an attempt. The pool keeps *both*
ends. So it takes work back by reading what the worker has not read yet, and the kernel sees to it that each
packet has one reader. After a death it reads first the results left behind, then the packets never read;
what was given and is in neither is the one attempt that the worker died with.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import mmap
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

import msgpack

from cluster import trees
from cluster.config import INLINE_BYTES, MAX_BLOB_BYTES
from cluster.jobs import AS_USUAL, End, Failure, Rules
from node import worker as program
from node import zygote
from node.events import (
    Done,
    Give,
    InterruptWorker,
    KillWorker,
    Look,
    Recall,
    Recalled,
    Run,
    Seen,
    SpawnWorker,
    StateSaved,
    WorkerDone,
    WorkerGone,
    WorkerUp,
)
from node.groups import Group, Groups
from node.output import Output

Effect = SpawnWorker | Give | Recall | KillWorker | InterruptWorker | Look
Event = WorkerUp | WorkerDone | Recalled | WorkerGone | StateSaved | Seen

_PIPE_BYTES = 1 << 20
"""Asked for each direction; the kernel may give less, and always enough for the largest packet."""

_PAYLOAD_BYTES = 2 * INLINE_BYTES
"""Bound of what a worker answers: an inline result, or a failure."""

_BACKLOG_MAX = 1024
"""Packets kept for a full pipe; more are recalled at once. The agent's own bound is far below."""

_LAST_PACKETS = 65_536
"""Read after a death: more than a pipe holds, and an end, should something that got away still write."""

_COMPLAINT_BYTES = 2000
"""Of what a worker said on standard error before it failed to start, the last."""

_PACK = msgpack.Packer().pack
"""``packb`` makes a new packer each time, with a megabyte of buffer."""

_STACK_BYTES = 16 * 1024
"""Of a stack that was written down."""

_ADOPTED_WITHIN_S = 3.0
"""Time to kill what a dead zygote has left; what is not gone then is killed at the end."""

_OUR_FILES = tuple(f'File "{file}"' for file in (program.__file__, zygote.__file__))
"""Whose frames in a stack are of no interest."""

_CLOSE_S = 5.0
"""A process that is not gone so long after SIGKILL hangs in the kernel, and is left to it."""


BASIC_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR", "PYTHON*", "VIRTUAL_ENV"),
    *("LD_LIBRARY_PATH", "CUDA_*", "NVIDIA_*", "ROCR_*", "HIP_*", "SSL_CERT_*", "*_proxy", "*_PROXY", "XDG_*_HOME"),
    *program.THREAD_COUNTS,
)
"""Variables that workers have whatever else is kept from them."""


class _Process:
    """One worker, from the request for it to its burial."""

    def __init__(self, slot: int, output: Output) -> None:
        self.slot = slot
        self.pid = 0
        """Until the zygote has told."""
        self.pidfd = -1
        with contextlib.ExitStack() as undo:
            self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self.ours.close)
            undo.callback(self.theirs.close)
            for end in (self.ours, self.theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
            self.page_file = _file(undo, "ganger-page")
            self.page_file.truncate(mmap.PAGESIZE)
            self.page = mmap.mmap(self.page_file.fileno(), mmap.PAGESIZE)
            undo.callback(self.page.close)
            self.stack_file = _file(undo, "ganger-stack")
            self.complaints = _file(undo, "ganger-start")
            self.output: tuple[int, ...] = output.pipes(self, self.page_file.fileno())
            undo.pop_all()
        sndbuf = self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.packet_max = min(program.MAX_PACKET, sndbuf - 64)
        self.up = False
        self.given: dict[int, None] = {}
        """Tokens without an answer, in order, with those in the backlog."""
        self.backlog: deque[tuple[int, bytes]] = deque()
        self.fault = ""
        """What it sent that no worker sends."""
        self.killed = False
        self.refused = ""
        """Why it may not be given work."""
        self.group: Group | None = None
        """Since its first job with limits."""
        self.rules: Rules | None = None
        """Limits of what it runs, if it has any,"""
        self.base_bytes = 0
        """...and its memory before."""
        self.leaving = ""
        """Why it is replaced, by its own word."""
        self.parent_died = "its status is unknown"
        """In words, once its zygote has."""

    @property
    def fds(self) -> list[int]:
        """For the worker, in the zygote's order."""
        files = (self.theirs, self.page_file, self.stack_file, self.complaints)
        return [*(file.fileno() for file in files), *self.output]

    def let_output_go(self) -> None:
        """It has its ends: when it closes them, there is no other."""
        for fd in self.output:
            os.close(fd)
        self.output = ()

    def signal(self, number: int) -> None:
        """By descriptor, so that it never reaches another that has got its process number."""
        if self.pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.killed = True
        self.signal(signal.SIGKILL)

    def stack(self) -> str:
        """As it was when it was asked for."""
        said = os.pread(self.stack_file.fileno(), _STACK_BYTES, 0).decode(errors="replace")
        return "\n".join(line for line in said.splitlines() if not any(file in line for file in _OUR_FILES))

    def close(self) -> None:
        self.page.close()
        for file in (self.page_file, self.stack_file, self.complaints):
            file.close()
        self.ours.close()
        self.theirs.close()
        self.let_output_go()
        if self.pidfd >= 0:
            os.close(self.pidfd)


def _file(undo: contextlib.ExitStack, name: str) -> IO[bytes]:
    file = open(os.memfd_create(name), "r+b", buffering=0)  # noqa: SIM115
    undo.callback(file.close)
    return file


def _last_words(file: IO[bytes]) -> str:
    size = os.fstat(file.fileno()).st_size
    said = os.pread(file.fileno(), _COMPLAINT_BYTES, max(0, size - _COMPLAINT_BYTES))
    return said.decode(errors="replace").strip()


class _Zygote:
    """The process that forks the workers, seen from here."""

    def __init__(self, environment: zygote.Environment, env: Mapping[str, str], cwd: str | None) -> None:
        with contextlib.ExitStack() as undo:
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self.control.close)
            self.control.setblocking(False)
            with theirs, open(os.dup(2), "wb", buffering=0) as stderr:
                self.complaints = _file(undo, "ganger-start")
                started = environment._replace(control_fd=theirs.fileno(), stderr_fd=stderr.fileno())
                self.popen = subprocess.Popen(
                    [sys.executable, "-P", zygote.__file__, *started.argv()],
                    stdin=subprocess.DEVNULL,
                    stderr=self.complaints,
                    pass_fds=(started.control_fd, started.stderr_fd),
                    start_new_session=True,
                    env=env,
                    cwd=cwd,
                )
            undo.callback(self.popen.wait)
            undo.callback(self.popen.kill)
            self.pidfd = os.pidfd_open(self.popen.pid)
            undo.pop_all()
        self.requests = 0
        self.unborn: dict[int, _Process] = {}
        """By the number of the request."""
        self.workers: dict[int, _Process] = {}
        """By process number."""

    def ask(self, worker: _Process) -> None:
        """Have it forked. Raises ``OSError``, but not if the zygote is dead: of that its death has more to say."""
        self.requests += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self.control, [_PACK(self.requests)], worker.fds)
        self.unborn[self.requests] = worker

    def close(self) -> None:
        """It ends all workers and itself when its end of the pair is alone."""
        self.control.close()
        gone = select.poll()
        gone.register(self.pidfd, select.POLLIN)
        if not gone.poll(_CLOSE_S * 1000):
            self.popen.kill()
            gone.poll(_CLOSE_S * 1000)
        self.popen.poll()
        self.let_go()

    def let_go(self) -> None:
        self.control.close()
        self.complaints.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class _Death(NamedTuple):
    status: int | None
    """As of ``waitpid``; None where nobody could tell."""
    cpu_us: int
    peak_kib: int


class WorkerPool:
    """Workers by slot. ``env`` is added to the environment they inherit; ``blob_dir`` holds blobs by hash."""

    def __init__(
        self,
        blob_dir: str,
        node: str,
        *,
        max_blob_bytes: int = MAX_BLOB_BYTES,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        preload: Sequence[str] = (),
        init: str = "",
        fork: bool = True,
        max_jobs: int = 0,
        max_age_s: float = 0.0,
        max_left_bytes: int = 0,
        adopts: bool = False,
        passed: Sequence[str] | None = None,
        contained: Rules | None = None,
        hidden: Sequence[str] = (),
    ) -> None:
        """``preload``: modules that the zygote imports once; ``init``: ``package.module:function`` that each worker
        calls before its first job. Not ``fork``: each worker is an interpreter of its own. A worker is replaced after
        ``max_jobs``, at ``max_age_s``, or when ``max_left_bytes`` more than at its start stay with it; 0: never.
        ``passed``: patterns of the variables that workers get of this process, beside those that programs need to run;
        None: they get all. ``contained``: each worker is closed in, does not find what is ``hidden``, and has at least
        these limits. ``adopts``: this process has no children but ours, so whatever becomes its child is killed.
        """
        self._blob_dir = os.path.abspath(blob_dir)
        self._node = node
        patterns = ["*"] if passed is None else [*BASIC_VARIABLES, *passed]
        inherited = {k: v for k, v in os.environ.items() if any(fnmatch.fnmatchcase(k, p) for p in patterns)}
        self._env = {**inherited, **(env or {})}
        self._cwd = cwd
        self._temp_dir = tempfile.mkdtemp(prefix="ganger-")
        self._environment = zygote.Environment(
            -1, -1, max_blob_bytes, self._blob_dir, node, self._temp_dir, tuple(preload), init, fork, max_jobs,
            max_age_s, max_left_bytes, contained is not None, tuple(hidden),
        )  # fmt: skip
        self._contained = contained is not None
        self._adopts = adopts
        if adopts:
            trees.become_subreaper()
        self._zygote: _Zygote | None = None
        self._output = Output()
        self._groups = Groups()
        if contained is not None:
            self._groups.usual = contained
        self._left_groups: list[Group] = []
        self._kernel_kills = _kernel_kills()
        self._workers: dict[int, _Process] = {}
        self._sockets: dict[int, _Process] = {}
        self._pidfds: dict[int, _Process] = {}
        """Of those whose zygote is dead."""
        self._buffer = bytearray(program.MAX_PACKET)  # receiving into new bytes would cost five times the rest
        self._view = memoryview(self._buffer)
        self._news: list[Event] = []
        """Events that came of effects, for the next ``drain``."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when ``drain`` has something to tell."""
        return self._epoll.fileno()

    def drain(self, limit: int) -> tuple[list[Event], bool]:
        """What happened, about ``limit`` results of it at most; and whether that was all."""
        events: list[Event] = []
        if self._news:
            events, self._news = self._news, []
            os.eventfd_read(self._bell)
        ready = self._epoll.poll(0)
        share = max(1, limit // max(1, len(ready)))
        emptied = True
        dead: list[tuple[_Process, _Death]] = []
        zygote_gone = False
        for fd, mask in ready:
            worker = self._sockets.get(fd)
            if worker is not None:
                if mask & select.EPOLLOUT:
                    self._flush(worker)
                if mask & select.EPOLLIN:
                    emptied &= self._read(worker, share, events)
            elif self._zygote is not None and fd == self._zygote.control.fileno():
                self._hear(self._zygote, events, dead)
            elif self._zygote is not None and fd == self._zygote.pidfd:
                zygote_gone = True
            elif fd in self._pidfds:
                dead.append((self._pidfds[fd], _Death(None, 0, 0)))
        if zygote_gone:
            self._zygote_died(events, dead)
        for worker, death in dead:
            self._bury(worker, death, events)
        return events, emptied

    def perform(self, effect: Effect) -> None:
        match effect:
            case Give(slot, runs):
                self._give(slot, runs)
            case Recall(slot):
                worker = self._workers.get(slot)
                self._tell(Recalled(slot, self._recall(worker) if worker else []))
            case SpawnWorker(slot):
                self._spawn(slot)
            case KillWorker(slot):
                worker = self._workers.get(slot)
                if worker is not None:
                    worker.kill()
            case Look():
                self._look(effect)
            case InterruptWorker():
                self._interrupt(effect)

    def close(self) -> None:
        """Kill all workers and reap them. What they had not answered is not told any more."""
        if self._epoll.closed:
            return
        for worker in self._workers.values():
            worker.kill()
        if self._zygote is not None:
            self._zygote.close()
        for worker in list(self._workers.values()):
            self._forget(worker)
        if self._adopts:
            trees.clear(_CLOSE_S)
        self._groups.close()
        self._output.close()
        shutil.rmtree(self._temp_dir, ignore_errors=True)
        self._epoll.close()
        os.close(self._bell)

    # ------------------------------------------------------------------------------- start and end

    def _spawn(self, slot: int) -> None:
        assert slot not in self._workers, f"slot {slot} has a worker"
        worker = None
        try:
            if self._zygote is None:
                self._zygote = self._started()
            worker = _Process(slot, self._output)
            self._zygote.ask(worker)
            worker.let_output_go()
        except OSError as e:
            if worker is not None:
                worker.close()
            self._tell(WorkerGone(slot, 0, f"could not be started: {e}", None, False, []))
            return
        self._workers[slot] = worker

    def _started(self) -> _Zygote:
        os.makedirs(self._temp_dir, 0o700, exist_ok=True)
        started = _Zygote(self._environment, self._env, self._cwd)
        self._epoll.register(started.control.fileno(), select.EPOLLIN)
        self._epoll.register(started.pidfd, select.EPOLLIN)
        return started

    def _hear(self, parent: _Zygote, events: list[Event], dead: list[tuple[_Process, _Death]]) -> None:
        """What the zygote has said of its workers."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(parent.control, zygote.MAX_PACKET, 1)
            except OSError:
                return
            if not data:
                return
            kind, number, *about = msgpack.unpackb(data)
            if kind == zygote.BORN:
                worker = parent.unborn.pop(number)
                worker.pid, worker.pidfd = about[0], fds[0]
                parent.workers[worker.pid] = worker
                worker.page_file.close()
                self._sockets[worker.ours.fileno()] = worker
                self._epoll.register(worker.ours.fileno(), select.EPOLLIN | (select.EPOLLOUT if worker.backlog else 0))
                if self._contained:
                    self._close_in(worker)
                if worker.killed:
                    worker.kill()
            elif kind == zygote.FAILED:
                self._stillborn(parent.unborn.pop(number), about[0], events)
            else:
                status, cpu_us, peak_kib = about
                dead.append((parent.workers.pop(number), _Death(status, cpu_us, peak_kib)))

    def _close_in(self, worker: _Process) -> None:
        """It has been given nothing yet. Without its limits it is of no use."""
        worker.group = self._groups.new(str(worker.pid), worker.pid)
        if worker.group is None:
            worker.refused = "there is no control group for it"
            worker.killed = True
        else:
            worker.group.limit(AS_USUAL)

    def _stillborn(self, worker: _Process, why: str, events: list[Event]) -> None:
        unread = self._recall(worker)
        self._forget(worker)
        events.append(WorkerGone(worker.slot, 0, f"could not be started: {why}", None, False, unread))

    def _zygote_died(self, events: list[Event], dead: list[tuple[_Process, _Death]]) -> None:
        """Its workers die with it, by the kernel; what they leave behind is ours to kill, if it comes to us."""
        parent = self._zygote
        assert parent is not None
        self._zygote = None
        self._hear(parent, events, dead)
        self._epoll.unregister(parent.control.fileno())
        self._epoll.unregister(parent.pidfd)
        how = _words(parent.popen.poll())
        said = _last_words(parent.complaints)
        for worker in parent.unborn.values():  # it may have been born, and have begun, before that was told
            worker.parent_died = f"{how}; {said}".rstrip("; ")
            dead.append((worker, _Death(None, 0, 0)))
        for worker in parent.workers.values():
            worker.parent_died = f"its zygote has died: {how}"
            worker.signal(signal.SIGKILL)
            self._pidfds[worker.pidfd] = worker
            self._epoll.register(worker.pidfd, select.EPOLLIN)
        parent.let_go()
        if self._adopts:
            trees.clear(_ADOPTED_WITHIN_S)

    def _bury(self, worker: _Process, death: _Death, events: list[Event]) -> None:
        self._read(worker, _LAST_PACKETS, events, dead=True)
        unread = self._recall(worker)
        cause = self._cause(worker, death.status)
        out_of_memory = False
        if death.status == -signal.SIGKILL and not worker.killed:
            if worker.group is not None and worker.rules is not None and worker.group.out_of_memory():
                out_of_memory = True
                death = death._replace(peak_kib=max(death.peak_kib, worker.group.peak_bytes() >> 10))
                cause += f": it used more than its memory_bytes of {worker.rules.memory_bytes}"
            elif self._memory_ran_out():
                out_of_memory = True
                cause += ": the machine, or the control group of the node, was out of memory"
        token, phase = program.PAGE.unpack_from(worker.page)
        left = list(worker.given)
        suspect = token if token in left else left[0] if left else None
        # more than one is left only where user code read from the pipe itself: those were never begun
        unread = [*(t for t in left if t != suspect), *unread]
        noted = token == suspect and phase >= program.USER_CODE
        stack = "" if suspect is None else worker.stack()
        self._forget(worker)
        gone = WorkerGone(worker.slot, worker.pid, cause, suspect, noted, unread, out_of_memory, bool(worker.leaving))
        gone.cpu_us, gone.peak_kib, gone.stack = death.cpu_us, death.peak_kib, stack
        events.append(gone)

    def _memory_ran_out(self) -> bool:
        """Whether the kernel has killed for want of memory since the last death that it explains."""
        before, self._kernel_kills = self._kernel_kills, _kernel_kills()
        return self._kernel_kills > before

    def _cause(self, worker: _Process, status: int | None) -> str:
        if worker.leaving and not worker.given:
            return worker.leaving
        if worker.refused:
            return f"could not be started: {worker.refused}"
        if worker.killed:
            return "killed by the agent" + (f": it sent {worker.fault}" if worker.fault else "")
        how = worker.parent_died if status is None else _words(status)
        cause = how + (f" after it sent {worker.fault}" if worker.fault else "")
        if not worker.up:
            cause = f"could not be started: {cause}; {_last_words(worker.complaints)}".rstrip("; ")
        return cause

    def _forget(self, worker: _Process) -> None:
        del self._workers[worker.slot]
        if self._pidfds.pop(worker.pidfd, None) is not None:
            self._epoll.unregister(worker.pidfd)
        if self._sockets.pop(worker.ours.fileno(), None) is not None:
            self._epoll.unregister(worker.ours.fileno())
        worker.close()
        if worker.group is not None:
            worker.group.kill()
            self._left_groups.append(worker.group)
        self._left_groups = [group for group in self._left_groups if not group.close()]
        if not worker.pid:
            return
        for left in glob.iglob(program.part_path(glob.escape(self._blob_dir), worker.pid, "*")):
            with contextlib.suppress(OSError):
                os.unlink(left)

    # ------------------------------------------------------------------------------- interrupting

    def _interrupt(self, wish: InterruptWorker) -> None:
        worker = self._workers.get(wish.slot)
        if worker is None or not worker.up:
            return
        why = program.TIMEOUT if wish.timeout_s else program.CANCEL
        program.WISH.pack_into(worker.page, program.WISH_AT, wish.token, why, wish.timeout_s)
        token, phase = program.PAGE.unpack_from(worker.page)
        if token != wish.token:
            return
        if wish.dump:
            os.ftruncate(worker.stack_file.fileno(), 0)
            os.lseek(worker.stack_file.fileno(), 0, os.SEEK_SET)  # the worker writes at the same place: one open file
            worker.signal(program.SIGNAL_DUMP)
        if phase == program.USER_CODE:
            worker.signal(program.SIGNAL_INTERRUPT)

    def _tell(self, event: Event) -> None:
        if not self._news:
            os.eventfd_write(self._bell, 1)
        self._news.append(event)

    # ------------------------------------------------------------------------------- work out and back

    def _give(self, slot: int, runs: list[Run]) -> None:
        worker = self._workers.get(slot)
        if worker is None or len(worker.backlog) + len(runs) > _BACKLOG_MAX:
            self._tell(Recalled(slot, [run.token for run in runs]))
            return
        pack, given, backlog, send = _PACK, worker.given, worker.backlog, worker.ours.send
        for token, job, attempt, spec, payload, large, start_by, about, gpus in runs:
            rules = spec.rules
            if rules is AS_USUAL and large is None and not about and not start_by:
                packet = pack((token, job, attempt, spec.by_value, spec.code, payload))
            else:
                if rules.limited:
                    if not worker.pid:  # there is nobody yet to limit
                        self._tell(Recalled(slot, [token]))
                        continue
                    self._limit(worker, rules)
                sha = large[0] if large else b""
                more = sha, start_by, about, rules.open_files, rules.timeout_s, gpus
                packet = pack((token, job, attempt, spec.by_value, spec.code, payload, *more))
            if len(packet) > worker.packet_max:
                self._tell(WorkerDone(slot, worker.pid, [_too_large(token, len(packet), worker.packet_max)]))
                continue
            given[token] = None
            if not backlog and (worker.pid or not self._contained):
                try:
                    send(packet, socket.MSG_DONTWAIT)
                    continue
                except BlockingIOError:
                    self._poll_for(worker, select.EPOLLIN | select.EPOLLOUT)
            backlog.append((token, packet))

    def _limit(self, worker: _Process, rules: Rules) -> None:
        """The worker is idle, and this is the only job it is given."""
        if worker.group is None and self._groups.places:
            worker.group = self._groups.new(str(worker.pid), worker.pid)
        worker.rules, worker.base_bytes = rules, trees.shared_out_bytes(worker.pid)
        if worker.group is not None:
            worker.group.limit(rules)
        if rules.cpus and (worker.group is None or not worker.group.holds("cpu")):
            processors = sorted(os.sched_getaffinity(0))[: max(1, round(rules.cpus))]
            with contextlib.suppress(OSError):
                os.sched_setaffinity(worker.pid, processors)

    def _unlimited(self, worker: _Process, done: Done) -> Done:
        """Its job is over: the limits are, too. Whether it failed since one of its processes was killed for them."""
        rules, group = worker.rules, worker.group
        assert rules is not None
        worker.rules = None
        if rules.cpus and (group is None or not group.holds("cpu")):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(worker.pid, os.sched_getaffinity(0))
        if group is None:
            return done
        if done.end == End.RAISED and group.out_of_memory():
            failed = Failure.decode(done.payload)
            why = f"a process of the job was killed: more than its memory_bytes of {rules.memory_bytes}"
            text = f"{why}; then: {failed.text}"
            done = done._replace(end=End.MEMORY, payload=Failure("WorkerCrashed", text, failed.traceback).encode())
        done = done._replace(peak_kib=max(done.peak_kib, group.peak_bytes() >> 10))
        group.unlimit()
        return done

    def _look(self, wish: Look) -> None:
        worker = self._workers.get(wish.slot)
        if worker is None or worker.rules is None or wish.token not in worker.given:
            return
        rules, group = worker.rules, worker.group
        memory = processes = 0
        if group is not None and group.holds("memory") and group.holds("pids"):
            memory, processes = min(group.memory_bytes(), rules.memory_bytes), group.processes()
        else:
            use = trees.use_of(worker.pid, rules.memory_bytes)
            memory, processes = max(0, use.memory_bytes - worker.base_bytes), use.processes
        self._tell(Seen(wish.slot, wish.token, memory, processes))

    def _flush(self, worker: _Process) -> None:
        while worker.backlog:
            try:
                worker.ours.send(worker.backlog[0][1], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            worker.backlog.popleft()
        self._poll_for(worker, select.EPOLLIN)

    def _recall(self, worker: _Process) -> list[int]:
        """Take back what the worker has not read, by reading it ourselves."""
        tokens = []
        while True:
            try:
                size = worker.theirs.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            tokens.append(msgpack.unpackb(self._view[:size])[0])
        tokens += [token for token, _ in worker.backlog]
        if worker.backlog:
            worker.backlog.clear()
            self._poll_for(worker, select.EPOLLIN)
        # what is not in ``given`` was answered unread, by user code that had its hands in the pipe
        return [token for token in tokens if worker.given.pop(token, self) is None]

    def _poll_for(self, worker: _Process, mask: int) -> None:
        if worker.ours.fileno() in self._sockets:
            self._epoll.modify(worker.ours.fileno(), mask)

    # ------------------------------------------------------------------------------- results

    def _read(self, worker: _Process, limit: int, events: list[Event], dead: bool = False) -> bool:
        """Read up to ``limit`` packets; True if that was all there was.

        What is no result in its turn can only come from user code that has written to the pipe. The worker
        is killed for it. True results behind it still count, or jobs that were run would be run again.
        """
        rows: list[Done] = []
        receive, buffer, view, unpackb = worker.ours.recv_into, self._buffer, self._view, msgpack.unpackb
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        given = worker.given
        emptied = False
        for _ in range(limit):
            try:
                size = receive(buffer, 0, flags)
            except BlockingIOError:
                emptied = True
                break
            leaving = fault = ""
            try:
                fields = unpackb(view[:size], use_list=False)
                if len(fields) == 4:
                    token, end, payload, run_us = fields
                    large = None
                    done = Done(token, end, payload, None, run_us)
                    sound = (
                        type(token) is type(end) is type(run_us) is int
                        and end in _WORKERS_ENDS
                        and run_us >= 0
                        and type(payload) is bytes
                        and len(payload) <= _PAYLOAD_BYTES
                    )
                else:
                    token, end, payload, run_us, large, cpu_us, peak_kib, leaving = fields
                    done = Done(token, end, payload, large, run_us, cpu_us, peak_kib)
                    sound = _sound(done, leaving)
                if not sound:
                    fault = f"a packet of {size} bytes that is no result"
            except Exception:  # whatever msgpack makes of a stranger's bytes
                fault = f"a packet of {size} bytes that is no result"
            if not fault:
                if worker.up and (token == next(iter(given), 0) or (worker.fault and token in given)):
                    if end == program.SAVED:
                        events.append(StateSaved(worker.slot, token, payload))
                        continue
                    del given[token]
                    if worker.rules is not None:
                        done = self._unlimited(worker, done)
                    rows.append(done if large is None else self._named(worker, done, large[0]))
                    if leaving:
                        worker.leaving = leaving
                        if not dead:
                            worker.kill()  # it only waits for this; what it has left running goes with it
                            emptied = True
                            break
                        continue
                    if not given and not dead:
                        emptied = True  # it has nothing more to say, and to be told so costs as much as a result
                        break
                    continue
                if token == 0 and not worker.up:
                    worker.up = True
                    events.append(WorkerUp(worker.slot, worker.pid, run_us))
                    continue
                fault = "a result out of turn"
            worker.fault = worker.fault or fault
            if not dead:
                worker.kill()
                del self._sockets[worker.ours.fileno()]
                self._epoll.unregister(worker.ours.fileno())
                emptied = True
                break
        if rows:
            events.append(WorkerDone(worker.slot, worker.pid, rows, worker.leaving))
        return emptied

    def _named(self, worker: _Process, done: Done, sha: bytes) -> Done:
        """The agent hears of a large result in the very turn in which its file gets the blob's name."""
        try:
            os.replace(program.part_path(self._blob_dir, worker.pid, done.token), f"{self._blob_dir}/{sha.hex()}")
        except OSError as e:
            failure = Failure("OSError", f"on node {self._node}: the result's file is gone: {e.strerror}")
            return done._replace(end=End.SPOILT, payload=failure.encode(), large=None)
        return done


_WORKERS_ENDS = frozenset((*End, program.SAVED)) - {End.CRASHED, End.MEMORY}
"""What a worker may say of an attempt."""


def _kernel_kills() -> int:
    """Processes the kernel has killed for want of memory, in this machine's uptime."""
    try:
        with open("/proc/vmstat", encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def _sound(done: Done, leaving: Any) -> bool:
    """The long way of what ``_read`` does for short results."""
    token, end, payload, large, run_us, cpu_us, peak_kib = done
    return (
        type(token) is type(end) is type(run_us) is type(cpu_us) is type(peak_kib) is int
        and end in _WORKERS_ENDS
        and run_us >= 0
        and cpu_us >= 0
        and peak_kib >= 0
        and type(leaving) is str
        and len(leaving) <= 200
        and type(payload) is bytes
        and len(payload) <= _PAYLOAD_BYTES
        and (
            large is None
            or (
                type(large) is tuple
                and len(large) == 2
                and type(large[0]) is bytes
                and len(large[0]) == 32
                and type(large[1]) is int
                and large[1] > 0
            )
        )
    )


def _too_large(token: int, size: int, limit: int) -> Done:
    text = f"the attempt is a packet of {size} bytes; a worker's pipe takes {limit}"
    return Done(token, End.RAISED, Failure("TooLarge", text).encode(), None, 0)


def _words(status: int | None) -> str:
    if status is None:
        return "its status is unknown"
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"
