"""The whole benchmark: peers tuned on tuning cases, then every report on test cases, written as files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.bench.dataset import export
from pipeline.bench.page import page
from pipeline.bench.plots import plots
from pipeline.bench.run import Row, measure_conditions, measure_units, read_cases, write_cases
from pipeline.bench.spec import HEADLINE, PICTURES, REPORTS, TUNING_CASES, Models, Report, chunks, units
from pipeline.storage import Store, parquet_bytes

if TYPE_CHECKING:
    from eim_ops.bench.cases import World
    from eim_ops.bench.contenders import Contender
    from eim_ops.bench.summary import Table

_MUTE = 0.5
"""A setting that succeeds less than this share of its peer's best is no point of interest."""


def find_models(name: str) -> Models:
    """The models of a benchmark of this backbone, by revision."""
    from eim_ops.named_models import model_revision

    return Models(name, model_revision(name), model_revision("mini-vlm"), model_revision("judge"))


def tune(
    store: Store, models: Models, actors: int, contenders: "Sequence[Contender]", report: Report = HEADLINE,
    cases: int = TUNING_CASES,
) -> list[Row]:  # fmt: skip
    """Rows of contenders on the tuning cases of a report."""
    write_cases(store, chunks(report.world, "tuning", cases), models, actors)
    return measure_units(store, units(report, "tuning", cases, contenders), models, actors, "tuning")


def best_settings(table: "Table") -> list[str]:
    """Names of the contenders worth reporting: of each family its frontiers of the two comparisons and of success
    against evaluations, without what hardly edits."""
    from eim_ops.bench.peer_grid import frontier

    chosen = []
    for family in dict.fromkeys(table.families.values()):
        names = [name for name, its in table.families.items() if its == family]
        figures = {name: table.figures[name, 1.0] for name in names}
        most = max(its["success"] for its in figures.values())
        loud = {name: its for name, its in figures.items() if its["success"] >= _MUTE * most}
        purity = frontier({name: (its["on_target"], its["off_target"]) for name, its in loud.items()})
        likeness = frontier({name: (its["success"], -its["psnr_true"]) for name, its in loud.items()})
        thrift = frontier({name: (its["success"], its["nfe_per_edit"]) for name, its in loud.items()})
        kept = {*purity, *likeness, *thrift}
        chosen += [name for name in names if name in kept]
    return chosen


def write_tuning(store: Store, models: Models, grid: "Sequence[Contender]", table: "Table") -> list[str]:
    """`tuning.json`: every peer's settings with their figures on the tuning cases, and which are worth reporting;
    returns the names of those."""
    chosen = best_settings(table)
    settings = {
        its.name: {**its.content, "figures": table.figures[its.name, 1.0], "reported": its.name in chosen}
        for its in grid
    }
    told = {"models": asdict(models), "tuning_cases": TUNING_CASES, "settings": settings}
    store.write("tuning.json", _json(told))
    return chosen


def read_tuning(text: str | bytes, models: Models, grid: "Sequence[Contender]") -> "Table":
    """What an earlier run's `tuning.json` tells of these settings. Raises ValueError where it is none, or of other
    models."""
    from eim_ops.bench.summary import Table

    told = json.loads(text)
    if not isinstance(told, dict) or {"models", "tuning_cases", "settings"} - told.keys():
        raise ValueError("is no tuning.json as `eim evaluate bench` writes it")
    wanted = {"models": asdict(models), "tuning_cases": TUNING_CASES}
    wrong = [key for key, value in wanted.items() if told[key] != value]
    if wrong:
        raise ValueError(
            f"was tuned with other {' and '.join(wrong)}: {told[wrong[0]]}, not {wanted[wrong[0]]}; tune again"
        )
    wanted = json.loads(_json({its.name: its.content for its in grid}))
    known = {
        name: its for name, its in told["settings"].items() if name in wanted and wanted[name].items() <= its.items()
    }
    figures = {(name, 1.0): its["figures"] for name, its in known.items()}
    return Table(figures, {name: its["family"] for name, its in known.items()})


def run_report(
    store: Store,
    report: Report,
    models: Models,
    actors: int,
    contenders: "Sequence[Contender]",
    cases: int,
    tuning_cases: int,
) -> dict[str, Any]:
    """Run, and write `<report>/` with rows, summary, plots and page; returns the summary. tuning_cases: those that the
    peers' settings were chosen on."""
    from eim_ops.bench.summary import summarise, tabulate

    write_cases(store, chunks(report.world, "test", cases), models, actors)
    work = units(report, "test", cases, contenders)
    rows = measure_units(store, work, models, actors, report.name)
    ours = next(unit for unit in work if unit.contender.name == "eim")
    conditions = measure_conditions(store, ours, models)
    about = {"models": asdict(models), "cases": cases, "tuning_cases": tuning_cases}
    summary = {**about, **summarise(rows), "text_conditions": conditions}
    drawn = plots(tabulate(rows), rows, summary)
    folder = store.below(report.name)
    folder.write("rows.parquet", parquet_bytes(pa.Table.from_pylist(rows)))
    folder.write("summary.json", _json(summary))
    for name, data in drawn.items():
        folder.write(name, data)
    shown = read_cases(store, work[0], models)[:PICTURES]
    folder.write("index.html", page(report, shown, rows, summary, drawn))
    return summary


def write_summary(store: Store, models: Models) -> None:
    """`summary.json` of all reports of these models that the store holds, in one run or in several; its `methods` and
    `eim` are those of the headline, or where that is missing of the first."""
    there = [name for name in REPORTS if store.exists(f"{name}/summary.json")]
    summaries = {name: json.loads(store.read(f"{name}/summary.json")) for name in there}
    of_these = {name: its for name, its in summaries.items() if its.get("models") == asdict(models)}
    store.write("summary.json", _json({**next(iter(of_these.values())), "reports": of_these}))


def write_dataset(store: Store, models: Models, actors: int, worlds: "Sequence[World]", cases: int) -> None:
    """The cases of these worlds, both splits, as a dataset."""
    cut = [c for world in worlds for c in (*chunks(world, "test", cases), *chunks(world, "tuning", TUNING_CASES))]
    write_cases(store, cut, models, actors)
    export(store, cut, models)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
