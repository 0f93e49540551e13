"""Questions and orders about jobs: pages, filters, namespaces, replay, refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgpack
import pytest

from cluster.actor import Identity
from cluster.ids import format_job, job_id
from cluster.jobs import About, Outcome, Rules, Spec
from cluster.messages import Answer, Ask, Assign, Fetch, Results, Retract, Returned
from scheduler import inquiries
from scheduler.inquiries import BadQuestion, Filter
from tests.playbook import SPEC, CoordinatorPlay, FakeClient, FakeNode, sha_of

OWNER = Identity("owner-key", "owner", "root", "default")


def spec(name: str = "app:task", **rules: Any) -> Spec:
    namespace = rules.pop("namespace", "default")
    return Spec(name, False, b"pickled reference", namespace=namespace, rules=Rules(**rules))


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def pages(play: CoordinatorPlay, client: FakeClient, limit: int, **wanted: Any) -> list[list[dict[str, Any]]]:
    """All pages of one question."""
    out: list[list[dict[str, Any]]] = []
    more: Any = None
    while True:
        body = play.asks(client, "jobs", **wanted, limit=limit, more=more)
        assert len(body["jobs"]) <= limit
        out.append(body["jobs"])
        more = body["more"]
        if more is None:
            return out
        assert len(out) < 1_000, "the pages do not end"


def found(play: CoordinatorPlay, client: FakeClient, limit: int = 500, **wanted: Any) -> list[str]:
    return [job["id"] for page in pages(play, client, limit, **wanted) for job in page]


def ids(client: FakeClient, *counters: int) -> list[str]:
    return [format_job(client.job(c)) for c in counters]


def drain(node: FakeNode, client: FakeClient) -> None:
    """Whatever the node has been given is done."""
    while node.inbox:
        node.finishes(*node.gets(Assign).tokens)
    client.inbox.clear()


# ------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7, 10, 500])
@pytest.mark.parametrize("slice_", [1, 3, 20_000])
def test_pages_have_each_job_once_the_unfinished_first_and_of_each_kind_the_newest(
    play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch, limit: int, slice_: int
) -> None:
    monkeypatch.setattr(inquiries, "SLICE", slice_)
    node, client, second = play.node(slots=20), play.client(), play.client()
    client.submit(3)
    second.submit(2)
    client.submit(1)
    drain(node, client)
    second.inbox.clear()
    client.submit(2, spec=spec(queue="nobody's"), about=About(delay_s=600.0))
    second.submit(2, about=About(delay_s=600.0))
    client.submit(1, about=About(delay_s=600.0))
    client.inbox.clear()
    got = found(play, client, limit)
    assert got[:5] == [*ids(client, 7), *ids(second, 4, 3), *ids(client, 6, 5)]
    assert got[5:] == [*ids(client, 4), *ids(second, 2, 1), *ids(client, 3, 2, 1)]
    second.inbox.clear()
    play.nothing_else()


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("look_at", [1, 2, 3, 7])
def test_a_page_that_has_looked_long_enough_is_left_to_the_next(
    play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch, limit: int, look_at: int
) -> None:
    monkeypatch.setattr(inquiries, "SLICE", 1)
    monkeypatch.setattr(inquiries, "LOOK_AT", look_at)
    monkeypatch.setitem(inquiries.Inquiry.__init__.__globals__, "LOOK_AT", look_at)
    node, client = play.node(slots=20), play.client()
    for counter in range(1, 13):
        client.submit(spec=spec("app:odd" if counter % 2 else "app:even"))
    drain(node, client)
    for counter in range(13, 20):
        client.submit(spec=spec("app:odd" if counter % 2 else "app:even"), about=About(delay_s=600.0))
    client.inbox.clear()
    assert found(play, client, limit, function="odd") == ids(client, *range(19, 0, -2))
    assert found(play, client, limit, function="neither") == []
    play.nothing_else()


def test_a_job_that_ends_between_two_pages_is_never_left_out(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=20), play.client()
    client.submit(6)
    tokens = node.gets(Assign).tokens
    client.gets_accepted(6)
    first = play.asks(client, "jobs", limit=2)
    node.finishes(*tokens)
    client.gets_results(*range(1, 7))
    second = play.asks(client, "jobs", limit=500, more=first["more"])
    seen = Counter(job["id"] for body in (first, second) for job in body["jobs"])
    assert set(seen) == set(ids(client, *range(1, 7)))
    assert all(n <= 2 for n in seen.values())
    play.nothing_else()


def test_new_jobs_and_prunes_between_pages_repeat_nothing_and_leave_nothing_out(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=20), play.client()
    client.submit(6)
    drain(node, client)
    client.submit(4, about=About(delay_s=600.0))
    client.gets_accepted(10)
    seen: list[str] = []
    more: Any = None
    while True:
        body = play.asks(client, "jobs", limit=3, more=more)
        seen += [job["id"] for job in body["jobs"]]
        client.submit(2, about=About(delay_s=600.0))
        client.inbox.clear()
        more = body["more"]
        if more is None:
            break
    assert seen == ids(client, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)
    client.inbox.clear()
    play.nothing_else()


def test_a_deep_page_of_unfinished_jobs_does_not_look_at_those_before_it() -> None:
    class Ranked:
        looked = 0

        def __init__(self, rank: int) -> None:
            self._rank = rank

        @property
        def rank(self) -> int:
            Ranked.looked += 1
            return self._rank

    class Having:
        def __init__(self, *ranks: int) -> None:
            self.jobs = {rank: Ranked(rank) for rank in ranks}

    clients: Any = [Having(*range(1, 40_000, 2)), Having(), Having(*range(2, 40_000, 2))]
    some = inquiries.newest_first(clients, 5)
    assert [job.rank for job in some] == [4, 3, 2, 1]
    assert Ranked.looked < 100
    assert [job.rank for job in inquiries.newest_first(clients, 1)] == []
    assert next(inquiries.newest_first(clients, 0)).rank == 39_999


def test_a_client_that_leaves_is_answered_nothing(play: CoordinatorPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.messages import Bye

    monkeypatch.setattr(inquiries, "SLICE", 1)
    client = play.client()
    with play.one_turn():
        client.say(Ask(1, "jobs", {}))
        client.say(Bye("it leaves"))
    play.look_into_questions()
    play.nothing_else()
    assert not play.coordinator._desk._inquiries


def test_too_many_questions_at_once_are_refused(play: CoordinatorPlay) -> None:
    client = play.client()
    with play.one_turn():
        for ask in range(101):
            client.say(Ask(ask, "jobs", {}))
    play.look_into_questions()
    answers = {}
    while client.inbox:
        answer = client.gets(Answer)
        answers[answer.ask] = answer.error
    assert answers.pop(100) == "100 questions are being looked into; ask again"
    assert set(answers.values()) == {""} and len(answers) == 100
    play.nothing_else()


# ------------------------------------------------------------------------------------ filters


@pytest.fixture
def mixed(play: CoordinatorPlay) -> tuple[CoordinatorPlay, FakeNode, FakeClient]:
    """1 succeeded on n1, 2 is dead, 3 is cancelled, 4 runs, 5 waits to run again, 6 waits for its moment."""
    node, client = play.node(slots=8), play.client()
    client.submit(spec=spec("app:load", tags=("nightly",)), summary="'eu', limit=5")
    node.finishes(node.runs(client.job(1)))
    dead = spec("app:send", queue="mail", retries=1, retry_delay_s=0.0, tags=("nightly", "mail"))
    client.submit(spec=dead, summary="'Ann@example.org'")
    node.raises(node.runs(client.job(2)), "SMTPError", "OSError", text="421 try\nlater")
    node.raises(node.runs(client.job(2)), "SMTPError", "OSError", text="550 No such user\nsecond line")
    client.submit(spec=spec("app:send", queue="mail"), about=About(delay_s=600.0))
    client.cancel(3)
    client.submit(spec=spec("app:train", queue="slow"))
    node.runs(client.job(4))
    client.submit(spec=spec("app:send", queue="mail", retries=3, retry_delay_s=600.0))
    node.raises(node.runs(client.job(5)), text="451 not now")
    client.submit(spec=spec("app:load"), about=About(delay_s=600.0))
    client.inbox.clear()
    return play, node, client


@pytest.mark.parametrize(
    ("wanted", "counters"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"states": ["unfinished"]}, [6, 5, 4]),
        ({"states": ["finished"]}, [3, 2, 1]),
        ({"states": ["dead"]}, [2]),
        ({"states": ["failed"]}, [2]),
        ({"states": ["running", "cancelled"]}, [4, 3]),
        ({"states": ["scheduled"]}, [6, 5]),
        ({"states": ["running", "dead"]}, [4, 2]),
        ({"states": ["succeeded", "dead"]}, [2, 1]),
        ({"function": "send"}, [5, 3, 2]),
        ({"function": "app:"}, [6, 5, 4, 3, 2, 1]),
        ({"queue": "mail"}, [5, 3, 2]),
        ({"queue": "mai"}, []),
        ({"tag": "nightly"}, [2, 1]),
        ({"tag": "night"}, []),
        ({"node": "n1"}, [4, 2, 1]),
        ({"node": "n2"}, []),
        ({"error": "no such"}, [2]),
        ({"error": "smtperror: 550"}, [2]),
        ({"error": "second line"}, []),
        ({"arguments": "ann@"}, [2]),
        ({"arguments": "LIMIT=5"}, [1]),
        ({"arguments": "%"}, []),
        ({"function": "send", "states": ["unfinished"], "queue": "mail"}, [5]),
        ({"function": "send", "states": ["failed", "cancelled"]}, [3, 2]),
    ],
)
def test_what_a_filter_finds(
    mixed: tuple[CoordinatorPlay, FakeNode, FakeClient], wanted: dict[str, Any], counters: list[int]
) -> None:
    play, _node, client = mixed
    for limit in (1, 500):
        assert found(play, client, limit, **wanted) == ids(client, *counters)
    play.nothing_else()


def test_a_filter_finds_the_same_after_a_restart(mixed: tuple[CoordinatorPlay, FakeNode, FakeClient]) -> None:
    play, node, client = mixed
    play.restart()
    client.joins(accepted=6)
    assert found(play, client, tag="nightly") == ids(client, 2, 1)
    assert found(play, client, states=["adrift"]) == ids(client, 6, 5, 4)
    node.joins()
    node.runs(client.job(4))
    assert found(play, client, states=["scheduled"]) == ids(client, 6, 5)
    assert found(play, client, error="550", arguments="ann") == ids(client, 2)
    play.nothing_else()


def test_age_is_that_of_the_end_or_of_the_acceptance(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=8), play.client()
    client.submit()
    token = node.runs(client.job(1))
    client.submit(about=About(delay_s=600.0))
    play.live(10, node, client)
    middle = play.now.wall - 1
    node.finishes(token)
    client.inbox.clear()
    assert found(play, client, until=middle) == ids(client, 2)
    assert found(play, client, since=middle) == ids(client, 1)
    play.nothing_else()


@pytest.mark.parametrize(
    "about",
    [
        {"states": ["runing"]},
        {"states": "running"},
        {"states": [5]},
        {"function": 5},
        {"error": "x" * 501},
        {"since": "yesterday"},
        {"since": True},
        {"limit": 0},
        {"limit": 501},
        {"limit": "5"},
        {"more": [1]},
        {"more": {"rank": 1}},
        {"more": {"rank": -2, "before": 0}},
        {"more": {"rank": 1 << 62, "before": 0}},
    ],
)
def test_a_wrong_question_is_refused_in_words(play: CoordinatorPlay, about: dict[str, Any]) -> None:
    client = play.client()
    assert play.is_refused(client, "jobs", **about)
    play.nothing_else()


def test_a_state_that_is_none_is_answered_with_those_there_are() -> None:
    with pytest.raises(BadQuestion, match="no state is called 'runing'; there are adrift, scheduled, ready"):
        Filter.of({"states": ["runing"]})


# ------------------------------------------------------------------------------------ ids


def test_jobs_are_found_by_the_beginning_of_their_ids(play: CoordinatorPlay) -> None:
    node, client, second = play.node(slots=20), play.client(), play.client()
    client.submit(11)
    drain(node, client)
    client.submit(2, about=About(delay_s=600.0))
    second.submit(1, about=About(delay_s=600.0))
    client.inbox.clear()
    second.inbox.clear()
    whole = format_job(client.job(1))
    assert found(play, client, id=whole) == ids(client, 13, 12, 11, 10, 1)
    assert found(play, client, id=whole[:16]) == ids(client, *range(13, 0, -1))
    assert found(play, client, id=whole[:15]) == [*ids(second, 1), *ids(client, *range(13, 0, -1))]
    assert found(play, client, id=whole[:-1] + "9") == ids(client, 9)
    assert found(play, client, id="zz") == []
    assert found(play, client, id="0" * 15 + "2x") == []
    play.nothing_else()


@pytest.mark.parametrize("topic", ["job", "explain"])
def test_an_unknown_or_wrong_id_is_said_in_words(play: CoordinatorPlay, topic: str) -> None:
    client = play.client()
    unknown = "0000000000000009-1"
    assert play.is_refused(client, topic, id=unknown) == f"no job {unknown} is known to this coordinator"
    assert "is not a job id" in play.is_refused(client, topic, id="what")
    assert play.is_refused(client, topic, id=5) == "a job id is a text"
    assert play.is_refused(client, topic) == "a job id is a text"
    assert "1 to 500" in play.is_refused(client, "cancel", jobs=[])
    assert "1 to 500" in play.is_refused(client, "retry", jobs=[unknown] * 501)
    assert "1 to 500" in play.is_refused(client, "drop", jobs=unknown)
    play.nothing_else()


# ------------------------------------------------------------------------------------ namespaces


def test_jobs_of_other_namespaces_are_neither_seen_nor_touched(play: CoordinatorPlay) -> None:
    node, client = play.node(slots=8), play.client()
    other = play.new_client(Identity("other-key", "client", "bob", "theirs"), "theirs")
    other.joins()
    other.submit(spec=spec("theirs:over", namespace="theirs"))
    node.raises(node.runs(other.job(1)))
    other.submit(spec=spec("theirs:waits", namespace="theirs"), about=About(delay_s=600.0))
    other.inbox.clear()
    over, waits = ids(other, 1, 2)
    assert found(play, client) == []
    assert found(play, client, id=over) == []
    for topic in ("job", "explain"):
        for one in (over, waits):
            assert play.is_refused(client, topic, id=one) == f"no job {one} is known to this coordinator"
    assert play.asks(client, "cancel", jobs=[waits]) == {"found": 0, "cancelled": 0, "ending": 0}
    assert play.asks(client, "retry", jobs=[over])["made"] == {}
    assert play.asks(client, "drop", jobs=[over, waits]) == {"dropped": 0}
    owner = play.new_client(OWNER)
    owner.joins()
    assert found(play, owner) == [waits, over]
    assert play.asks(owner, "job", id=over)["job"]["namespace"] == "theirs"
    assert play.asks(owner, "cancel", jobs=[waits]) == {"found": 1, "cancelled": 1, "ending": 0}
    other.gets_failure(2, Outcome.CANCELLED)
    play.nothing_else()


# ------------------------------------------------------------------------------------ cancel


def test_cancel_counts_what_ended_at_once_and_asks_back_what_was_placed(play: CoordinatorPlay) -> None:
    node, client, second = play.node(slots=2), play.client(), play.client()
    client.submit()
    node.runs(client.job(1))
    client.submit()
    placed = node.gets(Assign).tokens[0]
    client.submit(about=About(delay_s=600.0))
    client.gets_accepted(3)
    every = ids(client, 1, 2, 3)
    assert play.asks(second, "cancel", jobs=[*every, every[2]]) == {"found": 3, "cancelled": 1, "ending": 0}
    client.gets_failure(3, Outcome.CANCELLED)
    node.gets(Retract, tokens=[placed])
    node.say(Returned([placed], []))
    client.gets_failure(2, Outcome.CANCELLED)
    play.nothing_else()


# ------------------------------------------------------------------------------------ retry


def dead_letter(play: CoordinatorPlay, **more: Any) -> tuple[FakeNode, FakeClient, str]:
    node, client = play.node(slots=2), play.client()
    client.submit(spec=spec(retries=1, retry_delay_s=0.0, tags=("t",)), summary="5", **more)
    for _ in range(2):
        node.raises(node.gets(Assign, jobs=[client.job(1)]).tokens[0])
    while client.inbox:
        client.gets(type(client.inbox[0]))
    return node, client, ids(client, 1)[0]


@pytest.mark.parametrize("restart", [False, True])
def test_a_dead_letter_runs_again_as_a_new_job_with_the_same_arguments(play: CoordinatorPlay, restart: bool) -> None:
    node, client, dead = dead_letter(play, payload=b"these")
    if restart:
        play.restart()
        node.joins()
        client.joins(accepted=1)
    body = play.asks(client, "retry", jobs=[dead])
    new = body["made"][dead]
    assert body == {"made": {dead: new}, "refused": {}}
    if restart:
        node.gets(Assign, payloads=[b"these"])
        play.restart()
        node.joins()
        client.joins(accepted=1)
    token = node.gets(Assign, payloads=[b"these"], attempts=[1]).tokens[0]
    job = play.asks(client, "job", id=new)["job"]
    assert (job["retry_of"], job["tags"], job["arguments"], job["owner"]) == (dead, ["t"], "5", "ann")
    node.finishes(token, payload=b"42")
    assert play.asks(client, "job", id=new)["job"]["state"] == "succeeded"
    assert play.asks(client, "job", id=dead)["job"]["state"] == "failed"
    play.nothing_else()


def test_a_job_that_is_run_again_has_its_whole_budget(play: CoordinatorPlay) -> None:
    node, client, dead = dead_letter(play)
    new = play.asks(client, "retry", jobs=[dead])["made"][dead]
    node.raises(node.gets(Assign, attempts=[1]).tokens[0])
    node.raises(node.gets(Assign, attempts=[2]).tokens[0])
    assert play.asks(client, "job", id=new)["job"]["dead"] is True
    again = play.asks(client, "retry", jobs=[new])["made"][new]
    node.finishes(node.gets(Assign, attempts=[1]).tokens[0])
    assert play.asks(client, "job", id=again)["job"]["retry_of"] == new
    play.nothing_else()


def test_a_job_that_is_run_again_has_the_parent_of_the_first(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    parent, root = job_id(b"elsewher", 7), job_id(b"elsewher", 1)
    client.submit(about=About(key="k", parent=parent, root=root))
    node.raises(node.gets(Assign).tokens[0])
    client.gets_failure(1)
    new = play.asks(client, "retry", jobs=[format_job(client.job(1))])["made"][format_job(client.job(1))]
    told = msgpack.unpackb(node.gets(Assign).about[0][1])
    assert told == {"parent": parent, "root": root}
    job = play.asks(client, "job", id=new)["job"]
    assert (job["parent"], job["root"], job["key"]) == (format_job(parent), format_job(root), None)
    play.nothing_else()


def test_a_large_argument_is_kept_for_those_who_run_it_again_and_goes_with_a_drop(play: CoordinatorPlay) -> None:
    node, client = play.node(), play.client()
    data = b"x" * 5_000
    ref = client.hands_over(data)
    client.submit(spec=spec(), large=[ref])
    token = node.gets(Assign).tokens[0]
    node.raises(token)
    client.gets_failure(1)
    [job] = ids(client, 1)
    new = play.asks(client, "retry", jobs=[job])["made"][job]
    again = node.gets(Assign, large=[[0, *ref]])
    node.say(Fetch(*ref))
    assert node.gets_blob(ref[0]) == data
    with play.one_turn():
        for ask in (1, 2):
            client.say(Ask(ask, "drop", {"jobs": [job]}))
    assert [client.gets(Answer).body["dropped"] for _ in range(2)] == [1, 0]
    assert ref[0] in play.coordinator._exchange
    node.say(Fetch(*ref))  # the new job has it still
    assert node.gets_blob(ref[0]) == data
    node.finishes(*again.tokens)
    assert play.asks(client, "job", id=new)["job"]["state"] == "succeeded"
    assert play.is_none_held(ref[0])
    play.nothing_else()


def test_what_cannot_be_run_again_is_refused_each_in_words(play: CoordinatorPlay) -> None:
    node, client, dead = dead_letter(play)
    client.submit()
    node.finishes(node.runs(client.job(2)))
    client.submit(about=About(delay_s=600.0))
    client.inbox.clear()
    well, waits = ids(client, 2, 3)
    assert play.asks(client, "drop", jobs=[dead]) == {"dropped": 1}
    unknown = "0000000000000009-1"
    body = play.asks(client, "retry", jobs=[dead, well, waits, unknown])
    assert body["made"] == {}
    gone = "its arguments are not kept: those of jobs that succeeded or were dropped are not"
    assert body["refused"][dead] == body["refused"][well] == gone
    assert body["refused"][waits] == "it has not ended"
    assert body["refused"][unknown] == "no such job is known"
    play.nothing_else()


def test_a_dropped_letter_stays_in_the_history(play: CoordinatorPlay) -> None:
    node, client, dead = dead_letter(play)
    client.submit()
    node.finishes(node.runs(client.job(2)))
    client.inbox.clear()
    assert play.asks(client, "drop", jobs=[dead, *ids(client, 2)]) == {"dropped": 1}
    assert play.asks(client, "drop", jobs=[dead]) == {"dropped": 0}
    assert found(play, client, states=["dead"]) == []
    assert found(play, client, states=["failed"]) == [dead]
    assert len(play.asks(client, "job", id=dead)["job"]["attempts"]) == 2
    play.nothing_else()


def test_corrected_code_runs_with_the_old_arguments(play: CoordinatorPlay) -> None:
    node, client, dead = dead_letter(play, payload=b"these")
    code = b"corrected"
    fixed = Spec("app:fixed", True, sha_of(code), len(code), rules=Rules(queue="again"))
    body = play.asks(client, "retry", jobs=[dead], spec=fixed.encode(), code=code)
    new = body["made"][dead]
    assign = node.gets(Assign, payloads=[b"these"], code=[[sha_of(code), code]])
    job = play.asks(client, "job", id=new)["job"]
    assert (job["function"], job["queue"], job["retry_of"], job["arguments"]) == ("app:fixed", "again", dead, "5")
    node.finishes(*assign.tokens)
    play.nothing_else()


@pytest.mark.parametrize(
    ("other", "code", "word"),
    [
        (Spec("app:f", True, sha_of(b"x"), 1), b"", "did not arrive"),
        (Spec("app:f", True, sha_of(b"x"), 1), b"y", "did not arrive"),
        (Spec("app:f", False, b"r", namespace="theirs"), b"", "namespace"),
    ],
)
def test_corrected_code_that_is_none_is_refused(play: CoordinatorPlay, other: Spec, code: bytes, word: str) -> None:
    _node, client, dead = dead_letter(play)
    body = play.asks(client, "retry", jobs=[dead], spec=other.encode(), code=code)
    assert body["made"] == {} and word in body["refused"][dead]
    play.nothing_else()


@pytest.mark.parametrize(
    "about", [{"spec": b"\xff"}, {"spec": "text"}, {"spec": [1]}, {"spec": SPEC.encode(), "code": "text"}]
)
def test_corrected_code_that_cannot_be_read_is_refused(play: CoordinatorPlay, about: dict[str, Any]) -> None:
    _node, client, dead = dead_letter(play)
    client.say(Ask(1, "retry", {"jobs": [dead], **about}))
    answer = client.gets(Answer)
    assert answer.error or answer.body["made"] == {}
    play.nothing_else()


def test_a_full_coordinator_runs_nothing_again() -> None:
    from cluster.config import CoordinatorLimits

    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(max_jobs=1))
    _node, client, dead = dead_letter(play)
    client.submit(about=About(delay_s=600.0))
    client.inbox.clear()
    body = play.asks(client, "retry", jobs=[dead])
    assert body["made"] == {} and "the queue is full" in body["refused"][dead]
    play.nothing_else()


def test_who_asked_to_run_it_again_may_be_gone(play: CoordinatorPlay) -> None:
    node, client, dead = dead_letter(play)
    new = play.asks(client, "retry", jobs=[dead])["made"][dead]
    client.leave_quietly()
    node.finishes_large(node.gets(Assign).tokens[0], b"y" * 3_000)
    second = play.client()
    assert play.asks(second, "job", id=new)["job"]["state"] == "succeeded"
    from cluster.ids import parse_job
    from cluster.messages import Watch

    second.say(Watch([1], [parse_job(new)]))
    [[_, sha, size]] = second.gets(Results, counters=[1]).large
    second.say(Fetch(sha, size))
    assert second.gets_blob(sha) == b"y" * 3_000
    play.nothing_else()


# ------------------------------------------------------------------------------------ the story


def test_a_story_has_each_attempt_with_where_when_and_why(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(spec=spec(retries=2, retry_delay_s=0.0))
    node.raises(node.runs(client.job(1)), text="first")
    client.gets_accepted(1)
    play.wait(0.1)
    node.crashes(node.runs(client.job(1)))
    node.finishes(node.runs(client.job(1)), run_us=5_000)
    client.gets_results(1)
    job = play.story_of(client, 1)
    told = [(t["number"], t["node"], t["error"], t["run_s"]) for t in job["attempts"]]
    assert told == [
        (1, "n1", "ValueError: first", 0.001),
        (2, "n1", "the worker process died: signal 9 (SIGKILL)", 0.001),
        (3, "n1", "", 0.005),
    ]
    assert [t["worker"] for t in job["attempts"]] == [7, 7, 1]
    assert (job["node"], job["attempt"], job["error"], job["state"]) == ("n1", 3, "", "succeeded")
    play.nothing_else()


def test_a_story_keeps_the_last_attempts_of_many(play: CoordinatorPlay) -> None:
    node, client = play.node("n1"), play.client()
    client.submit(spec=spec(retries=30, retry_delay_s=0.0))
    for attempt in range(1, 26):
        node.raises(node.runs(client.job(1)), text=f"number {attempt} " + "x" * 5_000)
        play.wait(0.01)
    client.inbox.clear()
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    attempts = play.story_of(client, 1)["attempts"]
    assert [t["number"] for t in attempts] == list(range(7, 27))
    assert all(len(t["error"]) < 400 for t in attempts)
    play.nothing_else()


def test_a_refused_job_is_seen_by_its_client(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=spec(namespace="theirs"))
    client.inbox.clear()
    assert play.story_of(client, 1)["state"] == "failed"


def test_a_dead_letter_that_was_run_again_is_set_aside_no_more(play: CoordinatorPlay) -> None:
    _node, client, dead = dead_letter(play)
    play.asks(client, "retry", jobs=[dead])
    assert found(play, client, states=["dead"]) == []
