"""Why a job does not run: one sentence for each thing in its way, for each state it can be in."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import CoordinatorLimits
from cluster.ids import format_job
from cluster.job_pictures import candidate
from cluster.jobs import About, Rules, Spec
from cluster.messages import Assign, Started, Waiting
from scheduler.roster import LoadsQueried
from tests.playbook import CoordinatorPlay


def spec(labels: tuple[tuple[str, str], ...] = (), **rules: Any) -> Spec:
    return Spec("app:task", False, b"pickled reference", labels=labels, rules=Rules(**rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True, limits=CoordinatorLimits(prefill_max=0))


def test_no_node_and_no_node_that_fits(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=spec((("gpu", "a100"),)))
    client.gets_accepted(1)
    assert play.why(client, 1) == ["it waits for a node: none has joined"]
    play.node("n1", labels={"gpu": "h100"})
    [why] = play.why(client, 1)
    assert why == "it waits for a node with label gpu=a100; of 1 node none has it (n1: gpu=h100)"
    play.node("n2", labels={"gpu": "a100"}, queues=["mail"])
    [why] = play.why(client, 1)
    assert why.startswith("it waits for a node that serves queue default; of 2 nodes none does that could take them")
    play.nothing_else()


def test_a_node_that_is_silent(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=1), play.client()
    client.submit(2)
    node.gets(Assign, jobs=1)
    client.gets_accepted(2)
    play.live(5, client)
    assert "given up after its lease" in play.why(client, 1)[0]
    assert play.why(client, 2) == [
        "it waits for a node that is heard: of 1 node, 1 could take them (n1: silent for 5 s)"
    ]
    node.inbox.clear()
    client.inbox.clear()


def test_all_slots_are_taken(play: CoordinatorPlay) -> None:
    one, two, client = play.node("n1", slots=2), play.node("n2", slots=1), play.client()
    client.submit(5)
    client.gets_accepted(5)
    assert play.why(client, 5) == ["all 3 slots of the 2 nodes that fit are taken; 2 wait in its queue"]
    one.inbox.clear()
    two.inbox.clear()
    play.nothing_else()


def test_a_paused_queue_says_by_what_it_goes_on(play: CoordinatorPlay) -> None:
    _node, client = play.node("n1"), play.client()
    play.asks(client, "queue", name="mail", set={"paused": True})
    client.submit(spec=spec(queue="mail"))
    client.gets_accepted(1)
    assert play.why(client, 1) == ["queue mail is paused: cluster queue resume mail"]
    play.nothing_else()


def test_a_capped_queue_names_its_cap(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4), play.client()
    play.asks(client, "queue", name="all", set={"max_running": 1})
    play.asks(client, "queue", name="each", set={"max_per_node": 1})
    client.submit(2, spec=spec(queue="all"))
    client.submit(2, spec=spec(queue="each"))
    node.inbox.clear()
    client.gets_accepted(4)
    assert play.why(client, 2) == ["queue all runs 1 attempts, and may run 1 (max_running)"]
    assert play.why(client, 4) == ["each node that fits runs 1 of queue each already (max_per_node)"]
    play.nothing_else()


def test_a_moment_is_told_with_what_put_it_off(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(about=About(delay_s=60.0))
    client.submit(spec=spec(retries=1, retry_delay_s=30.0, jitter=0.0))
    node.raises(node.gets(Assign).tokens[0], text="503")
    client.gets_accepted(2)
    play.live(9, node, client)
    assert play.why(client, 1) == ["it is not due for another 51 s, as it was handed in"]
    assert play.why(client, 2) == ["it is not due for another 21 s, after attempt 1 (ValueError: 503)"]
    play.nothing_else()


@pytest.mark.parametrize(
    ("count", "said"), [(1, "after 1 job that has not ended: "), (5, "after 5 jobs that have not ended: ")]
)
def test_parents_are_named_as_far_as_there_is_room(play: CoordinatorPlay, count: int, said: str) -> None:
    _node, client = play.node("n1"), play.client()
    client.submit(count, about=About(delay_s=600.0))
    client.submit(about=About(after=tuple(client.job(n) for n in range(1, count + 1))))
    client.gets_accepted(count + 1)
    [why] = play.why(client, count + 1)
    assert why.startswith(f"it runs {said}")
    assert format_job(client.job(1)) in why
    assert ("and 2 more" in why) is (count == 5)
    play.nothing_else()


def test_what_runs_and_what_is_over_say_so(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit()
    token = node.gets(Assign).tokens[0]
    client.gets_accepted(1)
    assert play.why(client, 1) == ["it was placed on node n1, which has not said yet that it runs"]
    node.say(Started([token]))
    assert play.why(client, 1) == ["it runs on node n1, attempt 1"]
    node.raises(token)
    client.gets_failure(1)
    assert play.why(client, 1) == ["it is over: failed"]
    play.nothing_else()


def test_what_claims_graphics_processors_may_wait_at_its_node_for_one_that_has_room(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", resources={"gpus": 2.0}), play.client()
    client.submit(spec=spec(gpus=0.8))
    client.gets_accepted(1)
    token = node.gets(Assign).tokens[0]
    assert play.why(client, 1) == [
        "it was placed on node n1, which has not said yet that it runs; if none of its graphics processors has so much"
        " free, it waits there for those that run to end"
    ]
    node.say(Started([token]))
    assert play.why(client, 1) == ["it runs on node n1, attempt 1"]
    play.nothing_else()


def test_where_no_node_is_contained_explain_and_the_client_s_log_say_so() -> None:
    play = CoordinatorPlay()
    node, client = play.node("n1"), play.client()
    client.submit(spec=Spec("f", False, b"f", labels=(("isolation", "contained"),)))
    client.gets_accepted(1)
    wanted = "a node with label isolation=contained; of 1 node none has it (n1: no labels)"
    assert play.why(client, 1) == [f"it waits for {wanted}"]
    play.live(6, node, client)
    assert client.gets(Waiting).reason == wanted
    contained = play.node("n2", labels={"isolation": "contained"})
    contained.gets(Assign)
    play.nothing_else()


def test_ten_reasons_not_to_run_and_the_sentence_for_each(play: CoordinatorPlay) -> None:
    """One cluster, ten jobs that do not run, each for a reason of its own; and what keeps each node from them."""
    client = play.client()
    offers = {"cpus": 4.0, "memory_bytes": float(8 << 30), "licence": 1.0}
    one = play.node("n1", slots=6, labels={"zone": "a"}, resources=offers, queues=["default", "capped", "each"])
    play.asks(client, "queue", name="capped", set={"max_running": 1})
    play.asks(client, "queue", name="each", set={"max_per_node": 1})
    play.asks(client, "queue", name="held", set={"paused": True})
    # what runs there: a licence, an anti-affinity key, three of the processors, one of each capped queue
    client.submit(1, spec=spec(resources=(("licence", 1),), anti_affinity="db"))
    client.submit(1, spec=spec(cpus=3.0))
    client.submit(1, spec=spec(queue="capped"))
    client.submit(1, spec=spec(queue="each"))
    one.inbox.clear()
    waits = {
        "a queue that is paused": spec(queue="held"),
        "a queue with a cap": spec(queue="capped"),
        "a queue with a cap on each node": spec(queue="each"),
        "a queue that no node serves": spec(queue="mail"),
        "a label": spec((("zone", "b"),)),
        "more than any node offers": spec(cpus=5.0, gpus=1.0),
        "processors that others claim": spec(cpus=2.0),
        "a licence that another has": spec(resources=(("licence", 1),)),
        "a node without its like": spec(anti_affinity="db"),
    }
    for said in waits.values():
        client.submit(1, spec=said)
    client.submit(1, about=About(delay_s=60.0))
    client.gets_accepted(14)
    told = {reason: play.why(client, n) for n, reason in enumerate(waits, 5)} | {"a moment": play.why(client, 14)}
    serves = "it waits for a node that serves queue"
    assert told == {
        "a queue that is paused": [
            "queue held is paused: cluster queue resume held",
            f"{serves} held; of 1 node none does that could take them (n1: capped, default, each)",
        ],
        "a queue with a cap": ["queue capped runs 1 attempts, and may run 1 (max_running)"],
        "a queue with a cap on each node": ["each node that fits runs 1 of queue each already (max_per_node)"],
        "a queue that no node serves": [
            f"{serves} mail; of 1 node none does that could take them (n1: capped, default, each)"
        ],
        "a label": ["it waits for a node with label zone=b; of 1 node none has it (n1: zone=a)"],
        "more than any node offers": [
            "it waits for a node that offers cpus 5 and gpus 1; of 1 node none has so much, however idle"
            " (n1: cpus 4, gpus 0)"
        ],
        "processors that others claim": [
            "no node that fits has room for it: n1: cpus 1 of 4 unclaimed, and it claims 2"
        ],
        "a licence that another has": [
            "no node that fits has room for it: n1: licence 0 of 1 unclaimed, and it claims 1"
        ],
        "a node without its like": [
            "no node that fits has room for it: n1: runs a job of anti-affinity key db already"
        ],
        "a moment": ["it is not due for another 60 s, as it was handed in"],
    }
    assert len(told) == 10 and len({tuple(why) for why in told.values()}) == 10
    play.nothing_else()


def test_candidates_tell_what_is_preferred_avoided_and_kept_clear() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(prefill_max=0))
    client = play.client()
    said = spec(crash_retries=3, cpus=1.0, prefer=(("disk", "ssd"), ("zone", "a")))
    first = play.node("first", slots=2, labels={"zone": "a", "disk": "ssd"}, resources={"cpus": 2})
    client.submit(1, spec=said)
    play.node("second", slots=2, labels={"zone": "a"}, resources={"cpus": 1})
    play.node("third", slots=2, resources={"cpus": 1})
    play.turn(LoadsQueried({"third": 0.5}, 5.0))
    play.asks(client, "queue", name="default", set={"paused": True})
    first.crashes(first.gets(Assign).tokens[0])
    play.look_into_questions()
    rows = play.asks(client, "explain", id=format_job(client.job(1)))["nodes"]
    assert [(row["node"], row["takes"], row["avoided"], row["preferred"]) for row in rows] == [
        ("second", True, False, ["zone=a"]),
        ("third", True, False, []),
        ("first", True, True, ["disk=ssd", "zone=a"]),
    ]
    words = [candidate(row) for row in rows]
    assert words[0] == "node second: could take it; has 0 on 2 slots: score 0.00; it has the preferred zone=a"
    assert words[1] == (
        "node third: could take it; has 0 on 2 slots, and counts 0.50 fuller, as the load query says: score 0.50"
    )
    assert words[2].endswith("the job's last attempt failed there, so others go first")


def test_who_is_kept_off_a_node_and_for_whom_is_told(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=8, resources={"cpus": 4}), play.client()
    client.submit(4, spec=spec(cpus=1.0))
    first = node.gets(Assign, tokens=4).tokens
    client.submit(1, spec=spec(cpus=4.0))
    client.submit(1, spec=spec(cpus=1.0))
    client.gets_accepted(6)
    play.live(6, node, client)
    node.finishes(first[0])
    client.inbox.clear()
    assert play.why(client, 5) == [
        "no node that fits has room for it: n1: cpus 1 of 4 unclaimed, and it claims 4",
        "node n1 is kept clear for it, as it has waited for long",
    ]
    clear = f"n1: is kept clear for job {format_job(client.job(5))}, which has waited for long"
    assert play.why(client, 6) == [f"no node that fits has room for it: {clear}"]
    for token in first[1:]:
        node.finishes(token)
    node.gets(Assign, jobs=[client.job(5)])
    client.inbox.clear()
    play.nothing_else()
