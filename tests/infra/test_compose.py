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


def complaints(compose: dict[str, Any]) -> list[str]:
    """Where it is open to others than the laptop, asks for no secret, or is not the guide's cluster."""
    services = compose["services"]
    checks = [
        (port.startswith("127.0.0.1:"), f"{name}: the port {port} is open to all")
        for name, service in services.items()
        for port in service.get("ports", [])
    ]
    for name in ("bucket", "head", "worker"):
        service = services[name]
        environment = service["environment"]
        checks += [
            (environment.get("RAY_AUTH_MODE") == "token", f"{name}: Ray asks for no token"),
            (":?" in environment.get("RAY_AUTH_TOKEN", ""), f"{name}: starts without a token"),
            (service.get("user") == "1000", f"{name}: is root"),
            (service.get("read_only") is True and service.get("cap_drop") == ["ALL"], f"{name}: is not locked"),
        ]
    needed = {other for service in services.values() for other in service.get("depends_on", {})}
    checks += [(other in services, f"there is no {other}") for other in sorted(needed)]
    checks.append((services["worker"]["deploy"]["replicas"] == 2, "there are not two workers"))
    return [complaint for holds, complaint in checks if not holds]


def test_every_port_is_the_laptops_own_and_ray_asks_for_a_token() -> None:
    assert complaints(COMPOSE) == []


@pytest.mark.parametrize(
    ("service", "key", "value", "told"),
    [
        ("head", "ports", ["8265:8265"], "head: the port 8265:8265 is open to all"),
        ("head", "environment", {"RAY_AUTH_TOKEN": "${EIM_RAY_TOKEN:?}"}, "head: Ray asks for no token"),
        ("worker", "environment", {"RAY_AUTH_MODE": "token"}, "worker: starts without a token"),
        ("worker", "user", "0", "worker: is root"),
        ("head", "cap_drop", [], "head: is not locked"),
        ("head", "depends_on", {"buckets": {"condition": "service_started"}}, "there is no buckets"),
        ("worker", "deploy", {"replicas": 1}, "there are not two workers"),
    ],
)
def test_an_open_door_is_found(service: str, key: str, value: Any, told: str) -> None:
    broken = {**COMPOSE, "services": copy.deepcopy(COMPOSE["services"])}
    broken["services"][service] = {**broken["services"][service], key: value}
    assert complaints(broken) == [told]
