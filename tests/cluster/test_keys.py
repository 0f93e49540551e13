"""The coordinator's directory and the connection files: one owner, rising epochs, clear words for what is broken."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from cluster import keys
from cluster.actor import Identity
from cluster.errors import ConfigError, NoConnection
from cluster.keys import ConnectionFile, Home, find_connection, is_address, remove_runtime_dir, runtime_dir

ADDRESS = "tcp://127.0.0.1:7077"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANGER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GANGER_CONNECTION", raising=False)
    return tmp_path / "home" / "coordinator"


def files_of(home: Path) -> ConnectionFile:
    """A first start and its client's connection file."""
    with Home() as opened:
        opened.write_connection_files([ADDRESS], None)
    return ConnectionFile.load(home / "client.json")


def edit(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    body = json.loads(path.read_text())
    for name, value in fields.items():
        body[name] = value
        if value is None:
            del body[name]
    path.write_text(json.dumps(body))


# ------------------------------------------------------------------------------------ the directory


def test_everything_secret_is_private_whatever_the_umask(home: Path) -> None:
    old = os.umask(0)
    try:
        files_of(home)
    finally:
        os.umask(old)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in home.iterdir()}
    assert modes == dict.fromkeys(("lock", "cluster.json", "keys.json", "client.json", "node.json"), 0o600)


def test_epoch_rises_and_keys_stay_over_restarts(home: Path) -> None:
    seen = []
    for _ in range(3):
        with Home() as opened:
            opened.write_connection_files([ADDRESS], "ipc:///run/x")
            seen.append((opened.epoch, opened.cluster_id, opened.server_public, find_connection("client").secret_key))
    assert [epoch for epoch, *_ in seen] == [1, 2, 3]
    assert len({tuple(rest) for _, *rest in seen}) == 1
    assert zmq.curve_public(opened.server_secret.encode()).decode() == opened.server_public


def test_keys_of_the_connection_files_have_their_roles() -> None:
    with Home() as opened:
        opened.write_connection_files([ADDRESS, "tcp://[::1]:7077"], "ipc:///run/x")
        client, node = find_connection("client"), find_connection("node")
        for connection in (client, node):
            key, role = connection.public_key, connection.role
            assert opened.identity_of(key) == Identity(key, role, role, "default")
        assert opened.identity_of(opened.server_public) is None
        assert opened.identity_of("") is None
    assert client.coordinators == ((ADDRESS, opened.server_public), ("tcp://[::1]:7077", opened.server_public))
    assert (client.local, client.cluster_id) == ("ipc:///run/x", opened.cluster_id)
    assert client.secret_key != node.secret_key


def test_removing_a_connection_file_replaces_its_key(home: Path) -> None:
    old = files_of(home)
    (home / "client.json").unlink()
    new = files_of(home)
    with Home() as opened:
        assert opened.identity_of(old.public_key) is None
        assert opened.identity_of(new.public_key) is not None


def test_keys_are_the_same_if_a_start_ended_before_the_connection_files(home: Path) -> None:
    Home().close()
    first = json.loads((home / "keys.json").read_text())
    files_of(home)
    with Home() as opened:
        assert all(opened.identity_of(row["public_key"]) is None for row in first["keys"])
        assert opened.identity_of(find_connection("node").public_key) is not None


