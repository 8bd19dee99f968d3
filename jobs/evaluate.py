"""`eim evaluate`: our method and its peers on faces whose true edits are known."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eim_ops.bench.contenders import Contender
    from eim_ops.bench.summary import Table
    from pipeline.bench.spec import Models

app = typer.Typer(no_args_is_help=True, help="Measure edits against ground truth.")

Out = Annotated[str, typer.Option(help="the folder or s3:// prefix to write to")]
Model = Annotated[str, typer.Option(help="mini-dit, or another model of faces")]
Address = Annotated[str | None, typer.Option(help="a Ray cluster; else RAY_ADDRESS, else Ray starts here")]
Cases = Annotated[int, typer.Option(min=1, help="how many test cases of each world")]


@app.command()
def bench(
    out: Out,
    report: Annotated[
        list[str], typer.Option(help="WORLD-CAPTIONS, correlated|independent-vlm|truth; all four by default")
    ] = [],  # noqa: B006
    peer: Annotated[
        list[str],
        typer.Option(help="sdedit|flowedit|rf_inversion|dds; all four by default; DDS takes most of the time"),
    ] = [],  # noqa: B006
    cases: Cases = 300,
    known: Annotated[
        str | None,
        typer.Option(
            help="the --out of an earlier run of these models: settings in its tuning.json are not tuned again, nor is "
            "what its rows.parquet has measured"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option(help="48 cases at strength 1, peers not tuned, below quick/: smoke")] = False,
    model: Model = "mini-dit",
    address: Address = None,
) -> None:
    """Tune the peers, run every method on every case, write rows, plots, page and summary.json for each report.

    A second run does what is left. The cases are exported beside them as a dataset.
    """
    from eim_ops.bench.contenders import CEILING, UNEDITED, ours
    from eim_ops.bench.peer_grid import peer_grid, quick_peers
    from eim_ops.bench.summary import Table, tabulate
    from eim_ops.method import Method
    from eim_ops.peers.peer import PEERS
    from pipeline.bench import reports
    from pipeline.bench.known import take_known, write_known
    from pipeline.bench.spec import HEADLINE, REPORTS, TUNING_CASES, units
    from pipeline.storage import open_store

    grid = quick_peers() if quick else peer_grid()
    _refuse_unknown("--report", report, REPORTS)
    _refuse_unknown("--peer", peer, PEERS)
    asked, models = peer or PEERS, reports.find_models(model)
    tuned_before = Table({}, {}) if known is None else _tuned(known, models, grid)
    actors, store = _connect(address), open_store(out)
    if quick:
        store, cases, tuned, wanted = store.below("quick"), 48, 0, report or [HEADLINE.name]
        own = [replace(its, strengths=(1.0,)) for its in ours(Method()) if its.name in ("eim", "text_half")]
        chosen = [peer.name for peer in grid]
    else:
        tuned, wanted, own = TUNING_CASES, report or list(REPORTS), ours(Method())
        new = [its for its in grid if its.family in asked and its.name not in tuned_before.families]
        found = tabulate(reports.tune(store, models, actors, new) if new else [])
        table = Table({**tuned_before.figures, **found.figures}, {**tuned_before.families, **found.families})
        tuned_ones = [its for its in grid if its.name in table.families]
        chosen = reports.write_tuning(store, models, tuned_ones, table)
    references, peers = [CEILING, UNEDITED, *own], [its for its in grid if its.name in chosen]
    contenders = [*references, *(its for its in peers if its.family in asked)]
    work = [unit for its in REPORTS.values() for unit in units(its, "test", cases, [*references, *peers])]
    if known is not None:
        count = take_known(open_store(known), store, work, models)
        typer.echo(f"{count} of {len(work)} pieces of work are known")
    for name in wanted:
        _show(name, reports.run_report(store, REPORTS[name], models, actors, contenders, cases, tuned))
        reports.write_summary(store, models)
        write_known(store, work, models)
    if not quick:
        worlds = list(dict.fromkeys(REPORTS[name].world for name in wanted))
        reports.write_dataset(store, models, actors, worlds, cases)


@app.command()
def levers(out: Out, model: Model = "mini-dit", address: Address = None) -> None:
    """Change one setting of our default at a time, then how prompts are worded, on tuning cases; write levers.json."""
    from eim_ops.bench.contenders import UNEDITED
    from eim_ops.bench.levers import lever_contenders, wording_contenders
    from eim_ops.bench.summary import tabulate
    from pipeline.bench import reports
    from pipeline.bench.spec import REPORTS
    from pipeline.storage import open_store

    actors, store, models = _connect(address), open_store(out), reports.find_models(model)
    tables = {}
    for title, report, contenders in (
        ("settings", "correlated-vlm", lever_contenders()),
        ("wording", "correlated-truth", wording_contenders()),
    ):
        rows = reports.tune(store, models, actors, [UNEDITED, *contenders], REPORTS[report])
        figures = tabulate(rows).figures
        tables[title] = {name: its for (name, strength), its in figures.items() if strength == 1}
        store.write("levers.json", (json.dumps(tables, indent=1) + "\n").encode())
        _table(f"{title}, tuning cases, {report}", tables[title])


@app.command()
def settings(
    out: Out,
    change: Annotated[list[str], typer.Option(help="KEY=VALUE[,KEY=VALUE] of our method; once for each to compare")],
    cases: Annotated[int, typer.Option(min=1, help="how many tuning cases of the headline report")] = 64,
    model: Model = "mini-dit",
    address: Address = None,
) -> None:
    """Compare our default with changes of several settings at once, on tuning cases; write settings.json."""
    from eim_ops.bench.contenders import Contender
    from eim_ops.bench.levers import changed
    from eim_ops.bench.summary import tabulate
    from eim_ops.method import Method
    from pipeline.bench import reports
    from pipeline.storage import open_store

    try:
        contenders = [Contender("eim", "eim", Method()), *(changed(text) for text in dict.fromkeys(change))]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--change") from error
    actors, store, models = _connect(address), open_store(out), reports.find_models(model)
    figures = tabulate(reports.tune(store, models, actors, contenders, cases=cases)).figures
    table = {name: its for (name, _), its in figures.items()}
    store.write("settings.json", (json.dumps({"cases": cases, "settings": table}, indent=1) + "\n").encode())
    _table(f"{cases} tuning cases, correlated-vlm", table)


@app.command()
def sharing(
    cases: Annotated[int, typer.Option(min=1, help="how many tuning cases of the correlated world")] = 48,
    images: Annotated[list[int], typer.Option(min=1, help="how many faces to average over")] = [4, 16],  # noqa: B006
    image_half: Annotated[str, typer.Option(help="dds or hsds")] = "dds",
    model: Model = "mini-dit",
) -> None:
    """Compare each image's own direction with one that images share, on tuning cases; print figures as JSON."""
    from eim_ops.bench.cases import draw_cases
    from eim_ops.bench.sharing import compare_sharing
    from eim_ops.faces.judge import load_judge
    from eim_ops.method import Method
    from eim_ops.named_models import load_backbone

    drawn = draw_cases(cases, "correlated", "tuning")
    method = Method(image_half=image_half)  # type: ignore[arg-type]  # checked there
    figures = compare_sharing(load_backbone(model), load_judge(), drawn, sorted(images), method, 16)
    typer.echo(json.dumps(figures, indent=1))


