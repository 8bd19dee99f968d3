"""The whole benchmark at a small size: real models, real Ray."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eim_ops.bench.cases import draw_cases, sources, truths
from eim_ops.bench.contenders import CEILING, UNEDITED, Contender, ours
from eim_ops.bench.summary import tabulate
from eim_ops.faces.grammar import parse
from eim_ops.method import Method
from eim_ops.peers.flowedit import FlowEditSettings
from pipeline.bench import reports, run
from pipeline.bench.run import Row
from pipeline.bench.spec import HEADLINE, Models
from pipeline.storage import Store, open_store

CASES, TUNED = 5, 3
STRENGTHS = (0.0, 0.5, 1.0)
CONTENDERS = [
    CEILING,
    UNEDITED,
    *(replace(c, strengths=STRENGTHS) for c in ours(Method(steps=2, draws=1)) if c.name in ("eim", "text_half")),
    Contender("flowedit last=2", "flowedit", FlowEditSettings(steps=3, last=2)),
]


@dataclass(frozen=True)
class Done:
    """A run that was stopped after three contenders and gone on with: what the store held then, and what was run."""

    store: Store
    summary: dict[str, Any]
    rows_before: dict[str, bytes]
    run_after: list[str]


@pytest.fixture(scope="module")
def done(ray_two_cpus: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    store = open_store(str(tmp_path_factory.mktemp("bench")))
    report(store, CONTENDERS[:3])
    before, streamed = {key: store.read(key) for key in store.keys("rows")}, run._streamed
    after: list[str] = []

    def noted(stage: type, its_store: Store, work: Sequence[Any], *rest: Any) -> Any:
        after.extend(unit.contender.name for unit in work)
        return streamed(stage, its_store, work, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_streamed", noted)
        return Done(store, report(store), before, after)


def report(store: Store, contenders: Sequence[Contender] = CONTENDERS) -> dict[str, Any]:
    return reports.run_report(store, HEADLINE, reports.find_models("mini-dit"), 2, contenders, CASES, TUNED)


def test_every_case_method_and_strength_has_one_row(done: Done) -> None:
    rows = pq.read_table(io.BytesIO(done.store.read("correlated-vlm/rows.parquet"))).to_pylist()
    keys = [(row["method"], row["case"], row["strength"]) for row in rows]
    assert sorted(keys) == sorted((c.name, n, s) for c in CONTENDERS for n in range(CASES) for s in c.strengths)
    at_zero = [row for row in rows if row["method"] == "eim" and row["strength"] == 0]
    assert max(row["off_target"] for row in at_zero) < 0.01, "strength 0 is the source"


def test_the_figures_are_in_the_summary_and_the_pictures_on_the_page(done: Done) -> None:
    store, summary = done.store, done.summary
    assert json.loads(store.read("correlated-vlm/summary.json"))["methods"] == summary["methods"]
    figures = summary["methods"]["eim"]
    assert set(figures) == {
        "success", "kept", "on_target", "off_target", "psnr_true", "nfe_per_edit", "seconds_per_edit",
    }  # fmt: skip
    ceiling, unedited = summary["methods"]["ceiling"], summary["methods"]["unedited"]
    assert ceiling["psnr_true"] > figures["psnr_true"] > unedited["psnr_true"] - 3
    page = store.read("correlated-vlm/index.html").decode()
    assert summary["text_conditions"]["effectiveness"] > 0
    assert page.count('alt="eim"') == CASES and "pareto.png" in page
    for name in ("pareto", "control", "disentanglement"):
        assert Image.open(io.BytesIO(store.read(f"correlated-vlm/{name}.png"))).width > 300
        assert b"<svg" in store.read(f"correlated-vlm/{name}.svg")[:2000]


def test_a_second_run_measures_nothing_and_says_the_same(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.bench.run._streamed", lambda *_: pytest.fail("there is nothing left to run"))
    store, summary = done.store, done.summary
    assert json.dumps(report(store)) == json.dumps(summary)


def test_a_stopped_run_is_completed_and_keeps_what_it_had(done: Done) -> None:
    assert done.run_after == [contender.name for contender in CONTENDERS[3:]]
    assert len(done.rows_before) == 3
    assert {key: done.store.read(key) for key in done.rows_before} == done.rows_before


def test_the_summary_is_of_all_reports_that_were_run_the_headline_first(done: Done, tmp_path: Path) -> None:
    models, store = reports.find_models("mini-dit"), open_store(str(tmp_path))
    one = {"models": asdict(models), "methods": {}, "eim": {"success": 0.5}}
    for name, its in (
        ("independent-truth", one),
        ("correlated-truth", {**one, "models": asdict(replace(models, judge_revision="another"))}),
        (HEADLINE.name, done.summary),
    ):
        store.write(f"{name}/summary.json", json.dumps(its).encode())
    reports.write_summary(store, models)
    written = json.loads(store.read("summary.json"))
    assert list(written["reports"]) == [HEADLINE.name, "independent-truth"]
    assert written["methods"] == done.summary["methods"] and written["tuning_cases"] == TUNED
    assert written["eim"].keys() == {
        "success", "kept", "off_target_ratio_to_best_peer", "psnr_gain_over_best_peer_db", "pearson_r_median",
        "triangle_deficit_mean", "hsds_over_dds_image_half", "hsds_over_dds_joint", "hsds_accepted",
        "nfe_ratio_to_flowedit",
    }  # fmt: skip


def test_peers_are_tuned_on_tuning_cases_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(reports, "write_cases", lambda _, chunks, *__: asked.extend(its.split for its in chunks))
    monkeypatch.setattr(reports, "measure_units", lambda _, units, *__: asked.extend(its.cases.split for its in units))
    reports.tune(open_store(str(tmp_path)), reports.find_models("mini-dit"), 1, CONTENDERS)
    assert set(asked) == {"tuning"} and len(asked) > len(CONTENDERS)


GRID = [Contender(f"flowedit last={n}", "flowedit", FlowEditSettings(steps=3, last=n)) for n in (1, 2, 3)]


def tuned(store: Store, models: Models) -> list[str]:
    """Three settings as they did in tuning: the first hardly edits."""
    rows = [
        {"method": its.name, "family": its.family, "strength": 1.0, "success": success, "kept": 1.0,
         "on_target": success, "off_target": 0.1, "psnr_true": 30 - success, "evaluations": 2, "seconds": 0.1}
        for its, success in zip(GRID, (0.1, 0.5, 0.9), strict=True)
    ]  # fmt: skip
    return reports.write_tuning(store, models, GRID, tabulate(rows))


def test_a_later_run_takes_the_settings_that_an_earlier_one_tuned(tmp_path: Path) -> None:
    store, models = open_store(str(tmp_path)), Models("mini-dit", "a", "b", "c")
    chosen = tuned(store, models)
    assert chosen and GRID[0].name not in chosen
    known = reports.read_tuning(store.read("tuning.json"), models, GRID)
    assert list(known.families) == [its.name for its in GRID]
    assert reports.write_tuning(store, models, GRID, known) == chosen


def test_of_an_earlier_tuning_only_settings_that_are_the_same_count(tmp_path: Path) -> None:
    store, models = open_store(str(tmp_path)), Models("mini-dit", "a", "b", "c")
    tuned(store, models)
    other = replace(GRID[0], settings=FlowEditSettings(steps=4, last=1))
    new = replace(GRID[0], name="flowedit last=4", settings=FlowEditSettings(steps=4, last=4))
    known = reports.read_tuning(store.read("tuning.json"), models, [other, GRID[1], new])
    assert [name for name, _ in known.figures] == [*known.families] == [GRID[1].name]


def test_a_tuning_of_other_models_is_refused(tmp_path: Path) -> None:
    store, models = open_store(str(tmp_path)), Models("mini-dit", "a", "b", "c")
    tuned(store, models)
    text = store.read("tuning.json")
    with pytest.raises(ValueError, match="was tuned with other models"):
        reports.read_tuning(text, replace(models, judge_revision="another"), GRID)


def test_the_dataset_loads_with_its_images_requests_and_truths(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "TUNING_CASES", 2)
    store = done.store
    reports.write_dataset(store, reports.find_models("mini-dit"), 2, ["correlated"], CASES)
    loaded = datasets.load_dataset(f"{store.root}/dataset", "correlated", cache_dir=str(tmp_path))
    assert {split: len(loaded[split]) for split in loaded} == {"test": CASES, "tuning": 2}
    cases = draw_cases(CASES, "correlated", "test")
    assert (np.stack([np.asarray(image) for image in loaded["test"]["image"]]) == sources(cases)).all()
    assert (np.stack([np.asarray(image) for image in loaded["test"]["true_image"]]) == truths(cases)).all()
    assert list(loaded["test"]["request"]) == [case.request for case in cases]
    assert all(parse(prompt) for prompt in loaded["test"]["vlm_source_prompt"])


def row(
    method: str, family: str, success: float, psnr: float, on_target: float, off_target: float, evaluations: float = 9
) -> Row:
    return {
        "method": method, "family": family, "strength": 1.0, "success": success, "psnr_true": psnr, "kept": 1.0,
        "on_target": on_target, "off_target": off_target, "evaluations": evaluations, "seconds": 1.0,
    }  # fmt: skip


def test_a_peer_is_reported_at_its_own_best_settings() -> None:
    rows = [
        row("a weak", "a", 0.1, 40, 0.1, 0.0),
        row("a good", "a", 0.8, 30, 1.0, 0.1),
        row("a strong", "a", 0.9, 25, 1.2, 0.3),
        row("a bettered", "a", 0.7, 26, 0.9, 0.2),
        row("a cheap", "a", 0.79, 29, 0.9, 0.2, evaluations=3),
        row("b only", "b", 0.2, 20, 0.3, 0.9),
    ]
    assert reports.best_settings(tabulate(rows)) == ["a good", "a strong", "a cheap", "b only"]
