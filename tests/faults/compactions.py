"""SIGKILL of a compaction in every window that docs/guarantees.md names: the view stays, and the next one goes on.

`python -m tests.faults.compactions OUTPUT` is the compaction that is killed, armed by its environment.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.compact import compact_output
from tests import REPOSITORY
from tests.faults import tripwire
from tests.faults.outcome import Outcome, outcome, view_of
from tests.faults.tripwire import Tripwire, environment, fired
from tests.pipeline.builders import SMILE, start_job

_FROWN = {"attribute": "frown", "target": "deep frown", "strengths": [1]}
_SHADES = (10, 60, 110)
_IMAGES, _SECONDS = 6, 120

WINDOWS = {
    "before the new parts": Tripwire("write", "/edits/bucket="),
    "between the new parts": Tripwire("write", "/edits/bucket=", after=True),
    "while old parts go": Tripwire("delete", "/edits/bucket=", after=True),
    "after the old parts, before images go": Tripwire("delete", "/images/"),
    "while images go": Tripwire("delete", "/images/", after=True),
}
"""By name, the tripwire that kills the compaction then."""


def killed_compaction(window: str, folder: Path) -> Outcome:
    """Kill a compaction, look, and compact again.

    Every bucket has parts of both kinds to be merged, failures that edits mended, and images that lost. Raises
    AssertionError where nothing was killed, or the view is not what it was before.
    """
    failing = start_job(str(folder), _IMAGES, edits=[SMILE, _FROWN])
    for attempts in range(2):
        failing.write(failing.samples, error="unlucky", attempts=attempts)
    smiling = start_job(str(folder), _IMAGES)
    for shade in _SHADES:
        smiling.write(smiling.samples, shade)
    output, before = smiling.store.root, view_of(smiling.store.root)
    armed = environment([WINDOWS[window]], folder / "wires", folder / "tally")
    command = [sys.executable, "-m", "tests.faults.compactions", output]
    paths = {**os.environ, "PYTHONPATH": str(REPOSITORY), **armed}
    done = subprocess.run(command, cwd=REPOSITORY, env=paths, capture_output=True, text=True, timeout=_SECONDS)
    assert fired(folder / "wires") == 1, f"nothing was killed {window}: exit {done.returncode}: {done.stderr[-2000:]}"
    assert view_of(output) == before, f"a kill {window} changed the view"
    outcome("", output).check()
    compact_output(output)
    assert view_of(output) == before, f"the compaction after a kill {window} changed the view"
    found = outcome(f"SIGKILL of a compaction {window}", output, kills=1)
    assert (found.repeated_rows, found.orphans) == (0, 0), f"not compact after a kill {window}: {found}"
    return found


SCENARIOS: tuple[tuple[str, Callable[[Path], Outcome]], ...] = tuple(
    (f"a compaction killed {window}", partial(killed_compaction, window)) for window in WINDOWS
)
"""Each with its name; it takes an empty folder."""


if __name__ == "__main__":
    tripwire.arm()
    compact_output(sys.argv[1])
