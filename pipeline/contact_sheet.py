"""Pictures of a run: each source with its edits, as one PNG and as one self-contained HTML page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.decode import encode_png

_THUMB, _LABEL, _GAP, _LEFT = 96, 26, 6, 6
_SMALL = 256


@dataclass(frozen=True)
class Tile:
    """One edited image. `reading` is the judge's; `good` None where nobody judged."""

    pixels: np.ndarray
    attribute: str
    target: str
    strength: float
    target_prompt: str
    reading: str | None
    good: bool | None
    kept: float | None


@dataclass(frozen=True)
class Line:
    """One source image, uint8 (H, W, 3), and its edits in order."""

    name: str
    prompt: str
    pixels: np.ndarray
    tiles: tuple[Tile, ...]


def contact_png(lines: Sequence[Line]) -> bytes:
    """A sheet with a row for each source: the source, then its edits, each with strength and reading."""
    columns = 1 + max((len(line.tiles) for line in lines), default=0)
    height = _LABEL + len(lines) * (_THUMB + _LABEL + _GAP)
    sheet = Image.new("RGB", (_LEFT + columns * (_THUMB + _GAP), height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for column, tile in enumerate(lines[0].tiles if lines else ()):
        x = _LEFT + (column + 1) * (_THUMB + _GAP)
        draw.text((x, 2), tile.target, "black", font)
        draw.text((x, 13), f"x {tile.strength:g}", "black", font)
    for number, line in enumerate(lines):
        y = _LABEL + number * (_THUMB + _LABEL + _GAP)
        sheet.paste(_thumb(line.pixels), (_LEFT, y))
        draw.text((_LEFT, y + _THUMB + 2), line.name[:18], "black", font)
        for column, tile in enumerate(line.tiles):
            x = _LEFT + (column + 1) * (_THUMB + _GAP)
            sheet.paste(_thumb(tile.pixels), (x, y))
            if tile.reading is not None:
                draw.text((x, y + _THUMB + 2), tile.reading[:18], _colour(tile.good), font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def small(pixels: np.ndarray) -> np.ndarray:
    """As large as a page or a sheet shows an image, twice over: uint8 (H, W, 3), 256 at most a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SMALL, _SMALL), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _thumb(pixels: np.ndarray) -> Image.Image:
    return ImageOps.pad(Image.fromarray(pixels), (_THUMB, _THUMB), Image.Resampling.LANCZOS, "white")


def _colour(good: bool | None) -> str:
    return {None: "black", True: "darkgreen", False: "firebrick"}[good]


def contact_html(title: str, summary: Sequence[tuple[str, str]], lines: Sequence[Line]) -> bytes:
    """The same as a page, with prompts and the summary's (name, value) pairs; images are embedded."""
    environment = Environment(autoescape=True)
    environment.filters["uri"] = lambda pixels: "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()
    return environment.from_string(_PAGE).render(title=title, summary=summary, lines=lines).encode()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; }
table.summary td { padding: 0 1rem 0 0; }
section { border-top: 1px solid #ddd; padding: 1rem 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 8px; }
figure { margin: 0; width: 112px; font-size: 11px; }
figure img { width: 112px; height: 112px; object-fit: contain; display: block; }
.good { color: #0a6b2d; } .bad { color: #a11; }
p { max-width: 60rem; margin: 0 0 .5rem; }
</style>
<h1>{{ title }}</h1>
<table class="summary">{% for name, value in summary %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table>
{% for line in lines %}
<section>
<p><b>{{ line.name }}</b> {{ line.prompt }}</p>
<div class="tiles">
<figure><img src="{{ line.pixels | uri }}" alt="source {{ line.name }}"><figcaption>source</figcaption></figure>
{% for tile in line.tiles %}
<figure title="{{ tile.target_prompt }}">
<img src="{{ tile.pixels | uri }}" alt="{{ tile.target }} at strength {{ tile.strength }}">
<figcaption>{{ tile.target }} &times; {{ '%g' % tile.strength }}
{% if tile.reading %}<br><span class="{{ 'good' if tile.good else 'bad' }}">judge: {{ tile.reading }}</span>
<br>others kept {{ '%.0f' % (100 * tile.kept) }} %{% endif %}</figcaption></figure>
{% endfor %}
</div>
</section>
{% endfor %}
</html>
"""
