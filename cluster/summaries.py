"""Arguments as people shall see them. Rules of this file: bounded in length and in work; it never raises.

A text is all that pages and searches ever see of a user's values, so what is named like a secret is hidden, and of what
may be large only its kind and size are told.
"""

from __future__ import annotations

import functools
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import CodeType, NoneType
from typing import Any

from cluster.config import SUMMARY_CHARS

_SECRET = re.compile(r"pass(word|wd|phrase)?$|secret|token|(api|private)_?key|authorization|credential", re.IGNORECASE)
_HIDDEN = "***"

_LARGE = 1_000
"""Elements from which on only the number of them is told."""

_SIMPLE = frozenset((float, bool, NoneType, complex))

_NAMED = re.compile(r"\b(\w+)=('[^']*'?|\"[^\"]*\"?|[^,)\s]+)")
"""A field as a dataclass, or what is written like one, shows it."""


class _Brief(reprlib.Repr):
    """Hides secrets however deep they are, and neither sorts nor goes through what is large."""

    def repr1(self, x: Any, level: int) -> str:
        return self.repr_dict(x, level) if isinstance(x, dict) else super().repr1(x, level)

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if not x or level <= 0:
            return "{...}" if x else "{}"
        parts = []
        for key, value in islice(x.items(), self.maxdict):
            hidden = type(key) is str and is_secret(key)
            parts.append(f"{self.repr1(key, level - 1)}: {repr(_HIDDEN) if hidden else self.repr1(value, level - 1)}")
        return f"{{{', '.join([*parts, *(['...'] if len(x) > self.maxdict else [])])}}}"

    def repr_set(self, x: set[Any], level: int) -> str:
        return f"set of {len(x)}" if len(x) > _LARGE else super().repr_set(x, level)

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        return f"frozenset of {len(x)}" if len(x) > _LARGE else super().repr_frozenset(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        return _NAMED.sub(_hide_named, super().repr_instance(x, level))


def _hide_named(found: re.Match[str]) -> str:
    return f"{found[1]}={_HIDDEN}" if is_secret(found[1]) else found[0]


_brief = _Brief()
_brief.maxlevel = 3
_brief.maxstring = _brief.maxother = _brief.maxlong = 60
_brief.maxlist = _brief.maxtuple = _brief.maxdict = _brief.maxset = _brief.maxfrozenset = 5


_USER = re.compile(r"^([^/?#]*//)[^/?#]*@")
_PARAMETER = re.compile(r"(?<=[?&;])([^=&;#]*)=[^&;#]+")


def address(url: str) -> str:
    """A URL as people shall see it: without user and password, and without parameters that are named like secrets."""
    shown = _USER.sub(rf"\g<1>{_HIDDEN}@", url)
    return _PARAMETER.sub(lambda found: f"{found[1]}={_HIDDEN}" if is_secret(found[1]) else found[0], shown)


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what goes by that name is nobody's business."""
    return _SECRET.search(name) is not None


_PLACES_MOST = 1_000
_places: dict[int, tuple[CodeType, tuple[int, ...]]] = {}
"""By identity, since code is slow to compare; the names of its arguments are slow to get, too."""


def _secret_places(code: CodeType) -> tuple[int, ...]:
    """Which arguments of a function are named like secrets."""
    places = tuple(place for place, name in enumerate(code.co_varnames[: code.co_argcount]) if is_secret(name))
    if len(_places) >= _PLACES_MOST:
        _places.clear()
    _places[id(code)] = code, places
    return places


def summary(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """``5, 'text', limit=10, password=***``, no longer than ``SUMMARY_CHARS``."""
    code = getattr(fn, "__code__", None)
    secret: tuple[int, ...] = ()
    if type(code) is CodeType:
        known = _places.get(id(code))
        secret = known[1] if known is not None and known[0] is code else _secret_places(code)
    parts: list[str] = []
    left = SUMMARY_CHARS
    for place, value in enumerate(args):
        if left <= 0:
            break
        part = _HIDDEN if place in secret else brief(value)
        parts.append(part)
        left -= len(part) + 2
    for name, value in kwargs.items():
        if left <= 0:
            break
        part = f"{name}={_HIDDEN if is_secret(name) else brief(value)}"
        parts.append(part)
        left -= len(part) + 2
    text = _printable(", ".join(parts))
    if len(parts) == len(args) + len(kwargs) and len(text) <= SUMMARY_CHARS:
        return text
    return text[: SUMMARY_CHARS - 3] + "..."


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def brief(value: Any) -> str:
    """One value in a few words."""
    kind = type(value)
    try:
        if kind is int:
            return repr(value) if value.bit_length() <= 256 else f"an int of {value.bit_length()} bits"
        if kind in _SIMPLE:
            return repr(value)
        if kind is str:
            return repr(value) if len(value) <= 60 else f"{value[:50]!r}... ({len(value)} characters)"
        if kind in (bytes, bytearray, memoryview):
            return f"{kind.__name__} of {len(value)}"
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            return f"{kind.__name__}{shape}"
        if kind not in (list, tuple, dict) and hasattr(kind, "__len__") and len(value) > _LARGE:
            return f"{kind.__name__} of {len(value)}"
        return _printable(_brief.repr(value))
    except Exception:  # a user's __repr__ may do anything
        return f"<{kind.__name__}>"
