"""Programs and files that the checks need beyond Python's packages: found, or the test is skipped and says so.

`make check-infra` fetches them into `.tools/` and sets EIM_REQUIRE_TOOLS, with which a missing one is a failure.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
TOOLS = ROOT / ".tools"
BIN = Path(sys.executable).parent


def program(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name, path=f"{TOOLS}/bin:{BIN}:{os.environ['PATH']}")
    return found or absent(name)


def file(name: str) -> Path:
    """The path of a file below `.tools/`."""
    path = TOOLS / name
    return path if path.is_file() else Path(absent(str(path)))


def absent(what: str) -> str:
    """Ends the test."""
    if os.environ.get("EIM_REQUIRE_TOOLS"):
        pytest.fail(f"{what} is not there")
    pytest.skip(f"{what} is not there; `make check-infra` fetches it")


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a check; its output is part of the result."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
