"""Values, functions and failures as bytes: what comes out is what went in, or an error that says why not."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import math
import mmap
import pickle
import re
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster
from cluster import errors, payload
from cluster.config import FAILURE_CHARS, INLINE_BYTES
from cluster.jobs import Failure
from cluster.payload import (
    ByValue,
    LargePayload,
    by_value_names,
    load_function,
    pack_call,
    pack_error,
    pack_failure,
    pack_function,
    pack_result,
    unpack_call,
    unpack_failure,
    unpack_result,
)

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(atoms, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))


def joined(packed: bytes | LargePayload) -> bytes:
    return packed if isinstance(packed, bytes) else b"".join(packed.parts)


def large(packed: bytes | LargePayload) -> LargePayload:
    assert isinstance(packed, LargePayload)
    return packed


# ------------------------------------------------------------------------------------ values


@given(st.lists(values, max_size=4), st.dictionaries(st.text(max_size=5), values, max_size=3))
def test_a_call_comes_back_as_it_went(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert unpack_call(joined(pack_call(tuple(args), kwargs))) == (tuple(args), kwargs)


@given(values)
def test_a_result_comes_back_as_it_went(value: Any) -> None:
    assert unpack_result(joined(pack_result(value))) == value


@given(st.lists(st.integers(0, 3 * INLINE_BYTES), max_size=4), st.booleans(), st.data())
def test_pieces_cut_from_a_large_payload_join_to_what_its_hash_says(
    sizes: list[int], snapshot: bool, data: st.DataObject
) -> None:
    arrays = [np.full(n, i % 250, "u1") for i, n in enumerate(sizes)]
    packed = pack_call((*arrays, b"x" * INLINE_BYTES), {}, snapshot=snapshot)
    whole = joined(packed)
    packed = large(packed)
    step = data.draw(st.integers(1, packed.size + 1).filter(lambda n: n > 1000))
    assert b"".join(packed.read(at, step) for at in range(0, packed.size, step)) == whole
    assert packed.read(packed.size, 10) == b""
    assert (hashlib.sha256(whole).digest(), len(whole)) == (packed.sha, packed.size)
    args, _ = unpack_call(whole)
    assert all(np.array_equal(a, b) for a, b in zip(args, arrays, strict=False))


def test_small_values_are_plain_pickles() -> None:
    assert pickle.loads(joined(pack_call((1,), {"a": 2}))) == ((1,), {"a": 2})


def test_an_inline_array_is_writable_where_it_is_read() -> None:
    packed = pack_call((np.zeros(10),), {})
    assert isinstance(packed, bytes)
    (array,), _ = unpack_call(packed)
    array += 1


def test_the_bound_between_inline_and_large_is_exact() -> None:
    overhead = len(joined(pack_result(bytes(INLINE_BYTES - 100)))) - (INLINE_BYTES - 100)
    assert isinstance(pack_result(bytes(INLINE_BYTES - overhead)), bytes)
    assert isinstance(pack_result(bytes(INLINE_BYTES - overhead + 1)), LargePayload)


def test_large_arrays_are_views_of_the_file_and_writable(tmp_path: Path) -> None:
    source = np.arange(1_000_000.0)
    path = tmp_path / "blob"
    path.write_bytes(joined(pack_call((source,), {"again": source[::-1].copy()})))
    before = path.read_bytes()
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    (array,), kwargs = unpack_call(mapped)
    start = np.frombuffer(mapped, "u1").__array_interface__["data"][0]
    for a in (array, kwargs["again"]):
        assert start <= a.__array_interface__["data"][0] < start + len(mapped)
        assert a.__array_interface__["data"][0] % 64 == 0
        a[:] = 7
    assert path.read_bytes() == before


def test_large_arrays_out_of_plain_bytes_are_writable_too() -> None:
    (array,), _ = unpack_call(joined(pack_call((np.zeros(100_000),), {})))
    array += 1


def test_a_snapshot_does_not_see_later_changes() -> None:
    array = np.zeros(100_000)
    packed = pack_call((array,), {})
    array += 1
    (came,), _ = unpack_call(joined(packed))
    assert not came.any()


def test_without_a_snapshot_and_for_results_nothing_is_copied() -> None:
    array = np.zeros(100_000)
    for packed in (pack_call((array,), {}, snapshot=False), pack_result(array)):
        views = [part for part in large(packed).parts if isinstance(part, memoryview)]
        assert len(views) == 1 and np.shares_memory(np.frombuffer(views[0], "u1"), array)


def test_a_read_only_array_is_not_copied_and_stays_read_only() -> None:
    array = np.zeros(100_000)
    array.flags.writeable = False
    packed = large(pack_call((array,), {}))
    assert any(isinstance(part, memoryview) for part in packed.parts)
    (came,), _ = unpack_call(joined(packed))
    assert not came.flags.writeable


@pytest.mark.parametrize("size", [100, INLINE_BYTES - 100, 200_000])
def test_above_the_limit_is_too_large_and_names_both_figures(size: int) -> None:
    with pytest.raises(errors.TooLarge, match=r"take \d+ bytes .* limit is 90 ") as caught:
        pack_call((bytes(size),), {}, max_bytes=90)
    assert not isinstance(caught.value, errors.SerializationError)
    with pytest.raises(errors.TooLarge):
        pack_result(np.zeros(size), max_bytes=90)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, threading.Lock()), {}, ["argument 2", "lock"]),
        ((1,), {"key": Unpicklable()}, ["argument 'key'", "Unpicklable", "RuntimeError: not today"]),
        (([1, [Unpicklable()]],), {"fine": 1}, ["argument 1 (list)", "not today"]),
    ],
)
def test_the_argument_at_fault_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(errors.SerializationError) as caught:
        pack_call(args, kwargs)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_result_that_cannot_be_pickled_says_its_type() -> None:
    with pytest.raises(errors.SerializationError, match=r"the result \(generator\)"):
        pack_result(i for i in range(3))


@pytest.mark.parametrize(
    "junk", [b"", b"junk", b"GNG1", b"\x80\x05junk", b"GNG1\xff\xff\xff\xff", b"GNC1", payload._CODE_MARK]
)
def test_bytes_that_are_no_payload_are_a_serialization_error(junk: bytes) -> None:
    with pytest.raises(errors.SerializationError):
        unpack_call(junk)
    with pytest.raises(errors.SerializationError):
        unpack_result(junk)


def test_a_cut_container_is_noticed() -> None:
    whole = joined(pack_result(np.zeros(100_000)))
    with pytest.raises(errors.SerializationError, match="header promises"):
        unpack_result(whole[:-1])


def test_modules_of_the_users_registry_are_sent_by_value() -> None:
    module = types.ModuleType("only_here_by_value")
    exec("def f(): return 5\nclass C: pass", module.__dict__)  # noqa: S102
    sys.modules["only_here_by_value"] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        packed = pack_function(module.f)
        call = joined(pack_call((module.C(),), {}))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["only_here_by_value"]
    assert packed.by_value and load_function(packed.code)() == 5
    assert type(unpack_call(call)[0][0]).__name__ == "C"


# ------------------------------------------------------------------------------------ code in values


def local_class() -> type:
    class Local:
        where = "here"

    return Local


@pytest.mark.parametrize("ballast", [0, 200_000])
def test_what_holds_code_says_so_and_for_which_python(ballast: int) -> None:
    plain = pack_call((np.zeros(ballast), "__main__", "cloudpickle"[:5]), {})
    code = pack_call((np.zeros(ballast), local_class()()), {})
    assert (payload.holds_code(plain), payload.holds_code(code)) == (False, True)
    (array, value), _ = unpack_call(joined(code))
    assert len(array) == ballast and value.where == "here"
    assert pack_function(lambda: 1).code[:6] == b"GNC1" + bytes(sys.version_info[:2])
    assert not payload.holds_code(pack_function(json.dumps).code)


def of_python_3_9(packed: bytes | LargePayload) -> bytes:
    return joined(packed).replace(payload._CODE_MARK, b"GNC1\x03\x09", 1)


@pytest.mark.parametrize("ballast", [0, 200_000])
def test_code_of_another_python_is_refused_in_words(ballast: int) -> None:
    value = np.zeros(ballast), local_class()()
    here = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    words = f"by value, as Python 3.9 has them, and this is {here}; run both on one version"
    with pytest.raises(errors.SerializationError, match=f"the result cannot be unpickled: .*{words}"):
        unpack_result(of_python_3_9(pack_result(value)))
    with pytest.raises(errors.SerializationError, match=f"the arguments cannot be unpickled: .*{words}"):
        unpack_call(of_python_3_9(pack_call(value, {})))
    with pytest.raises(errors.SerializationError, match=f"the function cannot be loaded: .*{words}"):
        load_function(of_python_3_9(pack_function(lambda: 1).code))


def test_an_exception_with_code_of_another_python_is_a_remote_error_that_says_so() -> None:
    class Local(Exception):
        pass

    failure = pack_failure(raised(Local("x")))
    came = unpack_failure(failure)
    assert type(came) is Local
    other = unpack_failure(replace(failure, pickle=of_python_3_9(failure.pickle)))
    assert isinstance(other, errors.RemoteError) and "as Python 3.9 has them" in other.__notes__[0]


def test_a_class_stays_as_it_is_when_its_instances_come_back() -> None:
    made: list[str] = []

    class Meta(type):
        def __init__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> None:
            made.append(name)
            super().__init__(name, bases, names)

    class Counter(metaclass=Meta):
        count = 1

        def words(self) -> str:
            return greeting

    greeting = "hello"
    method = Counter.__dict__["words"]
    results = [joined(pack_result(value)) for value in (Counter(), [Counter(), bytes(200_000)])]
    failure = pack_failure(raised(Holds(Counter())))
    Counter.count = 2
    greeting = "goodbye"
    came = [unpack_result(results[0]), unpack_result(results[1])[0], unpack_failure(failure).args[0]]
    for value in came:
        assert type(value) is Counter and Counter.count == 2 and Counter.__dict__["words"] is method
        assert value.words() == "goodbye"
    assert made == ["Counter"]


def test_in_a_worker_a_class_is_as_it_was_when_handed_in() -> None:
    class Counter:
        count = 1

    call = joined(pack_call((Counter(),), {}))
    Counter.count = 2
    before = payload.class_states_set()
    (value,), _ = unpack_call(call)
    assert type(value) is Counter and Counter.count == 1
    assert payload.class_states_set() == before + 1


@pytest.mark.parametrize(
    ("fn", "cause"),
    [
        ("uses_lock", "its global 'lock' (_thread.lock)"),
        ("calls_it", "its global 'uses_lock' (function); the cause is its global 'lock' (_thread.lock)"),
        ("closes_over", "its closed-over 'held' (_thread.lock)"),
        ("has_default", "a default of it (_thread.lock)"),
    ],
)
def test_what_of_a_function_cannot_be_pickled_is_named(fn: str, cause: str) -> None:
    script = namespace(
        """
