"""Jobs on portrait, landscape and square images through the command line and Ray, with the trained small model."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from eim_ops.aspect_buckets import Size, aspect_buckets, nearest_bucket
from jobs.cli import app
from pipeline.storage import read
from tests.views import view_at

SIZES = [(90, 60), (60, 90), (80, 80), (70, 48), (123, 90), (66, 100), (50, 51), (97, 61), (64, 40)]
"""Upright. The last is a bucket's own."""
TURNED = 5
"""Stored on its side, with the EXIF tag that says so."""
BUCKETS = aspect_buckets(48, 8, 64)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_two_cpus")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucketed")
    (folder / "in").mkdir()
    for index, size in enumerate(SIZES):
        coarse = Image.fromarray(np.random.default_rng(index).integers(40, 200, (5, 5, 3), np.uint8))
        image, exif = coarse.resize(size), Image.Exif()
        if index == TURNED:
            image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
        image.save(folder / "in" / f"{index}.png", exif=exif)
    return folder


def eim(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def recipe_in(root: Path, placement: str) -> str:
    recipe = {
        "input": {"path": f"{root}/in"},
        "output": f"{root}/{placement}",
        "model": "mini-dit",
        "edits": [{"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]}],
        "method": {"steps": 2, "draws": 1, "image_half": "hsds", "iterations": 1},
        "batch": 4,
        "size": 48,
        "aspect_buckets": True,
        "output_size": "source",
        "placement": placement,
    }
    path = root / f"{placement}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def rows(output: str) -> list[dict[str, Any]]:
    """Rows without times and places."""
    made = view_at(output).edits
    made = made.drop_columns(["image_uri", "created_at", "seconds_caption", "seconds_edit", "seconds_write"])
    return sorted(made.to_pylist(), key=lambda row: (row["sample_id"], row["edit_id"]))


@pytest.fixture(scope="module")
def fused(root: Path, ray_two_cpus: None) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(eim("edit", recipe_in(root, "fused"), "--json"))
    return summary


def test_every_edit_has_exactly_its_sources_size(fused: dict[str, Any]) -> None:
    assert (fused["edits"], fused["failures"], fused["problem"]) == (2 * len(SIZES), 0, None)
    for row in view_at(fused["output"]).edits.to_pylist():
        size = SIZES[int(Path(row["source_uri"]).stem)]
        stored = Image.open(io.BytesIO(read(row["image_uri"]).data))
        assert stored.size == (row["width"], row["height"]) == (row["source_width"], row["source_height"]) == size
        assert (row["model_width"], row["model_height"]) == nearest_bucket(Size(*size), BUCKETS)
        assert row["psnr"] > 10
        assert row["direction_method"] in ("hsds", "dds")
    assert 0.3 < fused["stages"]["edit"]["fill"] < 1, "calls of few images are padded, and it is told"


def test_what_was_made_is_planned_verified_and_reported(root: Path, fused: dict[str, Any]) -> None:
    told = eim("plan", recipe_in(root, "fused"), "--cpus", "2")
    assert "40 x 64, 40 x 56, 48 x 48, 56 x 40, 64 x 40 px" in told
    assert "18 done" in told
    eim("verify", fused["output"])
    eim("report", fused["output"])
    assert Image.open(root / "fused" / "contact.png").width > 200


def test_split_makes_the_rows_and_pixels_of_fused(root: Path, fused: dict[str, Any]) -> None:
    split = json.loads(eim("edit", recipe_in(root, "split"), "--json"))
    assert split["fingerprint"] == fused["fingerprint"]
    assert rows(split["output"]) == rows(fused["output"])
