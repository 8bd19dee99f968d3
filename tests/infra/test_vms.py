"""The cluster launcher's files and the runtime environment, by Ray's own validation."""

from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from tests.infra.tools import INFRA, ROOT

CLOUDS = ("aws", "gcp")
CHECKSUMS = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


def load(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((INFRA / "vms" / f"{cloud}.yaml").read_text())


def complaints(config: dict[str, Any]) -> list[str]:
    """Where a file is not the guide's cluster."""
    nodes, setup = config["available_node_types"], "\n".join(config["setup_commands"])
    spot = [name for name, node in nodes.items() if "SPOT" in str(node).upper()]
    checks = [
        (nodes["head"]["resources"] == {"CPU": 0}, "the autoscaler gives the head stages"),
        ("--num-cpus=0" in " ".join(config["head_start_ray_commands"]), "Ray gives the head stages"),
        (spot == ["gpu", "cpu"], f"spot machines are {spot}"),
        ("RAY_AUTH_MODE=token" in setup, "Ray asks for no token"),
        ("/home/ubuntu/.ray/auth_token" in config["file_mounts"], "the nodes have no token"),
        (all(f"{name}={value}" in setup for name, value in CHECKSUMS.items()), "checksums are on"),
    ]
    if config["provider"]["type"] == "gcp":  # whose store takes keys alone
        checks += [
            ("AWS_ENDPOINT_URL=https://storage.googleapis.com" in setup, "the store is Amazon's"),
            ("/home/ubuntu/.aws/credentials" in config["file_mounts"], "there are no keys of the store"),
        ]
    return [complaint for holds, complaint in checks if not holds]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    validate_config(prepare_config(load(cloud)))
    assert complaints(load(cloud)) == []


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_planted_mistake_is_found(cloud: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**load(cloud), "idle_timeout": 1}))
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config({**prepare_config(load(cloud)), "head_node_type": "heed"})
    nodes = load(cloud)["available_node_types"]
    on_demand = {**nodes, "gpu": nodes["head"]}
    working = {**nodes, "head": {**nodes["head"], "resources": {}}}
    assert complaints({**load(cloud), "available_node_types": on_demand}) == ["spot machines are ['cpu']"]
    assert complaints({**load(cloud), "available_node_types": working}) == ["the autoscaler gives the head stages"]
    assert complaints({**load(cloud), "head_start_ray_commands": ["ray start"]}) == ["Ray gives the head stages"]
    bare = complaints({**load(cloud), "file_mounts": {}, "setup_commands": []})
    assert bare[:3] == ["Ray asks for no token", "the nodes have no token", "checksums are on"]
    assert bare[3:] == ([] if cloud == "aws" else ["the store is Amazon's", "there are no keys of the store"])


def test_ray_takes_the_runtime_environment() -> None:
    told = yaml.safe_load((ROOT / "jobs" / "runtime-env.yaml").read_text())
    assert RuntimeEnv(**told)["env_vars"] == CHECKSUMS
    assert set(told) == {"env_vars", "excludes"}
    with pytest.raises(TypeError, match="env_vars"):
        RuntimeEnv(**{**told, "env_vars": {"AWS_REQUEST_CHECKSUM_CALCULATION": True}})
