"""The roster: who is there, and who fits."""

from __future__ import annotations

from cluster.actor import LOCAL
from cluster.session import Link
from scheduler.roster import Node, Roster


def node(name: str, python: str = "3.11", **labels: str) -> Node:
    return Node(name.encode(), LOCAL, b"", Link(), 0.0, name=name, python=python, labels=labels)


def test_a_demand_is_met_by_labels_and_python_together() -> None:
    n = node("n", python="3.12", gpu="a100", disk="ssd")
    assert n.satisfies(((), "")) and n.satisfies(((("gpu", "a100"),), "3.12"))
    assert not n.satisfies(((("gpu", "h100"),), "")) and not n.satisfies(((("room", "1"),), ""))
    assert not n.satisfies(((), "3.11"))


def test_who_fits_is_known_anew_after_every_coming_and_going() -> None:
    roster, demand = Roster(), ((("gpu", "a100"),), "")
    assert roster.fitting(demand) == []
    a, b = node("a", gpu="a100"), node("b")
    roster.add(a)
    roster.add(b)
    assert roster.fitting(demand) == [a] and roster.fitting(((), "")) == [a, b]
    roster.remove(a)
    assert roster.fitting(demand) == [] and list(roster) == [b] and len(roster) == 1


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
        roster.fitting(((("x", str(n)),), ""))
    assert len(roster._fitting) <= 1_001


def test_only_a_heard_and_reachable_node_gets_work() -> None:
    n = node("a")
    assert n.placeable
    n.suspect = True
    assert not n.placeable
    n.suspect, n.reachable = False, False
    assert not n.placeable
