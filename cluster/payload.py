"""User values to bytes and back. Rules of this file: the only place that pickles; clients and workers use it.

Pickle first, cloudpickle (in ``by_value``) when that fails *or when the bytes name* ``__main__`` or a module
that the user sends by value: pickle is content there, and the worker, whose ``__main__`` is another, would not
be. What cannot be pickled is a ``SerializationError`` that says which argument was at fault.

A pickle with code in it runs on one minor version of Python only, and says so itself::

    mark "GNC1" | major: u8 | minor: u8 | pickle

What the coordinator makes itself is no pickle but plain values: mark "GNP1", then msgpack.

Small values are one plain pickle. A value above ``INLINE_BYTES`` is a :class:`LargePayload`; large buffers in
it (NumPy arrays, and whatever else offers ``pickle.PickleBuffer``) stay outside the pickle, in a container::

    magic "GNG1" | count: u32 | length: u64 * count | pickle, marked or not | buffer | buffer ...   little-endian

Each section starts on a multiple of 64 bytes, so arrays in a mapped file are aligned as NumPy likes them.
Small buffers cost less inside the pickle, and stay writable wherever they are read.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import struct
import sys
import types
import weakref
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.machinery import ExtensionFileLoader
from mmap import mmap
from typing import Any, NamedTuple

import msgpack

from cluster import errors
from cluster.config import FAILURE_CHARS, INLINE_BYTES, MAX_BLOB_BYTES
from cluster.jobs import PLAIN, Failure, shorten

Buffer = bytes | bytearray | memoryview | mmap
"""What can be unpacked; a mapping is best made with ``ACCESS_COPY``, which makes its arrays writable."""

_MAGIC = b"GNG1"
_ALIGN = 64
_CODE = b"GNC1"
_CODE_MARK = _CODE + bytes(sys.version_info[:2])
_MAIN = b"__main__"
_PICKLE_MARK = 0x80
"""First byte of every pickle of protocol 2 and above."""

REFERENCE_BYTES = 4096
"""A callable whose pickle is larger travels by value, that is once, whatever is in it."""

EXCEPTION_BYTES = 32 * 1024
"""Largest pickled exception that is sent; above, the client gets ``RemoteError`` with the text."""

_FAILURE_BYTES = 40_000
"""Bound in bytes on an error's text and on its traceback, so that a failure fits into a message."""

BY_VALUE_MAX = 64
"""Modules that may be sent by value; each is looked for in every pickle."""

_dumps = pickle.dumps
_loads = pickle.loads


# --------------------------------------------------------------------------------- what goes by value


def by_value_names(wanted: Iterable[str | types.ModuleType]) -> tuple[str, ...]:
    """Names of modules, checked: there must be code of them here to send. Raises ``TypeError``, ``ValueError``."""
    if isinstance(wanted, str | types.ModuleType):
        name = getattr(wanted, "__name__", wanted)
        raise TypeError(f"by_value is a list of modules: by_value=[{name!r}]")
    names = {_checked_name(module) for module in wanted}
    if len(names) > BY_VALUE_MAX:
        raise ValueError(f"by_value takes up to {BY_VALUE_MAX} modules, not {len(names)}; name their packages")
    return tuple(sorted(names))


def _checked_name(wanted: object) -> str:
    name = wanted.__name__ if isinstance(wanted, types.ModuleType) else wanted
    if type(name) is not str:
        raise TypeError(f"by_value names modules, or is given them, not {_class_name(type(wanted))}")
    top = name.partition(".")[0]
    module = sys.modules.get(name)
    if module is None or (module is not wanted and name is not wanted):
        raise ValueError(f"by_value: the module {name!r} is not imported here; import it before it is to be sent")
    if top == "cluster":
        raise ValueError(f"by_value: {name!r} is of Ganger itself, which each node has")
    if top in sys.stdlib_module_names:
        raise ValueError(f"by_value: {name!r} is of Python itself, which each node has")
    if _is_compiled(module):
        raise ValueError(f"by_value: {name!r} is compiled ({module.__file__}), there is no Python code to send;"
                         " install it on the nodes")  # fmt: skip
    return name


def _is_compiled(module: object) -> bool:
    return isinstance(getattr(module, "__loader__", None), ExtensionFileLoader)


