"""The agent's worker processes. Rules of this file: how they are started, fed, read and buried; never when.

A port of the host: one descriptor to poll, ``drain`` for what happened, ``perform`` for what shall. Nothing in
it waits, but for the start of a process. It belongs to one thread, which must outlive the workers: the kernel
ends them with it.

A worker is fed through a socket pair that keeps packets apart, one packet an attempt. The pool keeps *both*
ends. So it takes work back by reading what the worker has not read yet, and the kernel sees to it that each
packet has one reader. After a death it reads first the results left behind, then the packets never read;
what was given and is in neither is the one attempt that the worker died with.
"""

from __future__ import annotations

import contextlib
import glob
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import msgpack

from cluster.config import INLINE_BYTES, MAX_BLOB_BYTES
from cluster.jobs import End, Failure
from node import worker as program
from node.events import (
    Done,
    Give,
    KillWorker,
    Recall,
    Recalled,
    Run,
    SpawnWorker,
    WorkerDone,
    WorkerGone,
    WorkerUp,
)

Effect = SpawnWorker | Give | Recall | KillWorker
Event = WorkerUp | WorkerDone | Recalled | WorkerGone

_PIPE_BYTES = 1 << 20
"""Asked for each direction; the kernel may give less, and always enough for the largest packet."""

_BACKLOG_MAX = 1024
"""Packets kept for a full pipe; more are recalled at once. The agent's own bound is far below."""

_LAST_PACKETS = 65_536
"""Read after a death: more than a pipe holds, and an end, should something that got away still write."""

_COMPLAINT_BYTES = 2000
"""Of what a worker said on standard error before it failed to start, the last."""

_PACK = msgpack.Packer().pack
"""``packb`` makes a new packer each time, with a megabyte of buffer."""

_CLOSE_S = 5.0
"""A process that is not gone so long after SIGKILL hangs in the kernel, and is left to it."""


class _Started(NamedTuple):
    popen: subprocess.Popen[bytes]
    pidfd: int
    ours: socket.socket
    theirs: socket.socket
    page: mmap.mmap
    complaints: IO[bytes]


