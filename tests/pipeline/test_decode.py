import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, UnidentifiedImageError

from pipeline.decode import decode_image, encode_png
from pipeline.scores import psnr, ssim

RED, WHITE = (200, 10, 10), (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data))


def test_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(decoded(encode_png(pixels)), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_kind_of_file_is_read(kind: str) -> None:
    pixels = decoded(saved(Image.new("RGB", (20, 16), RED), kind))
    assert pixels.shape == (16, 20, 3)
    assert np.abs(pixels.astype(int) - RED).max() < 8


def test_exif_rotation_is_undone() -> None:
    upright = Image.new("RGB", (16, 16), WHITE)
    upright.paste(RED, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    data = saved(upright.rotate(180), exif=exif)
    assert np.array_equal(decoded(data), np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    if mode == "P":
        data = saved(Image.new("P", (16, 16), 0), transparency=0)
    else:
        data = saved(Image.new("RGBA", (16, 16), (200, 10, 10, 0)).convert(mode))
    assert decoded(data).min() == 255


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16"])
def test_other_modes_become_rgb(mode: str) -> None:
    if mode == "I;16":
        data = saved(Image.fromarray(np.full((16, 16), 128 << 8, np.uint16)))
    else:
        data = saved(Image.new("L", (16, 16), 128).convert(mode), "TIFF")
    pixels = decoded(data)
    assert np.abs(pixels.astype(int) - 128).max() <= 1


def test_a_broken_colour_profile_is_passed_over() -> None:
    data = saved(Image.new("RGB", (16, 16), RED), icc_profile=b"not a profile")
    assert np.array_equal(decoded(data)[0, 0], RED)


@pytest.mark.parametrize("data", [b"", b"nothing", saved(Image.effect_noise((64, 64), 50).convert("RGB"))[:2000]])
def test_broken_bytes_raise(data: bytes) -> None:
    with pytest.raises((UnidentifiedImageError, OSError, SyntaxError)):
        decoded(data)


def test_scores_agree_with_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    rng = np.random.default_rng(0)
    source = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((48, 40)))
    edited = np.clip(source + rng.normal(0, 12, source.shape), 0, 255).astype(np.uint8)
    a, b = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double() for image in (edited, source))
    theirs = structural_similarity_index_measure(a, b, data_range=255.0, return_full_image=True)[1]
    inner = float(theirs[..., 5:-5, 5:-5].mean())  # theirs pads the borders, ours keeps to where the window fits
    assert ssim(edited, source) == pytest.approx(inner, abs=1e-4)
    assert psnr(edited, source) == pytest.approx(float(peak_signal_noise_ratio(a, b, data_range=255.0)), abs=1e-3)


def test_equal_images_have_the_best_scores() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert (psnr(image, image), ssim(image, image)) == (100.0, pytest.approx(1.0))


def test_a_transparent_colour_is_laid_on_white_whatever_the_profile_says() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(Image.new("RGB", (16, 16), RED), transparency=RED, icc_profile=srgb)
    assert decoded(data).min() == 255


@pytest.mark.parametrize("pixels", [np.full((16, 16), 0.5, np.float32), np.full((16, 16), 128, np.int32)])
def test_32_bits_a_sample_are_refused_rather_than_made_black(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="give an image of 8 or 16"):
        decode_image(saved(Image.fromarray(pixels), "TIFF"))


def test_a_broken_orientation_leaves_a_picture_as_it_is() -> None:
    assert (decoded(saved(Image.new("RGB", (16, 16), RED), exif=b"Exif\0\0no TIFF at all")) == RED).all()


def test_equal_pixels_are_equal_bytes_whatever_their_file_said() -> None:
    image = Image.new("RGB", (16, 16), RED)
    spoken = decode_image(saved(image, icc_profile=b"broken", dpi=(300, 300)))
    assert encode_png(spoken) == encode_png(decode_image(saved(image)))