import threading
lock = threading.Lock()
def uses_lock(): return lock
def calls_it(): return uses_lock()
def make(held): return lambda: held
closes_over = make(lock)
def has_default(x=lock): return x
"""
    )
    for call in (lambda: pack_function(script[fn]), lambda: pack_call((functools.partial(script[fn]),), {})):
        with pytest.raises(errors.SerializationError) as caught:
            call()
        assert str(caught.value).endswith(f"; the cause is {cause}"), str(caught.value)


def test_a_generator_as_a_result_says_what_to_return_instead() -> None:
    with pytest.raises(errors.SerializationError, match="return a list of what it yields"):
        pack_result(i for i in range(3))


# ------------------------------------------------------------------------------------ modules by value


Made = Callable[..., types.ModuleType]


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes modules of the given source, which no other process can import."""
    names: list[str] = []

    def make(name: str, source: str) -> types.ModuleType:
        module = types.ModuleType(name)
        sys.modules[name] = module
        names.append(name)
        exec(source, module.__dict__)  # noqa: S102
        return module

    yield make
    for name in names:
        sys.modules.pop(name, None)


LIBRARY = """
K = 1
def helper(x): return x + K
def f(x): return helper(x)
class Thing:
    def __init__(self, v): self.v = v
    def shifted(self): return Thing(helper(self.v))
"""


