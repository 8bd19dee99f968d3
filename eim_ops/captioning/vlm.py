"""A captioner around any image-text-to-text model with a chat template that transformers' Auto classes load."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, LogitsProcessor, PreTrainedModel, ProcessorMixin

from eim_ops.captioning.base import all_or_refused
from eim_ops.captioning.constrained import JsonConstraint
from eim_ops.captioning.instructions import GENERAL, Instructions, constraint_is_installed
from eim_ops.captioning.processors import load_processor

Message = Mapping[str, Any]
# What a model's generation_config.json would else add to either.
_GREEDY: Mapping[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
_SAMPLED: Mapping[str, Any] = {
    "do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class VlmCaptioner:
    """Captions and rewrites by greedy decoding, batched. A model without a chat template raises at the first call.

    `constrained` decoding can only give JSON of the instructions' schema, where they have one. An answer has
    `max_new_tokens` at most, and no more than its question leaves of the model's context.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str
    revision: str
    instructions: Instructions
    max_new_tokens: int = 256
    constrained: bool = False

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        """A source prompt of each RGB image."""
        text = {"type": "text", "text": self.instructions.describe}
        chats = [[_user({"type": "image", "image": image.convert("RGB")}, text)] for image in images]
        return all_or_refused(self._answer(chats))

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        """The target prompt of each (source prompt, edit request). `check_minimal_pair` tells whether it is one."""
        asked = [self.instructions.ask_rewrite(*pair) for pair in zip(prompts, requests, strict=True)]
        return all_or_refused(self._answer([[_user({"type": "text", "text": text})] for text in asked]))

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        """Other target prompts: the problems are told, or each answer sampled from a seed that its question gives."""
        again = zip(prompts, requests, answers, problems, strict=True)
        asked = [self.instructions.ask_again(*its) for its in again]
        chats = [[_user({"type": "text", "text": text})] for text in asked]
        if self.instructions.retry:
            return all_or_refused(self._answer(chats))
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:15], 16) for text in asked]
        return all_or_refused([self._answer([chat], seed)[0] for chat, seed in zip(chats, seeds, strict=True)])

    @torch.inference_mode()
    def _answer(self, chats: Sequence[Sequence[Message]], seed: int | None = None) -> list[str | Exception]:
        """Greedy answers; with a seed they are sampled. Neither depends on what the model's own generation settings say
        of decoding."""
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
        asked, context = inputs["input_ids"].shape[1], self._context
        limit = self.max_new_tokens if context is None else min(self.max_new_tokens, context - asked)
        if limit < 1:
            if len(chats) > 1:  # the others are to have their answers
                return [self._answer([chat], seed)[0] for chat in chats]
            return [
                ValueError(
                    f"captioner {self.name}: the question has {asked} tokens, with the answer it takes {context}: "
                    "shorten it"
                )
            ]
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            if seed is not None:
                torch.manual_seed(seed)
            tokens = self.model.generate(
                **inputs,
                **(_GREEDY if seed is None else _SAMPLED),
                num_beams=1,
                max_new_tokens=limit,
                logits_processor=self._constraint(asked),
            )
        answers = tokens[:, asked:]
        if limit == self.max_new_tokens or len(chats) == 1:
            return [self._read(said, asked, limit) for said in answers]
        # A row's own question may leave it more room than the longest one, to which all are padded.
        return [
            self._answer([chat], seed)[0] if self._is_cut(said, limit) else self._read(said, asked, limit)
            for chat, said in zip(chats, answers, strict=True)
        ]

    @property
    def _context(self) -> int | None:
        """Tokens that the language model takes; None where its configuration doesn't tell."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def _constraint(self, asked: int) -> list[LogitsProcessor]:
        schema = self.instructions.schema if self.constrained else None
        return [] if schema is None else [JsonConstraint(self.processor.tokenizer, schema, asked)]

    def _is_cut(self, said: torch.Tensor, limit: int) -> bool:
        ends = torch.tensor(self.model.generation_config.eos_token_id, device=said.device)
        return len(said) == limit and not bool(torch.isin(said, ends).any())

    def _read(self, said: torch.Tensor, asked: int, limit: int) -> str | Exception:
        text = self.processor.decode(said, skip_special_tokens=True)
        if self._is_cut(said, limit):
            why = "" if limit == self.max_new_tokens else f", all that a question of {asked} leaves of its context"
            return ValueError(
                f"captioner {self.name} did not end its answer within {limit} tokens{why}; "
                f"it starts {text[:80]!r}; take another captioner or give prompts in the manifest"
            )
        try:
            return self.instructions.read(text)
        except ValueError as error:
            return ValueError(f"captioner {self.name}: {error}")


def _user(*content: Mapping[str, Any]) -> Message:
    return {"role": "user", "content": list(content)}


def load_vlm(source: Path | str, name: str, revision: str, device: torch.device | str) -> VlmCaptioner:
    """Load a captioner from a folder or a hub id. `revision` pins a hub id, and names a folder's weights.

    Float32 on a CPU, bfloat16 on a GPU. Raises ValueError where the model has no chat template, or needs code that it
    brings along.
    """
    device = torch.device(device)
    pinned = {} if isinstance(source, Path) else {"revision": revision}
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, **pinned
        )
        processor = load_processor(source, **pinned)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"captioner {name} needs code of its own, which is never run; take a model whose classes transformers has"
        ) from None
    if processor.chat_template is None:
        raise ValueError(f"captioner {name} has no chat template; take an instruction-tuned image-text-to-text model")
    processor.tokenizer.padding_side = "left"
    given = getattr(model.config, "eim_instructions", None)
    instructions = Instructions(**given) if given else GENERAL
    constrained = instructions.schema is not None and constraint_is_installed()
    return VlmCaptioner(model.to(device).eval(), processor, name, revision, instructions, constrained=constrained)
