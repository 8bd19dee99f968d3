"""Whole jobs with rows, devices, models and signals that fail: nothing is lost or doubled, and the job says so."""

from pathlib import Path

import pytest

from tests.faults.device_scenarios import EXPECTED, SCENARIOS
from tests.faults.outcome import Outcome


@pytest.mark.slow
@pytest.mark.usefixtures("ray_for_drivers")
@pytest.mark.parametrize("name", [name for name, _ in SCENARIOS])
def test_all_is_accounted_for_after(name: str, tmp_path: Path) -> None:
    scenario = dict(SCENARIOS)[name]
    result: Outcome = scenario(tmp_path)
    result.check(EXPECTED[name])
