"""Arguments as people see them: bounded in length and work, secrets hidden, and never an error."""

from __future__ import annotations

import time
from collections import OrderedDict, UserDict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import SUMMARY_CHARS
from cluster.summaries import address, brief, is_secret, summary


def send(address: str, password: str = "", *, token: str = "", limit: int = 5) -> None:
    """A function with names worth hiding."""


class Hostile:
    """Whatever is asked of it fails."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")


@dataclass
class Account:
    user: str
    password: str


class Loud:
    def __repr__(self) -> str:
        return "\x1b[2J\x07" + "x" * 1_000_000


class NoText:
    def __repr__(self) -> str:
        return 5  # type: ignore[return-value]


def test_it_reads_as_a_call() -> None:
    assert summary(send, ("ann@example.org",), {"limit": 10}) == "'ann@example.org', limit=10"
    assert summary(send, (), {}) == ""
    assert summary(len, ([1, 2],), {}) == "[1, 2]"


def test_secrets_are_hidden_by_place_by_name_and_inside() -> None:
    assert summary(send, ("ann", "hunter2"), {"token": "abc", "limit": 1}) == "'ann', ***, token=***, limit=1"
    assert summary(send, ({"password": "hunter2", "user": "ann"},), {}) == "{'password': '***', 'user': 'ann'}"


@pytest.mark.parametrize(
    "value",
    [
        {"outer": {"password": "hunter2"}},
        [{"api_key": "hunter2"}],
        ({"a": [{"token": "hunter2"}]},),
        OrderedDict([("password", "hunter2")]),
        Account("ann", "hunter2"),
        [Account("ann", "hunter2")],
    ],
)
def test_secrets_are_hidden_however_deep_they_are(value: Any) -> None:
    assert "hunter2" not in brief(value)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("password", True),
        ("db_password", True),
        ("PASSWD", True),
        ("passphrase", True),
        ("token", True),
        ("access_token", True),
        ("client_secret", True),
        ("api_key", True),
        ("apikey", True),
        ("private_key", True),
        ("Authorization", True),
        ("credentials", True),
        ("key", False),
        ("passenger", False),
        ("limit", False),
    ],
)
def test_what_names_are_secrets(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_of_what_is_large_only_its_size_is_told() -> None:
    assert brief(b"x" * 10) == "bytes of 10"
    assert brief("x" * 1_000).endswith("(1000 characters)")
    assert brief(10**400) == "an int of 1329 bits"
    assert brief(deque(range(100_000))) == "deque of 100000"
    assert brief(SimpleNamespace(shape=(3, 4))) == "SimpleNamespace(3, 4)"
    assert brief(UserDict({n: n for n in range(5_000)})) == "UserDict of 5000"


def test_a_value_of_a_users_class_does_no_harm() -> None:
    for value in [Hostile(), Loud(), NoText(), [Hostile()], {"a": Hostile()}, {Hostile: 1}]:
        text = summary(send, (value,), {"limit": value})
        assert len(text) <= SUMMARY_CHARS and text.isprintable()


def test_long_calls_are_cut() -> None:
    text = summary(send, tuple(range(100_000)), {})
    assert len(text) == SUMMARY_CHARS and text.endswith("...")


def test_large_values_cost_no_time() -> None:
    values: list[Any] = [
        list(range(2_000_000)),
        dict.fromkeys(range(1_000_000), 0),
        "x" * 20_000_000,
        set(range(500_000)),
    ]
    begun = time.perf_counter()
    for value in values:
        brief(value)
    assert time.perf_counter() - begun < 1.0


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.sets(st.integers() | st.text())
    ),
)


@given(st.lists(_plain, max_size=6), st.dictionaries(st.text(max_size=300), _plain, max_size=6))
def test_any_call_is_a_short_printable_line(args: list[Any], kwargs: dict[str, Any]) -> None:
    text = summary(send, args, kwargs)
    assert len(text) <= SUMMARY_CHARS
    assert text.isprintable()
    text.encode()


@given(st.dictionaries(st.sampled_from(["password", "auth_token", "user", "limit"]), st.just("hunter2-hunter2")))
def test_no_secret_of_any_call_is_seen(kwargs: dict[str, str]) -> None:
    text = summary(send, (), kwargs)
    shown = [name for name in kwargs if not is_secret(name)]
    assert text.count("hunter2-hunter2") == len(shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/hook?room=1", None),
        ("https://example.org/@ann?to=b@c#d@e", None),
        ("http://127.0.0.1:9090", None),
        ("http://ann:pw@example.org:9090/x", "http://***@example.org:9090/x"),
        ("https://ann@example.org", "https://***@example.org"),
        ("https://a:p@w@[::1]/x?q=1", "https://***@[::1]/x?q=1"),
        ("https://h/x?token=abc&room=1&api_key=d#f", "https://h/x?token=***&room=1&api_key=***#f"),
        ("not a url", None),
        ("", None),
    ],
)
def test_an_address_is_shown_without_what_is_secret(url: str, shown: str | None) -> None:
    assert address(url) == (url if shown is None else shown)
