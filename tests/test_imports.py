"""Imports point one way: jobs -> pipeline -> eim_ops; and eim_ops knows no Ray."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"eim_ops": {"ray", "pipeline", "jobs", "tests"}, "pipeline": {"jobs", "tests"}, "jobs": {"tests"}}


def imported_packages(source: str) -> Iterator[str]:
    """Top-level names of all imports, inside functions and type-checking blocks too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported_packages(file.read_text())
        if name in FORBIDDEN[package]
    ]
    assert wrong == []


def test_an_actor_whose_captioner_is_a_server_imports_no_torch() -> None:
    code = """
import sys
from pipeline.actors import CaptionStage
from pipeline.attempts import Attempts
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from tests.fakes import fake_operations
from tests.pipeline.builders import make_recipe
stage = CaptionStage(fake_operations(), make_recipe(), PoolPlan(1, 1.0, 0.0, 1, "cpu"), Progress(), Attempts())
"""
    subprocess.run([sys.executable, "-c", code + 'assert "torch" not in sys.modules'], cwd=ROOT, check=True)


def test_stages_that_work_on_a_disk_import_nothing_of_s3() -> None:
    code = "import sys, pipeline.actors, pipeline.sink, pipeline.stages;"
    subprocess.run(
        [sys.executable, "-c", f"{code} assert not {{'aiohttp', 'botocore'}} & {{*sys.modules}}"], cwd=ROOT, check=True
    )
