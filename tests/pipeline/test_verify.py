import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import ledger, retrying, verify
from pipeline.identity import bucket_of, image_key, sha256_bytes
from pipeline.ledger import Ledger
from pipeline.retrying import StorageError
from pipeline.runs import OutputError
from pipeline.schema import EDITS, table_of
from pipeline.storage import Store, open_store
from pipeline.verify import PROBLEMS, Check, verify_output, verify_recipe
from tests.fakes import fake_operations
from tests.pipeline.builders import SMILE, Job, edit_row, start_job


def check_of(job: Job) -> Check:
    (run,) = verify_output(job.output.root)
    return run.check


def put_row(job: Job, name: str, **changes: object) -> None:
    row = edit_row(**{"fingerprint": job.fingerprint, **changes})
    key = f"edits/bucket={bucket_of(row['sample_id'])}/part-{name}.parquet"
    job.store.write_table(key, table_of([row], EDITS))


def edit_rows(job: Job) -> list[dict]:
    return Ledger(job.store, job.fingerprint).read().edits.to_pylist()


def test_a_finished_job_has_nothing_wrong_and_verifying_writes_nothing(root: str) -> None:
    job = start_job(root, 3)
    job.write(job.samples[:2])
    job.write(job.samples[2:], error="no image")
    keys = job.output.keys("")
    check = check_of(job)
    assert check.problems == {}
    assert (check.asked, check.edits, check.failures, check.orphans, check.repeats) == (3, 2, 1, 0, 0)
    assert check.bytes_read == sum(len(job.store.read(key)) for key in job.store.keys("images"))
    assert job.output.keys("") == keys


def test_every_kind_of_damage_is_counted_and_named(root: str) -> None:
    job = start_job(root, 5)
    for sample in job.samples[:4]:  # each in a part of its own, also where two share a bucket
        job.write([sample])
    absent, altered, outside, same = edit_rows(job)
    job.store.delete(job.store.key(absent["image_uri"]))
    job.store.write(job.store.key(altered["image_uri"]), b"other bytes")
    for key in job.store.keys(f"edits/bucket={bucket_of(outside['sample_id'])}"):
        if outside["sample_id"] in job.store.read_table(key)["sample_id"].to_pylist():
            job.store.delete(key)
    elsewhere = f"{job.output.root}-2/images/x.png"
    put_row(job, "outside", **{**outside, "image_uri": elsewhere})
    put_row(job, "unasked", **{**same, "edit_id": "another"})
    job.write([row for row in job.samples if row["sample_id"] == same["sample_id"]], shade=1)

    check = check_of(job)
    assert check.problems == {"missing": 1, "unasked": 1, "absent": 1, "altered": 1, "outside": 1}
    assert (check.asked, check.edits, check.orphans, check.repeats) == (5, 5, 1, 1)
    (missing,) = check.examples["missing"]
    assert job.samples[4]["sample_id"] in missing
    assert "smile -> broad smile at 1 of" in missing and job.store.keys("asked")[0] in missing
    assert check.examples["unasked"] == (f"{same['sample_id']} another",)
    assert check.examples["outside"] == (f"{outside['sample_id']} {outside['edit_id']} {elsewhere}",)
    assert absent["image_uri"] in check.examples["absent"][0]
    assert altered["image_uri"] in check.examples["altered"][0]


def test_a_key_that_the_view_would_hold_twice_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = start_job(str(tmp_path), 1)
    for shade in (0, 1):
        job.write(job.samples, shade)
    monkeypatch.setattr(ledger, "_first_of_each_key", lambda table, order: table)
    assert check_of(job).problems == {"doubled": 1}


def test_texts_are_made_for_the_few_that_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    real = verify._Wanted.told

    def noting(self: verify._Wanted, key: str) -> str | None:
        told.append(key)
        return real(self, key)

    monkeypatch.setattr(verify._Wanted, "told", noting)
    job = start_job(str(tmp_path), 3, edits=[{**SMILE, "strengths": [step / 8 for step in range(1, 41)]}])
    check = check_of(job)
    assert (check.asked, check.missing, len(check.examples["missing"])) == (120, 120, 5)
    assert len(told) <= 3 * 5


def test_images_are_read_some_rows_at_a_time_and_all_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_IMAGES", 2)
    job = start_job(str(tmp_path), 1, edits=[{**SMILE, "strengths": [1, 2, 3, 4, 5]}])
    job.write(job.samples)
    key = job.store.key(edit_rows(job)[4]["image_uri"])
    size = sum(len(job.store.read(key)) for key in job.store.keys("images"))
    job.store.write(key, b"")
    check = check_of(job)
    assert (check.edits, check.problems) == (5, {"altered": 1})
    assert 0 < check.bytes_read < size


def test_what_is_asked_is_the_union_of_all_that_was_ever_asked(root: str) -> None:
    job = start_job(root, 2)
    job.write(job.samples)
    more = start_job(root, 3, edits=[{**SMILE, "strengths": [1, 2]}])
    check = check_of(more)
    assert (check.asked, check.edits, check.problems) == (6, 2, {"missing": 4})
    more.write(more.samples)
    assert check_of(more).problems == {}
    # A job that asks for less afterwards takes nothing back.
    less = start_job(root, 3)
    assert (check_of(less).asked, check_of(less).problems) == (6, {})


