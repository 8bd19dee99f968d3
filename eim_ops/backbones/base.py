"""What every model family answers."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from eim_ops.joint import Conditioning


class PromptTooLongError(ValueError):
    """A prompt has more tokens than a text encoder takes; it is never cut silently."""


class Backbone(Protocol):
    """A rectified-flow transformer with its text encoders and its autoencoder.

    `x_sigma = (1 - sigma) * z0 + sigma * eps`, and the velocity is about `eps - z0`.
    """

    name: str
    revision: str
    image_size: int
    """Side of its square images in pixels."""
    evaluations: int
    """Sample-forwards so far: one velocity of B rows counts B."""

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts to conditioning. Raises PromptTooLongError naming the prompt."""
        ...

    def check_prompt(self, prompt: str) -> None:
        """Raises PromptTooLongError if any text encoder would cut the prompt."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [-1, 1] to clean latents (B, C, h, w), scaled as the transformer takes them."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents to RGB float32 (B, 3, H, W), clamped to [-1, 1] (NaN stays NaN)."""
        ...

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """v(x, sigma, c): latents (B, C, h, w), sigma scalar or (B,), to (B, C, h, w)."""
        ...

    def grid(self, steps: int) -> Tensor:
        """The sampler's own sigmas, float32 (steps + 1,), from its top level down to 0."""
        ...
