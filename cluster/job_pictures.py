"""Jobs and queues in a terminal. Rules of this file: those of ``terminal``: values in, renderables out, no cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.terminal import seconds, size

STATE_STYLES = {
    "scheduled": "blue",
    "ready": "yellow",
    "leased": "cyan",
    "running": "bold cyan",
    "adrift": "magenta",
    "succeeded": "green",
    "failed": "red",
    "timed out": "red",
    "expired": "yellow",
    "cancelled": "dim",
    "lost": "bold red",
}


def plain(text: str) -> str:
    """What users and their jobs have written, fit for one line of a terminal, which it cannot move."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _said(text: str, style: str = "") -> Text:
    return Text(plain(text), style=style)


def _state(job: Mapping[str, Any]) -> Text:
    text = Text(str(job["state"]), style=STATE_STYLES.get(job["state"], ""))
    return text.append(" dead", style="bold red") if job["dead"] else text


def _ago(moment: float | None, now: float) -> str:
    return "-" if moment is None else f"{seconds(max(0.0, now - moment))} ago"


def jobs_table(jobs: Sequence[Mapping[str, Any]], now: float, limit: int) -> RenderableType:
    """``Client.jobs``, one line a job."""
    if not jobs:
        return Text("no job has all of that", style="yellow")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("id", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("function", "arguments"):
        table.add_column(name, overflow="fold")
    table.add_column("queue", no_wrap=True)
    table.add_column("node", no_wrap=True)
    table.add_column("tries", justify="right")
    table.add_column("when", justify="right", no_wrap=True)
    table.add_column("error", overflow="fold")
    for job in jobs:
        table.add_row(
            Text(job["id"]),
            _state(job),
            _said(job["function"]),
            _said(job["arguments"], style="dim"),
            _said(job["queue"]),
            _said(job["node"] or "-"),
            str(job["attempt"]),
            _ago(job["ended"] or job["accepted"], now),
            _said(job["error"], style="red" if job["ended"] else "yellow"),
        )
    if len(jobs) < limit:
        return table
    return Group(table, Text(f"the first {limit}; more with --limit", style="dim"))


_DATED = "%Y-%m-%d %H:%M:%S %Z"


def _moment(moment: float, form: str = _DATED) -> str:
    return datetime.fromtimestamp(moment).astimezone().strftime(form)


def candidate(node: Mapping[str, Any]) -> str:
    """A line of ``Client.candidates``."""
    if not node["takes"]:
        return f"node {node['node']}: {node['why']}"
    queried = node.get("queried", 0.0)
    by = "as the load query says" if queried and queried >= node["penalty"] else "as others use it"
    penalty = f", and counts {node['penalty']:.2f} fuller, {by}" if node["penalty"] else ""
    warm = "; it has run the function lately" if node["warm"] else ""
    preferred = f"; it has the preferred {', '.join(node['preferred'])}" if node.get("preferred") else ""
    avoided = "; the job's last attempt failed there, so others go first" if node.get("avoided") else ""
    filled = f"has {node['outstanding']} on {node['slots']} slots"
    head = f"node {node['node']}: could take it; {filled}{penalty}: score {node['score']:.2f}"
    return f"{head}{preferred}{warm}{avoided}"


def job_panel(job: Mapping[str, Any], why: Sequence[str], now: float) -> RenderableType:
    """``Client.job``: what it is, why it does not run, and what became of each attempt."""
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", no_wrap=True)
    head.add_column(overflow="fold")
    head.add_row("state", _state(job))
    for line in why:
        head.add_row("", _said(line))
    how = "by value" if job["by_value"] else "by name"
    head.add_row("calls", _said(f"{job['function']}({job['arguments']})").append(f"  {how}", style="dim"))
    head.add_row("queue", _said(job["queue"]))
    for name in ("tags", "after"):
        if job[name]:
            head.add_row(name, _said(", ".join(job[name])))
    for name, title in (("key", "key"), ("retry_of", "repeats"), ("parent", "parent")):
        if job[name]:
            head.add_row(title, _said(job[name]))
    if job["root"] not in (job["id"], job["parent"]):
        head.add_row("root", _said(job["root"]))
    head.add_row("handed in", _said(f"{_moment(job['accepted'])} by {job['owner']}, namespace {job['namespace']}"))
    if job["due"] and job["due"] > now:
        head.add_row("due", Text(f"{_moment(job['due'])}, in {seconds(job['due'] - now)}"))
    if job["saved_bytes"]:
        head.add_row("saved", Text(f"{job['saved_bytes']:,} bytes, for its next attempt"))
    if job["ended"]:
        head.add_row("ended", Text(f"{_moment(job['ended'])}, {seconds(job['ended'] - job['accepted'])} later"))
    if job["error"]:
        head.add_row("error", _said(job["error"], style="red"))
    parts: list[RenderableType] = [head]
    if job["attempts"]:
        parts += [Text(), _attempts(job["attempts"], job["accepted"])]
    return Panel(Group(*parts), title=f"job {job['id']}", title_align="left", border_style="blue", expand=False)


def _attempts(attempts: Sequence[Mapping[str, Any]], accepted: float) -> Table:
    """What of the record of each is worth a place; ``--json`` has all. Those that took no day have no date."""
    quick = attempts[-1]["ended"] - accepted < 86_400
    measured = any(tried["cpu_s"] is not None for tried in attempts)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("attempt", "queued", "ran", *(("cpu", "memory") if measured else ()), "worker"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("node", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    table.add_column("how", overflow="fold")
    for tried in attempts:
        used = [seconds(tried["cpu_s"]) if tried["cpu_s"] is not None else "-", size(tried["peak_bytes"])]
        table.add_row(
            str(tried["number"]),
            seconds(tried["queued_s"] + tried["waited_s"]),
            seconds(tried["run_s"]) if tried["run_s"] else "-",
            *(used if measured else ()),
            str(tried["worker"] or "-") + " cold" * tried["cold"],
            _said(tried["node"]),
            _moment(tried["ended"], "%H:%M:%S" if quick else _DATED),
            _said(tried["error"], style="red") if tried["error"] else Text("succeeded", style="green"),
        )
    return table


def queues_table(queues: Sequence[Mapping[str, Any]]) -> RenderableType:
    """``Client.queues``, one line a queue."""
    if not queues:
        return Text("no queue has jobs or settings of its own", style="yellow")
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("queue", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("weight", "jobs", "ready", "placed", "most", "per node"):
        table.add_column(name, justify="right", no_wrap=True)
    for q in queues:
        table.add_row(
            _said(q["name"]),
            Text("paused", style="yellow") if q["paused"] else Text("open", style="green"),
            str(q["weight"]),
            f"{q['jobs']:,}",
            f"{q['ready']:,}",
            f"{q['leased']:,}",
            "-" if q["max_running"] is None else str(q["max_running"]),
            "-" if q["max_per_node"] is None else str(q["max_per_node"]),
        )
    return table
