"""Two hosts: who gets in, who does not and is told why, what a listener on the wire sees, who listens where."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from cluster import LocalCluster
from cluster.errors import ConfigError
from cluster.keys import ConnectionFile
from scheduler.main import Settings, advertised
from tests.system.namespaces import COMMAND, DEVICE, SOON_S, Pair, two_hosts

pytestmark = pytest.mark.system


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with two_hosts(tmp_path) as pair:
        yield pair


def out_of(process: subprocess.Popen[str], told: str | None = None) -> str:
    """What a program printed that ended well."""
    out, err = process.communicate(told, timeout=2 * SOON_S)
    assert process.returncode == 0, err
    return out.strip()


def words_of(process: subprocess.Popen[str]) -> str:
    """The last line of a program that ended badly."""
    _, err = process.communicate(timeout=2 * SOON_S)
    assert process.returncode == 1, err
    return err.strip().splitlines()[-1]


# ------------------------------------------------------------------------------------ who gets in

STREAM = """
import select, sys
from cluster import Client

with Client(sys.argv[1]) as client:
    done = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        assert list(client.map(lambda i: i * i, range(100))) == [i * i for i in range(100)]
        done += 100
        print(done, flush=True)
    print(client._session.address)
"""

ONE_JOB = """
import sys
from cluster import Client
with Client(sys.argv[1]) as client:
    print(client.submit(abs, -1).result(30))
"""

PLAIN_ZEROMQ = """
import sys, zmq
with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
    peer.linger, peer.reconnect_ivl = 0, -1
    monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    peer.connect(sys.argv[1])
    peer.send(b"let me in")
    assert monitor.poll(20_000) and not peer.poll(0), "not thrown out"
    peer.disable_monitor()
    monitor.close()
"""

PLAIN_HTTP = """
import http.client, sys
web = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
try:
    web.request("GET", "/")
    web.getresponse()
except (http.client.HTTPException, ConnectionError) as e:
    print("refused")
"""


def test_the_right_key_gets_in_and_nobody_else_while_jobs_go_on(pair: Pair) -> None:
    head, away = pair
    coordinator = head.coordinator("--host", "0.0.0.0", "--advertise", head.address)
    directory, address = head.home / ".ganger/coordinator", f"tcp://{head.address}:7077"
    node = away.node(pair.carry(directory, "node"))
    right = pair.carry(directory, "client")
    known = ConnectionFile.load(right)

    strange, misled = dict[str, Path](), dict[str, Path]()
    public, secret = (key.decode() for key in zmq.curve_keypair())
    for role in ("client", "node"):
        own = ConnectionFile.load(away.home / f"coordinator-{role}.json")
        strange[role], misled[role] = away.home / f"strange-{role}.json", away.home / f"misled-{role}.json"
        dataclasses.replace(own, public_key=public, secret_key=secret).save(strange[role])
        dataclasses.replace(own, coordinators=((address, public),)).save(misled[role])

    stream = away.python(STREAM, right)
    assert stream.stdout is not None
    assert stream.stdout.readline() == "100\n"
    began_at = time.monotonic()
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    refused = {
        "strange client": away.python(ONE_JOB, strange["client"]),
        "misled client": away.python(ONE_JOB, misled["client"]),
        "strange node": away.popen([*COMMAND, "node", "--connection", str(strange["node"]), "--name", "n1"], **quiet),
        "misled node": away.popen([*COMMAND, "node", "--connection", str(misled["node"]), "--name", "n2"], **quiet),
    }
    others = [away.python(PLAIN_ZEROMQ, address), away.python(PLAIN_HTTP, head.address, 7077)]
    also = away.python(ONE_JOB, right)
    assert out_of(also) == "1"
    assert [out_of(other) for other in others] == ["", "refused"]
    for who, process in refused.items():
        words = words_of(process)
        assert words.startswith("cluster.errors.Refused: the" if "client" in who else "cluster: the"), words
        if "strange" in who:
            assert f"the coordinator at {address} is the right one, but does not know this key ({public[:8]}" in words
        else:
            assert (
                f"the coordinator at {address} does not have the key our connection file names ({public[:8]}" in words
            )
            assert "started anew in another directory, or the file is of another cluster" in words
        assert "copy a fresh connection file from it" in words

    def knock() -> None:
        for _ in range(300):
            with socket.create_connection((head.address, 7077), SOON_S) as web:
                web.sendall(b"GET / HTTP/1.1\r\n\r\n")
                try:
                    web.recv(1000)
                except ConnectionError:
                    pass

    away.within(knock)
    *counts, dialled = out_of(stream, "enough\n").splitlines()
    assert int(counts[-1]) >= 200
    assert dialled == address, "the copied file names a local socket too, which is not on this host"
    assert "link 2" not in coordinator.said() + node.said(), "somebody was disturbed"

    lines = [line for line in coordinator.said().splitlines() if "WARNING" in line]
    reasons = Counter(line.partition("handshakes refused: ")[2].partition(" (")[0] for line in lines)
    assert reasons["unknown key"] and reasons["the peer has another server key in its connection file"]
    assert "" not in reasons, lines
    assert max(reasons.values()) <= 1 + (time.monotonic() - began_at) / 5.0, lines
    assert any(f"{public[:8]}... from {away.address}" in line for line in lines)
    assert known.secret_key not in coordinator.said() + node.said()


# ------------------------------------------------------------------------------------ what the wire shows

SECRETS = """
import sys
from cluster import Client, errors

