import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.captioning.minimal_pair import check_minimal_pair
from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.faces.face import sample_face
from eim_ops.faces.grammar import caption, target_prompt


@given(seed=st.integers(0, 10**6), draw=st.integers(0, 10**6))
def test_every_edit_of_the_grammar_is_a_minimal_pair(seed: int, draw: int) -> None:
    rng = np.random.default_rng(seed)
    source = caption(sample_face(rng), rng, shuffle=True, drop=0.3)
    attribute = ATTRIBUTES[draw % len(ATTRIBUTES)]
    check_minimal_pair(source, target_prompt(source, attribute.name, draw % len(attribute.values)))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a man before tall trees, red hair", "a woman before tall trees, grey hair"),  # two places
        ("a man with red hair", "a man"),  # words taken out
        ("a man", "a tall dark young handsome man"),  # too long
    ],
)
def test_other_changes_are_refused_with_their_words(source: str, target: str) -> None:
    with pytest.raises(ValueError, match="target prompt changes"):
        check_minimal_pair(source, target)


def test_equal_prompts_and_other_punctuation_pass() -> None:
    check_minimal_pair("a man, red hair", "A man red hair.")
