"""The overlays of `infra/k8s` as they are rendered, and what each of them must hold of what docs/cluster.md says."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.recipe import Recipe, parse_recipe
from tests.infra.tools import INFRA, program, run

K8S = INFRA / "k8s"
SIZES = ("cpu-small", "gpu-a10", "gpu-h100")
KINDS = ("cluster", "job", "sweep", "scheduled", "scheduled-cronjob")
OVERLAYS = [f"{size}/{kind}" for size in SIZES for kind in KINDS]
OURS = {"app.kubernetes.io/part-of": "eim"}
"""The label by which a Pod is fenced in."""

Object = dict[str, Any]
_Check = tuple[object, str]
"""What holds, and the complaint where it does not."""


@cache
def _rendered(folder: Path) -> str:
    done = run([program("kubectl"), "kustomize", folder])
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(folder: Path) -> list[Object]:
    """The objects of a folder, new at each call."""
    return list(yaml.load_all(_rendered(folder), yaml.CSafeLoader))


def cluster_spec(objects: list[Object]) -> Object:
    """The spec of an overlay's one Ray cluster."""
    for item in objects:
        if item["kind"] == "RayCluster":
            return item["spec"]
        if item["kind"] == "RayJob":
            return item["spec"]["rayClusterSpec"]
        if item["kind"] == "RayCronJob":
            return item["spec"]["jobTemplate"]["rayClusterSpec"]
    raise AssertionError("there is no cluster")


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def pod_templates(value: Any) -> Iterator[Object]:
    """Every Pod's template below an object."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", ()):
            yield value
        for inner in value.values():
            yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)


def complaints(size: str, objects: list[Object]) -> list[str]:
    """What an overlay of this size lacks."""
    spec = cluster_spec(objects)
    pods = [pod for item in objects for pod in pod_templates(item)]
    images = {container["image"] for pod in pods for container in pod["spec"]["containers"]}
    checks: list[_Check] = [(len(images) == 1, f"several images: {', '.join(sorted(images))}")]
    checks += [*_of_objects(objects), *_of_cluster(spec), *(check for pod in pods for check in _of_pod(pod))]
    checks += _of_keys_by_secret(spec) if size == "cpu-small" else _of_gpu_size(objects, spec)
    checks += _of_lasting_account(objects, spec) if size == "gpu-h100" else []
    return [complaint for holds, complaint in checks if not holds]


def _at(value: Any, *path: str | int) -> Any:
    """What is below a path; None where it ends before."""
    for name in path:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _of_objects(objects: list[Object]) -> list[_Check]:
    policies = [item["spec"] for item in of_kind(objects, "NetworkPolicy")]
    fences = [policy for policy in policies if policy["podSelector"] == {"matchLabels": OURS}]
    budgets = [item["spec"] for item in of_kind(objects, "PodDisruptionBudget")]
    head = {"matchLabels": {**OURS, "ray.io/node-type": "head"}}
    return [
        (any(policy["policyTypes"] == ["Ingress", "Egress"] for policy in fences), "no NetworkPolicy fences Pods in"),
        ({"minAvailable": 1, "selector": head} in budgets, "no PodDisruptionBudget keeps the head"),
    ]


def _groups(spec: Object) -> list[Object]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def _first_containers(spec: Object) -> list[tuple[str, Object]]:
    """The Ray containers with their group's name."""
    return [(group.get("groupName", "head"), group["template"]["spec"]["containers"][0]) for group in _groups(spec)]


