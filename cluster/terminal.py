"""What people see of a cluster in a terminal. Rules of this file: values in, rich renderables out; no cluster.

The dictionaries are those of ``Client.status`` and ``Client.nodes``. Everything is readable without colour
and in 80 columns; into a pipe go plain lines and nothing that moves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.demo import Report, Screen

if TYPE_CHECKING:
    from cluster.doctor import Finding, State

STATE_STYLES = {
    "up": "green",
    "suspect": "yellow",
    "draining": "cyan",
    "drained": "cyan",
    "short of memory": "yellow",
    "lost": "bold red",
}
OUTCOME_STYLES = {"succeeded": "green", "failed": "red", "timed out": "red", "lost": "bold red"}
BAR_SLOTS = 8
"""A node's slots are drawn one by one up to this many, and as a number above."""

PICTURE_COLUMNS = 112
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
"""Fonts at hand: a picture in a README fetches nothing."""


PIPE_COLUMNS = 120
"""Width of what goes into a pipe or a log, where no terminal has one."""


def console(stderr: bool = False) -> Console:
    out = Console(stderr=stderr)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out = Console(stderr=stderr, width=PIPE_COLUMNS)
    return out


# ------------------------------------------------------------------------------------ figures


def seconds(value: float) -> str:
    """A duration for people: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``5 h 2 min``, ``3 d 4 h``."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(n: float | None) -> str:
    if n is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def _number(n: Any, style: str) -> Text:
    return Text(f"{n:,}", style=style if n else "dim")


# ------------------------------------------------------------------------------------ status and nodes


def status_panel(status: Mapping[str, Any]) -> Panel:
    """``Client.status`` on one look: who, how long, what waits, what runs, what became of the rest."""
    jobs = status["jobs"]
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim")
    head.add_column()
    if "address" in status:
        head.add_row("address", Text(str(status["address"])))
    head.add_row("coordinator", Text(f"{status['version']}, epoch {status['epoch']}, up {seconds(status['uptime_s'])}"))
    busy, slots = status["busy"], status["slots"]
    head.add_row("nodes", Text(f"{status['nodes']}, with {busy} of {slots} slots busy"))
    head.add_row("sessions", Text(str(status["sessions"])))

    figures = Table.grid(padding=(0, 3))
    finished = jobs["finished"]
    outcomes = {"succeeded": 0, "failed": 0, **{name: n for name, n in finished.items() if n}}
    columns = [
        *([("scheduled", jobs["scheduled"], "blue")] if jobs["scheduled"] else []),
        ("ready", jobs["ready"], "yellow"),
        ("leased", jobs["leased"], "cyan"),
        ("running", jobs["running"], "bold cyan"),
        *((name, n, OUTCOME_STYLES.get(name, "yellow")) for name, n in outcomes.items()),
    ]
    for _ in columns:
        figures.add_column(justify="right")
    figures.add_row(*(Text(name, style="dim") for name, _, _ in columns))
    figures.add_row(*(_number(n, style) for _, n, style in columns))
    return Panel(
        Group(head, Text(), figures),
        title=f"cluster {str(status['cluster_id'])[:8]}",
        title_align="left",
        border_style="blue",
        expand=False,
    )


def _slots(busy: int, slots: int) -> Text:
    if slots > BAR_SLOTS:
        return Text(f"{busy}/{slots}", style="cyan" if busy else "dim")
    return Text("■" * busy, style="cyan").append("□" * max(0, slots - busy), style="dim")


def _share_of_memory(node: Mapping[str, Any]) -> str:
    return size(node["memory_free_bytes"])


class _Flow:
    """Short texts one after the other; a line breaks only between two of them."""

    GAP = "  "

    def __init__(self, parts: Sequence[Text]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        line = Text()
        for part in self._parts:
            if line and line.cell_len + len(self.GAP) + part.cell_len > options.max_width:
                yield line
                line = Text()
            line = Text.assemble(line, self.GAP if line else "", part)
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [part.cell_len for part in self._parts]
        whole = sum(widths) + len(self.GAP) * (len(widths) - 1)
        return Measurement(max(widths), whole).with_maximum(options.max_width)


EVERYWHERE = frozenset({"cpus", "memory_bytes"})
"""Resources that each node offers as it finds them: of these only what is claimed is worth a look."""


def _claimed(name: str, claimed: float, offered: float) -> str:
    """``1/4``; of what is measured in bytes ``2/23.5 GiB``."""
    if not name.endswith("_bytes"):
        return f"{claimed:.12g}/{offered:.12g}"
    taken, total = (size(n).replace(".0 ", " ") for n in (claimed, offered))
    figure, unit = taken.split()
    return f"{figure if not claimed or total.endswith(f' {unit}') else taken}/{total}"


def _resources(node: Mapping[str, Any]) -> list[Text]:
    """Those that are not everywhere, and those of which something is claimed."""
    out = []
    for name, row in sorted(node["resources"].items()):
        claimed, offered = row["claimed"], row["offered"]
        if claimed or (offered and name not in EVERYWHERE):
            style = "yellow" if claimed >= offered else "cyan" if claimed else "dim"
            out.append(Text(f"{name} ").append(_claimed(name, claimed, offered), style=style))
    return out


def nodes_table(nodes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """``Client.nodes``, one line a node, the lost ones too; long names fold. Resources stand below: there are many, or
    none. A host is shown where a node does not have its name."""
    if not nodes:
        return Text("no nodes yet; start one with `cluster node`", style="yellow")
    ordered = sorted(nodes, key=lambda n: str(n["name"]))
    hosts = any(n["host"] != n["name"] for n in nodes)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("node", "host") if hosts else ("node",):
        table.add_column(name, overflow="fold")
    for name in ("state", "slots"):
        table.add_column(name, no_wrap=True)
    for name in ("queued", "finished", "load", "free", "heard"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    for n in ordered:
        load = n["load"]
        table.add_row(
            *(Text(str(n[what])) for what in (("name", "host") if hosts else ("name",))),
            Text(str(n["state"]), style=STATE_STYLES.get(n["state"], "")),
            _slots(n["busy"], n["slots"]),
            _number(n["queued"], "yellow"),
            _number(n["finished"], ""),
            "-" if load is None else f"{load:.2f}",
            _share_of_memory(n),
            f"{seconds(n['heard_s'])} ago",
            Text(", ".join(f"{k}={v}" for k, v in sorted(n["labels"].items()))),
        )
    with_resources = [(n, shown) for n in ordered if (shown := _resources(n))]
    if not with_resources:
        return table
    below = Table(box=None, header_style="dim", pad_edge=False)
    below.add_column("node", overflow="fold")
    below.add_column("claimed/offered")
    for n, shown in with_resources:
        below.add_row(Text(str(n["name"])), _Flow(shown))
    return Group(table, Text(), below)


def overview(status: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> Group:
    return Group(status_panel(status), Text(), nodes_table(nodes))


def up_panel(address: str, node: str, connection: Callable[[str], object]) -> Panel:
    """What to do with a cluster that has just come up; ``connection`` gives the file of a role."""
    return _how_to(
        "the cluster is up",
        ("address", address),
        ("node", node),
        ("connection", str(connection("client"))),
        ("submit", "from cluster import Client\nClient().submit(pow, 2, 10).result()"),
        ("look", "cluster status"),
        ("join", f"cluster node --connection {connection('node')}"),
        ("stop", "Ctrl-C"),
    )


def kept_panel(connection: str) -> Panel:
    """What to do with the cluster a demo has left."""
    return _how_to(
        "the cluster is still up",
        ("submit", f"from cluster import Client\nClient({connection!r}).submit(pow, 2, 10).result()"),
        ("look", f"cluster status --watch --connection {connection}"),
        ("stop", "Ctrl-C"),
    )


def _how_to(title: str, *rows: tuple[str, str]) -> Panel:
    body = Table.grid(padding=(0, 2))
    body.add_column(style="dim", no_wrap=True)
    body.add_column(overflow="fold")
    for name, text in rows:
        body.add_row(name, Text(text))
    return Panel(body, title=title, title_align="left", border_style="green", expand=False)


# ------------------------------------------------------------------------------------ the doctor

STATE_OF_FINDING_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}


def findings(found: Sequence[Finding], counts: Mapping[State, int]) -> Group:
    """What the doctor found, by group, and below each that is not well what to do; last, one line for all."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for width in (max((len(f.name) for f in found), default=0), 7):
        table.add_column(width=min(width + 2, 24), overflow="fold")
    table.add_column(overflow="fold")
    group = ""
    for f in found:
        if f.group != group:
            group = f.group
            table.add_row(Text(group, style="bold"))
        table.add_row(Text(f"  {f.name}"), Text(f.state, style=STATE_OF_FINDING_STYLES[f.state]), Text(f.found))
        if f.remedy:
            table.add_row("", "", Text(f"→ {f.remedy}", style=STATE_OF_FINDING_STYLES[f.state]))
    return Group(table, Text(), _findings_in_short(counts))


