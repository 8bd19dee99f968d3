"""The benchmark's cases as a dataset of its own: images, requests, prompts and true edits, with a card.

Parquet in the layout that `datasets.load_dataset` reads: one configuration a world, one split a seed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from jinja2 import Environment

from pipeline.bench.spec import REPORTS, CaseChunk, Models
from pipeline.decode import encode_png
from pipeline.storage import Store, parquet_bytes

if TYPE_CHECKING:
    from eim_ops.bench.cases import Case
    from eim_ops.captioning.base import Captioner

FOLDER = "dataset"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TEXTS = ("attribute", "kind", "target", "request", "source_prompt", "target_prompt", "vlm_source_prompt",
          "vlm_target_prompt", "face", "true_face")  # fmt: skip
_IMAGES = ("image", "true_image")
_METADATA = {
    "info": {
        "features": {
            "case": {"dtype": "int64", "_type": "Value"},
            **{name: {"dtype": "string", "_type": "Value"} for name in _TEXTS},
            **{name: {"_type": "Image"} for name in _IMAGES},
        }
    }
}
SCHEMA = pa.schema(
    [("case", pa.int64()), *((name, pa.string()) for name in _TEXTS), *((name, _IMAGE) for name in _IMAGES)],
    metadata={"huggingface": json.dumps(_METADATA)},
)
"""One row a case; `face` and `true_face` are all attributes as JSON."""


def describe(chunk: CaseChunk, captioner: "Captioner") -> pa.Table:
    """The rows of one chunk."""
    from eim_ops.bench.cases import captioned, draw_cases, sources, truths

    cases = draw_cases(chunk.stop, chunk.world, chunk.split)[chunk.start :]
    written = captioned(cases, captioner)
    rows = [
        _row(case, its, image, truth)
        for case, its, image, truth in zip(cases, written, sources(cases), truths(cases), strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(case: "Case", written: "Case", image: Any, truth: Any) -> dict[str, Any]:
    return {
        "case": case.number,
        "attribute": case.attribute,
        "kind": case.asked.kind,
        "target": case.clause,
        "request": case.request,
        "source_prompt": case.source_prompt,
        "target_prompt": case.target_prompt,
        "vlm_source_prompt": written.source_prompt,
        "vlm_target_prompt": written.target_prompt,
        "face": json.dumps(asdict(case.face)),
        "true_face": json.dumps(asdict(case.truth)),
        "image": {"bytes": encode_png(image), "path": f"{case.number:05d}.png"},
        "true_image": {"bytes": encode_png(truth), "path": f"{case.number:05d}-true.png"},
    }


def export(store: Store, chunks: Sequence[CaseChunk], models: Models) -> None:
    """Gather chunks that are there into one file for each world and split, and write the card."""
    files = dict.fromkeys((chunk.world, chunk.split) for chunk in chunks)
    counts = {}
    for world, split in files:
        parts = [store.read_table(c.key(models)) for c in chunks if (c.world, c.split) == (world, split)]
        table = pa.concat_tables(parts)
        counts[world, split] = len(table)
        store.write(f"{FOLDER}/{world}/{split}.parquet", parquet_bytes(table))
    card = Environment(keep_trailing_newline=True).from_string(_CARD)
    text = card.render(worlds=list(dict.fromkeys(world for world, _ in files)), counts=counts, reports=list(REPORTS))
    store.write(f"{FOLDER}/README.md", text.encode())


_CARD = """---
task_categories: [image-to-image]
pretty_name: Faces with known edits
size_categories: [n<1K]
configs:
{%- for world in worlds %}
- config_name: {{ world }}
  data_files:
  {%- for (its, split), count in counts.items() if its == world %}
  - {split: {{ split }}, path: {{ world }}/{{ split }}.parquet}
  {%- endfor %}
{%- endfor %}
---
# Faces with known edits

Procedural faces of 64 x 64 pixels, an edit request for each, and the true edited face: the same face rendered with the
one attribute changed. An edit can be compared with what it should be, and what it should not touch is known.

| world | split | cases |
| --- | --- | --- |
{%- for (world, split), count in counts.items() %}
| {{ world }} | {{ split }} | {{ count }} |
{%- endfor %}

- `image`, `true_image`: PNG. `face`, `true_face`: every attribute, numbers on [0, 1] and class names, as JSON.
- `request`: what a user asks; `attribute` and `target` say it in parts. Twelve attributes in turn, `kind` continuous or
  categorical, each to another value than the face has.
- `source_prompt`, `target_prompt`: ground truth. `vlm_source_prompt`, `vlm_target_prompt`: written by mini-vlm, with
  its errors.
- World `independent`: every attribute is drawn alone. World `correlated`: grey hair, glasses and short hair come with
  age, a beard with a hat, a smile with light, wide eyes with a plump face, each in four of five faces.
- Split `tuning` is for choosing settings, `test` for reporting. They share no face.

Made and measured by `eim evaluate bench`; every case is a function of its number and its split's seed.
"""
