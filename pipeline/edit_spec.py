"""One entry of the recipe's `edits`, and of a manifest row's own."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _finite(strengths: tuple[float, ...]) -> tuple[float, ...]:
    if not all(math.isfinite(strength) for strength in strengths):
        raise ValueError("strengths must be finite numbers")
    if len(set(strengths)) < len(strengths):
        raise ValueError("a strength is there twice")
    return strengths


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
"""Several texts; one may stand without a list."""
Strengths = Annotated[tuple[float, ...], Field(min_length=1), AfterValidator(_finite)]


class EditSpec(BaseModel):
    """One attribute, or several composed, with its target and the strengths to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attributes: Texts = Field(alias="attribute")
    targets: Texts = Field(alias="target")
    strengths: Strengths
    request_texts: Texts | None = Field(default=None, alias="request")

    @property
    def requests(self) -> tuple[str, ...]:
        """What the captioner is asked, one for each attribute."""
        return self.request_texts or tuple(f"change to {target}" for target in self.targets)

    @model_validator(mode="after")
    def _parallel(self) -> "EditSpec":
        counts = {len(self.attributes), len(self.targets), len(self.requests)}
        if len(counts) > 1:
            raise ValueError("attribute, target and request must have as many entries")
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError("an attribute is there twice")
        return self
