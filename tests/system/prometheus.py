"""A real Prometheus, with the configuration and rules of ``deploy/``, for as long as a test lasts. Rules of this file:
what is changed of the configuration are addresses and how often it looks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.reading import DEPLOY
from tests.deploy.running import free_ports

EVERY_S = 1
WITHIN_S = 60.0


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def _get(self, path: str, **about: Any) -> Any:
        query = urllib.parse.urlencode(about, doseq=True)
        with urllib.request.urlopen(f"{self._url}{path}?{query}", timeout=30) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]

    @property
    def up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def now(self, expr: str) -> list[dict[str, Any]]:
        """Series of an expression at this moment, each with its ``metric`` and ``value``."""
        found = self._get("/api/v1/query", query=expr)
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        rows: list[dict[str, Any]] = found["result"]
        return rows

    def figure(self, expr: str) -> float | None:
        rows = self.now(expr)
        return None if not rows else sum(float(row["value"][1]) for row in rows)

    def over(self, expr: str, start: float, end: float, step: float = EVERY_S) -> list[dict[str, Any]]:
        """Series of an expression, each with its ``metric`` and ``values``."""
        found = self._get("/api/v1/query_range", query=expr, start=start, end=end, step=step)
        rows: list[dict[str, Any]] = found["result"]
        return rows

    def values(self, label: str, match: str) -> list[str]:
        found: list[str] = self._get(f"/api/v1/label/{label}/values", **{"match[]": match})
        return found

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get("/api/v1/targets")["activeTargets"]
        return found


@contextmanager
def scraping(addresses: Sequence[str], directory: Path) -> Iterator[Prometheus]:
    """One that scrapes these once a second."""
    here = directory / "prometheus"
    shutil.copytree(DEPLOY / "prometheus", here)
    config = yaml.safe_load((here / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": f"{EVERY_S}s", "evaluation_interval": f"{EVERY_S}s"}
    (here / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    targets = [{"targets": list(addresses), "labels": {"cluster": "local"}}]
    (here / "targets/local.yml").write_text(yaml.safe_dump(targets), encoding="utf-8")
    (port,) = free_ports(1)
    command = [
        *("prometheus", f"--config.file={here / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'tsdb'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
    ]
    with open(directory / "prometheus.log", "ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        prometheus = Prometheus(port)
        try:
            deadline = time.monotonic() + WITHIN_S
            while not prometheus.up:
                assert process.poll() is None, (directory / "prometheus.log").read_text()
                assert time.monotonic() < deadline, "Prometheus does not come up"
                time.sleep(0.1)
            yield prometheus
        finally:
            process.terminate()
