"""Commands about jobs and queues: find, look, explain, cancel, run again, drop, set. Rules of this file: options to
questions, answers to tables; each can be a JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from click.termui import confirm

from cluster import job_pictures, terminal
from cluster.commands import Age, F, Failure, client_of, connection_option, json_option
from cluster.errors import NotRunAgain

if TYPE_CHECKING:
    from cluster.client import Client

STATES = (
    "scheduled, ready, leased, running, adrift, succeeded, failed, 'timed out', cancelled, expired, lost, or"
    " unfinished, finished, dead; may be repeated."
)


def _filter_options(command: F) -> F:
    """What jobs shall have."""
    for add in (
        click.option("--newer", type=Age(), help="Ended (or handed in) since then."),
        click.option("--older", type=Age(), help="Ended (or handed in) before."),
        click.option("--arguments", default="", metavar="TEXT", help="In their arguments."),
        click.option("--error", default="", metavar="TEXT", help="In the line of their error."),
        click.option("--node", default="", metavar="NAME", help="That ran there last."),
        click.option("--tag", default="", metavar="TAG", help="That have this tag."),
        click.option("--queue", default="", metavar="NAME", help="Of this queue."),
        click.option("--function", default="", metavar="TEXT", help="In the name of their function."),
        click.option("--state", "states", multiple=True, metavar="STATE", help=STATES),
    ):
        command = add(command)
    return command


def _wanted(
    states: tuple[str, ...],
    function: str,
    queue: str,
    tag: str,
    node: str,
    error: str,
    arguments: str,
    older: timedelta | None,
    newer: timedelta | None,
) -> tuple[tuple[str, ...], dict[str, Any]]:
    now = datetime.now(UTC)
    about: dict[str, Any] = {
        "function": function,
        "queue": queue,
        "tag": tag,
        "node": node,
        "error": error,
        "arguments": arguments,
        "since": None if newer is None else now - newer,
        "until": None if older is None else now - older,
    }
    return states, about


@click.command(short_help="Find jobs: what waits, what runs, what became of the rest.")
@_filter_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@json_option
@connection_option
def jobs(connection: str | None, as_json: bool, limit: int, **wanted: Any) -> None:
    """Find jobs that have all of what is asked for: the unfinished ones first, and of each kind the newest.

    With --json, the document holds what `Client.jobs` gives under "jobs".
    """
    states, about = _wanted(**wanted)
    with client_of(connection) as client:
        found = list(client.jobs(*states, **about, limit=limit))
    if as_json:
        click.echo(json.dumps({"jobs": found}))
        return
    terminal.console().print(job_pictures.jobs_table(found, datetime.now(UTC).timestamp(), limit))


@click.command(short_help="One job and its story.")
@click.argument("id")
@json_option
@connection_option
def job(connection: str | None, as_json: bool, id: str) -> None:
    """Show one job with what became of each attempt. The beginning of its id is enough.

    With --json, the document is that of `Client.job`.
    """
    with client_of(connection) as client:
        found = client.job(id)
        why = client.explain(found["id"]) if found["ended"] is None else []
    if as_json:
        click.echo(json.dumps({**found, "why": why}))
    else:
        terminal.console().print(job_pictures.job_panel(found, why, datetime.now(UTC).timestamp()))


@click.command(short_help="Why a job does not run.")
@click.argument("id")
@json_option
@connection_option
def explain(connection: str | None, as_json: bool, id: str) -> None:
    """Say why a job does not run, one line for each thing that stands in its way. Of one that is ready the nodes
    follow: what keeps it from each, or how full that counts."""
    with client_of(connection) as client:
        why = client.explain(id)
        nodes = client.candidates(id)
    if as_json:
        click.echo(json.dumps({"why": why, "nodes": nodes}))
        return
    click.echo("\n".join(map(job_pictures.plain, [*why, *map(job_pictures.candidate, nodes)])))


def _act(
    connection: str | None,
    as_json: bool,
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    wanted: dict[str, Any],
    verb: str,
    usual: tuple[str, ...],
    act: Callable[[Client, list[str]], dict[str, Any]],
) -> None:
    """Do something with the jobs that are named, or with all that a filter finds, once that was confirmed."""
    states, about = _wanted(**wanted)
    filtered = everything or states or any(about.values())
    if bool(ids) == bool(filtered):
        raise click.UsageError(f"name the jobs to {verb}, or say which ones by --state, --function ... or --all")
    with client_of(connection) as client:
        if ids:
            chosen = [client.job(i)["id"] for i in ids]
        else:
            chosen = [found["id"] for found in client.jobs(*(states or usual), **about, limit=None)]
            if chosen and not yes:
                if not sys.stdin.isatty():
                    raise Failure(f"this would {verb} {len(chosen)} jobs; say so by --yes")
                confirm(f"{verb} {len(chosen)} jobs?", abort=True, err=True)
        done = act(client, chosen) if chosen else {}
    if as_json:
        click.echo(json.dumps({"found": len(chosen), **done}))
    else:
        told = ", ".join(f"{n:,} {word}" for word, n in done.items() if isinstance(n, int))
        click.echo(f"{len(chosen):,} found{', ' + told if told else ''}")
        made: dict[str, str] = done.get("made") or {}
        for old, new in made.items():
            click.echo(f"{old} runs again as {new}")
    refused: dict[str, str] = done.get("refused") or {}
    for old, why in refused.items():
        click.echo(f"{old} cannot be run again: {job_pictures.plain(why)}", err=True)
    if refused:
        raise SystemExit(1)


def _order(command: F) -> F:
    command = click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)
    command = click.option("--all", "everything", is_flag=True, help="All there are.")(command)
    return connection_option(json_option(_filter_options(command)))


@click.command(short_help="Cancel jobs.")
@click.argument("ids", nargs=-1)
@click.option("--running", is_flag=True, help="Interrupt those that run, too; they are killed after their grace_s.")
@_order
def cancel(
    connection: str | None,
    as_json: bool,
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    running: bool,
    **wanted: Any,
) -> None:
    """Cancel jobs that have not started, with --running those that have, too: the named ones, or all that a filter
    finds.

    What is on its way to a node is asked back, and not counted. With --running it is, as is what has yet to end.
    """
    _act(connection, as_json, ids, everything, yes, wanted, "cancel", ("unfinished",),
         lambda client, chosen: {"cancelled": client.cancel(*chosen, running=running)})  # fmt: skip


@click.command(short_help="Run jobs again that did not succeed.")
@click.argument("ids", nargs=-1)
@_order
def retry(
    connection: str | None, as_json: bool, ids: tuple[str, ...], everything: bool, yes: bool, **wanted: Any
) -> None:
    """Run jobs again that have ended and did not succeed, as new jobs with the same arguments.

    Without names, and with --all or a filter, those that are dead letters, unless --state says otherwise.
    """
    _act(connection, as_json, ids, everything, yes, wanted, "retry", ("dead",),
         _retried)  # fmt: skip


def _retried(client: Client, chosen: list[str]) -> dict[str, Any]:
    try:
        return {"made": client.retry(*chosen)}
    except NotRunAgain as e:
        return {"made": e.made, "not run again": len(e.refused), "refused": e.refused}


@click.command(short_help="Set dead letters aside no more.")
@click.argument("ids", nargs=-1)
@_order
def drop(
    connection: str | None, as_json: bool, ids: tuple[str, ...], everything: bool, yes: bool, **wanted: Any
) -> None:
    """Set dead letters aside no more. They stay in the history, and cannot be run again."""
    _act(connection, as_json, ids, everything, yes, wanted, "drop", ("dead",),
         lambda client, chosen: {"dropped": client.drop(*chosen)})  # fmt: skip


@click.group(invoke_without_command=True, short_help="The queues, and what is set for them.")
@json_option
@connection_option
@click.pass_context
def queue(ctx: click.Context, connection: str | None, as_json: bool) -> None:
    """Show the queues; `cluster queue set NAME`, `pause` and `resume` change them, for good."""
    ctx.obj = connection, as_json
    if ctx.invoked_subcommand is None:
        with client_of(connection) as client:
            rows = client.queues()
        _show_queues(rows, as_json)


def _show_queues(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"queues": rows}))
    else:
        terminal.console().print(job_pictures.queues_table(rows))


def _set(ctx: click.Context, name: str, **settings: Any) -> None:
    connection, as_json = ctx.obj
    with client_of(connection) as client:
        _show_queues([client.set_queue(name, **settings)], as_json)


class Cap(click.ParamType[int | str]):
    """A number, or ``none``."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "none":
            return "none"
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither a positive number nor none", param, ctx)
        return number


