"""Pre-rendered faces: the training data of every mini model, drawn once and kept on disk."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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

    def first(self, count: int) -> "FaceSet":
        """The first `count` faces."""
        return FaceSet(self.faces[:count], self.pixels[:count])


def draw_faces(seed: int, count: int, correlated: bool = False) -> list[Face]:
    """`count` faces, each a function of (seed, its index) alone."""
    return [sample_face(np.random.default_rng((seed, index)), correlated) for index in range(count)]


def _render_all(faces: list[Face]) -> np.ndarray:
    return np.stack([render(face) for face in faces])


def face_set(seed: int, count: int, work: Path | None = None, correlated: bool = False) -> FaceSet:
    """Draw and render `count` faces on all cores; with `work`, keep the pixels there for the next call."""
    faces = draw_faces(seed, count, correlated)
    if work is None:
        return FaceSet(faces, _render_all(faces))
    path = work / f"faces-{seed}-{count}{'-correlated' if correlated else ''}.npy"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, SIZE, SIZE, 3))
        chunks = [faces[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
        with ProcessPoolExecutor() as pool:
            for index, rendered in enumerate(pool.map(_render_all, chunks)):
                pixels[index * _CHUNK : index * _CHUNK + len(rendered)] = rendered
        pixels.flush()
        partial.rename(path)
    return FaceSet(faces, np.load(path, mmap_mode="r"))
