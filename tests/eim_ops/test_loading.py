import sys
from functools import partialmethod
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch._dynamo.utils import counters

from eim_ops.backbones.adapter import PipelineBackbone
from eim_ops.backbones.registry import FAMILIES, UnknownFamilyError
from eim_ops.loading import Loading, LoadingError, check_family, check_image_half, check_machine, quantisation_config
from eim_ops.named_models import checked_family, load_backbone
from tests.eim_ops.backbones.tiny import PIPELINES, PROMPTS

MASKED = ("qwen-image", "z-image")
BLOCKS = {"z-image": "layers"}
"""Where a transformer's blocks are, if not in `transformer_blocks`."""


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("flux")
    PIPELINES["flux-schnell"]().save_pretrained(folder)
    return str(folder)


def velocity(model: str, loading: Loading) -> torch.Tensor:
    backbone = load_backbone(model, device="cpu", loading=loading)
    x = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    return backbone.velocity(x, torch.tensor(0.7), backbone.encode_text(PROMPTS))


@pytest.mark.parametrize(
    "loading", [pytest.param(Loading(compile=True), marks=pytest.mark.slow), Loading(attention_backend="_native_math")]
)
def test_compiled_blocks_and_another_attention_give_the_same_velocity(schnell: str, loading: Loading) -> None:
    assert torch.allclose(velocity(schnell, loading), velocity(schnell, Loading()), atol=1e-4)


@pytest.mark.parametrize("family", PIPELINES)
def test_layerwise_casting_keeps_weights_in_8_bits_and_computes_in_the_dtype(family: str, tmp_path: Path) -> None:
    PIPELINES[family]().save_pretrained(tmp_path)
    loading = Loading(layerwise_casting="float8_e4m3fn")
    cast, plain = (load_backbone(str(tmp_path), device="cpu", loading=its) for its in (loading, Loading()))
    assert isinstance(cast, PipelineBackbone) and cast.dtype == torch.float32
    block = cast.pipeline.transformer.get_submodule(BLOCKS.get(family, "transformer_blocks"))[0]
    linear = {name: its for name, its in block.named_modules() if isinstance(its, torch.nn.Linear)}
    assert {its.weight.dtype for name, its in linear.items() if "norm" not in name} == {torch.float8_e4m3fn}
    shape = plain.encode_image(torch.zeros(1, 3, 32, 32)).shape[1:]
    x = torch.randn((3, *shape), generator=torch.Generator().manual_seed(0))
    near, exact = (its.velocity(x, torch.tensor(0.7), its.encode_text(PROMPTS)) for its in (cast, plain))
    assert 0 < (near - exact).norm() < 0.3 * exact.norm()


def test_weights_that_change_behind_a_call_refuse_to_go_backward(schnell: str) -> None:
    backbone = load_backbone(schnell, device="cpu", loading=Loading(layerwise_casting="float8_e4m3fn"))
    x = torch.zeros(3, 4, 8, 8)
    with pytest.raises(ValueError, match="weights or attention that have no derivatives"):
        backbone.vjp(x, torch.tensor(0.5), backbone.encode_text(PROMPTS), x)


def test_fewer_prompt_tokens_pad_less(schnell: str) -> None:
    backbone = load_backbone(schnell, device="cpu", loading=Loading(prompt_tokens=32))
    assert backbone.encode_text(PROMPTS).tokens.shape[1] == 32


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        (Loading(compile=True), "loading.compile: StableDiffusion3Pipeline names no repeated blocks"),
        (Loading(attention_backend="native"), "loading.attention_backend has no effect on StableDiffusion3Pipeline"),
        (Loading(embedded_guidance=3.5), "loading.embedded_guidance: .* method.free_guidance is its guidance"),
        (Loading(prompt_tokens=64), "loading.prompt_tokens: this StableDiffusion3Pipeline has no T5"),
    ],
)
def test_what_a_family_lacks_is_refused_by_key_before_weights(loading: Loading, message: str) -> None:
    with pytest.raises(LoadingError, match=message):
        checked_family("mini-dit", None, loading)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_model_with_the_encoder_whose_tokens_they_are_takes_prompt_tokens(family: str, tmp_path: Path) -> None:
    PIPELINES[family]().save_pretrained(tmp_path)
    checked_family(str(tmp_path), None, Loading(prompt_tokens=64))


def test_attention_that_fetches_code_is_not_among_the_allowed(schnell: str) -> None:
    with pytest.raises(LoadingError, match="'flash_hub'; allowed: flash,"):
        checked_family(schnell, None, Loading(attention_backend="flash_hub"))


def attention_refused(pipeline: Any, name: str) -> str | None:
    """Why a pipeline's family refuses this attention; None where it takes it."""
    family, transformer = type(pipeline).__name__, type(pipeline.transformer).__name__
    try:
        kind = FAMILIES[family].attention_kind
        check_family(Loading(attention_backend=name), family, "true", kind, transformer, True)
    except LoadingError as error:
        return str(error)
    return None


