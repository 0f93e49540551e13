"""Jobs that wait for others to end. Rules of this file: a pure book; what an outcome means is the coordinator's.

A child names its parents by id. One whose parent is unfinished is told when it ends; of a parent that is not in memory
the coordinator has the store look.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.lifecycle import Job


class Dependencies:
    def __init__(self) -> None:
        self._children: dict[bytes, dict[bytes, Job]] = {}
        self._missing: dict[bytes, set[bytes]] = {}
        """By child: the parents that have not ended well yet."""

    def __len__(self) -> int:
        return len(self._missing)

    def wait(self, child: Job, parents: Iterable[bytes]) -> None:
        missing = self._missing[child.id] = set(parents)
        for parent in sorted(missing):
            self._children.setdefault(parent, {})[child.id] = child

    def waits_for(self, child: Job) -> list[bytes]:
        return sorted(self._missing.get(child.id, ()))

    def ended(self, parent: bytes) -> list[Job]:
        """Who waited for it."""
        return list(self._children.pop(parent, {}).values())

    def met(self, child: Job, parent: bytes) -> bool:
        """That parent is over with; whether the child waits for no other."""
        missing = self._missing[child.id]
        missing.discard(parent)
        self._drop(child, parent)
        if missing:
            return False
        del self._missing[child.id]
        return True

    def waits_instead(self, child: Job, name: bytes, parent: bytes) -> None:
        """What it named was another name of this parent."""
        missing = self._missing[child.id]
        missing.remove(name)
        missing.add(parent)
        self._drop(child, name)
        self._children.setdefault(parent, {})[child.id] = child

    def forget(self, child: Job) -> None:
        """It has ended without them."""
        for parent in self._missing.pop(child.id, ()):
            self._drop(child, parent)

    def _drop(self, child: Job, parent: bytes) -> None:
        siblings = self._children.get(parent)
        if siblings is not None:
            siblings.pop(child.id, None)
            if not siblings:
                del self._children[parent]
