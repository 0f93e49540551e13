"""Pages in a SQLite file. Rules of this file: shell; the statements that know the tables of pages, and no others do.

- A page goes by its last number, which finds the one that may have a given number. No two of a kind overlap, but rows
  of their own may lie between the numbers of a page.
- A page of jobs is not written again when some of them end: which are left is a string of bits in a small table.
- A page of outcomes is found by a job's id through the groups of ids it has: one, or a few, if its jobs ended about in
  their order; at worst one for each job, which is no more than an index has. Groups of several pages may overlap, so
  that a page is one which may have an id; and since none reaches far, they are few.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import takewhile
from typing import Any

from scheduler.store import JobRow, OutcomeRow, Search, UnfinishedRow
from scheduler.store.pages import SPAN, Outcomes, pack_jobs, pack_outcomes, spans_of_ids, unpack_jobs

TABLES = """
    CREATE TABLE job_pages (last INTEGER PRIMARY KEY, first INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE TABLE job_pages_left (last INTEGER PRIMARY KEY, first INTEGER NOT NULL, bits BLOB NOT NULL);
    CREATE TABLE outcome_pages (last INTEGER PRIMARY KEY, first INTEGER NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
    CREATE TABLE outcome_page_ids (last BLOB PRIMARY KEY, first BLOB NOT NULL, page INTEGER NOT NULL) WITHOUT ROWID;
"""

FEW = 8
"""A page with no more than an eighth of its jobs left is given up for rows of their own,"""

LOOKED_AT = 100
"""...if it is one of so many of the oldest."""


class JobPages:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(self, pages: list[tuple[int, list[JobRow]]]) -> None:
        """Each with its first rank."""
        many = self._db.executemany
        spans = [(first + len(rows) - 1, first, rows) for first, rows in pages]
        many("INSERT INTO job_pages VALUES (?, ?, ?)", [(last, first, pack_jobs(rows)) for last, first, rows in spans])
        many(
            "INSERT INTO job_pages_left VALUES (?, ?, ?)",
            [(last, first, _bits((1 << len(rows)) - 1)) for last, first, rows in spans],
        )

    def end(self, ranks: Iterable[int]) -> int:
        """These are unfinished no more. How many of them there were in pages."""
        ended = 0
        for last, left, mask in self._touched(ranks):
            ended += (left & mask).bit_count()
            self._leave(last, left & ~mask)
        return ended

    def take_out(self, ranks: Iterable[int]) -> list[JobRow]:
        """Those of these that are in pages, and not any more now."""
        rows: list[JobRow] = []
        for last, left, mask in self._touched(ranks):
            if left & mask:
                rows += self._rows(last, left & mask)
                self._leave(last, left & ~mask)
        return rows

    def stragglers(self, most: int) -> list[JobRow]:
        """Up to so many jobs of old pages that few are left of, which are given up for them."""
        rows: list[JobRow] = []
        (newest,) = self._db.execute("SELECT coalesce(max(last), 0) FROM job_pages_left").fetchone()
        select = "SELECT last, first, bits FROM job_pages_left WHERE last < ? ORDER BY last LIMIT ?"
        for last, first, bits in self._db.execute(select, (newest, LOOKED_AT)).fetchall():
            left = int.from_bytes(bits, "little")
            if left.bit_count() * FEW <= last - first + 1 and len(rows) + left.bit_count() <= most:
                rows += self._rows(last, left)
                self._leave(last, 0)
        return rows

    def unfinished(self, after: int, most: int, payloads: bool) -> list[UnfinishedRow]:
        """By rank."""
        found: list[UnfinishedRow] = []
        for last, first, bits in self._db.execute(
            "SELECT last, first, bits FROM job_pages_left WHERE last > ? ORDER BY last", (after,)
        ):
            left = int.from_bytes(bits, "little") >> max(0, after + 1 - first) << max(0, after + 1 - first)
            found += (_unfinished(row, payloads) for row in self._rows(last, left))
            if len(found) >= most:
                break
        return found[:most]

    def payloads(self, ranks: Iterable[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for last, left, mask in self._touched(ranks):
            if left & mask:
                found.update((row.rank, row.payload) for row in self._rows(last, left & mask))
        return found

    def _touched(self, ranks: Iterable[int]) -> Iterator[tuple[int, int, int]]:
        """Pages that have some of these: last rank, which are left, and which of all these are."""
        last = first = left = mask = 0
        for rank in sorted(ranks):
            if rank > last:
                if mask:
                    yield last, left, mask
                    mask = 0
                row = self._db.execute(
                    "SELECT last, first, bits FROM job_pages_left WHERE last >= ? ORDER BY last LIMIT 1", (rank,)
                ).fetchone()
                if row is None:
                    return
                last, first, bits = row
                left = int.from_bytes(bits, "little")
            if rank >= first:
                mask |= 1 << (rank - first)
        if mask:
            yield last, left, mask

    def _rows(self, last: int, which: int) -> list[JobRow]:
        first, body = self._db.execute("SELECT first, body FROM job_pages WHERE last = ?", (last,)).fetchone()
        return [row for place, row in enumerate(unpack_jobs(first, body)) if which >> place & 1]

    def _leave(self, last: int, left: int) -> None:
        if left:
            self._db.execute("UPDATE job_pages_left SET bits = ? WHERE last = ?", (_bits(left), last))
        else:
            self._db.execute("DELETE FROM job_pages_left WHERE last = ?", (last,))
            self._db.execute("DELETE FROM job_pages WHERE last = ?", (last,))


def _bits(left: int) -> bytes:
    return left.to_bytes((left.bit_length() + 7) // 8, "little")


def _unfinished(row: JobRow, payload: bool) -> UnfinishedRow:
    return UnfinishedRow(
        row.id,
        row.rank,
        row.spec,
        row.payload if payload else None,
        len(row.payload),
        None,
        0,
        row.at,
        row.summary,
        b"",
        0,
        0,
        b"",
        0.0,
        b"",
        b"",
    )


class OutcomePages:
    """Of successes. Numbers are those of ends, which rows of their own share."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(self, pages: Iterable[tuple[int, list[OutcomeRow]]]) -> None:
        """Each with its first number; the rows of one have the same moment."""
        for first, rows in pages:
            last = first + len(rows) - 1
            whole = (last, first, rows[0].at, pack_outcomes(rows))
            self._db.execute("INSERT INTO outcome_pages VALUES (?, ?, ?, ?)", whole)
            ids = {row.id for row in rows}
            for begins, ends in spans_of_ids([row.id for row in rows]):
                alone = self._db.execute("SELECT id FROM outcomes WHERE id BETWEEN ? AND ?", (begins, ends))
                if any(id in ids for (id,) in alone):
                    raise sqlite3.IntegrityError("a job has an outcome already")
                self._db.execute("INSERT INTO outcome_page_ids VALUES (?, ?, ?)", (ends, begins, last))

    def outcome(self, id: bytes) -> OutcomeRow | None:
        for page in self._pages(id, id):
            opened = self._open(page)
            if id in opened.ids:
                return opened.row(opened.ids.index(id))
        return None

    def oldest(self) -> int | None:
        row = self._db.execute("SELECT first FROM outcome_pages ORDER BY last LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def ends(self, most: int) -> Iterator[tuple[int, int, float]]:
        """First and last number of each page, and when its jobs ended; the oldest first."""
        return self._db.execute("SELECT first, last, at FROM outcome_pages ORDER BY last LIMIT ?", (most,))

    def prune(self, through: int) -> None:
        """Those up to this number go."""
        pages = self._db.execute("SELECT last, first FROM outcome_pages ORDER BY last")
        for last, first in list(takewhile(lambda page: page[1] <= through, pages)):
            opened = self._open(last)
            groups = [(ends,) for _, ends in spans_of_ids(opened.ids)]
            self._db.executemany("DELETE FROM outcome_page_ids WHERE last = ?", groups)
            self._db.execute("DELETE FROM outcome_pages WHERE last = ?", (last,))
            if last > through:
                self.insert([(through + 1, [opened.row(n) for n in range(through + 1 - first, len(opened))])])

    def begin_with(self, low: bytes, high: bytes, most: int) -> int:
        """In how many rows an id between these two is looked for; where they are more than ``most``, something above
        it."""
        found = 0
        for last in self._pages(low, high):
            (first,) = self._db.execute("SELECT first FROM outcome_pages WHERE last = ?", (last,)).fetchone()
            found += last - first + 1
            if found > most:
                break
        return found

    def search(
        self, search: Search, low: int, before: int, ids: tuple[bytes, bytes] | None
    ) -> Iterator[tuple[Any, ...]]:
        """Rows with their numbers behind them, from below ``before`` down to ``low``. ``ids``: only between these,
        whatever the page."""
        if ids is None:
            select = "SELECT last, first, at, body FROM outcome_pages WHERE last >= ? ORDER BY last"
            pages = list(takewhile(lambda page: page[1] < before, self._db.execute(select, (low,))))
        else:
            named = sorted(self._pages(*ids))
            select = "SELECT last, first, at, body FROM outcome_pages WHERE last = ?"
            pages = [self._db.execute(select, (page,)).fetchone() for page in named]
        fits = _test(search)
        for _, first, at, body in reversed(pages):
            if (search.since and at < search.since) or (search.until and at >= search.until):
                continue
            opened = Outcomes(body)
            for place in range(min(before - first, len(opened)) - 1, max(low - first, 0) - 1, -1):
                if fits(opened, place):
                    yield (*opened.row(place, payload=False), first + place)

    def _open(self, last: int) -> Outcomes:
        (body,) = self._db.execute("SELECT body FROM outcome_pages WHERE last = ?", (last,)).fetchone()
        return Outcomes(body)

    def _pages(self, low: bytes, high: bytes) -> Iterator[int]:
        """Those that may have ids between these two."""
        known = set()
        furthest = min(int.from_bytes(high[:16].ljust(16, b"\xff"), "big") + SPAN, (1 << 128) - 1).to_bytes(16, "big")
        for first, page in self._db.execute(
            "SELECT first, page FROM outcome_page_ids WHERE last BETWEEN ? AND ? ORDER BY last", (low, furthest)
        ):
            if first <= high and page not in known:
                known.add(page)
                yield page


def _test(search: Search) -> Callable[[Outcomes, int], bool]:
    """Whether a success is searched for."""
    if search.dead or search.error or (search.outcomes is not None and 0 not in search.outcomes):
        return lambda page, place: False
    words = _lower(search.summary)
    low, high = search.id, search.id + b"\xff" * 16

    def fits(page: Outcomes, place: int) -> bool:
        return (
            (search.specs is None or page.specs[place] in search.specs)
            and (not search.node or page.nodes[place] == search.node)
            and (not words or words in _lower(page.summaries[place].partition("\0")[0]))
            and (not search.id or low <= page.ids[place] <= high)
        )

    return fits


_LETTERS = {ord(letter): ord(letter.lower()) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def _lower(text: str) -> str:
    """As SQLite sees it: no letters but those of ASCII have two cases."""
    return text.translate(_LETTERS)


def by_number(*parts: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows with their numbers behind them, merged: the highest first."""
    return merge(*parts, key=_number, reverse=True)


def _number(row: tuple[Any, ...]) -> int:
    return int(row[-1])
