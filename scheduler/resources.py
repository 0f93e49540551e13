"""What jobs claim of a node beside a slot, and how much of it is taken. Rules of this file: a pure book, one per node.

A node offers amounts of resources: processors, memory, graphics processors, and what has a name of one's own. A job
claims amounts of them, from its assignment until its attempt has ended, so that they never add up to more than there
is. Nothing is measured here: the claims are what counts. What is not offered is not there.

Amounts are counted in whole thousandths: so parts add up again, and nothing drifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cluster.jobs import RESOURCES, Rules, thousandths

MEMORY = "memory_bytes"

Amounts = tuple[tuple[str, int], ...]
"""Thousandths by name, sorted."""


class Claims(NamedTuple):
    """What the jobs of one spec ask of a node, where that is more than a slot."""

    amounts: Amounts
    apart: tuple[str, str] | None
    """Namespace and anti-affinity key, of which a node has one job at a time."""
    prefer: tuple[tuple[str, str], ...]
    """Labels that a node should have."""

    @property
    def binding(self) -> bool:
        """Whether a node can lack what they ask for."""
        return bool(self.amounts or self.apart)


def claims_of(rules: Rules, namespace: str) -> Claims | None:
    """None for most jobs."""
    said = {name: getattr(rules, name) for name in RESOURCES} | dict(rules.resources)
    amounts = tuple(sorted((name, thousandths(amount)) for name, amount in said.items() if amount))
    apart = (namespace, rules.anti_affinity) if rules.anti_affinity else None
    return Claims(amounts, apart, rules.prefer) if amounts or apart or rules.prefer else None


class Holdings:
    """Of one node."""

    def __init__(self, offered: Mapping[str, float]) -> None:
        self.offered = {name: thousandths(amount) for name, amount in offered.items()}
        self.taken: dict[str, int] = {}
        self._apart: dict[tuple[str, str], int] = {}
        """Anti-affinity keys of jobs that are there, with how many: two after a restart, if it was so before."""

    def could(self, amounts: Amounts) -> bool:
        """Whether it has so much when it is empty."""
        offered = self.offered
        return all(offered.get(name, 0) >= amount for name, amount in amounts)

    def fits(self, claims: Claims) -> bool:
        """Whether that is free now."""
        offered, taken = self.offered, self.taken
        return claims.apart not in self._apart and all(
            offered.get(name, 0) - taken.get(name, 0) >= amount for name, amount in claims.amounts
        )

    def has(self, apart: tuple[str, str] | None) -> bool:
        """Whether a job under that key is there."""
        return apart in self._apart

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """For people: of each resource how much there is, and how much is claimed."""
        return {
            name: {"offered": offered / 1000, "claimed": self.taken.get(name, 0) / 1000}
            for name, offered in sorted(self.offered.items())
        }

    def free(self, name: str) -> int:
        return self.offered.get(name, 0) - self.taken.get(name, 0)

    def fullness(self, amounts: Amounts) -> float:
        """How much of what it offers would be taken with so much more, by the resource of which it has the least; it is
        offered."""
        return max(((self.taken.get(name, 0) + n) / self.offered[name] for name, n in amounts), default=0.0)

    def take(self, claims: Claims) -> None:
        for name, amount in claims.amounts:
            self.taken[name] = self.taken.get(name, 0) + amount
        if claims.apart is not None:
            self._apart[claims.apart] = self._apart.get(claims.apart, 0) + 1

    def give_back(self, claims: Claims) -> None:
        for name, amount in claims.amounts:
            self.taken[name] -= amount
        if claims.apart is not None:
            left = self._apart[claims.apart] - 1
            if left:
                self._apart[claims.apart] = left
            else:
                del self._apart[claims.apart]


# ------------------------------------------------------------------------------------ in words


def told(name: str, amount: int) -> str:
    """``cpus 2.5``, ``memory_bytes 3 GiB``."""
    return f"{name} {figure(name, amount)}"


def figure(name: str, amount: int) -> str:
    return _bytes(amount / 1000) if name == MEMORY else f"{amount / 1000:.12g}"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