@app.command()
def dataset(out: Out, cases: Cases = 300, address: Address = None) -> None:
    """Export the benchmark's cases: images, requests, prompts and true edits of both worlds, with a card."""
    from pipeline.bench import reports
    from pipeline.storage import open_store

    models = reports.find_models("mini-dit")
    reports.write_dataset(open_store(out), models, _connect(address), ["correlated", "independent"], cases)


def _refuse_unknown(option: str, given: Sequence[str], there: Collection[str]) -> None:
    unknown = [name for name in given if name not in there]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}; there are: {', '.join(there)}", param_hint=option)


def _tuned(known: str, models: "Models", grid: "Sequence[Contender]") -> "Table":
    from pipeline.bench import reports
    from pipeline.storage import StorageError, open_store

    try:
        return reports.read_tuning(open_store(known).read("tuning.json"), models, grid)
    except (OSError, StorageError, ValueError) as error:
        raise typer.BadParameter(f"{known}/tuning.json {error}", param_hint="--known") from error


def _connect(address: str | None) -> int:
    """Connect to Ray; how many actors fit."""
    import ray

    from pipeline.cluster import connect

    connect(address)
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _show(name: str, summary: Mapping[str, Any]) -> None:
    _table(name, summary["methods"])
    for family, its in summary["peers"].items():
        at = ", ".join(f"{key} {'never reached' if its[key] is None else f'{its[key]:.3f}'}" for key in its)
        typer.echo(f"{family} at equal effect: {at}")
    for key, value in summary["eim"].items():
        typer.echo(f"{key}: {'not measured' if value is None else f'{value:.3f}'}")


def _table(title: str, methods: Mapping[str, Mapping[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from eim_ops.bench.summary import FIGURES

    table = Table("strength 1", *FIGURES, "nfe", "s", title=title)
    for name, figures in methods.items():
        cells = [f"{figures[figure]:.3f}" for figure in FIGURES[:-1]] + [f"{figures['psnr_true']:.2f}"]
        table.add_row(name, *cells, f"{figures['nfe_per_edit']:.0f}", f"{figures['seconds_per_edit']:.2f}")
    Console(highlight=False, width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    app()
