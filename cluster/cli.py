"""The command line: the click root and what every machine needs. Rules of this file:

- ``coordinator`` and ``node`` are named here and imported only when called: this file knows neither.
- What goes wrong as foreseen is one line on standard error that says what to do: exit code 1, for wrong usage
  2. A traceback is a bug.
- Every option can also be given as ``GANGER_`` and its name, the same in all commands (:func:`option`), but for what
  one question or order is about.
- Readable output goes to standard output, and ``--json`` makes it a document.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class
from rich.console import RenderableType
from rich.live import Live

from cluster import health_commands, job_commands, node_commands, packages, schedule_commands, terminal
from cluster.commands import (
    F,
    Failure,
    UnknownCommand,
    client_of,
    connection_option,
    json_option,
    log_level_option,
    option,
    plain_errors,
)
from cluster.errors import ClusterError, ConfigError
from cluster.processes import MODULES, READY_WITHIN_S, Process

# ------------------------------------------------------------------------------------ the root

ELSEWHERE = {
    "coordinator": ("scheduler.cli:coordinator", "Run the coordinator: the queue and the centre of a cluster."),
    "node": ("node.cli:node", "Run a node: offer this machine's processors to a cluster."),
}
"""Commands of other rooms, by dotted name, with the line that stands for them in the help."""

COMMANDS = (
    *("demo", "up", "status", "nodes", "jobs", "job", "explain", "cancel", "retry", "drop", "queue", "run", "schedule"),
    *("drain", "undrain", "coordinator", "node", "health", "doctor", "completion"),
)
"""In the order in which one meets them."""

SYNONYMS = {
    "node": ("worker", "workers", "agent", "slave", "executor", "join"),
    "coordinator": ("scheduler", "server", "master", "head", "broker", "controller"),
    "up": ("start", "serve", "local", "dev"),
    "status": ("ps", "list", "ls", "top", "stat", "info", "inspect", "watch"),
    "jobs": ("tasks", "history", "failed", "dead", "results", "search", "find"),
    "job": ("show", "task", "describe"),
    "explain": ("why",),
    "cancel": ("kill", "revoke", "abort"),
    "retry": ("rerun", "replay", "requeue", "resubmit"),
    "drop": ("delete", "forget", "purge", "discard"),
    "queue": ("queues", "pause", "resume"),
    "run": ("exec", "command", "submit", "shell"),
    "schedule": ("schedules", "cron", "crontab", "beat", "timer", "at", "every"),
    "drain": ("cordon", "evict", "quiet", "decommission"),
    "undrain": ("uncordon", "readmit"),
    "nodes": ("machines", "hosts", "workers-list"),
    "demo": ("example", "try", "test", "tour"),
    "health": ("ping", "alive", "ready"),
    "doctor": ("check", "diagnose", "verify", "troubleshoot"),
    "completion": ("complete", "autocomplete", "completions"),
}


class Root(click.Group):
    """Lists all commands without importing the coordinator's or the node's, and knows what others call them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ELSEWHERE:
            return click.Command(cmd_name, short_help=ELSEWHERE[cmd_name][1])
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in ELSEWHERE and not ctx.resilient_parsing:
            return name, elsewhere(name), args[1:]
        if name in ELSEWHERE:
            with suppress(ClusterError):  # a shell asks for completions, and errors would go onto its line
                return name, elsewhere(name), args[1:]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            raise UnknownCommand(f"cluster {name}: no such command; {suggestion(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with plain_errors():
            return super().invoke(ctx)


def elsewhere(name: str) -> click.Command:
    """A command of another room. Raises :class:`ConfigError` if that room is not ours any more, or not all of it."""
    module, _, attribute = ELSEWHERE[name][0].partition(":")
    packages.load(module.partition(".")[0])
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"the {name} cannot be loaded: {e}; `cluster doctor` tells whose files those are") from e
    return command


