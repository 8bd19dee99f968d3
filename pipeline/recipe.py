"""The user's YAML as typed models; every error names the key, what was given, and what is allowed."""

import dataclasses
import difflib
import types
import typing
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from eim_ops.captioning.minimal_pair import MAX_CHANGED_WORDS
from eim_ops.loading import Loading
from eim_ops.method import Method
from pipeline.augment_spec import Augment
from pipeline.captioner_spec import GIVEN_PROMPTS, KIND_KEYS, CaptionerSpec, HttpSpec, TemplateSpec
from pipeline.edit_spec import EditSpec
from pipeline.size_spec import BucketsSpec, OutputSize, SizeSpec, check_sizes
from pipeline.sweep import Sweep, expand


class RecipeError(Exception):
    """A recipe that cannot be run; its text is a block for people."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Text = Annotated[str, Field(min_length=1)]


class Input(_Model):
    """A folder or `s3://` prefix of images, or a manifest of them (Parquet, CSV or JSONL)."""

    path: _Text | None = None
    manifest: _Text | None = None

    @model_validator(mode="after")
    def _one(self) -> "Input":
        if (self.path is None) == (self.manifest is None):
            raise ValueError("give either path (a folder or s3:// prefix) or manifest (.parquet, .csv or .jsonl)")
        if self.manifest and Path(self.manifest).suffix.lower() not in (".parquet", ".csv", ".jsonl"):
            raise ValueError("manifest must end in .parquet, .csv or .jsonl")
        return self


class Pool(_Model):
    """An actor pool. size null: placement chooses. num_gpus (per actor) null: placement shares the GPUs out."""

    size: Annotated[int, Field(ge=1)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None


class Pools(_Model):
    """The actor pools of the flow; `encode` and `identify` are those of a split placement."""

    caption: Pool = Pool()
    encode: Pool = Pool()
    identify: Pool = Pool()
    edit: Pool = Pool()


def _known_keys(section: str, settings: type) -> BeforeValidator:
    def check(value: Any) -> Any:
        allowed = _keys(settings)
        for key in value if isinstance(value, dict) else ():
            if key not in allowed:
                raise ValueError(f"{section}.{key}: {_unknown(str(key), allowed)}")
        return value

    return BeforeValidator(check)


class Recipe(_Model):
    """One edit job."""

    input: Input
    output: _Text
    model: _Text
    model_revision: _Text | None = None
    captioner: CaptionerSpec = "mini-vlm"
    max_changed_words: Annotated[int, Field(ge=1)] | None = MAX_CHANGED_WORDS
    caption_cache: _Text | None = None
    edits: tuple[EditSpec, ...] = ()
    sweep: Sweep | None = None
    augment: Augment = Augment()
    method: Annotated[Method, _known_keys("method", Method)] = Field(default_factory=Method)
    loading: Annotated[Loading, _known_keys("loading", Loading)] = Field(default_factory=Loading)
    size: SizeSpec = None
    aspect_buckets: BucketsSpec = False
    output_size: OutputSize = "model"
    batch: Annotated[int, Field(ge=2, le=1024)] = 16
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    direction: Literal["own", "shared"] = "own"
    direction_images: Annotated[int, Field(ge=1, le=1024)] = 16
    placement: Literal["fused", "split"] = "fused"
    pools: Pools = Pools()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    max_failure_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5

    @property
    def template_columns(self) -> frozenset[str]:
        """The manifest's columns that the captioner is written from."""
        return self.captioner.columns if isinstance(self.captioner, TemplateSpec) else frozenset()

    @model_validator(mode="after")
    def _of_a_manifest(self) -> "Recipe":
        if self.template_columns and self.input.manifest is None:
            raise ValueError("captioner: this template needs columns of a manifest; give input.manifest")
        if self.captioner == GIVEN_PROMPTS and self.input.manifest is None:
            raise ValueError("captioner: 'manifest' takes every prompt from a manifest; give input.manifest")
        if self.caption_cache and (self.captioner == GIVEN_PROMPTS or isinstance(self.captioner, TemplateSpec)):
            raise ValueError("caption_cache: prompts of a manifest or of a template are not cached; leave it out")
        return self

    @model_validator(mode="after")
    def _captioner_of_faces(self) -> "Recipe":
        if "captioner" not in self.model_fields_set and self.model != "mini-dit":
            raise ValueError(
                "captioner: missing; its default, mini-vlm, knows mini-dit's rendered faces alone. Give a captioner of "
                "this model's images (docs/captioners.md)"
            )
        return self

    @model_validator(mode="after")
    def _direction(self) -> "Recipe":
        if self.direction == "shared" and not self.method.moves_image:
            raise ValueError(
                "direction: shared directions are image halves; set method.image_half to dds or hsds, with "
                "method.sigma_max below 1 and method.image_scale above 0"
            )
        if self.direction == "shared" and not self.edits and self.sweep is None:
            raise ValueError("direction: shared directions are those of the recipe's edits; give edits or a sweep")
        if self.direction == "own" and "direction_images" in self.model_fields_set:
            raise ValueError("direction_images: only shared directions have a sample; set direction: shared")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> "Recipe":
        check_sizes(self.size, self.aspect_buckets, self.direction)
        return self

    @property
    def pool_names(self) -> tuple[str, ...]:
        """The actor pools that this recipe has, in the order of the flow."""
        if self.placement == "fused":
            return ("caption", "edit")
        identified = self.direction == "own" and self.method.moves_image
        return ("caption", "encode", "identify", "edit") if identified else ("caption", "encode", "edit")

    @model_validator(mode="after")
    def _placement(self) -> "Recipe":
        for name in sorted(self.pools.model_fields_set - set(self.pool_names)):
            there = ", ".join(self.pool_names)
            raise ValueError(f"pools.{name}: this recipe has no such pool but {there}; see `placement`")
        return self

    @model_validator(mode="after")
    def _questions_at_once(self) -> "Recipe":
        actors = self.pools.caption.size or 1
        if isinstance(self.captioner, HttpSpec) and actors > self.captioner.concurrency:
            raise ValueError(
                f"pools.caption.size: {actors} actors ask a question each, and captioner.concurrency allows "
                f"{self.captioner.concurrency} at once for all of them; lower the size (one actor asks all) or raise it"
            )
        return self

    @model_validator(mode="after")
    def _edits(self) -> "Recipe":
        edits = (*self.edits, *expand(self.sweep))
        if not edits and self.input.manifest is None:
            raise ValueError("edits: give at least one edit (attribute, target, strengths), or a sweep")
        asked = Counter((e.attributes, e.targets, e.requests, strength) for e in edits for strength in e.strengths)
        for edit, times in asked.items():
            if times > 1:
                raise ValueError(f"edits: {edit[0]} -> {edit[1]} at strength {edit[3]} is asked for twice")
        return self

    @model_validator(mode="after")
    def _balance(self) -> "Recipe":
        asked = {pair for e in (*self.edits, *expand(self.sweep)) for pair in zip(e.attributes, e.targets, strict=True)}
        wanted = [(attribute, value) for attribute, shares in self.augment.balance.items() for value in shares]
        for attribute, value in wanted:
            if (attribute, value) not in asked and self.input.manifest is None:
                targets = ", ".join(sorted(target for name, target in asked if name == attribute)) or "no edit of it"
                raise ValueError(f"augment.balance.{attribute}: no edit has the target {value!r}; there are: {targets}")
        return self


