"""The report of an output: what it shows, counts and refuses; the sources are found without the whole view."""

import json
from pathlib import Path

import pytest

from pipeline import report as module
from pipeline.ledger import Ledger, open_run
from pipeline.report import ReportError, _by_source, write_report
from pipeline.runs import OutputError
from pipeline.storage import open_store
from tests.conftest import PngMaker
from tests.pipeline.builders import SMILE, Job, start_job


def put_sources(root: str, count: int, png: PngMaker) -> None:
    store = open_store(f"{root}/in")
    for index in range(count):
        store.write(f"{index}.png", png(index))


def made_job(root: str, png: PngMaker, failing: int = 0) -> Job:
    """Eight sources with two edits each, of which the last in order of their ids fail."""
    put_sources(root, 8, png)
    job = start_job(root, 8, edits=[{**SMILE, "strengths": [1, 2]}])
    for number, sample in enumerate(job.samples):
        job.write([sample], error="broken" if number >= 8 - failing else None)
    return job


def test_the_first_sources_of_all_buckets_are_shown_with_all_their_edits(
    root: str, png: PngMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUCKETS", 3)
    job = made_job(root, png)
    groups, failures = _by_source(Ledger(job.store, job.fingerprint), 5)
    assert [uri.rpartition("/")[2] for uri, _ in groups] == [f"{index}.png" for index in range(5)]
    assert [[row["strength"] for row in rows] for rows in groups.values()] == [[1.0, 2.0]] * 5
    assert failures == 0
    told = write_report(f"{root}/out", 5)
    assert (told["images"], told["edits"], told["failures"]) == (5, 10, 0)
    assert told["strengths"].keys() == {"1", "2"}
    assert json.loads(job.store.read("report.json")) == told
    assert job.store.read("contact.png").startswith(b"\x89PNG")
    assert b"4.png" in job.store.read("contact.html")


def test_failures_of_every_bucket_count(tmp_path: Path, png: PngMaker) -> None:
    made_job(str(tmp_path), png, failing=3)
    told = write_report(f"{tmp_path}/out", 1)
    assert (told["images"], told["edits"], told["failures"]) == (1, 2, 6)


def test_each_version_of_a_source_is_a_line_of_its_own(tmp_path: Path, png: PngMaker) -> None:
    made_job(str(tmp_path), png)
    open_store(str(tmp_path)).write("in/0.png", png(100))
    again = start_job(str(tmp_path), 8, edits=[{**SMILE, "strengths": [1, 2]}])
    again.write(again.samples)
    groups, _ = _by_source(Ledger(again.store, again.fingerprint), 3)
    assert [uri.rpartition("/")[2] for uri, _ in groups] == ["0.png", "0.png", "1.png"]
    assert write_report(f"{tmp_path}/out", 3)["edits"] == 6


def test_rows_of_a_new_run_are_not_mixed_with_the_first_ones(tmp_path: Path, png: PngMaker) -> None:
    made_job(str(tmp_path), png)
    beside = start_job(str(tmp_path), 8, revision="fake-2", new_run=True)
    beside.write(beside.samples[:3])
    assert write_report(f"{tmp_path}/out")["edits"] == 16
    assert write_report(beside.store.root)["edits"] == 3


def test_what_cannot_be_shown_is_named(tmp_path: Path, png: PngMaker) -> None:
    job = made_job(str(tmp_path), png)
    (tmp_path / "in" / "1.png").write_bytes(b"no image")
    with pytest.raises(ReportError, match=r"in/1.png cannot be read: .*put it back"):
        write_report(f"{tmp_path}/out")
    (tmp_path / "in" / "1.png").unlink()
    with pytest.raises(ReportError, match=r"in/1.png is not there; .*put it back"):
        write_report(f"{tmp_path}/out")
    write_report(f"{tmp_path}/out", 1)
    for key in job.store.keys("images"):
        job.store.delete(key)
    with pytest.raises(ReportError, match=r"/images/.* is not there; `eim verify`"):
        write_report(f"{tmp_path}/out", 1)


def test_an_output_without_edits_is_refused(tmp_path: Path, png: PngMaker) -> None:
    with pytest.raises(OutputError, match="no settings are recorded"):
        write_report(str(tmp_path / "none"))
    made_job(str(tmp_path), png, failing=8)
    with pytest.raises(ReportError, match="holds no edits, 16 failures"):
        write_report(f"{tmp_path}/out")


def test_an_output_with_two_recorded_settings_is_refused(tmp_path: Path, png: PngMaker) -> None:
    job = made_job(str(tmp_path), png)
    other = open_store(f"{tmp_path}/other")
    open_run(other, {"a": 1}, new_run=False)
    (key,) = other.keys("recipe")
    job.store.write(key, other.read(key))
    with pytest.raises(ReportError, match="records 2 settings"):
        write_report(f"{tmp_path}/out")
