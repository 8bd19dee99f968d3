from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from eim_ops.faces.face import Face
from eim_ops.faces.grammar import caption
from eim_ops.faces.judge import Judge, load_judge
from eim_ops.faces.render import render
from eim_ops.mini import check
from eim_ops.mini.check import measure_dit, measure_vae
from eim_ops.mini.face_set import draw_faces
from eim_ops.named_models import load_captioner


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_all_figures_are_measured_with_mini_dit_on_the_cpu_whatever_else_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faces = {"JUDGE": 32, "VAE": 8, "VLM": 4, "DIT": 4, "VELOCITY": 2}
    for name, count in faces.items():
        monkeypatch.setattr(check, f"_{name}_FACES", count)
    monkeypatch.setattr(check, "_STEPS", 2)
    monkeypatch.setattr(check, "measure_jvp", lambda *arguments: {})
    captioner = load_captioner("mini-vlm", device="cpu")
    monkeypatch.setattr(check, "load_captioner", lambda *arguments: captioner)
    monkeypatch.setattr(
        "eim_ops.named_models.pick_device", lambda device: torch.device("meta" if device == "auto" else device)
    )
    figures = check.check()
    assert figures["vae_psnr"] > 30 and figures["vlm_accuracy"] > 0.9 and figures["velocity_seconds"] > 0
    assert set(figures["dit_accuracy"]) == set(figures["judge"])


def generator(faces: list[Face], shift: int) -> Callable[[Sequence[str]], np.ndarray]:
    drawn = {caption(face): render(faces[(i + shift) % len(faces)]) for i, face in enumerate(faces)}
    return lambda prompts: np.stack([drawn[prompt] for prompt in prompts])


def test_a_perfect_generator_is_judged_right_and_one_of_other_faces_is_not(judge: Judge) -> None:
    faces = draw_faces(3, 48)
    scores = []
    for shift in (0, 1):
        by_attribute = measure_dit(generator(faces, shift), judge, faces)
        scores.append(np.mean(list(by_attribute.values())))
    assert scores[0] > 0.97
    assert scores[1] < 0.6


def test_the_psnr_of_a_round_trip_is_that_of_its_error() -> None:
    pixels = np.full((3, 64, 64, 3), 100, np.uint8)
    assert measure_vae(lambda images: images + 0.02, pixels) == pytest.approx(10 * np.log10(4 / 0.02**2), abs=1e-2)
    assert measure_vae(lambda images: images + torch.tensor([0.2, 0.02, 0.002]).view(3, 1, 1, 1), pixels) == (
        pytest.approx(10 * np.log10(4 / 0.02**2), abs=1e-2)
    )