def test_modules_named_by_the_user_go_by_value(made: Made) -> None:
    lib = made("lib_by_value", LIBRARY)
    by_value = ByValue(("lib_by_value",))
    packed = pack_function(lib.f, by_value=by_value)
    bound = pack_function(lib.Thing(4).shifted, by_value=by_value)
    call = pack_call((lib.Thing(5), lib.helper), {}, by_value=by_value)
    assert packed.by_value and bound.by_value and payload.holds_code(call)
    assert not pack_function(lib.f).by_value and not payload.holds_code(pack_call((lib.Thing(5),), {}))
    del sys.modules["lib_by_value"]
    assert load_function(packed.code)(1) == 2
    assert load_function(bound.code)().v == 5
    (thing, helper), _ = unpack_call(joined(call))
    assert thing.shifted().v == 6 and helper(1) == 2


def test_submodules_go_too_and_modules_may_refer_to_each_other(made: Made) -> None:
    package = made("pack_by_value", "")
    inner = made("pack_by_value.inner", "import pack_by_value\ndef f(x): return pack_by_value.inner.g(x)\n")
    inner.g = lambda x: x + 1  # type: ignore[attr-defined]
    package.inner = inner  # type: ignore[attr-defined]
    script = namespace("import pack_by_value\ndef f(x): return pack_by_value.inner.f(x)")
    packed = pack_function(script["f"], by_value=ByValue(("pack_by_value",)))
    for name in ("pack_by_value", "pack_by_value.inner"):
        del sys.modules[name]
    assert load_function(packed.code)(1) == 2


