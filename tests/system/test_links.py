"""Links that break: cut fifty times, silent for long, gone for good. Rules of this file: each job leaves its number
in a file of the outside, so that what ran is counted by nobody who has a part in it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Times
from tests.system.namespaces import SOON_S, Joined, Pair, needs_cuts, two_hosts, until

HEARTBEAT_S = Times().heartbeat_s

pytestmark = pytest.mark.system

PORT = 7077


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with two_hosts(tmp_path) as pair:
        yield pair


STREAM = """
import json, os, sys, time
from collections import Counter
from cluster import Client, ClientLimits, errors

def recorded(number, record, work_s):
    time.sleep(work_s)
    out = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, b"%d\\n" % number)
    os.close(out)
    return number * number

file, record, work_s, timeout_s = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
client = Client(file, limits=ClientLimits(reconnect_timeout_s=timeout_s))
futures, settled = [], Counter()
for line in sys.stdin:
    for number in range(len(futures), len(futures) + int(line)):
        future = client.submit(recorded, number, record, work_s)
        future.add_done_callback(lambda f, number=number: settled.update([number]))
        futures.append(future)
    print(len(futures), flush=True)
wrong, failed, lost_ids = 0, Counter(), []
for number, future in enumerate(futures):
    error = future.exception(100)
    if error is not None:
        failed[type(error).__name__] += 1
        text = str(error)
        if isinstance(error, errors.CoordinatorUnreachable):
            lost_ids.append(future.job_id in error.job_ids)
    elif future.result() != number * number:
        wrong += 1
report = {
    "jobs": len(futures), "wrong": wrong, "failed": failed, "settled": Counter(settled.values()),
    "address": client._session.address, "named": sum(lost_ids), "words": text if failed else "",
}
if not failed:
    report["finished"] = client.status()["jobs"]["finished"]
