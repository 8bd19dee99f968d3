"""Fakes of a model, for measurements of the plumbing alone: they take a fixed time and edit nothing."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from eim_ops.task import EditedImage, EditTask
from pipeline.decode import encode_png
from pipeline.fit import sizes_of
from pipeline.operations import ModelFacts, Operations
from pipeline.recipe import Recipe

_SIZE = 64


@dataclass(frozen=True)
class StubCaptioner:
    """One prompt for all; takes no time."""

    name: str = "stub-captioner"
    revision: str = "1"

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
    """Sleeps `seconds` for each edit and returns the source, one grey level brighter. Its other units take no time."""

    seconds: float
    evaluations: int = 0

    def take_shared(self, folder: Path) -> None:
        """The pixels do not depend on it."""

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

    def encode(
        self, images: Sequence[np.ndarray], source_prompts: Sequence[str], seeds: Sequence[int], batch: int
    ) -> list[bytes]:
        return [encode_png(image) for image in images]

    def identify(
        self,
        encoded: Sequence[bytes],
        source_prompts: Sequence[str],
        targets: Sequence[tuple[int, str]],
        seeds: Sequence[int],
        batch: int,
    ) -> list[bytes]:
        return [b""] * len(targets)

    def manipulate(
        self,
        encoded: Sequence[bytes],
        halves: Sequence[Mapping[str, bytes]],
        source_prompts: Sequence[str],
        tasks: Sequence[Sequence[EditTask]],
        seeds: Sequence[int],
        batch: int,
    ) -> Iterator[EditedImage]:
        images = [np.asarray(Image.open(io.BytesIO(blob))) for blob in encoded]
        return self(images, source_prompts, tasks, seeds, batch)


@dataclass(frozen=True)
class _Factories:
    seconds: float

    def captioner(self, recipe: Recipe, device: str) -> StubCaptioner:
        return StubCaptioner()

    def editor(self, recipe: Recipe, device: str) -> StubEditor:
        return StubEditor(self.seconds)

    def facts(self, recipe: Recipe) -> ModelFacts:
        return ModelFacts("stub-1", "stub-1", sizes_of(recipe, _SIZE, 16))


def stub_operations(seconds: float) -> Operations:
    """Operations whose models are stubs; an edit takes `seconds`."""
    factories = _Factories(seconds)
    return Operations(factories.captioner, factories.editor, factories.facts)
