"""Seconds, FLOPs and memory of a call."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def seconds_of(call: Callable[[], Any], device: torch.device, budget: float, most: int = 50) -> dict[str, float]:
    """The median of as many repeats as `budget` seconds hold (3 to `most`), after one that is not counted.

    memory_peak_gib: the allocator's on a card, 0 elsewhere.
    """
    clocked(call, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < most):
        times.append(clocked(call, device))
    return {
        "seconds": statistics.median(times),
        "fastest": min(times),
        "repeats": len(times),
        "memory_peak_gib": peak_gib(device),
    }


def once(call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """As `seconds_of`, of one call that was warmed up elsewhere."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return {"seconds": clocked(call, device), "memory_peak_gib": peak_gib(device)}


def peak_gib(device: torch.device) -> float:
    """The allocator's peak since its last reset; 0 without a card."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def clocked(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def flops_of(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions of a call, a multiply-add as two.

    Attention runs as plain products there, because the counter does not know every fused kernel.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


def product_tflops(device: torch.device, dtype: torch.dtype, side: int, budget: float) -> dict[str, float]:
    """TFLOP/s of one square matrix product: what shares are taken of."""
    a, b = torch.randn((2, side, side), device=device, dtype=dtype)
    timed = seconds_of(lambda: a @ b, device, budget)
    return {"side": side, "tflops": 2 * side**3 / timed["seconds"] / 1e12, **timed}


def fp8_product_tflops(device: torch.device, side: int, budget: float) -> dict[str, float]:
    """The same with both sides in float8_e4m3fn and one scale each, the result in bfloat16."""
    a = torch.randn((side, side), device=device).to(torch.float8_e4m3fn)
    b = torch.randn((side, side), device=device).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=device)
    timed = seconds_of(
        lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), device, budget
    )
    return {"side": side, "tflops": 2 * side**3 / timed["seconds"] / 1e12, **timed}
