"""Operations with the tiny model of random weights, for whole jobs whose pixels matter and whose looks do not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.fit import sizes_of
from pipeline.operations import ModelFacts, Operations
from pipeline.recipe import Recipe
from tests.fakes import FakeCaptioner

if TYPE_CHECKING:
    from eim_ops.editor import Editor


class WordedCaptioner(FakeCaptioner):
    """Prompts in the tiny model's words."""

    def describe(self, images: Any) -> list[str]:
        return ["a portrait with deep frown, black hair"] * len(images)


@dataclass(frozen=True)
class TinyFactories:
    """Picklable."""

    def captioner(self, recipe: Recipe, device: str) -> FakeCaptioner:
        return WordedCaptioner()

    def editor(self, recipe: Recipe, device: str) -> "Editor":
        import torch  # seconds, which captioning actors should not pay

        from eim_ops.editor import Editor
        from tests.eim_ops.conftest import tiny_sd3

        torch.manual_seed(0)
        backbone = tiny_sd3()
        backbone.name, backbone.revision = recipe.model, "fake-1"
        return Editor(backbone, recipe.method)

    def facts(self, recipe: Recipe) -> ModelFacts:
        return ModelFacts("fake-1", "fake-captioner-1", sizes_of(recipe, 64, 8, 64))


def tiny_operations() -> Operations:
    factories = TinyFactories()
    return Operations(factories.captioner, factories.editor, factories.facts)