def _findings_in_short(counts: Mapping[State, int]) -> Text:
    several: dict[str, str] = {"problem": "problems", "warning": "warnings"}
    told = [f"{n} {state if n == 1 else several.get(state, state)}" for state, n in counts.items() if n]
    if counts["problem"]:
        return Text(f"✘ {', '.join(told)}", style="bold red")
    return Text(f"✔ no problem: {', '.join(told)}", style="bold green")


# ------------------------------------------------------------------------------------ the demo


class PlainScreen:
    """Lines for a pipe or a log: what happened, and every tenth of the way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, int] = {}

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    bad = say

    def progress(self, phase: str, done: int, total: int, nodes: Sequence[Mapping[str, Any]]) -> None:
        tenth = done * 10 // total if total else 10
        if tenth > self._told.get(phase, 0):
            self._told[phase] = tenth
            self.say(f"{PHASES[phase]}: {done:,} of {total:,}")


PHASES = {"cluster": "jobs done on the cluster", "check": "checked by a plain loop"}


class LiveScreen:
    """What happened above, the nodes and the way still to go below, in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._phases: dict[str, tuple[int, int]] = {}
        self._nodes: Sequence[Mapping[str, Any]] = ()

    def say(self, text: str) -> None:
        self._live.console.print(said(text))

    def bad(self, text: str) -> None:
        self._live.console.print(said(text, "bold red"))

    def progress(self, phase: str, done: int, total: int, nodes: Sequence[Mapping[str, Any]]) -> None:
        self._phases[phase] = (done, total)
        self._nodes = nodes
        self._live.update(demo_frame(self._phases, nodes))


