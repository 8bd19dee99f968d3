from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eim_ops.bench.peer_grid import peer_grid
from eim_ops.bench.summary import Table
from eim_ops.peers.peer import PEERS
from jobs import evaluate
from jobs.cli import app
from pipeline.bench import reports
from pipeline.storage import open_store


@pytest.mark.parametrize("name", ["correlated", "nope"])
def test_an_unknown_report_is_refused_with_those_that_there_are(name: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", "bench", "--out", "unused", "--report", name])
    assert result.exit_code == 2
    assert name in result.output and "independent-truth" in result.output.replace("\n", "")


def test_an_unknown_peer_is_refused_with_those_that_there_are() -> None:
    result = CliRunner().invoke(app, ["evaluate", "bench", "--out", "unused", "--peer", "p2p"])
    assert result.exit_code == 2
    assert "p2p" in result.output and "rf_inversion" in result.output.replace("\n", "")


@pytest.mark.parametrize("text", [None, "[]", '{"models": {}, "tuning_cases": 64, "settings": {}}'])
def test_a_tuning_that_is_none_of_these_models_is_refused_before_anything_starts(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_connect", lambda _: pytest.fail("it has begun"))
    file = tmp_path / "tuning.json"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("COLUMNS", "400")  # paths are not broken then
    result = CliRunner().invoke(app, ["evaluate", "bench", "--out", str(tmp_path), "--known", str(tmp_path)])
    assert result.exit_code == 2
    assert "tuning.json" in result.output


@pytest.mark.parametrize("peers", [[], ["flowedit"], ["sdedit", "dds"]])
def test_a_quick_run_has_the_peers_asked_for_or_all_and_leaves_a_full_runs_reports_alone(
    peers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def noted(*given: Any) -> dict[str, Any]:
        asked.append(given)
        return {}

    monkeypatch.setattr(evaluate, "_connect", lambda _: 1)
    monkeypatch.setattr(evaluate, "_show", lambda *_: None)
    monkeypatch.setattr(reports, "run_report", noted)
    monkeypatch.setattr(reports, "write_summary", lambda *_: None)
    options = [word for peer in peers for word in ("--peer", peer)]
    result = CliRunner().invoke(app, ["evaluate", "bench", "--out", str(tmp_path), "--quick", *options])
    assert result.exit_code == 0, result.output
    ((store, report, _, _, contenders, _, tuning_cases),) = asked
    assert (store.root, report.name, tuning_cases) == (f"{tmp_path}/quick", "correlated-vlm", 0)
    assert {contender.family for contender in contenders} == {"eim", "round_trip", *(peers or PEERS)}
    assert {contender.strengths for contender in contenders} == {(1.0,)}


def test_a_run_with_one_peer_keeps_what_is_known_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def noted(*given: Any) -> dict[str, Any]:
        asked.append(given)
        return {}

    grid, known = peer_grid(), tmp_path / "known"
    figures = {"success": 0.9, "on_target": 1.0, "off_target": 0.1, "psnr_true": 30.0, "nfe_per_edit": 28.0}
    table = Table({(its.name, 1.0): figures for its in grid}, {its.name: its.family for its in grid})
    reports.write_tuning(open_store(str(known)), reports.find_models("mini-dit"), grid, table)
    monkeypatch.setattr(evaluate, "_connect", lambda _: 1)
    monkeypatch.setattr(evaluate, "_show", lambda *_: None)
    monkeypatch.setattr(reports, "tune", lambda *_: pytest.fail("all is known"))
    monkeypatch.setattr(reports, "run_report", noted)
    monkeypatch.setattr(reports, "write_summary", lambda *_: None)
    monkeypatch.setattr(reports, "write_dataset", lambda *_: None)
    options = ["--known", str(known), "--peer", "flowedit", "--report", "correlated-vlm"]
    result = CliRunner().invoke(app, ["evaluate", "bench", "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    ((_, _, _, _, contenders, _, _),) = asked
    assert {its.family for its in contenders} == {"eim", "round_trip", "flowedit"}
    assert (tmp_path / "out" / "tuning.json").read_bytes() == (known / "tuning.json").read_bytes()


def test_a_wrong_change_of_settings_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_connect", lambda _: pytest.fail("it has begun"))
    result = CliRunner().invoke(app, ["evaluate", "settings", "--out", "unused", "--change", "stops=3"])
    assert result.exit_code == 2
    assert "'stops' is no setting of the method" in " ".join(result.output.split())
