"""`eim verify OUTPUT`: hold what storage has against what was asked."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.refusal import refuse
from pipeline.recipe import RecipeError, load_recipe

if TYPE_CHECKING:
    from pipeline.verify import RunCheck


def verify(
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT|RECIPE", help="an edit job's output, or the recipe (.yaml) that names it")
    ],
    recipe: Annotated[
        Path | None, typer.Option(help="check the run with this recipe's settings, and what it asks for today")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object")] = False,
) -> None:
    """Check that every edit asked for is there once, with its image as it was written; reads only."""
    from pipeline.retrying import StorageError
    from pipeline.runs import OutputError

    try:
        checks = _checks(output, recipe)
    except (RecipeError, OutputError, StorageError, OSError) as error:
        refuse(error)
    if as_json:
        runs = [{"root": run.root, "fingerprints": run.fingerprints, **_plain(run)} for run in checks]
        print(json.dumps({"output": output, "ok": not any(run.check.problems for run in checks), "runs": runs}))
    console = Console(stderr=as_json, highlight=False)
    for run in checks:
        show_check(run, console)
    if any(run.check.problems for run in checks):
        raise typer.Exit(1)


def _checks(output: str, recipe: Path | None) -> "list[RunCheck]":
    from pipeline.verify import verify_output, verify_recipe

    is_recipe = Path(output).suffix in (".yaml", ".yml")
    if is_recipe and recipe is not None:
        raise RecipeError(f"{output}: a recipe, and --recipe gives another; give one of them")
    if not is_recipe and recipe is None:
        return verify_output(output)
    from pipeline.operations import real_operations

    if recipe is None:
        return verify_recipe(load_recipe(output), real_operations())
    return verify_recipe(load_recipe(recipe), real_operations(), output)


def _plain(run: "RunCheck") -> dict[str, object]:
    return dataclasses.asdict(run.check)


def show_check(run: "RunCheck", console: Console) -> None:
    """One run's check for people."""
    from pipeline.verify import PROBLEMS

    check = run.check
    console.print(run.root, markup=False, soft_wrap=True)
    console.print(
        f"asked {check.asked} | edits {check.edits} | failures {check.failures} | missing {check.missing} | "
        f"orphan images {check.orphans} | raw repeats {check.repeats} | read {check.bytes_read / 1e6:.1f} MB"
    )
    for kind, count in check.problems.items():
        console.print(f"{count} {kind}: {PROBLEMS[kind]}", style="red")
        for example in check.examples[kind]:
            console.print(f"  {example}", markup=False, soft_wrap=True)
    if not check.problems:
        console.print("every edit asked for is there once, and every image is as it was written")
    if check.missing:
        console.print(
            "run the edit job again for what is missing; an asked/ record that no longer counts can be removed"
        )


if __name__ == "__main__":
    typer.run(verify)
