"""A Ray Data script as one writes it in twenty minutes: one `map_batches` a step, images and a table at the end.

Ray Data's defaults but for two things. Each actor asks for half a CPU: with the default of one, two actors hold both
CPUs of a small machine and nothing is left to read with. And what two writes share is materialized, else it is made
twice. `--threads N` sets torch's threads, which Ray holds at one: what a user finds who looks at `top`. Left out:
resume, failure rows (one bad image ends the job), versions, names by content, one commit order.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import torch
import typer

from benchmarks import clock
from benchmarks.rivals.steps import BATCH, Edits, Prompts
from pipeline.scores import psnr, ssim

Batch = dict[str, Any]


class Caption:
    """Fills source and target prompts."""

    def __init__(self, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.prompts = Prompts.load()

    def __call__(self, batch: Batch) -> Batch:
        batch["source"], batch["target"] = self.prompts(list(batch["image"]))
        return batch


class Edit:
    """One row for each image and strength."""

    def __init__(self, strengths: list[float], threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.edits = Edits.load(strengths)

    def __call__(self, batch: Batch) -> Batch:
        made = self.edits(list(batch["image"]), list(batch["source"]), list(batch["target"]))
        repeats = len(self.edits.strengths)
        rows = {name: np.repeat(np.asarray(column), repeats, axis=0) for name, column in batch.items()}
        rows["strength"] = np.tile(self.edits.strengths, len(made))
        rows["edited"] = np.stack([pixels for its in made for pixels in its])
        return rows


def score(batch: Batch) -> Batch:
    """PSNR and SSIM to the source, which is dropped."""
    pairs = list(zip(batch["edited"], batch.pop("image"), strict=True))
    batch["psnr"] = np.array([psnr(edited, source) for edited, source in pairs])
    batch["ssim"] = np.array([ssim(edited, source) for edited, source in pairs])
    return batch


def main(
    images: Path,
    out: Path,
    strengths: list[float],
    threads: Annotated[int | None, typer.Option(help="torch's threads in an actor")] = None,
) -> None:
    """Read, caption, edit, score, write."""
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    clock.note("begins")
    done = (
        ray.data.read_images(str(images), include_paths=True)
        .map_batches(Caption, fn_constructor_args=(threads,), batch_size=BATCH, concurrency=1, num_cpus=0.5)
        .map_batches(Edit, fn_constructor_args=(strengths, threads), batch_size=BATCH, concurrency=1, num_cpus=0.5)
        .map_batches(score)
        .materialize()
    )
    done.write_images(str(out / "images"), column="edited", file_format="png")
    done.drop_columns(["edited"]).write_parquet(str(out / "edits"))
    clock.note("ends")
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
