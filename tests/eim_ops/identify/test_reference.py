import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.encode import encode
from eim_ops.identify.reference import reference_direction
from eim_ops.joint import Conditioning
from eim_ops.manipulate import manipulate
from eim_ops.method import Method

LATENT = (2, 4, 4)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prompt(seed: int = 0, tokens: int = 5, rows: int = 1) -> Conditioning:
    return Conditioning(randn(rows, tokens, 3, seed=seed), randn(rows, 6, seed=seed + 1))


@given(seed=st.integers(0, 10**6), pairs=st.integers(1, 5))
def test_each_half_is_the_difference_that_pairs_and_prompts_show(seed: int, pairs: int) -> None:
    sources, references = randn(pairs, *LATENT, seed=seed), randn(pairs, *LATENT, seed=seed + 1)
    source, target = prompt(seed), prompt(seed + 2)
    direction = reference_direction(sources, references, source, target)
    by_hand = sum(references[i] - sources[i] for i in range(pairs)) / pairs
    assert len(direction) == 1
    assert torch.allclose(direction.image[0], torch.as_tensor(by_hand))
    assert torch.equal(direction.text.tokens, target.tokens - source.tokens)
    assert torch.equal(direction.text.pooled, target.pooled - source.pooled)


def test_without_a_target_prompt_the_text_half_stays_where_it_is() -> None:
    source = prompt()
    direction = reference_direction(randn(1, *LATENT), randn(1, *LATENT, seed=1), source)
    assert direction.image.any()
    assert direction.text.tokens.shape == source.tokens.shape and not direction.text.tokens.any()
    assert direction.text.pooled.shape == source.pooled.shape and not direction.text.pooled.any()


def test_what_else_differs_within_pairs_averages_out() -> None:
    world, shift = GaussianBackbone(conditioned(LATENT, 10, 0)), randn(1, *LATENT)
    means = torch.zeros(400, *LATENT, dtype=torch.float64)
    sources, references = world.draw(means, 1), world.draw(means + shift, 2)

    def error(pairs: int) -> float:
        direction = reference_direction(sources[:pairs], references[:pairs], mean_conditioning(means[:1]))
        return float((direction.image - shift).norm())

    assert error(400) < 0.15 * error(1)


def test_one_pair_moves_many_other_images_by_what_it_shows(backbone: Sd3Backbone) -> None:
    """`manipulate` takes the one row for a whole batch, as it does the same row repeated."""
    images = torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    joint = encode(backbone, images, ["a portrait"] * 3, [1, 2, 3], Method(steps=2, trajectory="coupled"))
    pair = backbone.encode_image(images.flip(0))
    source, target = (backbone.encode_text([f"a portrait with {it}"]) for it in ("deep frown", "broad smile"))
    direction = reference_direction(pair[:1], pair[1:2], source, target)
    edited = manipulate(backbone, joint, direction, torch.ones(3))
    assert not torch.allclose(edited, joint.clean, atol=1e-2)
    assert torch.equal(edited, manipulate(backbone, joint, direction[torch.zeros(3, dtype=torch.int64)], torch.ones(3)))


@pytest.mark.parametrize(
    ("sources", "references", "message"),
    [
        ((0, *LATENT), (0, *LATENT), "no image pairs; give at least one"),
        ((3, *LATENT), (1, *LATENT), "3 source images but 1 references; give each source its reference"),
        ((2, *LATENT), (2, 2, 4, 1), r"\(2, 4, 4\), references \(2, 4, 1\); encode both at one size"),
        (LATENT, LATENT, r"give both as \(N, C, h, w\)"),
    ],
)
def test_wrong_pairs_are_named(sources: tuple[int, ...], references: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference_direction(torch.zeros(sources), torch.zeros(references), prompt())


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (prompt(rows=2), prompt(rows=2), "2 source and 2 target conditionings; give one of each"),
        (prompt(), prompt(tokens=1), r"tokens are \(5, 3\), the target's \(1, 3\).*encode both by one backbone"),
    ],
)
def test_wrong_prompts_are_named(source: Conditioning, target: Conditioning, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference_direction(torch.zeros(1, *LATENT), torch.zeros(1, *LATENT), source, target)
