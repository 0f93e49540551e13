"""The mark of a function: the same wherever its lines stand, another one for whatever changes what it does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from cluster.code_marks import mark_of


def made(source: str, name: str = "f", lines_before: int = 0, file: str = "a.py", **names: Any) -> Callable[..., Any]:
    """The function of a program."""
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(compile("\n" * lines_before + source, file, "exec"), space)  # noqa: S102
    found: Callable[..., Any] = space[name]
    return found


def mark(source: str, **about: Any) -> str:
    return mark_of(made(source, **about), b"")


PROGRAM = """
FACTOR = 2
NAMES = {"a", "b", "c"}
class Kept:
    "text"
    def get(self): return FACTOR
    @property
    def both(self): return self.get() * 2
    @classmethod
    def one(cls): return cls()
def helper(x): return x * FACTOR
def f(a, b=3, *, c=4):
    inner = lambda y: helper(y) in {1, 2, 3}
    return inner(a), Kept, NAMES
"""


def test_lines_file_and_another_run_do_not_matter() -> None:
    marks = {mark(PROGRAM), mark(PROGRAM, lines_before=7), mark(PROGRAM, file="b.py"), mark("# why\n" + PROGRAM)}
    assert len(marks) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("FACTOR = 2", "FACTOR = 3"),
        ("b=3", "b=5"),
        ("c=4", "c=5"),
        ("x * FACTOR", "x + FACTOR"),
        ("{1, 2, 3}", "{1, 2, 4}"),
        ('{"a", "b", "c"}', '{"a", "b", "d"}'),
        ("self.get() * 2", "self.get() * 3"),
        ("return cls()", "return cls"),
        ("inner(a), Kept", "inner(a), helper"),
        ("def f(a, b", "def f(b, a"),
    ],
)
def test_what_changes_what_it_does_changes_it(before: str, after: str) -> None:
    changed = PROGRAM.replace(before, after)
    assert changed != PROGRAM
    assert mark(changed) != mark(PROGRAM)


def test_what_it_closes_over_counts() -> None:
    program = "def f(n):\n    def g(): return n\n    return g"
    marks = [mark_of(made(program)(n), b"") for n in (1, 1, 2)]
    assert marks[0] == marks[1] != marks[2]


def test_functions_that_name_each_other_have_an_end() -> None:
    program = "def f(n): return g(n)\ndef g(n): return f(n - 1)"
    assert mark(program) == mark(program) != mark(program.replace("- 1", "- 2"))


def test_a_wrapped_function_counts_by_what_it_wraps() -> None:
    wrapped = functools.lru_cache(made("def f(): return 1"))
    assert mark_of(wrapped, b"x") == mark("def f(): return 1")


def test_what_is_no_function_counts_by_its_pickle() -> None:
    half = functools.partial(int, "7")
    assert mark_of(half, b"one") != mark_of(half, b"two") == mark_of(functools.partial(int, "8"), b"two")


def test_a_bound_method_counts_with_what_it_is_bound_to() -> None:
    assert len({mark_of(text.upper, text.encode()) for text in ("a", "b")}) == 2
    program = (
        "class K:\n    def __init__(self, n): self.n = n\n    def f(self): return self.n\ndef make(n): return K(n).f"
    )
    one, same, other = (mark_of(made(program, "make")(n), b"") for n in (1, 1, 2))
    assert one == same
    assert isinstance(other, str)
