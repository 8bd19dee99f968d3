"""How many blocks a stream holds."""

import pytest
from ray.data.context import DEFAULT_TARGET_MAX_BLOCK_SIZE, MAX_SAFE_BLOCK_SIZE_FACTOR

from pipeline.blocks import (
    _MOST_BLOCK_BYTES,
    _UNCUT_BYTES,
    IN_FLIGHT,
    BlockMemory,
    block_memory,
    edited_blocks,
    fit_blocks,
    most_waiting,
    stored_blocks,
)
from pipeline.placement import Cluster, PlacementError, Plan, plan_placement
from tests.pipeline.builders import make_recipe

ONE_EDITOR = {"edit": {"size": 1}}


def plan(cpus: float, gpus: float = 0, **recipe: object) -> Plan:
    return plan_placement(make_recipe(**recipe), Cluster(cpus, gpus), 1000, 16)


def test_as_much_may_wait_as_the_largest_pool_has_in_flight() -> None:
    assert most_waiting(plan(2, pools=ONE_EDITOR).pools) == IN_FLIGHT
    assert most_waiting(plan(32, 8).pools) == IN_FLIGHT * 6


def test_what_a_death_costs_is_in_flight_waiting_or_being_written() -> None:
    # Of two CPUs the actors have one, and one writes.
    assert edited_blocks(plan(2, pools=ONE_EDITOR), 2) == 2 + (2 - 1) + 1
    # Eight actors of a CPU each, and 24 that write.
    assert edited_blocks(plan(32, 8), 32) == 6 * 2 + (12 - 1) + 24


MEGAPIXEL, EDITS = 2**20, 4


def fitted(store: float, pixels: int = MEGAPIXEL, **recipe: object) -> Plan:
    """Of two CPUs, 1000 images of a megapixel with four edits each, by one editor."""
    checked, cluster = make_recipe(pools=ONE_EDITOR, **recipe), Cluster(2, object_store=store)
    return fit_blocks(plan_placement(checked, cluster, 1000, EDITS), checked, cluster, pixels, EDITS)


def test_blocks_of_small_rows_count_whole_and_large_ones_as_ray_cuts_them() -> None:
    made = plan(2, pools=ONE_EDITOR)  # 16 images with 16 edits each
    small, large = (block_memory(made, Cluster(2), pixels, 16) for pixels in (64 * 64, MEGAPIXEL))
    assert small == BlockMemory(8, 16 * 3 * 64 * 64, 4, 16 * 17 * 3 * 64 * 64)
    assert (large.source_bytes, large.edited_bytes) == (16 * 3 * MEGAPIXEL, 128 * 2**20)
    assert block_memory(made, Cluster(2), 64 * MEGAPIXEL, 16).edited_bytes == 17 * 3 * 64 * MEGAPIXEL, "no row is cut"


def test_blocks_shrink_by_whole_batches_to_what_the_object_store_holds() -> None:
    assert (fitted(0).block_rows, fitted(16e9).block_rows) == (64, 64)
    assert fitted(3e9, batch=8).block_rows == 32
    assert fitted(1e9).block_rows == 16, "one batch, though it needs more than half"
    bucketed = fitted(3e9, batch=8, aspect_buckets=True)
    assert bucketed.unit_rows == bucketed.block_rows == 32


def test_blocks_hold_no_more_sources_than_ray_leaves_uncut_or_one_batch() -> None:
    assert (_MOST_BLOCK_BYTES, _UNCUT_BYTES) == (
        DEFAULT_TARGET_MAX_BLOCK_SIZE,
        MAX_SAFE_BLOCK_SIZE_FACTOR * DEFAULT_TARGET_MAX_BLOCK_SIZE,
    )
    sides = (512, 1024, 1280, 1536, 2048, 4096)
    assert [fitted(0, side * side).block_rows for side in sides] == [64, 64, 32, 16, 16, 16]
    assert fitted(0, 2048 * 2048, batch=6).block_rows == 12
    assert fitted(64e9, 2048 * 2048).block_rows == 16, "though the store holds more"
    bucketed = fitted(0, 2048 * 2048, aspect_buckets=True)
    assert bucketed.block_rows == bucketed.unit_rows == 64, "an actor fills its batches from all of a block"


def _cuts(rows: int, row: int, unit: int) -> int:
    """Into how many blocks Ray cuts a task's rows that come `unit` at a time, as its output buffer does."""
    blocks = waiting = 0
    for start in range(0, rows, unit):
        waiting += min(unit, rows - start)
        while waiting * row > DEFAULT_TARGET_MAX_BLOCK_SIZE:
            cut = waiting * row >= MAX_SAFE_BLOCK_SIZE_FACTOR * DEFAULT_TARGET_MAX_BLOCK_SIZE
            waiting -= min(waiting, -(-DEFAULT_TARGET_MAX_BLOCK_SIZE // row)) if cut else waiting
            blocks += 1
    return blocks + (waiting > 0)


@pytest.mark.parametrize("edits", [1, 2, 4, 16])
@pytest.mark.parametrize("side", [64, 512, 1024, 2048])
@pytest.mark.parametrize("smaller", [1.0, 0.6, 0.1])
def test_no_more_blocks_are_written_than_are_told(edits: int, side: int, smaller: float) -> None:
    """smaller: what PNG makes of a source."""
    recipe, cluster = make_recipe(pools=ONE_EDITOR), Cluster(2)
    made = fit_blocks(plan_placement(recipe, cluster, 1000, edits), recipe, cluster, side * side, edits)
    source, edited = max(1, int(3 * side * side * smaller)), 3 * side * side * edits
    blocks = -(-1000 // made.block_rows)
    for_each = _cuts(made.block_rows, source + edited, recipe.batch)
    told = stored_blocks(made, 1000, side * side, edits)
    assert blocks <= told
    assert (blocks - 1) * for_each < told
    if side == 64:
        assert told == blocks


def test_a_store_that_holds_no_blocks_of_one_batch_is_refused_with_the_arithmetic() -> None:
    terms = r"8 blocks of sources x 50 MB \+ 4 of edits x 134 MB = 940 MB, more than the 900 MB"
    with pytest.raises(PlacementError, match=terms):
        fitted(0.9e9)
