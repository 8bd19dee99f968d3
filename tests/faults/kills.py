"""SIGKILL in every crash window that docs/guarantees.md names, and at random: the same command completes the work."""

import contextlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from pipeline.blocks import edited_blocks
from pipeline.decode import encode_png
from pipeline.placement import Cluster, plan_placement
from pipeline.recipe import load_recipe
from pipeline.storage import open_store
from tests.faults.cluster import Nodes
from tests.faults.device_faults import FAULT
from tests.faults.driver import start_driver
from tests.faults.outcome import Outcome, outcome
from tests.faults.tripwire import Target, Tripwire, environment, fired
from tests.views import view_at

EDITS: list[dict[str, Any]] = [
    {"attribute": "smile", "target": "broad smile", "strengths": [-1, 1]},
    {"attribute": ["smile", "hat"], "target": ["broad smile", "cap"], "strengths": [0.5]},
]
_IMAGES = 120
_BROKEN = "broken.png"
_ROW = "007.png"
_TRIES = 3
_PATIENCE = 240
_ANYONE: tuple[Target, ...] = ("process", "node", "driver", "head")
_BEFORE_WORK: tuple[Target, ...] = ("driver", "head")
"""No stage works yet, so that neither a worker's process nor its node has a part in it."""
_MARKED: tuple[Target, ...] = ("process", "driver")
_DATE, _INCREMENT = "2030-01-31", r"/augment/date=[^/]+/\w+\.json$"


@dataclass(frozen=True)
class Window:
    """A moment of a run, and who may die then.

    point, matches and after are those of a tripwire. date: of an augmentation, instead of the plain job.
    """

    name: str
    point: str
    matches: str
    after: bool = False
    targets: tuple[Target, ...] = _ANYONE
    date: str | None = None

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
    Window("before an attempt marker", "write", "/attempts/edit/", targets=_MARKED),
    Window("between an attempt marker and its work", "write", "/attempts/edit/", after=True, targets=_MARKED),
    Window("between the work and its marker's removal", "delete", "/attempts/edit/", targets=_MARKED),
    Window("between two images of a write task", "write", "/images/", after=True),
    Window("after the images, before an edits part", "write", "/edits/bucket="),
    Window("between two buckets' parts", "write", "/edits/bucket=", after=True),
    Window("after edits, before failures", "write", "/failures/bucket="),
    Window("after the parts, before Ray hears of it", "task_written", "", after=True),
    Window("before an increment's record", "write", _INCREMENT, targets=("driver",), date=_DATE),
    Window("after an increment's record, before its ask", "write", _INCREMENT, True, ("driver",), _DATE),
    Window("while an increment is made", "write", "/edits/bucket=", True, ("driver",), _DATE),
    Window("before an increment's end is recorded", "write", r"\.done\.json$", False, ("driver",), _DATE),
)


