"""Kill a process just where a run is at a named point with a named row.

A test arms tripwires in the driver's environment; `arm` puts them around the calls of every process of the run. A
tripwire fires once over all processes, by a token file in a folder that they share. A tally counts every edit that is
made, one byte of a file each, so that work done twice shows even where the kill left no row of it.
"""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import psutil

from pipeline.work import Row

Point = Literal["list", "read", "caption", "edit", "score", "write", "delete", "task_written"]
Target = Literal["process", "node", "driver", "head"]

WIRES, _FOLDER, _HEAD, _TALLY = "EIM_TRIPWIRES", "EIM_TRIPWIRE_FOLDER", "EIM_HEAD_PIDS", "EIM_TALLY"
DRIVER = "EIM_DRIVER_PID"
_DYING_SECONDS = 120


@dataclass(frozen=True)
class Tripwire:
    """Kill `target` when a process comes to `point` with a name that `matches` (searched): a source's URI, or a key.

    after: once the call is done, not before. node: the raylet of the process that fired. head: the GCS and its raylet.
    """

    point: Point
    matches: str
    target: Target = "process"
    after: bool = False


def environment(wires: Sequence[Tripwire], folder: Path, tally: Path, head_pids: Sequence[int] = ()) -> dict[str, str]:
    """What a driver needs in its environment; `folder` remembers what has fired."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        WIRES: json.dumps([asdict(wire) for wire in wires]),
        _FOLDER: str(folder),
        _HEAD: json.dumps(list(head_pids)),
        _TALLY: str(tally),
    }


def fired(folder: Path) -> int:
    """How many tripwires of this folder have fired."""
    return len(list(folder.iterdir()))


def carried() -> dict[str, str]:
    """The part of this process's environment that its workers need."""
    return {name: os.environ[name] for name in (WIRES, _FOLDER, _HEAD, _TALLY, DRIVER) if name in os.environ}


def arm() -> None:
    """Put the environment's tripwires around this process's calls; also Ray's hook for new workers.

    Those of captioning, editing and scoring are inside the work that an attempt marker guards.
    """
    from pipeline import actors, sink, stages, storage
    from tests.fakes import FakeEditor

    wires = [Tripwire(**wire) for wire in json.loads(os.environ.get(WIRES, "[]"))]
    for point, owner, name, names_of in (
        ("list", storage, "list_entries", lambda uri, *_: [uri]),
        ("read", storage, "read", lambda uri: [uri]),
        ("write", storage, "write", lambda uri, _: [uri]),
        ("delete", storage, "delete", lambda uri: [uri]),
        ("caption", actors, "_captioned", _sources),
        ("edit", actors.EditStage, "_edited", _sources),
        ("score", stages.ScoreAndEncode, "_scored", _sources),
        ("task_written", sink.EditSink, "__call__", lambda *_: [""]),
    ):
        its_wires = [wire for wire in wires if wire.point == point]
        if its_wires:
            setattr(owner, name, _wired(getattr(owner, name), names_of, its_wires))
    FakeEditor.__call__ = _tallied(FakeEditor.__call__)  # type: ignore[method-assign]


def _tallied(edit: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def tallied(*args: Any) -> Iterator[Any]:
        for edited in edit(*args):
            with open(os.environ[_TALLY], "ab", buffering=0) as file:
                file.write(b".")
            yield edited

    return tallied


def _sources(_: Any, rows: Sequence[Row]) -> list[str]:
    return [row["uri"] for row in rows]


def _wired(call: Callable[..., Any], names_of: Callable[..., list[str]], wires: Sequence[Tripwire]) -> Any:
    def wired(*args: Any) -> Any:
        names = names_of(*args)
        _trip(names, [wire for wire in wires if not wire.after])
        result = call(*args)
        _trip(names, [wire for wire in wires if wire.after])
        return result

    return wired


def _trip(names: Sequence[str], wires: Sequence[Tripwire]) -> None:
    for wire in wires:
        if any(re.search(wire.matches, name) for name in names) and _take_token(wire):
            _kill(wire.target)


def _take_token(wire: Tripwire) -> bool:
    try:
        (Path(os.environ[_FOLDER]) / re.sub(r"\W+", "_", repr(wire))).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _kill(target: Target) -> None:
    for pid in _pids(target):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # A driver notices by itself that its head is gone.
    if target != "process" and not (target == "head" and os.getpid() == int(os.environ[DRIVER])):
        _await_end()


def _await_end() -> NoReturn:
    """The rest of a dead node or driver does nothing more."""
    time.sleep(_DYING_SECONDS)
    os._exit(1)


def _pids(target: Target) -> Iterator[int]:
    if target == "process":
        yield os.getpid()
    elif target == "driver":
        yield int(os.environ[DRIVER])
    elif target == "head":
        yield from json.loads(os.environ[_HEAD])
    else:
        yield from (parent.pid for parent in psutil.Process().parents() if parent.name() == "raylet")
