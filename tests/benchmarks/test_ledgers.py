"""Synthetic outputs stand as they are told."""

from pathlib import Path

from benchmarks.ledgers import parts, stopped_run
from pipeline.images import stored_images
from pipeline.ledger import Ledger
from pipeline.runs import find_runs


def test_a_stopped_run_has_nine_tenths_done_and_their_images(tmp_path: Path) -> None:
    stopped = stopped_run(tmp_path, 40)
    assert stopped.rows == 40 and 34 <= stopped.edits <= 36 and stopped.failures == 0
    (run,) = find_runs(str(stopped.output))
    view = Ledger(run.store, run.fingerprints[0]).read()
    assert (len(view.edits), view.repeats) == (stopped.edits, 0)
    buckets = {sample[:2] for sample in view.edits["sample_id"].to_pylist()}
    assert parts(stopped.output) == len(run.store.keys("edits")) >= len(buckets)
    with stored_images(run.store) as images_of:
        assert sum(len(images_of(bucket, [])) for bucket in buckets) == stopped.edits
