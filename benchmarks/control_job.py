"""`python -m benchmarks.control_job resume|list RECIPE.json`: what a driver does before a first image, by itself."""

import json
import re
from pathlib import Path

import pyarrow as pa
import typer

app = typer.Typer()


@app.command()
def resume(recipe: Path) -> None:
    """The same command again: list, record, count what is left (`run_edit`), then read it as its tasks do, in one
    process. Prints the account."""
    from pipeline.flow import GROUP_ROWS
    from pipeline.operations import real_operations
    from pipeline.placement import Cluster, plan_placement
    from pipeline.prepared_run import open_edit_run
    from pipeline.recipe import load_recipe
    from pipeline.stages import ReadPending

    checked = load_recipe(recipe)
    run = open_edit_run(checked, real_operations())
    manifest, ledger = run.manifest, run.ledger
    account = ledger.account(manifest, checked.edits)
    plan = plan_placement(checked, Cluster(2), account.images, 1)
    read = ReadPending(manifest, ledger, checked, False, plan.block_rows)
    rows = 0
    for group in manifest.groups(GROUP_ROWS):
        rows += sum(len(table) for table in read(pa.table({"buckets": [list(group)]})))
    print(json.dumps({"asked": account.asked, "edits": account.edits, "failures": account.failures, "read": rows}))


@app.command("list")
def list_input(recipe: Path) -> None:
    """List a recipe's input into a manifest below its output. Prints its rows, and the most memory that this process
    held, MiB."""
    from pipeline.listing import prepare_manifest
    from pipeline.recipe import load_recipe
    from pipeline.storage import open_store

    checked = load_recipe(recipe)
    manifest = prepare_manifest(checked.input, open_store(checked.output))
    print(json.dumps({"rows": manifest.total, "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    """The most memory that was resident since this program began: `getrusage` counts what started it as well."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10  # type: ignore[index]


if __name__ == "__main__":
    app()
