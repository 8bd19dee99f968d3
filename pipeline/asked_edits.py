"""What is asked of one manifest row: the recipe's edits, or the row's own, each with its id."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.edit_spec import EditSpec
from pipeline.identity import edit_id

JOINER = " + "
"""Between the parts of a composed edit, in texts for people."""

_specs = TypeAdapter(tuple[EditSpec, ...])
_prompts = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class AskedEdit:
    """One image to be made. Composed edits have several attributes; tuples run in parallel."""

    edit_id: str
    attributes: tuple[str, ...]
    targets: tuple[str, ...]
    requests: tuple[str, ...]
    strength: float
    given_prompts: tuple[str | None, ...]
    """Target prompts that the manifest gives; None: the captioner writes it."""
    attempts: int = 0
    """Earlier attempts that ended in a failure row."""

    @property
    def attribute(self) -> str:
        """The attributes as one text."""
        return JOINER.join(self.attributes)

    @property
    def target(self) -> str:
        """The targets as one text."""
        return JOINER.join(self.targets)


_asked = TypeAdapter(list[AskedEdit])

UNKNOWN = AskedEdit(edit_id((), (), (), 0.0), (), (), (), 0.0, ())
"""Stands for the edits of a row that names none that can be read, so that the row ends in a failure row."""


def parse_edits(text: str) -> tuple[EditSpec, ...]:
    """A row's own edits from JSON; raises ValueError naming the key."""
    try:
        return _specs.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"edits{'.' + place if place else ''}: {first['msg']}") from None


def plain_edits(edits: Sequence[EditSpec]) -> list[dict[str, Any]]:
    """What `parse_edits` reads. Requests in full: a default that changes later must not change what was asked."""
    return [
        {
            "attribute": list(edit.attributes),
            "target": list(edit.targets),
            "request": list(edit.requests),
            "strengths": list(edit.strengths),
        }
        for edit in edits
    ]


def specs_of(asked: Iterable[AskedEdit]) -> list[EditSpec]:
    """Edits that ask for these images; UNKNOWN is none."""
    strengths: dict[tuple[tuple[str, ...], ...], list[float]] = {}
    for edit in asked:
        strengths.setdefault((edit.attributes, edit.targets, edit.requests), []).append(edit.strength)
    return [
        EditSpec(attribute=attributes, target=targets, request=requests, strengths=tuple(its))
        for (attributes, targets, requests), its in strengths.items()
        if attributes
    ]


def parse_prompts(text: str) -> dict[str, str]:
    """A row's target prompts, attribute -> prompt, from JSON; raises ValueError."""
    try:
        return _prompts.validate_json(text)
    except ValidationError as error:
        raise ValueError(f"target_prompts: {error.errors()[0]['msg']}; give an object, attribute -> prompt") from None


def asked_edits(row: Mapping[str, Any], recipe_edits: Sequence[EditSpec]) -> list[AskedEdit]:
    """The edits that a manifest row asks for, at least one; a row with a problem stands for the recipe's edits."""
    source_prompt, prompts = row["source_prompt"], {}
    specs: Sequence[EditSpec] = recipe_edits
    if row["problem"] is None:
        prompts = parse_prompts(row["target_prompts"]) if row["target_prompts"] else {}
        specs = parse_edits(row["edits"]) if row["edits"] else recipe_edits
    asked: dict[str, AskedEdit] = {}
    for spec in specs:
        given = tuple(prompts.get(attribute) for attribute in spec.attributes)
        own = (source_prompt, *given) if source_prompt is not None or any(given) else ()
        own += (row["fields"],) if row.get("fields") else ()
        for strength in spec.strengths:
            name = edit_id(spec.attributes, spec.targets, spec.requests, strength, own)
            edit = AskedEdit(name, spec.attributes, spec.targets, spec.requests, strength, given)
            asked.setdefault(name, edit)
    return list(asked.values()) or [UNKNOWN]


def edits_to_json(edits: Sequence[AskedEdit]) -> str:
    """For the travel between stages."""
    return _asked.dump_json(list(edits)).decode()


def edits_from_json(text: str) -> list[AskedEdit]:
    """The inverse of `edits_to_json`."""
    return _asked.validate_json(text)
