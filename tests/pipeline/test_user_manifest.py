import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import user_manifest as module
from pipeline.asked_edits import asked_edits
from pipeline.listing import prepare_manifest
from pipeline.recipe import Input, RecipeError
from pipeline.storage import open_store
from tests.pipeline.builders import as_jsonl, listed_rows, make_recipe, prepared_rows
from tests.s3_server import S3Server

Row = dict[str, object]
EDITS = make_recipe().edits


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
    first, second = prepared_rows(root, Input(manifest=store.uri(f"m.{suffix}")))
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
    rows = prepared_rows(root, Input(manifest=store.uri("m.jsonl")))
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
    rows = prepared_rows(str(tmp_path), Input(manifest=str(tmp_path / "m.jsonl")))
    assert ["null byte" in row["problem"] for row in rows] == [True, True]


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
    rows = listed_rows(prepare_manifest(Input(manifest=str(tmp_path / "m.jsonl")), output, frozenset({"kind"})))
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
        rows = prepared_rows(folder, Input(manifest=f"{folder}/m.jsonl"))
    assert len(rows) >= 2
    assert all(row["problem"] for row in rows)
    for row in rows:
        assert asked_edits(row, EDITS)


def test_a_long_field_of_a_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "m.csv").write_bytes(as_csv([{"uri": "a.png", "source_prompt": "x" * 200_000}]))
    (row,) = prepared_rows(str(tmp_path), Input(manifest=str(tmp_path / "m.csv")))
    assert (len(row["source_prompt"]), row["problem"]) == (200_000, None)


def test_a_quote_that_never_closes_is_refused_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIELD_CHARACTERS", 1000)
    (tmp_path / "m.csv").write_text('uri,source_prompt\na.png,p\nb.png,"' + "and so on\n" * 1000)
    with pytest.raises(RecipeError, match=r"m.csv, line \d+: field larger than field limit .*is a quote not closed"):
        prepared_rows(str(tmp_path), Input(manifest=str(tmp_path / "m.csv")))


def test_a_parquet_text_that_is_no_utf8_is_a_problem_of_its_row_alone(tmp_path: Path) -> None:
    uris = [f"{index}.png".encode() for index in range(5)]
    for uri in uris:
        (tmp_path / uri.decode()).write_bytes(uri)
    prompts = pa.array([b"a face", b"a face", b"a face \xff", b"a face", b"a face"])
    columns = {"uri": pa.array(uris).cast(pa.string()), "source_prompt": prompts.view(pa.string())}
    pa.parquet.write_table(pa.table(columns), tmp_path / "m.parquet")
    rows = prepared_rows(str(tmp_path), Input(manifest=str(tmp_path / "m.parquet")))
    assert sorted(row["source_prompt"] or "" for row in rows) == ["", *["a face"] * 4]
    (problem,) = (row["problem"] for row in rows if row["problem"])
    assert problem.startswith(f"NotUtf8: {tmp_path}/m.parquet#row=3: ")


def test_a_manifest_without_uris_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path\na.png\n")
    with pytest.raises(RecipeError, match="a column `uri` is needed"):
        prepare_manifest(Input(manifest=str(path)), open_store(str(tmp_path / "out")))


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
    bad, good = prepared_rows(str(tmp_path), Input(manifest=str(tmp_path / f"m.{suffix}")))
    if bad["problem"] is None:
        bad, good = good, bad
    assert bad["problem"].startswith("NotUtf8: ") and bad["source_prompt"] is None
    assert (good["problem"], good["source_prompt"]) == (None, "a café at night")


@pytest.mark.parametrize("uri", ["s3://my photos/a.png", "s3://bucket"])
def test_a_name_that_no_store_takes_is_a_problem_of_its_row(s3: S3Server, tmp_path: Path, uri: str) -> None:
    (tmp_path / "m.jsonl").write_bytes(as_jsonl([{"uri": uri}]))
    (row,) = prepared_rows(str(tmp_path), Input(manifest=str(tmp_path / "m.jsonl")))
    assert row["problem"].startswith("UnansweredError: ") and "check the bucket and the name" in row["problem"]


def test_a_manifest_that_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"uri")
    with pytest.raises(RecipeError, match=r"m\.parquet is no whole Parquet file"):
        prepared_rows(str(tmp_path), Input(manifest=str(tmp_path / "m.parquet")))