def test_only_the_named_modules_go_by_value(made: Made) -> None:
    lib, longer = made("lib_one", LIBRARY), made("lib_one_more", LIBRARY)
    by_value = ByValue(("lib_one",))
    assert pack_function(lib.f, by_value=by_value).by_value
    assert not pack_function(longer.f, by_value=by_value).by_value
    assert not payload.holds_code(pack_call((longer.Thing(1), "lib_one", np.zeros(3)), {}, by_value=by_value))


def test_cloudpickles_registry_stays_as_it_is(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = made("lib_by_value", LIBRARY)
    seen: list[object] = []

    class Looks:
        def __reduce__(self) -> Any:
            seen.append(cloudpickle.list_registry_pickle_by_value())
            seen.append(pack_function(lib.f).by_value)
            return int, ()

    pack_call((Looks(), lambda: 1), {}, by_value=ByValue(("lib_by_value",)))
    assert seen and all(not s for s in seen)


def test_what_is_kept_for_one_choice_of_modules_is_not_taken_for_another(made: Made) -> None:
    lib = made("lib_by_value", LIBRARY)
    one, other = ByValue(("lib_by_value",)), ByValue()
    for _ in range(3):
        assert pack_function(lib.f, by_value=one).by_value
        assert not pack_function(lib.f, by_value=other).by_value
    assert pack_function(lib.f, by_value=one) is pack_function(lib.f, by_value=one)


LIBRARY_CHANGES = {
    "a global": "K = 5",
    "a function it calls": "def helper(x): return 10",
    "its code": "f.__code__ = helper.__code__",
    "another kind": "helper = len",
    "a module in place": "import math as K",
}


@pytest.mark.parametrize("change", LIBRARY_CHANGES)
def test_a_named_modules_bytes_are_never_stale(made: Made, change: str) -> None:
    lib = made("lib_by_value", LIBRARY)
    script = namespace("import math\ndef through(x): return f(x)\n")
    script["f"] = lib.f
    by_value = ByValue(("lib_by_value",))
    for fn in (lib.f, script["through"]):
        before = pack_function(fn, by_value=by_value)
        assert pack_function(fn, by_value=by_value) is before
    befores = [pack_function(fn, by_value=by_value).code for fn in (lib.f, script["through"])]
    exec(LIBRARY_CHANGES[change], lib.__dict__)  # noqa: S102
    for before_code, fn in zip(befores, (lib.f, script["through"]), strict=True):
        after = pack_function(fn, by_value=by_value)
        assert after.code == pack_function(fn, by_value=ByValue(("lib_by_value",))).code != before_code


def test_what_changes_in_a_module_that_goes_as_a_whole_is_seen(made: Made) -> None:
    lib = made("lib_by_value", LIBRARY)
    fn = namespace("import lib_by_value\ndef through(x): return lib_by_value.f(x)")["through"]
    by_value = ByValue(("lib_by_value",))
    for lib.K in (1, 2):  # type: ignore[attr-defined]
        assert load_function(pack_function(fn, by_value=by_value).code)(10) == 10 + lib.K


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ("json", TypeError, r"by_value is a list of modules: by_value=\['json'\]"),
        (json, TypeError, r"by_value=\['json'\]"),
        ([3], TypeError, "names modules, or is given them, not int"),
        (["never_imported"], ValueError, "'never_imported' is not imported here; import it before"),
        ([types.ModuleType("json")], ValueError, "'json' is not imported here"),
        (["sys"], ValueError, "'sys' is of Python itself"),
        (["json.decoder"], ValueError, "'json.decoder' is of Python itself"),
        (["cluster.payload"], ValueError, "'cluster.payload' is of Ganger itself"),
        ([cluster], ValueError, "'cluster' is of Ganger itself"),
        (["zmq.backend.cython._zmq"], ValueError, r"is compiled \(.*_zmq.*\), there is no Python code to send"),
    ],
)
def test_a_module_that_cannot_go_by_value_is_refused_in_words(wanted: Any, error: type[Exception], words: str) -> None:
    import zmq  # noqa: F401

    with pytest.raises(error, match=words):
        by_value_names(wanted)


