"""The peers' classifier-free guidance."""

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, FreeGuidance


def classifier_free(
    backbone: Backbone, empty: Conditioning, key: str, weight: float, steps: int
) -> FreeGuidance | None:
    """Guidance of that weight by the family's own rule in all `steps`; None at 1. empty: of the empty prompt, each row.

    Raises ValueError, naming the setting `key`, for a model that was not made for it.
    """
    if weight == 1:
        return None
    if backbone.guidance_kind != "true":
        raise ValueError(f"{key} is {weight:g}, but the guidance of {backbone.name} is {backbone.guidance_kind}: set 1")
    return FreeGuidance(empty, weight, steps)
