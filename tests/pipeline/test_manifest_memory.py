"""Memory of listing and of counting is that of a bucket, not that of a manifest: measured in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY

FEW, MANY = 20_000, 80_000
SCRIPT = """
import json, os, resource, sys
from pathlib import Path
from pipeline.edit_spec import EditSpec
from pipeline.ledger import Ledger
from pipeline.manifest import write_manifest
from pipeline.manifest_row import manifest_row
from pipeline.storage import Store

os.fsync = lambda _: None  # hundreds of shards, of which none must outlive a power cut
store, count = Store(sys.argv[1]), int(sys.argv[2])
rows = (manifest_row(f"s3://bucket/images/{index:09d}.png", f"{index:032x}", 1000) for index in range(count))
manifest = write_manifest(rows, store)
edits = [EditSpec(attribute=("smile",), target=("broad smile",), request=("smile",), strengths=(0.5, 1.0))]
account = Ledger(store, "f").account(manifest, edits)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(json.dumps([manifest.total, account.left, peak]))
"""


def peak_mib(folder: Path, count: int) -> float:
    """Of a process that lists so many rows, and counts what is left of them."""
    command = [sys.executable, "-c", SCRIPT, str(folder / str(count)), str(count)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    listed, left, peak = json.loads(done.stdout)
    assert (listed, left) == (count, 2 * count)
    return peak


@pytest.mark.slow
def test_four_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    few, many = peak_mib(tmp_path, FEW), peak_mib(tmp_path, MANY)
    # A list of the rows would take 60,000 x 1.5 kB.
    assert many < few + 40, (few, many)