def test_modules_may_be_given_by_name_or_as_themselves(made: Made) -> None:
    lib = made("lib_by_value", LIBRARY)
    assert by_value_names(["hypothesis", lib, "lib_by_value"]) == ("hypothesis", "lib_by_value")
    for i in range(payload.BY_VALUE_MAX + 1):
        made(f"lib_{i}", "")
    with pytest.raises(ValueError, match="up to 64 modules, not 65"):
        by_value_names(f"lib_{i}" for i in range(payload.BY_VALUE_MAX + 1))


# ------------------------------------------------------------------------------------ functions


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (json.dumps, "json:dumps"),
        (len, "builtins:len"),
        (Fraction, "fractions:Fraction"),
        (Fraction.limit_denominator, "fractions:Fraction.limit_denominator"),
        (functools.partial(functools.partial(math.pow, 2)), "math:pow"),
        (Fraction(1).limit_denominator, "fractions:Fraction.limit_denominator"),
    ],
)
def test_what_can_be_imported_goes_by_reference(fn: Callable[..., Any], name: str) -> None:
    packed = pack_function(fn)
    assert (packed.name, packed.by_value) == (name, False)
    assert pack_function(fn) == packed
    assert callable(load_function(packed.code))


def test_a_reference_is_no_longer_one_when_the_name_means_another() -> None:
    module = types.ModuleType("changing_module")
    exec("def f(): return 1", module.__dict__)  # noqa: S102
    sys.modules["changing_module"] = module
    try:
        f = module.f
        assert not pack_function(f).by_value
        module.f = None  # type: ignore[attr-defined]
        packed = pack_function(f)
        assert packed.by_value and load_function(packed.code)() == 1
    finally:
        del sys.modules["changing_module"]


def test_closures_go_by_value() -> None:
    n = 5
    packed = pack_function(lambda x: x + n)
    assert packed.by_value and load_function(packed.code)(1) == 6


def test_code_keeps_the_name_of_its_file_so_that_tracebacks_show_its_lines() -> None:
    def outer() -> Any:
        def inner() -> None: ...

        return inner

    there = load_function(pack_function(outer).code)
    assert there.__code__.co_filename == there().__code__.co_filename == __file__


def test_a_large_callable_goes_by_value_so_that_it_is_sent_once() -> None:
    packed = pack_function(functools.partial(max, bytes(100_000)))
    assert packed.by_value and load_function(packed.code)(b"") == bytes(100_000)
    with pytest.raises(errors.TooLarge):
        pack_function(functools.partial(max, bytes(100_000)), max_bytes=1000)


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(errors.SerializationError, match=r"the function .*<lambda> cannot be pickled: .*lock"):
        pack_function(lambda: lock)


def test_what_is_not_callable_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="int is not callable"):
        pack_function(3)  # type: ignore[arg-type]


def test_a_missing_module_is_named_with_the_node_and_what_to_do() -> None:
    words = r"the module 'no_such.module' cannot be imported on node n7; install it there, .* client.options\(by_value="
    with pytest.raises(errors.SerializationError, match="'no_such' cannot be imported on node n7"):
        load_function(b"cno_such.module\nf\n.", "n7")
    text = payload.missing_module(ModuleNotFoundError("x", name="no_such.module"), "n7")
    assert re.match(words + r"\['no_such'\]\)$", text)
    assert payload.missing_module(ModuleNotFoundError("x", name="asyncore"), "n7").endswith(
        "cannot be imported on node n7"
    ) == ("asyncore" in sys.stdlib_module_names)
    assert payload.missing_module(ModuleNotFoundError("x", name="m"), "") == "the module 'm' cannot be imported here"


def test_a_module_that_is_another_on_the_node_is_named() -> None:
    with pytest.raises(errors.SerializationError, match=r"'no_such'.*the module on node n7 is another than here"):
        load_function(b"cjson\nno_such\n.", "n7")


