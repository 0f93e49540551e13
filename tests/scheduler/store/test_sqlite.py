"""What is SQLite's own: files that are refused, disks that fail, and the log."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import file_systems
from cluster.errors import ConfigError
from cluster.file_systems import NETWORK_FILE_SYSTEMS
from scheduler.store import Changes, JobRow, Search, StoreFailed, sqlite
from scheduler.store.pages import LEAST, MOST
from scheduler.store.sqlite import SqliteStore
from tests.scheduler.store.conftest import StartChild
from tests.scheduler.store.rows import (
    ANNE,
    SHA,
    alias,
    ended,
    ends,
    everything,
    history,
    job,
    jobs,
    key,
    keys,
    node,
    put,
    ranks,
    session,
    slices,
    spec,
)

PAGE = 4096


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path)
    yield store
    store.close()


@pytest.fixture
def small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests reach its end soon."""
    monkeypatch.setattr(sqlite, "LOG_PAGES", 40)
    monkeypatch.setattr(sqlite, "LOG_BYTES", 100 * PAGE)
    monkeypatch.setattr(sqlite, "LOG_BYTES_MOST", 400 * PAGE)


def made(directory: Path, n: int = 2) -> Path:
    """A store of some rows, closed."""
    store = SqliteStore(directory)
    put(store, jobs(*range(1, n + 1)))
    store.close()
    return store.path


def outside(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()


def refusal(directory: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        SqliteStore(directory)
    return str(refused.value)


# ------------------------------------------------------------------------------------ files refused


def test_a_file_of_a_newer_release_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = made(tmp_path)
    newer = len(sqlite.MIGRATIONS) + 1
    outside(path, f"PRAGMA user_version = {newer}")
    before = path.read_bytes()
    text = refusal(tmp_path)
    assert f"{path} was written by a newer release (schema {newer}; this one reads up to {newer - 1})" in text
    assert "install that release, or use another directory" in text
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statements",
    [["CREATE TABLE theirs (a)"], ["PRAGMA application_id = 77"], ["PRAGMA user_version = 3"]],
    ids=["tables", "a name", "a version"],
)
def test_a_file_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path, statements: list[str]) -> None:
    path = tmp_path / "store.db"
    outside(path, *statements)
    path.chmod(0o640)
    before = path.read_bytes()
    assert refusal(tmp_path) == f"{path} belongs to another program; move it away, or use another directory"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (before, 0o640)
    assert [p.name for p in tmp_path.iterdir()] == ["store.db"]


def test_an_empty_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    assert ranks(SqliteStore(tmp_path)) == []


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all, " * 500)


def _overwritten(path: Path) -> None:
    """All but the first pages and the schema, which is read when a file is opened."""
    db = sqlite3.connect(path)
    schema = {n for (n,) in db.execute("SELECT pageno FROM dbstat WHERE name = 'sqlite_schema'")}
    db.close()
    data = bytearray(path.read_bytes())
    for number in range(4, len(data) // PAGE + 1):
        if number not in schema:
            data[(number - 1) * PAGE : number * PAGE] = b"\xaa" * PAGE
    path.write_bytes(data)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_garbage, _overwritten, _cut])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = made(tmp_path, 500)
    damage(path)
    text = refusal(tmp_path)
    assert text.startswith((f"{path} is damaged (", f"cannot use {path}: "))
    assert text.endswith("; restore it from a backup, or begin anew by moving it away")


def test_damage_in_a_file_too_large_to_check_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, 500)
    _overwritten(path)
    monkeypatch.setattr(sqlite, "CHECK_BYTES", 0)
    store = SqliteStore(tmp_path)
    with pytest.raises(StoreFailed, match=f"{re.escape(str(path))}: .* malformed; restore it from a backup"):
        ranks(store)
    store.close()


