"""Draw a `Face` as a 64x64 RGB image: deterministic, anti-aliased by 4x supersampling.

Coordinates are in head units: (0, 0) is the middle of the face, +y points down, 1 is the
half-height of the head. Every attribute leaves a mark that no other attribute covers entirely:
eyes glimmer through sunglasses, side hair shows under a hat, cheek folds show age above a beard.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from eim_ops.faces.face import Face

SIZE = 64
_SUPERSAMPLING = 4
_CANVAS = SIZE * _SUPERSAMPLING

Rgb = tuple[int, int, int]

SKIN: dict[str, Rgb] = {"pale": (250, 218, 195), "tan": (222, 172, 126), "brown": (165, 110, 72), "ebony": (98, 64, 46)}
HAIR: dict[str, Rgb] = {
    "black": (28, 24, 26),
    "brown": (104, 62, 28),
    "blond": (240, 206, 96),
    "red": (196, 72, 24),
    "grey": (176, 178, 184),
}
BACKGROUND: dict[str, Rgb] = {
    "blue": (92, 148, 226),
    "green": (104, 188, 112),
    "yellow": (242, 222, 110),
    "purple": (172, 112, 204),
}
_GREY, _INK, _WHITE = (200, 200, 204), (36, 28, 30), (252, 252, 252)


def _mix(a: Rgb, b: Rgb, t: float) -> Rgb:
    return (round(a[0] + (b[0] - a[0]) * t), round(a[1] + (b[1] - a[1]) * t), round(a[2] + (b[2] - a[2]) * t))


@dataclass(frozen=True)
class _Pen:
    """Draws in head units on a supersampled canvas."""

    draw: ImageDraw.ImageDraw
    cx: float
    cy: float
    unit: float

    def _xy(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(self.cx + u * self.unit, self.cy + v * self.unit) for u, v in points]

    def ellipse(
        self, u: float, v: float, ru: float, rv: float, fill: Rgb | None, outline: Rgb | None = None, width: float = 0
    ) -> None:
        box = self._xy([(u - ru, v - rv), (u + ru, v + rv)])
        self.draw.ellipse(box, fill=fill, outline=outline, width=round(width * self.unit))

    def polygon(self, points: list[tuple[float, float]], fill: Rgb) -> None:
        self.draw.polygon(self._xy(points), fill=fill)

    def line(self, points: list[tuple[float, float]], fill: Rgb, width: float) -> None:
        self.draw.line(self._xy(points), fill=fill, width=max(1, round(width * self.unit)), joint="curve")


def _arc(u: float, v: float, half: float, bow: float, count: int = 9) -> list[tuple[float, float]]:
    """A parabola of half-width `half` through (u, v +- bow): its middle lies `bow` below its ends."""
    steps = [2 * i / (count - 1) - 1 for i in range(count)]
    return [(u + half * t, v + bow * (0.5 - t * t)) for t in steps]


def _upper_ellipse(ru: float, top: float, base: float, count: int = 17) -> list[tuple[float, float]]:
    """Half an ellipse from (-ru, base) over (0, top) to (ru, base)."""
    angles = [np.pi * i / (count - 1) for i in range(count)]
    return [(-ru * float(np.cos(a)), base + (top - base) * float(np.sin(a))) for a in angles]


def _draw_hair_behind(pen: _Pen, face: Face, width: float, hair: Rgb) -> None:
    reach = -0.25 + 1.5 * face.hair_length
    pen.ellipse(0, -0.28, width + 0.17, 0.9, hair)
    pen.polygon([(-width - 0.17, -0.35), (width + 0.17, -0.35), (width + 0.2, reach), (-width - 0.2, reach)], hair)


def _draw_head(pen: _Pen, face: Face, width: float, skin: Rgb, shade: Rgb) -> None:
    shirt = _mix((70, 76, 90), (150, 156, 170), face.shirt)
    pen.ellipse(0, 1.95, 1.25, 0.72, shirt)
    pen.polygon([(-0.27, 0.7), (0.27, 0.7), (0.27, 1.35), (-0.27, 1.35)], shade)
    for side in (-1, 1):
        pen.ellipse(side * (width + 0.02), 0.05, 0.11, 0.17, shade)
    pen.ellipse(0, 0, width, 1.0, skin)


def _draw_beard(pen: _Pen, face: Face, width: float, hair: Rgb, skin: Rgb) -> None:
    if face.beard == "none":
        return
    full = face.beard == "full"
    colour = hair if full else _mix(skin, hair, 0.55)
    depth, top = (1.18, 0.2) if full else (1.0, 0.42)
    edge = [(float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, np.pi, 17)]
    outer = [(width * c * 0.99, max(top, 0) + (depth - top) * s) for c, s in edge]
    inner = [(width * 0.66 * c, top + 0.02 + 0.17 * s) for c, s in reversed(edge)]
    pen.polygon(outer + inner, colour)
    pen.line(_arc(0, 0.38, 0.3, -0.08), colour, 0.13 if full else 0.08)


def _draw_mouth(pen: _Pen, face: Face) -> None:
    curve = 2 * face.smile - 1
    bow, half = 0.34 * curve, 0.27 + 0.1 * abs(curve)
    lip = (150, 44, 52)
    points = _arc(0, 0.56, half, bow)
    if curve > 0.3:
        lower = _arc(0, 0.56 + 0.5 * (curve - 0.3) * 0.18, half, bow + 0.42 * (curve - 0.3))
        pen.polygon(points + lower[::-1], _WHITE)
        pen.line(lower, lip, 0.07)
    pen.line(points, lip, 0.09)


def _draw_wrinkles(pen: _Pen, face: Face, width: float, skin: Rgb) -> None:
    ink = _mix(skin, _mix(skin, _INK, 0.72), face.age)
    if face.age < 0.04:
        return
    for row in range(3):
        pen.line(_arc(0, -0.47 - 0.12 * row, 0.26 + 0.12 * face.age, -0.05), ink, 0.035 + 0.02 * face.age)
    for side in (-1, 1):
        pen.line([(side * 0.2, 0.2), (side * (0.32 + 0.05 * face.age), 0.34), (side * 0.42, 0.52)], ink, 0.05)
        pen.line([(side * width * 0.72, 0.16), (side * width * 0.86, 0.4)], ink, 0.05)
        pen.line(_arc(side * 0.36, 0.13, 0.15, 0.1), ink, 0.045)


def _eye_height(face: Face) -> float:
    return 0.02 + 0.2 * face.eyes


def _draw_eyes(pen: _Pen, face: Face, width: float, hair: Rgb, skin: Rgb) -> float:
    gap = (0.36 + 0.05 * (face.eye_gap - 0.5)) * (0.75 + 0.35 * width)
    height = _eye_height(face)
    brow_colour = _mix(_mix(hair, _INK, 0.25), _WHITE, 0.8 * face.age)
    for side in (-1, 1):
        pen.ellipse(side * gap, -0.08, 0.19, height, _WHITE, _INK, 0.03)
        pen.ellipse(side * gap, -0.08, min(0.095, height), min(0.1, height * 0.95), (48, 60, 84))
        brow = -0.27 - 0.17 * face.eyes
        pen.line(
            [(side * (gap - 0.17), brow + 0.02), (side * gap, brow - 0.04), (side * (gap + 0.19), brow + 0.03)],
            brow_colour,
            0.075,
        )
    return gap


def _draw_glasses(pen: _Pen, face: Face, width: float, gap: float) -> None:
    if face.glasses == "none":
        return
    for side in (-1, 1):
        if face.glasses == "round":
            pen.ellipse(side * gap, -0.07, 0.28, 0.26, None, (30, 30, 38), 0.06)
        else:
            pen.ellipse(side * gap, -0.05, 0.29, 0.22, (18, 18, 24))
            pen.ellipse(side * gap, -0.08, 0.17, 0.9 * _eye_height(face), (92, 94, 108))
        pen.line([(side * (gap + 0.27), -0.1), (side * width, -0.12)], (24, 24, 30), 0.055)
    pen.line([(-gap + 0.27, -0.1), (gap - 0.27, -0.1)], (24, 24, 30), 0.06)


def _draw_hair_front(pen: _Pen, face: Face, width: float, hair: Rgb) -> None:
    fringe = [(0.62 * width * (1 - 2 * i / 8), -0.74 - 0.05 * (i % 2)) for i in range(9)]
    pen.polygon(
        [*_upper_ellipse(width + 0.13, -1.22, -0.2), (width * 0.93, -0.3), *fringe, (-width * 0.93, -0.3)], hair
    )
    reach = -0.2 + 1.45 * face.hair_length
    for side in (-1, 1):
        pen.polygon(
            [
                (side * (width - 0.05), -0.45),
                (side * (width + 0.17), -0.45),
                (side * (width + 0.2), reach),
                (side * (width + 0.02), reach),
            ],
            hair,
        )


def _draw_hat(pen: _Pen, face: Face, width: float) -> None:
    if face.hat == "cap":
        pen.polygon(_upper_ellipse(width + 0.18, -1.36, -0.72), (206, 44, 58))
        pen.polygon(
            [(-width - 0.2, -0.72), (width + 0.55, -0.72), (width + 0.5, -0.6), (-width - 0.18, -0.64)], (150, 26, 40)
        )
    elif face.hat == "beanie":
        pen.ellipse(0, -1.5, 0.17, 0.17, (236, 240, 240))
        pen.polygon(_upper_ellipse(width + 0.18, -1.45, -0.72), (34, 132, 140))
        pen.polygon(
            [(-width - 0.2, -0.86), (width + 0.2, -0.86), (width + 0.2, -0.64), (-width - 0.2, -0.64)], (20, 92, 104)
        )


def render(face: Face) -> np.ndarray:
    """Draw `face`. Returns uint8 (64, 64, 3) RGB."""
    image = Image.new("RGB", (_CANVAS, _CANVAS), BACKGROUND[face.background])
    unit = _CANVAS * 0.285 * (0.92 + 0.16 * face.scale)
    pen = _Pen(
        ImageDraw.Draw(image),
        cx=_CANVAS * (0.5 + 0.08 * (face.x - 0.5)),
        cy=_CANVAS * (0.53 + 0.06 * (face.y - 0.5)),
        unit=unit,
    )
    width = 0.62 + 0.36 * face.face_width
    skin = SKIN[face.skin]
    shade = _mix(skin, _INK, 0.18)
    hair = _mix(HAIR[face.hair_color], _GREY, 0.35 * face.age)
    _draw_hair_behind(pen, face, width, hair)
    _draw_head(pen, face, width, skin, shade)
    _draw_beard(pen, face, width, hair, skin)
    _draw_wrinkles(pen, face, width, skin)
    _draw_mouth(pen, face)
    length = 0.1 + 0.06 * face.nose
    pen.line([(0, 0.02), (0.09, 0.1 + length), (-0.03, 0.13 + length)], shade, 0.06)
    gap = _draw_eyes(pen, face, width, hair, skin)
    _draw_hair_front(pen, face, width, hair)
    _draw_glasses(pen, face, width, gap)
    _draw_hat(pen, face, width)
    pixels = np.asarray(image.reduce(_SUPERSAMPLING), dtype=np.float32)
    gain = 0.42 + 0.58 * face.lighting
    return np.clip(pixels * gain + 0.5, 0, 255).astype(np.uint8)
