from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eim_ops.backbones.base import PromptTooLongError
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.edit import edit_images, full_batches, to_images, to_pixels
from eim_ops.faces.face import sample_face
from eim_ops.faces.render import render
from eim_ops.identify import hsds
from eim_ops.method import ImageHalf, Method, TrajectoryKind
from eim_ops.task import EditedImage, EditTask

METHOD = Method(steps=3, draws=2)
SOURCE, SMILE, RED = (
    "a portrait with deep frown, black hair",
    "a portrait with broad smile, black hair",
    "a portrait with deep frown, red hair",
)
TASKS = (EditTask("smile-1", (SMILE,), 1.0), EditTask("smile-half", (SMILE,), 0.5), EditTask("both", (SMILE, RED), 1.0))


def faces(count: int) -> list[np.ndarray]:
    return [render(sample_face(np.random.default_rng(i))) for i in range(count)]


def run(
    backbone: Sd3Backbone,
    images: list[np.ndarray],
    tasks: list[tuple[EditTask, ...]],
    seeds: list[int],
    method: Method = METHOD,
) -> list[EditedImage]:
    return list(edit_images(backbone, images, [SOURCE] * len(images), tasks, method, seeds, batch=4))


def test_every_task_of_every_image_comes_out_once(backbone: Sd3Backbone) -> None:
    edited = run(backbone, faces(3), [TASKS, (), TASKS[:1]], [0, 1, 2])
    assert [(e.row, e.edit_id) for e in edited] == [(0, "smile-1"), (0, "smile-half"), (0, "both"), (2, "smile-1")]
    assert all(e.pixels.shape == (64, 64, 3) and e.pixels.dtype == np.uint8 and e.finite for e in edited)


@pytest.mark.parametrize("changes", [{}, {"image_half": "hsds", "trajectory": "coupled", "guidance": 2.0}])
def test_pixels_do_not_depend_on_neighbours_order_or_number(backbone: Sd3Backbone, changes: dict[str, Any]) -> None:
    images, method = faces(6), replace(METHOD, **changes)
    together = run(backbone, images, [TASKS] * 6, list(range(6)), method)
    alone = run(backbone, images[4:5], [TASKS], [4], method)
    backwards = run(backbone, images[::-1], [TASKS[::-1]] * 6, list(range(6))[::-1], method)
    for one in alone:
        (same,) = (e for e in together if e.row == 4 and e.edit_id == one.edit_id)
        (turned,) = (e for e in backwards if e.row == 1 and e.edit_id == one.edit_id)
        assert np.array_equal(one.pixels, same.pixels)
        assert np.array_equal(one.pixels, turned.pixels)
        assert one.direction_id == same.direction_id == turned.direction_id


@pytest.mark.parametrize("changes", [{}, {"image_half": "hsds"}, {"trajectory": "fixed_point", "guidance": 2.0}])
def test_evaluations_of_all_rows_add_up_to_what_the_model_ran(backbone: Sd3Backbone, changes: dict[str, Any]) -> None:
    before = backbone.evaluations
    method = replace(METHOD, **changes)
    edited = run(backbone, faces(4), [TASKS[:2]] * 4, list(range(4)), method)  # full batches: nothing is padding
    assert sum(e.evaluations for e in edited) == pytest.approx(backbone.evaluations - before)


def test_a_sweep_encodes_and_draws_an_image_once_and_identifies_a_target_once(backbone: Sd3Backbone) -> None:
    strengths = (-1.0, 0.5, 1.0)
    prompts = ((SMILE,), (RED,), (SMILE, RED))
    tasks = tuple(EditTask(f"{p}{s}", p, s) for p in prompts for s in strengths)
    before = backbone.evaluations
    edited = run(backbone, faces(4), [tasks] * 4, list(range(4)))
    encoding = decoding = METHOD.steps + METHOD.free_guided_steps
    drawing = identifying = METHOD.draws  # the source's velocities, and each target's
    assert backbone.evaluations - before == 4 * (encoding + drawing + 2 * identifying) + len(edited) * decoding
    assert len(edited) == 4 * 9


@pytest.mark.parametrize("image_half", ["dds", "hsds"])
def test_each_of_an_images_targets_has_the_pixels_that_it_has_alone(
    backbone: Sd3Backbone, image_half: ImageHalf
) -> None:
    method, red = replace(METHOD, image_half=image_half), EditTask("red", (RED,), 1.0)
    alone = [run(backbone, faces(2), [(task,)] * 2, [0, 1], method) for task in (TASKS[0], red)]
    for one in run(backbone, faces(2), [(TASKS[0], red), (red,)], [0, 1], method):
        same = alone[one.edit_id == "red"][one.row]
        assert np.array_equal(one.pixels, same.pixels) and one.direction_residual == same.direction_residual


def test_composition_differs_from_each_of_its_parts(backbone: Sd3Backbone) -> None:
    smile, _, both = run(backbone, faces(1), [TASKS], [0])
    assert not np.array_equal(smile.pixels, both.pixels)


