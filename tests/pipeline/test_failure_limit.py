import pytest

from pipeline.failure_limit import failure_limit


@pytest.mark.parametrize(("failures", "stops"), [(4, False), (5, True)])
def test_more_failures_than_the_fraction_of_all_asked_for_stop_a_run(failures: int, stops: bool) -> None:
    told = failure_limit(0.4, asked=10).problem(1, failures)
    assert told == ("5 edits failed, more than the 4 that max_failure_fraction allows" if stops else None)


def test_failures_of_earlier_runs_count_on() -> None:
    assert failure_limit(0.7, asked=10, failed=2).problem(1, 5) is None
    told = failure_limit(0.7, asked=10, failed=3).problem(1, 5)
    assert told == "8 edits failed, 3 of them in earlier runs, more than the 7 that max_failure_fraction allows"
    told = failure_limit(0.7, asked=10, failed=8).problem(0, 0)
    assert told == "8 edits failed in earlier runs, more than the 7 that max_failure_fraction allows"


@pytest.mark.parametrize("failures", [1000, 1063])
def test_a_run_that_brings_nothing_but_failures_stops_long_before_its_limit(failures: int) -> None:
    limit = failure_limit(0.5, asked=10_000_000)
    told = f"the first {failures} edits all failed; where that is meant, set max_failure_fraction to 1"
    assert limit.problem(0, 999) is None
    assert limit.problem(0, failures) == told


def test_one_edit_now_or_earlier_or_a_fraction_of_one_lets_failures_go_on() -> None:
    assert failure_limit(0.5, asked=10_000).problem(1, 1000) is None
    assert failure_limit(0.5, asked=10_000, edited=1).problem(0, 1000) is None
    assert failure_limit(1, asked=10_000).problem(0, 10_000) is None
