"""What is served beside the cluster's own sockets, to whom, and how its loop never waits for that."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.health import AT_ONCE, HEALTHY_S, Health, HealthServer, Listen, ask, serve

WORD = "sixteen-and-more-characters"


class Process:
    """What a server tells of, on a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turned_at: float | None = 100.0
        self.ready = True
        self.health = Health(lambda: self.turned_at, lambda: self.ready, lambda: b"a 1\n", lambda: self.now)


@contextlib.contextmanager
def serving(listen: Listen, process: Process) -> Iterator[HealthServer]:
    server = HealthServer(listen, process.health)
    try:
        yield server
    finally:
        server.close()


def get(
    server: HealthServer, path: str, *, method: str = "GET", tls: bool = False, token: str = ""
) -> tuple[int, bytes, dict[str, str]]:
    port = server.server_address[1]
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, context=context, timeout=10
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", key, "-out", cert],
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return cert, key


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(WORD + "\n")
    return path


def test_it_tells_whether_the_loop_turns_and_whether_it_is_ready() -> None:
    process = Process()
    with serving(Listen(port=0), process) as server:

        def codes() -> tuple[int, int]:
            return get(server, "/healthz")[0], get(server, "/readyz")[0]

        assert codes() == (200, 200)
        process.ready = False
        assert codes() == (200, 503)
        process.ready = True
        process.now += HEALTHY_S - 0.01
        assert codes() == (200, 200)
        process.now += 0.02
        assert codes() == (503, 503), "what stands still is not ready"
        process.turned_at = None
        assert codes() == (503, 503)


def test_it_serves_three_pages_and_nothing_else() -> None:
    with serving(Listen(port=0), Process()) as server:
        code, body, headers = get(server, "/metrics?x=1")
        assert (code, body) == (200, b"a 1\n") and headers["Content-Type"].startswith("text/plain; version=")
        assert get(server, "/metrics", method="HEAD")[:2] == (200, b"")
        assert get(server, "/")[0] == get(server, "/metrics/../x")[0] == 404
        assert get(server, "/metrics", method="POST")[0] == get(server, "/metrics", method="DELETE")[0] == 501


def test_beyond_loopback_plain_http_tells_yes_or_no_and_no_figures() -> None:
    with serving(Listen("0.0.0.0", 0), Process()) as server:
        assert get(server, "/healthz")[:2] == get(server, "/readyz")[:2] == (200, b"ok\n")
        code, body, _ = get(server, "/metrics")
        assert code == 403 and b"need TLS and a token" in body and b"a 1" not in body


def test_beyond_loopback_figures_need_tls_and_the_token(pair: tuple[Path, Path], token: Path) -> None:
    with serving(Listen("0.0.0.0", 0, *pair, token), Process()) as server:
        assert get(server, "/metrics", tls=True, token=WORD)[:2] == (200, b"a 1\n")
        assert get(server, "/metrics", tls=True)[0] == 401
        assert get(server, "/metrics", tls=True, token=WORD[:-1])[0] == 401
        assert get(server, "/metrics", tls=True, token="\xe4" * 20)[0] == 401
        assert get(server, "/healthz", tls=True)[0] == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            get(server, "/healthz")


def test_on_loopback_a_token_is_asked_for_where_there_is_one(token: Path) -> None:
    with serving(Listen(port=0, token=token), Process()) as server:
        assert get(server, "/metrics")[0] == 401
        assert get(server, "/metrics", token=WORD)[0] == 200


def test_what_cannot_be_served_is_one_clear_error(pair: tuple[Path, Path], token: Path, tmp_path: Path) -> None:
    cert, key = pair
    weak = tmp_path / "weak"
    weak.write_text("short")
    health = Process().health
    for listen, words in (
        (Listen("0.0.0.0", 0, cert, key), "need a token too"),
        (Listen("0.0.0.0", 0, cert), "belong together"),
        (Listen("0.0.0.0", 0, token=token), "would go over the wire as it is"),
        (Listen("0.0.0.0", 0, cert, key, weak), "fewer than 16 characters"),
        (Listen("0.0.0.0", 0, cert, key, tmp_path / "none"), "No such file"),
        (Listen("0.0.0.0", 0, key, cert, token), "--metrics-cert"),
        (Listen("no.such.host.invalid", 0), "--metrics-host"),
    ):
        with pytest.raises(ConfigError, match=words):
            HealthServer(listen, health)
    with (
        serving(Listen(port=0), Process()) as server,
        pytest.raises(ConfigError, match="see --metrics-host and --metrics-port"),
    ):
        HealthServer(Listen(port=server.server_address[1]), health)
    assert serve(Listen(), health) is None


def test_those_who_say_nothing_hold_up_nobody_and_are_bounded() -> None:
    with serving(Listen(port=0), Process()) as server, contextlib.ExitStack() as stack:
        address = "127.0.0.1", server.server_address[1]
        for _ in range(AT_ONCE - 1):
            stack.enter_context(contextlib.closing(socket.create_connection(address)))
        assert get(server, "/healthz")[0] == 200
        mute = [stack.enter_context(contextlib.closing(socket.create_connection(address))) for _ in range(2 * AT_ONCE)]
        cut = 0
        for one in mute:
            one.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                cut += one.recv(1) == b""
        assert cut >= AT_ONCE


def test_a_page_is_asked_for_as_the_command_does(token: Path) -> None:
    process = Process()
    with serving(Listen(port=0), process) as server:
        assert ask(server.address, "/readyz") == (True, "ok")
        assert ask(f"http://{server.address}/", "/readyz") == (True, "ok")
        process.ready = False
        assert ask(server.address, "/readyz") == (False, "not ready")
        address = server.address
    ok, words = ask(address, "/healthz")
    assert not ok and "no answer" in words
    assert not ask("nonsense", "/healthz", 1.0)[0]
