"""What an agent measures of its machine: against made up files of the kernel, and against what processes do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.actor import Header
from cluster.codec import decode, encode
from cluster.messages import Heartbeat
from node import vitals
from node.agent import VitalsTaken
from node.vitals import EVERY_S, Machine, Vitals

KIB = 1024


class Kernel:
    """A ``/proc`` of the test's own: its processors, memory, pressure, and a tree of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 10.0
        self.write("meminfo", "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 6000 kB\nBuffers: 1 kB\nCached: 1 kB\n")
        for what, share in (("cpu", "12.50"), ("memory", "3.00"), ("io", "0.00")):
            self.write(f"pressure/{what}", f"some avg10={share} avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00\n")
        self.processors(dict.fromkeys(os.sched_getaffinity(0), (0, 0)))
        self.process("self", ticks=0, pages=0)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="ascii") as file:  # in place, as what is held open is read again
            file.write(text)

    def processors(self, ticks: dict[int, tuple[int, int]]) -> None:
        """Busy and idle ticks of each."""
        lines = "".join(f"cpu{n} {busy} 0 0 {idle} 0 0 0 0 0 0\n" for n, (busy, idle) in ticks.items())
        self.write("stat", f"cpu 1 1 1 1 1 1 1 1 0 0\n{lines}cpu999 9999 0 0 0 0 0 0 0 0 0\nintr 1\n")

    def process(
        self, pid: str, *, ticks: int = 0, pages: int = 0, children: str = "", state: str = "S", on: int = 0
    ) -> None:
        fields = [state, "1", *["0"] * 9, str(ticks), "0", "0", "0", *["0"] * 6, str(pages), *["0"] * 14, str(on)]
        self.write(f"{pid}/stat", f"{pid} (a) b) {' '.join(fields)}\n")
        self.write(f"{pid}/task/{pid}/children", children)

    def machine(self, directory: Path) -> Machine:
        return Machine(directory, self.root, lambda: self.now)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "proc")


