"""FlowEdit as its authors' script has it: one image a call, at its cheapest point that does as well as ours.

That is 14 of 14 steps without guidance (docs/benchmark/tuning.json). Prompts by the same captioner, images written
as PNG. FlowEdit has no strength: each strength asked for stands for one edit, and one image's captions serve them all.
Left out: scores, retries, resume, failure rows.
"""

from pathlib import Path

import numpy as np
import typer
from PIL import Image

from benchmarks import clock
from benchmarks.rivals.steps import Prompts, image_paths
from eim_ops.edit import to_images, to_pixels
from eim_ops.named_models import load_backbone
from eim_ops.peers.flowedit import FlowEditSettings, flowedit

BEST = FlowEditSettings(steps=14, last=14, source_guidance=1.0, target_guidance=1.0)


def main(images: Path, out: Path, strengths: list[float]) -> None:
    """Caption and edit each image alone."""
    prompts, backbone = Prompts.load(), load_backbone("mini-dit")
    clock.note("begins")
    out.mkdir(parents=True, exist_ok=True)
    empty = backbone.encode_text([""])
    for path in image_paths(images):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        sources, targets = prompts([pixels])
        for seed in range(len(strengths)):
            clean = backbone.encode_image(to_images([pixels]))
            source, target = backbone.encode_text(sources), backbone.encode_text(targets)
            edited = flowedit(backbone, clean, source, target, empty, [seed], BEST)
            (made,) = to_pixels(backbone.decode(edited))
            Image.fromarray(made).save(out / f"{path.stem}-{seed}.png")
    clock.note("ends")


if __name__ == "__main__":
    typer.run(main)
