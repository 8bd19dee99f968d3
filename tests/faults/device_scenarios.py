"""Rows, devices, models and signals under fire: each scenario runs whole jobs and counts what storage then holds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from eim_ops.mini.shipped import shipped_path
from pipeline.decode import encode_png
from pipeline.storage import open_store
from tests import REPOSITORY
from tests.faults.device_faults import FAULT, ONCE
from tests.faults.driver import SHARED, start_driver
from tests.faults.outcome import Outcome, outcome
from tests.views import view_at

IMAGES, STRENGTHS = 8, 2
_SPLIT = ("encode", "identify")
"""Stages that a split placement alone has."""
_POISONED = ("load", "caption", *_SPLIT, "edit", "score", "write")
_SECONDS = 240


def _prepare(folder: Path, *, poison: bool = False, images: int = IMAGES, **changes: Any) -> None:
    """Images and recipe.yaml; of the images the last is white where there is poison."""
    (folder / "in").mkdir(parents=True)
    for index in range(images):
        shade = np.full((32, 32, 3), 40 + 3 * index, np.uint8)
        (folder / "in" / f"{index:03d}.png").write_bytes(encode_png(shade))
    if poison:
        (folder / "in" / f"{images - 1:03d}.png").unlink()
        (folder / "in" / "poison.png").write_bytes(encode_png(np.full((32, 32, 3), 255, np.uint8)))
    edits = [{"attribute": "smile", "target": "broad smile", "strengths": list(range(1, STRENGTHS + 1))}]
    neutral = {"input": {"path": str(folder / "in")}, "output": str(folder / "out"), "model": "fake", "edits": edits}
    recipe = {**neutral, "captioner": "fake", "batch": 4, "max_attempts": 2, **changes}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def _start(folder: Path, fault: str | None, seconds: float = 0.0, *, own: bool = False) -> subprocess.Popen[str]:
    """A fake job with a fault in every worker, on the Ray that tests share, or on its own."""
    faulty = {} if fault is None else {FAULT: fault, ONCE: str(folder / "once")}
    address = None if own else os.environ.get(SHARED)
    return start_driver(folder / "recipe.yaml", seconds, address=address, extra=faulty)


def _run(folder: Path, fault: str | None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a fake job."""
    job = _start(folder, fault)
    answer, log = job.communicate(timeout=_SECONDS)
    return job.returncode, answer, log


def _failures(folder: Path) -> str:
    """The failures of the view: how many of each stage, error type and number of attempts."""
    view = view_at(str(folder / "out"))
    rows = view.failures.select(["stage", "error_type", "attempts"]).to_pylist()
    counts = Counter(f"{row['stage']} {row['error_type']} attempts {row['attempts']}" for row in rows)
    return ", ".join(f"{count} x {what}" for what, count in sorted(counts.items())) or "no failures"


def _markers(folder: Path) -> int:
    return len(open_store(str(folder / "out")).keys("attempts"))


def _told(folder: Path, code: int, *more: str) -> str:
    return "; ".join([f"exit {code}", _failures(folder), f"{_markers(folder)} markers left", *more])


def poison(stage: str, folder: Path) -> Outcome:
    """One image of eight kills its process in this stage, every time."""
    _prepare(folder, poison=True, placement="split" if stage in _SPLIT else "fused")
    code, _, log = _run(folder, stage)
    assert code in (0, 1), log
    return outcome(f"poison at {stage}", str(folder / "out"), note=_told(folder, code))


def out_of_memory(folder: Path) -> Outcome:
    """The device holds two rows where the recipe says four, and none of one image."""
    _prepare(folder, poison=True)
    code, answer, log = _run(folder, "memory")
    assert code == 0, log
    batches = set(view_at(str(folder / "out")).edits["batch"].to_pylist())
    told = f"rows of batch {batches}, summary {json.loads(answer)['smaller_batches']}"
    return outcome("out of memory", str(folder / "out"), note=_told(folder, code, told))


def device_lost_once(folder: Path) -> Outcome:
    """A sticky device error in one call: the actor is replaced."""
    _prepare(folder)
    code, _, log = _run(folder, "device-once")
    assert code == 0, log
    return outcome("sticky device error", str(folder / "out"), kills=1, note=_told(folder, code))


def device_lost_always(folder: Path) -> Outcome:
    """A sticky device error in each call with one image."""
    _prepare(folder, poison=True)
    code, _, log = _run(folder, "device-always")
    assert code == 0, log
    return outcome("sticky device error of a row", str(folder / "out"), note=_told(folder, code))


def device_stays_lost(folder: Path) -> Outcome:
    """The same later on, and the actor that Ray starts again cannot load its model there: it is given up, with its
    rows, and another stream makes them."""
    _prepare(folder, images=40)
    code, _, log = _run(folder, "device-stays-lost")
    assert code == 0, log
    note = _told(folder, code, f"{(folder / 'once').stat().st_size} loads failed")
    return outcome("a device that stays lost", str(folder / "out"), kills=1, note=note)


def _eim(folder: Path) -> tuple[int, str]:
    """Exit code and standard error of the real command."""
    joined = {"RAY_ADDRESS": os.environ[SHARED]} if SHARED in os.environ else {}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **joined}
    command = [sys.executable, "-m", "jobs.edit", str(folder / "recipe.yaml")]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    return done.returncode, done.stderr


