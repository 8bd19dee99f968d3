import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from eim_ops.faces.render import render
from eim_ops.identify.spectrum import FILE, load_spectrum
from eim_ops.mini.face_set import draw_faces
from eim_ops.mini.shipped import shipped_path
from jobs.cli import app


@pytest.mark.parametrize("options", [(), ("--dtype", "bfloat16")])
def test_a_model_folder_gets_the_spectrum_of_what_captions_leave_open(tmp_path: Path, options: tuple[str, ...]) -> None:
    model, images = tmp_path / "model", tmp_path / "images"
    shutil.copytree(shipped_path("mini-dit"), model, ignore=shutil.ignore_patterns(FILE))
    images.mkdir()
    for number, face in enumerate(draw_faces(11, 12)):
        Image.fromarray(render(face)).save(images / f"{number}.png")
    command = ["spectrum", str(model), str(images), "--captioner", "mini-vlm", "--batch", "8", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    spectrum = load_spectrum(model)
    assert spectrum is not None and spectrum.shape == (8, 16, 16) and torch.isfinite(spectrum).all()
    assert 0 < float(spectrum.mean()) < 1, "less than the variance of all latents, which is 1"


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["spectrum", str(tmp_path), str(tmp_path), "--captioner", "mini-vlm"])
    assert result.exit_code == 2 and "at least 2" in result.output