HOLDER = """
import sys
from scheduler.store.pages import LEAST, MOST
from scheduler.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_store_open_in_another_process_is_refused_until_that_one_is_gone(
    tmp_path: Path, start_child: StartChild
) -> None:
    child = start_child(HOLDER, str(tmp_path))
    assert child.stdout is not None and child.stdout.readline() == "open\n"
    assert refusal(tmp_path) == (
        f"cannot use {tmp_path}/store.db: database is locked;"
        " another program has it open: close that one, and keep backup tools away from it"
    )
    child.kill()
    child.wait()
    SqliteStore(tmp_path).close()


def test_no_other_process_reads_or_checkpoints_an_open_store(store: SqliteStore, start_child: StartChild) -> None:
    put(store, jobs(1))
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('PRAGMA wal_checkpoint')"
    child = start_child(f"try:\n {code}\nexcept Exception as e: print(e)", str(store.path))
    assert child.communicate()[0] == "database is locked\n"
    put(store, ends(1))


def test_a_store_is_open_once_in_a_process_too(store: SqliteStore, tmp_path: Path) -> None:
    assert "database is locked" in refusal(tmp_path)
    put(store, jobs(1))
    assert ranks(store) == [1]


def test_the_directory_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        assert refusal(tmp_path / name) == (
            f"{tmp_path}/{name} is no directory that this user can see: make it, or use another one"
        )


def test_the_file_has_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    assert refusal(tmp_path) == (
        f"cannot open {tmp_path}/store.db: unable to open database file; see what stands in its place"
    )


OPEN_AS_NOBODY = """
import os, sys
from cluster.errors import ConfigError
from scheduler.store.pages import LEAST, MOST
from scheduler.store.sqlite import SqliteStore
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    SqliteStore(sys.argv[1])
    print("opened")
except ConfigError as e:
    print(e)
"""


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_a_directory_or_file_this_user_may_not_write_is_refused(
    there: bool, tmp_path_factory: pytest.TempPathFactory, start_child: StartChild
) -> None:
    directory = tmp_path_factory.mktemp("unwritable")
    if there:
        made(directory).chmod(0o444)
    directory.chmod(0o555)
    ways = [directory, *directory.parents]
    modes = {way: stat.S_IMODE(way.stat().st_mode) for way in ways if way.stat().st_uid == os.getuid()}
    try:
        for way, mode in modes.items():
            way.chmod(mode | 0o111)  # pytest's own directories are closed to others
        text = start_child(OPEN_AS_NOBODY, str(directory)).communicate()[0]
    finally:
        for way, mode in modes.items():
            way.chmod(mode)
        directory.chmod(0o755)
    what = directory / "store.db" if there else directory
    assert text == f"this user may not write to {what}: see to its owner and mode, or use another directory\n"


def test_the_files_are_the_users_own(store: SqliteStore, tmp_path: Path) -> None:
    put(store, jobs(1))
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600}


# ------------------------------------------------------------------------------------ file systems


@pytest.mark.parametrize("kind", sorted(NETWORK_FILE_SYSTEMS))
def test_a_network_file_system_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/root rw\n30 22 0:40 / {tmp_path} rw - {kind} far:/away rw\n")
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    assert refusal(tmp_path) == (
        f"{tmp_path} is on a network file system ({kind}), where a store is not safe:"
        " choose a directory on a disk of this machine (--directory)"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["mountinfo"]


def test_where_mounts_cannot_be_read_the_store_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "none")
    SqliteStore(tmp_path).close()


# ------------------------------------------------------------------------------------ migrations


def test_a_step_is_made_once_and_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, 3)
    steps = (*sqlite.MIGRATIONS, "CREATE TABLE added (a); INSERT INTO added VALUES (1)")
    monkeypatch.setattr(sqlite, "MIGRATIONS", steps)
    for _ in range(2):
        store = SqliteStore(tmp_path)
        assert ranks(store) == [1, 2, 3]
        store.close()
    db = sqlite3.connect(tmp_path / "store.db")
    assert db.execute("SELECT * FROM added").fetchall() == [(1,)]
    db.close()


def test_a_step_that_fails_leaves_the_file_to_the_release_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, 3)
    with monkeypatch.context() as newer:
        newer.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, "CREATE TABLE added (a); NONSENSE"))
        assert "syntax error" in refusal(tmp_path)
    store = SqliteStore(tmp_path)
    assert ranks(store) == [1, 2, 3]
    store.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'added'").fetchone() == (0,)
    db.close()


# ------------------------------------------------------------------------------------ failing disks


def descriptor(path: Path) -> int:
    """Of the file that SQLite holds open in this process."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == str(path):
                found.append(int(fd))
        except FileNotFoundError:
            pass  # that of the listing
    (one,) = found
    return one


