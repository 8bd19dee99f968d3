"""Rows that an earlier run measured, in one file beside its reports: what they cover is not measured again.

Each row names its unit by the digest of all that it depends on: after a change of our method the peers' rows hold,
after one of the models none do. Units with pictures are left out: they are few, and most of the bytes.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bench.run import SCHEMA
from pipeline.bench.spec import Models, Unit
from pipeline.storage import Store, parquet_bytes

FILE = "rows.parquet"
_UNIT = "unit"
_COLUMNS = [name for name in SCHEMA.names if name != "image"]


def write_known(store: Store, work: Sequence[Unit], models: Models) -> None:
    """Put the rows of those units that the store holds into its `rows.parquet`."""
    keys = {unit.key(models) for unit in work} & {*store.keys("rows")}
    tables = {key: store.read_table(key) for key in sorted(keys)}
    plain = [
        table.select(_COLUMNS).append_column(_UNIT, pa.array([key] * len(table)))
        for key, table in tables.items()
        if table["image"].null_count == len(table)
    ]
    if plain:
        store.write(FILE, parquet_bytes(pa.concat_tables(plain)))


def take_known(known: Store, store: Store, work: Sequence[Unit], models: Models) -> int:
    """Put the rows of `known`'s `rows.parquet`, where it has one, into the store for the units of `work` that they
    cover; how many units that is. Raises StorageError where the file is damaged."""
    if not known.exists(FILE):
        return 0
    table = known.read_table(FILE)
    wanted = pa.array({unit.key(models) for unit in work})
    table = table.filter(pc.is_in(table[_UNIT], value_set=wanted))
    keys = table[_UNIT].unique().to_pylist()
    for key in keys:
        rows = table.filter(pc.equal(table[_UNIT], key)).select(_COLUMNS)
        images = pa.nulls(len(rows), SCHEMA.field("image").type)
        store.write_table(key, rows.append_column("image", images).cast(SCHEMA))
    return len(keys)
