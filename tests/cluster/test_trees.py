"""Processes below this one: who is killed, and who has time to clear up first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import util

from cluster import trees


def test_a_resource_tracker_is_spared_from_the_moment_it_is_started() -> None:
    command = [sys.executable, "-c", "from multiprocessing.resource_tracker import main; input()"]
    for _ in range(100):
        pid = util.spawnv_passfds(os.fsencode(sys.executable), command, ())  # as multiprocessing does
        try:
            assert trees.may_be_tracker(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_what_is_no_tracker_is_killed_and_a_tracker_is_when_its_time_is_over() -> None:
    wait = "import sys; print(flush=True); sys.stdin.read()"
    texts = [f"{wait} # multiprocessing.resource_tracker", wait]
    pipe = subprocess.PIPE
    tracker, other = (subprocess.Popen([sys.executable, "-c", text], stdin=pipe, stdout=pipe) for text in texts)
    with tracker, other:
        for process in (tracker, other):
            assert process.stdout is not None and process.stdout.readline()
        trees.kill([tracker.pid, other.pid], spare_trackers=True)
        assert other.wait(10) == -signal.SIGKILL and tracker.poll() is None
        trees.kill([tracker.pid], spare_trackers=False)
        assert tracker.wait(10) == -signal.SIGKILL
