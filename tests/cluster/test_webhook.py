"""The built-in job that tells a web server: what it sends, how it is signed, and what it calls a failure."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.webhook import SIGNATURE, WebhookFailed, post, signature

RECORD = {"id": "1-1", "state": "failed", "error": "ValueError: ä"}


class Server(http.server.HTTPServer):
    """Keeps what it was told, and answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 204
        self.told: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *about: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_record_is_posted_as_json(server: Server) -> None:
    assert post(RECORD, server.url) == 204
    ((headers, body),) = server.told
    assert headers["Content-Type"] == "application/json" and SIGNATURE not in headers
    assert json.loads(body) == RECORD


def test_who_has_the_secret_can_check_the_signature(server: Server) -> None:
    post(RECORD, server.url, "hush")
    ((headers, body),) = server.told
    at, _, mac = headers[SIGNATURE].removeprefix("t=").partition(",v1=")
    assert mac == hmac.new(b"hush", at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE] == signature("hush", body, int(at)) != signature("other", body, int(at))


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_any_status_but_2xx_is_a_failure_in_words(server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(WebhookFailed, match=f"answers {status}"):
        post(RECORD, server.url)


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.status = 302
    with pytest.raises(WebhookFailed, match=r"redirects to http://127\.0\.0\.1:1/elsewhere"):
        post(RECORD, server.url)


def test_nobody_there_is_a_failure_in_words(server: Server) -> None:
    with pytest.raises(WebhookFailed, match="cannot be reached"):
        post(RECORD, "http://127.0.0.1:1/hook")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "hook"])
def test_only_http_addresses_are_taken(url: str) -> None:
    with pytest.raises(WebhookFailed, match="no http address"):
        post(RECORD, url)
