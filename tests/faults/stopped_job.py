"""`ray job stop` in the middle of a job, by a real job server: it ends in time, and the same command completes it."""

import contextlib
import time
from pathlib import Path

import psutil

from pipeline.storage import open_store
from tests import job_server
from tests.faults.kills import put_images, write_recipe
from tests.faults.outcome import Outcome, outcome
from tests.job_server import JobServer
from tests.processes import lives
from tests.views import view_at

_IMAGES, _SECONDS_AN_EDIT = 160, 0.06
_WITHIN = 30.0
_PATIENCE = 240
_STATES = ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")


def ray_job_stop(folder: Path) -> Outcome:
    """The scenario on a job server of its own."""
    with job_server.start() as server:
        return stopped_by_ray(folder, server)


def stopped_by_ray(folder: Path, server: JobServer) -> Outcome:
    """Submit, stop once rows are there, submit again. Raises AssertionError where the stop takes more than 30 s, leaves
    a process of the job, or comes after the last row."""
    put_images(folder / "in", range(_IMAGES))
    recipe, output = write_recipe(folder), open_store(f"{folder}/out")
    name = f"eim-{folder.name}"
    _submit(server, recipe, name, _SECONDS_AN_EDIT, "--no-wait")
    deadline = time.monotonic() + _PATIENCE
    while not output.keys("edits"):
        assert _state(server, name) in ("PENDING", "RUNNING"), server.job("logs", name).stdout
        assert time.monotonic() < deadline, "no part was written in four minutes"
        time.sleep(0.3)
    started = time.monotonic()
    server.job("stop", name)  # waits until the job has a final state
    seconds = time.monotonic() - started
    state, left = _state(server, name), _processes(recipe)
    assert (state, left) == ("STOPPED", []), (state, left, server.job("logs", name).stdout[-2000:])
    assert seconds < _WITHIN, f"the stop took {seconds:.0f} s"
    said = "the same command goes on from there" in server.job("logs", name).stdout
    stored = len(view_at(output.root).edits)
    assert 0 < stored < 3 * _IMAGES, f"stopped with {stored} edits"
    again = _submit(server, recipe, f"{name}-again", 0.0)
    assert again == "SUCCEEDED", server.job("logs", f"{name}-again").stdout[-2000:]
    note = f"stopped within 30 s, {stored} edits stored, its word in the log: {said}; the second job {again}"
    return outcome("ray job stop", f"{folder}/out", kills=1, note=note)


def _submit(server: JobServer, recipe: Path, name: str, seconds: float, *options: str) -> str:
    command = ["python", "-m", "tests.e2e.fake_job", str(recipe), str(seconds)]
    done = server.job("submit", "--submission-id", name, "--working-dir", ".", *options, "--", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return _state(server, name)


def _state(server: JobServer, name: str) -> str:
    told = server.job("status", name).stdout.upper()
    return next((state for state in _STATES if state in told), told)


def _processes(recipe: Path) -> list[int]:
    """Of drivers of this recipe that live."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if str(recipe) in process.cmdline() and lives(process.pid):
                found.append(process.pid)
    return found