def test_it_measures_the_processors_it_may_use_and_what_of_them_is_its_own(kernel: Kernel, tmp_path: Path) -> None:
    own = sorted(os.sched_getaffinity(0))
    machine = kernel.machine(tmp_path)
    first = machine.measure()
    assert "cpu_ratio" not in first and "own_cpu_ratio" not in first
    kernel.now += 2.0
    hertz = os.sysconf("SC_CLK_TCK")
    kernel.processors(dict.fromkeys(own, (150, 50)))
    kernel.process("self", ticks=hertz // 2, pages=10, children="7 8 ")
    kernel.process("7", ticks=hertz // 4, pages=20, children="9 ")
    kernel.process("9", ticks=hertz // 4, pages=30)  # 8 is dead already
    second = machine.measure()
    assert second["cpu_ratio"] == 0.75
    assert second["own_cpu_ratio"] == pytest.approx(1.0 / 2.0 / len(own))
    assert second["own_memory_bytes"] == 60 * os.sysconf("SC_PAGE_SIZE")
    machine.close()


def test_it_counts_what_others_run_on_its_processors(kernel: Kernel, tmp_path: Path) -> None:
    own = sorted(os.sched_getaffinity(0))
    machine = kernel.machine(tmp_path)
    machine.measure()
    kernel.process("self", children="7 ")
    kernel.process("7", state="R", on=own[0])  # ours
    kernel.process("20", state="R", on=own[0])
    kernel.process("21", state="R", on=own[-1])
    kernel.process("22", state="S", on=own[0])
    kernel.process("23", state="R", on=9_999)
    kernel.now += 1
    kernel.processors(dict.fromkeys(own, (100, 0)))
    assert machine.measure()["foreign_runnable"] == 2
    kernel.now += 1
    kernel.processors(dict.fromkeys(own, (105, 95)))
    assert machine.measure()["foreign_runnable"] == 0, "where others use nothing nobody is looked for"
    machine.close()


def test_it_measures_memory_pressure_and_disk(kernel: Kernel, tmp_path: Path) -> None:
    machine = kernel.machine(tmp_path)
    found = machine.measure()
    assert (found["memory_bytes"], found["memory_available_bytes"]) == (8_000 * KIB, 6_000 * KIB)
    assert [found[f"{what}_pressure_ratio"] for what in ("cpu", "memory", "io")] == [0.125, 0.03, 0.0]
    disk = os.statvfs(tmp_path)
    assert found["disk_bytes"] == disk.f_blocks * disk.f_frsize
    machine.close()


def test_a_control_group_that_is_tighter_counts(kernel: Kernel, tmp_path: Path) -> None:
    group = tmp_path / "group"
    kernel.write("self/cgroup", "0::/x\n")
    kernel.write("self/mountinfo", f"30 1 0:26 /x {group} rw - cgroup2 cgroup rw\n")
    group.mkdir()
    for name, text in (
        ("memory.max", str(1_000 * KIB)),
        ("memory.current", str(400 * KIB)),
        ("memory.stat", f"anon 7\ninactive_file {150 * KIB}\nactive_file 9\n"),
        ("cpu.max", "50000 100000"),
    ):
        (group / name).write_text(text)
    machine = kernel.machine(tmp_path)
    found = machine.measure()
    assert (found["memory_bytes"], found["memory_available_bytes"]) == (1_000 * KIB, 750 * KIB)
    assert machine.offers() == {"cpus": 0.5, "memory_bytes": 1_000 * KIB}
    kernel.now += 1.0
    kernel.processors(dict.fromkeys(os.sched_getaffinity(0), (10, 90)))
    kernel.process("self", ticks=os.sysconf("SC_CLK_TCK") // 2, pages=1)
    found = machine.measure()
    assert found["own_cpu_ratio"] == found["cpu_ratio"] == 1.0, "half a processor is all it may use"
    machine.close()


def test_what_cannot_be_had_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    machine = Machine(tmp_path / "nothing", tmp_path / "proc")
    assert set(machine.measure()) == {"load"}
    assert set(machine.offers()) == {"cpus"}, "it knows no limit, and what it may use"
    machine.close()


class Cards:
    """As NVIDIA's library has them."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, n: int) -> int:
        return n

    def nvmlDeviceGetUtilizationRates(self, n: int) -> Any:
        if self.fails:
            raise RuntimeError("fallen off the bus")
        return type("Rates", (), {"gpu": 40 * (n + 1)})

    def nvmlDeviceGetMemoryInfo(self, n: int) -> Any:
        return type("Memory", (), {"free": 1 << 30})


def test_graphics_processors_are_measured_where_their_library_is(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = Cards()
    monkeypatch.setitem(sys.modules, "pynvml", cards)
    machine = kernel.machine(tmp_path)
    found = machine.measure()
    assert (found["gpus"], found["gpu_ratio"], found["gpu_memory_free_bytes"]) == (2, 0.6, 2 << 30)
    whole = {"cpus": float(len(os.sched_getaffinity(0))), "memory_bytes": 8000 * KIB}
    assert machine.offers() == {**whole, "gpus": 2}
    cards.fails = True
    assert "gpu_ratio" not in machine.measure()
    machine.close()


def test_real_work_of_a_descendant_is_its_own(tmp_path: Path) -> None:
    """A child's child burns a processor, and another process, which is none of ours, does not count."""
    burn = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    machine = Machine(tmp_path)
    before = time.process_time()
    with subprocess.Popen([sys.executable, "-c", outer], start_new_session=True) as child:
        try:
            machine.measure()
            began = time.monotonic()
            found: dict[str, Any] = {}
            while time.monotonic() - began < 20:
                time.sleep(0.25)
                found = machine.measure()
                if found["own_cpu_ratio"] >= 0.1 / len(os.sched_getaffinity(0)) and found["own_memory_bytes"] > 1 << 23:
                    break
            assert found["own_cpu_ratio"] >= 0.1 / len(os.sched_getaffinity(0))
            assert found["cpu_ratio"] >= found["own_cpu_ratio"]
            assert time.process_time() - before < 5, "the work was not this process's own"
        finally:
            os.killpg(child.pid, 9)
    machine.close()


def test_it_is_cheap(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.measure()
    began = time.process_time()
    for _ in range(50):
        machine.measure()
    assert (time.process_time() - began) / 50 < 0.01, "a hundredth of a processor, a loaded machine's too"
    machine.close()


def test_it_is_measured_once_a_second_and_fits_a_heartbeat(tmp_path: Path) -> None:
    now = 0.0
    machine = Machine(tmp_path)
    source = Vitals(machine, lambda: now)
    (event,), emptied = source.drain(10)
    assert emptied and isinstance(event, VitalsTaken)
    assert source.drain(10) == ([], True)
    now += EVERY_S
    (event,), _ = source.drain(10)
    beat = Heartbeat(event.vitals)
    assert decode(encode(Header(1, 1, 0), beat)) == (Header(1, 1, 0), beat)
    machine.close()


def test_the_document_of_the_file_names_them_all(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Cards())
    machine = kernel.machine(tmp_path)
    machine.measure()
    kernel.now += 1
    kernel.processors(dict.fromkeys(os.sched_getaffinity(0), (1, 1)))
    for name in machine.measure():
        said = name if not name.endswith("pressure_ratio") else name.partition("_")[0] + "_"
        assert said in (vitals.__doc__ or ""), name
    machine.close()
