"""What is known of a recipe's models before any weight is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eim_ops.arithmetic import ARITHMETIC
from pipeline.operations import pixel_settings, real_operations
from pipeline.recipe import RecipeError
from tests.eim_ops.backbones.tiny import PIPELINES
from tests.pipeline.builders import make_recipe

ROWS = {"manifest": "rows.jsonl"}

FACTS = real_operations().facts


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("flux")
    PIPELINES["flux-schnell"]().save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    return str(folder)


def test_the_family_tells_the_size_without_weights(schnell: str) -> None:
    assert FACTS(make_recipe(model="mini-dit", captioner="mini-vlm")).sizes == ((64, 64),)
    recipe = make_recipe(model=schnell, input=ROWS, captioner="manifest", method={"free_guidance": 1})
    assert FACTS(recipe).sizes == ((512, 512),)


def test_a_model_of_the_hub_is_recorded_by_its_commit_and_by_nothing_that_moves(
    schnell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    shutil.copytree(schnell, tmp_path / "models--owner--name" / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def recorded(revision: str) -> str:
        recipe = make_recipe(
            model="owner/name", model_revision=revision, input=ROWS, captioner="manifest", method={"free_guidance": 1}
        )
        return pixel_settings(recipe, FACTS(recipe))["model_revision"]

    assert recorded(commit) == commit
    with pytest.raises(RecipeError, match="'owner/name' has the revision 'main', which can come to mean other weights"):
        recorded("main")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "method.free_guidance is 1.5, but the model's guidance is none: set it to 1"),
        (
            {"method": {"free_guidance": 1, "image_half": "hsds"}, "loading": {"layerwise_casting": "float8_e5m2"}},
            "loading.layerwise_casting float8_e5m2 leaves no derivatives, .* or take image_half dds",
        ),
        (
            {
                "method": {"free_guidance": 1, "image_half": "hsds"},
                "loading": {"attention_backend": "flash"},
                "dtype": "bfloat16",
            },
            "loading.attention_backend flash has no forward mode, which image_half hsds needs in bfloat16",
        ),
        (
            {"method": {"free_guidance": 1}, "loading": {"embedded_guidance": 3}},
            "loading.embedded_guidance: this FluxPipeline has no",
        ),
    ],
)
def test_what_the_family_lacks_is_refused_without_weights(schnell: str, changes: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        FACTS(make_recipe(model=schnell, input=ROWS, captioner="manifest", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": {"free_guidance": 1, "image_half": "hsds"}},
            "stored quantised by bitsandbytes lack: take",
        ),
        ({"method": {"free_guidance": 1}, "loading": {"quantisation": "torchao"}}, "quantised, by bitsandbytes: leave"),
        ({"method": {"free_guidance": 1, "image_half": "dds"}}, None),
    ],
)
def test_weights_that_are_stored_quantised_are_known(
    schnell: str, tmp_path: Path, changes: Any, message: str | None
) -> None:
    shutil.copytree(schnell, tmp_path / "quantised")
    config = tmp_path / "quantised" / "transformer" / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    config.write_text(json.dumps(json.loads(config.read_text()) | quantised))
    recipe = make_recipe(model=str(tmp_path / "quantised"), input=ROWS, captioner="manifest", **changes)
    if message is None:
        assert FACTS(recipe).sizes == ((512, 512),)
        return
    with pytest.raises(RecipeError, match=message):
        FACTS(recipe)


def test_a_model_of_no_known_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no model_index.json; give a model in the layout of diffusers"):
        FACTS(make_recipe(model=str(tmp_path), input=ROWS, captioner="manifest"))


def settings(**changes: Any) -> dict[str, Any]:
    recipe = make_recipe(**{"model": "mini-dit", "captioner": "mini-vlm", **changes})
    return pixel_settings(recipe, FACTS(recipe))


def test_sizes_are_in_the_fingerprint_however_they_are_written() -> None:
    def sized(**changes: Any) -> Any:
        its = settings(**changes)
        return its["sizes"], its["output_size"]

    assert sized() == sized(size=64) == sized(aspect_buckets=[[64, 64]]) == ([[64, 64]], "model")
    assert sized(size=[64, 48], output_size="source") == ([[64, 48]], "source")
    table = [[40, 64], [40, 56], [48, 48], [56, 40], [64, 40]]
    assert sized(size=48, aspect_buckets=True) == (table, "model")


def test_a_setting_without_effect_beside_the_others_is_not_in_the_fingerprint() -> None:
    def told(**method: Any) -> dict[str, Any]:
        return settings(method=method)["method"]

    assert "free_guidance_share" not in told(free_guidance_share=1)
    assert told(free_guidance=1) == told(free_guidance=1, free_guidance_share=1)
    assert told()["free_guidance_share"] == 0.5
    assert "noise" not in told(trajectory="euler", noise="independent")
    assert told(noise="independent")["noise"] == "independent" != told()["noise"]
    of_hsds = {"iterations": 3, "damping": 0.5, "jacobian": "source"}
    assert told(**of_hsds) == told() != told(draws=2)
    assert told(image_half="hsds", **of_hsds).items() >= of_hsds.items()
    assert told(image_half="none", draws=2, image_scale=2, **of_hsds) == told(image_half="none")


def test_a_default_that_is_written_out_keeps_the_fingerprint() -> None:
    written = {"max_changed_words": 3, "output_size": "model", "loading": {"compile": False}, "method": {"steps": 7}}
    assert settings(**written) == settings() != settings(max_changed_words=4)
    assert settings(captioner={"kind": "model", "model": "mini-vlm"}) == settings()


def test_a_folders_model_is_what_its_files_are_wherever_it_lies(schnell: str, tmp_path: Path) -> None:
    shutil.copytree(schnell, tmp_path / "there")

    def of(model: str, **changes: Any) -> dict[str, Any]:
        return settings(model=model, method={"free_guidance": 1}, **changes)

    assert of(schnell, captioner=schnell) == of(str(tmp_path / "there"), captioner=str(tmp_path / "there"))
    assert settings()["model"] == "mini-dit"
    shared = of(schnell, direction="shared")
    assert shared["model"] == schnell, "a shared direction is refused where its model has another name"


@pytest.mark.parametrize(
    "changes",
    [{"model_revision": "a" * 40}, {"captioner": {"kind": "model", "model": "mini-vlm", "revision": "a" * 40}}],
)
def test_a_revision_of_what_is_pinned_by_its_files_is_refused(changes: Any) -> None:
    with pytest.raises(RecipeError, match=r"leave its revision 'a{40}' out \(model_revision, or captioner.revision\)"):
        settings(**changes)


def test_another_version_of_the_arithmetic_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    monkeypatch.setattr("pipeline.operations.ARITHMETIC", ARITHMETIC + 1)
    assert settings() == {**before, "arithmetic": ARITHMETIC + 1}


def test_a_size_that_the_model_has_no_positions_for_is_refused() -> None:
    with pytest.raises(RecipeError, match="size is 72; the largest side that mini-dit takes is 64"):
        FACTS(make_recipe(model="mini-dit", captioner="mini-vlm", size=72))


def test_loading_is_in_the_fingerprint_where_it_changes_pixels() -> None:
    assert settings(loading={"group_offload": "leaf_level"}) == settings()
    cast = {"layerwise_casting": "float8_e4m3fn"}
    assert settings(loading=cast)["loading"] == cast


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
