"""What the documents say is so. Rules of this file: the code is asked, so what is added to it fails here until
it is written down, and what is written down exists.

- A table in docs/options.md names all of what its heading promises, with the code's own types and defaults.
- Code with an ellipsis quotes a message: its pieces stand in the source. A figure before a name in brackets,
  as in "10 s (`lease_s`)", is that name's value.
- ``python`` blocks are whole programs: they are run, and print what the comments beside their ``print`` say. One that
  begins with ``# NAME.py`` is kept under that name for those below it. ``py`` blocks are pieces.
- ``sh`` blocks are parsed, and our commands in them must be right.
"""

from __future__ import annotations

import ast
import builtins
import concurrent.futures
import contextlib
import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest

import cluster
import cluster.schedules
import node
import scheduler
from cluster import Client, ClientLimits, Future, LocalCluster, Options, client, errors
from cluster.cli import root
from cluster.config import AgentLimits, CoordinatorLimits, Times
from cluster.jobs import VISIBLE_DEVICES

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *DOCS, ROOT / "deploy/README.md", ROOT / "cluster/PROTOCOL.md"]
SOURCES = [path for room in ("cluster", "scheduler", "node") for path in sorted((ROOT / room).glob("*.py"))]
WITHIN_S = 60

Row = list[str]
Parameter = tuple[str, str, Any]
"""Name, type as it is written, default."""
NEEDED = inspect.Parameter.empty


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------------------------------ reading Markdown


