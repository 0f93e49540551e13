"""``cluster doctor``: looks at a set-up and says what is wrong with it. Rules of this file: it changes nothing.

- A check is a generator of findings. It says what it saw and, where that is not well, what to do. What it cannot look
  at is ``skipped``, never ``ok``.
- A *problem* is what will fail; a *warning* is what may surprise; both have a remedy.
- Checks run beside each other, each in a thread, and none waits for another: one that fails, or hangs on a dead file
  server, is a finding of its own. All together take no longer than :data:`WITHIN_S`.
- What may be broken is imported where it is looked at: without ZeroMQ, this file still tells that it is missing.
"""

from __future__ import annotations

import difflib
import importlib
import json
import logging
import os
import platform
import re
import resource
import shutil
import socket
import stat
import sys
import sysconfig
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster import packages
from cluster.cgroups import Cgroup, number_in
from cluster.config import INLINE_BYTES
from cluster.errors import ClusterError, ConfigError, CoordinatorUnreachable
from cluster.file_systems import NETWORK_FILE_SYSTEMS, file_system
from cluster.summaries import address
from cluster.terminal import size

if TYPE_CHECKING:
    from cluster.keys import ConnectionFile

State = Literal["ok", "warning", "problem", "skipped"]

GROUPS = ("packages", "versions", "settings", "directories", "keys", "reachability", "clock", "limits")

WITHIN_S = 8.0
"""A check that has not ended by then is given up."""
DIAL_S = 2.0
"""Time for a TCP connection: three times what the slowest link between continents takes."""
ANSWER_S = 5.0
"""Time for the coordinator's first word. A wrong key shows itself after two seconds: see ``transport.Dial``."""
SAMPLES = 5
"""Questions asked for a round trip; the quickest counts."""

CLOCK_WARNING_S, CLOCK_PROBLEM_S = 1.0, 30.0
"""Difference of two clocks that is seen in logs; and one by which what is due at a time comes plainly too late."""

FREE_WARNING_BYTES, FREE_PROBLEM_BYTES = 1 << 30, 100 << 20
FREE_FILES = 1_000

FILES_BASE, FILES_PER_SLOT = 64, 6
"""Descriptors of an idle process of ours, with room; and of a slot: two ends of its pipe, the process, what it says,
two more at its start. A peer takes a coordinator one."""
FILES_SAFE = 4_096
"""Where a coordinator of some thousand peers is not stopped by it."""
FILES_TO_DIAL = 100
"""libzmq ends a process that runs out of descriptors at a bad moment, so with fewer nothing is dialled."""
TASKS_BASE = 50
BACKLOG = 512
"""As in ``transport``: connections that may wait to be let in."""
PIPE_BYTES, PACKET_BYTES = 1 << 20, 384 * 1024
"""Asked for a worker's pipe, and the largest packet in it, as in ``node``."""
PACKET_LEAST_BYTES = 2 * INLINE_BYTES + 16 * 1024
"""A function and its arguments, both as large as they may be inside a message, and their frame."""
SLOT_BYTES = 128 << 20
"""Memory of a worker that has imported a library or two."""
SHM_BYTES = 64 << 20
"""What a container has at least; libraries that share arrays between processes want more."""

