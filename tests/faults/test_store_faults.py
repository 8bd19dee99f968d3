"""Whole jobs on a store that fails: nothing is lost, nothing doubled."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.outcome import NotPossible, Outcome
from tests.faults.store_scenarios import IMAGES, SCENARIOS
from tests.s3_server import S3Server


@pytest.mark.slow
@pytest.mark.usefixtures("ray_for_drivers")
@pytest.mark.parametrize(("name", "scenario"), SCENARIOS, ids=[name for name, _ in SCENARIOS])
def test_a_store_that_fails_neither_loses_nor_doubles(
    name: str, scenario: Callable[[Path, S3Server | None], Outcome], tmp_path: Path, s3: S3Server
) -> None:
    try:
        result = scenario(tmp_path, s3)
    except NotPossible as why:
        pytest.skip(str(why))
    result.check()
    changed = 2 if name == "changed source" else 0  # the edits of the version that is no more
    assert (result.edits, result.failures) == (2 * IMAGES, changed)
