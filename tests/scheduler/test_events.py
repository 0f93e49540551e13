"""Plays of those who listen to what happens to jobs: what they are told, in order, and what they missed."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.jobs import Failure, Rules, Spec
from cluster.messages import Answer, Ask, Assign, Results, Waiting
from scheduler import events
from tests.playbook import SPEC, CoordinatorPlay, FakeClient

OTHER = Spec("app:other", False, b"other", rules=Rules(queue="mail"))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay()


class Listener:
    def __init__(self, play: CoordinatorPlay, **wanted: Any) -> None:
        self.client: FakeClient = play.client()
        self.wanted = wanted
        self.asked = 0
        self.last, self.epoch = -1, 0
        assert self.hears() == []

    def asks(self) -> None:
        self.asked += 1
        self.client.say(Ask(self.asked, "events", {"after": self.last, "epoch": self.epoch, **self.wanted}))

    def takes(self) -> dict[str, Any]:
        body = self.client.gets(Answer, ask=self.asked, error="").body
        self.last, self.epoch = body["last"], body["epoch"]
        return body

    def hears(self) -> list[tuple[str, str]]:
        """Asks once, and is answered at once."""
        self.asks()
        return [(event["kind"], event["job"][-1]) for event in self.takes()["events"]]


def test_what_happens_to_a_job_is_told_in_order(play: CoordinatorPlay) -> None:
    listener = Listener(play)
    node, client = play.node("n1"), play.client()
    client.submit(2)
    assign = node.gets(Assign)
    assert listener.hears() == [("accepted", "1"), ("accepted", "2"), ("assigned", "1")]
    node.finishes(assign.tokens[0])
    node.gets(Assign)
    client.gets(Results)
    assert listener.hears() == [("succeeded", "1"), ("assigned", "2")]
    play.nothing_else()


def test_a_question_waits_until_something_happens(play: CoordinatorPlay) -> None:
    listener, client = Listener(play), play.client()
    listener.asks()
    play.nothing_else()
    client.submit()
    assert [e["kind"] for e in listener.takes()["events"]] == ["accepted"]
    client.gets_accepted(1)
    play.nothing_else()


def test_a_question_that_nothing_answers_is_answered_by_nothing(play: CoordinatorPlay) -> None:
    listener = Listener(play)
    listener.asks()
    play.live(events.HOLD_S - 1, listener.client)
    play.nothing_else()
    play.live(2, listener.client)
    assert listener.takes()["events"] == []


def test_only_what_is_asked_for_is_told(play: CoordinatorPlay) -> None:
    by_kind = Listener(play, kinds=["failed"])
    by_queue, by_function = Listener(play, queue="mail"), Listener(play, function="other")
    node, client = play.node("n1", slots=2), play.client()
    client.submit()
    client.submit(spec=OTHER)
    first = node.gets(Assign)
    second = node.gets(Assign)
    node.finishes(first.tokens[0], payload=Failure("ValueError", "no").encode(), outcome=1)
    client.gets(Results)
    assert by_kind.hears() == [("failed", "1")]
    assert by_queue.hears() == by_function.hears() == [("accepted", "2"), ("assigned", "2")]
    assert second.jobs == [client.job(2)]


def test_what_the_ring_has_forgotten_is_counted(play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(play)
    play.coordinator._events._ring = type(play.coordinator._events._ring)(maxlen=3)
    client = play.client()
    client.submit(5)
    client.gets_accepted(5)
    listener.asks()
    body = listener.takes()
    assert body["missed"] == 2 and [e["job"][-1] for e in body["events"]] == ["3", "4", "5"]


def test_nothing_is_kept_while_nobody_listens(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit()
    client.gets_accepted(1)
    assert play.coordinator._events.last == 0
    listener = Listener(play)
    play.live(events.LISTENS_S + 1, listener.client, client)
    client.gets(Waiting)
    client.submit()
    client.gets_accepted(2)
    assert play.coordinator._events.last == 0


def test_after_a_restart_a_listener_begins_anew_and_knows_it() -> None:
    play = CoordinatorPlay(durable=True)
    listener = Listener(play)
    before = listener.epoch
    play.restart()
    listener.client.joins()
    assert listener.hears() == [] and listener.epoch != before


def test_others_namespaces_are_not_heard(play: CoordinatorPlay) -> None:
    listener = Listener(play)
    other = play.new_client(namespace="default")
    other.joins()
    other.submit(spec=SPEC)
    assert listener.hears() == [("accepted", "1")]
    other.gets_accepted(1)


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"kinds": ["succeded"]}, "no event is called 'succeded'; there are accepted"),
        ({"kinds": "failed"}, "kinds is a list"),
        ({"after": -2}, "after a number"),
        ({"function": 3}, "texts"),
    ],
)
def test_what_cannot_be_asked_is_answered_in_words(play: CoordinatorPlay, about: dict[str, Any], word: str) -> None:
    client = play.client()
    client.say(Ask(1, "events", about))
    assert word in client.gets(Answer, ask=1).error
    play.nothing_else()
