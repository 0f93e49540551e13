"""The coordinator's ``Doors`` and a peer's ``Dial``. Rules of this file: ZeroMQ sockets and bytes only.

- Every TCP socket speaks CURVE, and the gate (ZAP) admits registered keys only; without a live gate libzmq
  refuses all (``ZAP_ENFORCE_DOMAIN``). An ipc socket is guarded by its directory, mode 0700.
- No thread: gate and monitors are sockets the host polls like the others, and ``drain`` serves them.
- A send never blocks. What cannot be sent at once is dropped and counted: sessions repair it.
- A *route* names one connection: a byte for the socket, then its routing id. Libzmq uses none twice, but a
  peer may choose its own, so whoever relies on a route compares the identity that comes with each message.
- Each message is one frame, and its sender's key is looked up anew: a key removed is a peer refused.
- Everything here belongs to the thread that uses it, and to the process that made it.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket as net
import stat
import struct
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import zmq
from zmq.utils import z85

from cluster.actor import (
    LOCAL,
    Connected,
    Disconnected,
    Garbled,
    Identity,
    Received,
    Rejected,
    Send,
    Unroutable,
)
from cluster.codec import decode, encode
from cluster.config import MAX_MESSAGE_BYTES
from cluster.errors import ConfigError
from cluster.facts import Fact, fact
from cluster.messages import BadMessage

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]
IdentityOf = Callable[[str], Identity | None]
"""The gate's question: who has this z85 public key? None for nobody."""
Event = Received | Garbled | Connected | Disconnected | Rejected

HWM = 10_000
"""Messages queued per peer in libzmq. Sessions bound what is under way long before that."""
BACKLOG = 512
HANDSHAKE_MS = 3_000
CONNECT_MS = 3_000
HEARTBEAT_MS, SILENT_MS = 2_000, 6_000
"""ZMTP's own heartbeat, which finds half-open connections; liveness of peers is the session's business."""
ENVELOPE_BYTES = 256
"""What CURVE adds to a frame, and more."""
SLICE = 64
"""Messages taken from one socket before the next has its turn."""
UNIX_PATH_BYTES = 107
"""``sun_path`` without its final zero."""

REDIAL_S = 2.0
"""Pause after a refusal."""
QUICK_S = 1.0
"""A handshake failing so fast was refused; a slower one met a coordinator that is stopped or busy."""
PROBE_S = 1.0
"""Time for one who keeps hanging up to say what he is. The host waits for it, with no connection to miss."""
REFUSALS, REFUSED_S, REFUSED_AGAIN_S = 3, 2.0, 15.0
"""Quick failures in a row, and seconds of them, that are no restart; more seconds once it had worked."""
QUIET_S = 5.0
"""Facts about refusals come at most so often per reason."""

_NOW = int(zmq.NOBLOCK)
_NOW_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_DOMAIN = b"ganger"
_GREETING = struct.Struct("10s2s20s32s")
"""ZMTP 3 (rfc.zeromq.org/spec/23): signature, version, mechanism; the rest does not matter here."""
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_MONITOR_EVENT = struct.Struct("=HI")
_monitor_numbers = itertools.count()


