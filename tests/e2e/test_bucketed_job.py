"""Whole jobs on portrait, landscape and square images through Ray and the command line."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from eim_ops.aspect_buckets import Size, aspect_buckets, nearest_bucket
from jobs.cli import app
from pipeline.flow import Summary, run_edit
from pipeline.ledger import Ledger
from pipeline.recipe import parse_recipe
from pipeline.storage import open_store, read
from pipeline.verify import verify_output
from tests.tiny import tiny_operations

SIZES = [(90, 60), (60, 90), (80, 80), (70, 48), (123, 90), (66, 100), (50, 51), (97, 61), (64, 40)]
"""Upright. The last is a bucket's own."""
TURNED = 5
"""Stored on its side, with the EXIF tag that says so."""
BUCKETS = aspect_buckets(48, 8, 64)
METHOD = {"steps": 2, "draws": 1, "image_half": "hsds", "iterations": 1}
EDITS = [
    {"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]},
    {"attribute": "hair", "target": "red hair", "strengths": [1]},
]

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


def recipe_of(root: Path, output: str, **changes: Any) -> dict[str, Any]:
    neutral = {"input": {"path": f"{root}/in"}, "output": f"{root}/{output}", "edits": EDITS, "method": METHOD}
    sizes = {"size": 48, "aspect_buckets": True, "output_size": "source"}
    return {**neutral, **sizes, "model": "tiny", "captioner": "fake", "batch": 4, **changes}


def run(root: Path, output: str, **changes: Any) -> Summary:
    return run_edit(parse_recipe(recipe_of(root, output, **changes)), tiny_operations())


def rows(output: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by file and edit, without times and places."""
    made = Ledger(open_store(output)).read().edits
    made = made.drop_columns(["image_uri", "created_at", "seconds_caption", "seconds_edit", "seconds_write"])
    return {(Path(row["source_uri"]).stem, row["edit_id"]): row for row in made.to_pylist()}


@pytest.fixture(scope="module")
def fused(root: Path, ray_two_cpus: None) -> Summary:
    return run(root, "fused")


def test_every_edit_has_exactly_its_sources_size(fused: Summary) -> None:
    assert (fused.edits, fused.failures, fused.problem) == (3 * len(SIZES), 0, None)
    for row in Ledger(open_store(fused.output)).read().edits.to_pylist():
        size = SIZES[int(Path(row["source_uri"]).stem)]
        stored = Image.open(io.BytesIO(read(row["image_uri"]).data))
        assert stored.size == (row["width"], row["height"]) == (row["source_width"], row["source_height"]) == size
        assert (row["model_width"], row["model_height"]) == nearest_bucket(Size(*size), BUCKETS)
        assert row["psnr"] > 10
    (check,) = (found.check for found in verify_output(fused.output))
    assert (check.problems, check.edits) == ({}, fused.edits)
    use = fused.stages["edit"].fill
    assert use is not None and 0.3 < use < 1, "calls of few images are padded, and it is told"


def test_split_makes_the_rows_and_pixels_of_fused(root: Path, fused: Summary) -> None:
    split = run(root, "split", placement="split")
    assert split.fingerprint == fused.fingerprint
    assert rows(split.output) == rows(fused.output)


def test_the_command_line_edits_at_buckets_of_a_trained_model_and_reports(root: Path) -> None:
    recipe = recipe_of(root, "cli", model="mini-dit", captioner="mini-vlm", edits=EDITS[:1], output_size="model")
    (root / "r.yaml").write_text(yaml.safe_dump(recipe))
    told = CliRunner().invoke(app, ["plan", f"{root}/r.yaml", "--cpus", "2"])
    assert "40 x 64, 40 x 56, 48 x 48, 56 x 40, 64 x 40 px" in told.stdout
    assert "of one size" in told.stdout
    for command in (["edit", f"{root}/r.yaml"], ["verify", f"{root}/cli"], ["report", f"{root}/cli"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    made = rows(f"{root}/cli")
    assert len(made) == 2 * len(SIZES)
    for (name, _), row in made.items():
        bucket = nearest_bucket(Size(*SIZES[int(name)]), BUCKETS)
        assert (row["width"], row["height"]) == (row["model_width"], row["model_height"]) == bucket
        assert row["direction_method"] in ("hsds", "dds")
    assert Image.open(root / "cli" / "contact.png").width > 200
