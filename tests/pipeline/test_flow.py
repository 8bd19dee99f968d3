"""What a run refuses before it lists its input or tries anything, and what it leaves behind then."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import augment as augment_module
from pipeline import flow, retrying
from pipeline.ask import Ask
from pipeline.augment import Job, augment
from pipeline.estimate import Workload
from pipeline.flow import EditRun, open_edit_run, run_edit
from pipeline.increments import Increment
from pipeline.ledger import FingerprintError
from pipeline.placement import Cluster
from pipeline.progress import Progress
from pipeline.recipe import RecipeError
from pipeline.storage import open_store
from tests.fakes import fake_operations
from tests.pipeline.builders import start_job


@pytest.fixture
def no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*_: object, **__: object) -> None:
        raise AssertionError("the input was listed")

    for module in (flow, augment_module):
        monkeypatch.setattr(module, "prepare_manifest", listed)


@pytest.mark.usefixtures("no_listing")
def test_other_settings_are_refused_before_the_input_is_listed(tmp_path: Path) -> None:
    recipe = start_job(str(tmp_path)).recipe
    others = fake_operations(revision="fake-2")
    with pytest.raises(FingerprintError, match="now 'fake-2'"):
        open_edit_run(recipe, others)
    with pytest.raises(FingerprintError, match="now 'fake-2'"):
        augment(Job(recipe, others, "2030-01-31", lambda: Cluster(2)))


@pytest.mark.usefixtures("no_listing")
@pytest.mark.parametrize("output", ["in/out", "in", "."])
def test_places_inside_each_other_are_refused_before_the_input_is_listed(tmp_path: Path, output: str) -> None:
    recipe = start_job(str(tmp_path)).recipe.model_copy(update={"output": str(tmp_path / output)})
    with pytest.raises(RecipeError, match="one lies inside the other"):
        open_edit_run(recipe, fake_operations())
    with pytest.raises(RecipeError, match="one lies inside the other"):
        augment(Job(recipe, fake_operations(), "2030-01-31", lambda: Cluster(2)))


def test_an_input_without_images_leaves_no_settings_behind_that_would_be_held_against_the_mended_recipe(
    tmp_path: Path,
) -> None:
    recipe = start_job(str(tmp_path)).recipe.model_copy(update={"output": str(tmp_path / "other")})
    (tmp_path / "in").rename(tmp_path / "moved")
    with pytest.raises(RecipeError, match="no images"):
        open_edit_run(recipe, fake_operations())
    assert open_store(recipe.output).keys("recipe") == []


@pytest.mark.parametrize("retry_failed", [False, True])
def test_a_selection_of_which_too_much_failed_is_tried_again_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retry_failed: bool
) -> None:
    started = start_job(str(tmp_path))
    ask = Ask(started.fingerprint, started.manifest.prefix, started.recipe.edits)
    Increment("2030-01-30", ask, 3, 3, Workload(3, 3, 3)).record(started.store)
    tried: list[bool] = []

    def stopped(*_: object, retry_failed: bool, **__: object) -> SimpleNamespace:
        tried.append(retry_failed)
        return SimpleNamespace(left=3, new_failures=0, problem="stopped")

    monkeypatch.setattr(augment_module, "run_edit", stopped)
    operations = fake_operations(revision="fake-1")
    job = Job(started.recipe, operations, "2030-01-31", lambda: Cluster(2), retry_failed=retry_failed)
    told = augment(job)
    assert (told.increment, told.completed, told.problem) == (None, (), "stopped")
    assert tried == ([False, True] if retry_failed else [False])


@pytest.mark.parametrize("written", [2, 0])
def test_rows_that_a_stream_leaves_out_are_streamed_again_as_long_as_that_brings_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    job, streams = start_job(str(tmp_path), 4), []

    def stream(run: EditRun, *_: object) -> None:
        streams.append(run.retry_failed)
        there = set(run.ledger.read().edits["sample_id"].to_pylist())
        job.write([row for row in job.samples if row["sample_id"] not in there][:written])

    monkeypatch.setattr(retrying, "_LISTING_PAUSE", 0.0)
    for name, stand_in in {
        "connect": lambda _: None,
        "cluster_resources": lambda: Cluster(2),
        "_stream": stream,
        "Progress": SimpleNamespace(start=lambda *_: Progress()),
    }.items():
        monkeypatch.setattr(flow, name, stand_in)
    told = run_edit(job.recipe, fake_operations(revision="fake-1"), retry_failed=True)
    assert streams == ([True, False] if written else [True])
    assert told.left == (0 if written else 4)
    assert (told.problem is None) == bool(written)