HOLD = """
import sys, time
from cluster.keys import Home
home = Home()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_live_coordinator_is_refused_and_a_killed_one_forgotten(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            with pytest.raises(ConfigError, match=f"in use by the coordinator with pid {holder.pid}.*GANGER_HOME"):
                Home()
        finally:
            holder.send_signal(signal.SIGKILL)
        holder.wait()
        with Home() as opened:
            assert opened.epoch == 2


def test_a_directory_open_to_others_is_refused(home: Path) -> None:
    files_of(home)
    home.chmod(0o750)
    with pytest.raises(ConfigError, match=f"chmod 700 {home}"):
        Home()


def test_a_secret_open_to_others_is_refused(home: Path) -> None:
    files_of(home)
    for name in ("cluster.json", "keys.json", "client.json"):
        (home / name).chmod(0o640)
        with pytest.raises(ConfigError, match=f"chmod 600 {home / name}"):
            Home()
        (home / name).chmod(0o600)
    Home().close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_refused(home: Path) -> None:
    files_of(home)
    os.chown(home / "client.json", 65534, -1)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        find_connection("client")
    os.chown(home, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to user 65534; remove it"):
        Home()


def test_a_lost_epoch_is_not_made_up(home: Path) -> None:
    files_of(home)
    (home / "cluster.json").unlink()
    with pytest.raises(ConfigError, match="and with it the epoch; restore it, or start a new cluster"):
        Home()


def test_damage_is_named_and_the_lock_given_free(home: Path) -> None:
    files_of(home)
    for name, field, value, words in (
        ("cluster.json", "epoch", "3", "cluster.json: field epoch is not a int; restore it"),
        ("cluster.json", "version", 2, "cluster.json has version 2"),
        ("keys.json", "keys", [{"name": "x", "role": "king"}], r"keys\[0\].role is not client or node"),
        ("keys.json", "keys", [7], r"keys\[0\] is not an object"),
        ("client.json", "secret_key", None, "secret_key is missing.*remove the file to give every client a new key"),
    ):
        saved = (home / name).read_text()
        edit(home / name, **{field: value})
        with pytest.raises(ConfigError, match=words):
            Home()
        (home / name).write_text(saved)
    (home / ".cluster.json.0123.tmp").write_text("half")
    Home().close()
    assert not list(home.glob(".*"))


def test_a_failed_write_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files_of(home)
    before = (home / "cluster.json").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*cluster\.json: No space left"):
        Home()
    assert (home / "cluster.json").read_bytes() == before
    assert not list(home.glob(".*"))


# ------------------------------------------------------------------------------------ connection files


def test_a_connection_file_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    made = ConnectionFile("0" * 32, "node", public, secret, ((ADDRESS, public),), "ipc:///run/x/s", "team")
    made.save(tmp_path / "c.json")
    assert ConnectionFile.load(tmp_path / "c.json") == made
    assert secret not in repr(made)
    edit(tmp_path / "c.json", of_a_newer_program=1)
    assert ConnectionFile.load(tmp_path / "c.json") == made


BAD_ADDRESS = [{"address": "tcp://*:70777", "server_key": "x" * 40}]
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("version", {"version": 2}, "has version 2, and this program reads 1"),
    ("no version", {"version": None}, "field version is missing"),
    ("cluster", {"cluster_id": "xyz"}, "field cluster_id is not 32 hexadecimal digits"),
    ("role", {"role": "king"}, "field role is not client or node"),
    ("namespace", {"namespace": ""}, "field namespace is not a name"),
    ("namespace type", {"namespace": 3}, "field namespace is not a str"),
    ("addresses", {"coordinators": []}, "field coordinators names no address"),
    ("addresses type", {"coordinators": {}}, "field coordinators is not a list"),
    ("address", {"coordinators": BAD_ADDRESS}, r"field coordinators\[0\].address is not tcp://host:port"),
    ("server key", {"coordinators": [{"address": ADDRESS}]}, r"coordinators\[0\].server_key is missing"),
    ("local", {"local": "/run/x"}, "field local is not ipc:// and an absolute path"),
    ("public key", {"public_key": '"' * 40}, "field public_key is not a key of 40 characters"),
    ("secret key", {"secret_key": "#" * 40}, "field secret_key is not a key of 40 characters"),
    ("pair", {"secret_key": zmq.curve_keypair()[1].decode()}, "field secret_key does not belong to the public_key"),
]


@pytest.mark.parametrize("fields,words", [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_field_is_named_with_its_file(home: Path, fields: dict[str, Any], words: str) -> None:
    files_of(home)
    edit(home / "client.json", **fields)
    with pytest.raises(ConfigError, match=words) as caught:
        find_connection("client")
    assert str(home / "client.json") in str(caught.value)
    assert ("copy a fresh connection file" in str(caught.value)) == ("version 2" not in words)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN_FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("not json", lambda p: p.write_text("{"), "is not JSON"),
    ("binary", lambda p: p.write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    ("no object", lambda p: p.write_text("[]"), "its content is not an object; copy a fresh connection file"),
    ("open", lambda p: p.chmod(0o644), "holds a secret and is open to other users; chmod 600"),
    ("directory", _directory, "cannot read .*: Is a directory"),
]


@pytest.mark.parametrize("spoil,words", [b[1:] for b in BROKEN_FILES], ids=[b[0] for b in BROKEN_FILES])
def test_a_broken_file_says_what_to_do(home: Path, spoil: Callable[[Path], object], words: str) -> None:
    files_of(home)
    spoil(home / "client.json")
    with pytest.raises(ConfigError, match=words):
        find_connection("client")


def test_a_read_only_secret_is_private_enough(home: Path) -> None:
    files_of(home)
    (home / "client.json").chmod(0o400)
    find_connection("client")


# ------------------------------------------------------------------------------------ finding one


def test_given_before_named_before_default(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = files_of(home)
    named, given = (dataclasses.replace(default, namespace=name) for name in ("named", "given"))
    named.save(tmp_path / "named.json")
    given.save(tmp_path / "given.json")
    assert find_connection("client") == default
    monkeypatch.setenv("GANGER_CONNECTION", str(tmp_path / "named.json"))
    assert find_connection("client") == named
    assert find_connection("client", tmp_path / "given.json") == given


def test_none_found_lists_where_it_was_looked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoConnection) as caught:
        find_connection("client")
    text = str(caught.value)
    assert "$GANGER_CONNECTION (not set)" in text and f"{home / 'client.json'} (default)" in text
    assert "`cluster up`" in text
    files_of(home)
    monkeypatch.setenv("GANGER_CONNECTION", "/nowhere/c.json")
    with pytest.raises(NoConnection, match=r"/nowhere/c\.json \(\$GANGER_CONNECTION\)"):
        find_connection("client")
    with pytest.raises(NoConnection, match=r"/elsewhere \(given\)"):
        find_connection("client", "/elsewhere")


def test_a_file_of_another_role_is_refused(home: Path) -> None:
    files_of(home)
    with pytest.raises(ConfigError, match=r"connection file of a client; a node needs node\.json"):
        find_connection("node", home / "client.json")


# ------------------------------------------------------------------------------------ sockets' directory


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the user; pytest's own paths may be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="run-", dir="/tmp") as path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", path)
        yield Path(path)


def test_runtime_directory_is_private_stable_and_removable(home: Path, run: Path) -> None:
    made = runtime_dir(home)
    assert made.parent == run and stat.S_IMODE(made.stat().st_mode) == 0o700
    assert runtime_dir(home) == made != runtime_dir(home / "other")
    (made / "s").touch()
    remove_runtime_dir(made)
    assert not made.exists()
    remove_runtime_dir(made)


def test_runtime_directory_is_short_enough_for_a_socket(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    made = runtime_dir(home)
    remove_runtime_dir(made)
    assert made.parent == Path("/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert runtime_dir(home) == made
    remove_runtime_dir(made)


def test_runtime_directory_prepared_by_someone_else_is_refused(home: Path, tmp_path: Path) -> None:
    made = runtime_dir(home)
    made.chmod(0o777)
    with pytest.raises(ConfigError, match="open to other users"):
        runtime_dir(home)
    made.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    made.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is not a directory"):
        runtime_dir(home)
    made.unlink()
    if os.geteuid() == 0:
        made.mkdir(mode=0o700)
        os.chown(made, 65534, -1)
        with pytest.raises(ConfigError, match="belongs to user 65534"):
            runtime_dir(home)


def test_places_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_HOME", "/srv/ganger")
    assert keys.connection_path("node") == Path("/srv/ganger/coordinator/node.json")
    monkeypatch.delenv("GANGER_HOME")
    monkeypatch.setenv("HOME", "/home/eve")
    assert keys.coordinator_dir() == Path("/home/eve/.ganger/coordinator")


# ------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "text, dialable",
    [
        ("tcp://head.example:7077", True),
        ("tcp://192.0.2.7:1", True),
        ("tcp://[2001:db8::1]:65535", True),
        ("tcp://[fe80::1%eth0]:7077", True),
        ("tcp://head.example", False),
        ("tcp://head.example:0", False),
        ("tcp://head.example:65536", False),
        ("tcp://2001:db8::1:7077", False),
        ("tcp://[head.example]:7077", False),
        ("tcp://*:7077", False),
        ("tcp://:7077", False),
        ("tcp://tcp://head.example:7077", False),
        ("http://head.example:7077", False),
        ("tcp://head.example:\uff17077", False),
    ],
)
def test_addresses(text: str, dialable: bool) -> None:
    assert is_address(text) == dialable
