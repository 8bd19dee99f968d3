from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.aspect_buckets import Size, aspect_buckets, aspect_factor, nearest_bucket

steps = st.sampled_from([8, 16, 32, 64])
sides = st.integers(1, 128).map(lambda count: 16 * count)
images = st.builds(Size, st.integers(1, 20_000), st.integers(1, 20_000))
tables = st.builds(aspect_buckets, sides, steps)
WIDEST = (4 / 3) ** 3


def transposed(size: Size) -> Size:
    return Size(size.height, size.width)


@given(sides, steps)
def test_sides_are_multiples_of_the_step_and_areas_are_about_the_squares(side: int, step: int) -> None:
    for size in aspect_buckets(side, step):
        assert size.width % step == size.height % step == 0
        # Each side is rounded by half a step at most, of what the widest ratio leaves of it.
        bent = step / 2 / (side / WIDEST**0.5)
        if min(size) > step:
            assert (1 - bent) ** 2 - 1e-6 <= size.pixels / side**2 <= (1 + bent) ** 2 + 1e-6


@given(sides, steps)
def test_portrait_and_landscape_are_there_alike_around_the_square(side: int, step: int) -> None:
    table = aspect_buckets(side, step)
    assert {transposed(size) for size in table} == set(table)
    assert table[len(table) // 2].width == table[len(table) // 2].height
    ratios = [Fraction(*size) for size in table]
    assert ratios == sorted(ratios)


@given(images, tables)
def test_the_nearest_is_chosen_and_of_a_transposed_image_the_transposed(image: Size, table: tuple[Size, ...]) -> None:
    chosen = nearest_bucket(image, table)
    assert all(aspect_factor(image, chosen) <= aspect_factor(image, size) for size in table)
    assert nearest_bucket(transposed(image), table) == transposed(chosen)
    assert nearest_bucket(image, tuple(reversed(table))) == chosen


@given(st.floats(1, WIDEST), st.booleans(), st.sampled_from([(512, 16), (1024, 16), (1024, 64), (1328, 16)]))
def test_what_is_no_wider_than_the_table_is_cut_or_stretched_little(ratio: float, tall: bool, made: tuple) -> None:
    image = Size(round(10_000 * ratio), 10_000)
    image = transposed(image) if tall else image
    factor = aspect_factor(image, nearest_bucket(image, aspect_buckets(*made)))
    assert factor < (1.12 if made == (1024, 64) else 1.1)


def test_the_table_of_1024_px() -> None:
    table = aspect_buckets(1024, 16)
    assert table[6:] == (
        (1024, 1024), (1104, 960), (1184, 880), (1264, 832), (1360, 768), (1472, 720), (1584, 672),
    )  # fmt: skip


def test_common_ratios_find_their_bucket() -> None:
    table = aspect_buckets(1024, 16)
    for ratio in ((4, 3), (3, 2), (16, 9), (21, 9), (2, 1)):
        assert aspect_factor(Size(*ratio), nearest_bucket(Size(*ratio), table)) < 1.035


def test_a_largest_side_ends_the_table_early() -> None:
    assert aspect_buckets(48, 8, 64) == ((40, 64), (40, 56), (48, 48), (56, 40), (64, 40))
    assert aspect_buckets(64, 8, 64) == ((64, 64),)


@pytest.mark.parametrize("order", [((2, 3), (3, 2)), ((3, 2), (2, 3))])
def test_a_square_between_tall_and_wide_takes_wide(order: tuple[tuple[int, int], ...]) -> None:
    assert nearest_bucket(Size(5, 5), [Size(*size) for size in order]) == (3, 2)
