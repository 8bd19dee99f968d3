"""Writers that come late: Ray runs a finished write task again, and a zombie writes after a compaction."""

from pathlib import Path

from pipeline.compact import compact_output
from tests.faults.outcome import Outcome, outcome, view_of
from tests.pipeline.builders import start_job

_SHADES = (10, 60, 110, 160)


def late_writers(folder: Path) -> Outcome:
    """The same rows four times, other pixels each time, with compactions between; raises AssertionError where the view
    is not the one that all writers together make, or a compaction changes it."""
    job = start_job(str(folder), images=12)
    for shade in _SHADES:
        job.write(job.samples, shade=shade)
        before = view_of(job.store.root)
        compact_output(job.store.root)
        assert view_of(job.store.root) == before, f"compaction after shade {shade} changed the view"
    winners = view_of(job.store.root)
    again = start_job(str(folder / "at once"), images=12)
    for shade in reversed(_SHADES):
        again.write(again.samples, shade=shade)
    assert view_of(again.store.root) == winners, "the order of the writers changed the view"
    return outcome("finished write tasks run again, and zombies after compaction", job.store.root)
