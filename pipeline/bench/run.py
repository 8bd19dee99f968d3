"""The benchmark on Ray: cases first, then the peers' tuning, then the reports. What storage holds isn't done again."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.bench.dataset import describe
from pipeline.bench.spec import PICTURES, CaseChunk, Models, Unit
from pipeline.cluster import RETRIES, configure_data
from pipeline.decode import encode_png
from pipeline.storage import Store

if TYPE_CHECKING:
    from eim_ops.bench.cases import Case

Row = dict[str, Any]
SCHEMA = pa.schema(
    [
        ("case", pa.int64()),
        ("attribute", pa.string()),
        ("kind", pa.string()),
        ("target", pa.string()),
        ("strength", pa.float64()),
        ("success", pa.bool_()),
        ("kept", pa.float64()),
        ("on_target", pa.float64()),
        ("off_target", pa.float64()),
        ("changes", pa.list_(pa.float64())),
        ("reading", pa.float64()),
        ("psnr_true", pa.float64()),
        ("triangle_deficit", pa.float64()),
        ("direction_method", pa.string()),
        ("evaluations", pa.float64()),
        ("seconds", pa.float64()),
        ("image", pa.binary()),
    ]
)
"""One row for each case and strength of a unit; `image` is a PNG of the first cases at strength 1."""


class CaptionCases:
    """An actor: writes chunks of cases with the captioner's prompts."""

    def __init__(self, models: Models, store: Store) -> None:
        from eim_ops.named_models import load_captioner

        self._models, self._store, self._captioner = models, store, load_captioner("mini-vlm")

    def __call__(self, batch: pa.Table) -> pa.Table:
        for chunk in _unpacked(batch):
            self._store.write_table(chunk.key(self._models), describe(chunk, self._captioner))
        return batch


class MeasureUnits:
    """An actor: runs units with one loaded backbone and judge, and writes their rows."""

    def __init__(self, models: Models, store: Store) -> None:
        from eim_ops.faces.judge import load_judge
        from eim_ops.named_models import load_backbone

        self._models, self._store = models, store
        self._backbone, self._judge = load_backbone(models.backbone), load_judge()

    def __call__(self, batch: pa.Table) -> pa.Table:
        for unit in _unpacked(batch):
            table = pa.Table.from_pylist(self._measure(unit), schema=SCHEMA)
            self._store.write_table(unit.key(self._models), table)
        return batch

    def _measure(self, unit: Unit) -> list[Row]:
        from eim_ops.bench.cases import sources, truths
        from eim_ops.bench.contenders import run
        from eim_ops.bench.measure import measure
        from eim_ops.edit import round_trips

        cases = read_cases(self._store, unit, self._models)
        started, before = time.perf_counter(), self._backbone.evaluations
        edited = run(unit.contender, self._backbone, cases, self._models.batch)
        # However many strengths were run, the reported evaluations are those of a sweep, and so are the seconds.
        an_evaluation = (time.perf_counter() - started) / max(1, self._backbone.evaluations - before)
        unedited, wanted = round_trips(self._backbone, list(sources(cases)), self._models.batch), truths(cases)
        rows = []
        for one in edited:
            measured = measure(self._judge, cases, one, unedited, wanted)
            for row, pixels in zip(measured, one.pixels, strict=True):
                shown = one.strength == 1 and row["case"] < PICTURES
                image = encode_png(pixels) if shown else None
                rows.append({**row, "seconds": an_evaluation * one.evaluations, "image": image})
        return rows


def read_cases(store: Store, unit: Unit, models: Models) -> "list[Case]":
    """A unit's cases with the prompts that it takes."""
    from eim_ops.bench.cases import draw_cases

    chunk = unit.cases
    cases = draw_cases(chunk.stop, chunk.world, chunk.split)[chunk.start :]
    if unit.captions == "truth":
        return cases
    columns = ["vlm_source_prompt", "vlm_target_prompt"]
    written = store.read_table(chunk.key(models), columns).to_pylist()
    return [
        replace(case, source_prompt=row[columns[0]], target_prompt=row[columns[1]])
        for case, row in zip(cases, written, strict=True)
    ]


def write_cases(store: Store, chunks: Sequence[CaseChunk], models: Models, actors: int) -> None:
    """Draw and caption the cases that storage does not hold. Ray must be connected."""
    _run_all("cases", CaptionCases, store, chunks, models, actors)


def measure_units(store: Store, units: Sequence[Unit], models: Models, actors: int, title: str) -> list[Row]:
    """All rows of the units, each with its contender's name and family. Ray must be connected."""
    _run_all(title, MeasureUnits, store, units, models, actors)
    return [
        {"method": unit.contender.name, "family": unit.contender.family, **row}
        for unit in units
        for row in store.read_table(unit.key(models)).to_pylist()
    ]


def measure_conditions(store: Store, unit: Unit, models: Models) -> dict[str, float]:
    """How far changed text conditions move the unit's images, and whether two changes add; see `text_conditions`.

    unit: of our method, prompts from ground truth. One task; kept in storage. Ray must be connected.
    """
    key = unit.key(models).replace("rows/", "conditions/").replace(".parquet", ".json")
    if not store.exists(key):
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_conditions)
        store.write(key, json.dumps(ray.get(task.remote(unit, models))).encode())
    return json.loads(store.read(key))


def _conditions(unit: Unit, models: Models) -> dict[str, float]:
    from eim_ops.bench.cases import draw_cases, next_value, sources
    from eim_ops.metrics.disentanglement import text_conditions
    from eim_ops.named_models import load_backbone

    cases = draw_cases(unit.cases.stop, unit.cases.world, unit.cases.split)[unit.cases.start :]
    prompts, pairs = [c.source_prompt for c in cases], [(c.target_prompt, next_value(c)) for c in cases]
    method: Any = unit.contender.settings
    backbone = load_backbone(models.backbone)
    return asdict(text_conditions(backbone, list(sources(cases)), prompts, pairs, method, models.batch))


def _run_all(
    title: str, stage: type, store: Store, work: Sequence[CaseChunk | Unit], models: Models, actors: int
) -> None:
    there = {*store.keys("cases"), *store.keys("rows")}
    left = [one for one in work if one.key(models) not in there]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=len(work), completed=len(work) - len(left))
        for done in _streamed(stage, store, left, models, actors) if left else ():
            progress.advance(task, done)
            if not progress.console.is_terminal:  # the bar is drawn at the end only
                progress.console.print(f"{title}: {progress.tasks[task].completed:g} of {len(work)}")


def _streamed(
    stage: type, store: Store, left: Sequence[CaseChunk | Unit], models: Models, actors: int
) -> Iterable[int]:
    """Counts of pieces of work, as they are done."""
    configure_data()
    rows = [{"work": ray.cloudpickle.dumps(one)} for one in left]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        stage,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs={"models": models, "store": store},
        compute=ActorPoolStrategy(size=min(actors, len(left))),
        num_cpus=0.5,
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
    )
    for batch in done.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        yield len(batch)


def _unpacked(batch: pa.Table) -> Iterable[Any]:
    return (ray.cloudpickle.loads(packed) for packed in batch["work"].to_pylist())
