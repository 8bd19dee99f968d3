"""Every overlay and component, rendered and held strictly against Kubernetes' schemas and KubeRay's CRDs."""

import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import s3fs
import yaml
from ray.job_submission import JobStatus
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.recipe import parse_recipe
from pipeline.storage import open_store
from tests.infra.overlays import (
    K8S,
    KINDS,
    OVERLAYS,
    SIZES,
    Object,
    cluster_spec,
    complaints,
    of_kind,
    pod_templates,
    recipe_of,
    render,
)
from tests.infra.schemas import check_core, ray_errors
from tests.infra.tools import ROOT, program, run
from tests.s3_server import S3Server


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_has_what_the_guide_says(overlay: str) -> None:
    objects = render(K8S / "overlays" / overlay)
    assert len([pod for item in objects for pod in pod_templates(item)]) >= 4
    assert complaints(overlay.partition("/")[0], objects) == []


Spoil = Callable[[list[Object]], None]


def without(kind: str) -> Spoil:
    """Removes the objects of a kind."""

    def spoil(objects: list[Object]) -> None:
        gone = of_kind(objects, kind)
        assert gone
        objects[:] = [item for item in objects if item not in gone]

    return spoil


def put(path: str, value: Any = None) -> Spoil:
    """Gives what is below a path of the cluster's spec another value; None removes it."""

    def spoil(objects: list[Object]) -> None:
        place: Any = cluster_spec(objects)
        *above, last = (int(name) if name.isdigit() else name for name in path.split("/"))
        for name in above:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return spoil


def without_role(objects: list[Object]) -> None:
    (account,) = of_kind(objects, "ServiceAccount")
    del account["metadata"]["annotations"]


def without_redis(objects: list[Object]) -> None:
    objects[:] = [item for item in objects if item["metadata"]["name"] != "eim-redis"]


HEAD, EDIT = "headGroupSpec/template/spec", "workerGroupSpecs/2/template/spec"
CONTAINER = f"{EDIT}/containers/0"
PLANTED: list[tuple[str, Spoil, str]] = [
    ("cpu-small", without("NetworkPolicy"), "no NetworkPolicy"),
    ("cpu-small", without("PodDisruptionBudget"), "keeps the head"),
    ("cpu-small", put(f"{HEAD}/containers/0/envFrom/1"), "head: no keys of the store"),
    ("cpu-small", put(f"{CONTAINER}/envFrom/1"), "edit: no keys of the store"),
    ("cpu-small", put("headGroupSpec/rayStartParams/num-cpus", "2"), "runs stages"),
    ("cpu-small", put("authOptions"), "no token"),
    ("cpu-small", put("workerGroupSpecs/1"), "the groups are"),
    ("cpu-small", put(f"{HEAD}/terminationGracePeriodSeconds"), "does not outlive"),
    ("cpu-small", put(f"{EDIT}/terminationGracePeriodSeconds", 30), "does not outlive"),
    ("cpu-small", put(f"{HEAD}/containers/0/volumeMounts/2"), "no recipe"),
    ("cpu-small", put(f"{CONTAINER}/env/1"), "edit: no AWS_RESPONSE_CHECKSUM_VALIDATION"),
    ("cpu-small", put("workerGroupSpecs/2/template/metadata/labels", {"a": "b"}), "without the label"),
    ("cpu-small", put(f"{EDIT}/securityContext/runAsNonRoot"), "may be root"),
    ("cpu-small", put(f"{EDIT}/securityContext/seccompProfile"), "seccomp"),
    ("cpu-small", put("autoscalerOptions/securityContext"), "the autoscaler's container"),
    ("cpu-small", put(f"{CONTAINER}/securityContext/allowPrivilegeEscalation"), "ray-worker: the container"),
    ("cpu-small", put(f"{CONTAINER}/securityContext/readOnlyRootFilesystem"), "ray-worker: the container"),
    ("cpu-small", put(f"{CONTAINER}/securityContext/capabilities", {"drop": ["NET_RAW"]}), "ray-worker: the container"),
    ("cpu-small", put(f"{CONTAINER}/image", "eim:cpu"), "ray-worker: the image"),
    ("cpu-small", put(f"{CONTAINER}/image", "registry.example.com/eim:old"), "several images"),
    ("cpu-small", put(f"{CONTAINER}/resources/limits/memory"), "ray-worker: may take memory"),
    ("gpu-a10", put(f"{EDIT}/tolerations"), "edit: tolerates no"),
    ("gpu-a10", put("workerGroupSpecs/0/template/spec/tolerations/3"), "cpu: tolerates no nvidia.com/gpu"),
    ("gpu-a10", put(f"{HEAD}/tolerations", [{"operator": "Exists"}]), "the head may stand on spot nodes"),
    ("gpu-a10", put(f"{CONTAINER}/volumeMounts/2"), "edit: no /models"),
    ("gpu-a10", put(f"{HEAD}/containers/0/volumeMounts/3"), "head: no /models"),
    ("gpu-a10", put(f"{HEAD}/initContainers/0/env/0/value", "2"), "another VERSION"),
    ("gpu-a10", put(f"{HEAD}/initContainers/0/securityContext"), "await-models: the container"),
    ("gpu-a10", without("Job"), "no Job copies"),
    ("gpu-a10", without("PersistentVolumeClaim"), "no claim"),
    ("gpu-a10", without_role, "role-arn"),
    ("gpu-h100", put("gcsFaultToleranceOptions"), "goes with the head"),
    ("gpu-h100", without_redis, "no way to Redis"),
]


