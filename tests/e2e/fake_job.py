"""`python -m tests.e2e.fake_job RECIPE SECONDS`: an edit job with fake operations, as a driver that tests can kill.

It joins the cluster at RAY_ADDRESS, or starts Ray with two CPUs, and arms the environment's tripwires in all its
processes.
"""

import dataclasses
import json
import os
import sys

import ray

from pipeline.flow import run_edit
from pipeline.recipe import load_recipe
from tests.fakes import fake_operations
from tests.faults import tripwire

if __name__ == "__main__":
    os.environ[tripwire.DRIVER] = str(os.getpid())
    tripwire.arm()
    address = os.environ.get("RAY_ADDRESS")
    ray.init(
        address=address or "local",
        **({} if address else {"num_cpus": 2, "include_dashboard": False}),
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": tripwire.carried(), "worker_process_setup_hook": tripwire.arm},
    )
    summary = run_edit(load_recipe(sys.argv[1]), fake_operations(float(sys.argv[2])))
    print(json.dumps(dataclasses.asdict(summary)))
    sys.exit(1 if summary.problem else 0)
