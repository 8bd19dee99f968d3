"""The real commands on the shipped models: caption, encode, identify, manipulate, report, and a second run."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.ledger import Ledger
from pipeline.storage import open_store

RECIPE = {
    "model": "mini-dit",
    "captioner": "mini-vlm",
    "edits": [
        {"attribute": "hair_color", "target": "red hair", "strengths": [0, 1]},
        {"attribute": ["hair_color", "smile"], "target": ["red hair", "broad smile"], "strengths": [1]},
    ],
    "method": {"steps": 8},
    "batch": 4,
}


def eim(*arguments: str | Path) -> str:
    """Run the real command; returns its standard output."""
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, output) of a run over three faces."""
    folder = tmp_path_factory.mktemp("shipped")
    eim("faces", "render", "--count", "3", "--seed", "7", "--out", folder / "faces")
    recipe = folder / "recipe.yaml"
    places = {"input": {"path": str(folder / "faces")}, "output": str(folder / "out")}
    recipe.write_text(yaml.safe_dump({**RECIPE, **places}))
    summary = json.loads(eim("edit", recipe, "--json"))
    assert (summary["images"], summary["edits"], summary["failures"], summary["left"]) == (3, 9, 0, 0)
    return recipe, folder / "out"


def rows(output: Path) -> list[dict[str, Any]]:
    """The edits of the view."""
    return Ledger(open_store(str(output))).read().edits.to_pylist()


def test_every_row_names_its_image_prompts_and_cost(output: tuple[Path, Path]) -> None:
    for row in rows(output[1]):
        assert Image.open(row["image_uri"]).size == (64, 64)
        assert row["source_prompt"].startswith("a portrait with")
        assert "red hair" in row["target_prompt"]
        assert row["recon_psnr"] > 25
        assert 8 <= row["evaluations"] <= 8 + 24 + 16


def test_strength_0_is_the_vae_round_trip(output: tuple[Path, Path]) -> None:
    from eim_ops.edit import to_images, to_pixels
    from eim_ops.load import load_backbone

    backbone = load_backbone("mini-dit", None, "cpu", "float32")
    for row in (row for row in rows(output[1]) if row["strength"] == 0):
        source = np.asarray(Image.open(row["source_uri"]).convert("RGB"))
        round_trip = to_pixels(backbone.decode(backbone.encode_image(to_images([source]))))[0]
        edited = np.asarray(Image.open(io.BytesIO(Path(row["image_uri"]).read_bytes())))
        assert np.abs(edited.astype(int) - round_trip).max() <= 1


def test_the_report_shows_every_edit_and_the_judges_readings(output: tuple[Path, Path]) -> None:
    report = json.loads(eim("report", output[1], "--json"))
    assert report["edits"] == 9
    assert set(report["strengths"]) == {"0", "1"}
    assert report["strengths"]["0"]["kept"] > 0.95, "strength 0 changes nothing, and the judge must see that"
    page = (output[1] / "contact.html").read_text()
    assert page.count("<figure") == 3 + 9 and "judge: " in page
    assert Image.open(output[1] / "contact.png").width > 300


def test_a_second_run_has_nothing_to_do(output: tuple[Path, Path]) -> None:
    before = sorted(path for path in output[1].rglob("*") if path.is_file())
    assert "nothing to do" in eim("edit", output[0])
    assert sorted(path for path in output[1].rglob("*") if path.is_file()) == before
