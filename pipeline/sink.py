"""The commit: one write puts its images, then its edits parts, then its failures parts, and nothing else."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from pipeline.asked_edits import JOINER, AskedEdit, edits_from_json
from pipeline.attempts import Attempts
from pipeline.failure_limit import FailureLimit, TooManyFailures
from pipeline.identity import bucket_of, image_key, part_key, sha256_bytes
from pipeline.progress import Progress
from pipeline.schema import EDITS, FAILURES, SCHEMA_VERSION, table_of
from pipeline.storage import Store, in_threads
from pipeline.work import WORK, Row


@dataclass(frozen=True)
class RunFacts:
    """What every row of a run says alike."""

    fingerprint: str
    model: str
    model_revision: str
    captioner: str
    captioner_revision: str
    partition: str | None = None


@dataclass(frozen=True)
class _Image:
    sample: Row
    asked: AskedEdit
    result: Row


class EditSink:
    """Writes the rows that `stages.ScoreAndEncode` gives, and gives none.

    A last stage rather than a Datasink: Ray holds every result of a Datasink's tasks, and with it how it came about,
    until the job ends. What a stage gives can be let go one by one (`flow.py`).

    Raises what storage raises after its retries: a store that refuses writes stops the job, and the same command goes
    on from what was written. Raises TooManyFailures once so much has failed that the run stops.
    """

    def __init__(
        self,
        store: Store,
        facts: RunFacts,
        progress: Progress,
        failure_limit: FailureLimit,
        attempts: Attempts,
    ) -> None:
        self._store, self._facts, self._progress = store, facts, progress
        self._failure_limit, self._attempts = failure_limit, attempts

    def __call__(self, table: pa.Table) -> pa.Table:
        """Put the images of these rows, then their parts."""
        if set_aside := self._attempts.guarded("write", table.to_pylist(), self._commit):
            self._commit(set_aside)
        return WORK.empty_table()

    def _commit(self, rows: list[Row]) -> list[Row]:
        """Returns no row: all are written."""
        started = time.perf_counter()
        images: list[_Image] = []
        failures: list[Row] = []
        for row in rows:
            its_images, its_failures = self._sort_out(row)
            images += its_images
            failures += its_failures
        edits = in_threads(self._put_image, images)
        edited = self._put_parts("edits", edits, EDITS, ("sample_id", "edit_id", "image_sha256", "fingerprint"))
        identity = ("sample_id", "edit_id", "stage", "error_type", "message", "attempts", "fingerprint")
        failed = self._put_parts("failures", failures, FAILURES, identity)
        counts = {part: len(its_rows) for part, its_rows in edited.items()}
        reasons = {
            part: Counter((row["stage"], row["error_type"]) for row in its_rows) for part, its_rows in failed.items()
        }
        so_far = self._progress.written(counts, reasons, time.perf_counter() - started)
        if problem := self._failure_limit.problem(*so_far):
            raise TooManyFailures(problem)
        return []

    def _sort_out(self, row: Row) -> tuple[list[_Image], list[Row]]:
        """A row's images to be written and its failure rows: together one for each asked edit."""
        results = {result["edit_id"]: result for result in row["results"] or ()}
        images, failures = [], []
        for asked in edits_from_json(row["edits"]):
            result = results.get(asked.edit_id)
            if row["error_stage"] is not None:
                failures.append(self._failure(row, asked, row["error_stage"], row["error_type"], row["error_message"]))
            elif result is None or (result["image"] is None and result["error_stage"] is None):
                failures.append(self._failure(row, asked, "edit", "MissingResult", "the editor gave no image"))
            elif result["error_stage"] is not None:
                stage, kind, message = (result[key] for key in ("error_stage", "error_type", "error_message"))
                failures.append(self._failure(row, asked, stage, kind, message))
            else:
                images.append(_Image(row, asked, result))
        return images, failures

    def _failure(self, row: Row, asked: AskedEdit, stage: str, error_type: str, message: str) -> Row:
        return {
            "schema_version": SCHEMA_VERSION,
            "sample_id": row["sample_id"],
            "edit_id": asked.edit_id,
            "fingerprint": self._facts.fingerprint,
            "source_uri": row["uri"],
            "attribute": asked.attribute,
            "target": asked.target,
            "strength": asked.strength,
            "stage": stage,
            "error_type": error_type,
            "message": message,
            "attempts": asked.attempts + (row["attempts"] or 1),
            "partition": self._facts.partition,
            "created_at": datetime.now(UTC),
        }

    def _put_image(self, image: _Image) -> Row:
        started = time.perf_counter()
        sample, asked, result = image.sample, image.asked, image.result
        sha256 = sha256_bytes(result["image"])
        key = image_key(sample["sample_id"], asked.edit_id, sha256)
        self._store.write(key, result["image"])
        return {
            "schema_version": SCHEMA_VERSION,
            "sample_id": sample["sample_id"],
            "edit_id": asked.edit_id,
            "fingerprint": self._facts.fingerprint,
            "source_uri": sample["uri"],
            "source_etag": sample["version"],
            "source_sha256": sample["source_sha256"],
            "width": result["width"],
            "height": result["height"],
            "source_width": sample["source_width"],
            "source_height": sample["source_height"],
            "model_width": sample["model_width"],
            "model_height": sample["model_height"],
            "source_prompt": sample["source_prompt"],
            "target_prompt": JOINER.join(result["target_prompts"]),
            "attribute": asked.attribute,
            "target": asked.target,
            "strength": asked.strength,
            "direction_id": result["direction_id"],
            "direction_method": result["direction_method"],
            "direction_residual": result["direction_residual"],
            "direction_iterations": result["direction_iterations"],
            "seed": sample["seed"],
            "model": self._facts.model,
            "model_revision": self._facts.model_revision,
            "captioner": self._facts.captioner,
            "captioner_revision": self._facts.captioner_revision,
            "image_uri": self._store.uri(key),
            "image_sha256": sha256,
            "psnr": result["psnr"],
            "ssim": result["ssim"],
            "recon_psnr": result["recon_psnr"],
            "evaluations": result["evaluations"],
            "batch": result["batch"],
            "seconds_caption": sample["seconds_caption"],
            "seconds_edit": sample["seconds_edit"],
            "seconds_write": time.perf_counter() - started,
            "partition": self._facts.partition,
            "created_at": datetime.now(UTC),
        }

    def _put_parts(
        self, kind: str, rows: Sequence[Row], schema: pa.Schema, identity: Sequence[str]
    ) -> dict[str, list[Row]]:
        """One part for each bucket that the rows touch; returns each part's key with its rows."""
        buckets: dict[str, list[Row]] = {}
        for row in rows:
            buckets.setdefault(bucket_of(row["sample_id"]), []).append(row)

        def put(bucket: str) -> tuple[str, list[Row]]:
            its_rows = sorted(buckets[bucket], key=lambda row: (row["sample_id"], row["edit_id"]))
            key = part_key(kind, bucket, [[str(row[name]) for name in identity] for row in its_rows])
            self._store.write_table(key, table_of(its_rows, schema))
            return key, its_rows

        return dict(in_threads(put, sorted(buckets)))
