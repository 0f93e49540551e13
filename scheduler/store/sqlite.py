"""The store as one SQLite file. Rules of this file: shell; rows in, rows out, and no decision.

- One connection does everything, checkpoints too: releases before 3.51.3 can lose commits where two write or
  checkpoint at the same moment (sqlite.org/wal.html). ``locking_mode=EXCLUSIVE`` keeps every other one out. The locks
  are this process's: no code of ours may open the file besides, since closing it would give them up.
- ``synchronous=FULL``: a commit is on the disk when it returns. It is the unit of cost, so a turn is one.
- Rows are inserted in bulk by the caller's thread: in another one the interpreter lock would change hands per row.
- A job is a row by its rank, its outcome one by the order of ends: both are added at the new end and leave near the
  old one, a range at a time, so a turn touches few pages. The only index on the fast path is that of outcomes by job.
- The log (``-wal``) has its length from the start and is written over: a file that grows costs twice the sync.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from cluster.file_systems import NETWORK_FILE_SYSTEMS, file_system
from scheduler.store import (
    Changes,
    JobRow,
    NodeRow,
    OutcomeRow,
    Pruned,
    Recovered,
    SessionRow,
    SpecRow,
    Standing,
    StoreFailed,
    UnfinishedRow,
)

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

MIGRATIONS: tuple[str, ...] = (
    # Payloads stand last, so that what stands before them is read without them.
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
        attempt INTEGER NOT NULL DEFAULT 0, token INTEGER NOT NULL DEFAULT 0, node BLOB NOT NULL DEFAULT x'',
        lost_nodes INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
        memory_kills INTEGER NOT NULL DEFAULT 0, story BLOB NOT NULL DEFAULT x'', payload BLOB NOT NULL
    );
    CREATE INDEX jobs_with_blobs ON jobs (sha, size) WHERE sha IS NOT NULL;
    CREATE TABLE outcomes (
        seq INTEGER PRIMARY KEY, id BLOB NOT NULL, rank INTEGER NOT NULL, outcome INTEGER NOT NULL, sha BLOB,
        size INTEGER NOT NULL, at REAL NOT NULL, attempt INTEGER NOT NULL, dead INTEGER NOT NULL,
        story BLOB NOT NULL, payload BLOB NOT NULL
    );
    CREATE UNIQUE INDEX outcomes_by_id ON outcomes (id);
    CREATE INDEX outcomes_with_blobs ON outcomes (sha, size) WHERE sha IS NOT NULL;
    CREATE TABLE nodes (
        name TEXT PRIMARY KEY, session BLOB NOT NULL, incarnation INTEGER NOT NULL, key TEXT NOT NULL,
        host TEXT NOT NULL, about BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counters VALUES ('rank', 0), ('spec', 0);
    """,
)
"""Step ``n`` takes a file of version ``n`` to ``n + 1``. Steps are never changed, only added."""

_JOB = ", ".join(JobRow._fields)
_OUTCOME = ", ".join(OutcomeRow._fields)
_STANDING = Standing._fields[1:]
_UNFINISHED = f"SELECT id, rank, spec, {{}}, length(payload), sha, size, {', '.join(_STANDING)} FROM jobs"
_STAND = f"UPDATE jobs SET {', '.join(f'{name} = ?{n}' for n, name in enumerate(_STANDING, 2))} WHERE rank = ?1"


