import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.captioning.instructions import GENERAL, Instructions


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=50).filter(lambda text: text.strip()))
def test_json_gives_back_its_prompt_in_one_line(prompt: str) -> None:
    assert GENERAL.read(json.dumps({"prompt": prompt})) == " ".join(prompt.split())


@pytest.mark.parametrize(
    "answer", ['```json\n{"prompt": "a face"}\n```', "Sure: {'prompt': 'a face',}", '{"prompt": "a face"} I hope']
)
def test_small_slips_are_repaired(answer: str) -> None:
    assert GENERAL.read(answer) == "a face"


@pytest.mark.parametrize("answer", ["a face", '{"prompt": "a fa', '{"prompt": ""}', '["a face"]', "{}", ""])
def test_what_is_cut_or_of_another_form_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="the answer"):
        GENERAL.read(answer)


def test_a_model_without_json_answers_with_the_prompt_alone() -> None:
    assert Instructions("describe", "{prompt} ; {request}").read(" a\nface ") == "a face"
