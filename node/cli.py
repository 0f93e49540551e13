"""``cluster node``. Rules of this file: options to settings; the rest is main's."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cluster.commands import amounts, log_level_option, metrics_options, option
from cluster.config import AgentLimits
from cluster.health import Listen
from cluster.logs import log_to_stderr

_USUAL = AgentLimits()


def _labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    out = {}
    for value in values:
        key, equals, label = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", ctx, param)
        if key == "isolation":
            raise click.BadParameter("isolation is proved, not claimed: see --isolation", ctx, param)
        out[key] = label
    return out


@click.command()
@option("--connection", type=click.Path(path_type=Path, dir_okay=False), envvar="GANGER_NODE_CONNECTION",
        help="The coordinator's node.json; default the one on this machine.")  # fmt: skip
@option("--name", envvar="GANGER_NODE_NAME", help="Unique name of this node; default the host name.")
@option("--slots", type=click.IntRange(1, 4096), help="Jobs run at a time; default the number of processors.")
@option("--label", "labels", multiple=True, callback=_labels, metavar="KEY=VALUE", envvar="GANGER_LABELS",
        help="Something jobs may demand of a node; may be repeated.")  # fmt: skip
@option("--resource", "resources", multiple=True, callback=amounts, metavar="NAME=AMOUNT", envvar="GANGER_RESOURCES",
        help="Something jobs may claim, such as licence=2, or less of what it has: cpus=2, memory_bytes=8GiB, gpus=1;"
        " may be repeated.")  # fmt: skip
@option("--queue", "queues", multiple=True, metavar="NAME", envvar="GANGER_QUEUES",
        help="A queue to serve; may be repeated. Without it all of them.")  # fmt: skip
@option("--directory", type=click.Path(path_type=Path, file_okay=False), envvar="GANGER_NODE_DIRECTORY",
        help="Keeps the node's life number; default ~/.ganger/nodes/NAME.")  # fmt: skip
@option("--transport", type=click.Choice(["auto", "tcp", "ipc"]), default="auto", show_default=True,
        help="auto: the local socket where there is one, else TCP.")  # fmt: skip
@option("--preload", multiple=True, metavar="MODULE",
        help="A module that jobs need, imported once for all workers; may be repeated.")  # fmt: skip
@option("--init", metavar="MODULE:FUNCTION",
        help="Called in each worker before its first job.")  # fmt: skip
@option("--start", type=click.Choice(["fork", "spawn"]), default="fork", show_default=True,
        help="fork: workers share what is preloaded, and start in milliseconds.")  # fmt: skip
@option("--env", multiple=True, metavar="PATTERN",
        help="Variables that jobs see, beside the basic ones; may be repeated. '*' stands for all.")  # fmt: skip
@option("--min-workers", type=click.IntRange(0), default=_USUAL.min_workers, show_default=True,
        help="So many workers are kept when there is no work.")  # fmt: skip
@option("--idle-s", type=click.FloatRange(0), default=_USUAL.idle_s, show_default=True,
        help="After so long without work the others are let go.")  # fmt: skip
@option("--max-jobs-per-worker", type=click.IntRange(0), default=_USUAL.max_jobs_per_worker, show_default=True,
        help="A worker is replaced after so many jobs; 0: never.")  # fmt: skip
@option("--max-worker-age-s", type=click.FloatRange(0), default=_USUAL.max_worker_age_s, show_default=True,
        help="...or at this age; 0: never.")  # fmt: skip
@option("--isolation", type=click.Choice(["process", "contained"]), default="process", show_default=True,
        help="contained: jobs in namespaces, read-only file systems and control groups of their own; the node tries"
        " known escapes first, and does not start if one succeeds.")  # fmt: skip
@option("--drain-s", type=click.FloatRange(0), default=15.0, show_default=True,
        help="How long what runs may go on after SIGTERM; a second signal ends it at once.")  # fmt: skip
@metrics_options
@log_level_option("info")
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--lifeline-fd", type=int, hidden=True)
def node(
    connection: Path | None,
    name: str | None,
    slots: int | None,
    labels: dict[str, str],
    resources: dict[str, float],
    queues: tuple[str, ...],
    directory: Path | None,
    transport: str,
    preload: tuple[str, ...],
    init: str | None,
    start: str,
    env: tuple[str, ...],
    min_workers: int,
    idle_s: float,
    max_jobs_per_worker: int,
    max_worker_age_s: float,
    isolation: str,
    drain_s: float,
    metrics: Listen,
    log_level: str,
    ready_fd: int | None,
    lifeline_fd: int | None,
) -> None:
    """Run a node: it takes jobs from the coordinator and runs them in worker processes."""
    from cluster.keys import connection_path, find_connection
    from node.main import Settings, run

    log_to_stderr(log_level)
    if isolation == "contained" and start == "spawn":
        raise click.UsageError("contained workers are forked: leave out --start spawn")
    secret = connection or os.environ.get("GANGER_CONNECTION") or connection_path("node")
    given: dict[str, Any] = {"name": name, "slots": slots}
    run(
        Settings(
            connection=find_connection("node", connection),
            labels=labels,
            resources=resources,
            queues=queues,
            directory=directory,
            transport=transport,
            preload=preload,
            init=init or "",
            start=start,
            env=env,
            isolation=isolation,
            limits=replace(
                _USUAL,
                min_workers=min_workers,
                idle_s=idle_s,
                max_jobs_per_worker=max_jobs_per_worker,
                max_worker_age_s=max_worker_age_s,
            ),
            secrets=(Path(secret).expanduser(),),
            drain_s=drain_s,
            metrics=metrics,
            ready_fd=ready_fd,
            lifeline_fd=lifeline_fd,
            **{k: v for k, v in given.items() if v is not None},
        )
    )