class Doors:
    """The coordinator's sockets: one TCP port for everyone, one ipc socket for its own host and user."""

    def __init__(self, context: Context, server_secret: bytes | str, identity_of: IdentityOf) -> None:
        self._context = context
        self._secret = server_secret.encode() if isinstance(server_secret, str) else server_secret
        self._identity_of = identity_of
        self._complaints = _Complaints()
        self._gate = _Gate(context, identity_of, self._complaints)
        self._tcp: Socket | None = None
        self._ipc: Socket | None = None
        self._monitor: Socket | None = None
        self._doors: dict[bytes, Socket] = {}
        self._ears = _Ears()
        self._ears.add(self._gate.socket)
        self.received = self.received_bytes = 0
        self.sent = self.sent_bytes = 0
        self.dropped = 0
        """Sends to a peer whose queue was full."""
        self.unroutable = 0
        """Sends to a peer that was gone."""
        self.strangers = 0
        """Messages without a key, or whose key is no longer registered."""

    def bind_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen there (port 0: any free one); the numeric host and the port that were bound.

        Raises :class:`ConfigError` if the address cannot be had.
        """
        numeric = _numeric(host, port)
        if self._tcp is None:
            self._tcp = _router(self._context)
            self._tcp.curve_server = True
            self._tcp.curve_secretkey = self._secret
            self._tcp.zap_domain = _ZAP_DOMAIN
            self._tcp.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            refusals = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            self._monitor = _watch(self._context, self._tcp, refusals)
            self._ears.add(self._monitor)
            self._ears.add(self._tcp)
            self._doors[b"T"] = self._tcp
        self._tcp.ipv6 = ":" in numeric
        try:
            self._tcp.bind(f"tcp://[{numeric}]:{port}" if ":" in numeric else f"tcp://{numeric}:{port}")
        except zmq.ZMQError as e:
            raise ConfigError(_bind_words(e.errno, host, port)) from None
        return numeric, int(self._tcp.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def bind_ipc(self, path: str | os.PathLike[str]) -> None:
        """Listen on a Unix socket, whose directory must belong to us alone: that is the only guard it has."""
        path = os.fspath(path)
        _check_ipc(path)
        if self._ipc is None:
            self._ipc = _router(self._context)
            self._ears.add(self._ipc)
            self._doors[b"I"] = self._ipc
        try:
            self._ipc.bind(f"ipc://{path}")
        except zmq.ZMQError as e:
            raise ConfigError(f"cannot listen on {path}: {e.strerror}") from None

    def pollables(self) -> list[int]:
        return [self._ears.fileno()]

    def drain(self, limit: int) -> tuple[list[Event], bool]:
        """Up to ``limit`` messages, the sockets in turn, and whether all of them were found empty."""
        ready = self._ears.take()
        if self._gate.socket in ready:
            self._gate.serve()
            self._ears.touched(self._gate.socket)
        if self._monitor is not None and self._monitor in ready:
            for event, value in _heard(self._monitor):
                self._complaints.add("handshake_refused", _refusal_words(event, value))
            self._ears.touched(self._monitor)
        events: list[Event] = []
        open_doors = {prefix: socket for prefix, socket in self._doors.items() if socket in ready}
        while open_doors and limit > 0:
            for prefix, socket in list(open_doors.items()):
                wanted = min(SLICE, limit)
                taken = self._take(prefix, socket, wanted, events)
                limit -= taken
                if taken < wanted:
                    del open_doors[prefix]
                if limit <= 0:
                    break
        for socket in open_doors.values():
            self._ears.touched(socket)
        return events, not open_doors

    def _take(self, prefix: bytes, socket: Socket, limit: int, events: list[Event]) -> int:
        """Take up to ``limit`` messages; fewer mean that there are no more."""
        recv, identity_of, local = socket.recv, self._identity_of, prefix == b"I"
        for n in range(limit):
            if n == 1 and not _readable(socket):
                return n
            try:
                route = prefix + recv(_NOW)
            except zmq.Again:
                return n
            frame = recv(_NOW, copy=False)
            extra = _rest(socket) if frame.more else 0
            raw = frame.buffer
            self.received += 1
            self.received_bytes += len(raw)
            # Asked of the frame each time: by route it could be remembered, but a peer may choose the
            # routing id of one that left, and would be taken for it.
            identity = LOCAL if local else identity_of(_user_id(frame))
            if identity is None:
                self.strangers += 1
                self._complaints.add("unexpected", "the sender's key is not registered", _peer_address(frame))
                continue
            events.append(_event(route, identity, raw, extra))
        return limit

    def send(self, effect: Send) -> Unroutable | None:
        """Send at once or drop; :class:`Unroutable` if the peer is no longer connected."""
        route = effect.route
        socket = self._doors.get(route[:1])
        if socket is None:
            return Unroutable(route)
        raw = _encoded(effect)
        try:
            socket.send(route[1:], _NOW_MORE)
            socket.send(raw, _NOW)
        except zmq.Again:
            self.dropped += 1
            return None
        except zmq.ZMQError as e:
            if e.errno != zmq.EHOSTUNREACH:
                raise
            self.unroutable += 1
            return Unroutable(route)
        finally:
            self._ears.touched(socket)
        self.sent += 1
        self.sent_bytes += len(raw)
        return None

    @property
    def handshakes_refused(self) -> int:
        return self._complaints.total["handshake_refused"]

    def take_facts(self) -> list[Fact]:
        """What was refused since, by reason; a flood of refusals gives few facts with large counts."""
        return self._complaints.take()

    def close(self, linger_ms: int = 0) -> None:
        """Close all sockets; last words have ``linger_ms`` to get out (``context.term`` waits for them)."""
        for socket in self._doors.values():
            if socket is self._tcp:
                socket.disable_monitor()
            socket.close(linger_ms)
        self._doors.clear()
        if self._monitor is not None:
            self._monitor.close(0)
            self._monitor = None
        self._gate.socket.close(0)
        self._ears.close()


class Dial:
    """A peer's one connection to one address of the coordinator; libzmq dials again when it breaks.

    TCP needs the coordinator's public key and a key pair of one's own; an ipc address needs none of them.
    When a connection ends, libzmq throws away what had come by it and was not yet drained: the price of
    ``IMMEDIATE``, without which messages for a lost connection would turn up on the next one.
    A refusal is reported as :class:`Rejected`, and tried again two seconds later by ``drain`` or ``send``. So is
    a connection that broke the protocol: libzmq does not dial again after those.

    What can be told apart: an unknown key is refused in words, and only by who has the server key. A wrong server
    key is not: there the other side just hangs up, as a dying coordinator does, or a proxy with nobody behind it.
    If that goes on, its greeting is asked for, and a CURVE server that greets and hangs up has another key.
    """

    def __init__(
        self,
        context: Context,
        address: str,
        server_key: str | None = None,
        public_key: str | None = None,
        secret_key: str | None = None,
    ) -> None:
        self.address = address
        self._public_key, self._server_key = public_key, server_key
        self._identity = LOCAL
        if server_key is not None:
            self._identity = Identity(server_key, "coordinator", "coordinator", "default")
        self.received = self.received_bytes = 0
        self.sent = self.sent_bytes = 0
        self.dropped = 0
        """Sends without a connection, or with its queue full."""
        self.connected = False
        self._was_connected = False
        self._dialled_at = 0.0
        self._failed = False
        """Whether libzmq has named the fault of this handshake."""
        self._refused = False
        self._refusals = 0
        self._refused_since = 0.0
        self._redial_at: float | None = None
        self._news: list[Event] = []
        """Heard from the monitor, while older messages are still to be taken."""
        if server_key is None and not address.startswith("ipc://"):
            raise ConfigError(f"{address} needs the coordinator's key: only ipc addresses do without")
        self._socket = _tuned(context.socket(zmq.DEALER))
        self._socket.immediate = True
        self._socket.reconnect_ivl = 100
        self._socket.reconnect_ivl_max = 2_000
        self._socket.connect_timeout = CONNECT_MS
        self._socket.ipv6 = address.startswith("tcp://[")
        self._monitor = _watch(context, self._socket, zmq.EVENT_ALL)
        self._ears = _Ears()
        self._ears.add(self._socket)
        self._ears.add(self._monitor)
        try:
            if server_key is not None:
                self._socket.curve_serverkey = server_key.encode()
                self._socket.curve_publickey = (public_key or "").encode()
                self._socket.curve_secretkey = (secret_key or "").encode()
            self._socket.connect(address)
        except zmq.ZMQError as e:
            self.close()
            raise ConfigError(f"cannot dial {address}: {e.strerror}; check address and keys") from None

    def pollables(self) -> list[int]:
        return [self._ears.fileno()]

    def drain(self, limit: int) -> tuple[list[Event], bool]:
        """Up to ``limit`` messages and what became of the connection; whether no message was left.

        What came by a connection stands before the news of its end.
        """
        ready = self._ears.take()
        if self._monitor in ready:
            for event, value in _heard(self._monitor):
                self._note(event, value, self._news)
            self._ears.touched(self._monitor)
        if self._refused:
            self._hang_up()
        self._redial()
        events: list[Event] = []
        emptied = self._socket not in ready and not self._news
        recv = self._socket.recv
        while not emptied and len(events) < limit:
            try:
                raw = recv(_NOW)
            except zmq.Again:
                emptied = True
                break
            self.received += 1
            self.received_bytes += len(raw)
            events.append(_event(b"", self._identity, raw))
            if len(events) == 1 and not _readable(self._socket):
                emptied = True
        if not emptied:
            self._ears.touched(self._socket)
        elif self._news:
            events += self._news
            self._news.clear()
        if not emptied:
            self._ears.touched(self._socket)
        return events, emptied

    def send(self, effect: Send) -> Unroutable | None:
        """Send at once or drop; there is no queue while there is no connection."""
        raw = _encoded(effect)
        self._redial()
        try:
            self._socket.send(raw, _NOW)
        except zmq.Again:
            self.dropped += 1
            return None
        finally:
            self._ears.touched(self._socket)
        self.sent += 1
        self.sent_bytes += len(raw)
        return None

    def take_facts(self) -> list[Fact]:
        return []

    def close(self, linger_ms: int = 0) -> None:
        """Hang up; last words have ``linger_ms`` to get out (``context.term`` waits for them)."""
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(linger_ms)
            self._ears.close()

    # -- what the monitor says ----------------------------------------------------------------------

    def _note(self, event: int, value: int, events: list[Event]) -> None:
        reason = ""
        if event == zmq.EVENT_CONNECTED:
            self._dialled_at = monotonic()
            self._failed = False
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected = self._was_connected = True
            self._refused, self._refusals = False, 0
            events.append(Connected())
        elif event == zmq.EVENT_DISCONNECTED:
            self._redial_at = monotonic() + REDIAL_S  # unless libzmq says that it does
            if self.connected:
                self.connected = False
                events.append(Disconnected())
            elif not self._failed and (not self._was_connected or self._refused_for_long(0)):
                reason = self._no_coordinator("it does not speak ZeroMQ")
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self._redial_at = None
        elif event == zmq.EVENT_CLOSED:
            self._refusals = 0  # nobody listens there: a restart, not a refusal
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._failed = self._refused = True
            if value == 400:
                reason = self._unknown_key()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failed = self._refused = True
            if self.connected:  # the stream was spoilt; libzmq may leave it at that, until its heartbeat fails
                self.connected = False
                events.append(Disconnected())
            else:
                reason = self._no_coordinator("it does not speak CURVE")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._failed = True
            if self._refused_for_long(value):
                self._refusals = 0
                reason = self._why_hung_up()
        if reason:
            self._refused = True
            events.append(Rejected(reason))

    def _refused_for_long(self, error: int) -> bool:
        """Whether this is no restart: several quick failures in a row, over some time."""
        now = monotonic()
        if error == errno.EAGAIN or now - self._dialled_at > QUICK_S:
            self._refusals = 0
            return False
        if not self._refusals:
            self._refused_since = now
        self._refusals += 1
        enough_s = REFUSED_AGAIN_S if self._was_connected else REFUSED_S
        return self._refusals >= REFUSALS and now - self._refused_since >= enough_s

    def _hang_up(self) -> None:
        """After such a failure libzmq dials no more, or far too often."""
        self._refused, self._refusals = False, 0
        self._redial_at = monotonic() + REDIAL_S
        self._let_go()

    def _let_go(self) -> None:
        try:
            self._socket.disconnect(self.address)
        except zmq.ZMQError:
            pass  # it had given the address up already

    def _redial(self) -> None:
        if self._redial_at is not None and monotonic() >= self._redial_at:
            self._redial_at = None
            self._let_go()
            self._socket.connect(self.address)

    def _why_hung_up(self) -> str:
        """Why the handshakes fail without a word; empty if the other side shows no sign of being anybody."""
        said = _greeting_of(self.address)
        if not said or said == _SIGNATURE[: len(said)]:
            return ""
        if len(said) < _GREETING.size or said[0] != 0xFF:
            return self._no_coordinator("it does not speak ZeroMQ")
        if _GREETING.unpack(said)[2].rstrip(b"\0") != b"CURVE":
            return self._no_coordinator("it does not speak CURVE")
        return (
            f"the coordinator at {self.address} does not have the key our connection file names"
            f" ({(self._server_key or '')[:8]}...): it was started anew in another directory, or the file is of another"
            " cluster; copy a fresh connection file from it"
        )

    def _unknown_key(self) -> str:
        """It had to show that it has the server key before it could say so."""
        return (
            f"the coordinator at {self.address} is the right one, but does not know this key"
            f" ({(self._public_key or '')[:8]}...): it was replaced there, or never registered;"
            " copy a fresh connection file from it"
        )

    def _no_coordinator(self, why: str) -> str:
        return (
            f"what listens at {self.address} is no Ganger coordinator: {why};"
            " copy a fresh connection file from the coordinator, or correct the address"
        )


class _Gate:
    """Answers libzmq's question whether a key may come in (ZAP, rfc.zeromq.org/spec/27); never raises."""

    def __init__(self, context: Context, identity_of: IdentityOf, complaints: _Complaints) -> None:
        self._identity_of = identity_of
        self._complaints = complaints
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        try:
            self.socket.bind(_ZAP_ADDRESS)
        except zmq.ZMQError:
            self.socket.close(0)
            raise ConfigError("one ZeroMQ context serves one coordinator; give each its own") from None

    def serve(self, limit: int = 256) -> None:
        for _ in range(limit):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) < 4:
                self._complaints.add("handshake_refused", "malformed question to the gate")
                continue
            status, text, user = self._judge(frames[2], frames[4:])
            try:
                self.socket.send_multipart([frames[0], b"", b"1.0", frames[3], status, text, user, b""], zmq.NOBLOCK)
            except zmq.ZMQError:
                pass  # the asking connection is gone

    def _judge(self, version: bytes, question: list[bytes]) -> tuple[bytes, bytes, bytes]:
        try:
            reason, address, user = self._refusal(version, question)
        except Exception as e:  # whatever it is, the gate has to answer and to live on
            self._complaints.add("handshake_refused", f"the gate failed: {type(e).__name__}")
            return b"500", b"internal error", b""
        if reason:
            self._complaints.add("handshake_refused", reason, address)
            return b"400", b"refused", b""
        return b"200", b"", user

    def _refusal(self, version: bytes, question: list[bytes]) -> tuple[str, str, bytes]:
        """Why this peer is refused (empty: it is not), its address, and its key."""
        if version != b"1.0" or len(question) < 5:
            return "malformed question to the gate", "", b""
        domain, address, _, mechanism, key, *_ = question
        where = address.decode("ascii", "replace")
        if domain != _ZAP_DOMAIN or mechanism != b"CURVE" or len(key) != 32:
            return "not CURVE", where, b""
        user = z85.encode(key)
        if self._identity_of(user.decode()) is None:
            return "unknown key", f"{user[:8].decode()}... from {where}", b""
        return "", where, user