MOST_NODES = 50
"""Directories of nodes looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    group: str
    name: str
    state: State
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("group", "name", "state", "found", "remedy")}


@dataclass(frozen=True, slots=True)
class Setup:
    """What is looked at beside the machine itself."""

    connection: str | None = None
    """The connection file given; without it, what a client and a node of this user would take."""
    variables: Mapping[str, Callable[[str], str]] | None = None
    """Each ``GANGER_`` variable of an option, with what is wrong with a value of it; None if they cannot be told."""


Check = Callable[[], Iterable[Finding]]


def examine(setup: Setup) -> list[Finding]:
    """All findings, group by group."""
    checks: dict[str, list[Check]] = {
        "packages": [packages_found],
        "versions": [versions],
        "settings": [lambda: settings(os.environ, setup.variables)],
        "directories": [directories],
        "keys": [lambda: keys(setup.connection)],
        "reachability": dials(setup.connection),
        "limits": [limits],
    }
    return run(checks, WITHIN_S)


def run(checks: Mapping[str, Sequence[Check]], within_s: float) -> list[Finding]:
    """Run the checks of each group, all at once, and put their findings in order."""
    running: list[tuple[str, threading.Thread, list[Finding]]] = []
    for group, several in checks.items():
        for check in several:
            findings: list[Finding] = []
            thread = threading.Thread(
                target=_collect, args=(group, check, findings), name=f"check {group}", daemon=True
            )
            thread.start()
            running.append((group, thread, findings))
    deadline = time.monotonic() + within_s
    out: list[Finding] = []
    for group, thread, findings in running:
        thread.join(max(0.0, deadline - time.monotonic()))
        late = thread.is_alive()
        out += list(findings)
        if late:
            out.append(
                Finding(group, "check", "problem", f"it has not ended after {within_s:g} s", "is a file server away?")
            )
    return sorted(out, key=lambda f: GROUPS.index(f.group))


def _collect(group: str, check: Check, findings: list[Finding]) -> None:
    try:
        for finding in check():
            findings.append(finding)
    except ImportError as e:
        findings.append(Finding(group, "check", "skipped", f"it needs what cannot be imported: {e}", "see versions"))
    except Exception as e:  # a check that fails is a finding, and no reason to withhold the others
        text = f"it could not be made: {type(e).__name__}: {e}"
        findings.append(Finding(group, "check", "problem", text, "if nothing above explains it, it is a bug of ours"))


def summary(findings: Iterable[Finding]) -> dict[State, int]:
    counts: dict[State, int] = {"problem": 0, "warning": 0, "ok": 0, "skipped": 0}
    for finding in findings:
        counts[finding.state] += 1
    return counts


def _parted(error: Exception) -> tuple[str, str]:
    """An error of ours in two: what is wrong, and what to do."""
    found, _, remedy = str(error).partition("; ")
    return found, remedy


# ------------------------------------------------------------------------------------ packages


def packages_found() -> Iterator[Finding]:
    """Whether the names mean our packages, what else answers to them, and whether they are as installed."""
    path = sys.path if sys.flags.safe_path else sys.path[1:]
    for name in packages.NAMES:
        yield _package(name, path, os.getcwd())
    yield from _distributions()
    yield _command(shutil.which("cluster"))


def _package(name: str, path: Sequence[str], here: str) -> Finding:
    what = packages.fault(name)
    if what:
        return Finding("packages", name, "problem", what, packages.reinstall())
    ours = str(packages.ROOT / name)
    if name == "cluster":
        other = packages.found(name, [here])
        if other is not None and other.endswith(".py") and not packages.is_ours(name, other):
            text = f"{other} stands before ours for programs that run in this directory: they cannot import Client"
            return Finding("packages", name, "problem", text, f"rename {other}")
    origin = packages.found(name, path)
    if origin is None:
        text = f"{ours}, which other programs do not find"
        return Finding("packages", name, "warning", text, f"install it: python -m pip install {packages.ROOT}")
    if not packages.is_ours(name, origin):
        text = f"{origin} is found before ours ({ours}): our commands take their own all the same"
        remedy = f"nothing if it is yours: jobs and programs get it; but `python -m {name}` runs it, so use `cluster`"
        if name == "cluster":
            remedy = "rename it, or take it off PYTHONPATH: programs cannot import Client"
            return Finding("packages", name, "problem", text, remedy)
        return Finding("packages", name, "warning", text, remedy)
    return Finding("packages", name, "ok", ours)


def _distributions() -> Iterator[Finding]:
    installed = packages.installed()
    if not installed:
        text = f"not installed: run from the source tree {packages.ROOT}"
        yield Finding("packages", "ganger", "warning", text, f"python -m pip install {packages.ROOT}")
    elif len(installed) > 1:
        all_of_them = ", ".join(f"{d.version} in {d.locate_file('')}" for d in installed)
        remedy = "remove all but one: python -m pip uninstall ganger, in each environment"
        yield Finding("packages", "ganger", "warning", f"{len(installed)} of them: {all_of_them}", remedy)
    for d in installed[:1]:
        place = os.path.realpath(str(d.locate_file("")))
        changed = packages.changed_files(d)
        if changed:
            text = f"{len(changed)} of {d.version}'s files are not as installed: {_few(changed)}"
            yield Finding("packages", "ganger", "problem", text, packages.reinstall())
        elif packages.is_editable(d):
            yield Finding("packages", "ganger", "ok", f"{d.version}, editable, from {packages.ROOT}")
        elif place != str(packages.ROOT):
            text = f"{d.version} is installed in {place}, but {packages.ROOT} is in use"
            yield Finding("packages", "ganger", "warning", text, "take that off PYTHONPATH, or know why it is there")
        elif len(installed) == 1:
            yield Finding("packages", "ganger", "ok", f"{d.version}, all files as installed")
    for name, d in packages.namesakes():
        place = os.path.realpath(str(d.locate_file("")))
        who = f"{d.name} {d.version}"
        text = f"{who} in {place} has a package {name} too"
        if place == str(packages.ROOT):
            text += ", in the same directory: what was installed last has overwritten the other"
            yield Finding(
                "packages", who, "problem", text, f"give one of them an environment of its own: {who} or ganger"
            )
        else:
            yield Finding("packages", who, "warning", text, "jobs and programs get whichever stands first on sys.path")


def _command(path: str | None) -> Finding:
    if path is None:
        text = "there is none on PATH"
        scripts = sysconfig.get_path("scripts")
        return Finding("packages", "command", "skipped", text, f"add {scripts} to PATH to call it by its name")
    try:
        with open(path, "rb") as script:
            ours = b"cluster.cli" in script.read(4096)
    except OSError:
        ours = False
    if not ours:
        return Finding("packages", "command", "warning", f"{path} is not ours", "call ours by its other name: ganger")
    return Finding("packages", "command", "ok", path)


def _few(texts: Sequence[str], most: int = 4) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------------------ versions

MODULES = {"pyzmq": "zmq", "prometheus-client": "prometheus_client"}
"""Where the module is called otherwise than its distribution."""

LIBZMQ = "4.3"
"""The first with ``ZAP_ENFORCE_DOMAIN``, without which the gate could be passed by."""


def versions() -> Iterator[Finding]:
    """Python and what we stand on: there, new enough, and working."""
    python = platform.python_version()
    wanted, requirements = _requirements()
    where = f"{python} ({platform.python_implementation()}, {sys.executable})"
    if not at_least(python, wanted):
        yield Finding("versions", "python", "problem", where, f"use {wanted} or newer")
    else:
        yield Finding("versions", "python", "ok", where)
    for name, least in requirements.items():
        yield _requirement(name, least)
    yield _kernel()
    yield from _libraries()


def _requirements() -> tuple[str, dict[str, str]]:
    """The least Python, and the least version of each distribution: as installed, or of the source tree."""
    installed = packages.installed()
    if installed:
        python, lines = installed[0].metadata["Requires-Python"] or "", installed[0].requires or []
    else:
        project = tomllib.loads((packages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        python, lines = project["requires-python"], project["dependencies"]
    matches = [re.fullmatch(r"([\w.-]+)[^;]*?>=\s*([\d.]+)[^;]*", line) for line in lines]  # an extra's have a marker
    return python.lstrip(">= "), {match[1]: match[2] for match in matches if match}


def at_least(version: str, wanted: str) -> bool:
    """By their numbers: ``3.9`` is less than ``3.11``."""

    def numbers(text: str) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", re.split(r"[^\d.]", text)[0])]

    there, least = numbers(version), numbers(wanted)
    return there + [0] * (len(least) - len(there)) >= least


def _requirement(name: str, least: str) -> Finding:
    remedy = f"python -m pip install --upgrade '{name}>={least}'"
    try:
        importlib.import_module(MODULES.get(name, name))
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("versions", name, "warning", "there, but not as an installed distribution", remedy)
    except Exception as e:  # a broken extension module raises whatever it likes
        return Finding("versions", name, "problem", f"cannot be imported: {type(e).__name__}: {e}", remedy)
    if not at_least(version, least):
        return Finding("versions", name, "problem", f"{version} is older than {least}", remedy)
    return Finding("versions", name, "ok", version)


def _libraries() -> Iterator[Finding]:
    import msgpack
    import zmq

    version = zmq.zmq_version()
    remedy = "install the wheel of pyzmq, which brings its own: python -m pip install --force-reinstall pyzmq"
    missing = [what for what in ("curve", "ipc") if not zmq.has(what)]
    if missing:
        yield Finding("versions", "libzmq", "problem", f"{version}, without {' and '.join(missing)}", remedy)
    elif not at_least(version, LIBZMQ):
        yield Finding("versions", "libzmq", "problem", f"{version} is older than {LIBZMQ}", remedy)
    else:
        yield Finding("versions", "libzmq", "ok", f"{version}, with CURVE")
    if msgpack.Packer.__module__.endswith("fallback"):
        text, remedy = "msgpack has no compiled part here", "python -m pip install --force-reinstall msgpack"
        yield Finding("versions", "codec", "warning", f"{text}: every message takes ten times as long", remedy)


def _kernel() -> Finding:
    text = f"{platform.system()} {platform.release()}, {platform.machine()}"
    try:
        os.close(os.pidfd_open(os.getpid()))
        os.close(os.eventfd(0))
    except (AttributeError, OSError) as e:
        text += f": no descriptors of processes ({e})"
        return Finding("versions", "system", "problem", text, "Linux 5.3 or newer; in a sandbox, allow pidfd_open")
    return Finding("versions", "system", "ok", text)


# ------------------------------------------------------------------------------------ settings

OTHER_VARIABLES = ("GANGER_HOME", "GANGER_CONNECTION", "GANGER_NODE")
"""Those that are no option's."""


