"""What stands in ``deploy/``, as tests read it: expressions, the metrics they name, commands. Rules of this file: it
reads, and judges nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cluster.metrics import HISTOGRAM, METRICS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus/rules.yml"
RULE_TESTS = DEPLOY / "prometheus/rules_test.yml"
COMPOSE = DEPLOY / "compose.yml"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


class Query(NamedTuple):
    where: str
    expr: str
    legend: str = ""


def panels(path: Path) -> Iterator[dict[str, Any]]:
    yield from (panel for panel in json.loads(path.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row")


def queries_of(path: Path) -> list[Query]:
    """Of all panels of a dashboard."""
    return [
        Query(f"{path.stem}: {panel['title']}", target["expr"], target["legendFormat"])
        for panel in panels(path)
        for target in panel["targets"]
    ]


def other_queries_of(path: Path) -> list[Query]:
    """Of its variables and annotations."""
    board = json.loads(path.read_text(encoding="utf-8"))
    out = [
        Query(f"{path.stem}: ${variable['name']}", str(variable["query"]))
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    return out + [
        Query(f"{path.stem}: {one['name']}", one["expr"]) for one in board["annotations"]["list"] if "expr" in one
    ]


def rules() -> list[dict[str, Any]]:
    return [rule for group in parsed(RULES)["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def metrics_in(text: str) -> set[str]:
    """Names of ours that stand there, by which they are in the table."""
    out = set()
    for name in re.findall(r"\bganger_[a-z_]+", text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        out.add(base if METRICS.get(base) is not None and METRICS[base].kind == HISTOGRAM else name)
    return out - {"ganger_role", "ganger_node", "ganger_resource"}


def labels_in(text: str) -> set[str]:
    """Labels that an expression groups by, matches, or that a legend shows."""
    bare = re.sub(r'"[^"]*"', '""', text)
    out = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"\"", bare))
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", bare):
        out |= {label.strip() for label in group.split(",")}
    return out | set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))


def commands_in(text: str) -> list[str]:
    """Commands of ours that people are told to type."""
    return re.findall(r"`(cluster [^`]+)`", text)
