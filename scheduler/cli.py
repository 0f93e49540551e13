"""``cluster coordinator``. Rules of this file: options to settings; the rest is main's."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import click

from cluster.commands import log_level_option, metrics_options, option
from cluster.config import CoordinatorLimits, Times
from cluster.health import Listen
from cluster.logs import log_to_stderr


def _url(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """It may hold a password: no error repeats it."""
    if value is None:
        return None
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter("it begins neither with http:// nor with https://", ctx, param)
    try:
        parts = urlsplit(value)
        sound = bool(parts.hostname) and parts.port != 0 and "@" not in parts.path and not set("?#") & set(value)
    except ValueError:
        sound = False
    if not sound:
        how = "in a user or a password / ? # and % are written as %2F %3F %23 and %25"
        raise click.BadParameter(f"it is not as http://HOST:PORT or https://USER:PASSWORD@HOST/PATH; {how}", ctx, param)
    return value


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
@option("--load-weight", default=CoordinatorLimits().load_weight, type=click.FloatRange(0, 100), show_default=True,
        help="What others use of a node's processors counts so much against it; 0: not at all.")  # fmt: skip
@option("--load-query", metavar="PROMQL",
        help="Asked of --prometheus: one more load of each ganger_node, 0 for idle to 1 for full.")  # fmt: skip
@option(
    "--prometheus",
    metavar="URL",
    callback=_url,
    help="The Prometheus to ask, as http://127.0.0.1:9090 or, best in the variable, https://USER:PASSWORD@HOST.",
)
@option(
    "--prometheus-token-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Holds a bearer token for it, and is read for each request.",
)
@option("--load-query-s", default=5.0, type=click.FloatRange(min=0.5), show_default=True,
        help="How often it is asked; an answer counts less from twice that age on.")  # fmt: skip
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
    load_weight: float,
    load_query: str | None,
    prometheus: str | None,
    prometheus_token_file: Path | None,
    load_query_s: float,
    metrics: Listen,
    metrics_functions: tuple[str, ...],
    log_level: str,
    ready_fd: int | None,
    lifeline_fd: int | None,
    remove_directory: bool,
) -> None:
    """Run the coordinator: it holds the queue and places jobs on nodes."""
    from scheduler.load_query import LoadQuery
    from scheduler.main import Settings, run

    if load_query and not prometheus:
        raise click.UsageError("--load-query needs --prometheus, the URL of who answers it")
    if prometheus_token_file and prometheus and "@" in urlsplit(prometheus).netloc:
        raise click.UsageError(
            "--prometheus names a user, and --prometheus-token-file is another way: give one of them"
        )
    query = None
    if load_query and prometheus:
        query = LoadQuery(prometheus, load_query, load_query_s, prometheus_token_file)
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
            limits=CoordinatorLimits(load_weight=load_weight),
            metrics=metrics,
            metrics_functions=metrics_functions,
            load_query=query,
            ready_fd=ready_fd,
            lifeline_fd=lifeline_fd,
            orphan_removes=remove_directory,
        )
    )
