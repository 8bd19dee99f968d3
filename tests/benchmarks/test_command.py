"""`python -m benchmarks`: goes on where it stopped; one job in miniature behind the figures."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks.figure import Figure, Figures
from benchmarks.runs import blots, edits, run_pipeline
from benchmarks.sizes import QUICK, Sizes


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(command.main)
    return made


def test_a_measurement_that_is_there_is_not_made_again(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Sizes] = []

    def measure(folder: Path, sizes: Sizes) -> Figures:
        made.append(sizes)
        return {"speed": Figure(float(len(made)), "counted", 2.0)}

    monkeypatch.setattr(command, "MEASUREMENTS", {"one": measure, "two": lambda *_: {"other": Figure(5.0, "given")}})
    arguments = ["--out", str(tmp_path), "--quick"]
    for _ in range(2):
        result = CliRunner().invoke(app, [*arguments, "--only", "one"])
        assert result.exit_code == 0, result.output
    assert made == [QUICK]
    CliRunner().invoke(app, arguments)
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["quick"] is True
    assert {key: its["value"] for key, its in written["figures"].items()} == {"speed": 1.0, "other": 5.0}
    assert written["figures"]["speed"]["met"] is False
    assert (tmp_path / "bench.md").read_text().count("\n") == 4


def test_an_unknown_measurement_is_refused_with_those_that_there_are(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), "--only", "sped"])
    assert result.exit_code == 2
    assert "sped" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_job_of_stubs_makes_every_edit_and_tells_its_clock_its_memory_and_what_it_spilled(tmp_path: Path) -> None:
    run = run_pipeline(
        tmp_path, "stub", blots(tmp_path, 8), edits(1, [0.5, 1.0]), "--stub=0.001", "--together", "--cpus=2"
    )
    assert (run.result["edits"], run.result["left"], run.result["spilled_bytes"]) == (16, 0, 0)
    assert len(run.events["loaded"]) == 2
    assert 0 < run.warm < run.seconds
    assert run.peaks.driver_rss > run.peaks.driver_private > 20
    assert run.peaks.worker_rss > run.peaks.worker_private > 20
    assert run.peaks.tree_rss > run.peaks.driver_rss
    assert len([event for event in run.events if event.startswith("editor-on-")]) == 1
