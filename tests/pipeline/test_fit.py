"""Images brought to the sizes of a run, and back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eim_ops.aspect_buckets import Size, aspect_buckets
from pipeline.fit import MOST_STRETCH, AspectRatioError, Fit, resized, sizes_of
from tests.pipeline.builders import make_recipe, square

RED, WHITE = (200, 10, 10), (255, 255, 255)
BUCKETS = aspect_buckets(48, 8)


def smooth(width: int, height: int) -> Image.Image:
    """An image without detail that resizing would lose."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def test_the_middle_is_kept_of_an_oblong_image() -> None:
    image = Image.new("RGB", (48, 16), WHITE)
    image.paste(RED, (16, 0, 32, 16))
    assert np.array_equal(np.asarray(square(16)(image)), np.full((16, 16, 3), RED, np.uint8))


@pytest.mark.parametrize("output_size", ["model", "source"])
def test_an_image_at_its_size_keeps_every_pixel(output_size: Any) -> None:
    image = smooth(56, 40)
    assert np.array_equal(np.asarray(Fit(BUCKETS, output_size)(image)), np.asarray(image))


@given(st.integers(20, 300), st.integers(20, 300))
def test_every_image_comes_to_a_bucket(width: int, height: int) -> None:
    assert Fit(BUCKETS)(Image.new("RGB", (width, height))).size in BUCKETS


def test_for_the_models_size_the_border_is_cut_and_nothing_bent() -> None:
    image = Image.new("RGB", (500, 400), WHITE)  # between 1 and 1.4
    image.paste(RED, (0, 0, 500, 2))
    fitted = np.asarray(Fit(BUCKETS)(image))
    assert fitted.shape[:2] == (40, 56)
    assert fitted.min() == 255


def test_for_the_sources_size_nothing_is_cut_and_the_way_back_leads_to_it() -> None:
    image = smooth(500, 400)
    fitted = Fit(BUCKETS, "source")(image)
    back = resized(fitted, Size(*image.size))
    assert (fitted.size, back.size) == ((56, 40), (500, 400))
    off = np.abs(np.asarray(back).astype(int) - np.asarray(image))
    assert off.mean() < 2
    border = np.concatenate([off[:3].ravel(), off[-3:].ravel(), off[:, :3].ravel(), off[:, -3:].ravel()])
    assert border.mean() < 4


def test_what_would_be_bent_out_of_shape_is_refused() -> None:
    with pytest.raises(AspectRatioError, match=r"400 x 100 px would be stretched by 1.78 to 72 x 32, more than 1.2"):
        Fit(BUCKETS, "source")(Image.new("RGB", (400, 100)))
    with pytest.raises(AspectRatioError, match="set aspect_buckets"):
        Fit((Size(64, 64),), "source")(Image.new("RGB", (300, 200)))


@given(st.floats(1, (4 / 3) ** 3), st.booleans(), st.sampled_from([(48, 8), (64, 8), (512, 16), (1024, 64)]))
def test_what_is_no_wider_than_the_buckets_is_never_refused(ratio: float, tall: bool, made: tuple[int, int]) -> None:
    width, height = round(300 * ratio), 300
    Fit(aspect_buckets(*made), "source")(Image.new("L", (height, width) if tall else (width, height)))


def test_settings_are_the_sizes_and_what_is_stored() -> None:
    assert square(64).settings() == {"sizes": [[64, 64]], "output_size": "model"}
    many = Fit((Size(64, 96), Size(64, 64)), "source").settings()
    assert many == {"sizes": [[64, 96], [64, 64]], "output_size": "source"}


def sizes(own: int = 64, step: int = 8, largest: int | None = 64, **recipe: Any) -> tuple[Size, ...]:
    return sizes_of(make_recipe(**recipe), own, step, largest)


def test_sizes_are_the_recipes_or_the_models_own() -> None:
    assert sizes() == ((64, 64),)
    assert sizes(size=[64, 32]) == ((64, 32),)
    assert sizes(size=48, aspect_buckets=True) == aspect_buckets(48, 8, 64)
    assert sizes(aspect_buckets=[[64, 32], [32, 64]]) == ((64, 32), (32, 64))
    assert len(sizes(1024, 16, None, aspect_buckets=True)) == 13


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"size": 40}, "size is 40; fake takes multiples of 16"),
        ({"size": [64, 80]}, "size is 64 x 80; the largest side that fake takes is 64"),
        ({"aspect_buckets": [[64, 40]]}, "aspect_buckets is 64 x 40; fake takes multiples of 16"),
        ({"aspect_buckets": True}, "aspect_buckets: fake takes no side above 64, so that about 64 px"),
    ],
)
def test_sizes_that_a_model_does_not_take_are_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sizes(step=16, **recipe)


def test_the_widest_stretch_leaves_room_for_buckets_of_a_coarse_step() -> None:
    assert 1.15 < MOST_STRETCH < 1.25
