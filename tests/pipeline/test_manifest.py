import csv
import errno
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import manifest as module
from pipeline.asked import UNKNOWN, asked_edits
from pipeline.manifest import Manifest, check_apart, prepare_manifest
from pipeline.recipe import Input, RecipeError
from pipeline.retrying import StorageError
from pipeline.storage import open_store
from tests.pipeline.builders import make_recipe
from tests.pipeline.test_asked_keys import asked_by_row
from tests.s3_server import S3Server

Row = dict[str, object]
EDITS = make_recipe().edits


def rows_of(manifest: Manifest) -> list[dict]:
    return sorted((row for bucket in manifest.rows for row in manifest.read(bucket)), key=lambda row: row["uri"])


def prepared(root: str, source: Input) -> list[dict]:
    return rows_of(prepare_manifest(source, open_store(f"{root}/out")))


def test_a_folder_is_listed_and_other_files_are_not(root: str) -> None:
    store = open_store(f"{root}/in")
    for key in ("a.png", "b/c.JPG", "notes.txt"):
        store.write(key, key.encode())
    rows = prepared(root, Input(path=f"{root}/in"))
    assert [(row["uri"], row["size"]) for row in rows] == [(store.uri("a.png"), 5), (store.uri("b/c.JPG"), 7)]


def test_files_that_are_passed_over_are_counted_and_told(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(f"{root}/in")
    for key in ("a.png", "b.heic", "c.HEIC", "d.heic", "e", "f", "g.avif", "g.avif2", "g.avif3"):
        store.write(key, key.encode())
    prepared(root, Input(path=f"{root}/in"))
    told = "8 files are passed over, no images by their names: 3 .heic, 2 without a suffix, 1 .avif, ...\n"
    assert capsys.readouterr().err == f"input.path: {told}"
    open_store(root).write("m.csv", b"uri\nin/b.heic\n")
    prepared(root, Input(manifest=f"{root}/m.csv"))
    assert capsys.readouterr().err == "", "a manifest names its images itself"


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
    assert len(rows_of(first)) == 1


@pytest.mark.parametrize(("source", "output"), [("a", "a/out"), ("a/in", "a"), ("a", "a")])
@pytest.mark.parametrize("root", ["/data", "s3://bucket", "s3://bucket/prefix"])
def test_input_and_output_of_which_one_lies_inside_the_other_are_refused(root: str, source: str, output: str) -> None:
    with pytest.raises(RecipeError, match="one lies inside the other"):
        check_apart(Input(path=f"{root}/{source}"), open_store(f"{root}/{output}"))


def test_places_beside_each_other_and_a_manifest_anywhere_are_taken() -> None:
    for source, output in (("in", "in2"), ("in2", "in"), ("a/in", "a/out")):
        check_apart(Input(path=f"/data/{source}"), open_store(f"/data/{output}"))
    check_apart(Input(manifest="/data/out/rows.csv"), open_store("/data/out"))


def test_an_input_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no images"):
        prepare_manifest(Input(path=str(tmp_path / "none")), open_store(str(tmp_path / "out")))


def as_jsonl(rows: list[dict]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_csv(rows: list[dict]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows([{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()} for row in rows])
    return buffer.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(("suffix", "write"), [("jsonl", as_jsonl), ("csv", as_csv), ("parquet", as_parquet)])
def test_a_users_manifest_brings_prompts_and_edits(
    root: str, suffix: str, write: Callable[[list[dict]], bytes]
) -> None:
    store = open_store(f"{root}/in")
    store.write("a.png", b"a")
    store.write("b.png", b"b")
    edits = [{"attribute": "hat", "target": "cap", "strengths": [0.5, 2.0]}]
    given: list[dict] = [
        {"uri": "a.png", "source_prompt": "a face", "target_prompts": {"smile": "a smiling face"}, "edits": None},
        {"uri": store.uri("b.png"), "source_prompt": None, "target_prompts": None, "edits": edits},
    ]
    store.write(f"m.{suffix}", write(given))
    first, second = prepared(root, Input(manifest=store.uri(f"m.{suffix}")))
    assert (first["uri"], first["source_prompt"], first["problem"]) == (store.uri("a.png"), "a face", None)
    assert [edit.given_prompts for edit in asked_edits(first, EDITS)] == [("a smiling face",)]
    assert [(edit.attributes, edit.strength) for edit in asked_edits(second, EDITS)] == [(("hat",), 0.5), (("hat",), 2)]


def test_a_bad_row_becomes_a_row_with_a_problem(root: str) -> None:
    store = open_store(f"{root}/in")
    store.write("a.png", b"a")
    lines = [
        '{"uri": "gone.png"}',
        "not json",
        "[1]",
        '{"uri": ""}',
        '{"uri": "gs://x/y.png"}',
        '{"uri": "a.png", "edits": [{"attribute": "hat"}]}',
        '{"uri": "a.png", "target_prompts": [1]}',
    ]
    store.write("m.jsonl", "\n".join(lines).encode())
    rows = prepared(root, Input(manifest=store.uri("m.jsonl")))
    assert len(rows) == len(lines)
    problems = " ".join(row["problem"] for row in rows)
    told = ("FileNotFoundError", "not a JSON object", "no uri", "only folders and s3://", "edits.0.target")
    for part in told:
        assert part in problems
    for row in rows:  # a broken row still stands for the recipe's edits, so that it ends as failure rows
        assert [edit.attribute for edit in asked_edits(row, EDITS)] == ["smile"]


def test_a_path_with_a_zero_byte_is_a_row_with_a_problem(tmp_path: Path) -> None:
    lines = [{"uri": uri} for uri in ("zero\0.png", "zero\0/../a.png")]
    (tmp_path / "m.jsonl").write_bytes(as_jsonl(lines))
    rows = prepared(str(tmp_path), Input(manifest=str(tmp_path / "m.jsonl")))
    assert ["null byte" in row["problem"] for row in rows] == [True, True]


NOT_UTF8 = [
    b"\xe9.png",
    b"\xe8.png",
    b"folder \xff/a.png",
]


def test_files_whose_names_are_no_utf8_are_rows_with_a_problem_and_stay_apart(tmp_path: Path) -> None:
    for name in [*NOT_UTF8, "é.png".encode(), b"a.png"]:
        path = os.path.join(os.fsencode(tmp_path), b"in", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"same")
        os.utime(path, (1, 1))
    rows = prepared(str(tmp_path), Input(path=str(tmp_path / "in")))
    names = {row["uri"].removeprefix(f"{tmp_path}/in/"): row["problem"] for row in rows}
    assert {name for name, problem in names.items() if problem is None} == {"a.png", "é.png"}
    bad = {name: problem for name, problem in names.items() if problem is not None}
    assert bad.keys() == {r"\udce9.png", r"\udce8.png", r"folder \udcff/a.png"}
    assert all(problem.startswith("NotUtf8: ") and name in problem for name, problem in bad.items())


@pytest.mark.parametrize(
    "row",
    [
        {"uri": "\ud800.png"},
        {"uri": "\udcff.png"},
        {"uri": "a.png", "source_prompt": "a face \ud800"},
        {"uri": "a.png", "target_prompts": {"smile": "\ud800"}},
        {"uri": "a.png", "target_prompts": '{"smile": "\ud800"}'},
        {"uri": "a.png", "edits": [{"attribute": "\udfff", "target": "cap", "strengths": [1]}]},
        {"uri": "a.png", "kind": "\ud800"},
    ],
)
def test_a_text_that_is_no_utf8_is_a_problem_of_its_row_alone(tmp_path: Path, row: Row) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    good = {"uri": "b.png", "source_prompt": "\N{GRINNING FACE}", "other": "\ud800"}
    (tmp_path / "m.jsonl").write_bytes(as_jsonl([row, good]))
    output = open_store(f"{tmp_path}/out")
    rows = rows_of(prepare_manifest(Input(manifest=str(tmp_path / "m.jsonl")), output, frozenset({"kind"})))
    kinds = {row["uri"].rpartition("/")[2]: (row["problem"] or "").partition(":")[0] for row in rows}
    assert kinds.pop("b.png") == ""
    assert list(kinds.values()) == ["NotUtf8"]
    for row in rows:
        assert [edit.attribute for edit in asked_edits(row, EDITS)] == ["smile"]


TEXTS = st.text(st.characters())  # halves of characters too


@given(st.lists(TEXTS, max_size=4), TEXTS, st.recursive(TEXTS | st.none(), st.lists))
def test_whatever_jsonl_says_becomes_rows(uris: list[str], line: str, value: Any) -> None:
    lines = [json.dumps({"uri": uri, "source_prompt": value, "target_prompts": value, "edits": value}) for uri in uris]
    lines += [line.replace("\n", ""), json.dumps(value), "[" * 20_000, '{"uri": ' + "1" * 5000 + "}"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "m.jsonl").write_text("\n".join(lines), errors="surrogatepass")
        rows = prepared(folder, Input(manifest=f"{folder}/m.jsonl"))
    assert len(rows) >= 2
    assert all(row["problem"] for row in rows)
    for row in rows:
        assert asked_edits(row, EDITS)


def test_a_long_field_of_a_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "m.csv").write_bytes(as_csv([{"uri": "a.png", "source_prompt": "x" * 200_000}]))
    (row,) = prepared(str(tmp_path), Input(manifest=str(tmp_path / "m.csv")))
    assert (len(row["source_prompt"]), row["problem"]) == (200_000, None)


def test_a_quote_that_never_closes_is_refused_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIELD_CHARACTERS", 1000)
    (tmp_path / "m.csv").write_text('uri,source_prompt\na.png,p\nb.png,"' + "and so on\n" * 1000)
    with pytest.raises(RecipeError, match=r"m.csv, line \d+: field larger than field limit .*is a quote not closed"):
        prepared(str(tmp_path), Input(manifest=str(tmp_path / "m.csv")))


def test_a_parquet_text_that_is_no_utf8_is_a_problem_of_its_row_alone(tmp_path: Path) -> None:
    uris = [f"{index}.png".encode() for index in range(5)]
    for uri in uris:
        (tmp_path / uri.decode()).write_bytes(uri)
    prompts = pa.array([b"a face", b"a face", b"a face \xff", b"a face", b"a face"])
    columns = {"uri": pa.array(uris).cast(pa.string()), "source_prompt": prompts.view(pa.string())}
    pa.parquet.write_table(pa.table(columns), tmp_path / "m.parquet")
    rows = prepared(str(tmp_path), Input(manifest=str(tmp_path / "m.parquet")))
    assert sorted(row["source_prompt"] or "" for row in rows) == ["", *["a face"] * 4]
    (problem,) = (row["problem"] for row in rows if row["problem"])
    assert problem.startswith(f"NotUtf8: {tmp_path}/m.parquet#row=3: ")


def test_a_row_without_any_edits_still_ends_in_one_row(root: str) -> None:
    open_store(root).write("in/a.png", b"a")
    (row,) = prepared(root, Input(path=f"{root}/in"))
    assert asked_edits(row, ()) == [UNKNOWN]


def test_a_uri_listed_twice_is_one_image(root: str) -> None:
    store = open_store(f"{root}/in")
    store.write("a.png", b"a")
    prompted = {"uri": "a.png", "source_prompt": "p"}
    store.write("m.jsonl", as_jsonl([{"uri": "a.png"}, {"uri": "a.png"}, prompted]))
    rows = prepared(root, Input(manifest=store.uri("m.jsonl")))
    assert len(rows) == 2  # equal rows are one; another prompt asks for another edit of the same image
    keys = [(row["sample_id"], edit.edit_id) for row, edits in asked_by_row(rows, EDITS) for edit in edits]
    assert len(set(keys)) == len(keys) == 2


def test_overlapping_edits_of_one_image_are_asked_once(root: str) -> None:
    store = open_store(f"{root}/in")
    store.write("a.png", b"a")
    smile = {"attribute": "smile", "target": "broad smile"}
    lines = [{"uri": "a.png", "edits": [{**smile, "strengths": s}]} for s in ([1, 2], [2, 3])]
    store.write("m.jsonl", as_jsonl(lines))
    rows = prepared(root, Input(manifest=store.uri("m.jsonl")))
    strengths = [edit.strength for _, edits in asked_by_row(rows, ()) for edit in edits]
    assert sorted(strengths) == [1, 2, 3]


def test_a_manifest_without_uris_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path\na.png\n")
    with pytest.raises(RecipeError, match="a column `uri` is needed"):
        prepare_manifest(Input(manifest=str(path)), open_store(str(tmp_path / "out")))


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
        prepared(str(tmp_path), Input(path=str(tmp_path / "in")))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_bytes_that_are_no_utf8_are_a_problem_of_their_row_and_not_other_words(tmp_path: Path, suffix: str) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    prompts = [b"a caf\xe9 at night", "a café at night".encode()]
    lines = {
        "csv": [b"uri,source_prompt", b"a.png," + prompts[0], b"b.png," + prompts[1]],
        "jsonl": [
            b'{"uri": "%s", "source_prompt": "%s"}' % pair for pair in zip([b"a.png", b"b.png"], prompts, strict=True)
        ],
    }
    (tmp_path / f"m.{suffix}").write_bytes(b"\n".join(lines[suffix]))
    bad, good = prepared(str(tmp_path), Input(manifest=str(tmp_path / f"m.{suffix}")))
    if bad["problem"] is None:
        bad, good = good, bad
    assert bad["problem"].startswith("NotUtf8: ") and bad["source_prompt"] is None
    assert (good["problem"], good["source_prompt"]) == (None, "a café at night")


@pytest.mark.parametrize("uri", ["s3://my photos/a.png", "s3://bucket"])
def test_a_name_that_no_store_takes_is_a_problem_of_its_row(s3: S3Server, tmp_path: Path, uri: str) -> None:
    (tmp_path / "m.jsonl").write_bytes(as_jsonl([{"uri": uri}]))
    (row,) = prepared(str(tmp_path), Input(manifest=str(tmp_path / "m.jsonl")))
    assert row["problem"].startswith("UnansweredError: ") and "check the bucket and the name" in row["problem"]


def test_a_manifest_that_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"uri")
    with pytest.raises(RecipeError, match=r"m\.parquet is no whole Parquet file"):
        prepared(str(tmp_path), Input(manifest=str(tmp_path / "m.parquet")))
