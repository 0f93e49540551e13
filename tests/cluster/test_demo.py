"""The analysis on sources whose figures were counted by hand, and the comparison that decides the exit code."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import demo
from cluster.demo import Analysis, Function, analyse, compare, examine, library_files, totals


def measured(tmp_path: Path, source: str | bytes) -> Analysis:
    path = tmp_path / "source.py"
    path.write_bytes(source if isinstance(source, bytes) else dedent(source).encode())
    return analyse(str(path))


def complexity(tmp_path: Path, body: str) -> int:
    """Of one function with that body."""
    found = measured(
        tmp_path, "async def f(a, b, c):\n" + "\n".join("    " + line for line in dedent(body).splitlines())
    )
    assert found.problem is None
    return found.functions[0].complexity


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return a", 1),
        ("if a:\n    return b", 2),
        ("if a:\n    return 1\nelif b:\n    return 2\nelse:\n    return 3", 3),
        ("return b if a else c", 2),
        ("for x in a:\n    pass\nelse:\n    pass", 2),
        ("async for x in a:\n    pass", 2),
        ("while a:\n    b()", 2),
        (
            "try:\n    a()\nexcept ValueError:\n    b()\nexcept TypeError:\n    c()\nelse:\n    a()\nfinally:\n    b()",
            3,
        ),
        ("with a, b:\n    pass", 1),
        ("return a and b and c", 3),
        ("return a and b or c", 3),
        ("if a and (b or c):\n    pass", 4),
        ("return [x for x in a if x if b]", 4),
        ("return {x: y for x in a for y in b}", 3),
        ("return lambda x: x if a else b", 2),
        ("assert a, b", 1),
        ("match a:\n    case 1 | 2:\n        pass\n    case [x, *_]:\n        pass\n    case _:\n        pass", 3),
        ("match a:\n    case x if b:\n        pass", 2),
        ("match a:\n    case x:\n        pass", 1),
    ],
)
def test_complexity_of_one_function(tmp_path: Path, body: str, expected: int) -> None:
    assert complexity(tmp_path, body) == expected


def test_inner_functions_and_methods_count_for_themselves(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        """\
        if True:
            flag = 1

        class Outer(object if flag else int):
            attribute = [x for x in range(3)]

            @decorator(1 if flag else 2)
            def method(self, a=flag and 1):
                def inner():
                    while True:
                        pass
                if a:
                    class Local:
                        async def deep(self):
                            return a or inner
                return inner

        def plain():
            pass
        """,
    )
    assert found.classes == 2
    assert found.functions == (
        Function("Outer.method", 8, 2),
        Function("Outer.method.inner", 9, 2),
        Function("Outer.method.Local.deep", 14, 2),
        Function("plain", 18, 1),
    )


def test_defaults_and_decorators_belong_to_the_function_around(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        """\
        def around(flag):
            @flag.a if flag else flag.b
            def inner(x=flag or 1):
                return x
            return inner
        """,
    )
    assert [f.complexity for f in found.functions] == [3, 1]


@pytest.mark.parametrize(
    ("source", "lines"),
    [("", 0), ("\n", 1), ("a = 1", 1), ("a = 1\n", 1), ("a = 1\nb = 2", 2), ("a = 1\r\nb = 2\r\n", 2)],
)
def test_lines(tmp_path: Path, source: str, lines: int) -> None:
    assert measured(tmp_path, source.encode()).lines == lines


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (b"def f(:\n", "SyntaxError"),
        (b"# coding: no-such-thing\n", "SyntaxError"),
        (b"a = '\xff\xfe'\n", "SyntaxError"),
        (b"a = 1\0\n", "SyntaxError|ValueError"),
        (b"print 'hello'\n", "SyntaxError"),
        (b"a = " + b"(" * 500 + b")" * 500, "SyntaxError|MemoryError"),
    ],
)
def test_a_file_that_does_not_parse_is_a_finding(tmp_path: Path, source: bytes, kind: str) -> None:
    found = measured(tmp_path, source)
    assert found.problem is not None
    assert found.problem.split(":")[0] in kind.split("|")
    assert found.functions == () and found.lines == 1


def test_a_missing_file_is_a_finding(tmp_path: Path) -> None:
    found = analyse(str(tmp_path / "gone.py"))
    assert found.problem == "FileNotFoundError: No such file or directory"


def test_depth_exhausts_nothing(tmp_path: Path) -> None:
    """Deep trees either measure or are a finding; the interpreter's stack is not ours to exhaust."""
    assert measured(tmp_path, "a = " + "+".join(["1"] * 2_000) + "\n").problem is None
    for depth in (90, 900, 30_000):
        found = measured(tmp_path, "def f():\n    return " + "-" * depth + "1\n")
        assert found.functions == (Function("f", 1, 1),) or found.problem is not None


def test_warnings_of_the_parser_are_not_shown(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert measured(tmp_path, "a = '\\d'\nassert (1, 2)\nif a is 1: pass\n").problem is None
    assert seen == []


@given(st.binary(max_size=300))
def test_any_bytes_give_an_analysis(tmp_path_factory: pytest.TempPathFactory, source: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.py"
    path.write_bytes(source)
    assert analyse(str(path)) == analyse(str(path))


def test_the_job_signs_the_journal_and_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_NODE", "quarry")
    source, journal = tmp_path / "a.py", tmp_path / "journal"
    source.write_text("def f(): pass\n")
    first, second = (examine(str(source), str(journal)) for _ in range(2))
    assert first.analysis == second.analysis == analyse(str(source))
    assert first.node == "quarry" and first.seconds > 0
    assert journal.read_text().splitlines() == [f"quarry {first.pid}"] * 2
    assert pickle.loads(pickle.dumps(first)) == first


def test_the_library_without_what_was_installed(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "json/b.py",
        "site-packages/c.py",
        "json/__pycache__/d.py",
        "e.txt",
        "test/dist-packages/f.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root, files = library_files(tmp_path)
    assert [str(Path(f).relative_to(root)) for f in files] == ["a.py", "json/b.py"]


def test_totals() -> None:
    found = [
        Analysis("a.py", 10, 1, (Function("f", 1, 3), Function("g", 5, 1))),
        Analysis("b.py", 5, 0, (), "SyntaxError: invalid syntax"),
    ]
    assert totals(found) == demo.Totals(files=2, lines=15, classes=1, functions=2, complexity=4, unparsed=1)


A = Analysis("a.py", 10, 1, (Function("f", 1, 3),))
B = Analysis("b.py", 5, 0, ())


def test_comparison_finds_nothing_where_nothing_is_wrong() -> None:
    assert compare([A, B], [B, A], executions=2) == []
    assert compare([A, B], [B, A], executions=3) == []


@pytest.mark.parametrize(
    ("found", "executions", "said"),
    [
        ([A], 2, "b.py has 0 results"),
        ([A, B, B], 3, "b.py has 2 results"),
        ([A, B, Analysis("c.py", 1, 0, ())], 3, "c.py was never asked for"),
        ([A._replace(functions=(Function("f", 1, 4),)), B], 2, "a.py was analysed differently"),
        ([A._replace(lines=5), B._replace(lines=10)], 2, "b.py was analysed differently"),
        ([A, B], 1, "2 results out of only 1 executions"),
    ],
)
def test_comparison_finds_what_is_wrong(found: list[Analysis], executions: int, said: str) -> None:
    problems = compare([A, B], found, executions)
    assert any(said in p for p in problems), problems
