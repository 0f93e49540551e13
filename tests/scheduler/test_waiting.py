"""Plays of jobs that no node can take: whose session is told what, when, and that it is told once."""

from __future__ import annotations

import pytest

from cluster.config import WAIT_WORD_S
from cluster.jobs import Outcome, Spec
from cluster.messages import Assign, Bye, Waiting
from scheduler import waiting
from scheduler.functions import Demand
from scheduler.roster import Node
from tests.playbook import CoordinatorPlay, FakeClient, sha_of

GPU = Spec("app:fn", False, b"f", labels=(("gpu", "yes"),))
OTHER = Spec("app:other", False, b"g", labels=(("gpu", "yes"),))
CODE = b"pickled function"
BY_VALUE = Spec("app:value", True, sha_of(CODE), len(CODE), python="3.13")


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def submits(client: FakeClient, count: int = 1, spec: Spec = GPU) -> None:
    client.submit(count, spec)
    client.gets_accepted(client.counter)


def waits(play: CoordinatorPlay, *clients: FakeClient, seconds: float = WAIT_WORD_S + 1) -> None:
    play.live(seconds, *clients)


# ------------------------------------------------------------------------------------ when, and to whom


def test_a_client_is_told_once_why_its_jobs_wait(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client, 3)
    waits(play, client, seconds=WAIT_WORD_S - 1)
    play.nothing_else()
    waits(play, client, seconds=2)
    assert client.gets(Waiting, function="app:fn", reason="a node: none has joined").jobs == 3
    waits(play, client, seconds=60)
    play.nothing_else()


def test_the_word_names_the_first_function_and_counts_the_jobs_of_all(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client, 2, GPU)
    submits(client, 3, OTHER)
    client.cancel(1)
    assert client.gets_failure(1, Outcome.CANCELLED).kind == "Cancelled"
    waits(play, client)
    word = client.gets(Waiting)
    assert (word.jobs, word.function) == (4, "app:fn")
    play.nothing_else()


def test_jobs_that_only_wait_for_a_free_slot_are_not_spoken_of(play: CoordinatorPlay) -> None:
    node, client = play.node("n1", labels={"gpu": "yes"}), play.client()
    client.submit(5, GPU)
    node.gets(Assign)
    client.gets_accepted(5)
    play.live(60, node, client)
    play.nothing_else()


def test_a_wait_that_ends_in_time_is_not_spoken_of(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client)
    waits(play, client, seconds=WAIT_WORD_S - 1)
    play.node("n1", labels={"gpu": "yes"}).gets(Assign)
    waits(play, client)
    play.nothing_else()


def test_what_waits_again_after_it_could_be_met_is_told_again(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client, 2)
    waits(play, client)
    client.gets(Waiting)
    node = play.node("n1", labels={"gpu": "yes"})
    node.gets(Assign)
    play.live(1, node, client)
    node.say(Bye("told to stop"))
    waits(play, client, seconds=WAIT_WORD_S - 1)
    play.nothing_else()
    waits(play, client, seconds=2)
    assert client.gets(Waiting).jobs == 2
    play.nothing_else()


def test_each_session_is_told_of_its_own_jobs_also_if_it_comes_later(play: CoordinatorPlay) -> None:
    first, second = play.client(), play.client()
    submits(first, 2)
    submits(second, 1)
    waits(play, first, second)
    assert (first.gets(Waiting).jobs, second.gets(Waiting).jobs) == (2, 1)
    late = play.client()
    submits(late, 7)
    submits(first, 1)
    waits(play, first, second, late, seconds=1)
    assert late.gets(Waiting).jobs == 7
    waits(play, first, second, late, seconds=30)
    play.nothing_else()


def test_a_session_that_is_away_is_told_when_it_is_back(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client)
    play.coordinator._clients.get(client.session).reachable = False  # type: ignore[union-attr]
    play.live(WAIT_WORD_S + 1)
    play.nothing_else()
    client.joins(accepted=1)
    play.live(1, client)
    client.gets(Waiting)
    play.nothing_else()


def test_a_word_is_repeated_under_its_number_on_each_new_link(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client)
    client.deaf = True
    play.live(WAIT_WORD_S + 1)
    client.deaf = False
    for _ in range(3):
        client.joins(accepted=1)
        waits(play, client, seconds=7)
        assert client.gets(Waiting, wait=1).jobs == 1
    play.nothing_else()


def test_a_session_that_has_left_is_not_told(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client)
    client.say(Bye("done"))
    waits(play)
    play.nothing_else()


