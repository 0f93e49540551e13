"""Serves ``/metrics``, ``/healthz`` and ``/readyz`` on an address of their own. Rules of this file: shell; it asks
others what to say, and waits for nobody.

- On a loopback address all is plain HTTP. Elsewhere ``/metrics`` needs TLS and a token; without them it is refused
  there, and only the two others, which tell nothing but yes or no, are answered.
- A thread of its own, and one for each of a few requests; the loop of the process never waits for them.
- GET and HEAD only, no body is read, and whoever is slow is cut off.
"""

from __future__ import annotations

import contextlib
import hmac
import socket
import socketserver
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from cluster.metrics import CONTENT_TYPE

HEALTHY_S = 5.0
"""A loop that made no turn for so long is not well: it makes two a second when there is nothing to do."""

REQUEST_S = 5.0
"""For a handshake, a request and an answer, each."""

AT_ONCE = 8
"""Requests that are answered at a time; more are cut off."""

TOKEN_CHARS = 16
"""A token is at least so long."""

PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to serve. ``port`` 0: any free one; None: nowhere."""

    host: str = "127.0.0.1"
    port: int | None = None
    certificate: Path | None = None
    """With its chain,"""
    key: Path | None = None
    """...and its private key."""
    token: Path | None = None
    """File with the token that ``/metrics`` asks for."""


class Health:
    """What a process says of itself. ``turned_at``: the monotonic moment of the loop's last turn, None while there is
    no loop. ``ready``: whether it can do its work now. ``metrics``: the page.
    """

    def __init__(
        self,
        turned_at: Callable[[], float | None],
        ready: Callable[[], bool],
        metrics: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turned_at, self._ready, self.metrics = turned_at, ready, metrics
        self._clock = clock

    @property
    def healthy(self) -> bool:
        turned_at = self._turned_at()
        return turned_at is not None and self._clock() - turned_at < HEALTHY_S

    @property
    def ready(self) -> bool:
        return self.healthy and self._ready()


class HealthServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves from its making to ``close``. Raises :class:`ConfigError` if it cannot."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, listen: Listen, health: Health) -> None:
        assert listen.port is not None
        self.health = health
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self.token = _token(listen)
        self._tls = _tls(listen)
        family, address = _resolved(listen.host, listen.port)
        self.address_family = family
        self.open = ip_address(address[0]).is_loopback
        """Whether it can be reached from this machine alone."""
        try:
            super().__init__(address[:2], _Answer)
        except OSError as e:
            raise ConfigError(
                f"cannot serve metrics on {listen.host}, port {listen.port}: {e.strerror}; see --metrics-host and"
                " --metrics-port"
            ) from None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.5,), name="health", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """``host:port``."""
        host, port = self.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    @property
    def tells_metrics(self) -> bool:
        return self.open or self._tls is not None

    def admits(self, authorization: str) -> bool:
        if self.token is None:
            return True
        kind, _, given = authorization.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.settimeout(REQUEST_S)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks and goes away, or cannot shake hands, is no concern of ours."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Answer(BaseHTTPRequestHandler):
    server: HealthServer
    protocol_version = "HTTP/1.0"
    server_version, sys_version = "ganger", ""
    timeout = REQUEST_S

    def do_GET(self) -> None:
        health = self.server.health
        match self.path.partition("?")[0]:
            case "/healthz":
                self._say(200 if health.healthy else 503, b"ok\n" if health.healthy else b"the loop stands still\n")
            case "/readyz":
                self._say(200 if health.ready else 503, b"ok\n" if health.ready else b"not ready\n")
            case "/metrics":
                self._metrics()
            case _:
                self._say(404, b"there are /metrics, /healthz and /readyz\n")

    do_HEAD = do_GET

    def _metrics(self) -> None:
        if not self.server.tells_metrics:
            self._say(
                403, b"beyond loopback metrics need TLS and a token: --metrics-cert, --metrics-key, --metrics-token\n"
            )
        elif not self.server.admits(self.headers.get("Authorization", "")):
            self._say(401, b"a token is needed\n", ("WWW-Authenticate", "Bearer"))
        else:
            self._say(200, self.server.health.metrics(), kind=CONTENT_TYPE)

    def _say(self, code: int, body: bytes, *headers: tuple[str, str], kind: str = PLAIN) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Facts make the log lines; a probe a second is none."""


def _token(listen: Listen) -> bytes | None:
    if listen.token is None:
        return None
    try:
        token = listen.token.read_bytes().strip()
    except OSError as e:
        raise ConfigError(f"--metrics-token {listen.token}: {e.strerror}") from None
    if len(token) < TOKEN_CHARS:
        raise ConfigError(f"--metrics-token {listen.token} holds fewer than {TOKEN_CHARS} characters")
    return token


def _tls(listen: Listen) -> ssl.SSLContext | None:
    if listen.certificate is None and listen.key is None:
        if listen.token is not None and not _is_loopback(listen.host):
            raise ConfigError("a token would go over the wire as it is: give --metrics-cert and --metrics-key too")
        return None
    if listen.certificate is None or listen.key is None:
        raise ConfigError("--metrics-cert and --metrics-key belong together: give both, or none")
    if listen.token is None and not _is_loopback(listen.host):
        raise ConfigError("beyond loopback metrics need a token too: give --metrics-token FILE")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(listen.certificate, listen.key)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(f"--metrics-cert {listen.certificate}, --metrics-key {listen.key}: {e}") from None
    return context


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as e:
        raise ConfigError(f"--metrics-host {host}: {e.strerror}") from None
    family, _, _, _, address = found[0]
    return family, address


def _is_loopback(host: str) -> bool:
    return ip_address(str(_resolved(host, 0)[1][0])).is_loopback


def serve(listen: Listen, health: Health) -> HealthServer | None:
    """A server, if one is wanted."""
    return None if listen.port is None else HealthServer(listen, health)


# ------------------------------------------------------------------------------------ asking others


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""These addresses are near; no proxy knows them."""


def ask(address: str, page: str, within_s: float = REQUEST_S) -> tuple[bool, str]:
    """Whether the process that serves at ``address`` says yes, and in which words. It is ``HOST:PORT``, or a URL."""
    url = address if "://" in address else f"http://{address}"
    try:
        with contextlib.closing(_opener.open(f"{url.rstrip('/')}{page}", timeout=within_s)) as answer:
            return True, str(answer.read(1_000).decode(errors="replace").strip())
    except urllib.error.HTTPError as e:
        return False, e.read(1_000).decode(errors="replace").strip() or f"HTTP {e.code}"
    except (OSError, ValueError) as e:
        reason = getattr(e, "reason", e)
        return False, f"no answer: {reason}"