@pytest.mark.parametrize(("size", "spoil", "told"), PLANTED, ids=[told for _, _, told in PLANTED])
@pytest.mark.parametrize("kind", ["job", "scheduled-cronjob"])
def test_what_an_overlay_lacks_is_found(size: str, kind: str, spoil: Spoil, told: str) -> None:
    objects = render(K8S / "overlays" / size / kind)
    spoil(objects)
    assert [complaint for complaint in complaints(size, objects) if told in complaint]


@pytest.mark.parametrize("kind", ["job", "scheduled"])
def test_the_submitters_pod_is_fenced_too(kind: str) -> None:
    objects = render(K8S / "overlays" / "cpu-small" / kind)
    (pod,) = (pod for item in objects for pod in pod_templates(item) if is_submitter(pod))
    del pod["spec"]["containers"][0]["securityContext"]
    assert complaints("cpu-small", objects) == ["ray-job-submitter: the container is not locked"]


def is_submitter(pod: Object) -> bool:
    return pod["spec"]["containers"][0]["name"] == "ray-job-submitter"


@pytest.mark.parametrize("size", SIZES)
def test_all_kinds_run_on_the_same_cluster_each_by_its_entrypoint(size: str) -> None:
    objects = {kind: render(K8S / "overlays" / size / kind) for kind in KINDS}
    specs = [cluster_spec(its) for its in objects.values()]
    assert all(spec == specs[0] for spec in specs)
    (job,), (sweep,) = (of_kind(objects[kind], "RayJob") for kind in ("job", "sweep"))
    (nightly,) = of_kind(objects["scheduled"], "RayCronJob")
    entrypoints = [job["spec"]["entrypoint"], sweep["spec"]["entrypoint"], nightly["spec"]["jobTemplate"]["entrypoint"]]
    modules = ("jobs.edit", "jobs.sweep", "jobs.augment")
    assert entrypoints == [f"python -m {module} /etc/eim/recipe.yaml" for module in modules]
    assert all((ROOT / f"{module.replace('.', '/')}.py").is_file() for module in modules)
    assert recipe_of(size).augment.budget is not None
    assert recipe_of(size, "sweep").sweep is not None
    (shipped,) = (item["data"] for item in objects["sweep"] if item["metadata"]["name"] == "eim-recipe")
    assert parse_recipe(yaml.safe_load(shipped["recipe.yaml"])) == recipe_of(size, "sweep")


@pytest.mark.parametrize("size", SIZES)
def test_a_night_submits_one_augmentation_and_follows_it_while_it_lives(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(K8S / "overlays" / size / "scheduled-cronjob")
    (cron,) = of_kind(objects, "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    (pod,) = pod_templates(cron)
    (container,) = pod["spec"]["containers"]
    recipe = "/etc/eim/recipe.yaml"
    assert "/etc/eim" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert {"name": "recipe", "configMap": {"name": "eim-recipe"}} in pod["spec"]["volumes"]
    (shipped,) = (item["data"] for item in objects if item["metadata"]["name"] == "eim-recipe")
    (tmp_path / "recipe.yaml").write_text(shipped["recipe.yaml"])
    program_name, *arguments = (part.replace(recipe, str(tmp_path / "recipe.yaml")) for part in container["command"])
    assert program_name == "eim"
    jobs: list[Any] = []

    def submit_job(**its: Any) -> None:
        jobs.append(SimpleNamespace(**its, status=JobStatus.RUNNING))

    def connect(address: str) -> Any:
        assert address == "http://eim-head-svc:8265"
        return SimpleNamespace(list_jobs=lambda: jobs, submit_job=submit_job, get_address=lambda: address)

    monkeypatch.setattr("jobs.job_server.connect", connect)

    def night() -> str:
        ended = CliRunner().invoke(app, [*arguments, "--no-wait"])
        assert ended.exit_code == 0, ended.output
        return ended.stdout.strip()

    first = night()
    assert night() == first
    (job,) = jobs
    assert (job.submission_id, job.entrypoint) == (first, "python -m jobs.augment recipe.yaml")
    assert "py_modules" not in job.runtime_env
    job.status = JobStatus.SUCCEEDED
    assert night() != first


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_is_of_the_pinned_version(overlay: str) -> None:
    version = cluster_spec(render(K8S / "overlays" / overlay))["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_weights_are_copied_once_for_each_version(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = of_kind(render(K8S / "overlays" / "gpu-a10" / "job"), "Job")
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    (pod,) = pod_templates(job)
    interpreter, option, script = pod["spec"]["containers"][0]["command"]
    assert (interpreter, option) == ("python", "-c")
    bucket = f"models-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(bucket)
    store = open_store(f"s3://{bucket}")
    script = script.replace('"eim/models/"', f'"{bucket}/models/"').replace('"/models"', repr(str(tmp_path)))

    def copy(version: str) -> list[str]:
        monkeypatch.setenv("VERSION", version)
        s3fs.S3FileSystem.clear_instance_cache()  # each Job is a new process
        exec(script, {})
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())

    with pytest.raises(SystemExit, match="holds nothing"):
        copy("1")
    store.write("models/one/weights", b"11")
    assert copy("1") == [".complete-1", "one/weights"]
    store.write("models/two/weights", b"222")
    assert copy("1") == [".complete-1", "one/weights"]
    (tmp_path / "one" / "weights").write_bytes(b"1x")
    assert copy("2") == [".complete-1", ".complete-2", "one/weights", "two/weights"]
    assert (tmp_path / "one" / "weights").read_bytes() == b"1x"  # a run may be reading it
    assert (tmp_path / "two" / "weights").read_bytes() == b"222"
