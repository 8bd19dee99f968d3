"""How a backbone's weights are loaded and run, and what refuses it before any weight is loaded."""

import dataclasses
import inspect
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch

Quantisation = Literal["bitsandbytes_4bit", "bitsandbytes_8bit", "torchao", "quanto"]
Offload = Literal["block_level", "leaf_level"]
Storage = Literal["float8_e4m3fn", "float8_e5m2"]

_PACKAGES = {"torchao": "torchao", "quanto": "optimum.quanto"}
_COMPILERS = {"cpu": ("CXX", ("g++", "clang++", "c++")), "gpu": ("CC", ("gcc", "clang", "cc"))}
"""What torch's inductor and Triton look for: an environment variable, or one of these programs."""
_WHERE_ONLY = ("device_map", "group_offload")
"""Settings that move weights about and leave every pixel as it is."""

# Attention by the beginnings of diffusers' names.
_NO_MASKS = ("flash", "_flash", "_native_flash", "_native_xla", "sage", "_sage")
"""They refuse a mask, or (varlen) take the first keys, as many as it leaves, where padding may be in the middle."""
_NO_BACKWARD = ("sage", "_sage", "_flash_3")
"""They fail, or leave their share of a gradient out without a word."""
_FORWARD_MODE = (None, "native", "_native_math")
"""What forward-mode differentiation goes through: torch's own choice is plain products there."""


class LoadingError(ValueError):
    """A loading setting that the family or the machine lacks: names the key, who lacks it, and the mend."""


@dataclass(frozen=True)
class Loading:
    """Null or false: as the family's pipeline does it.

    embedded_guidance: the scale that a model with embedded guidance takes as an input.
    prompt_tokens: text tokens a prompt is padded to, and the most that it may have. CLIP's 77, where a family has one,
        bind beside it.
    quantisation, quantisation_options: of the transformer, with diffusers' own configuration and its arguments.
    layerwise_casting: the dtype that the transformer's weights are kept in between their layers' calls.
    group_offload: weights wait in the CPU's memory and come to the GPU in groups.
    device_map: `balanced` spreads the parts over an actor's GPUs.
    attention_backend: a name of diffusers', `native` is torch's.
    compile: the transformer's repeated blocks are compiled, at a process's first call of a size and once more for all
        further sizes.
    """

    embedded_guidance: float | None = None
    prompt_tokens: int | None = None
    quantisation: Quantisation | None = None
    quantisation_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    layerwise_casting: Storage | None = None
    group_offload: Offload | None = None
    device_map: Literal["balanced"] | None = None
    attention_backend: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for key, kind in (
            ("quantisation", Quantisation),
            ("layerwise_casting", Storage),
            ("group_offload", Offload),
            ("device_map", Literal["balanced"]),
        ):
            if getattr(self, key) not in (None, *get_args(kind)):
                raise LoadingError(f"loading.{key} is {getattr(self, key)!r}; allowed: {', '.join(get_args(kind))}")
        if self.embedded_guidance is not None and not 0 <= self.embedded_guidance <= 50:
            raise LoadingError(
                f"loading.embedded_guidance is {self.embedded_guidance!r}; allowed: a number from 0 to 50"
            )
        if self.prompt_tokens is not None and not 1 <= self.prompt_tokens <= 512:
            raise LoadingError(
                f"loading.prompt_tokens is {self.prompt_tokens!r}; allowed: a whole number from 1 to 512"
            )
        if self.quantisation_options and self.quantisation is None:
            raise LoadingError(
                "loading.quantisation_options without loading.quantisation: give that, or leave both out"
            )
        if self.quantisation and self.layerwise_casting:
            raise LoadingError("loading.layerwise_casting and loading.quantisation both store the weights: keep one")
        if self.device_map and self.group_offload:
            raise LoadingError("loading.device_map and loading.group_offload both place the weights: keep one")

    @property
    def forward_only(self) -> str | None:
        """The setting that leaves no derivatives: weights that change or move behind a call, where backward would
        read other memory, quantised layers that forward mode can't go through (all but torchao's), or attention without
        a backward pass."""
        if self.quantisation not in (None, "torchao"):
            return "quantisation"
        if self.attention_backend is not None and self.attention_backend.startswith(_NO_BACKWARD):
            return "attention_backend"
        return next((key for key in ("layerwise_casting", "group_offload") if getattr(self, key)), None)

    def pixels(self) -> dict[str, Any]:
        """What is set of what changes pixels, if only by rounding."""
        unset = Loading()
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _WHERE_ONLY}
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in named.items()
            if value != getattr(unset, name)
        }


