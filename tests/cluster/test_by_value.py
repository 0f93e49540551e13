"""Code in pickles, opened in a process that knows nothing of it: what cloudpickle leaves out is there too."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.payload import ByValue, load_function, pack_function, unpack_result

ELSEWHERE = """
import sys
from cluster.payload import load_function, pack_result
for line in sys.stdin:
    print(pack_result(load_function(bytes.fromhex(line))()).hex(), flush=True)
"""

Run = Callable[[str], Any]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Run]:
    """Runs a function of a script in another process; its result comes back into this one."""
    with subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None

        def run(source: str) -> Any:
            script: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
            exec(textwrap.dedent(source), script)  # noqa: S102
            assert other.stdin is not None and other.stdout is not None
            print(pack_function(script["job"]).code.hex(), file=other.stdin, flush=True)
            result = unpack_result(bytes.fromhex(other.stdout.readline()))
            check = script.get("check")
            return check(result) if check else result

        yield run
        other.stdin.close()


def test_classes_keep_their_slots(elsewhere: Run) -> None:
    source = """
    from typing import NamedTuple
    class Base:
        __slots__ = ()
    class Slots(Base):
        __slots__ = ("a", "__private")
        def __init__(self, a): self.a, self.__private = a, -a
        def sum(self): return self.a + self.__private
    class One:
        __slots__ = "only"
    class Pair(tuple):
        __slots__ = ()
    class Named(NamedTuple):
        a: int
        b: int = 2
    def job():
        one = One()
        one.only = 1
        values = [Slots(3), one, Pair((1, 2)), Named(1)]
        return values, [hasattr(value, "__dict__") for value in values]
    def check(result):
        (slots, one, pair, named), dicts = result
        assert [type(v) for v in (slots, one, pair, named)] == [Slots, One, Pair, Named]
        return slots.a, slots.sum(), one.only, pair, named.b, dicts
    """
    assert elsewhere(source) == (3, 0, 1, (1, 2), 2, [False] * 4)


def test_slotted_dataclasses_come_back(elsewhere: Run) -> None:
    source = """
    from dataclasses import dataclass, field
    @dataclass(slots=True)
    class Plain:
        x: int
        y: list = field(default_factory=list)
    @dataclass(slots=True, frozen=True)
    class Frozen:
        x: int
    def job(): return Plain(1, [2]), Frozen(3)
    def check(result): return result == job()
    """
    assert elsewhere(source) is True


def test_cached_functions_and_properties(elsewhere: Run) -> None:
    source = """
    import functools
    @functools.lru_cache(maxsize=7, typed=True)
    def doubled(x): return 2 * x
    @functools.cache
    def recursive(n): return n and n + recursive(n - 1)
    class Box:
        @functools.cached_property
        def value(self): return 5
        @functools.lru_cache
        def method(self, x): return x + 1
        @staticmethod
        @functools.cache
        def static(): return 9
    def job():
        box = Box()
        parameters = doubled.cache_parameters()
        return doubled(3), recursive(4), box.value, box.__dict__, box.method(1), Box.static(), parameters
    """
    assert elsewhere(source) == (6, 10, 5, {"value": 5}, 2, 9, {"maxsize": 7, "typed": True})


def test_single_dispatch_and_types_by_name(elsewhere: Run) -> None:
    source = """
    import functools, typing
    UserId = typing.NewType("UserId", int)
    T = typing.TypeVar("T", bound=int)
    class Box(typing.Generic[T]):
        def __init__(self, v: T): self.v = v
    @functools.singledispatch
    def kind(x): return "object"
    @kind.register
    def _(x: int): return "int"
    kind("used"), kind(1)
    def job(x: UserId = UserId(3)): return UserId(x), Box[int](4).v, kind(1), kind(""), UserId.__supertype__ is int
    """
    assert elsewhere(source) == (3, 4, "int", "object", True)


def test_a_metaclass_and_a_registry_of_subclasses_see_each_class_once(elsewhere: Run) -> None:
    source = """
    seen = []
    class Meta(type):
        def __init__(cls, *a, **k): seen.append(("meta", cls.__name__)); super().__init__(*a)
    class Plugin(metaclass=Meta):
        def __init_subclass__(cls): seen.append(("plugin", cls.__name__))
    class First(Plugin): pass
    def job(): return First()
    def check(result):
        assert type(result) is First
        return seen
    """
    once = [("meta", "Plugin"), ("plugin", "First"), ("meta", "First")]
    for _ in range(2):
        assert elsewhere(source) == once


def test_an_enums_members_are_themselves_there_and_here(elsewhere: Run) -> None:
    source = """
    import enum
    class Color(enum.Enum):
        RED = 1
        BLUE = 2
        @property
        def nice(self): return self.name.title()
    class Perm(enum.Flag):
        R = enum.auto()
        W = enum.auto()
    def job(): return Color.RED, Color(2) is Color.BLUE, Color.BLUE.nice, Perm.R | Perm.W, {Color.RED: 1}
    def check(result):
        red, same, nice, perms, table = result
        return red is Color.RED, same, nice, perms is Perm.R | Perm.W, table[Color.RED]
    """
    assert elsewhere(source) == (True, True, "Blue", True, 1)


def test_a_class_defined_in_the_job_comes_back_with_its_code(elsewhere: Run) -> None:
    source = """
    def job():
        class Local:
            def twice(self, x): return 2 * x
        return Local(), (lambda x: x + 1)
    def check(result): return result[0].twice(4), result[1](1)
    """
    assert elsewhere(source) == (8, 2)


def test_what_is_compiled_in_a_named_package_goes_by_reference() -> None:
    from zmq.backend.cython._zmq import Frame
    from zmq.utils import jsonapi

    by_value = ByValue(("zmq",))
    assert not pack_function(Frame, by_value=by_value).by_value
    packed = pack_function(lambda: (Frame, jsonapi.dumps({})), by_value=by_value)
    assert load_function(packed.code)() == (Frame, b"{}")
    assert b"jsonapi" in packed.code and b"_new_module" in packed.code


def test_what_cloudpickle_offers_and_we_lean_on_is_there() -> None:
    from cloudpickle import Pickler
    from cloudpickle import cloudpickle as inside

    names = (
        *("_make_skeleton_class", "_make_skeleton_enum", "_class_setstate", "_dynamic_class_reduce", "_make_typevar"),
        *("_decompose_typevar", "_lookup_module_and_qualname", "_DYNAMIC_CLASS_TRACKER_BY_ID"),
    )
    assert [name for name in names if not hasattr(inside, name)] == []
    assert hasattr(Pickler, "_dynamic_function_reduce")


def test_the_library_is_not_loaded_for_plain_values() -> None:
    code = """
        import json, sys
        from cluster import payload
        payload.unpack_call(payload.pack_call((1, "x"), {}))
        payload.load_function(payload.pack_function(len).code)
        payload.class_states_set()
        print(json.dumps(sorted({"cloudpickle", "cluster.by_value"} & set(sys.modules))))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True)
    assert json.loads(done.stdout) == []