class KeepingScreen:
    """Passes everything on, and keeps what a picture of the run needs."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._said: list[Text] = []
        self._frame: RenderableType = ""

    def say(self, text: str) -> None:
        self._said.append(said(text))
        self._screen.say(text)

    def bad(self, text: str) -> None:
        self._said.append(said(text, "bold red"))
        self._screen.bad(text)

    def progress(self, phase: str, done: int, total: int, nodes: Sequence[dict[str, Any]]) -> None:
        if phase == "cluster" and done < total and any(n["busy"] for n in nodes):
            self._frame = demo_frame({phase: (done, total)}, nodes)
        self._screen.progress(phase, done, total, nodes)

    def svg(self, command: str, report: Report) -> str:
        """What was said, the display as it stood near the end of the work, and the report."""
        out = Console(record=True, width=PICTURE_COLUMNS, file=StringIO(), force_terminal=True)
        out.print(Text("$ ", style="dim").append(command, style="bold"))
        out.print(Group(*self._said, self._frame, "", demo_report(report)))
        picture = out.export_svg(title=command)
        picture = re.sub(r"@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)
        return picture.replace("Fira Code, monospace", FONTS)


def said(text: str, style: str = "") -> Text:
    return Text.assemble(("• ", "blue"), (text, style))


@contextmanager
def screen_for(console: Console) -> Iterator[Screen]:
    """In a terminal a live display that goes away at its end, so that only what was said stays; else lines."""
    if not console.is_terminal:
        yield PlainScreen(console)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield LiveScreen(live)


def demo_frame(phases: Mapping[str, tuple[int, int]], nodes: Sequence[Mapping[str, Any]]) -> RenderableType:
    ways = Table.grid(padding=(0, 2))
    for phase, (done, total) in phases.items():
        ways.add_row(
            Text(PHASES[phase], style="dim"),
            ProgressBar(total=max(1, total), completed=done, width=32),
            Text(f"{done:,} of {total:,}"),
        )
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("node", min_width=10)
    table.add_column("state", min_width=8)
    table.add_column("slots", min_width=8)
    table.add_column("queued", justify="right")
    table.add_column("finished", justify="right")
    for n in sorted(nodes, key=lambda n: str(n["name"])):
        table.add_row(
            Text(str(n["name"])),
            Text(str(n["state"]), style=STATE_STYLES.get(n["state"], "")),
            _slots(n["busy"], n["slots"]),
            _number(n["queued"], "yellow"),
            _number(n["finished"], ""),
        )
    return Group(Text(), table, Text(), ways)


def demo_report(report: Report) -> Group:
    """The end of a demo: the findings, who found them, and whether anything is missing."""
    t = report.totals
    parts: list[RenderableType] = []

    worst = Table(
        box=None,
        header_style="dim",
        pad_edge=False,
        title="most complex functions",
        title_justify="left",
        title_style="bold",
    )
    worst.add_column("complexity", justify="right")
    worst.add_column("function", overflow="fold")
    worst.add_column("where", overflow="fold")
    for path, f in report.worst:
        worst.add_row(Text(str(f.complexity), style="bold yellow"), Text(f.name), Text(f"{path}:{f.line}", style="dim"))
    parts += [worst, Text()]

    shares = Table(
        box=None, header_style="dim", pad_edge=False, title="who did it", title_justify="left", title_style="bold"
    )
    shares.add_column("node", min_width=10)
    shares.add_column("worker", justify="right")
    shares.add_column("jobs", justify="right")
    shares.add_column("share", justify="right")
    shares.add_column("busy", justify="right")
    shares.add_column("")
    remarks = {report.killed: Text("killed on the way", style="red"), report.replacement: Text("added then")}
    for s in report.shares:
        share = s.jobs / report.results
        shares.add_row(
            Text(s.node), str(s.pid), f"{s.jobs:,}", f"{share:.0%}", seconds(s.busy_s), remarks.get(s.node, "")
        )
    for name in (report.killed, report.replacement):
        if name is not None and all(s.node != name for s in report.shares):
            shares.add_row(Text(name), "-", "0", "0%", "-", remarks[name])
    parts += [shares, Text()]

    mean = t.complexity / t.functions if t.functions else 0.0
    figures = Table.grid(padding=(0, 2))
    figures.add_column(style="dim")
    figures.add_column()
    figures.add_row(
        "found",
        f"{t.files:,} files ({t.unparsed} made not to parse), {t.lines:,} lines, {t.classes:,} classes,"
        f" {t.functions:,} functions, mean complexity {mean:.1f}",
    )
    figures.add_row(
        "speed",
        f"{report.jobs_per_s:,.0f} jobs/s: {seconds(report.cluster_s)} on the cluster, with a node lost;"
        f" a plain loop took {seconds(report.loop_s)}",
    )
    again = report.executions - report.results
    if report.noticed_after_s is not None:
        figures.add_row(
            "lost",
            f"{report.killed} at {report.killed_at_s:.1f} s, noticed {report.noticed_after_s:.1f} s later;"
            f" {report.executions:,} executions made {report.results:,} results: {again} ran again",
        )
    parts += [figures, Text(), verdict(report)]
    return Group(*parts)


def verdict(report: Report) -> Text:
    if report.ok:
        return Text(
            f"✔ every one of {report.totals.files:,} files has exactly one result, and all equal those of a plain loop",
            style="bold green",
        )
    shown = report.problems[:20]
    more = len(report.problems) - len(shown)
    lines = [f"✘ {p}" for p in shown] + ([f"✘ ... and {more} more"] if more else [])
    return Text("\n".join(lines), style="bold red")
