"""An image of any kind as RGB: upright, sRGB, alpha on white."""

import contextlib
import io

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

_WHITE = (255, 255, 255)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB of its own size in an image of its own: EXIF rotation undone, its profile applied, on white where
    it is transparent. Raises ValueError for 32 bits a sample."""
    upright = _on_white(_to_rgb(_to_8_bits(_turned(image)), image.info.get("icc_profile")))
    upright = image.copy() if upright is image else upright
    upright.info = {}  # which a PNG of it would carry
    return upright


def _turned(image: Image.Image) -> Image.Image:
    # Whatever is wrong with what a picture says of itself, the picture can be read.
    with contextlib.suppress(Exception):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


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
