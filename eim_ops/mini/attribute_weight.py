"""Where in an image the attributes show: the loss counts each of them alike, however small it is."""

from collections.abc import Callable

import torch
from torch import Tensor

from eim_ops.edit import to_images
from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.faces.render import render
from eim_ops.mini.face_set import draw_faces

_SEED, _FACES = 5, 64
_FLOOR = 0.25
"""Of the weight, spread evenly: what no attribute moves must be learned too."""


@torch.no_grad()
def attribute_weight(represent: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights of mean 1, (1, 1, h, w), of a space that images (B, 3, 64, 64) are taken to by `represent`.

    Each attribute gives one equal share, spread as the squared change between its first and last value is. A mouth is
    a hundredth of an image; unweighted, it is learned last. The optimum of a squared loss stays what it is. Ours.
    """
    faces = draw_faces(_SEED, _FACES)
    base = represent(to_images([render(face) for face in faces]))
    total = torch.zeros(base.shape[2:])
    for attribute in ATTRIBUTES:
        moved = torch.zeros_like(total)
        for index in (0, len(attribute.values) - 1):
            edited = to_images([render(face.edited(attribute.name, index)) for face in faces])
            moved += (represent(edited) - base).square().mean((0, 1))
        total += moved / moved.mean()
    return (_FLOOR + (1 - _FLOOR) * total / total.mean())[None, None]
