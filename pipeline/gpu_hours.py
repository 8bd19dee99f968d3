"""How many GPU-hours work takes, by the arithmetic of `eim plan`; asked for only where a budget counts them."""

from collections.abc import Callable
from functools import cache

from pipeline.blocks import plan_run
from pipeline.calibration import measured_rates, recorded_rates
from pipeline.estimate import Workload, time_of
from pipeline.forecast import costs_of
from pipeline.ledger import Ledger, buckets_of
from pipeline.manifest import Manifest
from pipeline.operations import Operations
from pipeline.placement import Cluster
from pipeline.recipe import Recipe, RecipeError
from pipeline.runs import Run
from pipeline.storage import open_store

_KEY = "augment.budget.gpu_hours"


def gpu_hours_of(
    recipe: Recipe,
    operations: Operations,
    listing: Manifest,
    run: Run | None,
    name: str,
    find_cluster: Callable[[], Cluster],
    calibrate: int,
) -> Callable[[Workload], float]:
    """The middle of what `eim plan` would tell of this much work.

    The first call finds the cluster and the rates: those of the run's rows, else measured on `calibrate` images. It
    raises RecipeError where there are neither or no GPU works, and PlacementError, ModelError as a plan does.
    """

    @cache
    def arithmetic() -> Callable[[Workload], float]:
        ledger = Ledger(run.store if run else open_store(recipe.output), name)
        facts, account = operations.facts(recipe), ledger.account(listing, recipe.edits)
        plan = plan_run(recipe, find_cluster(), account, facts.most_pixels)
        if not any(pool.num_gpus for pool in plan.pools.values()):
            raise RecipeError(f"{_KEY}: no GPU works for this recipe here; give images or edits")
        rates = recorded_rates(run.store, name, buckets_of(run)) if run else None
        if rates is None and calibrate:
            rates = measured_rates(recipe, operations, facts.sizes, listing, plan, calibrate)
        if rates is None:
            raise RecipeError(
                f"{_KEY}: how long an edit takes is not known, since {recipe.output} holds none of these settings; "
                "add --calibrate 16, or give images or edits for the first run"
            )
        return lambda work: time_of(work, costs_of(recipe), rates, plan, recipe.batch).gpu_hours.middle

    return lambda work: arithmetic()(work)
