"""`eim compact OUTPUT`: few large parts instead of many small ones, and no images that lost."""

import dataclasses
import json
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console

from jobs.refusal import refuse


def compact(
    output: Annotated[str, typer.Argument(help="the output of an edit job: a folder or s3:// prefix")],
    orphans_older_than: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="also remove images that no row names and that are older; only while no edit job writes there",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as one JSON object")] = False,
) -> None:
    """Merge each bucket's parts into one that holds the view, and remove images that lost; a kill loses nothing."""
    from pipeline.compact import compact_output
    from pipeline.retrying import StorageError
    from pipeline.runs import OutputError

    age = None if orphans_older_than is None else timedelta(days=orphans_older_than)
    try:
        runs = compact_output(output, age)
    except (OutputError, StorageError, OSError) as error:
        refuse(error)
    damaged = [bucket for run in runs for bucket in run.compaction.damaged]
    if as_json:
        done = [{"root": run.root, **dataclasses.asdict(run.compaction)} for run in runs]
        print(json.dumps({"output": output, "ok": not damaged, "runs": done}))
    console = Console(stderr=as_json, highlight=False)
    for run in runs:
        of = run.compaction
        console.print(run.root, markup=False, soft_wrap=True)
        console.print(
            f"parts {of.parts_before} -> {of.parts_after} | rows dropped {of.rows_dropped} | images removed "
            f"{of.images_removed} ({of.bytes_removed / 1e6:.1f} MB) | orphan images kept {of.orphans_kept}"
        )
        if of.damaged:
            names = ", ".join(of.damaged)
            console.print(f"buckets left as they are, images of their view are not there: {names}", style="red")
            console.print(f"look with: eim verify {output}", markup=False, soft_wrap=True)
    if damaged:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(compact)
