"""`python -m tests.e2e.fake_job RECIPE SECONDS`: an edit job with fake operations, as a driver that tests can kill.

It joins the cluster at RAY_ADDRESS, or starts Ray with two CPUs. With EIM_TEST_FAULT in the environment every worker
has that fault (tests/faults/device_faults.py); with EIM_TRIPWIRES all processes are armed (tests/faults/tripwire.py).
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import typer

from jobs.augment import run as run_augment
from jobs.edit import run
from pipeline.recipe import load_recipe
from tests import REPOSITORY
from tests.fakes import fake_operations
from tests.faults import tripwire
from tests.faults.device_faults import FAULT, HOOK, ONCE


def main(recipe: Path, seconds: float, retry_failed: bool = False, augment: str | None = None) -> None:
    """Run the recipe, or the augmentation of this date; each edit takes `seconds`."""
    os.environ[tripwire.DRIVER] = str(os.getpid())
    if FAULT in os.environ:
        _connect(HOOK)
    elif tripwire.WIRES in os.environ:
        tripwire.arm()
        _connect(tripwire.arm)
    options: dict[str, Any] = {"as_json": True, "retry_failed": retry_failed, "operations": fake_operations(seconds)}
    if augment is not None:
        run_augment(load_recipe(recipe), augment, **options)
    else:
        run(load_recipe(recipe), **options)


def _connect(hook: str | Callable[[], None]) -> None:
    """Connect to Ray with a hook that runs first in every worker."""
    address = os.environ.get("RAY_ADDRESS")
    hooked_only = {"prestart_worker_first_driver": False}  # the prestarted ones have no hook, and would idle
    started = {"num_cpus": 2, "include_dashboard": False, "_system_config": hooked_only}
    own: dict[str, Any] = {} if address else started
    path = {"PYTHONPATH": str(REPOSITORY)}  # the hook runs before workers learn the driver's path
    faults = {name: os.environ[name] for name in (FAULT, ONCE) if name in os.environ}
    environment = {"env_vars": {**tripwire.carried(), **faults, **path}, "worker_process_setup_hook": hook}
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    ray.init(address=address or "local", runtime_env=environment, **own, **quiet)


if __name__ == "__main__":
    typer.run(main)
