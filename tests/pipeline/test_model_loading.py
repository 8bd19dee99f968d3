"""Models in their actors: held to the revisions of the run, an error of a load told or left to Ray."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.actors import CaptionStage, EditStage
from pipeline.attempts import Attempts
from pipeline.cluster import RETRIES
from pipeline.model_loading import ModelError, held_to, load_model
from pipeline.operations import ModelFacts, Operations
from pipeline.placement import PoolPlan
from pipeline.prepared_run import open_edit_run
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.storage import open_store
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


@dataclass(frozen=True)
class Counted(Progress):
    """A counter of this process."""

    stages: set[str] = field(default_factory=set)

    def loaded(self, stage: str) -> None:
        self.stages.add(stage)

    def has_loaded(self, stage: str) -> bool:
        return stage in self.stages


def load(attempts: Attempts, progress: Progress, error: Exception | None = None) -> str | ModelError:
    def make() -> str:
        if error is not None:
            raise error
        return "the model"

    return load_model("model", "m", "cpu", make, "edit", progress, attempts)


ENDED = 7


def in_a_process(attempts: Attempts, progress: Progress, error: Exception) -> int:
    """The exit code of a process that loads; ENDED where the load gives or raises anything."""
    if not (child := os.fork()):
        try:
            load(attempts, progress, error)
        finally:
            os._exit(ENDED)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_error_of_a_load_ends_the_job_where_no_actor_of_the_stage_has_loaded_the_model(tmp_path: Path) -> None:
    attempts = Attempts.start(open_store(str(tmp_path)), 3)
    failed = load(attempts, Counted(stages={"caption"}), OSError("stale file handle"))
    assert isinstance(failed, ModelError) and "stale file handle" in str(failed)


def test_where_others_have_loaded_an_error_of_a_load_ends_its_process_and_at_last_gives_the_actor_up(
    tmp_path: Path,
) -> None:
    store, progress, error = open_store(str(tmp_path)), Counted(), RuntimeError("CUDA error: uncorrectable ECC error")
    attempts = Attempts.start(store, 3)
    load(attempts, progress)
    assert [in_a_process(attempts, progress, error) for _ in range(RETRIES - 1)] == [1] * (RETRIES - 1)
    with pytest.raises(ModelError, match=r"(?s)uncorrectable ECC error.*nvidia-smi"):
        load(attempts, progress, error)


def test_a_load_that_ends_well_forgets_the_deaths_of_those_before_it(tmp_path: Path) -> None:
    store, progress = open_store(str(tmp_path)), Counted(stages={"edit"})
    attempts = Attempts.start(store, 3)
    for _ in range(2 * RETRIES):
        assert in_a_process(attempts, progress, OSError("stale file handle")) == 1
        assert len(store.keys("attempts")) == 1
        assert load(attempts, progress) == "the model"
        assert store.keys("attempts") == []
