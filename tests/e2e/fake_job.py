"""`python -m tests.e2e.fake_job RECIPE SECONDS`: an edit job with fake operations, as a driver that tests can kill."""

import dataclasses
import json
import sys

from pipeline.flow import run_edit
from pipeline.recipe import load_recipe
from tests.fakes import fake_operations

if __name__ == "__main__":
    summary = run_edit(load_recipe(sys.argv[1]), fake_operations(float(sys.argv[2])))
    print(json.dumps(dataclasses.asdict(summary)))
    sys.exit(1 if summary.problem else 0)
