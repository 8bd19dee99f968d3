"""The recipe's `augment`: how much a date may take of what is new, and of which attribute values first."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.edit_spec import Text


class Budget(BaseModel):
    """The most that one date takes; where several limits are given all of them hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Annotated[int, Field(ge=1)] | None = None
    edits: Annotated[int, Field(ge=1)] | None = None
    gpu_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """By the arithmetic of `eim plan`: of all GPUs that the pools hold."""

    @model_validator(mode="after")
    def _some(self) -> "Budget":
        if self.images is None and self.edits is None and self.gpu_hours is None:
            raise ValueError("give images, edits or gpu_hours, or leave the budget out to take all that is new")
        return self


Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Augment(BaseModel):
    """What `eim augment` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget: Budget | None = None
    balance: dict[Text, Annotated[dict[Text, Share], Field(min_length=2)]] = Field(default_factory=dict)
    """attribute -> value -> its share; shares of an attribute need not add up to 1."""
    count_sources: bool = False
    """Whether sources whose prompt states a value count for it, beside the edits that were asked to show it."""

    @model_validator(mode="after")
    def _orders_something(self) -> "Augment":
        if self.balance and self.budget is None:
            raise ValueError("balance: it says what comes first where a budget leaves something out; give a budget")
        if self.count_sources and not self.balance:
            raise ValueError("count_sources: sources are counted for a balance alone; give one")
        return self