def put_in_place_of(fd: int, path: str, flags: int) -> None:
    other = os.open(path, flags)
    os.dup2(other, fd)
    os.close(other)


@pytest.mark.parametrize(
    ("device", "flags", "why"),
    [
        ("/dev/full", os.O_RDWR, "database or disk is full; make room on that disk"),
        ("/dev/zero", os.O_RDONLY, "disk I/O error; see what the system's log says of that disk"),
    ],
    ids=["full", "not writable"],
)
def test_a_commit_that_cannot_be_written_fails_and_leaves_nothing(
    store: SqliteStore, tmp_path: Path, device: str, flags: int, why: str
) -> None:
    put(store, jobs(1, 2), ends(1))
    log = descriptor(Path(f"{store.path}-wal"))
    before, lasting = everything(store, ANNE), tmp_path / "lasting"
    lasting.mkdir()
    put_in_place_of(log, device, flags)
    store.write([jobs(3), ends(2)])
    with pytest.raises(StoreFailed, match=re.escape(f"{store.path}: {why}")):
        store.commit()
    with pytest.raises(StoreFailed, match=re.escape(why)):
        store.write([jobs(4)])
    for name in ("store.db", "store.db-wal"):  # as a crash now would leave them: this process never closes them well
        shutil.copy(tmp_path / name, lasting)
    again = SqliteStore(lasting)
    assert everything(again, ANNE) == before
    again.close()


def test_a_write_for_which_there_is_no_room_fails_with_its_whole_transaction(
    store: SqliteStore, tmp_path: Path
) -> None:
    put(store, jobs(1, 2), ends(1))
    before = everything(store, ANNE)
    pages = store._pragma("page_count") + 2
    assert store._pragma(f"max_page_count = {pages}") == pages
    store.write([ends(2)])
    with pytest.raises(StoreFailed, match="full; make room on that disk"):
        store.write([Changes(jobs=[job(n, payload=bytes(3000)) for n in range(3, 100)])])
    # SQLite may have ended the transaction, so that these would each be committed alone.
    for call in (lambda: store.write([jobs(100)]), store.commit, lambda: store.prune(0.0, 0, 1, 0.0)):
        with pytest.raises(StoreFailed, match="full"):
            call()
    store.close()
    again = SqliteStore(tmp_path)
    assert everything(again, ANNE) == before
    again.close()


LIMITED = """
import os, resource, sys
from scheduler.store import StoreFailed
from scheduler.store.pages import LEAST, MOST
from scheduler.store.sqlite import SqliteStore
from tests.scheduler.store.rows import *
directory, limit, orderly = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "closes"
store = SqliteStore(directory)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
at = 0
try:
    while at < 1_000_000:
        more = range(at + 1, at + 101)
        accepted = {ANNE: session(accepted=at + 100)}
        store.write([Changes(sessions=accepted, jobs=[job(n, payload=bytes(400)) for n in more])])
        store.write([ends(*more[:50])])
        store.commit()
        at += 100
except StoreFailed as e:
    print(at, e, flush=True)
if orderly:
    store.close()
os._exit(0)
"""