def settings(environment: Mapping[str, str], variables: Mapping[str, Callable[[str], str]] | None) -> Iterator[Finding]:
    """Every ``GANGER_`` variable that is set: whether anything reads it, and whether its value will do."""
    given = sorted(name for name in environment if name.startswith("GANGER_"))
    if not given:
        yield Finding("settings", "environment", "ok", "no GANGER_ variable is set")
    if variables is None:
        yield Finding("settings", "environment", "skipped", "the options cannot be read", "see packages")
        return
    known = sorted({*variables, *OTHER_VARIABLES})
    for name in given:
        value = environment[name]
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.75)
            remedy = f"did you mean {near[0]}?" if near else "unset it; `cluster COMMAND --help` names those there are"
            yield Finding("settings", name, "warning", "nothing reads it", remedy)
        elif wrong := value and name in variables and variables[name](value):
            yield Finding("settings", name, "problem", wrong, "correct or unset it")
        elif name == "GANGER_HOME" and not Path(value or "/").expanduser().is_absolute():
            text = f"{value}: another place in each working directory"
            yield Finding("settings", name, "warning", text, "make it an absolute path")
        else:
            yield Finding("settings", name, "ok", address(value) or "empty, as if it were not set")


# ------------------------------------------------------------------------------------ directories


def directories() -> Iterator[Finding]:
    """Where keys, state, sockets and large payloads are: ours, private where it must be, and with room."""
    from cluster.keys import coordinator_dir, home_dir, runtime_path

    yield directory("home", home_dir())
    yield directory("coordinator", coordinator_dir(), open_is="problem", network_is="problem")
    nodes = home_dir() / "nodes"
    try:
        found = sorted(nodes.iterdir())
    except OSError:
        found = []
    for path in found[:MOST_NODES]:
        yield directory(f"node {path.name}", path, open_is="warning", network_is="warning")
    yield directory("local socket", runtime_path(coordinator_dir()), open_is="problem", may_be_link=False)
    yield directory("temporary", Path(tempfile.gettempdir()), shared=True)


