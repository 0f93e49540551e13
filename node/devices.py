"""The agent's graphics processors, and who has been given which. Rules of this file: a pure book and its policy.

The coordinator counts what jobs claim of a node together; here it comes down to devices. Whole ones are of one job
alone; a part lies on one device, on the one with the least room that still takes it, so that whole ones stay whole. So
it may be that nothing fits though the sum would: then the claim waits, see ``Agent._with_devices``. On an empty node
what is offered fits.

Amounts are thousandths of a device, as the coordinator's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.jobs import VISIBLE_DEVICES, thousandths

WHOLE = 1000


class Devices:
    def __init__(self, ids: Sequence[str] = (), offered: float | None = None) -> None:
        """``offered``: how many they are together, where the last is shared out in part only; default all, whole."""
        amount = len(ids) * WHOLE if offered is None else thousandths(offered)
        self._free = {one: max(0, min(WHOLE, amount - n * WHOLE)) for n, one in enumerate(ids)}
        self._empty = dict(self._free)
        self._held: dict[int, tuple[int, tuple[str, ...]]] = {}
        """By slot, how much of each of which."""

    def could(self, amount: int) -> bool:
        """Whether there is so much when nobody has any."""
        return _pick(self._empty, amount) is not None

    def fits(self, amount: int) -> bool:
        """Whether there is room for it now."""
        return _pick(self._free, amount) is not None

    def take(self, slot: int, amount: int) -> tuple[str, ...]:
        """Ids of the devices that its worker is given. It has none yet, and there is room."""
        ids = _pick(self._free, amount)
        assert ids is not None and slot not in self._held, f"slot {slot}: {amount} of {self._free}, {self._held}"
        share = min(amount, WHOLE)
        for one in ids:
            self._free[one] -= share
        self._held[slot] = share, ids
        return ids

    def give_back(self, slot: int) -> None:
        """Nothing runs there any more that has seen them."""
        share, ids = self._held.pop(slot)
        for one in ids:
            self._free[one] += share


def _pick(free: Mapping[str, int], amount: int) -> tuple[str, ...] | None:
    if amount < WHOLE:
        fit = [one for one, left in free.items() if left >= amount]
        return (min(fit, key=lambda one: free[one]),) if fit else None
    count = -(-amount // WHOLE)
    whole = [one for one, left in free.items() if left == WHOLE]
    return tuple(whole[:count]) if len(whole) >= count else None


def named(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The devices that the variables of a process let it see, indices or UUIDs; None where they say nothing.

    As CUDA reads them: what comes after an id that is none is not seen.
    """
    said = next((environ[name] for name in VISIBLE_DEVICES if name in environ), None)
    if said is None:
        return None
    ids: dict[str, None] = {}
    for one in map(str.strip, said.split(",")):
        if not one or one.startswith("-") or one == "NoDevFiles":
            break
        ids[one] = None
    return tuple(ids)


def shared_out(offered: float, told: Sequence[str] | None) -> tuple[str, ...]:
    """Ids of the devices of a node that offers so many: the first of those it was told of, or else 0, 1, 2 and so on.
    Raises ``ValueError`` if it was told of fewer."""
    count = -(-thousandths(offered) // WHOLE)
    if told is None:
        return tuple(map(str, range(count)))
    if count > len(told):
        raise ValueError(f"gpus={offered:g} is more than the {len(told)} that {' or '.join(VISIBLE_DEVICES)} names")
    return tuple(told[:count])
