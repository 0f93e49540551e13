"""Who is let in, who is refused in words, and whose word counts."""

from __future__ import annotations

import pytest

from cluster.actor import Identity, Received
from cluster.config import PROTOCOL, CoordinatorLimits, Times
from cluster.messages import (
    Pulse,
    Refusal,
    Resync,
    Welcome,
)
from tests.playbook import (
    CLIENT_KEY,
    NODE_KEY,
    CoordinatorPlay,
)


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


def test_a_node_that_joins_is_told_epoch_and_times() -> None:
    play = CoordinatorPlay(epoch=9, times=Times(heartbeat_s=0.5, lease_s=4.0))
    welcome = play.new_node().joins()
    assert welcome == Welcome(9, False, 0, 0.5, 4.0)
    assert play.told("node_joined")[0].about["slots"] == 1
    play.nothing_else()


def test_a_client_that_joins_again_is_resumed(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(3)
    client.gets_accepted(3)
    assert client.joins(accepted=3) == Welcome(1, True, 3, 1.0, 10.0)
    play.nothing_else()


def test_a_client_unknown_here_is_told_so_and_goes_on_from_its_own_counter(play: CoordinatorPlay) -> None:
    client = play.new_client()
    assert client.joins(accepted=7) == Welcome(1, False, 7, 1.0, 10.0)
    client.submit(first=8)
    client.gets_accepted(8)
    play.nothing_else()


def test_another_protocol_version_is_refused_in_words(play: CoordinatorPlay) -> None:
    client = play.new_client()
    client.dial()
    client.hello(protocol=PROTOCOL + 1)
    text = client.gets(Refusal, code="version").text
    assert f"speaks protocol {PROTOCOL}" in text and f"speaks {PROTOCOL + 1}" in text and "same version" in text
    play.nothing_else()


def test_a_key_of_another_role_is_refused_in_words(play: CoordinatorPlay) -> None:
    node = play.new_node(identity=CLIENT_KEY)
    node.dial()
    node.hello()
    text = node.gets(Refusal, code="role").text
    assert "'ann' is for a client, not for a node" in text and "node.json" in text
    play.nothing_else()


def test_the_owner_may_be_client_and_node(play: CoordinatorPlay) -> None:
    owner = Identity("local", "owner", "local", "default")
    play.new_node(identity=owner).joins()
    play.new_client(identity=owner, namespace="elsewhere").joins()
    play.nothing_else()


def test_a_key_is_held_to_its_namespace(play: CoordinatorPlay) -> None:
    client = play.new_client(namespace="theirs")
    client.dial()
    client.hello()
    assert "for namespace 'default', not 'theirs'" in client.gets(Refusal, code="namespace").text
    play.nothing_else()


def test_a_session_belongs_to_the_key_that_opened_it(play: CoordinatorPlay) -> None:
    client = play.client()
    client.identity = CLIENT_KEY._replace(key="stolen")
    client.dial()
    client.hello()
    client.gets(Refusal, code="name")
    node = play.node()
    node.identity = NODE_KEY._replace(key="stolen")
    node.dial()
    node.hello()
    node.gets(Refusal, code="name")
    play.nothing_else()


def test_a_session_id_of_another_length_is_refused(play: CoordinatorPlay) -> None:
    client = play.new_client()
    client.session = b"short"
    client.dial()
    client.hello()
    client.gets(Refusal, code="version")
    play.nothing_else()


def test_full_is_refused_with_the_figure() -> None:
    play = CoordinatorPlay(limits=CoordinatorLimits(max_sessions=1, max_nodes=1))
    play.client(), play.node("n1")
    for late in (play.new_client(), play.new_node("n2")):
        late.dial()
        late.hello()
        assert "1 " in late.gets(Refusal, code="full").text
    play.nothing_else()


def test_a_late_copy_of_a_hello_changes_nothing(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    for peer in (node, client):
        link = peer.link
        peer.link = type(link)(link.number - 1)
        peer.hello()
        peer.link = link
        peer.beat()
    play.nothing_else()


def test_who_is_not_known_is_asked_to_say_hello(play: CoordinatorPlay) -> None:
    client = play.new_client()
    client.dial()
    client.submit()
    client.gets(Resync)
    play.nothing_else()


def test_a_message_by_another_key_on_a_known_route_is_not_taken(play: CoordinatorPlay) -> None:
    client = play.client()
    client.identity = CLIENT_KEY._replace(key="other")
    client.submit()
    client.gets(Resync)
    assert play.coordinator._admission.jobs == 0
    play.nothing_else()


def test_a_gap_is_answered_with_one_resync(play: CoordinatorPlay) -> None:
    client = play.client()
    client.lose(client.submission())
    for _ in range(5):
        client.beat()
    client.gets(Resync)
    assert play.told("resync")
    play.nothing_else()
    client.joins()
    client.counter = 0
    client.submit()
    client.gets_accepted(1)
    play.nothing_else()


def test_a_lost_resync_is_sent_again_after_a_while(play: CoordinatorPlay) -> None:
    node = play.node()
    node.deaf = True
    node.lose(Pulse())
    node.beat()
    node.deaf = False
    node.link.heard += 1  # it has not noticed
    play.wait(1.0)
    node.link.heard, node.deaf = 0, True
    play.wait(0.5)
    node.deaf = False
    node.beat()
    node.gets(Resync)
    play.nothing_else()


def test_a_duplicate_is_dropped(play: CoordinatorPlay) -> None:
    client = play.client()
    client.repeat(client.submission())
    client.gets_accepted(1)
    assert play.coordinator._admission.jobs == 1
    play.nothing_else()


def test_an_idle_client_that_beats_slowly_stays_on_its_link(play: CoordinatorPlay) -> None:
    client = play.client()
    client.beat()
    for _ in range(10):
        play.wait(5.0)
        client.beat()
    assert client.pulses == 11
    play.nothing_else()


def test_a_message_from_a_connection_that_was_taken_over_is_not_taken(play: CoordinatorPlay) -> None:
    client = play.client()
    old = client.route
    client.joins()
    play.turn(Received(old, CLIENT_KEY, client.link.header(), Pulse()))
    client.link.sent -= 1
    client.beat()
    assert client.pulses == 1
    play.nothing_else()


def test_a_hello_that_takes_over_a_route_leaves_the_other_unreachable(play: CoordinatorPlay) -> None:
    a, b = play.client(), play.new_client()
    b.route = a.route
    play._ends[b.route] = b
    b.hello()
    b.gets(Welcome)
    play.node()
    a.route = b"gone"
    b.submit()
    b.gets_accepted(1)
    b.gets_nothing()
