"""`python -m tests.e2e.gpu_job ROOT POOLS`: a split job with fakes on a Ray that is told of 8 CPUs and 4 GPUs.

POOLS is the recipe's `pools` as JSON. Each unit notes in ROOT/notes which process it ran in and which GPUs that has.
"""

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import typer
from PIL import Image

from eim_ops.task import EditedImage, EditTask
from pipeline.flow import run_edit
from pipeline.operations import Editor, Operations
from pipeline.recipe import Recipe, parse_recipe
from tests.fakes import FakeCaptioner, FakeEditor, fake_operations


def note(folder: str, unit: str) -> None:
    about = {"unit": unit, "pid": os.getpid(), "gpus": [int(name) for name in ray.get_gpu_ids()]}
    about["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    (Path(folder) / uuid.uuid4().hex).write_text(json.dumps(about))


@dataclass(frozen=True)
class NotingCaptioner(FakeCaptioner):
    folder: str = ""

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        note(self.folder, "caption")
        return super().describe(images)


@dataclass(frozen=True)
class NotingEditor(FakeEditor):
    folder: str = ""

    def encode(
        self, images: Sequence[np.ndarray], source_prompts: Sequence[str], seeds: Sequence[int], batch: int
    ) -> list[bytes]:
        note(self.folder, "encode")
        return super().encode(images, source_prompts, seeds, batch)

    def identify(
        self,
        encoded: Sequence[bytes],
        source_prompts: Sequence[str],
        targets: Sequence[tuple[int, str]],
        seeds: Sequence[int],
        batch: int,
    ) -> list[bytes]:
        note(self.folder, "identify")
        return super().identify(encoded, source_prompts, targets, seeds, batch)

    def manipulate(
        self,
        encoded: Sequence[bytes],
        halves: Sequence[Mapping[str, bytes]],
        source_prompts: Sequence[str],
        tasks: Sequence[Sequence[EditTask]],
        seeds: Sequence[int],
        batch: int,
    ) -> Iterator[EditedImage]:
        note(self.folder, "edit")
        return super().manipulate(encoded, halves, source_prompts, tasks, seeds, batch)


@dataclass(frozen=True)
class Factories:
    folder: str

    def captioner(self, recipe: Recipe, device: str) -> FakeCaptioner:
        assert device == "cuda"
        return NotingCaptioner(folder=self.folder)

    def editor(self, recipe: Recipe, device: str) -> Editor:
        assert device == "cuda"
        return NotingEditor(seconds=0.02, folder=self.folder)


def main(root: str, pools: str) -> None:
    """Run it and print how many edits there are."""
    ray.init(
        address="local", num_cpus=8, num_gpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )
    smile = {"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]}
    recipe = {"input": {"path": f"{root}/in"}, "output": f"{root}/out", "model": "fake", "captioner": "fake"}
    checked = parse_recipe({**recipe, "edits": [smile], "batch": 2, "placement": "split", "pools": json.loads(pools)})
    factories = Factories(f"{root}/notes")
    summary = run_edit(checked, Operations(factories.captioner, factories.editor, fake_operations().facts))
    print(json.dumps({"edits": summary.edits, "failures": summary.failures, "problem": summary.problem}))


if __name__ == "__main__":
    typer.run(main)
