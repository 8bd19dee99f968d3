"""What every model family answers, and what follows for all of them: derivatives and the count of evaluations."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from eim_ops.cost import JVP_COST, VJP_COST
from eim_ops.joint import Conditioning, per_row

GuidanceKind = Literal["true", "embedded", "none"]
"""`true`: the model is made for classifier-free guidance. `embedded`: the scale is an input of a model distilled from
guided samples. `none`: distilled without one. The last two have no empty prompt's velocity worth subtracting."""


AttentionKind = Literal["fixed", "unmasked", "masked"]
"""How a family's transformer attends: `fixed` by torch's kernel, whatever is set; else by a kernel that can be set, and
that has to take masks where padding is `masked`."""


class PromptTooLongError(ValueError):
    """A prompt has more tokens than a text encoder takes; it is never cut silently."""


class Backbone(ABC):
    """A rectified-flow transformer with its text encoders and its autoencoder.

    `x_sigma = (1 - sigma) * z0 + sigma * eps`, and the velocity is about `eps - z0`. A family gives the abstract
    methods; `evaluations` counts sample-forwards: a velocity of B rows counts B, a JVP 2 B, a VJP 3 B.
    """

    guidance_kind: GuidanceKind = "true"

    jvp_step: float | None = None
    """None: forward mode. Else central differences over this fraction of the latents' norm. Which is better depends on
    the dtype: `eim_ops/metrics/jvp_accuracy.py` measures it."""

    def __init__(self, name: str, revision: str, image_size: int, spectrum: Tensor | None = None) -> None:
        """image_size: side of its square images in pixels. spectrum: see `identify/spectrum.py`; None: not measured."""
        self.name, self.revision, self.image_size, self.spectrum = name, revision, image_size, spectrum
        self.evaluations = 0

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts to conditioning. Raises PromptTooLongError naming the prompt."""

    @abstractmethod
    def check_prompt(self, prompt: str) -> None:
        """Raises PromptTooLongError if any text encoder would cut the prompt."""

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [-1, 1] to clean latents (B, C, h, w), scaled as the transformer takes them."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents to RGB float32 (B, 3, H, W), clamped to [-1, 1] (NaN stays NaN)."""

    @abstractmethod
    def grid(self, steps: int, shape: Sequence[int] | None = None) -> Tensor:
        """The sampler's own sigmas, float32 (steps + 1,), from its top level down to 0.

        shape: (h, w) of the latents, since many families shift their grid by the number of image tokens; None: those of
        a square of `image_size`.
        """

    @abstractmethod
    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """As `velocity`, differentiable and not counted."""

    def guide(self, velocity: Tensor, from_empty: Tensor, weight: float) -> Tensor:
        """Classifier-free guidance as the family means it: here v_empty + weight (v - v_empty)."""
        return from_empty + weight * (velocity - from_empty)

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """v(x, sigma, c): latents (B, C, h, w), sigma scalar or (B,), to (B, C, h, w)."""
        self.evaluations += len(latents)
        with torch.no_grad():
            return self._velocity(latents, sigma, conditioning)

    def jvp(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, tangent: Tensor) -> Tensor:
        """(dv/dx) t, all (B, C, h, w): by central differences over `jvp_step`, or by forward-mode differentiation.

        Fused attention has no forward mode, so attention runs in plain matrix products there, over as many rows at once
        as `_jvp_rows` says.
        """
        self.evaluations += JVP_COST * len(latents)
        if self.jvp_step is not None:
            return self._central_difference(latents, sigma, conditioning, tangent, self.jvp_step)
        moved, rows, sigmas = [], self._jvp_rows(latents, conditioning), sigma.expand(len(latents))
        for part in (slice(start, start + rows) for start in range(0, len(latents), rows)):
            velocity = partial(self._velocity, sigma=sigmas[part], conditioning=conditioning[part])
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                moved.append(torch.func.jvp(velocity, (latents[part],), (tangent[part],))[1])
        return torch.cat(moved)

    def _jvp_rows(self, latents: Tensor, conditioning: Conditioning) -> int:
        """How many of these rows a JVP in forward mode takes at once: a divisor of their number, by shapes alone, so
        that a row's bits depend on nothing else."""
        return len(latents)

    def _central_difference(
        self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, tangent: Tensor, step: float
    ) -> Tensor:
        norms = latents.flatten(1).norm(dim=1) / tangent.flatten(1).norm(dim=1).clamp(min=1e-12)
        length = per_row(step * norms, latents)
        with torch.no_grad(), _full_convolutions():
            above = self._velocity(latents + length * tangent, sigma, conditioning)
            below = self._velocity(latents - length * tangent, sigma, conditioning)
        return (above - below) / (2 * length)

    def vjp(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, cotangent: Tensor) -> Tensor:
        """(dv/dx)^T u by reverse-mode differentiation, all (B, C, h, w). Exact up to rounding."""
        self.evaluations += VJP_COST * len(latents)
        with torch.enable_grad():
            x = latents.detach().requires_grad_()
            return torch.autograd.grad(self._velocity(x, sigma, conditioning), x, cotangent)[0]


@contextmanager
def _full_convolutions() -> Iterator[None]:
    """Convolutions in all the bits of float32 for the time of a call: cuDNN's ten, the default, drown differences."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
