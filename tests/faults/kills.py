"""SIGKILL in every crash window that docs/guarantees.md names, and at random: the same command completes the work."""

import contextlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import yaml

from pipeline.decode import encode_png
from pipeline.ledger import Ledger
from pipeline.storage import open_store
from tests.faults.cluster import Nodes, start_driver
from tests.faults.outcome import Outcome, outcome
from tests.faults.tripwire import Target, Tripwire, environment, fired

EDITS = [
    {"attribute": "smile", "target": "broad smile", "strengths": [-1, 1]},
    {"attribute": ["smile", "hat"], "target": ["broad smile", "cap"], "strengths": [0.5]},
]
_IMAGES = 40
_BROKEN = "broken.png"
_ROW = "007.png"
_TRIES = 3
_PATIENCE = 120
_ANYONE: tuple[Target, ...] = ("process", "node", "driver", "head")


@dataclass(frozen=True)
class Window:
    """A moment of a run, and who may die then. point, matches and after are those of a tripwire."""

    name: str
    point: str
    matches: str
    after: bool = False
    targets: tuple[Target, ...] = _ANYONE

    def wire(self, target: Target) -> Tripwire:
        """The tripwire that kills `target` then."""
        return Tripwire(self.point, self.matches, target, self.after)  # type: ignore[arg-type]


WINDOWS = (
    Window("while the input is listed", "list", "/in$", targets=("driver", "head")),
    Window("between two manifest shards", "write", "/manifest/.*/part-", after=True, targets=("driver",)),
    Window("after the manifest's index", "write", "/manifest/.*/index.json$", after=True, targets=("driver",)),
    Window("after the settings, before the ask", "write", "/recipe/", after=True, targets=("driver",)),
    Window("while an image is loaded", "read", f"/in/{_ROW}$"),
    Window("while an image is captioned", "caption", f"/{_ROW}$"),
    Window("while an image is edited", "edit", f"/{_ROW}$"),
    Window("while edits are scored", "score", f"/{_ROW}$"),
    Window("between two images of a write task", "write", "/images/", after=True),
    Window("after the images, before an edits part", "write", "/edits/bucket="),
    Window("between two buckets' parts", "write", "/edits/bucket=", after=True),
    Window("after edits, before failures", "write", "/failures/bucket="),
    Window("after the parts, before Ray hears of it", "task_written", "", after=True),
)


def put_images(folder: Path, indices: range) -> None:
    """One small PNG for each index."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        pixels = np.random.default_rng(index).integers(40, 200, (32, 32, 3), np.uint8)
        (folder / f"{index:03d}.png").write_bytes(encode_png(pixels))


def write_recipe(folder: Path) -> Path:
    """A recipe of `folder`/in to `folder`/out."""
    recipe = {"input": {"path": f"{folder}/in"}, "output": f"{folder}/out", "model": "fake", "captioner": "fake"}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "edits": EDITS, "batch": 4}))
    return path


def kill_in_window(window: Window, target: Target, folder: Path, nodes: Nodes) -> Outcome:
    """Kill once in a window, then run the same command until it ends well.

    Raises AssertionError when nothing was killed, or the work is not complete after a few tries.
    """
    put_images(folder / "in", range(_IMAGES))
    (folder / "in" / _BROKEN).write_bytes(b"this is no image")
    recipe, wires = write_recipe(folder), folder / "wires"
    first = start_driver(recipe, 0.0, nodes.address, environment([window.wire(target)], wires, nodes.head_pids()))
    said = _ended(first)
    nodes.mend()
    assert fired(wires) == 1, f"nothing was killed {window.name}: {said}"
    tries = _complete(recipe, nodes, first.returncode)
    found = outcome(f"SIGKILL of the {target} {window.name}", f"{folder}/out", kills=1)
    return replace(found, note=f"completed by {tries}")


def _complete(recipe: Path, nodes: Nodes, code: int) -> str:
    """Run until the exit code is 0; says which run did it."""
    if code == 0:
        return "the same run"
    for count in range(1, _TRIES + 1):
        driver = start_driver(recipe, 0.0, nodes.address)
        said = _ended(driver)
        if driver.returncode == 0:
            return f"run {count + 1}"
        nodes.mend()
    raise AssertionError(f"not complete after {_TRIES} more runs: {said}")


def _ended(driver: subprocess.Popen[str]) -> str:
    """Wait for a driver; one that hangs is killed, as an operator would. Returns the end of what it said."""
    try:
        out, log = driver.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        driver.kill()
        out, log = driver.communicate()
        log += f"\nkilled after {_PATIENCE} s"
    return f"exit {driver.returncode}: {(out + log)[-2000:]}"


SOAK_IMAGES, _SOAK_SECONDS_AN_EDIT = 300, 0.02
_PAUSE = 2.0
"""Mean seconds between two kills."""
_SHARES: dict[Target, float] = {"process": 0.6, "driver": 0.2, "node": 0.15, "head": 0.05}


def soak(folder: Path, nodes: Nodes, kills: int, seed: int = 0) -> Outcome:
    """Kill at random moments whatever is running, `kills` times over one output; then let it complete.

    Where the work is done too early, images are added. The note is JSON: `kills` by target, `runs`, and
    `repeated_rows_max`, the most raw repeats that one run added.
    """
    rng, counts = random.Random(seed), dict.fromkeys(_SHARES, 0)
    images, runs, repeats, repeated_most = SOAK_IMAGES, 0, 0, 0
    put_images(folder / "in", range(images))
    recipe, code = write_recipe(folder), -1
    while sum(counts.values()) < kills or code != 0:
        if code == 0:
            put_images(folder / "in", range(images, images + SOAK_IMAGES))
            images += SOAK_IMAGES
        driver = start_driver(recipe, _SOAK_SECONDS_AN_EDIT, nodes.address)
        for target in _kill_at_random(driver, nodes, rng, kills - sum(counts.values())):
            counts[target] += 1
        _ended(driver)
        nodes.mend()
        code, runs = driver.returncode, runs + 1
        now = _repeats(f"{folder}/out")
        repeated_most, repeats = max(repeated_most, now - repeats), now
    note = {"kills": counts, "runs": runs, "repeated_rows_max": repeated_most}
    return outcome("SIGKILL at random", f"{folder}/out", kills=sum(counts.values()), note=json.dumps(note))


def _repeats(output: str) -> int:
    return Ledger(open_store(output)).read().repeats


def _kill_at_random(driver: subprocess.Popen[str], nodes: Nodes, rng: random.Random, most: int) -> Iterator[Target]:
    """What was killed, until the driver ends."""
    for _ in range(most):
        victims: list[int] = []
        while not victims:
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(rng.expovariate(1 / _PAUSE))
                return
            target = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
            victims = _victims(target, driver.pid, nodes)
        chosen = victims if target == "head" else [rng.choice(victims)]
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                psutil.Process(pid).send_signal(signal.SIGKILL)
        yield target
        if target in ("driver", "head"):
            return
        time.sleep(_PAUSE / 2)  # a dead node's worker is dead too


def _victims(target: Target, driver: int, nodes: Nodes) -> list[int]:
    if target == "driver":
        return [driver]
    if target == "head":
        return nodes.head_pids()
    raylets = nodes.raylet_pids()
    if target == "node":
        return raylets if len(raylets) > 1 else []
    found = []
    for raylet in raylets:
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = psutil.Process(raylet).children()
            found += [worker.pid for worker in workers if _at_work(worker)]
    return found


def _at_work(worker: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        title = " ".join(worker.cmdline())
        return title.startswith("ray::") and "IDLE" not in title
    return False
