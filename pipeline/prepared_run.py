"""A run before anything is made: what it was asked, in storage."""

from dataclasses import dataclass

from pipeline.ask_records import Ask
from pipeline.attempts import Attempts
from pipeline.fit import Fit
from pipeline.ledger import Ledger, check_settings, open_run
from pipeline.listing import check_apart, prepare_manifest
from pipeline.manifest import Manifest
from pipeline.model_loading import held_to
from pipeline.operations import ModelFacts, Operations, pixel_settings
from pipeline.recipe import Recipe
from pipeline.storage import open_store


@dataclass(frozen=True)
class EditRun:
    """A run whose listing, settings and ask storage has, before anything is made."""

    recipe: Recipe
    operations: Operations
    facts: ModelFacts
    manifest: Manifest
    ledger: Ledger
    retry_failed: bool
    attempts: Attempts
    partition: str | None

    @property
    def fit(self) -> Fit:
        """How its images are brought to the model's sizes."""
        return Fit(self.facts.sizes, self.recipe.output_size)


def open_edit_run(
    recipe: Recipe,
    operations: Operations,
    *,
    new_run: bool = False,
    retry_failed: bool = False,
    listing: Manifest | None = None,
    partition: str | None = None,
) -> EditRun:
    """List the input and record what is asked; arguments and errors as of `run_edit`."""
    facts = operations.facts(recipe)
    settings, output = pixel_settings(recipe, facts), open_store(recipe.output)
    check_apart(recipe.input, output)
    check_settings(output, settings, new_run)  # a listing may take an hour
    manifest = listing or prepare_manifest(recipe.input, output, recipe.template_columns)
    store, name = open_run(output, settings, new_run)
    Ask(name, manifest.prefix, recipe.edits).record(store)
    attempts = Attempts.start(store, recipe.max_attempts, anew=retry_failed)
    held, ledger = held_to(operations, facts), Ledger(store, name)
    return EditRun(recipe, held, facts, manifest, ledger, retry_failed, attempts, partition)
