"""The checks of the house have teeth: what is planted is found. Rules of this file: work on copies only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cluster", "scheduler", "node")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages and their configuration."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tree)})


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    return run(tree, sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("scheduler/roster.py", "import node.slots\n"),
        ("cluster/jobs.py", "import scheduler\n"),
        ("node/agent.py", "import time\n"),
        ("scheduler/leases.py", "import scheduler.coordinator\n"),
    ],
)
def test_a_forbidden_import_is_found(tree: Path, file: str, line: str) -> None:
    assert lint_imports(tree).returncode == 0
    path = tree / file
    path.write_text(path.read_text() + line)
    found = lint_imports(tree)
    assert found.returncode == 1
    assert "BROKEN" in found.stdout


def test_a_type_error_is_found(tree: Path) -> None:
    path = tree / "scheduler/retries.py"
    path.write_text(path.read_text() + "\n\nWRONG: int = 'text'\n")
    found = run(tree, sys.executable, "-m", "mypy", "scheduler/retries.py")
    assert found.returncode == 1
    assert "Incompatible types in assignment" in found.stdout