class ByValue:
    """Whose functions and classes travel by value: those of ``__main__``, and of the named modules and theirs.

    What a named package has that is compiled goes by reference all the same.
    """

    __slots__ = ("_inner", "_names", "kept", "marks")

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._names = frozenset(names)
        self._inner = tuple(f"{name}." for name in names)
        self.marks = tuple(name.encode() for name in names)
        self.kept: dict[int, _Kept] = {}
        """By ``id`` of the function, which is sound as long as its weak reference is alive; bounded."""

    def named_in(self, pickled: bytes) -> bool:
        """Whether the bytes name a module, beside ``__main__``, of which the worker shall need nothing."""
        return any(mark in pickled for mark in self.marks)

    def covers(self, module: Any) -> bool:
        """Whether the module of that name is one of them, beside ``__main__``."""
        if type(module) is not str or not (module in self._names or module.startswith(self._inner)):
            return False
        return not _is_compiled(sys.modules.get(module))


_MAIN_ONLY = ByValue()


# --------------------------------------------------------------------------------- values to bytes


class LargePayload:
    """Bytes too many for a message, in parts that are never joined.

    The parts may be views of the caller's own buffers: see ``snapshot`` of :func:`pack_call`.
    """

    __slots__ = ("_starts", "holds_code", "parts", "sha", "size")

    def __init__(self, parts: list[bytes | memoryview], sha: bytes, size: int, holds_code: bool = False) -> None:
        self.parts = parts
        self.sha = sha
        self.size = size
        self.holds_code = holds_code
        self._starts = []
        start = 0
        for part in parts:
            self._starts.append(start)
            start += len(part)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset``, fewer than ``length`` only at the end."""
        end = min(offset + length, self.size)
        pieces = []
        i = bisect_right(self._starts, offset) - 1
        while offset < end:
            at = offset - self._starts[i]
            piece = self.parts[i][at : at + end - offset]
            pieces.append(piece)
            offset += len(piece)
            i += 1
        return b"".join(pieces)


class _Outside(list[memoryview]):
    """The ``buffer_callback`` of one pickle: keeps large buffers out of it."""

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < INLINE_BYTES:
            return True
        self.append(raw)
        return False


def _wants_by_value() -> bool:
    """Whether the user has told cloudpickle to send some modules by value; pickle would not know."""
    listed = getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", None)
    return bool(listed and listed())


def _plainly_pickled(value: Any, by_value: ByValue, outside: _Outside | None = None) -> bytes | None:
    """Its pickle, or None where only cloudpickle will do."""
    if _wants_by_value():
        return None
    try:
        data = _dumps(value, 5, buffer_callback=outside)
    except Exception:
        return None  # cloudpickle knows more; and if it does not, it says why
    return None if _MAIN in data or (by_value.marks and by_value.named_in(data)) else data


def _cloudpickled(value: Any, by_value: ByValue, outside: _Outside | None = None) -> bytes:
    """Its pickle, marked if there is code in it."""
    from cluster.by_value import CodePickler

    if outside is not None:
        outside.clear()
    file = io.BytesIO()
    file.write(_CODE_MARK)
    CodePickler(file, outside, by_value.covers).dump(value)
    data = file.getvalue()
    # What makes functions and classes out of code is named by where it is.
    return data if b"cloudpickle" in data else data[len(_CODE_MARK) :]


def _pickled(value: Any, by_value: ByValue, outside: _Outside | None = None) -> bytes:
    data = _plainly_pickled(value, by_value, outside)
    return _cloudpickled(value, by_value, outside) if data is None else data


def holds_code(packed: bytes | LargePayload) -> bool:
    """Whether what was packed can be unpacked by this minor version of Python only."""
    return packed[0] != _PICKLE_MARK if type(packed) is bytes else packed.holds_code  # type: ignore[union-attr]


def _pack(value: Any, what: str, by_value: ByValue, max_bytes: int, snapshot: bool) -> bytes | LargePayload:
    outside = _Outside()
    data = _pickled(value, by_value, outside)
    if len(data) <= INLINE_BYTES and not outside:
        if len(data) > max_bytes:
            raise _too_large(what, len(data), max_bytes)
        return data
    parts: list[bytes | memoryview] = [data]
    size = len(data)
    if outside:
        lengths = [len(data), *map(len, outside)]
        header = struct.pack(f"<4sI{len(lengths)}Q", _MAGIC, len(lengths), *lengths)
        parts, size = [], 0
        for section in (header, data, *outside):
            if gap := -size % _ALIGN:
                parts.append(bytes(gap))
            parts.append(section)
            size += gap + len(section)
    if size > max_bytes:
        raise _too_large(what, size, max_bytes)
    if snapshot:
        parts = [p if isinstance(p, bytes) or p.readonly else bytes(p) for p in parts]
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return LargePayload(parts, sha.digest(), size, holds_code(data))


def _too_large(what: str, size: int, max_bytes: int) -> errors.TooLarge:
    return errors.TooLarge(f"{what} {size} bytes when pickled; the limit is {max_bytes} (max_blob_bytes)")


def pack_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    by_value: ByValue = _MAIN_ONLY,
    max_bytes: int = MAX_BLOB_BYTES,
    snapshot: bool = True,
) -> bytes | LargePayload:
    """Arguments as bytes: at most ``INLINE_BYTES`` of them, or a :class:`LargePayload`.

    ``snapshot``: large writable buffers are copied once, so that the caller may change an array as soon as it
    was handed in. Without it they must stay as they are while the payload is read: it is named by its hash.

    Raises ``SerializationError``, which names the argument that cannot be pickled, and ``TooLarge``.
    """
    try:
        return _pack((args, kwargs), "the arguments take", by_value, max_bytes, snapshot)
    except errors.TooLarge:
        raise
    except Exception as e:
        named = [(f"argument {i}", value) for i, value in enumerate(args, 1)]
        named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
        text = _culprit(named, by_value) or f"the arguments cannot be pickled together: {_said(e)}"
        raise errors.SerializationError(text) from e


def _culprit(named: Iterable[tuple[str, Any]], by_value: ByValue) -> str:
    """Which of some named values cannot be pickled, and why; empty if each can."""
    for name, value in named:
        try:
            _pickled(value, by_value)
        except Exception as e:
            return f"{name} ({_class_name(type(value))}) cannot be pickled: {_said(e)}{_within(value, by_value)}"
    return ""


_WITHIN_MAX = 8
"""How deep is looked for what in a function, or in one that it calls, is at fault."""


def _within(fn: Any, by_value: ByValue, depth: int = 0) -> str:
    """What of a function that goes by value cannot be pickled."""
    while isinstance(fn, functools.partial | types.MethodType):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    if not isinstance(fn, types.FunctionType):
        return ""
    code = fn.__code__
    uses = [(f"its global {name!r}", fn.__globals__.get(name, 0)) for name in dict.fromkeys(_names(code))]
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=False):
        try:
            uses.append((f"its closed-over {name!r}", cell.cell_contents))
        except ValueError:
            continue
    uses += [("a default of it", value) for value in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values())]
    for name, value in uses:
        try:
            if value is not fn:
                _pickled(value, by_value)
        except Exception:
            deeper = _within(value, by_value, depth + 1) if depth < _WITHIN_MAX else ""
            return f"; the cause is {name} ({_class_name(type(value))}){deeper}"
    return ""


def _in_place_of(value: Any) -> str:
    """What a job may return in place of what no process can send to another."""
    if isinstance(value, types.GeneratorType | types.AsyncGeneratorType):
        return "; let the function return a list of what it yields"
    return ""


def pack_result(value: Any, *, max_bytes: int = MAX_BLOB_BYTES) -> bytes | LargePayload:
    """A job's result as bytes. Views of its buffers are kept: to be written at once.

    Raises ``SerializationError`` and ``TooLarge``.
    """
    try:
        return _pack(value, "the result takes", _MAIN_ONLY, max_bytes, False)
    except errors.TooLarge:
        raise
    except Exception as e:
        text = f"the result ({_class_name(type(value))}) cannot be pickled: {_said(e)}{_in_place_of(value)}"
        raise errors.SerializationError(text) from e


# --------------------------------------------------------------------------------- bytes to values


def pack_state(value: Any, max_bytes: int) -> bytes:
    """Pickle what a job saves for its next attempt. Raises ``ValueError`` above ``max_bytes``."""
    data = _pickled(value, _MAIN_ONLY)
    if len(data) > max_bytes:
        raise ValueError(f"the state is a pickle of {len(data)} bytes; the limit is {max_bytes}")
    return data


def unpack_state(data: bytes) -> Any:
    return _unpack(data)


def unpack_call(buffer: Buffer, node: str = "") -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments from bytes; arrays of a writable ``buffer`` are views of it. ``SerializationError``."""
    try:
        args, kwargs = _unpack(buffer)
        return args, kwargs
    except Exception as e:
        raise errors.SerializationError(f"the arguments cannot be unpickled: {_why_not(e, node)}") from e


