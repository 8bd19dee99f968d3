"""Every overlay and component, rendered and held strictly against Kubernetes' schemas and KubeRay's CRDs."""

import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.kubernetes import GROUPS, Group, kustomize_component, worker_groups
from pipeline.placement import Cluster, PlacementError, plan_placement
from pipeline.recipe import Recipe, parse_recipe
from tests.infra.tools import INFRA, ROOT, program, run

K8S = INFRA / "k8s"
SIZES = ("cpu-small", "gpu-a10", "gpu-h100")
OVERLAYS = [f"{size}/{kind}" for size in SIZES for kind in ("cluster", "job", "scheduled", "scheduled-cronjob")]
VERSION = "1.34"
GPU = "nvidia.com/gpu"

Object = dict[str, Any]


@cache
def _rendered(folder: Path) -> str:
    done = run([program("kubectl"), "kustomize", folder])
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(folder: Path) -> list[Object]:
    return list(yaml.safe_load_all(_rendered(folder)))


def check_core(objects: list[Object]) -> None:
    """Raises at an unknown kind, an unknown key or a wrong value."""
    for item in objects:
        if not item["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(item, VERSION, strict=True)


def ray_errors(objects: list[Object], folder: Path) -> str:
    """What the check against KubeRay's CRDs says; empty: nothing."""
    check = Path(os.environ.get("EIM_RAY_CHECK", ROOT.parent / "shared" / "tools" / "check_ray_manifests.py"))
    if not check.is_file():
        pytest.skip(f"{check} (or EIM_RAY_CHECK), which checks against KubeRay's CRDs, is not there")
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    done = run([sys.executable, check, folder / "objects.yaml"])
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_objects_are_valid(overlay: str) -> None:
    check_core(render(K8S / "overlays" / overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_objects_follow_the_crds(overlay: str, tmp_path: Path) -> None:
    assert ray_errors(render(K8S / "overlays" / overlay), tmp_path) == ""


def test_planted_mistakes_are_found(tmp_path: Path) -> None:
    objects = render(K8S / "overlays" / "gpu-a10" / "cluster")
    policy = next(item for item in objects if item["kind"] == "NetworkPolicy")
    with pytest.raises(kubernetes_validate.ValidationError, match="egres"):
        check_core([{**policy, "spec": {**policy["spec"], "egres": []}}])
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check_core([{**policy, "kind": "NetworkPolice"}])
    (cluster,) = (item for item in objects if item["kind"] == "RayCluster")
    head = cluster["spec"]["headGroupSpec"]
    container = {**head["template"]["spec"]["containers"][0], "volumeMount": []}
    spec = {**head["template"]["spec"], "containers": [container]}
    broken = {**cluster["spec"], "headGroupSpec": {**head, "template": {"spec": spec}}}
    assert "volumeMount" in ray_errors([{**cluster, "spec": broken}], tmp_path)
    assert "no CRD" in ray_errors([{**cluster, "kind": "RayClutter"}], tmp_path)


def test_an_unknown_component_is_found(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nothing.yaml]\n")
    assert run([program("kubectl"), "kustomize", tmp_path]).returncode != 0


def pod_specs(value: Any) -> Iterator[Object]:
    """Every Pod's spec below an object."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pod_specs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_specs(inner)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_fenced(overlay: str) -> None:
    objects = render(K8S / "overlays" / overlay)
    specs = [spec for item in objects for spec in pod_specs(item)]
    assert len(specs) >= 4
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["image"].startswith("registry.example.com/eim:")
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def cluster_spec(overlay: str) -> Object:
    for item in render(K8S / "overlays" / overlay):
        if item["kind"] == "RayCluster":
            return item["spec"]
        if item["kind"] == "RayJob":
            return item["spec"]["rayClusterSpec"]
        if item["kind"] == "RayCronJob":
            return item["spec"]["jobTemplate"]["rayClusterSpec"]
    raise AssertionError(f"{overlay} has no cluster")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_runs_no_stage_and_pods_outlive_the_drain(overlay: str) -> None:
    spec = cluster_spec(overlay)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["authOptions"] == {"mode": "token", "secretName": "eim-ray-token"}
    groups = spec["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["cpu", "caption", "edit"]
    for group in [spec["headGroupSpec"], *groups]:
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > 30
    assert "tolerations" not in spec["headGroupSpec"]["template"]["spec"]


@pytest.mark.parametrize("size", SIZES)
def test_all_kinds_run_on_the_same_cluster_by_one_of_two_entrypoints(size: str) -> None:
    specs = [cluster_spec(f"{size}/{kind}") for kind in ("cluster", "job", "scheduled", "scheduled-cronjob")]
    assert all(spec == specs[0] for spec in specs)
    objects = {kind: render(K8S / "overlays" / size / kind) for kind in ("job", "scheduled", "scheduled-cronjob")}
    (job,) = (item["spec"] for item in objects["job"] if item["kind"] == "RayJob")
    (template,) = (item["spec"]["jobTemplate"] for item in objects["scheduled"] if item["kind"] == "RayCronJob")
    (value,) = (item["data"] for item in objects["job"] if item["metadata"]["name"] == "eim-job")
    (cron,) = (item for item in objects["scheduled-cronjob"] if item["kind"] == "CronJob")
    (submit,) = (container for pod in pod_specs(cron) for container in pod["containers"])
    (taken,) = (variable["valueFrom"] for variable in submit["env"] if variable["name"] == "ENTRYPOINT")
    assert taken == {"configMapKeyRef": {"name": "eim-job", "key": "scheduled-entrypoint"}}
    assert job["entrypoint"] == value["entrypoint"]
    assert template["entrypoint"] == value["scheduled-entrypoint"]
    for entrypoint, module in ((job["entrypoint"], "jobs.edit"), (template["entrypoint"], "jobs.augment")):
        assert entrypoint == f"python -m {module} /etc/eim/recipe.yaml"
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert recipe_of(size).augment.budget is not None


def worker(overlay: str, name: str) -> Object:
    (group,) = (item for item in cluster_spec(overlay)["workerGroupSpecs"] if item["groupName"] == name)
    return group


def requested(group: Object) -> Object:
    return group["template"]["spec"]["containers"][0]["resources"]["requests"]


def least_cluster(size: str) -> Cluster:
    """What `plan_placement` counts: the nodes that are there when a run starts, the least replicas of all groups."""
    groups = [worker(f"{size}/cluster", name) for name in GROUPS]
    totals = [sum(g["minReplicas"] * float(requested(g).get(name, 0)) for g in groups) for name in ("cpu", GPU)]
    return Cluster(*totals)


def recipe_of(size: str) -> Recipe:
    return parse_recipe(yaml.safe_load((K8S / "overlays" / size / "cluster" / "recipe.yaml").read_text()))


@pytest.mark.parametrize("size", SIZES)
def test_the_recipe_fits_the_least_workers(size: str) -> None:
    cluster = least_cluster(size)
    plan = plan_placement(recipe_of(size), cluster, 10_000, 8)
    if cluster.gpus:
        assert (plan.caption.num_gpus, plan.edit.num_gpus) == (1, 1)
        assert plan.caption.size == worker(f"{size}/cluster", "caption")["minReplicas"]
        assert plan.edit.size == worker(f"{size}/cluster", "edit")["minReplicas"]
    actors = plan.caption.size * plan.caption.num_cpus + plan.edit.size * plan.edit.num_cpus
    assert actors + plan.task_cpus <= cluster.cpus


SIDES = {"cpu-small": 64, "gpu-a10": 1024, "gpu-h100": 1024}
LARGER = {
    ("cpu-small", "memory"): "4 GiB instead of 3: the mini models and their files pass through it",
    ("gpu-a10", "memory"): "28 GiB instead of 14: such machines have it; a recipe of four edits an image needs it",
    ("gpu-h100", "cpu"): "16 on the GPU workers: such machines have more than 15 for each GPU",
    ("gpu-h100", "memory"): "60 and 160 GiB: such machines have it, and weights pass through it",
}
"""Where a shipped size has more than the arithmetic asks for, and why; nowhere may it have less."""


@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_are_what_eim_plan_would_give(size: str) -> None:
    recipe, cluster = recipe_of(size), least_cluster(size)
    edits = sum(len(edit.strengths) for edit in recipe.edits)
    plan = plan_placement(recipe, cluster, 10_000, edits)
    for group in worker_groups(plan, cluster, SIDES[size] ** 2, edits):
        shipped = worker(f"{size}/cluster", group.name)
        assert (shipped["minReplicas"], shipped["maxReplicas"]) == (group.replicas, group.most)
        if group.replicas:
            found = requested(shipped)
            assert found.get(GPU, 0) == group.gpus
            compare(size, "cpu", int(found["cpu"]), group.cpus)
            compare(size, "memory", int(found["memory"].removesuffix("Gi")), group.memory_gib)


def compare(size: str, resource: str, shipped: int, wanted: int) -> None:
    assert shipped >= wanted if (size, resource) in LARGER else shipped == wanted


def test_the_component_that_eim_plan_prints_sizes_an_overlay(tmp_path: Path) -> None:
    cluster = Cluster(60, 6)
    plan = plan_placement(recipe_of("gpu-a10"), cluster, 10_000, 2)
    groups = worker_groups(plan, cluster, 1024**2, 2)
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


def test_one_gpu_is_shared_by_both_pools_and_impossible_clusters_are_refused() -> None:
    def groups(cpus: float, gpus: float) -> tuple[Group, ...]:
        cluster = Cluster(cpus, gpus)
        return worker_groups(plan_placement(recipe_of("gpu-a10"), cluster, 10_000, 2), cluster, 1024**2, 2)

    assert [group.replicas for group in groups(16, 1)] == [1, 0, 1]
    with pytest.raises(PlacementError, match="fewer than the 10 workers"):
        groups(9, 8)
