"""``cluster node``. Rules of this file: options to settings; the rest is main's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster.logs import log_to_stderr


def _labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    out = {}
    for value in values:
        key, equals, label = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", ctx, param)
        out[key] = label
    return out


@click.command()
@click.option("--connection", type=click.Path(path_type=Path, dir_okay=False), envvar="GANGER_NODE_CONNECTION",
              help="The coordinator's node.json; default the one on this machine.")  # fmt: skip
@click.option("--name", envvar="GANGER_NODE_NAME", help="Unique name of this node; default the host name.")
@click.option("--slots", type=click.IntRange(1, 4096), envvar="GANGER_SLOTS",
              help="Jobs run at a time; default the number of processors.")  # fmt: skip
@click.option("--label", "labels", multiple=True, callback=_labels, metavar="KEY=VALUE", envvar="GANGER_LABELS",
              help="Something jobs may demand of a node; may be repeated.")  # fmt: skip
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), envvar="GANGER_NODE_DIRECTORY",
              help="Keeps the node's life number; default ~/.ganger/nodes/NAME.")  # fmt: skip
@click.option("--transport", type=click.Choice(["auto", "tcp", "ipc"]), default="auto", show_default=True,
              envvar="GANGER_TRANSPORT", help="auto: the local socket where there is one, else TCP.")  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
              envvar="GANGER_LOG_LEVEL", show_default=True)  # fmt: skip
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--lifeline-fd", type=int, hidden=True)
def node(
    connection: Path | None,
    name: str | None,
    slots: int | None,
    labels: dict[str, str],
    directory: Path | None,
    transport: str,
    log_level: str,
    ready_fd: int | None,
    lifeline_fd: int | None,
) -> None:
    """Run a node: it takes jobs from the coordinator and runs them in worker processes."""
    from cluster.keys import find_connection
    from node.main import Settings, run

    log_to_stderr(log_level)
    given: dict[str, Any] = {"name": name, "slots": slots}
    run(
        Settings(
            connection=find_connection("node", connection),
            labels=labels,
            directory=directory,
            transport=transport,
            ready_fd=ready_fd,
            lifeline_fd=lifeline_fd,
            **{k: v for k, v in given.items() if v is not None},
        )
    )