def test_runs_beside_the_first_are_verified_too_and_alone(root: str) -> None:
    job = start_job(root, 2)
    job.write(job.samples)
    beside = start_job(root, 2, revision="fake-2", new_run=True)
    first, second = verify_output(job.output.root)
    assert (first.root, first.check.problems) == (job.store.root, {})
    assert (second.root, second.check.problems) == (beside.store.root, {"missing": 2})
    assert verify_output(beside.store.root) == [second]


def test_a_recipe_is_held_against_its_input_of_today(root: str) -> None:
    job, operations = start_job(root, 2), fake_operations()
    job.write(job.samples)
    open_store(root).write("in/late.png", b"late")
    keys = job.output.keys("")
    (run,) = verify_recipe(job.recipe, operations)
    assert run.check.problems == {"missing": 1}
    assert "late.png, asked by the recipe" in run.check.examples["missing"][0]
    assert job.output.keys("") == keys
    with pytest.raises(OutputError, match="none made with this recipe's settings"):
        verify_recipe(job.recipe, fake_operations(revision="fake-2"))


def test_without_a_record_of_what_was_asked_only_a_recipe_helps(root: str) -> None:
    job = start_job(root, 1)
    job.write(job.samples)
    job.store.delete(job.store.keys("asked")[0])
    with pytest.raises(OutputError, match="nothing there says what was asked"):
        verify_output(job.output.root)
    (run,) = verify_recipe(job.recipe, fake_operations())
    assert run.check.problems == {}


def test_a_listing_that_is_not_whole_is_an_error_with_the_mend(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_LISTING_PAUSE", 0.0)
    job = start_job(root, 1)
    index, shard = (
        next(key for key in job.output.keys("manifest") if key.endswith(end)) for end in (".json", ".parquet")
    )
    job.output.delete(shard)
    with pytest.raises(StorageError, match="0 rows, but its index says 1"):
        verify_output(job.output.root)
    job.output.delete(index)
    with pytest.raises(OutputError, match=r"index\.json is not there, and asked/"):
        verify_output(job.output.root)
    start_job(root, 1)
    assert check_of(job).problems == {"missing": 1}


def test_a_part_that_is_no_parquet_file_is_an_error_that_says_where(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), 1)
    job.store.write("edits/bucket=ab/part-1.parquet", b"cut off")
    with pytest.raises(StorageError, match=r"edits/bucket=ab/part-1\.parquet is damaged, no whole Parquet file"):
        verify_output(job.output.root)


@pytest.mark.parametrize("record", ["asked", "manifest"])
def test_a_damaged_record_is_an_error_that_says_where(tmp_path: Path, record: str) -> None:
    job = start_job(str(tmp_path), 1)
    for key in job.output.keys(record):
        job.output.write(key, job.output.read(key)[:-8])
    with pytest.raises(StorageError, match=f"{record}/.* is damaged, no whole .*remove it and run the job again"):
        verify_output(job.output.root)


def test_rows_of_settings_that_are_not_recorded_are_asked_for_by_nobody(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), 1)
    job.write(job.samples)
    (row,) = edit_rows(job)
    put_row(job, "other", **{**row, "fingerprint": "of nobody"})
    check = check_of(job)
    assert (check.problems, check.edits) == ({"unasked": 1}, 2)


counts = st.fixed_dictionaries({kind: st.integers(0, 9) for kind in (*PROBLEMS, "asked", "orphans")})


@given(st.lists(counts, max_size=6), st.integers(0, 6))
def test_parts_of_a_check_add_up_however_they_are_cut(parts: list[dict[str, int]], cut: int) -> None:
    checks = [
        Check(**of, examples={kind: tuple(map(str, range(of[kind]))) for kind in PROBLEMS if of[kind]}) for of in parts
    ]
    whole = sum(checks, Check())
    assert sum(checks[:cut], Check()) + sum(checks[cut:], Check()) == whole
    for kind in PROBLEMS:
        assert getattr(whole, kind) == sum(of[kind] for of in parts)
        assert len(whole.examples.get(kind, ())) <= 5


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["made", "failed", "left", "absent", "altered", "repeated"]), min_size=1, max_size=8))
def test_whatever_became_of_each_image_is_what_is_told(fates: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        job = start_job(root, len(fates))
        for sample, fate in zip(job.samples, fates, strict=True):
            if fate == "left":
                continue
            job.write([sample], error="no image" if fate == "failed" else None)
            if fate == "repeated":
                job.write([sample], shade=1)
            for key in job.store.keys(f"images/{sample['sample_id']}"):
                if fate == "absent":
                    job.store.delete(key)
                elif fate == "altered":
                    job.store.write(key, b"")
        check = check_of(job)
        wrong = {"missing": fates.count("left")} | {kind: fates.count(kind) for kind in ("absent", "altered")}
        assert check.problems == {kind: count for kind, count in wrong.items() if count}
        assert (check.asked, check.repeats, check.orphans) == (len(fates), fates.count("repeated"), 0)
        assert json.dumps(check.examples)


def test_an_image_uri_cannot_climb_out_of_the_run(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), 1)
    data = b"bytes"
    Store(str(tmp_path)).write("secret.png", data)
    (sample,) = job.samples
    (edit,) = job.edits(sample)
    sha256 = sha256_bytes(data)
    climbing = job.store.uri("images/../../secret.png")
    put_row(job, "1", sample_id=sample["sample_id"], edit_id=edit.edit_id, image_uri=climbing, image_sha256=sha256)
    job.store.write(image_key(sample["sample_id"], edit.edit_id, sha256), data)
    assert check_of(job).problems == {"outside": 1}
