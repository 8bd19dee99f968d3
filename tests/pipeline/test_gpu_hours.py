import json
from pathlib import Path

import pytest

from pipeline.estimate import Rates, Spread
from pipeline.forecast import forecast, run_of
from pipeline.gpu_hours import gpu_hours_of
from pipeline.placement import Cluster, plan_placement
from tests.fakes import fake_operations
from tests.pipeline.builders import SMILE, start_job

RATES = Rates("told", Spread.of([1.0]), Spread.of([0.001]), None)


def test_hours_are_those_of_the_forecast_where_the_manifest_brings_its_own_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("calibration", "gpu_hours"):
        monkeypatch.setattr(f"pipeline.{module}.recorded_rates", lambda *_: RATES)
    own = [{**SMILE, "strengths": [0.1 * step for step in range(1, 17)]}]
    lines = [{"uri": str(tmp_path / f"in/{index}.png"), "edits": own} for index in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    job = start_job(str(tmp_path), 3, input={"manifest": str(tmp_path / "rows.jsonl")}, placement="split")
    cluster, operations = Cluster(64, 12), fake_operations()
    told = forecast(job.recipe, operations, cluster)
    run, _ = run_of(job.recipe.output, job.fingerprint)
    hours = gpu_hours_of(job.recipe, operations, job.manifest, run, job.fingerprint, lambda: cluster, 0)
    assert told.time is not None
    assert hours(told.account.work) == told.time.gpu_hours.middle
    assert told.plan.pools != plan_placement(job.recipe, cluster, 3, 1).pools, "by the recipe's edit they would differ"