class _Ears:
    """Says through one descriptor which of some sockets may have something.

    libzmq's own descriptor of a socket tells of news, not of messages, and a send may take the news in. So a
    socket that was sent on is asked itself; the others need not be touched, which costs system calls each time.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._of: dict[int, Socket] = {}
        self._due: set[Socket] = set()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, socket: Socket) -> None:
        fd = int(socket.get(zmq.FD))
        self._of[fd] = socket
        self._epoll.register(fd, select.EPOLLIN)
        self._ring(socket)

    def touched(self, socket: Socket) -> None:
        """It was used other than by reading it empty."""
        if socket not in self._due and _readable(socket):
            self._ring(socket)

    def take(self) -> set[Socket]:
        """Sockets to read until they are empty, or else to call ``touched`` again."""
        ready, self._due = self._due, set()
        for fd, _ in self._epoll.poll(0):
            if fd == self._bell:
                os.eventfd_read(self._bell)
            else:
                ready.add(self._of[fd])
        return ready

    def _ring(self, socket: Socket) -> None:
        if not self._due:
            os.eventfd_write(self._bell, 1)
        self._due.add(socket)

    def close(self) -> None:
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._bell)


class _Complaints:
    """Facts about refusals. The first of a reason at once, then one in five seconds that counts the rest."""

    def __init__(self) -> None:
        self.total = {"handshake_refused": 0, "unexpected": 0}
        self._waiting: dict[tuple[str, str], tuple[int, str]] = {}
        self._quiet_until: dict[tuple[str, str], float] = {}

    def add(self, kind: str, reason: str, detail: str = "") -> None:
        """``reason`` is one of a few texts; ``detail``, of which the last is kept, may be anything."""
        self.total[kind] += 1
        n, _ = self._waiting.get((kind, reason), (0, ""))
        self._waiting[kind, reason] = n + 1, detail

    def take(self) -> list[Fact]:
        if not self._waiting:
            return []
        now, out = monotonic(), []
        for key in [k for k in self._waiting if now >= self._quiet_until.get(k, now)]:
            n, detail = self._waiting.pop(key)
            kind, reason = key
            out.append(fact(kind, n, reason=f"{reason} ({detail})" if detail else reason))
            self._quiet_until[key] = now + QUIET_S
        return out


# ------------------------------------------------------------------------------------ messages


def _event(route: bytes, identity: Identity, raw: bytes | memoryview, extra: int = 0) -> Received | Garbled:
    if extra:
        return Garbled(route, identity, f"{1 + extra} frames instead of one")
    try:
        return Received(route, identity, *decode(raw))
    except BadMessage as e:
        return Garbled(route, identity, str(e))


def _encoded(effect: Send) -> bytes:
    raw = encode(effect.header, effect.message)
    assert len(raw) <= MAX_MESSAGE_BYTES, f"{type(effect.message).__name__} of {len(raw)} bytes"
    return raw


def _rest(socket: Socket) -> int:
    """Throw away the remaining frames of a message."""
    n, more = 0, True
    while more:
        more = socket.recv(zmq.NOBLOCK, copy=False).more
        n += 1
    return n


def _readable(socket: Socket) -> bool:
    """After a lone message this is a quarter of the price of ``recv`` that raises ``Again``, and half that of asking
    for the option ``EVENTS``."""
    return bool(zmq.zmq_poll([(socket, _READABLE)], 0))


def _user_id(frame: zmq.Frame) -> str:
    """The key the gate let in; empty if libzmq names none."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _peer_address(frame: zmq.Frame) -> str:
    try:
        return f"from {frame.get('Peer-Address')}"
    except zmq.ZMQError:
        return ""


