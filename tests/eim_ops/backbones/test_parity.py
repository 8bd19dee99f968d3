"""Every family against its own pipeline: the same image from the same latents, by our conditioning and Euler steps."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from eim_ops.backbones import adapter
from eim_ops.backbones.adapter import PipelineBackbone
from eim_ops.backbones.base import PromptTooLongError
from eim_ops.backbones.registry import FAMILIES
from eim_ops.edit import edit_images
from eim_ops.encode import encode, grid_of
from eim_ops.identify.draws import draw_source
from eim_ops.identify.sds import dds_direction
from eim_ops.identify.text import text_direction
from eim_ops.joint import Conditioning, Direction, FreeGuidance
from eim_ops.manipulate import manipulate, sample
from eim_ops.method import Method, TrajectoryKind
from eim_ops.named_models import load_backbone
from eim_ops.noise import levels
from eim_ops.task import EditTask
from tests.eim_ops.backbones.tiny import PIPELINES, PROMPTS, pipelines_image

SIZES = {"square": (32, 32), "portrait": (48, 32), "landscape": (24, 64)}


@cache
def tiny(family: str, dtype: torch.dtype = torch.float32) -> PipelineBackbone:
    if family == "mini-dit":
        return load_backbone(family, device="cpu", dtype=str(dtype).removeprefix("torch."))  # type: ignore[return-value]
    pipe = PIPELINES[family]().to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return FAMILIES[type(pipe).__name__](pipe, f"tiny-{family}", "0")


def latents_of(backbone: PipelineBackbone, size: tuple[int, int], rows: int = len(PROMPTS)) -> torch.Tensor:
    shape = backbone.encode_image(torch.zeros(1, 3, *size)).shape[1:]
    return torch.randn((rows, *shape), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [2, 7, 28])
@pytest.mark.parametrize("family", [*PIPELINES, "mini-dit"])
def test_an_edits_grid_is_the_familys_own_but_for_sd3s_last_step_from_almost_0(family: str, steps: int) -> None:
    backbone = tiny(family)
    clean = latents_of(backbone, (32, 32), 1)
    own = backbone.grid(steps, clean.shape[-2:])
    sigmas = grid_of(backbone, clean, Method(steps=steps, sigma_max=1.0))
    assert len(sigmas) == steps + 1 and sigmas[0] == own[0] == 1 and sigmas[-1] == 0
    if family.startswith(("sd3", "mini")):
        assert own[-2] < 0.01 < 2 * sigmas[-2]
    else:
        assert torch.equal(sigmas, own)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("family", PIPELINES)
def test_parity_with_the_familys_own_pipeline(
    family: str, guidance: float, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, size = tiny(family), SIZES[shape]
    noisy = latents_of(backbone, size)
    expected = pipelines_image(backbone.pipeline, noisy, size, 4, guidance)
    free = None
    if backbone.guidance_kind == "true" and guidance != 1:
        free = FreeGuidance(backbone.encode_text([""] * len(PROMPTS)), guidance, steps=4)
    monkeypatch.setattr(backbone, "_embedded_guidance", guidance)
    conditioning, sigmas = backbone.encode_text(PROMPTS), backbone.grid(4, noisy.shape[-2:])
    ours = (backbone.decode(sample(backbone, noisy, conditioning, sigmas, free=free)) + 1) / 2
    assert expected.shape == (len(PROMPTS), 3, *size)
    assert (ours - expected).abs().max() < 1e-4
    assert expected.std() > 0.05 and (expected[0] - expected[1]).abs().max() > 1e-3, "a flat image matches anything"


@pytest.mark.parametrize("family", PIPELINES)
def test_the_jvp_matches_finite_differences_and_the_vjp_is_its_adjoint(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, sigma = tiny(family), torch.tensor(0.6)
    monkeypatch.setattr(backbone, "jvp_step", None)
    x, t, u = latents_of(backbone, (24, 32), 9).chunk(3)
    conditioning = backbone.encode_text(PROMPTS)
    forward, backward = backbone.jvp(x, sigma, conditioning, t), backbone.vjp(x, sigma, conditioning, u)
    finite = backbone._central_difference(x, sigma, conditioning, t, 1e-2)
    assert forward.norm() > 1e-2 and (forward - finite).norm() < 0.01 * forward.norm()
    assert torch.allclose((forward * u).flatten(1).sum(1), (backward * t).flatten(1).sum(1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_jvp_in_forward_mode_goes_through_rows_in_equal_parts_whose_attention_scores_fit(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, velocity, taken = tiny(family), tiny(family)._velocity, list[int]()

    def watched(latents: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        taken.append(len(latents))
        return velocity(latents, *others, **named)

    monkeypatch.setattr(backbone, "jvp_step", None)
    monkeypatch.setattr(backbone, "_velocity", watched)
    x, t = latents_of(backbone, (24, 32), 12).chunk(2)
    conditioning, sigmas = backbone.encode_text([*PROMPTS, *PROMPTS]), torch.linspace(0.3, 0.8, 6)
    whole = backbone.jvp(x, sigmas, conditioning, t)
    tokens = backbone._image_tokens(x.shape[-2:]) + conditioning.tokens.shape[1]
    monkeypatch.setattr(adapter, "_SCORE_BYTES", 5 * (2 * tokens**2 * 4))  # five rows of two heads
    assert torch.allclose(backbone.jvp(x, sigmas, conditioning, t), whole, atol=1e-4)
    assert taken == [6, 3, 3], "five would leave one row in another shape"


@pytest.mark.parametrize("family", PIPELINES)
def test_a_vjp_with_checkpoints_is_the_one_without_and_nothing_else_meets_them(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, sigma, checkpoint, called = tiny(family), torch.tensor(0.6), torch.utils.checkpoint.checkpoint, []

    def counted(*arguments: Any, **settings: Any) -> Any:
        called.append(arguments[0])
        return checkpoint(*arguments, **settings)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    x, u = latents_of(backbone, (24, 32), 6).chunk(2)
    conditioning = backbone.encode_text(PROMPTS)
    with_checkpoints = backbone.vjp(x, sigma, conditioning, u)
    blocks = len(called)
    assert blocks >= 2 and not backbone.pipeline.transformer.is_gradient_checkpointing
    backbone.velocity(x, sigma, conditioning)
    for step in (None, 1e-2):
        monkeypatch.setattr(backbone, "jvp_step", step)
        backbone.jvp(x, sigma, conditioning, u)
    monkeypatch.setattr(backbone, "checkpoints", False)
    without = backbone.vjp(x, sigma, conditioning, u)
    assert len(called) == blocks and without.norm() > 1e-2
    assert torch.equal(with_checkpoints, without)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_whole_edit_with_hsds_is_finite_and_strength_0_is_the_source(family: str) -> None:
    backbone = tiny(family)
    image = np.random.default_rng(0).integers(0, 255, (48, 32, 3), dtype=np.uint8)
    tasks = [EditTask(str(strength), (PROMPTS[0],), strength) for strength in (0.0, 1.0)]
    method = Method(
        steps=2, image_half="hsds", draws=1, iterations=1,
        free_guidance=1.5 if backbone.guidance_kind == "true" else 1,
    )  # fmt: skip
    still, edited = edit_images(backbone, [image], [PROMPTS[2]], [tasks], method, [0], batch=2)
    assert edited.finite and edited.direction_residual is not None and edited.pixels.shape == image.shape
    round_trip = backbone.decode(backbone.encode_image(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1))
    unedited = ((round_trip[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    assert np.abs(still.pixels.astype(float) - unedited).max() <= 1
    assert (edited.pixels != still.pixels).any()


@pytest.mark.parametrize("trajectory", ["coupled", "fixed_point"])
@pytest.mark.parametrize("family", [*PIPELINES, "mini-dit"])
def test_in_half_precision_strength_0_is_the_source_and_strong_edits_are_those_of_float32(
    family: str, trajectory: TrajectoryKind
) -> None:
    changes = []
    for dtype in (torch.float32, torch.bfloat16):
        backbone = tiny(family, dtype)
        free = 1.5 if backbone.guidance_kind == "true" else 1
        method = Method(steps=4, trajectory=trajectory, free_guidance=free)
        images = torch.rand((2, 3, 32, 48), generator=torch.Generator().manual_seed(0)) * 2 - 1
        joint, target = (
            encode(backbone, images, [PROMPTS[2]] * 2, [1, 2], method),
            backbone.encode_text([PROMPTS[0]] * 2),
        )
        drawn = draw_source(backbone, joint.clean, joint.conditioning, [1, 2], levels(2, method.sigma_max))
        image = dds_direction(backbone, drawn, target)
        direction = Direction(image, text_direction(joint.conditioning, target))
        edited = [manipulate(backbone, joint, direction, torch.full((2,), it)) for it in (0.0, 4.0)]
        assert all(one.dtype == dtype for one in edited)
        assert torch.allclose(edited[0], joint.clean, rtol=0, atol=1e-6)
        changes.append(edited[1].float() - joint.clean.float())
    exact, half = changes
    # These random models' own rounding is up to half of what they change; no change at all would be off by all of it.
    assert (half - exact).norm() < 0.7 * exact.norm()


@pytest.mark.parametrize("family", PIPELINES)
def test_in_half_precision_a_whole_edit_is_finite(family: str) -> None:
    backbone = tiny(family, torch.bfloat16)
    image = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    free = 1.5 if backbone.guidance_kind == "true" else 1
    method = Method(steps=2, image_half="hsds", draws=1, iterations=1, free_guidance=free)
    (edited,) = edit_images(backbone, [image], [PROMPTS[1]], [[EditTask("1", (PROMPTS[0],), 1.0)]], method, [0], 2)
    assert backbone.dtype == torch.bfloat16 and edited.finite and edited.pixels.shape == image.shape


@pytest.mark.parametrize("family", PIPELINES)
def test_a_saved_pipeline_loads_as_the_same_backbone(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    backbone, folder = tiny(family), tmp_path_factory.mktemp(family.replace(".", "-"))
    backbone.pipeline.save_pretrained(folder)
    loaded = load_backbone(str(folder), device="cpu")
    assert type(loaded) is type(backbone) and loaded.guidance_kind == backbone.guidance_kind
    x, sigma = latents_of(backbone, (32, 32)), torch.tensor(0.7)
    before, after = (one.velocity(x, sigma, one.encode_text(PROMPTS)) for one in (backbone, loaded))
    assert torch.allclose(before, after, atol=1e-5) and torch.equal(backbone.grid(5, (8, 8)), loaded.grid(5, (8, 8)))


@pytest.mark.parametrize("family", PIPELINES)
def test_a_prompt_that_would_be_cut_is_refused_by_name(family: str) -> None:
    with pytest.raises(PromptTooLongError, match=rf"tokens, tiny-{family} takes \d+.*smile"):
        tiny(family).encode_text(["smile " * 600])


@pytest.mark.parametrize("family", PIPELINES)
def test_the_longest_prompt_that_is_taken_is_whole_and_one_word_more_is_refused(family: str) -> None:
    pipe = tiny(family).pipeline
    limit = tiny(family)._token_counts("smile")[-1][0] + 4
    backbone = type(tiny(family))(pipe, f"tiny-{family}", "0", prompt_tokens=limit)
    whole, other = "smile smile smile smile smile", "smile smile smile smile hair"
    last = [its.tokens[:, -limit:] for its in (backbone.encode_text([whole]), backbone.encode_text([other]))]
    assert (last[0] - last[1]).abs().max() > 1e-3, "its last word was cut"
    with pytest.raises(PromptTooLongError, match=rf"has {limit + 1} tokens, tiny-{family} takes {limit}: shorten it"):
        backbone.encode_text([f"{whole} smile"])


@pytest.mark.parametrize("family", PIPELINES)
def test_images_of_another_step_are_refused(family: str) -> None:
    with pytest.raises(ValueError, match=r"takes multiples of 8; resize"):
        tiny(family).encode_image(torch.zeros(1, 3, 36, 32))


@pytest.mark.parametrize("family", PIPELINES)
def test_a_prompts_conditioning_knows_nothing_of_its_neighbours(family: str) -> None:
    together, alone = tiny(family).encode_text(PROMPTS), tiny(family).encode_text([PROMPTS[1]])
    for name, part in alone.parts().items():
        assert torch.allclose(part[0], together.parts()[name][1], atol=1e-6)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_family_attends_as_its_adapter_says(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = PIPELINES[family]()
    backbone = FAMILIES[type(pipe).__name__](pipe, family, "0")
    masks: list[torch.Tensor | None] = []
    through_diffusers = 0
    attend: Callable[..., torch.Tensor] = torch.nn.functional.scaled_dot_product_attention
    dispatched = _AttentionBackendRegistry._backends["native"]

    def watched(*args: Any, attn_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **kwargs)

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal through_diffusers
        through_diffusers += 1
        return dispatched(*args, **kwargs)

    words = min(40, *(allowed - count + 1 for count, allowed in backbone._token_counts("smile")))
    conditioning = backbone.encode_text(["smile " * words, "smile"])
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setitem(_AttentionBackendRegistry._backends, "native", counted)
    backbone.velocity(latents_of(backbone, (32, 32), 2), torch.tensor(0.5), conditioning)
    kinds = {(False, False): "fixed", (True, False): "unmasked", (True, True): "masked"}
    assert backbone.attention_kind == kinds[through_diffusers > 0, any(mask is not None for mask in masks)]


@pytest.mark.parametrize("family", ["qwen-image", "z-image"])
def test_between_prompts_of_other_lengths_the_nearer_ones_tokens_count(family: str) -> None:
    source, target = (tiny(family).encode_text([prompt] * 4) for prompt in (PROMPTS[1], PROMPTS[0]))
    moved = source + (target - source).scaled(torch.tensor([0.0, 0.4, 0.6, 1.0]))
    lengths = [int(one.present[0].sum()) for one in (source, target)]
    assert lengths[0] < lengths[1]
    assert moved.present.sum(1).tolist() == [lengths[0], lengths[0], lengths[1], lengths[1]]
    assert torch.equal(moved[:1].tokens, source[:1].tokens) and torch.allclose(moved[3:].tokens, target[3:].tokens)
    assert Conditioning.cat([source, target]).mask.shape == (8, 512)  # type: ignore[union-attr]


def test_a_schedule_that_one_step_cannot_be_stretched_over_refuses_it() -> None:
    stretched = tiny("qwen-image")
    assert stretched.grid(2).isfinite().all()
    with pytest.raises(ValueError, match=r"no grid of 1 steps: give method.steps 2 at least"):
        stretched.grid(1)
