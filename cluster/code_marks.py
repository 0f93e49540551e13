"""Whether a function by value is still the same. Rules of this file: a hash of what it does, not of how it is pickled.

Pickled anew a function differs with the lines it stands on, with the order of a set, with the file's name. Its mark is
made of its code objects without these, of its defaults, and of what it closes over or names of its module, as deep as
that is functions and classes of its own program; other values count by their pickles.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from hashlib import blake2b
from types import CodeType, FunctionType, ModuleType
from typing import Any


def mark_of(fn: Callable[..., Any], pickled: bytes) -> str:
    """The mark of a callable; ``pickled`` counts where it is made of something else than Python functions."""
    marker = _Marker()
    if not marker.callable(fn):
        return blake2b(pickled, digest_size=16).hexdigest()
    return marker.hash.hexdigest()


class _Marker:
    def __init__(self) -> None:
        self.hash = blake2b(digest_size=16)
        self._seen: dict[int, object] = {}
        """What has been looked into, kept so that no two have one id."""

    def say(self, *words: object) -> None:
        for word in words:
            raw = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self.hash.update(b"%d:" % len(raw))
            self.hash.update(raw)

    def callable(self, fn: object) -> bool:
        if inspect.ismethod(fn):
            self.value(fn.__self__)
            fn = fn.__func__
        while not isinstance(fn, FunctionType) and hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        if not isinstance(fn, FunctionType):
            return False
        self.function(fn)
        return True

    def function(self, fn: FunctionType) -> None:
        if id(fn) in self._seen:
            self.say("again", fn.__qualname__)
            return
        self._seen[id(fn)] = fn
        self.say("function", fn.__qualname__)
        self.code(fn.__code__)
        for value in (
            *(fn.__defaults__ or ()),
            *(v for pair in sorted((fn.__kwdefaults__ or {}).items()) for v in pair),
        ):
            self.value(value)
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
            self.say("closes over", name)
            try:
                self.value(cell.cell_contents)
            except ValueError:
                self.say("nothing yet")
        for name in sorted(_names(fn.__code__)):
            if name in fn.__globals__:
                self.say("names", name)
                self.value(fn.__globals__[name])

    def code(self, code: CodeType) -> None:
        self.say("code", code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self.say(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        for constant in code.co_consts:
            self.constant(constant)

    def constant(self, constant: object) -> None:
        if isinstance(constant, CodeType):
            self.code(constant)
        elif isinstance(constant, frozenset):
            self.say("set", sorted(map(repr, constant)))
        else:
            self.say(type(constant).__name__, repr(constant))

    def value(self, value: object) -> None:
        if id(value) in self._seen:
            self.say("again", type(value).__name__)
            return
        if isinstance(value, FunctionType):
            self.function(value) if _travels(value) else self.say("from", value.__module__, value.__qualname__)
        elif isinstance(value, ModuleType):
            self.say("module", value.__name__)
        elif isinstance(value, type):
            self.kind(value)
        elif type(value) in (set, frozenset):
            self.say(type(value).__name__, sorted(map(repr, value)))  # type: ignore[call-overload]
        else:
            try:
                self.say(type(value).__qualname__, pickle.dumps(value, 5))
            except Exception:
                self.say(type(value).__module__, type(value).__qualname__)

    def kind(self, kind: type) -> None:
        self.say("class", kind.__module__, kind.__qualname__)
        if not _travels(kind):
            return
        self._seen[id(kind)] = kind
        for base in kind.__bases__:
            self.kind(base)
        for name, value in sorted(vars(kind).items()):
            if name in ("__dict__", "__weakref__", "__module__", "__firstlineno__", "__static_attributes__"):
                continue
            self.say(name)
            inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            self.value(inner)


def _names(code: CodeType) -> set[str]:
    """All that it or a function in it may look up in its module."""
    out = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            out |= _names(constant)
    return out


def _travels(what: object) -> bool:
    """Whether it goes by value: nothing of that name is found in its module."""
    module, name = getattr(what, "__module__", None), getattr(what, "__qualname__", "")
    return module == "__main__" or "<locals>" in name
