"""Where our three packages lie, and who else answers to their names. Rules of this file: cheap to import; it reads.

Their names are common words, so each may also be a file of the user's or a package of another distribution.

- Our commands take ours by place, beside this file, whatever ``sys.path`` finds first (``load``): a user's
  ``scheduler.py`` or ``node.py`` is no fault, and jobs and programs get it.
- What would break is named, with what to do (``check``): files of another distribution written over ours, and
  files missing. It costs a few reads; ``up``, ``coordinator`` and ``node`` begin with it, and so does ``LocalCluster``.
- ``Client`` needs only ``cluster``, and whoever could make one has that. A ``cluster.py`` that stands before ours is
  Python's to report, for nothing of ours is running then; ``cluster doctor`` finds it in the current directory.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path

from cluster.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("cluster", "scheduler", "node")

MARK = b"Ganger"
"""Stands in the first line of each of our ``__init__``: a package written over ours has another."""

_PARTS = {"cluster": "cli.py", "scheduler": "main.py", "node": "main.py"}
"""A file without which the package is of no use."""


def own_version() -> str:
    """Of the distribution; ``unknown`` in a source tree that is not installed."""
    try:
        return version("ganger")
    except PackageNotFoundError:
        return "unknown"


def check(*names: str) -> None:
    """Raises :class:`ConfigError` if one of these packages (all, unless named) is not there, or not ours any more."""
    for name in names or NAMES:
        what = fault(name)
        if what:
            others = [f"{d.name} {d.version}" for d in _distributions_over(name)]
            remove = f"remove {', '.join(others)}, which has a package {name} too, and " if others else ""
            raise ConfigError(f"{what}; {remove}install Ganger again: {reinstall()}")


def fault(name: str) -> str:
    """What is wrong with the package of that name beside this file; empty if nothing is."""
    try:
        with open(ROOT / name / "__init__.py", "rb") as source:
            if MARK not in source.readline(500):
                return f"{source.name} is not Ganger's: another distribution was installed over it"
    except OSError as e:
        return f"{ROOT / name} is not all there ({e.strerror}: __init__.py)"
    if not (ROOT / name / _PARTS[name]).is_file():
        return f"{ROOT / name} is not all there: {_PARTS[name]} is missing"
    return ""


def load(name: str) -> None:
    """See to it that ``import name`` in this process is ours. Raises :class:`ConfigError` where that cannot be."""
    check(name)
    if is_ours(name, getattr(sys.modules.get(name), "__file__", None) or ""):
        return
    here = str(ROOT / name / "__init__.py")
    spec = importlib.util.spec_from_file_location(name, here, submodule_search_locations=[str(ROOT / name)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def found(name: str, path: Sequence[str]) -> str | None:
    """File or directory that ``import name`` would take from that path; None for nothing."""
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None:
        return None
    return spec.origin or ", ".join(spec.submodule_search_locations or ())


def is_ours(name: str, origin: str) -> bool:
    return os.path.realpath(origin) == str(ROOT / name / "__init__.py")


def search_path(path: Sequence[str], *names: str) -> list[str]:
    """The path, with ours before it if it would not find ours by these names. Jobs shall see the user's order."""
    origins = [found(name, path) for name in names]
    if all(o is not None and is_ours(n, o) for n, o in zip(names, origins, strict=True)):
        return list(path)
    return [str(ROOT), *path]


# ------------------------------------------------------------------------------------ what is installed


def reinstall() -> str:
    """The command that puts our files back, from where they came."""
    source = "ganger"
    with contextlib.suppress(IndexError, ValueError):
        source = json.loads(installed()[0].read_text("direct_url.json") or "{}").get("url") or source
    return f"python -m pip install --force-reinstall --no-deps {source}"


def installed() -> list[Distribution]:
    """Ganger's own distributions on ``sys.path``, each once, the one in force first."""
    out: dict[str, Distribution] = {}
    for d in distributions(name="ganger"):
        out.setdefault(os.path.realpath(str(d.locate_file(""))) + d.version, d)
    return list(out.values())


def is_editable(distribution: Distribution) -> bool:
    return '"editable": true' in (distribution.read_text("direct_url.json") or "")


def changed_files(distribution: Distribution) -> list[str]:
    """Files of our packages that are not as they were installed, or are missing. Nothing for an editable install."""
    out = []
    # Read here, since from Python 3.12 on Distribution.files passes over what is missing.
    for name, noted, *_ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        how, _, wanted = noted.partition("=")
        if name.split("/")[0] not in NAMES or how != "sha256":
            continue
        try:
            digest = hashlib.sha256(Path(str(distribution.locate_file(name))).read_bytes()).digest()
        except OSError:
            out.append(f"{name} (missing)")
            continue
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != wanted:
            out.append(name)
    return out


def namesakes() -> Iterator[tuple[str, Distribution]]:
    """Every other distribution that owns a top-level package or module of one of our names, with that name."""
    for d in distributions():
        if (d.name or "").lower() != "ganger":
            for name in sorted(_top_level(d.read_text("RECORD") or "")):
                yield name, d


def _top_level(record: str) -> set[str]:
    return set(re.findall(rf"^({'|'.join(NAMES)})(?:/|\.py,)", record, re.MULTILINE))


def _distributions_over(name: str) -> Iterable[Distribution]:
    """Those whose files of that name lie where ours do."""
    return [d for n, d in namesakes() if n == name and os.path.realpath(str(d.locate_file(""))) == str(ROOT)]
