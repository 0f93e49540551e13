"""Pickles that carry code. Rules of this file: what cloudpickle does, and what we mend in it; loaded when needed.

``payload`` comes here when a plain pickle will not do. On top of cloudpickle,

- modules the user names go by value without cloudpickle's registry, which belongs to the whole process;
- a class that is at home in this process stays as it is when an instance of it comes back: cloudpickle would
  build it anew, with all that its metaclass does, and overwrite its attributes and methods with older ones;
- classes with ``__slots__``, cached functions and properties, and modules that refer to each other work;
- code keeps the name of its file, so that tracebacks show its lines (cloudpickle drops it since 3.1.3).
"""

from __future__ import annotations

import functools
import pickle
import types
import typing
import weakref
from collections.abc import Callable, Iterable
from typing import IO, Any

from cloudpickle import Pickler
from cloudpickle import cloudpickle as inside

_HEAP_TYPE = 1 << 9
"""``Py_TPFLAGS_HEAPTYPE``: unset in classes that are written in C, of which there is no code to send."""

_FILENAME = 10
"""Where ``types.CodeType`` takes the name of the file, in Python 3.11 and later."""

_NOT_SENT = ("__builtins__", "__loader__", "__spec__", "__cached__")
"""Of a module: how it was found here, which is not how it came there."""


# --------------------------------------------------------------------------------- writing


class CodePickler(Pickler):  # type: ignore[misc]
    """Takes what ``covers`` says yes to (given a module's name) by value, as what is in ``__main__``."""

    def __init__(self, file: IO[bytes], outside: Callable[..., Any] | None, covers: Callable[[Any], bool]) -> None:
        super().__init__(file, 5, outside)
        self._covers = covers

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is types.FunctionType:
            if self._covers(obj.__module__):
                return self._dynamic_function_reduce(obj)
        elif issubclass(kind, type):
            reduced = NotImplemented
            if obj.__flags__ & _HEAP_TYPE and self._covers(obj.__module__):
                reduced = inside._dynamic_class_reduce(obj)
            else:
                reduced = super().reducer_override(obj)
            return _with_slots(obj, reduced)
        elif kind in _OWN_WAYS:
            return _OWN_WAYS[kind](self, obj)
        return super().reducer_override(obj)

    def _module(self, module: types.ModuleType) -> Any:
        if not self._covers(module.__name__):
            return NotImplemented
        state = {key: value for key, value in module.__dict__.items() if key not in _NOT_SENT}
        # filled after it is made, for it may hold what refers to it
        return _new_module, (module.__name__,), state, None, None, _fill_module

    def _type_variable(self, variable: Any) -> Any:
        if self._covers(variable.__module__):
            return inside._make_typevar, inside._decompose_typevar(variable)
        return NotImplemented

    def _new_type(self, new: Any) -> Any:
        return (typing.NewType, (new.__name__, new.__supertype__)) if self._only_here(new) else NotImplemented

    def _cached_function(self, cached: Any) -> Any:
        if self._only_here(cached):
            return _cache, (cached.__wrapped__, cached.cache_parameters())
        return NotImplemented

    def _cached_property(self, cached: functools.cached_property[Any]) -> Any:
        return _property, (cached.func, cached.attrname)  # before Python 3.12 it holds a lock

    def _weak_dict(self, items: Any) -> Any:
        return type(items), (dict(items.items()),)  # functools.singledispatch has one

    def _code(self, code: types.CodeType) -> Any:
        make, args = inside._code_reduce(code)
        return make, (*args[:_FILENAME], code.co_filename, *args[_FILENAME + 1 :])

    def _only_here(self, obj: Any) -> bool:
        """Whether its name, which is all that its own pickle would hold, means nothing elsewhere."""
        return self._covers(obj.__module__) or not inside._lookup_module_and_qualname(obj)


_OWN_WAYS: dict[type, Callable[[CodePickler, Any], Any]] = {
    types.CodeType: CodePickler._code,
    types.ModuleType: CodePickler._module,
    typing.TypeVar: CodePickler._type_variable,
    typing.NewType: CodePickler._new_type,
    functools._lru_cache_wrapper: CodePickler._cached_function,
    functools.cached_property: CodePickler._cached_property,
    weakref.WeakKeyDictionary: CodePickler._weak_dict,
}


def _with_slots(cls: type, reduced: Any) -> Any:
    """A class must be born with its slots; cloudpickle sets them when it is too late."""
    if type(reduced) is tuple and reduced[0] is inside._make_skeleton_class and "__slots__" in cls.__dict__:
        _, _, bases, born_with, *_ = reduced[1]
        if typing.NamedTuple not in bases:  # it sees to that itself
            born_with["__slots__"] = reduced[2][0].pop("__slots__")
    return reduced


def _new_module(name: str) -> types.ModuleType:
    return types.ModuleType(name)


def _fill_module(module: types.ModuleType, state: dict[str, Any]) -> None:
    module.__dict__.update(state)


def _cache(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)


def _property(fn: Callable[..., Any], name: str | None) -> Any:
    cached = functools.cached_property(fn)
    cached.attrname = name
    return cached


# --------------------------------------------------------------------------------- reading

_states_set = 0


def states_set() -> int:
    """Grows with each class whose state was set by a pickle in this process."""
    return _states_set


class _Classes:
    """What becomes of the classes in one pickle. Apart from the unpickler, whose memo must not keep itself alive."""

    def __init__(self, at_home: bool) -> None:
        self._at_home = at_home
        self._known: set[type] = set()

    def make(self, make: Callable[..., type], *args: Any) -> type:
        tracker = args[-2]
        known: type | None = inside._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker) if tracker else None
        if known is None:
            return make(*args)
        self._known.add(known)
        return known

    def set_state(self, cls: type, state: Any) -> type:
        global _states_set
        if not (self._at_home and cls in self._known):
            _states_set += 1
            inside._class_setstate(cls, state)
        return cls


class CodeUnpickler(pickle.Unpickler):
    """``at_home``: classes this process knows stay as they are; otherwise they become what the pickle says."""

    def __init__(self, file: IO[bytes], buffers: Iterable[Any] | None, at_home: bool) -> None:
        super().__init__(file, buffers=buffers)
        self._classes = _Classes(at_home)

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module == inside.__name__:
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return functools.partial(self._classes.make, found)
            if name == "_class_setstate":
                return self._classes.set_state
        return found
