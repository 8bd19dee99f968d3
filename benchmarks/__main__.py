"""`python -m benchmarks --out out/bench`: every measurement that is not there yet, then one table of all.

Each measurement leaves one file, so that the command goes on where it stopped; remove the file to measure again. The
figures of one ratio are taken one after the other on the same machine: leave it alone meanwhile.
"""

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks import cold_start, control_plane, growth, listing, pipeline_efficiency, scaleout, speedups, sweep
from benchmarks.figure import Figures, load, plain, save, table
from benchmarks.sizes import QUICK, Sizes

Measure = Callable[[Path, Sizes], Figures]

MEASUREMENTS: dict[str, Measure] = {
    "pipeline_efficiency": pipeline_efficiency.measure,
    "speedup_flowedit_loop": speedups.flowedit_loop,
    "speedup_plain_ray": speedups.plain_ray,
    "speedup_daft": speedups.daft,
    "sweep": sweep.measure,
    "cold_start": cold_start.measure,
    "growth": growth.measure,
    "scaleout": scaleout.measure,
    "control_plane": control_plane.measure,
    "listing": listing.measure,
}
"""By name; each gives one figure or a few that share their runs."""


def main(
    out: Annotated[Path, typer.Option(help="the folder for bench.json, bench.md and what is measured with")],
    only: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(MEASUREMENTS)}")] = None,
    quick: Annotated[bool, typer.Option(help="smallest sizes: shows that it runs, its figures mean nothing")] = False,
) -> None:
    """Measure what is not measured yet."""
    for name in only or ():
        if name not in MEASUREMENTS:
            raise typer.BadParameter(f"{name!r}; known: {', '.join(MEASUREMENTS)}", param_hint="--only")
    out = out.absolute()  # the S3 server's processes have their own folder
    out.mkdir(parents=True, exist_ok=True)
    figures: Figures = {}
    for name, measure in MEASUREMENTS.items():
        path = out / f"{name}.json"
        if not path.exists() and (not only or name in only):
            work = out / "work" / name
            save(path, measure(work, QUICK if quick else Sizes()))
            shutil.rmtree(work, ignore_errors=True)
        if path.exists():
            figures |= load(path)
    about = {"machine": _machine(), "quick": quick, "figures": plain(figures)}
    (out / "bench.json").write_text(json.dumps(about, indent=1) + "\n")
    (out / "bench.md").write_text(table(figures) + "\n")
    print(table(figures))


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} {platform.machine()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


if __name__ == "__main__":
    typer.run(main)