def unpack_result(buffer: Buffer) -> Any:
    """A result from bytes. Raises ``SerializationError``, as where its class cannot be imported here.

    Classes that are at home here stay as they are, whatever became of them in the job.
    """
    try:
        return _unpack(buffer, at_home=True)
    except Exception as e:
        raise errors.SerializationError(f"the result cannot be unpickled: {_why_not(e)}") from e


def _unpack(buffer: Buffer, at_home: bool = False) -> Any:
    if buffer[0] == _PICKLE_MARK:
        return _loads(buffer)
    view = memoryview(buffer)
    if view[:4] == _CODE:
        return _code_loaded(view, None, at_home)
    if view[:4] == PLAIN:
        return msgpack.unpackb(view[4:])
    if view[:4] != _MAGIC:
        raise ValueError("the bytes are no payload")
    if view.readonly:
        view = memoryview(bytearray(view))
    (count,) = struct.unpack_from("<I", view, 4)
    lengths = struct.unpack_from(f"<{count}Q", view, 8)
    at = 8 + 8 * count
    sections = []
    for length in lengths:
        at += -at % _ALIGN
        sections.append(view[at : at + length])
        at += length
    if at != len(view):
        raise ValueError(f"the payload has {len(view)} bytes where its header promises {at}")
    if sections[0][:4] == _CODE:
        return _code_loaded(sections[0], sections[1:], at_home)
    return _loads(sections[0], buffers=sections[1:])


