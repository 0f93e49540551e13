"""One more load signal, from the user's Prometheus. Rules of this file: shell; it asks and tells, and decides nothing.

A thread of its own asks a PromQL query now and then, so that the loop never waits for it. The answer is a vector whose
series have the label ``ganger_node``; of each node the largest value counts. What the figures are worth, and how long,
is the coordinator's business (``roster.LoadsQueried``).

What authenticates us goes into one header of the request, and into nothing that is told.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from cluster.errors import ConfigError
from cluster.keys import read_secret
from scheduler.roster import LoadsQueried

LABEL = "ganger_node"

MOST_BYTES = 8 * 1024 * 1024
"""Of an answer: 10,000 nodes with 800 bytes of labels each."""

WITHIN_S = 5.0
"""An answer that takes longer is none; it takes no longer than half an interval either."""

_WORD_CHARS = 200
_TOKEN = re.compile(r"[!-~]+")


class Credentials(NamedTuple):
    header: str
    """``Authorization`` of a request; empty for none."""
    secrets: tuple[str, ...]
    """What no text may show."""


@dataclass(frozen=True, slots=True)
class LoadQuery:
    prometheus: str = field(repr=False)
    """URL of it, without ``/api``. A user and a password in it, quoted, are for basic authentication."""
    promql: str
    every_s: float
    token_file: Path | None = None
    """Holds a bearer token, in place of a user. It is read for each request, as the token may be replaced."""

    def ask(self) -> LoadsQueried:
        """Never raises for what an answer can be: a failure is told."""
        credentials = Credentials("", ())
        try:
            credentials = self.credentials()
            return LoadsQueried(loads_of(self._fetch(credentials)), self.every_s)
        except (ConfigError, OSError, ValueError, RecursionError, HTTPException) as e:
            words = _words(e)
            for secret in credentials.secrets:  # what answers may repeat what it was sent
                words = words.replace(secret, "***")
            return LoadsQueried({}, self.every_s, words[:_WORD_CHARS])

    def credentials(self) -> Credentials:
        """What a request shows. Raises ``ConfigError`` if the file is open to others, or holds no token."""
        if self.token_file is not None:
            token = read_secret(self.token_file).strip().decode("latin-1")
            if not _TOKEN.fullmatch(token):
                raise ConfigError(f"{self.token_file} holds no token: it is one line, without spaces")
            return Credentials(f"Bearer {token}", (token,))
        user, found, _ = urllib.parse.urlsplit(self.prometheus).netloc.rpartition("@")
        if not found:
            return Credentials("", ())
        name, _, quoted = user.partition(":")
        password = urllib.parse.unquote(quoted)
        both = base64.b64encode(f"{urllib.parse.unquote(name)}:{password}".encode()).decode()
        return Credentials(f"Basic {both}", tuple(secret for secret in (both, quoted, password) if secret))

    def _fetch(self, credentials: Credentials) -> bytes:
        """Raises ``OSError``, ``ValueError`` or ``HTTPException``."""
        parts = urllib.parse.urlsplit(self.prometheus)
        url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        request = urllib.request.Request(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': self.promql})}")
        if credentials.header:  # for that server alone, and for none it redirects to
            request.add_unredirected_header("Authorization", credentials.header)
        within_s = min(WITHIN_S, self.every_s / 2)
        until = time.monotonic() + within_s
        body = bytearray()
        with urllib.request.urlopen(request, timeout=within_s) as response:
            while piece := response.read1(1 << 16):
                body += piece
                if len(body) > MOST_BYTES:
                    raise ValueError(f"the answer has more than {MOST_BYTES} bytes")
                if time.monotonic() > until:
                    raise ValueError(f"the answer has not ended within {within_s:g} s")
        return bytes(body)


def loads_of(body: bytes) -> dict[str, float]:
    """What an answer of Prometheus says of each node. Raises ``ValueError`` with what is wrong with it."""
    try:
        answer: Any = json.loads(body)
        data = answer["data"]
        kind, series = data["resultType"], data["result"]
    except (ValueError, LookupError, TypeError):
        raise ValueError("the answer is none of Prometheus's") from None
    if kind != "vector":
        raise ValueError(f"the query gives a {str(kind)[:20]}, and shall give a vector")
    out: dict[str, float] = {}
    try:
        for one in series:
            node, value = one["metric"].get(LABEL), float(one["value"][1])
            if node is not None and 0 <= value < float("inf"):
                out[str(node)] = max(value, out.get(str(node), 0.0))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError("a series of the answer is none of Prometheus's") from None
    if series and not out:
        raise ValueError(f"none of its {len(series)} series has a label {LABEL} and a figure")
    return out


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        try:  # Prometheus says there what is wrong with the query
            told = json.loads(error.read(10_000))["error"]
        except (OSError, ValueError, LookupError, TypeError):
            told = error.reason
        return f"{error.code}: {told}"
    reason = getattr(error, "reason", error)
    return str(reason) or type(error).__name__


class LoadPoller:
    """Asks until it is closed. ``tell`` is called in its thread."""

    def __init__(self, query: LoadQuery, tell: Callable[[LoadsQueried], None]) -> None:
        self._query, self._tell = query, tell
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-query", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._tell(self._query.ask())
            if self._closed.wait(self._query.every_s):
                return

    def close(self) -> None:
        """It ends by itself; nobody waits for an answer on its way."""
        self._closed.set()
