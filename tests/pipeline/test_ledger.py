import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import FingerprintError, Ledger, View, _view, open_run
from pipeline.listing import prepare_manifest
from pipeline.recipe import Input
from pipeline.schema import EDITS, FAILURES, table_of
from pipeline.storage import Store, open_store
from tests.pipeline.builders import SMILE, edit_row, failure_row, make_recipe, start_job

names = st.sampled_from("abc")
raw_edits = st.lists(st.builds(edit_row, sample_id=names, edit_id=names, image_sha256=names), max_size=12)
raw_failures = st.lists(
    st.builds(failure_row, sample_id=names, edit_id=names, attempts=st.integers(1, 3), message=names), max_size=12
)


def put(store: Store, kind: str, rows: list[dict], schema: pa.Schema, name: str = "1") -> None:
    for bucket in {row["sample_id"][:2] for row in rows}:
        its_rows = [row for row in rows if row["sample_id"].startswith(bucket)]
        store.write_table(f"{kind}/bucket={bucket}/part-{name}.parquet", table_of(its_rows, schema))


@given(raw_edits, raw_failures, st.integers())
def test_the_view_has_one_row_for_each_key_whatever_the_order(edits: list, failures: list, seed: int) -> None:
    def view_of(edits: list, failures: list) -> View:
        return _view(table_of(edits, EDITS), table_of(failures, FAILURES))

    view = view_of(edits, failures)
    keys = [(row["sample_id"], row["edit_id"]) for row in view.edits.to_pylist() + view.failures.to_pylist()]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {(row["sample_id"], row["edit_id"]) for row in edits + failures}
    for row in view.edits.to_pylist():
        rivals = [r for r in edits if (r["sample_id"], r["edit_id"]) == (row["sample_id"], row["edit_id"])]
        assert row["image_sha256"] == min(rival["image_sha256"] for rival in rivals)
    shuffler = random.Random(seed)
    again = view_of(shuffler.sample(edits, len(edits)), shuffler.sample(failures, len(failures)))
    assert again.edits.equals(view.edits)
    assert again.failures.equals(view.failures)


def test_rows_of_another_fingerprint_are_not_seen(root: str) -> None:
    store = open_store(root)
    put(store, "edits", [edit_row(sample_id="ab1", fingerprint="f"), edit_row(sample_id="ab2", fingerprint="g")], EDITS)
    assert Ledger(store, "f").read().edits["sample_id"].to_pylist() == ["ab1"]
    assert Ledger(store, "g").read().edits["sample_id"].to_pylist() == ["ab2"]


def test_failures_are_done_unless_they_are_to_be_retried(root: str) -> None:
    job = start_job(root, 1, edits=[{**SMILE, "strengths": [1, 2, 3, 4]}])
    sample = job.samples[0]["sample_id"]
    good, bad, mended, fresh = (edit.edit_id for edit in job.edits(job.samples[0]))
    facts = {"sample_id": sample, "fingerprint": job.fingerprint}
    put(job.store, "edits", [edit_row(edit_id=name, **facts) for name in (good, mended)], EDITS)
    put(job.store, "failures", [failure_row(edit_id=name, attempts=2, **facts) for name in (bad, mended)], FAILURES)
    standing = Ledger(job.store, job.fingerprint).standing(job.manifest, sample[:2], job.recipe.edits)
    names = [standing.asked.edits[edit].edit_id for edit in standing.asked.edit]
    assert [name for name, left in zip(names, standing.left(), strict=True) if left] == [fresh]
    assert [name for name, left in zip(names, standing.left(retry_failed=True), strict=True) if left] == [bad, fresh]
    assert dict(zip(names, standing.attempts.tolist(), strict=True)) == {good: 0, bad: 2, mended: 0, fresh: 0}


def test_the_account_holds_what_is_asked_against_what_is_there(root: str) -> None:
    for index in range(5):
        open_store(root).write(f"in/{index}.png", str(index).encode())
    store, edits = open_store(f"{root}/out"), make_recipe().edits
    manifest = prepare_manifest(Input(path=f"{root}/in"), store)
    samples = [row["sample_id"] for bucket in manifest.rows for row in manifest.read(bucket)]
    from pipeline.asked_edits import asked_edits

    (edit,) = asked_edits({"source_prompt": None, "target_prompts": None, "edits": None, "problem": None}, edits)
    made = [edit_row(sample_id=sample, edit_id=edit.edit_id) for sample in samples[:2]]
    put(store, "edits", made, EDITS)
    put(store, "edits", made[:1], EDITS, "again")
    put(store, "edits", [edit_row(sample_id=samples[0], edit_id="not asked for")], EDITS, "other")
    put(store, "failures", [failure_row(sample_id=samples[2], edit_id=edit.edit_id)], FAILURES)
    account = Ledger(store, "x").account(manifest, edits)
    assert (account.images, account.asked, account.edits, account.failures, account.left) == (5, 5, 2, 1, 2)
    assert account.repeats == 1
    assert Ledger(store, "x").account(manifest, edits, retry_failed=True).left == 3


def test_other_settings_are_refused_and_the_changed_keys_shown(root: str) -> None:
    output = open_store(root)
    first = open_run(output, {"model": "m", "method": {"steps": 20}}, new_run=False)
    assert first[0] == output
    assert open_run(output, {"method": {"steps": 20}, "model": "m"}, new_run=False) == first
    with pytest.raises(FingerprintError) as caught:
        open_run(output, {"model": "m", "method": {"steps": 30}}, new_run=False)
    assert "method.steps: there 20, now 30" in str(caught.value)
    assert "model:" not in str(caught.value)
    assert "--new-run" in str(caught.value)


def test_a_new_run_lives_beside_the_old_one(root: str) -> None:
    output = open_store(root)
    open_run(output, {"a": 1}, new_run=True)
    store, name = open_run(output, {"a": 2}, new_run=True)
    assert store.root == f"{output.root}/run-{name[:16]}"
    assert open_run(output, {"a": 2}, new_run=True) == (store, name)
    assert open_run(output, {"a": 1}, new_run=True)[0] == output
