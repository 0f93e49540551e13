"""``cluster coordinator``. Rules of this file: options to settings; the rest is main's."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.config import Times
from cluster.logs import log_to_stderr

LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command()
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), envvar="GANGER_DIRECTORY",
              help="Keeps keys, epoch and data; default ~/.ganger/coordinator.")  # fmt: skip
@click.option("--host", default="127.0.0.1", envvar="GANGER_HOST", show_default=True, help="Address to listen on.")
@click.option("--port", default=7077, type=click.IntRange(0, 65535), envvar="GANGER_PORT", show_default=True,
              help="Port to listen on; 0 for any free one.")  # fmt: skip
@click.option("--advertise", envvar="GANGER_ADVERTISE", metavar="HOST[:PORT]",
              help="Address for the connection files, if others reach this host by another one.")  # fmt: skip
@click.option("--heartbeat-s", default=Times().heartbeat_s, type=click.FloatRange(min=0.05), show_default=True,
              envvar="GANGER_HEARTBEAT_S", help="Nodes show themselves this often.")  # fmt: skip
@click.option("--lease-s", default=Times().lease_s, type=click.FloatRange(min=0.5), show_default=True,
              envvar="GANGER_LEASE_S", help="Silence after which a node is given up.")  # fmt: skip
@click.option("--gone-s", default=Times().gone_s, type=click.FloatRange(min=0.2), show_default=True,
              envvar="GANGER_GONE_S", help="The same where its connection is known to be closed.")  # fmt: skip
@click.option("--log-level", type=LEVELS, default="info", envvar="GANGER_LOG_LEVEL", show_default=True)
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
            ready_fd=ready_fd,
            lifeline_fd=lifeline_fd,
            orphan_removes=remove_directory,
        )
    )
