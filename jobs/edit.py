"""`eim edit RECIPE.yaml`: make every edit that a recipe asks for. Also `python -m jobs.edit RECIPE.yaml`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.ending import ending_in_order
from jobs.refusal import refuse
from pipeline.recipe import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from pipeline.operations import Operations
    from pipeline.run_edit import Summary


def edit(
    recipe: Annotated[Path, typer.Argument(help="a YAML recipe, such as examples/demo.yaml")],
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as one JSON object")] = False,
    new_run: Annotated[bool, typer.Option(help="keep edits made with other settings, beside the new ones")] = False,
    retry_failed: Annotated[bool, typer.Option(help="run the edits again that ended as failures")] = False,
    address: Annotated[str | None, typer.Option(help="a Ray cluster; else RAY_ADDRESS, else Ray starts here")] = None,
) -> None:
    """Make every edit that the recipe asks for and its output does not hold yet."""
    try:
        checked = load_recipe(recipe)
        run(checked, as_json=as_json, new_run=new_run, retry_failed=retry_failed, address=address)
    except RecipeError as error:
        refuse(error)


def run(
    recipe: Recipe,
    *,
    as_json: bool = False,
    new_run: bool = False,
    retry_failed: bool = False,
    address: str | None = None,
    operations: "Operations | None" = None,
) -> None:
    """Run a checked recipe, by default with the operations of `eim_ops`; ends by typer.Exit where the exit code is not
    0."""
    # Ray and the rest take seconds to import: a wrong recipe is told before.
    from pipeline.operations import real_operations
    from pipeline.run_edit import run_edit

    with ending_in_order():
        models = operations or real_operations()
        summary = run_edit(recipe, models, new_run=new_run, retry_failed=retry_failed, address=address)
    if as_json:
        print(json.dumps(dataclasses.asdict(summary)))
    show_summary(summary, Console(stderr=as_json, highlight=False))
    if summary.problem:
        raise typer.Exit(1)


def show_summary(summary: "Summary", console: Console) -> None:
    """The summary for people."""
    if summary.new_edits or summary.new_failures or summary.problem:
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary.seconds_by_stage.items())
        rate = summary.new_edits / summary.seconds if summary.seconds else 0.0
        console.print(f"made {summary.new_edits} edits in {summary.seconds:.1f} s ({rate:.2f}/s)")
        console.print(f"seconds by stage, summed over workers: {stages}")
        console.print(f"busy: {_shares(summary, 'busy')} | full: {_shares(summary, 'fill')}")
    else:
        console.print("nothing to do: every edit asked for is there")
    console.print(
        f"images {summary.images} | asked {summary.asked} | edits {summary.edits} | failures {summary.failures} | "
        f"left {summary.left} | raw repeats {summary.repeats}"
    )
    for stage, batch in summary.smaller_batches.items():
        console.print(f"out of memory in {stage}: it went on with batches down to {batch}")
    for what, counts in (("made again", summary.storage_retries), ("failed for good", summary.storage_errors)):
        if counts:
            told = ", ".join(f"{call} {count}" for call, count in counts.items())
            console.print(f"calls of storage {what}: {told}")
    console.print(f"in {summary.output}", soft_wrap=True)
    if summary.problem:
        Console(stderr=True).print(f"[red]{summary.problem}[/red]")


def _shares(summary: "Summary", name: str) -> str:
    """One figure of the stages that have it, as percent."""
    its = {stage: getattr(use, name) for stage, use in summary.stages.items()}
    return ", ".join(f"{stage} {share:.0%}" for stage, share in its.items() if share is not None) or "not counted"


if __name__ == "__main__":
    typer.run(edit)
