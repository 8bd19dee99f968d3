"""`python -m tests.e2e.gpu_job ROOT POOLS`: a split job with fakes on a Ray that is told of 8 CPUs and 4 GPUs.

POOLS is the recipe's `pools` as JSON. Each unit notes in ROOT/notes which process it ran in and which GPUs that has.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import typer
from PIL import Image

from eim_ops.task import EditedImage
from pipeline.operations import Editor, Operations
from pipeline.recipe import Recipe, parse_recipe
from pipeline.run_edit import run_edit
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

    def encode(self, *arguments: Any) -> list[bytes]:
        note(self.folder, "encode")
        return super().encode(*arguments)

    def identify(self, *arguments: Any) -> list[bytes]:
        note(self.folder, "identify")
        return super().identify(*arguments)

    def manipulate(self, *arguments: Any) -> Iterator[EditedImage]:
        note(self.folder, "edit")
        return super().manipulate(*arguments)


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
