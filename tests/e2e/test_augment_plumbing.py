"""Scheduled augmentations on a local Ray with fake operations: budgets, deaths, overlaps, balance; each verified."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import augment as module
from pipeline.ask_records import Ask
from pipeline.augment import Augmentation, Job, augment
from pipeline.increments import Increment, open_increments
from pipeline.ledger import FingerprintError, Ledger
from pipeline.manifest import write_manifest
from pipeline.placement import Cluster
from pipeline.recipe import RecipeError, parse_recipe
from pipeline.storage import in_threads, open_store
from pipeline.verify import verify_output
from tests.conftest import PngMaker
from tests.fakes import fake_operations
from tests.faults.driver import kill_after_first_part, start_driver
from tests.views import view_at

SMILES = [{"attribute": "smile", "target": target, "strengths": [1]} for target in ("broad", "frown")]
TWO_CPUS = Cluster(2)

pytestmark = pytest.mark.usefixtures("ray_two_cpus")


def put_images(root: str, indices: range, png: PngMaker) -> None:
    store = open_store(f"{root}/in")
    in_threads(lambda index: store.write(f"{index:03d}.png", png(index)), indices)


def recipe_of(root: str, wanted: dict[str, Any], **changes: Any) -> dict[str, Any]:
    neutral = {"input": {"path": f"{root}/in"}, "output": f"{root}/out", "model": "fake", "captioner": "fake"}
    return {**neutral, "edits": SMILES, "batch": 4, "augment": wanted, **changes}


def job_of(root: str, date: str, wanted: dict[str, Any], cluster: Cluster = TWO_CPUS, **changes: Any) -> Job:
    return Job(parse_recipe(recipe_of(root, wanted, **changes)), fake_operations(), date, lambda: cluster)


def run(root: str, date: str, wanted: dict[str, Any], **changes: Any) -> Augmentation:
    """An augmentation after which storage holds what was asked, and no selection is open."""
    told = augment(job_of(root, date, wanted, **changes))
    (checked,) = verify_output(f"{root}/out")
    assert (told.problem, checked.check.problems) == (None, {})
    assert open_increments(open_store(f"{root}/out"), told.fingerprint) == []
    return told


def by_date(root: str) -> dict[str, int]:
    dates = view_at(f"{root}/out").edits["partition"].to_pylist()
    return {date: dates.count(date) for date in sorted(set(dates))}


def test_a_budget_is_of_a_date_and_what_is_left_over_waits(tmp_path: Path, png: PngMaker) -> None:
    root, budget = str(tmp_path), {"budget": {"edits": 6}}
    put_images(root, range(4), png)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    os.utime(tmp_path / "in" / "broken.png", (0, 0))
    first = run(root, "2030-01-01", budget)
    assert (first.new_images, first.new_edits, first.edits, first.spent.edits) == (5, 10, 6, 6)
    (failed,) = set(view_at(f"{root}/out").failures["stage"].to_pylist())
    assert failed == "load"  # the oldest came first

    # A death before the end was recorded leaves it open; then nothing of it is left, nor of the budget.
    (done,) = (key for key in open_store(root).keys("out/augment") if key.endswith(".done.json"))
    open_store(root).delete(done)
    again = run(root, "2030-01-01", budget)
    assert (again.completed, again.new_edits, again.edits, again.increment) == ((first.increment,), 4, 0, None)
    assert again.runs[0].new_edits == 0

    put_images(root, range(4, 5), png)
    second = run(root, "2030-01-02", budget)
    assert (second.new_edits, second.edits) == (6, 6)
    nothing = run(root, "2030-01-02", budget)
    assert (nothing.new_edits, nothing.edits) == (0, 0)
    assert by_date(root) == {"2030-01-01": 4, "2030-01-02": 6}
    failures = augment(replace(job_of(root, "2030-01-02", budget), retry_failed=True))
    assert (failures.new_edits, failures.edits) == (2, 0)  # these are new again, and the budget is used up
    for image in (tmp_path / "in").iterdir():
        image.unlink()
    assert run(root, "2030-01-04", budget).new_edits == 0  # an emptied source has nothing new either


class Killed(BaseException):
    """Stands for a process that dies."""


def dies(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize(("owner", "recorded"), [(Increment, False), (Ask, True)])
def test_a_death_before_a_record_is_mended_by_the_next_run(
    tmp_path: Path, png: PngMaker, owner: type, recorded: bool
) -> None:
    root, budget = str(tmp_path), {"budget": {"images": 2}}
    put_images(root, range(3), png)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, "record", dies)
        augment(job_of(root, "2030-01-01", budget))
    told = run(root, "2030-01-02", budget)
    if recorded:  # first what was taken, under its own date; then of the rest
        assert (len(told.completed), told.images) == (1, 1)
        assert by_date(root) == {"2030-01-01": 4, "2030-01-02": 2}
    else:
        assert (told.completed, told.images) == ((), 2)
        assert by_date(root) == {"2030-01-02": 4}


@pytest.mark.slow
def test_a_killed_driver_is_completed_and_its_budget_is_spent_once(tmp_path: Path, png: PngMaker) -> None:
    root, budget = str(tmp_path), {"budget": {"images": 64}}  # blocks for two rounds of both actors
    put_images(root, range(70), png)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(root, budget)))
    output = open_store(f"{root}/out")
    driver = start_driver(recipe, 0.2, date="2030-01-01")
    kill_after_first_part(driver, output)
    put_images(root, range(70, 72), png)
    assert 0 < len(view_at(output.root).edits) < 128
    told = run(root, "2030-01-01", budget)
    assert (len(told.completed), told.images, told.spent.images) == (1, 0, 64)
    assert by_date(root) == {"2030-01-01": 128}
    assert told.new_images == 8  # six that waited, and two that came


@pytest.mark.parametrize("before", [True, False])
def test_runs_that_overlap_take_one_selection(
    tmp_path: Path, png: PngMaker, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    root, budget = str(tmp_path), {"budget": {"images": 2}}
    put_images(root, range(3), png)
    others: list[Augmentation] = []
    record = Increment.record

    def record_while_another_runs(its: Increment, store: Any) -> None:
        monkeypatch.setattr(Increment, "record", record)
        if not before:
            record(its, store)
        others.append(augment(job_of(root, "2030-01-01", budget)))
        record(its, store)

    monkeypatch.setattr(Increment, "record", record_while_another_runs)
    told = run(root, "2030-01-01", budget)
    assert (told.images, others[0].spent.images, told.spent.images) == (2, 2, 2)
    assert (told.runs[0].new_edits, others[0].runs[0].new_edits) == (0, 4)
    assert by_date(root) == {"2030-01-01": 4}


@pytest.mark.parametrize(("others_budget", "left"), [(2, 0), (1, 1)])
def test_a_run_that_was_overtaken_takes_what_the_other_left_of_the_budget(
    tmp_path: Path, png: PngMaker, monkeypatch: pytest.MonkeyPatch, others_budget: int, left: int
) -> None:
    root, budget = str(tmp_path), {"budget": {"images": 2}}
    put_images(root, range(1, 4), png)

    def write_while_the_source_changes_and_another_runs(*arguments: Any) -> Any:
        monkeypatch.setattr(module, "write_manifest", write_manifest)
        put_images(root, range(1), png)
        os.utime(tmp_path / "in" / "000.png", (0, 0))  # comes first, so the other selects something else
        augment(job_of(root, "2030-01-01", {"budget": {"images": others_budget}}))
        return write_manifest(*arguments)

    monkeypatch.setattr(module, "write_manifest", write_while_the_source_changes_and_another_runs)
    told = run(root, "2030-01-01", budget)
    assert (told.images, told.spent.images) == (left, 2)
    assert (told.increment is None) == (left == 0)
    assert by_date(root) == {"2030-01-01": 4}


def test_failures_that_are_taken_again_cost_the_dates_budget_again(tmp_path: Path, png: PngMaker) -> None:
    root, budget = str(tmp_path), {"budget": {"edits": 5}}
    put_images(root, range(1), png)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")

    def again(date: str) -> Augmentation:
        return augment(replace(job_of(root, date, budget, max_failure_fraction=1), retry_failed=True))

    first = again("2030-01-01")
    assert (first.edits, first.spent.edits) == (4, 4)
    second = again("2030-01-01")  # both failed edits are new again, and the budget lets one through
    assert (second.new_edits, second.edits, second.spent.edits) == (2, 1, 5)
    third, fourth = again("2030-01-02"), again("2030-01-02")
    assert (third.edits, fourth.edits, fourth.spent.edits) == (2, 2, 4)
    assert str(fourth.increment) == str(third.increment).replace(".json", "-2.json")


def test_other_settings_are_augmented_beside(tmp_path: Path, png: PngMaker) -> None:
    root = str(tmp_path)
    put_images(root, range(2), png)
    first = run(root, "2030-01-01", {})
    changed = replace(job_of(root, "2030-01-02", {"budget": {"images": 1}}), operations=fake_operations(revision="2"))
    with pytest.raises(FingerprintError, match="--new-run"):
        augment(changed)
    told = [augment(replace(changed, date=f"2030-01-0{day}", new_run=True)) for day in (2, 2, 3, 4)]
    assert [(its.new_images, its.images) for its in told] == [(2, 1), (1, 0), (1, 1), (0, 0)]
    assert told[0].increment and told[0].output != first.output
    checked = verify_output(f"{root}/out")
    assert [one.check.problems for one in checked] == [{}, {}]
    kept = Ledger(open_store(told[0].output), told[0].fingerprint).read().edits["partition"].to_pylist()
    assert sorted(kept) == ["2030-01-02"] * 2 + ["2030-01-03"] * 2
    assert by_date(root) == {"2030-01-01": 4}


def test_a_balance_is_approached_and_told(tmp_path: Path, png: PngMaker) -> None:
    root = str(tmp_path)
    put_images(root, range(8), png)
    run(root, "2030-01-01", {"budget": {"images": 3}}, edits=SMILES[:1])
    balanced = {"budget": {"edits": 4}, "balance": {"smile": {"broad": 1, "frown": 1}}}
    told = run(root, "2030-01-02", balanced)
    smiles = {"broad": {"wanted": 0.5, "before": 3, "after": 4}, "frown": {"wanted": 0.5, "before": 0, "after": 3}}
    assert told.balance == {"smile": smiles}


def test_gpu_hours_are_counted_by_the_plans_arithmetic(tmp_path: Path, png: PngMaker) -> None:
    root, gpus = str(tmp_path), Cluster(8, 1)
    put_images(root, range(12), png)

    def hours(limit: float, date: str, cluster: Cluster = gpus) -> Augmentation:
        return run(root, date, {"budget": {"gpu_hours": limit}}, cluster=cluster)

    with pytest.raises(RecipeError, match=r"how long an edit takes is not known.*--calibrate"):
        hours(1.0, "2030-01-01")
    run(root, "2030-01-01", {"budget": {"images": 2}})
    with pytest.raises(RecipeError, match="no GPU works"):
        hours(1.0, "2030-01-02", Cluster(8))
    with pytest.raises(RecipeError, match="less than a single edit takes"):
        hours(1e-12, "2030-01-02")
    told = hours(1000.0, "2030-01-02")
    assert (told.images, told.edits) == (10, 20)
    assert 0 < told.spent.gpu_hours < 1000
    assert hours(1000.0, "2030-01-02", Cluster(8)).new_edits == 0  # where nothing is new no GPU is missed


def test_what_a_date_took_under_another_budget_is_priced(
    tmp_path: Path, png: PngMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    put_images(root, range(4), png)
    monkeypatch.setattr(module, "gpu_hours_of", lambda *_: lambda work: float(work.edits))
    assert run(root, "2030-01-01", {"budget": {"images": 2}}).spent.gpu_hours == 0
    told = run(root, "2030-01-01", {"budget": {"gpu_hours": 5.5}})
    assert (told.edits, told.spent.gpu_hours) == (1, 5)
    again = run(root, "2030-01-01", {"budget": {"gpu_hours": 5.5}})
    assert (again.new_edits, again.edits, again.spent.gpu_hours) == (3, 0, 5)


def test_a_source_that_never_had_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no images"):
        augment(job_of(str(tmp_path), "2030-01-01", {}))
    assert not (tmp_path / "out").exists()


def test_a_listing_that_is_gone_is_told_with_the_mend(tmp_path: Path, png: PngMaker) -> None:
    root = str(tmp_path)
    put_images(root, range(1), png)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Ask, "record", dies)
        augment(job_of(root, "2030-01-01", {}))
    for key in open_store(f"{root}/out").keys("manifest"):
        open_store(f"{root}/out").delete(key)
    with pytest.raises(RecipeError, match=r"index\.json is not there.*remove that record"):
        augment(job_of(root, "2030-01-01", {}))