def directory(
    name: str,
    path: Path,
    *,
    open_is: State = "ok",
    network_is: State = "ok",
    may_be_link: bool = True,
    shared: bool = False,
) -> Finding:
    """``open_is``, ``network_is``: what it means if others can look into it, or if it is on another machine."""

    def row(state: State, found: str, remedy: str = "") -> Finding:
        return Finding("directories", name, state, f"{path}{found}", remedy)

    try:
        about = path.stat(follow_symlinks=may_be_link)
    except FileNotFoundError:
        parent = next((p for p in path.parents if os.path.lexists(p)), Path("/"))
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return row("ok", ": not there yet, and made when it is needed")
        return row("problem", f": not there, and cannot be made in {parent}", f"make it, or make {parent} writable")
    except OSError as e:
        return row("problem", f": {e.strerror}", "correct its path, or the rights of what is above it")
    if not stat.S_ISDIR(about.st_mode):
        return row("problem", " is not a directory", "move it away")
    mode = stat.S_IMODE(about.st_mode)
    if about.st_uid != os.geteuid() and not shared:
        remedy = f"chown -R {os.geteuid()} {path}, or run as that user, or choose another GANGER_HOME"
        return row("problem", f" belongs to user {about.st_uid}, and we are user {os.geteuid()}", remedy)
    if open_is != "ok" and mode & 0o077:
        return row(open_is, f" is open to other users: mode {mode:04o}", f"chmod 700 {path}")
    if not os.access(path, os.W_OK | os.X_OK):
        return row("problem", f" is not writable: mode {mode:04o}", f"chmod u+rwx {path}, or mount it writable")
    kind = file_system(path)
    if network_is != "ok" and kind in NETWORK_FILE_SYSTEMS:
        remedy = "put it on a disk of this machine: GANGER_HOME, or --directory"
        return row(network_is, f" is on a network file system ({kind}), whose locks are not to be relied on", remedy)
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if room.f_files and room.f_favail < FREE_FILES:
        return row("problem", f": room for only {room.f_favail} more files", "remove some; df -i tells where they are")
    text = f", mode {mode:04o}, {kind or 'unknown file system'}, {size(free)} free"
    if free < FREE_WARNING_BYTES:
        return row("problem" if free < FREE_PROBLEM_BYTES else "warning", text, "free some, or choose a larger disk")
    return row("ok", text)


# ------------------------------------------------------------------------------------ keys


@dataclass(frozen=True, slots=True)
class Named:
    """A connection file somebody would take."""

    role: str
    """The role it is wanted for; empty for any."""
    path: Path
    source: str
    """Why this one; empty for the default."""


def connection_files(given: str | None, environment: Mapping[str, str] = os.environ) -> list[Named]:
    """The one given; else what a client and a node here would take."""
    from cluster.keys import connection_path

    if given is not None:
        return [Named("", Path(given), "given")]
    out = []
    if general := environment.get("GANGER_CONNECTION"):
        out.append(Named("", Path(general).expanduser(), "$GANGER_CONNECTION"))
    else:
        out.append(Named("client", connection_path("client"), ""))
    if own := environment.get("GANGER_NODE_CONNECTION"):
        out.append(Named("node", Path(own), "$GANGER_NODE_CONNECTION"))
    elif not general:  # a node looks there next
        out.append(Named("node", connection_path("node"), ""))
    return out