def _greeting_of(address: str) -> bytes:
    """What who listens there says to ours: 64 bytes of a ZMTP greeting, or what else there was of it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    said = b""
    give_up_at = monotonic() + PROBE_S
    try:
        with net.create_connection((host.strip("[]"), int(port)), PROBE_S) as probe:
            probe.sendall(_GREETING.pack(_SIGNATURE, b"\x03\x00", b"CURVE", b""))
            while len(said) < _GREETING.size and (left := give_up_at - monotonic()) > 0:
                probe.settimeout(left)
                piece = probe.recv(_GREETING.size - len(said))
                if not piece:
                    break
                said += piece
    except (OSError, ValueError):
        pass
    return said


# ------------------------------------------------------------------------------------ sockets


def _tuned(socket: Socket) -> Socket:
    """Limits every socket has: libzmq's defaults are off, infinite and silent."""
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = HWM
    socket.maxmsgsize = MAX_MESSAGE_BYTES + ENVELOPE_BYTES
    socket.handshake_ivl = HANDSHAKE_MS
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = SILENT_MS
    socket.heartbeat_ttl = SILENT_MS
    return socket


def _router(context: Context) -> Socket:
    socket = _tuned(context.socket(zmq.ROUTER))
    socket.router_mandatory = True
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.backlog = BACKLOG
    return socket