def test_a_row_tells_how_its_direction_was_found(backbone: Sd3Backbone) -> None:
    (by_dds, *_), (by_hsds, *_), (text, *_) = (
        run(backbone, faces(1), [TASKS], [0], replace(METHOD, image_half=half)) for half in ("dds", "hsds", "none")
    )
    assert (by_dds.direction_method, by_dds.direction_residual, by_dds.direction_iterations) == ("dds", None, 0)
    assert by_hsds.direction_residual is not None and by_hsds.direction_residual > 0
    assert by_hsds.direction_iterations == METHOD.iterations
    assert (text.direction_method, text.direction_residual) == ("none", None)
    (inverted, *_) = run(backbone, faces(1), [TASKS], [0], replace(METHOD, trajectory="fixed_point"))
    assert inverted.recon_psnr is not None and inverted.recon_psnr > 10
    assert by_dds.recon_psnr is None, "a coupled trajectory decodes to the source by construction"


@pytest.mark.parametrize("trajectory", ["coupled", "euler"])
@pytest.mark.parametrize("changes", [{"sigma_max": 1.0}, {"image_scale": 0.0, "image_half": "hsds"}])
def test_an_image_half_that_moves_nothing_is_not_identified_and_its_rows_say_none(
    backbone: Sd3Backbone, changes: dict[str, Any], trajectory: TrajectoryKind
) -> None:
    method = replace(METHOD, trajectory=trajectory, **changes)
    without = run(backbone, faces(1), [TASKS], [0], replace(method, image_half="none"))
    for one, same in zip(run(backbone, faces(1), [TASKS], [0], method), without, strict=True):
        assert np.array_equal(one.pixels, same.pixels) and one.evaluations == same.evaluations
        assert (one.direction_method, one.direction_residual) == ("none", None)


@pytest.mark.parametrize(
    ("residual", "method", "told"), [(0.4, "hsds", 0.4), (0.6, "dds", 0.5), (torch.nan, "dds", 0.5)]
)
def test_a_row_tells_the_direction_that_it_got_and_what_that_one_leaves(
    backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch, residual: float, method: str, told: float
) -> None:
    def residuals(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((4,), residual), torch.full((4,), 0.5)

    monkeypatch.setattr(hsds, "_held_out_residuals", residuals)
    (edited,) = run(backbone, faces(1), [TASKS[:1]], [0], replace(METHOD, image_half="hsds"))
    assert (edited.direction_method, edited.direction_residual) == (method, pytest.approx(told))


@pytest.mark.parametrize("names", [(), ("another",)])
def test_among_shared_directions_an_edit_that_names_none_of_them_is_told(
    backbone: Sd3Backbone, names: tuple[str, ...]
) -> None:
    tasks, known = [[replace(TASKS[0], shared=("smile",)), replace(TASKS[1], shared=names)]], torch.zeros(1, 8, 16, 16)
    with pytest.raises(ValueError, match=r"edit 'smile-half' names the shared directions .*; known are \['smile'\]"):
        list(edit_images(backbone, faces(1), [SOURCE], tasks, METHOD, [0], 4, {"smile": known}))


def test_an_edit_that_names_a_shared_direction_where_there_is_none_is_told(backbone: Sd3Backbone) -> None:
    with pytest.raises(ValueError, match=r"'smile-1' names the .* \['smile'\]; known are \[\]: give them"):
        run(backbone, faces(1), [(replace(TASKS[0], shared=("smile",)),)], [0])


def test_a_prompt_too_long_is_an_error_not_a_cut(backbone: Sd3Backbone) -> None:
    with pytest.raises(PromptTooLongError):
        run(backbone, faces(1), [(EditTask("x", ("smile " * 40,), 1.0),)], [0])


def test_full_batches_cover_all_rows_and_pad_with_copies() -> None:
    batches = list(full_batches(5, 3))
    assert [(indices.tolist(), real) for indices, real in batches] == [([0, 1, 2], 3), ([3, 4, 4], 2)]


def test_pixels_survive_the_way_to_the_model_and_back() -> None:
    pixels = faces(2)
    assert np.array_equal(to_pixels(to_images(pixels)), np.stack(pixels))


def test_a_latent_that_is_not_finite_is_flagged(backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "velocity", lambda latents, sigma, conditioning: torch.full_like(latents, torch.nan))
    assert not any(e.finite for e in run(backbone, faces(1), [TASKS], [0]))


@pytest.mark.parametrize("image_half", ["dds", "hsds"])
def test_a_strength_that_overflows_is_flagged_and_its_neighbours_keep_their_pixels(
    backbone: Sd3Backbone, image_half: ImageHalf
) -> None:
    method = replace(METHOD, image_half=image_half)
    wild = EditTask("wild", (SMILE,), 1e38)
    alone = run(backbone, faces(2), [TASKS[:1], TASKS[:1]], [0, 1], method)
    among = run(backbone, faces(2), [(wild, TASKS[0]), (TASKS[0], wild)], [0, 1], method)
    assert [e.edit_id for e in among if not e.finite] == ["wild", "wild"]
    kept = [e for e in among if e.finite]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(alone, kept, strict=True))


def test_a_finite_latent_that_decodes_to_nan_is_flagged(backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = backbone.decode

    def overflowing(latent: torch.Tensor) -> torch.Tensor:
        images = decode(latent)
        images[0] = torch.nan
        return images

    monkeypatch.setattr(backbone, "decode", overflowing)
    first, second = run(backbone, faces(1), [TASKS[:2]], [0])
    assert (first.finite, second.finite) == (False, True)
