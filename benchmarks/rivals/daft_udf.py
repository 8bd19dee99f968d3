"""A Daft script with the same steps as UDFs: classes that hold a model, a table with the names of the images written.

Daft's defaults, with its native runner; UDFs that hold a model have one instance each, as its documentation shows. Left
out: resume, failure rows (one bad image ends the job), versions, one commit order.
"""

import uuid
from pathlib import Path
from typing import Any

import daft
import numpy as np
import typer
from daft import DataType
from PIL import Image

from benchmarks import clock
from benchmarks.rivals.steps import BATCH, Edits, Prompts
from pipeline.scores import psnr, ssim

PIXELS = DataType.tensor(DataType.uint8())
PROMPTS = DataType.struct({"source": DataType.string(), "target": DataType.string()})
MADE = DataType.list(DataType.struct({"strength": DataType.float64(), "pixels": PIXELS}))
SCORED = DataType.struct({"psnr": DataType.float64(), "ssim": DataType.float64(), "image": DataType.string()})


@daft.cls(max_concurrency=1)
class Caption:
    """Source and target prompt of each image."""

    def __init__(self) -> None:
        self.prompts = Prompts.load()

    @daft.method.batch(return_dtype=PROMPTS, batch_size=BATCH)
    def write(self, images: daft.Series) -> list[dict[str, str]]:
        """(source, target) of uint8 (H, W, 3)."""
        pairs = zip(*self.prompts([np.asarray(image) for image in images.to_pylist()]), strict=True)
        return [{"source": source, "target": target} for source, target in pairs]


@daft.cls(max_concurrency=1)
class Edit:
    """Each image at each strength."""

    def __init__(self, strengths: list[float]) -> None:
        self.edits = Edits.load(strengths)

    @daft.method.batch(return_dtype=MADE, batch_size=BATCH)
    def make(self, images: daft.Series, prompts: daft.Series) -> list[list[dict[str, Any]]]:
        """One list for each image."""
        pairs = prompts.to_pylist()
        pixels = [np.asarray(image) for image in images.to_pylist()]
        made = self.edits(pixels, [pair["source"] for pair in pairs], [pair["target"] for pair in pairs])
        strengths = self.edits.strengths
        return [[{"strength": s, "pixels": p} for s, p in zip(strengths, its, strict=True)] for its in made]


@daft.func(return_dtype=SCORED, unnest=True)
def finish(edited: Any, source: Any, out: str) -> dict[str, Any]:
    """Score one edit and write it."""
    pixels, before = np.asarray(edited["pixels"]), np.asarray(source)
    path = f"{out}/{uuid.uuid4().hex}.png"
    Image.fromarray(pixels).save(path)
    return {"psnr": psnr(pixels, before), "ssim": ssim(pixels, before), "image": path}


def main(images: Path, out: Path, strengths: list[float]) -> None:
    """Read, caption, edit, score, write."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    clock.note("begins")
    rows = daft.from_glob_path(f"{images}/*.png").select("path")
    rows = rows.with_column("source", rows["path"].download().decode_image(mode="RGB"))
    rows = rows.with_column("prompts", Caption().write(rows["source"]))
    rows = rows.with_column("edited", Edit(strengths).make(rows["source"], rows["prompts"])).explode("edited")
    rows = rows.select(
        "path", "prompts", rows["edited"]["strength"], finish(rows["edited"], rows["source"], str(out / "images"))
    )
    rows.write_parquet(str(out / "edits"))
    clock.note("ends")


if __name__ == "__main__":
    typer.run(main)
