"""What waits between stages is a few blocks, however far ahead the stages before could run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eim_ops.task import EditedImage
from pipeline.blocks import IN_FLIGHT, most_waiting
from pipeline.flow import run_edit
from pipeline.placement import Cluster, plan_placement
from pipeline.recipe import Recipe, parse_recipe
from pipeline.storage import in_threads, open_store
from tests.conftest import PngMaker
from tests.fakes import FakeCaptioner, FakeEditor, fake_operations

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
