"""Image files of all kinds to RGB, and back to PNG."""

import io

import numpy as np
from PIL import Image

from eim_ops.rgb import upright_rgb


def decode_image(data: bytes) -> Image.Image:
    """An image file as RGB of its own size: upright, sRGB, alpha on white.

    Of an animation the first frame. Raises what Pillow raises for bytes that are no image, are cut short, or unpack to
    more pixels than its limit; ValueError for 32 bits a sample.
    """
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return upright_rgb(image)


def encode_png(pixels: np.ndarray | Image.Image) -> bytes:
    """RGB, as an image or uint8 (H, W, 3), as PNG bytes, equal for equal pixels."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
