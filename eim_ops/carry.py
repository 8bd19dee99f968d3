"""What travels between processes where each unit of an edit has its own: one image's latents as safetensors.

Carried: z0, and of the trajectory what only model evaluations give (an inversion's two latents, a coupling's
velocities). Made again from prompts and seeds, to the same bits: text conditioning, sigmas and a coupling's noise. At
1024 px and 28 steps in float32 a coupling is 29 latents of 1 MiB; making its velocities again would cost what encoding
costs, so that encoding apart would be for nothing.
"""

from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.edit import EncodedImages, ImageHalves, encode_prompts
from eim_ops.encode import coupling_noise, free_guidance, grid_of
from eim_ops.joint import Coupling, Inversion, JointLatent
from eim_ops.method import Method


def pack_encoded(encoded: EncodedImages) -> list[bytes]:
    """One blob for each image."""
    trajectory = encoded.joint.trajectory
    columns = {"clean": encoded.joint.clean, "recon_psnr": encoded.recon_psnr, "cost": encoded.cost}
    if isinstance(trajectory, Inversion):
        columns |= {"noisy": trajectory.noisy, "residual": trajectory.residual}
    else:
        columns |= {"velocities": trajectory.velocities}
    return _packed(columns)


def unpack_encoded(
    backbone: Backbone, blobs: Sequence[bytes], prompts: Sequence[str], seeds: Sequence[int], method: Method, batch: int
) -> EncodedImages:
    """The images as they were encoded, on the backbone's device; prompts and seeds must be those of the encoding."""
    conditioning = encode_prompts(backbone, prompts, batch)
    columns = _unpacked(blobs)
    latents = {name: columns[name].to(conditioning.tokens.device) for name in columns if name not in _FIGURES}
    clean = latents["clean"]
    sigmas = grid_of(backbone, clean, method)
    trajectory: Inversion | Coupling
    if "velocities" in latents:
        eps = coupling_noise(clean, seeds, len(sigmas) - 1, method.noise)
        trajectory = Coupling(eps, latents["velocities"])
    else:
        trajectory = Inversion(latents["noisy"], latents["residual"])
    free = free_guidance(backbone, method, batch)
    its_free = None if free is None else free[torch.zeros(len(blobs), dtype=torch.int64)]
    joint = JointLatent(clean, conditioning, trajectory, sigmas, its_free)
    return EncodedImages(joint, columns["recon_psnr"], columns["cost"])


def unpack_clean(blobs: Sequence[bytes]) -> Tensor:
    """z0 alone, (B, C, h, w), on the CPU."""
    return _unpacked(blobs)["clean"]


_FIGURES = ("recon_psnr", "cost", "fell_back", "residual_left", "iterations")
"""Of rows, kept on the CPU."""
_CHANNELS_LAST = "channels_last."


def pack_halves(halves: ImageHalves) -> list[bytes]:
    """One blob for each direction's image half."""
    figures = {"fell_back": halves.fell_back, "residual_left": halves.residual, "iterations": halves.iterations}
    return _packed({"image": halves.image, "cost": halves.cost, **figures})


def unpack_halves(blobs: Sequence[bytes], like: Tensor) -> ImageHalves:
    """The image halves, on the device of `like`."""
    its = _unpacked(blobs)
    image = its["image"].to(like.device)
    return ImageHalves(image, its["fell_back"], its["residual_left"], its["iterations"], its["cost"])


def unpack_image(blob: bytes) -> Tensor:
    """One image half alone, (1, C, h, w), on the CPU."""
    return _unpacked([blob])["image"]


def _packed(columns: Mapping[str, Tensor]) -> list[bytes]:
    rows = range(len(columns["cost"]))
    laid_out = dict(_laid_out(name, its.cpu()) for name, its in columns.items())
    return [save({name: its[row : row + 1].contiguous() for name, its in laid_out.items()}) for row in rows]


def _laid_out(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Latents that lie with their channels last keep to it: kernels round differently for another layout."""
    last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return (f"{_CHANNELS_LAST}{name}", tensor.permute(0, 2, 3, 1)) if last else (name, tensor)


def _unpacked(blobs: Sequence[bytes]) -> dict[str, Tensor]:
    rows = [load(blob) for blob in blobs]
    columns = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    return {
        name.removeprefix(_CHANNELS_LAST): its.permute(0, 3, 1, 2) if name.startswith(_CHANNELS_LAST) else its
        for name, its in columns.items()
    }
