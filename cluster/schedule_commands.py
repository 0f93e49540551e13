"""``cluster schedule ...`` and ``cluster run``. Rules of this file: options to orders, answers to tables; each can be a
JSON document. What a crontab means is in ``crontab``, what a command does on a node in ``shell_jobs``."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.termui import confirm

from cluster import crontab, schedule_pictures, shell_jobs, terminal
from cluster.commands import Age, F, Failure, Size, amounts, client_of, connection_option, json_option
from cluster.crontab import Line, Verdict
from cluster.errors import BadTrigger, ClusterError, CommandFailed
from cluster.job_pictures import plain
from cluster.options import Webhook
from cluster.schedules import CatchUp, Overlap, Schedule, make
from cluster.triggers import Trigger, at, cron, every

if TYPE_CHECKING:
    from cluster.client import Client

OVERDUE, UNKNOWN = 2, 3
"""Exit codes of ``check``, as monitoring has them: critical, and unknown."""

# ------------------------------------------------------------------------------------ options of jobs


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    out = {}
    for text in values:
        key, found, value = text.partition("=")
        if not found or not key:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        out[key] = value
    return out


def _job_options(command: F) -> F:
    """Those of ``client.options`` that a command's job may want."""
    for add in (
        click.option("--user", default="", metavar="NAME", help="Run as that user; the node must be able to."),
        click.option("--env", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Set a variable."),
        click.option("--shell", is_flag=True, help="Have a shell read the command, with its pipes and expansions."),
        click.option("--memory", type=Size(), help="Memory it may take, as 512MiB, which the node has free."),
        click.option("--cpus", type=click.FloatRange(0.01), help="Processors it may use, which the node has free."),
        click.option(
            "--gpus",
            type=click.FloatRange(0.01),
            help="Graphics processors the node has free: whole ones, or a part of one.",
        ),
        click.option(
            "--resource",
            "resources",
            multiple=True,
            callback=amounts,
            metavar="NAME=AMOUNT",
            help="Something of that name the node has free.",
        ),
        click.option("--on-failure", metavar="URL", help="A web server that is told of failures."),
        click.option("--label", "labels", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="The node has it."),
        click.option("--node", metavar="NAME", help="Run it there: a node's name, or its host's."),
        click.option("--tag", "tags", multiple=True, metavar="TAG", help="A word people find it by."),
        click.option("--once", is_flag=True, help="Never start it twice, whatever happens."),
        click.option("--expires", type=Age(), help="It must have begun by then."),
        click.option("--grace", type=Age(), help="Time it may take to end when it is told to."),
        click.option("--timeout", type=Age(), help="It is ended when it runs longer."),
        click.option("--retries", type=click.IntRange(0, 100), help="How often it runs again when it fails."),
        click.option("--priority", type=click.IntRange(-10, 10), help="Higher goes first in its queue."),
        click.option("--queue", metavar="NAME", help="The queue it waits in."),
    ):
        command = add(command)
    return command


def _options(command: tuple[str, ...], given: dict[str, Any]) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """What is executed, how (for ``shell_jobs.run``), and the options of the job. Takes its own out of ``given``."""
    command = command[1:] if command[0] == "--" else command
    if not command:
        raise click.UsageError("there is no command behind --")
    shown = shlex.join(command) if len(command) > 1 else command[0]
    argv = ["/bin/sh", "-c", " ".join(command)] if given.pop("shell") else list(command)
    how = {what: value for what in ("env", "user") if (value := given.pop(what))}
    labels = given.pop("labels")
    node = given.pop("node")
    if node:
        labels = {**labels, "node": node}
    out: dict[str, Any] = {
        "labels": labels,
        "resources": given.pop("resources"),
        "tags": given.pop("tags"),
        "name": Path(command[0]).name[:100] or "command",
    }
    out["summary"] = shown[:200]
    if given.pop("once"):
        out["delivery"] = "at_most_once"
    for ours, option in (
        ("queue", "queue"),
        ("priority", "priority"),
        ("retries", "retries"),
        ("timeout", "timeout_s"),
        ("grace", "grace_s"),
        ("expires", "expires_s"),
        ("cpus", "cpus"),
        ("gpus", "gpus"),
        ("memory", "memory_bytes"),
        ("on_failure", "on_failure"),
    ):
        value = given.pop(ours)
        if value is not None:
            out[option] = value
    return argv, how, out


@click.command(
    short_help="Run a command as a job on a node.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--wait", is_flag=True, help="Wait for its end, print its output, and end with its exit code.")
@click.option("--key", metavar="KEY", help="Idempotency key: while it is taken, there is one such job.")
@click.option("--delay", type=Age(), help="Not before this time has passed.")
@_job_options
@json_option
@connection_option
def run(
    connection: str | None,
    as_json: bool,
    command: tuple[str, ...],
    wait: bool,
    key: str | None,
    delay: timedelta | None,
    **given: Any,
) -> None:
    """Run a command as a job on a node: `cluster run --retries 2 -- make report`.

    Its output is the job's result; an exit code other than 0 fails the job. Prints the job's id, or with --wait the
    output, and ends with the command's exit code.
    """
    try:
        argv, how, options = _options(command, given)
        if key is not None:
            options["key"] = key
        if delay is not None:
            options["delay_s"] = delay
        client = client_of(connection)
        try:
            future = client.options(**options).submit(shell_jobs.run, argv, **how)
            if not future.accepted():
                future.result()
            if not wait:
                click.echo(json.dumps({"job": future.job_id}) if as_json else future.job_id)
                return
            code, output, error = 0, "", ""
            try:
                output = future.result()["output"]
            except CommandFailed as e:
                code, output, error = e.exit_code, e.output, str(e)
            except ClusterError as e:
                raise Failure(f"job {future.job_id}: {e}") from None
        finally:
            client.shutdown(wait=False)  # a client that is closed waits for its jobs
    except (ValueError, TypeError) as e:
        raise Failure(str(e)) from None
    if as_json:
        click.echo(json.dumps({"job": future.job_id, "exit_code": code, "output": output}))
    else:
        click.echo(output, nl=False)
        if error:
            click.echo(f"{click.style('cluster:', fg='red', bold=True)} {error}", err=True)
    sys.exit(code)


# ------------------------------------------------------------------------------------ schedules


@click.group(invoke_without_command=True, short_help="What runs when: schedules, and crontabs.")
@click.pass_context
def schedule(ctx: click.Context) -> None:
    """List the schedules; the commands below make, look into, stop and import them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


def _asks(command: F) -> F:
    return connection_option(json_option(command))


def _print(as_json: bool, document: Callable[[], Any], picture: Callable[[], Any]) -> None:
    if as_json:
        click.echo(json.dumps(document()))
    else:
        terminal.console().print(picture())


def _show(as_json: bool, found: Schedule) -> None:
    now = schedule_pictures.now()
    _print(as_json, lambda: dict(found.said), lambda: schedule_pictures.schedule_panel(found, now))


def when(text: str, tz: str, dst: str = "crond") -> Trigger:
    """The trigger of a text: a cron expression, ``every 15min``, or a moment. Raises ``BadTrigger``."""
    if found := re.fullmatch(r"@?every\s+(.+)", text.strip()):
        try:
            return every(Age().convert(found[1], None, None), tz=tz)
        except click.UsageError as e:
            raise BadTrigger("interval", e.message) from None
    with suppress(ValueError):
        return at(datetime.fromisoformat(text.strip()), tz=tz)
    return cron(text, tz, dst)


_when_options = (
    click.option("--tz", default="UTC", show_default=True, metavar="ZONE", help="Time zone, such as Europe/Berlin."),
    click.option(
        "--dst",
        type=click.Choice(["crond", "wall", "once"]),
        default="crond",
        show_default=True,
        help="What a cron expression does when the clocks change.",
    ),
)


def _when(command: F) -> F:
    for add in _when_options:
        command = add(command)
    return command


@schedule.command(
    short_help="Have a command run whenever a trigger says so.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("name")
@click.argument("trigger", metavar="WHEN")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--overlap", type=click.Choice(get_args(Overlap)), default="skip", show_default=True,
              help="What becomes of a time that comes while an earlier one runs.")  # fmt: skip
@click.option("--catch-up", type=click.Choice(get_args(CatchUp)), default="latest", show_default=True,
              help="What is done about missed times.")  # fmt: skip
@click.option("--catch-up-window", type=Age(), default="1h", show_default=True, help="How long ago they may be.")
@click.option("--jitter", type=Age(), default="0", help="Move each time by a share of this.")
@click.option("--pause-after", type=click.IntRange(0), default=0, help="Failures in a row that pause it.")
@click.option("--overdue", type=Age(), default="0", help="Time without a success after which it is overdue.")
@click.option("--on-missed", metavar="URL", help="A web server that is told of missed times.")
@_when
@_job_options
@_asks
def add(
    connection: str | None,
    as_json: bool,
    name: str,
    trigger: str,
    command: tuple[str, ...],
    tz: str,
    dst: str,
    overlap: str,
    catch_up: str,
    catch_up_window: timedelta,
    jitter: timedelta,
    pause_after: int,
    overdue: timedelta,
    on_missed: str | None,
    **given: Any,
) -> None:
    """Make a schedule that runs a command, or change it: `cluster schedule add backup "0 3 * * *" -- backup --all`.

    WHEN is a cron expression, `every 15min`, or a moment such as 2027-01-01T00:00. Options stand before NAME.
    """
    plans = {
        "overlap": overlap,
        "catch_up": catch_up,
        "catch_up_window_s": catch_up_window,
        "jitter_s": jitter,
        "pause_after": pause_after,
        "overdue_s": overdue,
    }
    try:
        argv, how, options = _options(command, given)
        with client_of(connection) as client:
            twin = client.options(**options)
            hook = None if on_missed is None else Webhook(on_missed)
            done = make(twin, name, when(trigger, tz, dst), shell_jobs.run, (argv,), how, plans, hook)
    except (ValueError, TypeError) as e:
        raise Failure(str(e)) from None
    if not as_json:
        what = "made" if done.created else f"changed: {', '.join(done.changed)}" if done.changed else "as it was"
        click.echo(what)
        _show(False, done)
    else:
        click.echo(json.dumps({"made": done.created, "changed": list(done.changed), "schedule": dict(done.said)}))


@schedule.command("list", short_help="The schedules, what they do next and did last.")
@click.option("--search", default="", metavar="TEXT", help="In their names.")
@click.option("--overdue", is_flag=True, help="Those without a success for too long.")
@click.option("--limit", type=click.IntRange(1), default=500, show_default=True, help="How many at most.")
@_asks
def list_(connection: str | None, as_json: bool, search: str, overdue: bool, limit: int) -> None:
    """List the schedules by name."""
    with client_of(connection) as client:
        found = [one for one, _ in zip(client.schedules.list(search, overdue=overdue), range(limit + 1), strict=False)]
    more = len(found) > limit
    found = found[:limit]
    document = {"schedules": [dict(one.said) for one in found]}
    _print(as_json, lambda: document, lambda: schedule_pictures.schedules_table(found, schedule_pictures.now()))
    if more and not as_json:
        click.echo(f"the first {limit}; more with --limit, or fewer with --search")


@schedule.command(short_help="One schedule: what it calls, how, and when next.")
@click.argument("name")
@_asks
def show(connection: str | None, as_json: bool, name: str) -> None:
    """Show one schedule."""
    with client_of(connection) as client:
        found = _found(client, name)
    _show(as_json, found)


def _found(client: Client, name: str) -> Schedule:
    """That schedule; else an error that knows those whose names are like it."""
    try:
        return client.schedules.get(name)
    except ClusterError as e:
        near = [one.name for one, _ in zip(client.schedules.list(name), range(3), strict=False)]
        raise Failure(f"{e}; there are {', '.join(near)}" if near else str(e)) from None


@schedule.command(short_help="The next times of a schedule, or of an expression.")
@click.argument("what", metavar="NAME|WHEN")
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@_when
@_asks
def preview(connection: str | None, as_json: bool, what: str, count: int, tz: str, dst: str) -> None:
    """Show the next times, in local and in schedule time. What looks like a trigger is not asked of the cluster."""
    now = schedule_pictures.now()
    trigger = None
    if re.search(r"\s|^@", what) or re.match(r"\d{4}-\d\d-\d\dT", what):
        trigger = when(what, tz, dst)
    if trigger is None:
        with client_of(connection) as client:
            found = _found(client, what)
        times, sentence = found.upcoming(count), found.trigger.describe()
    else:
        times, sentence = trigger.upcoming(now, count), trigger.describe()
    if not as_json:
        click.echo(sentence)
    document = {"when": sentence, "times": [time.isoformat() for time in times]}
    _print(as_json, lambda: document, lambda: schedule_pictures.times_table(times, now))


@schedule.command(short_help="Fire nothing more of a schedule; what runs goes on.")
@click.argument("name")
@click.option("--note", default="", metavar="TEXT", help="Why, for whoever looks.")
@_asks
def pause(connection: str | None, as_json: bool, name: str, note: str) -> None:
    """Fire nothing more of a schedule but what is asked for; what runs goes on."""
    with client_of(connection) as client:
        _found(client, name)
        done = client.schedules.pause(name, note)
    _show(as_json, done)


@schedule.command(short_help="Go on with a paused schedule.")
@click.argument("name")
@_asks
def resume(connection: str | None, as_json: bool, name: str) -> None:
    """Go on with a paused schedule. Times that passed meanwhile are skipped."""
    with client_of(connection) as client:
        _found(client, name)
        done = client.schedules.resume(name)
    _show(as_json, done)


@schedule.command("run", short_help="Fire a schedule once, now.")
@click.argument("name")
@click.option("--overlap", type=click.Choice(get_args(Overlap)), help="Instead of its own policy.")
@click.option("--wait", is_flag=True, help="Wait for the job's end.")
@_asks
def run_(connection: str | None, as_json: bool, name: str, overlap: str | None, wait: bool) -> None:
    """Fire a schedule once, now, also if it is paused."""
    with client_of(connection) as client:
        _found(client, name)
        done = client.ask("schedules", do="run", name=name, overlap=overlap)
        if wait and done["job"]:
            client.future(done["job"]).result()
    if as_json:
        click.echo(json.dumps(done))
    else:
        click.echo(done["job"] or (f"skipped: {done['skipped']}" if done["skipped"] else "it waits for what runs"))
    sys.exit(1 if done["skipped"] else 0)


@schedule.command(short_help="Fire all times of a past range again.")
@click.argument("name")
@click.argument("start")
@click.argument("end")
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, help="So many at a time.")
@click.option("--dry-run", is_flag=True, help="Only show the times.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_asks
def backfill(
    connection: str | None,
    as_json: bool,
    name: str,
    start: str,
    end: str,
    concurrency: int,
    dry_run: bool,
    yes: bool,
) -> None:
    """Fire all times from START to END again, both included: moments such as 2026-11-01 or 2026-11-01T03:00, on the
    clock of the schedule's zone."""
    with client_of(connection) as client:
        _found(client, name)
        times = client.schedules.preview(name, start, end)
        if not dry_run:
            if not yes:
                if not sys.stdin.isatty():
                    raise Failure(f"this would fire {len(times)} times; say so by --yes")
                terminal.console(stderr=True).print(schedule_pictures.times_table(times[:5], schedule_pictures.now()))
                confirm(f"fire these {len(times)} times?", abort=True, err=True)
            client.schedules.backfill(name, start, end, concurrency)
    document = {"times": [time.isoformat() for time in times], "fired": not dry_run}
    if as_json or dry_run:
        _print(as_json, lambda: document, lambda: schedule_pictures.times_table(times, schedule_pictures.now()))
    else:
        click.echo(f"{len(times)} times are fired, {concurrency} at a time")


@schedule.command(short_help="Remove schedules; what runs of them goes on.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_asks
def remove(connection: str | None, as_json: bool, names: tuple[str, ...]) -> None:
    """Remove schedules. What runs goes on; made again, they fire no time twice."""
    with client_of(connection) as client:
        done = {name: client.schedules.remove(name) for name in names}
    if as_json:
        click.echo(json.dumps({"removed": done}))
    else:
        for name, removed in done.items():
            click.echo(f"{name}: {'removed' if removed else 'there is none'}")
    sys.exit(0 if all(done.values()) else 1)


@schedule.command(short_help="What became of a schedule's last times.")
@click.argument("name")
@_asks
def history(connection: str | None, as_json: bool, name: str) -> None:
    """Show what became of the last times: outcome, lateness, run time, and why some were skipped."""
    with client_of(connection) as client:
        document = client.ask("schedules", do="history", name=name)
        runs = client.schedules.history(name)
    _print(as_json, lambda: document, lambda: schedule_pictures.history_table(runs))


@schedule.command(short_help="Whether any is overdue, as an exit code for monitoring.")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@_asks
def check(connection: str | None, as_json: bool, names: tuple[str, ...]) -> None:
    """Say which schedules are overdue: exit code 0 if none is, 2 if one is, 3 if that cannot be told."""
    try:
        with client_of(connection) as client:
            if names:
                found = [one for name in names if (one := client.schedules.get(name)).overdue]
            else:
                found = list(client.schedules.list(overdue=True))
    except ClusterError as e:
        click.echo(json.dumps({"error": str(e)}) if as_json else f"UNKNOWN: {e}")
        sys.exit(UNKNOWN)
    if as_json:
        click.echo(json.dumps({"overdue": [dict(one.said) for one in found]}))
    elif not found:
        click.echo("OK: no schedule is overdue")
    for one in found if not as_json else ():
        last = "never" if one.succeeded is None else schedule_pictures.moment(one.succeeded)
        click.echo(f"OVERDUE: {plain(one.name)}, last success: {last}")
    sys.exit(OVERDUE if found else 0)


# ------------------------------------------------------------------------------------ crontabs


def local_zone(etc: Path = Path("/etc")) -> str:
    """The IANA name of this machine's time zone; UTC where it has none."""
    named = os.environ.get("TZ", "").removeprefix(":")
    with suppress(OSError):
        named = named or (etc / "timezone").read_text().strip()
    with suppress(OSError):
        named = named or os.readlink(etc / "localtime").partition("zoneinfo/")[2]
    try:
        cron("@daily", named)
    except BadTrigger:
        return "UTC"
    return named


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """The crontabs of a path, each with why it is left out, if so."""
    if not path.is_dir():
        yield path, ""
        return
    for file in sorted(path.iterdir()):
        if not file.is_file():
            yield file, "it is no file"
        elif not crontab.FILE_NAME.fullmatch(file.name):
            yield file, "crond reads no file of that name"
        else:
            yield file, ""


RUN_AS = "run-as"
"""The label of nodes that may run commands as that user; ``any``: as every one."""


def _runs_as(user: str, nodes: list[dict[str, Any]]) -> dict[str, str] | None:
    """Labels a node must have to run commands as that user; None if none has."""
    for value in (user, "any"):
        if any(node["labels"].get(RUN_AS) == value for node in nodes):
            return {RUN_AS: value}
    return None


@schedule.command("import", short_help="Take the lines of a crontab as schedules.")
@click.argument("file", type=click.Path(exists=True, allow_dash=True))
@click.option("--system", is_flag=True, help="Lines name a user, as in /etc/crontab; FILE may be a directory of such.")
@click.option("--sync", is_flag=True, help="Remove what came from there before and is not in it now.")
@click.option("--node", metavar="HOST", help="Run them there: a node's name, or its host's.")
@click.option("--user", metavar="NAME", help="Whose crontab it is; without it, yours.")
@click.option("--tz", metavar="ZONE", help="Time zone of its times; without it, that of this machine.")
@click.option("--mailto-webhook", metavar="URL", help="A web server that is told of failures, in place of mail.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_asks
def import_(
    connection: str | None,
    as_json: bool,
    file: str,
    system: bool,
    sync: bool,
    node: str | None,
    user: str | None,
    tz: str | None,
    mailto_webhook: str | None,
    dry_run: bool,
) -> None:
    """Take the lines of a crontab as schedules, and say of each whether it is taken.

    `crontab -l | cluster schedule import -` takes yours. Missed times are not made good and jobs may overlap, as with
    cron. Lines of a --system crontab need a node with the label run-as=USER or run-as=any. The exit code is 1 if a
    line was refused.
    """
    host = node or socket.gethostname()
    path = Path(file)
    whole = f"{host}:{'crontab' if file == '-' else path.resolve()}"
    if not system and file != "-" and path.is_dir():
        raise click.UsageError("a directory holds crontabs of the system: say --system")
    importer = _Importer(node, user or getpass.getuser(), system, tz or local_zone(), mailto_webhook)
    reports: list[tuple[str, list[Line], list[tuple[str, int]]]] = []
    with client_of(connection) as client:
        importer.nodes = [n for n in client.nodes() if node is None or node in (n["name"], n["host"])]
        kept: set[str] = set()
        for found, why in [(path, "")] if file == "-" else list(_files(path)):
            source = whole if found == path else f"{whole}/{found.name}"
            if why:
                reports.append((source, [Line(0, found.name, Verdict.REFUSED, why)], []))
                continue
            raw = sys.stdin.buffer.read() if file == "-" else found.read_bytes()
            lines, counts = importer.take(client, raw.decode("utf-8", "surrogateescape"), source, dry_run)
            kept |= {line.entry.name for line in lines if line.entry is not None}
            reports.append((source, lines, counts))
        removed = []
        if sync:
            scope = f"{whole}/" if file != "-" and path.is_dir() else whole
            removed = [one.name for one in client.schedules.list(source=scope) if one.name not in kept]
            if not dry_run:
                removed = [name for name in removed if client.schedules.remove(name)]
    refused = sum(line.verdict is Verdict.REFUSED and line.number > 0 for _, lines, _ in reports for line in lines)
    if as_json:
        click.echo(json.dumps({"files": [_document(*report) for report in reports], "removed": removed}))
    else:
        console = terminal.console()
        for report in reports:
            console.print(schedule_pictures.import_report(*report))
        for name in removed:
            click.echo(f"{'would remove' if dry_run else 'removed'} {plain(name)}")
    sys.exit(1 if refused else 0)


def _document(source: str, lines: list[Line], counts: list[tuple[str, int]]) -> dict[str, Any]:
    return {
        "source": source,
        "lines": [
            {
                "line": line.number,
                "text": line.text,
                "verdict": str(line.verdict),
                "why": line.why,
                "schedule": line.entry.name if line.entry is not None else None,
            }
            for line in lines
        ],
        **dict(counts),
    }


class _Importer:
    def __init__(self, node: str | None, user: str, system: bool, tz: str, webhook: str | None) -> None:
        self._node, self._user, self._system, self._tz, self._webhook = node, user, system, tz, webhook
        self.nodes: list[dict[str, Any]] = []

    def take(self, client: Client, text: str, source: str, dry_run: bool) -> tuple[list[Line], list[tuple[str, int]]]:
        """What becomes of each line, and of how many schedules what."""
        lines = crontab.read(
            text, source, user=self._user, system=self._system, tz=self._tz, webhook=self._webhook is not None
        )
        counts = {"made": 0, "changed": 0, "as they were": 0, "refused": 0}
        out = []
        for line in lines:
            if line.entry is not None:
                try:
                    done = self._order(client, line.entry, source, dry_run)
                    word = "made" if done is None or done.created else "changed" if done.changed else "as they were"
                    counts[word] += 1
                except (ClusterError, ValueError) as e:
                    line = Line(line.number, line.text, Verdict.REFUSED, str(e))
            counts["refused"] += line.verdict is Verdict.REFUSED
            out.append(line)
        return out, list(counts.items())

    def _order(self, client: Client, entry: crontab.Entry, source: str, dry_run: bool) -> Schedule | None:
        environment = dict(entry.environment)
        labels = {} if self._node is None else {"node": self._node}
        if self._system:
            demand = _runs_as(entry.user, self.nodes)
            if demand is None:
                raise ValueError(
                    f"no node may run commands as {entry.user!r}: its agent runs as root with --label {RUN_AS}=any,"
                    f" or as that user with --label {RUN_AS}={entry.user}"
                )
            labels |= demand
        if dry_run:
            return None
        mailto = environment.pop("MAILTO", None)
        twin = client.options(
            name=f"cron: {entry.command}"[:100],
            summary=entry.command[:200],
            labels=labels,
            tags=["crontab"],
            on_failure=None if self._webhook is None or mailto == "" else Webhook(self._webhook),
        )
        argv = [environment.get("SHELL", crontab.DEFAULT_SHELL), "-c", entry.command]
        how = {"stdin": entry.stdin, "env": environment, "user": entry.user, "clean": True}
        plans = {"overlap": "allow", "catch_up": "none", "jitter_s": entry.jitter_s}
        return make(twin, entry.name, entry.trigger, shell_jobs.run, (argv,), how, plans, None, source)


COMMANDS = (run, schedule)
