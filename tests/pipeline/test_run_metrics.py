"""A job's numbers at the metrics endpoint of a Ray node, as Prometheus would scrape them."""

import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from pipeline import run_metrics
from pipeline.progress import Progress
from pipeline.recipe import parse_recipe
from pipeline.run_edit import run_edit
from tests.conftest import PngMaker
from tests.fakes import fake_operations

Samples = dict[str, list[tuple[dict[str, str], float]]]


def scrape(fingerprint: str, deadline_seconds: float = 60) -> Samples:
    """A run's samples by name, as soon as all names are there and the counters have caught up with each other."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + deadline_seconds
    while True:
        samples: Samples = {}
        with urllib.request.urlopen(address, timeout=10) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    mine = fingerprint.startswith(sample.labels.get("run", "of no run"))
                    if sample.name.startswith("ray_eim_") and mine:
                        samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        left = [value for _, value in samples.get(f"ray_{run_metrics.LEFT}", [])]
        if left == [0.0] and {f"ray_{name}" for name in run_metrics.NAMES} <= samples.keys():
            return samples
        assert time.monotonic() < deadline, f"not exported: {samples}"
        time.sleep(1)


@pytest.mark.slow
def test_a_job_exports_what_it_did(
    tmp_path: Path, png: PngMaker, ray_two_cpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, start = [], Progress.start

    def started(*arguments: Any) -> Progress:
        kept.append(start(*arguments))
        return kept[-1]

    # The counter dies with its last handle: a run of seconds would end before Ray exports its gauges.
    monkeypatch.setattr(Progress, "start", started)
    (tmp_path / "in").mkdir()
    for index in range(4):
        (tmp_path / "in" / f"{index}.png").write_bytes(png(index))
    (tmp_path / "in" / "broken.png").write_bytes(b"this is no image")
    smile = {"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]}
    places = {"input": {"path": f"{tmp_path}/in"}, "output": f"{tmp_path}/out"}
    recipe = parse_recipe({**places, "model": "fake", "captioner": "fake", "edits": [smile], "batch": 4})
    summary = run_edit(recipe, fake_operations(revision=tmp_path.name))
    assert (summary.new_edits, summary.new_failures) == (8, 2)

    samples = scrape(summary.fingerprint)

    def values(name: str, *tags: str) -> dict[tuple[str, ...], float]:
        return {tuple(labels[tag] for tag in tags): value for labels, value in samples[f"ray_{name}"]}

    assert values(run_metrics.EDITS) == {(): 8}
    assert values(run_metrics.FAILURES, "stage", "error_type") == {("load", "UnidentifiedImageError"): 2}
    assert values(run_metrics.ASKED) == {(): 10}
    rows = values(run_metrics.STAGE_ROWS, "stage")
    assert rows == {("load",): 5, ("caption",): 5, ("edit",): 8, ("score",): 8, ("write",): 10}
    assert values(run_metrics.STAGE_SECONDS, "stage").keys() == rows.keys()
    assert values(run_metrics.ACTORS, "stage") == {("caption",): 1, ("edit",): 1}
    assert values(run_metrics.GPUS, "stage") == {("caption",): 0, ("edit",): 0}
