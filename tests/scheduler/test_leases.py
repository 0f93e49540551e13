"""A node's leases: what it holds, by token."""

from __future__ import annotations

from cluster.ids import job_id
from cluster.jobs import Rules, Spec
from scheduler.functions import Functions
from scheduler.leases import Leases
from scheduler.lifecycle import Job, State
from scheduler.queues import Queues

RECORD = Functions(Queues()).intern(Spec("f", False, b"f").encode(), "ann")
ONCE = Functions(Queues()).intern(Spec("f", False, b"f", rules=Rules(at_most_once=True)).encode(), "ann")


def leased(token: int, state: State = State.LEASED, retracting: bool = False, once: bool = False) -> Job:
    record = ONCE if once else RECORD
    return Job(
        job_id(bytes(8), token), token, None, record, b"", None, token, state=state, token=token, retracting=retracting
    )


def book(*jobs: Job) -> Leases:
    leases = Leases("n1", {})
    for job in jobs:
        leases.grant(job)
    return leases


def test_a_lease_is_found_by_its_token_until_it_ends() -> None:
    a, b = leased(1), leased(2)
    leases = book(a, b)
    assert (len(leases), list(leases), leases.get(1), 2 in leases, 3 in leases) == (2, [a, b], a, True, False)
    assert leases.end(1) is a and leases.end(1) is None and leases.get(1) is None
    assert leases.end_all() == [b] and len(leases) == 0


def test_those_that_must_not_start_twice_are_counted() -> None:
    leases = book(leased(1), leased(2, once=True), leased(3, once=True))
    assert leases.once == 2
    leases.end(2), leases.end(1), leases.end(9)
    assert leases.once == 1
    leases.end_all()
    assert leases.once == 0


def test_what_a_node_does_not_name_never_came_to_it() -> None:
    jobs = [leased(n) for n in range(4)]
    assert book(*jobs).absent_from([0, 2, 99]) == [jobs[1], jobs[3]]


def test_the_newest_that_has_not_started_is_asked_back_first_and_once() -> None:
    jobs = [leased(1), leased(2, State.RUNNING), leased(3, retracting=True), leased(4)]
    assert book(*jobs).newest_unstarted() == [jobs[3], jobs[0]]