class _OtherPython(Exception):
    """A pickle holds code of another minor version of Python, which may do anything in this one."""


def _code_loaded(marked: memoryview, buffers: list[memoryview] | None, at_home: bool) -> Any:
    if marked[: len(_CODE_MARK)] != _CODE_MARK:
        made, here = (".".join(map(str, bytes(mark[4:6]))) for mark in (marked, _CODE_MARK))
        raise _OtherPython(
            f"it holds functions or classes by value, as Python {made} has them, and this is Python {here};"
            " run both on one version, or pass plain values and what can be imported on both sides"
        )
    from cluster.by_value import CodeUnpickler

    return CodeUnpickler(io.BytesIO(marked[len(_CODE_MARK) :]), buffers, at_home).load()


def class_states_set() -> int:
    """Grows with each class that a pickle changed here: what was loaded before may not see its own class any more."""
    loaded = sys.modules.get("cluster.by_value")
    return loaded.states_set() if loaded is not None else 0


def missing_module(e: ModuleNotFoundError, node: str, in_job: bool = False) -> str:
    """Where a module is missing, and what to do. ``in_job``: it is the function that imports it."""
    text = f"the module {e.name!r} cannot be imported {f'on node {node}' if node else 'here'}"
    top = (e.name or "").partition(".")[0]
    if not node or top in sys.stdlib_module_names:
        return text
    how = "import it outside of the function and send it along" if in_job else "send it along with the job"
    return f"{text}; install it there, or {how}: client.options(by_value=[{top!r}])"


def _why_not(e: Exception, node: str = "") -> str:
    if isinstance(e, _OtherPython):
        return str(e)
    if isinstance(e, ModuleNotFoundError) and e.name:
        return missing_module(e, node)
    text = _said(e)
    if node and isinstance(e, AttributeError) and "Can't get attribute" in text:
        if "<module '__main__'" in text:
            return f"{text}: it goes by its name in the script, which node {node} does not run"
        return f"{text}: the module on node {node} is another than here, or was imported there before it was changed"
    return text


# --------------------------------------------------------------------------------- functions


class PackedFunction(NamedTuple):
    name: str
    """``package.module:qualname`` for people, at most 500 characters."""
    by_value: bool
    code: bytes
    """Pickle of a reference, or of the function itself where ``by_value``."""


