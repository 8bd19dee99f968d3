import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.asked_edits import AskedEdit, asked_edits
from pipeline.asked_keys import asked_keys
from pipeline.edit_spec import EditSpec
from pipeline.estimate import Workload
from pipeline.manifest import _sorted
from pipeline.schema import MANIFEST, table_of
from tests.pipeline.builders import make_recipe

SMILE, HAT = ({"attribute": name, "target": name} for name in ("smile", "hat"))
BOTH = {"attribute": ["smile", "hat"], "target": ["smile", "hat"]}
lists_of_edits = st.lists(
    st.builds(lambda spec, strengths: {**spec, "strengths": strengths}, st.sampled_from((SMILE, HAT, BOTH)),
              st.lists(st.sampled_from((-1.0, 0.5, 1.0)), min_size=1, max_size=2, unique=True)),
    max_size=3,
)  # fmt: skip
maybe = lambda values: st.none() | values  # noqa: E731
rows = st.lists(
    st.fixed_dictionaries(
        {
            "sample_id": st.sampled_from("abcd"),
            "uri": st.just("u"),
            "version": st.just("v"),
            "size": st.none(),
            "source_prompt": maybe(st.sampled_from(("p", "q"))),
            "target_prompts": maybe(st.sampled_from(('{"smile": "s"}', '{"hat": "h", "smile": "s"}'))),
            "edits": maybe(lists_of_edits.filter(len).map(json.dumps)),
            "fields": maybe(st.just('{"a": "1"}')),
            "problem": maybe(st.just("E: why")),
        }
    ),
    max_size=8,
)


def asked_by_row(
    rows: Iterable[Mapping[str, Any]], recipe_edits: Sequence[EditSpec]
) -> list[tuple[Mapping[str, Any], list[AskedEdit]]]:
    """Each row with its edits, every (sample, edit) once: a later row of the same image brings only what is new."""
    seen: set[tuple[str, str]] = set()
    result = []
    for row in rows:
        fresh = [edit for edit in asked_edits(row, recipe_edits) if (row["sample_id"], edit.edit_id) not in seen]
        seen.update((row["sample_id"], edit.edit_id) for edit in fresh)
        if fresh:
            result.append((row, fresh))
    return result


def specs_of(edits: list) -> tuple[EditSpec, ...]:
    return tuple(EditSpec(**edit) for edit in edits)


def manifest_rows(values: list) -> pa.Table:
    return _sorted(table_of([{**dict.fromkeys(MANIFEST.names), **row} for row in values], MANIFEST))


@given(rows, lists_of_edits)
def test_columns_hold_what_is_asked_row_by_row(values: list, edits: list) -> None:
    table, specs = manifest_rows(values), specs_of(edits)
    asked = asked_keys(table, specs)
    naive = {index: its for index, its in naive_asked(table, specs)}
    found: dict[int, list] = {}
    for row, edit in zip(asked.row.tolist(), asked.edit.tolist(), strict=True):
        found.setdefault(row, []).append(asked.edits[edit])
    assert {row: sorted(its, key=repr) for row, its in found.items()} == {
        row: sorted(its, key=repr) for row, its in naive.items()
    }
    samples = table["sample_id"].to_pylist()
    assert asked.images == len(set(samples))
    assert asked.keys().to_pylist() == [
        f"{samples[row]}/{asked.edits[edit].edit_id}" for row, edit in zip(asked.row, asked.edit, strict=True)
    ]


def naive_asked(table: pa.Table, specs: tuple[EditSpec, ...]) -> list[tuple[int, list[AskedEdit]]]:
    numbered = [{**row, "index": index} for index, row in enumerate(table.to_pylist())]
    return [(row["index"], its) for row, its in asked_by_row(numbered, specs)]


@given(rows, lists_of_edits, st.randoms(use_true_random=False))
def test_the_workload_is_what_the_editor_counts(values: list, edits: list, chance: random.Random) -> None:
    """An image is encoded once a row, identified once for each different prompt, decoded for each edit."""
    table, specs = manifest_rows(values), specs_of(edits)
    asked = asked_keys(table, specs)
    left = np.array([chance.random() < 0.7 for _ in asked.row], bool)
    problems = table["problem"].to_pylist()
    chosen = [
        (row, asked.edits[edit])
        for row, edit, open_ in zip(asked.row.tolist(), asked.edit.tolist(), left, strict=True)
        if open_ and problems[row] is None
    ]
    pairs = {
        (row, given is None, request if given is None else given)
        for row, edit in chosen
        for given, request in zip(edit.given_prompts, edit.requests, strict=True)
    }
    assert asked.workload(left) == Workload(len({row for row, _ in chosen}), len(pairs), len(chosen))


def test_edits_of_plain_rows_are_hashed_once_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import asked_edits as module

    calls: list[object] = []
    real = module.edit_id

    def counted(*arguments: Any) -> str:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "edit_id", counted)
    table = manifest_rows([{"sample_id": f"{index:04d}", "uri": "u", "version": "v"} for index in range(500)])
    assert len(asked_keys(table, make_recipe().edits).row) == 500
    assert len(calls) == len(make_recipe().edits[0].strengths)
