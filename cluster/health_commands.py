"""``cluster health``: whether all is well, for people and for programs that watch. Rules of this file: it asks, and
adds nothing to the answers.
"""

from __future__ import annotations

import json
from typing import Any

import click

from cluster.commands import Failure, client_of, connection_option, json_option
from cluster.errors import ClusterError
from cluster.job_pictures import plain

Check = dict[str, Any]
"""``what`` was asked, whether it is ``ok``, and ``why``."""


def _of_addresses(addresses: tuple[str, ...]) -> list[Check]:
    from cluster.health import ask

    out = []
    for address in addresses:
        for page in ("/healthz", "/readyz"):
            ok, words = ask(address, page)
            out.append({"what": f"{address}{page}", "ok": ok, "why": words})
    return out


def _of_cluster(connection: str | None) -> list[Check]:
    """By the coordinator's own word. A node that is drained by order is well."""
    try:
        with client_of(connection) as client:
            nodes = client.nodes()
    except ClusterError as e:
        return [{"what": "coordinator", "ok": False, "why": str(e)}]
    out: list[Check] = [{"what": "coordinator", "ok": True, "why": "it answers"}]
    for node in nodes:
        out.append({"what": f"node {node['name']}", "ok": node["state"] != "suspect", "why": node["state"]})
    if not nodes:
        out.append({"what": "nodes", "ok": False, "why": "there are none: nothing can run"})
    return out


@click.command(short_help="Whether all is well; the exit code says so too.")
@click.argument("addresses", nargs=-1, metavar="[HOST:PORT]...")
@json_option
@connection_option
def health(connection: str | None, as_json: bool, addresses: tuple[str, ...]) -> None:
    """Ask whether all is well: exit code 0 if it is, 1 if not.

    With addresses (those of --metrics-port) each process is asked for /healthz and /readyz; without them the
    coordinator is asked for itself and its nodes.
    """
    checks = _of_addresses(addresses) if addresses else _of_cluster(connection)
    bad = [check for check in checks if not check["ok"]]
    if as_json:
        click.echo(json.dumps({"ok": not bad, "checks": checks}))
    else:
        for check in checks:
            click.echo(f"{'ok ' if check['ok'] else 'bad'}  {plain(check['what'])}: {plain(check['why'])}")
    if bad:
        if as_json:
            raise SystemExit(1)
        raise Failure(f"{len(bad)} of {len(checks)} checks failed")


COMMANDS = (health,)
