"""What waits between stages is a few blocks, however far ahead the stages before could run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

from eim_ops.task import EditedImage
from pipeline.blocks import IN_FLIGHT, most_waiting
from pipeline.placement import Cluster, plan_placement
from pipeline.queues import bound_queues
from pipeline.recipe import Recipe, parse_recipe
from pipeline.run_edit import run_edit
from pipeline.storage import in_threads, open_store
from tests.conftest import PngMaker
from tests.fakes import FakeCaptioner, FakeEditor, fake_operations

READ = 100
STRENGTHS = [index / 16 for index in range(1, 17)]
IMAGES, SECONDS_AN_EDIT = 320, 0.002


def note(path: Path, count: int) -> None:
    """Count in a file, over processes: one byte each."""
    with open(path, "ab", buffering=0) as file:
        file.write(b"." * count)


def noted(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True)
class CountingCaptioner(FakeCaptioner):
    folder: Path = Path()

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        note(self.folder / "captioned", len(images))
        return super().describe(images)


@dataclass(frozen=True)
class CountingEditor(FakeEditor):
    folder: Path = Path()

    def __call__(self, images: Sequence[Any], *others: Any, **named: Any) -> Iterator[EditedImage]:
        note(self.folder / "edited", len(images))
        most = self.folder / "most"
        waiting = noted(self.folder / "captioned") - noted(self.folder / "edited")
        most.write_text(str(max(waiting, int(most.read_text()) if most.exists() else 0)))
        yield from super().__call__(images, *others, **named)


@dataclass(frozen=True)
class Factories:
    folder: Path

    def captioner(self, recipe: Recipe, device: str) -> CountingCaptioner:
        return CountingCaptioner(folder=self.folder)

    def editor(self, recipe: Recipe, device: str) -> CountingEditor:
        return CountingEditor(SECONDS_AN_EDIT, folder=self.folder)


@dataclass
class FakeOp:
    """What the policy asks of an operator of Ray's."""

    output_dependencies: list[Any]
    made: int = 0
    taken: int = 0
    active: int = 0

    @property
    def metrics(self) -> Any:
        return SimpleNamespace(rows_task_outputs_generated=self.made, rows_inputs_of_submitted_tasks=self.taken)

    def num_active_tasks(self) -> int:
        return self.active


@pytest.mark.parametrize(
    ("made", "taken", "active", "may"),
    [(0, 0, 3, True), (0, 0, 4, False), (399, 0, 0, True), (400, 0, 0, False), (9_999, 9_600, 0, True)],
)
def test_the_manifest_is_read_only_a_little_ahead_of_the_first_stage(
    made: int, taken: int, active: int, may: bool
) -> None:
    context = DataContext()
    bound_queues(context, 2, 4 * READ, READ)
    pool = ActorPoolMapOperator.__new__(ActorPoolMapOperator)
    load = FakeOp([pool], taken=taken)
    read = FakeOp([FakeOp([load])], made=made, active=active)  # a repartition lies between them
    policy: Any = context.get_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY)[-1]
    assert policy(context, {}, None).can_add_input(read) is may
    written = FakeOp([FakeOp([])], made=10**6)
    assert policy(context, {}, None).can_add_input(written), "what is behind the pools goes on"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_two_cpus")
def test_a_slow_editor_holds_the_captioner_back(tmp_path: Path, png: PngMaker) -> None:
    store = open_store(str(tmp_path / "in"))
    in_threads(lambda index: store.write(f"{index:03d}.png", png(index)), range(IMAGES))
    edits = [{"attribute": "smile", "target": "broad smile", "strengths": STRENGTHS}]
    neutral = {"input": {"path": str(tmp_path / "in")}, "output": str(tmp_path / "out"), "model": "fake"}
    recipe = parse_recipe({**neutral, "captioner": "fake", "edits": edits, "batch": 4, "pools": {"edit": {"size": 1}}})
    factories = Factories(tmp_path)
    operations = replace(fake_operations(), make_captioner=factories.captioner, make_editor=factories.editor)
    summary = run_edit(recipe, operations)
    assert (summary.edits, summary.problem) == (IMAGES * len(STRENGTHS), None)
    plan = plan_placement(recipe, Cluster(2), IMAGES, len(STRENGTHS))
    # What the captioner has in flight, what waits behind it when the last of that is given out, what the editor has.
    blocks = IN_FLIGHT * plan.caption.size + most_waiting(plan.pools) - 1 + IN_FLIGHT * plan.edit.size
    most = int((tmp_path / "most").read_text())
    assert 0 < most <= blocks * plan.block_rows < IMAGES / 3
