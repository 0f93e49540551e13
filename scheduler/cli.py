"""``cluster coordinator``. Rules of this file: options to settings; the rest is main's."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.commands import log_level_option, metrics_options, option
from cluster.config import Times
from cluster.health import Listen
from cluster.logs import log_to_stderr


@click.command()
@option("--directory", type=click.Path(path_type=Path, file_okay=False),
        help="Keeps keys, epoch and data; default ~/.ganger/coordinator.")  # fmt: skip
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@option("--port", default=7077, type=click.IntRange(0, 65535), show_default=True,
        help="Port to listen on; 0 for any free one.")  # fmt: skip
@option("--advertise", metavar="HOST[:PORT]",
        help="Address for the connection files, if others reach this host by another one.")  # fmt: skip
@option("--heartbeat-s", default=Times().heartbeat_s, type=click.FloatRange(min=0.05), show_default=True,
        help="Nodes show themselves this often.")  # fmt: skip
@option("--lease-s", default=Times().lease_s, type=click.FloatRange(min=0.5), show_default=True,
        help="Silence after which a node is given up.")  # fmt: skip
@option("--gone-s", default=Times().gone_s, type=click.FloatRange(min=0.2), show_default=True,
        help="The same where its connection is known to be closed.")  # fmt: skip
@metrics_options
@option("--metrics-function", "metrics_functions", multiple=True, metavar="NAME",
        envvar="GANGER_METRICS_FUNCTIONS",
        help="A function with series of its own; may be repeated. Without it the first that come up.")  # fmt: skip
@log_level_option("info")
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--lifeline-fd", type=int, hidden=True)
@click.option("--remove-directory", is_flag=True, hidden=True)
def coordinator(
    directory: Path | None,
    host: str,
    port: int,
    advertise: str | None,
    heartbeat_s: float,
    lease_s: float,
    gone_s: float,
    metrics: Listen,
    metrics_functions: tuple[str, ...],
    log_level: str,
    ready_fd: int | None,
    lifeline_fd: int | None,
    remove_directory: bool,
) -> None:
    """Run the coordinator: it holds the queue and places jobs on nodes."""
    from scheduler.main import Settings, run

    log_to_stderr(log_level)
    times = Times(
        heartbeat_s=heartbeat_s,
        suspect_s=min(3.5 * heartbeat_s, lease_s / 2),
        lease_s=lease_s,
        gone_s=min(gone_s, lease_s),
    )
    run(
        Settings(
            directory=directory,
            host=host,
            port=port,
            advertise=advertise,
            times=times,
            metrics=metrics,
            metrics_functions=metrics_functions,
            ready_fd=ready_fd,
            lifeline_fd=lifeline_fd,
            orphan_removes=remove_directory,
        )
    )
