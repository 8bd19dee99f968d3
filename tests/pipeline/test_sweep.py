"""A sweep is the list that `edits` would hold."""

from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe import RecipeError, load_recipe, parse_recipe
from pipeline.sweep import Sweep, count_line, expand
from tests.pipeline.builders import SMILE, make_recipe

SMALL: dict[str, Any] = {"attributes": {"smile": ["broad", "frown"], "hair": ["red", "grey"]}, "strengths": [0.5, 1]}


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    """Up to four attributes of up to three targets, grids and combinations of them in any order."""
    counts = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    attributes = {f"a{i}": tuple(f"t{i}{j}" for j in range(count)) for i, count in enumerate(counts)}
    some = st.lists(st.sampled_from(sorted(attributes)), min_size=2, unique=True).map(tuple)
    pairs = some.map(lambda names: {name: draw(st.sampled_from(attributes[name])) for name in names})
    strengths = tuple(draw(st.lists(st.integers(-3, 3), min_size=1, unique=True)))
    grids, combinations = tuple(draw(st.lists(some, max_size=3))), tuple(draw(st.lists(pairs, max_size=3)))
    return Sweep(attributes=attributes, strengths=strengths, grids=grids, combinations=combinations)


def names(sweep: Sweep) -> list[frozenset[tuple[str, str]]]:
    return [frozenset(zip(edit.attributes, edit.targets, strict=True)) for edit in expand(sweep)]


@given(sweeps())
def test_every_target_and_combination_is_there_once_at_all_strengths(sweep: Sweep) -> None:
    made = names(sweep)
    assert len(set(made)) == len(made)
    alone = {frozenset({(name, target)}) for name, targets in sweep.attributes.items() for target in targets}
    listed = {frozenset(its.items()) for its in sweep.combinations}
    in_grids = [name for name in made if any({attribute for attribute, _ in name} == set(grid) for grid in sweep.grids)]
    assert set(made) == alone | listed | set(in_grids)
    distinct = {frozenset(grid) for grid in sweep.grids}
    assert len(in_grids) == sum(prod(len(sweep.attributes[name]) for name in grid) for grid in distinct)
    assert all(edit.strengths == sweep.strengths for edit in expand(sweep))


@given(sweeps())
def test_the_order_is_the_sweeps_and_a_composition_has_one_name(sweep: Sweep) -> None:
    order = list(sweep.attributes)
    edits = expand(sweep)
    assert all(list(edit.attributes) == sorted(edit.attributes, key=order.index) for edit in edits)
    turned = sweep.model_copy(update={"combinations": tuple(dict(reversed(c.items())) for c in sweep.combinations)})
    assert expand(turned) == edits == expand(sweep)


def test_a_recipe_with_a_sweep_is_the_recipe_with_its_edits() -> None:
    edits = [
        {"attribute": attributes, "target": targets, "strengths": [0.5, 1]}
        for attributes, targets in [
            ("smile", "broad"),
            ("smile", "frown"),
            ("hair", "red"),
            ("hair", "grey"),
            (["smile", "hair"], ["broad", "red"]),
            (["smile", "hair"], ["broad", "grey"]),
            (["smile", "hair"], ["frown", "red"]),
            (["smile", "hair"], ["frown", "grey"]),
        ]
    ]
    hat = {"attribute": "hat", "target": "cap", "strengths": [1]}
    swept = make_recipe(edits=[hat], sweep={**SMALL, "grids": [["hair", "smile"]]})
    assert swept.edits == make_recipe(edits=[hat, *edits]).edits


def test_the_example_says_what_it_comes_to() -> None:
    example = load_recipe("examples/sweep.yaml")
    assert example.sweep is not None
    line = "sweep: 3 attributes with 5 targets, 6 combinations, 3 strengths: 33 edits of each image"
    assert count_line(example.sweep) == line
    assert sum(len(edit.strengths) for edit in example.edits) == 33


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strengths": [1, 1]}, "sweep.strengths: a strength is there twice"),
        ({"attributes": {}}, "sweep.attributes"),
        ({"attributes": {"smile": ["broad", "broad"]}}, "sweep: attributes.smile: the target 'broad' is there twice"),
        ({"grids": [["smile", "smile"]]}, "sweep: grids: the attribute 'smile' is there twice"),
        (
            {"grids": [["smile", "hat"]]},
            "sweep: grids: 'hat' is none of the sweep's attributes; there are: smile, hair",
        ),
        ({"combinations": [{"smile": "wry", "hair": "red"}]}, "'wry' is no target of smile; there are: broad, frown"),
        ({"grid": []}, "sweep.grid: unknown key; did you mean 'grids'?"),
    ],
)
def test_a_wrong_sweep_is_refused_with_the_mend(changes: dict[str, Any], message: str) -> None:
    neutral = {"input": {"path": "in"}, "output": "out", "model": "m"}
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**neutral, "sweep": {**SMALL, **changes}})
    assert message in str(caught.value)


def test_what_a_sweep_and_the_edits_both_ask_for_is_refused() -> None:
    smile = {"attributes": {"smile": "broad smile"}, "strengths": [1]}
    with pytest.raises(RecipeError, match="is asked for twice"):
        make_recipe(edits=[SMILE], sweep=smile)
