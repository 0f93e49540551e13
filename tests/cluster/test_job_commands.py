"""Commands about jobs and queues over a client that is played: questions, orders, documents, confirmations, errors."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import cluster
from cluster import cli, errors, job_pictures

TRIED: dict[str, Any] = {
    "node": "quarry",
    "worker": 71,
    "queued_s": 2.0,
    "waited_s": 0.5,
    "init_s": 0.0,
    "cold": False,
    "run_s": 0.5,
    "cpu_s": None,
    "peak_bytes": None,
}
DEAD: dict[str, Any] = {
    "id": "3f9c01d2a4b5e6f7-17",
    "state": "failed",
    "dead": True,
    "function": "app:send",
    "by_value": False,
    "queue": "mail",
    "tags": ["nightly"],
    "namespace": "default",
    "owner": "ann",
    "arguments": "'ann@example.org', password=***",
    "accepted": 1_700_000_000.0,
    "ended": 1_700_000_060.0,
    "due": None,
    "attempt": 2,
    "node": "quarry",
    "error": "SMTPError: 550 \x1b[2JNo such user",
    "key": "order-17",
    "retry_of": None,
    "parent": None,
    "root": "3f9c01d2a4b5e6f7-17",
    "after": [],
    "saved_bytes": 0,
    "attempts": [
        {**TRIED, "number": 1, "ended": 1_700_000_030.0, "error": "421 try later"},
        {**TRIED, "number": 2, "ended": 1_700_000_060.0, "error": "550 \x1b[2J"},
    ],
}
WAITS: dict[str, Any] = {
    **DEAD,
    "id": "3f9c01d2a4b5e6f7-18",
    "parent": "3f9c01d2a4b5e6f7-16",
    "root": "3f9c01d2a4b5e6f7-15",
    "state": "scheduled",
    "dead": False,
    "ended": None,
    "due": 4_000_000_000.0,
    "error": "",
    "attempts": [],
    "after": ["3f9c01d2a4b5e6f7-17"],
    "node": None,
}
QUEUE: dict[str, Any] = {
    "name": "mail",
    "weight": 3,
    "paused": True,
    "max_running": None,
    "max_per_node": 2,
    "jobs": 1_200,
    "ready": 1_100,
    "leased": 2,
}


class Coordinator:
    """Stands in for ``Client``: notes what is asked and ordered."""

    asked: list[tuple[Any, ...]]
    found: list[dict[str, Any]]
    error: Exception | None

    def __init__(self, connection: object = None, **settings: object) -> None:
        pass

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def _note(self, *what: Any) -> None:
        if self.error is not None:
            raise self.error
        self.asked.append(what)

    def jobs(self, *states: str, limit: int | None = 100, **about: Any) -> Iterator[dict[str, Any]]:
        self._note("jobs", states, {k: v for k, v in about.items() if v}, limit)
        return iter(self.found[:limit])

    def job(self, id: str) -> dict[str, Any]:
        self._note("job", id)
        for job in self.found:
            if job["id"].startswith(id):
                return job
        raise errors.ClusterError(f"no job's id begins with {id!r}")

    def explain(self, id: str) -> list[str]:
        self._note("explain", id)
        return ["it is not due for another 5 s, as it was handed in", "\x1b[2Jred"]

    def candidates(self, id: str) -> list[dict[str, Any]]:
        full = {"node": "\x1b[2Jn1", "takes": False, "why": "all its slots are taken"}
        room = {"node": "n2", "takes": True, "outstanding": 1, "slots": 4, "penalty": 0.5, "score": 0.75, "warm": True}
        return [full, room]

    def cancel(self, *ids: str, running: bool = False) -> int:
        self._note("cancel", ids, *(["running"] if running else []))
        return len(ids)

    refuses: ClassVar[dict[str, str]] = {}

    def retry(self, *ids: str) -> dict[str, str]:
        self._note("retry", ids)
        made = {id: "0000000000000000-1" for id in ids if id not in self.refuses}
        if self.refuses:
            raise errors.NotRunAgain(made, self.refuses)
        return made

    def drop(self, *ids: str) -> int:
        self._note("drop", ids)
        return len(ids)

    def queues(self) -> list[dict[str, Any]]:
        self._note("queues")
        return [QUEUE]

    def set_queue(self, name: str, **settings: Any) -> dict[str, Any]:
        self._note("set", name, settings)
        return {**QUEUE, "name": name, **settings}


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> type[Coordinator]:
    monkeypatch.setattr(cluster, "Client", Coordinator)
    monkeypatch.setenv("COLUMNS", "200")
    Coordinator.asked, Coordinator.found, Coordinator.error = [], [WAITS, DEAD], None
    return Coordinator


def invoke(*arguments: str, says: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(cli.root, arguments, input=says, env=environment, prog_name="cluster")


def orders() -> list[tuple[Any, ...]]:
    return [what for what in Coordinator.asked if what[0] in ("cancel", "retry", "drop", "set")]


# ------------------------------------------------------------------------------------ looking


def test_jobs_are_shown_a_line_each() -> None:
    shown = invoke("jobs")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert len(lines) == 3
    assert "3f9c01d2a4b5e6f7-18" in lines[1] and "scheduled" in lines[1]
    assert "3f9c01d2a4b5e6f7-17" in lines[2] and "failed dead" in lines[2] and "SMTPError: 550" in lines[2]
    assert Coordinator.asked == [("jobs", (), {}, 50)]


@pytest.mark.parametrize("command", [("jobs",), ("job", "3f"), ("explain", "3f")])
def test_what_jobs_have_written_cannot_move_the_terminal(command: tuple[str, ...]) -> None:
    Coordinator.found = [DEAD]
    shown = invoke(*command)
    assert shown.exit_code == 0
    assert "\x1b[2J" not in shown.output


def test_all_filters_are_asked_for() -> None:
    before = datetime.now(UTC)
    arguments = "--state failed --state dead --function send --queue mail --tag nightly --node quarry --error 550"
    invoke("jobs", *arguments.split(), "--arguments", "ann", "--older", "2h", "--newer", "3d", "--limit", "7")
    [(_, states, about, limit)] = Coordinator.asked
    until, since = about.pop("until"), about.pop("since")
    assert timedelta(0) <= until - (before - timedelta(hours=2)) < timedelta(seconds=10)
    assert timedelta(0) <= since - (before - timedelta(days=3)) < timedelta(seconds=10)
    assert (states, limit) == (("failed", "dead"), 7)
    assert about == {
        "function": "send",
        "queue": "mail",
        "tag": "nightly",
        "node": "quarry",
        "error": "550",
        "arguments": "ann",
    }


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("90", 90), ("90s", 90), ("15min", 900), ("1.5m", 90), ("2h", 7200), ("1 d", 86_400), ("1w", 604_800)],
)
def test_ages(age: str, seconds: float) -> None:
    before = datetime.now(UTC)
    assert invoke("jobs", "--newer", age).exit_code == 0
    since = Coordinator.asked[0][2]["since"]
    assert abs((before - since).total_seconds() - seconds) < 10


@pytest.mark.parametrize("age", ["soon", "-5s", "5y", "", "1h30m", "99999999999w"])
def test_what_is_no_age_is_refused_with_examples(age: str) -> None:
    shown = invoke("jobs", "--newer", age)
    assert shown.exit_code == 2
    assert "write 90s, 15min, 2h, 3d or 1w" in " ".join(shown.output.split())
    assert Coordinator.asked == []


def test_a_full_page_says_that_there_may_be_more() -> None:
    assert "the first 2; more with --limit" in invoke("jobs", "--limit", "2").output
    assert "more with --limit" not in invoke("jobs", "--limit", "3").output


def test_no_job_is_said_in_words() -> None:
    Coordinator.found = []
    assert invoke("jobs").output.strip() == "no job has all of that"


def test_jobs_as_a_document() -> None:
    shown = invoke("jobs", "--json")
    assert json.loads(shown.output) == {"jobs": [WAITS, DEAD]}
    Coordinator.found = []
    assert json.loads(invoke("jobs", GANGER_JSON="1").output) == {"jobs": []}


def test_one_job_is_shown_with_its_attempts() -> None:
    shown = invoke("job", "3f9c01d2a4b5e6f7-17").output
    for part in ("app:send('ann@example.org', password=***)", "mail", "nightly", "order-17", "421 try later", "71"):
        assert part in shown
    assert ("explain", DEAD["id"]) not in Coordinator.asked


def test_what_an_attempt_has_used_is_shown_where_it_was_measured() -> None:
    def shown(*attempts: dict[str, Any], **more: Any) -> str:
        console = Console(width=150, file=io.StringIO())
        told = {"error": "", "number": 1, "ended": 1_700_000_030.0}
        job = {**DEAD, "attempts": [{**TRIED, **told, **attempt} for attempt in attempts], **more}
        console.print(job_pictures.job_panel(job, [], 1_700_000_100.0))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert "memory" not in shown({}) and "2.5 s" in shown({})
    measured = shown({"cpu_s": 0.3, "peak_bytes": 90 << 20, "cold": True, "init_s": 0.1}, {"cpu_s": None})
    for part in ("cpu", "memory", "0.3 s", "90 MiB", "71 cold"):
        assert part in measured
    assert "1,234 bytes, for its next attempt" in shown({}, saved_bytes=1_234)
    assert "next attempt" not in shown({})


def test_an_unfinished_job_is_shown_with_why_it_does_not_run() -> None:
    shown = invoke("job", "3f9c01d2a4b5e6f7-18")
    assert "it is not due for another 5 s" in shown.output
    assert WAITS["parent"] in shown.output and WAITS["root"] in shown.output
    document = json.loads(invoke("job", "3f9c01d2a4b5e6f7-18", "--json").output)
    assert document["id"] == WAITS["id"] and document["why"][0].startswith("it is not due")


def test_explain_has_a_line_for_each_reason_or_a_document() -> None:
    assert invoke("explain", "3f").output.splitlines()[0] == "it is not due for another 5 s, as it was handed in"
    assert len(json.loads(invoke("explain", "3f", "--json").output)["why"]) == 2


# ------------------------------------------------------------------------------------ orders


@pytest.mark.parametrize("verb", ["cancel", "retry", "drop"])
def test_named_jobs_need_no_confirmation(verb: str) -> None:
    shown = invoke(verb, "3f9c01d2a4b5e6f7-17", "3f9c01d2a4b5e6f7-18")
    assert shown.exit_code == 0
    assert orders() == [(verb, (DEAD["id"], WAITS["id"]))]
    assert shown.output.startswith("2 found")


@pytest.mark.parametrize(("verb", "usual"), [("cancel", "unfinished"), ("retry", "dead"), ("drop", "dead")])
def test_a_filter_takes_those_that_are_meant_and_only_when_told_yes(verb: str, usual: str) -> None:
    shown = invoke(verb, "--queue", "mail")
    assert shown.exit_code == 1
    assert f"this would {verb} 2 jobs; say so by --yes" in shown.output
    assert orders() == []
    assert Coordinator.asked == [("jobs", (usual,), {"queue": "mail"}, None)]
    assert invoke(verb, "--queue", "mail", "--yes").exit_code == 0
    assert orders() == [(verb, (WAITS["id"], DEAD["id"]))]


def test_states_that_are_given_are_those_that_are_taken() -> None:
    invoke("retry", "--state", "failed", "--yes")
    assert Coordinator.asked[0] == ("jobs", ("failed",), {}, None)


@pytest.mark.parametrize(("says", "done"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_a_person_is_asked_with_the_number(monkeypatch: pytest.MonkeyPatch, says: str, done: bool) -> None:
    monkeypatch.setattr("cluster.job_commands.sys", type("", (), {"stdin": type("", (), {"isatty": lambda: True})}))
    shown = invoke("drop", "--all", says=says)
    assert "drop 2 jobs?" in shown.output
    assert bool(orders()) is done
    assert shown.exit_code == (0 if done else 1)


@pytest.mark.parametrize("verb", ["cancel", "retry", "drop"])
@pytest.mark.parametrize("arguments", [(), ("3f", "--all"), ("3f", "--queue", "mail")])
def test_either_names_or_a_filter(verb: str, arguments: tuple[str, ...]) -> None:
    shown = invoke(verb, *arguments)
    assert shown.exit_code == 2
    assert f"name the jobs to {verb}, or say which ones" in " ".join(shown.output.split())
    assert Coordinator.asked == []


@pytest.mark.parametrize("verb", ["cancel", "retry", "drop"])
def test_a_filter_that_finds_nothing_orders_nothing(verb: str) -> None:
    Coordinator.found = []
    shown = invoke(verb, "--all")
    assert (shown.exit_code, shown.output) == (0, "0 found\n")
    assert json.loads(invoke(verb, "--all", "--json").output)["found"] == 0
    assert orders() == []


def test_orders_as_documents() -> None:
    assert json.loads(invoke("cancel", "--all", "--yes", "--json").output) == {"found": 2, "cancelled": 2}
    assert json.loads(invoke("drop", "--all", "-y", "--json").output) == {"found": 2, "dropped": 2}
    made = {WAITS["id"]: "0000000000000000-1", DEAD["id"]: "0000000000000000-1"}
    assert json.loads(invoke("retry", "--all", "-y", "--json").output) == {"found": 2, "made": made}


def test_what_runs_is_cancelled_when_that_is_said() -> None:
    assert json.loads(invoke("cancel", DEAD["id"], "--running", "--json").output) == {"found": 1, "cancelled": 1}
    assert orders() == [("cancel", (DEAD["id"],), "running")]


def test_those_that_cannot_run_again_are_told_beside_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coordinator, "refuses", {WAITS["id"]: "it has not ended"})
    shown = invoke("retry", "--all", "--yes")
    assert shown.exit_code == 1
    for line in (
        "2 found, 1 not run again",
        f"{DEAD['id']} runs again as 0",
        f"{WAITS['id']} cannot be run again: it has",
    ):
        assert line in shown.output
    document = json.loads(invoke("retry", "--all", "--yes", "--json").stdout)
    assert document["made"] == {DEAD["id"]: "0000000000000000-1"}
    assert document["refused"] == {WAITS["id"]: "it has not ended"}


def test_new_jobs_are_told_by_name() -> None:
    assert "3f9c01d2a4b5e6f7-17 runs again as 0000000000000000-1" in invoke("retry", "3f9c01d2a4b5e6f7-17").output


# ------------------------------------------------------------------------------------ queues


def test_queues_are_shown_a_line_each_or_as_a_document() -> None:
    shown = invoke("queue").output.splitlines()
    assert shown[1].split() == ["mail", "paused", "3", "1,200", "1,100", "2", "-", "2"]
    assert json.loads(invoke("queue", "--json").output) == {"queues": [QUEUE]}


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("set", "mail", "--weight", "3"), {"weight": 3}),
        (("set", "mail", "--placement", "pack"), {"placement": "pack"}),
        (("set", "mail", "--max-running", "5", "--max-per-node", "none"), {"max_running": 5, "max_per_node": None}),
        (("pause", "mail"), {"paused": True}),
        (("resume", "mail"), {"paused": False}),
    ],
)
def test_a_queue_is_set_for_good_and_shown(arguments: tuple[str, ...], settings: dict[str, Any]) -> None:
    shown = invoke("queue", *arguments)
    assert shown.exit_code == 0 and "mail" in shown.output
    assert orders() == [("set", "mail", settings)]
    document = json.loads(invoke("queue", "--json", *arguments).output)
    assert document["queues"][0]["name"] == "mail"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "mail"), "say what to set: --weight, --max-running, --max-per-node or --placement"),
        (("set", "mail", "--weight", "0"), "0 is not in the range"),
        (("set", "mail", "--max-running", "0"), "'0' is neither a positive number nor none"),
        (("set", "mail", "--max-per-node", "many"), "'many' is neither a positive number nor none"),
        (("set",), "Missing argument"),
        (("pause",), "Missing argument"),
    ],
)
def test_what_cannot_be_set_is_said(arguments: tuple[str, ...], words: str) -> None:
    shown = invoke("queue", *arguments)
    assert shown.exit_code == 2
    assert words in " ".join(shown.output.split())
    assert orders() == []


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "command",
    [
        ("jobs",),
        ("job", "3f"),
        ("explain", "3f"),
        ("cancel", "3f"),
        ("retry", "--all", "-y"),
        ("queue",),
        ("queue", "pause", "x"),
    ],
)
def test_what_goes_wrong_is_one_line_and_code_one(command: tuple[str, ...]) -> None:
    Coordinator.error = errors.ClusterError("no state is called 'x'; there are adrift, scheduled")
    shown = invoke(*command)
    assert shown.exit_code == 1
    assert shown.output.strip() == "cluster: no state is called 'x'; there are adrift, scheduled"


def test_an_unknown_id_is_one_line() -> None:
    shown = invoke("job", "77")
    assert (shown.exit_code, shown.output.strip()) == (1, "cluster: no job's id begins with '77'")


@pytest.mark.parametrize("command", ["jobs", "job", "explain", "cancel", "retry", "drop", "queue"])
def test_each_has_help(command: str) -> None:
    shown = invoke(command, "--help")
    assert shown.exit_code == 0 and "--json" in shown.output and "--connection" in shown.output