def suggestion(name: str, commands: list[str]) -> str:
    """What to write instead: the command others call so, or the one that looks most like it."""
    others = {other: ours for ours, many in SYNONYMS.items() for other in many}
    near = get_close_matches(name.lower(), [*commands, *others], n=1, cutoff=0.6)
    if not near:
        return f"there are {', '.join(commands[:-1])} and {commands[-1]}"
    return f"did you mean `{others.get(near[0], near[0])}`?"


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(packages.own_version(), prog_name="ganger", message="%(prog)s %(version)s")
def root() -> None:
    """Ganger, a job cluster: submit Python functions, and they run on many machines.

    Begin with `cluster demo`, or `cluster up` and, in Python, `from cluster import Client`.
    """


for _command in (
    *job_commands.COMMANDS,
    *node_commands.COMMANDS,
    *schedule_commands.COMMANDS,
    *health_commands.COMMANDS,
):
    root.add_command(_command)


def main() -> NoReturn:
    """Entry point of the commands ``cluster`` and ``ganger``."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    root(prog_name="cluster")
    raise SystemExit(0)


# ------------------------------------------------------------------------------------ looking


def _repeat(draw: Callable[[], tuple[Any, RenderableType]], *, watch: bool, interval: float, as_json: bool) -> None:
    """Print once, or again and again: in place in a terminal, below each other in a pipe."""
    console = terminal.console()

    def once() -> None:
        document, picture = draw()
        if as_json:
            click.echo(json.dumps(document))
        else:
            console.print(picture)

    try:
        if not watch:
            once()
        elif as_json or not console.is_terminal:
            while True:
                once()
                time.sleep(interval)
        else:
            with Live(draw()[1], console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(interval)
                    live.update(draw()[1], refresh=True)
    except KeyboardInterrupt:
        pass


def _watch_options(command: F) -> F:
    command = option("--interval", type=click.FloatRange(0.1), default=1.0, help="Seconds between two looks.")(command)
    command = option("--watch", "-w", is_flag=True, help="Look again and again, until Ctrl-C.")(command)
    return connection_option(json_option(command))


@root.command(short_help="What the cluster is doing: jobs by state, and its nodes.")
@_watch_options
def status(connection: str | None, as_json: bool, watch: bool, interval: float) -> None:
    """Show what the cluster is doing: jobs by state, and its nodes.

    With --json, the document is that of `Client.status`.
    """
    with client_of(connection) as client:

        def draw() -> tuple[Any, RenderableType]:
            now = client.status()
            return now, terminal.status_panel(now) if as_json else terminal.overview(now, client.nodes())

        _repeat(draw, watch=watch, interval=interval, as_json=as_json)


@root.command(short_help="The nodes, their slots, load and health.")
@_watch_options
def nodes(connection: str | None, as_json: bool, watch: bool, interval: float) -> None:
    """List the nodes with their slots, load and health.

    With --json, the document holds the list of `Client.nodes` under "nodes".
    """
    with client_of(connection) as client:

        def draw() -> tuple[Any, RenderableType]:
            now = client.nodes()
            return {"nodes": now}, terminal.nodes_table(now)

        _repeat(draw, watch=watch, interval=interval, as_json=as_json)


# ------------------------------------------------------------------------------------ a cluster of one machine

STOP_WITHIN_S = 10.0
"""A child that has not ended by then, after it was told to, is killed."""

LAST_LINES = 10


class Child(Process):
    """One of our commands. What it writes to standard error is kept back until it is ready, and then passed on."""

    def __init__(self, command: str, *arguments: str) -> None:
        env = dict(os.environ)
        path = sys.path if sys.flags.safe_path else sys.path[1:]  # `-m` with `-P` looks there
        if packages.search_path(path, "cluster", MODULES[command]) != path:
            env["PYTHONPATH"] = os.pathsep.join([str(packages.ROOT), *filter(None, [env.get("PYTHONPATH")])])
        super().__init__(f"the {command}", command, arguments, env)
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._is_ready = False
        self._telling = threading.Lock()
        self._reader = threading.Thread(target=self._relay, name=f"{command} log", daemon=True)
        self._reader.start()

    def _relay(self) -> None:
        assert self._popen.stderr is not None
        with self._popen.stderr as lines:
            for line in lines:
                with self._telling:
                    self._last_lines.append(line.decode(errors="replace").rstrip())
                    if self._is_ready:
                        click.echo(line, err=True, nl=False)

    def come_up(self) -> dict[str, Any]:
        """What it says when it is ready. Raises :class:`ConfigError` if it ends before, or is not ready in time."""
        self.await_ready(time.monotonic() + READY_WITHIN_S)
        with self._telling:
            self._is_ready = True
            for line in self._last_lines:
                click.echo(line, err=True)
        return self.ready

    def ended(self) -> Failure:
        """How it ended, for people."""
        how, said = self._how_it_ended(), self._last_words()
        return Failure(f"{self.name} {how}; its last lines:\n{said}" if said else f"{self.name} {how}")

    def _last_words(self) -> str:
        if not self.alive:
            self._reader.join(STOP_WITHIN_S)
        return "\n".join(line.removeprefix("cluster: ") for line in self._last_lines)

    def stop(self) -> None:
        self.terminate()
        self.wait_or_kill(time.monotonic() + STOP_WITHIN_S)
        self._reader.join(STOP_WITHIN_S)


def _await_end(children: Sequence[Child]) -> Child:
    """Wait until one of them ends; that one."""
    descriptors = {os.pidfd_open(child.pid): child for child in children}
    try:
        readable, _, _ = select.select(list(descriptors), [], [])
        return descriptors[readable[0]]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@root.command(short_help="Run a coordinator and a node on this machine.")
@option("--slots", type=click.IntRange(1), help="Jobs to run at once; without it, one for each processor.")
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@option("--port", type=click.IntRange(0, 65535), default=7077, show_default=True, help="Port; 0 is any free one.")
@option("--advertise", metavar="HOST[:PORT]", help="As of `cluster coordinator`.")
@log_level_option("warning")
def up(slots: int | None, host: str, port: int, advertise: str | None, log_level: str) -> None:
    """Run a coordinator and a node on this machine, in the foreground, until Ctrl-C.

    `Client()` of the same user finds them by itself. Nodes of other machines can join, where --host lets them.
    """
    from cluster.keys import connection_path, coordinator_dir

    packages.check()
    console = terminal.console()
    with ExitStack() as stack:
        stack.enter_context(_termination_as_interrupt())
        try:
            coordinator = Child(
                *("coordinator", "--directory", str(coordinator_dir()), "--host", host, "--port", str(port)),
                *("--log-level", log_level),
                *(() if advertise is None else ("--advertise", advertise)),
            )
            stack.callback(coordinator.stop)
            told = coordinator.come_up()
            node = Child(
                *("node", "--connection", str(connection_path("node")), "--log-level", log_level),
                *(() if slots is None else ("--slots", str(slots))),
            )
            stack.callback(node.stop)
            name = node.come_up()["name"]
            console.print(terminal.up_panel(f"tcp://{told['host']}:{told['port']}", name, connection_path))
            raise _await_end([coordinator, node]).ended()
        except KeyboardInterrupt:
            console.print("stopping")


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM, as from systemd, ends a command the way Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------------ demonstration


@root.command(short_help="See it work: a real job on real processes, one of which is killed.")
@option("--nodes", "node_count", type=click.IntRange(2), default=2, show_default=True, help="Nodes to begin with.")
@option("--slots", type=click.IntRange(1), help="Slots of each node; without it, the processors are shared out.")
@option("--seed", type=int, default=1, show_default=True, help="Chooses the order, the victim and the moment.")
@option("--keep", is_flag=True, help="Leave the cluster up afterwards, until Ctrl-C.")
@option("--json", "as_json", is_flag=True, help="Print the report as a JSON document.")
@option("--limit", type=click.IntRange(1), hidden=True, help="Analyse so many files only.")
@option("--svg", type=click.Path(dir_okay=False, writable=True), hidden=True, help="Draw the run into this file.")
@click.pass_context
def demo(
    ctx: click.Context,
    node_count: int,
    slots: int | None,
    seed: int,
    keep: bool,
    as_json: bool,
    limit: int | None,
    svg: str | None,
) -> None:
    """See it work: analyse every file of Python's standard library on a cluster, and kill a node on the way.

    Starts a coordinator and two nodes as real processes, submits one job a file, kills a node with signal 9, adds
    another, and compares every result with that of a plain loop. Exit code 0 means that nothing was missing, doubled
    or different.
    """
    from cluster import LocalCluster
    from cluster.demo import run

    console = terminal.console(stderr=as_json)
    slots = slots or max(1, (os.cpu_count() or 1) // node_count)
    with ExitStack() as stack:
        try:
            local = stack.enter_context(
                LocalCluster(nodes=node_count, slots=slots, heartbeat_s=0.5, lease_s=3.0, gone_s=1.0)
            )
            with terminal.screen_for(console) as screen:
                kept = terminal.KeepingScreen(screen)
                names = ", ".join(n.name for n in local.nodes)
                kept.say(f"started a coordinator and the nodes {names} with {slots} slot{'s' * (slots != 1)} each")
                report = run(local, kept, seed=seed, limit=limit)
            if as_json:
                click.echo(json.dumps(report.as_json()))
            else:
                console.print(terminal.demo_report(report))
            if svg is not None:
                Path(svg).write_text(kept.svg("cluster demo", report), encoding="utf-8")
            if keep:
                console.print(terminal.kept_panel(str(local.connection_file)))
                threading.Event().wait()
        except KeyboardInterrupt:
            console.print("stopped")
            ctx.exit(0 if keep else 130)
    ctx.exit(0 if report.ok else 1)


# ------------------------------------------------------------------------------------ the set-up itself


@root.command(short_help="Check this machine's set-up, and say what is wrong with it.")
@connection_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, connection: str | None, as_json: bool) -> None:
    """Check this machine's set-up, and say what is wrong with it and what to do.

    Looks at packages, versions, settings, directories, keys, limits, clocks, and whether the coordinator can be
    reached; needs none, and changes nothing. Exit code 0 if nothing is a problem, else 1.
    """
    from cluster.doctor import Setup, examine, summary

    findings = examine(Setup(connection, _variables()))
    counts = summary(findings)
    if as_json:
        body = {"ok": not counts["problem"], "counts": counts, "findings": [f.as_json() for f in findings]}
        click.echo(json.dumps(body))
    else:
        terminal.console().print(terminal.findings(findings, counts))
    ctx.exit(1 if counts["problem"] else 0)


def _variables() -> dict[str, Callable[[str], str]] | None:
    """The variable of each option of each command, with what is wrong with a value; None if a room is broken."""
    out: dict[str, Callable[[str], str]] = {}
    for name in COMMANDS:
        try:
            command = elsewhere(name) if name in ELSEWHERE else root.commands[name]
        except (ClusterError, ImportError):
            return None
        context = click.Context(command)
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                out.setdefault(parameter.envvar, partial(_wrong, context, parameter))
    return out


def _wrong(context: click.Context, parameter: click.Parameter, text: str) -> str:
    value = parameter.type.split_envvar_value(text) if parameter.multiple else text
    try:
        parameter.process_value(context, value)
    except click.UsageError as e:
        return e.message
    return ""


SHELLS = {
    "bash": 'eval "$(cluster completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(cluster completion zsh)"    # in ~/.zshrc, below compinit',
    "fish": "cluster completion fish >~/.config/fish/completions/cluster.fish",
}
"""How to install the completion for each."""

ALSO_GANGER = {
    "bash": "complete -o nosort -F _cluster_completion ganger",
    "zsh": "compdef _cluster_completion ganger",
    "fish": 'complete --no-files --command ganger --arguments "(_cluster_completion)";',
}
"""The same command under its other name."""


@root.command(short_help="Print a script that completes our commands in a shell.")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print a script that completes `cluster` and `ganger` in bash, zsh or fish; it begins with how to install it."""
    kind = get_completion_class(shell)
    assert kind is not None
    completer = kind(root, {}, "cluster", "_CLUSTER_COMPLETE")
    script = completer.source_template % completer.source_vars()  # `source` would also look for a bash here
    click.echo(f"# Completion of cluster and ganger. To install it:\n#   {SHELLS[shell]}")
    click.echo(f"{script.strip()}\n\n{ALSO_GANGER[shell]}")
