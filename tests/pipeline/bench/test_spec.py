from dataclasses import replace
from typing import Any

from eim_ops.bench.contenders import CEILING, ours
from eim_ops.method import Method
from pipeline.bench.spec import CHUNK, HEADLINE, REPORTS, Models, chunks, units

MODELS = Models("mini-dit", "1", "2", "3")
OURS = ours(Method())[0]


def test_chunks_cover_every_case_once() -> None:
    cut = chunks("correlated", "test", 2 * CHUNK + 7)
    assert [n for chunk in cut for n in range(chunk.start, chunk.stop)] == list(range(2 * CHUNK + 7))


def test_a_unit_is_named_by_all_that_its_rows_depend_on() -> None:
    def keys(report: str = HEADLINE.name, models: Models = MODELS, method: Method = Method()) -> set[str]:  # noqa: B008
        contender = replace(OURS, settings=method)
        return {unit.key(models) for unit in units(REPORTS[report], "test", CHUNK, [contender, CEILING])}

    assert len(keys()) == 2
    for report in set(REPORTS) - {HEADLINE.name}:
        assert not keys() & keys(report=report)
    for field in ("backbone_revision", "captioner_revision", "judge_revision"):
        changed: dict[str, Any] = {field: "other"}
        assert not keys() & keys(models=replace(MODELS, **changed))
    assert len(keys() & keys(method=Method(steps=3))) == 1, "the ceiling's rows don't depend on our method"


def test_more_cases_keep_the_whole_chunks_and_another_name_of_the_same_settings_keeps_all() -> None:
    few, more = (units(HEADLINE, "test", count, [OURS]) for count in (CHUNK + 1, 2 * CHUNK))
    assert few[0].key(MODELS) == more[0].key(MODELS) and few[1].key(MODELS) != more[1].key(MODELS)
    renamed = units(HEADLINE, "test", CHUNK, [replace(OURS, name="other")])
    assert renamed[0].key(MODELS) == few[0].key(MODELS)
