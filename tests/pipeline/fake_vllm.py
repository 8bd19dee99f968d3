"""A stand-in for the package vllm, below the stages of ray.data.llm: keeps its requests, answers from a script."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class FakeVllm:
    """answer: prompt -> text, or raises. requests: (prompt, sampling parameters) in the order of arrival."""

    answer: Callable[[str], str]
    engine_arguments: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[Any, Any]] = field(default_factory=list)

    async def generate(
        self, request_id: str, prompt: Any, sampling_params: Any, lora_request: Any
    ) -> AsyncIterator[Any]:
        self.requests.append((prompt, sampling_params))
        text = self.answer(prompt["prompt"])
        said = SimpleNamespace(token_ids=list(range(len(text.split()))), text=text, logprobs=None)
        yield _RequestOutput([said])

    async def do_log_stats(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


class _RequestOutput:
    finished, prompt, prompt_logprobs, metrics = True, "", None, None
    prompt_token_ids = (1, 2, 3)

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs


@contextmanager
def fake_vllm(answer: Callable[[str], str]) -> Iterator[FakeVllm]:
    """The package vllm for as long as this lasts."""
    fake = FakeVllm(answer)

    class EngineArguments:
        def __init__(self, **given: Any) -> None:
            fake.engine_arguments.update(given)

        def create_engine_config(self) -> Any:
            return SimpleNamespace(
                scheduler_config=SimpleNamespace(max_num_seqs=8),
                parallel_config=SimpleNamespace(pipeline_parallel_size=1),
            )

    package = _module(
        "vllm",
        AsyncEngineArgs=EngineArguments,
        AsyncLLMEngine=SimpleNamespace(from_engine_args=lambda arguments, stat_loggers: fake),
        SamplingParams=SimpleNamespace,
        sampling_params=SimpleNamespace(StructuredOutputsParams=SimpleNamespace),
        outputs=SimpleNamespace(RequestOutput=_RequestOutput, PoolingRequestOutput=int),
    )
    modules = {
        "vllm": package,
        "vllm.inputs": _module("vllm.inputs"),
        "vllm.inputs.llm": _module("vllm.inputs.llm", TextPrompt=dict, TokensPrompt=dict),
        "vllm.v1": _module("vllm.v1"),
        "vllm.v1.metrics": _module("vllm.v1.metrics"),
        "vllm.v1.metrics.ray_wrappers": _module("vllm.v1.metrics.ray_wrappers", RayPrometheusStatLogger=object),
    }
    sys.modules.update(modules)
    try:
        yield fake
    finally:
        for name in modules:
            del sys.modules[name]


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(names)
    return module