def pack_function(
    fn: Callable[..., Any], *, by_value: ByValue = _MAIN_ONLY, max_bytes: int = MAX_BLOB_BYTES
) -> PackedFunction:
    """A callable as bytes; by value where the worker could not import it.

    By-value bytes are never stale: they are kept only for functions whose every ingredient is watched (see
    :class:`_Recipe`), and made anew whenever one has changed. Raises ``SerializationError`` and ``TooLarge``.
    """
    entry = by_value.kept.get(id(fn))
    if entry is not None and entry.function() is fn and entry.fresh(fn):
        return entry.packed
    if not callable(fn):
        raise TypeError(f"{_class_name(type(fn))} is not callable")
    name = _callable_name(fn)
    recipe = _recipe(fn, by_value)  # before pickling: a change between the two must not be overlooked
    try:
        code = _pickled(fn, by_value)
    except Exception as e:
        why = f"{_said(e)}{_within(fn, by_value)}"
        raise errors.SerializationError(f"the function {name} cannot be pickled: {why}") from e
    if len(code) > max_bytes:
        raise _too_large(f"the function {name} takes", len(code), max_bytes)
    packed = PackedFunction(name, holds_code(code) or len(code) > REFERENCE_BYTES, code)
    if packed.by_value and recipe is not None:
        _keep(fn, by_value, _ByValue, packed, recipe)
    elif not packed.by_value and type(fn) in _REFERRED and _reference(fn):
        _keep(fn, by_value, _ByReference, packed, None)
    return packed


def load_function(code: Buffer, node: str = "") -> Callable[..., Any]:
    """The callable, in a worker. ``SerializationError`` names a module that ``node`` does not have."""
    try:
        fn = _unpack(code) if code[:4] == _CODE else _loads(code)
    except Exception as e:
        raise errors.SerializationError(f"the function cannot be loaded: {_why_not(e, node)}") from e
    if not callable(fn):
        raise errors.SerializationError(f"the function is no callable but of {_class_name(type(fn))}")
    return fn  # type: ignore[no-any-return]


def _callable_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    if not isinstance(getattr(fn, "__qualname__", None), str):
        fn = type(fn)
    return f"{getattr(fn, '__module__', None) or '?'}:{fn.__qualname__}"[:500]


_REFERRED = (types.FunctionType, types.BuiltinFunctionType, type)
_KEPT_MAX = 512
_ABSENT = object()
_ATOMS = frozenset({int, float, complex, bool, str, bytes, types.NoneType, types.EllipsisType})
_BASE_GLOBALS = ("__package__", "__name__", "__path__", "__file__")
"""Globals that cloudpickle adds to every function."""


class _Uncertain(Exception):
    """Something in the function may change without our seeing it."""