def whisper_{marker}(text):
    "{marker}"
    print(text, "{marker}")
    return text[::-1] + "{marker}"

def cry(text):
    raise ValueError("{marker}" + text)

with Client(sys.argv[1]) as client:
    said = "{marker}" * 10
    assert client.options(name="{marker}").submit(whisper_{marker}, said).result(30) == said[::-1] + "{marker}"
    assert list(client.map(whisper_{marker}, [said] * 100)) == [said[::-1] + "{marker}"] * 100
    large = "{marker}" * 50_000
    assert client.submit(whisper_{marker}, large).result(30)[-20:] == "{marker}"[-20:]
    assert "{marker}" in str(client.submit(cry, said).exception(30))
print("all said")
"""

SOL_PACKET, PACKET_STATISTICS = 263, 6
ETH_P_ALL = 3


class Tap:
    """Copies each frame that passes the end of a cable."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind((DEVICE, 0))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
        self.socket.settimeout(0.1)
        self.seen = bytearray()
        self.lost = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._copy)
        self._thread.start()

    def _copy(self) -> None:
        while True:
            try:
                self.seen += self.socket.recv(1 << 17)
            except TimeoutError:
                if self._over.is_set():
                    return

    def close(self) -> None:
        """What was sent before is in ``seen``."""
        self._over.set()
        self._thread.join()
        _, self.lost = struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.socket.close()


def test_nothing_a_job_carries_can_be_read_on_the_wire(pair: Pair) -> None:
    head, away = pair
    marker, control = (prefix + os.urandom(12).hex() for prefix in ("m", "c"))
    head.coordinator("--host", head.address)
    directory = head.home / ".ganger/coordinator"
    tap = head.within(Tap)
    try:
        away.node(pair.carry(directory, "node"))
        assert out_of(away.python(SECRETS.replace("{marker}", marker), pair.carry(directory, "client"))) == "all said"
        with head.within(lambda: socket.create_server((head.address, 0))) as server:
            there = server.getsockname()
            with away.within(lambda: socket.create_connection(there, SOON_S)) as plain, server.accept()[0] as other:
                plain.sendall(control.encode())
                assert other.recv(100) == control.encode()
    finally:
        tap.close()
    assert tap.lost == 0
    assert control.encode() in tap.seen
    assert marker.encode() not in tap.seen and marker[::-1].encode() not in tap.seen
    for role in ("client", "node"):
        assert ConnectionFile.load(directory / f"{role}.json").secret_key.encode() not in tap.seen
    assert len(tap.seen) > 4 * 50_000 * len(marker), "to the coordinator and on to the node, and all the way back"


# ------------------------------------------------------------------------------------ who listens where


def listeners(root: int) -> list[str]:
    """Addresses on which a process and its descendants accept or take anything from a network."""
    top = psutil.Process(root)
    processes = [top, *top.children(recursive=True)]
    found = [c for p in processes for c in p.net_connections("inet")]
    return sorted({f"{c.laddr.ip}" for c in found if c.status == psutil.CONN_LISTEN or c.type == socket.SOCK_DGRAM})