@pytest.mark.parametrize("family", PIPELINES)
def test_attention_is_taken_where_it_can_be_set_and_can_do_the_familys_masks(family: str) -> None:
    local = [its.value for its in AttentionBackendName if not its.value.endswith("_hub")]
    pipeline = PIPELINES[family]()
    refused = {name: why for name in local if (why := attention_refused(pipeline, name))}
    without_masks = {name for name in local if "flash" in name or "sage" in name} | {"_native_xla"}
    expected = set(local) if family.startswith("sd3") else without_masks if family in MASKED else set()
    assert set(refused) == expected
    assert all(why.startswith("loading.attention_backend ") for why in refused.values())
    if family in MASKED:
        assert "'sage', which can't leave out the padding that" in refused["sage"]
        assert refused["sage"].partition("allowed: ")[2].startswith("flex, native, _native_cudnn")


@pytest.mark.parametrize(
    ("loading", "dtype", "message"),
    [
        (Loading(attention_backend="sage"), "float32", "loading.attention_backend sage leaves no derivatives"),
        (Loading(attention_backend="_sage_qk_int8_pv_fp16_cuda"), "bfloat16", "_cuda leaves no derivatives, which im"),
        (Loading(attention_backend="_flash_3"), "bfloat16", "loading.attention_backend _flash_3 leaves no derivatives"),
        (
            Loading(attention_backend="_native_flash"),
            "bfloat16",
            "loading.attention_backend _native_flash has no forward mode, which image_half hsds needs in bfloat16: ",
        ),
        (Loading(attention_backend="_native_flash"), "float32", None),
        (Loading(attention_backend="native"), "bfloat16", None),
        (Loading(quantisation="quanto"), "bfloat16", "loading.quantisation quanto leaves .* take torchao's, or take"),
        (Loading(), "bfloat16", None),
    ],
)
def test_attention_without_the_derivatives_of_hsds_is_refused_by_key(
    loading: Loading, dtype: str, message: str | None
) -> None:
    check_image_half(loading, "dds", dtype)
    if message is None:
        check_image_half(loading, "hsds", dtype)
        return
    with pytest.raises(LoadingError, match=message):
        check_image_half(loading, "hsds", dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [("flux-schnell", "float32"), ("qwen-image", "bfloat16")])
