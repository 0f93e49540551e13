"""Names of things. Rules of this file: pure functions between bytes and text.

A session id is 8 chosen bytes. A job id is its session id followed by the session's counter, 8 bytes
big-endian: unique without asking anyone, and a resend of it is recognisable for ever. People see
``3f9c01d2a4b5e6f7-17``. A token names one attempt for the whole life of a cluster: epoch, then a counter.
"""

from __future__ import annotations

from cluster.errors import BadJobId

SESSION_BYTES = 8
JOB_BYTES = 16
_TOKENS_PER_EPOCH = 1 << 40


def job_id(session: bytes, counter: int) -> bytes:
    return session + counter.to_bytes(8, "big")


def session_of(job: bytes) -> bytes:
    return job[:SESSION_BYTES]


def counter_of(job: bytes) -> int:
    return int.from_bytes(job[SESSION_BYTES:], "big")


def format_job(job: bytes) -> str:
    return f"{job[:SESSION_BYTES].hex()}-{counter_of(job)}"


def parse_job(text: str) -> bytes:
    """The bytes of a job id as people write it; :class:`BadJobId` says what is wrong with it."""
    head, dash, tail = text.strip().partition("-")
    if not dash or len(head) != 2 * SESSION_BYTES or not tail.isascii() or not tail.isdigit():
        raise BadJobId(f"{text!r} is not a job id; one looks like 3f9c01d2a4b5e6f7-17")
    try:
        return job_id(bytes.fromhex(head), int(tail))
    except (ValueError, OverflowError) as e:
        raise BadJobId(f"{text!r} is not a job id: {e}") from None


def first_token(epoch: int) -> int:
    """Tokens of a later epoch are all greater than those of an earlier one."""
    return epoch * _TOKENS_PER_EPOCH + 1
