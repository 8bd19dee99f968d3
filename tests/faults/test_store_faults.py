"""Whole jobs on a store that fails: nothing is lost, nothing doubled."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.outcome import Outcome
from tests.faults.store_scenarios import IMAGES, SCENARIOS
from tests.s3_server import S3Server


@pytest.mark.parametrize(("name", "scenario"), SCENARIOS, ids=[name for name, _ in SCENARIOS])
def test_a_store_that_fails_neither_loses_nor_doubles(
    name: str, scenario: Callable[[Path, S3Server | None], Outcome], tmp_path: Path, s3: S3Server
) -> None:
    if name == "disk full" and os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    result = scenario(tmp_path, s3)
    assert (result.lost, result.doubled) == (0, 0)
    changed = 2 if name == "changed source" else 0  # the edits of the version that is no more
    assert (result.edits, result.failures) == (2 * IMAGES, changed)
