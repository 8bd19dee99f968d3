import numpy as np
import pytest

from eim_ops.faces.attributes import BY_NAME
from eim_ops.faces.face import Face
from eim_ops.faces.judge import load_judge
from eim_ops.faces.render import render
from eim_ops.metrics.face_score import asked_values, score_faces

FACE = Face(
    age=0.4, skin="tan", face_width=0.5, hair_color="black", hair_length=0.4, smile=0.1, eyes=0.6, glasses="none",
    beard="none", hat="none", background="green", lighting=0.8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("attribute", "target"),
    [
        ("hair_color", "red hair"),
        ("glasses", "round glasses"),
        ("background", "purple background"),
        ("smile", "broad smile"),
    ],
)
def test_a_perfect_edit_is_reached_keeps_the_rest_and_is_read_in_the_targets_words(attribute: str, target: str) -> None:
    values = asked_values([attribute], [target])
    assert values is not None
    edited = render(FACE.edited(attribute, values[attribute]))
    done, undone = score_faces(
        load_judge(), np.stack([render(FACE)] * 2), np.stack([edited, render(FACE)]), [values] * 2
    )
    assert (done.reached, done.kept, done.reading) == (True, 1.0, target)
    assert (undone.reached, undone.kept) == (False, 1.0)
    assert undone.reading == BY_NAME[attribute].clause(getattr(FACE, attribute))


def test_an_edit_of_several_attributes_is_read_in_all_of_them() -> None:
    values = asked_values(["hat", "smile"], ["baseball cap", "broad smile"])
    assert values is not None
    edited = render(FACE.edited("hat", values["hat"]))
    (score,) = score_faces(load_judge(), render(FACE)[None], edited[None], [values])
    assert not score.reached
    assert score.reading == "baseball cap, deep frown"


def test_an_edit_that_is_not_of_faces_has_no_values() -> None:
    assert asked_values(["smile"], ["red hair"]) is None
    assert asked_values(["mood"], ["gloomy"]) is None
