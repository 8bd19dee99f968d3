import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from jobs import augment
from jobs.cli import app
from pipeline.augment import Augmentation, Spent
from pipeline.recipe import load_recipe
from tests.fakes import fake_operations
from tests.pipeline.builders import make_recipe, start_job

BUDGET: dict[str, Any] = {"augment": {"budget": {"edits": 9}}}


def shown(**changes: Any) -> str:
    neutral: dict[str, Any] = {
        **{"output": "out", "date": "2030-01-01", "fingerprint": "f", "completed": (), "increment": None, "runs": ()},
        **{"new_images": 0, "new_edits": 0, "images": 0, "edits": 0, "spent": Spent(edits=6), "balance": {}},
    }
    text = io.StringIO()
    told = Augmentation(**{**neutral, "problem": None, **changes})
    augment.show_augmentation(told, make_recipe(**BUDGET), Console(file=text, width=200))
    return text.getvalue()


def test_what_was_taken_and_what_waits_is_said() -> None:
    assert "nothing new: every edit that is asked of the source is there" in shown()
    new = {"new_images": 5, "new_edits": 10}
    taken = shown(**new, images=3, edits=6, increment="augment/date=2030-01-01/a.json")
    # The record without a run stands for one that was worked on.
    assert "5 images with 10 edits are new; took 3 images with 6 edits; 4 edits wait for a later run" in taken
    assert "budget of the date: 6 of 9 edits" in taken
    assert "took nothing, since the budget of the date is used up" in shown(**new)
    assert "had taken: augment/date=2029-12-31/b.json" in shown(completed=("augment/date=2029-12-31/b.json",))
    smiles = {
        "broad smile": {"wanted": 0.25, "before": 0, "after": 1},
        "frown": {"wanted": 0.75, "before": 0, "after": 3},
    }
    table = shown(balance={"smile": smiles})
    assert "75.0%" in table and "3 (75.0%)" in table


@pytest.mark.parametrize("date", ["2030-1-1", "20300101", "2030-02-30", "today"])
def test_a_date_that_is_none_is_refused(tmp_path: Path, date: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"input": {"path": "in"}, "output": "out", "model": "mini-dit", "edits": SMILES}))
    result = CliRunner().invoke(app, ["augment", str(recipe), "--date", date])
    assert (result.exit_code, f"--date: given '{date}'; give a date as 2030-01-31" in result.output) == (2, True)


SMILES = [{"attribute": "smile", "target": "broad smile", "strengths": [1]}]


def test_nothing_new_is_a_clean_end_that_says_so_and_writes_nothing(root: str, capsys: pytest.CaptureFixture) -> None:
    job = start_job(root, 2, **BUDGET)
    job.write(job.samples)
    keys = job.output.keys("")
    augment.run(job.recipe, "2030-01-01", operations=fake_operations())
    assert "2030-01-01: nothing new" in capsys.readouterr().out
    augment.run(job.recipe, "2030-01-01", as_json=True, operations=fake_operations())
    told = json.loads(capsys.readouterr().out)
    assert (told["new_edits"], told["increment"], told["problem"]) == (0, None, None)
    assert job.output.keys("") == keys


def test_other_settings_and_a_wrong_path_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    job = start_job(str(tmp_path), 1)
    keys = job.output.keys("")
    for recipe, told in (
        (job.recipe, "model_revision: there 'fake-1', now 'fake-2'"),
        (make_recipe(input={"path": str(tmp_path / "none")}, output=str(tmp_path / "fresh")), "no images"),
    ):
        with pytest.raises(typer.Exit) as ended:
            augment.run(recipe, "2030-01-01", operations=fake_operations(revision="fake-2"))
        assert ended.value.exit_code == 2
        assert told in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "fresh").exists()
    assert job.output.keys("") == keys


def test_the_example_is_right() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "examples" / "augment.yaml")
    assert recipe.augment.budget is not None
    assert recipe.augment.balance == {"smile": {"broad smile": 1, "deep frown": 3}}