def _real(folder: Path, model: str, strengths: list[float]) -> None:
    """A recipe with a real model of two images, whose prompts the manifest gives."""
    prompts = {
        "source_prompt": "a portrait with deep frown",
        "target_prompts": {"smile": "a portrait with broad smile"},
    }
    rows = [{"uri": str(folder / "in" / f"{index:03d}.png"), **prompts} for index in range(2)]
    edits = [{"attribute": "smile", "target": "broad smile", "strengths": strengths}]
    method = {"steps": 2, "draws": 1}
    given: dict[str, Any] = {
        "input": {"manifest": str(folder / "rows.jsonl")},
        "captioner": "manifest",
        "method": method,
    }
    _prepare(folder, images=2, model=model, edits=edits, **given)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def not_finite(folder: Path) -> Outcome:
    """The real mini-dit, one strength of which overflows."""
    _real(folder, "mini-dit", [1.0, 1e38])
    code, log = _eim(folder)
    assert code == 0, log
    return outcome("NaN or Inf", str(folder / "out"), note=_told(folder, code))


def model_without_weights(folder: Path) -> Outcome:
    """A model folder whose weights are missing, with the real command; then with them."""
    model = folder / "model"
    _real(folder, str(model), [1.0])
    shutil.copytree(shipped_path("mini-dit"), model)
    weights = list((model / "transformer").glob("*.safetensors"))
    kept = {path: path.read_bytes() for path in weights}
    for path in weights:
        path.unlink()
    started = time.monotonic()
    code, log = _eim(folder)
    seconds = time.monotonic() - started
    assert str(model) in log and "cannot be loaded" in log and "Traceback" not in log, log
    for path, data in kept.items():
        path.write_bytes(data)
    shutil.rmtree(folder / "out")  # other weights are other settings
    again, log = _eim(folder)
    assert again == 0, log
    note = f"exit {code} within 200 s: {seconds < 200}; with its weights exit {again}"
    return outcome("a model without weights", str(folder / "out"), note=note)


def model_that_kills(folder: Path) -> Outcome:
    """A model that kills its process whenever it is loaded; then one that does not."""
    _prepare(folder)
    started = time.monotonic()
    code, _, log = _run(folder, "model-kills")
    seconds = time.monotonic() - started
    assert "model: 'fake' cannot be loaded" in log and "Traceback" not in log, log
    again, _, log = _run(folder, None)
    assert again == 0, log
    note = f"exit {code} within 200 s: {seconds < 200}; mended exit {again}"
    return outcome("a load that kills its process", str(folder / "out"), note=note)


def stopped(signum: signal.Signals, folder: Path) -> Outcome:
    """A signal in the middle of a job, as Ctrl-C sends it to the group and a scheduler to the driver; then again."""
    _prepare(folder, images=40)
    job = _start(folder, None, 0.2, own=True)  # whose processes must all end
    output, deadline = open_store(str(folder / "out")), time.monotonic() + 120
    while not output.keys("edits"):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline, "no part was written in two minutes"
        time.sleep(0.3)
    children = psutil.Process(job.pid).children(recursive=True)
    started = time.monotonic()
    if signum is signal.SIGINT:
        os.killpg(job.pid, signum)
    else:
        job.send_signal(signum)
    _, log = job.communicate(timeout=60)
    seconds = time.monotonic() - started
    _, orphans = psutil.wait_procs(children, timeout=10)
    assert "the same command goes on from there" in log and "Traceback" not in log, log
    left = outcome("", str(folder / "out"))
    assert 0 < left.edits < left.asked
    assert left.doubled == 0
    again, _, log = _run(folder, None)
    assert again == 0, log
    told = f"exit {job.returncode} within 30 s: {seconds < 30}; {len(orphans)} orphan processes; again exit {again}"
    return outcome(signum.name, str(folder / "out"), kills=1, note=f"{told}; {_markers(folder)} markers left")


SCENARIOS: tuple[tuple[str, Callable[[Path], Outcome]], ...] = (
    *((f"poison-{stage}", partial(poison, stage)) for stage in _POISONED),
    ("out-of-memory", out_of_memory),
    ("device-lost-once", device_lost_once),
    ("device-lost-always", device_lost_always),
    ("device-stays-lost", device_stays_lost),
    ("not-finite", not_finite),
    ("model-without-weights", model_without_weights),
    ("model-kills", model_that_kills),
    ("SIGINT", partial(stopped, signal.SIGINT)),
    ("SIGTERM", partial(stopped, signal.SIGTERM)),
)
"""Each with its name; it takes an empty folder."""

_SET_ASIDE = "exit 0; 2 x {} ProcessDied attempts 2; 0 markers left"
_STOPPED = "exit {} within 30 s: True; 0 orphan processes; again exit 0; 0 markers left"

EXPECTED: Mapping[str, tuple[int, int, str]] = {
    **{f"poison-{stage}": (14, 2, _SET_ASIDE.format(stage)) for stage in _POISONED},
    "out-of-memory": (
        14,
        2,
        "exit 0; 2 x edit OutOfMemoryError attempts 1; 0 markers left; rows of batch {2}, summary {'edit': 2}",
    ),
    "device-lost-once": (16, 0, "exit 0; no failures; 0 markers left"),
    "device-lost-always": (14, 2, _SET_ASIDE.format("edit")),
    "device-stays-lost": (80, 0, "exit 0; no failures; 0 markers left; 3 loads failed"),
    "not-finite": (2, 2, "exit 0; 2 x edit NotFinite attempts 1; 0 markers left"),
    "model-without-weights": (2, 0, "exit 2 within 200 s: True; with its weights exit 0"),
    "model-kills": (16, 0, "exit 2 within 200 s: True; mended exit 0"),
    "SIGINT": (80, 0, _STOPPED.format(130)),
    "SIGTERM": (80, 0, _STOPPED.format(143)),
}
"""Edits, failures and note of each."""
