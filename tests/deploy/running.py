"""Runs what a compose file would, without containers: the same words and settings as processes of this machine. Rules
of this file: paths and ports are moved to where they collide with nothing, and nothing else is changed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

WITHIN_S = 60.0
PROGRAM = "from cluster.cli import main; main()"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Running:
    def __init__(self, services: dict[str, Any], directory: Path) -> None:
        self._services = services
        ports = dict(zip(("7077", "9464", "9465", "9466"), free_ports(4), strict=True))
        self._moved = {
            **{port: str(free) for port, free in ports.items()},
            "/var/lib/ganger": str(directory / "volume"),
        }
        self._moved["/tmp/"] = f"{directory}/"
        self._pattern = re.compile("|".join(map(re.escape, self._moved)))
        self.directory = directory
        self._log = open(directory / "log", "ab")  # noqa: SIM115
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _here(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._moved[found[0]], text)

    def _environment(self, service: dict[str, Any]) -> dict[str, str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("GANGER_")}
        env |= {key: self._here(str(value)) for key, value in service["environment"].items()}
        # What the image sets, and what the option --port is left at.
        return {"GANGER_HOME": self._here("/var/lib/ganger"), "GANGER_PORT": self._moved["7077"], **env}

    def start(self, name: str) -> None:
        service = self._services[name]
        words = [sys.executable, "-c", PROGRAM, *map(self._here, service["command"])]
        self._processes[name] = subprocess.Popen(
            words, env=self._environment(service), stdout=self._log, stderr=self._log, cwd=self.directory
        )

    def becomes_healthy(self, name: str) -> None:
        service = self._services[name]
        kind, program, *words = service["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "cluster")
        deadline = time.monotonic() + WITHIN_S
        while True:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, *map(self._here, words)],
                env=self._environment(service), capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return
            assert self._processes[name].poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, done.stdout + done.stderr + (self.directory / "log").read_text()

    def client(self, *words: str) -> Any:
        """The answer of a command, asked as the README says."""
        env = self._environment(self._services["coordinator"])
        env["GANGER_CONNECTION"] = self._here("/var/lib/ganger/coordinator/client.json")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


@contextmanager
def up(services: dict[str, Any], directory: Path) -> Iterator[Running]:
    """Our services, each when those it waits for are healthy."""
    running = Running(services, directory)
    try:
        for name, service in services.items():
            if service.get("image") != "ganger":
                continue
            for other, condition in service.get("depends_on", {}).items():
                assert condition == {"condition": "service_healthy"}
                running.becomes_healthy(other)
            running.start(name)
        yield running
    finally:
        running.stop()
