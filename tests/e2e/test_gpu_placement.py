"""Which actor gets which device, on a machine whose GPUs are numbers that Ray is told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PngMaker

REPOSITORY = Path(__file__).parents[2]


def devices(root: Path, png: PngMaker, pools: dict[str, Any]) -> dict[str, set[tuple[int, tuple[int, ...]]]]:
    """Of each unit the (process, GPUs) that it ran in."""
    for folder in ("in", "notes"):
        (root / folder).mkdir()
    for index in range(48):
        (root / "in" / f"{index}.png").write_bytes(png(index))
    command = [sys.executable, "-m", "tests.e2e.gpu_job", str(root), json.dumps(pools)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"edits": 96, "failures": 0, "problem": None}
    found: dict[str, set[tuple[int, tuple[int, ...]]]] = {}
    for path in (root / "notes").iterdir():
        its = json.loads(path.read_text())
        assert its["visible"] == ",".join(map(str, its["gpus"])), "torch sees no other device"
        found.setdefault(its["unit"], set()).add((its["pid"], tuple(its["gpus"])))
    return found


@pytest.mark.slow
def test_each_stage_of_a_split_job_has_a_gpu_of_its_own(tmp_path: Path, png: PngMaker) -> None:
    found = devices(tmp_path, png, {})
    assert {unit: len(its) for unit, its in found.items()} == {"caption": 1, "encode": 1, "identify": 1, "edit": 1}
    assert sorted(gpu for its in found.values() for _, gpus in its for gpu in gpus) == [0, 1, 2, 3]


@pytest.mark.slow
def test_actors_share_a_gpu_where_the_recipe_gives_parts_of_one(tmp_path: Path, png: PngMaker) -> None:
    half, two = {"num_gpus": 0.5}, {"size": 2, "num_gpus": 1}
    found = devices(tmp_path, png, {"caption": half, "encode": half, "identify": {"num_gpus": 1}, "edit": two})
    gpus = {unit: sorted(gpu for _, its in found[unit] for gpu in its) for unit in found}
    assert gpus["caption"] == gpus["encode"] and len(gpus["caption"]) == 1
    assert sorted({*gpus["caption"], *gpus["identify"], *gpus["edit"]}) == [0, 1, 2, 3]
    assert len(found["edit"]) == 2, "two processes, two devices"
