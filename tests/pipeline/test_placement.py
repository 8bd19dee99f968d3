import pytest

from pipeline.placement import Cluster, PlacementError, Plan, _packs, caption_rows, plan_placement
from tests.pipeline.builders import make_recipe


def plan(cpus: float, gpus: float = 0, images: int = 1000, edits_per_image: int = 16, **recipe: object) -> Plan:
    return plan_placement(make_recipe(**recipe), Cluster(cpus, gpus), images, edits_per_image)


@pytest.mark.parametrize("cpus", [2, 3, 4, 16, 128])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3)])
def test_a_task_always_finds_a_cpu(cpus: int, sizes: tuple[int, int]) -> None:
    made = plan(cpus, pools={"caption": {"size": sizes[0]}, "edit": {"size": sizes[1]}})
    pools = sum(pool.size * pool.num_cpus for pool in (made.caption, made.edit))
    assert pools + made.task_cpus <= cpus
    assert min(made.task_cpus, made.caption.num_cpus, made.edit.num_cpus) > 0
    assert made.edit.threads * made.edit.size <= max(cpus, made.edit.size)


def test_two_cores_hold_both_pools_and_one_task() -> None:
    made = plan(2, images=24)
    assert (made.caption.num_cpus, made.edit.num_cpus, made.task_cpus) == (0.5, 0.5, 1.0)
    assert (made.caption.threads, made.edit.threads) == (1, 2)
    assert made.edit.device == "cpu"


@pytest.mark.parametrize(("cpus", "gpus"), [(4, 0), (8, 0), (16, 0), (128, 0), (64, 8)])
def test_half_of_the_cpus_hold_all_actors_and_a_task(cpus: int, gpus: int) -> None:
    made = plan(cpus, gpus)
    assert sum(pool.size * pool.num_cpus for pool in made.pools.values()) + made.task_cpus <= cpus / 2


@pytest.mark.parametrize(("cpus", "images", "actors", "threads"), [
    (2, 63, 1, 2), (2, 64, 2, 1), (3, 1000, 3, 1), (16, 96, 3, 5), (16, 1000, 4, 4),
])  # fmt: skip
def test_without_gpus_cores_go_to_actors_that_have_batches_enough(
    cpus: int, images: int, actors: int, threads: int
) -> None:
    made = plan(cpus, images=images).edit
    assert (made.size, made.threads) == (actors, threads)


def test_one_gpu_is_shared_and_many_are_given_out_whole() -> None:
    one, eight = plan(8, 1), plan(32, 8)
    assert (one.caption.size, one.caption.num_gpus, one.edit.size, one.edit.num_gpus) == (1, 0.5, 1, 0.5)
    assert (eight.caption.size, eight.caption.num_gpus, eight.edit.size, eight.edit.num_gpus) == (2, 1, 6, 1)
    assert eight.edit.device == "cuda"


def test_gpus_are_left_alone_for_device_cpu() -> None:
    made = plan(8, 4, device="cpu")
    assert (made.edit.num_gpus, made.edit.device, made.edit.size) == (0, "cpu", 4)


