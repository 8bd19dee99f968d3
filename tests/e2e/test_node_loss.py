"""A sweep by the job API on a head and two worker nodes, behind a token, on S3: a node dies while it edits."""

import json
import uuid
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from eim_ops.faces.render import render
from eim_ops.mini.face_set import draw_faces
from jobs.cli import app
from pipeline.decode import encode_png
from pipeline.ledger import Ledger
from pipeline.storage import open_store
from tests import REPOSITORY, job_server
from tests.faults import tripwire
from tests.s3_server import S3Server

_FACES = 12
_ROW = "face-07.png"
_QUICK = {"RAY_health_check_initial_delay_ms": "3000", "RAY_health_check_period_ms": "2000"}
"""How soon the head takes notice of a dead node."""
_SWEEP = {"attributes": {"smile": ["broad smile"], "hair_color": ["red hair"]}, "strengths": [0.5, 1]}


@pytest.mark.slow
def test_a_sweep_survives_the_node_that_works_on_its_rows(s3: S3Server, tmp_path: Path) -> None:
    bucket = f"node-{uuid.uuid4().hex}"
    s3.make_bucket(bucket)
    source, output = open_store(f"s3://{bucket}/in"), open_store(f"s3://{bucket}/out")
    for index, face in enumerate(draw_faces(7, _FACES)):
        source.write(f"face-{index:02d}.png", encode_png(render(face)))
    recipe = {"input": {"path": source.root}, "output": output.root, "model": "mini-dit", "sweep": _SWEEP, "batch": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "method": {"steps": 4, "draws": 1}}))

    wires = tmp_path / "wires"
    armed = tripwire.environment([tripwire.Tripwire("edit", f"/{_ROW}$", "node")], wires, tmp_path / "tally")
    hook = {
        "env_vars": {**armed, "PYTHONPATH": str(REPOSITORY)},
        "worker_process_setup_hook": "tests.faults.tripwire.arm",
    }
    (tmp_path / "armed.yaml").write_text(yaml.safe_dump(hook))
    with job_server.start(workers=2, settings=_QUICK) as server:
        done = server.submit(tmp_path / "recipe.yaml", "--json", "--runtime-env", tmp_path / "armed.yaml", seconds=400)
        states = sorted(node["state"] for node in server.nodes())
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert tripwire.fired(wires) == 1, said  # the node died just before it edited that face
    assert states == ["ALIVE", "ALIVE", "DEAD"]

    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    asked = _FACES * len(_SWEEP["attributes"]) * len(_SWEEP["strengths"])
    counts = ("images", "asked", "edits", "failures", "left")
    assert [summary[name] for name in counts] == [_FACES, asked, asked, 0, 0]
    uris = Ledger(output).read().edits["source_uri"].to_pylist()
    assert sum(uri.endswith(_ROW) for uri in uris) == asked // _FACES
    checked = CliRunner().invoke(app, ["verify", output.root])
    assert (checked.exit_code, f"asked {asked} | edits {asked} | failures 0 | missing 0" in checked.output) == (0, True)
