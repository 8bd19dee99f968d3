"""A direction shared by many images: identified once an attribute, averaged over images, kept under its content's hash.

A folder `<id>` holds `direction.safetensors` (image, tokens, pooled, and mask where the
model has one) and `direction.json` (where it comes from).
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, Direction

_TENSORS, _METADATA = "direction.safetensors", "direction.json"
_FORMAT = 1
_IDENTIFY_AGAIN = "delete this folder, then identify and save the direction again"


class DirectionError(ValueError):
    """A stored direction that can't be used: the message says what is wrong, where, and the mend."""


@dataclass(frozen=True)
class SharedDirection:
    """One direction for an attribute, with all that it was identified from.

    direction: one row, finite. model, model_revision: the backbone it belongs to. attribute, target: what changes, and
    to what. source_prompts, target_prompts, image_sha256s: of the images averaged over, in order; a direction from
    reference images may have no prompts. method: the settings, such as `asdict(Method(...))`. seed: of the draws.
    Raises ValueError for a direction of several rows or with NaN or Inf, and for prompts that aren't in pairs.
    """

    direction: Direction
    model: str
    model_revision: str
    attribute: str
    target: str
    source_prompts: tuple[str, ...]
    target_prompts: tuple[str, ...]
    image_sha256s: tuple[str, ...]
    method: Mapping[str, str | int | float | bool | None]
    seed: int

    def __post_init__(self) -> None:
        if len(self.direction) != 1:
            raise ValueError(f"a shared direction has one row, this one {len(self.direction)}; average it first")
        if not all(tensor.isfinite().all() for tensor in _tensors(self.direction).values()):
            raise ValueError(
                f"the direction of {self.attribute!r} holds NaN or Inf; leave out the images that it is from"
            )
        if len(self.source_prompts) != len(self.target_prompts):
            raise ValueError(
                f"{len(self.source_prompts)} source prompts but {len(self.target_prompts)} target prompts; "
                "give each source its target"
            )


def image_half_alone(image: Tensor) -> Direction:
    """A direction (1, C, h, w) whose text half is every image's own: its tokens are none."""
    return Direction(image, Conditioning(torch.zeros(1, 0, 0), torch.zeros(1, 0)))


def save_direction(shared: SharedDirection, folder: Path) -> str:
    """Write `folder`/<id>, whole or not at all, and return the id: a hash of all that is in it, 16 hex digits.

    What is there already isn't written again. Raises DirectionError where that is damaged, ValueError for a setting
    that is NaN or Inf.
    """
    metadata = {f.name: getattr(shared, f.name) for f in fields(shared) if f.name != "direction"}
    metadata = {"format": _FORMAT, **metadata, "method": dict(shared.method)}
    text = json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    tensors = _tensors(shared.direction)
    content_id = _content_id(metadata, tensors)
    final, partial = folder / content_id, folder / f".{content_id}.{uuid.uuid4().hex}.partial"
    if not final.exists():
        try:
            partial.mkdir(parents=True)
            (partial / _TENSORS).write_bytes(save(tensors))
            (partial / _METADATA).write_text(text, encoding="utf-8")
            partial.rename(final)
        except OSError:
            if not final.exists():  # else another process has just saved the same
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    _read(final)
    return content_id


def load_direction(path: Path, backbone: Backbone) -> SharedDirection:
    """The direction in `path` (folder/<id>), in the dtype and on the device of the backbone's own latents and text.

    Raises DirectionError where files are missing, damaged or changed, or where the direction is of another model,
    revision, latent shape or token shape. An image half alone gets a text half of zeros, and may have any latent
    shape. Encodes a blank image and the empty prompt to see the backbone's shapes.
    """
    metadata, tensors = _read(path)
    for what, stored, its in (
        ("model", metadata["model"], backbone.name),
        ("model revision", metadata["model_revision"], backbone.revision),
    ):
        if stored != its:
            raise DirectionError(
                f"{path}: the direction belongs to {what} {stored!r}, the backbone's is {its!r}; "
                "load that model, or identify the direction again on this one"
            )
    blank = torch.zeros(1, 3, backbone.image_size, backbone.image_size)
    expected = _tensors(Direction(backbone.encode_image(blank), backbone.encode_text([""])))
    if not tensors["tokens"].numel():
        # Of an image half alone any size goes; its text half moves nothing.
        expected |= {"image": tensors["image"].to(expected["image"])}
        tensors = {name: torch.zeros_like(its) for name, its in expected.items()} | {"image": tensors["image"]}
    for name, like in expected.items():
        if tensors[name].shape != like.shape:
            raise DirectionError(
                f"{path}: the direction has {name} of shape {tuple(tensors[name].shape[1:])}, {backbone.name} at "
                f"{backbone.image_size} px {tuple(like.shape[1:])}; load it with the image size and text encoders "
                "that the direction was identified with, or identify the direction again"
            )
    image, *text = (tensors[name].to(like) for name, like in expected.items())
    kept: dict[str, Any] = {
        name: tuple(it) if isinstance(it, list) else it for name, it in metadata.items() if name != "format"
    }
    return SharedDirection(Direction(image, Conditioning(*text)), **kept)


def _tensors(direction: Direction) -> dict[str, Tensor]:
    parts = {"image": direction.image, **direction.text.parts()}
    return {name: tensor.detach().contiguous() for name, tensor in parts.items()}


def _content_id(metadata: Any, tensors: Mapping[str, Tensor]) -> str:
    """Of the contents, not of the files' bytes: layout and library versions don't change it."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a folder whose contents are what its name says."""
    try:
        text, data = (path / _METADATA).read_bytes(), (path / _TENSORS).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DirectionError(
            f"{path} is no shared direction: {error.filename} is missing; give the folder that save_direction wrote, "
            "named by the id it returned"
        ) from error
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise DirectionError(f"{path / _METADATA} is damaged: {error}; {_IDENTIFY_AGAIN}") from error
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:  # a KeyError names a dtype that torch hasn't
        raise DirectionError(f"{path / _TENSORS} is damaged: {error}; {_IDENTIFY_AGAIN}") from error
    content_id, name = _content_id(metadata, tensors), path.resolve().name
    if content_id != name:
        raise DirectionError(
            f"{path}: the contents hash to {content_id}, the folder's name says {name}: {_METADATA} or {_TENSORS} was "
            f"changed or damaged, or the folder renamed; give it its name back, or {_IDENTIFY_AGAIN}"
        )
    known = {"format", *(f.name for f in fields(SharedDirection))} - {"direction"}
    needed = {"image", "tokens", "pooled"}
    if metadata.get("format") != _FORMAT or set(metadata) != known or set(tensors) - {"mask"} != needed:
        raise DirectionError(
            f"{path} has format {metadata.get('format')!r}, this version reads {_FORMAT}; {_IDENTIFY_AGAIN}, "
            "or load it with the version that wrote it"
        )
    return metadata, tensors
