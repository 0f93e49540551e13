"""Real sockets on loopback: who gets in, what comes through, what happens when a side goes away."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from cluster import transport
from cluster.actor import (
    LOCAL,
    Connected,
    Disconnected,
    Garbled,
    Header,
    Identity,
    Received,
    Rejected,
    Send,
    Unroutable,
)
from cluster.codec import encode
from cluster.config import MAX_MESSAGE_BYTES
from cluster.errors import ConfigError
from cluster.messages import Bye, Chunk, Pulse
from cluster.transport import Context, Dial, Doors

WAIT_S = 20.0
SERVER_PUBLIC, SERVER_SECRET = (key.decode() for key in zmq.curve_keypair())
CLIENT_PUBLIC, CLIENT_SECRET = (key.decode() for key in zmq.curve_keypair())
OTHER_PUBLIC, OTHER_SECRET = (key.decode() for key in zmq.curve_keypair())
CLIENT = Identity(CLIENT_PUBLIC, "client", "alice", "default")
HEADER = Header(1, 1, 0)


class Net:
    """Sockets of one test and what they reported; ``until`` drains them all till something is true."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.known = {CLIENT_PUBLIC: CLIENT}
        self.at_doors: list[Any] = []
        self.at_dial: dict[Dial, list[Any]] = {}
        self.facts: list[str] = []
        self.doors: Doors | None = None
        self._peers = self.context()
        self._closing: list[Any] = []

    def context(self) -> Context:
        self.contexts.append(zmq.Context())
        return self.contexts[-1]

    def open(
        self, port: int = 0, identity_of: Callable[[str], Identity | None] | None = None, secret: str = SERVER_SECRET
    ) -> str:
        self.doors = Doors(self.context(), secret, identity_of or self.known.get)
        self._closing.append(self.doors)
        host, port = self.doors.bind_tcp("127.0.0.1", port)
        return f"tcp://{host}:{port}"

    def dial(
        self,
        address: str,
        server: str | None = SERVER_PUBLIC,
        public: str | None = CLIENT_PUBLIC,
        secret: str | None = CLIENT_SECRET,
    ) -> Dial:
        dial = Dial(self._peers, address, server, public, secret)
        self.at_dial[dial] = []
        self._closing.append(dial)
        return dial

    def raw(
        self,
        kind: int,
        address: str,
        public: str | None = CLIENT_PUBLIC,
        secret: str = CLIENT_SECRET,
        routing_id: bytes = b"",
    ) -> transport.Socket:
        """A socket of no class of ours."""
        raw = self._peers.socket(kind)
        self._closing.append(raw)
        raw.linger = 0
        raw.rcvhwm = 1
        if routing_id:
            raw.routing_id = routing_id
        if public:
            raw.curve_serverkey = SERVER_PUBLIC.encode()
            raw.curve_publickey, raw.curve_secretkey = public.encode(), secret.encode()
        raw.connect(address)
        return raw

    def until(self, true: Callable[[], object], what: str = "it") -> None:
        deadline = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.seen()}"
            self.step()

    def step(self, wait_ms: int = 20) -> None:
        poller = zmq.Poller()
        for end in (self.doors, *self.at_dial):
            for pollable in end.pollables() if end else ():
                poller.register(pollable, zmq.POLLIN)
        poller.poll(wait_ms)
        if self.doors is not None:
            self.at_doors += self.doors.drain(100)[0]
            self.facts += [f.text for f in self.doors.take_facts()]
        for dial, events in self.at_dial.items():
            events += dial.drain(100)[0]

    def seen(self) -> str:
        return f"doors {self.at_doors}, dials {list(self.at_dial.values())}, facts {self.facts}"

    def connected(self, dial: Dial) -> Dial:
        self.until(lambda: Connected() in self.at_dial[dial], "a connection")
        return dial

    def introduce(self, dial: Dial) -> bytes:
        """Route of a connected dial, learnt from a message of its."""
        before = len(self.at_doors)
        dial.send(Send(b"", HEADER, Pulse()))
        self.until(lambda: len(self.at_doors) > before, "a message")
        route: bytes = self.at_doors[-1].route
        return route

    def shut(self) -> None:
        """The coordinator is gone, and its port is free again: libzmq closes sockets in a thread of its own."""
        assert self.doors is not None
        self.doors.close()
        self.doors = None
        self.contexts[-1].term()

    def hang_up(self, dial: Dial) -> None:
        dial.close()
        del self.at_dial[dial]

    def close(self) -> None:
        for thing in self._closing:
            thing.close()
        for context in self.contexts:
            context.destroy(linger=0)


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter pauses, so that refusals are tried again within a test."""
    monkeypatch.setattr(transport, "REDIAL_S", 0.05)


# ------------------------------------------------------------------------------------ who gets in


def test_a_known_key_gets_in_and_is_named_on_every_message(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    message = Chunk(b"s" * 32, 9, 0, b"payload")
    dial.send(Send(b"", HEADER, message))
    net.until(lambda: net.at_doors)
    (received,) = net.at_doors
    assert received == Received(received.route, CLIENT, HEADER, message)
    assert net.doors is not None
    assert net.doors.send(Send(received.route, Header(1, 2, 1), Bye("later"))) is None
    net.until(lambda: len(net.at_dial[dial]) > 1)
    back = Received(
        b"", Identity(SERVER_PUBLIC, "coordinator", "coordinator", "default"), Header(1, 2, 1), Bye("later")
    )
    assert net.at_dial[dial] == [Connected(), back]
    assert net.facts == []
    assert (net.doors.received, net.doors.sent, dial.received, dial.sent) == (1, 1, 1, 1)
    assert net.doors.received_bytes == dial.sent_bytes == len(encode(HEADER, message))


def test_an_unknown_key_is_refused_in_words_on_both_sides(net: Net) -> None:
    dial = net.dial(net.open(), public=OTHER_PUBLIC, secret=OTHER_SECRET)
    net.until(lambda: net.at_dial[dial] and net.facts)
    (rejected,) = net.at_dial[dial]
    assert type(rejected) is Rejected and "does not know this key" in rejected.reason
    assert "copy a fresh connection file" in rejected.reason and dial.address in rejected.reason
    assert f"is the right one, but does not know this key ({OTHER_PUBLIC[:8]}...)" in rejected.reason
    assert net.facts == [f"1 handshakes refused: unknown key ({OTHER_PUBLIC[:8]}... from 127.0.0.1)"]
    assert net.at_doors == []


@pytest.mark.usefixtures("patient")
def test_a_refused_peer_gets_in_once_its_key_is_registered(net: Net) -> None:
    dial = net.dial(net.open(), public=OTHER_PUBLIC, secret=OTHER_SECRET)
    net.until(lambda: net.at_dial[dial])
    net.known[OTHER_PUBLIC] = Identity(OTHER_PUBLIC, "node", "bob", "default")
    net.connected(dial)
    net.introduce(dial)
    assert net.at_doors[-1].identity.owner == "bob"


def test_messages_under_a_key_that_was_removed_are_dropped_and_counted(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    net.introduce(dial)
    net.known.clear()
    dial.send(Send(b"", HEADER, Pulse()))
    net.until(lambda: net.facts)
    assert net.facts == ["1 messages dropped: the sender's key is not registered (from 127.0.0.1)"]
    assert net.doors is not None and net.doors.strangers == 1
    assert len(net.at_doors) == 1


def test_whoever_takes_the_routing_id_of_one_that_left_is_not_taken_for_it(net: Net) -> None:
    address = net.open()
    net.known[OTHER_PUBLIC] = Identity(OTHER_PUBLIC, "node", "bob", "default")
    first = net.raw(zmq.DEALER, address, routing_id=b"chosen")
    first.send(encode(HEADER, Pulse()))
    net.until(lambda: net.at_doors)
    route = net.at_doors[0].route
    first.close()
    doors = net.doors
    assert doors is not None
    net.until(lambda: doors.send(Send(route, HEADER, Pulse())), "the first to be gone")
    second = net.raw(zmq.DEALER, address, OTHER_PUBLIC, OTHER_SECRET, routing_id=b"chosen")
    second.send(encode(HEADER, Pulse()))
    net.until(lambda: len(net.at_doors) == 2)
    assert [(e.route, e.identity.owner) for e in net.at_doors] == [(route, "alice"), (route, "bob")]


def test_a_wrong_server_key_is_named_when_it_is_no_restart(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REFUSED_S", 0.2)
    dial = net.dial(net.open(), server=OTHER_PUBLIC)
    net.until(lambda: net.at_dial[dial], "a rejection")
    (rejected,) = net.at_dial[dial]
    assert (
        type(rejected) is Rejected and "started anew in another directory, or the file is of another" in rejected.reason
    )
    assert f"does not have the key our connection file names ({OTHER_PUBLIC[:8]}...)" in rejected.reason
    assert any("another server key in its connection file" in text for text in net.facts)
    assert net.at_doors == []


def test_a_coordinator_started_anew_with_other_keys_is_named(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REFUSED_AGAIN_S", 0.2)
    address = net.open()
    dial = net.connected(net.dial(address))
    net.shut()
    net.open(int(address.rpartition(":")[2]), secret=OTHER_SECRET)
    net.until(lambda: len(net.at_dial[dial]) == 3, "a rejection")
    assert net.at_dial[dial][:2] == [Connected(), Disconnected()]
    assert "does not have the key our connection file names" in net.at_dial[dial][2].reason


def test_a_peer_without_curve_gets_nothing_and_is_counted(net: Net) -> None:
    raw = net.raw(zmq.DEALER, net.open(), public=None)
    raw.send(encode(HEADER, Pulse()))
    net.until(lambda: net.facts)
    (text,) = net.facts  # which of the two depends on who hangs up first
    assert "the peer does not speak CURVE" in text or "the connection ended in the handshake" in text
    assert net.at_doors == []
    assert net.doors is not None and net.doors.handshakes_refused == 1


def test_a_port_scan_is_counted_and_reported_once_in_a_while(net: Net) -> None:
    host, _, port = net.open().removeprefix("tcp://").partition(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as scanner:
            scanner.sendall(b"\xff" * 100)
    doors = net.doors
    assert doors is not None
    net.until(lambda: doors.handshakes_refused >= 5)
    assert 1 <= len(net.facts) < 5


class Listener:
    """Something else at an address: ``serve`` is called with each connection, and then it hangs up."""

    def __init__(self, serve: Callable[[socket.socket], object], port: int = 0) -> None:
        self._serve = serve
        self._server = socket.create_server(("127.0.0.1", port))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.served = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(WAIT_S)
                self._serve(connection)
            self.served += 1


def answer_as_web_server(connection: socket.socket) -> None:
    connection.recv(10)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("serve", [answer_as_web_server, lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")])
def test_a_listener_that_is_no_coordinator_is_named(net: Net, serve: Callable[[socket.socket], object]) -> None:
    with Listener(serve) as listener:
        dial = net.dial(listener.address)
        net.until(lambda: net.at_dial[dial], "a rejection")
    (rejected,) = net.at_dial[dial]
    assert type(rejected) is Rejected
    assert f"what listens at {listener.address} is no Ganger coordinator: it does not speak ZeroMQ" in rejected.reason


def test_a_zeromq_socket_without_curve_is_named(net: Net) -> None:
    with net.context().socket(zmq.ROUTER) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        dial = net.dial(f"tcp://127.0.0.1:{port}")
        net.until(lambda: net.at_dial[dial], "a rejection")
    (rejected,) = net.at_dial[dial]
    assert type(rejected) is Rejected
    assert "is no Ganger coordinator: it does not speak CURVE; copy a fresh connection file" in rejected.reason


@pytest.mark.usefixtures("patient")
def test_a_proxy_with_nobody_behind_it_is_waited_for_in_silence(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REFUSED_S", 0.0)
    asked: list[str] = []

    def greeting_of(address: str) -> bytes:
        asked.append(address)
        return ask(address)

    ask = transport._greeting_of
    monkeypatch.setattr(transport, "_greeting_of", greeting_of)
    with Listener(lambda connection: None) as proxy:
        dial = net.dial(proxy.address)
        net.until(lambda: len(asked) >= 2)
        assert net.at_dial[dial] == []
    net.open(int(proxy.address.rpartition(":")[2]))
    net.connected(dial)


def test_the_gate_outlives_garbage_and_a_failing_lookup(net: Net) -> None:
    def identity_of(key: str) -> Identity | None:
        if key == OTHER_PUBLIC:
            raise RuntimeError("the lookup is broken")
        return net.known.get(key)

    address = net.open(identity_of=identity_of)
    asker = net.contexts[-1].socket(zmq.DEALER)
    asker.linger = 0
    asker.connect("inproc://zeromq.zap.01")
    for question in (
        [b""],
        [b"", b"1.0"],
        [b"", b"9", b"1"],
        [b"", b"1.0", b"1", b"ganger", b"?", b"", b"NULL"],
    ):
        asker.send_multipart(question)
    asker.send_multipart([b"", b"1.0", b"7", b"ganger", b"\xff", b"", b"PLAIN", b"user", b"password"])
    asker.send_multipart([b"", b"1.0", b"8", b"elsewhere", b"", b"", b"CURVE", b"k" * 32])
    broken = net.dial(address, public=OTHER_PUBLIC, secret=OTHER_SECRET)
    net.until(lambda: any("RuntimeError" in text for text in net.facts))
    net.connected(net.dial(address))
    answers = []
    while asker.poll(0):
        answers.append(asker.recv_multipart())
    assert [a[2] for a in answers] == [b"1", b"1", b"7", b"8"]
    assert {a[3] for a in answers} == {b"400"}
    assert not any(type(e) is Connected for e in net.at_dial[broken])
    asker.close()


def test_two_coordinators_in_one_context_are_refused(net: Net) -> None:
    net.open()
    with pytest.raises(ConfigError, match="one coordinator"):
        Doors(net.contexts[-1], SERVER_SECRET, net.known.get)


# ------------------------------------------------------------------------------------ what comes through


OVERSIZE = """
import sys, zmq
address, server, public, secret, first = sys.argv[1:]
with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
    peer.linger = 0
    peer.curve_serverkey, peer.curve_publickey = server.encode(), public.encode()
    peer.curve_secretkey = secret.encode()
    monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    peer.connect(address)
    peer.send(bytes.fromhex(first))
    peer.send(bytes(256 * 1024 * 1024))
    assert monitor.poll(20_000), "never cut"
    peer.disable_monitor()
    monitor.close()
