"""What is known of a recipe's models before any weight is loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.operations import pixel_settings, real_operations
from pipeline.recipe import RecipeError
from tests.eim_ops.backbones.tiny import PIPELINES
from tests.pipeline.builders import make_recipe

FACTS = real_operations().facts


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("flux")
    PIPELINES["flux-schnell"]().save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    return str(folder)


def test_the_family_tells_the_size_without_weights(schnell: str) -> None:
    assert FACTS(make_recipe(model="mini-dit", captioner="mini-vlm")).image_size == 64
    recipe = make_recipe(model=schnell, captioner="manifest", method={"free_guidance": 1})
    assert FACTS(recipe).image_size == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "method.free_guidance is 1.25, but the model's guidance is none: set it to 1"),
        (
            {"method": {"free_guidance": 1, "image_half": "hsds"}, "loading": {"layerwise_casting": "float8_e5m2"}},
            "loading.layerwise_casting leaves no derivatives, .* or image_half dds",
        ),
        ({"method": {"free_guidance": 1}, "loading": {"guidance": 3}}, "loading.guidance: this FluxPipeline has no"),
    ],
)
def test_what_the_family_lacks_is_refused_without_weights(schnell: str, changes: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        FACTS(make_recipe(model=schnell, captioner="manifest", **changes))


def test_a_model_of_no_known_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no model_index.json; give a model in the layout of diffusers"):
        FACTS(make_recipe(model=str(tmp_path), captioner="manifest"))


def test_loading_is_in_the_fingerprint_where_it_changes_pixels() -> None:
    def settings(**loading: Any) -> dict[str, Any]:
        recipe = make_recipe(model="mini-dit", captioner="mini-vlm", loading=loading)
        return pixel_settings(recipe, FACTS(recipe))

    assert settings(group_offload="leaf_level") == settings()
    assert settings(layerwise_casting="float8_e4m3fn")["loading"] == {"layerwise_casting": "float8_e4m3fn"}


def test_the_facts_of_a_model_are_read_without_the_libraries_that_load_it() -> None:
    code = (
        "import sys\n"
        "from pipeline.operations import real_operations\n"
        "from tests.pipeline.builders import make_recipe\n"
        "real_operations().facts(make_recipe(model='mini-dit', captioner='mini-vlm'))\n"
        "print(*{'diffusers', 'transformers'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
