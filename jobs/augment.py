"""`eim augment RECIPE.yaml`: the scheduled job, which takes what is new. Also `python -m jobs.augment RECIPE.yaml`."""

import dataclasses
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.edit import show_summary
from jobs.ending import ending_in_order
from jobs.plan import find_cluster
from jobs.refusal import refuse
from pipeline.recipe import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from pipeline.augment import Augmentation
    from pipeline.operations import Operations


def augment(
    recipe: Annotated[Path, typer.Argument(help="a YAML recipe, such as examples/augment.yaml")],
    on: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="the partition; else today's date, in UTC")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as one JSON object")] = False,
    calibrate: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="for a first budget of GPU-hours: measure N images here; keeps nothing"),
    ] = 0,
    new_run: Annotated[bool, typer.Option(help="keep edits made with other settings, beside the new ones")] = False,
    retry_failed: Annotated[bool, typer.Option(help="take the edits again that ended as failures")] = False,
    address: Annotated[str | None, typer.Option(help="a Ray cluster; else RAY_ADDRESS, else Ray starts here")] = None,
) -> None:
    """Edit what is new or changed in the source since the last run, within the budget of the recipe's `augment`."""
    try:
        run(
            load_recipe(recipe),
            _checked(on),
            as_json=as_json,
            calibrate=calibrate,
            new_run=new_run,
            retry_failed=retry_failed,
            address=address,
        )
    except RecipeError as error:
        refuse(error)


def _checked(day: str | None) -> str:
    if day is None:
        return datetime.now(UTC).date().isoformat()
    try:
        if date.fromisoformat(day).isoformat() == day:
            return day
    except ValueError:
        pass
    raise RecipeError(f"--date: given {day!r}; give a date as 2030-01-31")


def run(
    recipe: Recipe,
    day: str,
    *,
    as_json: bool = False,
    calibrate: int = 0,
    new_run: bool = False,
    retry_failed: bool = False,
    address: str | None = None,
    operations: "Operations | None" = None,
) -> None:
    """Augment by a checked recipe, by default with the operations of `eim_ops`; ends by typer.Exit where the exit code
    is not 0."""
    # Ray and the rest take seconds to import: a wrong recipe is told before.
    from pipeline.augment import Job
    from pipeline.augment import augment as augment_by
    from pipeline.operations import real_operations

    job = Job(
        recipe=recipe,
        operations=operations or real_operations(),
        date=day,
        find_cluster=lambda: find_cluster(None, 0, address),
        calibrate=calibrate,
        new_run=new_run,
        retry_failed=retry_failed,
        address=address,
    )
    with ending_in_order():
        told = augment_by(job)
    if as_json:
        print(json.dumps(dataclasses.asdict(told)))
    show_augmentation(told, recipe, Console(stderr=as_json, highlight=False))
    if told.problem:
        raise typer.Exit(1)


def show_augmentation(told: "Augmentation", recipe: Recipe, console: Console) -> None:
    """What was done, for people."""
    for key in told.completed:
        console.print(f"completed what an earlier run had taken: {key}", soft_wrap=True)
    console.print(f"{told.date}: {_taken(told)}", soft_wrap=True)
    if recipe.augment.budget is not None:
        limits = recipe.augment.budget.model_dump(exclude_none=True)
        spent = dataclasses.asdict(told.spent)
        console.print(f"budget of the date: {', '.join(f'{spent[k]:g} of {v:g} {k}' for k, v in limits.items())}")
    for summary in told.runs:
        show_summary(summary, console)
    if told.balance:
        console.print(_balance_table(told))


def _taken(told: "Augmentation") -> str:
    if len(told.completed) + (told.increment is not None) < len(told.runs):
        return "took nothing, since what an earlier run had taken is not complete"
    if not told.new_edits:
        return "nothing new: every edit that is asked of the source is there"
    new = f"{told.new_images} images with {told.new_edits} edits are new"
    if told.increment is None:
        return f"{new}; took nothing, since the budget of the date is used up"
    waiting = told.new_edits - told.edits
    return f"{new}; took {told.images} images with {told.edits} edits; {waiting} edits wait for a later run"


def _balance_table(told: "Augmentation") -> Table:
    table = Table("attribute", "value", "wanted", "before", "after")
    for attribute, values in told.balance.items():
        for value, its in values.items():
            cells = []
            for when in ("before", "after"):
                total = sum(other[when] for other in values.values())
                cells.append(f"{its[when]:g} ({its[when] / total:.1%})" if total else "0")
            table.add_row(attribute, value, f"{its['wanted']:.1%}", *cells)
    return table


if __name__ == "__main__":
    typer.run(augment)
