"""What ``client.options`` takes: every check, in words; defaults; how it travels."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from cluster.errors import BadJobId, UnknownOption
from cluster.jobs import AS_USUAL, LONGEST_S, NOTHING_SPECIAL, About, Rules, Spec
from cluster.options import Options

ID = "3f9c01d2a4b5e6f7-17"
DURATIONS = ("retry_delay_s", "retry_max_delay_s", "delay_s", "key_ttl_s", "expires_s", "result_ttl_s")


def made(**wanted: Any) -> Options:
    return Options(**wanted)


class HasId:
    def __init__(self, job_id: Any) -> None:
        self.job_id = job_id


class Slow(OSError):
    pass


@pytest.mark.parametrize(
    ("wanted", "kind", "words"),
    [
        ({"labels": [("gpu", "yes")]}, TypeError, "labels is a mapping of text to text, not list"),
        ({"labels": {"gpu": 1}}, TypeError, "a label is a text, not int"),
        ({"labels": {"": "x"}}, ValueError, "a label has 1 to 256 characters, not 0"),
        ({"name": ""}, ValueError, "name has 1 to 500 characters, not 0"),
        ({"name": 5}, TypeError, "name is a text, not int"),
        ({"key": "k" * 201}, ValueError, "key has 1 to 200 characters, not 201"),
        ({"key": b"k"}, TypeError, "key is a text, not bytes"),
        ({"queue": ""}, ValueError, "queue has 1 to 200 characters, not 0"),
        ({"queue": None}, TypeError, "queue is a text, not NoneType"),
        ({"fair_key": "t" * 201}, ValueError, "fair_key has 1 to 200 characters, not 201"),
        ({"block": 1}, TypeError, "block is True or False, not 1"),
        ({"durable": "yes"}, TypeError, "durable is True or False, not 'yes'"),
        ({"delivery": "once"}, ValueError, "delivery is 'at_least_once' or 'at_most_once', not 'once'"),
        ({"lifetime": "session"}, ValueError, "lifetime is 'durable' or 'client', not 'session'"),
        ({"isolation": "jail"}, ValueError, "isolation is 'process' or 'contained', not 'jail'"),
        ({"isolation": "contained", "labels": {"isolation": "x"}}, ValueError, "contradict each other"),
        ({"after_failure": "wait"}, ValueError, "after_failure is 'fail' or 'run', not 'wait'"),
        ({"retries": 101}, ValueError, "retries is 0 to 100, not 101"),
        ({"retries": -1}, ValueError, "retries is 0 to 100, not -1"),
        ({"retries": 1.5}, TypeError, "retries is an integer, not float"),
        ({"retries": True}, TypeError, "retries is an integer, not bool"),
        ({"crash_retries": 101}, ValueError, "crash_retries is 0 to 100, not 101"),
        ({"memory_retries": None}, TypeError, "memory_retries is an integer, not NoneType"),
        ({"priority": 11}, ValueError, "priority is -10 to 10, not 11"),
        ({"backoff": 0.5}, ValueError, "backoff is 1 to 100, not 0.5"),
        ({"backoff": "2"}, TypeError, "backoff is a number, not str"),
        ({"backoff": float("nan")}, ValueError, "backoff is 1 to 100, not nan"),
        ({"jitter": 1.1}, ValueError, "jitter is 0 to 1, not 1.1"),
        ({"at": "tomorrow"}, TypeError, "at is a datetime with a time zone, not str"),
        ({"at": datetime(2030, 1, 1)}, ValueError, "at needs a time zone"),
        ({"at": datetime(2030, 1, 1, tzinfo=UTC), "delay_s": 1}, ValueError, "the same thing twice"),
        ({"summary": 5}, TypeError, "summary is a text, not int"),
        ({"summary": "s" * 1_001}, ValueError, "summary has 1 to 1000 characters"),
        ({"fingerprint": "f"}, ValueError, "it needs key"),
        ({"key": "k", "fingerprint": "f" * 65}, ValueError, "fingerprint is text or bytes, 1 to 64 bytes of it"),
        ({"key": "k", "fingerprint": ""}, ValueError, "fingerprint is text or bytes, 1 to 64 bytes of it"),
        ({"key": "k", "fingerprint": 5}, ValueError, "fingerprint is text or bytes, 1 to 64 bytes of it"),
        ({"delivery": "at_most_once", "durable": False}, ValueError, "needs durable=True"),
        ({"delivery": "at_most_once", "retries": 1}, ValueError, "contradict each other"),
        ({"retry_on": OSError}, TypeError, r"retry_on is a list of exceptions: retry_on=\[OSError\]"),
        ({"give_up_on": "OSError"}, TypeError, "give_up_on is a list of exceptions, not str"),
        ({"give_up_on": [5]}, TypeError, "give_up_on lists classes of exceptions or their names, not 5"),
        ({"retry_on": [int]}, TypeError, "retry_on lists classes of exceptions or their names, not <class 'int'>"),
        ({"retry_on": [""]}, ValueError, "each of retry_on has 1 to 200 characters, not 0"),
        ({"tags": "nightly"}, TypeError, "tags is a list of texts, not str"),
        ({"tags": [5]}, TypeError, "each of tags is a text, not int"),
        ({"tags": [str(n) for n in range(33)]}, ValueError, "tags takes up to 32, not 33"),
        ({"after": ID}, TypeError, "after is a list of futures or job ids, not str"),
        ({"after": ["what"]}, BadJobId, "'what' is not a job id"),
        ({"after": [5]}, TypeError, "after lists futures of jobs or their ids, not int"),
        ({"after": [HasId(None)]}, ValueError, "one of the jobs was never handed in"),
        (
            {"after": [f"3f9c01d2a4b5e6f7-{n}" for n in range(1_001)]},
            ValueError,
            "after takes up to 1000 jobs",
        ),
    ],
)
def test_a_wrong_value_is_refused_in_words(wanted: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        made(**wanted)
    with pytest.raises(kind, match=words):
        Options().changed(wanted)


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_are_seconds_or_timedeltas(name: str) -> None:
    assert getattr(made(**{name: 90}), name) == 90.0
    assert getattr(made(**{name: timedelta(minutes=1.5)}), name) == 90.0
    wrong: Any
    for wrong in ("90", True, [90]):
        with pytest.raises(TypeError, match=f"{name} is a number of seconds or a timedelta"):
            made(**{name: wrong})
    for wrong in (-1, timedelta(seconds=-1), LONGEST_S + 1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name} is .* seconds, not"):
            made(**{name: wrong})
    least = 0.001 if name in ("expires_s", "result_ttl_s") else 0.0
    assert getattr(made(**{name: least}), name) == least


@pytest.mark.parametrize("name", ["expires_s", "result_ttl_s"])
def test_no_limit_is_none_and_no_time_at_all_is_a_mistake(name: str) -> None:
    assert getattr(made(**{name: None}), name) is None
    with pytest.raises(ValueError, match=f"{name} is 0.001 to"):
        made(**{name: 0})


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UnknownOption, match="no option is called 'retrys'; did you mean 'retries'"):
        Options().changed({"retrys": 3})
    with pytest.raises(UnknownOption, match="there are labels, isolation, prefer, anti_affinity"):
        Options().changed({"qqqqqqqq": 3})


def test_usual_options_send_nothing() -> None:
    assert Options().rules == AS_USUAL
    assert Options().rules.encode() == {}
    assert Options().about is NOTHING_SPECIAL
    assert NOTHING_SPECIAL.encode() == b""


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"resources": ["licence"]}, TypeError, "resources is a mapping of names to amounts, not list"),
        ({"resources": {"licence": "1"}}, TypeError, "resource licence is a number, not str"),
        ({"resources": {"licence": 0}}, ValueError, "resource licence is 0.001 to"),
        ({"resources": {"licence": float("nan")}}, ValueError, "resource licence is 0.001 to"),
        ({"resources": {"": 1}}, ValueError, "a resource has 1 to 200 characters"),
        ({"resources": {"cpus": 2}}, ValueError, "cpus is an option by itself: cpus=2"),
        ({"resources": {f"r{n}": 1 for n in range(33)}}, ValueError, "resources takes up to 32 names, not 33"),
        ({"gpus": 0}, ValueError, "gpus is 0.01 to"),
        ({"gpus": True}, TypeError, "gpus is a number"),
        ({"gpus": 1.5}, ValueError, "gpus is a part of one graphics processor or whole ones, not 1.5"),
        ({"prefer": "zone"}, TypeError, "prefer is a mapping of text to text, not str"),
        ({"prefer": {"zone": 1}}, TypeError, "a label is a text, not int"),
        ({"prefer": {f"l{n}": "x" for n in range(33)}}, ValueError, "prefer takes up to 32 labels, not 33"),
        ({"anti_affinity": ""}, ValueError, "anti_affinity has 1 to 200 characters"),
    ],
)
def test_what_a_job_may_ask_of_its_node(wanted: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Options(**wanted)


def test_a_twin_of_a_twin_keeps_what_it_was_given() -> None:
    first = Options().changed({"after": [ID], "tags": ["a", "b", "a"], "retry_on": [Slow, "KeyError"], "key": "k"})
    second = first.changed({"retries": 3, "fingerprint": "v1", "summary": False})
    assert second.after == first.after and len(second.about.after) == 1
    assert (second.tags, second.retry_on, second.retries) == (("a", "b"), ("Slow", "KeyError"), 3)
    third = second.changed({"block": False})
    assert third.about == About(key="k", fingerprint=b"v1", after=tuple(first.about.after))


def test_parents_are_futures_or_ids_and_each_counts_once() -> None:
    about = Options(after=[HasId(ID), ID, f" {ID} "]).about
    assert about.after == (bytes.fromhex("3f9c01d2a4b5e6f7") + (17).to_bytes(8, "big"),)


def test_a_moment_is_the_same_whatever_zone_names_it() -> None:
    here = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert Options(at=here).about.at == datetime(2030, 1, 1, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("year", [1969, 5200])
def test_a_moment_that_cannot_be_sent_is_refused_here_and_not_by_the_coordinator(year: int) -> None:
    with pytest.raises(ValueError, match="at is a moment between 1970 and 5138"):
        Options(at=datetime(year, 6, 1, tzinfo=UTC))


def test_what_was_given_may_change_afterwards() -> None:
    labels = {"gpu": "yes"}
    options = Options(labels=labels)
    labels["gpu"] = "no"
    assert options.labels == {"gpu": "yes"}


@pytest.mark.parametrize(
    "wanted",
    [
        {"retries": 5, "retry_delay_s": timedelta(minutes=1), "backoff": 1, "jitter": 0, "retry_max_delay_s": 1e6},
        {"retry_on": [OSError], "give_up_on": ["KeyError"], "tags": ["x"], "queue": "mail", "fair_key": "ann"},
        {"delivery": "at_most_once", "crash_retries": 0, "memory_retries": 0, "lifetime": "client"},
        {"cpus": 0.5, "memory_bytes": 1 << 30, "gpus": 2, "resources": {"licence": 1, "a b": 0.001}},
        {"prefer": {"zone": "a", "node": "n1"}, "anti_affinity": "replica"},
        {"expires_s": 5, "result_ttl_s": 60, "priority": -10, "after_failure": "run", "key_ttl_s": 0},
    ],
)
def test_whatever_is_taken_here_is_taken_by_the_coordinator(wanted: dict[str, Any]) -> None:
    rules = made(**wanted).rules
    assert rules != AS_USUAL
    assert Rules.decode(rules.encode()) == rules
    spec = Spec("app:f", False, b"f", rules=rules)
    assert Spec.decode(spec.encode()) == spec


def test_what_concerns_one_job_is_what_was_sent() -> None:
    about = Options(key="k", fingerprint=b"\xff", after=[ID], delay_s=5).about
    assert About.decode(about.encode()) == about


def test_every_rule_but_those_with_other_names_is_an_option() -> None:
    options = {f.name for f in fields(Options)}
    assert {f.name for f in fields(Rules)} - options == {"at_most_once", "client_bound"}


def test_defaults_are_those_of_the_rules() -> None:
    for name in ("retries", "retry_delay_s", "backoff", "jitter", "crash_retries", "priority", "queue", "key_ttl_s"):
        assert getattr(Options(), name) == getattr(AS_USUAL, name)
    assert json.dumps(AS_USUAL.encode()) == "{}"


def test_isolation_is_a_label_that_a_node_must_have() -> None:
    assert made(labels={"gpu": "a100"}).demanded == (("gpu", "a100"),)
    asked = made(labels={"gpu": "a100"}, isolation="contained")
    assert asked.demanded == (("gpu", "a100"), ("isolation", "contained"))
    assert asked.labels == {"gpu": "a100"} and asked.changed({"isolation": "process"}).demanded == (("gpu", "a100"),)
    assert made(labels={"isolation": "contained"}).demanded == made(isolation="contained").demanded
