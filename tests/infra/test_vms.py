"""The cluster launcher's files and the runtime environment, by Ray's own validation."""

from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from tests.infra.tools import INFRA, ROOT

CLOUDS = ("aws", "gcp")


def load(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((INFRA / "vms" / f"{cloud}.yaml").read_text())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    config = load(cloud)
    validate_config(prepare_config(config))
    nodes = config["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in " ".join(config["head_start_ray_commands"])
    assert ["SPOT" in str(node).upper() for node in nodes.values()] == [False, True, True]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_planted_mistake_is_found(cloud: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**load(cloud), "idle_timeout": 1}))
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config({**prepare_config(load(cloud)), "head_node_type": "heed"})


def test_ray_takes_the_runtime_environment() -> None:
    told = yaml.safe_load((ROOT / "jobs" / "runtime-env.yaml").read_text())
    assert RuntimeEnv(**told)["env_vars"] == told["env_vars"]
    assert set(told) == {"env_vars", "excludes"}
