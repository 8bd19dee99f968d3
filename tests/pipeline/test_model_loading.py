"""Models in their actors: held to the revisions of the run, an error of a load told or left to Ray."""

from pathlib import Path

import pytest

from pipeline.actors import CaptionStage, EditStage
from pipeline.attempts import Attempts
from pipeline.flow import open_edit_run
from pipeline.model_loading import ModelError, held_to
from pipeline.operations import ModelFacts, Operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.work import table_of_work
from tests.fakes import FakeFactories, fake_operations
from tests.pipeline.builders import make_recipe, start_job

POOL = PoolPlan(1, 1.0, 0.0, 1, "cpu")


def on_a_node_with_older_files(recipe: Recipe) -> Operations:
    """Operations as a run's workers have them, whose driver knows newer models."""
    older, newer = FakeFactories(), ModelFacts("fake-2", "fake-captioner-2+digest", FakeFactories().facts(recipe).sizes)
    return held_to(Operations(older.captioner, older.editor, older.facts), newer)


def test_a_node_whose_files_differ_from_the_drivers_ends_the_job_with_both_revisions() -> None:
    recipe = make_recipe()
    stages = [
        (EditStage, "model", "revision fake-1, this run is of fake-2"),
        (CaptionStage, "captioner", r"revision fake-captioner-1, this run is of fake-captioner-2\+digest"),
    ]
    for make, key, told in stages:
        stage = make(on_a_node_with_older_files(recipe), recipe, POOL, Progress(), Attempts())
        with pytest.raises(ModelError, match=f"(?s)^{key}: .* has loaded the {told}.*copy the same files"):
            stage(table_of_work([]))


@pytest.mark.parametrize("captioner", ["fake-captioner-1", "fake-captioner-1+digest+constrained"])
def test_equal_files_are_the_runs_whatever_else_the_captioner_is_pinned_by(captioner: str) -> None:
    recipe = make_recipe()
    facts = ModelFacts("fake-1", captioner, fake_operations().facts(recipe).sizes)
    held = held_to(fake_operations(), facts)
    assert held.make_editor(recipe, "cpu").revision == "fake-1"
    assert held.make_captioner(recipe, "cpu") is not None
    assert held.make_captioner(make_recipe(input={"manifest": "rows.jsonl"}, captioner="manifest"), "cpu") is None


def test_the_models_of_a_run_are_held_to_the_revisions_that_its_rows_name(tmp_path: Path) -> None:
    job, older = start_job(str(tmp_path)), FakeFactories(revision="fake-0")
    run = open_edit_run(job.recipe, Operations(older.captioner, older.editor, fake_operations().facts))
    with pytest.raises(ModelError, match="fake-0, this run is of fake-1"):
        run.operations.make_editor(job.recipe, "cpu")
