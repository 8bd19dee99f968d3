"""`eim report OUTPUT`: show what a run made."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.refusal import refuse


def report(
    output: Annotated[str, typer.Argument(help="the output of an edit job: a folder or s3:// prefix")],
    images: Annotated[int, typer.Option(min=1, help="how many sources to show")] = 24,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as one JSON object")] = False,
) -> None:
    """Write contact.html and contact.png into an output, and print its figures."""
    from pipeline.report import ReportError, write_report
    from pipeline.retrying import StorageError
    from pipeline.runs import OutputError

    try:
        figures = write_report(output, images)
    except (ReportError, OutputError, StorageError, OSError) as error:
        refuse(error)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("strength", "edits", "PSNR to source", "change seen", "others kept")
    for strength, of in figures["strengths"].items():
        judged = [f"{of[name]:.1%}" if name in of else "-" for name in ("success", "kept")]
        table.add_row(strength, str(of["edits"]), f"{of['psnr']:.1f} dB", *judged)
    console = Console(highlight=False)
    console.print(
        f"{figures['images']} images, {figures['edits']} edits shown; failures in the run: {figures['failures']}"
    )
    console.print(table)
    console.print(f"look at {output.rstrip('/')}/contact.html", soft_wrap=True)


if __name__ == "__main__":
    typer.run(report)