def namespace(source: str) -> dict[str, Any]:
    """What a script of that source has; its functions go by value, as those of ``__main__`` do."""
    out: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(source, out)  # noqa: S102
    return out


SCRIPT = """
import math, json.decoder
from collections import OrderedDict
K = 1
TABLE = {"a": 1}
def twice(x): return 2 * x
def helper(x): return x + K
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def f(x: int = 0, *, y: int = 0) -> list[int]:
    "doc"
    return [helper(x), y, math.floor(1.5)]
def closing():
    n = 1
    def inner(): return n
    def set(v):
        nonlocal n
        n = v
    return inner, set
def uses_table(): return TABLE["a"]
def uses_nested(): return [K for _ in (lambda: K)() * [0]]
def uses_absent(): return later()
def uses_type(): return OrderedDict(a=K)
class Thing:
    value = 1
def uses_thing(): return Thing.value
def attribute(): return getattr(attribute, "seen", None)
inner, set_n = closing()
"""

CHANGES = {
    "a global": ("f", "K = 2"),
    "a global of an equal value but another type": ("f", "K = True"),
    "a function it calls": ("f", "def helper(x): return 10"),
    "the code of a function it calls": ("f", "helper.__code__ = twice.__code__"),
    "its own code": ("f", "f.__code__ = (lambda x=0, *, y=0: 10).__code__"),
    "a default": ("f", "f.__defaults__ = (9,)"),
    "a keyword default": ("f", "f.__kwdefaults__['y'] = 9"),
    "a keyword default of a function it calls": ("f", "helper.__defaults__ = (1,)"),
    "an annotation": ("f", "f.__annotations__['x'] = str"),
    "its doc": ("f", "f.__doc__ = 'x'"),
    "its name": ("f", "f.__name__ = 'x'"),
    "an attribute": ("attribute", "attribute.seen = 5"),
    "a closed-over variable": ("inner", "set_n(2)"),
    "the inside of a table": ("uses_table", "TABLE['a'] = 2"),
    "a global used in nested code": ("uses_nested", "K = 3"),
    "a global that was missing": ("uses_absent", "def later(): return 1"),
    "a builtin that is now hidden": ("even", "odd = len"),
    "a class of the script": ("uses_thing", "Thing.value = 2"),
    "a module": ("f", "import cmath as math"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_by_value_bytes_are_never_stale(change: str) -> None:
    name, code = CHANGES[change]
    script = namespace(SCRIPT)
    fn = script[name]
    for _ in range(3):
        before = pack_function(fn)
        assert before.by_value
    exec(code, script)  # noqa: S102
    after = pack_function(fn)
    assert after.code == payload._cloudpickled(fn, payload._MAIN_ONLY)
    assert after.code != before.code


@pytest.mark.parametrize("name", ["f", "even", "inner", "uses_nested", "uses_absent", "uses_type", "helper"])
def test_unchanged_functions_are_pickled_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fn = namespace(SCRIPT)[name]
    first = pack_function(fn)
    assert pack_function(fn) is first

    def refuse(*args: Any, **kwargs: Any) -> bytes:
        raise AssertionError("pickled again")

    monkeypatch.setattr(payload, "_dumps", refuse)
    monkeypatch.setattr(payload, "_cloudpickled", refuse)
    assert pack_function(fn) is first


@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=6))
def test_whatever_changes_in_whatever_order_the_bytes_are_of_now(changes: list[str]) -> None:
    script = namespace(SCRIPT)
    for change in changes:
        name, code = CHANGES[change]
        pack_function(script[name])
        try:
            exec(code, script)  # noqa: S102
        except NameError:
            continue
        for fn in (script[name], script["f"]):
            assert pack_function(fn).code == payload._cloudpickled(fn, payload._MAIN_ONLY)


def test_an_import_made_later_is_seen() -> None:
    module = "json.tool"
    sys.modules.pop(module, None)
    fn = namespace("import json\ndef f(): return json.tool")["f"]
    before = pack_function(fn)
    __import__(module)
    assert pack_function(fn).code != before.code
    assert b"json.tool" in pack_function(fn).code


def test_a_mutable_global_is_pickled_each_time() -> None:
    script = namespace("items = []\ndef f(): return items")
    for n in range(3):
        assert load_function(pack_function(script["f"]).code)() == list(range(n))
        script["items"].append(n)


