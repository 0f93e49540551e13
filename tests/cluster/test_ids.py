"""Names of things: between bytes and what people write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BadJobId
from cluster.ids import JOB_BYTES, SESSION_BYTES, counter_of, first_token, format_job, job_id, parse_job, session_of

sessions = st.binary(min_size=SESSION_BYTES, max_size=SESSION_BYTES)
counters = st.integers(0, (1 << 64) - 1)


@given(sessions, counters)
def test_a_job_id_holds_its_session_and_counter(session: bytes, counter: int) -> None:
    job = job_id(session, counter)
    assert len(job) == JOB_BYTES
    assert (session_of(job), counter_of(job)) == (session, counter)
    assert parse_job(format_job(job)) == job


def test_people_see_hex_and_a_number() -> None:
    assert format_job(bytes.fromhex("3f9c01d2a4b5e6f7") + (17).to_bytes(8, "big")) == "3f9c01d2a4b5e6f7-17"


def test_space_around_a_pasted_id_does_no_harm() -> None:
    assert counter_of(parse_job("  3f9c01d2a4b5e6f7-17\n")) == 17


@pytest.mark.parametrize(
    "text",
    ["", "17", "3f9c01d2a4b5e6f7", "3f9c01d2a4b5e6f7-", "3f9c01d2a4b5e6-17", "zz9c01d2a4b5e6f7-17",
     "3f9c01d2a4b5e6f7--1", "3f9c01d2a4b5e6f7-1.5", "3f9c01d2a4b5e6f7-²", f"3f9c01d2a4b5e6f7-{1 << 64}"],
)  # fmt: skip
def test_what_is_no_job_id_is_refused_in_words(text: str) -> None:
    with pytest.raises(BadJobId, match="is not a job id"):
        parse_job(text)


@given(st.text(max_size=40))
def test_no_text_does_other_harm(text: str) -> None:
    try:
        assert len(parse_job(text)) == JOB_BYTES
    except BadJobId:
        pass


@given(st.integers(1, 1 << 20))
def test_tokens_of_a_later_epoch_are_greater(epoch: int) -> None:
    assert first_token(epoch) + (1 << 39) < first_token(epoch + 1) < 1 << 62
