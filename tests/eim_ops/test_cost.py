"""The arithmetic against what the model counts."""

from itertools import product

import numpy as np
import pytest

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.cost import costs
from eim_ops.edit import edit_images
from eim_ops.faces.face import sample_face
from eim_ops.faces.render import render
from eim_ops.method import Method
from eim_ops.task import EditTask

SOURCE, SMILE, RED = (f"a portrait with {what} hair" for what in ("black", "brown", "red"))
TASKS = (EditTask("half", (SMILE,), 0.5), EditTask("one", (SMILE,), 1.0), EditTask("both", (SMILE, RED), 1.0))
METHODS = [
    *(Method(steps=2, draws=1, trajectory=kind) for kind in ("coupled", "euler", "fixed_point", "midpoint")),
    *(Method(steps=1, draws=1, guidance=along, free_guidance=free) for along, free in product((1, 2), (1, 2))),
    *(Method(steps=3, draws=1, trajectory=kind, guidance=2) for kind in ("coupled", "midpoint")),
    Method(steps=3, draws=1, free_guidance_share=1),
    Method(steps=1, image_half="none"),
    Method(steps=2, draws=1, sigma_max=1.0),
    Method(steps=1, draws=1, image_half="hsds", iterations=1, image_scale=0.0),
    Method(steps=1, draws=2, image_half="dds"),
    Method(steps=1, draws=2, image_half="hsds", iterations=1),
    Method(steps=1, draws=1, image_half="hsds", iterations=2, trajectory="euler", guidance=1),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_costs_are_what_the_rows_tell_and_the_model_counts(backbone: Sd3Backbone, method: Method) -> None:
    price, images = costs(method), [render(sample_face(np.random.default_rng(seed))) for seed in range(2)]
    before = backbone.evaluations
    edited = list(edit_images(backbone, images, [SOURCE] * 2, [TASKS, TASKS[:1]], method, [0, 1], batch=2))
    once_an_image = price.encode + price.source
    rows = 2 * once_an_image + 3 * price.identify + 4 * price.decode
    assert sum(its.evaluations for its in edited) == pytest.approx(rows)
    assert backbone.evaluations - before == 2 * once_an_image + 4 * price.identify + 4 * price.decode


@pytest.mark.parametrize(("guidance", "share"), [(1.5, 64 / 344), (1.0, 64 / 204)], ids=["true guidance", "embedded"])
def test_the_share_of_hsds_in_an_edit_at_four_strengths_is_as_documented(guidance: float, share: float) -> None:
    price = costs(Method(steps=28, image_half="hsds", free_guidance=guidance, free_guidance_share=1.0))
    identification = price.source + price.identify
    assert identification / (price.encode + identification + 4 * price.decode) == pytest.approx(share)
