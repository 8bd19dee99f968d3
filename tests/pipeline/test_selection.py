"""What is selected: within the budget, oldest first or most wanted first, and asked for exactly."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import selection as module
from pipeline.asked_keys import asked_keys
from pipeline.augment_spec import Budget
from pipeline.backlog import Backlog
from pipeline.balance import OTHER, Balance, Value
from pipeline.estimate import Workload
from pipeline.ledger import Ledger
from pipeline.listing import prepare_manifest
from pipeline.manifest import Manifest, write_manifest
from pipeline.recipe import Input, Recipe
from pipeline.schema import LISTING
from pipeline.selection import Limit, Selection, select, select_all
from pipeline.storage import Store, open_store
from tests.pipeline.builders import Job, make_recipe, start_job
from tests.pipeline.test_balance import distance

SMILES = [{"attribute": "smile", "target": target, "strengths": [1]} for target in ("broad", "frown")]
EVEN = {"smile": {"broad": 1.0, "frown": 1.0}}
NONE = Balance({})


@contextmanager
def sources(ages: list[int], recipe: Recipe) -> Iterator[Backlog]:
    """A listing of one image for each age; larger ages are older."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        for index, age in enumerate(ages):
            file = Path(folder) / "in" / f"{index}.png"
            file.write_bytes(b"x")
            os.utime(file, (1_000_000 - age, 1_000_000 - age))
        listing = prepare_manifest(Input(path=f"{folder}/in"), Store(f"{folder}/listing"), schema=LISTING)
        yield Backlog(listing, Ledger(Store(f"{folder}/out"), "f"), recipe.edits)


def manifest_of(backlog: Backlog, selection: Selection) -> Manifest:
    """What is selected, written as a job's listing."""
    keys = selection.keys
    buckets = backlog.buckets if keys is None else sorted(keys)
    rows = (row for bucket in buckets for row in backlog.rows(bucket, None if keys is None else keys[bucket]))
    written = write_manifest(rows, Store(f"{backlog.listing.store.root}-taken"))
    assert written is not None
    return written


def asked_of(manifest: Manifest, recipe: Recipe) -> set[tuple[str, str]]:
    """(image, edit id) of all that a listing asks for."""
    found = [asked_keys(manifest.table(bucket), recipe.edits) for bucket in manifest.rows]
    return {
        (Path(asked.rows["uri"][int(row)].as_py()).name, asked.edits[edit].edit_id)
        for asked in found
        for row, edit in zip(asked.row, asked.edit, strict=True)
    }


def counts_of(manifest: Manifest, recipe: Recipe, balance: Balance) -> Counter[Value]:
    counts: Counter[Value] = Counter()
    for bucket in manifest.rows:
        asked = asked_keys(manifest.table(bucket), recipe.edits)
        for edit in asked.edit:
            counts.update(balance.values_of(asked.edits[edit]))
    return counts


@settings(max_examples=15)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_the_oldest_sources_come_first_and_whole(ages: list[int], budget: int) -> None:
    recipe = make_recipe(edits=SMILES)
    with sources(ages, recipe) as backlog:
        selection = select(backlog, Limit(images=budget), NONE, {})
        count = min(budget, len(ages))
        assert (selection.new_images, selection.new_edits) == (len(ages), 2 * len(ages))
        assert (selection.images, selection.edits, selection.work) == (
            count,
            2 * count,
            Workload(count, 2 * count, 2 * count),
        )
        taken = [
            ages[int(Path(name).stem)] for name in {n for n, _ in asked_of(manifest_of(backlog, selection), recipe)}
        ]
        assert sorted(taken, reverse=True) == sorted(ages, reverse=True)[:count]


@settings(max_examples=15)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 20), st.booleans())
def test_an_edits_budget_is_met_exactly_and_cutting_early_changes_nothing(
    ages: list[int], budget: int, balanced: bool
) -> None:
    recipe = make_recipe(edits=SMILES)
    balance = Balance.of(EVEN) if balanced else NONE
    with sources(ages, recipe) as backlog, pytest.MonkeyPatch.context() as patch:
        whole = select(backlog, Limit(edits=budget), balance, {})
        assert whole.edits == whole.work.edits == min(budget, 2 * len(ages))
        patch.setattr(module, "_SLACK_KEYS", 0)
        patch.setattr(module, "_BUCKETS_AT_ONCE", 1)
        again = select(backlog, Limit(edits=budget), balance, {})
        assert again == whole
        assert {name: list(keys) for name, keys in (again.keys or {}).items()} == {
            name: list(keys) for name, keys in (whole.keys or {}).items()
        }


