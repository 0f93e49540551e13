"""What is asked of the user's Prometheus: answers good and bad, over a real socket; and the thread that asks."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import load_query
from scheduler.load_query import LoadPoller, LoadQuery, loads_of
from scheduler.roster import LoadsQueried

PROMQL = 'max by (ganger_node) (rack_busy_ratio{room="1"})'


def vector(**values: str) -> bytes:
    series = [{"metric": {"ganger_node": node}, "value": [1.7e9, value]} for node, value in values.items()]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": series}}).encode()


@contextmanager
def prometheus(status: int, body: bytes) -> Iterator[tuple[str, list[Any]]]:
    """One that answers everything in this way: its URL, and what it was asked."""
    asked: list[Any] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(urlsplit(self.path))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_vector_is_read_by_node() -> None:
    with prometheus(200, vector(n1="0.25", n2="1")) as (url, asked):
        assert LoadQuery(url + "/", PROMQL, 5.0).ask() == LoadsQueried({"n1": 0.25, "n2": 1.0}, 5.0)
    assert asked[0].path == "/api/v1/query" and parse_qs(asked[0].query) == {"query": [PROMQL]}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"status":"error","errorType":"bad_data","error":"parse error: unexpected end"}', "400: parse error"),
        (503, b"<html>", "503: Service Unavailable"),
        (200, b"<html>", "the answer is none of Prometheus's"),
        (200, b"[" * 100_000, "recursion"),
        (
            200,
            b'{"data":{"resultType":"scalar","result":[1,"2"]}}',
            "the query gives a scalar, and shall give a vector",
        ),
        (200, b'{"data":{"resultType":"vector","result":[{"metric":{"job":"x"},"value":[1,"2"]}]}}', "has a label"),
        (200, b'{"data":{"resultType":"vector","result":[{"metric":[],"value":[1,"2"]}]}}', "a series of the answer"),
        (200, b'{"data":{"resultType":"vector","result":7}}', "a series of the answer"),
        (200, b'"' + b"x" * 2_000 + b'"', "more than 1000 bytes"),
    ],
)
def test_what_is_no_answer_is_told_in_words(
    status: int, body: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if b"xx" in body:
        monkeypatch.setattr(load_query, "MOST_BYTES", 1_000)
    with prometheus(status, body) as (url, _):
        told = LoadQuery(url, PROMQL, 5.0).ask()
    assert told.loads == {} and words in told.failure and len(told.failure) <= 200


def test_nobody_there_is_told_in_words() -> None:
    with prometheus(200, b"") as (url, _):
        pass
    assert "refused" in LoadQuery(url, PROMQL, 5.0).ask().failure


def test_an_answer_that_never_ends_is_none() -> None:
    class Drips(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while not over.wait(0.05):
                    self.wfile.write(b"x")
            except OSError:
                pass

        def log_message(self, *_: Any) -> None:
            pass

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Drips) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        told = LoadQuery(f"http://127.0.0.1:{server.server_port}", PROMQL, 0.5).ask()
        over.set()
        server.shutdown()
        thread.join()
    assert told.failure == "the answer has not ended within 0.25 s"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats() | st.integers(-5, 5)), min_size=1, max_size=6))
def test_the_largest_figure_of_a_node_counts_and_nonsense_does_not(series: list[tuple[str, float]]) -> None:
    rows = [{"metric": {"ganger_node": node}, "value": [1, str(value)]} for node, value in series]
    body = json.dumps({"data": {"resultType": "vector", "result": rows}}).encode()
    sound = [(node, float(value)) for node, value in series if 0 <= value < float("inf")]
    if not sound:
        with pytest.raises(ValueError, match="has a label ganger_node and a figure"):
            loads_of(body)
        return
    assert loads_of(body) == {node: max(v for n, v in sound if n == node) for node in {n for n, _ in sound}}


def test_no_series_at_all_is_an_answer() -> None:
    assert loads_of(vector()) == {}


def test_it_is_asked_again_and_again_until_it_is_closed() -> None:
    told: queue.Queue[LoadsQueried] = queue.Queue()
    with prometheus(200, vector(n1="0.5")) as (url, _):
        poller = LoadPoller(LoadQuery(url, PROMQL, 0.5), told.put)
        assert [told.get(timeout=10) for _ in range(2)] == [LoadsQueried({"n1": 0.5}, 0.5)] * 2
        poller.close()
        poller._thread.join(10)
        assert not poller._thread.is_alive()
