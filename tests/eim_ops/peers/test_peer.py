"""What holds for every peer."""

from functools import partial

import pytest
import torch

from eim_ops.backbones.gaussian import mean_conditioning
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.peers.dds import DdsSettings, dds
from eim_ops.peers.flowedit import FlowEditSettings, flowedit
from eim_ops.peers.peer import PEERS, Peer
from eim_ops.peers.rf_inversion import RfInversionSettings, rf_inversion
from eim_ops.peers.sdedit import SdeditSettings, sdedit
from tests.eim_ops.peers.gaussian_case import SEEDS, GaussianCase

SHORT: dict[str, Peer] = {
    "sdedit": partial(sdedit, settings=SdeditSettings(steps=4)),
    "dds": partial(dds, settings=DdsSettings(iterations=3, learning_rate=2.0)),
    "flowedit": partial(flowedit, settings=FlowEditSettings(steps=4, last=3)),
    "rf_inversion": partial(rf_inversion, settings=RfInversionSettings(steps=4, controlled=1)),
}
PROMPTS = ["a portrait with broad smile", "a portrait with deep frown", "a portrait with no glasses", "a portrait", ""]


@pytest.mark.parametrize("name", PEERS)
def test_a_row_depends_on_its_own_image_prompts_and_seed_alone(name: str, backbone: Sd3Backbone) -> None:
    """Five of seven rows in two different batches: those in both come out alike."""
    images = torch.randn((7, 8, 16, 16), generator=torch.Generator().manual_seed(0))

    def edited(rows: list[int]) -> torch.Tensor:
        source = backbone.encode_text([PROMPTS[row % 5] for row in rows])
        target = backbone.encode_text([PROMPTS[(row + 1) % 5] for row in rows])
        empty = backbone.encode_text([""] * len(rows))
        return SHORT[name](backbone, images[rows], source, target, empty, [row + 10 for row in rows])

    first, second = edited([0, 1, 2, 3, 4]), edited([3, 5, 0, 6, 1])
    assert torch.allclose(second[[2, 4, 0]], first[[0, 1, 3]], atol=1e-5)
    assert (first[0] - images[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["sdedit", "flowedit", "rf_inversion"])
def test_equal_rows_differ_by_their_seed_alone(name: str, backbone: Sd3Backbone) -> None:
    image = torch.randn((1, 8, 16, 16), generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    source, target, empty = (backbone.encode_text([prompt] * 3) for prompt in (PROMPTS[0], PROMPTS[1], ""))
    edited = SHORT[name](backbone, image, source, target, empty, [1, 2, 1])
    assert torch.equal(edited[0], edited[2])
    assert (edited[0] - edited[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", PEERS)
def test_guidance_is_the_familys_own(name: str, backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn((2, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    source, target, empty = (backbone.encode_text([prompt] * 2) for prompt in (PROMPTS[0], PROMPTS[1], ""))
    usual = SHORT[name](backbone, image, source, target, empty, [1, 2])
    monkeypatch.setattr(backbone, "guide", lambda velocity, from_empty, weight: velocity)
    assert (SHORT[name](backbone, image, source, target, empty, [1, 2]) - usual).abs().max() > 1e-3


@pytest.mark.parametrize("name", PEERS)
def test_guidance_of_a_model_that_was_not_made_for_it_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = GaussianCase()
    monkeypatch.setattr(case.world, "guidance_kind", "embedded")
    conditioning = mean_conditioning(case.means["source"])
    with pytest.raises(ValueError, match=rf"{name}.*guidance is \S+, but the guidance of gaussian is embedded: set 1"):
        PEERS[name](case.world, case.clean, conditioning, conditioning, conditioning, SEEDS)


@pytest.mark.parametrize(
    ("name", "evaluations"), [("sdedit", 60), ("dds", 800), ("flowedit", 132), ("rf_inversion", 84)]
)
def test_evaluations_at_the_published_settings(name: str, evaluations: int) -> None:
    case = GaussianCase()
    source, target, empty = (mean_conditioning(case.means[prompt]) for prompt in ("source", "target", "empty"))
    edited = PEERS[name](case.world, case.clean, source, target, empty, SEEDS)
    assert case.world.evaluations == 3 * evaluations
    assert edited.shape == case.clean.shape and edited.dtype == case.clean.dtype
    assert edited.isfinite().all()
