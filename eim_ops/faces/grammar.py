"""The grammar of the faces world: captions, edit requests, and the target prompt of a request.

A caption reads "a portrait with young age, pale skin, broad smile, ...": a prefix and clauses of
exactly two words each. Commas are punctuation, never words. As every clause has two words, a source
prompt and its target differ in at most two words, at the same places.
"""

import re

import numpy as np

from eim_ops.faces.attributes import ATTRIBUTES, BY_CLAUSE, BY_NAME
from eim_ops.faces.face import Face

_BARE = "a portrait"
_PREFIX = "a portrait with"
CLAUSE_WORDS = 2
"""Words of one clause."""

REQUESTS: tuple[str, ...] = ("change to {}", "make it {}", "give them {}")
"""Templates of an edit request; the first is the main form."""

VOCABULARY: tuple[str, ...] = tuple(
    sorted({word for text in (_PREFIX, *REQUESTS, *BY_CLAUSE) for word in text.replace("{}", "").split()})
)
"""Every word of prompts and requests, sorted."""

MAX_WORDS = len(_PREFIX.split()) + CLAUSE_WORDS * len(ATTRIBUTES)
"""Words of a caption that states every attribute."""


class GrammarError(ValueError):
    """A text that the grammar does not know; the message names the part that is wrong."""


def words(text: str) -> list[str]:
    """The words of `text`, lower-cased, without commas."""
    return text.lower().replace(",", " ").split()


def join(clauses: list[str]) -> str:
    """The caption that states `clauses` in this order."""
    return f"{_PREFIX} {', '.join(clauses)}" if clauses else _BARE


def caption(face: Face, rng: np.random.Generator | None = None, shuffle: bool = False, drop: float = 0.0) -> str:
    """State a face's attributes, in canonical order unless `shuffle`.

    Each clause is left out with probability `drop`. Raises ValueError where chance is asked for
    without an `rng`.
    """
    clauses = [attribute.clause(getattr(face, attribute.name)) for attribute in ATTRIBUTES]
    if rng is None:
        if shuffle or drop > 0:
            raise ValueError("caption: shuffle and drop draw at random; pass rng")
        return join(clauses)
    clauses = [clause for clause in clauses if rng.random() >= drop]
    if shuffle:
        clauses = [clauses[i] for i in rng.permutation(len(clauses))]
    return join(clauses)


def parse(prompt: str) -> dict[str, int]:
    """Value index of each attribute that `prompt` states, in the prompt's order.

    Raises GrammarError on another prefix, an unknown clause or an attribute stated twice.
    """
    given = words(prompt)
    prefix = _PREFIX.split()
    if given == _BARE.split():
        return {}
    if given[: len(prefix)] != prefix:
        raise GrammarError(f"prompt {prompt!r} does not start with {_PREFIX!r}")
    rest = given[len(prefix) :]
    stated: dict[str, int] = {}
    for start in range(0, len(rest), CLAUSE_WORDS):
        clause = " ".join(rest[start : start + CLAUSE_WORDS])
        if clause not in BY_CLAUSE:
            raise GrammarError(f"unknown clause {clause!r} in prompt {prompt!r}; a clause is one of {_known()}")
        attribute, index = BY_CLAUSE[clause]
        if attribute.name in stated:
            first = attribute.clauses[stated[attribute.name]]
            raise GrammarError(f"prompt {prompt!r} states {attribute.name} twice: {first!r} and {clause!r}")
        stated[attribute.name] = index
    return stated


def unparse(stated: dict[str, int]) -> str:
    """The prompt that states these value indices, in the mapping's order. Inverse of `parse`."""
    return join([BY_NAME[name].clauses[index] for name, index in stated.items()])


def request(clause: str, template: str = REQUESTS[0]) -> str:
    """The edit request for `clause`. Raises GrammarError on an unknown clause."""
    if clause not in BY_CLAUSE:
        raise GrammarError(f"unknown clause {clause!r}; a clause is one of {_known()}")
    return template.format(clause)


def parse_request(text: str) -> tuple[str, int]:
    """(attribute name, value index) that an edit request asks for, in any of the `REQUESTS` forms."""
    said = " ".join(words(text))
    for template in REQUESTS:
        match = re.fullmatch(template.format("(.+)"), said)
        if match and match[1] in BY_CLAUSE:
            attribute, index = BY_CLAUSE[match[1]]
            return attribute.name, index
        if match:
            raise GrammarError(f"unknown clause {match[1]!r} in request {text!r}; a clause is one of {_known()}")
    forms = ", ".join(repr(template.format("CLAUSE")) for template in REQUESTS)
    raise GrammarError(f"request {text!r} has none of the forms {forms}")


def target_prompt(source: str, attribute_name: str, index: int) -> str:
    """`source` with the attribute's clause replaced in place; appended where `source` does not state it."""
    if attribute_name not in BY_NAME:
        raise GrammarError(f"unknown attribute {attribute_name!r}; known: {', '.join(BY_NAME)}")
    count = len(BY_NAME[attribute_name].values)
    if not 0 <= index < count:
        raise GrammarError(f"value index {index} of {attribute_name} is out of range; allowed: 0 to {count - 1}")
    return unparse({**parse(source), attribute_name: index})


def aligned(source: str, target: str) -> list[int]:
    """Positions of the words that differ. Raises GrammarError where the word counts differ."""
    before, after = words(source), words(target)
    if len(before) != len(after):
        raise GrammarError(f"not aligned: {source!r} has {len(before)} words, {target!r} has {len(after)}")
    return [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]


def _known() -> str:
    return ", ".join(repr(clause) for clause in BY_CLAUSE)
