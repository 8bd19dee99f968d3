import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.method import Method
from eim_ops.metrics.clip_reader import load_clip_reader
from eim_ops.metrics.disentanglement import measure_disentanglement
from tests.eim_ops.backbones.tiny import tokenizer

ATTRIBUTES = {"hair": ("a portrait with blue hair", "a portrait with red hair"), "size": ("a portrait", "a size")}
IMAGES = list(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLIP of random weights."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 3}
    vision = {**small, "image_size": 32, "patch_size": 8}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    path = str(tmp_path_factory.mktemp("clip"))
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(path)
    CLIPProcessor(images, tokenizer(16)).save_pretrained(path)
    return path


def test_a_reading_is_in_units_of_its_spread_and_does_not_depend_on_the_batch(folder: str) -> None:
    readings = [load_clip_reader(folder, ATTRIBUTES, IMAGES, batch=batch)(np.stack(IMAGES)) for batch in (2, 16)]
    assert readings[0].shape == (5, 2)
    assert readings[0].std(0) == pytest.approx(np.ones(2))
    assert readings[0] == pytest.approx(readings[1], abs=1e-3)
    turned = {name: (text_with, without) for name, (without, text_with) in ATTRIBUTES.items()}
    assert load_clip_reader(folder, turned, IMAGES)(np.stack(IMAGES)) == pytest.approx(-readings[1], abs=1e-3)


def test_texts_and_images_that_tell_nothing_are_refused(folder: str) -> None:
    with pytest.raises(ValueError, match=r"22 tokens, .* reads 16"):
        load_clip_reader(folder, {"hair": ("hair", "hair " * 20)}, IMAGES)
    with pytest.raises(ValueError, match="hair, size reads the same in all"):
        load_clip_reader(folder, ATTRIBUTES, IMAGES[:1])
    with pytest.raises(ValueError, match="nothing reads the same"):
        load_clip_reader(folder, {"nothing": ("hair", "hair")}, IMAGES)


def test_edits_of_any_backbone_are_read(folder: str, backbone: Sd3Backbone) -> None:
    prompts = ["a portrait with young age, pale skin"] * 2
    targets = [{"hair": "a portrait with old age, pale skin", "size": "a portrait with young age, tan skin"}] * 2
    read = load_clip_reader(folder, ATTRIBUTES, IMAGES)
    method = Method(steps=2, draws=1, guidance=1.0)
    found = measure_disentanglement(backbone, IMAGES[:2], prompts, targets, read, [*ATTRIBUTES], method, batch=2)
    assert all(np.isfinite(its.degree) for its in found.values())
