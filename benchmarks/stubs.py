"""Fakes of a model, for measurements of the plumbing alone: they take a fixed time and edit nothing."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image

from eim_ops.task import EditedImage, EditTask
from pipeline.fit import sizes_of
from pipeline.operations import Editor, ModelFacts, Operations
from pipeline.recipe import Recipe

_SIZE = 64


@dataclass(frozen=True)
class StubCaptioner:
    """One prompt for all; takes no time."""

    name: str = "stub-captioner"
    revision: str = "stub-1"

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        return ["a picture"] * len(images)

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        return [f"{prompt}, edited" for prompt in prompts]

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        return list(answers)


@dataclass(frozen=True)
class StubEditor:
    """Sleeps `seconds` for each edit and returns the source, one grey level brighter. It has no units of its own."""

    seconds: float
    evaluations: int = 0
    revision: str = "stub-1"

    def check_prompt(self, prompt: str) -> None:
        """None is too long."""

    def __call__(
        self,
        images: Sequence[np.ndarray],
        source_prompts: Sequence[str],
        tasks: Sequence[Sequence[EditTask]],
        seeds: Sequence[int],
        batch: int,
    ) -> Iterator[EditedImage]:
        for row, (image, its_tasks) in enumerate(zip(images, tasks, strict=True)):
            for task in its_tasks:
                time.sleep(self.seconds)
                pixels = np.minimum(image, 254) + np.uint8(1)
                yield EditedImage(row, task.edit_id, pixels, "stub", "none", None, 0, None, 1.0, True)


@dataclass(frozen=True)
class _Factories:
    seconds: float

    def captioner(self, recipe: Recipe, device: str) -> StubCaptioner:
        return StubCaptioner()

    def editor(self, recipe: Recipe, device: str) -> Editor:
        return cast(Editor, StubEditor(self.seconds))  # measured fused, which calls none of the units

    def facts(self, recipe: Recipe) -> ModelFacts:
        return ModelFacts("stub-1", "stub-1", sizes_of(recipe, _SIZE, 16))


def stub_operations(seconds: float) -> Operations:
    """Operations whose models are stubs; an edit takes `seconds`."""
    factories = _Factories(seconds)
    return Operations(factories.captioner, factories.editor, factories.facts)
