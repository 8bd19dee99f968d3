from pathlib import Path

import pytest
import torch

from eim_ops.backbones.registry import UnknownFamilyError
from eim_ops.load import checked_family, load_backbone
from eim_ops.loading import Loading, LoadingError, check_machine
from tests.eim_ops.backbones.tiny import PIPELINES, PROMPTS


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


def test_layerwise_casting_keeps_weights_in_8_bits_and_computes_in_the_dtype(schnell: str) -> None:
    loading = Loading(layerwise_casting="float8_e4m3fn")
    backbone = load_backbone(schnell, device="cpu", loading=loading)
    weights = {p.dtype for p in backbone.pipeline.transformer.transformer_blocks[0].ff.parameters()}  # type: ignore[attr-defined]
    assert weights == {torch.float8_e4m3fn} and backbone.dtype == torch.float32  # type: ignore[attr-defined]
    cast, plain = velocity(schnell, loading), velocity(schnell, Loading())
    assert 0 < (cast - plain).norm() < 0.2 * plain.norm()


def test_weights_that_change_behind_a_call_refuse_to_go_backward(schnell: str) -> None:
    backbone = load_backbone(schnell, device="cpu", loading=Loading(layerwise_casting="float8_e4m3fn"))
    x = torch.zeros(3, 4, 8, 8)
    with pytest.raises(ValueError, match="weights that have no derivatives"):
        backbone.vjp(x, torch.tensor(0.5), backbone.encode_text(PROMPTS), x)


def test_fewer_prompt_tokens_pad_less(schnell: str) -> None:
    backbone = load_backbone(schnell, device="cpu", loading=Loading(prompt_tokens=32))
    assert backbone.encode_text(PROMPTS).tokens.shape[1] == 32


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        (Loading(compile=True), "loading.compile: StableDiffusion3Pipeline names no repeated blocks"),
        (Loading(attention_backend="native"), "loading.attention_backend has no effect on StableDiffusion3Pipeline"),
        (Loading(guidance=3.5), "loading.guidance: .* method.free_guidance is its guidance"),
    ],
)
def test_what_a_family_lacks_is_refused_by_key_before_weights(loading: Loading, message: str) -> None:
    with pytest.raises(LoadingError, match=message):
        checked_family("mini-dit", None, loading)


def test_attention_that_fetches_code_is_not_among_the_allowed(schnell: str) -> None:
    with pytest.raises(LoadingError, match="'flash_hub'; allowed: flash,"):
        checked_family(schnell, None, Loading(attention_backend="flash_hub"))


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
        {"guidance": -1},
    ],
)
def test_impossible_settings_name_their_key(settings: dict) -> None:
    with pytest.raises(LoadingError, match=rf"loading\.{next(iter(settings))}|loading\.layerwise_casting"):
        Loading(**settings)


def test_only_what_is_set_and_changes_pixels_is_told() -> None:
    assert Loading().pixels() == {} == Loading(group_offload="leaf_level").pixels()
    assert Loading(compile=True, guidance=2.0).pixels() == {"compile": True, "guidance": 2.0}


def test_an_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    with pytest.raises(UnknownFamilyError, match=r"is a KolorsPipeline; known are StableDiffusion3Pipeline, FluxPip"):
        load_backbone(str(tmp_path))
