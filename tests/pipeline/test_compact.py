import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import compact as compact_module
from pipeline import disk, processes, storage
from pipeline.compact import Compaction, compact_output
from pipeline.identity import bucket_of, image_key, part_key, sha256_bytes
from pipeline.ledger import Ledger, Raw, open_run, read_raw
from pipeline.runs import OutputError
from pipeline.schema import EDITS, SCHEMA_VERSION, table_of
from pipeline.storage import Store, open_store, read
from pipeline.verify import verify_output
from tests.pipeline.builders import Job, Row, edit_row, start_job


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def meanwhile(moment: int, act: Callable[[], None]) -> Any:
    """Do something at the n-th change of storage, before it: reads change nothing, so these are all the moments."""
    done, dead, lock = 0, False, threading.Lock()

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal done, dead
            with lock:
                done += 1
                now = done == moment
                dead = dead or (now and act is die)
            if dead:  # no thread of a killed process goes on
                die()
            if now:
                act()
            change(*arguments)

        return call

    with patch.multiple(storage, write=counted(storage.write), delete=counted(storage.delete)):
        yield lambda: done


def die() -> None:
    raise Killed


def compact(job: Job, **options: Any) -> Compaction:
    (run,) = compact_output(job.output.root, **options)
    return run.compaction


def moments_of(job: Job) -> range:
    """All the moments of a compaction of this job."""
    with meanwhile(0, die) as changes:
        compact(job)
    assert changes() > 8
    return range(1, changes() + 1)


def view_of(job: Job) -> tuple[list[Row], list[Row]]:
    """The view's rows; every edits row has its image."""
    view = Ledger(job.store, job.fingerprint).read()
    for row in view.edits.to_pylist():
        assert sha256_bytes(read(row["image_uri"]).data) == row["image_sha256"]
    return view.edits.to_pylist(), view.failures.to_pylist()


def well_used_job(root: str, images: int = 4) -> Job:
    """Many parts; repeats with other pixels; failures that were tried again, one of them mended."""
    # Sample ids are hashes: of two in one bucket less is merged, in fewer moments.
    jobs = (start_job(f"{root}/{place}", images) for place in count())
    job = next(job for job in jobs if len(job.manifest.rows) == images)
    for sample in job.samples[:-2]:
        job.write([sample], shade=1)
        job.write([sample], shade=2)
    for attempts in (0, 1):
        job.write(job.samples[-2:], error="no image", attempts=attempts)
    job.write(job.samples[-2:-1], shade=3)
    return job


def part_counts(job: Job) -> set[int]:
    folders = [key.rpartition("/")[0] for kind in ("edits", "failures") for key in job.store.keys(kind)]
    return {folders.count(folder) for folder in folders}


def test_each_bucket_becomes_one_part_that_holds_the_view_and_losing_images_go(root: str) -> None:
    job = well_used_job(root)
    before = view_of(job)
    done = compact(job)
    assert view_of(job) == before
    assert part_counts(job) == {1}
    assert (done.rows_dropped, done.images_removed, done.orphans_kept, done.damaged) == (2 + 3, 2, 0, ())
    assert done.bytes_removed > 0
    assert len(job.store.keys("images")) == len(before[0]) == 3
    (check,) = verify_output(job.output.root)
    assert (check.check.problems, check.check.repeats, check.check.orphans) == ({}, 0, 0)

    keys, again = job.store.keys(""), compact(job)
    assert job.store.keys("") == keys
    assert (again.parts_before, again.rows_dropped, again.images_removed) == (again.parts_after, 0, 0)


def test_a_kill_at_any_moment_loses_nothing_and_the_next_compaction_completes(root: str) -> None:
    for moment in moments_of(well_used_job(f"{root}/whole", 3)):
        job = well_used_job(f"{root}/{moment}", 3)
        before = view_of(job)
        with meanwhile(moment, die), pytest.raises(Killed):
            compact(job)
        assert view_of(job) == before
        compact(job)
        assert view_of(job) == before
        assert part_counts(job) == {1}
        assert len(job.store.keys("images")) == len(before[0])


def test_a_second_compaction_and_a_job_at_any_moment_of_the_first_leave_the_view_right(tmp_path: Path) -> None:
    for moment in moments_of(well_used_job(str(tmp_path / "whole"), 3)):
        job = well_used_job(str(tmp_path / str(moment)), 3)

        def interfere(job: Job = job) -> None:
            job.write(job.samples[:1], shade=4)
            compact(job)
            job.write(job.samples[-1:], shade=5)

        shas = {row["edit_id"] + row["sample_id"]: row["image_sha256"] for row in view_of(job)[0]}
        with meanwhile(moment, interfere):
            compact(job)
        edits, failures = view_of(job)
        assert (len(edits), failures) == (3, [])
        for row in edits:
            assert row["image_sha256"] <= shas.get(row["edit_id"] + row["sample_id"], "g")
        (run,) = verify_output(job.output.root)
        assert run.check.problems == {}


