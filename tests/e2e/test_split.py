"""Split and fused placements through Ray, with a tiny model: same rows, same pixels, each actor on its own device."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe import parse_recipe
from pipeline.run_edit import Summary, run_edit
from pipeline.storage import open_store
from pipeline.verify import verify_output
from tests.conftest import PngMaker
from tests.tiny import tiny_operations
from tests.views import view_at

SWEEP = {
    "attributes": {"smile": "broad smile", "hair": "red hair"},
    "strengths": [0.5, 1],
    "grids": [["smile", "hair"]],
}
METHOD = {"steps": 2, "draws": 1}


def run(root: Path, output: str, **changes: Any) -> Summary:
    neutral = {"input": {"path": f"{root}/in"}, "output": f"{root}/{output}", "model": "tiny", "captioner": "fake"}
    recipe = parse_recipe({**neutral, "sweep": SWEEP, "batch": 4, "size": 64, "method": METHOD, **changes})
    return run_edit(recipe, tiny_operations())


def rows(summary: Summary) -> list[dict[str, Any]]:
    view = view_at(summary.output)
    made = view.edits.drop_columns(["image_uri", "created_at", "seconds_caption", "seconds_edit", "seconds_write"])
    return sorted(made.to_pylist(), key=lambda row: (row["sample_id"], row["edit_id"]))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, png: PngMaker) -> Path:
    root = tmp_path_factory.mktemp("split")
    (root / "in").mkdir()
    for index in range(6):
        (root / "in" / f"{index}.png").write_bytes(png(index))
    return root


@pytest.fixture(scope="module")
def fused(images: Path, ray_two_cpus: None) -> Summary:
    return run(images, "fused")


@pytest.mark.slow
def test_split_makes_the_rows_and_pixels_of_fused(images: Path, fused: Summary) -> None:
    split = run(images, "split", placement="split")
    assert (fused.edits, fused.failures, fused.fingerprint) == (36, 0, split.fingerprint)
    assert rows(split) == rows(fused)
    assert split.seconds_by_stage.keys() == {"load", "caption", "encode", "identify", "edit", "score", "write"}
    assert fused.seconds_by_stage.keys() == {"load", "caption", "edit", "score", "write"}


@pytest.mark.slow
def test_a_shared_direction_is_identified_once_and_taken_by_all(images: Path, fused: Summary) -> None:
    first = run(images, "shared", direction="shared", direction_images=3)
    assert (first.edits, first.failures, first.problem) == (36, 0, None)
    assert first.fingerprint != fused.fingerprint
    ids = {row["attribute"]: row["direction_id"] for row in rows(first)}
    assert {row["direction_id"] for row in rows(first)} == set(ids.values()), "one of each attribute, for all images"
    assert ids["smile + hair"] == f"{ids['smile']}+{ids['hair']}"
    assert {row["direction_method"] for row in rows(first)} == {"shared"}
    assert rows(first) != rows(fused)
    (check,) = (run.check for run in verify_output(first.output))
    assert check.problems == {}

    # What comes later takes the directions that are there.
    store = open_store(first.output)
    before = store.keys("directions")
    more = {**SWEEP, "strengths": [0.5, 1, 1.5]}
    again = run(images, "shared", direction="shared", direction_images=3, sweep=more, placement="split")
    assert (again.new_edits, again.edits) == (18, 54)
    assert store.keys("directions") == before
    assert {row["direction_id"] for row in rows(again)} == set(ids.values())
