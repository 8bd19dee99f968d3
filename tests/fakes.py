"""Operations without a model, for tests of the plumbing: fast, deterministic, and wrong on demand."""

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
from pipeline.operations import Editor, ModelFacts, Operations
from pipeline.recipe import Recipe


@dataclass(frozen=True)
class FakeCaptioner:
    """Names the image's mean colour; a request with the word `impossible` is an error."""

    name: str = "fake-captioner"
    revision: str = "fake-captioner-1"

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        means = [np.asarray(image).mean((0, 1)).round().astype(int) for image in images]
        return [f"a picture of {red} {green} {blue}" for red, green, blue in means]

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        if any("impossible" in request for request in requests):
            raise ValueError("cannot write this")
        return [
            f"{prompt}, {request.removeprefix('change to ')}" for prompt, request in zip(prompts, requests, strict=True)
        ]

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        again = zip(prompts, requests, answers, strict=True)
        return [f"{prompt}, again" if "mend" in request else answer for prompt, request, answer in again]


@dataclass(frozen=True)
class FakeEditor:
    """Brightens by 10 x strength; strength 13 is an error, 14 is not finite, a prompt with the word `overlong` is
    refused; `seconds` for each edit."""

    seconds: float = 0.0
    evaluations: int = 0
    revision: str = "fake-1"

    def take_shared(self, folder: Path) -> None:
        """The pixels do not depend on it."""

    def check_prompt(self, prompt: str) -> None:
        if "overlong" in prompt:
            raise ValueError("the prompt is too long")

    def encode(
        self, images: Sequence[np.ndarray], source_prompts: Sequence[str], seeds: Sequence[int], batch: int
    ) -> list[bytes]:
        return [encode_png(image) for image in np.stack(images)]  # of one size, as a model call

    def identify(
        self,
        encoded: Sequence[bytes],
        source_prompts: Sequence[str],
        targets: Sequence[tuple[int, str]],
        seeds: Sequence[int],
        batch: int,
    ) -> list[bytes]:
        return [prompt.encode() for _, prompt in targets]

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
        asked = [{prompt for task in its for prompt in task.target_prompts} for its in tasks]
        assert all(its <= have.keys() for its, have in zip(asked, halves, strict=True))
        yield from self(images, source_prompts, tasks, seeds, batch)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        source_prompts: Sequence[str],
        tasks: Sequence[Sequence[EditTask]],
        seeds: Sequence[int],
        batch: int,
    ) -> Iterator[EditedImage]:
        for row, (image, its_tasks) in enumerate(zip(np.stack(images), tasks, strict=True)):
            for task in its_tasks:
                time.sleep(self.seconds)
                if task.strength == 13:
                    raise RuntimeError("unlucky")
                pixels = np.clip(image + 10 * task.strength + len(task.target_prompts), 0, 255).astype(np.uint8)
                yield EditedImage(row, task.edit_id, pixels, "d", "fake", None, 0, 40.0, 1.0, task.strength != 14)


@dataclass(frozen=True)
class FakeFactories:
    """Picklable factories of the fakes."""

    seconds: float = 0.0
    revision: str = "fake-1"

    def captioner(self, recipe: Recipe, device: str) -> FakeCaptioner | None:
        plain = isinstance(recipe.captioner, str) and recipe.captioner != "manifest"
        return FakeCaptioner() if plain else None

    def editor(self, recipe: Recipe, device: str) -> Editor:
        return FakeEditor(self.seconds, revision=self.revision)

    def facts(self, recipe: Recipe) -> ModelFacts:
        return ModelFacts(self.revision, "fake-captioner-1", sizes_of(recipe, 32, 8))


def fake_operations(seconds: float = 0.0, revision: str = "fake-1") -> Operations:
    """Operations whose models are fakes."""
    factories = FakeFactories(seconds, revision)
    return Operations(factories.captioner, factories.editor, factories.facts)
