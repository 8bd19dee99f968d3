"""`ray job submit --working-dir . -- python -m jobs.edit` on a real head and job server, with random weights."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.ledger import Ledger
from pipeline.storage import open_store
from tests import job_server
from tests.conftest import PngMaker
from tests.eim_ops.conftest import tiny_sd3
from tests.faults.stopped_job import stopped_by_ray
from tests.job_server import JobServer


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    with job_server.start() as started:
        yield started


@pytest.mark.slow
def test_the_edit_job_runs_by_ray_job_submit(server: JobServer, tmp_path: Path, png: PngMaker) -> None:
    tiny_sd3().pipeline.save_pretrained(tmp_path / "model")
    rows = []
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(png(index))
        prompts = {"smile": "a portrait with broad smile"}
        rows.append({"uri": f"{index}.png", "source_prompt": "a portrait with deep frown", "target_prompts": prompts})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "input": {"manifest": str(tmp_path / "rows.jsonl")},
        "output": str(tmp_path / "out"),
        "model": str(tmp_path / "model"),
        "captioner": "manifest",
        "edits": [{"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]}],
        "method": {"steps": 2, "draws": 1},
        "batch": 4,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["python", "-m", "jobs.edit", str(tmp_path / "recipe.yaml"), "--json"]
    done = server.job("submit", "--working-dir", ".", "--", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    view = Ledger(open_store(str(tmp_path / "out"))).read()
    assert (len(view.edits), len(view.failures)) == (6, 0)


@pytest.mark.slow
def test_ray_job_stop_ends_a_job_and_the_same_command_completes_it(server: JobServer, tmp_path: Path) -> None:
    found = stopped_by_ray(tmp_path, server)
    assert (found.lost, found.doubled, found.edits, found.failures) == (0, 0, found.asked, 0)
