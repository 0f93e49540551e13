"""Our packages among others of their names. Rules of this file: copies only, looked at by a Python of their own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import packages

ROOT = packages.ROOT


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory in which our packages are installed, with the record of their files."""
    site = tmp_path / "site"
    for name in packages.NAMES:
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    record(site, "ganger", "9.9", [p.relative_to(site) for name in packages.NAMES for p in (site / name).rglob("*.py")])
    return site


def record(site: Path, name: str, version: str, files: list[Path]) -> None:
    """What pip leaves of an install."""
    about = site / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for file in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256((site / file).read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"{file},sha256={digest},1\n")
    (about / "RECORD").write_text("".join(lines))


def asked(site: Path, expression: str, *path: Path) -> Any:
    """The value of an expression in a Python that has the packages of ``site``; or the text of its error."""
    program = (
        f"import json, sys; sys.path.insert(0, {str(site)!r})\n"
        "from cluster import packages\n"
        "from cluster.errors import ConfigError\n"
        f"sys.path[:0] = {[str(p) for p in path]!r}\n"
        f"try: print(json.dumps({expression}))\n"
        "except ConfigError as e: print(json.dumps(str(e)))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_is_whole_is_no_fault(site: Path) -> None:
    assert asked(site, "packages.check()") is None
    assert asked(site, "packages.changed_files(packages.installed()[0])") == []


def test_ours_is_loaded_by_its_place_whatever_the_path_finds_first(site: Path, tmp_path: Path) -> None:
    (tmp_path / "scheduler.py").write_text("raise SystemExit('taken for ours')\n")
    loaded = "[packages.load('scheduler'), __import__('scheduler.main').__file__][1]"
    assert asked(site, loaded, tmp_path) == str(site / "scheduler/__init__.py")


def test_ours_is_loaded_once(site: Path) -> None:
    assert asked(
        site, "[packages.load('node'), __import__('node')][1] is [packages.load('node'), __import__('node')][1]"
    )


@pytest.mark.parametrize("name", packages.NAMES)
def test_another_package_written_over_ours_is_named_with_its_distribution(site: Path, name: str) -> None:
    (site / name / "__init__.py").write_text('"""Of somebody else."""\n')
    record(site, "stranger", "1.2", [Path(name, "__init__.py")])
    text = asked(site, "packages.check()")
    assert f"{site}/{name}/__init__.py is not Ganger's" in text
    assert f"remove stranger 1.2, which has a package {name} too" in text
    assert "pip install --force-reinstall" in text
    assert asked(site, "packages.changed_files(packages.installed()[0])") == [f"{name}/__init__.py"]


@pytest.mark.parametrize("missing", ["scheduler", "node/main.py", "cluster/cli.py", "node/__init__.py"])
def test_a_package_that_is_not_all_there_is_named(site: Path, missing: str) -> None:
    path = site / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = asked(site, "packages.check()")
    assert text.startswith(f"{site / missing.split('/')[0]} is not all there") and "pip install" in text


def test_a_file_changed_since_it_was_installed_is_named(site: Path) -> None:
    with open(site / "node/events.py", "a") as file:
        file.write("# half of another release\n")
    (site / "node/slots.py").unlink()
    changed = asked(site, "packages.changed_files(packages.installed()[0])")
    assert sorted(changed) == ["node/events.py", "node/slots.py (missing)"]


def test_others_with_a_package_of_our_name_are_named_wherever_they_are(site: Path, tmp_path: Path) -> None:
    (tmp_path / "node.py").touch()
    record(tmp_path, "knots", "0.3", [Path("node.py")])
    found = asked(site, "[(n, d.name, str(d.locate_file(''))) for n, d in packages.namesakes()]", tmp_path)
    assert ["node", "knots", str(tmp_path)] in [[n, d, p.rstrip("/")] for n, d, p in found]


def test_two_installs_are_told_apart(site: Path) -> None:
    """That of these tests is the other one."""
    assert asked(site, "[d.version for d in packages.installed()]")[0] == "9.9"
    assert asked(site, "len(packages.installed())") == 2


def test_what_was_installed_from_a_place_is_put_back_from_there(site: Path) -> None:
    about = site / "ganger-9.9.dist-info"
    assert asked(site, "packages.reinstall()").endswith(" ganger")
    (about / "direct_url.json").write_text('{"url": "file:///src/ganger", "dir_info": {}}')
    assert asked(site, "packages.reinstall()").endswith(" file:///src/ganger")


def test_the_path_for_a_child_is_left_alone_unless_ours_would_not_be_found(tmp_path: Path) -> None:
    plain = [str(ROOT), str(tmp_path)]
    assert packages.search_path(plain, *packages.NAMES) == plain
    (tmp_path / "node.py").touch()
    assert packages.search_path(plain, *packages.NAMES) == plain
    shadowed = [str(tmp_path), str(ROOT)]
    assert packages.search_path(shadowed, "cluster", "node") == [str(ROOT), *shadowed]
    assert packages.search_path(shadowed, "cluster", "scheduler") == shadowed
    assert packages.search_path([], "cluster") == [str(ROOT)]


def test_a_link_to_ours_is_ours(tmp_path: Path) -> None:
    os.symlink(ROOT / "node", tmp_path / "node")
    found = packages.found("node", [str(tmp_path)])
    assert found is not None and packages.is_ours("node", found)


def test_each_of_our_packages_bears_the_mark() -> None:
    packages.check()
