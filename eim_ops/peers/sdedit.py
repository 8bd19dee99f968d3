"""SDEdit: noise the image part of the way and denoise it under the target prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning
from eim_ops.manipulate import sample
from eim_ops.noise import noise, noised
from eim_ops.peers.checks import check_number, check_whole
from eim_ops.peers.guidance import classifier_free


@dataclass(frozen=True)
class SdeditSettings:
    """steps: of the whole grid. strength: the share of them taken, the last ones. guidance: classifier-free, of the
    target prompt. The defaults are those of diffusers' StableDiffusion3Img2ImgPipeline."""

    steps: int = 50
    strength: float = 0.6
    guidance: float = 7.0

    def __post_init__(self) -> None:
        check_whole("sdedit.steps", self.steps, 1, 1000)
        check_number("sdedit.strength", self.strength, 0, 1, above=True)
        check_number("sdedit.guidance", self.guidance, 1, 50)

    @property
    def taken(self) -> int:
        """Steps taken: the share rounded up, in diffusers' own arithmetic (`get_timesteps`)."""
        return self.steps - int(max(self.steps - min(self.steps * self.strength, self.steps), 0))


PUBLISHED = SdeditSettings()


def sdedit(
    backbone: Backbone, clean: Tensor, source: Conditioning, target: Conditioning, empty: Conditioning,
    seeds: Sequence[int], settings: SdeditSettings = PUBLISHED,
) -> Tensor:  # fmt: skip
    """Edited clean latents (B, C, h, w). The source prompt has no part in it.

    Evaluations a row: `taken`, twice that with guidance (60 by default). Source: Meng et al. 2022,
    sampling by the ODE as diffusers' StableDiffusion3Img2ImgPipeline does, which it equals.
    """
    sigmas = backbone.grid(settings.steps, clean.shape[-2:])[-(settings.taken + 1) :]
    eps = noise(seeds, 1, clean.shape[1:])[0].to(clean)
    free = classifier_free(backbone, empty, "sdedit.guidance", settings.guidance, settings.taken)
    return sample(backbone, noised(clean, eps, sigmas[0]), target, sigmas, free=free)
