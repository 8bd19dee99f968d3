"""`ray job submit --working-dir . -- python -m jobs.edit` on a real head and job server, with random weights."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.ledger import Ledger
from pipeline.storage import open_store
from tests.conftest import PngMaker
from tests.eim_ops.conftest import tiny_sd3

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_TOKEN = secrets.token_hex(32)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
    return {**kept, **token, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def job_server() -> Iterator[str]:
    """A Ray head of its own; ends with the tests."""
    folder = tempfile.mkdtemp(prefix="eim-ray-")  # short: the paths of Ray's sockets have a limit
    dashboard = _free_port()
    options = [f"--port={_free_port()}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}", "--num-cpus=2"]
    command = [BIN / "ray", "start", "--head", "--block", *options, "--dashboard-agent-listen-port=0"]
    with open(Path(folder) / "head.log", "w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_environment())
    address, deadline = f"http://127.0.0.1:{dashboard}", time.monotonic() + 90
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=2)
                break
            except urllib.error.HTTPError as answer:
                assert answer.code == 401, answer  # up, and asks for the token
                break
            except OSError:
                assert head.poll() is None, (Path(folder) / "head.log").read_text()
                assert time.monotonic() < deadline, "the job server did not come up"
                time.sleep(0.5)
        yield address
    finally:
        head.terminate()
        try:
            head.wait(timeout=40)
        except subprocess.TimeoutExpired:
            head.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_edit_job_runs_by_ray_job_submit(job_server: str, tmp_path: Path, png: PngMaker) -> None:
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
    command = [BIN / "ray", "job", "submit", "--address", job_server, "--working-dir", ".", "--"]
    command += ["python", "-m", "jobs.edit", str(tmp_path / "recipe.yaml"), "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    view = Ledger(open_store(str(tmp_path / "out"))).read()
    assert (len(view.edits), len(view.failures)) == (6, 0)