def keys(given: str | None) -> Iterator[Finding]:
    """The connection files in use, and the coordinator's own keys where it lives here."""
    from cluster.keys import coordinator_dir

    for named in connection_files(given):
        yield connection_file(named)
    if given is None:
        yield from _own_keys(coordinator_dir())


def connection_file(named: Named) -> Finding:
    from cluster.keys import ConnectionFile

    name = named.path.name if named.source else f"{named.role}.json"
    where = f"{named.path} ({named.source})" if named.source else str(named.path)
    if not os.path.lexists(named.path):
        if named.source:
            remedy = "correct it, or copy the file from the coordinator's directory"
            return Finding("keys", name, "problem", f"{where} is not there", remedy)
        return Finding("keys", name, "skipped", f"none at {where}")
    try:
        connection = ConnectionFile.load(named.path)
    except ConfigError as e:
        found, remedy = _parted(e)
        return Finding("keys", name, "problem", found, remedy)
    if named.role and connection.role != named.role:
        text = f"{where} is the file of a {connection.role}, and a {named.role} would take it"
        return Finding("keys", name, "problem", text, f"name a {named.role}.json there")
    addresses = ", ".join(address for address, _ in connection.coordinators)
    text = f"{where}: {connection.role} of cluster {connection.cluster_id[:8]} at {addresses or connection.local}"
    return Finding("keys", name, "ok", text)


NO_CONNECTION = (
    "start a coordinator here (`cluster up`), or copy client.json from where one runs and name it: --connection FILE"
)


def _own_keys(directory: Path) -> Iterator[Finding]:
    """The coordinator's identity and register, and whether the connection files beside them still belong to it."""
    bodies: dict[str, dict[str, Any]] = {}
    for name in ("cluster.json", "keys.json"):
        path = directory / name
        if not os.path.lexists(path):
            continue
        finding, body = _private_json(name, path)
        if finding is not None:
            yield finding
        else:
            bodies[name] = body
    if "cluster.json" not in bodies:
        return
    own = bodies["cluster.json"]
    text = f"cluster {str(own.get('cluster_id'))[:8]}, epoch {own.get('epoch')}"
    yield Finding("keys", "cluster.json", "ok", f"{directory / 'cluster.json'}: {text}")
    known = {entry.get("public_key") for entry in _entries(bodies.get("keys.json", {}))}
    for role in ("client", "node"):
        stale = _stale(directory / f"{role}.json", own, known)
        if stale:
            remedy = f"remove it and start the coordinator again: it makes a new {role}.json"
            yield Finding("keys", f"{role}.json", "problem", f"{directory / role}.json {stale}", remedy)


