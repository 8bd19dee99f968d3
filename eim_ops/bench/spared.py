"""Our method with every other attribute's direction taken out of the asked one's: what sparing is worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.bench.cases import Case, next_value, sources
from eim_ops.edit import to_images
from eim_ops.encode import encode
from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.identify.draws import draw_source
from eim_ops.identify.sds import dds_direction
from eim_ops.identify.spare import spare
from eim_ops.identify.text import text_direction
from eim_ops.joint import Direction
from eim_ops.manipulate import manipulate
from eim_ops.method import Method
from eim_ops.noise import levels


@dataclass(frozen=True)
class Spared:
    """The method, with an image half by DDS; each of the other attributes' directions leads to its next value."""

    method: Method


def edit_sparing(backbone: Backbone, cases: Sequence[Case], method: Method) -> Tensor:
    """Clean latents (B, C, h, w) of the cases edited at strength 1. Raises GrammarError where a prompt, a captioner's,
    is not of the grammar."""
    seeds = [case.seed for case in cases]
    joint = encode(backbone, to_images(list(sources(cases))), [case.source_prompt for case in cases], seeds, method)
    sigmas = levels(method.draws, method.sigma_max)
    drawn = draw_source(backbone, joint.clean, joint.conditioning, seeds, sigmas)

    def direction(prompts: list[str]) -> Direction:
        target = backbone.encode_text(prompts)
        return Direction(dds_direction(backbone, drawn, target), text_direction(joint.conditioning, target))

    # Each case has its own others: those that follow its asked attribute, in a circle.
    others = [direction([next_value(case, place) for case in cases]) for place in range(1, len(ATTRIBUTES))]
    asked = spare(direction([case.target_prompt for case in cases]), others)
    ones = torch.ones(len(cases), device=joint.clean.device)
    asked = asked.scaled(ones * method.image_scale, ones * method.text_scale)
    return manipulate(backbone, joint, asked, ones, method.guidance)
