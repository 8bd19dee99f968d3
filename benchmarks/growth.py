"""Whether time and memory stay in proportion while the number of images grows a hundredfold. A stub edits."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.figure import Figure, Figures
from benchmarks.runs import blots, edits, run_pipeline
from benchmarks.sizes import Sizes


def measure(folder: Path, sizes: Sizes) -> Figures:
    """How far the seconds of an image beyond the size before are from each other; how much memory grows at most from a
    size to the next."""
    runs = []
    for count in sizes.growth:
        images = blots(folder, count)
        stub = f"--stub={sizes.growth_seconds}"
        runs.append(run_pipeline(folder, f"growth-{count}", images, edits(1, [1.0]), stub, "--together"))
    warm, peaks = [run.warm for run in runs], [run.peaks for run in runs]
    each = marginal_seconds(sizes.growth, warm)
    driver, worker = [its.driver_rss for its in peaks], [its.worker_rss for its in peaks]
    shown = " -> ".join(f"{count:,}" for count in sizes.growth)
    how = f"{shown} images, one edit each, a stub that sleeps {sizes.growth_seconds * 1000:g} ms an edit"
    memory = {
        "driver_rss_mib": driver,
        "worker_rss_mib": worker,
        "driver_private_mib": [its.driver_private for its in peaks],
        "worker_private_mib": [its.worker_private for its in peaks],
    }
    return {
        "growth_time_ratio": Figure(
            deviation(each), f"{how}; marginal seconds an image, the larger over the smaller", 1.1, "ceiling",
            {"warm_s": warm, "ms_per_image": [seconds * 1000 for seconds in each]},
        ),
        "growth_rss_ratio": Figure(
            max(most_growth(driver), most_growth(worker)), f"{how}; resident memory of the driver and of the largest "
            "worker, each size over the one before, the worst", 1.1, "ceiling", memory,
        ),
    }  # fmt: skip


def marginal_seconds(counts: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Seconds of each image that a size has beyond the one before."""
    taken = zip(pairwise(counts), pairwise(seconds), strict=True)
    return [(late - early) / (many - few) for (few, many), (early, late) in taken]


def deviation(each: Sequence[float]) -> float:
    """The largest over the smallest; infinite where a larger size took less time than a smaller one: noise alone."""
    return max(each) / min(each) if min(each) > 0 else math.inf


def most_growth(peaks: Sequence[float]) -> float:
    """The worst of each over the one before."""
    return max(after / before for before, after in pairwise(peaks))