class SqliteStore:
    """The file ``store.db`` in ``directory``.

    Raises :class:`ConfigError` where the file system is a network's, the disk is full or not to be written, or the
    file is not ours, damaged, in use, or written by a newer release.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
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
            counters = dict(rows("SELECT name, value FROM counters"))
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
                        " UNION ALL SELECT sha, size FROM outcomes WHERE sha IS NOT NULL) GROUP BY sha"
                    )
                },
                self._kept(),
                counters["rank"],
                counters["spec"],
            )

    def unfinished(self, after: int, most: int, payloads: bool) -> list[UnfinishedRow]:
        with self._reading() as rows:
            select = _UNFINISHED.format("payload" if payloads else "NULL")
            return list(map(UnfinishedRow._make, rows(f"{select} WHERE rank > ? ORDER BY rank LIMIT ?", (after, most))))

    def payloads(self, ranks: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with self._reading() as rows:
            for run in _runs(ranks):
                found.update(rows("SELECT rank, payload FROM jobs WHERE rank BETWEEN ? AND ?", run))
        return found

    def outcome(self, job: bytes) -> OutcomeRow | None:
        with self._reading() as rows:
            row = rows(f"SELECT {_OUTCOME} FROM outcomes WHERE id = ?", (job,)).fetchone()
        return None if row is None else OutcomeRow(*row)

    def outcomes_of(self, session: bytes, after: int, most: int) -> list[OutcomeRow]:
        low, high = session + after.to_bytes(8, "big"), session + b"\xff" * 8
        with self._reading() as rows:
            select = f"SELECT {_OUTCOME} FROM outcomes WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
            return list(map(OutcomeRow._make, rows(select, (low, high, most))))

    def _kept(self) -> int:
        """How many outcomes: they are numbered without gaps, since they only leave at the old end."""
        (low,) = self._db.execute("SELECT min(seq) FROM outcomes").fetchone()
        (high,) = self._db.execute("SELECT max(seq) FROM outcomes").fetchone()
        return 0 if low is None else int(high - low + 1)

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

    def prune(self, before: float, keep: int, most: int) -> Pruned:
        with self._alone():
            spare = self._kept() - keep
            gone: list[tuple[int, bytes | None]] = []
            for seq, at, sha in self._db.execute("SELECT seq, at, sha FROM outcomes ORDER BY seq LIMIT ?", (most,)):
                if len(gone) >= spare and at >= before:
                    break  # they are in the order of their ends, but for jumps of the clock
                gone.append((seq, sha))
            if gone:
                self._begin()
                self._db.execute("DELETE FROM outcomes WHERE seq <= ?", (gone[-1][0],))
        return Pruned(len(gone), [sha for _, sha in gone if sha is not None])

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
        except (sqlite3.Error, OSError, OverflowError, UnicodeError) as e:
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
            self._insert(f"jobs ({_JOB})", change.jobs)
            self._raise("rank", max(row.rank for row in change.jobs))
        if change.standings:
            told = many(_STAND, change.standings.values()).rowcount
            self._all_unfinished(told, len(change.standings), "standings")
        if change.outcomes:
            ranks = [row.rank for row in change.outcomes if row.rank]
            ended = many("DELETE FROM jobs WHERE rank BETWEEN ? AND ?", _runs(ranks)).rowcount if ranks else 0
            self._all_unfinished(ended, len(ranks), "outcomes")
            self._insert(f"outcomes ({_OUTCOME})", change.outcomes)
        for name, node in change.nodes.items():
            if node is None:
                self._db.execute("DELETE FROM nodes WHERE name = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?)", node)
        if change.forgotten_sessions:
            many("DELETE FROM sessions WHERE session = ?", [(s,) for s in change.forgotten_sessions])
        if change.forgotten_specs:
            many("DELETE FROM specs WHERE number = ?", [(n,) for n in change.forgotten_specs])

    def _insert(self, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
        one = f"({', '.join('?' * len(rows[0]))})"
        whole = len(rows) - len(rows) % ROWS
        if whole:
            batches = [tuple(chain.from_iterable(rows[at : at + ROWS])) for at in range(0, whole, ROWS)]
            self._db.executemany(f"INSERT INTO {into} VALUES {', '.join([one] * ROWS)}", batches)
        self._db.executemany(f"INSERT INTO {into} VALUES {one}", rows[whole:])

    def _raise(self, counter: str, value: int) -> None:
        self._db.execute("UPDATE counters SET value = max(value, ?) WHERE name = ?", (value, counter))

    @staticmethod
    def _all_unfinished(found: int, rows: int, what: str) -> None:
        if found != rows:
            raise sqlite3.IntegrityError(f"{what} for {rows} jobs, of which {found} are unfinished")


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
