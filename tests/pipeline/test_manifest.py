import errno
import tempfile
from pathlib import Path

import pytest

from pipeline import manifest as module
from pipeline.listing import prepare_manifest
from pipeline.manifest import Manifest
from pipeline.recipe import Input
from pipeline.retrying import StorageError
from pipeline.storage import open_store
from tests.pipeline.builders import as_jsonl, listed_rows, make_recipe, prepared_rows
from tests.pipeline.test_asked_keys import asked_by_row

EDITS = make_recipe().edits


def test_the_same_input_is_not_written_twice(root: str) -> None:
    open_store(root).write("in/a.png", b"a")
    output = open_store(f"{root}/out")
    first = prepare_manifest(Input(path=f"{root}/in"), output)
    keys = output.keys("manifest")
    assert prepare_manifest(Input(path=f"{root}/in"), output) == first
    assert output.keys("manifest") == keys
    open_store(root).write("in/b.png", b"b")
    second = prepare_manifest(Input(path=f"{root}/in"), output)
    assert second.prefix != first.prefix
    assert len(listed_rows(first)) == 1


def test_a_uri_listed_twice_is_one_image(root: str) -> None:
    store = open_store(f"{root}/in")
    store.write("a.png", b"a")
    prompted = {"uri": "a.png", "source_prompt": "p"}
    store.write("m.jsonl", as_jsonl([{"uri": "a.png"}, {"uri": "a.png"}, prompted]))
    rows = prepared_rows(root, Input(manifest=store.uri("m.jsonl")))
    assert len(rows) == 2  # equal rows are one; another prompt asks for another edit of the same image
    keys = [(row["sample_id"], edit.edit_id) for row, edits in asked_by_row(rows, EDITS) for edit in edits]
    assert len(set(keys)) == len(keys) == 2


def test_overlapping_edits_of_one_image_are_asked_once(root: str) -> None:
    store = open_store(f"{root}/in")
    store.write("a.png", b"a")
    smile = {"attribute": "smile", "target": "broad smile"}
    lines = [{"uri": "a.png", "edits": [{**smile, "strengths": s}]} for s in ([1, 2], [2, 3])]
    store.write("m.jsonl", as_jsonl(lines))
    rows = prepared_rows(root, Input(manifest=store.uri("m.jsonl")))
    strengths = [edit.strength for _, edits in asked_by_row(rows, ()) for edit in edits]
    assert sorted(strengths) == [1, 2, 3]


def test_many_rows_make_shards_that_never_part_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_ROWS", 2)
    monkeypatch.setattr(module, "_SPOOL_ROWS", 3)
    monkeypatch.setattr(module, "bucket_of", lambda _sample: "00")
    (tmp_path / "a.png").write_bytes(b"a")
    lines: list[dict] = [{"uri": "a.png", "source_prompt": str(index)} for index in range(5)]
    lines += [{"uri": f"gone-{index}.png"} for index in range(5)]
    (tmp_path / "m.jsonl").write_bytes(as_jsonl(lines))
    output = open_store(str(tmp_path / "out"))
    manifest = prepare_manifest(Input(manifest=str(tmp_path / "m.jsonl")), output)
    assert (manifest.rows, len(manifest.read("00"))) == ({"00": 10}, 10)
    homes: dict[str, set[str]] = {}
    for key in output.keys("manifest"):
        if key.endswith(".parquet"):
            for sample in output.read_table(key)["sample_id"].to_pylist():
                homes.setdefault(sample, set()).add(key)
    assert len(homes) == 6
    assert all(len(keys) == 1 for keys in homes.values())


def test_groups_hold_every_bucket_once(tmp_path: Path) -> None:
    manifest = Manifest(open_store(str(tmp_path)), "m", {f"{index:02x}": 3 for index in range(10)})
    assert manifest.groups(7) == [("00", "01", "02"), ("03", "04", "05"), ("06", "07", "08"), ("09",)]


def test_a_full_disk_of_the_driver_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "table_of", full)
    with pytest.raises(StorageError, match=f"{tempfile.gettempdir()}: no space left.*make room"):
        prepared_rows(str(tmp_path), Input(path=str(tmp_path / "in")))
