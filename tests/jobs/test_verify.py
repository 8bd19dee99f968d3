import json
from pathlib import Path

from typer.testing import CliRunner

from jobs.cli import app
from tests.pipeline.builders import start_job


def verify(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify", *arguments])
    return result.exit_code, result.output.replace("\n", " ")


def test_the_exit_code_says_whether_all_is_there(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), 2)
    job.write(job.samples[:1])
    code, text = verify(job.output.root)
    assert code == 1
    assert "asked 2 | edits 1 | failures 0 | missing 1" in text
    assert job.samples[1]["sample_id"] in text
    job.write(job.samples[1:])
    code, text = verify(job.output.root)
    assert (code, "every edit asked for is there once" in text) == (0, True)


def test_json_is_one_object_with_the_counts_of_each_run(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), 2)
    result = CliRunner().invoke(app, ["verify", job.output.root, "--json"])
    answer = json.loads(result.stdout)
    (run,) = answer["runs"]
    assert (result.exit_code, answer["ok"], run["root"]) == (1, False, job.store.root)
    assert (run["asked"], run["missing"], len(run["examples"]["missing"])) == (2, 2, 2)


def test_what_cannot_be_told_ends_with_another_code_and_the_mend(tmp_path: Path) -> None:
    code, text = verify(str(tmp_path))
    assert (code, "give the folder or s3:// prefix" in text) == (2, True)
    code, text = verify("a.yaml", "--recipe", "b.yaml")
    assert (code, "give one of them" in text) == (2, True)
    code, text = verify("none.yaml")
    assert (code, "no such recipe" in text) == (2, True)
