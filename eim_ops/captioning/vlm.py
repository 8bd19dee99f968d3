"""A captioner around any image-text-to-text model with a chat template that transformers' Auto classes load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Instructions:
    """What the model is asked. `rewrite` is a template with {prompt} and {request}.

    A model may carry its own as `eim_instructions` in its config, as mini-vlm does.
    """

    describe: str = (
        "Describe this image as one prompt for an image generator: short phrases separated by commas, one for each "
        "visible attribute, most important first. Answer with the prompt alone."
    )
    rewrite: str = (
        "This is a prompt for an image generator:\n{prompt}\nWrite it again with this change: {request}\n"
        "Replace only the words that the change concerns, keep all others and their order. "
        "Answer with the new prompt alone."
    )


@dataclass(frozen=True)
class VlmCaptioner:
    """Captions and rewrites by greedy decoding, batched. A model without a chat template raises at the first call."""

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str
    revision: str
    instructions: Instructions
    max_new_tokens: int = 128

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        """A source prompt of each RGB image."""
        text = {"type": "text", "text": self.instructions.describe}
        return self._answer([[_user({"type": "image", "image": image.convert("RGB")}, text)] for image in images])

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        """The target prompt of each (source prompt, edit request). `check_minimal_pair` tells whether it is one."""
        asked = [
            self.instructions.rewrite.format(prompt=prompt, request=request)
            for prompt, request in zip(prompts, requests, strict=True)
        ]
        return self._answer([[_user({"type": "text", "text": text})] for text in asked])

    @torch.inference_mode()
    def _answer(self, chats: Sequence[Sequence[Message]]) -> list[str]:
        if not chats:
            return []
        inputs = self.processor.apply_chat_template(
            list(chats),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.model.device, self.model.dtype)
        limit = self.max_new_tokens
        tokens = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=limit)
        said = tokens[:, inputs["input_ids"].shape[1] :]
        if said.shape[1] == limit:
            self._refuse_cut(said)
        answers = self.processor.batch_decode(said, skip_special_tokens=True)
        return [" ".join(answer.split()) for answer in answers]

    def _refuse_cut(self, said: torch.Tensor) -> None:
        ends = self.model.generation_config.eos_token_id
        ended = torch.isin(said, torch.tensor(ends, device=said.device)).any(dim=1)
        for row in (~ended).nonzero()[:, 0].tolist():
            start = self.processor.decode(said[row, :16], skip_special_tokens=True)
            raise ValueError(
                f"captioner {self.name} did not end its answer {row} within {self.max_new_tokens} tokens; "
                f"it starts {start!r}; take another captioner or give prompts in the manifest"
            )


def _user(*content: Mapping[str, Any]) -> Message:
    return {"role": "user", "content": list(content)}


def load_vlm(source: Path | str, name: str, revision: str, device: torch.device | str) -> VlmCaptioner:
    """Load a captioner from a folder or a hub id. `revision` pins a hub id, and names a folder's weights.

    Float32 on a CPU, bfloat16 on a GPU. Raises ValueError where the model has no chat template.
    """
    device = torch.device(device)
    pinned = {} if isinstance(source, Path) else {"revision": revision}
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, use_safetensors=True, **pinned)
    processor = AutoProcessor.from_pretrained(source, **pinned)
    if processor.chat_template is None:
        raise ValueError(f"captioner {name} has no chat template; take an instruction-tuned image-text-to-text model")
    processor.tokenizer.padding_side = "left"
    given = getattr(model.config, "eim_instructions", None)
    instructions = Instructions(**given) if given else Instructions()
    return VlmCaptioner(model.to(device).eval(), processor, name, revision, instructions)
