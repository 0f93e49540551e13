"""Commands as a node runs them: real processes, in this process as in a worker."""

from __future__ import annotations

import os
import pickle
import pwd
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import shell_jobs
from cluster.errors import CommandFailed, GiveUp
from cluster.jobs import VISIBLE_DEVICES
from cluster.shell_jobs import FIRST_BYTES, LAST_BYTES, run

ME = pwd.getpwuid(os.geteuid())


def failed(*argv: str, **how: Any) -> CommandFailed:
    with pytest.raises(CommandFailed) as caught:
        run(list(argv), **how)
    return caught.value


def test_a_command_that_ends_well_gives_all_it_wrote() -> None:
    assert run(["sh", "-c", "echo one; echo two >&2"]) == {"exit_code": 0, "output": "one\ntwo\n"}


def test_another_exit_code_fails_with_it_and_the_output() -> None:
    error = failed("sh", "-c", "echo why; exit 3")
    assert (error.exit_code, error.output, str(error)) == (3, "why\n", "echo why; exit 3 ended with exit code 3")
    again = pickle.loads(pickle.dumps(error))
    assert (again.exit_code, again.output, str(again)) == (3, "why\n", str(error))


def test_a_signal_is_named() -> None:
    error = failed("sh", "-c", "kill -KILL $$")
    assert (error.exit_code, str(error)) == (137, "kill -KILL $$ was killed by SIGKILL")


def test_what_is_no_command_fails_as_in_a_shell(tmp_path: Path) -> None:
    assert failed(f"{tmp_path}/none").exit_code == 127
    (tmp_path / "text").write_text("text")
    error = failed(f"{tmp_path}/text")
    assert (error.exit_code, "Permission denied" in str(error)) == (126, True)


def test_standard_input_is_what_was_given_or_empty() -> None:
    assert run(["cat"], stdin="one\ntwo\n")["output"] == "one\ntwo\n"
    assert run(["cat"])["output"] == ""
    assert run(["true"], stdin="x" * 1_000_000)["exit_code"] == 0, "who does not read it is not waited for"


def test_variables_are_added_to_those_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_WORKER", "here")
    assert run(["sh", "-c", "echo $OF_THE_WORKER $MINE"], env={"MINE": "too"})["output"] == "here too\n"


def test_a_clean_environment_is_that_of_crond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_WORKER", "here")
    for name in VISIBLE_DEVICES:
        monkeypatch.delenv(name, raising=False)
    seen = run(["/usr/bin/env"], env={"SHELL": "/bin/bash", "LOGNAME": "x"}, clean=True)["output"]
    pairs = dict(line.split("=", 1) for line in seen.splitlines())
    assert pairs == {
        "HOME": ME.pw_dir, "SHELL": "/bin/bash", "PATH": "/usr/bin:/bin", "LOGNAME": ME.pw_name, "USER": ME.pw_name,
    }  # fmt: skip
    assert run(["pwd"], env={"HOME": "/tmp"}, clean=True)["output"] == "/tmp\n"
    assert run(["pwd"], env={"HOME": "/nowhere"}, clean=True)["output"] == "/\n"


def test_a_command_has_the_graphics_processors_of_its_job_unless_it_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    tells = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
    for clean in (False, True):
        assert run(tells, clean=clean)["output"] == "3\n"
        assert run(tells, env={"CUDA_VISIBLE_DEVICES": "5"}, clean=clean)["output"] == "5\n"


def test_as_another_user_it_is_refused_unless_the_agent_may() -> None:
    with pytest.raises(GiveUp, match="no user 'nobody-of-that-name'"):
        run(["true"], user="nobody-of-that-name")
    if os.geteuid() == 0:
        assert run(["id", "-un"], user="nobody")["output"] == "nobody\n"
        assert run(["/usr/bin/env"], user="nobody", clean=True)["output"].count("LOGNAME=nobody") == 1
    else:
        with pytest.raises(GiveUp, match="that takes an agent run by root"):
            run(["true"], user="root")
    assert run(["id", "-un"], user=ME.pw_name)["output"] == f"{ME.pw_name}\n"


def test_of_much_output_the_first_and_the_last_is_kept() -> None:
    out = run(["sh", "-c", "echo begin; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end"])["output"]
    assert out.startswith("begin\n") and out.endswith("x\nend\n")
    assert "bytes left out" in out and len(out) < FIRST_BYTES + LAST_BYTES + 100
    whole = run(["sh", "-c", f"head -c {FIRST_BYTES + LAST_BYTES} /dev/zero | tr '\\0' x"])["output"]
    assert whole == "x" * (FIRST_BYTES + LAST_BYTES)


class Interrupted(BaseException):
    pass


def test_an_interrupted_command_is_told_to_end_with_all_its_processes(tmp_path: Path) -> None:
    """As a worker does it: an exception out of a signal's handler."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    def soon() -> None:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        threading.Thread(target=soon).start()
        script = "trap 'echo told >ended; exit' TERM; echo $$ >new; mv new pid; while :; do sleep 0.05; done"
        with pytest.raises(Interrupted):
            run(["sh", "-c", f"cd {tmp_path}; {script}"])
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (tmp_path / "ended").read_text() == "told\n"
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_a_long_command_is_shown_by_its_beginning() -> None:
    assert len(str(failed("false", "x" * 1000))) < 300
    assert shell_jobs._signal(64) == "SIGRTMAX" and shell_jobs._signal(99) == "signal 99"
