"""Plays of schedules: what is due becomes a job like any other, once, whatever happens to clock and coordinator."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest

from cluster import crontab
from cluster.actor import Now, WallClockJumped
from cluster.config import CoordinatorLimits
from cluster.facts import KINDS
from cluster.jobs import About, Hook, Outcome, Rules, Spec
from cluster.messages import Assign, Interrupt
from cluster.triggers import Trigger, at, cron, every
from scheduler.standing_orders import MAX_CALL_BYTES, PAGE
from tests.playbook import CLIENT_KEY, SPEC, START, CoordinatorPlay, FakeClient, FakeNode, sha_of

CODE = b"pickled function"
VALUE = Spec("app:value", True, sha_of(CODE), len(CODE))
TEN = every(10, start=datetime.fromtimestamp(START.wall, UTC))
"""At the start, which is past when a schedule is made, and then every ten seconds."""


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


class Orders:
    """What a client orders, and what it is told."""

    def __init__(self, play: CoordinatorPlay, client: FakeClient | None = None) -> None:
        self.play = play
        self.client = client or play.client()

    def ask(self, do: str, name: str = "s", **about: Any) -> dict[str, Any]:
        return self.play.asks(self.client, "schedules", do=do, name=name, **about)

    def refused(self, do: str, name: str = "s", **about: Any) -> str:
        return self.play.is_refused(self.client, "schedules", do=do, name=name, **about)

    def put(self, trigger: Trigger = TEN, name: str = "s", spec: Spec = SPEC, **about: Any) -> dict[str, Any]:
        said = {"trigger": trigger.to_wire(), "spec": spec.encode(), "payload": b"args", "summary": "1, 2"} | about
        return self.ask("put", name, **said)

    def get(self, name: str = "s") -> dict[str, Any]:
        found: dict[str, Any] = self.ask("get", name)["schedule"]
        return found

    def history(self, name: str = "s") -> list[tuple[Any, ...]]:
        """Nominal second since the start, in its order, and what became of it."""
        runs = self.ask("history", name)["runs"]
        return [
            (round(r["nominal"] - START.wall), r["why"] or r["outcome"])
            for r in sorted(runs, key=lambda r: r["nominal"])
        ]


def settle(play: CoordinatorPlay) -> None:
    """Turns without an event, as long as they are due at once."""
    for _ in range(20):
        if play.coordinator._orders.next > play.now.wall:
            return
        play.turn()
    raise AssertionError("it does not settle")


def let(play: CoordinatorPlay, seconds: float, *alive: FakeNode | FakeClient) -> None:
    """Let time pass while these show themselves."""
    play.live(int(seconds), *alive)
    play.wait(seconds - int(seconds))


def given(node: FakeNode) -> list[int]:
    """Tokens of what it is assigned."""
    tokens = []
    while node.inbox:
        tokens += node.gets(Assign).tokens
    return tokens


# ------------------------------------------------------------------------------------ firing


def test_what_is_due_is_a_job_like_any_other(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=3)
    done = orders.put(spec=replace(VALUE, rules=Rules(retries=3, queue="night")), code=CODE)
    assert (done["made"], done["changed"]) == (True, [])
    assert done["schedule"]["next"] == START.wall + 10
    let(play, 9.9, node, orders.client)
    node.gets_nothing()
    play.wait(0.2)
    job = node.gets(Assign, payloads=[b"args"], attempts=[1], code=[[sha_of(CODE), CODE]])
    assert Spec.decode(job.specs[0]) == replace(VALUE, rules=Rules(retries=3, queue="night"), owner="ann")
    [[_, told]] = job.about
    assert msgpack.unpackb(told) == {"schedule": "s", "nominal_us": round((START.wall + 10) * 1e6), "queue": "night"}
    [found] = play.asks(orders.client, "jobs")["jobs"]
    assert (found["schedule"], found["nominal"], found["arguments"]) == ("s", START.wall + 10, "1, 2")
    node.finishes(job.tokens[0], run_us=7)
    [run] = orders.ask("history")["runs"]
    assert (run["kind"], run["outcome"], run["run_s"], run["job"]) == ("scheduled", "succeeded", 7e-6, found["id"])
    assert 0 <= run["late_s"] < 0.01
    assert orders.get()["succeeded"] == play.now.wall
    play.nothing_else()


def test_a_firing_and_its_job_are_in_one_transaction(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    orders.put()
    seen: list[tuple[int, int]] = []
    assert play.store is not None
    commit = play.store.commit

    def committed() -> None:
        commit()
        rows = play.rows_on_disk.rows
        seen.append((len(rows.jobs), len(rows.firings)))

    play.store.commit = committed  # type: ignore[method-assign]
    play.wait(10.1)
    assert (1, 1) in seen and all(jobs == firings for jobs, firings in seen)
    [job], [firing] = play.rows_on_disk.rows.jobs.values(), play.rows_on_disk.rows.firings.values()
    assert firing.job == job.id
    play.nothing_else()


@pytest.mark.parametrize("when", ["before", "after", "finished"])
def test_a_time_fires_once_whenever_the_coordinator_is_killed(play: CoordinatorPlay, when: str) -> None:
    orders, node = Orders(play), play.node("n1", slots=3)
    orders.put(overlap="allow", catch_up="all")
    held: list[tuple[int, bytes, int]] = []
    if when != "before":
        let(play, 10.1, node, orders.client)
        assign = node.gets(Assign)
        held = [(assign.tokens[0], assign.jobs[0], 1)]
        if when == "finished":
            node.finishes(assign.tokens[0])
    play.restart()
    if when == "before":
        play.wait(10.1)
    orders = Orders(play)
    node.joins(*(held if when == "after" else []))
    settle(play)
    if when == "after":
        node.finishes(held[0][0])
    elif when == "before":
        node.finishes(node.gets(Assign).tokens[0])
    assert orders.history() == [(10, "succeeded")]
    play.nothing_else()


def test_what_is_not_durable_is_lost_with_the_coordinator_and_said_so(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    orders.put(spec=replace(SPEC, durable=False))
    play.wait(10.1)
    assert not play.rows_on_disk.rows.jobs
    play.restart()
    orders = Orders(play)
    assert orders.history() == [(10, "lost")]
    play.wait(10)
    assert orders.history() == [(10, "lost"), (20, "unfinished")]


def test_without_a_store_schedules_fire_as_long_as_it_lives() -> None:
    play = CoordinatorPlay()
    orders, node = Orders(play), play.node("n1")
    orders.put()
    let(play, 10.1, node, orders.client)
    node.finishes(node.gets(Assign).tokens[0])
    assert orders.history() == [(10, "succeeded")]
    play.nothing_else()


def test_while_nothing_can_be_taken_nothing_fires_and_it_is_late_then() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(max_jobs=2))
    orders, node = Orders(play), play.node("n1", slots=3)
    orders.put(catch_up="all", overlap="allow")
    orders.client.submit(2)
    orders.client.gets_accepted(2)
    tokens = given(node)
    play.live(25, node, orders.client)
    assert orders.history() == []
    node.finishes(tokens[0])
    orders.client.gets_results(1)
    settle(play)
    node.finishes(tokens[1], *given(node))
    orders.client.gets_results(2)
    settle(play)
    node.finishes(*given(node))
    assert orders.history() == [(10, "succeeded"), (20, "succeeded")]
    assert orders.ask("history")["runs"][-1]["late_s"] > 14


def test_a_client_cannot_end_the_firing_of_a_schedule(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=2)
    orders.put(overlap="skip")
    let(play, 10.1, node, orders.client)
    given(node)
    orders.client.submit(about=About(schedule="s", nominal_us=round((START.wall + 10) * 1e6)))
    node.finishes(*given(node))
    orders.client.gets_results(1)
    assert orders.history() == [(10, "unfinished")]


def test_reboot_fires_once_for_each_start(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=3)
    orders.put(cron("@reboot"))
    play.wait(20)
    node.gets_nothing()
    for n in (1, 2):
        play.restart()
        orders = Orders(play)
        node.joins()
        settle(play)
        node.finishes(*given(node))
        assert [outcome for _, outcome in orders.history()] == ["succeeded"] * n


# ------------------------------------------------------------------------------------ overlap and catch-up


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", [(10, "succeeded"), (20, "an earlier one had not ended"), (30, "an earlier one had not ended")]),
        ("buffer_one", [(10, "succeeded"), (20, "unfinished"), (30, "an earlier one had not ended")]),
        ("buffer_all", [(10, "succeeded"), (20, "unfinished"), (30, "waits")]),
        ("cancel_other", [(10, "cancelled"), (20, "gave way"), (30, "unfinished")]),
        ("kill_other", [(10, "cancelled"), (20, "gave way"), (30, "unfinished")]),
        ("allow", [(10, "succeeded"), (20, "unfinished"), (30, "unfinished")]),
    ],
)
def test_overlap(play: CoordinatorPlay, overlap: str, expected: list[tuple[int, str]]) -> None:
    """A job runs from 10 to 35."""
    orders, node = Orders(play), play.node("n1", slots=4)
    orders.put(overlap=overlap, spec=replace(SPEC, rules=Rules(grace_s=3.0)))
    play.live(10, node, orders.client)
    play.wait(0.1)
    token = node.gets(Assign).tokens[0]
    play.live(24, node, orders.client)
    outcome = Outcome.SUCCEEDED
    if overlap in ("cancel_other", "kill_other"):
        node.gets(Interrupt, tokens=[token], grace_ms=0 if overlap == "kill_other" else 3000)
        outcome = Outcome.CANCELLED
    early = given(node)
    assert len(early) == (2 if overlap == "allow" else 0)
    node.finishes(token, outcome=10 if outcome is Outcome.CANCELLED else 0)
    settle(play)
    assert len(given(node)) == (0 if overlap in ("skip", "allow") else 1)
    waits = orders.get()["waiting"]
    said = orders.history() + [(30, "waits")] * waits
    gave_way = "it waited for an earlier one to end, and a later one took its place"
    assert [(at, "gave way" if what == gave_way else what) for at, what in said] == expected


@pytest.mark.parametrize(
    ("catch_up", "window", "expected"),
    [
        ("all", 3600, [(10, ""), (20, ""), (30, ""), (40, "")]),
        ("latest", 3600, [(10, "superseded"), (40, "")]),
        ("none", 3600, [(10, "missed"), (40, "")]),
        ("all", 25, [(10, "window"), (20, ""), (30, ""), (40, "")]),
        ("latest", 25, [(10, "window"), (20, "superseded"), (40, "")]),
    ],
)
@pytest.mark.parametrize("cause", ["down", "clock"])
def test_catch_up(play: CoordinatorPlay, catch_up: str, window: float, expected: list[Any], cause: str) -> None:
    """Missed are 10, 20 and 30; 40 is just due."""
    orders = Orders(play)
    orders.put(catch_up=catch_up, catch_up_window_s=window, overlap="allow")
    if cause == "down":
        play.now = play.now._replace(wall=play.now.wall + 42)
        play.restart()
        orders = Orders(play)
    else:
        play.now = play.now._replace(wall=play.now.wall + 42)
        play.turn(WallClockJumped(42.0))
    settle(play)
    words = {
        "superseded": "missed, and a later one stands for it",
        "missed": "missed, and missed times are not made good",
        "window": "missed, and noticed when the catch-up window was over",
        "": "unfinished",
    }
    assert orders.history() == [(at, words[what]) for at, what in expected]


def test_a_clock_set_back_fires_nothing_twice(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=9)
    orders.put(overlap="allow", catch_up="all")
    play.live(31, node, orders.client)
    assert len(given(node)) == 3
    play.now = play.now._replace(wall=play.now.wall - 25)
    play.turn(WallClockJumped(-25.0))
    play.live(24, node, orders.client)
    given_again = given(node)
    assert given_again == []
    play.live(11, node, orders.client)
    assert len(given(node)) == 1
    assert [nominal for nominal, _ in orders.history()] == [10, 20, 30, 40]


def test_a_schedule_removed_and_made_again_fires_no_time_twice(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=9)
    orders.put(overlap="allow")
    play.live(11, node, orders.client)
    assert len(given(node)) == 1
    assert orders.ask("remove")["removed"] is True
    assert orders.ask("remove")["removed"] is False
    assert "no schedule is called 's'" in orders.refused("get")
    play.now = play.now._replace(wall=play.now.wall - 5)
    play.turn(WallClockJumped(-5.0))
    orders.put(overlap="allow")
    play.live(4, node, orders.client)
    node.gets_nothing()
    play.live(11, node, orders.client)
    assert len(given(node)) == 1


# ------------------------------------------------------------------------------------ orders


def test_pause_and_resume_with_a_note(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1")
    orders.put()
    assert orders.ask("pause", note="maintenance")["schedule"]["paused"] == "maintenance"
    play.live(25, node, orders.client)
    node.gets_nothing()
    play.restart()
    orders = Orders(play)
    node.joins()
    assert (orders.get()["paused"], orders.get()["next"]) == ("maintenance", None)
    assert orders.ask("resume")["schedule"]["paused"] is None
    settle(play)
    assert orders.history() == [(10, "the schedule was paused")]
    play.live(6, node, orders.client)
    assert len(given(node)) == 1


def test_a_run_that_is_asked_for_is_a_job_at_once_also_of_a_paused_one(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=3)
    orders.put()
    orders.ask("pause")
    done = orders.ask("run")
    assert done["skipped"] == "" and done["job"] == play.asks(orders.client, "jobs")["jobs"][0]["id"]
    token = node.gets(Assign).tokens[0]
    again = orders.ask("run")
    assert (again["job"], again["skipped"]) == (None, "an earlier one had not ended")
    assert orders.ask("run", overlap="allow")["job"]
    assert "overlap: 'often' is none of skip" in orders.refused("run", overlap="often")
    node.finishes(token, *given(node))
    assert orders.get()["running"] == 0
    kinds = {run["kind"] for run in orders.ask("history")["runs"]}
    assert kinds == {"manual"}


def test_a_range_is_filled_at_its_concurrency_beside_the_schedule(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=9)
    orders.put()
    orders.ask("pause")
    first = round((START.wall - 1) * 1e6)
    play.live(45, node, orders.client)
    span: dict[str, Any] = {"first": first, "last": round((START.wall + 35) * 1e6)}
    times = [START.wall + n for n in (0, 10, 20, 30)]
    assert orders.ask("preview", **span)["times"] == times
    assert orders.ask("backfill", **span, concurrency=2)["times"] == 4
    nominal = []
    for expected in (2, 2, 0):
        settle(play)
        tokens = []
        while node.inbox:
            assign = node.gets(Assign)
            tokens += assign.tokens
            nominal += [msgpack.unpackb(told)["nominal_us"] / 1e6 for _, told in assign.about]
        assert len(tokens) == expected
        if tokens:
            node.finishes(*tokens)
    assert nominal == times
    assert (orders.get()["backfills"], orders.get()["paused"]) == (0, "")
    assert "in the future" in orders.refused("backfill", first=first, last=round((START.wall + 99) * 1e6))
    assert "first and last are moments" in orders.refused("preview", first=2, last=1)


def test_jitter_moves_each_time_by_a_share_of_its_own_before_the_next(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=99)
    for i in range(20):
        orders.put(name=f"s{i}", jitter_s=60)
    seen: list[float] = []
    for _ in range(80):
        play.wait(0.25)
        node.beat()
        orders.client.beat()
        seen += [play.now.wall - START.wall] * len(given(node))
    assert min(seen) >= 10
    assert len(seen) == 20 and len(set(seen)) > 8 and max(seen) <= 20


def test_failures_in_a_row_pause_it_and_a_success_begins_anew(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1")
    orders.put(pause_after=2)
    for outcome in (1, 0, 1, 1):
        play.live(10, node, orders.client)
        play.wait(0.01)
        if outcome:
            [token] = given(node)
            node.raises(token)
        else:
            node.finishes(*given(node))
    found = orders.get()
    assert (found["paused"], found["gave_up"], found["failures"]) == ("paused after 2 failures in a row", True, 2)
    assert [fact.n for fact in play.told("schedule_gave_up")] == [2]
    orders.ask("resume")
    assert (orders.get()["gave_up"], orders.get()["failures"]) == (False, 0)


def test_an_upsert_says_what_it_changes_and_keeps_the_code_that_means_the_same(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    orders.put(every(60), spec=VALUE, code=CODE, mark="m1")
    made = orders.get()
    play.live(5, orders.client)
    other = b"the same, pickled anew"
    spec = replace(VALUE, code=sha_of(other), code_size=len(other))
    done = orders.put(every(60), spec=spec, code=other, mark="m1")
    assert (done["made"], done["changed"]) == (False, [])
    assert done["schedule"]["code_at"] == made["code_at"]
    assert done["schedule"]["next"] == START.wall + 60
    done = orders.put(every(60), spec=replace(spec, rules=Rules(retries=2)), code=other, mark="m2", jitter_s=5)
    assert sorted(done["changed"]) == ["code", "jitter_s", "retries"]
    assert done["schedule"]["code_at"] == play.now.wall
    assert done["schedule"]["next"] == START.wall + 60, "it keeps its anchor"
    done = orders.put(every(30), payload=b"others", spec=SPEC)
    assert {"trigger", "function", "arguments", "code", "retries", "jitter_s"} == set(done["changed"])


def test_another_hook_is_a_change_by_itself(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    hooks = [Hook(Spec("app:missed", False, b"missed").encode(), b"", {"url": url}).encode() for url in "ab"]
    orders.put(on_missed=hooks[0])
    assert orders.put(on_missed=hooks[0])["changed"] == []
    assert orders.put(on_missed=hooks[1])["changed"] == ["on_missed"]
    play.restart()
    orders.client.joins()
    assert orders.put(on_missed=hooks[1])["changed"] == []
    assert orders.put()["changed"] == ["on_missed"]


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({}, "app:missed"),
        ({"url": "https://ann:pw@example.org/x", "secret": "s3cret"}, "https://***@example.org/x"),
        ({"url": 5}, "app:missed"),
        ({"url": "x" * 9_000}, "x" * 2_000),
    ],
)
def test_who_looks_sees_what_is_told_of_missed_times(play: CoordinatorPlay, kwargs: dict[str, Any], told: str) -> None:
    orders = Orders(play)
    assert orders.put()["schedule"]["on_missed"] is None
    hook = Hook(Spec("app:missed", False, b"missed").encode(), b"", kwargs).encode()
    assert orders.put(on_missed=hook)["schedule"]["on_missed"] == told
    assert [one["on_missed"] for one in orders.ask("list")["schedules"]] == [told]


def test_what_is_missed_runs_its_hook(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=3)
    hook = Hook(Spec("app:missed", False, b"missed").encode(), b"", {"url": "u"})
    orders.put(on_missed=hook.encode())
    play.now = play.now._replace(wall=play.now.wall + 35)
    play.turn(WallClockJumped(35.0))
    settle(play)
    assign = node.gets(Assign)
    while node.inbox:
        more = node.gets(Assign)
        assign = replace(assign, payloads=assign.payloads + more.payloads, specs=assign.specs + more.specs)
    assert {Spec.decode(raw).name for raw in assign.specs} == {"app:missed", "app:task"}
    [payload] = [p for p in assign.payloads if p != b"args"]
    (record,), kwargs = msgpack.unpackb(payload[4:])
    assert kwargs == {"url": "u"}
    assert (record["schedule"], record["first"], record["before"]) == ("s", START.wall + 10, START.wall + 30)
    assert "a later one stands for it" in record["reason"]


def test_one_that_has_not_succeeded_for_too_long_is_overdue(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1")
    orders.put(overdue_s=60)
    orders.put(name="other")
    play.live(59, node, orders.client)
    assert orders.ask("list", overdue=True)["schedules"] == []
    token, *_ = given(node)
    play.live(40, node, orders.client)
    [found] = orders.ask("list", overdue=True)["schedules"]
    assert (found["name"], found["overdue"]) == ("s", True)
    assert [fact.about["schedule"] for fact in play.told("schedule_overdue")] == ["s"]
    figures = play.told("measured")[-1].about["figures"]
    assert (figures["schedules"], figures["schedules_overdue"]) == (2, 1)
    assert figures["schedule_next_fire_timestamp_seconds"] == START.wall + 100
    for _ in range(3):
        tokens = given(node)
        node.finishes(token, *tokens) if token else node.finishes(*tokens)
        token = 0
        play.live(10, node, orders.client)
    play.live(31, node, orders.client)
    assert orders.get()["overdue"] is False
    assert [fact.about["schedule"] for fact in play.told("schedule_on_time")] == ["s"]
    assert KINDS["schedule_overdue"].level == "warning"


def test_a_count_is_used_up(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1", slots=9)
    orders.put(TEN.bounded(count=2), overlap="allow")
    assert orders.get()["left"] == 2
    play.live(45, node, orders.client)
    assert len(given(node)) == 2
    assert (orders.get()["left"], orders.get()["next"]) == (0, None)


def test_schedules_of_a_namespace_are_its_own(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    orders.put()
    stranger = play.new_client(CLIENT_KEY._replace(key="other-key", namespace="other"), "other")
    stranger.joins()
    others = Orders(play, stranger)
    assert others.ask("list")["schedules"] == []
    assert "no schedule" in others.refused("pause")
    assert "is not the session's" in others.refused("put", trigger=TEN.to_wire(), spec=SPEC.encode())
    node = play.node("n1", slots=3)
    others.put(spec=replace(SPEC, namespace="other"))
    let(play, 10.1, node, stranger, orders.client)
    assign = node.gets(Assign, jobs=2)
    assert len({jid[:8] for jid in assign.jobs}) == 2, "each is of its namespace's own session"
    node.finishes(*assign.tokens)
    [found] = play.asks(stranger, "jobs")["jobs"]
    assert found["namespace"] == "other"
    [mine] = play.asks(orders.client, "jobs")["jobs"]
    assert mine["id"] != found["id"]


def test_many_are_listed_by_name_in_pages_and_found(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    for i in range(PAGE + 3):
        orders.put(name=f"s{i:04}", source="h:/etc/cron.d/a" if i % 2 else "")
    page = orders.ask("list", after="")
    assert [s["name"] for s in page["schedules"]] == [f"s{i:04}" for i in range(PAGE)]
    rest = orders.ask("list", after=page["more"])
    assert ([s["name"] for s in rest["schedules"]], rest["more"]) == ([f"s{i:04}" for i in range(PAGE, PAGE + 3)], None)
    assert [s["name"] for s in orders.ask("list", search="002")["schedules"]] == [
        "s0002",
        *[f"s002{i}" for i in range(10)],
    ]
    for source, count in (("h:/etc/cron.d/", 101), ("h:/etc/cron.d/a", 101), ("h:/etc/cron.d", 0), ("h:/etc/", 101)):
        assert len(orders.ask("list", source=source)["schedules"]) == count
    orders.ask("remove", "s0000")
    assert orders.ask("list")["schedules"][0]["name"] == "s0001"


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"trigger": [1, None, []]}, "has no parts"),
        ({"trigger": None}, "a list"),
        ({"spec": b"\xc1"}, "unreadable"),
        ({"payload": bytes(MAX_CALL_BYTES + 1)}, "the arguments has"),
        ({"code": bytes(MAX_CALL_BYTES + 1)}, "the function has"),
        ({"payload": "text"}, "are bytes"),
        ({"summary": 7}, "short texts"),
        ({"overlap": "often"}, "overlap"),
        ({"catch_up_window_s": 1}, "catch_up_window_s"),
        ({"delay_s": -1}, "delay_s"),
        ({"on_missed": b"\xc1"}, "a hook is unreadable"),
        ({"on_missed": Hook(Spec("a:b", False, b"x", namespace="other").encode()).encode()}, "another namespace"),
        ({"source": 5}, "source is a text"),
        ({"spec": replace(SPEC, rules=Rules(client_bound=True)).encode()}, "lifetime='client'"),
        ({"spec": replace(SPEC, durable=False, rules=Rules(at_most_once=True)).encode()}, "must be durable"),
        ({"spec": VALUE.encode(), "code": b"another"}, "does not match its hash"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(play: CoordinatorPlay, about: dict[str, Any], why: str) -> None:
    orders = Orders(play)
    said = {"trigger": TEN.to_wire(), "spec": SPEC.encode(), "payload": b""} | about
    assert why in orders.refused("put", **said)
    assert orders.ask("list")["schedules"] == []


@pytest.mark.parametrize(
    ("do", "why"), [("fly", "know no 'fly'"), (7, "know no '7'"), ("get", "no schedule is called")]
)
def test_what_is_no_order_is_refused(play: CoordinatorPlay, do: Any, why: str) -> None:
    orders = Orders(play)
    if do != "get":
        orders.put()
    assert why in orders.refused(do)
    assert "1 to 200 characters" in orders.refused("get", "")
    assert "1 to 200 characters" in orders.refused("get", 5)  # type: ignore[arg-type]


def test_a_schedule_that_cannot_be_read_here_rests_and_is_told(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    orders.put()
    rows = play.rows_on_disk.rows
    [(key, row)] = rows.schedules.items()
    rows.schedules[key] = row._replace(schedule=msgpack.packb([99, b""]))
    play.restart()
    assert [fact.about["schedule"] for fact in play.told("schedule_unread")] == ["s"]
    play.wait(20)
    play.nothing_else()


def test_many_due_at_once_come_in_turns_of_bounded_work(play: CoordinatorPlay) -> None:
    orders = Orders(play)
    moment = at(datetime.fromtimestamp(START.wall + 10, UTC))
    for i in range(1_200):
        orders.put(moment, name=str(i))
    play.wait(9.9)
    sizes = []
    for _ in range(8):
        play.wait(0.02)
        sizes.append(play.coordinator._admission.jobs)
    assert sizes[-1] == 1_200
    fired = [fact.n for fact in play.told("schedules_fired")]
    assert sum(fired) == 1_200 and max(fired) <= 500


def test_its_jobs_outlive_the_session_that_made_it(play: CoordinatorPlay) -> None:
    orders, node = Orders(play), play.node("n1")
    orders.put()
    orders.client.leave_quietly()
    let(play, 10.1, node)
    assert len(given(node)) == 1
    play.nothing_else()


def test_one_that_gives_way_in_the_turn_it_is_made_ends_as_any_other(play: CoordinatorPlay) -> None:
    """Found by the simulator: it was cancelled before its row was written, which then had no outcome."""
    orders = Orders(play)
    orders.put(overlap="cancel_other", catch_up="all")
    play.now = play.now._replace(wall=play.now.wall + 25)
    play.turn(WallClockJumped(25.0))
    settle(play)
    rows = play.rows_on_disk.rows
    assert [row.outcome for row in rows.outcomes.values()] == [int(Outcome.CANCELLED)]
    assert orders.history() == [(10, "cancelled"), (20, "unfinished")]
    assert len(rows.jobs) == 1


DEBIAN = r"""
SHELL=/bin/sh
17 *	* * *	root	cd / && run-parts --report /etc/cron.hourly
25 6	* * *	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
47 6	* * 7	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.weekly; }
52 6	1 * *	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.monthly; }
30 3 * * 0 root test -e /run/systemd/system || SERVICE_MODE=1 /usr/lib/x86_64-linux-gnu/e2fsprogs/e2scrub_all_cron
10 3 * * * root test -e /run/systemd/system || SERVICE_MODE=1 /sbin/e2scrub_all -A -r
5-55/10 * * * * root command -v debian-sa1 > /dev/null && debian-sa1 1 1
59 23 * * * root command -v debian-sa1 > /dev/null && debian-sa1 60 2
09,39 *     * * *     root   [ -x /usr/lib/php/sessionclean ] && /usr/lib/php/sessionclean
30 2 * * * nasty in the gap%and input
*/30 2 * * * nasty wildcard in the gap
CRON_TZ=Asia/Kolkata
0 9 */2 * 1-5 nasty both days\%
@weekly nasty weekly
"""
"""As packages of Debian have it in /etc/crontab and /etc/cron.d, and some that are meant to go wrong."""


def test_a_crontab_of_debian_through_a_night_in_spring_and_a_week(play: CoordinatorPlay) -> None:
    """Minute by minute, as fast as it goes; each line fires when its trigger says, once."""
    orders = Orders(play)
    begin = datetime(2026, 3, 27, 22, 0, 30, tzinfo=UTC).timestamp()
    play.now = play.now._replace(wall=begin)
    play.turn(WallClockJumped(begin - START.wall))
    entries = [line.entry for line in crontab.read(DEBIAN, "debian", system=True, tz="Europe/Berlin") if line.entry]
    assert len(entries) == 13
    for entry in entries:
        orders.put(entry.trigger, name=entry.name, overlap="allow", catch_up="none", jitter_s=entry.jitter_s)
    minutes = 3 * 24 * 60
    for _ in range(minutes):
        play.now = Now(play.now.mono + 60, play.now.wall + 60)
        play.turn()
    fired: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for job in play.rows_on_disk.rows.jobs.values():
        about = About.decode(job.about)
        fired[about.schedule].append(about.nominal_us / 1e6)
    end = begin + minutes * 60
    for entry in entries:
        times = [t.timestamp() for t in entry.trigger.upcoming(datetime.fromtimestamp(begin, UTC), 2_000)]
        assert sorted(fired[entry.name]) == [t for t in times if t <= end], entry.times
    assert len(fired[entries[9].name]) == 3 and len(fired[entries[10].name]) == 4, "the night has no 02:30"
