"""What contains jobs is tried, not believed; and what tries it finds a way where there is one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import escapes
from node import isolation
from node.groups import Groups
from node.isolation import Proof, hidden_paths
from node.pool import WorkerPool

pytestmark = pytest.mark.system


@pytest.fixture
def secret_dir() -> Iterator[Path]:
    """Not below what a test may hide or make writable."""
    with tempfile.TemporaryDirectory(prefix="ganger-test-") as name:
        path = Path(name)
        (path / "node.json").write_text("a key")
        (path / "blobs").mkdir()
        yield path


def pool(secret_dir: Path, contained: bool) -> WorkerPool:
    limits = isolation.usual_limits() if contained else None
    return WorkerPool(str(secret_dir / "blobs"), "n1", contained=limits, hidden=[str(secret_dir)] if contained else [])


def proof_of(secret_dir: Path, contained: bool) -> Proof:
    with contextlib.closing(pool(secret_dir, contained)) as own:
        return isolation.prove(own, [str(secret_dir)], str(secret_dir / "blobs"))


def cannot_here() -> str:
    """Why jobs cannot be contained on this machine."""
    groups = Groups()
    held = {"memory", "pids"} <= set(groups.places)
    groups.close()
    if not held:
        return "no control groups for memory and processes that are ours to divide"
    child = os.fork()
    if not child:
        from cluster import containment

        code = 1
        with contextlib.suppress(OSError):
            containment.unshare(containment.NEWUSER | containment.NEWNS)
            code = 0
        os._exit(code)
    refused = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "no user namespaces for us" if refused else ""


@pytest.fixture(scope="module")
def able() -> None:
    if why := cannot_here():
        pytest.skip(f"jobs cannot be contained here: {why}")


def test_no_escape_leads_out_of_a_contained_worker(
    able: None, secret_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = proof_of(secret_dir, contained=True)
    with capsys.disabled():
        print(f"\nContained workers on this machine ({isolation.landlock_words()}):")
        for name, where in proof.ways.items():
            print(f"  {name.replace('_', ' ')}: {where or 'held'}")
    assert set(proof.ways) == {escape.__name__ for escape in escapes.ESCAPES} | {"takes_memory_without_end"}
    assert not proof.open_ways


def test_the_escapes_are_real_ones(secret_dir: Path) -> None:
    """Where nothing contains the worker, they lead out."""
    ways = proof_of(secret_dir, contained=False).ways
    real = {"sees_other_processes", "signals_the_agent", "reads_what_is_hidden", "writes_outside", "shares_memory",
            "reaches_abstract_sockets"}  # fmt: skip
    if os.geteuid() == 0:
        real |= {"keeps_rights", "changes_the_kernel"}
    assert real <= {name for name, where in ways.items() if where}
    assert not any("could not be tried" in where for where in ways.values()), ways
    assert (secret_dir / "node.json").exists()


def test_a_zygote_that_cannot_contain_says_why(able: None, secret_dir: Path) -> None:
    with contextlib.closing(WorkerPool(str(secret_dir / "nowhere"), "n1", contained=isolation.usual_limits())) as own:
        proof = isolation.prove(own, [], str(secret_dir / "nowhere"))
    assert "could not be started" in proof.open_ways["the_worker"] and "nowhere" in proof.words()


def test_a_proof_names_the_open_ways_but_those_that_only_new_kernels_close() -> None:
    proof = Proof({"mounts": "", "opens_disks": "/dev/sda can be opened", "reaches_abstract_sockets": "so it is"})
    assert proof.open_ways == {"opens_disks": "/dev/sda can be opened"}
    assert proof.words() == "opens disks: /dev/sda can be opened"
    assert (
        "but for what this kernel cannot prevent (reaches abstract sockets: so it is)"
        in proof._replace(ways={"mounts": "", "reaches_abstract_sockets": "so it is"}).fact().about["but"]
    )


def test_a_contained_worker_without_its_group_is_given_nothing(able: None, secret_dir: Path) -> None:
    with contextlib.closing(pool(secret_dir, contained=True)) as own:
        own._groups.close()
        own._groups.places.clear()
        proof = isolation.prove(own, [], str(secret_dir / "blobs"))
    assert proof.open_ways == {"the_worker": "could not be started: there is no control group for it"}


def test_what_lies_beside_keys_is_hidden_unless_jobs_need_it() -> None:
    keys = [Path("/a/keys/node.json"), Path("/run/g/socket")]
    assert hidden_paths(keys, [Path("/a")], ["/usr/lib"]) == ["/a", "/run/g"]
    assert hidden_paths(keys, [Path("/b")], ["/a/keys/lib", "/run/g"]) == ["/b", "/a/keys/node.json", "/run/g/socket"]
