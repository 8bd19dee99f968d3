"""Every overlay and component, rendered and held strictly against Kubernetes' schemas and KubeRay's CRDs."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.placement import Cluster, plan_placement
from pipeline.recipe import parse_recipe
from tests.infra.tools import INFRA, ROOT, program, run

K8S = INFRA / "k8s"
SIZES = ("cpu-small", "gpu-a10", "gpu-h100")
OVERLAYS = [f"{size}/{kind}" for size in SIZES for kind in ("cluster", "job", "scheduled", "scheduled-cronjob")]
VERSION = "1.34"

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
def test_all_kinds_run_on_the_same_cluster_by_the_same_entrypoint(size: str) -> None:
    specs = [cluster_spec(f"{size}/{kind}") for kind in ("cluster", "job", "scheduled", "scheduled-cronjob")]
    assert all(spec == specs[0] for spec in specs)
    objects = {kind: render(K8S / "overlays" / size / kind) for kind in ("job", "scheduled")}
    (job,) = (item["spec"] for item in objects["job"] if item["kind"] == "RayJob")
    (template,) = (item["spec"]["jobTemplate"] for item in objects["scheduled"] if item["kind"] == "RayCronJob")
    (value,) = (item["data"] for item in objects["job"] if item["metadata"]["name"] == "eim-job")
    assert job["entrypoint"] == template["entrypoint"] == value["entrypoint"]
    module = value["entrypoint"].split()[2]
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("size", SIZES)
def test_the_recipe_fits_the_least_workers(size: str) -> None:
    """`plan_placement` counts the nodes that are there when a run starts: the least replicas of all groups."""
    folder = K8S / "overlays" / size / "cluster"
    recipe = parse_recipe(yaml.safe_load((folder / "recipe.yaml").read_text()))
    groups = {group["groupName"]: group for group in cluster_spec(f"{size}/cluster")["workerGroupSpecs"]}

    def total(resource: str) -> float:
        requests = {n: g["template"]["spec"]["containers"][0]["resources"]["requests"] for n, g in groups.items()}
        return sum(group["minReplicas"] * float(requests[name].get(resource, 0)) for name, group in groups.items())

    plan = plan_placement(recipe, Cluster(total("cpu"), total("nvidia.com/gpu")), 10_000, 8)
    if total("nvidia.com/gpu"):
        assert (plan.caption.num_gpus, plan.edit.num_gpus) == (1, 1)
        assert plan.caption.size == groups["caption"]["minReplicas"]
        assert plan.edit.size == groups["edit"]["minReplicas"]
    actors = plan.caption.size * plan.caption.num_cpus + plan.edit.size * plan.edit.num_cpus
    assert actors + plan.task_cpus <= total("cpu")
