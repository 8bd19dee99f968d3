"""Models by name: a shipped one, a local folder, or a hub id; resolved where the worker runs."""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from eim_ops.backbones.adapter import PartConfig, PipelineBackbone
from eim_ops.backbones.base import Backbone
from eim_ops.backbones.registry import family_of, stored_config
from eim_ops.captioning.base import Captioner
from eim_ops.identify.spectrum import load_spectrum
from eim_ops.loading import (
    Loading,
    check_family,
    check_machine,
    check_stored,
    has_derivatives,
    prepare,
    quantisation_config,
    stored_quantisation,
)
from eim_ops.mini.shipped import SHIPPED, shipped_path

_COMMIT = re.compile("[0-9a-f]{40}")
_HASHED = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Weights, configurations, chat templates, and what tokenizers are made of."""


def model_folder(name: str) -> Path | None:
    """The folder of a shipped or local model; None for a hub id."""
    folder = shipped_path(name) if name in SHIPPED else Path(name)
    return folder if folder.is_dir() else None


@cache
def model_revision(name: str, revision: str | None = None) -> str:
    """What pins the weights, without loading them: for a folder a hash of its files, for a hub id `revision`.

    Raises ValueError for a hub id whose revision is no commit, since results could then change under one name, and for
    a folder with a revision, which would choose nothing.
    """
    folder = model_folder(name)
    if folder is None:
        if revision is None:
            raise ValueError(
                f"model {name!r} is no shipped model ({', '.join(SHIPPED)}) and no local folder; for a hub id "
                "give its revision (a commit) as well"
            )
        if not _COMMIT.fullmatch(revision):
            raise ValueError(
                f"model {name!r} has the revision {revision!r}, which can come to mean other weights; give the commit, "
                f"40 hexadecimal digits: `git ls-remote https://huggingface.co/{name}` lists those of branches and tags"
            )
        return revision
    if revision is not None:
        raise ValueError(
            f"model {name!r} is a {'shipped one' if name in SHIPPED else 'local folder'}, which its files pin: leave "
            f"its revision {revision!r} out (model_revision, or captioner.revision)"
        )
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _HASHED:
            digest.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def checked_family(name: str, revision: str | None, loading: Loading) -> tuple[PartConfig, type[PipelineBackbone]]:
    """A model's configurations and its adapter, without reading a weight.

    Raises UnknownFamilyError for a model that no adapter knows, LoadingError for a setting that its family lacks.
    """
    config = stored_config(model_folder(name), name, revision)
    family, index = family_of(config, name), config("")
    kinds = family.guidance_of(config), family.attention_kind, index["transformer"][1]
    check_family(loading, index["_class_name"], *kinds, family.takes_prompt_tokens(config))
    check_stored(loading, stored_quantisation(config("transformer")))
    return config, family


def load_backbone(
    name: str, revision: str | None = None, device: str = "auto", dtype: str = "float32", loading: Loading | None = None
) -> Backbone:
    """Load a backbone for inference; dtype is a torch name such as `float32` or `bfloat16`. A folder may bring the
    spectrum of its latents. Raises UnknownFamilyError and LoadingError before any weight is read."""
    import diffusers  # seconds, which whoever asks for facts alone should not pay

    diffusers.utils.logging.disable_progress_bar()
    folder = model_folder(name)
    pinned = model_revision(name, revision)
    loading, where = loading or Loading(), pick_device(device)
    config, family = checked_family(name, revision, loading)
    check_machine(loading, where)
    pipeline = getattr(diffusers, config("")["_class_name"]).from_pretrained(
        folder or name,
        revision=revision,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        quantization_config=quantisation_config(loading),
        device_map=loading.device_map,
        **_absent(config("")),
    )
    prepare(pipeline, loading, where, getattr(torch, dtype))
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    spectrum = load_spectrum(folder) if folder is not None else None
    return family(
        pipeline, name, pinned, spectrum,
        embedded_guidance=loading.embedded_guidance, prompt_tokens=loading.prompt_tokens,
        forward_only=not has_derivatives(loading, stored_quantisation(config("transformer"))),
    )  # fmt: skip


def _absent(index: Mapping[str, Any]) -> dict[str, None]:
    """The parts that the model does without, such as SD3's third text encoder; diffusers wants them said."""
    return {part: None for part, its in index.items() if isinstance(its, list) and its[0] is None}


def load_captioner(name: str, revision: str | None = None, device: str = "auto") -> Captioner:
    """Load a captioner for inference. Raises ValueError as `model_revision` does."""
    from eim_ops.captioning.vlm import load_vlm  # seconds, which whoever asks for facts alone should not pay

    return load_vlm(model_folder(name) or name, name, model_revision(name, revision), pick_device(device))
