"""RF-Inversion: invert towards given noise, then sample under the target prompt while held to the source image."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, widened
from eim_ops.manipulate import guided_velocity
from eim_ops.noise import noise
from eim_ops.peers.checks import check_number, check_whole
from eim_ops.peers.guidance import classifier_free


@dataclass(frozen=True)
class RfInversionSettings:
    """steps: of the inversion, and of the sampling. gamma: how far the inversion is drawn to Gaussian noise. eta: how
    far the sampling is drawn to the source image, in its first `controlled` steps. guidance: classifier-free, of the
    target prompt. The defaults are those of the authors' code for FLUX.1-dev, whose guidance is distilled."""

    steps: int = 28
    gamma: float = 0.5
    eta: float = 0.9
    controlled: int = 7
    guidance: float = 3.5

    def __post_init__(self) -> None:
        check_whole("rf_inversion.steps", self.steps, 1, 1000)
        check_number("rf_inversion.gamma", self.gamma, 0, 1)
        check_number("rf_inversion.eta", self.eta, 0, 1)
        check_whole("rf_inversion.controlled", self.controlled, 0, self.steps)
        check_number("rf_inversion.guidance", self.guidance, 1, 50)


PUBLISHED = RfInversionSettings()


def rf_inversion(
    backbone: Backbone, clean: Tensor, source: Conditioning, target: Conditioning, empty: Conditioning,
    seeds: Sequence[int], settings: RfInversionSettings = PUBLISHED,
) -> Tensor:  # fmt: skip
    """Edited clean latents (B, C, h, w). The inversion is under the empty prompt: the source prompt has no part in it.

    Up, towards one noise an image: v + gamma ((eps - x) / (1 - sigma) - v). Down: v + eta ((x - z0) / sigma - v).
    Evaluations a row: 2 `steps`, and `steps` more with guidance (84 by default). Source: Rout et al. 2024, algorithms
    1 and 2, on the sampler's own grid both ways.
    """
    x = widened(clean)
    sigmas = backbone.grid(settings.steps, clean.shape[-2:]).to(x.dtype)
    eps = noise(seeds, 1, clean.shape[1:])[0].to(x)
    free = classifier_free(backbone, empty, "rf_inversion.guidance", settings.guidance, settings.steps)
    for low, high in pairwise(sigmas.flip(0)):
        velocity = backbone.velocity(x.to(clean.dtype), low, empty)
        x = x + (high - low) * (velocity + settings.gamma * ((eps - x) / (1 - low) - velocity))
    for step, (sigma, below) in enumerate(pairwise(sigmas)):
        eta = settings.eta if step < settings.controlled else 0.0
        velocity = guided_velocity(backbone, x.to(clean.dtype), sigma, target, free=free)
        x = x + (below - sigma) * (velocity + eta * ((x - clean) / sigma - velocity))
    return x.to(clean.dtype)
