"""`python -m benchmarks.gpu --out FILE.json`: see docs/speed.md. Imports `eim_ops` alone, no Ray."""

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from benchmarks.gpu import parts
from benchmarks.gpu.build import build
from benchmarks.gpu.published import MODELS, Published, narrow
from benchmarks.gpu.report import Report, free
from benchmarks.gpu.timing import fp8_product_tflops, product_tflops

_PARTS = (
    "product", "product_fp8", "build", "velocity", "velocity_lever", "attention", "jvp_forward_mode",
    "jvp_differences", "vjp", "vjp_checkpointed", "edits", "diffusers_text_to_image", "diffusers_step_cache",
    "flowedit", "compiled_first_call", "velocity_compiled", "velocity_compiled_lever", "edits_compiled",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every model that was asked for, part by part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON that is written after each part")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="by default all, smallest first")
    parser.add_argument("--only", action="append", choices=_PARTS, help="these parts alone; build is always done")
    parser.add_argument("--seconds", type=float, default=3600, help="parts that would begin later are left out")
    parser.add_argument("--budget", type=float, default=None, help="seconds of repeats for each figure")
    parser.add_argument("--steps", type=int, default=None, help="of samplers and edits; 28 on a card, else 2")
    parser.add_argument("--batch", type=int, action="append", help="rows of a velocity; 1, 2, 4, 8 by default")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    device, on_card = torch.device(given.device), given.device == "cuda"
    diffusers.utils.logging.set_verbosity_error()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    only = {"build", *given.only} if given.only else set()
    if any("compiled" in part for part in only):
        only.add("compiled_first_call")
    report = Report(given.out, _head(given, device), only, given.seconds)
    side, dtype = (8192, torch.bfloat16) if on_card else (512, torch.float32)
    budget = given.budget if given.budget is not None else (2.0 if on_card else 0.05)
    product = report.part("product", lambda: product_tflops(device, dtype, side, budget))
    if on_card:
        report.part("product_fp8", lambda: fp8_product_tflops(device, side, budget))
    else:
        report.skip("product_fp8", "no card")
    for name in given.model or MODELS:
        model = MODELS[name] if on_card else narrow(MODELS[name])
        peak = None if product is None else product["tflops"]
        steps = given.steps or (28 if on_card else 2)
        _measure(model, report, device, dtype, steps, tuple(given.batch or (1, 2, 4, 8)), peak, budget)
        free()


def _measure(
    model: Published, report: Report, device: torch.device, dtype: torch.dtype, steps: int, batches: tuple[int, ...],
    peak: float | None, budget: float,
) -> None:  # fmt: skip
    made: list[parts.Bench] = []

    def build_it() -> dict[str, Any]:
        made.append(parts.Bench(build(model, device, dtype), report, model.size, steps, batches, peak, budget))
        return parts.memory(made[0])

    report.part(f"{model.name}/build", build_it)
    if not made:
        return
    bench = made[0]
    parts.measure_velocities(bench)
    edits = parts.measure_edits(bench)
    parts.measure_plain(bench)
    parts.measure_flowedit(bench, edits)
    parts.measure_derivatives(bench)
    parts.measure_attention(bench)
    parts.measure_compiled(bench)


def _head(given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "models": "published sizes" if device.type == "cuda" else "narrow: its figures say nothing of a card",
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "diffusers": diffusers.__version__, "transformers": transformers.__version__,
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
