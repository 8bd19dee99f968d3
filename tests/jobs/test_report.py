"""`eim report`: what it prints, and that it refuses without a traceback."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline import report as module
from pipeline.retrying import StorageError
from tests.conftest import PngMaker
from tests.pipeline.test_report import made_job


def test_the_figures_are_printed_and_the_page_is_named(tmp_path: Path, png: PngMaker) -> None:
    made_job(str(tmp_path), png, failing=1)
    result = CliRunner().invoke(app, ["report", f"{tmp_path}/out", "--images", "2"])
    assert result.exit_code == 0, result.output
    assert "2 images, 4 edits shown; failures in the run: 2" in result.output
    assert f"{tmp_path}/out/contact.html" in result.output
    told = json.loads(CliRunner().invoke(app, ["report", f"{tmp_path}/out", "--json"]).output)
    assert (told["images"], told["failures"]) == (7, 2)


def test_an_output_that_cannot_be_shown_is_refused_with_its_reason(
    tmp_path: Path, png: PngMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(output: str) -> str:
        result = CliRunner().invoke(app, ["report", output])
        assert (result.exit_code, type(result.exception)) == (2, SystemExit)
        return result.output

    assert "no settings are recorded" in refused(f"{tmp_path}/none")
    assert "only folders and s3://" in refused("gs://bucket/out")
    made_job(str(tmp_path), png)
    (tmp_path / "in" / "0.png").unlink()
    assert "0.png is not there" in refused(f"{tmp_path}/out")

    def refuse(*_: object) -> None:
        raise StorageError("list s3://b: ExpiredToken; refresh the S3 credentials")

    monkeypatch.setattr(module, "find_runs", refuse)
    assert "refresh the S3 credentials" in refused(f"{tmp_path}/out")