def test_packing_keeps_no_function_alive() -> None:
    for source, name in [("def f(): return g()\ndef g(): return f()", "f"), (SCRIPT, "inner")]:
        script = namespace(source)
        ref = weakref.ref(script[name])
        pack_function(script[name])
        script.clear()
        del script
        gc.collect()
        assert ref() is None


def test_the_cache_is_bounded() -> None:
    functions = [namespace("def f(): return 1")["f"] for _ in range(1500)]
    for fn in functions:
        pack_function(fn)
    assert len(payload._MAIN_ONLY.kept) <= payload._KEPT_MAX


MAIN = """
import sys
from cluster import payload
class Point:
    def __init__(self, x): self.x = x
def shift(p, by): return Point(p.x + by)
f = payload.pack_function(shift)
assert (f.name, f.by_value) == ("__main__:shift", True)
call = payload.pack_call((Point(1),), {"by": 2})
print(payload.pack_result((f.code, call)).hex(), flush=True)
back = payload.unpack_result(bytes.fromhex(input()))
assert type(back) is Point and back.x == 3, back
"""


def test_functions_and_classes_of_main_work_in_another_process_and_come_back() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdin is not None and script.stdout is not None
        code, call = unpack_result(bytes.fromhex(script.stdout.readline()))
        args, kwargs = unpack_call(call)
        script.stdin.write(joined(pack_result(load_function(code)(*args, **kwargs))).hex() + "\n")
        script.stdin.close()
        assert script.wait(30) == 0


def test_importing_the_module_does_not_import_cloudpickle() -> None:
    code = "import cluster.payload, sys; assert not {'cloudpickle', 'numpy', 'asyncio', 'zmq'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------ failures


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as e:
        return e


def round_trip(exc: BaseException) -> BaseException:
    return unpack_failure(Failure.decode(pack_failure(raised(exc)).encode()))


