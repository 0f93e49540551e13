"""What jobs claim and nodes offer: the book, and the coordinator's use of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.actor import Now
from cluster.config import CoordinatorLimits
from cluster.jobs import Rules, Spec
from cluster.messages import Assign, Cancel, Heartbeat, Retract, Returned, Waiting
from scheduler.placement import MOST
from scheduler.resources import Claims, Holdings, claims_of, told
from scheduler.rooms import RESERVE_AFTER_S
from scheduler.roster import LoadsQueried
from tests.playbook import CoordinatorPlay, FakeNode

GIB = 1 << 30


def spec(name: str = "app:task", labels: tuple[tuple[str, str], ...] = (), **rules: Any) -> Spec:
    return Spec(name, False, name.encode(), labels=labels, rules=Rules(**rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def given_to(node: FakeNode) -> list[int]:
    """Tokens of what it was assigned since."""
    tokens = [token for message in node.inbox if isinstance(message, Assign) for token in message.tokens]
    node.inbox = [message for message in node.inbox if not isinstance(message, Assign)]
    return tokens


def claimed(play: CoordinatorPlay, name: str = "n1") -> dict[str, float]:
    node = play.coordinator._roster.get(name)
    assert node is not None
    return {resource: amount["claimed"] for resource, amount in node.leases.holdings.rows.items()}


# ------------------------------------------------------------------------------------ the book


def test_a_limit_is_a_claim_and_most_jobs_have_none() -> None:
    assert claims_of(Rules(), "default") is None
    assert claims_of(Rules(processes=3, open_files=100), "default") is None
    claims = claims_of(Rules(cpus=0.5, memory_bytes=GIB, resources=(("licence", 2),)), "default")
    assert claims == Claims((("cpus", 500), ("licence", 2000), ("memory_bytes", 1000 * GIB)), None, ())
    assert claims is not None and claims.binding
    soft = claims_of(Rules(prefer=(("zone", "a"),)), "default")
    assert soft is not None and not soft.binding
    assert claims_of(Rules(anti_affinity="k"), "one") != claims_of(Rules(anti_affinity="k"), "two")


@given(st.lists(st.sampled_from((0.1, 0.2, 0.3, 0.333, 0.7, 1, 2.5)), max_size=60), st.integers(1, 4))
def test_parts_add_up_again(parts: list[float], offered: int) -> None:
    holdings = Holdings({"cpus": offered})
    held = []
    for part in parts:
        claims = claims_of(Rules(cpus=part), "default")
        assert claims is not None
        if holdings.fits(claims):
            holdings.take(claims)
            held.append(claims)
        assert 0 <= holdings.taken.get("cpus", 0) <= offered * 1000
        assert not holdings.could((("cpus", offered * 1000 + 1),))
    for claims in held:
        holdings.give_back(claims)
    assert holdings.free("cpus") == offered * 1000


def test_amounts_are_told_as_people_say_them() -> None:
    assert [told("cpus", 500), told("cpus", 4000), told("licence", 1)] == ["cpus 0.5", "cpus 4", "licence 0.001"]
    assert told("memory_bytes", 3 * GIB * 500) == "memory_bytes 1.5 GiB"
    assert told("memory_bytes", 0) == "memory_bytes 0 bytes"


# ------------------------------------------------------------------------------------ placing


def test_claims_are_held_until_the_attempt_has_ended(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=8, resources={"cpus": 2}), play.client()
    client.submit(5, spec(cpus=0.5))
    client.submit(2, spec(cpus=1.0))
    first = given_to(node)
    assert len(first) == 4 and claimed(play) == {"cpus": 2.0}
    node.finishes(*first[:3])
    assert len(given_to(node)) == 2 and claimed(play) == {"cpus": 2.0}  # one more of a half, and one whole
    node.raises(first[3])
    assert claimed(play) == {"cpus": 1.5}


def test_people_are_told_what_nodes_offer_and_how_much_is_claimed(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", resources={"cpus": 2, "memory_bytes": GIB}), play.client()
    client.submit(1, spec(cpus=0.5))
    assert len(given_to(node)) == 1
    client.gets_accepted(1)
    (row,) = play.asks(client, "nodes")["nodes"]
    assert row["resources"] == {
        "cpus": {"offered": 2.0, "claimed": 0.5},
        "memory_bytes": {"offered": float(GIB), "claimed": 0.0},
    }


def test_what_claims_nothing_is_not_held_up_and_waits_for_slots_alone(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=3, resources={"cpus": 1}), play.client()
    client.submit(4, spec(cpus=1.0))
    client.submit(4)
    assert len(given_to(node)) == 3
    assert claimed(play) == {"cpus": 1.0}


def test_short_jobs_that_claim_are_not_placed_ahead_of_need(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=1, resources={"licence": 100}), play.client()
    short = spec(resources=(("licence", 1),))
    client.submit(1, short)
    node.finishes(*given_to(node), run_us=10)
    client.submit(10, short)
    assert len(given_to(node)) == 1
    client.submit(10, spec("app:plain"))
    assert given_to(node) == []


def test_a_node_offers_what_it_says_and_nothing_else(play: CoordinatorPlay) -> None:
    bare, gpu, client = play.node("bare"), play.node("gpu", resources={"gpus": 1, "memory_bytes": GIB}), play.client()
    client.submit(1, spec(gpus=0.5, memory_bytes=GIB // 2))
    assert given_to(bare) == [] and len(given_to(gpu)) == 1


def test_a_job_that_claims_more_than_any_node_offers_is_kept_and_told_of_with_figures(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", resources={"cpus": 4, "memory_bytes": 8 * GIB}), play.client()
    client.submit(1, spec(cpus=6.0, memory_bytes=2 * GIB, resources=(("licence", 1),)))
    client.gets_accepted(1)
    wanted = (
        "a node that offers cpus 6 and licence 1 and memory_bytes 2 GiB; of 1 node none has so much, however idle "
        "(n1: cpus 4, licence 0)"
    )
    assert play.why(client, 1) == [f"it waits for {wanted}"]
    play.live(6, node, client)
    assert client.gets(Waiting).reason == wanted
    large = play.node("n2", resources={"cpus": 8, "memory_bytes": 4 * GIB, "licence": 1})
    assert len(given_to(large)) == 1 and given_to(node) == []


def test_what_is_given_back_unstarted_or_cancelled_claims_nothing_any_more(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4, resources={"licence": 1}), play.client()
    client.submit(1, spec(resources=(("licence", 1),)))
    (token,) = given_to(node)
    client.say(Cancel([client.job(1)]))
    node.gets(Retract)
    node.say(Returned([token], []))
    assert claimed(play) == {"licence": 0.0}


def test_a_crash_and_a_lost_node_give_back_too(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4, resources={"licence": 1}), play.client()
    client.submit(1, spec(resources=(("licence", 1),)))
    node.crashes(*given_to(node))
    assert len(given_to(node)) == 1 and claimed(play) == {"licence": 1.0}
    play.live(12, client)
    other = play.node("n2", slots=4, resources={"licence": 1})
    assert len(given_to(other)) == 1
    assert claimed(play, "n2") == {"licence": 1.0}


def test_after_a_restart_what_is_taken_up_again_still_claims(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4, resources={"cpus": 2}), play.client()
    client.submit(3, spec(cpus=1.0))
    held = given_to(node)
    assert len(held) == 2
    client.gets_accepted(3)
    play.restart()
    assert [n.resources for n in play.coordinator._roster] == [{"cpus": 2}]
    client.joins()
    node.joins(*((token, client.job(n + 1), 1) for n, token in enumerate(held)))
    assert given_to(node) == [], "both of its processors are taken"
    assert claimed(play) == {"cpus": 2.0}
    node.finishes(held[0])
    assert len(given_to(node)) == 1
    assert claimed(play) == {"cpus": 2.0}


def test_after_a_restart_what_no_node_has_any_more_claims_nothing(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=4, resources={"cpus": 1}), play.client()
    client.submit(1, spec(cpus=1.0))
    assert len(given_to(node)) == 1
    client.gets_accepted(1)
    play.restart()
    client.joins()
    node.joins()
    assert len(given_to(node)) == 1, "it never arrived"
    assert claimed(play) == {"cpus": 1.0}


# ------------------------------------------------------------------------------------ anti-affinity, preference


def test_jobs_under_one_key_never_share_a_node_and_hold_up_nobody_else(play: CoordinatorPlay) -> None:
    nodes, client = [play.node(name, slots=4) for name in ("a", "b")], play.client()
    client.submit(3, spec(anti_affinity="replica"))
    client.submit(1, spec(anti_affinity="other"))
    client.submit(1)
    client.gets_accepted(5)
    first = [given_to(node) for node in nodes]
    assert sum(map(len, first)) == 4
    [why] = play.why(client, 3)
    assert why.count("runs a job of anti-affinity key replica already") == 2
    for node, tokens in zip(nodes, first, strict=True):
        node.finishes(*tokens)
    assert sum(len(given_to(node)) for node in nodes) == 1


def test_preferred_nodes_are_filled_first_and_then_the_others(play: CoordinatorPlay) -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(prefill_max=0))
    near, client = play.node("near", slots=2, labels={"zone": "a", "disk": "ssd"}), play.client()
    half, far = play.node("half", slots=2, labels={"zone": "a"}), play.node("far", slots=2)
    said = spec(prefer=(("disk", "ssd"), ("zone", "a")))
    for want in (near, near, half, half, far, far):
        client.submit(1, said)
        assert len(given_to(want)) == 1
    client.submit(1, said)
    assert [given_to(n) for n in (near, half, far)] == [[], [], []]


def test_a_preferred_node_may_be_named(play: CoordinatorPlay) -> None:
    nodes, client = [play.node(name, slots=8) for name in "abc"], play.client()
    client.submit(6, spec(prefer=(("node", "b"),)))
    assert [len(given_to(node)) for node in nodes] == [0, 6, 0]


# ------------------------------------------------------------------------------------ kept clear


def test_small_jobs_that_keep_coming_do_not_hold_up_a_large_one_for_ever(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", slots=8, resources={"cpus": 4}), play.client()
    client.submit(4, spec("app:small", cpus=1.0))
    running = given_to(node)
    client.submit(1, spec("app:large", cpus=4.0))
    client.submit(100, spec("app:small", cpus=1.0))
    assert given_to(node) == []
    waited = 0
    while running:
        waited += 1
        assert waited < 20, "it is passed over for ever"
        play.wait(1.0)
        node.beat()
        client.beat()
        node.finishes(running.pop(0))
        running += given_to(node)
        if claimed(play) == {"cpus": 4.0} and len(running) == 1:
            break
    assert RESERVE_AFTER_S < waited <= RESERVE_AFTER_S + 6


def test_a_flood_that_is_placed_ahead_lets_others_in() -> None:
    """Short jobs of one queue lie ready beyond the slots of the only node; one of another queue, whose run time nobody
    knows, is not placed ahead of need, and gets its slot."""
    play = CoordinatorPlay()
    node, client = play.node("n1", slots=2), play.client()
    flood, other = spec("app:short"), spec("app:other", queue="other")
    client.submit(2, flood)
    node.finishes(*given_to(node), run_us=30)
    client.submit(5_000, flood)
    client.submit(1, other)
    held, rounds, there = given_to(node), 0, play.coordinator._queues.named("other")
    while not there.leased:
        rounds += 1
        assert rounds < 60, "it is passed over for ever"
        play.now = Now(play.now.mono + 0.2, play.now.wall + 0.2)
        done, held = held[: len(held) // 2 + 1], held[len(held) // 2 + 1 :]
        client.submit(len(done), flood)
        with play.one_turn():
            node.finishes(*done, run_us=30)
        held += given_to(node)
    assert rounds > RESERVE_AFTER_S / 0.2


# ------------------------------------------------------------------------------------ the load query


def penalties(play: CoordinatorPlay) -> dict[str, float]:
    return {node.name: node.penalty for node in play.coordinator._roster}


def test_what_the_query_says_steers_until_it_is_stale() -> None:
    play = CoordinatorPlay()
    hot, cool, client = play.node("hot", slots=8), play.node("cool", slots=8), play.client()
    play.turn(LoadsQueried({"hot": 0.8, "elsewhere": 3.0}, 1.0))
    assert penalties(play) == {"hot": 0.8, "cool": 0.0}
    client.submit(6)
    assert (len(given_to(hot)), len(given_to(cool))) == (0, 6)
    play.live(2, hot, cool)
    assert penalties(play)["hot"] == pytest.approx(0.8, abs=0.05)
    play.live(1, hot, cool)
    assert 0 < penalties(play)["hot"] < 0.5
    play.live(2, hot, cool)
    assert penalties(play) == {"hot": 0.0, "cool": 0.0}


def test_of_two_loads_the_larger_counts_and_the_weight_is_that_of_both() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(load_weight=0.5))
    node = play.node("n1", slots=4)
    for _ in range(8):
        node.say(Heartbeat({"cpu_ratio": 1.0, "own_cpu_ratio": 0.0}))
    measured = penalties(play)["n1"]
    assert 0.4 < measured <= 0.5
    play.turn(LoadsQueried({"n1": 0.2}, 5.0))
    assert penalties(play)["n1"] == measured
    play.turn(LoadsQueried({"n1": 1e9}, 5.0))
    assert penalties(play)["n1"] == 0.5 * MOST
    play.turn(LoadsQueried({}, 5.0))
    assert penalties(play)["n1"] == measured


def test_that_the_query_has_no_answer_is_told_once_and_that_it_has_one_again() -> None:
    play = CoordinatorPlay()
    node = play.node("n1")
    play.turn(LoadsQueried({"n1": 0.5}, 1.0))
    for _ in range(3):
        play.turn(LoadsQueried({}, 1.0, "Connection refused"))
    (fact,) = play.told("load_query_failed")
    assert fact.text.endswith("Connection refused") and penalties(play)["n1"] == 0.5
    play.live(5, node)
    assert penalties(play)["n1"] == 0
    play.turn(LoadsQueried({"n1": 0.5}, 1.0), LoadsQueried({"n1": 0.6}, 1.0))
    assert len(play.told("load_query_well")) == 1 and penalties(play)["n1"] == 0.6
