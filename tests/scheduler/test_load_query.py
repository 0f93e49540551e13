"""What is asked of the user's Prometheus: answers good and bad, over a real socket; and the thread that asks."""

from __future__ import annotations

import base64
import json
import queue
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from cluster import cli, doctor
from cluster.errors import ConfigError
from scheduler import load_query
from scheduler.load_query import LoadPoller, LoadQuery, loads_of
from scheduler.roster import LoadsQueried

PROMQL = 'max by (ganger_node) (rack_busy_ratio{room="1"})'


def vector(**values: str) -> bytes:
    series = [{"metric": {"ganger_node": node}, "value": [1.7e9, value]} for node, value in values.items()]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": series}}).encode()


@contextmanager
def prometheus(
    status: int, body: bytes, *, location: str = "", tls: tuple[Path, Path] | None = None
) -> Iterator[tuple[str, list[Any]]]:
    """One that answers everything in this way, and has what it was shown in place of ``%s``: its URL, and what it was
    asked."""
    asked: list[Any] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization", "")
            asked.append(urlsplit(self.path))
            authorizations.append(shown)
            answer = body.replace(b"%s", shown.encode())
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


authorizations: list[str] = []
"""What all of them were shown, by test."""


@pytest.fixture(autouse=True)
def _forget() -> None:
    authorizations.clear()


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


# ------------------------------------------------------------------------------------ who asks

PLAIN = "p@ss:w/rd?"
QUOTED = "p%40ss:w%2Frd%3F"
WORD = "eyJhbGciOi.token-of-ours"


def with_user(url: str) -> str:
    return url.replace("://", f"://ann%20b:{QUOTED}@")


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(f"{WORD}\n")
    return path


def test_nobody_is_named_unless_it_was_said() -> None:
    with prometheus(200, vector(n1="1")) as (url, _):
        assert LoadQuery(url, PROMQL, 5.0).ask().loads == {"n1": 1.0}
    assert authorizations == [""]


def test_a_user_in_the_address_is_sent_as_basic_authentication() -> None:
    with prometheus(200, vector(n1="1")) as (url, asked):
        assert LoadQuery(with_user(url) + "/prefix/", PROMQL, 5.0).ask().loads == {"n1": 1.0}
    assert authorizations == ["Basic " + base64.b64encode(f"ann b:{PLAIN}".encode()).decode()]
    assert asked[0].path == "/prefix/api/v1/query" and parse_qs(asked[0].query) == {"query": [PROMQL]}


def test_a_token_is_read_for_each_request(token: Path) -> None:
    with prometheus(200, vector(n1="1")) as (url, _):
        query = LoadQuery(url, PROMQL, 5.0, token)
        assert query.ask().loads == {"n1": 1.0}
        token.write_text("another")
        assert query.ask().loads == {"n1": 1.0}
        token.unlink()
        assert query.ask().failure == f"cannot read {token}: No such file or directory"
    assert authorizations == [f"Bearer {WORD}", "Bearer another"]


def test_where_a_redirect_leads_nothing_is_shown(token: Path) -> None:
    with (
        prometheus(200, vector(n1="1")) as (there, asked),
        prometheus(302, b"", location=f"{there}/elsewhere") as (url, _),
    ):
        assert LoadQuery(url, PROMQL, 5.0, token).ask().loads == {"n1": 1.0}
        assert LoadQuery(with_user(url), PROMQL, 5.0).ask().loads == {"n1": 1.0}
    assert len(asked) == 2
    assert [bool(shown) for shown in authorizations] == [True, False, True, False]


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        (0o604, WORD, "holds a secret and is open to other users; chmod 600"),
        (0o640, WORD, "holds a secret and is open to other users; chmod 600"),
        (0o600, "", "holds no token: it is one line, without spaces"),
        (0o600, f"{WORD}\n{WORD}", "holds no token"),
        (0o600, f"Bearer {WORD}", "holds no token"),
        (0o600, f"{WORD}\x00", "holds no token"),
        (0o600, "schlüssel", "holds no token"),
    ],
)
def test_a_file_that_will_not_do_is_refused_at_the_start_and_told_of_later(
    token: Path, mode: int, text: str, words: str
) -> None:
    token.write_text(text)
    token.chmod(mode)
    with prometheus(200, vector(n1="1")) as (url, asked):
        query = LoadQuery(url, PROMQL, 5.0, token)
        with pytest.raises(ConfigError, match=words):
            query.credentials()
        failure = query.ask().failure
    assert asked == []
    assert words in failure and WORD not in failure