def _entries(register: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = register.get("keys")
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _stale(path: Path, own: Mapping[str, Any], known: set[Any]) -> str:
    from cluster.keys import ConnectionFile

    try:
        connection = ConnectionFile.load(path)
    except ConfigError:
        return ""  # missing, or told already
    if connection.cluster_id != own.get("cluster_id"):
        return f"is of another cluster ({connection.cluster_id[:8]}) than the coordinator beside it"
    if any(key != own.get("public_key") for _, key in connection.coordinators):
        return "names another key than that of the coordinator beside it"
    if known and connection.public_key not in known:
        return "has a key that keys.json beside it does not list"
    return ""


def _private_json(name: str, path: Path) -> tuple[Finding | None, dict[str, Any]]:
    remedy = "restore it, or start a new cluster by removing its directory"
    try:
        about = path.stat()
        if about.st_uid != os.geteuid():
            text = f"{path} belongs to user {about.st_uid}, and we are user {os.geteuid()}"
            return Finding("keys", name, "problem", text, f"chown {os.geteuid()} {path}, or run as that user"), {}
        if about.st_mode & 0o077:
            text = f"{path} holds a secret and is open to other users: mode {stat.S_IMODE(about.st_mode):04o}"
            return Finding("keys", name, "problem", text, f"chmod 600 {path}"), {}
        body = json.loads(path.read_bytes())
    except OSError as e:
        return Finding("keys", name, "problem", f"cannot read {path}: {e.strerror}", remedy), {}
    except ValueError as e:
        return Finding("keys", name, "problem", f"{path} is not JSON ({e})", remedy), {}
    if not isinstance(body, dict):
        return Finding("keys", name, "problem", f"{path} is not an object", remedy), {}
    return None, body


# ------------------------------------------------------------------------------------ reachability


def dials(given: str | None) -> list[Check]:
    """One check for each way to a coordinator that some connection file names."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_TO_DIAL:
        text = f"only {hard} open files are allowed: nothing was dialled"
        return [lambda: [Finding("reachability", "connection", "skipped", text, "see limits")]]
    try:
        from cluster.keys import ConnectionFile

        named = connection_files(given)
    except ImportError as e:
        raised = e  # told by the check, like any other

        def fail() -> Iterable[Finding]:
            raise raised

        return [fail]
    checks: list[Check] = []
    for one in named:
        try:
            connection = ConnectionFile.load(one.path)
        except ConfigError:
            continue
        if one.role and connection.role != one.role:
            continue
        checks += [_way(connection, *way) for way in ways(connection)]
    if not checks:
        text = "nothing to dial: no connection file"
        if any(os.path.lexists(n.path) for n in named):
            text = "nothing to dial: no connection file that can be used"
        return [lambda: [Finding("reachability", "connection", "skipped", text, NO_CONNECTION)]]
    return checks


def ways(connection: ConnectionFile) -> list[tuple[str, str | None]]:
    """Addresses to dial: over TCP, as from any machine, and for a client the local socket, if it is here."""
    out: list[tuple[str, str | None]] = list(connection.coordinators)
    if connection.role == "client" and connection.local is not None:
        try:
            if os.stat(connection.local.removeprefix("ipc://")).st_uid == os.geteuid():
                out.append((connection.local, None))
        except OSError:
            pass  # another machine, or no coordinator; TCP tells
    return out


def _way(connection: ConnectionFile, address: str, key: str | None) -> Check:
    return lambda: dial(connection, address, key)


def dial(connection: ConnectionFile, address: str, key: str | None) -> Iterator[Finding]:
    """Whether the coordinator answers there: the connection first, then the keys, then its words."""
    name = f"{connection.role}, {'local socket' if key is None else 'TCP'}"
    if address.startswith("tcp://"):
        fault = connect(address)
        if fault is not None:
            yield Finding("reachability", name, "problem", *fault)
            return
    try:
        if connection.role == "client":
            yield from _conversation(connection, name, address)
        else:
            yield _handshake(connection, name, address, key)
    except ClusterError as e:
        yield Finding("reachability", name, "problem", *_parted(e))


def connect(address: str) -> tuple[str, str] | None:
    """What keeps a TCP connection from coming about, and what to do; None if nothing does."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), DIAL_S).close()
    except socket.gaierror as e:
        remedy = "correct the name, or its entry in the DNS or /etc/hosts; the coordinator's --advertise chose it"
        return f"{address}: the name {host} cannot be resolved ({e.strerror})", remedy
    except ConnectionRefusedError:
        remedy = (
            "start the coordinator there (`cluster up`, or `cluster coordinator`); if it has moved, copy a fresh file"
        )
        return f"{address}: nothing listens there (connection refused)", remedy
    except TimeoutError:
        remedy = "is the machine up, the address right, and that port open in every firewall between?"
        return f"{address}: no answer within {DIAL_S:g} s", remedy
    except OSError as e:
        return f"{address}: {e.strerror or e}", "correct the network or the address"
    return None


def _conversation(connection: ConnectionFile, name: str, address: str) -> Iterator[Finding]:
    """As a client: round trip, version, clock, and whether there are nodes to work."""
    from cluster.client import Client
    from cluster.config import ClientLimits

    logging.getLogger("ganger").addHandler(logging.NullHandler())  # it is said here, and once
    over_tcp = address.startswith("tcp://")
    try:
        client = Client(
            connection,
            transport="tcp" if over_tcp else "ipc",
            limits=ClientLimits(reconnect_timeout_s=ANSWER_S),
            connect_timeout_s=ANSWER_S,
        )
    except CoordinatorUnreachable:
        remedy = "is its process stopped or too busy? its log and `top` tell; else start it again"
        text = f"{address}: something listens there, but no coordinator answers within {ANSWER_S:g} s"
        yield Finding("reachability", name, "problem", text, remedy)
        return
    with client:
        samples = []
        for _ in range(SAMPLES):
            before, began = time.time(), time.monotonic()
            status = client.status()
            samples.append((time.monotonic() - began, before, status))
        nodes = client.nodes() if over_tcp else []
    took, asked_at, status = min(samples, key=lambda s: s[0])
    theirs, ours = str(status.get("version")), packages.own_version()
    text = f"{address}: answers in {took * 1000:.1f} ms; ganger {theirs}, epoch {status.get('epoch')}"
    if theirs != ours:
        remedy = "install the same version on both sides"
        yield Finding("reachability", name, "warning", f"{text}, and this is {ours}", remedy)
    else:
        yield Finding("reachability", name, "ok", text)
    if over_tcp:
        yield _nodes(nodes)
        yield clock(status.get("wall_s"), asked_at + took / 2, took / 2)


def _nodes(nodes: Sequence[Mapping[str, Any]]) -> Finding:
    if not nodes:
        return Finding(
            "reachability", "nodes", "warning", "the coordinator has none: jobs wait", "start one: cluster node"
        )
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    slots = sum(int(n["slots"]) for n in nodes)
    text = f"{len(nodes)} with {slots} slots"
    pythons = sorted({str(n["python"]) for n in nodes})
    if own not in pythons:
        remedy = f"run a node with Python {own}, or this program with {' or '.join(pythons)}"
        text += f", none with Python {own}: functions that travel by value would wait"
        return Finding("reachability", "nodes", "warning", text, remedy)
    suspect = [str(n["name"]) for n in nodes if n["state"] != "up"]
    if suspect:
        text += f"; not heard of late: {_few(suspect)}"
        return Finding("reachability", "nodes", "warning", text, "look at their logs, and at the network")
    return Finding("reachability", "nodes", "ok", f"{text}, Python {', '.join(pythons)}")


def clock(theirs: object, ours: float, uncertain_s: float) -> Finding:
    """The coordinator's wall clock against ours at the same moment, known to ``uncertain_s`` seconds."""
    if not isinstance(theirs, int | float):
        text = "the coordinator does not tell its time"
        return Finding("clock", "difference", "skipped", text, "install the same version on both sides")
    ahead = theirs - ours
    apart = abs(ahead)
    figure = f"{apart * 1000:.1f} ms" if apart < CLOCK_WARNING_S else f"{apart:.1f} s"
    text = f"the coordinator's is {figure} {'ahead of' if ahead > 0 else 'behind'} ours (± {uncertain_s * 1000:.1f} ms)"
    sure = apart - uncertain_s
    if sure < CLOCK_WARNING_S:
        return Finding("clock", "difference", "ok", text)
    remedy = "keep both by NTP (timedatectl set-ntp true): its clock decides what is due"
    return Finding("clock", "difference", "problem" if sure >= CLOCK_PROBLEM_S else "warning", text, remedy)


def _handshake(connection: ConnectionFile, name: str, address: str, key: str | None) -> Finding:
    """As a node, but without a word: whether the coordinator has its key, and lets ours in."""
    import select

    import zmq

    from cluster.actor import Connected, Rejected
    from cluster.transport import Dial

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        wire = Dial(context, address, key, connection.public_key, connection.secret_key)
        try:
            poll = select.poll()
            for fd in wire.pollables():
                poll.register(fd, select.POLLIN)
            began = time.monotonic()
            while (left := began + ANSWER_S - time.monotonic()) > 0:
                for event in wire.drain(64)[0]:
                    if isinstance(event, Connected):
                        took = time.monotonic() - began
                        text = f"{address}: lets its key in, after {took * 1000:.1f} ms"
                        return Finding("reachability", name, "ok", text)
                    if isinstance(event, Rejected):
                        return Finding("reachability", name, "problem", *_parted(Exception(event.reason)))
                poll.poll(min(left, 0.1) * 1000)
        finally:
            wire.close()
    finally:
        context.term()
    text = f"{address}: something listens there, but does not finish the handshake within {ANSWER_S:g} s"
    return Finding("reachability", name, "problem", text, "is the coordinator stopped or too busy?")


# ------------------------------------------------------------------------------------ limits


def limits() -> Iterator[Finding]:
    """What the machine, the session or the container allows, against what a coordinator and a node here need."""
    slots = len(os.sched_getaffinity(0))
    given = os.environ.get("GANGER_SLOTS", "")
    if given.isdigit() and int(given) > 0:
        slots = int(given)
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE), slots)
    group = Cgroup.of_this_process()
    yield tasks(resource.getrlimit(resource.RLIMIT_NPROC)[0], _tasks_of(os.geteuid()), group, slots)
    yield memory(_memory_bytes(), group, slots)
    yield processors(group, slots, given != "")
    yield Finding("limits", "cgroups", "ok", group.words())
    yield shared_memory(Path("/dev/shm"))
    yield sockets(number_in(Path("/proc/sys/net/core/somaxconn")), pipe_bytes())


