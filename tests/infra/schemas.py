"""Rendered objects held strictly against Kubernetes' schemas and KubeRay's CRDs."""

import os
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.infra.overlays import Object
from tests.infra.tools import ROOT, run

VERSION = "1.34"


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