@pytest.mark.parametrize("body", [b'{"error":"who is %s?"}', b'{"error":"' + b"x" * 185 + b'%s"}'])
def test_an_answer_that_repeats_what_it_was_shown_is_told_without_it(token: Path, body: bytes) -> None:
    with prometheus(401, body) as (url, _):
        told = [LoadQuery(with_user(url), PROMQL, 5.0).ask(), LoadQuery(url, PROMQL, 5.0, token).ask()]
    for one, shown in zip(told, authorizations, strict=True):
        assert one.failure.startswith("401: ") and len(one.failure) <= 200
        assert shown.partition(" ")[2][:6] not in one.failure
        assert b"xx" in body or one.failure.endswith("***?")


def test_what_a_query_looks_like_has_no_secret(token: Path) -> None:
    assert QUOTED not in repr(LoadQuery(with_user("http://h"), PROMQL, 5.0)) + repr(LoadQuery("", "", 5.0, token))


def test_who_answers_by_tls_is_one_the_system_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ours",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        capture_output=True, check=True,
    )  # fmt: skip
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with prometheus(200, vector(n1="1"), tls=(cert, key)) as (url, _):
        query = LoadQuery(with_user(url), PROMQL, 5.0)
        assert "CERTIFICATE_VERIFY_FAILED" in query.ask().failure and authorizations == []
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert query.ask().loads == {"n1": 1.0}
        other = LoadQuery(with_user(url).replace("127.0.0.1", "localhost"), PROMQL, 5.0).ask().failure
    assert "Hostname mismatch" in other and len(authorizations) == 1


def start(*options: str, **env: str) -> Result:
    return CliRunner().invoke(cli.root, ["coordinator", "--load-query", "up", *options], env=env, prog_name="cluster")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"ann:{QUOTED}@there:9090", "begins neither with http:// nor with https://"),
        (f"http://ann:{QUOTED}@", "is not as http://HOST:PORT"),
        (f"http://ann:{QUOTED}@there:port", "is not as http://HOST:PORT"),
        ("http://ann:p@ss/wrd@there", "are written as %2F"),
        ("http://ann:12/wrd@there", "are written as %2F"),
        ("http://ann:p?wrd@there", "are written as %2F"),
        ("http://ann:12#wrd@there", "are written as %2F"),
        ("http://there/?password=wrd", "is not as http://HOST:PORT"),
    ],
)
def test_an_address_that_will_not_do_is_refused_without_repeating_it(url: str, words: str, tmp_path: Path) -> None:
    said = start("--prometheus", url, GANGER_HOME=str(tmp_path))
    assert said.exit_code == 2 and words in " ".join(said.output.split())
    [found] = doctor.settings({"GANGER_PROMETHEUS": url}, cli._variables())
    assert found.state == "problem" and words in found.found
    for text in (said.output, found.found):
        assert not {"wrd", QUOTED, "ann"} & set(text.replace("/", " ").split()) and "wrd" not in text


def test_the_doctor_shows_an_address_without_its_password() -> None:
    [found] = doctor.settings({"GANGER_PROMETHEUS": with_user("https://there:9090")}, cli._variables())
    assert (found.state, found.found) == ("ok", "https://***@there:9090")


def test_a_start_with_what_is_no_token_makes_nothing(token: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    options = ("--prometheus", "http://there", "--prometheus-token-file", str(token))
    token.chmod(0o644)
    said = start(*options, GANGER_HOME=str(home))
    assert (said.exit_code, said.stderr) == (
        1,
        f"cluster: {token} holds a secret and is open to other users; chmod 600 {token}\n",
    )
    said = start(*options, "--prometheus", with_user("http://there"), GANGER_HOME=str(home))
    assert said.exit_code == 2 and "give one of them" in said.output and QUOTED not in said.output
    assert not home.exists()
