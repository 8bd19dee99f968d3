"""The scheduled augmentation through the command line: real Ray, a real S3 store, the shipped models."""

import io
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from eim_ops.faces.render import render
from eim_ops.mini.face_set import draw_faces
from pipeline.storage import Store, in_threads, open_store
from tests.s3_server import S3Server
from tests.views import view_at

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]


def eim(*arguments: str) -> str:
    """The output of a command that ends well."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment = {**kept, "PYTHONPATH": str(REPOSITORY)}
    command: list[str | Path] = [BIN / "eim", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def put_faces(store: Store, seed: int, names: range) -> None:
    faces = draw_faces(seed, names.stop)

    def put(index: int) -> None:
        buffer = io.BytesIO()
        Image.fromarray(render(faces[index])).save(buffer, "PNG")
        store.write(f"in/{index:03d}.png", buffer.getvalue())

    in_threads(put, names)


@pytest.mark.slow
def test_fifty_then_ten_more_and_two_changed_then_nothing_new(s3: S3Server, tmp_path: Path) -> None:
    bucket = f"augment-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(bucket)
    store = open_store(f"s3://{bucket}")
    recipe = tmp_path / "recipe.yaml"
    keys: dict[str, Any] = {
        "input": {"path": f"s3://{bucket}/in"},
        "output": f"s3://{bucket}/out",
        "model": "mini-dit",
        "edits": [{"attribute": "smile", "target": "broad smile", "strengths": [1]}],
        "method": {"steps": 2, "image_half": "none"},
        "augment": {"budget": {"images": 50}},
    }
    recipe.write_text(yaml.safe_dump(keys))

    def run(date: str) -> dict[str, Any]:
        return json.loads(eim("augment", str(recipe), "--date", date, "--json"))

    def dates() -> dict[str, set[str]]:
        rows = view_at(f"s3://{bucket}/out").edits.to_pylist()
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["partition"], set()).add(row["source_uri"].rpartition("/")[2])
        assert sum(map(len, found.values())) == len(rows)
        return found

    put_faces(store, 7, range(50))
    first = run("2030-01-01")
    assert (first["new_images"], first["images"], first["edits"]) == (50, 50, 50)

    put_faces(store, 7, range(50, 60))
    put_faces(store, 8, range(3, 5))  # two other faces under known names
    second = run("2030-01-02")
    assert (second["new_images"], second["images"], second["edits"], second["problem"]) == (12, 12, 12, None)
    changed = {"003.png", "004.png"}
    assert dates() == {
        "2030-01-01": {f"{index:03d}.png" for index in range(50)},
        "2030-01-02": {f"{index:03d}.png" for index in range(50, 60)} | changed,
    }

    before = store.keys("out")
    third = run("2030-01-03")
    assert (third["new_images"], third["edits"], third["increment"], third["runs"]) == (0, 0, None, [])
    assert store.keys("out") == before
    assert "every edit asked for is there once" in eim("verify", f"s3://{bucket}/out")
