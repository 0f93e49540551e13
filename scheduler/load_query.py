"""One more load signal, from the user's Prometheus. Rules of this file: shell; it asks and tells, and decides nothing.

A thread of its own asks a PromQL query now and then, so that the loop never waits for it. The answer is a vector whose
series have the label ``ganger_node``; of each node the largest value counts. What the figures are worth, and how long,
is the coordinator's business (``roster.LoadsQueried``).
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from scheduler.roster import LoadsQueried

LABEL = "ganger_node"

MOST_BYTES = 8 * 1024 * 1024
"""Of an answer: 10,000 nodes with 800 bytes of labels each."""

WITHIN_S = 5.0
"""An answer that takes longer is none; it takes no longer than half an interval either."""

_WORD_CHARS = 200


@dataclass(frozen=True, slots=True)
class LoadQuery:
    prometheus: str
    """URL of it, without ``/api``."""
    promql: str
    every_s: float

    def ask(self) -> LoadsQueried:
        """Never raises for what an answer can be: a failure is told."""
        try:
            return LoadsQueried(loads_of(self._fetch()), self.every_s)
        except (OSError, ValueError, RecursionError, HTTPException) as e:
            return LoadsQueried({}, self.every_s, _words(e))

    def _fetch(self) -> bytes:
        """Raises ``OSError``, ``ValueError`` or ``HTTPException``."""
        url = f"{self.prometheus.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': self.promql})}"
        within_s = min(WITHIN_S, self.every_s / 2)
        until = time.monotonic() + within_s
        body = bytearray()
        with urllib.request.urlopen(url, timeout=within_s) as response:
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
        return f"{error.code}: {told}"[:_WORD_CHARS]
    reason = getattr(error, "reason", error)
    return (str(reason) or type(error).__name__)[:_WORD_CHARS]


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
