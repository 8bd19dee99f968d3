"""`eim submit` and `ray job submit` on a real head and job server, behind a token."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.job_server import connect, exit_code, find_running, follow, send
from jobs.submission import Submission, build_submission, code_to_send
from pipeline.recipe import load_recipe
from tests import REPOSITORY, job_server
from tests.conftest import PngMaker
from tests.eim_ops.conftest import tiny_sd3
from tests.faults.stopped_job import stopped_by_ray
from tests.job_server import JobServer
from tests.views import view_at


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    with job_server.start() as started:
        yield started


@pytest.mark.slow
def test_the_edit_job_runs_by_ray_job_submit(server: JobServer, tmp_path: Path, png: PngMaker) -> None:
    tiny_sd3().pipeline.save_pretrained(tmp_path / "model")
    rows = []
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(png(index))
        prompts = {"smile": "a portrait with broad smile"}
        rows.append({"uri": f"{index}.png", "source_prompt": "a portrait with deep frown", "target_prompts": prompts})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "input": {"manifest": str(tmp_path / "rows.jsonl")},
        "output": str(tmp_path / "out"),
        "model": str(tmp_path / "model"),
        "captioner": "manifest",
        "edits": [{"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]}],
        "method": {"steps": 2, "draws": 1},
        "batch": 4,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["python", "-m", "jobs.edit", str(tmp_path / "recipe.yaml"), "--json"]
    runtime_env = ("--runtime-env", "jobs/runtime-env.yaml")
    done = server.job("submit", *runtime_env, "--working-dir", ".", "--", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    view = view_at(str(tmp_path / "out"))
    assert (len(view.edits), len(view.failures)) == (6, 0)


@pytest.mark.slow
def test_ray_job_stop_ends_a_job_and_the_same_command_completes_it(server: JobServer, tmp_path: Path) -> None:
    found = stopped_by_ray(tmp_path, server)
    assert (found.lost, found.doubled, found.edits, found.failures) == (0, 0, found.asked, 0)


def recipe_in(folder: Path, **changes: Any) -> Path:
    edits = [{"attribute": "smile", "target": "broad smile", "strengths": [1]}]
    keys = {"input": {"path": f"{folder}/none"}, "output": f"{folder}/out", "model": "mini-dit", "edits": edits}
    (folder / "my recipe.yaml").write_text(yaml.safe_dump({**keys, **changes}))
    return folder / "my recipe.yaml"


def submission_of(recipe: Path, entrypoint: str, code: Sequence[Path] = ()) -> Submission:
    """What `eim submit` asks for, but for another command."""
    asked = build_submission(f"eim-{recipe.parent.name}", "edit", load_recipe(recipe), recipe, (), code, {})
    return dataclasses.replace(asked, entrypoint=entrypoint)


@pytest.fixture
def token(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's token for clients of this process, whose Ray has read its environment before."""
    value = f"Bearer {server.environment['RAY_AUTH_TOKEN']}"
    headers = "ray.dashboard.modules.dashboard_sdk.get_auth_headers_if_auth_enabled"
    monkeypatch.setattr(headers, lambda _: {"Authorization": value})
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", server.address)  # the client sets it


@pytest.mark.slow
@pytest.mark.usefixtures("token")
def test_the_log_comes_whole_and_the_exit_code_is_the_commands(server: JobServer, tmp_path: Path) -> None:
    client, log = connect(server.address), ""

    def show(text: str) -> None:
        nonlocal log
        log += text

    lines = "python -c 'for i in range(40): print(f\"line {i} of it\")'"
    rest = "python -c 'import jobs; print(jobs.__file__)'; echo $AWS_REQUEST_CHECKSUM_CALCULATION; ls; exit 7"
    submission = submission_of(recipe_in(tmp_path), f"{lines}; {rest}", code_to_send(None))
    send(client, submission)
    ended = follow(client, submission.submission_id, show)
    assert (ended.status.value, exit_code(ended)) == ("FAILED", 7)
    assert [log.count(f"line {index} of it\n") for index in range(40)] == [1] * 40
    assert "/_ray_pkg_" in log  # the code that was sent, not what is installed
    assert log.endswith("when_required\nmy recipe.yaml\n")
    assert ended.metadata.items() >= submission.metadata.items()
    assert find_running(client, submission) is None


@pytest.mark.slow
@pytest.mark.usefixtures("token")
def test_ctrl_c_leaves_the_job_and_the_same_command_follows_it(server: JobServer, tmp_path: Path) -> None:
    client, recipe = connect(server.address), recipe_in(tmp_path)
    running = submission_of(recipe, "echo at work; exec sleep 1200")
    send(client, running)
    line: list[str | Path] = [sys.executable, "-m", "jobs.submit", recipe, "--address", server.address]

    def submit() -> subprocess.Popen[str]:
        follower = subprocess.Popen(
            line, cwd=REPOSITORY, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert follower.stdout is not None
        assert any("at work" in said for said in iter(follower.stdout.readline, ""))
        return follower

    first = submit()
    first.send_signal(signal.SIGINT)
    told = first.communicate(timeout=240)[1]
    assert first.returncode == 130
    assert f"job {running.submission_id} does this already" in told
    assert f"goes on; the same command follows it, and this stops it: ray job stop {running.submission_id}" in told
    assert "Traceback" not in told

    other = server.submit(recipe, "--retry-failed")
    assert (other.returncode, "by another recipe or with other options" in other.stderr) == (2, True)

    second = submit()
    assert server.job("stop", running.submission_id).returncode == 0
    assert "stopped, exit code 143" in second.communicate(timeout=240)[1]
    assert second.returncode == 143


@pytest.mark.slow
def test_a_job_that_refuses_ends_the_command_with_its_own_code(server: JobServer, tmp_path: Path) -> None:
    done = server.submit(recipe_in(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"{tmp_path}/none" in done.stdout  # the job's word: no such folder
    assert "failed, exit code 2" in done.stderr
    assert server.environment["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"RAY_AUTH_TOKEN": "of another cluster"}, "it does not take this token"),
        ({"RAY_AUTH_MODE": "disabled"}, "it asks for Ray's token, and none was given"),
        ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": "/none/there"}, "cannot read Ray's token"),
    ],
)
def test_a_token_that_is_wrong_or_missing_is_one_error(
    changes: Mapping[str, str | None], told: str, server: JobServer, tmp_path: Path
) -> None:
    environment = {name: value for name, value in {**server.environment, **changes}.items() if value is not None}
    done = JobServer(server.address, environment).submit(recipe_in(tmp_path))
    assert done.returncode == 2
    assert told in done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr
