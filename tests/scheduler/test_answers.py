from __future__ import annotations

from cluster.actor import LOCAL, Header
from cluster.codec import decode, encode
from cluster.messages import Answer
from cluster.session import Link
from scheduler import answers
from scheduler.roster import Node, Roster


def roster(count: int, **labels: str) -> Roster:
    out = Roster()
    for i in range(count):
        out.add(Node(bytes(8), LOCAL, b"", Link(), 0.0, name=f"n{i:05}", slots=2, labels=labels))
    return out


def test_nodes_come_in_pages_that_fit_into_messages() -> None:
    nodes = roster(300, **{f"label-{i}": "x" * 250 for i in range(100)})
    names: list[str] = []
    pages = 0
    more = True
    while more:
        page = answers.nodes(nodes, 1.0, {"after": names[-1] if names else ""})
        decode(encode(Header(1, 1, 1), Answer(1, "", page)))
        names += [row["name"] for row in page["nodes"]]
        more = page["more"]
        pages += 1
    assert names == [n.name for n in nodes]
    assert pages > 1


def test_a_page_of_nonsense_is_the_first() -> None:
    assert len(answers.nodes(roster(2), 1.0, {"after": 7})["nodes"]) == 2


def test_load_counts_slots_of_all_nodes() -> None:
    assert answers.load(roster(3)) == {"nodes": 3, "slots": 6, "busy": 0, "leased": 0}
