from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from eim_ops.bench.contenders import Contender
from eim_ops.peers.flowedit import FlowEditSettings
from pipeline.bench.known import FILE, take_known, write_known
from pipeline.bench.run import SCHEMA
from pipeline.bench.spec import HEADLINE, Models, Unit, units
from pipeline.storage import Store, open_store

MODELS = Models("mini-dit", "1", "2", "3")
PEER = Contender("flowedit", "flowedit", FlowEditSettings(steps=3, last=2))
PICTURED, *PLAIN = units(HEADLINE, "test", 100, [PEER])


def table_of(unit: Unit) -> pa.Table:
    row: dict[str, Any] = {"attribute": "smile", "strength": 1.0, "success": True, "changes": [0.5, 0.0]}
    cases = range(unit.cases.start, unit.cases.stop)
    return pa.Table.from_pylist(
        [{**row, "case": case, "image": b"png" if unit == PICTURED and case < 2 else None} for case in cases], SCHEMA
    )


def measured(folder: Path, *work: Unit) -> Store:
    store = open_store(str(folder))
    for unit in work:
        store.write_table(unit.key(MODELS), table_of(unit))
    return store


def test_what_an_earlier_run_measured_is_taken_but_for_units_with_pictures(tmp_path: Path) -> None:
    earlier, store = measured(tmp_path / "a", PICTURED, *PLAIN), open_store(str(tmp_path / "b"))
    write_known(earlier, [PICTURED, *PLAIN], MODELS)
    assert take_known(earlier, store, [PICTURED, *PLAIN], MODELS) == len(PLAIN) == 2
    assert not store.exists(PICTURED.key(MODELS))
    assert all(store.read_table(unit.key(MODELS)) == table_of(unit) for unit in PLAIN)


def test_only_what_is_asked_for_and_has_not_changed_is_taken(tmp_path: Path) -> None:
    earlier, store = measured(tmp_path / "a", *PLAIN), open_store(str(tmp_path / "b"))
    write_known(earlier, PLAIN, MODELS)
    assert take_known(earlier, store, PLAIN, replace(MODELS, judge_revision="4")) == 0
    changed = replace(PLAIN[0], contender=replace(PEER, settings=FlowEditSettings(steps=4, last=2)))
    assert take_known(earlier, store, [changed, PLAIN[1]], MODELS) == 1
    assert store.keys("rows") == [PLAIN[1].key(MODELS)]


def test_a_run_that_kept_no_rows_knows_none(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_known(store, PLAIN, MODELS)
    assert not store.exists(FILE) and take_known(store, store, PLAIN, MODELS) == 0