def _of_cluster(spec: Object) -> Iterator[_Check]:
    head = spec["headGroupSpec"]
    yield _at(head, "rayStartParams", "num-cpus") == "0", "the head runs stages"
    yield "tolerations" not in head["template"]["spec"], "the head may stand on spot nodes"
    yield spec.get("authOptions") == {"mode": "token", "secretName": "eim-ray-token"}, "Ray asks for no token"
    names = [group["groupName"] for group in spec["workerGroupSpecs"]]
    yield names == ["cpu", "caption", "edit"], f"the groups are {names}"
    locked = _at(spec, "autoscalerOptions", "securityContext")
    yield _is_locked(locked), "the autoscaler's container is not locked"
    mounts = [mount["mountPath"] for mount in head["template"]["spec"]["containers"][0]["volumeMounts"]]
    yield "/etc/eim" in mounts, "the head has no recipe"
    for group in _groups(spec):
        grace = group["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        yield grace > 30, "a Pod does not outlive Ray's drain of 30 s"
    for name, container in _first_containers(spec):
        for variable in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
            yield {"name": variable, "value": "when_required"} in container.get("env", ()), f"{name}: no {variable}"


def _is_locked(context: Any) -> bool:
    fences = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    return context == fences


def _of_pod(pod: Object) -> Iterator[_Check]:
    spec = pod["spec"]
    context = spec.get("securityContext")
    yield OURS.items() <= (_at(pod, "metadata", "labels") or {}).items(), "a Pod without the label that fences it in"
    yield _at(context, "runAsNonRoot") is True, "a Pod may be root"
    yield _at(context, "seccompProfile") == {"type": "RuntimeDefault"}, "a Pod without a seccomp profile"
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        name, resources = container["name"], container.get("resources")
        yield _is_locked(container.get("securityContext")), f"{name}: the container is not locked"
        yield "/" in container["image"], f"{name}: the image is not the overlay's"
        memory = _at(resources, "limits", "memory")
        yield memory and memory == _at(resources, "requests", "memory"), f"{name}: may take memory it did not request"


def _of_keys_by_secret(spec: Object) -> Iterator[_Check]:
    keys = {"secretRef": {"name": "eim-store-keys"}}
    for name, container in _first_containers(spec):
        yield keys in container["envFrom"], f"{name}: no keys of the store"


def _of_gpu_size(objects: list[Object], spec: Object) -> Iterator[_Check]:
    """Service account, model cache, spot."""
    role = "eks.amazonaws.com/role-arn"
    (account,) = of_kind(objects, "ServiceAccount")
    yield _at(account, "metadata", "annotations", role), f"the account has no {role}"
    claims = [item["metadata"]["name"] for item in of_kind(objects, "PersistentVolumeClaim")]
    yield "eim-models" in claims, "no claim for the weights"
    for name, container in _first_containers(spec):
        mount = {"name": "models", "mountPath": "/models", "readOnly": True}
        yield mount in container["volumeMounts"], f"{name}: no /models"
    for group in spec["workerGroupSpecs"]:
        keys = {toleration.get("key") for toleration in group["template"]["spec"].get("tolerations", ())}
        needed = {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "spot", "nvidia.com/gpu"}
        yield keys >= needed, f"{group['groupName']}: tolerates no {', '.join(sorted(needed - keys))}"
    waits = _at(spec, "headGroupSpec", "template", "spec", "initContainers", 0)
    jobs = [pod["spec"]["containers"][0] for item in of_kind(objects, "Job") for pod in pod_templates(item)]
    yield any(_at(job, "env") for job in jobs), "no Job copies the weights"
    yield waits and all(_at(waits, "env") == _at(job, "env") for job in jobs), "the head awaits another VERSION"


def _of_lasting_account(objects: list[Object], spec: Object) -> Iterator[_Check]:
    yield _at(spec, "gcsFaultToleranceOptions", "redisAddress"), "Ray's account goes with the head"
    to_redis = {"ports": [{"protocol": "TCP", "port": 6379}]}
    rules = [rule for item in of_kind(objects, "NetworkPolicy") for rule in item["spec"].get("egress", ())]
    yield to_redis in rules, "no way to Redis"


def recipe_of(size: str, kind: str = "cluster") -> Recipe:
    """That of a kind which brings one."""
    return parse_recipe(yaml.safe_load((K8S / "overlays" / size / kind / "recipe.yaml").read_text()))
