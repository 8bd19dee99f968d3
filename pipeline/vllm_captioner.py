"""A captioner in vLLM, by the stages of a `ray.data.llm` processor, run in the caption stage's own actor.

docs/captioners.md tells why the processor's stages and not its Dataset transform.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from eim_ops.captioning.base import all_or_refused
from eim_ops.captioning.instructions import GENERAL, Instructions
from pipeline.captioner_spec import VllmSpec

_DATA = "rows"
_ERROR = "__inference_error__"
Row = dict[str, Any]


class EngineRefused(Exception):
    """vLLM gave no answer to one question; the message is its own."""


@dataclass(frozen=True)
class VllmCaptioner:
    """Asks one question a row, all rows of a call at once; decoding is greedy and can only give JSON of the schema.

    stages: the processor's, in order; each maps a batch {`rows`: [...]} to one of the same rows, with what it adds. An
    engine that dies ends the process (ray.data.llm does that), so that the stage's attempt marker stays.
    """

    name: str
    revision: str
    stages: Sequence[Any]
    max_tokens: int = 256
    instructions: Instructions = GENERAL
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __post_init__(self) -> None:
        # As Ray Data runs such stages: one loop for the engine's whole life, beside the thread that calls.
        threading.Thread(target=self._loop.run_forever, daemon=True, name="vllm").start()

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        """A source prompt of each RGB image."""
        text = {"type": "text", "text": self.instructions.describe}
        rows = [
            {**self._question({"type": "image"}, text), "multimodal_data": {"image": image.convert("RGB")}}
            for image in images
        ]
        return self._answers(rows)

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        """The target prompt of each (source prompt, edit request)."""
        asked = [self.instructions.ask_rewrite(*pair) for pair in zip(prompts, requests, strict=True)]
        return self._answers([self._question({"type": "text", "text": text}) for text in asked])

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        """Other target prompts: the model is told the problems."""
        asked = [self.instructions.ask_again(*its) for its in zip(prompts, requests, answers, problems, strict=True)]
        return self._answers([self._question({"type": "text", "text": text}) for text in asked])

    def _question(self, *content: Mapping[str, Any]) -> Row:
        sampling: Row = {"temperature": 0.0, "seed": 0, "max_tokens": self.max_tokens}
        if self.instructions.schema is not None:
            sampling["structured_outputs"] = {"json": dict(self.instructions.schema)}
        return {"messages": [{"role": "user", "content": list(content)}], "sampling_params": sampling}

    def _answers(self, rows: list[Row]) -> list[str]:
        if not rows:
            return []
        answered = asyncio.run_coroutine_threadsafe(self._through(rows), self._loop).result()
        return all_or_refused([self._read(row) for row in answered])

    async def _through(self, rows: list[Row]) -> list[Row]:
        for stage in self.stages:
            async for batch in stage({_DATA: rows}):
                rows = batch[_DATA]
        return rows

    def _read(self, row: Row) -> str | Exception:
        if row.get(_ERROR):
            return EngineRefused(f"captioner {self.name}: {row[_ERROR]}")
        text = row["generated_text"]
        if row["num_generated_tokens"] >= self.max_tokens:
            return ValueError(
                f"captioner {self.name} did not end its answer within {self.max_tokens} tokens; "
                f"it starts {text[:80]!r}; raise captioner.max_tokens"
            )
        try:
            return self.instructions.read(text)
        except ValueError as error:
            return ValueError(f"captioner {self.name}: {error}")


def start_vllm(spec: VllmSpec) -> VllmCaptioner:
    """Start the engine in this process. A hub id's snapshot is fetched first, so that every stage reads that commit."""
    from eim_ops.named_models import model_folder, model_revision

    revision = model_revision(spec.model, spec.revision)
    folder = model_folder(spec.model)
    if folder is None:
        from huggingface_hub import snapshot_download

        source = snapshot_download(spec.model, revision=revision)
    else:
        source = str(folder)
    # vLLM's own choice would also read pickled weights.
    engine: Row = {"seed": 0, "load_format": "safetensors", "limit_mm_per_prompt": {"image": 1}, **spec.engine}
    if spec.gpus > 1:
        engine.setdefault("distributed_executor_backend", "mp")  # on the GPUs that this actor holds
    config = vLLMEngineProcessorConfig(
        model_source=source,
        engine_kwargs=engine,
        batch_size=spec.questions,
        max_concurrent_batches=1,
        should_continue_on_error=True,
        # vLLM does both itself.
        tokenize_stage=False,
        detokenize_stage=False,
    )
    made = build_processor(config).stages.values()
    arguments = [stage.get_dataset_map_batches_kwargs(spec.questions, _DATA)["fn_constructor_kwargs"] for stage in made]
    stages = [stage.fn(**its) for stage, its in zip(made, arguments, strict=True)]
    return VllmCaptioner(spec.model, revision, stages, spec.max_tokens)