def test_a_bucket_of_many_is_cut_to_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLACK_KEYS", 0)
    recipe = make_recipe(edits=SMILES)
    with sources(list(range(40)), recipe) as backlog:
        selection = select(backlog, Limit(images=3), NONE, {})
    assert sum(map(len, (selection.keys or {}).values())) == 6


@settings(max_examples=15)
@given(
    st.integers(1, 5),
    st.dictionaries(st.sampled_from(["broad", "frown"]), st.integers(0, 6)),
    st.integers(1, 10),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_no_choice_of_as_many_edits_comes_closer_to_the_target(
    images: int, there: dict[str, int], budget: int, weights: tuple[int, int]
) -> None:
    edits = [*SMILES, {"attribute": "hat", "target": "cap", "strengths": [1]}]
    recipe = make_recipe(edits=edits)
    balance = Balance.of({"smile": dict(zip(("broad", "frown"), map(float, weights), strict=True))})
    before: dict[Value, int] = {("smile", value): count for value, count in there.items()}
    with sources([0] * images, recipe) as backlog:
        selection = select(backlog, Limit(edits=budget), balance, Counter(before))
        taken = counts_of(manifest_of(backlog, selection), recipe, balance)
        unbalanced = counts_of(manifest_of(backlog, select(backlog, Limit(edits=budget), NONE, {})), recipe, balance)
    assert taken.total() == unbalanced.total() == min(budget, 3 * images)
    reached = distance(balance, Counter(before) + taken)
    assert reached <= distance(balance, Counter(before) + unbalanced) + 1e-12
    values = list(balance.shares)
    for chosen in combinations(values * images, taken.total()):
        assert reached <= distance(balance, Counter(before) + Counter(chosen)) + 1e-12


@settings(max_examples=5)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 3), st.booleans())
def test_whatever_is_left_over_is_taken_by_later_runs(ages: list[int], budget: int, balanced: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        job = start_job(root, len(ages), edits=[*SMILES, {"attribute": "hat", "target": "cap", "strengths": [-1]}])
        listing = prepare_manifest(job.recipe.input, Store(f"{root}/listing"), schema=LISTING)
        backlog = Backlog(listing, Ledger(job.store, job.fingerprint), job.recipe.edits)
        balance, runs = Balance.of(EVEN) if balanced else NONE, 0
        while (selection := select(backlog, Limit(edits=budget), balance, {})).new_edits:
            assert selection.edits == min(budget, selection.new_edits)
            work_off(job, manifest_of(backlog, selection))
            runs += 1
        assert runs == -(-3 * len(ages) // budget)
        assert len(Ledger(job.store, job.fingerprint).read().edits) == 3 * len(ages)


def work_off(job: Job, manifest: Manifest) -> None:
    """One write task that makes what a listing asks for."""
    job.write([row for bucket in manifest.rows for row in manifest.read(bucket)])


def test_rows_of_one_image_ask_for_what_is_theirs_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("a.png", b"a")
    own = [{"attribute": "smile", "target": "broad", "strengths": [1, 2]}]
    lines: list[dict[str, Any]] = [{"uri": "a.png"}, {"uri": "a.png", "edits": own}, {"uri": "gone.png"}]
    backlog, recipe = of_manifest(store, lines, edits=SMILES)
    everything = asked_of(backlog.listing, recipe)
    selection = select_all(backlog)
    assert (selection.images, selection.edits, selection.work) == (3, 5, Workload(2, 3, 3))
    assert asked_of(manifest_of(backlog, selection), recipe) == everything
    for budget in range(1, 4):
        part = select(backlog, Limit(edits=budget), NONE, {})
        # The row with a problem is taken besides: it costs no work.
        assert (part.edits, part.work.edits) == (budget + 2, budget)
        asked = asked_of(manifest_of(backlog, part), recipe)
        assert len(asked) == budget + 2
        assert asked <= everything


def of_manifest(store: Store, lines: list[dict[str, Any]], **changes: Any) -> tuple[Backlog, Recipe]:
    store.write("m.jsonl", "\n".join(map(json.dumps, lines)).encode())
    recipe = make_recipe(input={"manifest": store.uri("m.jsonl")}, output=store.uri("out"), **changes)
    listing = prepare_manifest(recipe.input, store.below("listing"), schema=LISTING)
    return Backlog(listing, Ledger(store.below("out"), "f"), recipe.edits), recipe


def test_a_row_that_names_no_edits_is_taken_as_it_is(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("a.png", b"a")
    backlog, recipe = of_manifest(store, [{"uri": "a.png"}], edits=[])
    taken = manifest_of(backlog, select(backlog, Limit(edits=1), NONE, {}))
    assert asked_of(taken, recipe) == asked_of(backlog.listing, recipe)


def test_prompts_of_a_row_keep_its_edit_ids(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("a.png", b"a")
    lines = [{"uri": "a.png", "source_prompt": "a face", "target_prompts": {"smile": "a smile"}}]
    backlog, recipe = of_manifest(store, lines, edits=SMILES)
    part = asked_of(manifest_of(backlog, select(backlog, Limit(edits=1), NONE, {})), recipe)
    assert len(part) == 1
    assert part < asked_of(backlog.listing, recipe)


def test_gpu_hours_let_through_the_longest_part_that_they_pay_for() -> None:
    recipe = make_recipe(edits=SMILES)

    def hours(work: Workload) -> float:
        return work.images * 1.0 + work.targets * 0.5 + work.edits * 0.25

    with sources([3, 2, 1, 0], recipe) as backlog:
        taken = [select(backlog, Limit(hours=limit, gpu_hours=hours), NONE, {}).work for limit in (1.7, 1.75, 5.0, 99)]
        assert taken == [Workload(), Workload(1, 1, 1), Workload(2, 4, 4), Workload(4, 8, 8)]
        both = Limit(images=1, hours=99, gpu_hours=hours)
        assert select(backlog, both, NONE, {}).work == Workload(1, 2, 2)


def test_a_budget_that_is_used_up_asks_for_no_arithmetic() -> None:
    def hours(_: Workload) -> float:
        raise AssertionError("nothing can be taken, so nothing need be priced")

    with sources([0], make_recipe(edits=SMILES)) as backlog:
        budget = Budget(gpu_hours=2)
        limit = Limit.of(budget, Workload(), 2.5, hours)
        assert select(backlog, limit, NONE, {}).edits == 0


def test_values_that_are_rare_come_first_and_compositions_bring_both(tmp_path: Path) -> None:
    edits = [*SMILES, {"attribute": ["smile", "hat"], "target": ["frown", "cap"], "strengths": [1, -1]}]
    recipe = make_recipe(edits=edits)
    balance = Balance.of({**EVEN, "hat": {"cap": 1.0, "hood": 1.0}})
    with sources([0] * 3, recipe) as backlog:
        chosen = select(backlog, Limit(edits=3), balance, {("smile", "broad"): 50, OTHER: 50})
        taken = counts_of(manifest_of(backlog, chosen), recipe, balance)
    assert taken == Counter({("smile", "frown"): 3, ("hat", "cap"): 3})


def test_with_a_balance_a_budget_of_images_may_leave_an_edit_of_an_image_for_later(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for age, name in ((2, "old"), (1, "young")):
        store.write(f"{name}.png", b"x")
        os.utime(tmp_path / f"{name}.png", (100 - age, 100 - age))
    lines: list[dict[str, Any]] = [{"uri": "old.png", "edits": SMILES[:1]}, {"uri": "young.png"}]
    backlog, recipe = of_manifest(store, lines, edits=SMILES)
    frowns_wanted: dict[Value, int] = {("smile", "broad"): 50, OTHER: 50}
    chosen = select(backlog, Limit(images=1), Balance.of(EVEN), frowns_wanted)
    ((name, _),) = asked_of(manifest_of(backlog, chosen), recipe)
    # Of broad smiles the old image's comes next, which does not fit any more.
    assert (name, chosen.images, chosen.edits) == ("young.png", 1, 1)
    assert select(backlog, Limit(images=2), Balance.of(EVEN), frowns_wanted).edits == 3


def test_many_keys_are_placed_apart() -> None:
    values = np.array([[1, 2], [2, -1], [1, 3], [-1, -1]])
    assert module._new_ones(values).tolist() == [2, 2, 3, 3]
