"""FlowEdit: an ODE from the source image to the edited one that passes through no noise, without inversion."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, widened
from eim_ops.manipulate import guided_velocity
from eim_ops.noise import noise, noised
from eim_ops.peers.checks import check_number, check_whole
from eim_ops.peers.guidance import classifier_free


@dataclass(frozen=True)
class FlowEditSettings:
    """steps: of the whole grid. last: how many of them are taken, the last ones (the paper's n_max).
    source_guidance, target_guidance: classifier-free, of each prompt. The defaults are the paper's for SD3, with
    its n_avg = 1 and n_min = 0."""

    steps: int = 50
    last: int = 33
    source_guidance: float = 3.5
    target_guidance: float = 13.5

    def __post_init__(self) -> None:
        check_whole("flowedit.steps", self.steps, 1, 1000)
        check_whole("flowedit.last", self.last, 1, self.steps)
        check_number("flowedit.source_guidance", self.source_guidance, 1, 50)
        check_number("flowedit.target_guidance", self.target_guidance, 1, 50)


PUBLISHED = FlowEditSettings()


def flowedit(
    backbone: Backbone, clean: Tensor, source: Conditioning, target: Conditioning, empty: Conditioning,
    seeds: Sequence[int], settings: FlowEditSettings = PUBLISHED,
) -> Tensor:  # fmt: skip
    """Edited clean latents (B, C, h, w): y += dsigma [v(x_i + y - z0, c_tgt) - v(x_i, c_src)], fresh noise in each x_i.

    Evaluations a row: 2 `last`, and `last` more for each guidance other than 1 (132 by default). With equal prompts
    and equal guidance it returns the source. Source: Kulikov et al. 2024, algorithm 1.
    """
    sigmas = backbone.grid(settings.steps, clean.shape[-2:])[-(settings.last + 1) :]
    of_source, of_target = (
        classifier_free(backbone, empty, f"flowedit.{prompt}_guidance", weight, settings.last)
        for prompt, weight in (("source", settings.source_guidance), ("target", settings.target_guidance))
    )
    # The steps are small: as in the authors' code they are added up in float32, whatever the model's dtype.
    edited = widened(clean)
    for (sigma, below), eps in zip(pairwise(sigmas), noise(seeds, settings.last, clean.shape[1:]), strict=True):
        eps = eps.to(clean)
        x, moved = noised(clean, eps, sigma), noised(clean, eps, sigma, edited - clean)
        from_source = guided_velocity(backbone, x, sigma, source, free=of_source)
        to_target = guided_velocity(backbone, moved, sigma, target, free=of_target)
        edited = edited + (below - sigma).to(edited.dtype) * (to_target - from_source)
    return edited.to(clean.dtype)
