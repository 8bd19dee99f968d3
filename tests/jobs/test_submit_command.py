"""`eim submit` up to where a cluster would answer, and what it makes of a job's end."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.job_submission import JobStatus
from typer.testing import CliRunner

from jobs.cli import app
from jobs.job_server import exit_code


def recipe_in(folder: Path, **changes: Any) -> str:
    edits = [{"attribute": "smile", "target": "broad smile", "strengths": [1]}]
    keys = {"input": {"path": "s3://b/in"}, "output": "s3://b/out", "model": "mini-dit", "edits": edits}
    (folder / "r.yaml").write_text(yaml.safe_dump({**keys, **changes}))
    return str(folder / "r.yaml")


def submit(*arguments: str) -> tuple[int, str]:
    environment = {"RAY_ADDRESS": None, "RAY_API_SERVER_ADDRESS": None, "COLUMNS": "300"}
    result = CliRunner().invoke(app, ["submit", *arguments], env=environment)
    return result.exit_code, result.output


def test_what_its_job_would_refuse_is_refused_before_a_cluster_is_asked(tmp_path: Path) -> None:
    code, text = submit(recipe_in(tmp_path, colour="red"))
    assert (code, "colour: unknown key" in text) == (2, True)
    code, text = submit(recipe_in(tmp_path), "--job", "sweep")
    assert (code, "sweep: missing" in text) == (2, True)
    code, text = submit(recipe_in(tmp_path, output="out"))
    assert (code, "output: out is relative" in text) == (2, True)
    code, text = submit(recipe_in(tmp_path), "--retry-fialed")
    assert (code, "No such option: --retry-fialed" in text) == (2, True)
    code, text = submit(recipe_in(tmp_path), "--date", "2030-01-31")
    assert (code, "No such option: --date" in text) == (2, True)
    code, text = submit(recipe_in(tmp_path), "--job", "augment", "--date", "2030-01-31", "--address", "nowhere")
    assert (code, "--address: given 'nowhere'" in text) == (2, True)


def test_an_address_that_is_none_or_does_not_answer_is_one_error_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # the command sets it
    recipe = recipe_in(tmp_path)
    code, text = submit(recipe, "--address", "ray://head:10001")
    assert (code, "give the job server's, which is the dashboard's: http://HEAD:8265" in text) == (2, True)
    code, text = submit(recipe, "--address", "http://127.0.0.1:1", "--retry-failed")
    assert code == 2
    assert "no job server answers at http://127.0.0.1:1; is the cluster up, and its port 8265 forwarded" in text
    assert "Traceback" not in text
    code, text = submit(recipe, "--address", "http://me:hunter2@127.0.0.1:1")
    assert ("http://me:***@127.0.0.1:1" in text, "hunter2" in text) == (True, False)


class Ended:
    """As much of Ray's `JobDetails` as an exit code is told from."""

    def __init__(self, status: JobStatus, driver_exit_code: int | None = None) -> None:
        self.status, self.driver_exit_code = status, driver_exit_code


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (Ended(JobStatus.SUCCEEDED, 0), 0),
        (Ended(JobStatus.FAILED, 2), 2),
        (Ended(JobStatus.FAILED, -9), 137),
        (Ended(JobStatus.FAILED), 1),
        (Ended(JobStatus.STOPPED), 143),
    ],
)
def test_the_exit_code_is_the_jobs_own(ended: Any, code: int) -> None:
    assert exit_code(ended) == code
