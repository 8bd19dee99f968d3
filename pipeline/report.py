"""What a run came to: contact sheet, page, and the judge's summary where the images are faces."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from eim_ops.aspect_buckets import Size
from pipeline import storage
from pipeline.asked_edits import JOINER
from pipeline.contact_sheet import Line, Tile, contact_html, contact_png, small
from pipeline.decode import decode_image
from pipeline.fit import Fit
from pipeline.ledger import Ledger, buckets_with_parts
from pipeline.retrying import StorageError
from pipeline.runs import find_runs
from pipeline.storage import in_threads

Row = Mapping[str, Any]
Source = tuple[str, str]
"""(source_uri, sample_id): a source that changed is shown once for each version that was edited."""
_SOURCE = ["source_uri", "sample_id"]
_SHOWN = (
    "source_uri",
    "width",
    "height",
    "source_prompt",
    "target_prompt",
    "attribute",
    "target",
    "strength",
    "model",
    "image_uri",
    "psnr",
)
_BATCH = 16
"""Images in one call of the autoencoder."""
_BUCKETS = 32
"""That are read at a time, by a few threads."""


class ReportError(Exception):
    """An output of which nothing can be shown."""


def write_report(output: str, images: int = 24) -> dict[str, Any]:
    """Write contact.png, contact.html and report.json for the first `images` sources; returns the last.

    Of an output with several runs the first one's. Raises OutputError where no job has begun, ReportError where there
    is no edit, or a source or an edit cannot be shown, and what storage raises after its retries.
    """
    run = find_runs(output)[0]
    if len(run.fingerprints) > 1:
        raise ReportError(f"{run.store.root} records {len(run.fingerprints)} settings; delete the one not wanted")
    store = run.store
    groups, failures = _by_source(Ledger(store, run.fingerprints[0]), images)
    if not groups:
        raise ReportError(f"{output} holds no edits, {failures} failures; run `eim edit` with this output first")
    sources = {name: _source(rows[0]) for name, rows in groups.items()}
    scores = _scores(groups, sources)
    lines = [_line(rows, sources[name], scores) for name, rows in groups.items()]
    shown = [row for rows in groups.values() for row in rows]
    strengths = _by_strength(shown, scores)
    summary = [
        ("images shown", str(len(groups))),
        ("edits shown", str(len(shown))),
        ("failures in the run", str(failures)),
        *(_summary_line(strength, figures) for strength, figures in strengths.items()),
    ]
    report = {"images": len(groups), "edits": len(shown), "failures": failures, "strengths": strengths}
    store.write("contact.png", contact_png(lines))
    store.write("contact.html", contact_html(f"Edits in {output}", summary, lines))
    store.write("report.json", json.dumps(report, indent=1).encode())
    return report


def _by_source(ledger: Ledger, images: int) -> tuple[dict[Source, list[Row]], int]:
    """The edits of the first sources, in order, and the number of all failures; memory holds a few buckets."""
    names = buckets_with_parts(ledger.store)
    groups: dict[Source, list[Row]] = {}
    failures = 0
    for start in range(0, len(names), _BUCKETS):
        for rows, failed in in_threads(partial(_first_of, ledger, images), names[start : start + _BUCKETS]):
            failures += failed
            for row in rows:
                groups.setdefault(_name(row), []).append(row)
        groups = {name: groups[name] for name in sorted(groups)[:images]}
    for its_rows in groups.values():
        its_rows.sort(key=lambda row: (row["attribute"], row["target"], row["strength"]))
    return groups, failures


def _first_of(ledger: Ledger, images: int, bucket: str) -> tuple[list[Row], int]:
    """The edits of a bucket's first sources, and the number of its failures."""
    view = ledger.bucket(bucket, _SHOWN)
    sources = view.edits.select(_SOURCE).group_by(_SOURCE).aggregate([])
    first = sources.sort_by([(name, "ascending") for name in _SOURCE]).slice(0, images)["sample_id"]
    return view.edits.filter(pc.is_in(view.edits["sample_id"], first.combine_chunks())).to_pylist(), len(view.failures)


def _name(row: Row) -> Source:
    return row["source_uri"], row["sample_id"]


def _source(row: Row) -> np.ndarray:
    """At the edited image's size: cropped as it was, or whole."""
    image = _image(row["source_uri"], "edits are shown beside their source, so put it back")
    return np.asarray(Fit((Size(row["width"], row["height"]),))(image))


def _edited(row: Row) -> np.ndarray:
    return np.asarray(_image(row["image_uri"], "`eim verify` tells what else is wrong"))


def _image(uri: str, mend: str) -> Image.Image:
    try:
        return decode_image(storage.read(uri).data)
    except StorageError:
        raise
    except FileNotFoundError:
        raise ReportError(f"{uri} is not there; {mend}") from None
    except Exception as error:  # Pillow's are of many types
        raise ReportError(f"{uri} cannot be read: {type(error).__name__}: {error}; {mend}") from error


def _scores(groups: Mapping[Source, Sequence[Row]], sources: Mapping[Source, np.ndarray]) -> dict[str, Any]:
    """FaceScore by image_uri; empty where a shipped model did not edit, not the faces' attributes, or at other sizes
    than the judge's."""
    from eim_ops.edit import round_trips
    from eim_ops.faces.judge import load_judge
    from eim_ops.metrics.face_score import asked_values, score_faces
    from eim_ops.mini.shipped import SHIPPED
    from eim_ops.named_models import load_backbone

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
        np.stack([before[_name(row)] for row, _ in faces]),
        np.stack([_edited(row) for row, _ in faces]),
        [values for _, values in faces],
    )
    return {row["image_uri"]: score for (row, _), score in zip(faces, scores, strict=True)}


def _line(rows: Sequence[Row], source: np.ndarray, scores: Mapping[str, Any]) -> Line:
    tiles = []
    for row in rows:
        score = scores.get(row["image_uri"])
        tiles.append(
            Tile(
                small(_edited(row)),
                row["attribute"],
                row["target"],
                row["strength"],
                row["target_prompt"],
                score and score.reading,
                score and score.reached,
                score and score.kept,
            )
        )
    return Line(PurePosixPath(rows[0]["source_uri"]).name, rows[0]["source_prompt"], small(source), tuple(tiles))


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