def put_images(folder: Path, indices: range) -> None:
    """One small PNG for each index."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        pixels = np.random.default_rng(index).integers(40, 200, (32, 32, 3), np.uint8)
        (folder / f"{index:03d}.png").write_bytes(encode_png(pixels))


def write_recipe(folder: Path, editors: int = 1) -> Path:
    """A recipe of `folder`/in to `folder`/out. editors: with one, less than all of the work can be in flight."""
    recipe = {"input": {"path": f"{folder}/in"}, "output": f"{folder}/out", "model": "fake", "captioner": "fake"}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "edits": EDITS, "batch": 4, "pools": {"edit": {"size": editors}}}))
    return path


def kill_in_window(window: Window, target: Target, folder: Path, nodes: Nodes) -> Outcome:
    """Kill once in a window, then run the same command until it ends well.

    Raises AssertionError when nothing was killed, the work is not complete after a few tries, or more was made again
    than was in flight.
    """
    put_images(folder / "in", range(_IMAGES))
    (folder / "in" / _BROKEN).write_bytes(b"this is no image")
    found = _killed_once(window, target, folder, nodes, _Command(write_recipe(folder), nodes, date=window.date))
    if window.date is not None:
        keys = open_store(f"{folder}/out").keys("augment")
        ended = sorted(key.removesuffix(".done.json") for key in keys if key.endswith(".done.json"))
        begun = sorted(key.removesuffix(".json") for key in keys if not key.endswith(".done.json"))
        assert begun == ended != [], f"increments {begun}, of which have ended {ended}"
    return found


def kill_retrying(folder: Path, nodes: Nodes) -> Outcome:
    """The driver is killed while `--retry-failed` makes edits that failed before; the same command makes the rest.

    Raises AssertionError as `kill_in_window` does, and where a failure stays.
    """
    put_images(folder / "in", range(_IMAGES))
    recipe = write_recipe(folder)
    code, said = _Command(recipe, nodes).run({FAULT: "unlucky"})
    failed = len(view_at(f"{folder}/out").failures)
    assert code == 0 and failed, f"{failed} failures to be tried again: {said}"
    window = Window("while failed edits are made again", "write", "/edits/bucket=", after=True)
    found = _killed_once(window, "driver", folder, nodes, _Command(recipe, nodes, retry_failed=True))
    assert found.failures == 0, f"{found.failures} of {failed} failures are left"
    return replace(found, note=f"{failed} failures tried again; {found.note}")


@dataclass(frozen=True)
class _Command:
    """What is run again and again."""

    recipe: Path
    nodes: Nodes
    date: str | None = None
    retry_failed: bool = False

    def run(self, extra: Mapping[str, str]) -> tuple[int, str]:
        """Its exit code and the end of what it said, once what it left behind has ended."""
        driver = start_driver(
            self.recipe, address=self.nodes.address, extra=extra, date=self.date, retry_failed=self.retry_failed
        )
        said = _ended(driver)
        _mend(self.nodes)
        return driver.returncode, said


def _killed_once(window: Window, target: Target, folder: Path, nodes: Nodes, command: _Command) -> Outcome:
    wires, work = folder / "wires", Work(folder)
    work.made_in_vain()  # what is there was made before
    most = made_and_not_stored(command.recipe, _IMAGES + 1, nodes)
    code, said = command.run(environment([window.wire(target)], wires, work.tally, nodes.head_pids()))
    assert fired(wires) == 1, f"nothing was killed {window.name}: {said}"
    in_flight, runs = work.made_in_vain(), 1
    assert in_flight <= most, f"{in_flight} edits are made again, more than {most} that were in flight"
    while code != 0:
        assert runs <= _TRIES, f"not complete after {runs} runs: {said}"
        code, said = command.run(environment([], wires, work.tally))
        runs += 1
    in_vain = work.made_in_vain()
    # The second run began with what was left; one that had to be run again itself may have had as much in flight.
    assert in_vain <= most * max(0, runs - 2), f"the {runs - 1} runs after the kill made {in_vain} edits too many"
    fault, made_again = f"SIGKILL of the {target} {window.name}", max(in_flight, in_vain)
    return outcome(fault, f"{folder}/out", kills=1, made_again=made_again, note=f"completed by run {runs}")


def made_and_not_stored(recipe: Path, images: int, nodes: Nodes) -> int:
    """Edits that a run can have made and not yet stored, at most: what one death costs.

    Blocks of the edit actors (how many x 2 in flight), of what may wait behind them, and of the write tasks
    (`edited_blocks`), each with its rows, and these with all their edits.
    """
    edits = sum(len(edit["strengths"]) for edit in EDITS)
    plan = plan_placement(load_recipe(recipe), Cluster(nodes.cpus), images, edits)
    return edited_blocks(plan, nodes.cpus) * plan.block_rows * edits


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
        stored = len(view_at(f"{self.folder}/out").edits)
        in_vain = (made - self.made) - (stored - self.stored)
        self.made, self.stored = made, stored
        return in_vain


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
_PAUSE = 4.0
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
    JSON: `kills` by target and `runs`. Raises AssertionError where it does not complete in a few runs that nothing
    kills, or a run's deaths cost more than was in flight.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "soak.json"
    so_far = _Soak(**json.loads(record.read_text())) if record.exists() else _Soak()
    rng = random.Random(f"{seed} {so_far.runs}")
    work = Work(folder, so_far.made, so_far.stored)
    recipe, in_peace = write_recipe(folder, editors=2), 0
    code = 1 if so_far.runs else 0  # what an earlier call left is completed first
    while sum(so_far.kills.values()) < kills or code != 0:
        if code == 0:
            put_images(folder / "in", range(so_far.images, so_far.images + _SOAK_IMAGES))
            so_far.images += _SOAK_IMAGES
        counted = environment([], folder / "wires", work.tally)
        driver = start_driver(recipe, _SOAK_SECONDS_AN_EDIT, address=nodes.address, extra=counted)
        killed = list(_kill_at_random(driver, nodes, rng, kills - sum(so_far.kills.values())))
        said = _ended(driver)
        _mend(nodes)
        code, so_far.runs = driver.returncode, so_far.runs + 1
        for target in killed:
            so_far.kills[target] += 1
        in_vain, most = work.made_in_vain(), made_and_not_stored(recipe, so_far.images, nodes)
        so_far.made_again = max(so_far.made_again, in_vain)
        so_far.made, so_far.stored = work.made, work.stored
        record.write_text(json.dumps(asdict(so_far)))
        deaths = max(1, len(killed))
        assert in_vain <= deaths * most, f"{deaths} deaths cost {in_vain} edits, {most} at most are in flight"
        in_peace = 0 if killed or code == 0 else in_peace + 1
        assert in_peace <= _TRIES, f"not complete after {in_peace} runs that nothing killed: {said}"
    told = {"kills": so_far.kills, "runs": so_far.runs}
    count, again = sum(so_far.kills.values()), so_far.made_again
    return outcome("SIGKILL at random", f"{folder}/out", kills=count, made_again=again, note=json.dumps(told))


def _kill_at_random(driver: subprocess.Popen[str], nodes: Nodes, rng: random.Random, most: int) -> Iterator[Target]:
    """What was killed, until the driver ends."""
    for _ in range(most):
        alone = len(nodes.raylet_pids()) < 2
        shares = {target: share for target, share in _SHARES.items() if not (alone and target == "node")}
        target = rng.choices(list(shares), list(shares.values()))[0]
        victims: list[int] = []
        while not victims:  # before a stage works there is no process of one: other kills alone would never let it
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(rng.expovariate(1 / _PAUSE))
                return
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
    return nodes.raylet_pids() if target == "node" else _at_work_on(nodes)


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
        if title.startswith("ray::") and not any(name in title for name in _RAYS_OWN):
            # One that has left Ray serves no calls any more; now and then such a process hangs in gRPC's own teardown.
            return any(its.status == psutil.CONN_LISTEN for its in worker.net_connections("tcp"))
    return False
