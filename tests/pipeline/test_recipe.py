from pathlib import Path
from typing import Any

import pytest

from eim_ops.aspect_buckets import Size
from pipeline.recipe import RecipeError, load_recipe, parse_recipe
from tests.pipeline.builders import SMILE, make_recipe

ROOT = Path(__file__).parents[2]
EVEN = {"smile": {"broad smile": 1, "frown": 1}}
NEUTRAL: dict[str, Any] = {"input": {"path": "in"}, "output": "out", "model": "m", "captioner": "c", "edits": [SMILE]}


def test_the_demo_recipe_is_right() -> None:
    demo = load_recipe(ROOT / "examples" / "demo.yaml")
    assert sum(len(edit.strengths) for edit in demo.edits) == 16


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_example_is_right(path: Path) -> None:
    load_recipe(path)


def test_only_the_shipped_model_has_a_captioner_by_default() -> None:
    recipe = {key: value for key, value in NEUTRAL.items() if key != "captioner"}
    assert parse_recipe({**recipe, "model": "mini-dit"}).captioner == "mini-vlm"
    with pytest.raises(RecipeError, match=r"captioner: missing; its default, mini-vlm, knows .* faces alone\. Give"):
        parse_recipe(recipe)


def test_one_attribute_may_be_written_without_a_list() -> None:
    spec = make_recipe().edits[0]
    assert (spec.attributes, spec.targets, spec.requests) == (("smile",), ("broad smile",), ("change to broad smile",))


def test_a_composition_asks_for_each_of_its_targets() -> None:
    spec = make_recipe(edits=[{"attribute": ["a", "b"], "target": ["x", "y"], "strengths": [1]}]).edits[0]
    assert spec.requests == ("change to x", "change to y")


