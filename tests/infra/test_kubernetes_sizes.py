"""The sizes of the overlays: what their recipes need at least, and what `eim plan` gives."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.blocks import block_memory
from pipeline.kubernetes import Group, kustomize_component, worker_groups
from pipeline.placement import Cluster, PlacementError, plan_placement
from pipeline.recipe import Pool, Pools, Recipe
from tests.infra.overlays import K8S, SIZES, Object, cluster_spec, recipe_of, render
from tests.infra.schemas import check_core, ray_errors

GPU = "nvidia.com/gpu"


def groups_of(size: str) -> list[Object]:
    return cluster_spec(render(K8S / "overlays" / size / "cluster"))["workerGroupSpecs"]


def requested(group: Object) -> Object:
    return group["template"]["spec"]["containers"][0]["resources"]["requests"]


def least_cluster(groups: list[Object]) -> Cluster:
    """What `plan_placement` counts: the nodes that are there when a run starts, the least replicas of all groups."""
    totals = [sum(g["minReplicas"] * float(requested(g).get(name, 0)) for g in groups) for name in ("cpu", GPU)]
    return Cluster(*totals)


@pytest.mark.parametrize("kind", ["cluster", "sweep"])
@pytest.mark.parametrize("size", SIZES)
def test_the_recipe_fits_the_least_workers(size: str, kind: str) -> None:
    groups = groups_of(size)
    cluster = least_cluster(groups)
    plan = plan_placement(recipe_of(size, kind), cluster, 10_000, 8)
    if cluster.gpus:
        least = {group["groupName"]: group["minReplicas"] for group in groups}
        assert (plan.caption.num_gpus, plan.edit.num_gpus) == (1, 1)
        assert (plan.caption.size, plan.edit.size) == (least["caption"], least["edit"])
    actors = plan.caption.size * plan.caption.num_cpus + plan.edit.size * plan.edit.num_cpus
    assert actors + plan.task_cpus <= cluster.cpus


SIDES = {"cpu-small": 64, "gpu-a10": 1024, "gpu-h100": 1024}
LARGER = {
    ("cpu-small", "memory"): "4 GiB instead of 3: the mini models and their files pass through it",
    ("gpu-a10", "memory"): "28 GiB instead of 11: such machines have it, and weights pass through it",
    ("gpu-h100", "cpu"): "16 on the GPU workers: such machines have more than 15 for each GPU",
    ("gpu-h100", "memory"): "60 and 160 GiB: such machines have it, and weights pass through it",
}
"""Where a shipped size has more than the arithmetic asks for, and why; nowhere may it have less."""


def size_complaints(size: str, recipe: Recipe, shipped: list[Object]) -> list[str]:
    """Where the groups of a size are not what `eim plan` would give for a recipe."""
    cluster = least_cluster(shipped)
    edits = sum(len(edit.strengths) for edit in recipe.edits)
    plan = plan_placement(recipe, cluster, 10_000, edits)
    found = []
    blocks = block_memory(plan, cluster, SIDES[size] ** 2, edits)
    for group, its in zip(worker_groups(plan, cluster, blocks), shipped, strict=True):
        pairs = {"least": (its["minReplicas"], group.replicas), "most": (its["maxReplicas"], group.most)}
        if group.replicas:
            has = requested(its)
            pairs["gpus"] = (has.get(GPU, 0), group.gpus)
            pairs["cpu"] = (int(has["cpu"]), group.cpus)
            pairs["memory"] = (int(has["memory"].removesuffix("Gi")), group.memory_gib)
        for name, (is_now, wanted) in pairs.items():
            if is_now != wanted and not (is_now > wanted and (size, name) in LARGER):
                found.append(f"{group.name}: {name} is {is_now}, the plan wants {wanted}")
    return found


@pytest.mark.parametrize("kind", ["cluster", "sweep"])
@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_are_what_eim_plan_would_give(size: str, kind: str) -> None:
    assert size_complaints(size, recipe_of(size, kind), groups_of(size)) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("resources", {"requests": {"cpu": "7", "memory": "8Gi", GPU: 1}}, "edit: memory is 8"),
        ("resources", {"requests": {"cpu": "5", "memory": "28Gi", GPU: 1}}, "caption: cpu is 7, the plan wants 5"),
        ("minReplicas", 2, "edit: most is 3, the plan wants 2"),
        ("maxReplicas", 4, "edit: most is 4, the plan wants 3"),
    ],
)
def test_a_size_that_the_plan_would_not_give_is_found(path: str, value: Any, told: str) -> None:
    groups = groups_of("gpu-a10")
    place = groups[2] if path in groups[2] else groups[2]["template"]["spec"]["containers"][0]
    place[path] = value
    assert any(complaint.startswith(told) for complaint in size_complaints("gpu-a10", recipe_of("gpu-a10"), groups))


def test_the_component_that_eim_plan_prints_sizes_an_overlay(tmp_path: Path) -> None:
    cluster = Cluster(60, 6)
    plan = plan_placement(recipe_of("gpu-a10"), cluster, 10_000, 2)
    groups = worker_groups(plan, cluster, block_memory(plan, cluster, 1024**2, 2))
    assert [(group.replicas, group.cpus, group.gpus) for group in groups] == [(2, 7, 0), (1, 7, 1), (5, 7, 1)]
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "k8s" / "components" / "sized").mkdir()
    (tmp_path / "k8s" / "components" / "sized" / "kustomization.yaml").write_text(kustomize_component(groups))
    overlay = tmp_path / "k8s" / "overlays" / "gpu-a10" / "job" / "kustomization.yaml"
    sized = "[../../../components/sized, ../../../components/job]"
    overlay.write_text(overlay.read_text().replace("[../../../components/job]", sized))
    objects = render(overlay.parent)
    check_core(objects)
    assert ray_errors(objects, tmp_path) == ""
    (found,) = (item["spec"]["rayClusterSpec"]["workerGroupSpecs"] for item in objects if item["kind"] == "RayJob")
    for group, shipped in zip(groups, found, strict=True):
        assert (shipped["groupName"], shipped["minReplicas"], shipped["maxReplicas"]) == (
            group.name,
            group.replicas,
            group.most,
        )
        assert requested(shipped)["memory"] == f"{group.memory_gib}Gi"
        assert float(requested(shipped).get(GPU, 0)) == group.gpus


def test_the_workers_stores_hold_the_blocks_of_the_forecast_twice() -> None:
    for edits, side, most in ((4, 1024, 23), (16, 4096, 200)):
        cluster = Cluster(160, 8)
        plan = plan_placement(recipe_of("gpu-h100"), cluster, 10_000, edits)
        blocks = block_memory(plan, cluster, side**2, edits)
        groups = worker_groups(plan, cluster, blocks)
        assert {group.cpus for group in groups} == {16}
        (memory,) = {group.memory_gib for group in groups}
        assert memory <= most
        workers = sum(group.replicas for group in groups)
        assert workers * memory * 2**30 * 0.3 >= 2 * blocks.total


def test_one_gpu_is_shared_by_both_pools_and_impossible_clusters_are_refused() -> None:
    def groups(cpus: float, gpus: float) -> tuple[Group, ...]:
        cluster = Cluster(cpus, gpus)
        plan = plan_placement(recipe_of("gpu-a10"), cluster, 10_000, 2)
        return worker_groups(plan, cluster, block_memory(plan, cluster, 1024**2, 2))

    assert [group.replicas for group in groups(16, 1)] == [1, 0, 1]
    with pytest.raises(PlacementError, match="fewer than 2 for each of 10 workers"):
        groups(19, 8)


def test_a_worker_has_the_gpus_of_one_actor() -> None:
    recipe = recipe_of("gpu-h100").model_copy(update={"pools": Pools(edit=Pool(size=2, num_gpus=2))})
    cluster = Cluster(64, 8)
    plan = plan_placement(recipe, cluster, 10_000, 2)
    groups = {its.name: its for its in worker_groups(plan, cluster, block_memory(plan, cluster, 1024**2, 2))}
    assert [(groups[name].replicas, groups[name].gpus) for name in ("caption", "edit")] == [(2, 1), (3, 2)]