@queue.command("set", short_help="Weight and caps of a queue.")
@click.argument("name")
@click.option("--weight", type=click.IntRange(1, 1000), help="Its share, against other queues with jobs ready.")
@click.option("--max-running", type=Cap(), help="Attempts at a time in the whole cluster.")
@click.option("--max-per-node", type=Cap(), help="Attempts at a time on each node.")
@click.option("--placement", type=click.Choice(["spread", "pack"]), help="Over the nodes, or into as few as take them.")
@click.pass_context
def set_(ctx: click.Context, /, name: str, weight: int | None, placement: str | None, **caps: int | str | None) -> None:
    """Set the weight, the caps and the placement of a queue."""
    settings: dict[str, Any] = {key: None if cap == "none" else cap for key, cap in caps.items() if cap is not None}
    if weight is not None:
        settings["weight"] = weight
    if placement is not None:
        settings["placement"] = placement
    if not settings:
        raise click.UsageError("say what to set: --weight, --max-running, --max-per-node or --placement")
    _set(ctx, name, **settings)


@queue.command(short_help="Start nothing more of a queue; what runs goes on.")
@click.argument("name")
@click.pass_context
def pause(ctx: click.Context, name: str) -> None:
    """Start nothing more of a queue; what runs goes on."""
    _set(ctx, name, paused=True)


@queue.command(short_help="Go on with a paused queue.")
@click.argument("name")
@click.pass_context
def resume(ctx: click.Context, name: str) -> None:
    """Go on with a paused queue."""
    _set(ctx, name, paused=False)


COMMANDS = (jobs, job, explain, cancel, retry, drop, queue)