def blocks(path: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands in the text as code."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def sections(path: Path) -> dict[str, str]:
    """Body by heading, of whatever level."""
    parts = re.split(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[Row]:
    """The cells of all tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [
        [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines
    ]
    heads = {i - 1 for i, row in enumerate(cells) if set("".join(row)) <= {"-", ":"}}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def code(cell: str) -> str:
    found = re.fullmatch(r"`([^`]+)`", cell)
    assert found, f"{cell!r} is not in code marks"
    return found[1]


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"[`*]", "", "\n".join(sections(path))).lower()
    return {re.sub(r"[^\w\- ]", "", line).replace(" ", "-") for line in text.splitlines()}


# ------------------------------------------------------------------------------------ reading figures

UNITS = {"": 1, "s": 1, "ms": 1e-3, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def figure(text: str) -> float | None:
    """``20,000``, ``0.25 s`` or ``64 MiB`` in seconds or bytes."""
    found = re.fullmatch(r"([\d,]+(?:\.\d+)?)(?: (\w+))?", text)
    if found is None or (found[2] or "") not in UNITS:
        return None
    return float(found[1].replace(",", "")) * UNITS[found[2] or ""]


def says(cell: str, value: Any) -> bool:
    """Whether the cell gives that default."""
    if value is NEEDED:
        return cell == "needed"
    number = figure(cell)
    if number is not None:
        return type(value) in (int, float) and number == pytest.approx(value)
    return spans(cell)[:1] == [repr(value).replace("'", '"')]


def constants() -> dict[str, set[float]]:
    """All numbers with a name: fields of limits, defaults of parameters, and constants of modules."""
    out: dict[str, set[float]] = {}
    for kind in (Times, ClientLimits, CoordinatorLimits, AgentLimits, Client, LocalCluster):
        for name, _, value in parameters(kind):
            if type(value) in (int, float):
                out.setdefault(name, set()).add(value)
    for room in (cluster, scheduler, node):
        for found in pkgutil.iter_modules(room.__path__):
            if found.name != "__main__":
                for name, value in vars(importlib.import_module(f"{room.__name__}.{found.name}")).items():
                    if name.isupper() and type(value) in (int, float):
                        out.setdefault(name, set()).add(value / 1000 if name.endswith("_MS") else value)
    return out


# ------------------------------------------------------------------------------------ asking the code


def spelled(annotation: object) -> str:
    """A type as one reads it; of a choice its texts."""
    choices = get_args(getattr(client, str(annotation), None) or getattr(cluster.options, str(annotation), None))
    return " | ".join(f'"{choice}"' for choice in choices) or str(annotation)


def parameters(kind: Callable[..., Any]) -> list[Parameter]:
    """What one gives to make it, of a dataclass its fields."""
    if dataclasses.is_dataclass(kind):
        return [
            (f.name, spelled(f.type), f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
            for f in dataclasses.fields(kind)
        ]
    return [(p.name, spelled(p.annotation), p.default) for p in inspect.signature(kind).parameters.values()]


def commands() -> dict[str, click.Command]:
    context = click.Context(root, info_name="cluster")
    out = {}
    for name in root.list_commands(context):
        _, command, _ = root.resolve_command(context, [name])
        assert command is not None
        out[name] = command
    return out


def options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and not p.hidden]


def long_name(option: click.Option) -> str:
    return next(name for name in option.opts if name.startswith("--"))


def variables() -> set[str]:
    """Every ``GANGER_`` variable the program reads or sets."""
    named_by_options = {str(p.envvar) for c in commands().values() for p in c.params if p.envvar}
    written = {
        name for path in SOURCES for name in re.findall(r"\bGANGER_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    return named_by_options | written


def strings() -> str:
    """All texts in the source; of an f-string, what stands around its values."""
    out = []
    for path in SOURCES:
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                out.append(" ".join(part.value.split()))
    return "\0".join(out)


def refusals() -> set[str]:
    """The codes with which a coordinator turns a peer away."""
    found = set()
    for path in SOURCES:
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "_refuse":
                code = part.args[1]
                assert isinstance(code, ast.Constant), f"{path}:{part.lineno}: a refusal's code is a text as it stands"
                found.add(str(code.value))
    return found


# ------------------------------------------------------------------------------------ options.md

OPTIONS = ROOT / "docs/options.md"


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("`client.options(...)`", Options),
        ("`Client(...)`", Client),
        ("`ClientLimits(...)`", ClientLimits),
        ("`LocalCluster(...)`", LocalCluster),
        ("`Times`", Times),
        ("`CoordinatorLimits`", CoordinatorLimits),
        ("`AgentLimits`", AgentLimits),
    ],
)
def test_each_parameter_is_documented_with_its_type_and_default(heading: str, kind: Callable[..., Any]) -> None:
    wanted = {name: (type_, default) for name, type_, default in parameters(kind)}
    said = {code(row[0]): row[1:] for row in rows(sections(OPTIONS)[heading])}
    assert list(said) == list(wanted)
    for name, (type_, default) in wanted.items():
        assert code(said[name][0]) == type_, name
        assert says(said[name][1], default), f"{name}: {said[name][1]} is not {default!r}"
        assert said[name][2], name


def command_tables() -> dict[str, list[Row]]:
    """By command; one table may serve several."""
    tables = {}
    for heading, body in sections(OPTIONS).items():
        for name in re.findall(r"`cluster (\w+)`", heading):
            tables[name] = rows(body)
    return tables


def test_each_command_has_its_section() -> None:
    assert set(command_tables()) == set(commands())


@pytest.mark.parametrize("name", commands())
def test_each_option_is_documented_with_its_variable_and_default(name: str) -> None:
    command = commands()[name]
    context = click.Context(command)
    said = {spans(row[0])[0].split()[0]: row[1:] for row in command_tables().get(name, [])}
    assert set(said) == {long_name(option) for option in options(command)}
    for option in options(command):
        variable, default, meaning = said[long_name(option)]
        assert (None if variable == "-" else code(variable)) == option.envvar, long_name(option)
        value = option.get_default(context)
        assert default, long_name(option)
        if type(value) in (str, int, float) and value != "":
            assert says(default, value) or spans(default)[:1] == [str(value)], f"{long_name(option)}: {value!r}"
        assert meaning, long_name(option)


# ------------------------------------------------------------------------------------ schedules.md

SCHEDULES = ROOT / "docs/schedules.md"


def test_each_parameter_of_a_schedule_is_documented_with_its_default() -> None:
    wanted = {
        p.name: p.default for p in inspect.signature(Client.schedule).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    said = {code(row[0]): row[1:] for row in rows(sections(SCHEDULES)["What becomes of a time"])}
    assert list(said) == list(wanted)
    for name, default in wanted.items():
        assert says(said[name][0], default), f"{name}: {said[name][0]} is not {default!r}"
        assert said[name][1], name
    assert [repr(choice).replace("'", '"') for choice in get_args(cluster.schedules.Overlap)] == [
        span for span in spans(said["overlap"][0] + said["overlap"][1]) if span.startswith('"')
    ]


# ------------------------------------------------------------------------------------ errors.md

ERRORS = ROOT / "docs/errors.md"


def test_each_error_is_documented_with_what_else_it_is() -> None:
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__
    }
    said = {code(row[0]): row[1:] for row in rows(sections(ERRORS)["Errors"])}
    assert set(said) == set(classes)
    for name, kind in classes.items():
        assert spans(said[name][0]) == [base.__name__ for base in kind.__bases__], name
        assert all(said[name]), name


def test_each_refusal_is_documented_by_its_code() -> None:
    assert {code(row[0]) for row in rows(sections(ERRORS)["Refusals"])} == refusals()


# ------------------------------------------------------------------------------------ what any document may say


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCS if path.name != "README.md" and f"]({path.name})" not in index] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_messages_are_quoted_as_they_are(path: Path) -> None:
    source = strings()
    for span in spans(prose(path)):
        if "…" in span:
            missing = [piece for piece in span.split("…") if piece.strip() and piece.strip() not in source]
            assert missing == [], span


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_figures_are_those_of_the_code(path: Path) -> None:
    known = constants()
    text = " ".join(prose(path).split())
    for said, name in re.findall(r"([\d,.]*\d(?: (?:s|ms|B|KiB|MiB|GiB))?) \(`(?:\w+\.)?(\w+)`\)", text):
        assert name in known, name
        assert any(figure(said) == pytest.approx(value) for value in known[name]), f"{name} is {known[name]}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_names_exist(path: Path) -> None:
    """Variables, options, constants, classes and methods that a document mentions."""
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\bGANGER_[A-Z_]*[A-Z]\b", text)) <= variables()

    mentioned = spans(prose(path))
    parts = [sub for c in commands().values() for sub in getattr(c, "commands", {}).values()]
    known = {long_name(o) for c in (*commands().values(), *parts) for o in options(c)} | {"--help", "--version"}
    assert {o for span in mentioned for o in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)} <= known | FOREIGN

    source = "\n".join(p.read_text(encoding="utf-8") for p in SOURCES)
    classes = {*cluster.__all__, *vars(builtins), *vars(concurrent.futures), *re.findall(r"^class (\w+)", source, re.M)}
    for span in mentioned:
        for name in re.findall(r"^([A-Z][a-z]+[A-Z]\w*|[A-Z][A-Z\d]+_[A-Z_\d]+)\b", span):
            assert name in classes or name in constants() or name in variables() | FOREIGN, span
        for kind, attribute in re.findall(r"^(client|future|local)\.(?!json|py)(\w+)", span):
            owner = {"client": Client, "future": Future, "local": LocalCluster}[kind]
            assert hasattr(owner, attribute) or f"self.{attribute}" in inspect.getsource(owner), span


FOREIGN = {"CRON_TZ", "ProcessPoolExecutor", "PYTHONPATH", "RANDOM_DELAY", "SSL_CERT_FILE", "XDG_RUNTIME_DIR"} | set(
    VISIBLE_DEVICES
)
"""Names of others that documents mention."""


# ------------------------------------------------------------------------------------ commands and programs


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_shell_blocks_parse(path: Path) -> None:
    for block in blocks(path, "sh", "bash"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{block}"


def our_commands(text: str) -> Iterator[list[str]]:
    """Arguments of each call of ours in a piece of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.commenters = "#"
        words.wordchars += ":,[]@%+$"
        call: list[str] = []
        for word in [*words, ";"]:
            if word.strip(";&|()<>"):
                call.append(word)
                continue
            while call and re.match(r"\w+=", call[0]):
                del call[0]
            if call and Path(call[0]).name in ("cluster", "ganger"):
                yield call[1:]
            call = []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_our_commands_are_used_as_they_are(path: Path) -> None:
    context = click.Context(root, info_name="cluster")
    for block in blocks(path, "sh", "bash"):
        for arguments in our_commands(block):
            name, command, rest = root.resolve_command(context, arguments)
            assert command is not None
            command.make_context(name, list(rest), parent=context)
    for span in spans(prose(path)):
        if re.match(r"cluster [a-z]", span):  # it may be without what it needs
            root.resolve_command(context, span.split()[1:])


def scheduled(options: Options, /) -> None:
    """What ``client.schedule`` takes: its own parameters and all options."""


scheduled.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        *(p for p in inspect.signature(Client.schedule).parameters.values() if p.kind is p.KEYWORD_ONLY),
        *(p for p in inspect.signature(Options).parameters.values()),
    ],
    __validate_parameters__=False,
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_programs_are_python_and_use_what_there_is(path: Path) -> None:
    accepted: dict[str, Callable[..., Any]] = {
        "options": Options,
        "Client": Client,
        "client": Client,
        "LocalCluster": LocalCluster,
        "ClientLimits": ClientLimits,
        "add_node": LocalCluster.add_node,
        "schedule": scheduled,
    }
    for block in blocks(path, "python", "py"):
        for part in ast.walk(ast.parse(block)):
            if isinstance(part, ast.ImportFrom) and part.module == "cluster":
                assert {alias.name for alias in part.names} <= set(cluster.__all__)
            if isinstance(part, ast.Call):
                called = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
                if called in accepted:
                    names = {keyword.arg for keyword in part.keywords if keyword.arg}
                    assert names <= {name for name, _, _ in parameters(accepted[called])}, ast.unparse(part)


SLOW = "# slow.py"
"""The program of the README that takes a reader's minute."""


def run_environment(local: LocalCluster) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GANGER_")}
    return env | {"GANGER_CONNECTION": str(local.connection_file), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=1, slots=2) as local:
        yield local


@pytest.mark.system
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p, "python")], ids=named)
def test_programs_run(path: Path, local: LocalCluster, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(path, "python")):
        if block.startswith(SLOW):
            continue
        kept = re.match(r"# (\w+\.py)\n", block)
        file = tmp_path / (kept[1] if kept else f"program_{number}.py")
        file.write_text(block, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "error", file],
            cwd=tmp_path,
            env=run_environment(local),
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}{done.stderr}\n{block}"
        assert done.stdout.splitlines() == re.findall(r"^ *print\(.*\)  # (.+)$", block, re.MULTILINE)


