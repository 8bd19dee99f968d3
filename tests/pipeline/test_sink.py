import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest
from PIL import Image

from pipeline.attempts import Attempts
from pipeline.failure_limit import FailureLimit, TooManyFailures
from pipeline.identity import sha256_bytes
from pipeline.ledger import Ledger
from pipeline.placement import Cluster, plan_placement
from pipeline.progress import Progress, Reasons, _Counter
from pipeline.sink import EditSink, RunFacts
from pipeline.storage import Store, open_store, read
from pipeline.work import BLANK_RESULT, Row, table_of_work
from tests.pipeline.builders import asked, make_recipe, result, work_row

FACTS = RunFacts("f", "m", "mr", "c", "cr")


class _Failing(Progress):
    """Says that this many edits failed so far."""

    def written(self, edits: Mapping[str, int], failures: Mapping[str, Reasons], seconds: float) -> tuple[int, int]:
        return 0, 5


class _Counting(Progress):
    """The counting actor's body, in this process."""

    @cached_property
    def counter(self) -> _Counter:
        return _Counter("f", 10, plan_placement(make_recipe(), Cluster(2), 10, 1))

    def written(self, edits: Mapping[str, int], failures: Mapping[str, Reasons], seconds: float) -> tuple[int, int]:
        return self.counter.written(edits, failures, seconds, Counter())


def write(
    store: Store,
    rows: list[Row],
    progress: Progress = Progress(),  # noqa: B008
    limit: FailureLimit = FailureLimit(100),  # noqa: B008
) -> None:
    EditSink(store, FACTS, progress, limit, Attempts())(table_of_work(rows))


def test_every_asked_edit_gets_its_row_and_every_row_its_image(root: str) -> None:
    store = open_store(root)
    error: Row = {"error_stage": "edit", "error_type": "NotFinite", "error_message": "nan", "image": None}
    rows = [
        work_row(asked("a"), asked("b"), sample_id="aa1", results=[result("a", 1), result("b", **error)]),
        work_row(asked("a"), sample_id="aa2", results=[]),
        work_row(asked("a"), sample_id="aa3", results=[{**BLANK_RESULT, "edit_id": "a", "target_prompts": ["t"]}]),
        work_row(asked("a"), sample_id="bb1", error_stage="load", error_type="E", error_message="m"),
        work_row(asked("a"), sample_id="bb2", results=[result("a", 2)]),
    ]
    write(store, rows)
    view = Ledger(store, "f").read()
    assert [(row["sample_id"], row["edit_id"]) for row in view.edits.to_pylist()] == [("aa1", "a"), ("bb2", "a")]
    failures = [(row["sample_id"], row["stage"], row["error_type"]) for row in view.failures.to_pylist()]
    assert failures == [
        ("aa1", "edit", "NotFinite"),
        ("aa2", "edit", "MissingResult"),
        ("aa3", "edit", "MissingResult"),
        ("bb1", "load", "E"),
    ]
    for row in view.edits.to_pylist():
        data = read(row["image_uri"]).data
        assert sha256_bytes(data) == row["image_sha256"]
        assert Image.open(io.BytesIO(data)).size == (16, 16)
    assert len(store.keys("edits")) == 2  # one part for each bucket
    assert len(store.keys("images")) == 2


def test_writing_again_adds_nothing(root: str) -> None:
    store, rows = open_store(root), [work_row(asked("a"), sample_id="aa1", results=[result("a")])]
    write(store, rows)
    keys = store.keys("")
    write(store, rows)
    assert store.keys("") == keys
    assert Ledger(store, "f").read().repeats == 0


def test_other_pixels_from_a_second_writer_are_a_repeat_that_the_view_drops(root: str) -> None:
    store = open_store(root)
    for shade in (1, 2):
        write(store, [work_row(asked("a"), sample_id="aa1", results=[result("a", shade)])])
    view = Ledger(store, "f").read()
    assert (len(view.edits), view.repeats) == (1, 1)
    assert len(store.keys("images")) == 2


def test_a_kill_between_images_and_parts_leaves_no_row_without_its_image(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(root)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_table", die)
        with pytest.raises(KeyboardInterrupt):
            write(store, [work_row(asked("a"), sample_id="aa1", results=[result("a")])])
    assert len(store.keys("images")) == 1
    assert store.keys("edits") == []
    write(store, [work_row(asked("a"), sample_id="aa1", results=[result("a")])])
    assert len(store.keys("images")) == 1
    assert len(Ledger(store, "f").read().edits) == 1


def test_too_many_failures_stop_the_job_after_they_are_recorded(root: str) -> None:
    store = open_store(root)
    rows = [work_row(asked("a"), sample_id="aa1", error_stage="load", error_type="E", error_message="m")]
    with pytest.raises(TooManyFailures, match="5 edits failed, more than the 4"):
        write(store, rows, _Failing(), FailureLimit(4))
    assert len(Ledger(store, "f").read().failures) == 1


def test_a_write_task_that_is_run_again_counts_its_failures_once(tmp_path: Path) -> None:
    rows = [
        work_row(asked("a"), sample_id="aa1", results=[result("a")]),
        work_row(asked("a"), sample_id="aa2", error_stage="load", error_type="E", error_message="m"),
    ]
    progress = _Counting()
    for _ in range(3):
        write(open_store(str(tmp_path)), rows, progress, limit=FailureLimit(1))
    counts = progress.counter.counts()
    assert (counts.edits, counts.failures, counts.done["write"]) == (1, 1, 2)


def test_an_empty_block_writes_nothing(root: str) -> None:
    write(open_store(root), [])
    assert open_store(root).keys("") == []


def test_equal_rows_of_two_settings_are_two_parts(root: str) -> None:
    store = open_store(root)
    rows = [work_row(asked("a"), sample_id="aa1", error_stage="load", error_type="E", error_message="m")]
    rows += [work_row(asked("a"), sample_id="bb1", results=[result("a", 1)])]
    for name in ("f", "g"):
        EditSink(store, replace(FACTS, fingerprint=name), Progress(), FailureLimit(100), Attempts())(
            table_of_work(rows)
        )
        view = Ledger(store, name).read()
        assert (len(view.edits), len(view.failures)) == (1, 1)
