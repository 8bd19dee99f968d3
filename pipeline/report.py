"""What a run came to: contact sheet, page, and the judge's summary where the images are faces."""

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from eim_ops.aspect_buckets import Size
from pipeline import storage
from pipeline.asked import JOINER
from pipeline.contact_sheet import Line, Tile, contact_html, contact_png
from pipeline.decode import decode_image
from pipeline.fit import Fit
from pipeline.ledger import Ledger, View
from pipeline.storage import Store, open_store

Row = Mapping[str, Any]
_BATCH = 16
"""Images in one call of the autoencoder."""


class ReportError(Exception):
    """An output of which nothing can be shown."""


def write_report(output: str, images: int = 24) -> dict[str, Any]:
    """Write contact.png, contact.html and report.json for the first `images` sources; returns the last."""
    store = open_store(output)
    view = Ledger(store).read()
    if not len(view.edits):
        raise ReportError(f"{output} holds no edits; run `eim edit` with this output first")
    groups = _by_source(view, images)
    sources = {name: _source(rows[0]) for name, rows in groups.items()}
    scores = _scores(store, groups, sources)
    lines = [_line(store, rows, sources[name], scores) for name, rows in groups.items()]
    shown = [row for rows in groups.values() for row in rows]
    strengths = _by_strength(shown, scores)
    summary = [
        ("images shown", str(len(groups))),
        ("edits shown", str(len(shown))),
        ("failures in the run", str(len(view.failures))),
        *(_summary_line(strength, figures) for strength, figures in strengths.items()),
    ]
    report = {"images": len(groups), "edits": len(shown), "failures": len(view.failures), "strengths": strengths}
    store.write("contact.png", contact_png(lines))
    store.write("contact.html", contact_html(f"Edits in {output}", summary, lines))
    store.write("report.json", json.dumps(report, indent=1).encode())
    return report


def _by_source(view: View, images: int) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in view.edits.to_pylist():
        groups[row["source_uri"]].append(row)
    chosen = sorted(groups)[:images]
    return {
        name: sorted(groups[name], key=lambda row: (row["attribute"], row["target"], row["strength"]))
        for name in chosen
    }


def _source(row: Row) -> np.ndarray:
    """At the edited image's size: cropped as it was, or whole."""
    image = decode_image(storage.read(row["source_uri"]).data)
    return np.asarray(Fit((Size(row["width"], row["height"]),))(image))


def _edited(store: Store, row: Row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(storage.read(row["image_uri"]).data)).convert("RGB"))


def _scores(store: Store, groups: Mapping[str, Sequence[Row]], sources: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """FaceScore by image_uri; empty where a shipped model did not edit, not the faces' attributes, or at other sizes
    than the judge's."""
    from eim_ops.edit import round_trips
    from eim_ops.faces.judge import load_judge
    from eim_ops.load import load_backbone
    from eim_ops.metrics.face_score import asked_values, score_faces
    from eim_ops.mini.shipped import SHIPPED

    rows = [row for its_rows in groups.values() for row in its_rows]
    asked = [asked_values(row["attribute"].split(JOINER), row["target"].split(JOINER)) for row in rows]
    faces = [(row, values) for row, values in zip(rows, asked, strict=True) if values is not None]
    if len(faces) < len(rows) or rows[0]["model"] not in SHIPPED:
        return {}
    backbone = load_backbone(rows[0]["model"], None, "auto", "float32")
    if any(source.shape[:2] != (backbone.image_size, backbone.image_size) for source in sources.values()):
        return {}
    unedited = round_trips(backbone, list(sources.values()), _BATCH)
    before = dict(zip(sources, unedited, strict=True))
    scores = score_faces(
        load_judge(),
        np.stack([before[row["source_uri"]] for row, _ in faces]),
        np.stack([_edited(store, row) for row, _ in faces]),
        [values for _, values in faces],
    )
    return {row["image_uri"]: score for (row, _), score in zip(faces, scores, strict=True)}


def _line(store: Store, rows: Sequence[Row], source: np.ndarray, scores: Mapping[str, Any]) -> Line:
    tiles = []
    for row in rows:
        score = scores.get(row["image_uri"])
        tiles.append(
            Tile(
                _edited(store, row),
                row["attribute"],
                row["target"],
                row["strength"],
                row["target_prompt"],
                score and score.reading,
                score and score.reached,
                score and score.kept,
            )
        )
    return Line(PurePosixPath(rows[0]["source_uri"]).name, rows[0]["source_prompt"], source, tuple(tiles))


def _by_strength(rows: Sequence[Row], scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Success, kept and PSNR for each strength; the judge's two only where there is one."""
    figures: dict[str, dict[str, float]] = {}
    for strength in sorted({row["strength"] for row in rows}):
        these = [row for row in rows if row["strength"] == strength]
        figures[f"{strength:g}"] = {"edits": len(these), "psnr": float(np.mean([row["psnr"] for row in these]))}
        judged = [scores[row["image_uri"]] for row in these if row["image_uri"] in scores]
        if judged:
            figures[f"{strength:g}"] |= {
                "success": float(np.mean([score.reached for score in judged])),
                "kept": float(np.mean([score.kept for score in judged])),
            }
            for attribute in sorted({row["attribute"] for row in these}):
                own = [scores[row["image_uri"]].reached for row in these if row["attribute"] == attribute]
                figures[f"{strength:g}"][f"success_{attribute}"] = float(np.mean(own))
    return figures


def _summary_line(strength: str, figures: Mapping[str, float]) -> tuple[str, str]:
    judged = ""
    if "success" in figures:
        judged = f", asked change seen in {figures['success']:.0%}, others kept {figures['kept']:.1%}"
    return f"strength {strength}", f"PSNR to source {figures['psnr']:.1f} dB{judged}"
