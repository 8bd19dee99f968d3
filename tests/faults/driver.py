"""Drivers of fake edit jobs, as processes that scenarios stop and kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.storage import Store
from tests import REPOSITORY

SHARED = "EIM_TEST_RAY"
"""The environment variable with the address of a Ray that tests share; see `tests/conftest.py`."""


def start_driver(
    recipe: Path,
    seconds: float = 0.0,
    *,
    address: str | None = None,
    extra: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
    date: str | None = None,
    retry_failed: bool = False,
) -> subprocess.Popen[str]:
    """A driver of a fake edit job, `seconds` an edit, on the cluster at `address` or on a Ray of its own.

    extra: of its environment. inside: a command that runs commands, such as `ip netns exec NAME`. It leads a process
    group of its own, as a shell gives it one. date: of an augmentation instead of the plain job. retry_failed: as of
    the command.
    """
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    options = [*(["--augment", date] if date else []), *(["--retry-failed"] if retry_failed else [])]
    joined = {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        [*inside, sys.executable, "-m", "tests.e2e.fake_job", str(recipe), str(seconds), *options],
        cwd=REPOSITORY,
        env={**kept, "PYTHONPATH": str(REPOSITORY), **joined, **(extra or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_after_first_part(driver: subprocess.Popen[str], output: Store) -> None:
    """SIGKILL a driver as soon as `output` has a part of edits. Raises AssertionError where none comes."""
    deadline = time.monotonic() + 120
    while not output.keys("edits"):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline, "no part was written in two minutes"
        time.sleep(0.3)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