def _reference(obj: Any) -> bool:
    """Whether ``obj`` is a top-level name of an importable module, so that pickles only name it."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if type(module) is not str or type(name) is not str or "." in name or module == "__main__":
        return False
    home = sys.modules.get(module)
    return type(home) is types.ModuleType and home.__dict__.get(name) is obj


def _is_atom(value: Any) -> bool:
    kind = type(value)
    return kind in _ATOMS or (kind in (tuple, frozenset) and all(map(_is_atom, value)))


def _modules_stamp() -> tuple[int, str]:
    """Changes with each import: cloudpickle notes which submodules of a used package are loaded."""
    while True:
        try:
            return len(sys.modules), next(reversed(sys.modules))
        except RuntimeError:  # another thread imports
            continue


class _Watch:
    """One function that goes by value, and all that its pickle is made of."""

    __slots__ = (
        "absent",
        "annotations",
        "atoms",
        "cells",
        "code",
        "defaults",
        "function",
        "kwdefaults",
        "linked",
        "linked_cells",
        "names",
    )

    def __init__(self, fn: types.FunctionType) -> None:
        self.function = weakref.ref(fn)
        self.code = fn.__code__
        self.defaults = fn.__defaults__
        self.names = (fn.__module__, fn.__name__, fn.__qualname__, fn.__doc__)
        self.kwdefaults = tuple((fn.__kwdefaults__ or {}).items())
        self.annotations = tuple(fn.__annotations__.items())
        self.absent: list[str] = []
        self.atoms: list[tuple[str, Any]] = []
        """Globals, by identity: what is here cannot change in itself."""
        self.linked: list[tuple[str, weakref.ref[types.FunctionType]]] = []
        """Globals that are functions by value; each has its own watch."""
        self.cells: list[tuple[int, Any]] = []
        self.linked_cells: list[tuple[int, weakref.ref[types.FunctionType]]] = []

    def fresh(self) -> bool:
        fn = self.function()
        if fn is None or fn.__code__ is not self.code or fn.__defaults__ is not self.defaults or fn.__dict__:
            return False
        module, name, qualname, doc = self.names
        if fn.__module__ is not module or fn.__name__ is not name or fn.__qualname__ is not qualname:
            return False
        if fn.__doc__ is not doc:
            return False
        if not _same(fn.__kwdefaults__, self.kwdefaults) or not _same(fn.__annotations__, self.annotations):
            return False
        namespace = fn.__globals__
        if not namespace.keys().isdisjoint(self.absent):
            return False
        for key, value in self.atoms:
            if namespace.get(key, _ABSENT) is not value:
                return False
        for key, ref in self.linked:
            if namespace.get(key, _ABSENT) is not ref():
                return False
        return not fn.__closure__ or self._same_cells(fn.__closure__)

    def _same_cells(self, closure: tuple[types.CellType, ...]) -> bool:
        try:
            return all(closure[i].cell_contents is value for i, value in self.cells) and all(
                closure[i].cell_contents is ref() for i, ref in self.linked_cells
            )
        except ValueError:  # a cell was emptied
            return False


def _same(now: dict[str, Any] | None, then: tuple[tuple[str, Any], ...]) -> bool:
    if not now or not then:
        return not now and not then
    return len(now) == len(then) and all(now.get(key, _ABSENT) is value for key, value in then)


class _Recipe:
    """All that the pickle of a by-value function is made of, so far as it is certain; else ``_Uncertain``.

    Certain are atoms, modules, top-level functions and classes of importable modules (pickles only name
    them), and functions by value of which the same holds. Classes of ``__main__``, objects and containers
    are not.
    """

    __slots__ = ("_covers", "_references", "_seen", "_stamp", "watches")

    def __init__(self, fn: types.FunctionType, by_value: ByValue) -> None:
        self._covers = by_value.covers
        self.watches: list[_Watch] = []
        self._references: list[tuple[str, str, Any]] = []
        self._seen: set[int] = set()
        self._stamp: tuple[int, str] | None = None
        self._add(fn)

    def fresh(self) -> bool:
        modules = sys.modules
        for module, name, obj in self._references:
            home = modules.get(module)
            if home is None or home.__dict__.get(name) is not obj:
                return False
        if self._stamp is not None and self._stamp != _modules_stamp():
            return False
        return all(watch.fresh() for watch in self.watches)

    def _add(self, fn: types.FunctionType) -> None:
        if id(fn) in self._seen:
            return
        self._seen.add(id(fn))
        if fn.__dict__ or (hasattr(fn, "__type_params__") and fn.__type_params__):
            raise _Uncertain
        watch = _Watch(fn)
        self.watches.append(watch)
        if not all(_is_atom(v) for v in (fn.__defaults__, *watch.names)):
            raise _Uncertain
        if not all(_is_atom(v) for _, v in watch.kwdefaults):
            raise _Uncertain
        for _, value in watch.annotations:
            self._annotation(value)
        for key in {*_BASE_GLOBALS, *_names(fn.__code__)}:
            value = fn.__globals__.get(key, _ABSENT)
            if value is _ABSENT:
                watch.absent.append(key)
            elif self._certain(value):
                watch.atoms.append((key, value))
            else:
                self._by_value(value)
                watch.linked.append((key, weakref.ref(value)))
        for i, cell in enumerate(fn.__closure__ or ()):
            try:
                value = cell.cell_contents
            except ValueError:
                raise _Uncertain from None
            if self._certain(value):
                watch.cells.append((i, value))
            else:
                self._by_value(value)
                watch.linked_cells.append((i, weakref.ref(value)))

    def _certain(self, value: Any) -> bool:
        """Whether a pickle of ``value`` depends on nothing but its identity and what is noted here."""
        if _is_atom(value):
            return True
        if type(value) is types.ModuleType:
            name = value.__name__
            if name == "__main__" or self._covers(name) or sys.modules.get(name) is not value:
                raise _Uncertain
            if getattr(value, "__package__", None):
                self._stamp = _modules_stamp()
            return True
        if isinstance(value, _REFERRED) and _reference(value) and not self._covers(value.__module__):
            if value.__module__ != "builtins":
                self._references.append((value.__module__, value.__qualname__, value))
            return True
        return False

    def _by_value(self, value: Any) -> None:
        if type(value) is not types.FunctionType:
            raise _Uncertain
        # for these alone is it sure that no import can find them, now or later, or that none is wanted
        if (
            value.__module__ != "__main__"
            and not self._covers(value.__module__)
            and not {"<locals>", "<lambda>"} & set(value.__qualname__.split("."))
        ):
            raise _Uncertain
        self._add(value)

    def _annotation(self, value: Any) -> None:
        if isinstance(value, types.GenericAlias | types.UnionType):
            for inner in (getattr(value, "__origin__", None), *value.__args__):
                self._annotation(inner)
        elif not self._certain(value):
            raise _Uncertain


def _names(code: types.CodeType) -> Iterator[str]:
    """Every name the code, or code inside it, may look up as a global; some are only attributes."""
    yield from code.co_names
    for const in code.co_consts:
        if type(const) is types.CodeType:
            yield from _names(const)


def _recipe(fn: Any, by_value: ByValue) -> _Recipe | None:
    if type(fn) is not types.FunctionType or _wants_by_value():
        return None
    if _reference(fn) and not by_value.covers(fn.__module__):
        return None
    try:
        return _Recipe(fn, by_value)
    except Exception:  # _Uncertain, or whatever odd attributes of user objects raise
        return None


class _Kept:
    __slots__ = ("function", "packed", "recipe")

    def __init__(self, function: weakref.ref[Any], packed: PackedFunction, recipe: _Recipe | None) -> None:
        self.function = function
        self.packed = packed
        self.recipe = recipe

    def fresh(self, fn: Any) -> bool:
        raise NotImplementedError


class _ByReference(_Kept):
    __slots__ = ()

    def fresh(self, fn: Any) -> bool:
        return _reference(fn) and not _wants_by_value()


class _ByValue(_Kept):
    __slots__ = ()

    def fresh(self, fn: Any) -> bool:
        assert self.recipe is not None
        return self.recipe.fresh() and not _wants_by_value()


def _keep(fn: Any, by_value: ByValue, kind: type[_Kept], packed: PackedFunction, recipe: _Recipe | None) -> None:
    key, kept = id(fn), by_value.kept

    def forget(ref: weakref.ref[Any]) -> None:
        entry = kept.get(key)
        if entry is not None and entry.function is ref:
            del kept[key]

    if len(kept) >= _KEPT_MAX:
        kept.clear()
    kept[key] = kind(weakref.ref(fn, forget), packed, recipe)


# --------------------------------------------------------------------------------- failures


def _class_name(cls: type) -> str:
    try:
        module, name = cls.__module__, cls.__qualname__
        return name if module == "builtins" else f"{module}.{name}"
    except Exception:
        return "?"


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException as e:
        return f"<its __str__ raised {type(e).__name__}>"


def _said(e: BaseException) -> str:
    text = _text(e)
    return f"{_class_name(type(e))}: {text}" if text else _class_name(type(e))


def _fit(text: str) -> str:
    """``text`` as it can be sent: valid Unicode, bounded in characters and in bytes."""
    limit = FAILURE_CHARS - 64
    while True:
        cut = shorten(text, limit).encode("utf-8", "backslashreplace")
        if len(cut) <= _FAILURE_BYTES:
            return cut.decode()
        limit //= 2


def _traceback_text(exc: BaseException, hide: Collection[str]) -> str:
    import traceback

    try:
        tb = exc.__traceback__
        while tb is not None and tb.tb_frame.f_code.co_filename in hide:
            tb = tb.tb_next
        return "".join(traceback.TracebackException(type(exc), exc, tb, compact=True).format())
    except Exception as e:
        return f"(no traceback: {_said(e)})"


class _Remade:
    """Stands for an exception whose own pickle does not load: it is remade without its ``__init__``."""

    def __init__(self, exc: BaseException) -> None:
        args = exc.args
        if isinstance(exc, BaseExceptionGroup):
            args = (exc.message, [_loadable(inner) for inner in exc.exceptions])
        self.parts = (type(exc), args, exc.__dict__)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, self.parts


def _remake(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    exc = cls.__new__(cls, *args)
    exc.args = args
    exc.__dict__.update(state)
    return exc


def _loadable(exc: BaseException) -> BaseException | _Remade:
    return exc if _loads_again(exc, exc) else _Remade(exc)


def _loads_again(candidate: BaseException | _Remade, exc: BaseException) -> bytes:
    """The pickle, if it loads as what it shall be. Tried here: user code runs, so even ``SystemExit`` may come."""
    try:
        data = _pickled(candidate, _MAIN_ONLY)
        if len(data) <= EXCEPTION_BYTES and type(_unpack(data, at_home=True)) is type(exc):
            return data
    except BaseException:
        pass
    return b""


def _pickled_exception(exc: BaseException) -> bytes:
    """Its pickle or nothing: many load only if their ``__init__`` takes what it passed on."""
    return _loads_again(exc, exc) or _loads_again(_Remade(exc), exc)


def pack_failure(exc: BaseException, hide: Collection[str] = ()) -> Failure:
    """What a job raised, for the wire. Never raises an ``Exception``.

    ``hide``: file names whose frames are left out as long as they stand at the top of the traceback.
    """
    traceback = _fit(_traceback_text(exc, hide))
    if isinstance(exc, SystemExit | KeyboardInterrupt):
        code = _text(exc.code) if isinstance(exc, SystemExit) and exc.code is not None else ""
        text = f"the job raised {type(exc).__name__}" + (f": {code}" if code else "")
        return Failure("JobExited", _fit(text), traceback, ("JobExited", *_bases(type(exc))))
    return Failure(
        _fit(_class_name(type(exc)))[:400],
        _fit(_text(exc)),
        traceback,
        _bases(type(exc)),
        _pickled_exception(exc),
    )


def pack_error(error: errors.JobError) -> Failure:
    """An error of ours about one job, which travels by name. Its cause's traceback goes with it."""
    cause = error.__cause__
    traceback = _fit(_traceback_text(cause, (__file__,))) if cause is not None else ""
    return Failure(type(error).__name__, _fit(_text(error)), traceback, _bases(type(error)))


