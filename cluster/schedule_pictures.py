"""Schedules in a terminal. Rules of this file: those of ``terminal``: values in, renderables out, no cluster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.crontab import Line, Verdict
from cluster.job_pictures import STATE_STYLES, plain
from cluster.schedules import Run, Schedule
from cluster.terminal import seconds, size

_STYLES = {**STATE_STYLES, "skipped": "yellow", "unfinished": "cyan"}
_VERDICTS = {Verdict.TAKEN: "green", Verdict.REMARK: "yellow", Verdict.REFUSED: "bold red"}
_WAYS = ("overlap", "catch_up", "catch_up_window_s", "jitter_s", "pause_after", "overdue_s")


def _said(text: str, style: str = "") -> Text:
    return Text(plain(text), style=style)


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def moment(when: datetime | None) -> str:
    """On this machine's clock."""
    return "-" if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _in(when: datetime, now: datetime) -> str:
    left = (when - now).total_seconds()
    return f"in {seconds(left)}" if left >= 0 else f"{seconds(-left)} ago"


def state(schedule: Schedule) -> Text:
    if schedule.gave_up:
        return Text("gave up", style="bold red")
    if schedule.paused is not None:
        return Text("paused", style="yellow")
    if schedule.overdue:
        return Text("overdue", style="bold red")
    if schedule.running:
        return Text(f"{schedule.running} running", style="cyan")
    if schedule.next is None and not schedule.trigger.reboot:
        return Text("over", style="dim")
    return Text("waits", style="green")


def _value(option: str, value: Any) -> str:
    """As a command line would take it."""
    if isinstance(value, list | tuple):
        return " ".join(f"{one[0]}={_value(*one)}" if isinstance(one, list | tuple) else str(one) for one in value)
    if option.endswith("_bytes"):
        return size(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _last(run: Run | None, now: datetime) -> Text:
    if run is None:
        return Text("-", style="dim")
    return Text(run.outcome, style=_STYLES.get(run.outcome, "")).append(f" {_in(run.at, now)}", style="dim")


def schedules_table(schedules: Sequence[Schedule], now: datetime) -> RenderableType:
    """One line a schedule."""
    if not schedules:
        return Text("no schedule has all of that", style="yellow")
    table = _table("schedule", "state", "when", "next", "last")
    for one in schedules:
        due = Text("-", style="dim") if one.next is None else Text(_in(one.next, now))
        table.add_row(_said(one.name), state(one), _said(one.trigger.describe()), due, _last(one.last, now))
    return table


def schedule_panel(schedule: Schedule, now: datetime) -> RenderableType:
    """All of one, with its next times and its last lines."""
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", no_wrap=True)
    head.add_column(overflow="fold")
    head.add_row("state", state(schedule))
    if schedule.paused:
        head.add_row("", _said(schedule.paused))
    head.add_row("when", _said(schedule.trigger.describe()))
    how = f"by value, as of {moment(schedule.code_at)}" if schedule.by_value else "by name"
    head.add_row("calls", _said(f"{schedule.function}({schedule.arguments})").append(f"  {how}", style="dim"))
    if schedule.options:
        head.add_row("jobs", _said(", ".join(f"{k} {_value(k, v)}" for k, v in sorted(schedule.options.items()))))
    head.add_row("ways", _said(", ".join(f"{way} {_value(way, getattr(schedule, way))}" for way in _WAYS)))
    if schedule.on_missed is not None:
        head.add_row("on missed", _said(schedule.on_missed))
    if schedule.source:
        head.add_row("from", _said(schedule.source))
    head.add_row("made", Text(moment(schedule.made)))
    for name, value in (("left", schedule.left), ("waiting", schedule.waiting), ("backfills", schedule.backfills)):
        if value:
            head.add_row(name, Text(f"{value:,}"))
    if schedule.failures:
        head.add_row("failures", Text(f"{schedule.failures:,} in a row", style="red"))
    head.add_row("succeeded", Text(moment(schedule.succeeded)))
    if schedule.paused is None:
        for at in schedule.upcoming(3):
            head.add_row("next", Text(_both(at)).append(f"  {_in(at, now)}", style="dim"))
    return Panel(head, title=f"schedule {plain(schedule.name)}", title_align="left", border_style="blue", expand=False)


def _both(at: datetime) -> str:
    """In local time and, where that is another, in the schedule's."""
    local, own = moment(at), at.strftime("%Y-%m-%d %H:%M:%S %Z")
    return local if local == own else f"{local}  ({own})"


def history_table(runs: Sequence[Run]) -> RenderableType:
    """The newest first."""
    if not runs:
        return Text("it has not fired yet", style="yellow")
    table = _table("time", "kind", "outcome", "late", "ran", "job or reason", right=("late", "ran"))
    for run in runs:
        skipped = run.outcome == "skipped"
        table.add_row(
            moment(run.nominal),
            run.kind,
            Text(run.outcome, style=_STYLES.get(run.outcome, "")),
            "-" if skipped else f"{run.late_s * 1000:.0f} ms" if run.late_s < 1 else seconds(run.late_s),
            "-" if run.run_s is None or skipped else seconds(run.run_s),
            _said(run.why if skipped else run.job or "-"),
        )
    return table


def times_table(times: Sequence[datetime], now: datetime) -> RenderableType:
    """Fire times, in local and in schedule time."""
    if not times:
        return Text("it does not fire any more", style="yellow")
    table = _table("local time", "schedule time", "", right=("",))
    for at in times:
        own = f"{at.strftime('%a %Y-%m-%d %H:%M:%S %Z')}  {at.tzinfo}"
        table.add_row(moment(at), own, Text(_in(at, now), style="dim"))
    return table


def import_report(source: str, lines: Sequence[Line], counts: Sequence[tuple[str, int]]) -> RenderableType:
    """What became of each line of a crontab."""
    table = _table("line", "verdict", "text", right=("line",))
    for line in lines:
        text = _said(line.text.replace("\t", " "))
        if line.entry is not None:
            text.append(f"\n{plain(line.entry.name)}", style="dim")
        if line.why:
            text.append(f"\n{plain(line.why)}", style=_VERDICTS[line.verdict])
        table.add_row(str(line.number), Text(line.verdict, style=_VERDICTS[line.verdict]), text)
    total = ", ".join(f"{n:,} {word}" for word, n in counts if n)
    return Group(Text(plain(source), style="bold"), table, Text(total or "nothing to do"))


def now() -> datetime:
    return datetime.now(UTC)
