"""The benchmark on Ray: one work unit for each contender and chunk of cases, each a Parquet part of its own.

A part is named by all that its rows depend on, so a run that was stopped, or is given more contenders, does what is
left. Seconds are wall time of the unit's edits on one actor, loading aside.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from pipeline.identity import canonical_json, sha256_bytes
from pipeline.storage import Store

_CHUNK = 24
SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("case", pa.int64()),
        ("attribute", pa.string()),
        ("kind", pa.string()),
        ("target", pa.string()),
        ("strength", pa.float64()),
        ("success", pa.bool_()),
        ("kept", pa.float64()),
        ("on_target", pa.float64()),
        ("off_target", pa.float64()),
        ("reading", pa.float64()),
        ("psnr_true", pa.float64()),
        ("evaluations", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
"""One row for each case, method and strength."""


@dataclass(frozen=True)
class BenchRun:
    """What is measured: these contenders on the first `cases` cases of one world, at these strengths."""

    model: str
    contenders: tuple[str, ...]
    cases: int
    correlated: bool
    strengths: tuple[float, ...]
    batch: int = 16


@dataclass(frozen=True)
class _Unit:
    contender: str
    start: int
    stop: int
    key: str


def _units(run: BenchRun, revision: str) -> list[_Unit]:
    from eim_ops.bench.contenders import CONTENDERS

    units = []
    for name in run.contenders:
        for start in range(0, run.cases, _CHUNK):
            stop = min(start + _CHUNK, run.cases)
            content: dict[str, Any] = {**dataclasses.asdict(run), "contenders": None, "cases": [start, stop]}
            content |= {"revision": revision, "contender": name, "settings": dict(CONTENDERS[name].settings)}
            digest = sha256_bytes(canonical_json(content).encode())[:16]
            units.append(_Unit(name, start, stop, f"rows/{name}/{start:05d}-{digest}.parquet"))
    return units


class BenchStage:
    """An actor: runs work units with one loaded backbone and judge, and writes their parts."""

    def __init__(self, run: BenchRun, store: Store, threads: int) -> None:
        import torch

        from eim_ops.faces.judge import load_judge
        from eim_ops.load import load_backbone

        torch.set_num_threads(threads)
        self._run, self._store = run, store
        self._backbone, self._judge = load_backbone(run.model), load_judge()

    def __call__(self, units: pa.Table) -> pa.Table:
        for unit in units.to_pylist():
            self._store.write_table(unit["key"], pa.Table.from_pylist(self._measure(unit), schema=SCHEMA))
        return units

    def _measure(self, unit: dict[str, Any]) -> list[dict[str, Any]]:
        from eim_ops.bench.cases import draw_cases, sources, truths
        from eim_ops.bench.contenders import CONTENDERS, run
        from eim_ops.bench.measure import measure
        from eim_ops.edit import to_images, to_pixels

        cases = draw_cases(unit["stop"], self._run.correlated)[unit["start"] :]
        contender = CONTENDERS[unit["contender"]]
        started = time.perf_counter()
        edited = run(contender, self._backbone, cases, self._run.strengths, self._run.batch)
        seconds = (time.perf_counter() - started) / (len(cases) * len(edited))
        round_trips = to_pixels(self._backbone.decode(self._backbone.encode_image(to_images(list(sources(cases))))))
        rows = [row for one in edited for row in measure(self._judge, cases, one, round_trips, truths(cases))]
        return [{**row, "method": contender.name, "seconds": seconds} for row in rows]


def run_bench(run: BenchRun, store: Store, actors: int, threads: int) -> list[dict[str, Any]]:
    """All rows of the run; what storage holds already isn't run again. Ray must be connected."""
    from eim_ops.load import model_revision

    units = _units(run, model_revision(run.model))
    there = set(store.keys("rows"))
    left = [dataclasses.asdict(unit) for unit in units if unit.key not in there]
    if left:
        stage = {"fn_constructor_kwargs": {"run": run, "store": store, "threads": threads}}
        pool = ActorPoolStrategy(size=min(actors, len(left)))
        data = ray.data.from_items(left, override_num_blocks=len(left))
        data.map_batches(
            BenchStage, batch_size=1, batch_format="pyarrow", compute=pool, num_cpus=0.5, **stage
        ).materialize()
    return [row for unit in units for row in store.read_table(unit.key).to_pylist()]


def contenders_by_name(names: Sequence[str]) -> tuple[str, ...]:
    """The contenders that are meant; a name may end in * for all that begin so. Raises ValueError on an unknown one."""
    from eim_ops.bench.contenders import CONTENDERS

    chosen: list[str] = []
    for name in names:
        begin = name.removesuffix("*")
        found = [known for known in CONTENDERS if known == name or (name.endswith("*") and known.startswith(begin))]
        if not found:
            raise ValueError(f"no contender {name!r}; there are: {', '.join(CONTENDERS)}")
        chosen += found
    return tuple(dict.fromkeys(chosen))
