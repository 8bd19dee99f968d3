"""What each part of an edit costs, in model evaluations by its settings alone: no torch, no weights."""

from dataclasses import dataclass

from eim_ops.method import Method

JVP_COST, VJP_COST = 2, 3
"""Of a product with the model's Jacobian, in evaluations of one sample."""
HELD_OUT_DRAWS = 2
"""Draws that only the acceptance test of HSDS sees."""
_CANDIDATES = 3
"""Of that test: HSDS, DDS and no shift."""


@dataclass(frozen=True)
class Costs:
    """Evaluations to encode an image, to draw the source of its directions, to identify a direction of an (image,
    target prompt) from that, to decode an edit."""

    encode: int
    source: int
    identify: int
    decode: int


def costs(method: Method) -> Costs:
    """The costs of these settings; `Backbone.evaluations` counts the same."""
    guided = method.free_guided_steps
    # An inversion is sampled back once, which gives its residual.
    solver = {"coupled": 1, "euler": 2, "fixed_point": 3, "midpoint": 3}[method.trajectory]
    along = 0 if method.guidance == 1 else 1
    encode, decode = solver * (method.steps + guided), method.steps * (1 + along) + guided
    return Costs(encode, *_identification(method), decode)


def _identification(method: Method) -> tuple[int, int]:
    """Of an image, and of each of its targets."""
    if not method.moves_image:
        return 0, 0
    if method.image_half == "dds":
        return method.draws, method.draws
    draw = 1 + JVP_COST + method.iterations * (VJP_COST + JVP_COST)
    return method.draws + HELD_OUT_DRAWS, method.draws * draw + HELD_OUT_DRAWS * _CANDIDATES
