"""Own against shared directions: each image's own image half, or one a target, averaged over other faces."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.bench.cases import Case, sources, truths
from eim_ops.bench.contenders import Edited
from eim_ops.bench.measure import measure
from eim_ops.edit import (
    edit_images,
    encode_prompts,
    full_batches,
    identify_targets,
    only_finite,
    round_trips,
    to_images,
)
from eim_ops.faces.face import Face
from eim_ops.faces.grammar import caption, target_prompt
from eim_ops.faces.judge import Judge
from eim_ops.faces.render import render
from eim_ops.method import Method
from eim_ops.mini.face_set import HELD_OUT_SEED, draw_faces
from eim_ops.task import EditTask, Target

_SEED = HELD_OUT_SEED + 30
"""Of the faces that directions are averaged over: no case shows one of them."""
_DRAWN = 8
"""Faces for each that is averaged over: few values are in more than half of all faces."""
_FIGURES = ("success", "kept", "on_target", "off_target", "psnr_true")


def compare_sharing(
    backbone: Backbone, judge: Judge, cases: Sequence[Case], images: Sequence[int], method: Method, batch: int
) -> dict[str, dict[str, float]]:
    """Mean figures of the cases at strength 1, by kind of direction: own and shared over each number of `images`, with
    both halves and with the image half alone; and the text half alone."""
    halves = _sample_halves(backbone, cases, max(images), method, batch)
    shared = {count: {name: its[:count].mean(0, keepdim=True) for name, its in halves.items()} for count in images}
    alone = replace(method, text_scale=0.0, guidance=1.0, free_guidance=1.0)
    kinds: list[tuple[str, Method, Mapping[str, Tensor] | None]] = [
        ("text half alone", replace(method, image_half="none"), None)
    ]
    for name, its in (("both halves", method), ("image half alone", alone)):
        kinds.append((f"{name}, own", its, None))
        kinds += [(f"{name}, shared over {count}", its, shared[count]) for count in images]
    unedited, wanted = round_trips(backbone, list(sources(cases)), batch), truths(cases)
    figures = {}
    for name, its, found in kinds:
        rows = measure(judge, cases, _edited(backbone, cases, its, found, batch), unedited, wanted)
        figures[name] = {figure: float(np.mean([row[figure] for row in rows])) for figure in _FIGURES}
    return figures


def _edited(
    backbone: Backbone, cases: Sequence[Case], method: Method, shared: Mapping[str, Tensor] | None, batch: int
) -> Edited:
    tasks = [[EditTask("", (case.target_prompt,), 1.0, () if shared is None else (case.clause,))] for case in cases]
    prompts, seeds = [case.source_prompt for case in cases], [case.seed for case in cases]
    made = [*only_finite(edit_images(backbone, list(sources(cases)), prompts, tasks, method, seeds, batch, shared))]
    cost = float(np.mean([one.evaluations for one in made]))
    found = [one.direction_method for one in made]
    return Edited(1.0, np.stack([one.pixels for one in made]), cost, [None] * len(cases), found)


def _sample_halves(
    backbone: Backbone, cases: Sequence[Case], count: int, method: Method, batch: int
) -> dict[str, Tensor]:
    """The image halves (count, C, h, w) of each asked change, of the first `count` faces of the correlated world that
    do not show it already: of those it would be 0."""
    faces = draw_faces(_SEED, _DRAWN * count, correlated=True)
    sentences, seeds = [caption(face) for face in faces], [*range(count)]
    described, encoded = encode_prompts(backbone, sentences, batch), _encoded(backbone, faces, batch)
    found = {}
    for clause, case in {case.clause: case for case in cases}.items():
        rows = torch.tensor([row for row, face in enumerate(faces) if _changes(face, case)][:count])
        written = [target_prompt(sentences[row], case.attribute, case.index) for row in rows.tolist()]
        targets = [Target(place, prompt) for place, prompt in enumerate(written)]
        clean, source, prompts = encoded[rows], described[rows], encode_prompts(backbone, written, batch)
        found[clause] = identify_targets(backbone, clean, source, targets, prompts, seeds, method, batch).image
    return found


def _changes(face: Face, case: Case) -> bool:
    return case.asked.index(getattr(face, case.attribute)) != case.index


def _encoded(backbone: Backbone, faces: Sequence[Face], batch: int) -> Tensor:
    pixels = [render(face) for face in faces]
    batches = full_batches(len(pixels), batch)
    return torch.cat([backbone.encode_image(to_images([pixels[i] for i in its]))[:real] for its, real in batches])
