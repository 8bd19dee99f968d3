"""`python -m tests.faults`: what is told of each scenario, and how the command ends."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.faults import __main__ as command
from tests.faults.device_scenarios import EXPECTED
from tests.faults.outcome import NotPossible, Outcome

Run = Callable[..., tuple[int, dict[str, Any]]]


def found(**changes: Any) -> Outcome:
    counts = {"asked": 4, "edits": 3, "failures": 1, "lost": 0, "doubled": 0, "repeated_rows": 0, "orphans": 0}
    return Outcome(**{"fault": "f", "kills": 1, **counts, **changes})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on these scenarios: its exit code, and its report."""
    app = typer.Typer()
    app.command()(command.main)

    def call(scenarios: dict[str, Outcome | Exception], *options: str) -> tuple[int, dict[str, Any]]:
        def of(came_to: Outcome | Exception) -> Callable[[Path], Outcome]:
            def scenario(_: Path) -> Outcome:
                if isinstance(came_to, Exception):
                    raise came_to
                return came_to

            return scenario

        all_of_them: Sequence[command.Scenario] = [(name, of(came_to)) for name, came_to in scenarios.items()]
        monkeypatch.setattr(command, "_all_scenarios", lambda *_: iter(all_of_them))
        ended = CliRunner().invoke(app, ["--out", str(tmp_path), *options])
        return ended.exit_code, json.loads((tmp_path / "faults.json").read_text())

    return call


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lost": 1}, "1 lost, 0 doubled"),
        ({"doubled": 2}, "0 lost, 2 doubled"),
        ({"failures": 0}, "3 edits + 0 failures of 4 asked"),
    ],
)
def test_a_scenario_that_lost_doubled_or_forgot_rows_is_told_and_the_others_go_on(
    changes: dict[str, int], told: str, run: Run
) -> None:
    code, report = run({"bad": found(**changes), "good": found()})
    assert code == 1
    bad, good = report["faults"]
    assert bad["outcome"].startswith("failed: ") and told in bad["outcome"]
    assert bad["kills"] == 1, "what was counted is told, too"
    assert good["outcome"] == "held"
    assert (report["lost"], report["doubled"]) == (changes.get("lost", 0), changes.get("doubled", 0))


def test_a_scenario_that_raises_is_told_and_the_others_go_on(run: Run) -> None:
    code, report = run({"bad": AssertionError("nothing was killed"), "good": found()})
    assert (code, [fault["outcome"] for fault in report["faults"]]) == (
        1,
        ["failed: AssertionError: nothing was killed", "held"],
    )


def test_a_device_scenario_is_held_to_what_is_expected_of_it(run: Run) -> None:
    edits, failures, note = EXPECTED["poison-edit"]
    good = found(asked=16, edits=edits, failures=failures, note=note)
    assert run({"poison-edit": good})[0] == 0
    code, report = run({"poison-edit": found(asked=16, edits=16, failures=0, note=note)})
    assert code == 1 and "not to (14, 2," in report["faults"][0]["outcome"]


def test_what_this_machine_cannot_do_is_told_and_no_failure(run: Run) -> None:
    code, report = run({"a partition": NotPossible("ip is not there")})
    assert (code, report["faults"][0]["outcome"]) == (0, "not possible on this machine: ip is not there")


def test_repeated_rows_are_the_most_that_were_made_again_or_stored_twice(run: Run) -> None:
    _, report = run({"one": found(made_again=5, repeated_rows=1), "two": found(repeated_rows=7), "three": found()})
    assert (report["repeated_rows_max"], report["kills"]) == (7, 3)


def test_a_call_for_other_scenarios_keeps_the_soak_and_what_was_found(tmp_path: Path, run: Run) -> None:
    (tmp_path / "soak").mkdir()
    run({"poison": found(), "other": found()}, "--only", "poison")
    _, report = run({"poison": found(), "other": found()}, "--only", "other")
    assert [fault["name"] for fault in report["faults"]] == ["poison", "other"]
    assert (tmp_path / "soak").exists()
    run({"kills at random": found()}, "--only", "random")
    assert not (tmp_path / "soak").exists()


def test_what_held_is_left_out_of_a_call_that_resumes(run: Run) -> None:
    run({"one": found(), "two": AssertionError("no")})
    code, report = run({"one": AssertionError("run again"), "two": found()}, "--resume")
    assert (code, [fault["outcome"] for fault in report["faults"]]) == (0, ["held", "held"])
