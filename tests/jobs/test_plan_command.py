import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app


def recipe_in(folder: Path) -> str:
    (folder / "in").mkdir()
    for index in range(3):
        Image.new("RGB", (64, 64), (index, 0, 0)).save(folder / "in" / f"{index}.png")
    edits = [{"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]}]
    keys = {"input": {"path": str(folder / "in")}, "output": str(folder / "out"), "model": "mini-dit", "edits": edits}
    (folder / "r.yaml").write_text(yaml.safe_dump(keys))
    return str(folder / "r.yaml")


def test_a_plan_is_told_without_weights_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eim_ops import named_models

    monkeypatch.setattr(named_models, "load_backbone", None)  # no weights are loaded
    recipe = recipe_in(tmp_path)
    result = CliRunner().invoke(app, ["plan", recipe, "--cpus", "64", "--gpus", "8"])
    assert result.exit_code == 0, result.output
    for line in (
        "6: 0 done, 0 failed, 6 left",
        "3 x (11 encode + 4 source of directions)",
        "unknown: use --calibrate N",
        "6 edit x (1 CPU, 1 GPU",
    ):
        assert line in result.output
    assert not (tmp_path / "out").exists()

    told = json.loads(CliRunner().invoke(app, ["plan", recipe, "--json", "--cpus", "2"]).stdout)
    assert (told["account"]["left"], told["evaluations"], told["time"]) == (6, 3 * 11 + 3 * 8 + 6 * 11, None)


def test_what_edits_of_their_sources_sizes_will_weigh_is_not_known(tmp_path: Path) -> None:
    recipe = Path(recipe_in(tmp_path))
    recipe.write_text(recipe.read_text() + "output_size: source\n")
    told = CliRunner().invoke(app, ["plan", str(recipe), "--cpus", "2"]).output
    assert "unknown, of the sources' sizes: use --calibrate N" in " ".join(told.split())
    assert "64 x 64 px; stored at the source's" in told


def test_workers_are_printed_for_kubernetes(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", recipe_in(tmp_path), "--k8s", "--cpus", "35", "--gpus", "4"])
    patch = yaml.safe_load(yaml.safe_load(result.stdout)["patches"][0]["patch"])
    replicas = [its["value"] for its in patch if its["path"].endswith("/replicas")]
    assert replicas == [1, 1, 3]


def test_gpus_without_cpus_an_address_beside_them_and_a_wrong_recipe_are_refused(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    result = CliRunner().invoke(app, ["plan", recipe, "--gpus", "2"])
    assert (result.exit_code, "give --cpus too" in result.output) == (2, True)
    result = CliRunner().invoke(app, ["plan", recipe, "--cpus", "2", "--address", "ray://head:10001"])
    assert (result.exit_code, "--address: a cluster that is there" in result.output) == (2, True)
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "none.yaml")])
    assert (result.exit_code, "no such recipe" in result.output) == (2, True)
