"""What the benchmark compares: ours, its ablations, peers with their settings, and the ceiling."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.bench.cases import Case, sources, truths
from eim_ops.bench.spared import Spared, edit_sparing
from eim_ops.bench.wording import Worded, WordedCase, worded
from eim_ops.cost import costs
from eim_ops.edit import edit_images, full_batches, only_finite, to_images, to_pixels
from eim_ops.method import Method
from eim_ops.metrics.control import triangle_deficit
from eim_ops.peers.dds import DdsSettings
from eim_ops.peers.flowedit import FlowEditSettings
from eim_ops.peers.peer import PEERS
from eim_ops.peers.rf_inversion import RfInversionSettings
from eim_ops.peers.sdedit import SdeditSettings
from eim_ops.task import EditTask

PeerSettings = SdeditSettings | DdsSettings | FlowEditSettings | RfInversionSettings
RoundTrip = Literal["truth", "source"]
Settings = Method | Worded | Spared | PeerSettings | RoundTrip

SWEEP = 4
"""Strengths that share an encoding and a direction in the evaluations that are reported."""
STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
_CURVE_STRENGTHS = (0.5, 1.0, 1.5, 2.0)
"""Of ablations, which are compared at equal effect."""
_IMAGE_STRENGTHS = (1.0, 5.0, 10.0, 20.0)
"""Of an image half alone: the default enters it with a twentieth of its length, 1 - sigma_max; 20 is all of it."""


@dataclass(frozen=True)
class Contender:
    """One way to edit. settings: ours, a peer's, or whose round trip through the autoencoder it is, unedited.

    family: the peer's name; `eim` for ours and its ablations. strengths: ascending, of ours; others have 1 alone.
    """

    name: str
    family: str
    settings: Settings
    strengths: tuple[float, ...] = (1.0,)

    @property
    def content(self) -> Mapping[str, Any]:
        """All that its results depend on, to name them in storage."""
        return {
            "family": self.family,
            "settings": self.settings if isinstance(self.settings, str) else asdict(self.settings),
            "strengths": list(self.strengths),
        }


@dataclass(frozen=True)
class Edited:
    """Edits of the same cases at one strength.

    pixels: uint8 (N, 64, 64, 3). evaluations: of each edit in a sweep of `SWEEP` strengths. triangle_deficits: of each
    case over all its strengths. direction_methods: of ours, how each case's direction was found, as `EditedImage` says.
    """

    strength: float
    pixels: np.ndarray
    evaluations: float
    triangle_deficits: Sequence[float | None]
    direction_methods: Sequence[str | None]


CEILING, UNEDITED = Contender("ceiling", "round_trip", "truth"), Contender("unedited", "round_trip", "source")
"""The most that an edit can reach through this autoencoder, and what no edit at all comes to."""


def ours(default: Method) -> list[Contender]:
    """`eim`, which is `default`, and its ablations; one that is `default` itself is left out.

    prompt_swap: the image's own noise sampled under the other prompt. text_half, image_half_*: each half alone.
    joint_*: both. coupled, inversion: the two kinds of source trajectory.
    """
    image_alone = replace(default, text_scale=0.0, guidance=1.0, free_guidance=1.0)
    ablations = {
        "prompt_swap": replace(default, image_half="none", sigma_max=1.0, trajectory="fixed_point", guidance=1.0),
        "text_half": replace(default, image_half="none"),
        "image_half_dds": replace(image_alone, image_half="dds"),
        "image_half_hsds": replace(image_alone, image_half="hsds"),
        "joint_dds": replace(default, image_half="dds"),
        "joint_hsds": replace(default, image_half="hsds"),
        "inversion": replace(default, trajectory="fixed_point"),
        "coupled": replace(default, trajectory="coupled"),
    }
    others = [
        Contender(name, "eim", method, _CURVE_STRENGTHS if method.text_scale else _IMAGE_STRENGTHS)
        for name, method in ablations.items()
        if method != default
    ]
    return [Contender("eim", "eim", default, STRENGTHS), *others]


def run(contender: Contender, backbone: Backbone, cases: Sequence[Case], batch: int) -> list[Edited]:
    """Edit all cases, at each of the contender's strengths."""
    if isinstance(contender.settings, Method):
        own = [WordedCase(case.source_prompt, case.target_prompt, 1.0) for case in cases]
        return _run_ours(contender.settings, contender.strengths, backbone, cases, own, batch)
    if isinstance(contender.settings, Worded):
        said = [worded(case, contender.settings.wording) for case in cases]
        return _run_ours(contender.settings.method, contender.strengths, backbone, cases, said, batch)
    before, pixels = backbone.evaluations, []
    batches = list(full_batches(len(cases), batch))
    for indices, real in batches:
        latents = _latents(contender, backbone, [cases[i] for i in indices])
        pixels.append(to_pixels(backbone.decode(latents))[:real])
    cost = (backbone.evaluations - before) / (len(batches) * batch)
    if isinstance(contender.settings, Spared):
        cost = _in_a_sweep(contender.settings.method, cost, 1)
    unknown = [None] * len(cases)
    return [Edited(1.0, np.concatenate(pixels), cost, unknown, unknown)]


def _latents(contender: Contender, backbone: Backbone, cases: Sequence[Case]) -> Tensor:
    """Of a full batch of cases, edited at strength 1 by a peer or sparing, or not at all."""
    settings = contender.settings
    if isinstance(settings, Spared):
        return edit_sparing(backbone, cases, settings.method)
    latents = backbone.encode_image(to_images(list(truths(cases) if settings == "truth" else sources(cases))))
    if isinstance(settings, str):
        return latents
    source = backbone.encode_text([case.source_prompt for case in cases])
    target = backbone.encode_text([case.target_prompt for case in cases])
    empty, seeds = backbone.encode_text([""] * len(cases)), [case.seed for case in cases]
    peer: Any = PEERS[contender.family]
    return peer(backbone, latents, source, target, empty, seeds, settings)


def _run_ours(
    method: Method, strengths: Sequence[float], backbone: Backbone, cases: Sequence[Case], said: Sequence[WordedCase],
    batch: int,
) -> list[Edited]:  # fmt: skip
    tasks = [
        [EditTask(str(place), (its.target_prompt,), s * its.strength) for place, s in enumerate(strengths)]
        for its in said
    ]
    prompts, seeds = [its.source_prompt for its in said], [case.seed for case in cases]
    edited = {(one.row, int(one.edit_id)): one for one in only_finite(edit_images(
        backbone, list(sources(cases)), prompts, tasks, method, seeds, batch))}  # fmt: skip
    pixels = np.stack([[edited[row, place].pixels for place in range(len(strengths))] for row in range(len(cases))])
    own = float(np.mean([one.evaluations for one in edited.values()]))
    cost = _in_a_sweep(method, own, len(strengths))
    deficits = [triangle_deficit(torch.from_numpy(its)) for its in pixels]
    found = [edited[row, 0].direction_method for row in range(len(cases))]
    return [Edited(strength, pixels[:, place], cost, deficits, found) for place, strength in enumerate(strengths)]


def _in_a_sweep(method: Method, own: float, strengths: int) -> float:
    """Evaluations of an edit among `SWEEP` strengths, from `own` of one among `strengths`."""
    decoding = costs(method).decode
    return decoding + (own - decoding) * strengths / SWEEP
