"""Whether the memory of listing stays while a prefix grows tenfold: a real S3 server, streamed to a manifest.

The keys are put into the server's own container database, as its own updaters do: a hundred thousand PUTs would take
half an hour, and a listing reads no object.
"""

import json
import time
from pathlib import Path

from benchmarks.figure import Figure, Figures
from benchmarks.runs import Run, run_module
from benchmarks.sizes import Sizes
from tests import s3_server

_BATCH = 10_000


def measure(folder: Path, sizes: Sizes) -> Figures:
    """The most resident memory of a process that lists the larger number of keys, over that of the smaller."""
    root = folder / "s3"
    root.mkdir(parents=True)
    with s3_server.start(root) as server:
        few, many = (_listed(folder, server, root, count) for count in sizes.listing_keys)
    shown = " -> ".join(f"{count:,}" for count in sizes.listing_keys)
    how = f"{shown} keys on an S3 server, listed into a manifest on disk; resident memory of the process"
    parts = {
        "peak_mib": [run.result["peak_mib"] for run in (few, many)],
        "seconds": [run.seconds for run in (few, many)],
    }
    ratio = many.result["peak_mib"] / few.result["peak_mib"]
    return {"listing_rss_ratio": Figure(ratio, how, 1.1, "ceiling", parts)}


def _listed(folder: Path, server: s3_server.S3Server, root: Path, count: int) -> Run:
    name = f"keys-{count}"
    server.make_bucket(name)
    _fill(root, name, count)
    recipe = {
        "input": {"path": f"s3://{name}/in"}, "output": str(folder / name), "model": "mini-dit",
        "captioner": "mini-vlm", "edits": [{"attribute": "smile", "target": "broad smile", "strengths": [1.0]}],
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(recipe))
    run = run_module(folder, ["benchmarks.control_job", "list", str(path)], server.environment)
    if run.result["rows"] != count:
        raise RuntimeError(f"{run.result['rows']} of {count} keys are in the manifest")
    return run


def _fill(root: Path, bucket: str, count: int) -> None:
    """`count` small objects in the listing of a bucket."""
    from swift.common.utils import Timestamp
    from swift.container.backend import ContainerBroker

    brokers = [ContainerBroker(str(path)) for path in root.glob("devices/d1/containers/*/*/*/*.db")]
    (broker,) = (one for one in brokers if one.get_info()["container"] == bucket)
    now = Timestamp(time.time()).internal
    for start in range(0, count, _BATCH):
        rows = [
            {
                "name": f"in/{index // 1000:05d}/{index:08d}.png", "created_at": now, "size": 1000 + index,
                "content_type": "image/png", "etag": f"{index:032x}", "deleted": 0, "storage_policy_index": 0,
            }
            for index in range(start, min(start + _BATCH, count))
        ]  # fmt: skip
        broker.merge_items(rows)
