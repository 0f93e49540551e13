"""Old outcomes are forgotten, and what was not lived makes nothing older."""

from __future__ import annotations

import pytest

from cluster.actor import WallClockJumped
from cluster.config import CoordinatorLimits
from cluster.messages import (
    Assign,
    Results,
    Taken,
)
from scheduler.upkeep import CLOCK_EVERY_S, PRUNE_EVERY_S
from tests.playbook import CoordinatorPlay


@pytest.fixture
def play() -> CoordinatorPlay:
    return CoordinatorPlay(durable=True)


def test_old_outcomes_are_forgotten_in_slices_with_their_blobs() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(keep_outcomes=1))
    client = play.client()
    node = play.node()
    for n in range(3):
        client.submit()
        node.finishes_large(node.gets(Assign).tokens[0], bytes([n]) * 100_000)
        _, sha, size = client.gets(Results).large[0]
        client.say(Taken(sha, size))
    assert len(play.disk.blobs) == 3
    play.live(PRUNE_EVERY_S + 1, client, node)
    assert [row.id for row in play.rows_on_disk.rows.outcomes.values()] == [client.job(3)]
    assert len(play.disk.blobs) == 1
    assert sum(f.n for f in play.told("outcomes_pruned")) == 2


def test_outcomes_are_kept_for_their_time_and_no_longer() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(keep_outcomes_s=100.0))
    client = play.client()
    node = play.node()
    client.submit()
    node.finishes(node.gets(Assign).tokens[0])
    client.gets_results(1)
    play.live(90, client, node)
    assert play.rows_on_disk.rows.outcomes
    play.live(2 * PRUNE_EVERY_S, client, node)
    assert not play.rows_on_disk.rows.outcomes


@pytest.mark.parametrize("down", [False, True])
def test_a_clock_that_runs_ahead_makes_no_outcome_older(down: bool) -> None:
    """Set while the coordinator looks, or while it is down; and then it is started again."""
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(keep_outcomes_s=200.0))
    client, node = play.client(), play.node()
    client.submit()
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    play.now = play.now._replace(wall=play.now.wall + 8 * 86_400)
    if not down:
        play.turn(WallClockJumped(8 * 86_400.0))
    play.restart()
    node.joins()
    client.joins(accepted=1)
    play.live(180, client, node)
    client.submit()
    node.finishes(node.runs(client.job(2)))
    client.gets_results(2)
    assert [row.id for row in play.rows_on_disk.rows.outcomes.values()] == [client.job(1), client.job(2)]
    play.live(20 + PRUNE_EVERY_S, client, node)
    assert [row.id for row in play.rows_on_disk.rows.outcomes.values()] == [client.job(2)]
    play.live(180 + PRUNE_EVERY_S, client, node)
    assert not play.rows_on_disk.rows.outcomes


def test_a_coordinator_without_work_notes_that_it_lives() -> None:
    play = CoordinatorPlay(durable=True, limits=CoordinatorLimits(keep_outcomes_s=200.0))
    client, node = play.client(), play.node()
    client.submit()
    node.finishes(node.runs(client.job(1)))
    client.gets_results(1)
    play.live(CLOCK_EVERY_S + 10, client, node)
    play.restart()
    assert play.coordinator._upkeep._ages.before(200.0, play.now.wall) == play.now.wall - 200.0
