"""`eim plan RECIPE.yaml`: what a run would do and cost, before anything runs."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.refusal import refuse
from pipeline.estimate import Spread
from pipeline.kubernetes import kustomize_component, worker_groups
from pipeline.placement import Cluster, PlacementError
from pipeline.recipe import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from pipeline.forecast import Forecast
    from pipeline.operations import Operations


def plan(
    recipe: Annotated[Path, typer.Argument(help="a YAML recipe, such as examples/demo.yaml")],
    calibrate: Annotated[
        int, typer.Option(min=0, metavar="N", help="run the edits of N images here, to know the time; keeps nothing")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as one JSON object")] = False,
    cpus: Annotated[float | None, typer.Option(min=1, help="of the cluster to plan for; else those found")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="of the cluster to plan for, with --cpus")] = 0,
    k8s: Annotated[
        bool, typer.Option("--k8s", help="print the workers as a kustomize component for the overlays of infra/k8s")
    ] = False,
    address: Annotated[str | None, typer.Option(help="a Ray cluster; else RAY_ADDRESS, else this machine")] = None,
) -> None:
    """Tell what is left to do, its model evaluations, time, storage and pools; writes nothing and starts no job."""
    try:
        checked = load_recipe(recipe)
        run(checked, calibrate=calibrate, as_json=as_json, k8s=k8s, cluster=find_cluster(cpus, gpus, address))
    except (RecipeError, PlacementError) as error:
        refuse(error)


def run(
    recipe: Recipe,
    *,
    cluster: Cluster,
    calibrate: int = 0,
    as_json: bool = False,
    k8s: bool = False,
    operations: "Operations | None" = None,
) -> None:
    """Print the plan of a checked recipe, by default with the operations of `eim_ops`."""
    from pipeline.forecast import forecast
    from pipeline.model_loading import ModelError
    from pipeline.operations import real_operations
    from pipeline.retrying import StorageError

    try:
        told = forecast(recipe, operations or real_operations(), cluster, calibrate)
    except (StorageError, PermissionError, ModelError) as error:
        refuse(error)
    if k8s:
        print(kustomize_component(worker_groups(told.plan, cluster, told.blocks)), end="")
    elif as_json:
        print(json.dumps(dataclasses.asdict(told)))
    else:
        show_forecast(recipe, told, Console(highlight=False))


def find_cluster(cpus: float | None, gpus: float, address: str | None) -> Cluster:
    """The cluster that is given, or the one that is there; Ray is not started."""
    if address and (cpus is not None or gpus):
        raise PlacementError(
            "--address: a cluster that is there has CPUs and GPUs of its own; leave --cpus and --gpus out"
        )
    if cpus is not None:
        return Cluster(cpus, gpus)
    if gpus:
        raise PlacementError("--gpus: give --cpus too, the CPUs of the whole cluster")
    if address or os.environ.get("RAY_ADDRESS"):
        from pipeline.cluster import cluster_resources, connect

        connect(address)
        return cluster_resources()
    import torch

    return Cluster(os.cpu_count() or 1, torch.cuda.device_count())


def show_forecast(recipe: Recipe, told: "Forecast", console: Console) -> None:
    """The plan for people."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, text in _lines(recipe, told):
        table.add_row(name, text)
    console.print(table)
    if told.other_settings:
        console.print(
            f"{recipe.output} holds edits made with other settings: `eim edit` will show which; --new-run keeps both",
            style="yellow",
            soft_wrap=True,
        )


def _lines(recipe: Recipe, told: "Forecast") -> list[tuple[str, str]]:
    account, work, price, plan = told.account, told.account.work, told.costs, told.plan
    padding = f"{told.with_padding - told.evaluations:,} more, in full batches of {recipe.batch}"
    of = (
        f"{work.images:,} x ({price.encode} encode + {price.source} source of directions) + "
        f"{work.targets:,} x {price.identify} identify"
    )
    pools = [
        f"{pool.size} {name} x ({pool.num_cpus:g} CPU, {pool.num_gpus:g} GPU, {pool.threads} threads)"
        for name, pool in plan.pools.items()
    ]
    cached = f", at most {told.storage.captions:,} captions" if told.storage.captions else ""
    return [
        ("images", f"{account.images:,}"),
        ("edits", f"{account.asked:,}: {account.edits:,} done, {account.failures:,} failed, {account.left:,} left"),
        ("evaluations", f"{told.evaluations:,} = {of} + {work.edits:,} x {price.decode} decode"),
        ("sizes", _sizes(recipe, told)),
        ("padding", f"at least {padding} of one size" if recipe.aspect_buckets else padding),
        *_times(told),
        ("objects", f"{told.storage.images:,} images, at most {told.storage.parts:,} parts{cached}"),
        ("bytes", _bytes(told)),
        ("cluster", f"{told.cluster.cpus:g} CPUs, {told.cluster.gpus:g} GPUs"),
        ("pools", f"{', '.join(pools)}; tasks {plan.task_cpus:g} CPU; blocks of {plan.block_rows}"),
        ("blocks", f"at most {told.blocks}, of an object store {_store(told)}"),
    ]


def _store(told: "Forecast") -> str:
    return f"of {_size(told.cluster.object_store)}" if told.cluster.object_store else "whose size is not known here"


def _times(told: "Forecast") -> list[tuple[str, str]]:
    if told.time is None or told.rates is None:
        return [("time", "unknown: use --calibrate N")]
    rate, hours = told.rates.evaluation, told.time.gpu_hours
    lines = [
        ("time", f"{_span(told.time.seconds)} ({told.rates.source})"),
        ("rates", f"{_numbers(rate.scaled(1000))} ms an evaluation, "
                  f"{_numbers(told.rates.caption.scaled(1000))} ms of captioning an edit"),
    ]  # fmt: skip
    return [*lines, ("GPU-hours", _numbers(hours))] if hours.high else lines


def _sizes(recipe: Recipe, told: "Forecast") -> str:
    its = ", ".join(f"{size.width} x {size.height}" for size in told.facts.sizes)
    return f"{its} px" + ("; stored at the source's" if recipe.output_size == "source" else "")


def _bytes(told: "Forecast") -> str:
    known, raw = told.storage.image_bytes, told.storage.raw_bytes
    if raw is None:
        return "unknown, of the sources' sizes: use --calibrate N" if known is None else _size(known.middle)
    if known is None:
        return f"about {_size(raw)} at most, as raw pixels"
    return f"{_size(known.middle)} of images ({_size(raw)} raw)"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def _numbers(spread: Spread) -> str:
    if spread.low == spread.high:
        return f"{spread.middle:.3g}"
    return f"{spread.middle:.3g} ({spread.low:.3g} to {spread.high:.3g})"


def _span(spread: Spread) -> str:
    """Seconds as hours, minutes and seconds."""

    def clock(seconds: float) -> str:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

    whole = clock(spread.middle)
    return whole if spread.low == spread.high else f"{whole} ({clock(spread.low)} to {clock(spread.high)})"


if __name__ == "__main__":
    typer.run(plan)
