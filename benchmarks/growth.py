"""Whether time and memory stay in proportion while the number of images grows a hundredfold. A stub edits."""

from pathlib import Path

from benchmarks.figure import Figure, Figures
from benchmarks.runs import blots, edits, run_pipeline
from benchmarks.sizes import Sizes


def measure(folder: Path, sizes: Sizes) -> Figures:
    """Seconds an image, each size's beyond what the size before took: the worst over the first. The same of memory."""
    runs = []
    for count in sizes.growth:
        images = blots(folder, count)
        stub = f"--stub={sizes.growth_seconds}"
        runs.append(run_pipeline(folder, f"growth-{count}", images, edits(1, [1.0]), stub, "--together"))
    small, middle, large = sizes.growth
    early = (runs[1].warm - runs[0].warm) / (middle - small)
    late = (runs[2].warm - runs[1].warm) / (large - middle)
    driver, worker = runs[2].driver_mib / runs[1].driver_mib, runs[2].worker_mib / runs[1].worker_mib
    shown = " -> ".join(f"{count:,}" for count in sizes.growth)
    how = f"{shown} images, one edit each, a stub that sleeps {sizes.growth_seconds * 1000:g} ms an edit"
    parts = {"warm_s": [run.warm for run in runs], "ms_per_image": [early * 1000, late * 1000]}
    memory = {"driver_mib": [run.driver_mib for run in runs], "worker_mib": [run.worker_mib for run in runs]}
    return {
        "growth_time_ratio": Figure(late / early, f"{how}; marginal seconds an image", 1.1, "ceiling", parts),
        "growth_rss_ratio": Figure(
            max(driver, worker), f"{how}; private memory of the driver and of the largest worker, {large:,} over "
            f"{middle:,}", 1.1, "ceiling", memory,
        ),
    }  # fmt: skip