def test_a_finished_write_task_that_is_run_again_after_compaction_changes_nothing_in_the_view(root: str) -> None:
    job = well_used_job(root, 3)
    keys = job.store.keys("edits")
    compact(job)
    before, images = view_of(job), job.store.keys("images")
    for shade in (1, 2):
        job.write(job.samples[:1], shade)  # the loser's image comes back, then its row
    assert set(keys).intersection(job.store.keys("edits"))
    assert len(job.store.keys("images")) == len(images) + 1
    assert view_of(job) == before
    compact(job)
    assert (view_of(job), job.store.keys("images")) == (before, images)


class Late:
    """A write task by hand, whose image and row can come apart in time."""

    def __init__(self, job: Job, sample: Row, pixels: bytes) -> None:
        self._job, self._sample, self._pixels = job, sample["sample_id"], pixels
        (edit,) = job.edits(sample)
        self._edit, self.sha256 = edit.edit_id, sha256_bytes(pixels)
        self.key = image_key(self._sample, self._edit, self.sha256)

    def put_image(self) -> None:
        self._job.store.write(self.key, self._pixels)

    def put_row(self) -> None:
        identity = {"sample_id": self._sample, "edit_id": self._edit, "image_sha256": self.sha256}
        uri = self._job.store.uri(self.key)
        row = edit_row(**identity, fingerprint=self._job.fingerprint, image_uri=uri, schema_version=SCHEMA_VERSION)
        key = part_key("edits", bucket_of(self._sample), [list(identity.values())])
        self._job.store.write_table(key, table_of([row], EDITS))


def test_a_compaction_between_a_late_writers_image_and_its_row_keeps_what_can_win(root: str) -> None:
    job = start_job(root, 2)
    job.write(job.samples[:1], shade=1)
    (winner,) = [row["image_sha256"] for row in view_of(job)[0]]
    tries = [Late(job, job.samples[0], bytes([index])) for index in range(20)]
    better = next(late for late in tries if late.sha256 < winner)
    worse = next(late for late in tries if late.sha256 > winner)
    first = Late(job, job.samples[1], b"no row yet")
    for late in (better, worse, first):
        late.put_image()
    done = compact(job)
    assert (done.images_removed, done.orphans_kept) == (1, 2)
    assert not job.store.exists(worse.key)
    for late in (better, worse, first):
        late.put_row()
    assert {row["image_sha256"] for row in view_of(job)[0]} == {better.sha256, first.sha256}
    (run,) = verify_output(job.output.root)
    assert run.check.problems == {}


def test_images_that_no_row_names_go_when_they_are_older_than_is_said(root: str) -> None:
    job = start_job(root, 1)
    orphan = Late(job, job.samples[0], b"no row")
    orphan.put_image()
    assert compact(job, orphan_age=timedelta(days=1)).orphans_kept == 1
    assert compact(job, orphan_age=timedelta(seconds=-60)).images_removed == 1
    assert job.store.keys("images") == []


def test_a_bucket_whose_view_lacks_an_image_is_left_as_it_is(root: str) -> None:
    job = start_job(root, 1)
    for shade in (1, 2):
        job.write(job.samples, shade)
    (row,) = Ledger(job.store, job.fingerprint).read().edits.to_pylist()
    job.store.delete(job.store.key(row["image_uri"]))
    keys = job.store.keys("")
    assert compact(job).damaged == (bucket_of(row["sample_id"]),)
    assert job.store.keys("") == keys


def test_every_run_of_an_output_is_compacted(root: str) -> None:
    job, beside = start_job(root, 1), start_job(root, 1, revision="fake-2", new_run=True)
    for each in (job, beside):
        for shade in (1, 2):
            each.write(each.samples, shade)
    assert [run.compaction.images_removed for run in compact_output(job.output.root)] == [1, 1]
    assert (len(view_of(job)[0]), len(view_of(beside)[0])) == (1, 1)


def test_two_settings_in_one_place_are_refused_and_rows_of_neither_are_lost(root: str) -> None:
    job = start_job(root, 1)
    job.write(job.samples, shade=1)
    job.store.write("recipe/other.json", b"{}")
    with pytest.raises(OutputError, match=r"2 settings.*delete the record that is not wanted.*recipe/other.json"):
        compact(job)
    job.store.delete("recipe/other.json")
    (row,) = Ledger(job.store, job.fingerprint).read().edits.to_pylist()
    key = f"edits/bucket={bucket_of(row['sample_id'])}/part-other.parquet"
    job.store.write_table(key, table_of([{**row, "fingerprint": "other"}], EDITS))
    assert compact(job).parts_after == 1
    fingerprints = read_raw(job.store, bucket_of(row["sample_id"])).edits["fingerprint"].to_pylist()
    assert sorted(fingerprints) == sorted([job.fingerprint, "other"])


