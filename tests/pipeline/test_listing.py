import os
from pathlib import Path

import pytest

from pipeline.asked_edits import UNKNOWN, asked_edits
from pipeline.listing import check_apart, prepare_manifest
from pipeline.recipe import Input, RecipeError
from pipeline.storage import open_store
from tests.pipeline.builders import make_recipe, prepared_rows

EDITS = make_recipe().edits


def test_a_folder_is_listed_and_other_files_are_not(root: str) -> None:
    store = open_store(f"{root}/in")
    for key in ("a.png", "b/c.JPG", "notes.txt"):
        store.write(key, key.encode())
    rows = prepared_rows(root, Input(path=f"{root}/in"))
    assert [(row["uri"], row["size"]) for row in rows] == [(store.uri("a.png"), 5), (store.uri("b/c.JPG"), 7)]


def test_files_that_are_passed_over_are_counted_and_told(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(f"{root}/in")
    for key in ("a.png", "b.heic", "c.HEIC", "d.heic", "e", "f", "g.avif", "g.avif2", "g.avif3"):
        store.write(key, key.encode())
    prepared_rows(root, Input(path=f"{root}/in"))
    told = "8 files are passed over, no images by their names: 3 .heic, 2 without a suffix, 1 .avif, ...\n"
    assert capsys.readouterr().err == f"input.path: {told}"
    open_store(root).write("m.csv", b"uri\nin/b.heic\n")
    prepared_rows(root, Input(manifest=f"{root}/m.csv"))
    assert capsys.readouterr().err == "", "a manifest names its images itself"


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
    rows = prepared_rows(str(tmp_path), Input(path=str(tmp_path / "in")))
    names = {row["uri"].removeprefix(f"{tmp_path}/in/"): row["problem"] for row in rows}
    assert {name for name, problem in names.items() if problem is None} == {"a.png", "é.png"}
    bad = {name: problem for name, problem in names.items() if problem is not None}
    assert bad.keys() == {r"\udce9.png", r"\udce8.png", r"folder \udcff/a.png"}
    assert all(problem.startswith("NotUtf8: ") and name in problem for name, problem in bad.items())


def test_a_row_without_any_edits_still_ends_in_one_row(root: str) -> None:
    open_store(root).write("in/a.png", b"a")
    (row,) = prepared_rows(root, Input(path=f"{root}/in"))
    assert asked_edits(row, ()) == [UNKNOWN]
