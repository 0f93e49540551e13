"""Schedules as a client sees them: what is sent, and what the coordinator's word becomes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster import errors
from cluster.client import Client
from cluster.config import INLINE_BYTES, ClientLimits
from cluster.jobs import Hook, Spec
from cluster.messages import Answer, Ask
from cluster.schedules import Run, Schedule, schedule_of
from cluster.triggers import every, from_wire
from tests.cluster.test_client import Coordinator

TRIGGER = every(60, start=datetime(2026, 1, 1, tzinfo=UTC), tz="Europe/Berlin")
LINE: dict[str, Any] = {
    "kind": "scheduled", "nominal": 1e9, "before": None, "at": 1e9 + 1, "late_s": 1.0, "ended": 1e9 + 2,
    "run_s": 0.5, "outcome": "succeeded", "why": "", "job": "1-1",
}  # fmt: skip
SAID: dict[str, Any] = {
    "name": "s", "trigger": TRIGGER.to_wire(), "function": "m:f", "arguments": "1", "by_value": False, "code_at": 1e9,
    "options": {"retries": 2}, "overlap": "skip", "catch_up": "latest", "catch_up_window_s": 3600, "jitter_s": 0,
    "pause_after": 0, "overdue_s": 0, "on_missed": None, "source": "", "made": 1e9, "next": 2e9, "paused": None,
    "gave_up": False, "left": None, "running": 1, "waiting": 0, "backfills": 0, "failures": 0, "succeeded": None,
    "overdue": False, "last": LINE, "more": "is taken and shown by nobody",
}  # fmt: skip


def test_a_coordinators_word_becomes_a_schedule() -> None:
    found = schedule_of(SAID, created=True)
    assert (found.name, found.trigger, found.created) == ("s", TRIGGER, True)
    assert found.next is not None and str(found.next.tzinfo) == "Europe/Berlin" and found.next.timestamp() == 2e9
    assert found.last == Run("scheduled", _at(0), None, _at(1), 1.0, _at(2), 0.5, "succeeded", "", "1-1")
    assert found.said == SAID


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(1e9 + seconds, UTC)


def test_upcoming_ends_with_what_is_left_of_the_count() -> None:
    assert len(schedule_of(SAID).upcoming(4)) == 4
    assert len(schedule_of({**SAID, "left": 2}).upcoming(4)) == 2
    assert schedule_of({**SAID, "left": 0}).upcoming(4) == []


class Keeper(Coordinator):
    """Knows one schedule."""

    def send(self, effect: Any) -> None:
        if isinstance(effect.message, Ask) and effect.message.topic == "schedules":
            self._link.take(effect.header, effect.message, 0.0)
            about = effect.message.about
            self.asked.append(about)
            body: dict[str, Any] = {"schedule": SAID, "made": True, "changed": [], "runs": [LINE], "times": 3}
            if about["do"] == "list":
                body = {"schedules": [SAID], "more": "s" if not about["after"] else None}
            elif about["do"] in ("preview", "run"):
                body = {"times": [1e9, 1e9 + 60], "job": None}
            self.say(Answer(effect.message.ask, "", body))
        else:
            super().send(effect)

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def client(keeper: Keeper) -> Any:
    client = Client._over(keeper, ClientLimits())
    yield client
    client.shutdown(wait=False)


def told(record: dict[str, Any]) -> None:
    """A hook."""


def test_what_is_sent_is_all_the_coordinator_needs(client: Client, keeper: Keeper) -> None:
    made = client.schedule(
        "s", TRIGGER, told, ({"a": 1},), overlap="allow", jitter_s=timedelta(minutes=1), on_missed="http://there",
        retries=2, delay_s=3, tags=["t"],
    )  # fmt: skip
    assert isinstance(made, Schedule) and made.created
    [about] = keeper.asked
    assert (about["do"], about["name"], from_wire(about["trigger"])) == ("put", "s", TRIGGER)
    spec = Spec.decode(about["spec"])
    assert (spec.name, spec.rules.retries, spec.rules.tags) == ("tests.cluster.test_schedules:told", 2, ("t",))
    assert (about["overlap"], about["jitter_s"], about["delay_s"], about["code"]) == ("allow", 60.0, 3.0, b"")
    assert Hook.decode(about["on_missed"]).kwargs["url"] == "http://there"
    assert about["summary"] == "{'a': 1}" and about["payload"]


def test_a_function_by_value_goes_with_its_code_and_mark(client: Client, keeper: Keeper) -> None:
    def here() -> int:
        return 7

    for _ in range(2):
        client.schedule("s", "@daily", here)
    first, second = keeper.asked
    assert first["code"] and first["mark"] == second["mark"]
    assert Spec.decode(first["spec"]).by_value


@pytest.mark.parametrize(
    ("about", "error", "text"),
    [
        ({"key": "k"}, ValueError, "take no key"),
        ({"at": datetime(2030, 1, 1, tzinfo=UTC)}, ValueError, "take no at"),
        ({"args": (bytes(INLINE_BYTES),)}, errors.TooLarge, "the arguments of a schedule"),
        ({"trigger": 5}, errors.BadTrigger, "not int"),
        ({"trigger": "every day"}, errors.BadTrigger, "fields"),
        ({"on_missed": "ftp://x"}, ValueError, "http"),
    ],
)
def test_what_cannot_be_is_refused_here(
    client: Client, keeper: Keeper, about: dict[str, Any], error: type[Exception], text: str
) -> None:
    trigger, args = about.pop("trigger", TRIGGER), about.pop("args", ())
    with pytest.raises(error, match=text):
        client.schedule("s", trigger, told, args, **about)
    assert keeper.asked == []


def test_the_room_of_schedules_asks_page_by_page(client: Client, keeper: Keeper) -> None:
    assert [s.name for s in client.schedules] == ["s", "s"]
    assert [about["after"] for about in keeper.asked] == ["", "s"]


def test_ranges_are_on_the_clock_of_the_trigger(client: Client, keeper: Keeper) -> None:
    times = client.schedules.preview("s", "2001-09-09T03:00", "2001-09-09T04:00")
    assert [str(t) for t in times] == ["2001-09-09 03:46:40+02:00", "2001-09-09 03:47:40+02:00"]
    asked = keeper.asked[-1]
    assert (asked["first"], asked["last"]) == (999_997_200_000_000, 1_000_000_800_000_000)
    assert client.schedules.backfill("s", datetime(2001, 1, 1, tzinfo=UTC), "2001-01-02", 4) == 3
    assert keeper.asked[-1]["concurrency"] == 4
    with pytest.raises(errors.BadTrigger, match="before the start"):
        client.schedules.preview("s", "2001-01-02", "2001-01-01")


def test_a_run_that_waits_has_no_future_yet(client: Client) -> None:
    assert client.schedules.run("s") is None
    [run] = client.schedules.history("s")
    assert run.outcome == "succeeded"
