"""What `eim plan` tells: the input listed, held against the output, and priced. Nothing is written or started."""

import tempfile
from dataclasses import dataclass, replace

from eim_ops.cost import Costs, costs
from pipeline.blocks import BlockMemory, block_memory, plan_run, stored_blocks
from pipeline.captioner_spec import GIVEN_PROMPTS, TemplateSpec
from pipeline.estimate import Rates, Storage, Time, storage_of, time_of
from pipeline.identity import fingerprint
from pipeline.ledger import Account, Ledger, buckets_of
from pipeline.listing import check_apart, prepare_manifest
from pipeline.operations import ModelFacts, Operations, pixel_settings
from pipeline.placement import Cluster, Plan
from pipeline.recipe import Recipe
from pipeline.runs import OutputError, Run, find_runs
from pipeline.storage import Store, open_store


@dataclass(frozen=True)
class Forecast:
    """What a run of a recipe would do now. evaluations, with_padding: of the model, for what is left."""

    account: Account
    costs: Costs
    evaluations: int
    with_padding: int
    """In full batches: exact where images ask for equally many edits at one size, else the least."""
    cluster: Cluster
    plan: Plan
    blocks: BlockMemory
    rates: Rates | None
    """None: neither calibrated, nor told by rows of the output."""
    time: Time | None
    storage: Storage
    facts: ModelFacts
    other_settings: bool
    """The output holds edits of other settings alone: `eim edit` will refuse, or wants --new-run."""


def forecast(recipe: Recipe, operations: Operations, cluster: Cluster, calibrate: int = 0) -> Forecast:
    """Price what a run would do; weights are loaded for `calibrate` images alone, where that is not 0.

    Raises RecipeError, PlacementError, StorageError and PermissionError as a run would, and ModelError for a model
    that cannot be loaded.
    """
    facts = operations.facts(recipe)
    name = fingerprint(pixel_settings(recipe, facts))
    run, other_settings = run_of(recipe.output, name)
    output = open_store(recipe.output)
    check_apart(recipe.input, output)
    ledger = Ledger(run.store if run else output, name)
    with tempfile.TemporaryDirectory(prefix="eim-plan-") as folder:
        manifest = prepare_manifest(recipe.input, Store(folder), recipe.template_columns)
        account = ledger.account(manifest, recipe.edits)
        plan = plan_run(recipe, cluster, account, facts.most_pixels)
        rates = None
        # Both import the stages, and they Ray.
        from pipeline.calibration import measured_rates, recorded_rates

        if calibrate:
            rates = measured_rates(recipe, operations, facts.sizes, manifest, plan, calibrate)
        elif run is not None:
            rates = recorded_rates(ledger.store, name, buckets_of(run))
    prices = costs_of(recipe)
    known_to_fail = account.left - account.work.edits
    each = facts.most_pixels, account.edits_per_image
    return Forecast(
        account=account,
        costs=prices,
        evaluations=account.work.evaluations(prices),
        with_padding=account.work.padded(recipe.batch).evaluations(prices),
        cluster=cluster,
        plan=plan,
        blocks=block_memory(plan, cluster, *each),
        rates=rates,
        time=None if rates is None else time_of(account.work, prices, rates, plan, recipe.batch),
        storage=storage_of(
            account.work,
            rates,
            None if recipe.output_size == "source" else facts.most_pixels,
            stored_blocks(plan, account.work.images + known_to_fail, *each),
            min(len(manifest.rows), account.left),
            not (recipe.captioner == GIVEN_PROMPTS or isinstance(recipe.captioner, TemplateSpec)),
        ),
        facts=facts,
        other_settings=other_settings,
    )


def costs_of(recipe: Recipe) -> Costs:
    """Model evaluations of the parts of an edit, as `eim plan` counts them."""
    its = costs(recipe.method)
    # Shared directions are identified over a small sample, which is not counted.
    return replace(its, source=0, identify=0) if recipe.direction == "shared" else its


def run_of(output: str, name: str) -> tuple[Run | None, bool]:
    """The run of these settings, and whether there are runs of other settings alone."""
    try:
        runs = find_runs(output)
    except OutputError:
        return None, False
    found = [run for run in runs if name in run.fingerprints]
    return (found[0], False) if found else (None, True)
