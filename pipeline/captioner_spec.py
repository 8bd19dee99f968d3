"""The recipe's `captioner`: a name, or a mapping with a `kind`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from jinja2 import TemplateSyntaxError, meta
from jinja2.sandbox import SecurityError
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from eim_ops.captioning.template import TEMPLATE_ENVIRONMENT
from eim_ops.mini.shipped import SHIPPED

GIVEN_PROMPTS = "manifest"
"""The captioner's name in a recipe whose manifest brings every prompt."""

_Text = Annotated[str, Field(min_length=1)]


EngineValue = str | int | float | bool
_ENGINE_TAKEN = frozenset(
    {
        "model", "revision", "code_revision", "tokenizer", "tokenizer_revision", "hf_config_path", "trust_remote_code",
        "load_format", "seed",
    }
)  # fmt: skip
_ENGINE_MEMORY = frozenset({"gpu_memory_utilization", "cpu_offload_gb", "swap_space"})
"""Settings of the engine that say where its memory lies, and change no answer."""
_UNPINNED = "unpinned"


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Spec):
    """A transformers image-text-to-text model with a chat template; the long form of a plain name."""

    kind: Literal["model"]
    model: _Text
    revision: _Text | None = None


def _without_secret(url: str) -> str:
    if "@" in urlsplit(url).netloc:
        raise ValueError(
            "a name or a password in the URL would be recorded and shown: leave them out, and give key_env"
        )
    return url


class HttpSpec(_Spec):
    """An OpenAI-compatible endpoint. The key comes from the environment variable that `key_env` names."""

    kind: Literal["http"]
    url: Annotated[str, Field(pattern=r"^https?://\S+$"), AfterValidator(_without_secret)]
    model: _Text
    revision: _Text = _UNPINNED
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    requests_per_minute: Annotated[float, Field(gt=0)] = 600
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    timeout_seconds: Annotated[float, Field(gt=0)] = 60
    attempts: Annotated[int, Field(ge=1, le=20)] = 8
    max_tokens: Annotated[int, Field(ge=16)] = 256


class VllmSpec(_Spec):
    """An image-text-to-text model in vLLM, through `ray.data.llm`, in the caption pool's actors.

    questions: that an engine has at once. engine: further arguments of vLLM's engine, such as `max_model_len`.
    """

    kind: Literal["vllm"]
    model: _Text
    revision: _Text | None = None
    max_tokens: Annotated[int, Field(ge=16)] = 256
    questions: Annotated[int, Field(ge=1, le=4096)] = 256
    engine: Mapping[str, EngineValue] = Field(default_factory=dict)

    @field_validator("engine")
    @classmethod
    def _own_keys(cls, engine: Mapping[str, Any]) -> Mapping[str, Any]:
        taken = sorted(set(engine) & _ENGINE_TAKEN)
        if taken:
            raise ValueError(
                f"{', '.join(taken)}: not for the engine; a captioner's model and revision are keys of its own, and "
                "only safetensors are read"
            )
        return engine

    @property
    def gpus(self) -> int:
        """That one engine is spread over."""
        sizes = (self.engine.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
        return math.prod(size if isinstance(size, int) else 1 for size in sizes)


class TemplateSpec(_Spec):
    """Prompts written from columns of the manifest, in Jinja; `target` also knows attribute, target and request."""

    kind: Literal["template"]
    source: _Text
    target: _Text

    @field_validator("source", "target")
    @classmethod
    def _syntax(cls, text: str) -> str:
        try:
            TEMPLATE_ENVIRONMENT.from_string(text)
        except (TemplateSyntaxError, SecurityError) as error:
            raise ValueError(f"no Jinja template: {error}") from None
        return text

    @property
    def columns(self) -> frozenset[str]:
        """The names that the templates use, those of the edit aside."""
        names: set[str] = set()
        for text in (self.source, self.target):
            names |= meta.find_undeclared_variables(TEMPLATE_ENVIRONMENT.parse(text))
        return frozenset(names - {"attribute", "target", "request"})


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    return value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)


CaptionerSpec = Annotated[
    Annotated[_Text, Tag("name")]
    | Annotated[ModelSpec, Tag("model")]
    | Annotated[HttpSpec, Tag("http")]
    | Annotated[VllmSpec, Tag("vllm")]
    | Annotated[TemplateSpec, Tag("template")],
    Discriminator(
        _kind,
        custom_error_type="captioner",
        custom_error_message="give a name (mini-vlm, a folder, manifest), or a mapping with kind: model (also of the "
        "hub), vllm, http or template",
    ),
]

_KINDS: dict[str, type[BaseModel]] = {
    "model": ModelSpec,
    "vllm": VllmSpec,
    "http": HttpSpec,
    "template": TemplateSpec,
}
KIND_KEYS = {kind: list(spec.model_fields) for kind, spec in _KINDS.items()}
"""The allowed keys of each kind."""


_Given = str | ModelSpec | VllmSpec | HttpSpec | TemplateSpec


def questions_at_once(spec: _Given, batch: int) -> int:
    """How many questions a captioner is asked in one call: what its engine or its endpoint takes at once, else `batch`.

    An endpoint is asked `batch` at least: the captioner itself holds its bound, and never idles between two calls.
    """
    if isinstance(spec, VllmSpec):
        return spec.questions
    return max(batch, spec.concurrency) if isinstance(spec, HttpSpec) else batch


def captioner_name(spec: _Given) -> str:
    """As rows name it."""
    return spec if isinstance(spec, str) else spec.kind if isinstance(spec, TemplateSpec) else spec.model


def pinned_name(model: str) -> str | None:
    """A model's name as what is recorded of it; None for a local folder, which is what its files are, wherever it lies:
    its revision is their hash."""
    return None if model not in SHIPPED and Path(model).is_dir() else model


def captioner_identity(spec: _Given) -> str | dict[str, Any] | None:
    """What of it changes captions, beside its revision: speed, patience, and the places of keys and of what is pinned
    do not."""
    if spec == GIVEN_PROMPTS:
        return spec
    if isinstance(spec, str | ModelSpec):
        return pinned_name(captioner_name(spec))
    if isinstance(spec, TemplateSpec):
        return spec.model_dump()
    if isinstance(spec, VllmSpec):
        engine = {key: value for key, value in spec.engine.items() if key not in _ENGINE_MEMORY}
        return {**spec.model_dump(exclude={"questions"}), "model": pinned_name(spec.model), "engine": engine}
    without = {"requests_per_minute", "concurrency", "timeout_seconds", "attempts", "key_env"}
    return spec.model_dump(exclude=without if spec.revision == _UNPINNED else without | {"url"})
