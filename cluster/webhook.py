"""The built-in job that tells a web server what became of another job. Rules of this file: standard library only.

It runs on a node like any job: a failure is its exception, and its own ``retries`` bring it again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from typing import Any, NoReturn

TIMEOUT_S = 15.0
"""For the whole answer of the server."""

SIGNATURE = "Ganger-Signature"
"""Header ``t=<seconds>,v1=<hex>``: HMAC-SHA256 with the secret, of the seconds, a dot, and the body."""


class WebhookFailed(Exception):
    """The server did not answer with a 2xx status; the text says what it did."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the record, and its signature, to where the user has not sent it."""

    def redirect_request(self, *about: Any) -> NoReturn:
        raise WebhookFailed(f"it redirects to {about[-1]}; give that address")


def signature(secret: str, body: bytes, at: int) -> str:
    """What the header says; whoever has the secret can check it."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


def post(record: dict[str, Any], url: str, secret: str = "") -> int:
    """POST the record as JSON, signed if there is a secret; the status. Raises :class:`WebhookFailed`."""
    if not url.startswith(("http://", "https://")):
        raise WebhookFailed(f"{url!r} is no http address")
    body = json.dumps(record, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "ganger"}
    if secret:
        headers[SIGNATURE] = signature(secret, body, int(time.time()))
    request = urllib.request.Request(url, body, headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        raise WebhookFailed(f"{url} answers {e.code} {e.reason}") from None
    except OSError as e:
        raise WebhookFailed(f"{url} cannot be reached: {getattr(e, 'reason', e)}") from None
