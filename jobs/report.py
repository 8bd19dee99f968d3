"""`eim report OUTPUT`: show what a run made."""

import json
from typing import Annotated

import typer


def report(
    output: Annotated[str, typer.Argument(help="the output of an edit job: a folder or s3:// prefix")],
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as one JSON object")] = False,
) -> None:
    """Write contact.html and contact.png into an output, and print its figures."""
    from pipeline.report import write_report

    figures = write_report(output)
    if as_json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        typer.echo(f"{name}: {figure}")


if __name__ == "__main__":
    typer.run(report)
