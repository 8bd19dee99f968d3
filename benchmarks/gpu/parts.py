"""The measurements of one model: velocities, derivatives, kernels, whole edits, and others' ways in the same run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.build import SOURCE, TARGET
from benchmarks.gpu.report import Report, free
from benchmarks.gpu.timing import clocked, flops_of, once, peak_gib, seconds_of
from eim_ops.backbones.adapter import PipelineBackbone
from eim_ops.edit import ImageHalves, encode_images, encode_prompts, identify_targets, manipulate_images
from eim_ops.joint import Conditioning
from eim_ops.loading import allow_many_graphs
from eim_ops.method import Method
from eim_ops.peers.flowedit import FlowEditSettings, flowedit
from eim_ops.task import EditTask, wanted_targets

STRENGTHS = (-1.0, 0.5, 1.0, 1.5)
_SIGMA = 0.6
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip
_CACHE_INTERVAL = 3

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A model on its device. size: side of the images in pixels. steps: of samplers and edits. batches: rows of
    velocities. peak_tflops: of the large product, None where it was not measured. budget: seconds for each figure."""

    backbone: PipelineBackbone
    report: Report
    size: int
    steps: int
    batches: tuple[int, ...]
    peak_tflops: float | None
    budget: float

    @cached_property
    def flops(self) -> int:
        """Of one evaluation, counted before anything is compiled."""
        inputs = self.inputs(1)
        return flops_of(lambda: self.backbone.velocity(*inputs))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.backbone.device

    @property
    def method(self) -> Method:
        """HSDS with the default draws and iterations; free guidance, in every step, where the model was made for it."""
        free_guidance = Method().free_guidance if self.backbone.guidance_kind == "true" else 1.0
        return Method(image_half="hsds", steps=self.steps, free_guidance=free_guidance, free_guidance_share=1.0)

    def part(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """A part of this model."""
        return self.report.part(f"{self.backbone.name}/{name}", measure)

    def latents(self, rows: int) -> Tensor:
        """Noise in the latents' shape."""
        shape = self.backbone.encode_image(torch.zeros(1, 3, self.size, self.size)).shape[1:]
        noisy = torch.randn((rows, *shape), generator=torch.Generator().manual_seed(0))
        return noisy.to(self.device, self.backbone.dtype)

    def images(self, count: int) -> list[np.ndarray]:
        """Pixels of noise: what they show costs nothing."""
        random = np.random.default_rng(0)
        return [random.integers(0, 255, (self.size, self.size, 3), dtype=np.uint8) for _ in range(count)]

    def inputs(self, rows: int) -> tuple[Tensor, Tensor, Conditioning]:
        """What a velocity takes."""
        return self.latents(rows), torch.tensor(_SIGMA, device=self.device), self.backbone.encode_text([SOURCE] * rows)


def measure_velocities(bench: Bench, label: str = "velocity") -> None:
    """Evaluations/s and TFLOP/s by batch; what one call for several rows is worth over one call for each."""
    rates: dict[int, float] = {}

    def one(rows: int) -> Figures:
        inputs = bench.inputs(rows)
        bench.backbone.velocity(*inputs)  # traced here, where it is compiled
        before = _traced()
        timed = seconds_of(lambda: bench.backbone.velocity(*inputs), bench.device, bench.budget)
        tflops = rows * bench.flops / timed["seconds"] / 1e12
        rates[rows] = rows / timed["seconds"]
        share = None if bench.peak_tflops is None else tflops / bench.peak_tflops
        return {
            "evaluations_per_second": rates[rows], "tflops": tflops,
            "share_of_product": share, "frames_traced": _traced() - before, **timed,
        }  # fmt: skip

    def speedup(few: int, many: int) -> Figures:
        return {"speedup": rates[many] / rates[few]}

    for rows in bench.batches:
        bench.part(f"{label}/{rows}", partial(one, rows))
    pairs = {"strengths_4_in_one_call": (1, 4), "branches_2_in_one_call": (4, 8)}
    for lever, (few, many) in pairs.items():
        if few in rates and many in rates:
            bench.part(f"{label}_lever/{lever}", partial(speedup, few, many))


def measure_attention(bench: Bench) -> None:
    """Each kernel of scaled dot-product attention against torch's own choice, on a velocity of two rows."""
    inputs = bench.inputs(2)
    chosen: list[float] = []

    def own() -> Figures:
        timed = seconds_of(lambda: bench.backbone.velocity(*inputs), bench.device, bench.budget)
        chosen.append(timed["seconds"])
        return timed

    def one(kernel: SDPBackend) -> Figures:
        with sdpa_kernel(kernel):
            timed = seconds_of(lambda: bench.backbone.velocity(*inputs), bench.device, bench.budget)
        return {"seconds_over_default": timed["seconds"] / chosen[0] if chosen else None, **timed}

    bench.part("attention/default", own)
    for name, kernel in _KERNELS.items():
        bench.part(f"attention/{name}", partial(one, kernel))


def measure_derivatives(bench: Bench) -> None:
    """JVP by forward mode and by differences, VJP with and without checkpoints; seconds in velocities of one row."""
    x, sigma, conditioning = bench.inputs(1)
    tangent, backbone = torch.flip(x, (-1,)), bench.backbone
    found: dict[str, Tensor] = {}
    velocity: list[float] = []

    def one(name: str, call: Callable[[], Tensor]) -> Figures:
        if not velocity:
            timed = seconds_of(lambda: backbone.velocity(x, sigma, conditioning), bench.device, bench.budget)
            velocity.append(timed["seconds"])
        timed = seconds_of(lambda: found.__setitem__(name, call()), bench.device, bench.budget)
        exact = found.get("jvp_forward_mode")
        apart = None
        if name.startswith("jvp") and exact is not None:
            apart = float((found[name] - exact).float().norm() / exact.float().norm())
        return {"forwards": timed["seconds"] / velocity[0], "apart_from_forward_mode": apart, **timed}

    def jvp(step: float | None) -> Tensor:
        before, backbone.jvp_step = backbone.jvp_step, step
        try:
            return backbone.jvp(x, sigma, conditioning, tangent)
        finally:
            backbone.jvp_step = before

    def vjp(checkpoints: bool) -> Tensor:
        before, backbone.checkpoints = backbone.checkpoints, checkpoints
        try:
            return backbone.vjp(x, sigma, conditioning, tangent)
        finally:
            backbone.checkpoints = before

    bench.part("jvp_forward_mode", lambda: one("jvp_forward_mode", lambda: jvp(None)))
    bench.part("jvp_differences", lambda: one("jvp_differences", lambda: jvp(1e-2)))
    bench.part("vjp", lambda: one("vjp", lambda: vjp(False)))
    bench.part("vjp_checkpointed", lambda: one("vjp_checkpointed", lambda: vjp(True)))


def measure_edits(bench: Bench, label: str = "edits", batch: int = 4) -> Mapping[str, Any] | None:
    """Whole edits: `batch` images are encoded, a direction found by HSDS, and four strengths made of each.

    Where memory runs out the batch is halved, as in a job.
    """
    return bench.part(label, lambda: _edits(bench, batch))


def _edits(bench: Bench, batch: int) -> Figures:
    short = replace(bench.method, steps=1, draws=1, iterations=1)
    try:
        _edited(bench, short, batch)  # every shape once
    except torch.OutOfMemoryError:
        if batch == 1:
            raise
        smaller = batch // 2
    else:
        smaller = 0
    if smaller:
        free()
        return _edits(bench, smaller)
    traced, before, runs = _traced(), bench.backbone.evaluations, list[_Edited]()
    timed = once(lambda: runs.append(_edited(bench, bench.method, batch)), bench.device)
    evaluations, (run,) = bench.backbone.evaluations - before, runs
    return {
        "edits_per_second": len(run.finite) / timed["seconds"], "edits": len(run.finite), "batch": batch,
        "steps": bench.steps, "evaluations_per_edit": evaluations / len(run.finite),
        "evaluations_per_second": evaluations / timed["seconds"], "finite": sum(run.finite),
        "hsds_share_of_evaluations": run.hsds_evaluations / evaluations,
        "hsds_share_of_seconds": run.hsds_seconds / timed["seconds"],
        "recompiles_after_warm_up": _traced() - traced, **timed,
    }  # fmt: skip


@dataclass(frozen=True)
class _Edited:
    """finite: of each edit. The others: what HSDS took of it all."""

    finite: list[bool]
    hsds_evaluations: int
    hsds_seconds: float


def _edited(bench: Bench, method: Method, batch: int) -> _Edited:
    """As `edit_images`, unit by unit, so that a clock can be read around the second one."""
    backbone, sources, seeds = bench.backbone, [SOURCE] * batch, list(range(batch))
    tasks = [[EditTask(str(strength), (TARGET,), strength) for strength in STRENGTHS]] * batch
    targets, halves = wanted_targets(tasks), list[ImageHalves]()
    encoded = encode_images(backbone, bench.images(batch), sources, seeds, method, batch)
    prompts = encode_prompts(backbone, [target.prompt for target in targets], batch)
    clean, conditioning = encoded.joint.clean, encoded.joint.conditioning

    def identify() -> None:
        halves.append(identify_targets(backbone, clean, conditioning, targets, prompts, seeds, method, batch))

    before = backbone.evaluations
    seconds = clocked(identify, bench.device)
    evaluations = backbone.evaluations - before
    made = manipulate_images(backbone, encoded, halves[0], prompts, sources, tasks, method, seeds, batch)
    return _Edited([edited.finite for edited in made], evaluations, seconds)


def measure_plain(bench: Bench, rows: int = 4) -> None:
    """The family's own pipeline in diffusers, text to image; and with its step cache, where the family has one."""
    pipeline, transformer = bench.backbone.pipeline, bench.backbone.pipeline.transformer
    plain: list[float] = []

    def call() -> Any:
        return pipeline(
            prompt=[SOURCE] * rows, height=bench.size, width=bench.size, num_inference_steps=bench.steps,
            max_sequence_length=bench.backbone._prompt_tokens, output_type="pt",
        )  # fmt: skip

    def one() -> Figures:
        timed = _warmed(bench, call)
        plain.append(timed["seconds"])
        branches = 2 if bench.backbone.guidance_kind == "true" else 1
        return {
            "images_per_second": rows / timed["seconds"], "batch": rows, "steps": bench.steps,
            "evaluations_per_second": rows * branches * bench.steps / timed["seconds"], **timed,
        }  # fmt: skip

    def cached() -> Figures:
        if not hasattr(transformer, "enable_cache"):
            raise NotImplementedError("diffusers has no step cache for this family")
        from diffusers import TaylorSeerCacheConfig

        config = TaylorSeerCacheConfig(cache_interval=_CACHE_INTERVAL, taylor_factors_dtype=bench.backbone.dtype)
        transformer.enable_cache(config)
        try:
            timed = _warmed(bench, call)
        finally:
            transformer.disable_cache()
        return {"speedup": plain[0] / timed["seconds"] if plain else None, "interval": _CACHE_INTERVAL, **timed}

    bench.part("diffusers_text_to_image", one)
    bench.part("diffusers_step_cache", cached)


def measure_flowedit(bench: Bench, edits: Mapping[str, Any] | None, rows: int = 4) -> None:
    """FlowEdit on the same backbone, from pixels to pixels, at the paper's settings for SD3 and for FLUX (whose
    guidance is embedded); without a card, `steps` steps. edits: what `measure_edits` found, to compare."""
    backbone, guided = bench.backbone, bench.backbone.guidance_kind == "true"
    settings = FlowEditSettings() if guided else FlowEditSettings(28, 24, 1, 1)
    if bench.device.type == "cpu":
        settings = replace(settings, steps=bench.steps, last=bench.steps)

    def call() -> Tensor:
        clean = backbone.encode_image(torch.zeros(rows, 3, bench.size, bench.size))
        source, target, empty = (backbone.encode_text([text] * rows) for text in (SOURCE, TARGET, ""))
        return backbone.decode(flowedit(backbone, clean, source, target, empty, list(range(rows)), settings))

    def one() -> Figures:
        before = backbone.evaluations
        call()
        evaluations = backbone.evaluations - before
        timed = once(call, bench.device)
        rate = rows / timed["seconds"]
        return {
            "edits_per_second": rate, "edits_over_flowedit": edits["edits_per_second"] / rate if edits else None,
            "batch": rows, "steps": settings.last,
            "evaluations_per_edit": evaluations / rows,
            "evaluations_per_second": evaluations / timed["seconds"], **timed,
        }  # fmt: skip

    bench.part("flowedit", one)


def measure_compiled(bench: Bench) -> None:
    """The transformer's blocks compiled for static shapes; then velocities and whole edits again."""

    def compile_blocks() -> Figures:
        allow_many_graphs()
        transformer = bench.backbone.pipeline.transformer
        blocks = [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]
        for block in blocks:
            block.compile(dynamic=False)
        inputs = bench.inputs(bench.batches[0])
        return {"blocks": len(blocks), **once(lambda: bench.backbone.velocity(*inputs), bench.device)}

    if bench.part("compiled_first_call", compile_blocks) is not None:
        measure_velocities(bench, "velocity_compiled")
        measure_edits(bench, "edits_compiled")


def _warmed(bench: Bench, call: Callable[[], Any]) -> dict[str, float]:
    call()
    return once(call, bench.device)


def _traced() -> int:
    """Frames that torch.compile has traced so far in this process, with those that it gave up."""
    return counters["frames"]["total"]


def memory(bench: Bench) -> Figures:
    """How large the model is, and what it takes."""
    parts = {
        name: sum(its.numel() for its in part.parameters())
        for name, part in bench.backbone.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    peak = peak_gib(bench.device)
    return {"parameters": parts, "tflop_per_evaluation": bench.flops / 1e12, "memory_peak_gib": peak}
