import json
from pathlib import Path

from typer.testing import CliRunner

from jobs.cli import app
from tests.pipeline.builders import start_job


def test_it_tells_what_it_did_and_what_it_left(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), 1)
    for shade in (1, 2):
        job.write(job.samples, shade)
    result = CliRunner().invoke(app, ["compact", job.output.root])
    assert result.exit_code == 0
    assert "parts 2 -> 1 | rows dropped 1 | images removed 1" in result.output

    for key in job.store.keys("images"):
        job.store.delete(key)
    result = CliRunner().invoke(app, ["compact", job.output.root, "--json"])
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["ok"], len(answer["runs"][0]["damaged"])) == (1, False, 1)


def test_a_place_that_is_no_output_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compact", str(tmp_path)])
    assert (result.exit_code, "no settings are recorded" in result.output) == (2, True)
