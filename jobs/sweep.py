"""`eim sweep RECIPE.yaml`: `eim edit` of a recipe with a `sweep`, which tells first what it comes to. Also
`python -m jobs.sweep RECIPE.yaml`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs import edit
from jobs.refusal import refuse
from pipeline.recipe import Recipe, RecipeError, load_recipe
from pipeline.sweep import Sweep, count_line


def sweep(
    recipe: Annotated[Path, typer.Argument(help="a YAML recipe with a sweep, such as examples/sweep.yaml")],
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as one JSON object")] = False,
    new_run: Annotated[bool, typer.Option(help="keep edits made with other settings, beside the new ones")] = False,
    retry_failed: Annotated[bool, typer.Option(help="run the edits again that ended as failures")] = False,
    address: Annotated[str | None, typer.Option(help="a Ray cluster; else RAY_ADDRESS, else Ray starts here")] = None,
) -> None:
    """Make every target of every attribute at every strength, alone and composed, of all images."""
    try:
        checked = load_recipe(recipe)
        print(count_line(asked_sweep(checked, recipe)), file=sys.stderr, flush=True)
        edit.run(checked, as_json=as_json, new_run=new_run, retry_failed=retry_failed, address=address)
    except RecipeError as error:
        refuse(error)


def asked_sweep(recipe: Recipe, path: Path) -> Sweep:
    """The sweep of a recipe; raises RecipeError where it has none."""
    if recipe.sweep is None:
        raise RecipeError(f"{path}: sweep: missing; give attributes and strengths, or run `eim edit {path}`")
    return recipe.sweep


if __name__ == "__main__":
    typer.run(sweep)
