"""The three units one after another make what the whole call makes, to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.editor import Editor
from tests.eim_ops.test_edit import METHOD, SOURCE, TASKS, faces

BATCH = 4


def test_among_shared_directions_an_edit_that_names_none_of_them_is_told(backbone: Sd3Backbone) -> None:
    editor = Editor(backbone, METHOD)
    editor._shared["smile"] = torch.zeros(1, 8, 16, 16)
    encoded = editor.encode(faces(1), [SOURCE], [0], BATCH)
    with pytest.raises(ValueError, match=r"edit 'smile-1' names the shared directions \[\]; known are \['smile'\]"):
        list(editor.manipulate(encoded, [{}], [SOURCE], [TASKS[:1]], [0], BATCH))


def test_an_edit_that_names_a_shared_direction_where_there_is_none_is_told(backbone: Sd3Backbone) -> None:
    editor, task = Editor(backbone, METHOD), replace(TASKS[0], shared=("smile",))
    encoded = editor.encode(faces(1), [SOURCE], [0], BATCH)
    (half,) = editor.identify(encoded, [SOURCE], [(0, task.target_prompts[0])], [0], BATCH)
    with pytest.raises(ValueError, match=r"names the shared directions \['smile'\]; known are \[\]: give them"):
        list(editor.manipulate(encoded, [{task.target_prompts[0]: half}], [SOURCE], [[task]], [0], BATCH))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_half": "hsds", "guidance": 1.0},
        {"image_half": "none", "free_guidance": 1.0},
        {"trajectory": "fixed_point"},
        {"noise": "independent", "steps": 3},
    ],
)
def test_the_units_give_the_bits_and_evaluations_of_the_whole(backbone: Sd3Backbone, changes: dict[str, Any]) -> None:
    editor = Editor(backbone, replace(METHOD, **changes))
    images, sources, seeds, tasks = faces(5), [SOURCE] * 5, list(range(5)), [TASKS, TASKS[:1], (), TASKS[1:], TASKS]
    before = editor.evaluations
    whole = list(editor(images, sources, tasks, seeds, BATCH))
    of_whole = editor.evaluations - before

    before = editor.evaluations
    encoded = editor.encode(images, sources, seeds, BATCH)
    prompts = [dict.fromkeys(prompt for task in its for prompt in task.target_prompts) for its in tasks]
    targets = [(row, prompt) for row, its in enumerate(prompts) for prompt in its]
    halves: list[dict[str, bytes]] = [{} for _ in images]
    for (row, prompt), blob in zip(targets, editor.identify(encoded, sources, targets, seeds, BATCH), strict=True):
        halves[row][prompt] = blob
    parts = list(editor.manipulate(encoded, halves, sources, tasks, seeds, BATCH))
    assert editor.evaluations - before == of_whole

    assert len(parts) == len(whole)
    for part, one in zip(parts, whole, strict=True):
        assert np.array_equal(part.pixels, one.pixels)
        assert replace(part, pixels=one.pixels) == one