def check_family(
    loading: Loading, family: str, guidance_kind: str, attention_kind: str, transformer: str, prompt_tokens: bool
) -> None:
    """Raises LoadingError for what a family can't do. family, transformer: class names of diffusers. prompt_tokens:
    whether the model takes them."""
    if loading.embedded_guidance is not None and guidance_kind != "embedded":
        mend = "method.free_guidance is its guidance" if guidance_kind == "true" else "it has none"
        raise LoadingError(f"loading.embedded_guidance: this {family} has no embedded guidance: leave it out; {mend}")
    if loading.prompt_tokens is not None and not prompt_tokens:
        raise LoadingError(f"loading.prompt_tokens: this {family} has no T5, whose tokens they are: leave it out")
    if loading.compile:
        import diffusers  # seconds, for whoever compiles

        if not getattr(getattr(diffusers, transformer), "_repeated_blocks", None):
            raise LoadingError(f"loading.compile: {family} names no repeated blocks to compile: leave it out")
    if loading.attention_backend is not None:
        _check_attention(loading.attention_backend, family, attention_kind)
    if loading.quantisation_options:
        _check_options(loading)


def _check_attention(name: str, family: str, attention_kind: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    if attention_kind == "fixed":
        raise LoadingError(f"loading.attention_backend has no effect on {family}: leave it out")
    allowed = [its.value for its in AttentionBackendName if not its.value.endswith("_hub")]  # those fetch remote code
    why = ""
    if attention_kind == "masked":
        allowed = [its for its in allowed if not its.startswith(_NO_MASKS)]
        why = f", which can't leave out the padding that {family} masks" if name.startswith(_NO_MASKS) else ""
    if name not in allowed:
        raise LoadingError(f"loading.attention_backend is {name!r}{why}; allowed: {', '.join(allowed)}")


def _check_options(loading: Loading) -> None:
    """By name, since diffusers drops what it doesn't know."""
    from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    parameters = inspect.signature(AUTO_QUANTIZATION_CONFIG_MAPPING[str(loading.quantisation)]).parameters
    known = [name for name, its in parameters.items() if its.kind is not its.VAR_KEYWORD]
    for name in loading.quantisation_options:
        if name not in known:
            raise LoadingError(
                f"loading.quantisation_options.{name}: {loading.quantisation} has no such option; it has "
                f"{', '.join(known)}"
            )


def stored_quantisation(transformer: Mapping[str, Any]) -> str | None:
    """By what a transformer's stored weights are quantised already, as its configuration tells; None: they are not."""
    method: str | None = (transformer.get("quantization_config") or {}).get("quant_method")
    return method


def has_derivatives(loading: Loading, stored: str | None) -> bool:
    """Whether weights so loaded go forward mode and backward. stored: see `stored_quantisation`."""
    return loading.forward_only is None and stored in (None, "torchao")


def check_stored(loading: Loading, stored: str | None) -> None:
    """Raises LoadingError for weights that would be quantised twice."""
    if stored and loading.quantisation:
        raise LoadingError(f"loading.quantisation: the weights are stored quantised, by {stored}: leave it out")


def check_image_half(loading: Loading, image_half: str, dtype: str, stored: str | None = None) -> None:
    """Raises LoadingError for HSDS with a model that has no derivatives. dtype: the model's, as torch names it."""
    if image_half != "hsds":
        return
    if key := loading.forward_only:
        other = "take torchao's, " if key == "quantisation" else ""
        raise LoadingError(
            f"loading.{key} {getattr(loading, key)} leaves no derivatives, which image_half hsds needs: leave it out, "
            f"{other}or take image_half dds"
        )
    if not has_derivatives(loading, stored):
        raise LoadingError(
            f"method.image_half hsds needs derivatives, which weights that are stored quantised by {stored} lack: take "
            "image_half dds, or weights that are not"
        )
    # In float32 a backbone takes differences instead.
    if dtype != "float32" and loading.attention_backend not in _FORWARD_MODE:
        raise LoadingError(
            f"loading.attention_backend {loading.attention_backend} has no forward mode, which image_half hsds needs "
            f"in {dtype}: leave it out, or take dtype float32 or image_half dds"
        )


def check_machine(loading: Loading, device: "torch.device") -> None:
    """Raises LoadingError for what this machine lacks."""
    variable, names = _COMPILERS["cpu" if device.type == "cpu" else "gpu"]
    if loading.compile and not os.environ.get(variable) and not any(map(shutil.which, names)):
        raise LoadingError(f"loading.compile: this worker has no compiler: install {names[0]}, or leave it out")
    for key in ("group_offload", "device_map"):
        if getattr(loading, key) and device.type == "cpu":
            raise LoadingError(f"loading.{key} needs a GPU, this worker runs on the CPU: leave it out")
    if loading.quantisation:
        if loading.quantisation.startswith("bitsandbytes") and device.type == "cpu":
            raise LoadingError(f"loading.quantisation: {loading.quantisation} needs a GPU: take torchao here")
        package = _PACKAGES.get(loading.quantisation, "bitsandbytes")
        if find_spec(package.split(".")[0]) is None or find_spec(package) is None:
            raise LoadingError(f"loading.quantisation: {loading.quantisation} needs the package {package}: install it")
    if loading.attention_backend is not None:
        from diffusers.models import attention_dispatch

        try:
            attention_dispatch._check_attention_backend_requirements(
                attention_dispatch.AttentionBackendName(loading.attention_backend)
            )
        except RuntimeError as error:
            raise LoadingError(f"loading.attention_backend: {error}") from None


def quantisation_config(loading: Loading) -> Any:
    """diffusers' own configuration for the transformer alone; None where nothing is quantised.

    Raises LoadingError for options that it refuses.
    """
    if loading.quantisation is None:
        return None
    from diffusers import PipelineQuantizationConfig
    from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    options: dict[str, Any] = dict(loading.quantisation_options)
    if loading.quantisation.startswith("bitsandbytes"):
        options["load_in_" + loading.quantisation.removeprefix("bitsandbytes_")] = True
    try:
        if loading.quantisation == "torchao":
            options["quant_type"] = _torchao_type(options.get("quant_type", "Int8WeightOnlyConfig"))()
        config = AUTO_QUANTIZATION_CONFIG_MAPPING[loading.quantisation](**options)
    except (AttributeError, TypeError, ValueError) as error:
        raise LoadingError(f"loading.quantisation_options: {loading.quantisation} refuses them: {error}") from None
    return PipelineQuantizationConfig(quant_mapping={"transformer": config})


def _torchao_type(name: Any) -> Any:
    import torchao.quantization

    known = [its for its in dir(torchao.quantization) if its.endswith("Config")]
    if name not in known:
        raise ValueError(f"quant_type is {name!r}, and has to be one of {', '.join(known)}")
    return getattr(torchao.quantization, name)


def prepare(pipeline: Any, loading: Loading, device: "torch.device", dtype: "torch.dtype") -> None:
    """Place a loaded pipeline and set its transformer up."""
    import torch

    transformer = pipeline.transformer
    if loading.layerwise_casting:
        transformer.enable_layerwise_casting(getattr(torch, loading.layerwise_casting), dtype)
    if loading.group_offload:
        groups = 1 if loading.group_offload == "block_level" else None
        pipeline.enable_group_offload(device, offload_type=loading.group_offload, num_blocks_per_group=groups)
    elif not loading.device_map:
        pipeline.to(device)
    if loading.attention_backend:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry

        # diffusers would leave it as the choice of every other model in this process as well.
        others = _AttentionBackendRegistry._active_backend
        transformer.set_attention_backend(loading.attention_backend)
        _AttentionBackendRegistry.set_active_backend(others)
    if loading.compile:
        allow_many_graphs()
        transformer.compile_repeated_blocks()


def allow_many_graphs() -> None:
    """Raise the number of graphs that torch.compile may make of one function in this process from its 8 to 64.

    The first size is compiled for itself, the second for sizes that change, each forward, backward and (in half
    precision, in pieces) forward mode; beyond the limit the next would run uncompiled without a word.
    """
    import torch

    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, limit, max(64, getattr(torch._dynamo.config, limit)))