"""


def test_an_oversize_frame_cuts_its_peer_and_is_not_buffered(net: Net) -> None:
    address = net.open()
    other = net.connected(net.dial(address))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = encode(HEADER, Pulse()).hex()
    command = [sys.executable, "-c", OVERSIZE, address, SERVER_PUBLIC, CLIENT_PUBLIC, CLIENT_SECRET, first]
    with subprocess.Popen(command) as sender:
        net.until(lambda: sender.poll() is not None, "the cut")
    assert sender.returncode == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    net.introduce(other)
    assert [type(e) for e in net.at_doors] == [Received, Received]


def test_a_message_of_the_largest_size_comes_through_encryption(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    message = Chunk(b"s" * 32, 1, 0, bytes(MAX_MESSAGE_BYTES - 100))
    dial.send(Send(b"", HEADER, message))
    net.until(lambda: net.at_doors)
    assert net.at_doors[0].message == message
    with pytest.raises(AssertionError, match="Chunk of"):
        dial.send(Send(b"", HEADER, Chunk(b"s" * 32, 1, 0, bytes(MAX_MESSAGE_BYTES))))


def test_what_is_no_message_of_ours_is_garbled_and_harms_nothing(net: Net) -> None:
    raw = net.raw(zmq.DEALER, net.open())
    raw.send(b"rubbish")
    raw.send(b"")
    raw.send_multipart([encode(HEADER, Pulse()), b"more", b""])
    raw.send(encode(HEADER, Pulse()))
    net.until(lambda: len(net.at_doors) == 4)
    assert [type(e) for e in net.at_doors] == [Garbled, Garbled, Garbled, Received]
    assert net.at_doors[2] == Garbled(net.at_doors[3].route, CLIENT, "3 frames instead of one")


def test_drain_takes_no_more_than_asked_and_says_so(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    doors = net.doors
    assert doors is not None
    for n in range(200):
        dial.send(Send(b"", Header(1, n, 0), Pulse()))
    taken: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while len(taken) < 200:
        assert time.monotonic() < deadline
        events, emptied = doors.drain(7)
        assert len(events) <= 7 and (emptied or len(events) == 7)
        taken += events
    assert [e.header.seq for e in taken] == list(range(200))
    assert doors.drain(7) == ([], True)


def readable(end: Doors | Dial) -> bool:
    poller = zmq.Poller()
    for pollable in end.pollables():
        poller.register(pollable, zmq.POLLIN)
    return bool(poller.poll(int(WAIT_S * 1000)))


def test_what_is_left_after_a_drain_can_be_polled_for(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    route = net.introduce(dial)
    doors = net.doors
    assert doors is not None
    for n in range(50):
        doors.send(Send(route, Header(1, n, 0), Pulse()))
        dial.send(Send(b"", Header(1, n, 0), Pulse()))
    ends: tuple[Doors | Dial, ...] = (doors, dial)
    for end in ends:
        seen: list[int] = []
        while len(seen) < 50:
            assert readable(end), f"only {seen}"
            seen += [e.header.seq for e in end.drain(7)[0] if type(e) is Received]
        assert seen == list(range(50))


def test_a_crowd_at_the_gate_is_let_in_without_another_knock(net: Net) -> None:
    net.open()
    doors = net.doors
    assert doors is not None
    asker = net.contexts[-1].socket(zmq.DEALER)
    asker.linger = 0
    asker.connect("inproc://zeromq.zap.01")
    crowd = 1_000
    for n in range(crowd):
        asker.send_multipart([b"", b"1.0", b"%d" % n, b"ganger", b"", b"", b"CURVE", b"k" * 32])
    answered = 0
    while answered < crowd:
        assert asker.poll(0) or readable(doors), f"{answered} answers"
        doors.drain(1)
        while asker.poll(0):
            asker.recv_multipart()
            answered += 1
    asker.close()


# ------------------------------------------------------------------------------------ going away


def test_a_send_to_a_peer_that_left_is_unroutable(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    route = net.introduce(dial)
    net.hang_up(dial)
    doors = net.doors
    assert doors is not None
    answers: list[Unroutable | None] = []

    def unroutable() -> bool:
        answers.append(doors.send(Send(route, HEADER, Pulse())))
        return answers[-1] is not None

    net.until(unroutable)
    assert answers[-1] == Unroutable(route) and doors.unroutable == 1
    assert doors.send(Send(b"?nowhere", HEADER, Pulse())) == Unroutable(b"?nowhere")
    assert doors.send(Send(b"", HEADER, Pulse())) == Unroutable(b"")


def test_a_restart_of_the_coordinator_is_disconnected_then_connected_and_no_rejection(net: Net) -> None:
    address = net.open()
    dial = net.connected(net.dial(address))
    old = net.introduce(dial)
    net.shut()
    net.until(lambda: Disconnected() in net.at_dial[dial])
    assert not dial.connected

    def dropped() -> int:
        dial.send(Send(b"", HEADER, Pulse()))
        return dial.dropped

    net.until(dropped)
    net.open(int(address.rpartition(":")[2]))
    net.until(lambda: len(net.at_dial[dial]) == 3)
    assert net.at_dial[dial] == [Connected(), Disconnected(), Connected()]
    assert net.introduce(dial) != old


@pytest.mark.usefixtures("patient")
def test_a_connection_cut_for_what_came_by_it_is_dialled_again(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    route = net.introduce(dial)
    assert net.doors is not None and net.doors._tcp is not None
    net.doors._tcp.send_multipart([route[1:], bytes(MAX_MESSAGE_BYTES + 10_000)])
    net.until(lambda: len(net.at_dial[dial]) == 3)
    assert net.at_dial[dial] == [Connected(), Disconnected(), Connected()]
    assert net.introduce(dial) != route


class SpoiltOnce:
    """A proxy that passes on all bytes, but flips one bit of what the coordinator says after its handshake."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").partition(":")
        self._target = (host, int(port))
        self.spoil = threading.Event()

    def __call__(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            while True:
                ready, _, _ = select.select([client, server], [], [], WAIT_S)
                for end in ready:
                    piece = bytearray(end.recv(65536))
                    if not piece:
                        return
                    if end is server and self.spoil.is_set():
                        self.spoil.clear()
                        piece[-1] ^= 1
                    (client if end is server else server).sendall(piece)


@pytest.mark.usefixtures("patient")
def test_a_stream_that_was_tampered_with_is_no_refusal(net: Net) -> None:
    proxy = SpoiltOnce(net.open())
    with Listener(proxy) as listener:
        dial = net.connected(net.dial(listener.address))
        route = net.introduce(dial)
        proxy.spoil.set()
        assert net.doors is not None
        net.doors.send(Send(route, HEADER, Pulse()))
        net.until(lambda: len(net.at_dial[dial]) == 3)
        assert net.at_dial[dial] == [Connected(), Disconnected(), Connected()]
        assert net.introduce(dial) != route
        net.hang_up(dial)
        net.until(lambda: listener.served == 2)


def test_nobody_listening_is_waited_for_in_silence(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    dial = net.dial(f"tcp://127.0.0.1:{port}")
    for _ in range(30):
        net.step()
    assert net.at_dial[dial] == []
    net.open(port)
    net.connected(dial)


def test_last_words_of_a_peer_get_out_with_a_linger(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    messages = [Chunk(b"s" * 32, 1, 0, bytes(100_000)) for _ in range(20)]
    for message in (*messages, Bye("going home")):
        dial.send(Send(b"", HEADER, message))
    del net.at_dial[dial]
    dial.close(linger_ms=5_000)
    net.until(lambda: len(net.at_doors) == 21)
    assert [e.message for e in net.at_doors] == [*messages, Bye("going home")]


def test_what_came_by_a_connection_stands_before_the_news_of_its_end(net: Net) -> None:
    dial = net.connected(net.dial(net.open()))
    route = net.introduce(dial)
    doors = net.doors
    assert doors is not None
    for n in range(50):
        doors.send(Send(route, Header(1, n, 0), Pulse()))
    events: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while len(events) < 10:
        events += dial.drain(10)[0]
        assert time.monotonic() < deadline
    net.shut()
    while Disconnected() not in events:
        events += dial.drain(10)[0]
        assert time.monotonic() < deadline
    seen = [e.header.seq for e in events if type(e) is Received]
    assert seen == list(range(len(seen))) and events[-1] == Disconnected()


def test_a_full_queue_drops_and_counts_instead_of_waiting(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HWM", 10)
    raw = net.raw(zmq.DEALER, net.open())
    raw.send(encode(HEADER, Pulse()))
    net.until(lambda: net.at_doors)
    doors = net.doors
    assert doors is not None
    effect = Send(net.at_doors[0].route, HEADER, Chunk(b"s" * 32, 1, 0, bytes(1_000_000)))

    def dropped() -> int:
        for _ in range(20):
            assert doors.send(effect) is None
        return doors.dropped

    net.until(dropped)


# ------------------------------------------------------------------------------------ addresses


def test_ipc_is_for_the_owner_and_needs_no_key(net: Net, tmp_path: Path) -> None:
    net.open()
    tmp_path.chmod(0o700)
    assert net.doors is not None
    net.doors.bind_ipc(tmp_path / "s")
    dial = net.connected(net.dial(f"ipc://{tmp_path}/s", None, None, None))
    net.introduce(dial)
    assert net.at_doors[-1].identity == LOCAL
    tcp = net.connected(net.dial(f"tcp://127.0.0.1:{net.doors.bind_tcp('127.0.0.1', 0)[1]}"))
    assert net.introduce(tcp)[:1] != net.at_doors[0].route[:1]
    net.doors.send(Send(net.at_doors[0].route, HEADER, Bye("to the local one")))
    net.until(lambda: len(net.at_dial[dial]) == 2)
    assert net.at_dial[tcp] == [Connected()]


def test_ipc_in_a_directory_open_to_others_is_refused(net: Net, tmp_path: Path) -> None:
    net.open()
    assert net.doors is not None
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match=f"chmod 700 {tmp_path}"):
        net.doors.bind_ipc(tmp_path / "s")
    with pytest.raises(ConfigError, match="shorter directory"):
        net.doors.bind_ipc(tmp_path / ("s" * 120))
    with pytest.raises(ConfigError, match="No such file"):
        net.doors.bind_ipc(tmp_path / "missing" / "s")


def test_an_address_that_cannot_be_had_says_what_to_do(net: Net) -> None:
    port = int(net.open().rpartition(":")[2])
    other = Doors(net.context(), SERVER_SECRET, net.known.get)
    with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use.*--port"):
        other.bind_tcp("127.0.0.1", port)
    with pytest.raises(ConfigError, match="no address of this machine"):
        other.bind_tcp("192.0.2.1", 0)
    with pytest.raises(ConfigError, match=r"cannot listen on no\.such\.host\.invalid"):
        other.bind_tcp("no.such.host.invalid", 0)
    assert other.bind_tcp("localhost", 0)[0] == "127.0.0.1"
    other.close()


def test_ipv6(net: Net) -> None:
    net.open()
    assert net.doors is not None
    try:
        host, port = net.doors.bind_tcp("::1", 0)
    except ConfigError:
        pytest.skip("no IPv6 here")
    net.connected(net.dial(f"tcp://[{host}]:{port}"))


def test_a_dial_that_cannot_work_is_refused_at_once(net: Net) -> None:
    with pytest.raises(ConfigError, match="needs the coordinator's key"):
        net.dial("tcp://127.0.0.1:1", None)
    with pytest.raises(ConfigError, match="cannot dial nonsense"):
        net.dial("nonsense")
    with pytest.raises(ConfigError, match="check address and keys"):
        net.dial("tcp://127.0.0.1:1", "short")


def test_nothing_is_left_open() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(3):
        net = Net()
        net.connected(net.dial(net.open()))
        net.close()
    assert descriptors() == before
