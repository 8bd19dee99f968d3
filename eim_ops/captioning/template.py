"""Prompts from a template and the fields of a row."""

from collections.abc import Mapping

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


class TemplateRefused(ValueError):
    """A template that cannot be filled from this row; the message names what is missing."""


def fill_template(text: str, fields: Mapping[str, object]) -> str:
    """The prompt in one line. Raises TemplateRefused for a field that is missing or empty, or an empty prompt."""
    present = {name: value for name, value in fields.items() if value is not None and value != ""}
    try:
        prompt = TEMPLATE_ENVIRONMENT.from_string(text).render(present)
    except Exception as error:  # a user's template can raise what Python can
        known, kind = ", ".join(sorted(present)) or "none", type(error).__name__
        raise TemplateRefused(f"template {text!r}: {kind}: {error}; the row's fields: {known}") from None
    if not prompt.strip():
        raise TemplateRefused(f"template {text!r} gives an empty prompt")
    return " ".join(prompt.split())
