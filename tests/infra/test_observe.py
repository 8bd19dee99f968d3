"""Dashboard, alert rules and scrape configurations: every expression parses, and every metric exists."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray
import yaml

from pipeline import metrics, run_metrics
from tests.infra.tools import INFRA, ROOT, program, run

OBSERVE = INFRA / "observe"
STORAGE = {metrics.RETRIES, metrics.ERRORS}
"""Counted in `pipeline/storage.py` by operation and error."""


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OBSERVE / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Every expression by where it stands; a dashboard's variables stand for what they become."""
    dashboard = json.loads((OBSERVE / "dashboard.json").read_text())
    panels = {
        f"{panel['title']} {target['refId']}": re.sub(r"\$\w+_hour", "1", target["expr"])
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    return panels | {rule["alert"]: rule["expr"] for rule in rules()}


def metrics_in(expression: str) -> set[str]:
    """The metric names of an expression; raises ValueError where it does not parse."""
    promql_parser.parse(expression)
    return set(re.findall(r"\bray_\w+", expression))


def ray_knows(name: str) -> bool:
    """Whether Ray's own dashboards use a metric."""
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    return any(re.search(rf"\b{name}\b", path.read_text()) for path in folder.glob("*.py"))


@pytest.mark.parametrize("place", expressions())
def test_every_metric_exists(place: str) -> None:
    names = metrics_in(expressions()[place])
    ours = {f"ray_{name}" for name in {*run_metrics.NAMES, *STORAGE}}
    assert names
    assert [name for name in names - ours if not ray_knows(name)] == []


def test_a_broken_expression_and_an_invented_metric_are_found() -> None:
    with pytest.raises(ValueError):
        metrics_in("sum(rate(ray_eim_edits_total[5m]) by (run)")
    assert not ray_knows("ray_node_gpu_memory_used")
    assert ray_knows("ray_node_gram_used")


def test_every_alert_has_its_place_in_the_runbook_and_a_test() -> None:
    titles = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    names = [rule["alert"] for rule in rules()]
    assert [title for title in titles if title.startswith("Eim")] == names
    assert [rule["annotations"]["runbook"] for rule in rules()] == [f"docs/runbook.md#{name.lower()}" for name in names]
    tests = yaml.safe_load((OBSERVE / "rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == set(names)


def test_the_rules_fire_when_they_should() -> None:
    done = run([program("promtool"), "test", "rules", OBSERVE / "rules_test.yml"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_never_fires_is_found(tmp_path: Path) -> None:
    promtool = program("promtool")
    (tmp_path / "rules.yml").write_text((OBSERVE / "rules.yml").read_text().replace("> 0.1", "> 1.1"))
    (tmp_path / "rules_test.yml").write_text((OBSERVE / "rules_test.yml").read_text())
    assert run([promtool, "test", "rules", tmp_path / "rules_test.yml"]).returncode != 0


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-kubernetes.yml"])
def test_prometheus_reads_its_configuration(name: str, tmp_path: Path) -> None:
    text = (OBSERVE / name).read_text()
    # Debian's promtool is built without Kubernetes; all else of the job is checked.
    text = text.replace("kubernetes_sd_configs:\n      - role: pod", "static_configs:\n      - targets: [pod:8080]")
    (tmp_path / "rules.yml").write_text((OBSERVE / "rules.yml").read_text())
    (tmp_path / name).write_text(text)
    done = run([program("promtool"), "check", "config", tmp_path / name])
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / name).write_text(text.replace("scrape_interval", "scrape_intervall"))
    assert run([program("promtool"), "check", "config", tmp_path / name]).returncode != 0
