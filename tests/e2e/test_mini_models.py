"""The shipped models through the command line, as `make demo` does: rendered faces in, edits and a report out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

BIN = Path(sys.executable).parent


def eim(*arguments: str, folder: Path) -> str:
    done = subprocess.run([BIN / "eim", *arguments], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_faces_are_edited_as_asked_and_reported(tmp_path: Path) -> None:
    eim("faces", "render", "--count", "8", "--seed", "7", "--out", "faces", folder=tmp_path)
    edits = [
        {"attribute": "hair_color", "target": "red hair", "strengths": [0.5, 1]},
        {"attribute": "background", "target": "blue background", "strengths": [1]},
    ]
    recipe = {"input": {"path": "faces"}, "output": "out", "model": "mini-dit", "edits": edits}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    summary = json.loads(eim("edit", "recipe.yaml", "--json", folder=tmp_path))
    assert (summary["images"], summary["edits"], summary["failures"], summary["left"]) == (8, 24, 0, 0)

    report = json.loads(eim("report", "out", "--json", folder=tmp_path))
    whole = report["strengths"]["1"]
    assert whole["edits"] == 16
    assert whole["success"] >= 0.7
    assert whole["kept"] >= 0.9
    assert Image.open(tmp_path / "out" / "contact.png").width > 300
    assert "judge: " in (tmp_path / "out" / "contact.html").read_text()

    assert "nothing to do" in eim("edit", "recipe.yaml", folder=tmp_path)
