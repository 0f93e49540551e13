"""The list of messages, and the document that explains it, say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import config, session
from cluster.client_session import IDLE_BEATS
from cluster.jobs import Outcome
from cluster.messages import CHECKS, FIELDS, MESSAGES, Message
from node.attempts import TABLE
from scheduler.lifecycle import TRANSITIONS

PROTOCOL = (Path(session.__file__).parent / "PROTOCOL.md").read_text()


def rows(title: str) -> Iterator[list[str]]:
    """Rows of the table under a heading."""
    section = PROTOCOL.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        cells = [c.strip() for c in line.split("|")[1:-1]]
        if cells and not set(line) <= set("|-"):
            yield cells


def test_the_document_lists_just_the_messages_there_are() -> None:
    listed = {
        (int(kind), name.rstrip("*"), name.endswith("*"), tuple(f for f in fields.split(", ") if f))
        for kind, name, _, fields, _ in rows("Messages")
        if kind != "kind"
    }
    assert listed == {(kind, c.__name__, c.UNNUMBERED, FIELDS[c]) for kind, c in MESSAGES.items()}


@pytest.mark.parametrize(("kind", "cls"), MESSAGES.items())
def test_the_number_tells_the_way(kind: int, cls: type[Message]) -> None:
    way = next(row[2] for row in rows("Messages") if row[0] == str(kind))
    assert way == ("both" if kind < 10 else "to" if kind < 30 else "from")


def test_numbers_are_never_used_twice() -> None:
    assert len(MESSAGES) == len({c.__name__ for c in MESSAGES.values()})
    named = {c.__name__ for c in Message.__subclasses__()}
    assert named == {c.__name__ for c in MESSAGES.values()}, "a kind was given to two messages"


@pytest.mark.parametrize("cls", MESSAGES.values(), ids=lambda c: c.__name__)
def test_every_field_has_its_check_and_columns_are_fields(cls: type[Message]) -> None:
    assert len(CHECKS[cls]) == len(FIELDS[cls]) and all(callable(c) for c in CHECKS[cls])
    assert set(cls.COLUMNS) <= set(FIELDS[cls])


def test_every_transition_of_a_job_stands_in_its_table_and_picture() -> None:
    title = "Life of a job, at the coordinator"
    listed = {tuple(r[:3]) for r in rows(title) if r[0].isupper()}
    assert listed == {(of.name, cause.name, to.name) for (of, cause), to in TRANSITIONS.items()}
    drawn(title, {s.name for pair, to in TRANSITIONS.items() for s in (pair[0], to)}, {c.name for _, c in TRANSITIONS})


def test_every_step_of_an_attempt_stands_in_its_table_and_picture() -> None:
    title = "Life of an attempt, at the agent"
    listed = {tuple(r[:3]) for r in rows(title) if r[0].isupper()}
    assert listed == {(of.name, step.name, to.name) for (of, step), to in TABLE.items()}
    drawn(title, {s.name for pair, to in TABLE.items() for s in (pair[0], to)}, {s.name for _, s in TABLE})


def drawn(title: str, boxes: set[str], arrows: set[str]) -> None:
    """Each state has one box, each cause is written at some arrow, and nothing else is in capitals."""
    section = PROTOCOL.split(f"## {title}\n", 1)[1].split("\n|", 1)[0]
    for box in boxes:
        assert len(re.findall(rf"│ +{box} +│", section)) == 1, box
    assert set(re.findall(r"[A-Z_]{2,}", section)) == boxes | arrows


def test_figures_in_the_document_are_those_of_the_code() -> None:
    for text in (
        f"protocol\nversion {config.PROTOCOL}",
        f"at most {config.MAX_MESSAGE_BYTES >> 20} MiB",
        f"at most {config.MAX_HELD:,} rows",
        f"no more than {config.INLINE_BYTES >> 10} KiB",
        f"at most {2 * config.INLINE_BYTES >> 10} KiB",
        f"within {config.ACK_DELAY_S * 1000:.0f} ms or {config.ACK_EVERY} messages",
        f"after {config.HELLO_RETRY_S} s, doubling up to {config.HELLO_RETRY_MAX_S:.0f} s",
        f"at most {config.CHUNKS_IN_FLIGHT} chunks ahead, {config.BLOBS_IN_FLIGHT} blobs at once",
        f"offset {config.CHUNK_BYTES}",
        f"at most {config.CoordinatorLimits().results_in_flight} such messages",
        f"lasted {config.SILENCE_WORD_S:.0f} s",
        f"lasted {config.WAIT_WORD_S:.0f} s",
        ", ".join(f"{int(o)} {o.word}" for o in Outcome),
    ):
        assert text in PROTOCOL, text
    assert IDLE_BEATS == 5 and "five times less often" in PROTOCOL
