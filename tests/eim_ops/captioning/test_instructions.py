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


HALVES = r'{"prompt": "a \ud83d\ude00",}'  # one character as two escapes, which repair does not join


@pytest.mark.parametrize("answer", ["a face", '{"prompt": "a fa', '{"prompt": ""}', '["a face"]', "{}", "", HALVES])
def test_what_is_cut_or_of_another_form_or_no_text_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="the answer"):
        GENERAL.read(answer)


@pytest.mark.parametrize("instructions", [GENERAL, Instructions("describe", "{prompt} ; {request}")])
@pytest.mark.parametrize("length", [0, 1, 1000, 1001])
def test_a_prompt_has_1_to_1000_characters_with_json_or_without(instructions: Instructions, length: int) -> None:
    prompt = "x" * length
    answer = prompt if instructions.key is None else json.dumps({"prompt": prompt})
    if 1 <= length <= 1000:
        assert instructions.read(answer) == prompt
        return
    with pytest.raises(ValueError, match="the answer has no text of 1 to 1000 characters"):
        instructions.read(answer)


@pytest.mark.parametrize("answer", ["", " \n\t"])
def test_a_blank_answer_is_no_prompt(answer: str) -> None:
    with pytest.raises(ValueError, match="the answer has no text of 1 to 1000 characters; it starts ''"):
        Instructions("describe", "{prompt} ; {request}").read(answer)


def test_a_model_without_json_answers_with_the_prompt_alone() -> None:
    assert Instructions("describe", "{prompt} ; {request}").read(" a\nface ") == "a face"
