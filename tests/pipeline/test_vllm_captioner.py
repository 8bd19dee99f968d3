"""The captioner in vLLM up to the engine: the stages are those of ray.data.llm, the package below them is a fake."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from eim_ops.captioning.base import Refused
from eim_ops.captioning.instructions import GENERAL
from pipeline.actors import CaptionStage
from pipeline.attempts import Attempts
from pipeline.caption_cache import CaptionCache
from pipeline.captioner_spec import VllmSpec
from pipeline.operations import Operations, caption_settings, real_operations
from pipeline.placement import Cluster, PlacementError, PoolPlan, plan_placement
from pipeline.progress import Progress
from pipeline.recipe import RecipeError
from pipeline.storage import open_store
from pipeline.vllm_captioner import EngineRefused, VllmCaptioner, start_vllm
from pipeline.work import Row, table_of_work
from tests.eim_ops.captioning.test_vlm_families import llava
from tests.fakes import fake_operations
from tests.pipeline.builders import asked, make_recipe
from tests.pipeline.fake_vllm import FakeVllm, fake_vllm
from tests.pipeline.test_stages import loaded

IMAGES = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green")]
SOURCE = "a portrait, smile, red hair"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model's configuration and processor; the engine that would load its weights is a fake."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("llava")
    model, processor = llava()
    model.config.save_pretrained(place)
    processor.save_pretrained(place)
    return str(place)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    # A processor starts Ray and tells Anyscale of the model, where no one has opted out; in an actor Ray is there.
    import ray
    from ray.llm._internal.batch.processor import vllm_engine_proc

    monkeypatch.setattr(ray, "init", lambda **_: None)
    agent = type("Silent", (), {"push_telemetry_report": lambda self, report: None})
    monkeypatch.setattr(vllm_engine_proc, "get_or_create_telemetry_agent", agent)
    with fake_vllm(_scripted) as fake:
        yield fake


def _scripted(prompt: str) -> str:
    """A model that describes everything alike, puts the request into its answers, and fails on demand."""
    if "the engine refuses" in prompt:
        raise ValueError("prompt is longer than the model's 4096 tokens")
    if "for ever" in prompt:
        return "{" + " word" * 300
    if "no JSON" in prompt:
        return "I would rather not"
    if "An earlier answer was" in prompt:
        return json.dumps({"prompt": f"{SOURCE}, again" if "mend" in prompt else "a dog"})
    if "Describe this image" in prompt:
        return json.dumps({"prompt": SOURCE})
    request = prompt.partition("with this change: ")[2].partition("\n")[0]
    return "Sure: {'prompt': '" + SOURCE + ", " + request + "',}"


def spec(folder: str, **changes: Any) -> VllmSpec:
    return VllmSpec(kind="vllm", model=folder, **changes)


def test_each_question_reaches_the_engine_with_its_image_its_sampling_and_the_schema(
    vllm: FakeVllm, folder: str
) -> None:
    captioner = start_vllm(spec(folder, max_tokens=64, engine={"max_model_len": 4096, "dtype": "bfloat16"}))
    assert captioner.describe(IMAGES) == [SOURCE] * 2
    assert captioner.rewrite([SOURCE], ["blue hair"]) == [f"{SOURCE}, blue hair"]
    arguments = vllm.engine_arguments
    assert arguments["model"] == folder and arguments["max_model_len"] == 4096 and arguments["dtype"] == "bfloat16"
    assert arguments["load_format"] == "safetensors" and "trust_remote_code" not in arguments
    assert arguments["seed"] == 0 and arguments["limit_mm_per_prompt"] == {"image": 1}
    described, rewritten = vllm.requests[:2], vllm.requests[2]
    for (prompt, sampling), image in zip(described, IMAGES, strict=True):
        assert prompt["prompt"].startswith("<image>") and GENERAL.describe in prompt["prompt"]
        assert prompt["multi_modal_data"]["image"].tobytes() == image.tobytes()
        assert (sampling.temperature, sampling.seed, sampling.max_tokens) == (0.0, 0, 64)
        assert sampling.structured_outputs.json == GENERAL.schema
    assert GENERAL.ask_rewrite(SOURCE, "blue hair") in rewritten[0]["prompt"]
    assert rewritten[0]["multi_modal_data"] is None


def test_what_the_engine_refuses_is_an_error_of_its_own_question(vllm: FakeVllm, folder: str) -> None:
    captioner = start_vllm(spec(folder))
    requests = ["blue hair", "the engine refuses", "no JSON", "for ever"]
    with pytest.raises(Refused) as caught:
        captioner.rewrite([SOURCE] * 4, requests)
    good, refused, babble, endless = caught.value.answers
    assert good == f"{SOURCE}, blue hair"
    assert isinstance(refused, EngineRefused) and "longer than the model's 4096 tokens" in str(refused)
    assert "no whole JSON object" in str(babble)
    assert "did not end its answer within 256 tokens" in str(endless)


def captioned(rows: list[Row], folder: str, cache: CaptionCache | None = None, **changes: Any) -> list[Row]:
    recipe = make_recipe(captioner={"kind": "vllm", "model": folder, **changes})
    operations = Operations(real_operations().make_captioner, fake_operations().make_editor, fake_operations().facts)
    pool = PoolPlan(1, 1.0, 1.0, 1, "cpu")
    return CaptionStage(operations, recipe, pool, Progress(), Attempts(), cache)(table_of_work(rows)).to_pylist()


def test_in_the_caption_stage_every_edit_has_a_prompt_or_a_failure(vllm: FakeVllm, folder: str, tmp_path: Path) -> None:
    texts = ["blue hair", "mend this very long request", "one two three four", "the engine refuses"]
    rows = [loaded(0, *(asked(str(place), request=text) for place, text in enumerate(texts)))]
    cache = CaptionCache(open_store(str(tmp_path)), "c")
    (row,) = captioned(rows, folder, cache)
    good, mended, wrong, refused = row["results"]
    assert good["target_prompts"] == [f"{SOURCE}, blue hair"] and mended["target_prompts"] == [f"{SOURCE}, again"]
    assert (wrong["error_stage"], wrong["error_type"]) == ("caption", "NotMinimalPair")
    assert (refused["error_stage"], refused["error_type"]) == ("caption", "EngineRefused")
    asked_before = len(vllm.requests)
    captioned(rows, folder, cache)
    again = [prompt["prompt"] for prompt, _ in vllm.requests[asked_before:]]
    assert not any("Describe" in prompt or "blue hair" in prompt for prompt in again), "these are in the cache"


def test_all_questions_of_a_block_are_asked_at_once(vllm: FakeVllm, folder: str) -> None:
    calls: list[int] = []
    ask = VllmCaptioner._answers

    def counting(self: VllmCaptioner, rows: list[Row]) -> list[str]:
        calls.append(len(rows))
        return ask(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VllmCaptioner, "_answers", counting)
        rows = [loaded(seed, asked("a", request="smile"), source_prompt=f"face {seed}") for seed in range(40)]
        captioned(rows, folder, questions=32)
    assert calls[0] == 32, "more than the recipe's batch of 16"


def test_without_vllm_the_recipe_is_refused_with_the_mend(folder: str) -> None:
    recipe = make_recipe(model="mini-dit", captioner={"kind": "vllm", "model": folder})
    with pytest.raises(RecipeError, match=r"kind vllm needs vLLM, .*pip install 'eim\[vllm\]'"):
        real_operations().facts(recipe)


def test_speed_is_not_part_of_a_captions_identity_and_the_engine_is(vllm: FakeVllm, folder: str) -> None:
    def settings(**changes: Any) -> dict[str, Any]:
        recipe = make_recipe(model="mini-dit", captioner={"kind": "vllm", "model": folder, **changes})
        return caption_settings(recipe, real_operations().facts(recipe))

    assert settings(questions=8) == settings() != settings(engine={"quantization": "fp8"})
    assert settings() == settings(engine={"gpu_memory_utilization": 0.4})
    assert settings()["captioner_revision"].endswith(GENERAL.digest)


@pytest.mark.parametrize(
    ("gpus", "changes", "message"),
    [
        (0, {}, "kind vllm needs a GPU for each caption actor"),
        (1, {}, "has 0.5 of a GPU, and vLLM would take all of it"),
        (4, {"engine": {"tensor_parallel_size": 2}}, r"over 2 GPUs, .* pools.caption.num_gpus: 2"),
    ],
)
def test_an_engine_that_its_actors_gpus_cannot_hold_is_refused(gpus: int, changes: Any, message: str) -> None:
    recipe = make_recipe(captioner={"kind": "vllm", "model": "m", **changes})
    with pytest.raises(PlacementError, match=message):
        plan_placement(recipe, Cluster(16, gpus), 100, 4)


def test_a_shared_gpu_is_taken_where_the_engine_is_told_its_share() -> None:
    engine = {"gpu_memory_utilization": 0.3}
    recipe = make_recipe(captioner={"kind": "vllm", "model": "m", "engine": engine})
    assert plan_placement(recipe, Cluster(16, 1), 100, 4).caption.num_gpus == 0.5


@pytest.mark.parametrize("key", ["trust_remote_code", "load_format", "revision", "tokenizer"])
def test_the_engines_own_keys_are_refused_below_engine(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: not for the engine; .* only safetensors are read"):
        make_recipe(captioner={"kind": "vllm", "model": "m", "engine": {key: "auto"}})
