"""Whole edit jobs on a local Ray of two CPUs, with fake operations: what is asked is what is there."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import failure_limit
from pipeline import run_edit as module
from pipeline.compact import compact_output
from pipeline.ledger import FingerprintError, Ledger
from pipeline.progress import Progress, shown
from pipeline.recipe import parse_recipe
from pipeline.run_edit import Summary, run_edit
from pipeline.storage import in_threads, open_store, read
from pipeline.verify import verify_output
from tests.conftest import PngMaker
from tests.fakes import fake_operations
from tests.faults.driver import kill_after_first_part, start_driver
from tests.views import view_at

EDITS = [
    {"attribute": "smile", "target": "broad smile", "strengths": [-1, 1]},
    {"attribute": ["smile", "hat"], "target": ["broad smile", "cap"], "strengths": [0.5]},
]


def put_images(root: str, indices: range, png: PngMaker) -> None:
    store = open_store(f"{root}/in")
    in_threads(lambda index: store.write(f"{index:03d}.png", png(index)), indices)


def recipe_of(root: str, **changes: Any) -> dict[str, Any]:
    neutral = {"input": {"path": f"{root}/in"}, "output": f"{root}/out", "model": "fake", "captioner": "fake"}
    return {**neutral, "edits": EDITS, "batch": 4, **changes}


def run(root: str, *, revision: str = "fake-1", options: dict[str, Any] | None = None, **changes: Any) -> Summary:
    recipe = parse_recipe(recipe_of(root, **changes))
    return run_edit(recipe, fake_operations(revision=revision), **(options or {}))


def check_outputs(summary: Summary) -> None:
    """The view has one row for each asked edit, each edits row its image, and no image is without a row; twice over."""
    store = open_store(summary.output)
    view = Ledger(store, summary.fingerprint).read()
    assert (len(view.edits), len(view.failures)) == (summary.edits, summary.failures)
    uris = view.edits["image_uri"].to_pylist()
    assert len(set(uris)) == len(uris)
    assert all(data.data.startswith(b"\x89PNG") for data in in_threads(read, uris))
    assert sorted(uris) == sorted(store.uri(key) for key in store.keys("images"))
    check = next(run.check for run in verify_output(summary.output) if run.root == summary.output)
    assert (check.problems, check.orphans) == ({}, 0)
    assert (check.edits, check.failures, check.repeats) == (summary.edits, summary.failures, summary.repeats)


@pytest.mark.usefixtures("ray_two_cpus")
def test_a_job_ends_with_all_accounted_for_and_again_does_nothing(
    root: str, png: PngMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = []

    def noted(progress: Progress, images: int, edits: int) -> contextlib.AbstractContextManager[None]:
        totals.append((images, edits))
        return shown(progress, images, edits)

    monkeypatch.setattr(module, "shown", noted)
    put_images(root, range(20), png)
    open_store(root).write("in/broken.png", b"this is no image")
    first = run(root)
    assert (first.problem, first.images, first.asked) == (None, 21, 63)
    assert (first.edits, first.failures, first.left, first.repeats) == (60, 3, 0, 0)
    check_outputs(first)
    (stage,) = set(view_at(first.output).failures["stage"].to_pylist())
    assert stage == "load"

    again = run(root)
    assert (again.new_edits, again.new_failures, again.edits, again.left) == (0, 0, 60, 0)

    # What is asked for in addition, and what comes to the input, is done alone; failures are tried when asked.
    put_images(root, range(20, 22), png)
    more = run(root, edits=[*EDITS, {"attribute": "age", "target": "old", "strengths": [1]}])
    assert (more.asked, more.new_edits, more.edits, more.failures) == (92, 28, 88, 4)
    retried = run(root, options={"retry_failed": True})
    assert (retried.new_failures, retried.new_edits, retried.failures) == (3, 0, 3)
    attempts = view_at(first.output).failures["attempts"].to_pylist()
    assert sorted(attempts) == [1, 2, 2, 2]
    assert totals == [(21, 63), (23, 29), (1, 3)]  # what is left of images and edits, not what is done

    with pytest.raises(FingerprintError, match="model_revision: there 'fake-1', now 'fake-2'"):
        run(root, revision="fake-2")
    beside = run(root, revision="fake-2", options={"new_run": True})
    assert (beside.new_edits, beside.edits, beside.problem) == (66, 66, None)
    assert beside.output.startswith(f"{first.output}/run-")
    check_outputs(beside)


@pytest.mark.usefixtures("ray_two_cpus")
def test_above_the_failure_fraction_the_job_stops_and_says_why(tmp_path: Path, png: PngMaker) -> None:
    put_images(str(tmp_path), range(2), png)
    for index in range(4):
        (tmp_path / "in" / f"broken-{index}.png").write_bytes(b"")
    summary = run(str(tmp_path), max_failure_fraction=0.5)
    assert summary.problem is not None
    assert "12 edits failed, more than the 9 that max_failure_fraction allows" in summary.problem

    # The same command stops again, and has no limit of its own.
    put_images(str(tmp_path), range(2, 3), png)
    again = run(str(tmp_path), max_failure_fraction=0.5)
    assert again.problem is not None
    assert "12 edits failed in earlier runs, more than the 10" in again.problem
    assert (again.left, again.new_edits, again.new_failures) == (3, 0, 0)
    retried = run(str(tmp_path), max_failure_fraction=0.7, options={"retry_failed": True})
    assert (retried.problem, retried.left, retried.new_edits, retried.new_failures) == (None, 0, 3, 12)


@pytest.mark.usefixtures("ray_two_cpus")
def test_a_job_whose_first_edits_all_fail_stops_unless_all_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_limit, "_EDITS", 9)
    monkeypatch.setattr(failure_limit, "_IMAGES", 3)
    (tmp_path / "in").mkdir()
    for index in range(100):
        (tmp_path / "in" / f"broken-{index}.png").write_bytes(b"")
    summary = run(str(tmp_path), max_failure_fraction=0.9)
    assert summary.problem is not None
    assert "edits all failed; where that is meant, set max_failure_fraction to 1" in summary.problem
    assert summary.left > 0
    whole = run(str(tmp_path), max_failure_fraction=1)
    assert (whole.problem, whole.left, whole.failures) == (None, 0, 300)


@pytest.mark.usefixtures("ray_two_cpus")
def test_a_manifest_with_prompts_needs_no_captioner(tmp_path: Path, png: PngMaker) -> None:
    put_images(str(tmp_path), range(2), png)
    rows = [
        {"uri": "in/000.png", "source_prompt": "a face", "target_prompts": {"smile": "a smile", "hat": "a hat"}},
        {"uri": "in/001.png", "source_prompt": "a face", "target_prompts": {"smile": "a smile"}},
        {"uri": "in/gone.png"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = run(str(tmp_path), input={"manifest": str(tmp_path / "rows.jsonl")}, captioner="manifest")
    assert (summary.asked, summary.edits, summary.failures, summary.problem) == (9, 5, 4, None)
    view = view_at(summary.output)
    assert set(view.edits["target_prompt"].to_pylist()) == {"a smile", "a smile + a hat"}
    assert sorted(set(view.failures["stage"].to_pylist())) == ["caption", "prepare"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_two_cpus")
def test_a_killed_driver_is_completed_by_the_same_recipe(root: str, png: PngMaker, tmp_path: Path) -> None:
    put_images(root, range(64), png)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(root)))
    output = open_store(f"{root}/out")

    first = start_driver(recipe, 0.1)
    kill_after_first_part(first, output)
    done = len(view_at(output.root).edits)
    assert 0 < done < 192

    summary = run(root)
    assert (summary.edits, summary.failures, summary.left) == (192, 0, 0)
    assert summary.new_edits <= 192 - done
    check_outputs(summary)
    compact_output(summary.output)
    check_outputs(dataclasses.replace(summary, repeats=0))
