"""The captioner on the shipped mini-vlm, loaded as any other image-text-to-text model."""

import numpy as np
import pytest
import torch
from PIL import Image

from eim_ops.captioning.minimal_pair import check_minimal_pair
from eim_ops.captioning.vlm import VlmCaptioner
from eim_ops.faces.grammar import REQUESTS, caption, parse, target_prompt
from eim_ops.mini.face_set import HELD_OUT_SEED, face_set
from eim_ops.mini.train_vlm import INSTRUCTIONS, build_processor, build_vlm, stated_right
from eim_ops.named_models import load_captioner

FACES = face_set(HELD_OUT_SEED + 1, 12)
IMAGES = [Image.fromarray(pixels) for pixels in FACES.pixels]


@pytest.fixture(scope="module")
def captioner() -> VlmCaptioner:
    loaded = load_captioner("mini-vlm")
    assert isinstance(loaded, VlmCaptioner)
    return loaded


def test_faces_it_has_never_seen_are_described_as_they_are(captioner: VlmCaptioner) -> None:
    right = [stated_right(face, prompt) for face, prompt in zip(FACES.faces, captioner.describe(IMAGES), strict=True)]
    assert np.mean(right) > 0.93


def test_an_answer_does_not_depend_on_its_neighbours(captioner: VlmCaptioner) -> None:
    assert captioner.describe(IMAGES)[3:5] == captioner.describe(IMAGES[3:5])


@pytest.mark.parametrize("form", REQUESTS)
def test_requests_are_written_into_the_prompt_as_minimal_pairs(captioner: VlmCaptioner, form: str) -> None:
    sources = [caption(face) for face in FACES.faces]
    written = captioner.rewrite(sources, [form.format("red hair")] * len(sources))
    for source, target in zip(sources, written, strict=True):
        check_minimal_pair(source, target)
    assert np.mean([parse(target)["hair_color"] == 3 for target in written]) > 0.9
    exact = [target == target_prompt(source, "hair_color", 3) for source, target in zip(sources, written, strict=True)]
    assert np.mean(exact) > 0.9


def test_a_second_answer_depends_on_its_question_alone(captioner: VlmCaptioner) -> None:
    """mini-vlm has no question that tells a problem: its second answer is sampled."""
    sources = [caption(face) for face in FACES.faces[:3]]
    others = ["red hair"] * 3, ["a dog"] * 3, ["why"] * 3
    together = captioner.rewrite_again(sources, *others)
    alone = [captioner.rewrite_again([source], *(part[:1] for part in others))[0] for source in sources]
    assert together == alone


def test_an_answer_that_does_not_end_is_refused_with_its_start() -> None:
    torch.manual_seed(0)
    processor = build_processor()
    babbling = VlmCaptioner(build_vlm(processor).eval(), processor, "untrained", "0", INSTRUCTIONS, max_new_tokens=4)
    with pytest.raises(ValueError, match="captioner untrained did not end its answer within 4 tokens; it starts '"):
        babbling.describe(IMAGES[:2])


def test_nothing_asked_is_nothing_answered(captioner: VlmCaptioner) -> None:
    assert captioner.describe([]) == [] == captioner.rewrite([], [])
