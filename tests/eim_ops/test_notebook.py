import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eim_ops
from eim_ops import Method, Models, edit_image, load_models, notebook, strip
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.faces.face import sample_face
from eim_ops.faces.render import render

SOURCE, TARGET = "a portrait with deep frown, red hair", "a portrait with broad smile, red hair"
FACE = Image.fromarray(render(sample_face(np.random.default_rng(0))))


def test_one_image_comes_back_at_every_strength_in_order(backbone: Sd3Backbone) -> None:
    models, method = Models(backbone, None), Method(steps=2, draws=1)
    images = edit_image(models, FACE, "", [1, 0, -1], source_prompt=SOURCE, target_prompt=TARGET, method=method)
    assert [image.size for image in images] == [(64, 64)] * 3
    assert strip(images).size == (192, 64)


def test_an_edits_pixels_do_not_depend_on_the_other_strengths_asked(
    backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, method, rows, velocity = Models(backbone, None), Method(steps=2, draws=1), set(), backbone.velocity

    def counted(latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
        rows.add(len(latents))
        return velocity(latents, *arguments)

    monkeypatch.setattr(backbone, "velocity", counted)
    given: dict[str, Any] = dict(source_prompt=SOURCE, target_prompt=TARGET, method=method, batch=3)
    alone = edit_image(models, FACE, "", [0.5], **given)
    among = edit_image(models, FACE, "", [-1, 2, 1.5, 0.5, 1], **given)
    assert alone[0].tobytes() == among[3].tobytes()
    assert rows == {3}


def test_free_guidance_that_the_model_lacks_is_refused_before_anything_is_captioned(
    backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unasked:
        def describe(self, images: Any) -> list[str]:
            raise AssertionError("captioned")

    monkeypatch.setattr(backbone, "guidance_kind", "none")
    with pytest.raises(ValueError, match=r"method.free_guidance is 1\.5, but the model's guidance is none"):
        edit_image(Models(backbone, Unasked()), FACE, "change to broad smile")  # type: ignore[arg-type]


def test_models_load_in_the_asked_dtype() -> None:
    loaded = load_models(device="cpu", dtype="bfloat16").backbone
    assert isinstance(loaded, Sd3Backbone) and loaded.dtype == torch.bfloat16


def test_an_image_can_be_edited_at_another_size_than_the_models_own(backbone: Sd3Backbone) -> None:
    models, method = Models(backbone, None), Method(steps=2, draws=1)
    prompts: dict[str, Any] = {"source_prompt": SOURCE, "target_prompt": TARGET}
    (image,) = edit_image(models, FACE, "", [1], **prompts, method=method, size=(64, 40))
    assert image.size == (64, 40)


def test_without_a_captioner_prompts_must_be_given(backbone: Sd3Backbone) -> None:
    with pytest.raises(ValueError, match="both source_prompt and target_prompt"):
        edit_image(Models(backbone, None), FACE, "change to broad smile", source_prompt=SOURCE)


def test_a_strip_of_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        strip([FACE, FACE.resize((32, 32))])


def test_importing_the_package_alone_does_not_import_torch() -> None:
    code = "import sys, eim_ops, eim_ops.method; eim_ops.Method; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'edit_imagee'"):
        eim_ops.edit_imagee  # noqa: B018


def test_an_image_is_set_upright_and_stays_as_it_was(backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def edited(_: object, pixels: list[np.ndarray], *__: object) -> list:
        seen.extend(pixels)
        return []

    monkeypatch.setattr(notebook, "edit_images", edited)
    drawn, exif, file = Image.new("RGB", (32, 64), "white"), Image.Exif(), io.BytesIO()
    drawn.paste("black", (0, 0, 32, 32))
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    drawn.save(file, "PNG", exif=exif)
    lying = Image.open(file)
    before = lying.tobytes()
    edit_image(Models(backbone, None), lying, "", (), source_prompt="a", target_prompt="b", size=(64, 32))
    assert (seen[0][:, 36:] < 9).all() and (seen[0][:, :28] > 246).all()
    assert (lying.size, lying.tobytes()) == ((32, 64), before)


def test_an_edit_that_is_not_finite_is_an_error_and_no_picture(
    backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = torch.full((4, 3, 64, 64), float("nan"))
    monkeypatch.setattr(backbone, "decode", lambda *_: nothing)
    with pytest.raises(ArithmeticError, match="not finite: take smaller"):
        edit_image(Models(backbone, None), Image.new("RGB", (64, 64)), "", (1,), source_prompt="a", target_prompt="b")
