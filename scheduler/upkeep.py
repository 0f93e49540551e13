"""What the store keeps, and for how long. Rules of this file: pure; it knows rows by their age and their number alone.

Old outcomes are forgotten in slices, each in a transaction of its own, and no later slice before the answer to that.
Time that nobody lived makes nothing older (``ages``).
"""

from __future__ import annotations

import math

from cluster.config import CoordinatorLimits
from scheduler import ages
from scheduler.exchange import Exchange
from scheduler.journal import CLOCK_SETTING, Journal, OutcomesPruned, PruneOutcomes
from scheduler.outbox import Outbox

PRUNE_EVERY_S, PRUNE_PAUSE_S, PRUNE_SLICE = 60.0, 0.25, 500
"""Old outcomes are looked for so often; while there are more, the next slice follows so soon; rows of one slice, which
takes a millisecond."""

CLOCK_EVERY_S = 3600.0
"""Where nothing else is written, it is noted so often that time was lived."""


class Upkeep:
    def __init__(
        self, lived: ages.Ages, limits: CoordinatorLimits, journal: Journal, exchange: Exchange, out: Outbox
    ) -> None:
        self._ages = lived
        self._limits = limits
        self._journal = journal
        self._exchange = exchange
        self._out = out
        self._prune_at = self._clock_at = math.inf

    def begin(self) -> None:
        """The first turn."""
        if self._journal.open:
            now = self._out.now.mono
            self._prune_at, self._clock_at = now + PRUNE_EVERY_S, now + CLOCK_EVERY_S

    def look(self) -> None:
        """Whether it is time again."""
        now, wall = self._out.now
        if now >= self._prune_at:
            self._prune_at = math.inf  # until it is answered
            before = self._ages.before(self._limits.keep_outcomes_s, wall)
            self._out.do(PruneOutcomes(before, self._limits.keep_outcomes, PRUNE_SLICE, wall))
        if now >= self._clock_at:
            self._clock_at = now + CLOCK_EVERY_S
            self._journal.setting(CLOCK_SETTING, None)  # which it writes with all that is written

    def unlived(self, seconds: float) -> None:
        """What is kept has not become so much older."""
        self._journal.setting(ages.SETTING, self._ages.unlived(seconds, self._out.now.wall))

    def pruned(self, event: OutcomesPruned) -> None:
        for sha in event.blobs:
            self._exchange.release(sha)
        if event.outcomes:
            self._out.fact("outcomes_pruned", event.outcomes)
        self._prune_at = self._out.now.mono + (PRUNE_PAUSE_S if event.outcomes >= PRUNE_SLICE else PRUNE_EVERY_S)