def open_files(soft: int, hard: int, slots: int) -> Finding:
    if hard == resource.RLIM_INFINITY:
        return Finding("limits", "open files", "ok", f"soft {_unlimited(soft)}, hard unlimited")
    needed = FILES_BASE + FILES_PER_SLOT * slots
    text = (
        f"soft {_unlimited(soft)}, hard {hard}: room for {max(0, hard - FILES_BASE):,} nodes and clients at a"
        f" coordinator; a node of {slots} slot{'s' * (slots != 1)} needs {needed}"
    )
    remedy = "raise it: LimitNOFILE in a systemd unit, --ulimit nofile in Docker, else /etc/security/limits.conf"
    if hard < max(needed, 2 * FILES_TO_DIAL):
        return Finding("limits", "open files", "problem", text, remedy)
    if hard < FILES_SAFE:
        return Finding("limits", "open files", "warning", text, remedy)
    return Finding("limits", "open files", "ok", text)


def tasks(soft: int, used: int, group: Cgroup, slots: int) -> Finding:
    """Processes and threads: the user's, and those of the control group."""
    needed = TASKS_BASE + 4 * slots
    user = soft != resource.RLIM_INFINITY and os.geteuid() != 0
    bounds = []
    if user:
        bounds.append((soft - used, f"{used:,} of {soft:,} for this user", "raise `ulimit -u`, or LimitNPROC"))
    if group.tasks is not None:
        now, most = group.tasks
        bounds.append((most - now, f"{now:,} of {most:,} in this control group", "raise TasksMax, or --pids-limit"))
    if not bounds:
        return Finding("limits", "processes", "ok", f"no limit; a node of {slots} slots takes some {needed}")
    left, text, remedy = min(bounds)
    state: State = "ok" if left >= needed else "problem"
    text = f"{text}; a node of {slots} slots takes some {needed}"
    return Finding("limits", "processes", state, text, "" if state == "ok" else remedy)