def test_jobs_that_come_back_from_a_lost_node_are_spoken_of(play: CoordinatorPlay) -> None:
    """The other session's jobs were placed when the wait began, and join it older than those that wait."""
    one, two = play.client(), play.client()
    node = play.node("n1", labels={"gpu": "yes"})
    one.submit(1, GPU)
    node.gets(Assign)
    one.gets_accepted(1)
    two.submit(1, GPU)
    two.gets_accepted(1)
    play.live(3, one, two)
    play.live(6, one, two)
    assert "silent" in two.gets(Waiting).reason
    play.live(3, one, two)
    assert play.told("node_lost")
    one.gets(Waiting)
    play.nothing_else()


def test_the_longest_waiting_demands_are_watched_up_to_a_bound(play: CoordinatorPlay) -> None:
    client = play.client()
    for n in range(waiting.MAX_DEMANDS + 5):
        client.submit(1, Spec("app:fn", False, b"f", labels=(("n", str(n)),)))
    client.gets_accepted(client.counter)
    waits(play, client)
    for _ in range(waiting.MAX_DEMANDS):
        client.gets(Waiting, jobs=1)
    play.nothing_else()
    assert len(play.coordinator._waiting) == waiting.MAX_DEMANDS


def test_nothing_is_kept_when_nothing_waits(play: CoordinatorPlay) -> None:
    client = play.client()
    submits(client)
    waits(play, client)
    client.gets(Waiting)
    client.cancel(1)
    client.gets_failure(1, Outcome.CANCELLED)
    play.live(1, client)
    assert not len(play.coordinator._waiting)
    play.nothing_else()


# ------------------------------------------------------------------------------------ in words


def reason(play: CoordinatorPlay, spec: Spec) -> str:
    client = play.client()
    client.submit(1, spec, code=[CODE] if spec.by_value else [])
    client.gets_accepted(1)
    nodes = [e for e in play._ends.values() if e is not client]
    waits(play, client, *nodes)  # type: ignore[arg-type]
    return client.gets(Waiting).reason


def test_labels_that_no_node_has(play: CoordinatorPlay) -> None:
    play.node("n1", labels={"zone": "a"})
    play.node("n2")
    assert reason(play, GPU) == "a node with label gpu=yes; of 2 nodes none has it (n1: zone=a; n2: no labels)"


def test_several_labels_that_no_node_has_together(play: CoordinatorPlay) -> None:
    play.node("n1", labels={"gpu": "yes"})
    both = Spec("f", False, b"f", labels=(("gpu", "yes"), ("zone", "b")))
    assert reason(play, both) == "a node with labels gpu=yes and zone=b; of 1 node none has them all (n1: gpu=yes)"


def test_a_python_that_no_node_runs(play: CoordinatorPlay) -> None:
    play.node("n1")
    play.node("n2", python="3.12")
    assert reason(play, BY_VALUE) == "a node with Python 3.13, because code travels by value; the nodes have 3.11, 3.12"


def test_a_python_that_no_node_of_these_labels_runs(play: CoordinatorPlay) -> None:
    play.node("n1", labels={"gpu": "yes"})
    play.node("n2", python="3.13")
    spec = Spec("app:value", True, sha_of(CODE), len(CODE), python="3.13", labels=(("gpu", "yes"),))
    assert "Python 3.13" in (said := reason(play, spec))
    assert said.endswith("those with label gpu=yes have 3.11")


def test_nodes_that_could_and_are_silent(play: CoordinatorPlay) -> None:
    client = play.client()
    play.node("n1", labels={"gpu": "yes"})
    other = play.node("n2")
    play.live(3, client, other)
    play.wait(0.6)
    client.submit(1, GPU)
    client.gets_accepted(1)
    play.live(6, client, other)
    said = client.gets(Waiting).reason
    assert said.startswith("a node that is heard: of 2 nodes, 1 could take them (n1: silent for ")


def test_words_are_bounded_and_fit_for_one_line_whatever_peers_call_things() -> None:
    rude = "x\n\x1b[31m" * 1_000
    demand = Demand(tuple((f"k{n}{rude}", rude) for n in range(500)), rude, rude)
    play = CoordinatorPlay()
    for n in range(100):
        play.node(f"n{n}")
    nodes: list[Node] = list(play.coordinator._roster)
    for labels in ({}, dict(demand[0])):
        for number, node in enumerate(nodes):
            node.name, node.python, node.labels = f"{number}{rude}", f"{number}{rude}", {**labels, rude: rude}
        for fitting in ([], nodes):
            said = waiting.reason(demand, nodes, fitting, 0.0)
            assert said.isprintable() and len(said) < 2_000
