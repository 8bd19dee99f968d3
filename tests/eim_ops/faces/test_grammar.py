import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.faces.attributes import ATTRIBUTES, BY_CLAUSE
from eim_ops.faces.face import sample_face
from eim_ops.faces.grammar import (
    CLAUSE_WORDS,
    MAX_WORDS,
    REQUESTS,
    VOCABULARY,
    GrammarError,
    aligned,
    caption,
    parse,
    parse_request,
    request,
    target_prompt,
    unparse,
    words,
)
from eim_ops.faces.tokenizer import build_chat_tokenizer, build_tokenizer

SEEDS = st.integers(0, 10**6)
ATTRIBUTE = st.sampled_from(ATTRIBUTES)


def random_caption(seed: int, drop: float = 0.3) -> str:
    rng = np.random.default_rng(seed)
    return caption(sample_face(rng), rng, shuffle=True, drop=drop)


@given(seed=SEEDS, drop=st.floats(0, 1))
def test_a_caption_parses_to_what_the_face_has_and_back(seed: int, drop: float) -> None:
    rng = np.random.default_rng(seed)
    face = sample_face(rng)
    prompt = caption(face, rng, shuffle=True, drop=drop)
    stated = parse(prompt)
    assert unparse(stated) == prompt
    assert all(a.index(getattr(face, a.name)) == stated[a.name] for a in ATTRIBUTES if a.name in stated)


@given(seed=SEEDS, attribute=ATTRIBUTE, draw=st.integers(0, 10))
def test_a_stated_attributes_target_is_aligned_and_differs_at_its_clause_alone(seed: int, attribute, draw: int) -> None:  # type: ignore[no-untyped-def]
    source = random_caption(seed, drop=0.0)
    index = draw % len(attribute.values)
    target = target_prompt(source, attribute.name, index)
    assert {**parse(source), attribute.name: index} == parse(target)
    changed = aligned(source, target)
    assert len(changed) <= CLAUSE_WORDS
    assert (changed == []) == (parse(source)[attribute.name] == index)


def test_an_attribute_that_is_not_stated_is_put_at_the_end() -> None:
    target = target_prompt("a portrait with red hair", "hat", 1)
    assert target == "a portrait with red hair, baseball cap"
    with pytest.raises(GrammarError, match=r"5 words, .* has 7"):
        aligned("a portrait with red hair", target)


@given(clause=st.sampled_from(sorted(BY_CLAUSE)), template=st.sampled_from(REQUESTS))
def test_a_request_is_understood_in_each_of_its_forms(clause: str, template: str) -> None:
    attribute, index = BY_CLAUSE[clause]
    assert parse_request(request(clause, template)) == (attribute.name, index)


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a picture with red hair", "does not start with 'a portrait with'"),
        ("a portrait with green hair", "unknown clause 'green hair'"),
        ("a portrait with red hair, grey hair", "states hair_color twice: 'red hair' and 'grey hair'"),
    ],
)
def test_a_wrong_prompt_is_refused_by_the_part_that_is_wrong(prompt: str, wrong: str) -> None:
    with pytest.raises(GrammarError, match=wrong):
        parse(prompt)


@given(seed=SEEDS)
def test_every_word_is_a_token_of_both_tokenizers_and_nothing_is_cut(seed: int) -> None:
    prompt = random_caption(seed, drop=0.0)
    assert len(words(prompt)) == MAX_WORDS
    tokens = TOKENIZER(prompt).input_ids
    assert len(tokens) == MAX_WORDS + 2 <= TOKENIZER.model_max_length
    assert TOKENIZER.unk_token_id not in tokens
    spoken = CHAT(prompt).input_ids
    assert CHAT.unk_token_id not in spoken
    assert " ".join(CHAT.decode(spoken).split()).replace(" ,", ",") == prompt


TOKENIZER, CHAT = build_tokenizer(), build_chat_tokenizer()


def test_a_tokenizer_that_would_cut_a_full_caption_is_refused() -> None:
    with pytest.raises(ValueError, match=f"give at least {MAX_WORDS + 2}"):
        build_tokenizer(MAX_WORDS)


def test_clauses_have_two_words_and_one_meaning() -> None:
    clauses = [clause for attribute in ATTRIBUTES for clause in attribute.clauses]
    assert len(set(clauses)) == len(clauses)
    assert {len(clause.split()) for clause in clauses} == {CLAUSE_WORDS}
    assert set(VOCABULARY) >= {word for clause in clauses for word in clause.split()}