def _bases(cls: type) -> tuple[str, ...]:
    return tuple(_fit(_class_name(c))[:200] for c in cls.__mro__[:32] if c is not object)


_NEVER_DELIVERED: tuple[type[BaseException], ...] = (StopIteration, StopAsyncIteration)
"""Raised out of a future these end the generator or coroutine that waits, in silence (PEP 479).
With them goes everything that is no ``Exception``."""


def unpack_failure(failure: Failure) -> BaseException:
    """The exception a future is given. Never raises; runs the unpickling code of the exception's class."""
    cause = errors.RemoteTraceback(failure.traceback) if failure.traceback else None
    own = errors.JOB_ERRORS.get(failure.kind)
    if own is not None:
        error: BaseException = own(failure.text)
        error.__cause__ = cause
        return error
    why = "it could not be pickled there, or is too large"
    if failure.pickle:
        try:
            raw = failure.pickle
            exc = _unpack(raw, at_home=True) if raw[:4] == _CODE else _loads(raw)
            if not isinstance(exc, BaseException):
                why = f"its pickle holds something else, of {_class_name(type(exc))}"
            elif not isinstance(exc, Exception) or isinstance(exc, _NEVER_DELIVERED):
                why = f"{type(exc).__name__} would end the program that waits, not the job"
            else:
                exc.__cause__ = cause
                return exc
        except BaseException as e:
            why = f"it cannot be unpickled here: {_why_not(e) if isinstance(e, Exception) else _said(e)}"
    text = f"{failure.kind}: {failure.text}" if failure.text else failure.kind
    error = errors.RemoteError(text, failure.kind, failure.traceback)
    error.add_note(f"not raised as {failure.kind}: {_fit(why)}")
    error.__cause__ = cause
    return error


__all__ = (
    "ByValue",
    "LargePayload",
    "PackedFunction",
    "by_value_names",
    "class_states_set",
    "holds_code",
    "load_function",
    "missing_module",
    "pack_call",
    "pack_error",
    "pack_failure",
    "pack_function",
    "pack_result",
    "pack_state",
    "unpack_call",
    "unpack_failure",
    "unpack_result",
    "unpack_state",
)
