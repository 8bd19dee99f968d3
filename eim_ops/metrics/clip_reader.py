"""Attributes of any images as CLIP or SigLIP reads them, where there is no judge. Ours."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

from eim_ops.metrics.disentanglement import Reader
from eim_ops.named_models import pick_device


def load_clip_reader(
    model: str,
    attributes: Mapping[str, tuple[str, str]],
    images: Sequence[np.ndarray],
    revision: str | None = None,
    device: str = "auto",
    batch: int = 16,
) -> Reader:
    """A reader of named attributes, each told by two texts: without it and with it.

    A reading is how much better the second text fits than the first, in logits, over the standard deviation of that
    over `images`, unedited ones of one size, uint8 (H, W, 3). model: a hub id or a folder. Raises ValueError for a text
    that is longer than the model takes, and for an attribute that all images have alike, whose unit would be 0.
    """
    pinned = {"revision": revision, "trust_remote_code": False}
    its = AutoModelForZeroShotImageClassification.from_pretrained(model, use_safetensors=True, **pinned)
    its = its.to(pick_device(device)).eval()
    processor = AutoProcessor.from_pretrained(model, **pinned)
    texts = [text for pair in attributes.values() for text in pair]
    longest = its.config.text_config.max_position_embeddings
    for text, ids in zip(texts, processor.tokenizer(texts)["input_ids"], strict=True):
        if len(ids) > longest:
            raise ValueError(f"attributes: {text!r} has {len(ids)} tokens, {model} reads {longest}; shorten it")
    words = processor.tokenizer(texts, padding="max_length", max_length=longest, return_tensors="pt")

    @torch.inference_mode()
    def logits(pixels: np.ndarray) -> np.ndarray:
        shown = processor.image_processor([Image.fromarray(image) for image in pixels], return_tensors="pt")
        fit = its(**words.to(its.device), **shown.to(its.device)).logits_per_image.double().cpu().numpy()
        return fit[:, 1::2] - fit[:, ::2]

    def in_batches(pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([logits(pixels[at : at + batch]) for at in range(0, len(pixels), batch)])

    spread = in_batches(np.stack(images)).std(0)
    alike = [name for name, unit in zip(attributes, spread, strict=True) if not unit > 0]
    if alike:
        raise ValueError(f"images: {', '.join(alike)} reads the same in all of them; give images that differ in it")
    return lambda pixels: in_batches(pixels) / spread