def memory(total: int | None, group: Cgroup, slots: int) -> Finding:
    bounds = [n for n in (total, group.memory_bytes) if n is not None]
    if not bounds:
        return Finding("limits", "memory", "skipped", "the kernel does not say", "")
    least = min(bounds)
    limited = group.memory_bytes is not None and least == group.memory_bytes
    text = f"{size(least)} {'by the control group' if limited else 'in this machine'}: {size(least / slots)} a slot"
    if least < slots * SLOT_BYTES:
        return Finding("limits", "memory", "warning", text, "fewer slots (--slots), or more memory")
    return Finding("limits", "memory", "ok", text)


def processors(group: Cgroup, slots: int, chosen: bool) -> Finding:
    here = len(os.sched_getaffinity(0))
    text = f"{here} may be used"
    if group.processors is None:
        return Finding("limits", "processors", "ok", text)
    text += f", for {group.processors:g} of their time by the control group; a node has {slots} slots"
    if slots > max(1.0, group.processors) + 0.5 and not chosen:
        return Finding("limits", "processors", "warning", text, f"--slots {max(1, round(group.processors))}")
    return Finding("limits", "processors", "ok", text)


def shared_memory(path: Path) -> Finding:
    try:
        room = os.statvfs(path)
    except OSError as e:
        text = f"{path}: {e.strerror}"
        return Finding(
            "limits", "shared memory", "warning", text, "mount a tmpfs there: multiprocessing needs it in jobs"
        )
    total = room.f_blocks * room.f_frsize
    text = f"{path}: {size(room.f_bavail * room.f_frsize)} of {size(total)} free"
    if not os.access(path, os.W_OK):
        return Finding("limits", "shared memory", "warning", f"{text}, not writable", f"chmod 1777 {path}")
    if total < SHM_BYTES:
        remedy = "enlarge it for jobs that share arrays between processes: --shm-size in Docker"
        return Finding("limits", "shared memory", "warning", text, remedy)
    return Finding("limits", "shared memory", "ok", text)


def sockets(somaxconn: int | None, pipe: int) -> Finding:
    text = f"{'unknown' if somaxconn is None else somaxconn} connections may wait; a worker's pipe holds {size(pipe)}"
    if pipe < PACKET_LEAST_BYTES:
        remedy = "sysctl -w net.core.wmem_max=212992, or more"
        text += f", and a job may need {size(PACKET_LEAST_BYTES)}"
        return Finding("limits", "sockets", "problem", text, remedy)
    if pipe < PACKET_BYTES:
        return Finding("limits", "sockets", "warning", text, f"sysctl -w net.core.wmem_max={PACKET_BYTES}")
    if somaxconn is not None and somaxconn < BACKLOG:
        remedy = f"sysctl -w net.core.somaxconn={BACKLOG}: else hundreds of peers that come at once are put off"
        return Finding("limits", "sockets", "warning", text, remedy)
    return Finding("limits", "sockets", "ok", text)


def pipe_bytes() -> int:
    """What the kernel grants a worker's pipe, as ``node`` asks for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)
        return ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def _unlimited(n: int) -> str:
    return "unlimited" if n == resource.RLIM_INFINITY else str(n)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _tasks_of(user: int, proc: Path = Path("/proc")) -> int:
    """Threads of that user, as far as they can be seen."""
    n = 0
    for path in proc.glob("[0-9]*/task"):
        try:
            if path.stat().st_uid == user:
                n += path.stat().st_nlink - 2
        except OSError:
            pass  # it has just ended
    return n
