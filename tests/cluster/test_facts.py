"""Facts: known kinds only, and each can be told."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from cluster.facts import DEBUG, ERROR, INFO, KINDS, WARNING, fact

ROOT = Path(__file__).resolve().parents[2]


def test_an_unknown_kind_is_a_bug_that_says_where_to_add_it() -> None:
    with pytest.raises(KeyError, match=r"cluster/facts\.py"):
        fact("nonsense")


def test_a_fact_tells_its_count_and_what_it_is_about() -> None:
    told = fact("jobs_assigned", 3, node="n1")
    assert (told.text, told.level) == ("assigned 3 jobs to node n1", DEBUG)


def test_every_kind_has_a_level_that_logs_know() -> None:
    assert {k.level for k in KINDS.values()} <= {DEBUG, INFO, WARNING, ERROR}


def _named(call: ast.Call) -> str | None:
    """The kind of ``fact("kind", ...)`` or ``self._fact("kind", ...)``."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("fact", "_fact") and call.args and isinstance(call.args[0], ast.Constant):
        return str(call.args[0].value)
    return None


def test_every_fact_that_is_made_is_known_and_can_be_told() -> None:
    made = set()
    for room in ("cluster", "scheduler", "node"):
        for path in (ROOT / room).glob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and (kind := _named(call)) is not None:
                    made.add(kind)
                    wanted = {name for _, name, _, _ in string.Formatter().parse(KINDS[kind].text) if name}
                    given = {k.arg for k in call.keywords}
                    assert wanted <= given | {"n"}, f"{path.name}:{call.lineno} {kind} lacks {wanted - given}"
    assert made <= set(KINDS)
