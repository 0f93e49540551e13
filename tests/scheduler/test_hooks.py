"""Plays of what is run when a job has ended: which hook, as what job, with what it is told, in the same transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from cluster.jobs import PLAIN, Failure, Hook, Rules, Spec
from cluster.messages import Assign, Results
from tests.playbook import SPEC, CoordinatorPlay, sha_of

CODE = b"pickled hook"
TOLD = Hook(Spec("app:told", False, b"told").encode(), b"", {"url": "http://there", "secret": "s"})
BY_VALUE = Hook(Spec("app:value", True, sha_of(CODE), len(CODE)).encode(), CODE)


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def hooked(**rules: Any) -> Spec:
    return replace(SPEC, rules=Rules(**rules))


def call(assign: Assign) -> tuple[list[Any], dict[str, Any]]:
    (payload,) = assign.payloads
    assert payload.startswith(PLAIN)
    args, kwargs = msgpack.unpackb(payload[len(PLAIN) :])
    return args, kwargs


def name_of(assign: Assign) -> str:
    return Spec.decode(assign.specs[0]).name


def test_success_runs_its_hook_with_the_record_and_further_arguments(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=hooked(on_success=TOLD.encode(), on_failure=b""), summary="5, 6")
    node.finishes(node.gets(Assign).tokens[0], run_us=7)
    hook = node.gets(Assign, attempts=[1])
    assert name_of(hook) == "app:told"
    (record,), kwargs = call(hook)
    assert kwargs == {"url": "http://there", "secret": "s"}
    assert (record["state"], record["function"], record["arguments"]) == ("succeeded", "app:task", "5, 6")
    assert record["attempts"][0]["node"] == "n1" and record["error"] == ""
    client.gets(Results)
    node.finishes(hook.tokens[0])
    play.nothing_else()


def test_failure_and_a_spent_budget_run_theirs(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1", slots=3)
    rules = {"retries": 1, "retry_delay_s": 0.0, "on_failure": TOLD.encode(), "on_dead": BY_VALUE.encode()}
    client.submit(spec=hooked(on_success=TOLD.encode(), **rules))
    for _ in range(2):
        play.wait(0.01)
        token = node.gets(Assign).tokens[0]
        node.finishes(token, payload=Failure("ValueError", "no", "the traceback").encode(), outcome=1)
    hooks = [node.gets(Assign), node.gets(Assign)] if len(node.inbox) > 1 else [node.gets(Assign)]
    names = {Spec.decode(raw).name for hook in hooks for raw in hook.specs}
    assert names == {"app:told", "app:value"}
    for hook in hooks:
        for payload in hook.payloads:
            record = msgpack.unpackb(payload[len(PLAIN) :])[0][0]
            assert record["dead"] and record["error"] == "ValueError: no" and record["traceback"] == "the traceback"
    assert [sha_of(CODE), CODE] in [code for hook in hooks for code in hook.code]


def test_a_cancelled_job_runs_none(play: CoordinatorPlay) -> None:
    client = play.client()
    client.submit(spec=hooked(on_success=TOLD.encode(), on_failure=TOLD.encode(), on_dead=TOLD.encode()))
    client.cancel(1)
    client.gets_results(1)
    play.node("n1")
    play.nothing_else()


def test_a_hook_is_in_the_transaction_of_the_end_and_outlives_a_restart(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=hooked(on_success=TOLD.encode()))
    node.finishes(node.gets(Assign).tokens[0])
    hook = node.gets(Assign)
    client.gets(Results)
    rows = play.rows_on_disk.rows
    assert len(rows.outcomes) == len(rows.jobs) == 1
    play.restart()
    node.joins()
    again = node.gets(Assign)
    assert again.jobs == hook.jobs and again.payloads == hook.payloads
    node.finishes(again.tokens[0])
    assert not play.rows_on_disk.rows.jobs and len(play.rows_on_disk.rows.outcomes) == 2


def test_a_hook_that_cannot_be_read_harms_nobody(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    client.submit(spec=hooked(on_success=b"\xc1"))
    client.submit(spec=hooked(on_success=replace(BY_VALUE, code=b"another").encode()))
    for counter in (1, 2):
        node.finishes(node.gets(Assign).tokens[0])
        client.gets_results(counter)
    assert len(play.told("unexpected")) == 2
    play.nothing_else()


def test_a_hook_runs_in_no_other_namespace(play: CoordinatorPlay) -> None:
    client, node = play.client(), play.node("n1")
    stranger = Hook(Spec("app:told", False, b"told", namespace="other").encode())
    client.submit(spec=hooked(on_success=stranger.encode()))
    node.finishes(node.gets(Assign).tokens[0])
    client.gets_results(1)
    [fact] = play.told("unexpected")
    assert "it is of namespace 'other'" in fact.text
    play.nothing_else()
