"""What is told of a cluster before a run."""

import pytest
import ray

from pipeline.cluster import taken
from pipeline.placement import Plan, PoolPlan

POOL = PoolPlan(2, 1.0, 1.0, 1, "cuda")
PLAN = Plan(POOL, POOL, task_cpus=1.0, block_rows=16, unit_rows=16, no_progress_seconds=60)


@pytest.mark.parametrize(
    ("free", "told"),
    [
        ({"CPU": 8.0, "GPU": 4.0}, None),
        ({"CPU": 3.9999, "GPU": 4.0}, None),
        ({"CPU": 8.0, "GPU": 1.0}, "1 of 4 GPUs that the pools take are free now"),
        ({}, "0 of 4 CPUs and 0 of 4 GPUs that the pools take are free now"),
    ],
)
def test_what_another_job_holds_is_told(
    monkeypatch: pytest.MonkeyPatch, free: dict[str, float], told: str | None
) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    found = taken(PLAN)
    assert found is None if told is None else found is not None and found.startswith(told)
