"""Arguments as people shall see them. Rules of this file: bounded in length and in work; it never raises.

A text is all that pages and searches ever see of a user's values, so what is named like a secret is hidden, and of what
may be large only its kind and size are told.
"""

from __future__ import annotations

import functools
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any

from cluster.config import SUMMARY_CHARS

_SECRET = re.compile(r"pass(word|wd|phrase)?$|secret|token|(api|private)_?key|authorization|credential", re.IGNORECASE)
_HIDDEN = "***"

_LARGE = 1_000
"""Elements from which on only the number of them is told."""

_SIMPLE = frozenset((float, bool, NoneType, complex))

_brief = reprlib.Repr()
_brief.maxlevel = 3
_brief.maxstring = _brief.maxother = _brief.maxlong = 60
_brief.maxlist = _brief.maxtuple = _brief.maxdict = _brief.maxset = _brief.maxfrozenset = 5


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what goes by that name is nobody's business."""
    return _SECRET.search(name) is not None


def summary(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """``5, 'text', limit=10, password=***``, no longer than ``SUMMARY_CHARS``."""
    code = getattr(fn, "__code__", None)
    names: tuple[str, ...] = () if code is None else code.co_varnames[: code.co_argcount]
    parts: list[str] = []
    left = SUMMARY_CHARS
    for place, value in enumerate(args):
        if left <= 0:
            break
        hidden = place < len(names) and is_secret(names[place])
        part = _HIDDEN if hidden else brief(value)
        parts.append(part)
        left -= len(part) + 2
    for name, value in kwargs.items():
        if left <= 0:
            break
        part = f"{name}={_HIDDEN if is_secret(name) else brief(value)}"
        parts.append(part)
        left -= len(part) + 2
    if left > 0 and len(parts) == len(args) + len(kwargs):
        return ", ".join(parts)
    return ", ".join(parts)[: SUMMARY_CHARS - 3] + "..."


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
        if kind is dict:
            value = {k: _HIDDEN if type(k) is str and is_secret(k) else v for k, v in list(value.items())[:6]}
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            return f"{kind.__name__}{shape}"
        if kind not in (list, tuple, dict, set, frozenset) and hasattr(kind, "__len__") and len(value) > _LARGE:
            return f"{kind.__name__} of {len(value)}"
        text = _brief.repr(value)
        return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    except Exception:  # a user's __repr__ may do anything
        return f"<{kind.__name__}>"
