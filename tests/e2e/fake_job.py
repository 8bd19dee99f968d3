"""`python -m tests.e2e.fake_job RECIPE SECONDS`: an edit job with fake operations, as a driver that tests can kill.

With EIM_TEST_FAULT in the environment, every worker has that fault (tests/faults/device_faults.py).
"""

import logging
import os
from pathlib import Path

import ray
import typer

from jobs.edit import run
from pipeline.recipe import load_recipe
from tests.fakes import fake_operations
from tests.faults.device_faults import FAULT, HOOK


def main(recipe: Path, seconds: float, retry_failed: bool = False) -> None:
    """Run the recipe; each edit takes `seconds`."""
    if FAULT in os.environ:
        quiet = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
        ray.init(address="local", num_cpus=2, runtime_env={"worker_process_setup_hook": HOOK}, **quiet)
    run(load_recipe(recipe), as_json=True, retry_failed=retry_failed, operations=fake_operations(seconds))


if __name__ == "__main__":
    typer.run(main)