def test_the_first_program_has_ten_lines() -> None:
    first = blocks(ROOT / "README.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 10


@pytest.mark.system
def test_what_is_killed_does_what_the_readme_says(tmp_path: Path) -> None:
    """Its program, at five times its speed; a worker is killed under a job, and then an agent."""
    (program,) = (block for block in blocks(ROOT / "README.md", "python") if block.startswith(SLOW))
    assert "time.sleep(1)" in program
    (tmp_path / "slow.py").write_text(program.replace("time.sleep(1)", "time.sleep(0.2)"), encoding="utf-8")
    told = re.compile(r"job (\d+): worker (\d+) of node (\S+), agent (\d+)")
    lines: list[str] = []
    kills, next_kill, agent_killed = 0, 4, False
    with (
        LocalCluster(nodes=2, slots=2, heartbeat_s=0.2, gone_s=0.4) as local,
        subprocess.Popen(
            [sys.executable, "slow.py"], cwd=tmp_path, env=run_environment(local), stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            found = told.fullmatch(lines[-1])
            if found is None:
                continue
            _, worker, name, agent = found.groups()
            if kills < 3 and len(lines) >= next_kill and name == "node-1":
                kills, next_kill = kills + 1, len(lines) + 8
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(worker), signal.SIGKILL)
            elif not agent_killed and len(lines) > 30 and name == "node-2":
                agent_killed = True
                os.kill(int(agent), signal.SIGKILL)
        assert process.wait(WITHIN_S) == 0
    assert len(lines) == 60 and agent_killed and kills
    for n, line in enumerate(lines):
        found = told.fullmatch(line)
        assert found and int(found[1]) == n, line
