"""Where the runs of an output live: the first in the output itself, those of `--new-run` each below a prefix."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.storage import Store, open_store

_NEW_RUN = "run-"
_SHORT = 16


class OutputError(Exception):
    """A place that is no output, or one that cannot be worked on, with the mend."""


@dataclass(frozen=True)
class Run:
    """One place with settings, asks, rows and images; its manifests are those of the output."""

    output: Store
    store: Store
    fingerprints: tuple[str, ...]
    """One; two where two first runs raced."""


def new_run_prefix(fingerprint: str) -> str:
    """Where a run lives that is kept beside others, below their output."""
    return f"{_NEW_RUN}{fingerprint[:_SHORT]}"


def _fingerprints(store: Store) -> tuple[str, ...]:
    return tuple(key.removeprefix("recipe/").removesuffix(".json") for key in store.keys("recipe"))


def find_runs(uri: str) -> list[Run]:
    """The runs of an output, or the one run below an output that this names. Raises OutputError when there is none."""
    output = open_store(uri)
    above, name = Store(output.root.rpartition("/")[0]), PurePosixPath(output.root).name
    own = _fingerprints(output)
    if own and name == new_run_prefix(own[0]):
        return [Run(above, output, own)]
    below = [output.below(name) for name in storage.folders(output.root, _NEW_RUN)]
    runs = [Run(output, store, _fingerprints(store)) for store in (output, *below)]
    if found := [run for run in runs if run.fingerprints]:
        return found
    raise OutputError(
        f"{output.root}: no settings are recorded there (recipe/<fingerprint>.json), so no edit job has started; "
        "give the folder or s3:// prefix that a recipe names as its output"
    )
