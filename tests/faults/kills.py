"""SIGKILL in every crash window that docs/guarantees.md names, and at random: the same command completes the work."""

import contextlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import yaml

from pipeline.decode import encode_png
from pipeline.ledger import Ledger
from pipeline.storage import open_store
from tests.faults.cluster import Nodes
from tests.faults.driver import start_driver
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
_PATIENCE = 240
_ANYONE: tuple[Target, ...] = ("process", "node", "driver", "head")
_BEFORE_WORK: tuple[Target, ...] = ("driver", "head")
"""No stage works yet, so that neither a worker's process nor its node has a part in it."""


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
    Window("while the input is listed", "list", "/in$", targets=_BEFORE_WORK),
    Window("between two manifest shards", "write", "/manifest/.*/part-", after=True, targets=_BEFORE_WORK),
    Window("after the manifest's index", "write", "/manifest/.*/index.json$", after=True, targets=_BEFORE_WORK),
    Window("after the settings, before the ask", "write", "/recipe/", after=True, targets=_BEFORE_WORK),
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

    Raises AssertionError when nothing was killed, the work is not complete after a few tries, or a run made more than
    was left when it began.
    """
    put_images(folder / "in", range(_IMAGES))
    (folder / "in" / _BROKEN).write_bytes(b"this is no image")
    recipe, wires, work = write_recipe(folder), folder / "wires", Work(folder)
    armed = environment([window.wire(target)], wires, work.tally, nodes.head_pids())
    first = start_driver(recipe, address=nodes.address, extra=armed)
    said = _ended(first)
    _mend(nodes)
    assert fired(wires) == 1, f"nothing was killed {window.name}: {said}"
    in_flight = work.made_in_vain()
    runs = _complete(recipe, nodes, first.returncode, environment([], wires, work.tally))
    in_vain = work.made_in_vain()
    assert runs > 2 or in_vain == 0, f"the run after the kill made {in_vain} edits more than were left"
    fault, made_again = f"SIGKILL of the {target} {window.name}", max(in_flight, in_vain)
    return outcome(fault, f"{folder}/out", kills=1, made_again=made_again, note=f"completed by run {runs}")


@dataclass
class Work:
    """The edits that runs made, by the tally, held against those that storage gained."""

    folder: Path
    made: int = 0
    stored: int = 0

    @property
    def tally(self) -> Path:
        """Where runs count."""
        return self.folder / "tally"

    def made_in_vain(self) -> int:
        """Edits made since the last call that are not in the view."""
        made = self.tally.stat().st_size if self.tally.exists() else 0
        stored = len(Ledger(open_store(f"{self.folder}/out")).read().edits)
        in_vain = (made - self.made) - (stored - self.stored)
        self.made, self.stored = made, stored
        return in_vain


def _complete(recipe: Path, nodes: Nodes, code: int, extra: Mapping[str, str]) -> int:
    """Run until the exit code is 0, the first run having ended with `code`; how many runs it took."""
    runs, said = 1, ""
    while code != 0:
        assert runs <= _TRIES, f"not complete after {runs} runs: {said}"
        driver = start_driver(recipe, address=nodes.address, extra=extra)
        said = _ended(driver)
        code, runs = driver.returncode, runs + 1
        _mend(nodes)
    return runs


def _mend(nodes: Nodes) -> None:
    """Replace what is dead, and wait until what the last driver left behind has ended: it must make nothing more."""
    nodes.mend()
    deadline = time.monotonic() + _PATIENCE
    while _at_work_on(nodes):
        assert time.monotonic() < deadline, f"workers of a dead driver still live: {_at_work_on(nodes)}"
        time.sleep(0.2)


def _ended(driver: subprocess.Popen[str]) -> str:
    """Wait for a driver; one that hangs is killed, as an operator would. Returns the end of what it said."""
    try:
        out, log = driver.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        driver.kill()
        out, log = driver.communicate()
        log += f"\nkilled after {_PATIENCE} s"
    return f"exit {driver.returncode}: {(out + log)[-2000:]}"


_SOAK_IMAGES, _SOAK_SECONDS_AN_EDIT = 300, 0.02
_PAUSE = 2.0
"""Mean seconds between two kills."""
_RAYS_OWN = ("IDLE", "Agent", "_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker")
"""In the titles of the workers that no job of ours waits for, some of which outlive it."""
_SHARES: dict[Target, float] = {"process": 0.6, "driver": 0.2, "node": 0.15, "head": 0.05}


@dataclass
class _Soak:
    """A soak so far; it is kept beside its output, so that another call goes on with it."""

    images: int = 0
    runs: int = 0
    kills: dict[Target, int] = field(default_factory=lambda: dict.fromkeys(_SHARES, 0))
    made_again: int = 0
    """At most, by one run."""
    made: int = 0
    stored: int = 0


def soak(folder: Path, nodes: Nodes, kills: int, seed: int = 0) -> Outcome:
    """Kill at random moments whatever is running, `kills` times over one output; then let it complete.

    Where the work is done too early, images are added. A folder that holds a soak already is gone on with. The note is
    JSON: `kills` by target and `runs`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "soak.json"
    so_far = _Soak(**json.loads(record.read_text())) if record.exists() else _Soak()
    rng = random.Random(f"{seed} {so_far.runs}")
    work = Work(folder, so_far.made, so_far.stored)
    recipe, code = write_recipe(folder), 0
    while sum(so_far.kills.values()) < kills or code != 0:
        if code == 0:
            put_images(folder / "in", range(so_far.images, so_far.images + _SOAK_IMAGES))
            so_far.images += _SOAK_IMAGES
        counted = environment([], folder / "wires", work.tally)
        driver = start_driver(recipe, _SOAK_SECONDS_AN_EDIT, address=nodes.address, extra=counted)
        for target in _kill_at_random(driver, nodes, rng, kills - sum(so_far.kills.values())):
            so_far.kills[target] += 1
        _ended(driver)
        _mend(nodes)
        code, so_far.runs = driver.returncode, so_far.runs + 1
        so_far.made_again = max(so_far.made_again, work.made_in_vain())
        so_far.made, so_far.stored = work.made, work.stored
        record.write_text(json.dumps(asdict(so_far)))
    told = {"kills": so_far.kills, "runs": so_far.runs}
    count, again = sum(so_far.kills.values()), so_far.made_again
    return outcome("SIGKILL at random", f"{folder}/out", kills=count, made_again=again, note=json.dumps(told))


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
    return _at_work_on(nodes)


def _at_work_on(nodes: Nodes) -> list[int]:
    """The workers that run a task or hold an actor."""
    found = []
    for raylet in nodes.raylet_pids():
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = psutil.Process(raylet).children()
            found += [worker.pid for worker in workers if _at_work(worker)]
    return found


def _at_work(worker: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        title = " ".join(worker.cmdline())
        return title.startswith("ray::") and not any(name in title for name in _RAYS_OWN)
    return False
