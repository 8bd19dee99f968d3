from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.cost import Costs, costs
from eim_ops.method import Method
from pipeline.estimate import Rates, Spread, Workload, storage_of, time_of
from pipeline.placement import Cluster, plan_placement
from tests.pipeline.builders import make_recipe

counts = st.integers(0, 10**6)
works = st.builds(Workload, counts, counts, counts)
prices = st.builds(Costs, *[st.integers(0, 500)] * 4)
spreads = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9).map(Spread.of)


@given(st.lists(works, max_size=5), prices)
def test_evaluations_of_parts_add_up(parts: list[Workload], price: Costs) -> None:
    whole = reduce(add, parts, Workload())
    assert whole.evaluations(price) == sum(part.evaluations(price) for part in parts)


@given(works, prices, st.integers(2, 64))
def test_padding_fills_batches_and_no_more(work: Workload, price: Costs, batch: int) -> None:
    padded = work.padded(batch)
    for real, full in zip(vars(work).values(), vars(padded).values(), strict=True):
        assert full % batch == 0
        assert real <= full < real + batch
    assert padded.evaluations(price) >= work.evaluations(price)


@given(st.integers(0, 200), st.integers(1, 4), st.integers(1, 9), st.integers(2, 32))
def test_padding_is_exact_where_images_ask_for_equally_many(images: int, targets: int, edits: int, batch: int) -> None:
    """Calls have `batch` images each, and full batches of what these ask for."""
    calls = [min(batch, images - start) for start in range(0, images, batch)]
    ran = reduce(add, (Workload(n, n * targets, n * edits).padded(batch) for n in calls), Workload())
    assert Workload(images, images * targets, images * edits).padded(batch) == ran


@given(st.builds(Method, steps=st.integers(1, 50), draws=st.integers(1, 16), iterations=st.integers(1, 8)))
def test_more_strengths_cost_decoding_alone(method: Method) -> None:
    price = costs(method)
    one, four = (Workload(10, 10, 10 * strengths).evaluations(price) for strengths in (1, 4))
    assert four - one == 30 * price.decode


@given(works, prices, spreads, spreads, st.integers(0, 64))
def test_time_is_of_the_longer_pool_and_gpu_hours_of_all(
    work: Workload, price: Costs, evaluation: Spread, caption: Spread, gpus: int
) -> None:
    plan = plan_placement(make_recipe(), Cluster(4 + 8 * gpus, gpus), 1000, 4)
    time = time_of(work, price, Rates("", evaluation, caption, None), plan, 16)
    assert time.seconds.low <= time.seconds.middle <= time.seconds.high
    assert time.seconds.middle == max(time.edit_seconds.middle, time.caption_seconds.middle)
    busy = work.padded(16).evaluations(price) * evaluation.middle
    assert time.edit_seconds.middle * plan.edit.size == pytest.approx(busy)
    assert time.gpu_hours.middle == pytest.approx(time.seconds.middle * gpus / 3600)


def test_a_split_placement_takes_as_long_as_its_longest_pool() -> None:
    plan = plan_placement(make_recipe(placement="split", pools={"edit": {"size": 1}}), Cluster(16), 1000, 4)
    rates = Rates("", Spread.of([0.5]), Spread.of([0]), None)
    time = time_of(Workload(images=16, targets=16, edits=64), Costs(20, 4, 4, 30), rates, plan, 16)
    assert time.seconds.middle == 64 * 30 * 0.5


def test_a_spread_of_nothing_is_refused() -> None:
    assert Spread.of([2.0]) == Spread(2, 2, 2)
    with pytest.raises(ValueError, match="no measurements"):
        Spread.of([])


def test_storage_counts_images_parts_and_captions() -> None:
    rates = Rates("", Spread.of([1]), Spread.of([1]), Spread.of([1000]))
    storage = storage_of(Workload(100, 100, 400), rates, 64 * 64, 2, 10, True)
    assert (storage.images, storage.parts, storage.captions) == (400, 2 + 9, 100)
    assert (storage.image_bytes, storage.raw_bytes) == (Spread.of([400_000]), 400 * 3 * 64 * 64)
    assert storage_of(Workload(), None, 64, 0, 10, True).parts == 0
