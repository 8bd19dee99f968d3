"""Pre-rendered faces: the training data of every mini model, drawn once and kept on disk."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from eim_ops.edit import to_images
from eim_ops.faces.face import Face, sample_face
from eim_ops.faces.render import SIZE, render

_CHUNK = 1000
HELD_OUT_SEED = 1_000_000
"""Seeds from here on are never trained on."""


@dataclass(frozen=True)
class FaceSet:
    """`faces[i]` is the ground truth of `pixels[i]`; pixels are uint8 (N, 64, 64, 3)."""

    faces: list[Face]
    pixels: np.ndarray

    def images(self, indices: np.ndarray) -> torch.Tensor:
        """Images as float32 (len(indices), 3, 64, 64) in [-1, 1]."""
        return to_images(self.pixels[indices])

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Different faces at random: pixels uint8 (batch, 64, 64, 3), and their rows int64 (batch,)."""
        rows = np.sort(rng.choice(len(self.faces), batch, replace=False, shuffle=False))
        return torch.from_numpy(self.pixels[rows]), torch.from_numpy(rows)

    def first(self, count: int) -> "FaceSet":
        """The first `count` faces."""
        return FaceSet(self.faces[:count], self.pixels[:count])


def draw_faces(seed: int, count: int, correlated: bool = False, first: int = 0) -> list[Face]:
    """`count` faces from index `first` on, each a function of (seed, its index) alone."""
    return [sample_face(np.random.default_rng((seed, index)), correlated) for index in range(first, first + count)]


def _render_all(faces: list[Face]) -> np.ndarray:
    return np.stack([render(face) for face in faces])


def _draw_chunk(seed: int, start: int, stop: int, correlated: bool, pixels: Path | None) -> list[Face]:
    """Faces `start` to `stop` of a seed, rendered into their place in the array of `pixels`, where given."""
    faces = draw_faces(seed, stop - start, correlated, start)
    if pixels is not None:
        np.load(pixels, mmap_mode="r+")[start:stop] = _render_all(faces)
    return faces


def face_set(seed: int, count: int, work: Path | None = None, correlated: bool = False) -> FaceSet:
    """Draw and render `count` faces; with `work`, on all cores, and keep the pixels there for the next call."""
    if work is None:
        faces = draw_faces(seed, count, correlated)
        return FaceSet(faces, _render_all(faces))
    path = work / f"faces-{seed}-{count}{'-correlated' if correlated else ''}.npy"
    partial = None if path.exists() else path.with_suffix(".partial.npy")
    if partial is not None:
        work.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(partial, "w+", np.uint8, (count, SIZE, SIZE, 3)).flush()
    starts = range(0, count, _CHUNK)
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(
            _draw_chunk, repeat(seed), starts, [min(start + _CHUNK, count) for start in starts], repeat(correlated),
            repeat(partial),
        )  # fmt: skip
        faces = [face for chunk in drawn for face in chunk]
    if partial is not None:
        partial.rename(path)
    return FaceSet(faces, np.load(path, mmap_mode="r"))
