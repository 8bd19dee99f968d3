"""A sweep by the job API on a head and two worker nodes, behind a token, on S3: a node dies while it edits."""

import json
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from eim_ops.faces.render import render
from eim_ops.mini.face_set import draw_faces
from jobs.cli import app
from pipeline.decode import encode_png
from pipeline.storage import Store, open_store
from tests import job_server
from tests.job_server import JobServer
from tests.processes import family, kill
from tests.s3_server import S3Server
from tests.views import view_at

_FACES = 40
_SWEEP = {"attributes": {"smile": ["broad smile"], "hair_color": ["red hair"]}, "strengths": [0.5, 1]}
_ASKED = _FACES * 4
_QUICK = {"RAY_health_check_initial_delay_ms": "3000", "RAY_health_check_period_ms": "500"}
"""How soon the head takes notice of a dead node."""
_PATIENCE = 400


@pytest.mark.slow
def test_a_sweep_survives_the_node_that_works_on_its_rows(s3: S3Server, tmp_path: Path) -> None:
    bucket = f"node-{uuid.uuid4().hex}"
    s3.make_bucket(bucket)
    source, output = open_store(f"s3://{bucket}/in"), open_store(f"s3://{bucket}/out")
    for index, face in enumerate(draw_faces(7, _FACES)):
        source.write(f"face-{index:02d}.png", encode_png(render(face)))
    recipe = {"input": {"path": source.root}, "output": output.root, "model": "mini-dit", "sweep": _SWEEP, "batch": 4}
    recipe |= {"pools": {"edit": {"size": 1}}}  # it has two blocks more when the first one is stored
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "method": {"steps": 4, "draws": 1}}))

    with job_server.start(workers=2, settings=_QUICK) as server, ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(server.submit, tmp_path / "recipe.yaml", "--json", seconds=_PATIENCE)
        kill(family(_node_at_work(server, output, submitted)))
        stored = len(view_at(output.root).edits)
        done = submitted.result()
        states = sorted(node["state"] for node in server.nodes())
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert states == ["ALIVE", "ALIVE", "DEAD"]
    assert 0 < stored < _ASKED, f"{stored} edits were stored when the node died"

    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    counts = ("images", "asked", "edits", "failures", "left")
    assert [summary[name] for name in counts] == [_FACES, _ASKED, _ASKED, 0, 0]
    checked = CliRunner().invoke(app, ["verify", output.root])
    assert checked.exit_code == 0, checked.output
    assert f"asked {_ASKED} | edits {_ASKED} | failures 0 | missing 0" in checked.output


def _node_at_work(server: JobServer, output: Store, job: Future[CompletedProcess[str]]) -> int:
    """The worker node whose editing actor has rows under its hands, once the first rows are stored. Raises
    AssertionError where the job ends before."""
    deadline = time.monotonic() + _PATIENCE
    while not output.keys("edits"):
        assert not job.done(), job.result()
        assert time.monotonic() < deadline, "no row was stored"
        time.sleep(0.2)
    while True:
        for node in server.workers:
            if any(_edits(pid) for pid in family(node)):
                return node
        assert not job.done(), job.result()
        time.sleep(0.05)


def _edits(pid: int) -> bool:
    """Whether a process is an actor of the edit pool, inside a call; Ray tells so in its title."""
    try:
        title = " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return "EditStage" in title and title.strip().endswith(".submit")