@pytest.mark.parametrize("ending", ["closes", "crashes"])
@pytest.mark.parametrize("limit", [30_000, 150_000, 400_007])
def test_after_a_failed_commit_the_rows_are_those_of_the_last_one(
    tmp_path: Path, start_child: StartChild, limit: int, ending: str
) -> None:
    child = start_child(LIMITED, str(tmp_path), str(limit), ending)
    told, _, why = child.communicate()[0].strip().partition(" ")
    assert why.startswith(f"{tmp_path}/store.db: ")
    store = SqliteStore(tmp_path)
    last = store.recover().last_rank
    assert last in (int(told), int(told) + 100)
    assert ranks(store) == [n for n in range(1, last + 1) if (n - 1) % 100 >= 50]
    assert store.recover().outcomes == last // 2
    assert [row.accepted for row in store.recover().sessions] == ([last] if last else [])
    put(store, jobs(last + 1))
    store.close()


SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from cluster.errors import ConfigError
from scheduler.store import StoreFailed
from scheduler.store.pages import LEAST, MOST
from scheduler.store.sqlite import SqliteStore
from tests.scheduler.store.rows import *
directory, size = Path(sys.argv[1]), sys.argv[2]
mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", directory], stderr=subprocess.PIPE)
if mounted.returncode:
    print("cannot mount", mounted.stderr.decode())
    sys.exit()
"""

FULL_AT_OPEN = """
filler = directory / "filler"
with open(filler, "wb", buffering=0) as f:
    try:
        while f.write(bytes(4096)) == 4096: pass
    except OSError: pass
try:
    SqliteStore(directory)
except ConfigError as e:
    print(e)
filler.unlink()
store = SqliteStore(directory)
put(store, jobs(1))
print(ranks(store))
"""

FULL_LATER = """
filler = directory / "filler"
filler.write_bytes(bytes(2_000_000))
store = SqliteStore(directory)
at = 0
try:
    while True:
        more = range(at + 1, at + 101)
        store.write([Changes(jobs=[job(n, payload=bytes(4000)) for n in more])])
        store.commit()
        at += 100
except StoreFailed as e:
    print(e)
