import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.encode import inversion
from eim_ops.identify.spare import spare
from eim_ops.identify.text import text_direction
from eim_ops.joint import Conditioning, Direction, JointLatent, per_row
from eim_ops.manipulate import manipulate

LATENT, ROWS = (2, 3, 3), 3
SEEDS = st.integers(0, 10**6)
FEW = st.integers(0, 4)
DTYPES = st.sampled_from([torch.float32, torch.float64])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_direction(seed: int, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> Direction:
    image, tokens, pooled = randn(rows, *LATENT, seed=seed), randn(rows, 4, 3, seed=~seed), randn(rows, 5, seed=-seed)
    return Direction(image.to(dtype), Conditioning(tokens.to(dtype), pooled.to(dtype)))


def random_others(count: int, seed: int, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> list[Direction]:
    return [random_direction(10**7 * (index + 1) + seed, dtype, rows) for index in range(count)]


def scaled(direction: Direction, factor: float) -> Direction:
    factors = torch.full((len(direction),), factor, dtype=torch.float64)
    return direction.scaled(factors, factors)


def halves(direction: Direction) -> tuple[torch.Tensor, torch.Tensor]:
    """Each half as a vector, float64 (B, n)."""
    text = torch.cat([direction.text.tokens.flatten(1), direction.text.pooled], 1)
    return direction.image.flatten(1).double(), text.double()


def as_double(direction: Direction) -> Direction:
    text = direction.text
    return Direction(direction.image.double(), Conditioning(text.tokens.double(), text.pooled.double()))


def cosines(one: Direction, other: Direction) -> torch.Tensor:
    """(2, B): of each half."""
    return torch.stack(
        [torch.cosine_similarity(a, b.expand_as(a)) for a, b in zip(halves(one), halves(other), strict=True)]
    )


def close(one: Direction, other: Direction, rtol: float = 1e-9) -> bool:
    """Each row of each half, in units of the longer row."""
    return all(
        bool(((a - b).norm(dim=1) <= rtol * torch.maximum(a.norm(dim=1), b.norm(dim=1))).all())
        for a, b in zip(halves(one), halves(other), strict=True)
    )


def equal(one: Direction, other: Direction) -> bool:
    return all(torch.equal(a, b) for a, b in zip(halves(one), halves(other), strict=True))


@given(seed=SEEDS, count=st.integers(1, 4), dtype=DTYPES, rows=st.sampled_from([1, ROWS]))
def test_what_is_left_is_orthogonal_to_each_other_and_only_their_span_is_taken(
    seed: int, count: int, dtype: torch.dtype, rows: int
) -> None:
    direction, others = random_direction(seed, dtype), random_others(count, seed, dtype, rows)
    left = spare(direction, others)
    assert left.image.dtype == left.text.tokens.dtype == left.text.pooled.dtype == dtype
    assert max(cosines(left, other).abs().max() for other in others) < 100 * torch.finfo(dtype).eps
    for half, (whole, rest) in enumerate(zip(halves(direction), halves(left), strict=True)):
        for row in range(ROWS):
            span = torch.stack([halves(other)[half][row % rows] for other in others], 1)
            taken = (whole - rest)[row, :, None]
            explained = span @ torch.linalg.lstsq(span, taken).solution
            assert torch.allclose(explained, taken, atol=1e-4 if dtype == torch.float32 else 1e-9)


@given(seed=SEEDS, count=st.integers(2, 4), dtype=DTYPES, apart=st.sampled_from([1e-1, 1e-2, 1e-3]))
def test_others_that_are_almost_one_are_all_taken(seed: int, count: int, dtype: torch.dtype, apart: float) -> None:
    others = random_others(count, seed, dtype)
    almost = [others[0], *(others[0] + scaled(other, apart) for other in others[1:])]
    left = spare(random_direction(seed, dtype), almost)
    assert max(cosines(left, other).abs().max() for other in almost) < 100 * torch.finfo(dtype).eps
    assert max(cosines(left, other).abs().max() for other in others) < 100 * torch.finfo(dtype).eps / apart


@given(seed=SEEDS, count=FEW)
def test_sparing_twice_is_sparing_once(seed: int, count: int) -> None:
    others = random_others(count, seed)
    once = spare(random_direction(seed), others)
    assert close(once, spare(once, others))


@given(seed=SEEDS, count=FEW, dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_sparing_nothing_or_zeros_changes_no_bit(seed: int, count: int, dtype: torch.dtype) -> None:
    direction = random_direction(seed, dtype)
    assert equal(direction, spare(direction, [scaled(other, 0.0) for other in random_others(count, seed)]))


@given(seed=SEEDS, count=st.integers(1, 4), row=st.integers(0, ROWS - 1))
def test_a_row_does_not_depend_on_its_neighbours(seed: int, count: int, row: int) -> None:
    direction, others = random_direction(seed), random_others(count, seed)
    strangers = random_others(count + 1, seed + 1)
    keep = per_row(torch.arange(ROWS) == row, direction.image)

    def with_strangers(own: Direction, stranger: Direction) -> Direction:
        kept = keep.double().flatten()
        return own.scaled(kept, kept) + stranger.scaled(1 - kept, 1 - kept)

    among_strangers = spare(
        with_strangers(direction, strangers[-1]),
        [with_strangers(other, stranger) for other, stranger in zip(others, strangers[:-1], strict=True)],
    )
    rows = slice(row, row + 1)
    assert equal(spare(direction, others)[rows], among_strangers[rows])


@given(seed=SEEDS, count=st.integers(1, 4), dtype=DTYPES)
def test_a_direction_in_the_span_has_nothing_left(seed: int, count: int, dtype: torch.dtype) -> None:
    others = random_others(count, seed, dtype)
    inside = others[0]
    for index, other in enumerate(others[1:]):
        inside = inside + scaled(other, index - 1.5)
    left = spare(inside, others)
    for whole, rest in zip(halves(inside), halves(left), strict=True):
        assert (rest.norm(dim=1) < 100 * torch.finfo(dtype).eps * whole.norm(dim=1)).all()


@given(seed=SEEDS, count=st.integers(1, 4), exponent=st.integers(-30, 30), negative=st.booleans(), dtype=DTYPES)
def test_the_length_sign_and_order_of_others_do_not_matter(
    seed: int, count: int, exponent: int, negative: bool, dtype: torch.dtype
) -> None:
    direction, others = random_direction(seed, dtype), random_others(count, seed, dtype)
    factor = (-1.0 if negative else 1.0) * 10.0**exponent
    rescaled = [scaled(others[-1], factor), *others[:-1]]
    assert close(spare(direction, others), spare(direction, rescaled), 1e-3 if dtype == torch.float32 else 1e-9)


@given(seed=SEEDS, count=st.integers(1, 3), dtype=DTYPES)
def test_dependent_and_zero_others_take_nothing_more(seed: int, count: int, dtype: torch.dtype) -> None:
    direction, others = random_direction(seed, dtype), random_others(count, seed, dtype)
    total = scaled(others[0], 2.0)
    for other in others[1:]:
        total = total + scaled(other, -0.7)
    zero = scaled(total, 0.0)
    left = spare(direction, [zero, *others, total, others[0], zero])
    assert close(spare(direction, others), left, 1e-3 if dtype == torch.float32 else 1e-9)


def test_others_that_span_everything_leave_zero_and_no_nan() -> None:
    many = random_others(40, 0, torch.float32)
    left = spare(random_direction(1, torch.float32), many)
    for half in halves(left):
        assert (half.norm(dim=1) < 1e-5).all()


def test_the_halves_are_apart_and_tokens_and_pooled_are_one_vector() -> None:
    direction, other = random_direction(0), random_direction(1)
    text_only = Direction(torch.zeros_like(other.image), other.text)
    left = spare(direction, [text_only])
    assert torch.equal(left.image, direction.image)
    text = torch.cat([direction.text.tokens.flatten(1), direction.text.pooled], 1)
    along = torch.cat([other.text.tokens.flatten(1), other.text.pooled], 1)
    factor = (text * along).sum(1) / along.square().sum(1)
    assert torch.allclose(left.text.tokens, (direction.text - other.text.scaled(factor)).tokens)
    assert torch.allclose(left.text.pooled, (direction.text - other.text.scaled(factor)).pooled)


def test_low_precision_loses_no_more_than_one_rounding_at_the_end() -> None:
    direction, others = random_direction(0, torch.bfloat16), random_others(4, 0, torch.bfloat16)
    left = spare(direction, others)
    in_double = spare(as_double(direction), [as_double(other) for other in others])
    assert left.image.dtype == left.text.tokens.dtype == left.text.pooled.dtype == torch.bfloat16
    assert close(left, in_double, torch.finfo(torch.bfloat16).eps / 2)
    assert not close(as_double(direction), in_double, 0.1)


def test_an_unknown_other_shows_as_nan_in_its_own_row_alone() -> None:
    direction, others = random_direction(0), random_others(2, 0)
    for value in (torch.nan, torch.inf):
        broken = Direction(others[0].image.clone(), others[0].text)
        broken.image[1, 0, 0, 0] = value
        left = spare(direction, [broken, others[1]])
        assert left.image[1].isnan().all()
        assert torch.equal(left.image[::2], spare(direction, others).image[::2])
        assert left.text.tokens.isfinite().all()


def test_others_of_another_shape_are_named() -> None:
    direction, other = random_direction(0), random_direction(1)
    with pytest.raises(ValueError, match=r"others\[1\] has 2 rows, the direction 3; give one for each row"):
        spare(direction, [other, other[:2]])
    narrow = Direction(other.image, Conditioning(other.text.tokens[..., :2], other.text.pooled))
    with pytest.raises(ValueError, match=r"others\[0\].*\(4, 2\).*\(4, 3\).*; identify both on one backbone"):
        spare(direction, [narrow])


@given(seed=SEEDS, leak=st.floats(0.2, 2.0), strength=st.floats(-1.5, 2.0))
def test_in_the_gaussian_world_the_spared_attribute_stays_where_it_is(seed: int, leak: float, strength: float) -> None:
    """Two attributes are shifts of the mean; the asked one drags the other along by `leak`."""
    world = GaussianBackbone(conditioned(LATENT, 20, 0))
    mean, asked, other = randn(3, 2, *LATENT, seed=seed)
    clean, source = world.draw(mean, seed), mean_conditioning(mean)
    sigmas = world.grid(8) * 0.8
    joint = JointLatent(clean, source, inversion(world, clean, source, sigmas, "fixed_point"), sigmas)

    def direction(shift: torch.Tensor) -> Direction:
        return Direction(shift, text_direction(source, mean_conditioning(mean + shift)))

    def coordinate(latents: torch.Tensor) -> torch.Tensor:
        return (latents * other).flatten(1).sum(1) / other.square().flatten(1).sum(1)

    wanted, spared_attribute = direction(asked + leak * other), direction(other)
    strengths = torch.full((2,), strength, dtype=torch.float64)
    before = coordinate(clean)
    spared = spare(wanted, [spared_attribute])
    assert torch.allclose(coordinate(manipulate(world, joint, spared, strengths)), before, atol=1e-5)
    dragged = coordinate(manipulate(world, joint, wanted, strengths)) - before
    assert torch.allclose(dragged, strength * coordinate(wanted.image), atol=1e-5)