def test_a_request_can_be_given() -> None:
    assert make_recipe(edits=[{**SMILE, "request": "make it smile"}]).edits[0].requests == ("make it smile",)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"outptu": "x"}, ["outptu: unknown key; did you mean 'output'?", "allowed: input, output"]),
        ({"batch": 1}, ["batch: given 1", "greater than or equal to 2"]),
        ({"device": "gpu"}, ["device: given 'gpu'", "'auto', 'cpu' or 'cuda'"]),
        ({"method": {"step": 2}}, ["method.step: unknown key; did you mean 'steps'?"]),
        ({"loading": {"compil": True}}, ["loading.compil: unknown key; did you mean 'compile'?"]),
        ({"loading": {"device_map": "auto"}}, ["loading.device_map"]),
        ({"loading": {"quantisation_options": {"a": 1}}}, ["loading.quantisation_options without"]),
        ({"loading": {"quantisation": "gguf"}}, ["loading.quantisation: given 'gguf'", "'torchao' or 'quanto'"]),
        ({"method": {"steps": 0}}, ["method.steps is 0; allowed: a whole number from 1 to 1000"]),
        ({"method": {"steps": "many"}}, ["method.steps: given 'many'"]),
        ({"pools": {"edit": {"sise": 1}}}, ["pools.edit.sise: unknown key; did you mean 'size'?"]),
        ({"input": {}}, ["input: give either path"]),
        ({"captioner": "manifest"}, ["captioner: 'manifest' takes every prompt from a manifest; give input.manifest"]),
        (
            {"input": {"manifest": "x.csv"}, "captioner": "manifest", "caption_cache": "c"},
            ["caption_cache: prompts of a manifest or of a template are not cached; leave it out"],
        ),
        (
            {"captioner": {"kind": "template", "source": "a", "target": "b"}, "caption_cache": "c"},
            ["caption_cache: prompts of a manifest or of a template are not cached; leave it out"],
        ),
        ({"augment": {"budget": {"gpu_hours": None}}}, ["give images, edits or gpu_hours, or leave the budget out"]),
        ({"input": {"manifest": "x.txt"}}, ["input: manifest must end in .parquet, .csv or .jsonl"]),
        ({"edits": []}, ["edits: give at least one edit"]),
        ({"edits": [{**SMILE, "strengths": [1, 1]}]}, ["edits[0].strengths: a strength is there twice"]),
        ({"edits": [{**SMILE, "target": ["a", "b"]}]}, ["edits[0]: attribute, target and request must have as many"]),
        ({"edits": [{**SMILE, "strengths": [float("nan")]}]}, ["edits[0].strengths: strengths must be finite"]),
        ({"edits": [SMILE, SMILE]}, ["is asked for twice"]),
        ({"pools": {"encode": {"size": 1}}}, ["pools.encode: this recipe has no such pool but caption, edit"]),
        ({"direction": "shared", "edits": []}, ["direction: shared directions are those of the recipe's edits"]),
        ({"augment": {"budget": {}}}, ["augment.budget: give images, edits or gpu_hours"]),
        ({"augment": {"budget": {"image": 1}}}, ["augment.budget.image: unknown key; did you mean 'images'?"]),
        ({"augment": {"budget": {"edits": 0}}}, ["augment.budget.edits: given 0"]),
        ({"augment": {"balance": EVEN}}, ["augment: balance: it says what comes first"]),
        (
            {"augment": {"balance": EVEN, "budget": {"edits": 1}}},
            ["augment.balance.smile: no edit has the target 'frown'; there are: broad smile"],
        ),
        ({"augment": {"count_sources": True}}, ["augment: count_sources: sources are counted for a balance alone"]),
        ({"direction_images": 4}, ["direction_images: only shared directions have a sample"]),
        (
            {"size": 17},
            ["size: given 17; give the side of a square in pixels, or [width, height]; sides are multiples"],
        ),
        ({"size": [64, 60]}, ["size: given [64, 60]; give the side"]),
        ({"size": True}, ["size: given True"]),
        (
            {"aspect_buckets": [64, 64]},
            ["aspect_buckets: given [64, 64]; give true, false or a list of [width, height]"],
        ),
        ({"aspect_buckets": []}, ["aspect_buckets: given []"]),
        ({"aspect_buckets": [[64, 48], [128, 96]]}, ["aspect_buckets: [64, 48] and [128, 96] have one aspect ratio"]),
        (
            {"aspect_buckets": [[64, 48]], "size": 64},
            ["size: aspect_buckets lists the sizes; leave one of the two out"],
        ),
        ({"aspect_buckets": True, "size": [64, 48]}, ["size: with aspect_buckets: true it is the side of the square"]),
        ({"aspect_buckets": True, "direction": "shared"}, ["direction: shared directions are of one size"]),
        ({"output_size": "given"}, ["output_size: given 'given'", "'model' or 'source'"]),
        ({"direction": "shared", "method": {"image_half": "none"}}, ["direction: shared directions are image halves"]),
        ({"direction": "shared", "method": {"sigma_max": 1.0}}, ["direction: shared directions are image halves"]),
    ],
)
def test_errors_name_the_key_what_was_given_and_what_is_allowed(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**NEUTRAL, **changes}, "my.yaml")
    assert str(caught.value).startswith("my.yaml: 1 problem, nothing was started")
    for part in parts:
        assert part in str(caught.value)


def test_sizes_are_squares_rectangles_or_buckets() -> None:
    assert make_recipe(size=72).size == 72
    assert make_recipe(size=[96, 64]).size == Size(96, 64)
    assert make_recipe(size=64, aspect_buckets=True).aspect_buckets is True
    assert make_recipe(aspect_buckets=[[96, 64], [64, 64]]).aspect_buckets == (Size(96, 64), Size(64, 64))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RecipeError, match="2 problems"):
        parse_recipe({**NEUTRAL, "batch": 1, "size": 17})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RecipeError, match="output: missing"):
        parse_recipe({key: value for key, value in NEUTRAL.items() if key != "output"})


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00"])
def test_files_that_are_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("twice", ["seed: 1\nseed: 2", "sweep: {attributes: {age: old, age: young}, strengths: [1]}"])
def test_a_key_that_is_there_twice_is_refused_with_its_place(tmp_path: Path, twice: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"input: {{path: in}}\n{twice}\n")
    with pytest.raises(RecipeError, match=r"the key '(seed|age)' is given twice; keep one\s+in .*line \d"):
        load_recipe(path)


def test_anchors_and_merges_of_yaml_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "input: {path: in}\noutput: out\nmodel: fake\ncaptioner: fake\nedits:\n"
        "  - &old {attribute: age, target: old, strengths: [1]}\n  - {<<: *old, target: young}\n"
    )
    assert [edit.targets for edit in load_recipe(path).edits] == [("old",), ("young",)]
