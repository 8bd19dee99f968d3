"""The laptop's cluster: its file follows Compose's schema, asks for its secrets, and is open to the laptop alone."""

import copy
import json
from typing import Any

import jsonschema
import pytest
import yaml

from tests.infra.tools import INFRA, file

TEXT = (INFRA / "compose" / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)


def validate(compose: dict[str, Any]) -> None:
    # The schema's version is older than `name`.
    known = {key: value for key, value in compose.items() if key != "name" and not key.startswith("x-")}
    jsonschema.Draft201909Validator(json.loads(file("compose_spec.json").read_text())).validate(known)


def test_it_follows_the_schema() -> None:
    validate(COMPOSE)


def test_a_planted_mistake_is_found() -> None:
    broken = copy.deepcopy(COMPOSE)
    broken["services"]["head"]["depend_on"] = broken["services"]["head"].pop("depends_on")
    with pytest.raises(jsonschema.ValidationError, match="depend_on"):
        validate(broken)


def test_every_port_is_the_laptops_own_and_ray_asks_for_a_token() -> None:
    services = COMPOSE["services"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
    assert all(name in services for service in services.values() for name in service.get("depends_on", {}))
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert ":?" in services[name]["environment"]["RAY_AUTH_TOKEN"]
    assert services["worker"]["deploy"]["replicas"] == 2
