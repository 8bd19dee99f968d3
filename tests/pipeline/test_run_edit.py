"""What a run refuses before it lists its input or tries anything, what it leaves behind then, and how streams end."""

from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import (
    ActorDiedError,
    ObjectReconstructionFailedError,
    RayTaskError,
    StreamingGeneratorReplayInconsistentError,
    WorkerCrashedError,
)

from pipeline import augment as augment_module
from pipeline import prepared_run, retrying
from pipeline import run_edit as module
from pipeline.ask_records import Ask
from pipeline.augment import Job, augment
from pipeline.estimate import Workload
from pipeline.increments import Increment
from pipeline.ledger import FingerprintError, Ledger
from pipeline.placement import Cluster
from pipeline.prepared_run import EditRun, open_edit_run
from pipeline.progress import Progress
from pipeline.recipe import RecipeError
from pipeline.run_edit import ClusterError, Summary, run_edit
from pipeline.storage import open_store
from tests.fakes import fake_operations
from tests.pipeline.builders import start_job


@pytest.fixture
def no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*_: object, **__: object) -> None:
        raise AssertionError("the input was listed")

    for lister in (prepared_run, augment_module):
        monkeypatch.setattr(lister, "prepare_manifest", listed)


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
    told, streams = streamed(tmp_path, monkeypatch, written, lambda: None)
    assert streams == ([True, False] if written else [True])
    assert told.left == (0 if written else 4)
    assert (told.problem is None) == bool(written)


def streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, end: Callable[[], None], failed: int = 0
) -> tuple[Summary, list[bool]]:
    """A run over four images, each stream of which writes so many and then calls `end`; and `retry_failed` of each.
    failed: images that failed before, the last to be written."""
    job, streams = start_job(str(tmp_path), 4), []
    job.write(job.samples[4 - failed :], error="before")

    def stream(run: EditRun, *_: object) -> None:
        streams.append(run.retry_failed)
        there = set(run.ledger.read().edits["sample_id"].to_pylist())
        job.write([row for row in job.samples if row["sample_id"] not in there][:written])
        end()

    monkeypatch.setattr(retrying, "_LISTING_PAUSE", 0.0)
    for name, stand_in in {
        "connect": lambda _: None,
        "cluster_resources": lambda: Cluster(2),
        "taken": lambda _: None,
        "stream": stream,
        "Progress": SimpleNamespace(start=lambda *_: Progress()),
    }.items():
        monkeypatch.setattr(module, name, stand_in)
    return run_edit(job.recipe, fake_operations(), retry_failed=True), streams


def failing(error: Exception) -> Callable[[], None]:
    """Raises as Ray Data does what is no error of a stage."""

    def end() -> NoReturn:
        raise error from SystemException()

    return end


GIVEN_UP = ActorDiedError(RayTaskError("init", "Traceback ...\nx.ModelError: model: 'm': stale\n  mend", KeyError()))
LOST = {
    "object": ObjectReconstructionFailedError("ab"),
    "argument": RayTaskError("task", "Traceback", ObjectReconstructionFailedError("ab")),
    "replay": StreamingGeneratorReplayInconsistentError("other objects"),
    "actor": GIVEN_UP,
}


@pytest.mark.parametrize("lost", LOST)
def test_a_stream_that_ends_by_what_a_lost_node_held_is_followed_by_another_as_long_as_that_brings_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    told, streams = streamed(tmp_path, monkeypatch, 2, failing(LOST[lost]))
    assert (told.left, told.problem, len(streams)) == (0, None, 2)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (LOST["object"], "^Ray: ObjectReconstructionFailedError: Failed to retrieve"),
        (GIVEN_UP, "^model: 'm': stale\n  mend"),
        (WorkerCrashedError(), "^Ray: WorkerCrashedError: The worker died"),
        (ExecutionTimeoutError("no progress\nfor"), "^Ray: ExecutionTimeoutError: no progress"),
    ],
)
def test_where_ray_ends_a_run_for_good_it_says_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    with pytest.raises(ClusterError, match=f"{why}.*\n  what is written stays; run the same command again"):
        streamed(tmp_path, monkeypatch, 0, failing(error))


def test_where_failures_were_to_be_tried_again_a_lost_stream_does_not_pass_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="run the same command again"):
        streamed(tmp_path, monkeypatch, 2, failing(LOST["object"]), failed=1)


def test_a_mistake_of_ours_keeps_its_own_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        streamed(tmp_path, monkeypatch, 0, failing(KeyError("x")))


def test_an_account_whose_process_is_killed_says_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> NoReturn:
        raise BrokenProcessPool("abruptly")

    monkeypatch.setattr(Ledger, "account", killed)
    with pytest.raises(ClusterError, match="memory runs out\n  what is written stays"):
        run_edit(start_job(str(tmp_path)).recipe, fake_operations())
