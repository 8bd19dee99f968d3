"""Whole sweeps: model calls are full across blocks, and nothing is made twice."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eim_ops.task import EditedImage, EditTask
from pipeline.operations import Editor, ModelFacts, Operations
from pipeline.recipe import Recipe, parse_recipe
from pipeline.run_edit import run_edit
from pipeline.storage import open_store
from tests.conftest import PngMaker
from tests.fakes import FakeCaptioner, FakeEditor, fake_operations

SWEEP = {
    "attributes": {"smile": ["broad smile", "deep frown"], "hat": "cap"},
    "strengths": [0.5, 1],
    "grids": [["smile", "hat"]],
}


def note(folder: str, what: object) -> None:
    (Path(folder) / uuid.uuid4().hex).write_text(json.dumps(what))


@dataclass(frozen=True)
class NotingCaptioner(FakeCaptioner):
    """Notes each question in a file of its own."""

    folder: str = ""

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        for _ in images:
            note(self.folder, ["describe"])
        return super().describe(images)

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        for pair in zip(prompts, requests, strict=True):
            note(self.folder, ["rewrite", *pair])
        return super().rewrite(prompts, requests)


@dataclass(frozen=True)
class NotingEditor(FakeEditor):
    """Notes how many images and edits each call has."""

    folder: str = ""

    def __call__(
        self,
        images: Sequence[np.ndarray],
        source_prompts: Sequence[str],
        tasks: Sequence[Sequence[EditTask]],
        *others: Any,
        **named: Any,
    ) -> Iterator[EditedImage]:
        note(self.folder, ["edit", len(images), sum(map(len, tasks))])
        yield from super().__call__(images, source_prompts, tasks, *others, **named)


@dataclass(frozen=True)
class NotingFactories:
    """Picklable."""

    folder: str
    revision: str = "fake-captioner-1"

    def captioner(self, recipe: Recipe, device: str) -> FakeCaptioner:
        return NotingCaptioner(revision=self.revision, folder=self.folder)

    def editor(self, recipe: Recipe, device: str) -> Editor:
        return NotingEditor(folder=self.folder)


@pytest.mark.usefixtures("ray_two_cpus")
def test_each_image_is_captioned_once_and_every_call_but_the_last_is_full(tmp_path: Path, png: PngMaker) -> None:
    for folder in ("in", "notes"):
        (tmp_path / folder).mkdir()
    for index in range(50):
        (tmp_path / "in" / f"{index:02d}.png").write_bytes(png(index))
    recipe = parse_recipe(
        {
            **{"input": {"path": f"{tmp_path}/in"}, "output": f"{tmp_path}/out", "model": "fake", "captioner": "fake"},
            **{"sweep": SWEEP, "batch": 6},
        }
    )
    noting = NotingFactories(str(tmp_path / "notes"))
    summary = run_edit(recipe, Operations(noting.captioner, noting.editor, fake_operations().facts))
    assert (summary.images, summary.edits, summary.failures, summary.left) == (50, 500, 0, 0)

    notes = [json.loads(path.read_text()) for path in (tmp_path / "notes").iterdir()]
    described = [what for what in notes if what[0] == "describe"]
    rewritten = [what for what in notes if what[0] == "rewrite"]
    assert len(described) == 50
    assert len(rewritten) == 50 * 3  # once for each target, however many edits use it
    calls = sorted((what[1:] for what in notes if what[0] == "edit"), reverse=True)
    assert calls == [[6, 60]] * 8 + [[2, 20]]


@pytest.mark.usefixtures("ray_two_cpus")
def test_runs_that_share_a_caption_cache_ask_once_and_another_revision_asks_again(
    root: str, png: PngMaker, tmp_path: Path
) -> None:
    for index in range(5):
        open_store(root).write(f"in/{index}.png", png(index))

    def asked_by(output: str, revision: str) -> Counter[str]:
        notes = tmp_path / f"notes-{output}"
        notes.mkdir()
        given = {"input": {"path": f"{root}/in"}, "output": f"{root}/{output}", "caption_cache": f"{root}/shared"}
        edits = [{"attribute": "hat", "target": "cap", "strengths": [1]}]
        recipe = parse_recipe({**given, "model": "fake", "captioner": "fake", "edits": edits, "batch": 4})

        def facts(recipe: Recipe) -> ModelFacts:
            return replace(fake_operations().facts(recipe), captioner_revision=revision)

        noting = NotingFactories(str(notes), revision)
        summary = run_edit(recipe, Operations(noting.captioner, noting.editor, facts))
        assert (summary.edits, summary.failures, summary.left) == (5, 0, 0)
        return Counter(json.loads(path.read_text())[0] for path in notes.iterdir()) - Counter(edit=99)

    assert asked_by("first", "1") == {"describe": 5, "rewrite": 5}
    assert asked_by("second", "1") == {}
    assert asked_by("third", "2") == {"describe": 5, "rewrite": 5}
