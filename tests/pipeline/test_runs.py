import pytest

from pipeline.ledger import open_run
from pipeline.runs import OutputError, Run, find_runs
from pipeline.storage import open_store


def test_an_output_has_its_own_run_and_those_below_it_and_each_can_be_named_alone(root: str) -> None:
    output = open_store(f"{root}/out")
    _, first = open_run(output, {"a": 1}, new_run=False)
    below, second = open_run(output, {"a": 2}, new_run=True)
    output.write("run-something else/x", b"")
    both = [Run(output, output, (first,)), Run(output, below, (second,))]
    assert find_runs(output.root) == both
    assert find_runs(below.root) == both[1:]


def test_a_place_without_settings_is_refused_with_the_mend(root: str) -> None:
    with pytest.raises(OutputError, match=r"no settings are recorded there.*names as its output"):
        find_runs(f"{root}/nowhere")
