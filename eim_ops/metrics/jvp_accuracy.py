"""How exact and how dear the two ways to a JVP are, by dtype: which one a backbone should take."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone

STEPS = (1e-3, 1e-2, 1e-1, 0.3)
"""Of central differences, as fractions of the latents' norm."""
_DTYPES = (torch.float32, torch.bfloat16)
_SIGMA = 0.6


def measure_jvp(
    load: Callable[[str], Backbone], prompts: Sequence[str], repeats: int = 3
) -> dict[str, dict[str, Mapping[str, float]]]:
    """By dtype and way (`forward mode`, `differences of STEP`): `error` relative to forward mode in float64, and
    `forwards`, its seconds over those of a velocity.

    load: a dtype's name to the backbone in it. One row a prompt, latents and tangents from fixed noise.
    """
    exact = load("float64")
    shape = exact.encode_image(torch.zeros(1, 3, exact.image_size, exact.image_size)).shape[1:]
    conditioning, sigma = exact.encode_text(prompts), torch.tensor(_SIGMA)
    drawn = torch.randn((2, len(prompts), *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, tangent = drawn.to(conditioning.tokens.device)
    truth = exact.jvp(x, sigma, conditioning, tangent).cpu()
    report: dict[str, dict[str, Mapping[str, float]]] = {}
    for dtype in _DTYPES:
        name = str(dtype).removeprefix("torch.")
        backbone = load(name)
        at, conditioning, along = x.to(dtype), backbone.encode_text(prompts), tangent.to(dtype)
        one = _seconds(partial(backbone.velocity, at, sigma, conditioning), repeats)[1]
        ways: dict[str, Mapping[str, float]] = {}
        for step in (None, *STEPS):
            backbone.jvp_step = step
            found, seconds = _seconds(partial(backbone.jvp, at, sigma, conditioning, along), repeats)
            error = float((found.double() - truth).norm() / truth.norm())
            ways["forward mode" if step is None else f"differences of {step:g}"] = {
                "error": error,
                "forwards": seconds / one,
            }
        report[name] = ways
    return report


def _seconds(call: Callable[[], Tensor], repeats: int) -> tuple[Tensor, float]:
    """The result, on the CPU, and the fastest of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = call().cpu()  # waits for the device
        times.append(time.perf_counter() - started)
    return result, min(times)
