"""Image files of all kinds to RGB, and back to PNG."""

import contextlib
import io

import numpy as np
from PIL import Image, ImageCms, ImageOps

_WHITE = (255, 255, 255)


def decode_image(data: bytes) -> Image.Image:
    """An image file as RGB of its own size: upright, sRGB, alpha on white.

    Of an animation the first frame. Raises what Pillow raises for bytes that are no image, are cut short, or unpack to
    more pixels than its limit; ValueError for 32 bits a sample.
    """
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        profile = image.info.get("icc_profile")
        # Whatever is wrong with what a picture says of itself, the picture can be read.
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        decoded = _on_white(_to_rgb(_to_8_bits(image), profile))
    decoded.info = {}  # which a PNG of it would carry
    return decoded


def encode_png(pixels: np.ndarray | Image.Image) -> bytes:
    """RGB, as an image or uint8 (H, W, 3), as PNG bytes, equal for equal pixels."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("32 bits a sample, whose black and white nothing tells: give an image of 8 or 16")
    if image.mode.startswith("I"):  # 16 bits a sample; Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return image


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB or RGBA in sRGB."""
    transparent = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if transparent and image.mode != "RGBA":
        image = image.convert("RGBA")
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            colours = image.convert("RGB") if alpha else image
            converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a broken profile, or one of another colour space: as without
            converted = None
        if converted is not None:
            if alpha:
                converted.putalpha(alpha)
            return converted
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, _WHITE)
    ground.paste(image, mask=image.getchannel("A"))
    return ground
