"""Runs in processes of their own: of the pipeline on a recipe, and of a rival; with a clock and with their memory."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import clock

TARGETS = {
    "smile": "broad smile",
    "glasses": "round glasses",
    "hair_color": "red hair",
    "background": "blue background",
    "hat": "red hat",
}
_SAMPLE_SECONDS = 0.25
_LIMIT_SECONDS = 900
_ALIKE = {"RAY_worker_niceness": "0"}
"""Ray runs its workers at niceness 15: beside anything else on the machine a plain loop would be favoured."""


@dataclass(frozen=True)
class Peaks:
    """The most memory that was seen, MiB: of the process, of any of Ray's workers below it, and of all below it
    together.

    rss: resident. private: resident less shared, since pages of Ray's object store are no process's own.
    """

    driver_rss: float = 0.0
    worker_rss: float = 0.0
    driver_private: float = 0.0
    worker_private: float = 0.0
    tree_rss: float = 0.0


@dataclass(frozen=True)
class Run:
    """A process that has ended.

    seconds: from its start to its end. events: when what happened, seconds since its start. result: what it printed, of
    a pipeline's run.
    """

    seconds: float
    events: dict[str, list[float]]
    result: dict[str, Any]
    peaks: Peaks = Peaks()

    @property
    def warm(self) -> float:
        """Seconds from when the last model is loaded until all is written."""
        ended = self.events.get("run-ends") or self.events["ends"]
        return ended[-1] - max(*self.events["loaded"], *self.events.get("begins", ()))


def faces(folder: Path, count: int) -> Path:
    """A folder of `count` rendered faces, 64 x 64."""
    from eim_ops.faces.render import render
    from eim_ops.mini.face_set import draw_faces

    out = folder / f"faces-{count}"
    if not out.is_dir():
        partial = out.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for index, face in enumerate(draw_faces(7, count, False)):
            Image.fromarray(render(face)).save(partial / f"face-{index:05d}.png")
        partial.rename(out)
    return out


def blots(folder: Path, count: int) -> Path:
    """A folder of `count` images for a stub, 64 x 64, all different."""
    out = folder / f"blots-{count}"
    if not out.is_dir():
        partial = out.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for index in range(count):
            coarse = Image.fromarray(random.integers(40, 200, (4, 4, 3), np.uint8))
            coarse.resize((64, 64)).save(partial / f"blot-{index:05d}.png")
        partial.rename(out)
    return out


def edits(attributes: int, strengths: Sequence[float]) -> list[dict[str, Any]]:
    """A recipe's edits of the first attributes, each at these strengths."""
    chosen = list(TARGETS.items())[:attributes]
    return [{"attribute": name, "target": target, "strengths": list(strengths)} for name, target in chosen]


def run_pipeline(
    folder: Path, name: str, images: Path, asked: Sequence[dict[str, Any]] | None, *options: str,
    environment: dict[str, str] | None = None, **settings: Any,
) -> Run:  # fmt: skip
    """`benchmarks.job` on a fresh output below `folder`; asked: its edits; None: `settings` have a sweep."""
    path = write_recipe(folder, name, images, asked, **settings)
    run = run_module(folder, ["benchmarks.job", str(path), *options], environment)
    if run.result["problem"]:
        raise RuntimeError(f"{name}: {run.result['problem']}")
    return run


def write_recipe(
    folder: Path, name: str, images: Path, asked: Sequence[dict[str, Any]] | None, **settings: Any
) -> Path:
    """A recipe with a fresh output below `folder`."""
    output = folder / name
    shutil.rmtree(output, ignore_errors=True)
    recipe = {
        "input": {"path": str(images)}, "output": str(output), "model": "mini-dit", "captioner": "mini-vlm",
        **({} if asked is None else {"edits": list(asked)}), **settings,
    }  # fmt: skip
    path = folder / f"{name}.recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def run_rival(folder: Path, name: str, images: Path, strengths: Sequence[float], *options: str) -> Run:
    """`benchmarks.rivals.NAME` on a fresh output below `folder`."""
    output = folder / name
    shutil.rmtree(output, ignore_errors=True)
    levels = [f"{strength:g}" for strength in strengths]
    return run_module(folder, [f"benchmarks.rivals.{name}", *options, "--", str(images), str(output), *levels])


def process_environment(folder: Path) -> dict[str, str]:
    """What all processes of a run below `folder` have in their environment; nodes that are there before it too."""
    return {clock.FOLDER: str((folder / "clock").absolute()), **_ALIKE}


def run_module(
    folder: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None, code: int = 0
) -> Run:
    """`python -m` of a module with its arguments; raises RuntimeError with the end of what it told when it does not
    end with `code`."""
    environment = {**process_environment(folder), **(environment or {})}
    times = Path(environment[clock.FOLDER])
    shutil.rmtree(times, ignore_errors=True)
    times.mkdir(parents=True)
    started, stop = time.time(), threading.Event()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    memory = _Memory(process.pid, stop)
    memory.start()
    try:
        out, err = process.communicate(timeout=_LIMIT_SECONDS)
    except BaseException:
        process.terminate()
        process.wait(timeout=30)
        raise
    finally:
        stop.set()
        memory.join()
    seconds = time.time() - started
    if process.returncode != code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{err[-3000:]}")
    names = {path.name.partition(".")[0] for path in times.iterdir()}
    events = {name: [at - started for at in clock.times(times, name)] for name in names}
    return Run(seconds, events, _printed(out), memory.peaks)


def _printed(out: str) -> dict[str, Any]:
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


class _Memory(threading.Thread):
    """Looks again and again at a process and all below it."""

    def __init__(self, pid: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._pid, self._stop_event = pid, stop
        self.peaks = Peaks()

    def run(self) -> None:
        while not self._stop_event.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(psutil.Error):
                driver = psutil.Process(self._pid)
                children = driver.children(recursive=True)
                seen = [_memory(driver), *map(_memory, children)]
                workers = [its for its, child in zip(seen[1:], children, strict=True) if _is_worker(child)]
                most = self.peaks
                self.peaks = Peaks(
                    driver_rss=max(most.driver_rss, seen[0][0]),
                    worker_rss=max([most.worker_rss, *(rss for rss, _ in workers)]),
                    driver_private=max(most.driver_private, seen[0][1]),
                    worker_private=max([most.worker_private, *(private for _, private in workers)]),
                    tree_rss=max(most.tree_rss, sum(rss for rss, _ in seen)),
                )


def _memory(process: psutil.Process) -> tuple[float, float]:
    """Resident and private MiB; none of a process that has ended."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0.0, 0.0
    return memory.rss / 2**20, (memory.rss - memory.shared) / 2**20


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name().startswith("ray::")
    return False
