"""What an agent's directory remembers, and what it says of its host."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from node.main import Life, Settings, _host, run


def lived(directory: Path, session: bytes = b"") -> Life:
    """One life, which was welcomed if it had a session, from its start to its end."""
    life = Life(directory)
    if session:
        life.welcomed(session)
    life.close()
    return life


def test_each_life_has_a_higher_number_and_names_the_last_that_was_welcomed(tmp_path: Path) -> None:
    home = tmp_path / "n1"
    lives = [lived(home, b"session1"), lived(home), lived(home, b"session3"), lived(home)]
    assert [life.incarnation for life in lives] == [1, 2, 3, 4]
    assert [life.previous for life in lives] == [b"", b"session1", b"session1", b"session3"]
    assert home.stat().st_mode & 0o777 == 0o700


def test_one_directory_has_one_life_at_a_time(tmp_path: Path) -> None:
    life = Life(tmp_path / "n1")
    with pytest.raises(ConfigError, match=r"another agent uses .*n1: give this one another --name"):
        Life(tmp_path / "n1")
    life.close()
    lived(tmp_path / "n1")


def test_a_copy_remembers_the_same_and_has_another_lock(tmp_path: Path) -> None:
    lived(tmp_path / "n1", b"session1")
    shutil.copytree(tmp_path / "n1", tmp_path / "copy")
    original, copy = Life(tmp_path / "n1"), Life(tmp_path / "copy")
    assert (original.incarnation, original.previous) == (copy.incarnation, copy.previous) == (2, b"session1")
    first = original.lock
    assert first and copy.lock and first != copy.lock
    original.close()
    again = Life(tmp_path / "n1")
    assert again.lock == first
    again.close()
    copy.close()


@pytest.mark.parametrize("text", ["", "x", "1 xy", "1 3f9c 2", "\x00\xff"])
def test_a_spoilt_memory_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "life").write_text(text)
    with pytest.raises(ConfigError, match=r"does not hold a number and a session; remove .* to start anew"):
        Life(tmp_path)
    (tmp_path / "life").unlink()
    lived(tmp_path)


def test_a_host_is_named_with_its_address_towards_another_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    name = socket.gethostname()
    assert _host("ipc:///run/x") == _host("tcp://127.0.0.1:7077") == _host("tcp://[::1]:7077") == name
    assert _host("tcp://192.0.2.1:7077").startswith(name)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert _host("tcp://elsewhere:7077") == name


def test_a_node_offers_no_more_graphics_processors_than_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5")
    connection: Any = None  # it is not looked at
    with pytest.raises(ConfigError, match="gpus=3 is more than the 2 that CUDA_VISIBLE_DEVICES or"):
        run(Settings(connection, directory=tmp_path / "node", resources={"gpus": 3}))
    assert not (tmp_path / "node").exists()
