"""A link between two nodes that goes down and comes back: nothing is lost, nothing doubled."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.outcome import NotPossible, Outcome
from tests.faults.partition import long_partition, short_partition


@pytest.mark.slow
@pytest.mark.parametrize("parted", [short_partition, long_partition])
def test_a_partition_between_two_nodes_loses_and_doubles_nothing(
    parted: Callable[[Path], Outcome], tmp_path: Path
) -> None:
    try:
        found = parted(tmp_path)
    except NotPossible as why:
        pytest.skip(str(why))
    found.check()
    assert found.edits == found.asked
