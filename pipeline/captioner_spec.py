"""The recipe's `captioner`: a name, or a mapping with a `kind`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from jinja2 import TemplateSyntaxError, meta
from jinja2.sandbox import SecurityError
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from eim_ops.captioning.template import TEMPLATE_ENVIRONMENT

GIVEN_PROMPTS = "manifest"
"""The captioner's name in a recipe whose manifest brings every prompt."""

_Text = Annotated[str, Field(min_length=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Spec):
    """A transformers image-text-to-text model with a chat template; the long form of a plain name."""

    kind: Literal["model"]
    model: _Text
    revision: _Text | None = None


class HttpSpec(_Spec):
    """An OpenAI-compatible endpoint. The key comes from the environment variable that `key_env` names."""

    kind: Literal["http"]
    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    model: _Text
    revision: _Text = "unpinned"
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    requests_per_minute: Annotated[float, Field(gt=0)] = 600
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    timeout_seconds: Annotated[float, Field(gt=0)] = 60
    attempts: Annotated[int, Field(ge=1, le=20)] = 5
    max_tokens: Annotated[int, Field(ge=16)] = 256


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
    | Annotated[TemplateSpec, Tag("template")],
    Discriminator(
        _kind,
        custom_error_type="captioner",
        custom_error_message="give a name (mini-vlm, a folder, a hub id, manifest), or a mapping with kind: model, "
        "http or template",
    ),
]

_KINDS: dict[str, type[BaseModel]] = {"model": ModelSpec, "http": HttpSpec, "template": TemplateSpec}
KIND_KEYS = {kind: list(spec.model_fields) for kind, spec in _KINDS.items()}
"""The allowed keys of each kind."""


def captioner_name(spec: str | ModelSpec | HttpSpec | TemplateSpec) -> str:
    """As rows name it."""
    return spec if isinstance(spec, str) else spec.kind if isinstance(spec, TemplateSpec) else spec.model


def captioner_identity(spec: str | ModelSpec | HttpSpec | TemplateSpec) -> str | dict[str, Any]:
    """What of it changes captions: speed, patience and the key's place do not."""
    if isinstance(spec, str):
        return spec
    without = {"requests_per_minute", "concurrency", "timeout_seconds", "attempts", "key_env"}
    return spec.model_dump(exclude=without)
