"""What nodes measure steers placement: who is loaded by others gets less, who is short of memory nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import CoordinatorLimits
from cluster.ids import format_job, job_id
from cluster.job_pictures import candidate
from cluster.jobs import End, Failure, Rules, Spec
from cluster.messages import Answer, Ask, Assign, Finished, Heartbeat, Message
from tests.playbook import CoordinatorPlay, FakeClient, FakeNode

LOADED = {"cpu_ratio": 1.0, "own_cpu_ratio": 0.0}
IDLE = {"cpu_ratio": 0.05, "own_cpu_ratio": 0.0}
SHORT = {"memory_bytes": 100.0, "memory_available_bytes": 2.0}
ROOMY = {"memory_bytes": 100.0, "memory_available_bytes": 50.0}


def says(play: CoordinatorPlay, node: FakeNode, vitals: dict[str, Any], times: int = 8) -> None:
    for _ in range(times):
        node.say(Heartbeat(dict(vitals)))


def given(node: FakeNode) -> int:
    """How many attempts it got, by what is in its inbox."""
    tokens = [token for message in node.inbox if isinstance(message, Assign) for token in message.tokens]
    node.inbox = [message for message in node.inbox if not isinstance(message, Assign)]
    return len(tokens)


def candidates(play: CoordinatorPlay, client: FakeClient, counter: int) -> list[dict[str, Any]]:
    client.say(Ask(77, "explain", {"id": format_job(job_id(client.session, counter))}))
    (answer,) = [message for message in client.inbox if isinstance(message, Answer)]
    client.inbox.remove(answer)
    rows: list[dict[str, Any]] = answer.body["nodes"]
    return rows


def state(play: CoordinatorPlay, name: str) -> str:
    node = play.coordinator._roster.get(name)
    assert node is not None
    return node.state


@pytest.mark.parametrize(("weight", "least", "most"), [(1.0, 8, 8), (0.0, 2, 6)])
def test_a_burst_goes_where_nobody_else_works(weight: float, least: int, most: int) -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(load_weight=weight))
    loaded, idle, client = play.node("loaded", slots=8), play.node("idle", slots=8), play.client()
    says(play, loaded, LOADED)
    says(play, idle, IDLE)
    client.submit(8)
    there = given(idle)
    assert least <= there <= most
    assert given(loaded) == 8 - there


def test_a_loaded_node_takes_what_no_other_can() -> None:
    play = CoordinatorPlay()
    loaded, client = play.node("loaded", slots=2), play.client()
    says(play, loaded, LOADED)
    client.submit(2)
    assert given(loaded) == 2


def test_a_report_that_is_old_counts_less_and_then_no_more() -> None:
    play = CoordinatorPlay()
    node = play.node("n1")
    says(play, node, LOADED)
    inside = play.coordinator._roster.get("n1")
    assert inside is not None and inside.penalty > 0.9
    play.wait(3.2)
    assert 0 < inside.penalty < 1.0


def test_a_node_that_is_short_of_memory_gets_nothing_until_it_has_recovered() -> None:
    play = CoordinatorPlay()
    node, client = play.node("n1", slots=2), play.client()
    says(play, node, SHORT, 1)
    assert state(play, "n1") == "short of memory"
    client.submit(1)
    assert given(node) == 0
    play.live(6.0, client)
    says(play, node, SHORT, 1)
    says(play, node, ROOMY, 1)
    play.live(0.3, node, client)
    assert given(node) == 1
    assert state(play, "n1") == "up"


def test_people_are_told_what_keeps_a_job_from_such_a_node() -> None:
    play = CoordinatorPlay()
    node, client = play.node("n1", slots=2), play.client()
    says(play, node, SHORT, 1)
    client.submit(1)
    [why] = play.why(client, 1)
    assert "short of memory: it is given nothing new until it has recovered" in why
    (row,) = candidates(play, client, 1)
    assert not row["takes"] and "short of memory" in row["why"]


def test_candidates_are_told_with_filters_and_scores() -> None:
    """In the order in which they would be taken; those that cannot come last, each with its filter."""
    play = CoordinatorPlay(limits=CoordinatorLimits(prefill_max=0))
    client = play.client()
    full, loaded = play.node("full", slots=1), play.node("loaded", slots=4)
    play.node("idle", slots=4)
    play.node("mail", queues=["mail"])
    says(play, loaded, LOADED)
    play.coordinator._queues.named("default").settings.max_running = 0
    client.submit(1)
    play.coordinator._queues.named("default").settings.max_running = None
    for node in (full, loaded):
        node.inbox = [message for message in node.inbox if not isinstance(message, Assign)]
    rows = candidates(play, client, 1)
    assert [row["node"] for row in rows][-1] == "mail" and rows[-1]["why"] == "does not serve queue default"
    scores = [row["score"] for row in rows if row["takes"]]
    assert scores == sorted(scores) and rows[-2]["node"] == "loaded" and rows[-2]["penalty"] > 0.9
    line = candidate(rows[-2])
    assert line.startswith("node loaded: could take it; has 0 on 4 slots, and counts 1.00 fuller") or "0.99" in line
    assert candidate(rows[-1]) == "node mail: does not serve queue default"


def test_what_failed_on_a_node_is_tried_on_another() -> None:
    play = CoordinatorPlay()
    nodes = {name: play.node(name, slots=4) for name in ("a", "b", "c")}
    client = play.client()
    client.submit(1, Spec("m:f", False, b"f", rules=Rules(crash_retries=2)))
    tried = []
    for _ in range(3):
        (name,) = [n for n, node in nodes.items() if any(isinstance(m, Assign) for m in node.inbox)]
        tried.append(name)
        crash = Failure("WorkerCrashed", "the worker process died").encode()
        node = nodes[name]
        message: Message = Finished(node.gets(Assign).tokens, [int(End.CRASHED)], [crash], [], [1], [1])
        node.say(message)
    assert tried[0] != tried[1] != tried[2]


def test_where_there_is_no_other_it_is_tried_there_again() -> None:
    play = CoordinatorPlay()
    node, client = play.node("a", slots=4), play.client()
    client.submit(1, Spec("m:f", False, b"f", rules=Rules(crash_retries=2)))
    crash = Failure("WorkerCrashed", "the worker process died").encode()
    node.say(Finished(node.gets(Assign).tokens, [int(End.CRASHED)], [crash], [], [1], [1]))
    assert given(node) == 1


def test_a_queue_that_is_packed_fills_one_node_first() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(prefill_max=0))
    nodes, client = [play.node(name, slots=4) for name in "abc"], play.client()
    play.asks(client, "queue", name="default", set={"placement": "pack"})
    client.submit(6)
    assert sorted(map(given, nodes)) == [0, 2, 4]