class _Process:
    """One worker, from its start to its burial."""

    def __init__(self, slot: int, start: _Started) -> None:
        self.slot = slot
        self.popen = start.popen
        self.pid = start.popen.pid
        self.pidfd = start.pidfd
        self.ours, self.theirs = start.ours, start.theirs
        self.page = start.page
        self.complaints = start.complaints
        sndbuf = self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.packet_max = min(program.MAX_PACKET, sndbuf - 64)
        self.up = False
        self.given: dict[int, None] = {}
        """Tokens without an answer, in order, with those in the backlog."""
        self.backlog: deque[tuple[int, bytes]] = deque()
        self.fault = ""
        """What it sent that no worker sends."""
        self.killed = False

    def kill(self) -> None:
        # the leader is not reaped yet, so its number and its group's cannot be another's
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(OSError):
                kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.page.close()
        self.complaints.close()
        self.ours.close()
        self.theirs.close()
        os.close(self.pidfd)


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
    ) -> None:
        self._blob_dir = os.path.abspath(blob_dir)
        self._node = node
        self._max_blob_bytes = max_blob_bytes
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._kernel_kills = _kernel_kills()
        self._workers: dict[int, _Process] = {}
        self._sockets: dict[int, _Process] = {}
        self._pidfds: dict[int, _Process] = {}
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
        dead = []
        for fd, mask in ready:
            worker = self._sockets.get(fd)
            if worker is None:
                if fd in self._pidfds:
                    dead.append(self._pidfds[fd])
                continue
            if mask & select.EPOLLOUT:
                self._flush(worker)
            if mask & select.EPOLLIN:
                emptied &= self._read(worker, share, events)
        for worker in dead:
            self._bury(worker, events)
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
                    worker.killed = True
                    worker.kill()

    def close(self) -> None:
        """Kill all workers and reap them. What they had not answered is not told any more."""
        if self._epoll.closed:
            return
        for worker in self._workers.values():
            worker.kill()
        for worker in list(self._workers.values()):
            gone = select.poll()
            gone.register(worker.pidfd, select.POLLIN)
            if gone.poll(_CLOSE_S * 1000):
                worker.popen.poll()
            self._forget(worker)
        self._epoll.close()
        os.close(self._bell)

    # ------------------------------------------------------------------------------- start and end

    def _spawn(self, slot: int) -> None:
        assert slot not in self._workers, f"slot {slot} has a worker"
        try:
            worker = _Process(slot, self._start())
        except OSError as e:
            self._tell(WorkerGone(slot, 0, f"could not be started: {e}", None, False, []))
            return
        self._workers[slot] = self._sockets[worker.ours.fileno()] = self._pidfds[worker.pidfd] = worker
        self._epoll.register(worker.ours.fileno(), select.EPOLLIN)
        self._epoll.register(worker.pidfd, select.EPOLLIN)

    def _start(self) -> _Started:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            undo.callback(theirs.close)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
            page_file = open(os.memfd_create("ganger-page"), "r+b", buffering=0)  # noqa: SIM115
            undo.callback(page_file.close)
            page_file.truncate(mmap.PAGESIZE)
            page = mmap.mmap(page_file.fileno(), mmap.PAGESIZE)
            undo.callback(page.close)
            complaints = open(os.memfd_create("ganger-start"), "r+b", buffering=0)  # noqa: SIM115
            undo.callback(complaints.close)
            with open(os.dup(2), "wb", buffering=0) as stderr:
                start = program.Start(
                    theirs.fileno(),
                    page_file.fileno(),
                    stderr.fileno(),
                    os.getpid(),
                    self._max_blob_bytes,
                    self._blob_dir,
                    self._node,
                )
                popen = subprocess.Popen(
                    [sys.executable, "-P", program.__file__, *start.argv()],
                    stdin=subprocess.DEVNULL,
                    stderr=complaints,
                    pass_fds=(start.socket_fd, start.page_fd, start.stderr_fd),
                    start_new_session=True,
                    env=self._env,
                    cwd=self._cwd,
                )
            undo.callback(popen.wait)
            undo.callback(popen.kill)
            pidfd = os.pidfd_open(popen.pid)
            undo.pop_all()
            page_file.close()
            return _Started(popen, pidfd, ours, theirs, page, complaints)

    def _bury(self, worker: _Process, events: list[Event]) -> None:
        worker.kill()  # what a job left running in the worker's group
        self._read(worker, _LAST_PACKETS, events, dead=True)
        status = worker.popen.poll()
        cause = self._cause(worker, status)
        out_of_memory = status == -signal.SIGKILL and not worker.killed and self._memory_ran_out()
        if out_of_memory:
            cause += ": the machine, or the control group of the node, was out of memory"
        unread = self._recall(worker)
        token, phase, _ = program.PAGE.unpack_from(worker.page)
        left = list(worker.given)
        suspect = token if token in left else left[0] if left else None
        # more than one is left only where user code read from the pipe itself: those were never begun
        unread = [*(t for t in left if t != suspect), *unread]
        noted = token == suspect and phase >= program.USER_CODE
        self._forget(worker)
        events.append(WorkerGone(worker.slot, worker.pid, cause, suspect, noted, unread, out_of_memory))

    def _memory_ran_out(self) -> bool:
        """Whether the kernel has killed for want of memory since the last death that it explains."""
        before, self._kernel_kills = self._kernel_kills, _kernel_kills()
        return self._kernel_kills > before

    def _cause(self, worker: _Process, status: int | None) -> str:
        if worker.killed:
            return "killed by the agent" + (f": it sent {worker.fault}" if worker.fault else "")
        cause = _words(status) + (f" after it sent {worker.fault}" if worker.fault else "")
        if not worker.up:
            size = os.fstat(worker.complaints.fileno()).st_size
            said = os.pread(worker.complaints.fileno(), _COMPLAINT_BYTES, max(0, size - _COMPLAINT_BYTES))
            cause = f"could not be started: {cause}; {said.decode(errors='replace').strip()}".rstrip("; ")
        return cause

    def _forget(self, worker: _Process) -> None:
        del self._workers[worker.slot]
        del self._pidfds[worker.pidfd]
        self._epoll.unregister(worker.pidfd)
        if self._sockets.pop(worker.ours.fileno(), None) is not None:
            self._epoll.unregister(worker.ours.fileno())
        worker.close()
        for left in glob.iglob(program.part_path(glob.escape(self._blob_dir), worker.pid, "*")):
            with contextlib.suppress(OSError):
                os.unlink(left)

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
        for token, job, attempt, spec, payload, large, start_by in runs:
            sha = large[0] if large else b""
            packet = pack((token, job, attempt, spec.by_value, spec.code, spec.name, payload, sha, start_by))
            if len(packet) > worker.packet_max:
                self._tell(WorkerDone(slot, worker.pid, [_too_large(token, len(packet), worker.packet_max)]))
                continue
            given[token] = None
            if not backlog:
                try:
                    send(packet, socket.MSG_DONTWAIT)
                    continue
                except BlockingIOError:
                    self._poll_for(worker, select.EPOLLIN | select.EPOLLOUT)
            backlog.append((token, packet))

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
            try:
                token, end, payload, large, run_us = fields = unpackb(view[:size], use_list=False)
                fault = "" if _sound(fields) else f"a packet of {size} bytes that is no result"
            except Exception:  # whatever msgpack makes of a stranger's bytes
                fault = f"a packet of {size} bytes that is no result"
            if not fault:
                if worker.up and (token == next(iter(given), 0) or (worker.fault and token in given)):
                    del given[token]
                    done = Done(token, end, payload, large, run_us)
                    rows.append(done if large is None else self._named(worker, done, large[0]))
                    if not given and not dead:
                        emptied = True  # it has nothing more to say, and to be told so costs as much as a result
                        break
                    continue
                if token == 0 and not worker.up:
                    worker.up = True
                    events.append(WorkerUp(worker.slot, worker.pid))
                    continue
                fault = "a result out of turn"
            worker.fault = worker.fault or fault
            if not dead:
                worker.killed = True
                worker.kill()
                del self._sockets[worker.ours.fileno()]
                self._epoll.unregister(worker.ours.fileno())
                emptied = True
                break
        if rows:
            events.append(WorkerDone(worker.slot, worker.pid, rows))
        return emptied

    def _named(self, worker: _Process, done: Done, sha: bytes) -> Done:
        """The agent hears of a large result in the very turn in which its file gets the blob's name."""
        try:
            os.replace(program.part_path(self._blob_dir, worker.pid, done.token), f"{self._blob_dir}/{sha.hex()}")
        except OSError as e:
            failure = Failure("OSError", f"on node {self._node}: the result's file is gone: {e.strerror}")
            return Done(done.token, End.SPOILT, failure.encode(), None, done.run_us)
        return done


_WORKERS_ENDS = frozenset((End.SUCCEEDED, End.RAISED, End.SPOILT, End.RETRY, End.SNOOZE, End.GIVE_UP, End.UNSTARTED))
"""What a worker may say of an attempt."""


def _kernel_kills() -> int:
    """Processes the kernel has killed for want of memory, in this machine's uptime."""
    try:
        with open("/proc/vmstat", encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def _sound(fields: tuple[Any, ...]) -> bool:
    token, end, payload, large, run_us = fields
    return (
        type(token) is type(end) is type(run_us) is int
        and end in _WORKERS_ENDS
        and run_us >= 0
        and type(payload) is bytes
        and len(payload) <= 2 * INLINE_BYTES
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
