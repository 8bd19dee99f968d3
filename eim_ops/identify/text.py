"""The text half of a direction: the difference of two conditionings."""

from eim_ops.joint import Conditioning


def text_direction(source: Conditioning, target: Conditioning) -> Conditioning:
    """n_c = c_tgt - c_src, token by token; the prompts must be aligned. Source: paper, figure 5b."""
    return target - source