print(json.dumps(report), flush=True)
client.shutdown(wait=False)
"""


class Stream:
    """A client on the far host that submits as many jobs as it is told, and in the end says how they ended."""

    def __init__(self, pair: Pair, connection: Path, record: Path, work_s: float, timeout_s: float = 60.0) -> None:
        self.record = record
        record.touch()
        self._process = pair.away.python(STREAM, connection, record, work_s, timeout_s)

    def submit(self, jobs: int) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(f"{jobs}\n")
        stdin.flush()
        assert stdout.readline(), self._process.communicate()

    def ran(self) -> int:
        """How many have run so far."""
        return self.record.read_bytes().count(b"\n")

    def executions(self) -> Counter[int]:
        """How often each has run."""
        return Counter(map(int, self.record.read_text("ascii").split()))

    def end(self) -> dict[str, Any]:
        out, err = self._process.communicate(timeout=110)
        assert self._process.returncode == 0, err
        report: dict[str, Any] = json.loads(out)
        assert report["address"].startswith("tcp://")
        return report


def all_well(report: dict[str, Any], jobs: int) -> None:
    assert (report["jobs"], report["wrong"], report["failed"]) == (jobs, 0, {}), report
    assert report["settled"] == {"1": jobs}, "each future is settled once"
    counted = {outcome: n for outcome, n in report["finished"].items() if n}
    assert counted == {"succeeded": jobs}, "the coordinator counts each once"


@pytest.mark.parametrize(
    "patience_s",
    [
        pytest.param(0.3, id="at any moment"),
        pytest.param(SOON_S, id="while jobs run", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
def test_fifty_cuts_lose_and_double_nothing(pair: Pair, tmp_path: Path, patience_s: float) -> None:
    """Links that broke at once are opened ever more slowly: who does not wait cuts connections that wait too."""
    head, away = pair
    needs_cuts(head)
    coordinator = head.coordinator("--host", head.address)
    directory = head.home / ".ganger/coordinator"
    node = away.node(pair.carry(directory, "node"), "--slots", "4")
    cuts, portion, cut, busy = 50, 400, 0, 0
    stream = Stream(pair, pair.carry(directory, "client"), tmp_path / "record", 0.0)
    for _ in range(cuts):
        before = stream.ran()
        stream.submit(portion)
        give_up_at = time.monotonic() + patience_s
        while stream.ran() == before and time.monotonic() < give_up_at:
            time.sleep(0.002)
        until(lambda: coordinator.connections() == 2)
        busy += stream.ran() < before + portion
        cut += head.cut("sport", "=", f":{PORT}")
    all_well(stream.end(), cuts * portion)
    assert stream.executions() == dict.fromkeys(range(cuts * portion), 1)
    assert cut == 2 * cuts and busy > cuts / 2
    assert coordinator.said().count("node node joined") > (cuts / 10 if patience_s < 1.0 else cuts / 2), (
        "links stood to be cut"
    )
    assert " is lost" not in coordinator.said() and node.process.poll() is None


@pytest.mark.parametrize(
    "silent_s, long_lease_s, short_lease_s",
    [
        (7.0, 20.0, 3.0),
        pytest.param(20.0, 40.0, 10.0, marks=pytest.mark.long, id="twenty seconds, the default lease"),
    ],
)
def test_a_silent_network(
    pair: Pair, tmp_path: Path, silent_s: float, long_lease_s: float, short_lease_s: float
) -> None:
    """Two clusters meet the same silence, longer than one's lease; each has a node on either side of it."""
    head, away = pair
    streams: dict[str, Stream] = {}
    coordinators: dict[str, Joined] = {}
    nodes = []
    for port, (name, lease_s) in enumerate({"patient": long_lease_s, "hasty": short_lease_s}.items(), PORT):
        directory = head.home / name
        where = ["--host", head.address, "--port", str(port), "--directory", str(directory)]
        leases = ["--lease-s", str(lease_s), "--gone-s", str(lease_s)]
        coordinators[name] = head.coordinator(*where, *leases, name=name)
        nodes.append(head.starting_node(directory / "node.json", "--slots", "1", name=f"{name}-head"))
        nodes.append(away.starting_node(pair.carry(directory, "node"), "--slots", "1", name=f"{name}-away"))
        streams[name] = Stream(pair, pair.carry(directory, "client"), tmp_path / name, 0.01)
    for node in nodes:
        node()
    jobs = int(150 * silent_s)
    for stream in streams.values():
        stream.submit(jobs - 100)
    until(lambda: all(stream.ran() > 50 for stream in streams.values()))
    with pair.black_hole():
        end = time.monotonic() + silent_s
        for stream in streams.values():
            stream.submit(100)  # is accepted when the network is back
        while (left := end - time.monotonic()) > 0:
            time.sleep(left)  # the silence is the subject, not a wait for something
        done = {name: stream.ran() for name, stream in streams.items()}
    assert "hasty-away is lost" in coordinators["hasty"].said()
    assert max(done.values()) < jobs
    for name, stream in streams.items():
        all_well(stream.end(), jobs)
        assert stream.executions().keys() == set(range(jobs)), name
    assert "is lost" not in coordinators["patient"].said()
    assert set(streams["patient"].executions().values()) == {1}
    assert max(streams["hasty"].executions().values()) <= 2, "it was lost once"


def test_a_coordinator_that_is_gone_for_good_is_named_with_the_jobs(pair: Pair, tmp_path: Path) -> None:
    head, away = pair
    coordinator = head.coordinator("--host", head.address)
    directory = head.home / ".ganger/coordinator"
    away.node(pair.carry(directory, "node"), "--slots", "2")
    stream = Stream(pair, pair.carry(directory, "client"), tmp_path / "record", 0.05, timeout_s=3.0)
    stream.submit(200)
    until(lambda: stream.ran() > 10)
    coordinator.process.kill()
    killed_at = time.monotonic()
    report = stream.end()
    # Silence counts from the last word, which came up to a heartbeat before the end.
    assert 3.0 - HEARTBEAT_S <= time.monotonic() - killed_at < SOON_S
    assert report["failed"].keys() == {"CoordinatorUnreachable"}
    assert 0 < report["failed"]["CoordinatorUnreachable"] == report["named"] < 200, "each is named, and no other fails"
    assert report["settled"] == {"1": 200} and report["wrong"] == 0
    assert "was not heard for 3 s" in report["words"] and f"tcp://{head.address}:{PORT}" in report["words"]