def _watch(context: Context, socket: Socket, events: int) -> Socket:
    """A monitor's reading end.

    Without a bound on its queue: libzmq's own thread waits on a full one, and closing then waits for ever.
    """
    address = f"inproc://ganger-monitor-{next(_monitor_numbers)}"
    socket.monitor(address, events)
    ear = context.socket(zmq.PAIR)
    ear.linger = 0
    ear.rcvhwm = 0
    ear.connect(address)
    return ear


def _heard(monitor: Socket, limit: int = 1_000) -> Iterator[tuple[int, int]]:
    for _ in range(limit):
        try:
            head = monitor.recv_multipart(zmq.NOBLOCK)[0]
        except zmq.Again:
            return
        event, value = _MONITOR_EVENT.unpack(head)
        yield event, value


def _refusal_words(event: int, value: int) -> str:
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        if value == errno.EAGAIN:
            return "the peer did not finish its handshake in time"
        return f"the connection ended in the handshake: {os.strerror(value)}"
    if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "the peer does not speak CURVE"
    if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        return "the peer has another server key in its connection file"
    return f"the peer does not speak our protocol (0x{value:x})"


def _numeric(host: str, port: int) -> str:
    """A numeric address to bind: libzmq binds no names."""
    if host in ("*", ""):
        return "0.0.0.0"
    try:
        found: list[Any] = net.getaddrinfo(host.strip("[]"), port, type=net.SOCK_STREAM)
    except (net.gaierror, OverflowError) as e:
        raise ConfigError(f"cannot listen on {host}:{port}: {e}") from None
    found.sort(key=lambda entry: entry[0] != net.AF_INET)
    return str(found[0][4][0])


def _bind_words(error: int | None, host: str, port: int) -> str:
    if error == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use, perhaps by another coordinator;"
            " choose another with --port, or 0 for any free one"
        )
    if error == errno.EACCES:
        return f"port {port} on {host} needs privileges; choose one above 1023 with --port"
    if error in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return f"{host} is no address of this machine; choose one with --host"
    return f"cannot listen on {host}:{port}: {os.strerror(error or 0)}"


def _check_ipc(path: str) -> None:
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise ConfigError(f"{path} is over the {UNIX_PATH_BYTES} bytes of a socket; choose a shorter directory")
    directory = os.path.dirname(path) or "."
    try:
        found = os.stat(directory)
    except OSError as e:
        raise ConfigError(f"cannot listen on {path}: {e.strerror}") from None
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{directory} must belong to you alone; chmod 700 {directory}")
