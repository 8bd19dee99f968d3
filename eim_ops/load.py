"""Models by name: a shipped one, a local folder, or a hub id; resolved where the worker runs."""

import hashlib
from functools import cache
from pathlib import Path

import diffusers
import torch
from diffusers import StableDiffusion3Pipeline

from eim_ops.backbones.base import Backbone
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.captioning.base import Captioner
from eim_ops.captioning.vlm import load_vlm
from eim_ops.identify.spectrum import load_spectrum
from eim_ops.mini.shipped import SHIPPED, shipped_path


def model_folder(name: str) -> Path | None:
    """The folder of a shipped or local model; None for a hub id."""
    folder = shipped_path(name) if name in SHIPPED else Path(name)
    return folder if folder.is_dir() else None


@cache
def model_revision(name: str, revision: str | None = None) -> str:
    """What pins the weights, without loading them: for a folder a hash of its files, for a hub id `revision`.

    Raises ValueError for a hub id without a revision, since results could then change under one name.
    """
    folder = model_folder(name)
    if folder is None:
        if revision is None:
            raise ValueError(
                f"model {name!r} is no shipped model ({', '.join(SHIPPED)}) and no local folder; for a hub id "
                "give its revision (a commit) as well"
            )
        return revision
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json", ".jinja"):
            digest.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def load_backbone(name: str, revision: str | None = None, device: str = "auto", dtype: str = "float32") -> Backbone:
    """Load a backbone for inference; dtype is a torch name such as `float32` or `bfloat16`. A folder may bring the
    spectrum of its latents."""
    diffusers.utils.logging.disable_progress_bar()
    folder = model_folder(name)
    pinned = model_revision(name, revision)
    without_t5 = folder is not None and not (folder / "text_encoder_3").is_dir()
    absent = {"text_encoder_3": None, "tokenizer_3": None} if without_t5 else {}
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder or name, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True, **absent
    )
    pipeline.to(pick_device(device))
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.eval().requires_grad_(False)
    return Sd3Backbone(pipeline, name, pinned, load_spectrum(folder) if folder is not None else None)


def load_captioner(name: str, revision: str | None = None, device: str = "auto") -> Captioner:
    """Load a captioner for inference."""
    return load_vlm(model_folder(name) or name, name, revision or model_revision(name), pick_device(device))
