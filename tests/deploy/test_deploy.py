"""What is deployed names only what exists: metrics, labels, commands, settings; and what others check passes there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import compose_spec
import pytest
import yaml

from cluster.cli import root
from cluster.metrics import METRICS
from tests.deploy.reading import (
    COMPOSE,
    DASHBOARDS,
    DEPLOY,
    ROOT,
    RULE_TESTS,
    RULES,
    UNITS,
    commands_in,
    labels_in,
    metrics_in,
    other_queries_of,
    panels,
    parsed,
    queries_of,
    recorded,
    rules,
)
from tests.test_docs import variables

OF_A_SCRAPE = {"job", "instance", "cluster", "le", "alertname", "alertstate", "severity"}
"""Labels that Prometheus and its configuration give."""

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus (tests/run gets it)"
)


def ran(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "path", [*DASHBOARDS, RULES, RULE_TESTS, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_only_metrics_that_exist_are_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert metrics_in(text.replace("ganger_agent_...", "").replace("ganger_node_...", "")) <= set(METRICS)
    assert set(re.findall(r"\bganger:[a-z_0-9:]+", text)) <= recorded()


def test_each_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    shown = set().union(*(metrics_in(path.read_text(encoding="utf-8")) for path in (*DASHBOARDS, RULES)))
    unseen = {name for name in set(METRICS) - shown if not name.startswith("ganger_agent_")}
    assert unseen <= {
        "ganger_node_gpus",
        "ganger_node_gpu_memory_free_bytes",
        "ganger_lives_total",
        "ganger_peers_refused_total",
    }


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_panels_group_by_and_show_labels_that_there_are(path: Path) -> None:
    everywhere = {"ganger_role", "ganger_node", *OF_A_SCRAPE}
    of_records = {"queue", "function", "outcome"}
    for query in queries_of(path):
        names = metrics_in(query.expr)
        there = set().union(*(METRICS[name].labels for name in names)) | everywhere
        if "ganger:" in query.expr:
            there |= of_records
        assert labels_in(query.expr) | labels_in(query.legend) <= there, query


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_variables_of_panels_are_defined(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    defined = {query.where.rpartition("$")[2] for query in other_queries_of(path) if "$" in query.where}
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used <= defined | {"datasource", "job_id"}
    assert defined <= used, "a variable that no panel uses"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_panels_have_titles_units_and_words_and_do_not_lie_on_each_other(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    titles = [panel["title"] for panel in panels(path)]
    assert len(titles) == len(set(titles))
    for panel in panels(path):
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        at = panel["gridPos"]
        place = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not place & taken and max(x for x, _ in place) < 24, panel["title"]
        taken |= place


def test_the_dashboards_are_what_their_program_makes() -> None:
    ran(sys.executable, DEPLOY / "grafana/dashboards.py", "--check")


def test_a_difference_of_the_dashboards_is_found(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "grafana", tmp_path / "grafana")
    board = next((tmp_path / "grafana/dashboards").glob("*.json"))
    board.write_text(board.read_text(encoding="utf-8").replace("Ganger", "Gangster"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "grafana/dashboards.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and board.name in done.stdout


# ------------------------------------------------------------------------------------ rules


def test_each_alert_says_what_to_do_in_commands_that_there_are() -> None:
    context = click.Context(root, info_name="cluster")
    for alert in (rule for rule in rules() if "alert" in rule):
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert len(alert["annotations"]["runbook"]) > 60 and alert["annotations"]["summary"].endswith("."), alert[
            "alert"
        ]
        for command in commands_in(alert["annotations"]["runbook"]):
            words = shlex.split(re.sub(r"\{\{.*?\}\}", "some", command))
            name, found, rest = root.resolve_command(context, words[1:])
            assert found is not None
            found.make_context(name, list(rest), parent=context, resilient_parsing="JOB" in words or len(words) == 2)


def test_each_alert_is_tested_firing_and_quiet() -> None:
    told: dict[str, set[bool]] = {}
    for test in parsed(RULE_TESTS)["tests"]:
        for case in test["alert_rule_test"]:
            told.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
            assert test["input_series"] or bool(case["exp_alerts"]), "quiet for want of data shows nothing"
    assert told == {rule["alert"]: {True, False} for rule in rules() if "alert" in rule}


@promtool
def test_promtool_finds_rules_and_configurations_right() -> None:
    here = DEPLOY / "prometheus"
    ran("promtool", "check", "rules", "rules.yml", cwd=here)
    ran("promtool", "test", "rules", "rules_test.yml", cwd=here)
    ran("promtool", "check", "config", "prometheus.yml", cwd=here)
    ran("promtool", "check", "config", "--syntax-only", "prometheus-tls.yml", cwd=here)


@promtool
def test_all_of_the_configuration_for_kubernetes_is_right_but_what_debian_leaves_out(tmp_path: Path) -> None:
    """Its Prometheus is built without Kubernetes: what pods are is asked of files here."""
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "p")
    config = parsed(tmp_path / "p/prometheus-kubernetes.yml")
    (scrape,) = config["scrape_configs"]
    (discovery,) = scrape.pop("kubernetes_sd_configs")
    assert discovery["role"] == "pod" and discovery["selectors"][0]["label"] == "app.kubernetes.io/name=ganger"
    scrape["file_sd_configs"] = [{"files": ["targets/*.yml"]}]
    (tmp_path / "p/prometheus-kubernetes.yml").write_text(yaml.safe_dump(config))
    ran("promtool", "check", "config", "--syntax-only", "prometheus-kubernetes.yml", cwd=tmp_path / "p")


@promtool
def test_a_rule_that_is_broken_is_found(tmp_path: Path) -> None:
    """The tests of the rules have teeth: without its threshold an alert that must be quiet is not."""
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "p")
    broken = (
        (tmp_path / "p/rules.yml")
        .read_text()
        .replace("ganger:slots_busy:ratio > 0.95", "ganger:slots_busy:ratio > 0.5")
    )
    (tmp_path / "p/rules.yml").write_text(broken)
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"], cwd=tmp_path / "p", capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "GangerSlotsBusy" in done.stdout + done.stderr


# ------------------------------------------------------------------------------------ units and containers


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_systemd_takes_the_units(path: Path, tmp_path: Path) -> None:
    """With the program where this environment has it: what a unit starts must be there to be verified."""
    program = shutil.which("cluster", path=str(Path(sys.executable).parent))
    assert program
    copy = tmp_path / path.name
    copy.write_text(path.read_text(encoding="utf-8").replace("/opt/ganger/bin/cluster", program), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if path.stem in line]
    assert done.returncode == 0 and not ours, done.stdout + done.stderr


def settings_in(text: str) -> set[str]:
    return set(re.findall(r"\bGANGER_[A-Z_]*[A-Z]\b", text))


@pytest.mark.parametrize(
    "path", [*UNITS, COMPOSE, DEPLOY / "container/Containerfile", DEPLOY / "README.md"], ids=lambda p: p.name
)
def test_settings_are_those_that_there_are(path: Path) -> None:
    assert settings_in(path.read_text(encoding="utf-8")) <= variables()


def services() -> dict[str, Any]:
    found: dict[str, Any] = parsed(COMPOSE)["services"]
    return found


def test_the_compose_file_fits_its_specification() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    compose_spec.PyCompose.from_yaml(text).validate()
    for right, wrong in (
        ("command:", "commands:"),
        ("service_healthy", "service_well"),
        ("init: true", "init: perhaps"),
    ):
        with pytest.raises(ValueError):
            compose_spec.PyCompose.from_yaml(text.replace(right, wrong)).validate()


def test_what_containers_mount_and_build_is_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in parsed(COMPOSE)["volumes"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} can be reached from elsewhere"
        if "network_mode" in service:
            assert service["network_mode"] == "service:coordinator"
    build = services()["coordinator"]["build"]
    file = DEPLOY / build["context"] / build["dockerfile"]
    text = file.read_text(encoding="utf-8")
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (DEPLOY / build["context"] / source).exists(), source
            assert f"!{source}" in file.with_name(file.name + ".dockerignore").read_text().splitlines()
    assert re.search(r"^USER (?!root)", text, re.MULTILINE) and text.rstrip().endswith('ENTRYPOINT ["cluster"]')


def test_prometheus_scrapes_what_the_compose_file_serves() -> None:
    ports = {int(s["environment"]["GANGER_METRICS_PORT"]) for s in services().values() if s.get("image") == "ganger"}
    targets = {t for group in parsed(DEPLOY / "prometheus/targets/local.yml") for t in group["targets"]}
    assert targets == {f"127.0.0.1:{port}" for port in ports}
    probes = {s["healthcheck"]["test"][-1] for s in services().values() if "healthcheck" in s}
    assert probes == targets
    source = parsed(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["url"] == "http://127.0.0.1:9090"
    (provider,) = parsed(DEPLOY / "grafana/provisioning/dashboards/ganger.yml")["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services()["grafana"]["volumes"]


@pytest.mark.system
def test_the_containers_commands_run_as_they_are_written(tmp_path: Path) -> None:
    """Each service's words and settings, with its volume and its ports in places of the test's own."""
    from tests.deploy.running import up

    with up(services(), tmp_path) as running:
        for name in ("coordinator", "node-1", "node-2"):
            running.becomes_healthy(name)
        assert running.client("status", "--json")["nodes"] == 2


def test_the_library_of_the_dashboards_is_no_part_of_the_product() -> None:
    assert importlib.util.find_spec("grafana_foundation_sdk") is not None
    needs = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[0]
    assert "grafana" not in needs and "yaml" not in needs
