"""Dashboard, alert rules and scrape configurations: every expression parses, and every metric exists."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray
import yaml

from pipeline import run_metrics, storage_metrics
from tests.infra.tools import INFRA, ROOT, program, run

OBSERVE = INFRA / "observe"
STORAGE = {storage_metrics.RETRIES, storage_metrics.ERRORS}
"""Counted in `pipeline/retrying.py` by operation and error."""


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


def uncovered(alerts: list[dict[str, Any]], runbook: str, tests: list[dict[str, Any]]) -> list[str]:
    """Alerts without a place in the runbook, a link to it or a test in which they fire; places without an alert."""
    titles = re.findall(r"^## (Eim\w+)$", runbook, re.MULTILINE)
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    names = [rule["alert"] for rule in alerts]
    return [
        *(f"the runbook has no {name}" for name in names if name not in titles),
        *(f"there is no alert {title}" for title in titles if title not in names),
        *(f"no test fires {name}" for name in names if name not in fired),
        *(
            f"{rule['alert']} names another place"
            for rule in alerts
            if rule["annotations"].get("runbook") != f"docs/runbook.md#{rule['alert'].lower()}"
        ),
    ]


RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
TESTS: list[dict[str, Any]] = yaml.safe_load((OBSERVE / "rules_test.yml").read_text())["tests"]


def test_every_alert_has_its_place_in_the_runbook_and_a_test() -> None:
    assert uncovered(rules(), RUNBOOK, TESTS) == []


def test_an_alert_that_nobody_explains_or_tests_is_found() -> None:
    alerts = rules()
    new = {"alert": "EimNew", "annotations": {"runbook": "docs/runbook.md#eimnew"}}
    assert uncovered([*alerts, new], RUNBOOK, TESTS) == ["the runbook has no EimNew", "no test fires EimNew"]
    assert uncovered(alerts[1:], RUNBOOK, TESTS) == ["there is no alert EimRunStalled"]
    assert uncovered(alerts, RUNBOOK.replace("## EimNoGpu\n", ""), TESTS) == ["the runbook has no EimNoGpu"]
    quiet = [{**test, "alert_rule_test": []} if "fail" in test["name"] else test for test in TESTS]
    assert uncovered(alerts, RUNBOOK, quiet) == ["no test fires EimFailureRate"]
    astray = {**alerts[0], "annotations": {"runbook": "docs/runbook.md"}}
    assert uncovered([astray, *alerts[1:]], RUNBOOK, TESTS) == ["EimRunStalled names another place"]


def test_the_rules_fire_when_they_should() -> None:
    done = run([program("promtool"), "test", "rules", OBSERVE / "rules_test.yml"])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("> 0.1", "> 1.1"), ("and on (run) sum by (run) (ray_eim_edits_left) > 0", "")],
    ids=["never fires", "counts runs that have ended"],
)
def test_a_wrong_rule_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    promtool = program("promtool")
    text = (OBSERVE / "rules.yml").read_text()
    assert right in text
    (tmp_path / "rules.yml").write_text(text.replace(right, wrong))
    (tmp_path / "rules_test.yml").write_text((OBSERVE / "rules_test.yml").read_text())
    assert run([promtool, "test", "rules", tmp_path / "rules_test.yml"]).returncode != 0


def test_the_dashboard_counts_the_gpus_that_the_alert_counts() -> None:
    (alert,) = (rule["expr"] for rule in rules() if rule["alert"] == "EimNoGpu")
    reserved = expressions()["GPUs reserved by pools and there A"]
    assert " ".join(alert.split()).startswith(f"{reserved} > ")


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-kubernetes.yml"])
def test_prometheus_reads_its_configuration(name: str, tmp_path: Path) -> None:
    text = (OBSERVE / name).read_text()
    # Debian's promtool is built without Kubernetes; all else of the job is checked.
    text = text.replace("kubernetes_sd_configs:\n      - role: pod", "static_configs:\n      - targets: [pod:8080]")
    (tmp_path / "rules.yml").write_text((OBSERVE / "rules.yml").read_text())
    (tmp_path / "auth_token").write_text("0" * 64)
    (tmp_path / name).write_text(text)
    done = run([program("promtool"), "check", "config", tmp_path / name])
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / name).write_text(text.replace("scrape_interval", "scrape_intervall"))
    assert run([program("promtool"), "check", "config", tmp_path / name]).returncode != 0