def test_up_listens_on_loopback_only(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")} | {"GANGER_HOME": str(tmp_path)}
    command = [*COMMAND, "up", "--port", "0", "--slots", "1"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            assert any(line.startswith("╰") for line in up.stdout), "the panel is whole when all runs"
            assert listeners(up.pid) == ["127.0.0.1"]
        finally:
            up.terminate()


def test_a_local_cluster_listens_on_loopback_only() -> None:
    with LocalCluster(nodes=2, slots=1, transport="tcp") as cluster, cluster.client() as client:
        assert client.submit(abs, -1).result(SOON_S) == 1
        assert listeners(cluster.coordinator.pid) == ["127.0.0.1"]
        assert [listeners(node.pid) for node in cluster.nodes] == [[], []]
        assert set(listeners(os.getpid())) <= {"127.0.0.1"}


# ------------------------------------------------------------------------------------ addresses for others


@pytest.mark.parametrize(
    "advertise, address",
    [
        ("head.example", "tcp://head.example:7077"),
        ("head.example:443", "tcp://head.example:443"),
        ("192.0.2.7", "tcp://192.0.2.7:7077"),
        ("192.0.2.7:80", "tcp://192.0.2.7:80"),
        ("2001:db8::1", "tcp://[2001:db8::1]:7077"),
        ("2001:db8::5:443", "tcp://[2001:db8::5:443]:7077"),
        ("[2001:db8::1]", "tcp://[2001:db8::1]:7077"),
        ("[2001:db8::1]:443", "tcp://[2001:db8::1]:443"),
    ],
)
def test_forms_of_an_advertised_address(advertise: str, address: str) -> None:
    assert advertised(Settings(advertise=advertise), "0.0.0.0", 7077) == address


@pytest.mark.parametrize(
    "advertise",
    ["tcp://head.example:7077", "head.example:", "head.example:0", "head.example:70000", ":7077", "head example",
     "[2001:db8::1", "2001:db8:::1", "[head.example]:1", "0.0.0.0", "0.0.0.0:80", "::", "[::]:80", "*"],
)  # fmt: skip
def test_what_nobody_can_dial_is_not_advertised(advertise: str) -> None:
    with pytest.raises(ConfigError, match=r"--advertise .* HOST, HOST:PORT or \[IPV6\]:PORT"):
        advertised(Settings(advertise=advertise), "0.0.0.0", 7077)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*"])
@pytest.mark.parametrize("advertise", [(), ("--advertise", "tcp://head.example")])
def test_on_all_interfaces_an_address_for_others_is_asked_for(
    host: str, advertise: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*COMMAND, "coordinator", "--directory", str(tmp_path / "new"), "--host", host, "--port", "0", *advertise],
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "--advertise" in line and "HOST" in line
    assert not (tmp_path / "new").exists(), "what cannot start leaves nothing"


def test_ipv6_between_hosts(pair: Pair) -> None:
    head, away = pair
    try:
        head.within(lambda: socket.create_server((head.address6, 0), family=socket.AF_INET6)).close()
    except OSError as e:
        pytest.skip(f"no IPv6 here: {e}")
    head.coordinator("--host", "::", "--advertise", head.address6)
    directory = head.home / ".ganger/coordinator"
    away.node(pair.carry(directory, "node"))
    assert out_of(away.python(ONE_JOB, pair.carry(directory, "client"))) == "1"


# ------------------------------------------------------------------------------------ many

EVERYWHERE = """
import json, os, sys
from cluster import Client

def where(_):
    return os.environ["GANGER_NODE"]

with Client(sys.argv[1]) as client:
    names = [node["name"] for node in client.nodes()]
    asked = {name: client.options(labels={"which": name}).submit(where, 0) for name in names}
    assert all(future.result(60) == name for name, future in asked.items())
    print(json.dumps([names, list(client.map(where, range(20 * len(names))))]))
"""


@pytest.mark.parametrize("count", [12, pytest.param(40, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_many_nodes_from_one_file(pair: Pair, count: int) -> None:
    head, away = pair
    coordinator = head.coordinator("--host", "0.0.0.0", "--advertise", f"{head.address}:7077")
    directory = head.home / ".ganger/coordinator"
    file = pair.carry(directory, "node")
    names = [f"n-{i:02}" for i in range(count)]
    starting = [away.starting_node(file, "--slots", "1", "--label", f"which={name}", name=name) for name in names]
    for joined in starting:
        joined()
    seen, ran = json.loads(out_of(away.python(EVERYWHERE, pair.carry(directory, "client"))))
    assert seen == names
    assert len(ran) == 20 * count and set(ran) <= set(names)
    away_from = re.escape(f"from {socket.gethostname()} ({away.address})")
    assert {*re.findall(rf"node (n-\d\d) joined with 1 slots {away_from}", coordinator.said())} == {*names}
