"""The roster: who is there, and who fits."""

from __future__ import annotations

from cluster.actor import LOCAL
from cluster.session import Link
from scheduler.functions import Demand
from scheduler.roster import Node, Roster


def node(name: str, python: str = "3.11", **labels: str) -> Node:
    return Node(name.encode(), LOCAL, b"", Link(), 0.0, name=name, python=python, labels=labels)


def demand(python: str = "", **labels: str) -> Demand:
    return Demand(tuple(sorted(labels.items())), python, "default")


ANYTHING = demand()


def test_a_demand_is_met_by_labels_and_python_together() -> None:
    n = node("n", python="3.12", gpu="a100", disk="ssd")
    assert n.satisfies(ANYTHING) and n.satisfies(demand("3.12", gpu="a100"))
    assert not n.satisfies(demand(gpu="h100")) and not n.satisfies(demand(room="1"))
    assert not n.satisfies(demand("3.11"))


def test_a_node_that_names_its_queues_serves_no_other() -> None:
    n = node("n")
    assert n.satisfies(Demand((), "", "mail"))
    n.queues = ("mail", "video")
    assert n.satisfies(Demand((), "", "mail")) and not n.satisfies(ANYTHING)


def test_who_fits_is_known_anew_after_every_coming_and_going() -> None:
    roster, wanted = Roster(), demand(gpu="a100")
    assert roster.fitting(wanted) == []
    a, b = node("a", gpu="a100"), node("b")
    roster.add(a)
    roster.add(b)
    assert roster.fitting(wanted) == [a] and roster.fitting(ANYTHING) == [a, b]
    roster.remove(a)
    assert roster.fitting(wanted) == [] and list(roster) == [b] and len(roster) == 1


def test_removing_an_old_life_leaves_the_new_one() -> None:
    roster, old, new = Roster(), node("a"), node("a")
    roster.add(old)
    roster.add(new)
    roster.remove(old)
    assert roster.get("a") is new


def test_many_different_demands_are_forgotten_in_time() -> None:
    roster = Roster()
    roster.add(node("a"))
    for n in range(3_000):
        roster.fitting(demand(x=str(n)))
    assert len(roster._fitting) <= 1_001


def test_only_a_heard_and_reachable_node_gets_work() -> None:
    n = node("a")
    assert n.placeable
    n.suspect = True
    assert not n.placeable
    n.suspect, n.reachable = False, False
    assert not n.placeable
