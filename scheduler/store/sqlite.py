"""The store as one SQLite file. Rules of this file: shell; rows in, rows out, and no decision.

- One connection does everything, checkpoints too: releases before 3.51.3 can lose commits where two write or
  checkpoint at the same moment (sqlite.org/wal.html). ``locking_mode=EXCLUSIVE`` keeps every other one out. The locks
  are this process's: no code of ours may open the file besides, since closing it would give them up.
- ``synchronous=FULL``: a commit is on the disk when it returns. It is the unit of cost, so a turn is one.
- Rows are inserted in bulk by the caller's thread: in another one the interpreter lock would change hands per row.
- Jobs go by their rank, outcomes by the order of ends: both are added at the new end and leave near the old one, so a
  turn touches few pages of the file. What has nothing special lies in ``pages`` of many rows, the rest in rows.
- Ends are numbered without gaps and no number is used twice, so that a page of history goes on where the last one
  ended, whatever came or was pruned meanwhile.
- History is a walk along those numbers, cut into slices. Who looks for what did not succeed walks along an index of
  these only, which has all that is searched for; the others read the rows themselves.
- The log (``-wal``) has its length from the start and is written over: a file that grows costs twice the sync.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from itertools import chain, groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from cluster.file_systems import NETWORK_FILE_SYSTEMS, file_system
from scheduler.store import (
    Arguments,
    Changes,
    FiringRow,
    History,
    JobRow,
    KeyRow,
    NodeRow,
    OutcomeRow,
    Pruned,
    Recovered,
    ScheduleRow,
    Search,
    SessionRow,
    SpecRow,
    Standing,
    StandingRow,
    StoreFailed,
    UnfinishedRow,
)
from scheduler.store.pages import LEAST, MOST, plain_job, plain_outcome, split
from scheduler.store.sqlite_pages import TABLES, JobPages, OutcomePages, by_number

APPLICATION_ID = 0x47414E47
"""``GANG``, in the header of our files."""

LOG_PAGES = 4_000
"""The log is moved into the file when it has so many pages of 4 KiB: some 10 ms in every hundredth full commit, and
hardly any where commits are small, since they change the same pages."""

LOG_BYTES = 18 * 1024**2
"""Its length from the start: those pages, and the commit that reaches them."""

LOG_BYTES_MOST = 4 * LOG_BYTES
"""A log of this length held one huge commit, and is cut; or it cannot be moved into the file, and that is an error."""

LENGTHEN_S = 0.25
"""Time at start for making the log that long. On a disk too slow for it, commits do it bit by bit."""

CACHE_KIB = 64 * 1024
"""Pages held in memory: the index of a million outcomes, so that an outcome does not read from the disk."""

CHECK_BYTES = 64 * 1024**2
"""A file up to this is checked whole at start, some 0.1 s; damage in a larger one is found when it is read."""

ROWS = 50
"""Rows inserted by one statement, where there are so many: a quarter cheaper than one at a time."""

ROWS_BY_ID = 1_000
"""Where no more begin with the id that is searched for, they are read at once: they may lie far apart."""

SLICE_S = 0.008
"""A slice of history ends after this, however few rows it has looked at: they are large, or the disk is slow."""

STEP = 1_000
"""Rows looked at between two looks at the clock."""

PATTERN_CHARACTERS = 5_000
"""A longer text is looked for in a slower way, since SQLite takes no pattern above 50,000 bytes."""

LAST = 2**63 - 1

MIGRATIONS: tuple[str, ...] = (
    # Counters (kind 0) and settings (1) share a table, since nearly every turn changes one of each.
    # Payloads stand last, so that what stands before them is read without them; what is searched for stands first.
    """
    CREATE TABLE sessions (
        session BLOB PRIMARY KEY, key TEXT NOT NULL, owner TEXT NOT NULL, namespace TEXT NOT NULL,
        accepted INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE specs (
        number INTEGER PRIMARY KEY, owner TEXT NOT NULL, raw BLOB NOT NULL, code BLOB NOT NULL, blob INTEGER NOT NULL
    );
    CREATE TABLE jobs (
        rank INTEGER PRIMARY KEY, id BLOB NOT NULL, spec INTEGER NOT NULL, sha BLOB, size INTEGER NOT NULL,
        at REAL NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, token INTEGER NOT NULL DEFAULT 0,
        node BLOB NOT NULL DEFAULT x'', due REAL NOT NULL DEFAULT 0, summary TEXT NOT NULL, about BLOB NOT NULL,
        tries BLOB NOT NULL DEFAULT x'', saved BLOB NOT NULL DEFAULT x'', payload BLOB NOT NULL
    );
    CREATE INDEX jobs_with_blobs ON jobs (sha, size) WHERE sha IS NOT NULL;
    CREATE TABLE outcomes (
        seq INTEGER PRIMARY KEY, at REAL NOT NULL, outcome INTEGER NOT NULL, dead INTEGER NOT NULL,
        spec INTEGER NOT NULL, summary TEXT NOT NULL, node TEXT NOT NULL, error TEXT NOT NULL, id BLOB NOT NULL,
        rank INTEGER NOT NULL, sha BLOB, size INTEGER NOT NULL, attempt INTEGER NOT NULL, until REAL NOT NULL,
        accepted_at REAL NOT NULL, about BLOB NOT NULL, tries BLOB NOT NULL, payload BLOB NOT NULL
    );
    CREATE UNIQUE INDEX outcomes_by_id ON outcomes (id);
    CREATE INDEX outcomes_with_blobs ON outcomes (sha, size) WHERE sha IS NOT NULL;
    CREATE INDEX outcomes_of_no_success ON outcomes (seq, at, outcome, dead, spec, node, error, summary)
        WHERE outcome > 0;
    CREATE INDEX outcomes_with_results_to_end ON outcomes (until)
        WHERE until > 0 AND (sha IS NOT NULL OR payload <> x'');
    CREATE TABLE arguments (seq INTEGER PRIMARY KEY, sha BLOB, size INTEGER NOT NULL, payload BLOB NOT NULL);
    CREATE INDEX arguments_with_blobs ON arguments (sha, size) WHERE sha IS NOT NULL;
    CREATE TABLE keys (
        namespace TEXT NOT NULL, key TEXT NOT NULL, job BLOB NOT NULL, fingerprint BLOB NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (namespace, key)
    ) WITHOUT ROWID;
    CREATE TABLE aliases (id BLOB PRIMARY KEY, job BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX aliases_by_age ON aliases (at);
    CREATE TABLE small (kind INTEGER NOT NULL, name TEXT, value NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
    INSERT INTO small VALUES (0, 'rank', 0), (0, 'spec', 0), (0, 'end', 0);
    CREATE TABLE nodes (
        name TEXT PRIMARY KEY, session BLOB NOT NULL, incarnation INTEGER NOT NULL, key TEXT NOT NULL,
        host TEXT NOT NULL, about BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE schedules (
        namespace TEXT NOT NULL, name TEXT NOT NULL, schedule BLOB NOT NULL, PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE schedule_standings (
        namespace TEXT NOT NULL, name TEXT NOT NULL, standing BLOB NOT NULL, PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE firings (
        namespace TEXT NOT NULL, name TEXT NOT NULL, nominal_us INTEGER NOT NULL, run BLOB NOT NULL,
        kind INTEGER NOT NULL, until_us INTEGER NOT NULL, at_us INTEGER NOT NULL, late_us INTEGER NOT NULL,
        ended_us INTEGER NOT NULL, run_us INTEGER NOT NULL, outcome INTEGER NOT NULL, reason INTEGER NOT NULL,
        job BLOB NOT NULL, PRIMARY KEY (namespace, name, nominal_us, run)
    ) WITHOUT ROWID;
    """
    + TABLES,
)
"""Step ``n`` takes a file of version ``n`` to ``n + 1``. Once released, steps are never changed, only added."""

_JOB = ", ".join(JobRow._fields)
_OUTCOME = ", ".join(OutcomeRow._fields)
_FOUND = ", ".join("x''" if name == "payload" else name for name in OutcomeRow._fields)
_STANDING = Standing._fields[1:]
_UNFINISHED = f"SELECT {', '.join(UnfinishedRow._fields)} FROM jobs".replace(
    "payload, payload_bytes", "{}, length(payload)"
)
_STAND = f"UPDATE jobs SET {', '.join(f'{name} = ?{n}' for n, name in enumerate(_STANDING, 2))} WHERE rank = ?1"


class SqliteStore:
    """The file ``store.db`` in ``directory``. ``sizes``: the fewest and the most rows that make a page.

    Raises :class:`ConfigError` where the file system is a network's, the disk is full or not to be written, or the
    file is not ours, damaged, in use, or written by a newer release.
    """

    def __init__(self, directory: str | os.PathLike[str], sizes: tuple[int, int] = (LEAST, MOST)) -> None:
        self._sizes = sizes
        self.path = Path(directory) / "store.db"
        self._log = f"{self.path}-wal"
        _check_directory(self.path)
        self._busy = threading.Lock()
        """Held by the one call under way."""
        self._open = False
        """Whether a transaction is."""
        self._failed = ""
        """Why this store is of no more use."""
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
        except sqlite3.Error as e:
            raise ConfigError(f"cannot open {self.path}: {_reason(e)}") from None
        self._jobs, self._outcomes = JobPages(self._db), OutcomePages(self._db)
        try:
            self._prepare()
        except (sqlite3.Error, OSError) as e:
            self._db.close()
            raise ConfigError(f"cannot use {self.path}: {_reason(e)}") from None
        except BaseException:
            self._db.close()
            raise

    # -- opening ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        pragma = self._pragma
        pragma("locking_mode = EXCLUSIVE")
        version = self._version()
        if self.path.stat().st_size <= CHECK_BYTES and (found := pragma("quick_check(1)")) != "ok":
            raise ConfigError(f"{self.path} is damaged ({found}); {_REMEDIES[sqlite3.SQLITE_CORRUPT]}")
        os.chmod(self.path, 0o600)
        if (mode := pragma("journal_mode = WAL")) != "wal":
            raise sqlite3.OperationalError(f"it can have no write-ahead log (journal_mode {mode})")
        pragma("synchronous = FULL")
        pragma(f"wal_autocheckpoint = {LOG_PAGES}")
        pragma(f"cache_size = -{CACHE_KIB}")
        self._migrate(version)
        self._lengthen_log()

    def _pragma(self, text: str) -> Any:
        row = self._db.execute(f"PRAGMA {text}").fetchone()
        return None if row is None else row[0]

    def _version(self) -> int:
        """Of the schema, in a file that is ours or empty."""
        ours, version = self._pragma("application_id"), int(self._pragma("user_version"))
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if ours != APPLICATION_ID and (ours or version or tables):
            raise ConfigError(f"{self.path} belongs to another program; move it away, or use another directory")
        if version > len(MIGRATIONS):
            raise ConfigError(
                f"{self.path} was written by a newer release (schema {version}; this one reads up to"
                f" {len(MIGRATIONS)}); install that release, or use another directory"
            )
        return version

    def _migrate(self, version: int) -> None:
        for number in range(version, len(MIGRATIONS)):
            # executescript would commit by itself between its statements
            self._db.execute("BEGIN IMMEDIATE")
            for statement in MIGRATIONS[number].split(";"):
                if statement.strip():
                    self._db.execute(statement)
            self._pragma(f"user_version = {number + 1}")
            self._pragma(f"application_id = {APPLICATION_ID}")
            self._db.execute("COMMIT")

    def _lengthen_log(self) -> None:
        """Zeros behind its end, where SQLite sees no frames. Extents merely reserved would not make a sync cheaper."""
        until = time.monotonic() + LENGTHEN_S
        fd = os.open(self._log, os.O_WRONLY | os.O_CLOEXEC)
        try:
            end = os.fstat(fd).st_size
            while end < LOG_BYTES and time.monotonic() < until:
                end += os.pwrite(fd, bytes(min(1 << 20, LOG_BYTES - end)), end)
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- reading ------------------------------------------------------------------------------------

    def recover(self) -> Recovered:
        with self._reading() as rows:
            counters = dict(rows("SELECT name, value FROM small WHERE kind = 0"))
            return Recovered(
                [SessionRow(*row) for row in rows("SELECT session, key, owner, namespace, accepted FROM sessions")],
                [
                    SpecRow(number, owner, raw, code, bool(blob))
                    for number, owner, raw, code, blob in rows("SELECT number, owner, raw, code, blob FROM specs")
                ],
                [NodeRow(*row) for row in rows("SELECT name, session, incarnation, key, host, about FROM nodes")],
                {
                    sha: (size, count)
                    for sha, size, count in rows(
                        "SELECT sha, max(size), count(*) FROM (SELECT sha, size FROM jobs WHERE sha IS NOT NULL"
                        " UNION ALL SELECT sha, size FROM outcomes WHERE sha IS NOT NULL"
                        " UNION ALL SELECT sha, size FROM arguments WHERE sha IS NOT NULL) GROUP BY sha"
                    )
                },
                self._kept(),
                counters["rank"],
                counters["spec"],
                [KeyRow(*row) for row in rows("SELECT namespace, key, job, fingerprint, until FROM keys")],
                dict(rows("SELECT name, value FROM small WHERE kind = 1")),
                list(map(ScheduleRow._make, rows("SELECT namespace, name, schedule FROM schedules"))),
                list(map(StandingRow._make, rows("SELECT namespace, name, standing FROM schedule_standings"))),
                list(map(FiringRow._make, rows(f"SELECT {', '.join(FiringRow._fields)} FROM firings"))),
            )

    def unfinished(self, after: int, most: int, payloads: bool) -> list[UnfinishedRow]:
        with self._reading() as rows:
            select = _UNFINISHED.format("payload" if payloads else "NULL")
            alone = map(UnfinishedRow._make, rows(f"{select} WHERE rank > ? ORDER BY rank LIMIT ?", (after, most)))
            return list(islice(merge(alone, self._jobs.unfinished(after, most, payloads), key=_rank), most))

    def payloads(self, ranks: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with self._reading() as rows:
            for run in _runs(ranks):
                found.update(rows("SELECT rank, payload FROM jobs WHERE rank BETWEEN ? AND ?", run))
            found |= self._jobs.payloads(ranks)
        return found

    def outcome(self, job: bytes) -> OutcomeRow | None:
        with self._reading() as rows:
            found = self._outcome(job)
            if found is None:
                row = rows("SELECT job FROM aliases WHERE id = ?", (job,)).fetchone()
                found = None if row is None else self._outcome(row[0])
        return found

    def _outcome(self, id: bytes) -> OutcomeRow | None:
        row = self._db.execute(f"SELECT {_OUTCOME} FROM outcomes WHERE id = ?", (id,)).fetchone()
        return self._outcomes.outcome(id) if row is None else OutcomeRow(*row)

    def alias(self, id: bytes) -> bytes | None:
        with self._reading() as rows:
            row = rows("SELECT job FROM aliases WHERE id = ?", (id,)).fetchone()
        return None if row is None else row[0]

    def arguments(self, job: bytes) -> Arguments | None:
        with self._reading() as rows:
            row = rows(
                "SELECT payload, sha, size FROM arguments WHERE seq = (SELECT seq FROM outcomes WHERE id = ?)", (job,)
            ).fetchone()
        return None if row is None else Arguments(*row)

    def history(self, search: Search, before: int, most: int, look_at: int) -> History:
        where, values = _conditions(search)
        select = f"SELECT {_FOUND}, seq FROM outcomes {{}} WHERE {' AND '.join([*where, 'seq >= ?', 'seq < ?'])}"
        found: list[tuple[Any, ...]] = []
        ends = time.monotonic() + SLICE_S
        with self._reading() as rows:
            oldest, newest = self._numbers()
            before = oldest if _of_nothing(search) else min(before or LAST, newest + 1)
            by_id = bool(search.id) and self._are_few(search.id, min(look_at, ROWS_BY_ID))
            while before > oldest and look_at > 0 and len(found) < most:
                step = min(STEP, look_at)
                look_at -= step
                if by_id:
                    low, way = oldest, "INDEXED BY outcomes_by_id"
                elif _of_no_success(search):
                    low, way = self._no_success(before, step) or oldest, "INDEXED BY outcomes_of_no_success"
                else:
                    low, way = max(oldest, before - step), "NOT INDEXED"
                wanted = most - len(found)
                some: Iterable[Any] = rows(
                    f"{select.format(way)} ORDER BY seq DESC LIMIT ?", (*values, low, before, wanted)
                )
                if not _of_no_success(search):
                    ids = _range(search.id) if by_id else None
                    some = by_number(some, self._outcomes.search(search, low, before, ids))
                found += islice(some, wanted)
                before = low if len(found) < most else found[-1][-1]
                if time.monotonic() >= ends:
                    break
        return History([OutcomeRow(*row[:-1]) for row in found], before if before > oldest else 0)

    def _are_few(self, id: bytes, most: int) -> bool:
        """Whether no more than ``most`` begin with it."""
        counted = f"SELECT count(*) FROM (SELECT 1 FROM outcomes WHERE {_BEGINS} LIMIT ?)"
        (found,) = self._db.execute(counted, (*_range(id), most + 1)).fetchone()
        return bool(found + self._outcomes.begin_with(*_range(id), most) <= most)

    def _no_success(self, before: int, step: int) -> int:
        """Number of the last but so many; 0 where there are fewer."""
        select = (
            "SELECT seq FROM outcomes INDEXED BY outcomes_of_no_success"
            " WHERE outcome > 0 AND seq < ? ORDER BY seq DESC LIMIT 1 OFFSET ?"
        )
        row = self._db.execute(select, (before, step - 1)).fetchone()
        return 0 if row is None else int(row[0])

    def _numbers(self) -> tuple[int, int]:
        """Of the oldest outcome and the newest. There are no gaps, since outcomes only leave at the old end."""
        last = self._last()
        (alone,) = self._db.execute("SELECT min(seq) FROM outcomes").fetchone()
        oldest = [number for number in (alone, self._outcomes.oldest()) if number is not None]
        return min(oldest, default=last + 1), last

    def _last(self) -> int:
        (last,) = self._db.execute("SELECT value FROM small WHERE kind = 0 AND name = 'end'").fetchone()
        return int(last)

    def _kept(self) -> int:
        low, high = self._numbers()
        return high - low + 1

    # -- writing ------------------------------------------------------------------------------------

    def write(self, changes: Iterable[Changes]) -> None:
        with self._alone():
            for change in changes:
                self._begin()
                self._write(change)

    def commit(self) -> None:
        with self._alone():
            if not self._open:
                return
            self._db.execute("COMMIT")
            self._open = False
            if os.stat(self._log).st_size > LOG_BYTES_MOST:
                # SQLite says nothing when it fails to empty the log by itself; asked to, it does.
                self._pragma("wal_checkpoint(TRUNCATE)")
                self._lengthen_log()

    def prune(self, before: float, keep: int, most: int, now: float) -> Pruned:
        with self._alone():
            blobs: list[bytes | None] = []
            gone = self._prune_outcomes(before, keep, most, blobs)
            gone += self._end_results(now, most - gone, blobs)
            gone += self._prune_aliases(before, most - gone)
            if stragglers := self._jobs.stragglers(most):
                self._begin()
                self._insert(f"jobs ({_JOB})", stragglers)
        return Pruned(gone, [sha for sha in blobs if sha is not None])

    def _prune_outcomes(self, before: float, keep: int, most: int, blobs: list[bytes | None]) -> int:
        execute = self._db.execute
        oldest, newest = self._numbers()
        spare = newest - oldest + 1 - keep
        alone = execute("SELECT seq, seq, at, sha FROM outcomes ORDER BY seq LIMIT ?", (most,))
        pages = ((first, last, at, None) for first, last, at in self._outcomes.ends(most))
        gone = 0
        for first, last, at, sha in merge(alone, pages, key=_first):
            count = last - first + 1
            going = min(count if at < before else min(count, spare - gone), most - gone)
            if going <= 0:
                break  # they are in the order of their ends, but for jumps of the clock
            gone += going
            blobs.append(sha)
            if going < count:
                break
        if gone:
            self._begin()
            through = oldest + gone - 1
            blobs += [sha for (sha,) in execute("SELECT sha FROM arguments WHERE seq <= ?", (through,))]
            execute("DELETE FROM arguments WHERE seq <= ?", (through,))
            execute("DELETE FROM outcomes WHERE seq <= ?", (through,))
            self._outcomes.prune(through)
        return gone

    def _end_results(self, now: float, most: int, blobs: list[bytes | None]) -> int:
        over = self._db.execute(_OVER, (now, most)).fetchall()
        if over:
            self._begin()
            self._db.executemany(_END_RESULT, [(seq,) for seq, _ in over])
            blobs += [sha for _, sha in over]
        return len(over)

    def _prune_aliases(self, before: float, most: int) -> int:
        old = self._db.execute(_OLD_ALIASES, (before, most)).fetchall()
        if old:
            self._begin()
            self._db.executemany("DELETE FROM aliases WHERE id = ?", old)
        return len(old)

    def close(self) -> None:
        with self._busy:
            self._failed = self._failed or f"{self.path} is closed"
            self._db.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """After a failure nothing is done: SQLite may have given up the transaction by itself, and what came next
        would be committed row by row."""
        if not self._busy.acquire(blocking=False):
            raise AssertionError("one call at a time")
        try:
            if self._failed:
                raise StoreFailed(self._failed)
            yield
        except (sqlite3.Error, OSError, OverflowError, TypeError, ValueError) as e:
            self._failed = f"{self.path}: {_reason(e)}"
            raise StoreFailed(self._failed) from e
        finally:
            self._busy.release()

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._alone():
            assert not self._open, "what is written and not committed may be told to nobody"
            yield self._db.execute

    def _begin(self) -> None:
        if not self._open:
            self._db.execute("BEGIN IMMEDIATE")
            self._open = True

    def _write(self, change: Changes) -> None:
        many = self._db.executemany
        if change.sessions:
            many(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (session) DO UPDATE SET accepted = max(accepted, excluded.accepted)",
                change.sessions.values(),
            )
        if change.specs:
            many("INSERT INTO specs VALUES (?, ?, ?, ?, ?)", change.specs)
            self._raise("spec", max(row.number for row in change.specs))
        if change.jobs:
            pages, alone = split(change.jobs, plain_job, [row.rank for row in change.jobs], self._sizes)
            self._jobs.insert(pages)
            self._insert(f"jobs ({_JOB})", [row for _, row in alone])
            self._raise("rank", max(row.rank for row in change.jobs))
        self._insert(f"jobs ({_JOB})", self._jobs.take_out(_remembered(change)))
        if change.standings:
            told = many(_STAND, change.standings.values()).rowcount
            self._all_unfinished(told, len(change.standings), "standings")
        if change.outcomes:
            self._end(change.outcomes)
        for name, node in change.nodes.items():
            if node is None:
                self._db.execute("DELETE FROM nodes WHERE name = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?)", node)
        for (namespace, key), kept in change.keys.items():
            if kept is None:
                self._db.execute("DELETE FROM keys WHERE namespace = ? AND key = ?", (namespace, key))
            else:
                self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)", kept)
        if change.aliases:
            many("INSERT INTO aliases VALUES (?, ?, ?)", change.aliases)
        for name, value in change.settings.items():
            if value is None:
                self._db.execute("DELETE FROM small WHERE kind = 1 AND name = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO small VALUES (1, ?, ?)", (name, value))
        if change.forgotten_schedules or change.schedules or change.schedule_standings or change.firings:
            self._write_schedules(change)
        if change.forgotten_sessions:
            many("DELETE FROM sessions WHERE session = ?", [(s,) for s in change.forgotten_sessions])
        if change.retired_specs:
            many("UPDATE specs SET code = x'', blob = 0 WHERE number = ?", [(n,) for n in change.retired_specs])
        if change.forgotten_specs:
            many("DELETE FROM specs WHERE number = ?", [(n,) for n in change.forgotten_specs])
        if change.repeated or change.dropped:
            many("UPDATE outcomes SET dead = 0 WHERE id = ?", [(id,) for id in change.repeated + change.dropped])
        if change.dropped:
            ids = [(id,) for id in change.dropped]
            many("DELETE FROM arguments WHERE seq = (SELECT seq FROM outcomes WHERE id = ?)", ids)

    def _write_schedules(self, change: Changes) -> None:
        many = self._db.executemany
        for table in ("schedules", "schedule_standings", "firings"):
            many(f"DELETE FROM {table} WHERE namespace = ? AND name = ?", change.forgotten_schedules)
        gone = [name for name, row in change.schedules.items() if row is None]
        many("DELETE FROM schedules WHERE namespace = ? AND name = ?", gone)
        rows = [row for row in change.schedules.values() if row is not None]
        many("INSERT OR REPLACE INTO schedules VALUES (?, ?, ?)", rows)
        many("INSERT OR REPLACE INTO schedule_standings VALUES (?, ?, ?)", change.schedule_standings.values())
        unsaid = [key for key, firing in change.firings.items() if firing is None]
        many("DELETE FROM firings WHERE namespace = ? AND name = ? AND nominal_us = ? AND run = ?", unsaid)
        firings = [firing for firing in change.firings.values() if firing is not None]
        many(f"INSERT OR REPLACE INTO firings VALUES ({', '.join('?' * len(FiringRow._fields))})", firings)

    def _end(self, outcomes: list[OutcomeRow]) -> None:
        last = self._last()
        number = last + 1
        for _, together in groupby(outcomes, _at):
            rows = list(together)
            pages, alone = split(rows, plain_outcome, range(number, number + len(rows)), self._sizes)
            self._outcomes.insert(pages)
            if any(self._outcomes.outcome(row.id) for _, row in alone if not row.rank):
                raise sqlite3.IntegrityError("a job that was refused has ended well before")
            self._insert(f"outcomes (seq, {_OUTCOME})", [(seq, *row) for seq, row in alone])
            number += len(rows)
        self._raise("end", number - 1)
        if any(row.outcome for row in outcomes):
            self._db.execute(_KEEP_ARGUMENTS, (last,))
        ranks = [row.rank for row in outcomes if row.rank]
        ended = self._jobs.end(ranks)
        if ended < len(ranks):
            ended += self._db.executemany("DELETE FROM jobs WHERE rank BETWEEN ? AND ?", _runs(ranks)).rowcount
        self._all_unfinished(ended, len(ranks), "outcomes")

    def _insert(self, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        one = f"({', '.join('?' * len(rows[0]))})"
        whole = len(rows) - len(rows) % ROWS
        if whole:
            batches = [tuple(chain.from_iterable(rows[at : at + ROWS])) for at in range(0, whole, ROWS)]
            self._db.executemany(f"INSERT INTO {into} VALUES {', '.join([one] * ROWS)}", batches)
        self._db.executemany(f"INSERT INTO {into} VALUES {one}", rows[whole:])

    def _raise(self, counter: str, value: int) -> None:
        self._db.execute("UPDATE small SET value = max(value, ?) WHERE kind = 0 AND name = ?", (value, counter))

    @staticmethod
    def _all_unfinished(found: int, rows: int, what: str) -> None:
        if found != rows:
            raise sqlite3.IntegrityError(f"{what} for {rows} jobs, of which {found} are unfinished")


def _remembered(change: Changes) -> list[int]:
    """Ranks of jobs of which more is to be kept than that they were taken, or that they ended well."""
    failed = [row.rank for row in change.outcomes if row.outcome and row.rank]
    return [*change.standings, *failed] if failed else list(change.standings)


_rank, _first, _at = attrgetter("rank"), itemgetter(0), attrgetter("at")

_KEEP_ARGUMENTS = (
    "INSERT INTO arguments (seq, sha, size, payload) SELECT o.seq, j.sha, j.size, j.payload FROM outcomes AS o"
    " INDEXED BY outcomes_of_no_success CROSS JOIN jobs AS j ON j.rank = o.rank WHERE o.outcome > 0 AND o.seq > ?"
)
"""Of the jobs whose outcomes were just written, while their rows are there."""

_OVER = (
    "SELECT seq, sha FROM outcomes INDEXED BY outcomes_with_results_to_end"
    " WHERE until > 0 AND (sha IS NOT NULL OR payload <> x'') AND until <= ? ORDER BY until, seq LIMIT ?"
)
_OLD_ALIASES = (
    "SELECT id FROM aliases WHERE at < ? AND job NOT IN (SELECT job FROM keys WHERE until = 0)"
    " AND NOT EXISTS (SELECT 1 FROM outcomes WHERE outcomes.id = aliases.job) ORDER BY at, id LIMIT ?"
)
_END_RESULT = "UPDATE outcomes SET sha = NULL, size = 0, payload = x'' WHERE seq = ?"

_BEGINS = "id BETWEEN ? AND ?"


def _range(id: bytes) -> tuple[bytes, bytes]:
    return id, id + b"\xff" * 16


def _of_nothing(search: Search) -> bool:
    """Whether none can be found. SQLite finds no way to do nothing along a given index."""
    return frozenset() in (search.specs, search.outcomes) or "\0" in search.error + search.summary


def _of_no_success(search: Search) -> bool:
    """Whether only such outcomes can be found; no other one is dead, or has an error."""
    return bool(search.dead or search.error or (search.outcomes is not None and 0 not in search.outcomes))


def _conditions(search: Search) -> tuple[list[str], list[Any]]:
    """Those of the rows themselves."""
    where: list[str] = []
    values: list[Any] = []

    def want(condition: str, *more: Any) -> None:
        where.append(condition)
        values.extend(more)

    for column, chosen in (("outcome", search.outcomes), ("spec", search.specs)):
        if chosen is not None:
            want(f"{column} IN ({', '.join(f'{n:d}' for n in sorted(chosen))})")  # more than parameters may be
    if _of_no_success(search):
        want("outcome > 0")
    if search.dead is not None:
        want("dead = ?", int(search.dead))
    if search.since:
        want("at >= ?", search.since)
    if search.until:
        want("at < ?", search.until)
    if search.node:
        want("node = ?", search.node)
    if search.id:
        want(_BEGINS, *_range(search.id))
    for column, text in (("error", search.error), ("summary", search.summary)):
        if len(text) > PATTERN_CHARACTERS:
            want(f"instr(lower({column}), lower(?))", text)
        elif text:
            want(f"{column} LIKE ? ESCAPE '\\'", f"%{_WILD.sub(_LITERAL, text)}%")
    return where, values


_WILD, _LITERAL = re.compile(r"[\\%_]"), r"\\\g<0>"


def _runs(ranks: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of ranks without a gap."""
    runs: list[tuple[int, int]] = []
    first = last = -1
    for rank in sorted(ranks):
        if rank != last + 1:
            if last >= 0:
                runs.append((first, last))
            first = rank
        last = rank
    if last >= 0:
        runs.append((first, last))
    return runs


_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another program has it open: close that one, and keep backup tools away from it",
    sqlite3.SQLITE_CANTOPEN: "see what stands in its place",
    sqlite3.SQLITE_CORRUPT: "restore it from a backup, or begin anew by moving it away",
    sqlite3.SQLITE_FULL: "make room on that disk",
    sqlite3.SQLITE_IOERR: "see what the system's log says of that disk",
    sqlite3.SQLITE_READONLY: "see to the owner and mode of the file and its directory",
}
_REMEDIES[sqlite3.SQLITE_LOCKED] = _REMEDIES[sqlite3.SQLITE_BUSY]
_REMEDIES[sqlite3.SQLITE_NOTADB] = _REMEDIES[sqlite3.SQLITE_CORRUPT]
_REMEDIES[sqlite3.SQLITE_PERM] = _REMEDIES[sqlite3.SQLITE_READONLY]


def _reason(e: Exception) -> str:
    """With what the user can do about it. The low byte of SQLite's code says what failed, the rest where."""
    if isinstance(e, OSError):
        code = sqlite3.SQLITE_FULL if e.errno == errno.ENOSPC else sqlite3.SQLITE_PERM
        return f"{e.strerror}; {_REMEDIES[code]}"
    code = getattr(e, "sqlite_errorcode", 0) & 0xFF
    return f"{e}; {_REMEDIES[code]}" if code in _REMEDIES else str(e)


def _check_directory(path: Path) -> None:
    directory = path.parent
    if not os.path.isdir(directory):
        raise ConfigError(f"{directory} is no directory that this user can see: make it, or use another one")
    kind = file_system(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"{directory} is on a network file system ({kind}), where a store is not safe:"
            " choose a directory on a disk of this machine (--directory)"
        )
    for what in (path, directory):
        if os.path.exists(what) and not os.access(what, os.W_OK):
            # SQLite would open a file for reading, and fail later with another reason.
            raise ConfigError(f"this user may not write to {what}: see to its owner and mode, or use another directory")
