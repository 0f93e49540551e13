"""Commands about nodes: give one nothing new, give it work again. Rules of this file: orders, and answers to words."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import click

from cluster import job_pictures
from cluster.commands import Age, client_of, connection_option, json_option


def _tell(name: str, node: dict[str, Any] | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"node": node}))
        return
    held = 0 if node is None else node["busy"] + node["queued"]
    here = "it is not here" if node is None else f"it is {node['state']}, and has {held} attempt{'s' * (held != 1)}"
    click.echo(f"node {job_pictures.plain(name)}: {here}")


@click.command(short_help="Give a node nothing new, and let what runs there end.")
@click.argument("name")
@click.option("--timeout", type=Age(), help="Then what runs there still is taken back, and runs again elsewhere.")
@click.option("--wait", is_flag=True, help="Until nothing runs there any more.")
@json_option
@connection_option
def drain(connection: str | None, as_json: bool, name: str, timeout: timedelta | None, wait: bool) -> None:
    """Give a node nothing new until `cluster undrain`. What has not started there goes elsewhere, what runs goes on.

    It stays so over restarts of the node and of the coordinator. What must not start twice is waited for, whatever the
    timeout.
    """
    with client_of(connection) as client:
        node = client.drain(name, timeout_s=None if timeout is None else timeout.total_seconds(), wait=wait)
    _tell(name, node, as_json)


@click.command(short_help="Give a node work again.")
@click.argument("name")
@json_option
@connection_option
def undrain(connection: str | None, as_json: bool, name: str) -> None:
    """Give a node work again that was drained."""
    with client_of(connection) as client:
        node = client.undrain(name)
    _tell(name, node, as_json)


COMMANDS = (drain, undrain)
