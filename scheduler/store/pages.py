"""Many rows as one. Rules of this file: pure; rows to bytes and back, and which rows may share a page.

What a turn takes in or brings to its end is mostly alike: of one submission, without anything special. Such rows lie in
a *page*, column by column, which costs a store a tenth of what they cost one by one. Whatever is special has a row of
its own, and a job gets one as soon as something has to be remembered of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgpack

from scheduler.store import JobRow, OutcomeRow

LEAST, MOST = 8, 256
"""Rows of one page: fewer are not worth one, and one has to be read whole."""

GAP = 64
"""Ids of one group are no further apart than that: what ends about in its order makes one group, or a few."""

SPAN = MOST * GAP
"""No group reaches further."""

PAYLOAD_BYTES = 2_048
"""A job with a larger payload has a row of its own: little is saved then."""

_pack = msgpack.Packer().pack
Row = TypeVar("Row", JobRow, OutcomeRow)


def plain_job(row: JobRow) -> bool:
    return row.sha is None and not row.size and not row.about and len(row.payload) <= PAYLOAD_BYTES


def plain_outcome(row: OutcomeRow) -> bool:
    """A success of which nothing else is to be said."""
    return not (
        row.outcome
        or row.sha is not None
        or row.size
        or row.about
        or row.until
        or row.dead
        or row.error
        or not row.rank
        or len(row.payload) > PAYLOAD_BYTES
    )


def split(
    rows: Sequence[Row], plain: Callable[[Row], bool], numbers: Iterable[int], sizes: tuple[int, int]
) -> tuple[list[tuple[int, list[Row]]], list[tuple[int, Row]]]:
    """Which of these rows share pages, and which are alone; each with its number. Those of a page follow each other."""
    least, most = sizes
    pages: list[tuple[int, list[Row]]] = []
    alone: list[tuple[int, Row]] = []
    run: list[Row] = []
    first = following = 0

    def close() -> None:
        if len(run) >= least:
            pages.append((first, run))
        else:
            alone.extend(enumerate(run, first))

    for number, row in zip(numbers, rows, strict=True):
        if not plain(row):
            alone.append((number, row))
            continue
        if number != following or len(run) >= most:
            close()
            run, first = [], number
        run.append(row)
        following = number + 1
    close()
    return pages, alone


def _short(column: tuple[Any, ...]) -> Sequence[Any]:
    """One value stands for all, where they are the same."""
    return column[:1] if column.count(column[0]) == len(column) else column


def _long(column: list[Any], count: int) -> list[Any]:
    return column * count if len(column) != count else column


def pack_jobs(rows: list[JobRow]) -> bytes:
    ids, _, specs, payloads, _, _, ats, summaries, _ = zip(*rows, strict=True)
    return bytes(_pack((ids, payloads, _short(specs), _short(ats), _short(summaries))))


def unpack_jobs(first: int, body: bytes) -> list[JobRow]:
    ids, payloads, specs, ats, summaries = msgpack.unpackb(body)
    n = len(ids)
    columns = (ids, range(first, first + n), _long(specs, n), payloads, _long(ats, n), _long(summaries, n))
    return [
        JobRow(id, rank, spec, payload, None, 0, at, summary, b"")
        for id, rank, spec, payload, at, summary in zip(*columns, strict=True)
    ]


def pack_outcomes(rows: list[OutcomeRow]) -> bytes:
    ids, ranks, _, payloads, _, _, ats, attempts, _, _, specs, accepted, summaries, _, nodes, _, tries = zip(
        *rows, strict=True
    )
    columns = map(_short, (ats, attempts, specs, accepted, summaries, nodes))
    return bytes(_pack((ids, ranks, payloads, tries, *columns)))


class Outcomes:
    """A page of them, opened."""

    def __init__(self, body: bytes) -> None:
        self.ids: list[bytes]
        self.ids, self._ranks, self._payloads, self._tries, *columns = msgpack.unpackb(body)
        n = len(self.ids)
        self.ats, self._attempts, self.specs, self._accepted, self.summaries, self.nodes = (
            _long(column, n) for column in columns
        )

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, place: int, payload: bool = True) -> OutcomeRow:
        return OutcomeRow(
            self.ids[place],
            self._ranks[place],
            0,
            self._payloads[place] if payload else b"",
            None,
            0,
            self.ats[place],
            self._attempts[place],
            0,
            0.0,
            self.specs[place],
            self._accepted[place],
            self.summaries[place],
            b"",
            self.nodes[place],
            "",
            self._tries[place],
        )


def spans_of_ids(ids: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """First and last of each group of ids that lie near each other: such are of one session."""
    first = last = -1
    for number in sorted(int.from_bytes(id, "big") for id in ids):
        if number > last + GAP:
            if last >= 0:
                yield first.to_bytes(16, "big"), last.to_bytes(16, "big")
            first = number
        last = number
    if last >= 0:
        yield first.to_bytes(16, "big"), last.to_bytes(16, "big")