store.close()
store = SqliteStore(directory)  # the disk is still full
print(at > 1000, ranks(store) == list(range(1, at + 1)))
filler.unlink()
put(store, ends(*range(1, 101)))
print(store.recover().outcomes)
"""


def on_a_small_disk(start_child: StartChild, directory: Path, size: str, code: str) -> list[str]:
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("no unshare and mount (util-linux) on this machine")
    directory.mkdir()
    separate = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    command = [*separate, sys.executable, "-c", SMALL_DISK + code, str(directory), size]
    child = start_child("import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", *command)
    lines = child.communicate()[0].splitlines()
    if not lines or lines[0].startswith("cannot mount"):
        pytest.skip(f"this user may not mount a small disk: {lines}")
    return lines


def test_a_full_disk_is_refused_at_start_and_taken_when_there_is_room(tmp_path: Path, start_child: StartChild) -> None:
    lines = on_a_small_disk(start_child, tmp_path / "disk", "20m", FULL_AT_OPEN)
    assert lines[0].startswith("cannot use ")
    assert lines[0].endswith("; make room on that disk")
    assert lines[1:] == ["[1]"]


def test_a_disk_that_fills_loses_nothing_and_is_taken_again_when_there_is_room(
    tmp_path: Path, start_child: StartChild
) -> None:
    lines = on_a_small_disk(start_child, tmp_path / "disk", "40m", FULL_LATER)
    assert lines == [f"{tmp_path}/disk/store.db: database or disk is full; make room on that disk", "True True", "100"]


@pytest.mark.parametrize(
    "wrong",
    [
        Changes(sessions={ANNE: session(accepted=2**63)}),
        Changes(nodes={"n": node("n")._replace(host="\ud800")}),
        Changes(jobs=[JobRow(b"i" * 16, 1, 1, None, None, 0, 0.0, "", b"")]),  # type: ignore[arg-type]
    ],
    ids=["too large a number", "half a character", "nothing"],
)
def test_a_row_that_cannot_be_kept_is_a_failure(store: SqliteStore, wrong: Changes) -> None:
    with pytest.raises(StoreFailed, match=re.escape(str(store.path))):
        store.write([wrong])


# ------------------------------------------------------------------------------------ the log


def log_bytes(store: SqliteStore) -> int:
    return os.stat(f"{store.path}-wal").st_size


def test_the_log_has_its_length_from_the_start(tmp_path: Path) -> None:
    for _ in range(2):
        store = SqliteStore(tmp_path)
        assert log_bytes(store) == sqlite.LOG_BYTES
        store.close()
        assert not Path(f"{store.path}-wal").exists()


@pytest.mark.usefixtures("small_log")
def test_the_log_is_written_over_again_and_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    for n in range(1, 201):
        put(store, Changes(jobs=[job(n, payload=bytes(5000))]), *([ends(n - 1)] if n > 1 else []))
        assert log_bytes(store) == sqlite.LOG_BYTES
    store.close()
    assert ranks(SqliteStore(tmp_path)) == [200]


@pytest.mark.usefixtures("small_log")
def test_a_log_that_one_huge_commit_made_long_is_cut(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    put(store, Changes(jobs=[job(n, payload=bytes(20_000)) for n in range(1, 101)]))
    assert log_bytes(store) == sqlite.LOG_BYTES
    put(store, ends(*range(1, 100)))
    assert log_bytes(store) == sqlite.LOG_BYTES
    store.close()
    assert ranks(SqliteStore(tmp_path)) == [100]


@pytest.mark.usefixtures("small_log")
def test_a_log_that_cannot_be_moved_into_the_file_is_a_failure_and_not_a_full_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    put(store, jobs(1))
    lasting = tmp_path / "lasting"
    lasting.mkdir()
    shutil.copy(store.path, lasting)
    put_in_place_of(descriptor(store.path), "/dev/full", os.O_RDWR)
    tried: list[int] = []

    def fill() -> None:
        for n in range(2, 1_000):
            tried.append(n)
            put(store, Changes(jobs=[job(n, payload=bytes(5000))]))

    with pytest.raises(StoreFailed, match="full; make room on that disk"):
        fill()
    assert sqlite.LOG_BYTES_MOST < log_bytes(store) < sqlite.LOG_BYTES_MOST + 10 * PAGE
    shutil.copy(f"{store.path}-wal", lasting)
    again = SqliteStore(lasting)
    assert ranks(again) == [1, *tried], "the last was committed, though nobody was told"
    again.close()


def test_a_slow_disk_does_not_hold_up_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LENGTHEN_S", 0.0)
    store = SqliteStore(tmp_path)
    put(store, jobs(1))
    assert 0 < log_bytes(store) < sqlite.LOG_BYTES
    store.close()
    assert ranks(SqliteStore(tmp_path)) == [1]


def test_a_commit_is_synced(store: SqliteStore) -> None:
    full = 2
    assert (store._pragma("synchronous"), store._pragma("journal_mode")) == (full, "wal")
    assert store._pragma("locking_mode") == "exclusive"


# ------------------------------------------------------------------------------------ calls


class HeldConnection:
    """A connection whose commit waits for a word."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.committing, self.go = threading.Event(), threading.Event()

    def execute(self, statement: str, *more: Any) -> Any:
        if statement == "COMMIT":
            self.committing.set()
            assert self.go.wait(20)
        return self.db.execute(statement, *more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


def test_a_call_while_another_thread_commits_is_a_bug_and_closing_waits(store: SqliteStore, tmp_path: Path) -> None:
    store.write([jobs(1)])
    held = HeldConnection(store._db)
    store._db = held  # type: ignore[assignment]
    commit, close = threading.Thread(target=store.commit), threading.Thread(target=store.close)
    commit.start()
    assert held.committing.wait(20)
    calls: list[Callable[[], Any]] = [lambda: store.write([jobs(2)]), lambda: store.outcome(job(1).id), store.commit]
    for call in calls:
        with pytest.raises(AssertionError, match="one call at a time"):
            call()
    close.start()
    held.go.set()
    commit.join()
    close.join()
    again = SqliteStore(tmp_path)
    assert ranks(again) == [1]
    again.close()


def past(store: SqliteStore, n: int) -> None:
    """Outcomes of so many jobs, of which every second one failed."""
    put(store, jobs(*range(1, n + 1)))
    put(store, Changes(outcomes=[ended(job(i), outcome=i % 2, error="why" * (i % 2)) for i in range(1, n + 1)]))


FAILED = Search(outcomes=frozenset({1}), error="WHY")


@pytest.mark.parametrize(("search", "found"), [(Search(), 20), (FAILED, 10), (Search(id=ANNE), 20)], ids=repr)
def test_a_slice_of_history_ends_when_its_time_is_over(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, search: Search, found: int
) -> None:
    past(store, 20)
    for name, value in (("SLICE_S", 0.0), ("STEP", 2), ("ROWS_BY_ID", 1)):
        monkeypatch.setattr(sqlite, name, value)
    assert [len(page.rows) for page in slices(store, search, 100)] == [2] * (found // 2)
    monkeypatch.setattr(sqlite, "SLICE_S", 60.0)
    assert [len(page.rows) for page in slices(store, search, 100)] == [found]


def test_failures_are_found_without_looking_at_the_rest(store: SqliteStore) -> None:
    put(store, jobs(*range(1, 1_001)))
    put(store, Changes(outcomes=[ended(job(n), outcome=int(n in (1, 2, 500))) for n in range(1, 1_001)]))
    assert [len(page.rows) for page in slices(store, Search(outcomes=frozenset({1, 2})), 10, 3)] == [3]


@pytest.mark.parametrize("n", [1, 40_000, 300_000])
def test_any_number_of_specs_and_any_length_of_text_may_be_searched_for(store: SqliteStore, n: int) -> None:
    past(store, 4)
    assert len(history(store, Search(specs=frozenset(range(1, n + 1))))) == 4
    for text in ("%" * n, "\\" * n, "\u00e4" * n):
        assert history(store, Search(error=text)) == history(store, Search(summary=text)) == []


@pytest.mark.parametrize("sizes", [(LEAST, MOST), (1, 3)])
def test_nothing_asked_or_pruned_costs_more_where_more_is_kept(tmp_path: Path, sizes: tuple[int, int]) -> None:
    store = SqliteStore(tmp_path, sizes)
    put(store, Changes(jobs=[job(1, sha=SHA), job(2), job(3), job(4)], specs=[spec()], outcomes=[ended(job(3))]))
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    everything(store, ANNE)
    put(store, Changes(outcomes=[ended(job(2), outcome=1, error="why"), ended(job(4), until=1.0)]))
    put(store, keys(key()), Changes(aliases=[alias(1, job(1), at=0.0), alias(2, job(1))], keys={("n", "k"): None}))
    for search in (Search(), FAILED, Search(id=ANNE), Search(summary="x", specs=frozenset({1, 2}))):
        assert history(store, search)
    assert store.alias(alias(1, job(1)).id) and store.outcome(alias(2, job(1)).id) is None
    assert store.prune(0.0, 3, 10, 2.0).outcomes == 1
    store.prune(1.0, 0, 10, 0.0)
    store.commit()
    store._db.set_trace_callback(None)
    scanned = {
        re.sub(r"\d+$", "", statement)
        for statement in asked
        if statement.startswith(("SELECT", "DELETE", "UPDATE", "INSERT INTO arguments"))
        for *_, step in store._db.execute(f"EXPLAIN QUERY PLAN {statement}")
        if re.search(r"SCAN (jobs|outcomes|arguments|aliases|job_pages\w*|outcome_pages|outcome_page_ids|o|j)\b", step)
    }
    # by their own order, of which no more is read than is asked for
    assert scanned <= {
        "SELECT seq, seq, at, sha FROM outcomes ORDER BY seq LIMIT ",
        "SELECT first, last, at FROM outcome_pages ORDER BY last LIMIT ",
        "SELECT first FROM outcome_pages ORDER BY last LIMIT ",
        "SELECT last, first FROM outcome_pages ORDER BY last",
    }
    store.close()