def test_compiled_blocks_take_every_aspect_bucket_within_torchs_limit_of_graphs(
    family: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIPELINES[family]().save_pretrained(tmp_path)
    # Traced as ever, and run as traced: generating code takes minutes and changes no count.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=8):
        backbone = load_backbone(str(tmp_path), device="cpu", dtype=dtype, loading=Loading(compile=True))
        conditioning, sigma, traced = backbone.encode_text(PROMPTS), torch.tensor(0.7), []
        for size in [(8, 8), (8, 12), (12, 8), (6, 16), (16, 6), (10, 14), (14, 10), (4, 16), (16, 4), (12, 12)]:
            x = torch.randn((3, 4, *size), generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
            backbone.velocity(x, sigma, conditioning)
            backbone.vjp(x, sigma, conditioning, x)
            backbone.jvp(x, sigma, conditioning, x)
            traced.append(counters["frames"]["total"])
    assert traced[0] < traced[1], "compiled once more, for sizes that change"
    if dtype == "float32":
        assert traced[1] == traced[-1]


def test_attention_is_set_for_one_model_alone(schnell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("native", "_native_math"):
        attend = _AttentionBackendRegistry._backends[name]

        def noted(*args: Any, its: str = name, through: Any = attend, **kwargs: Any) -> torch.Tensor:
            calls.append(its)
            return through(*args, **kwargs)

        monkeypatch.setitem(_AttentionBackendRegistry._backends, name, noted)
    velocity(schnell, Loading(attention_backend="_native_math"))
    assert set(calls) == {"_native_math"}
    calls.clear()
    velocity(schnell, Loading())
    assert set(calls) == {"native"}


def test_forward_mode_goes_through_the_attention_that_is_said_to_have_it(schnell: str) -> None:
    for name, works in (("native", True), ("_native_math", True), ("_native_flash", False)):
        backbone = load_backbone(schnell, device="cpu", dtype="bfloat16", loading=Loading(attention_backend=name))
        x = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0)).bfloat16()
        conditioning = backbone.encode_text(PROMPTS)
        assert backbone.jvp_step is None
        if works:
            assert backbone.jvp(x, torch.tensor(0.7), conditioning, x).norm() > 0
        else:
            with pytest.raises(NotImplementedError, match="forward AD"):
                backbone.jvp(x, torch.tensor(0.7), conditioning, x)


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        (
            Loading(quantisation="bitsandbytes_4bit", quantisation_options={"bnb_4bit_quant_typ": "nf4"}),
            r"quantisation_options\.bnb_4bit_quant_typ: bitsandbytes_4bit has no such option; it has .*bnb_4bit_quant",
        ),
        (
            Loading(quantisation="quanto", quantisation_options={"weight_dtype": "int8"}),
            r"quantisation_options\.weight_dtype: quanto has no such option; it has weights_dtype, modules_to_not",
        ),
    ],
)
def test_an_option_that_a_quantisation_lacks_is_refused_before_anything_starts(
    schnell: str, loading: Loading, message: str
) -> None:
    with pytest.raises(LoadingError, match=message):
        checked_family(schnell, None, loading)


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        (
            Loading(quantisation="torchao", quantisation_options={"quant_type": "int8wo"}),
            "quant_type is 'int8wo', and has to be one of Int4WeightOnlyConfig, Int8WeightOnlyConfig",
        ),
        (
            Loading(quantisation="torchao", quantisation_options={"quant_type": "Int4WeightOnlyConfig"}),
            "torchao refuses them: .* missing 1 required",
        ),
        (Loading(quantisation="quanto", quantisation_options={"weights_dtype": "int3"}), "quanto refuses them: .*int3"),
        (
            Loading(quantisation="bitsandbytes_8bit", quantisation_options={"llm_int8_threshold": 6}),
            "bitsandbytes_8bit refuses them: llm_int8_threshold must be a float",
        ),
    ],
)
def test_a_value_that_a_quantisation_refuses_is_told_by_key_before_weights(
    loading: Loading, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Int8WeightOnlyConfig:
        pass

    class Int4WeightOnlyConfig:
        def __init__(self, group_size: int) -> None:
            pass

    torchao, quantization = ModuleType("torchao"), ModuleType("torchao.quantization")
    torchao.quantization = quantization  # type: ignore[attr-defined]
    quantization.__dict__.update(
        Int8WeightOnlyConfig=Int8WeightOnlyConfig, Int4WeightOnlyConfig=Int4WeightOnlyConfig, quantize_=None
    )
    monkeypatch.setitem(sys.modules, "torchao", torchao)
    monkeypatch.setitem(sys.modules, "torchao.quantization", quantization)
    with pytest.raises(LoadingError, match=rf"loading\.quantisation_options: .*{message}"):
        quantisation_config(loading)


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        (Loading(group_offload="leaf_level"), "loading.group_offload needs a GPU"),
        (Loading(device_map="balanced"), "loading.device_map needs a GPU"),
        (Loading(quantisation="bitsandbytes_4bit"), "bitsandbytes_4bit needs a GPU: take torchao"),
        (Loading(quantisation="quanto"), "quanto needs the package optimum.quanto: install it"),
        (
            Loading(attention_backend="flash"),
            "loading.attention_backend: Flash Attention backend 'flash' is not usable",
        ),
    ],
)
def test_what_the_machine_lacks_is_refused_by_key(loading: Loading, message: str) -> None:
    with pytest.raises(LoadingError, match=message):
        check_machine(loading, torch.device("cpu"))


@pytest.mark.parametrize(
    "settings",
    [
        {"quantisation": "int3"},
        {"quantisation_options": {"a": 1}},
        {"device_map": "balanced", "group_offload": "leaf_level"},
        {"quantisation": "quanto", "layerwise_casting": "float8_e5m2"},
        {"prompt_tokens": 0},
        {"embedded_guidance": -1},
    ],
)
def test_impossible_settings_name_their_key(settings: dict) -> None:
    with pytest.raises(LoadingError, match=rf"loading\.{next(iter(settings))}|loading\.layerwise_casting"):
        Loading(**settings)


def test_only_what_is_set_and_changes_pixels_is_told() -> None:
    assert Loading().pixels() == {} == Loading(group_offload="leaf_level").pixels()
    assert Loading(compile=True, embedded_guidance=2.0).pixels() == {"compile": True, "embedded_guidance": 2.0}


def test_an_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    with pytest.raises(UnknownFamilyError, match=r"is a KolorsPipeline; known are StableDiffusion3Pipeline, FluxPip"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(("device", "variable", "missing"), [("cpu", "CXX", "g\\+\\+"), ("cuda", "CC", "gcc")])
def test_compiling_without_a_compiler_is_refused(
    device: str, variable: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    check_machine(Loading(compile=True), torch.device(device))
    monkeypatch.setenv("PATH", "")
    check_machine(Loading(), torch.device(device))
    with pytest.raises(LoadingError, match=f"loading.compile: this worker has no compiler: install {missing}"):
        check_machine(Loading(compile=True), torch.device(device))
    monkeypatch.setenv(variable, "/opt/cc")
    check_machine(Loading(compile=True), torch.device(device))
