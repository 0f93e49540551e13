"""Named queues: shares, caps and pauses, set at run time, kept over restarts, held under faults."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import CoordinatorLimits
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Assign, Retract, Returned
from scheduler import queues
from scheduler.lifecycle import State
from scheduler.queues import Queue, Queues, Settings
from tests.playbook import CoordinatorPlay, FakeClient, FakeNode

CAPS = st.none() | st.integers(1, (1 << 31) - 1)


def spec(queue: str = "mail", name: str = "app:task", **rules: Any) -> Spec:
    return Spec(name, False, b"pickled reference", rules=Rules(queue=queue, **rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def sets(play: CoordinatorPlay, client: FakeClient, queue: str = "mail", **settings: Any) -> dict[str, Any]:
    row: dict[str, Any] = play.asks(client, "queue", name=queue, set=settings)["queue"]
    return row


def held(play: CoordinatorPlay, queue: str = "mail") -> int:
    """Attempts of it that nodes have, by the jobs themselves."""
    jobs = [job for node in play.coordinator._roster for job in node.leases]
    return sum(job.record.spec.rules.queue == queue for job in jobs)


def tokens_of(node: FakeNode) -> list[int]:
    out: list[int] = []
    while node.inbox:
        out += node.gets(Assign).tokens
    return out


# ------------------------------------------------------------------------------------ the book


@given(st.builds(Settings, st.integers(1, 1000), st.booleans(), CAPS, CAPS))
def test_settings_are_what_was_kept(settings: Settings) -> None:
    assert Settings.unpack(settings.pack()) == settings
    book = Queues()
    book.restore("mail", settings.pack())
    assert book.named("mail").settings == settings


def test_a_change_leaves_the_rest_as_it_was_and_a_wrong_one_all() -> None:
    before = Settings(3, False, 10, 2)
    assert before.changed({"paused": True}) == Settings(3, True, 10, 2)
    assert before.changed({"max_running": None}) == Settings(3, False, None, 2)
    with pytest.raises(ValueError, match="weight is 1 to 1000, not 0"):
        before.changed({"max_running": 5, "weight": 0})
    assert before == Settings(3, False, 10, 2)


def test_room_is_what_the_caps_leave() -> None:
    queue = Queue("mail", Settings(max_running=3, max_per_node=2))
    for node in ("n1", "n1", "n2"):
        queue.take(node)
    assert (queue.room, queue.room_on("n1"), queue.room_on("n2"), queue.room_on("n3")) == (0, 0, 1, 2)
    queue.settings = Settings(max_running=2, max_per_node=1)
    assert (queue.room, queue.room_on("n1")) == (0, 0)
    queue.give_back("n1")
    queue.give_back("n1")
    queue.give_back("n2")
    assert (queue.room, queue.by_node) == (2, {})


# ------------------------------------------------------------------------------------ pause


def test_a_paused_queue_starts_nothing_and_holds_up_nobody(play: CoordinatorPlay) -> None:
    client = play.client()
    assert sets(play, client, paused=True)["paused"] is True
    node = play.node(slots=4)
    client.submit(2, spec=spec())
    client.submit(1, spec=spec("default"))
    node.gets(Assign, jobs=[client.job(3)])
    client.gets_accepted(3)
    assert play.why(client, 1) == ["queue mail is paused: cluster queue resume mail"]
    play.live(5, node, client)
    play.nothing_else()
    sets(play, client, paused=False)
    node.gets(Assign, jobs=[client.job(1), client.job(2)])
    play.nothing_else()


def test_a_pause_lasts_over_a_restart(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    sets(play, client, paused=True, weight=7, max_running=3, max_per_node=2, placement="pack")
    client.submit(spec=spec())
    client.gets_accepted(1)
    for _ in range(2):
        play.restart()
        node.joins()
        client.joins(accepted=1)
    [row] = [q for q in play.asks(client, "queues")["queues"] if q["name"] == "mail"]
    assert row == {
        "name": "mail",
        "weight": 7,
        "paused": True,
        "max_running": 3,
        "max_per_node": 2,
        "placement": "pack",
        "jobs": 1,
        "ready": 1,
        "leased": 0,
    }
    play.nothing_else()
    sets(play, client, paused=False, weight=1, max_running=None, max_per_node=None, placement="spread")
    node.gets(Assign)
    play.restart()
    assert play.coordinator._queues.get("mail") is not None, "it has a job"
    assert play.coordinator._queues.named("mail").settings == Settings()


def test_what_runs_goes_on_in_a_paused_queue_and_what_was_placed_is_asked_back(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=2), play.client()
    client.submit(spec=spec())
    runs = node.runs(client.job(1))
    client.submit(spec=spec())
    placed = node.gets(Assign).tokens[0]
    client.gets_accepted(2)
    sets(play, client, paused=True)
    node.gets(Retract, tokens=[placed])
    play.nothing_else()
    node.say(Returned([placed], []))
    node.finishes(runs)
    client.gets_results(1)
    play.nothing_else()
    sets(play, client, paused=False)
    node.gets(Assign, jobs=[client.job(2)])
    play.nothing_else()


def test_retries_of_a_paused_queue_wait_for_its_end(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=1.0))
    token = node.runs(client.job(1))
    client.gets_accepted(1)
    sets(play, client, paused=True)
    node.raises(token)
    play.live(5, node, client)
    assert play.story_of(client, 1)["state"] == "ready"
    play.nothing_else()
    sets(play, client, paused=False)
    node.gets(Assign, attempts=[2])
    play.nothing_else()


def test_jobs_of_a_paused_queue_expire_and_are_cancelled(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    sets(play, client, paused=True)
    client.submit(spec=spec(expires_s=2.0))
    client.submit(spec=spec())
    client.gets_accepted(2)
    client.cancel(2)
    client.gets_failure(2, Outcome.CANCELLED)
    play.live(3, node, client)
    client.gets_failure(1, Outcome.EXPIRED)
    play.nothing_else()
    play.nothing_kept()


def test_a_paused_queue_does_not_keep_jobs_of_others_behind_a_stuck_one(play: CoordinatorPlay) -> None:
    """Work that lies ready on a node is asked back for an idle one, whatever else waits and cannot go."""
    node, client = play.node("n1"), play.client()
    sets(play, client, paused=True)
    client.submit(spec=spec())
    record_mean(play, client, node)
    client.submit(2, spec=spec("default"))
    tokens = node.gets(Assign, jobs=2).tokens
    client.inbox.clear()
    idle = play.node("n2")
    play.wait(1.0)
    node.gets(Retract, tokens=[tokens[1]])
    node.say(Returned([tokens[1]], []))
    idle.gets(Assign, jobs=1)
    client.inbox.clear()
    play.nothing_else()


def record_mean(play: CoordinatorPlay, client: FakeClient, node: FakeNode) -> None:
    """Have it known that the function is short, so that nodes are given some beyond their slots."""
    client.submit(spec=spec("default"))
    node.finishes(node.gets(Assign).tokens[0], run_us=100)
    client.inbox.clear()


# ------------------------------------------------------------------------------------ caps


def test_a_cap_holds_in_the_cluster_and_on_each_node(play: CoordinatorPlay) -> None:
    one, two, client = play.node("n1", slots=10), play.node("n2", slots=10), play.client()
    sets(play, client, max_running=5, max_per_node=3)
    client.submit(20, spec=spec())
    first, second = tokens_of(one), tokens_of(two)
    assert sorted([len(first), len(second)]) == [2, 3]
    client.inbox.clear()
    whose, token = (one, first[0]) if len(first) == 3 else (two, second[0])
    whose.finishes(token)
    assert len(tokens_of(one)) + len(tokens_of(two)) == 1
    assert held(play) == 5
    client.inbox.clear()
    play.nothing_else()


def test_a_lowered_cap_holds_when_enough_have_ended(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=10), play.client()
    client.submit(10, spec=spec())
    tokens = tokens_of(node)
    client.submit(5, spec=spec())
    client.inbox.clear()
    sets(play, client, max_running=8)
    node.finishes(*tokens[:2])
    client.inbox.clear()
    play.nothing_else()
    node.finishes(tokens[2])
    assert len(tokens_of(node)) == 1
    client.inbox.clear()
    play.nothing_else()


def test_a_raised_cap_is_used_at_once(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=10), play.client()
    sets(play, client, max_running=1)
    client.submit(5, spec=spec())
    assert len(tokens_of(node)) == 1
    client.inbox.clear()
    sets(play, client, max_running=3)
    assert len(tokens_of(node)) == 2
    sets(play, client, max_running=None)
    assert len(tokens_of(node)) == 2
    play.nothing_else()


@pytest.mark.parametrize("how", ["lost node", "crash", "raise", "return", "left"])
def test_no_fault_makes_room_twice(play: CoordinatorPlay, how: str) -> None:
    from cluster.messages import Bye

    node, client = play.node("n1", slots=10), play.client()
    sets(play, client, max_running=3)
    client.submit(9, spec=spec(retries=5, retry_delay_s=0.0))
    tokens = tokens_of(node)
    client.inbox.clear()
    assert len(tokens) == 3
    second = play.node("n2", slots=10)
    match how:
        case "lost node":
            play.live(11, client, second)
            assert len(tokens_of(second)) == 3
            node.finishes(*tokens)  # late: its leases are over
        case "crash":
            node.crashes(tokens[0])
        case "raise":
            node.raises(tokens[0])
            node.raises(tokens[0])
            play.wait(0.1)
        case "return":
            node.say(Returned(tokens, []))
            node.say(Returned(tokens, []))
        case "left":
            node.say(Bye("it is stopped"))
            assert len(tokens_of(second)) == 3
    node.inbox.clear()
    second.inbox.clear()
    client.inbox.clear()
    queue = play.coordinator._queues.named("mail")
    assert held(play) == queue.leased == 3
    assert sum(queue.by_node.values()) == 3
    play.nothing_else()


def test_a_cap_counts_what_an_earlier_life_has_given_away(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=10), play.client()
    sets(play, client, max_running=2)
    client.submit(4, spec=spec())
    assign = node.gets(Assign, jobs=2)
    client.gets_accepted(4)
    play.restart()
    other = play.node("n2", slots=10)
    client.joins(accepted=4)
    play.nothing_else()  # nobody knows yet what n1 holds
    node.joins(*zip(assign.tokens, assign.jobs, assign.attempts, strict=True))
    queue = play.coordinator._queues.named("mail")
    assert (queue.leased, queue.by_node) == (2, {"n1": 2})
    play.nothing_else()
    node.finishes(*assign.tokens)
    assert len(tokens_of(node)) + len(tokens_of(other)) == 2
    client.inbox.clear()
    play.nothing_else()


def test_all_that_was_taken_is_given_back(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=4), play.client()
    client.submit(4, spec=spec())
    client.submit(2, spec=spec(), about=About(delay_s=600.0))
    tokens = tokens_of(node)
    client.inbox.clear()
    play.restart()
    node.joins()
    client.joins(accepted=6)
    tokens = tokens_of(node)
    node.finishes(*tokens)
    client.cancel(5, 6)
    queue = play.coordinator._queues.named("mail")
    assert (queue.leased, queue.by_node, queue.jobs) == (0, {}, 0)


# ------------------------------------------------------------------------------------ shares


def deal(play: CoordinatorPlay, node: FakeNode, client: FakeClient, turns: int) -> Counter[str]:
    """The node runs so many, one after another; how many of each queue or tenant, by payload."""
    dealt: Counter[str] = Counter()
    for _ in range(turns):
        assign = node.gets(Assign, jobs=1)
        dealt[assign.payloads[0].decode()] += 1
        node.finishes(*assign.tokens)
        client.inbox.clear()
    return dealt


def test_weights_of_three_to_one_give_three_to_one() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(prefill_max=0))
    client = play.client()
    sets(play, client, "a", weight=3)
    client.submit(900, spec=spec("a"), payload=b"a")
    client.submit(900, spec=spec("b"), payload=b"b")
    client.inbox.clear()
    node = play.node()
    dealt = deal(play, node, client, 800)
    assert 0.95 * 3 <= dealt["a"] / dealt["b"] <= 1.05 * 3
    play.coordinator._queues.named("a").settings.weight = 1
    dealt = deal(play, node, client, 200)
    assert abs(dealt["a"] - dealt["b"]) <= 2


def test_a_small_tenant_waits_for_no_more_than_a_turn_of_each_other() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(prefill_max=0))
    client = play.client()
    client.submit(2_000, spec=spec(fair_key="large"), payload=b"large")
    client.inbox.clear()
    node = play.node()
    deal(play, node, client, 100)
    client.submit(20, spec=spec(fair_key="small"), payload=b"small")
    client.inbox.clear()
    dealt = deal(play, node, client, 42)
    assert dealt["small"] == 20


def test_an_urgent_job_overtakes_and_an_old_one_is_not_starved() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(prefill_max=0))
    client = play.client()
    client.submit(1, spec=spec(), payload=b"old")
    client.submit(1, spec=spec(priority=2), payload=b"urgent")
    client.inbox.clear()
    node = play.node()
    assert [next(iter(deal(play, node, client, 1))) for _ in range(2)] == ["urgent", "old"]
    node.beat()
    client.submit(1, spec=spec(), payload=b"busy")
    busy = node.gets(Assign)
    client.submit(1, spec=spec(), payload=b"old")
    client.inbox.clear()
    play.live(61, node, client)
    client.submit(5, spec=spec(priority=2), payload=b"urgent")
    client.inbox.clear()
    node.finishes(*busy.tokens)
    client.inbox.clear()
    assert next(iter(deal(play, node, client, 1))) == "old", "two steps are worth 60 s of waiting"


# ------------------------------------------------------------------------------------ nodes that serve some


def test_nodes_serve_the_queues_they_choose(play: CoordinatorPlay) -> None:
    mail, every, client = play.node("n1", slots=2, queues=["mail"]), play.node("n2", slots=9), play.client()
    client.submit(4, spec=spec("slow"))
    assert len(tokens_of(every)) == 4
    client.submit(9, spec=spec("mail"))
    assert len(tokens_of(mail)) == 2
    client.inbox.clear()
    every.inbox.clear()
    play.nothing_else()


def test_a_job_whose_queue_no_node_serves_says_so(play: CoordinatorPlay) -> None:
    _node, client = play.node("n1", queues=["mail"]), play.client()
    client.submit(spec=spec("slow"))
    client.gets_accepted(1)
    [why] = play.why(client, 1)
    assert "slow" in why
    play.nothing_else()


# ------------------------------------------------------------------------------------ orders


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"name": ""}, "1 to 200 characters"),
        ({"name": "q" * 201}, "1 to 200 characters"),
        ({"name": 5}, "1 to 200 characters"),
        ({}, "1 to 200 characters"),
        ({"name": "mail", "set": []}, "mapping"),
        ({"name": "mail", "set": {"weight": 1001}}, "weight is 1 to 1000"),
        ({"name": "mail", "set": {"weight": True}}, "weight is 1 to 1000"),
        ({"name": "mail", "set": {"paused": 1}}, "paused is true or false"),
        ({"name": "mail", "set": {"max_running": 0}}, "max_running is a positive number or none"),
        ({"name": "mail", "set": {"max_per_node": 1 << 31}}, "max_per_node is a positive number or none"),
        ({"name": "mail", "set": {"placement": "heap"}}, "placement is spread or pack, not 'heap'"),
        ({"name": "mail", "set": {"speed": 1}}, "it has weight, paused, max_running, max_per_node"),
        ({"name": "mail", "set": {"__class__": 1}}, "it has weight"),
    ],
)
def test_wrong_orders_are_refused_and_change_nothing(play: CoordinatorPlay, about: dict[str, Any], word: str) -> None:
    client = play.client()
    assert word in play.is_refused(client, "queue", **about)
    assert all(q["weight"] == 1 and not q["paused"] for q in play.asks(client, "queues")["queues"])
    play.nothing_else()


def test_no_more_queues_than_there_may_be(play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_QUEUES", 2)
    client = play.client()
    client.submit(spec=spec("a"))
    client.submit(spec=spec("b"))
    client.submit(spec=spec("c"))
    failure = client.gets_failure(3)
    assert failure.kind == "JobRefused" and "2 queues are the limit" in failure.text
    assert "2 queues are the limit" in play.is_refused(client, "queue", name="c", set={"weight": 2})
    sets(play, client, "a", weight=2)
    client.cancel(2)
    client.inbox.clear()
    client.submit(spec=spec("c"))
    client.gets_accepted(4)
    play.nothing_else()


def test_a_job_that_is_run_again_joins_the_queue_of_today(
    play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue may have been forgotten since, and come to be again."""
    from cluster.ids import format_job

    monkeypatch.setattr(queues, "MAX_QUEUES", 1)
    node, client = play.node(), play.client()
    client.submit(spec=spec("a"))
    node.raises(node.runs(client.job(1)))
    client.submit(spec=spec("b"))
    node.finishes(node.runs(client.job(2)))
    client.inbox.clear()
    sets(play, client, "a", paused=True)
    play.asks(client, "retry", jobs=[format_job(client.job(1))])
    play.nothing_else()
    job = next(iter(play.coordinator._ready))
    assert job.state is State.READY and job.record.queue is play.coordinator._queues.get("a")