class OwnInit(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Holds(Exception):
    pass


@pytest.mark.parametrize(
    "exc",
    [ValueError("x", 1), KeyError("k"), OSError(2, "gone", "/f"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")],
)
def test_exceptions_arrive_as_their_own_type_with_the_remote_traceback(exc: Exception) -> None:
    came = round_trip(exc)
    assert type(came) is type(exc) and came.args == exc.args and str(came) == str(exc)
    assert isinstance(came.__cause__, errors.RemoteTraceback)
    assert "in raised" in came.__cause__.text


def test_an_exception_with_an_init_of_its_own_arrives_as_itself() -> None:
    came = round_trip(OwnInit(5, reason="because"))
    assert type(came) is OwnInit and came.code == 5 and str(came) == "5: because"


def test_the_wire_tells_kind_and_bases_without_opening_the_pickle() -> None:
    failure = pack_failure(raised(OwnInit(1, reason="x")))
    assert failure.kind.endswith("test_payload.OwnInit") and failure.bases[0] == failure.kind
    assert failure.bases[1:] == ("Exception", "BaseException")


def test_causes_are_in_the_traceback() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as e:
            raise ValueError("second") from e
    except ValueError as e:
        failure = pack_failure(e)
    assert failure.traceback.index("first") < failure.traceback.index("direct cause") < len(failure.traceback)


def test_hidden_frames_are_cut_from_the_top_only() -> None:
    failure = pack_failure(raised(ValueError("x")), {__file__})
    assert "File" not in failure.traceback and failure.traceback.endswith("ValueError: x\n")


def test_a_broken_str_does_not_hide_the_failure() -> None:
    failure = pack_failure(raised(Broken()))
    assert failure.kind.endswith("Broken") and "RuntimeError" in failure.text


def test_a_group_of_such_exceptions_arrives_as_itself() -> None:
    group = ExceptionGroup("g", [OwnInit(1, reason="x"), ExceptionGroup("h", [ValueError(3), OwnInit(2, reason="y")])])
    came = round_trip(group)
    assert type(came) is ExceptionGroup and came.message == "g"
    first, second = came.exceptions
    assert type(first) is OwnInit and first.code == 1 and str(first) == "1: x"
    assert isinstance(second, ExceptionGroup) and [str(e) for e in second.exceptions] == ["3", "2: y"]


@pytest.mark.parametrize("held", [threading.Lock(), bytes(payload.EXCEPTION_BYTES)])
def test_an_exception_that_cannot_be_sent_is_a_remote_error_with_its_text(held: Any) -> None:
    exc = Holds("text")
    exc.held = held  # type: ignore[attr-defined]
    came = round_trip(exc)
    assert isinstance(came, errors.RemoteError)
    assert came.type_name.endswith("Holds") and str(came) == f"{came.type_name}: text"
    assert "Holds: text" in came.remote_traceback
    assert isinstance(came.__cause__, errors.RemoteTraceback)
    assert "could not be pickled" in came.__notes__[0]


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (SystemExit(3), "the job raised SystemExit: 3"),
        (SystemExit(), "the job raised SystemExit"),
        (KeyboardInterrupt(), "the job raised KeyboardInterrupt"),
    ],
)
def test_an_exit_is_a_job_that_exited(exc: BaseException, text: str) -> None:
    came = round_trip(exc)
    assert type(came) is errors.JobExited and str(came) == text


@pytest.mark.parametrize(
    "exc",
    [GeneratorExit(), StopIteration(1), StopAsyncIteration(), BaseExceptionGroup("g", [SystemExit(1)])],
)
def test_what_would_end_the_waiting_program_is_a_remote_error(exc: BaseException) -> None:
    came = round_trip(exc)
    assert isinstance(came, errors.RemoteError) and came.type_name == type(exc).__name__


class Evil:
    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    def __reduce__(self) -> Any:
        return raised_on_load, (self.exc,)


def raised_on_load(exc: BaseException) -> None:
    raise exc


@pytest.mark.parametrize(
    "blob",
    [
        b"junk",
        b"cno_such_module\nE\n.",
        pickle.dumps("no exception"),
        pickle.dumps(SystemExit(1)),
        pickle.dumps(KeyboardInterrupt()),
        pickle.dumps(Evil(SystemExit(2))),
        pickle.dumps(Evil(KeyboardInterrupt())),
        pickle.dumps(Evil(ValueError("x"))),
        pickle.dumps(ValueError),
    ],
)
def test_no_pickle_makes_unpacking_raise_or_deliver_an_exit(blob: bytes) -> None:
    came = unpack_failure(Failure("some.Kind", "text", "tb", ("some.Kind",), blob))
    assert type(came) is errors.RemoteError and str(came) == "some.Kind: text"
    assert came.__notes__[0].startswith("not raised as some.Kind: ")


@pytest.mark.parametrize("kind", errors.JOB_ERRORS)
def test_errors_of_ours_arrive_by_name(kind: str) -> None:
    came = unpack_failure(Failure(kind, "text", "tb"))
    assert type(came) is errors.JOB_ERRORS[kind] and str(came) == "text"
    assert isinstance(came.__cause__, errors.RemoteTraceback)
    assert unpack_failure(Failure(kind, "text")).__cause__ is None


def test_an_error_of_ours_carries_the_traceback_of_its_cause() -> None:
    with pytest.raises(errors.SerializationError) as caught:
        pack_result(Unpicklable())
    failure = pack_error(caught.value)
    assert failure.kind == "SerializationError" and failure.pickle == b""
    assert "not today" in failure.traceback and "in __reduce__" in failure.traceback


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=[]), max_size=50), st.integers(0, 3))
def test_any_text_makes_a_failure_that_can_be_sent(text: str, length: int) -> None:
    failure = pack_failure(raised(ValueError(text * 10**length)))
    raw = failure.encode()
    assert len(raw) <= 2 * INLINE_BYTES
    assert Failure.decode(raw) == failure
    assert len(failure.text) <= FAILURE_CHARS


def test_deep_recursion_is_a_failure_of_bounded_length() -> None:
    def recurse() -> None:
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()
    assert len(pack_failure(caught.value).encode()) <= 2 * INLINE_BYTES


@pytest.mark.long
def test_packing_is_cheap() -> None:
    """Bounds are many times the figures seen, 1 to 3 us, to hold on a busy machine."""
    fn = namespace(SCRIPT)["f"]
    calls: list[tuple[Callable[[], object], int]] = [
        (lambda: pack_call((1, 2), {}), 20),
        (lambda: pack_function(fn), 40),
        (lambda: pack_function(json.dumps), 20),
        (lambda: payload.holds_code(b"\x80"), 10),
    ]
    for call, bound_us in calls:
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(1000):
                call()
            best = min(best, (time.perf_counter() - start) * 1000)
        assert best < bound_us
