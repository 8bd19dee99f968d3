"""Families by the pipeline class that a model's `model_index.json` names; none of it loads a weight."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from eim_ops.backbones.adapter import PartConfig, PipelineBackbone
from eim_ops.backbones.flux import FluxBackbone
from eim_ops.backbones.flux2 import Flux2Backbone, Flux2KleinBackbone
from eim_ops.backbones.qwen_image import QwenImageBackbone
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.backbones.z_image import ZImageBackbone

FAMILIES: Mapping[str, type[PipelineBackbone]] = {
    "StableDiffusion3Pipeline": Sd3Backbone,
    "FluxPipeline": FluxBackbone,
    "Flux2Pipeline": Flux2Backbone,
    "Flux2KleinPipeline": Flux2KleinBackbone,
    "QwenImagePipeline": QwenImageBackbone,
    "ZImagePipeline": ZImageBackbone,
}

_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
_LIBRARIES = ("diffusers", "transformers")


class UnknownFamilyError(ValueError):
    """A model of no known family, or not in the layout of a diffusers pipeline."""


def stored_config(folder: Path | None, name: str, revision: str | None) -> PartConfig:
    """The configurations of a model that isn't loaded, from its folder (None: the hub's, at `revision`).

    They raise FileNotFoundError for one that the model lacks, ConnectionError where the hub could not be asked for it.
    """

    @cache
    def config(part: str) -> Mapping[str, Any]:
        file = f"{part}/config.json" if part else "model_index.json"
        if folder is not None:
            return json.loads((folder / file).read_text())
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

        try:
            path = hf_hub_download(name, file, revision=revision)
        except LocalEntryNotFoundError as error:  # a FileNotFoundError, though nobody knows yet whether it is there
            raise ConnectionError(
                f"{name}: {file} is not in this machine's cache, and the hub gave no answer; check the connection, or "
                f"download the model first ({error})"
            ) from error
        except RemoteEntryNotFoundError as error:
            raise FileNotFoundError(f"{name} has no {file} at {revision}") from error
        return json.loads(Path(path).read_text())

    return config


def family_of(config: PartConfig, name: str) -> type[PipelineBackbone]:
    """The adapter of a model. Raises UnknownFamilyError naming what is known, ConnectionError as `stored_config`."""
    try:
        index = config("")
    except FileNotFoundError as error:
        raise UnknownFamilyError(f"{name}: no model_index.json; give a model in the layout of diffusers") from error
    found = str(index.get("_class_name"))
    if found not in FAMILIES:
        raise UnknownFamilyError(f"{name} is a {found}; known are {', '.join(FAMILIES)}; see docs/add-a-backbone.md")
    scheduler = (index.get("scheduler") or [None, None])[1]
    if scheduler != _SCHEDULER:
        raise UnknownFamilyError(f"{name} has the scheduler {scheduler}; known is {_SCHEDULER}: give it that one")
    _check_parts(index, name)
    return FAMILIES[found]


def _check_parts(index: Mapping[str, Any], name: str) -> None:
    """Refuses a part whose class is not named among the libraries' own: it could be code that the model brings."""
    for part, its in index.items():
        match its:
            case [str(library), str(kind)]:
                if library not in _LIBRARIES or (library == "transformers" and kind.startswith("Auto")):
                    raise UnknownFamilyError(
                        f"{name}: its {part} is {library}'s {kind}, which could be code of its own, and that is never "
                        f"run; name a class of {' or '.join(_LIBRARIES)} in model_index.json"
                    )
