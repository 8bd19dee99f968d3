"""The stages that run as CPU tasks: read what is left, load, score and encode.

Nothing that Python can catch leaves a stage, except that a store refuses all work: a row's error is written on the
row, the next stages let it pass, and the sink makes failure rows of it.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from PIL import Image

from eim_ops.aspect_buckets import Size
from pipeline import storage
from pipeline.asked_edits import edits_to_json
from pipeline.attempts import Attempts
from pipeline.decode import decode_image, encode_png
from pipeline.fit import Fit, resized
from pipeline.identity import noise_seed, sha256_bytes
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.retrying import StorageError, UnansweredError
from pipeline.scores import psnr, ssim
from pipeline.size_spec import OutputSize
from pipeline.work import BLANK, WORK, Row, error_on, source_image, table_of_work


@dataclass(frozen=True)
class ReadPending:
    """Bucket names -> the rows of these buckets that still have edits to be made, `block_rows` in a table."""

    manifest: Manifest
    ledger: Ledger
    recipe: Recipe
    retry_failed: bool
    block_rows: int

    def __call__(self, item: pa.Table) -> Iterator[pa.Table]:
        rows = [row for buckets in item["buckets"].to_pylist() for bucket in buckets for row in self._pending(bucket)]
        for start in range(0, len(rows), self.block_rows):
            yield table_of_work(rows[start : start + self.block_rows])
        if not rows:
            yield WORK.empty_table()

    def _pending(self, bucket: str) -> Iterator[Row]:
        standing = self.ledger.standing(self.manifest, bucket, self.recipe.edits)
        asked, left = standing.asked, np.flatnonzero(standing.left(self.retry_failed))
        indices, starts = np.unique(asked.row[left], return_index=True)
        edits = np.split(asked.edit[left], starts[1:])
        attempts = np.split(standing.attempts[left], starts[1:])
        columns = ["sample_id", "uri", "version", "source_prompt", "fields", "problem"]
        rows = asked.rows.select(columns).take(pa.array(indices)).to_pylist()
        texts: dict[tuple[int, ...], str] = {}  # most rows ask for the same
        for row, its_edits, its_attempts in zip(rows, edits, attempts, strict=False):
            name = (*its_edits.tolist(), *its_attempts.tolist())
            if name not in texts:
                pairs = zip(its_edits.tolist(), its_attempts.tolist(), strict=True)
                texts[name] = edits_to_json([replace(asked.edits[edit], attempts=tried) for edit, tried in pairs])
            problem, error = row.pop("problem"), Row()
            if problem is not None:
                kind, _, message = problem.partition(": ")
                error = {"error_stage": "prepare", "error_type": kind, "error_message": message}
            yield {**BLANK, **row, "edits": texts[name], **error}


_DECODING = threading.BoundedSemaphore(2)
"""A task reads by many threads, which wait; of large images it unpacks two at a time, which is what takes memory."""


class VersionChanged(Exception):
    """The source is no longer the one that was listed."""


@dataclass(frozen=True)
class LoadRows:
    """Fetch, decode and fit: fills image (PNG), its size and the source's, source_sha256 and seed."""

    fit: Fit
    seed: int
    progress: Progress
    attempts: Attempts

    def __call__(self, table: pa.Table) -> pa.Table:
        started = time.perf_counter()
        rows = self.attempts.guarded("load", table.to_pylist(), lambda some: storage.in_threads(self._load, some))
        self.progress.add("load", len(rows), time.perf_counter() - started)
        return table_of_work(rows)

    def _load(self, row: Row) -> Row:
        if row["error_stage"] is not None:
            return row
        try:
            blob = storage.read(row["uri"])
            if blob.version != row["version"]:
                raise VersionChanged(f"listed as {row['version']}, read as {blob.version}; run again to list it anew")
            sha256 = sha256_bytes(blob.data)
            with _DECODING:
                source = decode_image(blob.data)
                fitted = self.fit(source)
            image = encode_png(fitted)
        except Exception as error:
            if isinstance(error, StorageError) and not isinstance(error, UnansweredError):
                raise  # the store refuses everything: no fault of this row's
            return {**row, **error_on("load", error)}
        sizes = {"source_width": source.width, "source_height": source.height}
        sizes |= {"model_width": fitted.width, "model_height": fitted.height}
        return {**row, **sizes, "image": image, "source_sha256": sha256, "seed": noise_seed(self.seed, sha256)}


@dataclass(frozen=True)
class ScoreAndEncode:
    """Measures each edit against its source as the model saw it, then turns raw pixels into PNG bytes of the output's
    size."""

    progress: Progress
    attempts: Attempts
    output_size: OutputSize = "model"

    def __call__(self, table: pa.Table) -> pa.Table:
        started = time.perf_counter()
        rows = self.attempts.guarded("score", table.to_pylist(), self._scored)
        scored = sum(result["psnr"] is not None for row in rows for result in row["results"] or ())
        self.progress.add("score", scored, time.perf_counter() - started)
        return table_of_work([{**row, "image": None} for row in rows])

    def _scored(self, rows: list[Row]) -> list[Row]:
        for row in rows:
            fresh = [result for result in row["results"] or () if result["image"] is not None]
            if fresh:
                source = np.asarray(source_image(row))
                to_source = Size(row["source_width"], row["source_height"]) if self.output_size == "source" else None
                for result in fresh:
                    _score(result, source, to_source)
        return rows


def _score(result: Row, source: np.ndarray, output: Size | None) -> None:
    try:
        pixels = np.frombuffer(result["image"], np.uint8).reshape(result["height"], result["width"], 3)
        image = Image.fromarray(pixels)
        if output is not None:
            image = resized(image, output)
        result.update(psnr=psnr(pixels, source), ssim=ssim(pixels, source))
        result.update(image=encode_png(image), width=image.width, height=image.height)
    except Exception as error:
        result.update(image=None, **error_on("score", error))
