"""What ``client.schedule`` and ``client.schedules`` do. Rules of this file: shell; checks, packs, and asks the
coordinator, which keeps the schedules and decides all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from cluster import errors
from cluster.code_marks import mark_of
from cluster.config import INLINE_BYTES
from cluster.payload import holds_code, pack_call, pack_function
from cluster.triggers import BadTrigger, Trigger, cron, from_wire
from cluster.triggers.moments import moment_us, zone_of

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.futures import Future
    from cluster.options import Webhook

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "kill_other", "allow"]
CatchUp = Literal["all", "latest", "none"]

NOT_FOR_SCHEDULES = {
    "key": "a firing has a key of its own, made of namespace, schedule and nominal time",
    "at": "the trigger says when; at(...) is one",
    "after": "jobs that are over by the next time cannot be waited for",
}
"""Options of jobs that a schedule's jobs cannot have, and why."""

_PLANS = ("overlap", "catch_up", "catch_up_window_s", "jitter_s", "pause_after", "overdue_s")


@dataclass(frozen=True, slots=True)
class Run:
    """One line of a schedule's history: a firing, or times that were skipped for one reason."""

    kind: str
    """``scheduled``, ``manual``, ``backfill`` or ``reboot``."""
    nominal: datetime
    """The time it stands for; of times that were skipped, the first."""
    before: datetime | None
    """Skipped were all times before this."""
    at: datetime
    """When it fired, or was skipped."""
    late_s: float
    """How long after it was due, its jitter included."""
    ended: datetime | None
    run_s: float | None
    outcome: str
    """That of its job, or ``unfinished``, or ``skipped``."""
    why: str
    """The reason for which it was skipped."""
    job: str | None
    """The id of its job."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule, as the coordinator keeps it."""

    name: str
    trigger: Trigger
    function: str
    """What is called, as people read it,"""
    arguments: str
    """...with what."""
    by_value: bool
    """Whether the function goes by value: then it is as it was at ``code_at``. Else it is what its nodes import."""
    code_at: datetime
    options: Mapping[str, Any]
    """Of its jobs, those that differ from the usual."""
    overlap: str
    catch_up: str
    catch_up_window_s: float
    jitter_s: float
    pause_after: int
    overdue_s: float
    on_missed: str | None
    """What is told of missed times: the name of a function or, without what is secret in it, a URL."""
    source: str
    """Where it was imported from."""
    made: datetime
    next: datetime | None
    """On the clock of its trigger's zone; None if it is paused, or over."""
    paused: str | None
    """The note; None if it is not paused."""
    gave_up: bool
    """It was paused for its failures."""
    left: int | None
    """How often it still fires; None for ever."""
    running: int
    """Jobs that have not ended,"""
    waiting: int
    """...firings that wait for these,"""
    backfills: int
    """...and ranges that are being filled."""
    failures: int
    """In a row."""
    succeeded: datetime | None
    """When a job of it has last succeeded."""
    overdue: bool
    """It has had no success for longer than its ``overdue_s``."""
    last: Run | None
    created: bool = False
    """Whether ``client.schedule`` has made it,"""
    changed: tuple[str, ...] = ()
    """...or what it has changed."""
    said: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """All of it as plain values, as the command line's ``--json`` has it."""

    def upcoming(self, count: int = 10) -> list[datetime]:
        """The next nominal times from now on, without jitter, on the clock of the trigger's zone."""
        left = count if self.left is None else min(count, self.left)
        return self.trigger.upcoming(datetime.now(UTC), left) if left else []


Runs = list[Run]
Moments = list[datetime]


