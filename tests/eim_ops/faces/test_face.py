from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.faces.face import Face, sample_face
from eim_ops.faces.render import render
from eim_ops.mini.face_set import draw_faces, face_set


def faces(count: int, correlated: bool = False) -> list[Face]:
    return draw_faces(5, count, correlated)


def test_rendering_is_deterministic_and_anti_aliased() -> None:
    face = faces(1)[0]
    image = render(face)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert np.array_equal(image, render(face))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100, "edges are mixed colours"


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.name)
def test_every_value_of_an_attribute_leaves_a_mark_on_every_face(attribute) -> None:  # type: ignore[no-untyped-def]
    for face in faces(40):
        images = [render(face.edited(attribute.name, index)).astype(int) for index in range(len(attribute.values))]
        for before, after in pairwise(images):
            assert np.abs(before - after).max() > 8, (face, attribute.name)


def test_an_edited_face_differs_in_its_attribute_alone() -> None:
    face = faces(1)[0]
    for attribute in ATTRIBUTES:
        edited = face.edited(attribute.name, 1)
        assert attribute.index(getattr(edited, attribute.name)) == 1
        assert replace(edited, **{attribute.name: getattr(face, attribute.name)}) == face


def _association(drawn: list[Face]) -> tuple[float, float]:
    """How much likelier grey hair is with age, and the correlation of smile and light."""
    old = np.array([face.age > 0.6 for face in drawn])
    grey = np.array([face.hair_color == "grey" for face in drawn])
    smile, light = (np.array([getattr(face, name) for face in drawn]) for name in ("smile", "lighting"))
    return float(grey[old].mean() - grey[~old].mean()), float(np.corrcoef(smile, light)[0, 1])


def test_the_switch_makes_attributes_come_together_or_not() -> None:
    independent, correlated = _association(faces(2000)), _association(faces(2000, correlated=True))
    assert max(map(abs, independent)) < 0.1
    assert min(correlated) > 0.4


def test_faces_are_functions_of_seed_and_index_alone() -> None:
    assert draw_faces(3, 5) == draw_faces(3, 9)[:5]
    drawn = face_set(3, 4)
    assert np.array_equal(drawn.pixels[2], render(draw_faces(3, 3)[2]))
    assert float(drawn.images(np.array([0])).min()) >= -1


@pytest.mark.parametrize(
    ("changes", "wrong"), [({"smile": 1.2}, "face.smile is 1.2"), ({"hat": "crown"}, "face.hat is 'crown'")]
)
def test_a_face_that_cannot_be_is_refused_by_its_attribute(changes: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        replace(sample_face(np.random.default_rng(0)), **changes)  # type: ignore[arg-type]