class _EachKeyOnce(yaml.SafeLoader):
    """YAML of which no mapping gives a key twice; PyYAML itself takes the last and drops the others without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        there: set[tuple[str, Any]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in there:
                    told = f"the key {key.value!r} is given twice; keep one"
                    raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
                there.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe; raises RecipeError with every problem found."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(), _EachKeyOnce)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; give the path of a YAML file, such as examples/demo.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: this is not YAML: {error}") from None
    return parse_recipe(raw, str(path))


def parse_recipe(raw: Any, where: str = "recipe") -> Recipe:
    """Check a recipe that is a plain mapping; `where` opens the message of RecipeError.

    A sweep's edits stand in `edits`, after those that are listed there.
    """
    if not isinstance(raw, dict):
        raise RecipeError(f"{where}: a recipe is a mapping with the keys {', '.join(_keys(Recipe))}")
    try:
        recipe = Recipe.model_validate(raw)
        return recipe.model_copy(update={"edits": (*recipe.edits, *expand(recipe.sweep))})
    except ValidationError as error:
        problems = list(dict.fromkeys(_line(item) for item in error.errors()))
        title = f"{where}: {len(problems)} problem{'s' if len(problems) > 1 else ''}, nothing was started"
        raise RecipeError("\n".join([title, *(f"  {problem}" for problem in problems)])) from None


def _keys(model: type) -> list[str]:
    if dataclasses.is_dataclass(model):
        return [field.name for field in dataclasses.fields(model)]
    if issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _unknown(key: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, allowed, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown key; {hint}allowed: {', '.join(allowed)}"


def _models_in(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _allowed_keys(location: Sequence[str | int]) -> list[str]:
    """The keys of the mapping that holds the last key of `location`."""
    model: type = Recipe
    for part in location[:-1]:
        if isinstance(part, int) or not issubclass(model, BaseModel):
            continue
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                nested = [found for found in _models_in(field.annotation) if _keys(found)]
                model = nested[0] if nested else model
    return _keys(model)


def _line(item: Any) -> str:
    """One problem as `key: given; what is allowed`."""
    location = list(item["loc"])
    kind = location[1] if location[0:1] == ["captioner"] and len(location) > 1 else None
    if kind is not None:  # the union's tag is no key
        del location[1]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if item["type"] == "extra_forbidden":
        return f"{key}: {_unknown(str(location[-1]), KIND_KEYS.get(str(kind)) or _allowed_keys(location))}"
    if item["type"] == "missing":
        return f"{key}: missing; every recipe must give it" if len(location) == 1 else f"{key}: missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        inner = message.startswith(f"{key}.") or not key
        return message if inner else f"{key}: {message}"
    given = item["input"]
    shown = given if isinstance(given, str | int | float | bool | None) else type(given).__name__
    return f"{key}: given {shown!r}; {message[:1].lower()}{message[1:]}"