class Schedules:
    """``client.schedules``: those of the client's namespace; iterating gives them by name.

    Each method raises :class:`errors.ClusterError` if there is no such schedule, or with what is wrong.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def __iter__(self) -> Iterator[Schedule]:
        return self.list()

    def list(self, search: str = "", *, overdue: bool = False, source: str = "") -> Iterator[Schedule]:
        """Those whose name contains ``search``, that are ``overdue``, that were imported from ``source``."""
        after: str | None = ""
        while after is not None:
            page = self._ask("list", after=after, search=search, overdue=overdue, source=source)
            yield from map(schedule_of, page["schedules"])
            after = page["more"]

    def get(self, name: str) -> Schedule:
        return schedule_of(self._ask("get", name=name)["schedule"])

    def pause(self, name: str, note: str = "") -> Schedule:
        """Nothing of it fires any more but what is asked for; what runs goes on."""
        return schedule_of(self._ask("pause", name=name, note=note)["schedule"])

    def resume(self, name: str) -> Schedule:
        """Times that passed while it was paused are skipped."""
        return schedule_of(self._ask("resume", name=name)["schedule"])

    def run(self, name: str, overlap: Overlap | None = None) -> Future[Any] | None:
        """Fire once, now, also if it is paused; under its own overlap policy unless another is given.

        The future of the job; None if it waits for one that runs, or if the policy skips it.
        """
        job = self._ask("run", name=name, overlap=overlap)["job"]
        return None if job is None else self._client.future(job)

    def preview(self, name: str, start: datetime | str, end: datetime | str) -> Moments:
        """The times that a backfill of this range would fire; both ends are included."""
        found = self.get(name)
        times = self._ask("preview", name=name, **_range(found.trigger, start, end))["times"]
        zone = zone_of(found.trigger.tz).clock
        return [datetime.fromtimestamp(at, UTC).astimezone(zone) for at in times]

    def backfill(self, name: str, start: datetime | str, end: datetime | str, concurrency: int = 1) -> int:
        """Fire all times of a past range again, so many at a time; how many they are.

        They run beside what the schedule fires by itself. A naive moment is on the clock of the trigger's zone.
        """
        span = _range(self.get(name).trigger, start, end)
        times: int = self._ask("backfill", name=name, concurrency=concurrency, **span)["times"]
        return times

    def remove(self, name: str) -> bool:
        """Whether there was one. What runs of it goes on, and what it has fired is not fired again under its name."""
        removed: bool = self._ask("remove", name=name)["removed"]
        return removed

    def history(self, name: str) -> Runs:
        """Its last runs and what was skipped, the newest first."""
        return [run_of(line) for line in self._ask("history", name=name)["runs"]]

    def _ask(self, do: str, **about: Any) -> dict[str, Any]:
        return self._client.ask("schedules", do=do, **about)


def make(
    client: Client,
    name: str,
    trigger: Trigger | str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    plans: dict[str, Any],
    on_missed: Callable[..., Any] | Webhook | str | None,
    source: str = "",
) -> Schedule:
    """What ``Client.schedule`` does; ``client`` has the options of the jobs."""
    if isinstance(trigger, str):
        trigger = cron(trigger)
    if not isinstance(trigger, Trigger):
        raise BadTrigger("trigger", f"a trigger, or the text of a cron expression, not {type(trigger).__name__}")
    for option, why in NOT_FOR_SCHEDULES.items():
        if getattr(client._options, option):
            raise ValueError(f"a schedule's jobs take no {option}: {why}")
    by_value = client._by_value
    packed = pack_function(fn, by_value=by_value)
    payload = pack_call(args, dict(kwargs), by_value=by_value)
    if len(packed.code) > INLINE_BYTES or type(payload) is not bytes:
        what = "arguments" if len(packed.code) <= INLINE_BYTES else "function"
        raise errors.TooLarge(f"the {what} of a schedule may take {INLINE_BYTES} bytes; have its jobs fetch the rest")
    spec, code = client._spec(packed, holds_code(payload))
    plans = {what: _seconds(value) for what, value in plans.items()}
    about: dict[str, Any] = {
        "name": name,
        "trigger": trigger.to_wire(),
        "spec": spec,
        "code": b"" if code is None else code.data,
        "payload": payload,
        "summary": client._summary(fn, args, dict(kwargs)),
        "mark": mark_of(fn, packed.code) if packed.by_value else hashlib.sha256(packed.code).hexdigest(),
        "delay_s": client._options.delay_s,
        "on_missed": client._hook("on_missed", on_missed),
        "source": source,
        **plans,
    }
    done = client.ask("schedules", do="put", **about)
    return schedule_of(done["schedule"], created=done["made"], changed=tuple(done["changed"]))


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _range(trigger: Trigger, start: datetime | str, end: datetime | str) -> dict[str, int]:
    zone = zone_of(trigger.tz)
    first, last = moment_us(start, "start", zone), moment_us(end, "end", zone)
    if last < first:
        raise BadTrigger("end", "is before the start")
    return {"first": first, "last": last}


def _moment(seconds: float | None, zone: Any = UTC) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone(zone)


def run_of(line: Mapping[str, Any]) -> Run:
    moments = {what: _moment(line[what]) for what in ("nominal", "before", "at", "ended")}
    return Run(**{**line, **moments})


def schedule_of(said: Mapping[str, Any], **about: Any) -> Schedule:
    """The coordinator's word on one."""
    trigger = from_wire(said["trigger"])
    code_at, made = _moment(said["code_at"]), _moment(said["made"])
    assert code_at is not None and made is not None
    same = ("name", "function", "arguments", "by_value", "options", "source", "paused", "gave_up", "left", "running")
    same += ("waiting", "backfills", "failures", "overdue", *_PLANS)  # type: ignore[assignment]
    return Schedule(
        trigger=trigger,
        code_at=code_at,
        made=made,
        next=_moment(said["next"], zone_of(trigger.tz).clock),
        succeeded=_moment(said["succeeded"]),
        on_missed=said.get("on_missed"),
        last=None if said["last"] is None else run_of(said["last"]),
        said=said,
        **{what: said[what] for what in same},
        **about,
    )