@pytest.mark.parametrize(
    ("resources", "recipe", "message"),
    [
        ((2, 0), {"device": "cuda"}, "the cluster has no GPU"),
        ((2, 0), {"pools": {"edit": {"num_gpus": 1}}}, "leave num_gpus out"),
        (
            (8, 1),
            {"pools": {"edit": {"size": 2, "num_gpus": 1}, "caption": {"num_gpus": 0.5}}},
            r"= 2\.5 GPUs do not fit on 1",
        ),
        ((0, 0), {}, "has 0 CPUs; 2 are needed"),
        ((1.5, 0), {}, "has 1.5 CPUs; 2 are needed: 1 for tasks, and 1 for 2 actors to share"),
        ((2, 0), {"pools": {"edit": {"size": 199}}}, r"= 200 actors share 2 CPUs - 1 for tasks"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_arithmetic(resources: tuple, recipe: dict, message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        plan(*resources, **recipe)


@pytest.mark.parametrize(
    ("shares", "gpus", "fits"),
    [([0.5, 0.5], 1, True), ([0.6, 0.6, 0.6], 2, False), ([2, 1], 3, True), ([2, 0.5, 1], 3, False), ([], 0, True)],
)
def test_shares_of_a_gpu_are_not_split(shares: list[float], gpus: int, fits: bool) -> None:
    assert _packs(shares, gpus) == fits


@pytest.mark.parametrize("gpus", [0, 1, 2, 3, 8])
def test_a_split_placement_has_a_pool_for_each_stage_and_fits(gpus: int) -> None:
    made = plan(16, gpus, placement="split")
    assert list(made.pools) == ["caption", "encode", "identify", "edit"]
    assert sum(pool.size * pool.num_gpus for pool in made.pools.values()) <= gpus
    assert sum(pool.size * pool.num_cpus for pool in made.pools.values()) + made.task_cpus <= 16
    assert list(plan(16, gpus).pools) == ["caption", "edit"]


def test_a_split_placement_gives_gpus_by_the_work_of_the_stages() -> None:
    made = plan(64, 16, placement="split", edits_per_image=16)
    # 11 evaluations of an image to encode, 8 to identify its one target, 176 to edit.
    assert {name: pool.size for name, pool in made.pools.items()} == {
        "caption": 4,
        "encode": 1,
        "identify": 1,
        "edit": 10,
    }
    hsds = plan(64, 16, placement="split", edits_per_image=1, method={"image_half": "hsds"})
    assert hsds.identify is not None and hsds.identify.size > hsds.edit.size
    assert plan(4, 1, placement="split").edit.num_gpus == 0.25


def test_shared_directions_need_no_pool_that_identifies() -> None:
    assert list(plan(16, placement="split", direction="shared").pools) == ["caption", "encode", "edit"]


def test_a_split_placement_that_cannot_fit_is_refused_with_the_arithmetic() -> None:
    terms = r"1 x 0\.5 \(caption\) \+ 1 x 0\.5 \(encode\) \+ 1 x 0\.5 \(identify\) \+ 1 x 0\.5 \(edit\) = 2 GPUs"
    halves = {name: {"num_gpus": 0.5} for name in ("caption", "encode", "identify", "edit")}
    with pytest.raises(PlacementError, match=f"pools: {terms} do not fit on 1"):
        plan(8, 1, placement="split", pools=halves)


def test_blocks_hold_16_to_64_images() -> None:
    assert plan(2, images=10_000, edits_per_image=1).block_rows == 64
    assert plan(2, images=10_000, edits_per_image=8).block_rows == 32
    assert plan(2, images=10_000, edits_per_image=100).block_rows == 16
    assert plan(2, images=24, edits_per_image=1).block_rows == 16


@pytest.mark.parametrize("batch", [2, 3, 16, 24, 100])
@pytest.mark.parametrize("edits_per_image", [1, 7, 300])
def test_blocks_are_whole_batches(batch: int, edits_per_image: int) -> None:
    rows = plan(2, images=10_000, edits_per_image=edits_per_image, batch=batch).block_rows
    assert rows % batch == 0 and rows <= max(64, batch)


def test_aspect_buckets_take_larger_blocks_and_fill_batches_from_the_whole() -> None:
    one, many = (
        plan(2, images=10_000, edits_per_image=1),
        plan(2, images=10_000, edits_per_image=1, aspect_buckets=True),
    )
    assert (one.block_rows, one.unit_rows) == (64, 16)
    assert (many.block_rows, many.unit_rows, many.edit.size) == (128, 128, 2)
    assert plan(2, images=10_000, edits_per_image=8, aspect_buckets=True).unit_rows == 32
    assert plan(2, images=80, edits_per_image=1, aspect_buckets=True).unit_rows == 32
    assert plan(64, 8, images=80, edits_per_image=1, aspect_buckets=True).unit_rows == 16


def test_the_stall_guard_waits_for_a_slow_block() -> None:
    assert plan(2, edits_per_image=100).no_progress_seconds == 60 * 16 * 100


HTTP = {"kind": "http", "url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("captioner", "rows"),
    [
        ("fake", 16),
        ({**HTTP, "concurrency": 16}, 16),
        ({**HTTP, "concurrency": 17}, 64),
        ({"kind": "vllm", "model": "m"}, 64),
        ({"kind": "vllm", "model": "m", "questions": 8}, 16),
    ],
)
def test_a_captioner_that_asks_more_at_once_than_a_batch_takes_blocks(captioner: object, rows: int) -> None:
    recipe = make_recipe(captioner=captioner, batch=16)
    assert caption_rows(plan_placement(recipe, Cluster(16, 2), 10_000, 1), recipe) == rows


@pytest.mark.parametrize(
    ("gpus", "pools", "sizes"),
    [
        (100, {"edit": {"num_gpus": 0.5}}, (25, 150)),
        (8, {"edit": {"num_gpus": 0.25}}, (2, 24)),
        (8, {"caption": {"num_gpus": 2}}, (1, 6)),
        (8, {"edit": {"num_gpus": 2}}, (2, 3)),
        (8, {"edit": {"num_gpus": 2, "size": 1}}, (2, 1)),
        (8, {"edit": {"num_gpus": 0.3}}, (2, 20)),
        (1, {"edit": {"num_gpus": 0.25}}, (1, 1)),
    ],
)
def test_gpus_are_given_out_by_what_an_actor_takes_of_them(gpus: int, pools: dict, sizes: tuple[int, int]) -> None:
    made = plan(64 + 16 * gpus, gpus, pools=pools)
    assert (made.caption.size, made.edit.size) == sizes
    used = sum(pool.size * pool.num_gpus for pool in made.pools.values())
    assert used <= gpus


@pytest.mark.parametrize(
    ("gpus", "editors", "captioners", "share"),
    [(64, 60, 4, 1), (64, 64, 16, 1 / 2), (16, 32, 4, 1 / 3), (8, 8, 2, 1 / 2)],
)
def test_captioning_has_its_quarter_unless_the_editors_leave_less(
    gpus: int, editors: int, captioners: int, share: float
) -> None:
    made = plan(256, gpus, pools={"edit": {"size": editors}})
    assert (made.caption.size, made.edit.num_gpus) == (captioners, pytest.approx(share))


def test_captioning_takes_only_what_the_other_pools_leave() -> None:
    half = {"num_gpus": 0.5}
    pools = {"caption": half, "encode": half, "identify": {"num_gpus": 1}, "edit": {"size": 2, "num_gpus": 1}}
    its = plan(8, 4, images=100, edits_per_image=1, placement="split", pools=pools)
    assert its.encode is not None and its.identify is not None
    assert (its.caption.size, its.encode.size, its.identify.size, its.edit.size) == (1, 1, 1, 2)


def test_an_actor_with_more_gpus_than_any_node_is_refused() -> None:
    recipe = make_recipe(pools={"edit": {"size": 2, "num_gpus": 2}})
    with pytest.raises(PlacementError, match=r"pools.edit.num_gpus: an actor has 2 GPUs, and the largest node 1"):
        plan_placement(recipe, Cluster(64, 8, node_cpus=8, node_gpus=1), 1000, 16)
    assert plan_placement(recipe, Cluster(64, 8, node_cpus=32, node_gpus=4), 1000, 16).edit.num_gpus == 2


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "threads"),
    [(1, 16, 0, (8, 4)), (10, 16, 0, (8, 16)), (10, 16, 8, (8, 16)), (4, 16, 8, (8, 8))],
)
def test_threads_are_those_of_an_actors_own_node(nodes: int, cpus: int, gpus: int, threads: tuple[int, int]) -> None:
    cluster = Cluster(nodes * cpus, gpus, node_cpus=cpus, node_gpus=-(-gpus // nodes))
    made = plan_placement(make_recipe(), cluster, 1000, 16)
    assert (made.caption.threads, made.edit.threads) == threads
