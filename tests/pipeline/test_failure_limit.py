import pytest

from pipeline.failure_limit import failure_limit
from pipeline.ledger import Account


@pytest.mark.parametrize(("failures", "stops"), [(4, False), (5, True)])
def test_more_failures_than_the_fraction_of_all_asked_for_stop_a_run(failures: int, stops: bool) -> None:
    told = failure_limit(0.4, Account(images=10, asked=10)).problem(1, failures)
    assert told == ("5 edits failed, more than the 4 that max_failure_fraction allows" if stops else None)


def test_failures_of_earlier_runs_count_on() -> None:
    assert failure_limit(0.7, Account(images=10, asked=10, failures=2)).problem(1, 5) is None
    told = failure_limit(0.7, Account(images=10, asked=10, failures=3)).problem(1, 5)
    assert told == "8 edits failed, 3 of them in earlier runs, more than the 7 that max_failure_fraction allows"
    told = failure_limit(0.7, Account(images=10, asked=10, failures=8)).problem(0, 0)
    assert told == "8 edits failed in earlier runs, more than the 7 that max_failure_fraction allows"


@pytest.mark.parametrize(("edits_per_image", "enough"), [(1, 1000), (10, 1000), (33, 3300)])
def test_a_run_that_brings_nothing_but_failures_stops_long_before_its_limit(edits_per_image: int, enough: int) -> None:
    limit = failure_limit(0.5, Account(images=1_000_000, asked=1_000_000 * edits_per_image))
    assert limit.problem(0, enough - 1) is None
    told = f"the first {enough} edits all failed; where that is meant, set max_failure_fraction to 1"
    assert limit.problem(0, enough) == told


def test_one_edit_now_or_earlier_or_a_fraction_of_one_lets_failures_go_on() -> None:
    assert failure_limit(0.5, Account(images=10_000, asked=10_000)).problem(1, 1000) is None
    assert failure_limit(0.5, Account(images=10_000, asked=10_000, edits=1)).problem(0, 1000) is None
    assert failure_limit(1, Account(images=10_000, asked=10_000)).problem(0, 10_000) is None
