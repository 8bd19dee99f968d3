"""`eim evaluate bench`: our method and its peers on faces whose true edits are known."""

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Measure edits against ground truth.")


@app.callback()
def main() -> None:
    """Measure edits against ground truth."""


@app.command()
def bench(
    out: Annotated[str, typer.Option(help="the folder or s3:// prefix to write to")],
    cases: Annotated[int, typer.Option(min=1, help="how many (face, request) cases")] = 300,
    methods: Annotated[list[str], typer.Option(help="contenders to run, * for all that begin so")] = ["*"],  # noqa: B006
    strengths: Annotated[list[float], typer.Option(help="of ours; the peers have one")] = [-1, -0.5, 0, 0.5, 1, 1.5, 2],  # noqa: B006
    correlated: Annotated[bool, typer.Option(help="faces whose attributes come together")] = False,
    quick: Annotated[bool, typer.Option(help="24 cases at strength 1, a few contenders: smoke")] = False,
    model: Annotated[str, typer.Option(help="mini-dit, or another model of faces")] = "mini-dit",
    address: Annotated[str | None, typer.Option(help="a Ray cluster; else RAY_ADDRESS, else Ray starts here")] = None,
) -> None:
    """Write rows of every case, method and strength, and summary.json; a second run does what is left."""
    from rich.console import Console
    from rich.table import Table

    from eim_ops.bench.summary import FIGURES, summarise
    from pipeline.bench import BenchRun, contenders_by_name, run_bench
    from pipeline.flow import connect
    from pipeline.storage import open_store

    if quick:
        cases, strengths, methods = 24, [1.0], ["ceiling", "eim", "eim_none", "flowedit_3", "sdedit_0.8"]
    if 1.0 not in strengths:
        raise typer.BadParameter("strength 1 must be among them: methods are compared there", param_hint="--strengths")
    try:
        chosen = contenders_by_name(methods)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--methods") from None
    connect(address)
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 1))
    store = open_store(out)
    run = BenchRun(model, chosen, cases, correlated, tuple(strengths))
    summary = summarise(run_bench(run, store, actors=max(1, cpus), threads=1))
    store.write("summary.json", json.dumps({"cases": cases, "correlated": correlated, **summary}, indent=1).encode())
    table = Table("method", *FIGURES, "nfe", "s")
    for name, figures in summary["methods"].items():
        cells = [f"{figures[figure]:.3f}" for figure in FIGURES[:-1]] + [f"{figures['psnr_true']:.2f}"]
        table.add_row(name, *cells, f"{figures['nfe_per_edit']:.0f}", f"{figures['seconds_per_edit']:.2f}")
    console = Console(highlight=False)
    console.print(table)
    for name, value in summary["eim"].items():
        console.print(f"{name}: {'not measured' if value is None else f'{value:.3f}'}")


if __name__ == "__main__":
    app()
