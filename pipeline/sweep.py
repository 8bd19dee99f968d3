"""The recipe's `sweep`: attributes, their targets and strengths -> the list that `edits` would hold.

Only a shorter way to write edits: ledger, ask, verification and fingerprint see the edits alone.
"""

from collections import Counter
from collections.abc import Container, Iterator
from itertools import product
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.edit_spec import EditSpec, Strengths, Text, Texts


class Sweep(BaseModel):
    """Every target of every attribute at every strength, alone and, where it is said, composed with others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attributes: Annotated[dict[Text, Texts], Field(min_length=1)]
    """attribute -> its targets."""
    strengths: Strengths
    grids: tuple[Annotated[tuple[Text, ...], Field(min_length=2)], ...] = ()
    """Attributes of which each combination of targets, one of each attribute, is composed into one edit."""
    combinations: tuple[Annotated[dict[Text, Text], Field(min_length=2)], ...] = ()
    """attribute -> target: single combinations."""

    @model_validator(mode="after")
    def _known(self) -> "Sweep":
        for attribute, targets in self.attributes.items():
            _once(f"attributes.{attribute}: the target", targets)
        for grid in self.grids:
            _once("grids: the attribute", grid)
        for name, attributes in (("grids", self.grids), ("combinations", self.combinations)):
            for unknown in (attribute for its in attributes for attribute in its if attribute not in self.attributes):
                known = ", ".join(self.attributes)
                raise ValueError(f"{name}: {unknown!r} is none of the sweep's attributes; there are: {known}")
        for attribute, target in (pair for its in self.combinations for pair in its.items()):
            if target not in self.attributes[attribute]:
                known = ", ".join(self.attributes[attribute])
                raise ValueError(f"combinations: {target!r} is no target of {attribute}; there are: {known}")
        return self


def expand(sweep: Sweep | None) -> tuple[EditSpec, ...]:
    """The edits of a sweep, each (attributes, targets) once: those of one attribute, then the grids', then the
    combinations. Attributes stand in the sweep's order, so that one composition has one name."""
    if sweep is None:
        return ()
    alone = (((attribute, target),) for attribute, targets in sweep.attributes.items() for target in targets)
    return tuple(
        EditSpec(
            attribute=tuple(attribute for attribute, _ in pairs),
            target=tuple(target for _, target in pairs),
            strengths=sweep.strengths,
        )
        for pairs in dict.fromkeys((*alone, *_combinations(sweep)))
    )


def _combinations(sweep: Sweep) -> Iterator[tuple[tuple[str, str], ...]]:
    for grid in sweep.grids:
        yield from product(*([(name, target) for target in sweep.attributes[name]] for name in _ordered(sweep, grid)))
    for combination in sweep.combinations:
        yield tuple((name, combination[name]) for name in _ordered(sweep, combination))


def _ordered(sweep: Sweep, attributes: Container[str]) -> list[str]:
    return [attribute for attribute in sweep.attributes if attribute in attributes]


def count_line(sweep: Sweep) -> str:
    """What a sweep asks of each image, for people."""
    edits = expand(sweep)
    targets = sum(len(edit.attributes) == 1 for edit in edits)
    return (
        f"sweep: {len(sweep.attributes)} attributes with {targets} targets, {len(edits) - targets} combinations, "
        f"{len(sweep.strengths)} strengths: {len(edits) * len(sweep.strengths)} edits of each image"
    )


def _once(what: str, items: tuple[str, ...]) -> None:
    twice = [item for item, times in Counter(items).items() if times > 1]
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is there twice")