def test_rows_of_a_newer_version_are_not_touched(root: str) -> None:
    store = open_store(root)
    _, name = open_run(store, {"a": 1}, new_run=False)
    row = edit_row(sample_id="ab", fingerprint=name, schema_version=SCHEMA_VERSION + 1)
    store.write_table("edits/bucket=ab/part-1.parquet", table_of([row], EDITS))
    with pytest.raises(OutputError, match="compact with the version that wrote them"):
        compact_output(root)


steps = st.lists(
    st.tuples(st.sampled_from(["image", "row", "failure"]), st.integers(0, 1), st.integers(0, 4))
    | st.tuples(st.just("compact"), st.integers(0, 8)),
    max_size=14,
)


@settings(max_examples=25)
@given(steps)
def test_writers_compactions_and_kills_in_any_order_leave_the_smallest_hash_with_its_image(script: list) -> None:
    with tempfile.TemporaryDirectory() as root:
        job = start_job(root, 2)
        late = {(s, p): Late(job, job.samples[s], bytes([p])) for s in range(2) for p in range(5)}
        written: dict[int, set[str]] = {}
        failed: set[int] = set()
        imaged: set[tuple[int, int]] = set()
        for step, *of in script:
            if step == "compact":  # killed at the n-th change, or never
                with meanwhile(of[0], die), suppress(Killed):
                    compact(job)
            elif step == "failure":
                job.write(job.samples[of[0] : of[0] + 1], error="no image", attempts=of[1])
                failed.add(of[0])
            elif step == "image":
                late[tuple(of)].put_image()
                imaged.add(tuple(of))
            elif tuple(of) in imaged:  # a row comes after its image, at any distance
                late[tuple(of)].put_row()
                written.setdefault(of[0], set()).add(late[tuple(of)].sha256)
        edits, failures = view_of(job)
        winners = {row["sample_id"]: row["image_sha256"] for row in edits}
        assert winners == {job.samples[s]["sample_id"]: min(hashes) for s, hashes in written.items()}
        expected = {job.samples[s]["sample_id"] for s in failed - written.keys()}
        assert {row["sample_id"] for row in failures} == expected
        compact(job)
        assert view_of(job) == (edits, failures)


def test_an_output_without_rows_is_compact(root: str) -> None:
    assert compact(start_job(root, 1)) == Compaction()


def test_a_store_that_refuses_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = well_used_job(str(tmp_path))
    before = view_of(job)

    def refuse(*_: object) -> None:
        raise PermissionError("no")

    with monkeypatch.context() as context:
        context.setattr(Store, "delete", refuse)
        with pytest.raises(PermissionError):
            compact(job)
    assert view_of(job) == before


def test_in_several_processes_an_output_is_compacted_and_verified_as_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = well_used_job(str(tmp_path))
    before, checked = view_of(job), verify_output(job.output.root)
    monkeypatch.setattr(processes, "_ROWS", 0)
    assert verify_output(job.output.root) == checked
    compact(job)
    assert view_of(job) == before
    assert part_counts(job) == {1}


def test_parts_that_another_compaction_merges_while_they_are_listed_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, scan = well_used_job(str(tmp_path)), disk._scan
    before = view_of(job)

    def then_merged(folder: str, beginning: str) -> tuple[list[str], set[str]]:
        found = scan(folder, beginning)
        if "/edits/bucket=" in folder:
            monkeypatch.setattr(disk, "_scan", scan)
            compact(job)
        return found

    monkeypatch.setattr(disk, "_scan", then_merged)
    compact(job, orphan_age=timedelta(0))
    assert disk._scan is scan
    assert view_of(job) == before


def test_an_old_image_whose_row_comes_while_parts_are_merged_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start_job(str(tmp_path), 1)
    reads: list[Raw] = []
    job.write(job.samples)
    (part,) = job.store.keys("edits")
    row = job.store.read(part)
    job.store.delete(part)

    def read_then_put(*arguments: Any) -> Any:
        raw = read_raw(*arguments)
        if not reads:
            job.store.write(part, row)
        reads.append(raw)
        return raw

    monkeypatch.setattr(compact_module, "read_raw", read_then_put)
    assert compact(job, orphan_age=timedelta(0)).images_removed == 0
    assert len(reads) == 2
    assert len(view_of(job)[0]) == 1
