"""A plain loop over the same calls: images in memory, edits dropped. What no pipeline around them can beat by plumbing.

Left out: reading and writing, scores, retries, resume, failure rows. All torch threads are the loop's.
"""

from pathlib import Path

import numpy as np
import typer
from PIL import Image

from benchmarks import clock
from benchmarks.rivals.steps import BATCH, Edits, Prompts, image_paths


def main(images: Path, out: Path, strengths: list[float]) -> None:
    """Caption and edit, one batch after the other."""
    prompts, edits = Prompts.load(), Edits.load(strengths)
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in image_paths(images)]
    clock.note("begins")
    for start in range(0, len(pixels), BATCH):
        chunk = pixels[start : start + BATCH]
        edits(chunk, *prompts(chunk))
    clock.note("ends")


if __name__ == "__main__":
    typer.run(main)
