import pytest

from pipeline.bench import BenchRun, _units, contenders_by_name


def test_contenders_are_named_or_begun() -> None:
    assert contenders_by_name(["flowedit*", "eim", "eim"])[-1] == "eim"
    assert all(name.startswith("flowedit") for name in contenders_by_name(["flowedit*"]))
    with pytest.raises(ValueError, match="no contender 'nobody'; there are: ceiling, eim"):
        contenders_by_name(["nobody"])


def test_a_work_unit_is_named_by_all_that_its_rows_depend_on() -> None:
    run = BenchRun("mini-dit", ("eim", "flowedit_3"), 30, False, (1.0,))
    keys = [unit.key for unit in _units(run, "1")]
    assert len(set(keys)) == 4 and {unit.stop - unit.start for unit in _units(run, "1")} == {24, 6}
    more = BenchRun("mini-dit", ("eim", "flowedit_3", "dds"), 48, False, (1.0,))
    assert set(keys) & {unit.key for unit in _units(more, "1")} == {keys[0], keys[2]}, "whole chunks are kept"
    for other in (_units(run, "2"), _units(BenchRun("mini-dit", ("eim",), 30, True, (1.0,)), "1")):
        assert not set(keys) & {unit.key for unit in other}
